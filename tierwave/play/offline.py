"""Sounds and curves made whole, as generate.py makes them."""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from tierwave.config import StrictModel
from tierwave.controls.files import ControlFile, document_of
from tierwave.controls.tracks import Controls
from tierwave.errors import RunError
from tierwave.generation.prompt import refuse_foreign
from tierwave.generation.request import write_sounds
from tierwave.play.instrument import TEMPERATURE, Instrument
from tierwave.play.protocol import LARGEST_SEED, Curves, Values

LONGEST_SECONDS = 600.0


class Order(StrictModel):
    """What to make: fields named as flags of generate.py; values and controls as in `protocol.Start`."""

    checkpoint: str | None = None
    seconds: float = Field(3.0, gt=0, le=LONGEST_SECONDS)
    temperature: float = Field(TEMPERATURE, ge=0)
    top_k: int | None = Field(None, ge=0, le=2**31 - 1)
    top_p: float | None = Field(None, gt=0, le=1)
    random_seed: int | None = Field(None, ge=0, le=LARGEST_SEED)
    values: Values = {}
    controls: Curves = {}
    gestures: bool = True
    text: str | None = Field(None, max_length=2000)
    bias: float = Field(0.0, ge=0)
    inversion: Literal["gradient", "griffin_lim"] = "griffin_lim"


class Stopped(Exception):
    """The client has gone, or the server ends."""


@dataclass(frozen=True)
class Made:
    """What was made. wav: the file's bytes, None of a run that makes curves; curves: by tier; remarks: sentences."""

    random_seed: int
    checkpoint: str
    speed: float
    wav: bytes | None = None
    curves: Mapping[str, Controls] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """The curves as JSON: points, and the text of a CSV for each tier."""
        return {
            "random_seed": self.random_seed,
            "checkpoint": self.checkpoint,
            "remarks": list(self.remarks),
            "curves": {
                tier: {
                    name: [list(point) for point in zip(track.times.tolist(), track.values.tolist(), strict=True)]
                    for name, track in controls.items()
                }
                for tier, controls in self.curves.items()
            },
            "csv": {
                tier: ControlFile(Path(f"{tier}.csv"), document_of(controls)).csv_text()
                for tier, controls in self.curves.items()
            },
        }


def make(instrument: Instrument, order: Order, stopped: threading.Event) -> Made:
    """Make it. Raises UsageError and RunError for what cannot be made, Stopped soon after `stopped` is set."""

    def go_on(*_: Any) -> None:
        if stopped.is_set():
            raise Stopped

    go_on()
    trained = instrument.at(order.checkpoint)
    random_seed = secrets.randbelow(2**31) if order.random_seed is None else order.random_seed
    options = {name: value for name in ("text", "bias") if (value := getattr(order, name))}
    if instrument.kind == "spectrogram":
        options["inversion"] = order.inversion
    controls = instrument.drawn(order.values, order.controls)
    request = instrument.request(
        controls,
        seconds=order.seconds,
        temperature=(order.temperature,),
        top_k=order.top_k or None,
        top_p=order.top_p,
        random_seed=random_seed,
        averaged=not order.gestures,
        options=options,
    )
    refuse_foreign(trained, request)
    remarks = tuple(instrument.clipped({name: track.values for name, track in controls.items()}).values())
    stream = trained.stream(request)
    if instrument.kind == "spectrogram":  # which has no blocks to stop between
        stream.progress = go_on
        if not all(np.isfinite(stage).all() for stage in stream.stages().values()):
            raise RunError(
                f"{trained.path.name} makes values that are no numbers, its training has failed: take another one"
            )
    checkpoint = trained.path.name
    if not stream.makes_audio:
        return Made(random_seed, checkpoint, 0.0, curves=stream.curves(order.seconds), remarks=remarks)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.wav"
        speed, _ = write_sounds(stream, [path], stream.duration(), progress=go_on)
        return Made(random_seed, checkpoint, speed, path.read_bytes(), remarks=remarks)
