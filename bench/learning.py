"""How much is learned, and how it sounds, after so many minutes of training steps.

`python -m bench.learning VARIANT ... --data FOLDER ... [--minutes 2.5 5 10] [--seeds 3]`. A variant is the name of a
preset, of which keys and checkout may differ: `small`, `small:dim=384:training.learning_rate=0.001`,
`small@/path/to/another/checkout`. Variants train in turn, each by the `train.py` of its checkout, which is ended at
each mark and taken up again afterwards, or, where the learning rate falls to 0 until the end, once for each mark; what
counts are the seconds that it tells of its steps. What was learned is
measured by this checkout alone, in the same way for all.

A folder's recordings are cut first: of each, two stretches are held out (of many short ones, every tenth recording).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import solve_toeplitz
from scipy.signal import lfilter

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 20.0  # of each sound that is measured
TEMPERATURES = (1.0, 0.9)
HELD_OUT = ((0.30, 0.37), (0.78, 0.85))  # shares of a recording
SHORT_SECONDS = 3.0  # recordings shorter than this are held out whole, or not
FRAME_SECONDS = 0.02
FLOOR_DBFS = -70.0
LPC_ORDER = 16
CLICK = 10.0  # times the running scale of the prediction error
COMPILING_MINUTES = 0.25  # which count as training to train.py
_STEP = re.compile(rb"([0-9.]+) sec/step")


# ---- measures --------------------------------------------------------------------------------------------------------


def frame_levels(sound: np.ndarray, rate: int) -> np.ndarray:
    """The level of each 20 ms, dBFS, not below -70."""
    size = round(FRAME_SECONDS * rate)
    frames = sound[: len(sound) // size * size].reshape(-1, size)
    return np.maximum(10.0 * np.log10(np.mean(np.square(frames), axis=1) + 1e-12), FLOOR_DBFS)


def level_distance(first: np.ndarray, second: np.ndarray) -> float:
    """How far two distributions of levels are apart, dB (the mean difference of their quantiles, Wasserstein's)."""
    shares = (np.arange(200) + 0.5) / 200
    return float(np.mean(np.abs(np.quantile(first, shares) - np.quantile(second, shares))))


def clicks(sound: np.ndarray, rate: int) -> int:
    """Samples whose error under a linear prediction of the second around them is over ten times its running scale;
    those of the same 5 ms are one click."""
    found = 0
    for start in range(0, len(sound) - rate // 2, rate):
        second = np.asarray(sound[start : start + rate], np.float64)
        correlation = np.array([second[lag:] @ second[: len(second) - lag] for lag in range(LPC_ORDER + 1)])
        if correlation[0] < len(second) * 1e-8:
            continue
        correlation[0] *= 1.0 + 1e-5
        coefficients = solve_toeplitz(correlation[:-1], correlation[1:])
        error = np.abs(lfilter(np.concatenate([[1.0], -coefficients]), [1.0], second))
        share = 1.0 - math.exp(-1.0 / (0.005 * rate))  # a running mean over 5 ms, of the samples before
        scale = lfilter([0.0, share], [1.0, share - 1.0], error, zi=[error.mean()])[0]
        at = np.flatnonzero(error > CLICK * np.maximum(scale, 1e-4))
        found += int(len(at[:1]) + np.sum(np.diff(at) > 0.005 * rate))
    return found


def white_share(sound: np.ndarray, rate: int) -> float:
    """The share of seconds that are white noise to `analysis.issues`."""
    from tierwave.analysis.statistics import describe

    seconds = [describe(sound[start : start + rate], rate) for start in range(0, len(sound) - rate + 1, rate)]
    white = [each.silent_share <= 0.75 and each.flatness > 0.45 and each.crest < 5.0 for each in seconds]
    return float(np.mean(white)) if white else 0.0


def heard(sounds: Sequence[np.ndarray], against: Sequence[np.ndarray], rate: int) -> dict[str, float]:
    """What `sounds` are like beside `against`, recordings."""
    from tierwave.analysis.statistics import average_spectrum, describe, log_spectral_distance

    described = [describe(sound, rate) for sound in sounds]
    seconds = sum(len(sound) for sound in sounds) / rate

    def levels(many: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([frame_levels(one, rate) for one in many])

    def spectrum(many: Sequence[np.ndarray]) -> np.ndarray:
        return average_spectrum(np.concatenate(many), rate)

    return {
        "spectrum_db": log_spectral_distance(spectrum(sounds), spectrum(against)),
        "levels_db": level_distance(levels(sounds), levels(against)),
        "silent": float(np.mean([each.silent_share for each in described])),
        "stuck": float(np.mean([each.stuck_share for each in described])),
        "clipped": float(np.mean([each.clipped_share for each in described])),
        "white": float(np.mean([white_share(sound, rate) for sound in sounds])),
        "clicks_per_second": sum(clicks(sound, rate) for sound in sounds) / seconds,
    }


def judge(run_folder: Path, held_out: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Bits per held-out sample, and what free-running sound is like, from silence and from held-out recordings."""
    import tierwave

    run = tierwave.load_run(str(run_folder))
    bits = tierwave.evaluate(run, str(held_out)).total.bits_per_sample
    rate = run.sample_rate
    recordings = [tierwave.load_audio(path, rate)[0] for path in sorted(held_out.iterdir())]
    primed = [recording for recording in recordings if len(recording) >= rate][:4]
    found: dict[str, Any] = {"bits": bits}
    for temperature in TEMPERATURES:
        sounds = []
        for audio in (None, *(primed or recordings[:4])):
            request = tierwave.Request(
                sequences=1,
                seconds=seconds,
                temperature=[temperature],
                random_seed=seed,
                seed_audio=None if audio is None else audio[: 2 * rate],
            )
            sounds.append(run.stream(request).render(round(seconds * rate))[0])
        found[f"silence {temperature:g}"] = heard(sounds[:1], recordings, rate)
        found[f"primed {temperature:g}"] = heard(sounds[1:], recordings, rate)
    halves = [half for recording in recordings for half in np.array_split(recording, 2)]
    found["recordings"] = heard(halves[::2], halves[1::2], rate)
    return found


# ---- training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """What is trained. keys: of the config, as --set takes them."""

    name: str
    preset: str
    keys: tuple[str, ...] = ()
    checkout: Path = field(default=ROOT)

    @property
    def decays(self) -> bool:
        """Whether its learning rate depends on when training is to end."""
        training = json.loads((self.checkout / "configs" / f"{self.preset}.config.json").read_text()).get(
            "training", {}
        )
        keys = dict(key.split("=", 1) for key in self.keys)
        said = keys.get("training.learning_rate_decay", training.get("learning_rate_decay", "none"))
        return bool(said == "linear")

    @staticmethod
    def of(text: str) -> Variant:
        """From `PRESET[:KEY=VALUE...][@CHECKOUT]`."""
        described, _, checkout = text.partition("@")
        preset, *keys = described.split(":")
        return Variant(text, preset, tuple(keys), Path(checkout).resolve() if checkout else ROOT)


def cut(source: Path, target: Path, rate: int) -> None:
    """Write `source`'s recordings to target/train and target/held_out as WAV, in stretches."""
    import tierwave
    from tierwave.audio.finding import find_audio

    names = find_audio([source])
    final, target = target, target.with_name(target.name + ".part")
    shutil.rmtree(target, ignore_errors=True)
    for place in ("train", "held_out"):
        (target / place).mkdir(parents=True)
    for number, path in enumerate(names):
        sound, _ = tierwave.load_audio(path, rate)
        stem = f"{number:04}"
        if len(sound) < SHORT_SECONDS * rate:
            place = "held_out" if number % 10 == 3 else "train"
            tierwave.write_wav(target / place / f"{stem}.wav", sound, rate)
            continue
        bounds = [0, *(round(share * len(sound)) for stretch in HELD_OUT for share in stretch), len(sound)]
        for part, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
            place = "held_out" if part % 2 else "train"
            tierwave.write_wav(target / place / f"{stem}_{part}.wav", sound[start:stop], rate)
    target.rename(final)


def steps_of(
    command: Sequence[str], folder: Path, environment: dict[str, str], log: Path
) -> Generator[float, None, None]:
    """Run train.py and give the seconds of each step that it tells; closed, it is asked to end, and waited for."""
    with (
        log.open("ab") as said,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process,
    ):
        assert process.stdout is not None
        try:
            while line := process.stdout.readline():
                said.write(line)
                for told in _STEP.findall(line.replace(b"\r", b"\n")):
                    yield float(told)
        finally:
            process.send_signal(signal.SIGINT)
            for line in process.stdout:
                said.write(line)
            process.wait()


def train(
    variant: Variant, data: Path, work: Path, rate: int, seed: int, minutes: float, spent: float
) -> tuple[float, int]:
    """Train on to `minutes` of steps, of which `spent` seconds are over; the seconds now, and the steps made."""
    command = [
        sys.executable, "train.py", "--id", "run", "--data_dir", str(data), "--logdir_root", str(work / "logdir"),
        "--output_dir", str(work / "generated"), "--config_file", f"configs/{variant.preset}.config.json",
        "--sample_rate", str(rate), "--random_seed", str(seed), "--val_frac", "0", "--monitor", "loss",
        "--early_stopping_patience", "None", "--generate", "False", "--verbose", "True", "--num_epochs", "100000",
        "--checkpoint_every", "100000", "--max_checkpoints", "2",
    ]  # fmt: skip
    if variant.decays:
        command += ["--max_minutes", str(minutes + COMPILING_MINUTES)]
    if variant.keys:
        command += ["--set", *variant.keys]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
    told: list[float] = []
    steps = steps_of(command, variant.checkout, environment, work / "train.txt")
    for seconds in steps:
        told.append(seconds)
        # The first step holds the compiling: it counts as the others do.
        lasted = sum(told[1:]) + (statistics.median(told[1:]) if len(told) > 1 else 0.0)
        if spent + lasted >= 60.0 * minutes:
            break
    steps.close()
    if len(told) < 2:
        raise RuntimeError(f"{variant.name} made {len(told)} steps; see {work / 'train.txt'}")
    return spent + lasted, len(told)


def run(
    variants: Sequence[Variant], corpora: Sequence[tuple[str, int]], arguments: argparse.Namespace
) -> Iterator[dict]:
    """The rows of the table, as they are measured: variants in turn for each seed and corpus."""
    for source, rate in corpora:
        data = arguments.work / Path(source).name
        if not data.exists():
            cut(Path(source), data, rate)
        for seed in range(1, arguments.seeds + 1):
            for number, variant in enumerate(variants):
                work = arguments.work / "runs" / f"{Path(source).name}-{number}-{seed}"
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir(parents=True)
                spent, steps = 0.0, 0
                for minutes in arguments.minutes:
                    if variant.decays:
                        shutil.rmtree(work / "logdir", ignore_errors=True)
                        spent, steps = 0.0, 0
                    before = spent
                    spent, made = train(variant, data / "train", work, rate, seed, minutes, spent)
                    steps += made
                    judged = judge(work / "logdir" / "run", data / "held_out", arguments.seconds, seed)
                    yield {
                        "variant": variant.name, "corpus": Path(source).name, "seed": seed, "minutes": minutes,
                        "steps": steps, "steps_per_second": made / (spent - before), **judged,
                    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means over seeds, Markdown; sounds at temperature 1."""
    lines = [
        "| corpus | minutes | variant | steps | bits | spectrum, dB | levels, dB | from a recording: spectrum | levels "
        "| silent | stuck | white | clicks/s |",
        "| --- " * 13 + "|",
    ]
    keys = list(dict.fromkeys((row["corpus"], row["minutes"], row["variant"]) for row in rows))

    def mean(found: Sequence[dict[str, Any]], *path: str) -> float:
        values: list[Any] = list(found)
        for name in path:
            values = [value[name] for value in values]
        return float(np.mean(values))

    for corpus, minutes, variant in sorted(keys, key=lambda key: (key[0], key[1])):
        found = [row for row in rows if (row["corpus"], row["minutes"], row["variant"]) == (corpus, minutes, variant)]
        shares = [mean(found, "silence 1", name) for name in ("silent", "stuck", "white")]
        lines.append(
            f"| {corpus} | {minutes:g} | {variant} | {mean(found, 'steps'):.0f} | {mean(found, 'bits'):.3f} | "
            f"{mean(found, 'silence 1', 'spectrum_db'):.1f} | {mean(found, 'silence 1', 'levels_db'):.1f} | "
            f"{mean(found, 'primed 1', 'spectrum_db'):.1f} | {mean(found, 'primed 1', 'levels_db'):.1f} | "
            + " | ".join(f"{share:.0%}" for share in shares)
            + f" | {mean(found, 'silence 1', 'clicks_per_second'):.2f} |"
        )
    for corpus in dict.fromkeys(row["corpus"] for row in rows):
        own = [row for row in rows if row["corpus"] == corpus]
        lines.append(
            f"| {corpus} | | the recordings' halves | | | {mean(own, 'recordings', 'spectrum_db'):.1f} | "
            f"{mean(own, 'recordings', 'levels_db'):.1f} | | | {mean(own, 'recordings', 'silent'):.0%} | "
            f"{mean(own, 'recordings', 'stuck'):.0%} | {mean(own, 'recordings', 'white'):.0%} | "
            f"{mean(own, 'recordings', 'clicks_per_second'):.2f} |"
        )
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Bits against minutes, a panel for each corpus, means over seeds."""
    from matplotlib.figure import Figure

    corpora = list(dict.fromkeys(row["corpus"] for row in rows))
    figure = Figure(figsize=(4.5 * len(corpora), 3.6), layout="constrained")
    for axes, corpus in zip(np.atleast_1d(figure.subplots(1, len(corpora))), corpora, strict=True):
        for variant in dict.fromkeys(row["variant"] for row in rows):
            own = [row for row in rows if (row["corpus"], row["variant"]) == (corpus, variant)]
            minutes = sorted({row["minutes"] for row in own})
            axes.plot(
                minutes,
                [np.mean([row["bits"] for row in own if row["minutes"] == at]) for at in minutes],
                marker="o",
                label=variant,
            )
        axes.set(title=corpus, xlabel="minutes of training steps", ylabel="held-out bits per sample")
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def machine() -> str:
    """Processor and cores, as far as the system tells."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()) if sys.platform == "linux" else None
    return f"{found[1] if found else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, print a table; JSON lines are appended to --jsonl as they come."""
    flags = argparse.ArgumentParser(prog="python -m bench.learning", description=__doc__)
    flags.add_argument("variants", nargs="+", metavar="PRESET[:KEY=VALUE...][@CHECKOUT]")
    flags.add_argument("--data", nargs="+", required=True, metavar="FOLDER[@HZ]", help="recordings (@16000)")
    flags.add_argument("--minutes", nargs="+", type=float, default=[2.5, 5.0, 10.0])
    flags.add_argument("--seeds", type=int, default=3)
    flags.add_argument("--seconds", type=float, default=SECONDS, help="of each sound (20)")
    flags.add_argument("--work", type=Path, default=Path("build/learning"), help="for runs and cut recordings")
    flags.add_argument("--jsonl", type=Path, default=ROOT / "bench" / "learning.jsonl")
    flags.add_argument("--plot", type=Path, help="a picture of bits against minutes")
    arguments = flags.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    arguments.work = arguments.work.resolve()
    arguments.minutes.sort()
    corpora = [(folder, int(rate or 16000)) for folder, _, rate in (text.partition("@") for text in arguments.data)]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    rows = []
    for row in run([Variant.of(text) for text in arguments.variants], corpora, arguments):
        rows.append(row)
        print(
            f"{row['corpus']} {row['variant']} seed {row['seed']}, {row['minutes']:g} min: {row['bits']:.3f} bits",
            flush=True,
        )
        with arguments.jsonl.open("a", encoding="utf-8") as kept:
            about = {"commit": commit, "machine": machine(), "date": time.strftime("%Y-%m-%d")}
            kept.write(json.dumps(about | row) + "\n")
    print("\n" + table(rows))
    if arguments.plot is not None:
        plot(rows, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
