"""MelNet's sampler: time per element whatever the size, beside one teacher-forced pass, and a whole spectrogram."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from melnet.config import Config


def measure(what: str, **sizes: Any) -> list[dict[str, Any]]:
    """All rows of one case."""
    cases: dict[str, Callable[..., list[dict[str, Any]]]] = {"flat": _flat, "pass": _pass, "whole": _whole}
    return cases[what](**sizes)


def _seconds(run: Callable[[], Any], repeats: int) -> float:
    run()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def _config(channels: int, tiers: int, layers: list[int], hidden: int) -> Config:
    return Config(audio={"mel_channels": channels}, tiers=tiers, layers=layers, hidden_size=hidden, seq_len=tiers * 64)  # type: ignore[arg-type]


def _sampled(config: Config, tier: int, frames: int, streams: int) -> tuple[Callable[[], Any], Callable[[], Any], int]:
    """Functions that sample a tier and that run it teacher-forced, and its elements."""
    import tensorflow as tf

    import melnet
    from melnet.sampler import BLOCK_FRAMES, TierSampler

    model = melnet.FAMILY.build(config, f"tier{tier}")
    sampler = TierSampler(model)
    weights = sampler.weights()
    shape = [streams, frames, model.bins]
    lower = np.zeros(shape, np.float32) if tier > 1 else None
    seeds = np.stack([np.arange(streams), np.zeros(streams)], axis=-1).astype(np.int32)

    def sample() -> None:
        conditions = sampler.condition(lower, None, weights)
        carry, made = sampler.start(streams), 0
        while made < frames:
            count = min(BLOCK_FRAMES, frames - made)
            _, carry = sampler.run(weights, carry, conditions, made, count, seeds, np.ones(streams, np.float32), 0.0)
            made += count

    values, zero = tf.zeros(shape), tf.zeros([streams, model.bins])
    under = None if lower is None else tf.constant(lower)
    forced = tf.function(
        lambda: model.sequence(values, zero, under, None, model.initial_state(streams), weights)[0],
        jit_compile=True,
        autograph=False,
    )
    return sample, lambda: forced()[0][0, 0, 0].numpy(), streams * frames * model.bins


def _flat(hidden: int = 64, layers: int = 2, repeats: int = 3, small: bool = False) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for bins, frames in ((8, 8), (16, 16)) if small else ((32, 32), (64, 64), (128, 128), (256, 320)):
        sample, _, elements = _sampled(_config(bins, 1, [layers], hidden), 1, frames, 1)
        seconds = _seconds(sample, repeats)
        rows.append(
            {
                "benchmark": "spectrograms",
                "case": f"one tier, {layers} layers of {hidden}, {bins} x {frames}",
                "seconds": seconds,
                "microseconds_per_element": 1e6 * seconds / elements,
                "ratio": None,
            }
        )
    first = rows[0]["microseconds_per_element"]
    return [{**row, "ratio": row["microseconds_per_element"] / first} for row in rows]


def _pass(streams: int = 16, channels: int = 256, frames: int = 200, hidden: int = 64, repeats: int = 3) -> list[dict]:
    config = _config(channels, 3, [4, 3, 2], hidden)
    sample, forced, elements = _sampled(config, 3, frames // 2, streams)
    times: dict[str, list[float]] = {"sample": [], "forced": []}
    sample(), forced()
    for _ in range(repeats):
        for name, run in (("sample", sample), ("forced", forced)):
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    seconds = statistics.median(times["sample"])
    return [
        {
            "benchmark": "spectrograms",
            "case": f"tier 3 of {channels} x {frames}, {streams} samples, against one teacher-forced pass",
            "seconds": seconds,
            "microseconds_per_element": 1e6 * seconds / elements,
            "ratio": statistics.median(s / f for s, f in zip(times["sample"], times["forced"], strict=True)),
        }
    ]


def _whole(channels: int = 256, frames: int = 200, hidden: int = 64, repeats: int = 1) -> list[dict[str, Any]]:
    import melnet
    from tierwave.generation.request import Request

    config = _config(channels, 3, [4, 3, 2], hidden)
    models = [melnet.FAMILY.build(config, stage) for stage in melnet.FAMILY.stages(config)]
    dataset_state = {"offset": [0.0], "scale": 1.0, "clip": False}

    def sample() -> None:
        request = Request(options={"frames": frames}, random_seed=1, temperature=[1.0])
        melnet.FAMILY.stream(models, config, request, sample_rate=22050, dataset_state=dataset_state).log_mels()

    started = time.perf_counter()
    sample()
    first = time.perf_counter() - started
    seconds = _seconds(sample, repeats)
    return [
        {
            "benchmark": "spectrograms",
            "case": f"{channels} x {frames}, 3 tiers of 4-3-2 layers of {hidden}{told}",
            "seconds": each,
            "microseconds_per_element": 1e6 * each / (channels * frames),
            "ratio": None,
        }
        for told, each in ((", compiling included", first), ("", seconds))
    ]
