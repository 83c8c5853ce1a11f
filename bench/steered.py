"""Training of RNNControl's network beside a plain Keras GRU of its size."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from conditioning.config import Config

NAMES = ["instID", "a", "p"]


def measure(lanes: int, window: int = 256, hidden: int = 48, layers: int = 4, repeats: int = 9) -> list[dict[str, Any]]:
    """All variants of one case, in turns."""
    import keras
    import tensorflow as tf

    import conditioning
    from tierwave.config import TrainingOptions, validate
    from tierwave.training.step import Learner

    config = Config(conditioned_on=NAMES, hidden_size=hidden, num_layers=layers, seq_len=window)
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
            "ratio": best / statistics.median(found),
            "of": "the faster Keras",
        }
        for name, found in seconds.items()
    ]
