"""How well a trained network predicts recordings.

The likelihood is in bits per sample, for every file and for all together: what an ideal coder that has the network
would need. Numbers of different networks are comparable where sample rate, quantisation and normalisation are the same;
log2(levels) is chance. Every file is read from its beginning to its end with a fresh state, and none of its samples is
left out. Tiers that generate values are measured in nats per value, of values mapped to [0, 1].
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tierwave.analysis.linear_prediction import linear_prediction_bits
from tierwave.analysis.statistics import bits
from tierwave.audio.quantize import Quantizer
from tierwave.config import TrainingOptions
from tierwave.controls.sources import find_control_sources
from tierwave.data.cache import Encoder, load_corpus
from tierwave.data.corpus import Corpus
from tierwave.data.measured import complete
from tierwave.data.splits import Span, Split
from tierwave.data.windows import Steering
from tierwave.errors import RunError, UsageError
from tierwave.evaluation.weights import WeightChoice, choose_weights
from tierwave.files.names import matcher
from tierwave.files.urls import absolute, place_of
from tierwave.generation.load import Trained
from tierwave.system.progress import Count


@dataclass(frozen=True)
class Score:
    """The likelihood of a stretch of sound. samples: predicted ones, all of them (or values of controls); bits:
    summed over them; correct: how many of them were the most likely one."""

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
    """What a network reaches on a folder. files: by path within it, of what makes audio; left_out: (path, reason);
    levels: of a sample; tiers: of the stages that generate values, all files together; units: of their losses, "nats"
    or another; nats_per_db_offset: of spectrograms, what makes nats per value nats per dB; remarks: (path, what is odd
    about a recording that was used); linear_prediction_bits: per sample of all files, of linear prediction that adapts
    to each as it goes; weights: what the types of weights cost and gain, if that was asked."""

    files: dict[str, Score]
    left_out: tuple[tuple[str, str], ...]
    sample_rate: int
    levels: int
    tiers: dict[str, Score] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    nats_per_db_offset: float | None = None
    remarks: tuple[tuple[str, str], ...] = ()
    linear_prediction_bits: float | None = None
    weights: WeightChoice | None = None

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
    def all_tiers(self) -> Score:
        """All values of all tiers together; every value counts the same."""
        scores = list(self.tiers.values())
        return Score(sum(score.samples for score in scores), math.fsum(score.bits for score in scores), 0.0)

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
            "linear_prediction_bits": self.linear_prediction_bits,
            "total": described(self.total) if self.files else None,
            "tiers": {
                name: {
                    "values": score.samples,
                    f"{self.units[name].replace(' ', '_')}_per_value": score.bits_per_sample * math.log(2),
                }
                for name, score in self.tiers.items()
            },
            "nats_per_db_offset": self.nats_per_db_offset,
            "files": {name: described(score) for name, score in self.files.items()},
            "left_out": dict(self.left_out),
            "remarks": [list(pair) for pair in self.remarks],
        }

    def table(self) -> str:
        """As lines of text."""
        tiers = [
            f"{name}: {score.bits_per_sample * math.log(2):.4f} {self.units[name]} per value ({score.samples} values)"
            for name, score in self.tiers.items()
        ]
        if len(self.tiers) > 1 and not self.files:
            total = self.all_tiers
            line = f"all tiers: {total.bits_per_sample * math.log(2):.4f} nats per value ({total.samples} values)"
            if self.nats_per_db_offset is not None:
                line += f", {total.bits_per_sample * math.log(2) + self.nats_per_db_offset:.4f} nats per dB"
            tiers.append(line)
        if not self.files:
            return "\n".join(tiers)
        width = max(len(name) for name in [*self.files, "file", "all files"])
        rows = [f"{'file':{width}}  {'samples':>10}  {'seconds':>9}  {'bits/sample':>11}  {'accuracy':>8}"]
        for name, score in [*self.files.items(), ("all files", self.total)]:
            rows.append(
                f"{name:{width}}  {score.samples:>10}  {score.samples / self.sample_rate:>9.2f}  "
                f"{score.bits_per_sample:>11.4f}  {score.accuracy:>8.2%}"
            )
        rows.append(f"chance: {self.chance_bits:.4f} bits per sample ({self.levels} levels)")
        if self.linear_prediction_bits is not None:
            rows.append(f"linear prediction that adapts as it goes: {self.linear_prediction_bits:.4f} bits per sample")
        rows += tiers
        rows += [f"{name}: {remark}" for name, remark in self.remarks]
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
    trained: Trained,
    data_dir: str | Path | None = None,
    *,
    part: str | None = None,
    param_dir: Path | None = None,
    params: Path | None = None,
    batch_size: int | None = None,
    progress: Count | None = None,
    weights: bool = False,
) -> Evaluation:
    """The likelihood of every recording under `data_dir`, resampled, normalised and encoded as in the run.

    A run with "normalize": "corpus" keeps the gain of the corpus it was trained on. part: "train", "valid" or "test" of
    the run's split of its own recordings, instead of all; data_dir None: the run's own. param_dir, params: where the
    controls of a steered network lie, as in train.py, the run's own if data_dir is. batch_size: files read side by
    side, by default as many as in training. progress(what, done, total) is called on the way. Nothing is left on disk.
    Raises UsageError and RunError with what to do.
    """
    family, config, described = trained.family, trained.config, trained.run.read("run.json")
    if data_dir is None:
        data_dir = described.get("data_dir")
    if data_dir is None:
        raise UsageError(
            f"{trained.run.folder} does not know the recordings it was trained on: name them with --data_dir"
        )
    if batch_size is None:
        batch_size = config.training.get("batch_size", TrainingOptions.model_fields["batch_size"].default)
    if batch_size < 1:
        raise UsageError(f"--batch_size {batch_size} must be 1 or more")
    if not (param_dir or params) and absolute(data_dir) == described.get("data_dir"):
        param_dir, params = (Path(described[key]) if described.get(key) else None for key in ("param_dir", "params"))
    quantizer = family.encoder(config)
    if not isinstance(quantizer, Quantizer):
        raise UsageError(f"{trained.run.folder} does not predict samples of audio, so it has no bits per sample")
    encoder: Encoder = quantizer
    normalize = config.normalize
    if normalize == "corpus":
        encoder, normalize = Amplified(quantizer, trained.gain), "none"

    with tempfile.TemporaryDirectory(prefix="tierwave-") as cache:
        corpus = load_corpus(
            data_dir,
            encoder,
            sample_rate=trained.sample_rate,
            normalize=normalize,
            cache_dir=cache,
            jobs=os.cpu_count() or 1,
            progress=_named(progress, "Decoding"),
        )
        spans = [Span(index, 0, recording.samples) for index, recording in enumerate(corpus.recordings)]
        if part is not None:
            spans = _part(trained, corpus, part)
        steering = _steering(trained, corpus, data_dir, param_dir, params, Path(cache), progress)
        dataset_state = None
        if trained.dataset_state is not None:
            dataset_state = family.prepare(corpus, None, config, trained.dataset_state, data_dir=place_of(data_dir))
        found = Evaluation(
            {},
            corpus.left_out,
            trained.sample_rate,
            quantizer.levels,
            nats_per_db_offset=family.nats_per_db_offset(trained.dataset_state),
            remarks=tuple((each.name, remark) for each in corpus.recordings for remark in each.remarks),
        )
        if any(model.has_accuracy for model in trained.models):
            predicted = linear_prediction_bits((corpus.blocks(*span) for span in spans), quantizer)
            found = replace(found, linear_prediction_bits=predicted)
        for stage, model in zip(family.stages(config), trained.models, strict=True):
            windows = family.dataset(
                corpus,
                spans,
                config,
                stage,
                lanes=batch_size,
                shuffled=False,
                whole_spans=True,
                steering=steering,
                dataset_state=dataset_state,
            )
            if weights and model.has_accuracy:
                found = replace(found, weights=choose_weights(trained, windows))
            measured = _measured(trained, model, windows, spans, corpus, _named(progress, f"Measuring {stage}"))
            if model.has_accuracy:
                found.files.update(_by_file(measured, spans, corpus))
            else:
                nats, _, values = measured.sum(axis=0)
                found.tiers[stage], found.units[stage] = Score(round(values), bits(float(nats)), 0.0), model.unit
    return found


def _named(progress: Count | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)


def _steering(
    trained: Trained,
    corpus: Corpus,
    data_dir: str | Path,
    param_dir: Path | None,
    params: Path | None,
    cache: Path,
    progress: Count | None,
) -> Steering | None:
    """The controls of the recordings, for a network that needs some; measured as in its training where they are
    nowhere."""
    names = trained.family.parameters(trained.config)
    if not names:
        return None
    sources = find_control_sources(
        data_dir, param_dir=param_dir, params=params, name_params=names, categories=trained.schema.named
    )
    controls, _ = complete(
        sources,
        corpus,
        trained.family.encoder(trained.config).decode,
        names,
        trained.run.read("run.json").get("measured", ()),
        cache_dir=cache,
        jobs=os.cpu_count() or 1,
        progress=_named(progress, "Measuring"),
    )
    return Steering(
        trained.schema,
        tuple({name: tracks[name] for name in names} for tracks in controls),
        tuple(recording.samples / corpus.sample_rate for recording in corpus.recordings),
    )


def _measured(
    trained: Trained,
    model: Any,
    windows: Any,
    spans: Sequence[Span],
    corpus: Corpus,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """Nats, correct guesses and counted elements [spans, 3] of one stage. RunError if they are not finite."""
    import tensorflow as tf

    from tierwave.training.step import Evaluator

    jit = trained.family.prefers_xla(trained.config, bool(tf.config.list_physical_devices("GPU")))
    measured = Evaluator(model, jit=jit).measure(windows, progress)
    finite = np.isfinite(measured).all(axis=1)
    if not finite.all():
        number = int(np.argmin(finite))
        name = corpus.recordings[spans[number].recording].name if number < len(spans) else "a recording"
        raise RunError(
            f"the network gives {name} no finite likelihood, so its weights are damaged: name another checkpoint than "
            f"{trained.path}"
        )
    return measured


def _by_file(measured: np.ndarray, spans: Sequence[Span], corpus: Corpus) -> dict[str, Score]:
    """The sums [spans, 3] of all spans of a recording, by its name."""
    sums: dict[str, np.ndarray] = {}
    for span, row in zip(spans, measured, strict=True):
        name = corpus.recordings[span.recording].name
        sums[name] = sums.get(name, 0.0) + row
    return {name: Score(round(row[2]), bits(float(row[0])), float(row[1])) for name, row in sums.items()}


def _part(trained: Trained, corpus: Corpus, part: str) -> list[Span]:
    if not (trained.run.folder / "split.json").is_file():
        raise UsageError(
            f"--part {part}: {trained.run.folder} has no split, since it was imported, or shared without "
            "recordings; name some with --data_dir, and leave --part out"
        )
    document = trained.run.read("split.json")
    found = matcher(recording.name for recording in corpus.recordings)
    missing = [name for name, *_ in document[part] if found(name) is None]
    if missing:
        raise UsageError(
            f"--part {part}: {missing[0]} of the run's split is not among the recordings; leave --data_dir out to take "
            "the run's own, or --part to take all"
        )
    spans = list(getattr(Split.from_document(document, corpus), part))
    if not spans:
        raise UsageError(f"--part {part}: the run held nothing out for it; take another part, or leave it out")
    return spans
