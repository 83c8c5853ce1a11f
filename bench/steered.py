"""RNNControl's network: training beside a plain Keras GRU of its size, generation beside the machine's limit."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from bench.limits import limit_of, tier_matrices
from conditioning.config import Config

NAMES = ["instID", "a", "p"]


def measure(what: str, **sizes: Any) -> list[dict[str, Any]]:
    """All variants of one case, in turns."""
    return _generation(**sizes) if what == "generation" else _training(**sizes)


def _config(hidden: int, layers: int, window: int = 256) -> Config:
    return Config(conditioned_on=NAMES, hidden_size=hidden, num_layers=layers, seq_len=window)


def _generation(streams: int, hidden: int = 48, layers: int = 4, repeats: int = 7) -> list[dict[str, Any]]:
    import conditioning
    from tierwave.controls.schema import Parameter, Schema
    from tierwave.controls.tracks import Track
    from tierwave.generation.request import Request, group_sizes
    from tierwave.nn.runtime import one_thread_per_call
    from tierwave.system.cores import usable_cores

    one_thread_per_call()
    config = _config(hidden, layers)
    schema = Schema(parameters=tuple(Parameter(name=name, lo=0.0, hi=1.0) for name in NAMES))
    drawn = {name: Track.constant(name, 0.5) for name in NAMES}
    request = Request(sequences=streams, controls=(drawn,), temperature=[1.0])
    stream = conditioning.FAMILY.stream(
        [conditioning.FAMILY.build(config)], config, request, sample_rate=16000, schema=schema
    )
    cores = len(group_sizes(streams, usable_cores()))
    blocks = {"live, 256 samples": (256, 40), "offline, 16384 samples": (16384, 1)}
    speeds: dict[str, list[float]] = {name: [] for name in blocks}
    limits, text = [], ""
    for size, _ in blocks.values():
        stream.render(size)  # compiles
    for _ in range(repeats):
        limit = limit_of(tier_matrices(config), streams, cores, repeats=1)
        limits.append(limit.samples_per_second)
        text = limit.text
        for name, (size, count) in blocks.items():
            started = time.perf_counter()
            for _ in range(count):
                stream.set(p=0.4)
                stream.set(p=0.6)
                stream.render(size)
            speeds[name].append(streams * size * count / (time.perf_counter() - started))
    return [
        {
            "benchmark": "steered",
            "config": f"{layers} x {hidden}, {streams} voices",
            "case": name,
            "samples_per_second": statistics.median(found),
            "real_time_at_16kHz": statistics.median(found) / streams / 16000,
            "share_or_ratio": statistics.median(speed / limit for speed, limit in zip(found, limits, strict=True)),
            "of": f"the limit, {cores} core(s)",
            "limit_text": text,
        }
        for name, found in speeds.items()
    ]


def _training(
    lanes: int, window: int = 256, hidden: int = 48, layers: int = 4, repeats: int = 9
) -> list[dict[str, Any]]:
    import keras
    import tensorflow as tf

    import conditioning
    from tierwave.config import TrainingOptions, validate
    from tierwave.training.step import Learner

    config = _config(hidden, layers, window)
    rng = np.random.default_rng(0)
    inputs = tf.constant(rng.integers(0, config.q_levels, [lanes, window + 1]), tf.int32)
    controls = tf.constant(rng.random([lanes, window + 1, len(NAMES)]), tf.float32)
    batch = {
        "inputs": inputs,
        "targets": inputs[:, 1:],
        "controls": controls,
        "mask": tf.ones([lanes, window]),
        "reset": tf.zeros([lanes], tf.bool),
    }
    variants: dict[str, Any] = {}
    for jit in (False, True):
        for rate in (1.0, 0.5):
            options = validate(TrainingOptions, {"tfr": rate}, "bench")
            learner = Learner(
                lambda: conditioning.FAMILY.build(config),
                options,
                clip_norm=5.0,
                jit=jit,
                inputs=conditioning.FAMILY.training_inputs(options, 100),
            )
            state = learner.initial_state(lanes)
            variants[f"tfr {rate:g}{', XLA' if jit else ''}"] = lambda learner=learner, state=state: learner.train_step(
                batch, state, 0
            )
        # What a person would write: the same layers from Keras, the same optimiser and clipping.
        plain = keras.Sequential(
            [
                keras.Input([window, 1 + len(NAMES)], batch_size=lanes),
                keras.layers.Dense(hidden),
                *(keras.layers.GRU(hidden, return_sequences=True) for _ in range(layers)),
                keras.layers.Dense(config.q_levels),
            ]
        )
        plain.compile(
            keras.optimizers.Adam(1e-3, global_clipnorm=5.0),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=jit,
        )
        fed = tf.concat([tf.cast(inputs[:, :-1, None], tf.float32) / 255.0, controls[:, :-1]], axis=-1)
        variants[f"Keras{', XLA' if jit else ''}"] = lambda plain=plain, fed=fed: plain.train_on_batch(
            fed, inputs[:, 1:]
        )
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for run in variants.values():
        run(), run()
    for _ in range(repeats):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    best = min(statistics.median(found) for name, found in seconds.items() if name.startswith("Keras"))
    return [
        {
            "benchmark": "steered",
            "config": f"{layers} x {hidden}, {lanes} lanes x {window}",
            "case": name,
            "samples_per_second": lanes * window / statistics.median(found),
            "real_time_at_16kHz": None,
            "share_or_ratio": best / statistics.median(found),
            "of": "the faster Keras",
        }
        for name, found in seconds.items()
    ]
