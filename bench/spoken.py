"""What a MelNet that reads has learned of spoken digits: `python -m bench.spoken RUN DATA_DIR`.

A classifier of MFCCs, trained on the recordings that the run was trained on, names held-out recordings and what the run
says when it is asked for each word; and the run's fine tiers, sampled on top of the coarse ones of held-out recordings,
are compared with interpolation. Chance is one in ten.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from melnet.front_end import DB_PER_NAT, MelFrontEnd, Normaliser
from tierwave.audio.recordings import load
from tierwave.generation.load import Trained, load_run
from tierwave.generation.request import Request

COEFFICIENTS, PIECES = 14, 12  # MFCCs, and stretches of equal length over which they are averaged
SHRINKAGE = 0.2  # of the covariance towards its mean variance


def features(sound: np.ndarray, rate: int) -> np.ndarray:
    """A sound as one vector: its MFCCs along its length, without silence at the ends and without level, and how long
    it is."""
    import librosa

    trimmed, _ = librosa.effects.trim(sound, top_db=35, frame_length=256, hop_length=64)
    if len(trimmed) < 512:
        trimmed = np.pad(sound, (0, max(0, 512 - len(sound))))
    mfcc = librosa.feature.mfcc(y=trimmed, sr=rate, n_mfcc=COEFFICIENTS, n_fft=256, hop_length=64, n_mels=32)[1:]
    places = np.linspace(0, mfcc.shape[1] - 1, PIECES)
    along = np.stack([np.interp(places, np.arange(mfcc.shape[1]), row) for row in mfcc])
    return np.append(along.ravel(), 20 * np.log(len(trimmed)))


class Classifier:
    """Linear discriminant analysis with a shrunken covariance."""

    def __init__(self, vectors: np.ndarray, labels: Sequence[str]):
        self.names = sorted(set(labels))
        kinds = np.array([self.names.index(label) for label in labels])
        self.scale = vectors.std(axis=0)
        scaled = vectors / self.scale
        means = np.stack([scaled[kinds == kind].mean(axis=0) for kind in range(len(self.names))])
        covariance = np.cov((scaled - means[kinds]).T)
        ridge = SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        self.weights = np.linalg.solve((1 - SHRINKAGE) * covariance + ridge, means.T)
        self.offsets = -0.5 * np.einsum("kd,dk->k", means, self.weights)

    def names_of(self, vectors: np.ndarray) -> list[str]:
        """The most likely name of each."""
        return [self.names[kind] for kind in np.argmax(vectors / self.scale @ self.weights + self.offsets, axis=1)]


def reading(trained: Trained, data_dir: Path, each: int, temperature: float, bias: float) -> dict[str, Any]:
    """Accuracy on held-out recordings and on what is said, and which word was taken for which."""
    from melnet.text import find_transcripts

    rate = trained.sample_rate
    _, words = find_transcripts(data_dir, trained.config.text.column)
    split = trained.run.read("split.json")

    def of(part: str) -> tuple[np.ndarray, list[str]]:
        names = sorted({entry[0] for entry in split[part]})
        return np.stack([features(load(data_dir / name, rate)[0], rate) for name in names]), [words[n] for n in names]

    classifier = Classifier(*of("train"))
    vectors, labels = of("valid")
    held_out = float(np.mean([name == label for name, label in zip(classifier.names_of(vectors), labels, strict=True)]))
    asked = [word for word in classifier.names for _ in range(each)]
    request = Request(
        sequences=len(asked),
        seconds=1.2,
        temperature=(temperature,),
        random_seed=1,
        options={"text": tuple(asked), "bias": bias},
    )
    stream: Any = trained.stream(request)  # of a MelNet
    sounds = stream.render(round(stream.duration() * rate))
    ends = [round(length / stream.front_end.frame_rate * rate) for length in stream.lengths]
    heard = classifier.names_of(np.stack([features(s[:end], rate) for s, end in zip(sounds, ends, strict=True)]))
    confusion: dict[str, dict[str, int]] = {word: {} for word in classifier.names}
    for word, name in zip(asked, heard, strict=True):
        confusion[word][name] = confusion[word].get(name, 0) + 1
    said = [alignment.argmax(axis=1) for alignment in stream.alignments]
    return {
        "held_out": held_out,
        "generated": float(np.mean([word == name for word, name in zip(asked, heard, strict=True)])),
        "monotone": float(np.mean([np.mean(np.diff(places) >= 0) for places in said if len(places) > 1])),
        "ended_by_itself": float(np.mean([length < max(stream.lengths) for length in stream.lengths])),
        "seconds": float(np.median(ends)) / rate,
        "confusion": confusion,
    }


def upsampling(trained: Trained, data_dir: Path, recordings: int = 12) -> dict[str, dict[str, float]]:
    """Root mean square error in dB of the log-mel spectrograms of held-out recordings, by the tier from which on they
    were sampled: interpolated, at temperature 0 and at 1."""
    from scipy.interpolate import RegularGridInterpolator

    from melnet.multiscale import below

    config, rate = trained.config, trained.sample_rate
    front_end, normaliser = MelFrontEnd(config.audio, rate), Normaliser.from_document(trained.dataset_state or {})
    names = sorted({entry[0] for entry in trained.run.read("split.json")["valid"]})
    sounds = sorted((load(data_dir / name, rate)[0] for name in names), key=len)[-recordings:]
    found: dict[str, dict[str, float]] = {}
    for first in range(2, config.tiers + 1):
        errors: dict[str, list[float]] = {"bilinear": [], "temperature 0": [], "temperature 1": []}
        for sound in sounds:
            real = normaliser.normalise(front_end.analyse(sound))
            real = np.pad(real, [(0, -len(real) % config.time_factor), (0, 0)], mode="edge")
            low = np.asarray(below(real, first, config.tiers)[1])
            grids = [np.arange(many) * (whole // many) for many, whole in zip(low.shape, real.shape, strict=True)]
            places = np.meshgrid(*(np.arange(whole) for whole in real.shape), indexing="ij")
            inside = [np.clip(place, grid[0], grid[-1]) for place, grid in zip(places, grids, strict=True)]
            made = {"bilinear": RegularGridInterpolator(grids, low)(np.stack(inside, axis=-1))}
            for temperature in (0, 1):
                request = Request(
                    temperature=(temperature,), random_seed=1, options={"from_tier": first, "low_audio": sound}
                )
                stream: Any = trained.stream(request)  # of a MelNet
                made[f"temperature {temperature}"] = normaliser.normalise(stream.log_mels()[0])
            for name, spectrogram in made.items():
                frames = min(len(spectrogram), len(real))
                error = np.sqrt(np.mean(np.square(spectrogram[:frames] - real[:frames])))
                errors[name].append(float(error * normaliser.scale * DB_PER_NAT))
        found[f"tier{first}"] = {name: float(np.mean(values)) for name, values in errors.items()}
    return found


def main(argv: Sequence[str] | None = None) -> int:
    flags = argparse.ArgumentParser("python -m bench.spoken", description=__doc__)
    flags.add_argument("run", type=Path)
    flags.add_argument("data_dir", type=Path)
    flags.add_argument("--each", type=int, default=20, help="sounds of each word (%(default)s)")
    flags.add_argument("--temperature", type=float, default=1.0)
    flags.add_argument("--bias", type=float, default=0.0)
    arguments = flags.parse_args(argv)
    trained = load_run(arguments.run, best=True)
    if trained.config.text is not None:
        found = reading(trained, arguments.data_dir, arguments.each, arguments.temperature, arguments.bias)
        print(json.dumps(found, indent=1))
    for name, errors in upsampling(trained, arguments.data_dir).items():
        print(f"from {name} on, dB: " + ", ".join(f"{how} {error:.2f}" for how, error in errors.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
