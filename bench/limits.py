"""What this machine could do at most: the arithmetic that training a SampleRNN needs, over the rate of large products.

The rate is measured in the process and the minute in which the benchmark runs, with whichever library is fastest.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from samplernn.config import Config


@dataclass(frozen=True)
class Matrix:
    """A weight matrix: rows x columns, multiplied `uses` times per audio sample."""

    name: str
    rows: int
    columns: int
    uses: float

    @property
    def size(self) -> int:
        """Entries."""
        return self.rows * self.columns


def generation_matrices(config: Config) -> list[Matrix]:
    """What a sample of one stream multiplies: a tier of frame size F runs every F samples, the sample tier every one.

    As in `samplernn.model`: the sample tier's first hidden map is folded away where there are frame tiers, and its
    lookup is no product.
    """
    dim, gates = config.dim, 3 if config.rnn_type == "gru" else 4
    found = []
    sizes = sorted(config.frame_sizes, reverse=True)
    for index, frame in enumerate(sizes):
        ratio = frame // sizes[index + 1] if index + 1 < len(sizes) else frame
        found.append(Matrix(f"project {frame}", frame, dim, 1 / frame))
        found.append(Matrix(f"rnn {frame}", 2 * dim * config.num_rnn_layers, gates * dim, 1 / frame))
        found.append(Matrix(f"upsample {frame}", dim, ratio * dim, 1 / frame))
    if not sizes:
        found.append(Matrix("rnn", 2 * dim * config.num_rnn_layers, gates * dim, 1.0))
        found.append(Matrix("hidden 0", dim, dim, 1.0))
    found.append(Matrix("hidden 1", dim, dim, 1.0))
    found.append(Matrix("logits", dim, config.q_levels, 1.0))
    return found


def training_flops(config: Config, samples: int) -> float:
    """Arithmetic of a training step on `samples` samples per sample: forward and twice that backward, 2 per
    multiply-add. Folding (see `SampleRNN.loss_sums`) is counted where the model folds."""
    per_sample = sum(matrix.size * matrix.uses for matrix in generation_matrices(config))
    per_step = config.sample_frame * config.q_levels * (config.emb_size or 0) * config.dim
    rows = config.sample_frame * (config.q_levels + config.dim)
    if config.frame_sizes:
        if samples > rows:
            per_step += rows * config.dim**2
        else:
            per_sample += config.dim**2
    return 6.0 * (per_sample + per_step / samples)


def _median_seconds(run: Callable[[], object], repeats: int) -> float:
    run()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


LARGE_PRODUCTS = ((1024, 256, 768), (1024, 1024, 1024))  # rows, inner, columns: as in training B and A


def product_rate(cores: int, repeats: int = 7) -> float:
    """Floating-point operations per second of large products, all cores together, by the fastest library on the
    fastest shape: a limit that any of them exceeds would be none.

    NumPy, whose BLAS is held to one thread, is called on every core at once; TensorFlow uses its own threads.
    """
    rates = []
    for shape in LARGE_PRODUCTS:
        rounds = max(1, int(4e9 / (2 * math.prod(shape))))
        for make, threads in ((_numpy_products, cores), (_tensorflow_products, 1), (_xla_products, 1)):
            seconds = _on_cores(make(shape, rounds), threads, repeats)
            rates.append(threads * rounds * 2 * math.prod(shape) / seconds)
    return max(rates)


Products = Callable[[int], None]  # some products, on the core of this number


def _numpy_products(shape: tuple[int, int, int], rounds: int) -> Products:
    rows, inner, columns = shape
    left, kernel = np.full((rows, inner), 0.01, np.float32), np.full((inner, columns), 0.01, np.float32)

    def multiply(_: int) -> None:
        out = np.empty((rows, columns), np.float32)
        for _ in range(rounds):
            np.dot(left, kernel, out=out)

    return multiply


def _tensorflow_products(shape: tuple[int, int, int], rounds: int) -> Products:
    import tensorflow as tf

    rows, inner, columns = shape
    left, kernel = tf.fill([rows, inner], 0.01), tf.fill([inner, columns], 0.01)

    def multiply(_: int) -> None:
        for _ in range(rounds):
            product = tf.matmul(left, kernel)
        product[0, 0].numpy()

    return multiply


@functools.cache
def _xla_products(shape: tuple[int, int, int], rounds: int) -> Products:
    import tensorflow as tf

    rows, inner, columns = shape
    left, kernel = tf.fill([rows, inner], 0.01), tf.fill([inner, columns], 0.01)

    @tf.function(jit_compile=True, autograph=False)
    def products(left: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        def again(index: tf.Tensor, entry: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # Each product hangs on the one before, or it would be taken out of the loop.
            return index + 1, tf.matmul(left + entry, kernel)[index % rows, 0] * 1e-6

        return tf.while_loop(lambda index, _: index < rounds, again, (tf.constant(0), tf.constant(0.0)))[1]

    def multiply(_: int) -> None:
        products(left, kernel).numpy()

    return multiply


def _on_cores(run: Callable[[int], None], cores: int, repeats: int) -> float:
    """Median seconds of `run(core)` on all cores at once, in threads (BLAS itself is held to one thread)."""
    if cores == 1:
        return _median_seconds(lambda: run(0), repeats)
    with ThreadPoolExecutor(cores) as pool:
        return _median_seconds(lambda: list(pool.map(run, range(cores))), repeats)


@dataclass(frozen=True)
class Limit:
    """samples per second, and the sentence that says how it was reckoned."""

    samples_per_second: float
    text: str


def training_limit(config: Config, lanes: int, cores: int, *, repeats: int = 7) -> Limit:
    """Arithmetic of a step over the rate of large products on all cores."""
    flops = training_flops(config, lanes * config.seq_len)
    rate = product_rate(cores, repeats)
    return Limit(rate / flops, f"{flops / 1e6:.2f} MFLOP a sample at {rate / 1e9:.0f} GFLOP/s on {cores} core(s)")
