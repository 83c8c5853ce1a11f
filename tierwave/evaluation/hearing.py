"""What a steered network plays to be heard, and how near that is to what it was asked for.

A network of the made-up corpus plays a melody on each of its instruments; another one plays the gesture of recordings
that were held out from its training: their controls, one stretch after another. Beside it stands a free-running sound,
whose controls are held still, so all that moves in it is the network's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tierwave.analysis.control_accuracy import ControlAccuracy, measure_controls
from tierwave.analysis.features import Analysis, measure
from tierwave.controls.schema import Schema
from tierwave.controls.tracks import Controls, Track, shifted
from tierwave.data.demo import INSTRUMENTS, make_tone
from tierwave.errors import RunError, UsageError
from tierwave.generation.load import Trained, seed_audio, seed_controls
from tierwave.generation.request import Request

MELODY = (64, 67, 69, 72, 76, 74, 71, 67)  # MIDI pitches
NOTE_SECONDS = 0.6
LOUDNESS = 0.5  # of the melody's notes, as the corpus has it
TONES = ("inst", "midi", "level")  # the controls by which a network plays melodies
IN_TUNE_CENTS = 30.0
MOST_SECONDS = 8.0  # of a gesture
PRIME_SECONDS = 0.5  # of the recording, from which its gesture goes on: recordings do not begin in silence
TRAINED = "trained_gesture"  # the name of a gesture that was not held out
_SILENT = 1e-3  # the peak of a recording in which there is nothing to follow
_EDGE_SECONDS = 0.05  # at either end of a note, where windows hang over its neighbours


@dataclass(frozen=True, eq=False)
class Piece:
    """Something to play. name: of its file; notes: MIDI pitches of equal length, of a melody; recording: the sound
    `[samples]` whose gesture it is; before: the sound `[samples]` and controls that all pieces go on from."""

    name: str
    controls: Controls
    seconds: float
    notes: tuple[int, ...] = ()
    recording: np.ndarray | None = None
    before: tuple[np.ndarray, Controls] | None = None


@dataclass(frozen=True, eq=False)
class Heard:
    """A piece that was played: float32 `[samples]`, and its controls measured in it."""

    piece: Piece
    sound: np.ndarray
    accuracies: dict[str, ControlAccuracy]

    @property
    def in_tune(self) -> list[bool]:
        """For each note of a melody, whether half of it or more is voiced, and that within 30 cents by the median."""
        return [] if not self.piece.notes else _in_tune(self.accuracies["midi"], self.piece.notes)

    @property
    def words(self) -> str:
        """How near it is to what was asked for, in one line."""
        said = []
        if self.piece.notes:
            said.append(f"{sum(self.in_tune)} of {len(self.piece.notes)} notes in tune")
        for name, each in self.accuracies.items():
            correlation = "" if each.correlation is None else f", correlation {each.correlation:.2f}"
            said.append(f"{name} {each.words}{correlation}")
        return "; ".join(said)


def play(trained: Trained, pieces: Sequence[Piece], *, temperature: float = 1.0, random_seed: int = 0) -> list[Heard]:
    """Play all pieces side by side and measure them."""
    before = pieces[0].before
    request = Request(
        sequences=len(pieces),
        seconds=max(piece.seconds for piece in pieces),
        temperature=(temperature,),
        random_seed=random_seed,
        controls=tuple(piece.controls for piece in pieces),
        seed_audio=None if before is None else before[0],
        seed_controls=None if before is None else before[1],
    )
    heard = []
    for piece, sound in zip(pieces, trained.generate(request), strict=True):
        sound = sound[: round(piece.seconds * trained.sample_rate)]
        heard.append(Heard(piece, sound, measure_controls(sound, trained.sample_rate, piece.controls, trained.schema)))
    return heard


def pieces_of(trained: Trained) -> list[Piece]:
    """What a network can be asked to play. Raises UsageError where nothing steers it, and RunError where its recordings
    are gone."""
    if not trained.schema.names:
        raise UsageError(
            f"{trained.run.folder} was trained without controls, so there is nothing to ask it for: generate.py makes "
            "its sound, and train.py --follow trains a network that follows loudness and pitch"
        )
    pieces = melodies(trained) if plays_melodies(trained.schema) else [held_out_gesture(trained)]
    return [*pieces, free_running(trained, pieces[0].seconds)]


# ---- a melody --------------------------------------------------------------------------------------------------------


def plays_melodies(schema: Schema) -> bool:
    """Whether a network plays the instruments of the made-up corpus, by pitch and level."""
    return set(schema.names) == set(TONES) and schema.of("inst").categories == INSTRUMENTS


def melodies(trained: Trained) -> list[Piece]:
    """The melody on each instrument, its level as it would be measured on the corpus's tones."""
    edges = np.repeat(np.arange(len(MELODY) + 1) * NOTE_SECONDS, 2)[1:-1]
    pitch = Track("midi", edges, np.repeat(np.array(MELODY, np.float64), 2))
    pieces = []
    for number, name in enumerate(INSTRUMENTS):
        tones = [
            make_tone(number, note, LOUDNESS, sample_rate=trained.sample_rate, seconds=NOTE_SECONDS) for note in MELODY
        ]
        level = measure(np.concatenate(tones), trained.sample_rate, Analysis(("level",)))["level"]
        controls = {"inst": Track.constant("inst", number), "midi": pitch, "level": level}
        pieces.append(Piece(name, controls, len(MELODY) * NOTE_SECONDS, MELODY))
    return pieces


