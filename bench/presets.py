"""`python -m bench.presets [PRESET ...] [--memory GB] [--steps N] [--json FILE]`: what each preset takes to train.

Every stage of every preset is trained for a few steps by train.py itself, in a process of its own, on made-up sound
with made-up parameters. The time of a step and the peak of memory are printed, and from them the time of one pass over
an hour of sound. What would take more than --memory is trained with fewer lanes, which is said; what takes more with a
single lane is left to the estimate.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
WORDS = ("zero", "one", "two", "three")


def presets() -> dict[str, Path]:
    """All presets by name; default.config.json is `prism`."""
    return {path.name.removesuffix(".config.json"): path for path in sorted((ROOT / "configs").glob("*.config.json"))}


def measure(name: str, stage: str, *, memory: float = 6.0, steps: int = 4) -> dict[str, Any]:
    """One stage of a preset. memory: GB that it may take by the estimate; steps: beyond the one that compiles."""
    from tierwave.config import read_document
    from tierwave.training.memory import GIGABYTE, demands

    document = read_document(presets()[name])
    demand = next(found for found in demands(document, name) if found.stage == stage)
    own = demand.options.batch_size
    estimated = demand.estimate().total / GIGABYTE
    lanes, parts = own, demand.options.accumulate

    def fits() -> bool:
        options = demand.options.model_copy(update={"batch_size": lanes, "accumulate": parts})
        return replace(demand, options=options).estimate().total <= memory * GIGABYTE

    while lanes > 1 and not fits():
        lanes, parts = max(1, lanes // 2), 1 if lanes // 2 <= parts else parts
    row: dict[str, Any] = {
        "benchmark": "presets",
        "preset": name,
        "stage": stage,
        "batch_size": own,
        "estimated_GB": round(estimated, 1),
        "lanes_measured": lanes,
    }
    if not fits():
        return {**row, "lanes_measured": None}
    seconds_of_sound = _seconds_of_a_step(demand, lanes)
    with tempfile.TemporaryDirectory() as folder:
        _make_corpus(Path(folder), demand, max(60.0, (steps + 2) * seconds_of_sound))
        words = ["--set", f"training.accumulate={parts}"] if parts != demand.options.accumulate else []
        taken, peak = _train(Path(folder), presets()[name], stage, lanes, steps + 1, words)
    step = statistics.median(taken[1:])
    return {
        **row,
        "seconds_per_step": step,
        "seconds_of_sound_per_step": seconds_of_sound,
        "compile_seconds": taken[0] - step,
        "peak_GB": peak,
        "minutes_per_hour_of_sound": 60 * step / seconds_of_sound,
    }


def _seconds_of_a_step(demand: Any, lanes: int) -> float:
    """How much sound a batch holds."""
    config = demand.config
    if config.model == "cascade":
        config = next(tier for tier in config.tiers if tier.name == demand.stage)
    window = config.seq_len
    if hasattr(config, "audio"):  # MelNet: frames
        return lanes * window * config.audio.hop_length / (config.audio.sample_rate or 16000)
    return lanes * window / (getattr(config, "rate", None) or 16000)


def _make_corpus(folder: Path, demand: Any, seconds: float) -> None:
    """Noise with a beat in files of a minute, a curve for every parameter, and a text; for a network that reads, which
    takes recordings whole, in files as long as a window."""
    from tierwave.audio.writer import write_wav

    rate = 16000
    if hasattr(demand.config, "audio"):
        rate = demand.config.audio.sample_rate or rate
    names = demand.family.parameters(demand.config)
    reads = getattr(demand.config, "text", None) is not None
    length = _seconds_of_a_step(demand, 1) if reads else 60.0
    about = [demand.config.controls.get(name, {}) for name in names]
    lowest = np.array([each.get("lo", 1.0) for each in about])
    highest = np.array([each.get("hi", 4.0) for each in about])
    random = np.random.default_rng(0)
    rows = []
    for number in range(max(2, round(seconds / length + 0.5))):
        time = np.arange(round(length * rate)) / rate
        sound = 0.2 * np.sin(2 * np.pi * (200 + 20 * (number % 100)) * time) * (1 + np.sin(2 * np.pi * time))
        sound += 0.05 * random.standard_normal(len(time))
        write_wav(folder / "corpus" / f"{number}.wav", sound.astype(np.float32), rate)
        rows.append((f"{number}.wav", WORDS[number % len(WORDS)]))
        if names:
            with open(folder / "corpus" / f"{number}.csv", "w", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                table.writerow(["time", *names])
                steps = random.integers(0, 4, [round(10 * length) + 1, len(names)]) / 3
                values = lowest + (highest - lowest) * steps
                table.writerows([at / 10, *row] for at, row in enumerate(values))
    with open(folder / "corpus" / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("filename", "text"), *rows])


def _train(
    folder: Path, config: Path, stage: str, lanes: int, steps: int, words: Iterable[str]
) -> tuple[list[float], float]:
    """Seconds of every step, and the peak of memory in GB."""
    command = [sys.executable, str(ROOT / "train.py"), "--id", "a", "--data_dir", str(folder / "corpus")]
    command += ["--config_file", str(config), "--logdir_root", str(folder / "log"), "--generate", "False"]
    command += ["--num_steps", str(steps), "--batch_size", str(lanes), "--memory_check", "False", *words]
    command += ["--checkpoint_steps", "None", "--sample_rate", "None", "--val_frac", "0", "--monitor", "loss"]
    if stage not in ("samplernn", "conditioning"):
        command += ["--stage", stage]
    with open(folder / "said.txt", "w+", encoding="utf-8") as said:
        process = os.posix_spawn(
            sys.executable,
            command,
            {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            file_actions=[(os.POSIX_SPAWN_DUP2, said.fileno(), 1), (os.POSIX_SPAWN_DUP2, said.fileno(), 2)],
        )
        _, status, used = os.wait4(process, 0)
        said.seek(0)
        if status:
            raise RuntimeError(f"{config.name} {stage}: {said.read()[-2000:]}")
    (table,) = (folder / "log").rglob("losses.csv")
    with open(table, newline="", encoding="utf-8") as file:
        taken = [float(row["seconds"]) for row in csv.DictReader(file) if row["seconds"]]
    return taken, used.ru_maxrss * 1024 / 1e9


def table(rows: Sequence[dict[str, Any]]) -> str:
    """As docs/choosing.md has it."""
    lines = [
        "| preset | stage | lanes | memory, GB (estimated) | seconds a step | sound a step, s | an hour of sound |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        own, lanes = row["batch_size"], row["lanes_measured"]
        cells = [f"`{row['preset']}`", row["stage"], str(own) if lanes in (own, None) else f"{lanes} of {own}"]
        if lanes is None:
            cells += [f"not tried ({row['estimated_GB']:.1f})", "", "", ""]
        else:
            cells += [f"{row['peak_GB']:.1f} ({row['estimated_GB']:.1f})", f"{row['seconds_per_step']:.2g}"]
            minutes = row["minutes_per_hour_of_sound"]
            cells += [f"{row['seconds_of_sound_per_step']:.3g}"]
            cells += [f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def stages_of(name: str) -> list[str]:
    """The stages of a preset."""
    from tierwave.config import read_document
    from tierwave.training.memory import demands

    return [demand.stage for demand in demands(read_document(presets()[name]), name)]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write JSON."""
    flags = argparse.ArgumentParser(prog="python -m bench.presets", description="What each preset takes to train.")
    flags.add_argument("presets", nargs="*", metavar="PRESET", help="(all)")
    flags.add_argument("--memory", type=float, default=6.0, metavar="GB", help="more is not tried (%(default)s)")
    flags.add_argument("--steps", type=int, default=4, metavar="N", help="that are timed (%(default)s)")
    flags.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = flags.parse_args(argv)
    for name in arguments.presets:
        if name not in presets():
            flags.error(f"{name!r} is not a preset; there are {', '.join(presets())}")
    rows: list[dict[str, Any]] = []
    for name in arguments.presets or presets():
        for stage in stages_of(name):
            rows.append(measure(name, stage, memory=arguments.memory, steps=arguments.steps))
            print(rows[-1], file=sys.stderr, flush=True)
    print(table(rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
