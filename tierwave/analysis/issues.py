"""What is wrong with a generated sound, found by numbers: each issue is one sentence and a remedy.

NumPy only, and light: training looks at every sound it makes. Thresholds are set so that recordings do not trip them:
of 505 (notes, spoken digits, read sentences, a whale, a trumpet, an orchestra) one had an issue, its DC offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tierwave.analysis.statistics import SILENCE_DBFS, describe

LOOP_SECONDS = 0.05  # the shortest loop; what repeats faster is heard as a tone
_PITCH_SECONDS = 0.001  # the shortest period of a tone that is looked at
_STRETCHES = (0.45, 1.0, 2.5, 6.0)  # seconds in which a loop has to come round three times; also a sound as a whole
_LOOP_CORRELATION, _LOOP_RATIO = 0.7, 0.5
_HELD = 0.9  # correlation from period to period of a held tone, which an even vibrato repeats too
_LOOPED_SHARE = 0.4


@dataclass(frozen=True)
class Issue:
    """Something that is wrong. name: a few words, the same each time; seen: the evidence, with numbers; remedy: what to
    do."""

    name: str
    seen: str
    remedy: str

    @property
    def sentence(self) -> str:
        """All of it in one sentence."""
        return f"{self.name}: {self.seen}; {self.remedy}."


def find_issues(audio: np.ndarray, sample_rate: int) -> list[Issue]:
    """What a person would hear as a failure; none for an ordinary sound.

    Args:
        audio: float [samples], full scale 1.0.
        sample_rate: hertz.

    Raises:
        ValueError: not one channel of floating point, empty, or not finite.
    """
    described = describe(audio, sample_rate)
    silent, stuck = described.silent_share, described.stuck_share
    found = []
    if silent > 0.75:
        found.append(
            Issue(
                "silent" if silent > 0.95 else "mostly silent",
                f"{silent:.0%} of the sound is below {SILENCE_DBFS:g} dBFS",
                "train for longer, cut silence from the recordings (chunk_audio.py), or start from a --seed",
            )
        )
    if stuck > 0.25:
        found.append(
            Issue(
                "stuck at one value",
                f"{stuck:.0%} of the sound stands still, for up to {described.longest_stuck_seconds:.2g} s",
                "raise the temperature, train for longer, or start from a --seed",
            )
        )
    elif silent <= 0.75 and described.flatness > 0.45 and described.crest < 5.0:
        found.append(
            Issue(
                "white noise-like",
                f"its spectrum is as flat as that of noise (flatness {described.flatness:.2f}, noise has 0.56)",
                "train until the loss is well below the code histogram's, or lower the temperature",
            )
        )
    if abs(described.offset) > 0.02:
        found.append(
            Issue(
                "DC offset",
                f"its mean is {described.offset:+.3f} of full scale, not 0",
                "train for longer; if the recordings have one too, cut it with chunk_audio.py --highpass 20",
            )
        )
    if described.clipped_share > 0.01:
        found.append(
            Issue(
                "clipped",
                f"{described.clipped_share:.1%} of its samples lie at full scale",
                "lower the temperature, or train on recordings that are not clipped",
            )
        )
    if silent <= 0.75 and stuck <= 0.25:  # silence and a held value repeat themselves too
        share, period = loop_share(audio, sample_rate)
        if share > _LOOPED_SHARE:
            found.append(
                Issue(
                    "loop",
                    f"{share:.0%} of the sound is the same {period:.2g} s again and again",
                    "raise the temperature, train on more or more varied sound, or take an earlier checkpoint",
                )
            )
    return found


def loop_share(audio: np.ndarray, sample_rate: int) -> tuple[float, float]:
    """How much of a sound is the same stretch again and again, and the period of that in seconds (0.0 for none).

    A stretch is a loop where it is like itself one period later, by a normalised autocorrelation of 0.7 or more
    at a lag from 50 ms to a third of the stretch, and where no shorter lag does half as well: a held tone is like
    itself after every one of its periods, a loop only after the whole of it. So what remains unexplained at the loop's
    lag, 1 - r, must be less than half of what remains at the best lag of a tone. Of 2,521 stretches of recordings none
    is one: of the 508 that reach r = 0.7, the nearest has 0.83 instead of a half. Of 53 loops of 60 to 600 ms made of
    recordings 92 % are found, also under noise 10 dB below them; those missed are made of one held note.

    Args:
        audio: float [samples].
        sample_rate: hertz.
    """
    audio = np.asarray(audio, np.float64)
    looped = np.zeros(len(audio), bool)
    periods = []
    lengths = [round(seconds * sample_rate) for seconds in _STRETCHES]
    if lengths[0] < len(audio) < lengths[-1]:
        lengths.append(len(audio))
    for length in lengths:
        for start in range(0, len(audio) - length + 1, length // 2):
            period = _loop(audio[start : start + length], sample_rate)
            if period:
                looped[start : start + length] = True
                periods.append(period)
    return float(looped.mean()) if len(audio) else 0.0, min(periods, default=0.0)  # others are multiples of it


def _loop(stretch: np.ndarray, sample_rate: int) -> float:
    """The period of a stretch that is a loop, in seconds; 0.0 of another."""
    stretch = stretch - stretch.mean()
    samples = len(stretch)
    if np.mean(np.square(stretch)) < 10.0 ** (SILENCE_DBFS / 10.0):
        return 0.0
    size = 1 << (2 * samples - 1).bit_length()
    products = np.fft.irfft(np.abs(np.fft.rfft(stretch, size)) ** 2, size)[: samples // 3]
    energy = np.concatenate([[0.0], np.cumsum(np.square(stretch))])
    lags = np.arange(len(products))
    likeness = products / np.sqrt(np.maximum(energy[samples - lags] * (energy[samples] - energy[lags]), 1e-12))
    shortest = round(LOOP_SECONDS * sample_rate)
    if shortest >= len(likeness):
        return 0.0
    tones = likeness[max(1, round(_PITCH_SECONDS * sample_rate)) : shortest]
    left_lobe = np.flatnonzero(tones < 0.5)  # everything is like itself at once
    if not len(left_lobe):
        return 0.0
    tone = float(tones[left_lobe[0] :].max())
    best = shortest + int(np.argmax(likeness[shortest:]))
    if tone > _HELD or likeness[best] < _LOOP_CORRELATION:
        return 0.0
    return best / sample_rate if 1.0 - likeness[best] <= _LOOP_RATIO * (1.0 - tone) else 0.0


def issues_of(sound: np.ndarray, sample_rate: int) -> str:
    """What is wrong with a sound, float `[samples]`, for the end of a line: "" or " [silent]" and the like."""
    return named(find_issues(sound, sample_rate))


def named(issues: Sequence[Issue]) -> str:
    """The names of issues, for the end of a line."""
    return f" [{', '.join(issue.name for issue in issues)}]" if issues else ""
