"""One sound while it is played: started, rendered block by block, steered in between, recorded.

Calls must not overlap; `session` gives every voice a thread of its own.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tierwave.controls.files import ControlFile, take_document
from tierwave.errors import UsageError
from tierwave.generation.load import Trained
from tierwave.play.instrument import BLEND, Instrument
from tierwave.play.morph import Morph, Networks
from tierwave.play.protocol import Start

_NOT_THE_SAME = (
    "Weights were exchanged during this take: a replay keeps those of its beginning, and does not sound the same."
)
REMEMBERED_SECONDS = 3600  # at least, of what was set: a page's longest take is half an hour


@dataclass(frozen=True)
class Change:
    """The effect of `Voice.set`. sample: the first by which the values have arrived; values: raw; remarks: sentences
    by the name of what is clipped."""

    sample: int
    values: dict[str, float]
    remarks: dict[str, str]


class Voice:
    """A stream from its first sample on. curves: what `start` steers by besides its own, `[points, 2]` of seconds and
    value. Raises UsageError and RunError for what cannot be started."""

    def __init__(
        self, instrument: Instrument, start: Start, curves: Mapping[str, np.ndarray] = MappingProxyType({})
    ) -> None:
        self.instrument = instrument
        if start.blend and instrument.other is None:
            raise UsageError(f"blend is {start.blend:g}, and there is no other run: start the server with --blend")
        self.random_seed = secrets.randbelow(2**31) if start.random_seed is None else start.random_seed
        trained = instrument.at(start.checkpoint)
        # Drawn, not only fields of the request: a recording then holds them.
        live: dict[str, float | str] = {"temperature": start.temperature, "top_k": float(start.top_k or 0)}
        own = trained.schema.names
        values = {**{name: value for name, value in live.items() if name not in own}, **start.values}
        controls = instrument.drawn(values, {**curves, **start.controls})
        self.remarks = list(instrument.clipped({name: track.values for name, track in controls.items()}).values())
        request = instrument.request(
            controls,
            temperature=(start.temperature,),
            top_k=start.top_k or None,
            random_seed=self.random_seed,
            averaged=not start.gestures,
        )
        self.checkpoint = trained.path.name
        # The curves are in the stream, and what null means may be another checkpoint later.
        self.start = start.model_copy(update={"controls": {}, "drawn": 0, "checkpoint": self.checkpoint})
        self.made = 0  # samples
        self._forget_at = 2 * REMEMBERED_SECONDS  # seconds
        other = None if instrument.other is None else instrument.other.models
        self.morph = Morph(trained.models, other, start.blend)
        self._stream: Any = replace(trained, models=list(self.morph.networks)).stream(request)

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return int(self._stream.sample_rate)

    @property
    def pace(self) -> Any:
        """How fast it is made (`tierwave.generation.request.Pace`)."""
        return self._stream.pace

    def render(self, samples: int) -> np.ndarray:
        """The next samples, float32 `[samples]`."""
        sound: np.ndarray = self._stream.render(samples)[0]
        self.made += samples
        if self.made >= self._forget_at * self.sample_rate:
            self._stream.live.forget(self.made - REMEMBERED_SECONDS * self.sample_rate)
            self._forget_at += REMEMBERED_SECONDS
        return sound

    def current(self) -> dict[str, float]:
        """The values of all controls, temperature, top-k and blend, raw: those set last, or drawn for the last sample
        made."""
        found: dict[str, float] = self._stream.live.current()
        return found if self.morph.other is None else {**found, BLEND: self.morph.share}

    def take_over(self, trained: Trained) -> None:
        """Let `morph` go to the weights of another checkpoint; from any thread."""
        self.checkpoint = trained.path.name
        self.morph.aim(base=trained.models)

    def replace(self, networks: Networks) -> None:
        """Go on with these networks."""
        self._stream.replace(networks)

    def set(self, values: dict[str, float | str]) -> Change:
        """Change values by name. Raises UsageError, and then nothing is changed."""
        meant = {name: self.instrument.allowed(name, value) for name, value in values.items()}
        streamed = dict(meant)
        share = None if self.morph.other is None else streamed.pop(BLEND, None)
        arrived = self._stream.set(**streamed)
        if share is not None:
            self.morph.aim(share=share)
        current = self.current()
        applied = {name: current[name] for name in meant}
        sample = math.ceil(arrived * self.sample_rate - 1e-6)
        return Change(sample, applied, self.instrument.clipped({name: [value] for name, value in meant.items()}))

    def record(self) -> dict[str, Any]:
        """What was played, as text and as the message that starts it again, but for the curves, which the text holds.

        Raises UsageError for what has played so long that its beginning is forgotten.
        """
        seconds = self.made / self.sample_rate
        about = {
            "random_seed": self.random_seed,
            "seconds": seconds,
            "checkpoint": self.start.checkpoint,
            "temperature": self.start.temperature,  # also that of tiers that no track steers
            "top_k": self.start.top_k,
        }
        averaged = not self.start.gestures
        take = take_document(self._stream.record(), self.sample_rate, averaged=averaged, about=about)
        start = self.start.model_dump(include={"type", "temperature", "top_k", "checkpoint", "blend", "gestures"})
        return {
            "csv": ControlFile(Path("take.csv"), take).csv_text(),
            "random_seed": self.random_seed,
            "seconds": seconds,
            "start": {**start, "random_seed": self.random_seed},
            "remarks": [_NOT_THE_SAME] if self.morph.has_moved else [],
        }
