"""What page and server say to each other over the WebSocket `/ws`.

From the page, JSON texts of at most `LARGEST_MESSAGE` bytes, so that none keeps the event loop from other pages'
sounds; `values`, `controls` and `points` are in raw units:

    {"type": "start", "random_seed": 7, "temperature": 0.75, "top_k": null, "checkpoint": null, "blend": 0,
     "values": {"pitch": 64, "inst": "reed"}, "controls": {"pitch": [[0, 64], [1.5, 76]]}, "gestures": true}
        start again at sample 0; all fields may be missing. controls: curves, time 0 at the first sample, also of
        temperature and top_k, before values of the same name; gestures: they are played as they are, which gives the
        same samples again; false: averaged where they are finer than the network sees them, as in training. drawn: how
        many points of curves came before, in messages of the next type, which are among controls then.
        -> {"type": "started", "run": 1, "random_seed": 7, "remarks": [...]}
    {"type": "curve", "name": "pitch", "points": [[0, 64], [1.5, 76]]}
        more of a curve of the next start, where all together are too long for one message; `MOST_POINTS` at most. No
        answer.
    {"type": "more", "until": 4096}
        make samples up to this one; nothing is made beyond. No answer but the blocks.
    {"type": "set", "event": 3, "values": {"pitch": 70, "temperature": 1}}
        -> {"type": "set", "event": 3, "sample": 640, "values": {...}, "remarks": [...]}
        sample: the first by which all values have arrived, but for a blend, which moves for up to half a second;
        values: as they are from there on.
    {"type": "take_over", "checkpoint": "model.ckpt-7"}
        go over to another checkpoint while the sound goes on, null: the newest. Answered when it has been read and all
        of the sound is its own, or, where nothing plays, when it has been read.
        -> {"type": "plays", "checkpoint": "model.ckpt-7", "checkpoints": [...], "source": "page"}
        checkpoints: those that there are, as in `Instrument.document`.
    {"type": "record"}
        -> {"type": "csv", "text": "..."} as often as it takes, then
           {"type": "recorded", "csv": "...", "random_seed": 7, "seconds": 2.5, "start": {...}, "remarks": [...]}
        csv: the rest of a text as generate.py --controls takes it, with seed and checkpoint in its first line; start:
        the message that gives the same samples again, with the curves in that text as its controls; remarks: why it
        does not, where weights were exchanged meanwhile.
    {"type": "stop"} -> {"type": "stopped"}

From the server besides:

    a block: `b"TWAV"`, then little-endian uint32 run, first sample (its lower 32 bits), count, and so many float32
    {"type": "pace", "speed": 9.1, "late_blocks": 0}      about once a second; late: took longer to make than it lasts
    {"type": "values", "values": {...}, "source": "osc", "remarks": [...]}
        something else has set these; remarks: of what was outside of the range, once for each name
    {"type": "plays", ..., "source": "watch"}             the server has taken over another checkpoint
    {"type": "asked", "order": "start", "source": "osc"}  something else asks the page to start or to "stop"; it answers
                                                          as if its button had been pressed
    {"type": "error", "to": "set", "message": "..."}      one sentence; what was asked has changed nothing. to: the type
                                                          of the message that it answers, null: of none
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import FailFast, Field

from tierwave.config import StrictModel, validate
from tierwave.errors import UsageError
from tierwave.files.text import parse_json

LARGEST_MESSAGE = 64 << 10  # bytes; read and checked within 0.05 s on a slow core, whatever they hold
MOST_POINTS = 2_000_000  # of a start's curves: half an hour of nine controls, two points a block each
MOST_NAMES = 256  # in one object of a message
LARGEST_SEED = 2**53  # that a browser's numbers hold
BLOCK_HEADER = struct.Struct("<4sIII")

Values = dict[str, float | str]
Points = Annotated[list[tuple[float, float]], Field(min_length=1), FailFast()]
Curves = dict[str, Points]


class Start(StrictModel):
    """Start again at sample 0."""

    type: Literal["start"] = "start"
    random_seed: int | None = Field(None, ge=0, le=LARGEST_SEED)
    temperature: float = Field(0.75, ge=0)
    top_k: int | None = Field(None, ge=0, le=2**31 - 1)
    checkpoint: str | None = None
    blend: float = Field(0.0, ge=0, le=1)
    values: Values = {}
    controls: Curves = {}
    drawn: int = Field(0, ge=0, le=MOST_POINTS)
    gestures: bool = True


class Curve(StrictModel):
    """Points of a curve of the next start."""

    type: Literal["curve"] = "curve"
    name: str = Field(max_length=256)
    points: Points


class More(StrictModel):
    """Make samples up to `until`."""

    type: Literal["more"] = "more"
    until: int = Field(ge=0, le=2**53)


class Set(StrictModel):
    """Change values from now on."""

    type: Literal["set"] = "set"
    event: int = Field(0, ge=0, le=2**53)
    values: Values


class TakeOver(StrictModel):
    """Go over to another checkpoint."""

    type: Literal["take_over"] = "take_over"
    checkpoint: str | None = None


class Record(StrictModel):
    """Send what has been played."""

    type: Literal["record"] = "record"


class Stop(StrictModel):
    """Give the voice back."""

    type: Literal["stop"] = "stop"


Message = Start | Curve | More | Set | TakeOver | Record | Stop
_MESSAGES: dict[str, type[Message]] = {kind.model_fields["type"].default: kind for kind in get_args(Message)}


def parse(text: str | bytes) -> Message:
    """A message from a page. Raises UsageError, one sentence, for whatever is none."""
    document = parse_object(text)
    kind = document.get("type")
    if not isinstance(kind, str) or kind not in _MESSAGES:
        raise UsageError(f"there is no message of the type {_shortened(kind)}: there are {', '.join(_MESSAGES)}")
    return validate(_MESSAGES[kind], document, kind)


def type_of(text: str | bytes) -> str | None:
    """The type of message that a text, however wrong, means to be; None where it has none."""
    try:
        kind = parse_object(text).get("type")
    except UsageError:
        return None
    return kind if isinstance(kind, str) and kind in _MESSAGES else None


def parse_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object of finite numbers. Raises UsageError for anything else, and for one that is too large."""
    if len(text) > LARGEST_MESSAGE:
        raise UsageError(f"a message takes {LARGEST_MESSAGE} bytes at most, and this one has {len(text)}: send less")
    try:
        document = parse_json(text)
    except ValueError as error:
        why = str(error)[:120]
        raise UsageError(f"a message must be a JSON object of finite numbers and texts: this is none ({why})") from None
    if not isinstance(document, dict):
        raise UsageError(f"a message must be a JSON object, and this is {_shortened(document)}")
    for each in (document, *document.values()):  # a check of every name would take too long
        if isinstance(each, dict) and len(each) > MOST_NAMES:
            raise UsageError(f"an object of a message has {MOST_NAMES} names at most, and this one has {len(each)}")
    return document


def pieces(text: str) -> Iterator[str]:
    """A long text in pieces of at most `LARGEST_MESSAGE` characters; at least one."""
    for start in range(0, max(len(text), 1), LARGEST_MESSAGE):
        yield text[start : start + LARGEST_MESSAGE]


def block(run: int, first: int, samples: np.ndarray) -> bytes:
    """Float32 `[samples]` from sample `first` on, as they are sent."""
    header = BLOCK_HEADER.pack(b"TWAV", run & 0xFFFFFFFF, first & 0xFFFFFFFF, len(samples))
    return header + samples.astype("<f4").tobytes()


def _shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
