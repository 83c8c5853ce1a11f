"""Figures and sentences about what is trained on: baselines to beat, the noise floor, the split, the controls."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tierwave.analysis.linear_prediction import linear_prediction_bits
from tierwave.analysis.statistics import MOST_LEVELS, CodeStatistics, bits
from tierwave.audio.quantize import Quantizer
from tierwave.controls.schema import ControlWarning, coverage
from tierwave.data.corpus import Corpus
from tierwave.data.splits import Span, Split
from tierwave.data.windows import Steering
from tierwave.runs.history import code_baselines

MOST_COUNTED = 1 << 27  # max samples counted; more does not change the histogram
MOST_PREDICTED = 1 << 22  # max samples of linear prediction, a second of time for a million


def baselines(corpus: Corpus, split: Split, encoder: Any, *, predicted: bool) -> dict[str, float]:
    """What models that learn next to nothing reach on the held-out codes, in bits per sample: the baselines to beat.
    predicted: whether the network predicts codes, which a spectrogram's network does not."""
    found: dict[str, float] = {}
    if not isinstance(encoder, Quantizer) or not split.valid:
        return found
    if encoder.levels <= MOST_LEVELS:
        found |= _counted(corpus, split, encoder)
    if predicted:
        blocks = _blocks(corpus, split.valid, MOST_PREDICTED)
        found["linear_prediction_bits"] = linear_prediction_bits(blocks, encoder)
    return found


def _counted(corpus: Corpus, split: Split, encoder: Quantizer) -> dict[str, float]:
    counted = CodeStatistics(encoder.levels)
    for blocks in _blocks(corpus, split.train, MOST_COUNTED):
        counted.add(blocks)
    return {
        "histogram_bits": counted.histogram_bits(_blocks(corpus, split.valid)),
        "markov_bits": counted.markov_bits(_blocks(corpus, split.valid)),
    }


def _blocks(corpus: Corpus, spans: Sequence[Span], most: int | None = None) -> Iterator[Iterator[np.ndarray]]:
    """The codes of `spans` in blocks, of each in turn; the first `most` samples of all."""
    left = sum(span.stop - span.start for span in spans) if most is None else most
    for span in spans:
        if left > 0:
            yield corpus.blocks(span.recording, span.start, min(span.stop, span.start + left))
        left -= span.stop - span.start


def noise_floor(corpus: Corpus, encoder: Any) -> float:
    """Root mean square of the quiet stretches of 20 ms (the 5th percentile of those that are not digital silence)."""
    length = max(1, round(0.02 * corpus.sample_rate))
    found = []
    for index, recording in enumerate(corpus.recordings[:100]):
        sound = encoder.decode(corpus.read(index, 0, min(recording.samples, 10 * corpus.sample_rate)))
        frames = sound[: recording.samples // length * length]
        frames = frames[: len(frames) // length * length].reshape(-1, length)
        found.append(np.sqrt(np.mean(np.square(frames - frames.mean(axis=1, keepdims=True)), axis=1)))
    levels = np.concatenate(found)
    levels = levels[levels > 0]
    return float(np.percentile(levels, 5)) if len(levels) else 0.0


def sounds_of(corpus: Corpus, spans: Sequence[Span], encoder: Any, seconds: float) -> list[np.ndarray]:
    """The first `seconds` of `spans`, float `[samples]` each."""
    left, wanted = round(seconds * corpus.sample_rate), []
    for span in spans:
        wanted.append((span.recording, span.start, min(span.stop, span.start + left)))
        left -= wanted[-1][2] - span.start
        if left <= 0:
            break
    return [encoder.decode(corpus.read(*each)) for each in wanted]


def described_split(split: Split, corpus: Corpus, statistics: dict[str, Any]) -> str:
    def seconds(spans: Any) -> float:
        return sum(span.stop - span.start for span in spans) / corpus.sample_rate

    how = "whole recordings" if split.method == "files" else "stretches spread over the recordings"
    text = f"Training on {seconds(split.train):.1f} s, validating on {seconds(split.valid):.1f} s"
    if split.test:
        text += f", testing on {seconds(split.test):.1f} s"
    text += f" ({how} held out)"
    listed = ", ".join(f"{bits(nats):.3f} ({name})" for name, nats in code_baselines(statistics).items())
    return text + (f"\nTo beat on held-out sound, in bits per sample: {listed}" if listed else "")


def described_controls(steering: Steering, values: Mapping[str, Sequence[float]]) -> str:
    parts = []
    for parameter in steering.schema.parameters:
        lo, hi = parameter.span
        trained = values[parameter.name]
        many = f"{len(trained)} value{'s' if len(trained) > 1 else ''}"
        constant = all(controls[parameter.name].is_constant for controls in steering.controls)
        unit = f" {parameter.units}" if parameter.units else ""
        names = 0 < len(parameter.categories) <= 6
        span = "|".join(parameter.categories) if names else f"{lo:g} to {hi:g}{unit}"
        parts.append(f"{parameter.name} {span} ({many if constant else 'over time'})")
    return "Controls: " + ", ".join(parts)


def beyond_range(steering: Steering) -> list[str]:
    """What of the corpus lies beyond a range that was given, one sentence per parameter."""
    found: dict[str, str] = {}
    odd: list[str] = []
    for parameter in steering.schema.parameters:
        if parameter.span[0] == parameter.span[1]:
            found[parameter.name] = (
                f"{parameter.name} is {parameter.span[0]:g} wherever it is trained on, so it will steer nothing."
            )
            continue
        odd += [f"{text}." for text in coverage(parameter, [tracks[parameter.name] for tracks in steering.controls])]
        for controls in steering.controls:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ControlWarning)
                parameter.normalise(controls[parameter.name].values)
            if caught:
                found.setdefault(parameter.name, f"{caught[0].message}, in training too.")
    return [*found.values(), *odd]
