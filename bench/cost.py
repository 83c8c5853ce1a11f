"""What training costs beyond what can be run here: `python -m bench.cost`. A model, every figure by its formula.

    P     parameters, counted by building the network
    m     multiplications of one element (a sample; a value of a spectrogram), forwards: every weight times how often it
          is used per element, which is once per frame of its tier, per bin or per frame of a spectrogram
    c     = 2 * 3 * m floating-point operations of training per element (multiply and add; forwards, and twice as much
          backwards)
    E     elements of an epoch: hours * 3600 * elements per second of sound
    U     = E / (n * b * w) updates, on n devices with b lanes each and windows of w elements
    t     = max(c * b * w / F, 3 * d * L) + r        seconds of an update
    d     steps that must follow each other in a window, of all layers; L: time to start one
    r     = 2 (n - 1) / n * 4 P / B                  seconds to add up gradients around a ring
    hours = U * t / 3600

F (operations a second that a device reaches), L and B (bytes a second between devices) are assumptions, and flags.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PRESETS = ("default.config.json", "configs/paper_two_tier.config.json", "configs/melnet_blizzard.config.json")
RATES = {"samplernn": 16000, "melnet": 22050}


@dataclass(frozen=True)
class Work:
    """One stage: what it is called, parameters P, multiplications m per element, elements a second of sound has, w of
    a window, d sequential steps of a window."""

    name: str
    parameters: int
    multiplications: float
    per_second: float
    window: int
    depth: int


@dataclass(frozen=True)
class Machine:
    """operations: F; latency: L in seconds; inside, between: B in one machine of `devices` and among several."""

    operations: float
    latency: float
    inside: float
    between: float
    devices: int = 8

    def bandwidth(self, devices: int) -> float:
        """The slowest link of a ring."""
        return self.inside if devices <= self.devices else self.between


def works(path: Path) -> list[Work]:
    """The stages of a preset."""
    document = json.loads(path.read_text())
    return _melnet(document) if document.get("model") == "melnet" else _samplernn(document, path)


def _samplernn(document: dict[str, Any], path: Path) -> list[Work]:
    import samplernn
    from tierwave.family import load_config

    config = load_config(document, str(path))[1]
    model = samplernn.FAMILY.build(config)
    multiplications, depth = 0.0, 0
    for tier, frame in zip(model.tiers, sorted(config.frame_sizes, reverse=True), strict=True):
        multiplications += tier.count_params() / frame
        depth += config.num_rnn_layers * config.seq_len // frame
    # The sample tier's first layer is looked up in a table that is made once per update: no multiplications.
    sample_tier = model.sample_tier
    looked_up = [part for part in (sample_tier.embedding, sample_tier.window, sample_tier.lookback) if part is not None]
    multiplications += sample_tier.count_params() - sum(part.numpy().size for part in looked_up)
    rate = RATES["samplernn"]
    return [Work(path.name, model.count_params(), multiplications, rate, config.seq_len, depth)]


def _melnet(document: dict[str, Any]) -> list[Work]:
    import melnet
    from melnet.multiscale import sizes

    config = melnet.Config(**document)
    found = []
    whole = config.audio.mel_channels
    for number, size in enumerate(sizes(config.seq_len, whole, config.tiers), start=1):
        model = melnet.FAMILY.build(config, f"tier{number}")
        central = [part for layer in model.layers_of_stacks for part in (layer.central, layer.to_central)]
        parts = [model.central_input, *central]
        by_frame = sum(part.count_params() for part in parts if part is not None)
        multiplications = model.count_params() - by_frame + by_frame / size.bins
        rate = (config.audio.sample_rate or RATES["melnet"]) / config.audio.hop_length
        per_second = rate * size.frames / config.seq_len * size.bins
        depth = config.layers[number - 1] * max(size.frames, size.bins)
        found.append(
            Work(f"tier{number}", model.count_params(), multiplications, per_second, size.frames * size.bins, depth)
        )
    return found


def update_seconds(work: Work, machine: Machine, devices: int, lanes: int) -> tuple[float, float]:
    """t and, of it, r: of an update with `lanes` lanes on each of `devices` devices."""
    computing = 6 * work.multiplications * lanes * work.window / machine.operations
    waiting = 3 * work.depth * machine.latency
    ring = 2 * (devices - 1) / devices * 4 * work.parameters / machine.bandwidth(devices)
    return max(computing, waiting) + ring, ring


def epoch_hours(work: Work, machine: Machine, devices: int, lanes: int, hours: float) -> float:
    """Hours that one pass over `hours` of sound takes."""
    updates = hours * 3600 * work.per_second / (devices * lanes * work.window)
    return updates * update_seconds(work, machine, devices, lanes)[0] / 3600


def main(argv: Sequence[str] | None = None) -> int:
    flags = argparse.ArgumentParser("python -m bench.cost", description=__doc__)
    flags.add_argument("--operations", type=float, default=6e12, help="F, a second and device (%(default)g)")
    flags.add_argument("--latency", type=float, default=10e-6, help="L, seconds (%(default)g)")
    flags.add_argument("--inside", type=float, default=100e9, help="B in a machine of 8, bytes/s (%(default)g)")
    flags.add_argument("--between", type=float, default=10e9, help="B between machines, bytes/s (%(default)g)")
    flags.add_argument("--lanes", type=int, default=32, help="b, of each device (%(default)s)")
    given = flags.parse_args(argv)
    machine = Machine(given.operations, given.latency, given.inside, given.between)
    for preset in PRESETS:
        stages = works(ROOT / preset)
        parameters = sum(work.parameters for work in stages)
        print(f"\n{preset}: P = {parameters:,}, {4 * parameters / 1e6:,.0f} MB of gradients")
        print("| stage | P | m per element | operations per second of sound | d |\n| --- | --- | --- | --- | --- |")
        for work in stages:
            each = 6 * work.multiplications * work.per_second
            print(f"| {work.name} | {work.parameters:,} | {work.multiplications:,.0f} | {each:.2e} | {work.depth} |")
        print("\n| devices | update | of it the ring | 100 hours, one pass | 10,000 hours, one pass | efficiency |")
        print("| --- | --- | --- | --- | --- | --- |")
        for devices in (1, 2, 4, 8, 16, 32, 64):
            times = [update_seconds(work, machine, devices, given.lanes) for work in stages]
            passes = [
                sum(epoch_hours(work, machine, devices, given.lanes, hours) for work in stages)
                for hours in (100, 10_000)
            ]
            alone = sum(epoch_hours(work, machine, 1, given.lanes, 100) for work in stages)
            update, ring = (1000 * sum(column) for column in zip(*times, strict=True))
            print(
                f"| {devices} | {update:,.0f} ms | {ring:,.0f} ms | {passes[0]:,.1f} h | {passes[1]:,.0f} h "
                f"| {alone / passes[0] / devices:.0%} |"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
