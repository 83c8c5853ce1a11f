"""The melody that a network of the made-up corpus is asked for: whether the corpus's own tones are in tune by it."""

from __future__ import annotations

import numpy as np

from tierwave.analysis.control_accuracy import measure_controls
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Track
from tierwave.data.demo import INSTRUMENTS, make_tone
from tierwave.evaluation.hearing import LOUDNESS, NOTE_SECONDS, Heard, Piece, plays_melodies

RATE = 16000
SCHEMA = Schema(
    parameters=(
        Parameter(name="inst", categories=INSTRUMENTS),
        Parameter(name="midi", units="midiPitch", lo=0, hi=128),
        Parameter(name="level", units="dB", lo=-100, hi=0),
    )
)


def test_which_notes_are_in_tune() -> None:
    asked, played = (64, 69, 72, 76), (64, 69.25, 72.5, None)
    tones = [
        np.zeros(round(NOTE_SECONDS * RATE)) if note is None
        else make_tone(1, note, LOUDNESS, sample_rate=RATE, seconds=NOTE_SECONDS)
        for note in played
    ]  # fmt: skip
    sound = np.concatenate(tones)
    edges = np.repeat(np.arange(5) * NOTE_SECONDS, 2)[1:-1]
    controls = {"midi": Track("midi", edges, np.repeat(np.array(asked, float), 2))}
    heard = Heard(Piece("bowed", controls, 2.4, asked), sound, measure_controls(sound, RATE, controls, SCHEMA))
    assert heard.in_tune == [True, True, False, False]
    assert heard.words.startswith("2 of 4 notes in tune; midi ")


def test_who_plays_melodies() -> None:
    assert plays_melodies(SCHEMA)
    assert not plays_melodies(SCHEMA.select(["midi", "level"]))
