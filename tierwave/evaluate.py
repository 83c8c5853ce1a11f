"""How well a trained network predicts recordings: `python -m tierwave.evaluate --checkpoint_path RUN --data_dir DIR`.

Bits per sample, for every file and for all together: what an ideal coder that knows the network would need. Numbers of
different networks are comparable where sample rate, quantisation and normalisation are the same; log2(levels) is what
guessing blindly costs. Every file is read from its beginning to its end with a fresh state, and none of its samples is
left out. Knows the run and the corpus; asks the family for whatever is the family's own.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tierwave.audio import AudioError, find_audio, load
from tierwave.commandline import FlagParser, boolean, import_tensorflow, run
from tierwave.config import TrainingOptions
from tierwave.corpus import Encoder, load_corpus
from tierwave.errors import RunError, UsageError
from tierwave.metrics import bits, spectral_comparison
from tierwave.quantize import Quantizer
from tierwave.runs import write_text
from tierwave.splits import Span
from tierwave.trained import Trained, load_trained

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Score:
    """The likelihood of a stretch of sound. samples: predicted ones, all of them; bits: summed over them; correct: how
    many of them were the most likely one."""

    samples: int
    bits: float
    correct: float

    @property
    def bits_per_sample(self) -> float:
        """The mean over the samples."""
        return self.bits / self.samples

    @property
    def accuracy(self) -> float:
        """The share of samples that were the most likely one, 0 to 1."""
        return self.correct / self.samples


@dataclass(frozen=True)
class Evaluation:
    """What a network reaches on a folder. files: by path within it; left_out: (path, reason); levels: of a sample."""

    files: dict[str, Score]
    left_out: tuple[tuple[str, str], ...]
    sample_rate: int
    levels: int

    @property
    def total(self) -> Score:
        """All files together; every sample counts the same."""
        scores = list(self.files.values())
        return Score(
            sum(score.samples for score in scores),
            math.fsum(score.bits for score in scores),
            math.fsum(score.correct for score in scores),
        )

    @property
    def chance_bits(self) -> float:
        """Bits per sample of guessing blindly."""
        return math.log2(self.levels)

    def document(self) -> dict[str, Any]:
        """As JSON."""

        def described(score: Score) -> dict[str, Any]:
            return {
                "samples": score.samples,
                "seconds": score.samples / self.sample_rate,
                "bits_per_sample": score.bits_per_sample,
                "accuracy": score.accuracy,
            }

        return {
            "sample_rate": self.sample_rate,
            "levels": self.levels,
            "chance_bits": self.chance_bits,
            "total": described(self.total),
            "files": {name: described(score) for name, score in self.files.items()},
            "left_out": dict(self.left_out),
        }

    def table(self) -> str:
        """As lines of text."""
        width = max(len(name) for name in [*self.files, "file", "all files"])
        rows = [f"{'file':{width}}  {'samples':>10}  {'seconds':>9}  {'bits/sample':>11}  {'accuracy':>8}"]
        for name, score in [*self.files.items(), ("all files", self.total)]:
            rows.append(
                f"{name:{width}}  {score.samples:>10}  {score.samples / self.sample_rate:>9.2f}  "
                f"{score.bits_per_sample:>11.4f}  {score.accuracy:>8.2%}"
            )
        rows.append(f"chance: {self.chance_bits:.4f} bits per sample ({self.levels} levels)")
        rows += [f"left out: {name}: {reason}" for name, reason in self.left_out]
        return "\n".join(rows)


@dataclass(frozen=True)
class Amplified:
    """An encoder of sound that is multiplied with `gain` first."""

    encoder: Encoder
    gain: float

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Codes of `audio` after the gain."""
        return self.encoder.encode(audio * np.float32(self.gain))


