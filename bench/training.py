"""Audio samples per second of training steps, in turns with and without XLA and in bfloat16, beside the limit."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.cases import CONFIGS
from bench.limits import training_limit


def measure(
    name: str, lanes: int, *, repeats: int = 7, precisions: Sequence[str] = ("float32",)
) -> list[dict[str, Any]]:
    """One configuration in every variant, one step of each in turn."""
    import tensorflow as tf

    import samplernn
    from tierwave.config import TrainingOptions, validate
    from tierwave.system.cores import usable_cores
    from tierwave.training.step import Learner

    config = CONFIGS[name]
    cores = usable_cores()
    rng = np.random.default_rng(0)
    inputs = tf.constant(rng.integers(0, config.q_levels, [lanes, config.history + config.seq_len]), tf.int32)
    batch = {
        "inputs": inputs,
        "targets": inputs[:, config.history :],
        "mask": tf.ones([lanes, config.seq_len]),
        "reset": tf.zeros([lanes], tf.bool),
    }
    variants = []
    for precision in precisions:
        for jit in (False, True):
            learner = Learner(
                lambda precision=precision: samplernn.FAMILY.build(
                    config, compute_dtype=precision.removeprefix("mixed_")
                ),
                validate(TrainingOptions, {"precision": precision}, "bench"),
                clip_norm=5.0,
                jit=jit,
            )
            state = learner.initial_state(lanes)
            started = time.perf_counter()
            for step in range(2):
                _, state = learner.train_step(batch, state, step)
            variants.append({"jit": jit, "precision": precision, "learner": learner, "state": state, "seconds": []})
            variants[-1]["compile_seconds"] = time.perf_counter() - started
    limits, text = [], ""
    for step in range(repeats):
        limit = training_limit(config, lanes, cores, repeats=1)
        limits.append(limit.samples_per_second)
        text = limit.text
        for variant in variants:
            started = time.perf_counter()
            _, variant["state"] = variant["learner"].train_step(batch, variant["state"], step + 2)
            variant["seconds"].append(time.perf_counter() - started)
    samples = lanes * config.seq_len
    return [
        {
            "benchmark": "training",
            "config": name,
            "lanes": lanes,
            "window": config.seq_len,
            "precision": variant["precision"],
            "xla": variant["jit"],
            "samples_per_second": samples / statistics.median(variant["seconds"]),
            "limit": statistics.median(limits),
            "share": statistics.median(
                samples / s / limit for s, limit in zip(variant["seconds"], limits, strict=True)
            ),
            "limit_text": text,
            "compile_seconds": variant["compile_seconds"],
            "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        for variant in variants
    ]
