"""How well a trained network predicts recordings, and whether it follows its parameters.

Likelihood: bits per sample, for every file and for all together: what an ideal coder that knows the network would
need. Numbers of different networks are comparable where sample rate, quantisation and normalisation are the same;
log2(levels) is what guessing blindly costs. Every file is read from its beginning to its end with a fresh state, and
none of its samples is left out. Tiers that generate parameters are told in nats per value, of values mapped to [0, 1].

Following: sounds are generated at parameters that were trained on, between them and along sweeps, and measured
(`tierwave.analysis.control_accuracy`). Knows the run and the corpus; asks the family for whatever is the family's own.
"""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tierwave.analysis.control_accuracy import (
    Following,
    Result,
    measure_following,
    plot_following,
    scenarios,
    summarise,
)
from tierwave.analysis.statistics import bits, spectral_comparison
from tierwave.audio.finding import find_audio
from tierwave.audio.quantize import Quantizer
from tierwave.audio.recordings import load
from tierwave.audio.writer import write_wav
from tierwave.config import TrainingOptions
from tierwave.controls.sources import find_control_sources
from tierwave.data.cache import Encoder, load_corpus
from tierwave.data.corpus import Corpus
from tierwave.data.splits import Span, Split
from tierwave.data.windows import Steering
from tierwave.errors import AudioError, AudioWarning, RunError, UsageError
from tierwave.files.folders import allowed_name, make_own, refuse_file
from tierwave.files.names import matcher
from tierwave.files.urls import absolute, place_of
from tierwave.generation.load import Trained
from tierwave.generation.request import Request
from tierwave.system.progress import Count, uncounted

SIDE_BY_SIDE = 10  # sounds that are generated at a time


@dataclass(frozen=True)
class Score:
    """The likelihood of a stretch of sound. samples: predicted ones, all of them (or values of parameters); bits:
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
    about a recording that was used)."""

    files: dict[str, Score]
    left_out: tuple[tuple[str, str], ...]
    sample_rate: int
    levels: int
    tiers: dict[str, Score] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    nats_per_db_offset: float | None = None
    remarks: tuple[tuple[str, str], ...] = ()

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
) -> Evaluation:
    """The likelihood of every recording under `data_dir`, resampled, normalised and encoded as in the run.

    A run with "normalize": "corpus" keeps the gain of the corpus it was trained on. part: "train", "valid" or "test",
    what the run's split says of its own recordings, instead of all; data_dir None: the run's own. param_dir, params:
    where the parameters of a steered network lie, as of train.py, the run's own if it is the run's folder. batch_size:
    files read side by side, by default as many as in training. progress(what, done, total) is called on the way.
    Nothing is left on disk. Raises UsageError and RunError with what to do.
    """
    import tensorflow as tf

    from tierwave.training.step import Evaluator

    family, config, run = trained.family, trained.config, trained.run
    described = run.read("run.json")
    if data_dir is None:
        if "data_dir" not in described:
            raise UsageError(f"{run.folder} does not know the recordings it was trained on: name them with --data_dir")
        data_dir = described["data_dir"]
    own = absolute(data_dir) == described.get("data_dir")
    if batch_size is None:
        batch_size = config.training.get("batch_size", TrainingOptions.model_fields["batch_size"].default)
    if batch_size < 1:
        raise UsageError(f"--batch_size {batch_size} must be 1 or more")
    quantizer = family.encoder(config)
    if not isinstance(quantizer, Quantizer):
        raise UsageError(f"{run.folder} does not predict samples of audio, so it has no bits per sample")
    encoder: Encoder = quantizer
    normalize = config.normalize
    if normalize == "corpus":
        encoder, normalize = Amplified(quantizer, trained.gain), "none"

    def told(what: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, total: progress(what, done, total)

    jit = family.prefers_xla(config, bool(tf.config.list_physical_devices("GPU")))
    files: dict[str, Score] = {}
    tiers: dict[str, Score] = {}
    units: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="tierwave-") as cache:
        corpus = load_corpus(
            data_dir,
            encoder,
            sample_rate=trained.sample_rate,
            normalize=normalize,
            cache_dir=cache,
            jobs=os.cpu_count() or 1,
            progress=told("Decoding"),
        )
        spans = [Span(index, 0, recording.samples) for index, recording in enumerate(corpus.recordings)]
        if part is not None:
            spans = _part(trained, corpus, part)
        names = family.parameters(config)
        steering = None
        if names:
            places = {"param_dir": param_dir, "params": params}
            if own and not any(places.values()):
                places = {key: Path(described[key]) if described.get(key) else None for key in places}
            sources = find_control_sources(
                data_dir,
                param_dir=places["param_dir"],
                params=places["params"],
                name_params=names,
                categories=trained.schema.named,
            )
            steering = Steering(
                trained.schema,
                tuple(sources.controls_of(recording.name, names) for recording in corpus.recordings),
                tuple(recording.samples / corpus.sample_rate for recording in corpus.recordings),
            )
        dataset_state = None
        if trained.dataset_state is not None:
            dataset_state = family.prepare(corpus, None, config, trained.dataset_state, data_dir=place_of(data_dir))
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
            measured = Evaluator(model, jit=jit).measure(windows, told(f"Measuring {stage}"))
            if not np.isfinite(measured).all():
                raise RunError(
                    f"the network gives {_worst(measured, spans, corpus)} no finite likelihood, so its weights are "
                    f"damaged: name another checkpoint than {trained.path}"
                )
            if not model.has_accuracy:
                nats, _, values = measured.sum(axis=0)
                units[stage] = model.unit
                tiers[stage] = Score(round(values), bits(float(nats)), 0.0)
                continue
            sums: dict[int, np.ndarray] = {}
            for span, row in zip(spans, measured, strict=True):
                sums[span.recording] = sums.get(span.recording, 0.0) + row
            for index, (nats, correct, samples) in sums.items():
                name = corpus.recordings[index].name
                files[name] = Score(round(samples), bits(float(nats)), float(correct))
    offset = family.nats_per_db_offset(trained.dataset_state)
    remarks = tuple((each.name, remark) for each in corpus.recordings for remark in each.remarks)
    return Evaluation(files, corpus.left_out, trained.sample_rate, quantizer.levels, tiers, units, offset, remarks)


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


