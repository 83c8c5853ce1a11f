"""Controls measured from sound: loudness, brightness, noisiness, pitch, MFCC, onsets, with librosa.

All features of a sound share one time grid, a frame every hop, its window centred there; what lies beyond the ends
counts as silence. Work is done in stretches of half a minute, so memory does not grow with the recording: spectral
features are the same as of the whole at once, pitch nearly. Knows audio arrays, no files.

| feature | controls | unit | what |
| --- | --- | --- | --- |
| `rmse` | `rmse` | amplitude | root mean square of the window |
| `level` | `level` | dB | the same relative to a constant at full scale, -100 or more |
| `centroid`, `bandwidth` | the same | hertz | mean of the spectrum, and spread around it |
| `flatness` | `flatness` | norm | 0 for a tone, 1 for white noise or silence |
| `zcr` | `zcr` | norm | share of samples that cross zero |
| `pitch` | `pitch`, `voicing` | hertz | pYIN (Mauch & Dixon 2014); where there is none it glides between neighbours |
| `midi` | `midi`, `voicing` | midiPitch | the same in semitones, 69 for 440 Hz |
| `mfcc` | `mfcc0` ... `mfcc12` | | of 64 mel channels in dB, -100 or more |
| `onset` | `onset` | dB | mean rise of the mel channels from one frame to the next |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tierwave.controls.tracks import Track
from tierwave.errors import UsageError

MFCC_NAMES = tuple(f"mfcc{number}" for number in range(13))
FEATURES = {
    "rmse": ("rmse",),
    "level": ("level",),
    "centroid": ("centroid",),
    "bandwidth": ("bandwidth",),
    "flatness": ("flatness",),
    "zcr": ("zcr",),
    "pitch": ("pitch", "voicing"),
    "midi": ("midi", "voicing"),
    "mfcc": MFCC_NAMES,
    "onset": ("onset",),
}
FLOOR_DB = -100.0

_MEL_CHANNELS = 64
_STRETCH_SECONDS = 30.0
_PITCH_CONTEXT_SECONDS = 1.0  # on either side of a stretch: pYIN's path through time forgets in less

Curves = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Analysis:
    """What to measure and how. features: keys of `FEATURES`; seconds of window and hop; range of the pitch in hertz.

    Raises UsageError for an unknown feature or an impossible number.
    """

    features: tuple[str, ...] = ("rmse", "centroid", "bandwidth", "flatness", "zcr", "pitch", "mfcc", "onset")
    window_seconds: float = 0.030
    hop_seconds: float = 0.015
    lowest_pitch: float = 50.0
    highest_pitch: float = 2000.0

    def __post_init__(self) -> None:
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown or not self.features:
            found = f"there is no feature {unknown[0]}" if unknown else "no feature is named"
            raise UsageError(f"{found}: choose from {', '.join(FEATURES)}")
        if not 0.001 <= self.hop_seconds <= 10 or not 0.001 <= self.window_seconds <= 10:
            raise UsageError(
                f"window and hop are {1000 * self.window_seconds:g} and {1000 * self.hop_seconds:g} ms; give from 1 ms "
                "to 10000 ms"
            )
        if not 10 <= self.lowest_pitch < self.highest_pitch:
            raise UsageError(
                f"the pitch goes from {self.lowest_pitch:g} to {self.highest_pitch:g} Hz; give a range from 10 Hz up"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The controls that come out."""
        return tuple(dict.fromkeys(name for feature in self.features for name in FEATURES[feature]))

    def declared(self, sample_rate: int) -> dict[str, dict[str, Any]]:
        """By control what a file says of it: units, nvals, minval, maxval."""
        from librosa import hz_to_midi

        highest = min(self.highest_pitch, sample_rate / 4)
        told: dict[str, tuple[str | None, int, float | None, float | None]] = {
            "rmse": ("amplitude", 0, 0.0, 1.0),
            "level": ("dB", 0, FLOOR_DB, 0.0),
            "centroid": ("hertz", 0, 0.0, sample_rate / 2),
            "bandwidth": ("hertz", 0, 0.0, sample_rate / 2),
            "flatness": ("norm", 0, 0.0, 1.0),
            "zcr": ("norm", 0, 0.0, 1.0),
            "pitch": ("hertz", 0, self.lowest_pitch, highest),
            "midi": ("midiPitch", 0, float(hz_to_midi(self.lowest_pitch)), float(hz_to_midi(highest))),
            "voicing": ("category", 2, 0, 1),
            "onset": ("dB", 0, 0.0, None),
            **{name: (None, 0, None, None) for name in MFCC_NAMES},
        }
        keys = ("units", "nvals", "minval", "maxval")
        return {name: dict(zip(keys, told[name], strict=True)) for name in self.names}


