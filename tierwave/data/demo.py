"""A small, licence-free corpus of tones of known pitch, loudness and instrument, for first runs and for tests.

The same seed gives the same bytes.

Three instruments, all by additive synthesis, so that the pitch is exact and nothing folds back at the Nyquist
frequency (a Karplus-Strong string would need a fractional delay to be in tune):

| inst | kind | sound |
| --- | --- | --- |
| 0 | plucked | all partials at once, the high ones dying away first |
| 1 | bowed | a saw's partials, a slow attack, vibrato |
| 2 | blown | the odd partials of a closed tube, a soft attack, breath noise |

The controls are in the file names (`demo_inst00.00_p64.00_a00.50.wav`), and in `params.csv`, a row per file: `inst` as
above, `p` the MIDI pitch (69 is 440 Hz), `a` the loudness in (0, 1], as the peak amplitude in relation to
`FULL_LOUDNESS`. `params_schema.csv` has their units and the instruments' names.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tierwave.audio.finding import find_audio
from tierwave.audio.recordings import load, probe
from tierwave.audio.writer import write_wav
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.sources import MANIFEST_NAME, SCHEMA_NAME
from tierwave.controls.tables import schema_text
from tierwave.errors import AudioError, UsageError
from tierwave.files.writing import write_text

Tone = npt.NDArray[np.float64]

INSTRUMENTS = ("plucked", "bowed", "blown")
FULL_LOUDNESS = 0.9  # peak of a tone of loudness 1; the rest is room for the overshoot of resampling
SCHEMA = Schema(
    parameters=(
        Parameter(name="inst", categories=INSTRUMENTS),
        Parameter(name="p", units="midiPitch"),
        Parameter(name="a", units="amplitude"),
    )
)

VIBRATO_HZ = 5.5
VIBRATO_CENTS = 10.0
VIBRATO_DEPTH = 2 ** (VIBRATO_CENTS / 1200) - 1
HIGHEST_PARTIAL = 0.95  # of the Nyquist frequency
FADE_OUT_SECONDS = 0.03


def make_corpus(
    folder: Path | str,
    *,
    seed: int = 0,
    sample_rate: int = 16000,
    pitches: Iterable[float] = range(64, 77),
    loudnesses: Iterable[float] = (0.25, 0.5, 1.0),
    seconds: float = 1.25,
) -> list[Path]:
    """Write a tone of every instrument, pitch and loudness into `folder`, with `params.csv` and its schema; the
    paths of the tones.

    By default 117 tones, 2 min 26 s. Files that are there already with the same content are not touched.

    Args:
        seed: of the partials' phases and the breath; a tone does not depend on which others are made.
        sample_rate: Hz.
        pitches: MIDI pitches and `loudnesses` in (0, 1]; both are rounded to the two decimals of the file names.
        seconds: length of each tone.

    Raises:
        UsageError: a value out of range, or `folder` holds other recordings, which the manifest would lack.
    """
    folder = Path(folder)
    chosen = _checked(seed, sample_rate, seconds, pitches, loudnesses)
    wanted = {tone_name(*tone): tone for tone in itertools.product(range(len(INSTRUMENTS)), *chosen)}
    strangers = [path for path in find_audio([folder]) if path.name not in wanted] if folder.is_dir() else []
    if strangers:
        raise UsageError(f"{folder} holds other recordings, such as {strangers[0].name}: choose an empty folder")
    for name, (instrument, pitch, loudness) in wanted.items():
        tone = make_tone(instrument, pitch, loudness, seed=seed, sample_rate=sample_rate, seconds=seconds)
        if not _holds(folder / name, tone, sample_rate):
            write_wav(folder / name, tone, sample_rate)
    rows = [f"{name},{instrument},{pitch},{loudness}" for name, (instrument, pitch, loudness) in wanted.items()]
    manifest = "\n".join(["filename,inst,p,a", *rows, ""])
    for path, text in ((folder / MANIFEST_NAME, manifest), (folder / SCHEMA_NAME, schema_text(SCHEMA))):
        if not (path.exists() and path.read_bytes() == text.encode()):
            write_text(path, text)
    return [folder / name for name in wanted]


def tone_name(instrument: int, pitch: float, loudness: float) -> str:
    """The file name with a tone's controls, in RNNControl's form."""
    return f"demo_inst{instrument:05.2f}_p{pitch:05.2f}_a{loudness:05.2f}.wav"


def make_tone(
    instrument: int, pitch: float, loudness: float, *, seed: int = 0, sample_rate: int = 16000, seconds: float = 1.25
) -> Tone:
    """One tone, `[samples]`, with a peak of `loudness * FULL_LOUDNESS`, no direct current, and zero at both ends."""
    from librosa import midi_to_hz

    random = np.random.default_rng([seed, instrument, round(pitch * 100), round(loudness * 100)])
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    frequency = float(midi_to_hz(pitch))
    fade = _attack(time, FADE_OUT_SECONDS)[::-1]
    tone = fade * (_plucked, _bowed, _blown)[instrument](time, frequency, sample_rate, random)
    # The direct current is subtracted under a window, so that there is no step at the ends.
    window = fade * _attack(time, FADE_OUT_SECONDS)
    tone -= window * (tone.sum() / window.sum())
    return tone * (loudness * FULL_LOUDNESS / np.abs(tone).max())


# ---- the instruments -------------------------------------------------------------------------------------------------


def _plucked(time: Tone, frequency: float, sample_rate: int, random: np.random.Generator) -> Tone:
    # A string plucked at a fifth of its length lacks every fifth partial.
    def level(number: int) -> Tone:
        strength = abs(np.sin(np.pi * number / 5)) / number
        return strength * np.exp(-time * (1.5 + 0.25 * number + 0.02 * number**2))

    phase = 2 * np.pi * frequency * time
    return _partials(range(1, _highest(frequency, sample_rate) + 1), phase, level, random) * _attack(time, 0.002)


def _bowed(time: Tone, frequency: float, sample_rate: int, random: np.random.Generator) -> Tone:
    # The integral of frequency * (1 + depth * cos(2 pi rate t)), which on average is frequency * t.
    turn = 2 * np.pi * VIBRATO_HZ
    phase = 2 * np.pi * frequency * (time + VIBRATO_DEPTH / turn * np.sin(turn * time))
    numbers = range(1, _highest(frequency * (1 + VIBRATO_DEPTH), sample_rate) + 1)
    return _partials(numbers, phase, lambda number: np.full_like(time, 1 / number), random) * _attack(time, 0.15)


def _blown(time: Tone, frequency: float, sample_rate: int, random: np.random.Generator) -> Tone:
    phase = 2 * np.pi * frequency * time
    numbers = range(1, _highest(frequency, sample_rate) + 1, 2)
    tone = _partials(numbers, phase, lambda number: np.full_like(time, number**-1.3), random)
    breath = _breath(len(time), frequency, sample_rate, random)
    return (tone + 0.04 * breath) * _attack(time, 0.05)


def _breath(samples: int, frequency: float, sample_rate: int, random: np.random.Generator) -> Tone:
    """Noise of RMS 1 with its weight an octave above the tone, and nothing at 0 Hz."""
    spectrum = np.fft.rfft(random.standard_normal(samples))
    ratio = np.fft.rfftfreq(samples, 1 / sample_rate) / (2 * frequency)
    noise = np.fft.irfft(spectrum * ratio / (1 + ratio**2), samples)
    return noise / np.sqrt(np.mean(noise**2))


def _partials(numbers: Sequence[int], phase: Tone, level: Callable[[int], Tone], random: np.random.Generator) -> Tone:
    tone = np.zeros_like(phase)
    for number in numbers:
        tone += level(number) * np.sin(number * phase + random.uniform(0, 2 * np.pi))
    return tone


def _highest(frequency: float, sample_rate: int) -> int:
    return int(HIGHEST_PARTIAL * sample_rate / 2 / frequency)


def _attack(time: Tone, seconds: float) -> Tone:
    return 0.5 - 0.5 * np.cos(np.pi * np.minimum(time / seconds, 1))


# ---- checks and files ------------------------------------------------------------------------------------------------


def _checked(
    seed: int, sample_rate: int, seconds: float, pitches: Iterable[float], loudnesses: Iterable[float]
) -> tuple[list[float], list[float]]:
    """Pitches and loudnesses, rounded; UsageError where a value is out of range."""
    from librosa import hz_to_midi

    if seed < 0:
        raise UsageError(f"seed must be 0 or more, not {seed}")
    if sample_rate < 1000:
        raise UsageError(f"sample_rate must be at least 1000 Hz, not {sample_rate}")
    if not 0.2 <= seconds <= 60:
        raise UsageError(f"seconds, the length of each tone, must lie between 0.2 and 60, not {seconds:g}")
    pitches = [round(float(pitch), 2) for pitch in pitches]
    loudnesses = [round(float(loudness), 2) for loudness in loudnesses]
    highest = hz_to_midi(HIGHEST_PARTIAL * sample_rate / 2 / (1 + VIBRATO_DEPTH))
    for pitch in pitches:
        if not 12 <= pitch <= highest:
            raise UsageError(f"A pitch must lie between 12 and {highest:.1f} at {sample_rate} Hz, not {pitch:g}")
    for loudness in loudnesses:
        if not 0 < loudness <= 1:
            raise UsageError(f"A loudness must lie between 0.01 and 1, not {loudness:g}")
    return pitches, loudnesses


def _holds(path: Path, tone: Tone, sample_rate: int) -> bool:
    """Whether `path` is the 16-bit wav that `write_wav` would write."""
    try:
        info = probe(path)
        audio, _ = load(path)
    except AudioError:
        return False
    same_format = (info.sample_rate, info.channels, info.subtype) == (sample_rate, 1, "PCM_16")
    return same_format and len(audio) == len(tone) and bool(np.all(audio == np.rint(tone * 32768) / 32768))
