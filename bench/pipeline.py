"""Is the input pipeline ever what the step waits for? Batches alone, and the waiting inside a real training loop."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.cases import CONFIGS


def measure(name: str, lanes: int, *, minutes: float = 10.0, steps: int = 20) -> dict[str, Any]:
    """Over a corpus of `minutes` of noise at 16 kHz, written and read as recordings are."""
    import samplernn
    from tierwave.audio.writer import write_wav
    from tierwave.config import TrainingOptions
    from tierwave.data.cache import load_corpus
    from tierwave.data.splits import Span
    from tierwave.training.step import Learner

    config = CONFIGS[name]
    with tempfile.TemporaryDirectory() as folder:
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, round(minutes * 60 * 16000)).astype(np.float32)
        write_wav(Path(folder) / "corpus" / "noise.wav", noise, 16000)
        started = time.perf_counter()
        corpus = load_corpus(
            Path(folder) / "corpus", samplernn.FAMILY.encoder(config), cache_dir=Path(folder) / "cache"
        )
        decoding = time.perf_counter() - started
        windows = samplernn.FAMILY.dataset(corpus, [Span(0, 0, corpus.samples)], config, "samplernn", lanes=lanes)
        batches = 0
        started = time.perf_counter()
        for _ in windows.epoch(0):
            batches += 1
        alone = (time.perf_counter() - started) / batches
        learner = Learner(lambda: samplernn.FAMILY.build(config), TrainingOptions(), clip_norm=5.0, jit=True)
        state = learner.initial_state(windows.lanes)
        waiting = stepping = 0.0
        data = iter(windows.epoch(1))
        for step in range(steps + 2):
            before = time.perf_counter()
            batch = next(data)
            got = time.perf_counter()
            _, state = learner.train_step(batch, state, step)
            if step >= 2:  # the first steps compile
                waiting += got - before
                stepping += time.perf_counter() - got
    return {
        "benchmark": "pipeline",
        "config": name,
        "lanes": windows.lanes,
        "decoding_seconds_per_hour": decoding / minutes * 60,
        "milliseconds_per_batch": 1000 * alone,
        "samples_per_second": windows.lanes * config.seq_len / alone,
        "step_milliseconds": 1000 * stepping / steps,
        "share_waiting": waiting / (waiting + stepping),
    }
