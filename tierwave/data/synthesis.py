"""Sound that is synthesised without end, from which a network learns what sounds have in common.

A scene is a stretch of one to three parts that play together in a room, as a microphone would record them. A part is
either a line of notes on an instrument of drawn properties (plucked, bowed, blown, struck, sung, whistled, frequency
modulated: all points of one space), or a texture: blows, or noise through resonances. A melody is a scene of a single
line, whose pitch is known. The same seed gives the same sound.

    from tierwave.data.synthesis import make_scene
    sound = make_scene(seed=1, seconds=30.0, sample_rate=16000)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

from tierwave.analysis.features import FLOOR_DB, Analysis, measure
from tierwave.audio.writer import write_wav
from tierwave.controls.files import write_controls
from tierwave.controls.tracks import Track
from tierwave.errors import UsageError
from tierwave.system.parallel import parallel_map

Sound = npt.NDArray[np.float64]

PARTIALS = 40  # of a note, at most
LOWEST_PITCH, HIGHEST_PITCH = 36.0, 96.0  # MIDI pitch of a line's notes
SECONDS = 30.0  # of each sound of a corpus
UNKNOWN = {"midi": 0.0, "level": FLOOR_DB}  # controls of a sound of which they are not known: the ends of their ranges
_SCALE = (0, 2, 4, 5, 7, 9, 11)


@dataclass(frozen=True)
class Instrument:
    """What a line's notes have in common.

    stretch: of the partials, whose frequencies are number ** stretch times the pitch; only_odd: a closed tube; tilt:
    a partial's amplitude is number ** -tilt; resonances `[count, 3]`: Hz, width in octaves, gain in dB, and where they
    move to within a note; decay: per second, of the first partial, and how much faster the high ones die away; attack,
    release: seconds; vibrato: Hz and semitones; glide: semitones at a note's beginning; jitter: semitones; breath:
    amplitude of noise beside the tone; modulation: ratio and index of frequency modulation, index 0 for none.
    """

    stretch: float
    only_odd: bool
    tilt: float
    resonances: Sound
    moved: Sound
    decay: tuple[float, float]
    attack: float
    release: float
    vibrato: tuple[float, float]
    glide: float
    jitter: float
    breath: float
    modulation: tuple[float, float]


def make_scene(seed: int, *, seconds: float = 30.0, sample_rate: int = 16000) -> Sound:
    """One to three parts in a room, `[samples]` in [-1, 1]."""
    random = np.random.default_rng([seed, 1])
    samples = round(seconds * sample_rate)
    total = np.zeros(samples)
    for _ in range(random.choice([1, 2, 3], p=[0.5, 0.35, 0.15])):
        if random.random() < 0.75:
            part, _ = _line(samples, sample_rate, random)
        else:
            part = (_blows if random.random() < 0.5 else _noise)(samples, sample_rate, random)
        total += 10 ** (random.uniform(-15.0, 0.0) / 20) * part / max(float(np.sqrt(np.mean(part**2))), 1e-6)
    return _recorded(total, sample_rate, random)


def make_melody(seed: int, *, seconds: float = 30.0, sample_rate: int = 16000) -> tuple[Sound, Sound]:
    """A line of one instrument, `[samples]` in [-1, 1], and its MIDI pitch at every sample, `[samples]`; in a rest, the
    pitch of the note before."""
    random = np.random.default_rng([seed, 2])
    line, pitch = _line(round(seconds * sample_rate), sample_rate, random)
    return _recorded(line, sample_rate, random, dry=True), pitch


# ---- lines of notes --------------------------------------------------------------------------------------------------


def _instrument(random: np.random.Generator) -> Instrument:
    def draws(low: float, high: float) -> float:
        return float(np.exp(random.uniform(np.log(low), np.log(high))))

    def resonances() -> Sound:
        count = 4
        hertz = np.sort(np.exp(random.uniform(np.log(200.0), np.log(6000.0), count)))
        return np.stack([hertz, random.uniform(0.1, 0.8, count), random.uniform(-6.0, 24.0, count)], axis=1)

    kind = random.choice(["struck", "sustained", "sung", "whistled"], p=[0.3, 0.35, 0.25, 0.1])
    first = resonances()
    moves = kind == "sung" or random.random() < 0.15
    struck = kind == "struck"
    return Instrument(
        stretch=random.choice([1.0, random.uniform(1.0, 1.02), random.uniform(1.02, 1.4)], p=[0.6, 0.2, 0.2])
        if struck
        else 1.0,
        only_odd=bool(random.random() < 0.2),
        tilt=random.uniform(2.0, 4.0) if kind == "whistled" else random.uniform(0.5, 2.0),
        resonances=first,
        moved=resonances() if moves else first,
        decay=(draws(0.7, 8.0), random.uniform(0.0, 0.5)) if struck else (0.0, 0.0),
        attack=draws(0.001, 0.01) if struck else draws(0.01, 0.25),
        release=draws(0.01, 0.3),
        vibrato=(random.uniform(3.5, 8.0), random.choice([0.0, random.uniform(0.02, 0.6)])),
        glide=random.choice([0.0, random.normal(0.0, 0.5), random.normal(0.0, 5.0)], p=[0.6, 0.3, 0.1]),
        jitter=random.choice([0.0, draws(0.005, 0.1)]),
        breath=random.choice([0.0, draws(0.003, 0.5)]),
        modulation=(float(random.choice([0.5, 1.0, 1.5, 2.0, 3.0, random.uniform(0.5, 5.0)])), draws(0.2, 6.0))
        if random.random() < 0.15
        else (1.0, 0.0),
    )


def _line(samples: int, rate: int, random: np.random.Generator) -> tuple[Sound, Sound]:
    """Notes one after another, now and then one over another or a rest between; and their pitch."""
    instrument = _instrument(random)
    total, pitches = np.zeros(samples), np.zeros(samples)
    typical = np.exp(random.uniform(np.log(0.1), np.log(4.0)))  # seconds of a note
    middle = degree = int(random.integers(3, 33))
    root = random.uniform(LOWEST_PITCH, LOWEST_PITCH + 11.0)
    rests = random.choice([0.0, 0.1, 0.3])
    overlap = random.choice([0.0, 0.3]) if instrument.decay[0] else 0.0
    at = 0
    while at < samples:
        length = round(typical * np.exp(random.normal(0.0, 0.5)) * rate) + rate // 50
        degree = int(np.clip(degree + random.integers(-4, 5) + (middle - degree) // 6, 0, 35))
        pitch = min(root + 12 * (degree // 7) + _SCALE[degree % 7], HIGHEST_PITCH)
        end = min(samples, at + length + round(overlap * rate))
        note, course = _note(instrument, pitch, end - at, rate, random)
        total[at:end] += 10 ** (random.uniform(-15.0, 0.0) / 20) * note
        pitches[at:end] = course
        at += length
        if random.random() < rests and at < samples:
            end = min(samples, at + round(min(typical * random.uniform(0.3, 2.0), 1.0) * rate))
            pitches[at:end] = pitches[at - 1]
            at = end
    return total, pitches


def _note(
    instrument: Instrument, pitch: float, samples: int, rate: int, random: np.random.Generator
) -> tuple[Sound, Sound]:
    """A note of RMS about 1 while it sounds, and its MIDI pitch at every sample."""
    time = np.arange(samples) / rate
    speed, depth = instrument.vibrato
    course = pitch + depth * np.sin(2 * np.pi * (speed * time + random.random()))
    course += instrument.glide * np.exp(-time / 0.08)
    if instrument.jitter:
        course += instrument.jitter * _smooth(samples, rate / 30.0, random)
    hertz = 440.0 * 2 ** ((course - 69.0) / 12)
    phase = 2 * np.pi * np.cumsum(hertz) / rate
    ratio, index = instrument.modulation
    numbers = np.arange(1, PARTIALS + 1, 2 if instrument.only_odd else 1, dtype=np.float64)
    if index:
        # Partials of a modulated tone are no harmonics of it: a single one is enough, and the index falls with time.
        bend = index * np.exp(-time * instrument.decay[0]) * np.sin(ratio * phase)
        tone = np.sin(phase + np.minimum(1.0, 0.4 * rate / hertz / (1.0 + index * ratio)) * bend)
    else:
        tone = np.zeros(samples)
        middle = float(np.median(hertz))
        shape = (
            10 ** (_gain(instrument.resonances, middle * numbers**instrument.stretch) / 20) * numbers**-instrument.tilt
        )
        moved = 10 ** (_gain(instrument.moved, middle * numbers**instrument.stretch) / 20) * numbers**-instrument.tilt
        moves = not np.array_equal(shape, moved)
        course_of_moving = time / time[-1] if samples > 1 else time
        highest = 0.45 * rate / float(hertz.max())
        for number, one, other in zip(numbers, shape, moved, strict=True):
            multiple = number**instrument.stretch
            if multiple > highest or max(one, other) < 1e-4 * shape.max():
                continue
            level = one + (other - one) * course_of_moving if moves else one
            first, faster = instrument.decay
            if first:
                level = level * np.exp(-time * first * (1.0 + faster * (number - 1.0)))
            tone += level * np.sin(multiple * phase + random.uniform(0.0, 2 * np.pi))
    if instrument.breath:
        low = min(max(float(np.median(hertz)), 50.0), 0.2 * rate)
        breath = sosfilt(butter(1, [low, min(4.0 * low, 0.45 * rate)], "bandpass", fs=rate, output="sos"),
                         random.standard_normal(samples))  # fmt: skip
        tone = tone / max(float(np.sqrt(np.mean(tone**2))), 1e-6) + instrument.breath * breath
    rise = np.minimum(1.0, time / instrument.attack)
    fall = np.minimum(1.0, (time[-1] - time) / instrument.release)
    tone *= np.sin(0.5 * np.pi * rise) ** 2 * np.sin(0.5 * np.pi * fall) ** 2
    return tone / max(float(np.sqrt(np.mean(tone**2))), 1e-6), course


def _gain(resonances: Sound, hertz: Sound) -> Sound:
    """The gain of a body at frequencies, dB."""
    distance = np.log2(hertz[:, None] / resonances[None, :, 0]) / resonances[None, :, 1]
    return np.sum(resonances[None, :, 2] * np.exp(-0.5 * distance**2), axis=1)


# ---- textures --------------------------------------------------------------------------------------------------------


def _blows(samples: int, rate: int, random: np.random.Generator) -> Sound:
    """Percussion: short noise and falling tones, of a few drums."""
    total = np.zeros(samples)
    drums = []
    for _ in range(random.integers(1, 5)):
        length = round(random.uniform(0.05, 0.6) * rate)
        time = np.arange(length) / rate
        noise = random.standard_normal(length) * np.exp(-time * random.uniform(10.0, 80.0))
        low = np.exp(random.uniform(np.log(60.0), np.log(0.2 * rate)))
        noise = sosfilt(butter(1, [low, min(4 * low, 0.45 * rate)], "bandpass", fs=rate, output="sos"), noise)
        tone = np.exp(random.uniform(np.log(50.0), np.log(1000.0)))
        fall = tone * (1.0 + random.uniform(0.0, 3.0) * np.exp(-time * 30.0))
        sine = np.sin(2 * np.pi * np.cumsum(np.minimum(fall, 0.4 * rate)) / rate) * np.exp(
            -time * random.uniform(5.0, 40.0)
        )
        drums.append(noise / np.abs(noise).max() + random.uniform(0.0, 2.0) * sine)
    beat = random.uniform(0.08, 0.5)
    for at in np.arange(0.0, samples / rate, beat):
        if random.random() < 0.6:
            drum = drums[random.integers(len(drums))] * 10 ** (random.uniform(-20.0, 0.0) / 20)
            start = round((at + random.normal(0.0, 0.005)) * rate) % samples
            end = min(samples, start + len(drum))
            total[start:end] += drum[: end - start]
    return total


def _noise(samples: int, rate: int, random: np.random.Generator) -> Sound:
    """Noise through two to six resonances, swelling and fading: wind, water, crowds."""
    sound = random.standard_normal(samples)
    for _ in range(random.integers(2, 7)):  # one after another: their product would be unstable
        hertz = np.exp(random.uniform(np.log(50.0), np.log(0.45 * rate)))
        radius = np.exp(-np.pi * hertz * random.uniform(0.05, 1.0) / rate)
        sound = lfilter([1.0], [1.0, -2.0 * radius * np.cos(2 * np.pi * hertz / rate), radius**2], sound)
        sound /= max(float(np.sqrt(np.mean(sound**2))), 1e-9)
    return sound * 10 ** (random.uniform(0.0, 10.0) * _smooth(samples, rate * random.uniform(0.1, 1.0), random) / 20)


# ---- the room and the recorder ---------------------------------------------------------------------------------------


def _recorded(sound: Sound, rate: int, random: np.random.Generator, *, dry: bool = False) -> Sound:
    """A sound in a room, through a microphone of its own band, with a floor of noise, at some level."""
    if random.random() < (0.2 if dry else 0.5):
        time = np.arange(round(random.uniform(0.1, 1.0) * rate)) / rate
        room = random.standard_normal(len(time)) * np.exp(-6.9 * time / time[-1])
        wet = fftconvolve(sound, room / np.sqrt(np.sum(room**2)))[: len(sound)]
        sound = sound + random.uniform(0.05, 0.5) * wet
    if random.random() < 0.5:
        highest = np.exp(random.uniform(np.log(0.1 * rate), np.log(0.48 * rate)))
        sound = sosfilt(butter(random.integers(1, 5), highest, "lowpass", fs=rate, output="sos"), sound)
    sound = sosfilt(butter(1, random.uniform(10.0, 80.0), "highpass", fs=rate, output="sos"), sound)
    sound = sound / max(float(np.abs(sound).max()), 1e-9)
    if random.random() < 0.4:  # a limiter, as most recordings have gone through one
        drive = 10 ** (random.uniform(0.0, 18.0) / 20)
        sound = np.tanh(drive * sound) / np.tanh(drive)
    floor = lfilter([1.0], [1.0, -random.uniform(0.0, 0.98)], random.standard_normal(len(sound)))
    sound = sound + 10 ** (random.uniform(-72.0, -40.0) / 20) * floor / float(np.std(floor))
    sound = sound * 10 ** (random.uniform(-14.0, -0.5) / 20) / float(np.abs(sound).max())
    return np.clip(sound, -1.0, 1.0)


def _smooth(samples: int, period: float, random: np.random.Generator) -> Sound:
    """A course of standard deviation about 1 that turns every `period` samples."""
    knots = random.standard_normal(int(samples / period) + 3)
    return np.interp(np.arange(samples) / period, np.arange(len(knots)), knots)


# ---- a corpus --------------------------------------------------------------------------------------------------------


def write_corpus(
    folder: Path | str, *, minutes: float, melodies: float = 0.5, seed: int = 0, sample_rate: int = 16000, jobs: int = 1
) -> int:
    """Write so many minutes of scenes and melodies into `folder`, each 30 s with its controls beside it; how many.

    The controls are `midi`, the MIDI pitch, and `level`, as `analysis.features` measures it. Those of a scene are
    unknown: `UNKNOWN`. A sound does not depend on how many others are made; those that are there already are kept.

    Args:
        melodies: the share of them, 0 to 1.
        jobs: processes.

    Raises:
        UsageError: a value out of range.
    """
    if not 0.0 <= melodies <= 1.0:
        raise UsageError(f"melodies must lie between 0 and 1, not {melodies:g}")
    if not 0.5 <= minutes <= 60_000:
        raise UsageError(f"minutes must lie between 0.5 and 60000, not {minutes:g}")
    if seed < 0:
        raise UsageError(f"seed must be 0 or more, not {seed}")
    if sample_rate < 4000:
        raise UsageError(f"sample_rate must be at least 4000 Hz, not {sample_rate}")
    count = round(minutes * 60.0 / SECONDS)
    work = partial(_write, Path(folder), seed=seed, sample_rate=sample_rate, melodies=melodies)
    return sum(1 for _ in parallel_map(work, range(count), jobs=jobs))


def _write(folder: Path, number: int, *, seed: int, sample_rate: int, melodies: float) -> None:
    # Melodies are spread evenly, so that any beginning of the corpus has its share of them.
    is_melody = math.floor((number + 1) * melodies) > math.floor(number * melodies)
    stem = folder / f"{'melody' if is_melody else 'scene'}_{number:06}"
    controls = stem.with_suffix(".csv")
    if controls.exists():  # the last that is written
        return
    own = seed * 1_000_000 + number
    if is_melody:
        sound, pitch = make_melody(own, seconds=SECONDS, sample_rate=sample_rate)
        level = measure(sound.astype(np.float32), sample_rate, Analysis(features=("level",)))["level"]
        at = np.minimum(np.round(level.times * sample_rate).astype(np.int64), len(pitch) - 1)
        tracks = {"midi": Track("midi", level.times, np.round(pitch[at], 3)), "level": level}
    else:
        sound = make_scene(own, seconds=SECONDS, sample_rate=sample_rate)
        tracks = {name: Track(name, np.zeros(1), np.array([value])) for name, value in UNKNOWN.items()}
    write_wav(stem.with_suffix(".wav"), sound, sample_rate)
    write_controls(controls, tracks)
