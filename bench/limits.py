"""What this machine could do at most: of training a SampleRNN, the arithmetic over the rate of large products; of a
sample of generation, the same, or the weights over the rate at which memory is read, whichever takes longer.

The rates are measured in the process and the minute in which the benchmark runs, with whichever library is fastest.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np

from samplernn.config import Config
from tierwave.audio.lookback import OFFSETS
from tierwave.engine import kernels
from tierwave.engine.network import Network


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


def reading_rate(size: int, repeats: int = 7) -> float:
    """Bytes per second at which one core reads an array of so many bytes again and again: from a cache, if it fits."""
    array = np.full(max(64, size // 4), 0.01, np.float32)
    rounds = max(1, int(1e8 / array.nbytes))
    return rounds * array.nbytes / _median_seconds(lambda: _read(array, rounds), repeats)


@numba.njit(fastmath=True)
def _read(array: np.ndarray, rounds: int) -> float:
    total = 0.0
    for turn in range(rounds):
        array[0] = turn  # or one round would be as good as all
        total += array.sum()
    return total


def weight_bytes(network: Network) -> float:
    """Bytes of weights that a sample of one voice reads, on average: all of a matrix, and of a table a row for each
    code that is looked up."""
    size = network.weights.itemsize
    total = 0.0
    for period, first, stop in network.parts:
        for code, _, source, number, table, looked_back in network.program[first:stop]:
            if code == kernels.LINEAR:
                _, rows, columns, scales = network.matrices[number]
                scaled = columns
            elif code in (kernels.LOOKUP, kernels.LOOKBACK):
                _, _, columns, scales = network.matrices[table if code == kernels.LOOKUP else looked_back]
                rows = scaled = source if code == kernels.LOOKUP else len(OFFSETS)
            else:
                continue
            total += (rows * columns * size + (scaled * 4 if scales >= 0 else 0)) / period
    return float(total)


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


def generation_limit(network: Network, voices: int, *, repeats: int = 7) -> Limit:
    """One core, whose voices share what is read of the weights: the longer of arithmetic and reading, this as fast as
    an array of no more than a sample needs is read again and again."""
    needed = weight_bytes(network)
    rate, read = product_rate(1, repeats) / 2, reading_rate(round(needed), repeats)
    multiplying, reading = network.multiplications / rate, needed / read / voices
    text = (
        f"{network.multiplications:,.0f} multiply-adds a sample at {rate / 1e9:.0f} G/s take "
        f"{multiplying * 1e6:.2f} us; {needed:,.0f} bytes of {network.kind} at {read / 1e9:.0f} GB/s "
        f"by {voices} voice(s) {reading * 1e6:.2f} us"
    )
    return Limit(1.0 / max(multiplying, reading), text)