def _worst(measured: np.ndarray, spans: Sequence[Span], corpus: Corpus) -> str:
    number = int(np.argmin(np.isfinite(measured).all(axis=1)))
    return corpus.recordings[spans[number].recording].name if number < len(spans) else "a recording"


def follow(
    trained: Trained,
    *,
    names: Sequence[str] | None = None,
    seconds: float = 2.0,
    plain: Request,
    output_dir: Path | None = None,
    progress: Count | None = None,
) -> Following:
    """Whether the sound does what it is asked: generated at `scenarios`, measured, summed up.

    names: of parameters, by default all that can be measured. plain: temperature, top_k, top_p and random seed.
    output_dir: where every sound goes, with a picture of the curves asked for and measured. Raises UsageError for a run
    that is not steered.
    """
    steerable = trained.family.steerable(trained.config)
    if not steerable:
        raise UsageError(f"{trained.run.folder} was trained without parameters, so there is nothing to follow")
    schema = trained.schema.select(steerable)
    asked = scenarios(schema, trained.values, names=names or None, seconds=seconds)
    if not asked:
        raise UsageError(
            f"none of {', '.join(steerable)} can be measured in a sound: pitch, loudness, brightness and what "
            "`python -m tierwave controls extract` measures can"
        )
    results = []
    if output_dir is not None:
        refuse_file("--output_dir", output_dir)
        make_own(output_dir)
    for start in range(0, len(asked), SIDE_BY_SIDE):
        group = asked[start : start + SIDE_BY_SIDE]
        request = replace(
            plain,
            sequences=len(group),
            seconds=seconds,
            temperature=plain.temperature[:1],
            controls=tuple(scenario.controls for scenario in group),
            random_seed=plain.random_seed + start,
        )
        stream = trained.stream(request)
        stream.progress = progress or uncounted
        sounds = stream.render(request.samples(trained.sample_rate))
        for number, (scenario, sound) in enumerate(zip(group, sounds, strict=True)):
            followed = measure_following(sound, trained.sample_rate, scenario.controls, schema)
            results.append(Result(scenario, followed))
            if output_dir is not None:
                stem = allowed_name(f"{scenario.kind} {scenario.name}")
                write_wav(output_dir / f"{stem}.wav", sound, trained.sample_rate)
                plot_following(output_dir / f"{stem}.png", followed, sound, trained.sample_rate, title=scenario.name)
            if progress is not None:
                progress("Generating and measuring", start + number + 1, len(asked))
    return summarise(results)


def compare_sounds(trained: Trained, data_dir: Path, sounds: Sequence[Path]) -> dict[str, float]:
    """`spectral_comparison` of generated sounds (files or folders) with all recordings, at the run's rate."""

    def loaded(paths: Sequence[Path], *, own: bool = False) -> list[np.ndarray]:
        usable = []
        for path in find_audio(paths, own=own):
            try:
                usable.append(load(path, trained.sample_rate)[0])
            except AudioError as error:
                if own:  # of the recordings the evaluation has named it
                    warnings.warn(AudioWarning(f"left out: {error}"), stacklevel=2)
        return usable

    found = loaded(sounds, own=True)
    if not found:
        raise UsageError(f"--sounds {' '.join(map(str, sounds))} holds no sound: name wav files that were generated")
    return spectral_comparison(loaded([data_dir]), found, trained.sample_rate)
