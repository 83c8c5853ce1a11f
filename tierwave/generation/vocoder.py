"""A steered network that renders spectrograms: log-mel frames as controls over time.

The channels of a log-mel spectrogram are averaged in groups of neighbours, the bands, which are the controls mel0,
mel1 ... of a network like any other. `python -m melnet.bands` writes them as curves for the recordings that it is
trained on.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tierwave.controls.schema import ControlWarning
from tierwave.controls.tracks import Controls, Track
from tierwave.errors import UsageError
from tierwave.generation.request import Request

if TYPE_CHECKING:
    from tierwave.generation.load import Trained


def band_name(number: int) -> str:
    """The name of a band as a parameter."""
    return f"mel{number}"


def band_tracks(log_mel: np.ndarray, frame_rate: float, bands: int) -> Controls:
    """The curves of a log-mel spectrogram `[frames, channels]` in nats, one per band, low to high."""
    if not 1 <= bands <= log_mel.shape[1]:
        raise UsageError(f"{bands} bands cannot be made of {log_mel.shape[1]} channels: ask for 1 to that many")
    groups = np.array_split(log_mel, bands, axis=1)
    return {
        band_name(number): Track.regular(band_name(number), group.mean(axis=1), frame_rate, "a spectrogram")
        for number, group in enumerate(groups)
    }


class Vocoder:
    """Sound of log-mel spectrograms from a run that is steered by their bands.

    Raises UsageError for a run that is steered by anything else, or has another sample rate.
    """

    def __init__(self, trained: Trained, sample_rate: int, plain: Request):
        names = trained.family.steerable(trained.config)
        self.bands = len(names)
        if not names or sorted(names) != sorted(band_name(number) for number in range(self.bands)):
            raise UsageError(
                f"--vocoder {trained.run.folder} is steered by {', '.join(names) or 'nothing'}, not by the bands of a "
                "spectrogram (mel0, mel1 ...): train one on what python -m melnet.bands writes"
            )
        if trained.sample_rate != sample_rate:
            raise UsageError(
                f"--vocoder {trained.run.folder} makes sound at {trained.sample_rate} Hz, and the spectrograms are of "
                f"{sample_rate} Hz: train one at that rate"
            )
        self.trained, self.plain = trained, plain

    def __call__(self, log_mels: np.ndarray, frame_rate: float, samples: int) -> np.ndarray:
        """Float32 `[sequences, samples]` of log-mel spectrograms `[sequences, frames, channels]`."""
        request = replace(
            self.plain,
            sequences=len(log_mels),
            seconds=samples / self.trained.sample_rate,
            controls=tuple(band_tracks(each, frame_rate, self.bands) for each in log_mels),
        )
        with warnings.catch_warnings():  # a generated spectrogram may leave the range of the recordings
            warnings.simplefilter("ignore", ControlWarning)
            return self.trained.stream(request).render(samples)