def measure(audio: npt.ArrayLike, sample_rate: int, analysis: Analysis) -> dict[str, Track]:
    """The features of a sound, one track per control in the order of `analysis.names`.

    audio: float `[samples]`, at least one, full scale 1.0. Frame k is centred at k * hop, rounded to whole samples, and
    there are 1 + samples // hop frames. A sound without any pitch has the middle of the range as pitch, and voicing 0.
    """
    from librosa import hz_to_midi

    sound = np.asarray(audio, np.float32)
    if sound.ndim != 1 or not len(sound):
        raise ValueError(f"one channel of at least one sample is needed, not audio of shape {sound.shape}")
    hop = max(1, round(analysis.hop_seconds * sample_rate))
    frames = 1 + len(sound) // hop
    stretch = max(1, round(_STRETCH_SECONDS * sample_rate / hop))
    parts: list[Curves] = []
    for first in range(0, frames, stretch):
        parts.append(_spectral(sound, sample_rate, analysis, hop, first, min(frames, first + stretch)))
        if {"pitch", "midi"} & set(analysis.features):
            parts[-1] |= _pitched(sound, sample_rate, analysis, hop, first, min(frames, first + stretch), frames)
    curves = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if "voicing" in curves:
        middle = math.sqrt(analysis.lowest_pitch * min(analysis.highest_pitch, sample_rate / 4))
        curves["pitch"] = _without_gaps(curves["pitch"], curves["voicing"] > 0, middle)
        curves["midi"] = hz_to_midi(curves["pitch"].astype(np.float64)).astype(np.float32)
    times = np.arange(frames) * hop / sample_rate
    return {name: Track(name, times, _shortest(curves[name])) for name in analysis.names}


def _spectral(sound: np.ndarray, rate: int, analysis: Analysis, hop: int, first: int, stop: int) -> Curves:
    """Frames [first, stop) of everything but pitch."""
    from librosa import feature, onset, power_to_db, stft

    wanted = set(analysis.features)
    window = max(2, round(analysis.window_seconds * rate))
    window += window % 2
    n_fft = 1 << math.ceil(math.log2(2 * window))  # finer bins than the window, so that no mel channel is without one
    curves: Curves = {}
    stretch = _stretch(sound, hop, first, stop, window)
    if wanted & {"rmse", "level"}:
        rms = feature.rms(y=stretch, frame_length=window, hop_length=hop, center=False)[0]
        curves["rmse"] = rms
        curves["level"] = 20 * np.log10(np.maximum(rms.astype(np.float64), 10 ** (FLOOR_DB / 20)))
    if "zcr" in wanted:
        curves["zcr"] = feature.zero_crossing_rate(stretch, frame_length=window, hop_length=hop, center=False)[0]
    if wanted & {"centroid", "bandwidth", "flatness", "mfcc", "onset"}:
        before = 1 if first else 0  # a rise needs the frame before
        wide = _stretch(sound, hop, first - before, stop, n_fft)
        magnitude = np.abs(stft(wide, n_fft=n_fft, hop_length=hop, win_length=window, center=False))
        inner = magnitude[:, before:]
        centroid = feature.spectral_centroid(S=inner, sr=rate, n_fft=n_fft)
        curves["centroid"] = centroid[0]
        if "bandwidth" in wanted:
            curves["bandwidth"] = feature.spectral_bandwidth(S=inner, sr=rate, n_fft=n_fft, centroid=centroid)[0]
        if "flatness" in wanted:
            curves["flatness"] = feature.spectral_flatness(S=inner)[0]
        if wanted & {"mfcc", "onset"}:
            mel = feature.melspectrogram(S=magnitude**2, sr=rate, n_fft=n_fft, n_mels=_MEL_CHANNELS)
            decibels = power_to_db(mel, ref=1.0, amin=10 ** (FLOOR_DB / 10), top_db=None)
            cepstrum = feature.mfcc(S=decibels[:, before:], n_mfcc=len(MFCC_NAMES))
            curves |= dict(zip(MFCC_NAMES, cepstrum, strict=True))
            rise = onset.onset_strength(S=decibels, sr=rate, hop_length=hop, center=False)
            curves["onset"] = rise[before:]
    return curves


def _pitched(sound: np.ndarray, rate: int, analysis: Analysis, hop: int, first: int, stop: int, frames: int) -> Curves:
    """Frames [first, stop) of pitch in hertz, NaN where there is none, and whether there is one."""
    from librosa import pyin

    highest = min(analysis.highest_pitch, rate / 4)
    if analysis.lowest_pitch >= highest:
        raise UsageError(f"at {rate} Hz no pitch above {rate / 4:g} Hz can be told: lower --pitch_min")
    length = 1 << math.ceil(math.log2(4 * rate / analysis.lowest_pitch))
    context = math.ceil(_PITCH_CONTEXT_SECONDS * rate / hop)
    left, right = max(0, first - context), min(frames, stop + context)
    stretch = _stretch(sound, hop, left, right, length)
    pitch, voiced, _ = pyin(
        stretch, fmin=analysis.lowest_pitch, fmax=highest, sr=rate, frame_length=length, hop_length=hop, center=False
    )
    inner = slice(first - left, stop - left)
    return {"pitch": pitch[inner].astype(np.float32), "voicing": voiced[inner].astype(np.float32)}


def _stretch(sound: np.ndarray, hop: int, first: int, stop: int, length: int) -> npt.NDArray[np.float32]:
    """The samples under frames [first, stop), each `length` long and centred on a hop; zeros beyond the ends."""
    begin, end = first * hop - length // 2, (stop - 1) * hop + length - length // 2
    return np.pad(sound[max(0, begin) : max(0, end)], (max(0, -begin), max(0, end - max(len(sound), begin, 0))))


def _without_gaps(pitch: np.ndarray, voiced: np.ndarray, otherwise: float) -> npt.NDArray[np.float32]:
    """Pitch with straight glides, in semitones, where there is none."""
    if not voiced.any():
        return np.full(len(pitch), otherwise, np.float32)
    places = np.flatnonzero(voiced)
    return np.exp(np.interp(np.arange(len(pitch)), places, np.log(pitch[places]))).astype(np.float32)


def _shortest(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The doubles with the shortest decimals that are these floats: 0.1, not 0.10000000149."""
    return np.array([float(str(value)) for value in values.astype(np.float32)])