def evaluate(
    trained: Trained, data_dir: str | Path, *, batch_size: int | None = None, progress: Progress | None = None
) -> Evaluation:
    """The likelihood of every recording under `data_dir`, resampled, normalised and encoded as in the run.

    A run with "normalize": "corpus" keeps the gain of the corpus it was trained on. batch_size: files read side by
    side, by default as many as in training. progress(what, done, total) is called on the way. Nothing is left on disk.
    Raises UsageError and RunError with what to do.
    """
    import tensorflow as tf

    from tierwave.training import Evaluator, measure

    family, config = trained.family, trained.config
    if batch_size is None:
        batch_size = config.training.get("batch_size", TrainingOptions.model_fields["batch_size"].default)
    if batch_size < 1:
        raise UsageError(f"--batch_size {batch_size} must be 1 or more")
    quantizer = family.encoder(config)
    if not isinstance(quantizer, Quantizer):
        raise UsageError(f"{trained.run.folder} does not predict samples of audio, so it has no bits per sample")
    encoder: Encoder = quantizer
    normalize = config.normalize
    if normalize == "corpus":
        encoder, normalize = Amplified(quantizer, trained.gain), "none"

    def told(what: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, total: progress(what, done, total)

    # What is mapped into memory cannot be deleted on Windows.
    with tempfile.TemporaryDirectory(prefix="tierwave-", ignore_cleanup_errors=True) as cache:
        corpus = load_corpus(
            data_dir,
            encoder,
            sample_rate=trained.sample_rate,
            normalize=normalize,
            cache_dir=cache,
            progress=told("Decoding"),
        )
        spans = [Span(index, 0, recording.samples) for index, recording in enumerate(corpus.recordings)]
        stage = family.stages(config)[0]
        windows = family.dataset(corpus, spans, config, stage, lanes=batch_size, shuffled=False, whole_spans=True)
        jit = family.prefers_xla(config, bool(tf.config.list_physical_devices("GPU")))
        measured = measure(Evaluator(trained.models[0], jit=jit), windows, told("Measuring"))
    files = {}
    for recording, (nats, correct, samples) in zip(corpus.recordings, measured, strict=True):
        if not math.isfinite(nats):
            raise RunError(
                f"the network gives {recording.name} no finite likelihood, so its weights are damaged: name another "
                f"checkpoint than {trained.run.folder / trained.entry.name}"
            )
        files[recording.name] = Score(round(samples), bits(float(nats)), float(correct))
    return Evaluation(files, corpus.left_out, trained.sample_rate, quantizer.levels)


def compare_sounds(trained: Trained, data_dir: Path, sounds: Sequence[Path]) -> dict[str, float]:
    """`spectral_comparison` of generated sounds (files or folders) with all recordings, at the run's rate."""

    def loaded(paths: Sequence[Path]) -> list[np.ndarray]:
        usable = []
        for path in find_audio(paths):
            with contextlib.suppress(AudioError):  # the evaluation has named it as left out
                usable.append(load(path, trained.sample_rate)[0])
        return usable

    found = loaded(sounds)
    if not found:
        raise UsageError(f"--sounds {' '.join(map(str, sounds))} holds no sound: name wav files that were generated")
    return spectral_comparison(loaded([data_dir]), found, trained.sample_rate)


def parser() -> FlagParser:
    """All flags."""
    flags = FlagParser(
        "python -m tierwave.evaluate", description="How many bits per sample a trained network needs for recordings."
    )
    flag: dict[str, Any] = {"nargs": "?", "const": True, "default": False, "type": boolean}
    flags.add_argument(
        "--checkpoint_path", type=Path, required=True, help="a checkpoint, its .index file, a run or an id's folder"
    )
    flags.add_argument("--data_dir", type=Path, required=True, help="folder of recordings, searched recursively")
    flags.add_argument(
        "--sounds", type=Path, nargs="+", help="generated sounds: how near is their average spectrum to the recordings'"
    )
    flags.add_argument("--best", help="of a folder: the best checkpoint, not the newest", **flag)
    flags.add_argument("--batch_size", type=int, help="files read side by side (default: as in training)")
    flags.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write the result to FILE as JSON; without FILE print it as JSON instead of the table",
    )
    flags.add_argument("--debug", help="show tracebacks (default: False)", **flag)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, evaluate, return the exit code."""
    arguments = parser().parse_args(argv)
    return run(lambda: _evaluate(arguments), debug=arguments.debug)


def _evaluate(arguments: Any) -> None:
    if not arguments.data_dir.exists():
        raise UsageError(f"--data_dir {arguments.data_dir} does not exist: name a folder of recordings")
    import_tensorflow(debug=arguments.debug)
    on_terminal = sys.stderr.isatty()

    def progress(what: str, done: int, total: int) -> None:
        if on_terminal:
            print(f"\r\x1b[2K{what}: {done}/{total}" if done < total else "\r\x1b[2K", end="", file=sys.stderr)

    trained = load_trained(arguments.checkpoint_path, best=arguments.best)
    evaluation = evaluate(trained, arguments.data_dir, batch_size=arguments.batch_size, progress=progress)
    about: dict[str, Any] = {
        "checkpoint": str(trained.run.folder / trained.entry.name),
        "epoch": trained.entry.epoch,
        "step": trained.entry.step,
        "data_dir": str(arguments.data_dir),
    }
    if arguments.sounds is not None:
        about["spectral_distance_db"] = compare_sounds(trained, arguments.data_dir, arguments.sounds)
    text = json.dumps({**about, **evaluation.document()}, indent=1, ensure_ascii=False, allow_nan=False)
    if arguments.json == "-":
        print(text)
        return
    if arguments.json is not None:
        write_text(Path(arguments.json), text + "\n")
    print(f"{about['checkpoint']} on {arguments.data_dir}, {trained.sample_rate} Hz")
    print(evaluation.table())
    if arguments.sounds is not None:
        found = about["spectral_distance_db"]
        print(
            f"average spectrum of the sounds: {found['generated']:.1f} dB from the recordings' (their two halves: "
            f"{found['halves']:.1f}, white noise: {found['white_noise']:.1f}, shuffled: {found['shuffled']:.1f})"
        )


if __name__ == "__main__":
    sys.exit(main())