def _in_tune(pitch: ControlAccuracy, notes: Sequence[int]) -> list[bool]:
    found = []
    for number, note in enumerate(notes):
        begin, end = number * NOTE_SECONDS + _EDGE_SECONDS, (number + 1) * NOTE_SECONDS - _EDGE_SECONDS
        measured = pitch.measured[(pitch.times >= begin) & (pitch.times <= end)]
        voiced = measured[np.isfinite(measured)]
        found.append(
            2 * len(voiced) >= len(measured) > 0 and bool(abs(np.median(voiced) - note) <= IN_TUNE_CENTS / 100.0)
        )
    return found


# ---- a gesture -------------------------------------------------------------------------------------------------------


def held_out_gesture(trained: Trained) -> Piece:
    """The controls of what was held out from training, one stretch after another, and its sound; where all of that is
    silent, as it may be of a short recording, those of what was trained on. RunError where nothing was held out, or a
    recording is not where it was."""
    split = trained.run.read("split.json")
    folder = trained.run.read("run.json").get("data_dir")
    if not split["valid"] or folder is None:
        raise RunError(
            f"{trained.run.folder} has held nothing out, so there is no gesture to play: train with --val_frac"
        )
    piece = _gesture(trained, "gesture", split["valid"], Path(folder))
    if piece.recording is not None and np.abs(piece.recording).max() < _SILENT:
        return _gesture(trained, TRAINED, split["train"], Path(folder))
    return piece


def _gesture(trained: Trained, title: str, spans: Sequence[tuple[str, int, int]], root: Path) -> Piece:
    """The first seconds of spans (recording, first sample, end), one after another."""
    rate, at = trained.sample_rate, 0.0
    parts: list[Controls] = []
    sounds = []
    for name, start, stop in spans:
        stop = min(stop, start + round((MOST_SECONDS - at) * rate))
        if stop <= start:
            break
        path = root if root.is_file() else root / name
        if not path.is_file():
            raise RunError(f"the recording {path}, of the training, is not there any more: put it back")
        own = seed_controls(trained, path, 0) or {}
        missing = [each for each in trained.schema.names if each not in own]
        if missing:
            raise RunError(f"{path} has no {' and no '.join(missing)} any more: put back what held it in training")
        begin, end = start / rate, stop / rate
        cut = {key: own[key].between(begin, end, trained.schema.of(key).interp) for key in trained.schema.names}
        parts.append(shifted(cut, begin - at))
        sounds.append(seed_audio(trained, path)[start:stop])
        at += end - begin
    joined = {
        name: Track(
            name,
            np.concatenate([part[name].times for part in parts]),
            np.concatenate([part[name].values for part in parts]),
        )
        for name in trained.schema.names
    }
    sound = np.concatenate(sounds)
    prime = min(PRIME_SECONDS, at / 2)
    rest = {name: track.between(prime, at, trained.schema.of(name).interp) for name, track in joined.items()}
    first = round(prime * rate)
    return Piece(title, shifted(rest, prime), at - prime, recording=sound[first:], before=(sound[:first], joined))


def free_running(trained: Trained, seconds: float) -> Piece:
    """A sound whose controls stay at the middle of the values they were trained on."""
    still = {}
    for name in trained.schema.names:
        values = trained.values.get(name) or list(trained.schema.of(name).span)
        still[name] = Track.constant(name, sorted(values)[len(values) // 2])
    return Piece("free", still, seconds)
