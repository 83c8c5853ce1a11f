"""The run that is played: its networks, the values they take, and how many voices this machine carries."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tierwave.config import difference
from tierwave.controls.live import LIVE_NAMES
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Controls, Track
from tierwave.engine.network import Network
from tierwave.errors import RunError, UsageError
from tierwave.generation.load import Trained, Weights, load_run
from tierwave.generation.request import Request
from tierwave.runs.diagnostics import verdict
from tierwave.runs.folder import Run
from tierwave.runs.history import read_history
from tierwave.system.cores import usable_cores

BLOCK = 256  # samples that are made at a time, between which something is set
TEMPERATURE = 0.75

BLEND = "blend"  # what is set live besides, where there is another run

_UNPLAYABLE = {"self", "position", "voice"}  # other arguments of a stream's `set`

_KEPT = 4  # checkpoints whose networks stay loaded
_SHARE = 0.7  # of the machine's speed for voices; the rest is the browser's
_TRIED_SECONDS = 0.2  # duration of a measurement of speed, of which a start waits for two
_LEAD_SECONDS = 0.08  # sound that the page buffers

Kind = Literal["steered", "sound", "values", "spectrogram"]


class Instrument:
    """A run made ready to be played. other: a run to blend with it, of the same architecture and controls; arguments
    and errors besides as `load_run`.

    trained: the run as it was opened; current: with the checkpoints that new voices play.
    """

    def __init__(self, path: Path, *, best: bool = False, weights: Weights = "auto", other: Path | None = None) -> None:
        self.best = best
        self.trained = self.current = load_run(path, best=best, weights=weights)
        # Of one kind for all checkpoints: what fits the machine's speed, and can be taken over from one another.
        kinds = tuple(each.kind for each in self.trained.models if isinstance(each, Network))
        self._weights = kinds or weights
        self.other: Trained | None = None
        if other is not None:
            self.refuse_fixed("--blend")
            self.other = load_run(other, weights=self._weights)
            if differing := _differences(self.trained, self.other):
                raise UsageError(
                    f"--blend {other} and {path} have no blend, since they differ ({'; '.join(differing)}): give a run "
                    "with the config and the controls of this one"
                )
        self._loaded: OrderedDict[str, Trained] = OrderedDict()
        self._loading = threading.Lock()
        self.speed = 0.0  # seconds of sound per second of work, one voice
        self.speed_of_all = 0.0  # of as many voices at once as there are cores

    @cached_property
    def schema(self) -> Schema:
        """The controls that a player steers."""
        return self.trained.schema.select(self.trained.family.steerable(self.trained.config))

    @cached_property
    def kind(self) -> Kind:
        """What it does: streams sound that is steered, or is not; or makes curves, or spectrograms, whole."""
        if "inversion" not in self.trained.family.foreign_requests:
            return "spectrogram"
        if not self.trained.stream(self.request()).makes_audio:
            return "values"
        return "steered" if self.schema.names else "sound"

    @cached_property
    def live_parameters(self) -> tuple[Parameter, ...]:
        """The controls, and the blend if there is another run: what is set live besides temperature and top-k."""
        return (*self.schema.parameters, *([] if self.other is None else [Parameter(name=BLEND)]))

    @property
    def is_live(self) -> bool:
        """Whether it makes sound while it is steered."""
        return self.kind in ("steered", "sound")

    @property
    def takes_over(self) -> bool:
        """Whether voices that play can go over to other weights."""
        return self.is_live and isinstance(self.trained.models[-1], Network)

    def refuse_fixed(self, asked: str) -> None:
        """UsageError where the weights of voices cannot be exchanged while they play. asked: what needs that."""
        if not self.is_live:
            raise UsageError(f"{asked} is for voices that play, and this run makes {self.kind}, whole: leave it out")
        if not self.takes_over:
            raise UsageError(
                f"{asked} exchanges weights while the sound goes on, and TensorFlow's cannot be exchanged: choose "
                "other --weights"
            )

    # ---- values ----------------------------------------------------------------------------------------------------

    def initial(self, parameter: Parameter) -> float:
        """The first value of a control: the middle one of those that it was trained on, which unlike the middle of its
        range is one at which there is something to hear."""
        low, high = sorted(parameter.span)
        known = sorted(self.trained.values.get(parameter.name) or [(low + high) / 2])
        return min(max(known[len(known) // 2], low), high)

    def request(self, controls: Controls | None = None, **fields: Any) -> Request:
        """A request in which controls that `controls` does not draw have their first values."""
        first = {each.name: Track.constant(each.name, self.initial(each)) for each in self.schema.parameters}
        return Request(controls=({**first, **(controls or {})},), **fields)

    def drawn(self, values: Mapping[str, float | str], curves: Mapping[str, npt.ArrayLike]) -> Controls:
        """Tracks of constant `values`, by number or name of a category, and of `curves`, `[points, 2]` of seconds and
        value, which win. Raises UsageError and RunError for what cannot be."""
        tracks = {name: Track.constant(name, self.allowed(name, value)) for name, value in values.items()}
        for name, points in curves.items():
            times, drawn = np.asarray(points, np.float64).T
            track = Track(name, times, drawn, "the curve")
            for value in np.unique(drawn).tolist() if self._is_category(name) else drawn[:1].tolist():
                self.allowed(name, value)
            tracks[name] = track
        return tracks

    def _is_category(self, name: str) -> bool:
        return name in self.trained.schema.names and self.trained.schema.of(name).is_category

    def allowed(self, name: str, value: float | str) -> float:
        """The raw value that is meant. Raises UsageError for a name or a category that there is not."""
        if name in LIVE_NAMES and name not in self.trained.schema.names:
            return Parameter(name=name).number(value)
        if name == BLEND and self.other is not None:
            share = Parameter(name=name).number(value)
            if not 0 <= share <= 1:
                raise UsageError(f"{name} is {share:g}, and it must lie in 0 to 1")
            return share
        parameter = self.trained.schema.of(name)
        number = parameter.number(value)
        parameter.refuse_unseen(number, self.trained.values.get(name))
        return number

    def clipped(self, values: Mapping[str, npt.ArrayLike]) -> dict[str, str]:
        """A sentence for each name some of whose `values` lie outside the trained range and are clipped."""
        remarks = {}
        for name, given in values.items():
            if name not in self.trained.schema.names:
                continue
            parameter = self.trained.schema.of(name)
            low, high = sorted(parameter.span)
            lowest, highest = float(np.min(given)), float(np.max(given))
            worst = lowest if low - lowest > highest - high else highest
            if parameter.outside == "clip" and not low <= worst <= high:
                unit = f" {parameter.units}" if parameter.units else ""
                remarks[name] = f"{name}: {worst:g} lies outside the trained range {low:g} to {high:g}{unit}: clipped."
        return remarks

    # ---- its checkpoints -------------------------------------------------------------------------------------------

    def _part(self) -> Run:
        stages = self.trained.family.stages(self.trained.config)
        return self.trained.run.stage(stages[-1] if len(stages) > 1 else None)

    def newest_checkpoints(self) -> dict[str, Path]:
        """The paths of the newest checkpoints by stage, or of the best ones if those were asked for. Raises RunError
        where there is none."""
        stages = self.trained.family.stages(self.trained.config)
        parts = {stage: self.trained.run.stage(stage if len(stages) > 1 else None) for stage in stages}
        return {
            stage: part.folder / (part.best() if self.best else part.latest()).name for stage, part in parts.items()
        }

    def newest(self) -> Trained:
        """The run with the newest checkpoints of all its stages (see `newest_checkpoints`), made ready. Raises
        UsageError and RunError for what cannot be read."""
        there = self.newest_checkpoints()
        if there == self.current.checkpoints:
            return self.current
        last = list(there.values())[-1]
        with self._loading:
            known = self._loaded.get(last.name)
            return known if known is not None and known.checkpoints == there else self._load(last)

    def at(self, checkpoint: str | None) -> Trained:
        """The run with the weights of another checkpoint of its last stage, made ready; None: the current ones.
        Raises UsageError for one that there is not, RunError for one that cannot be read."""
        if checkpoint is None or checkpoint == self.current.path.name:
            return self.current
        if checkpoint == self.trained.path.name:
            return self.trained
        with self._loading:
            if checkpoint not in self._loaded:
                part = self._part()
                there = [entry.name for entry in part.checkpoints]
                if checkpoint not in there:
                    raise UsageError(f"there is no checkpoint {checkpoint[:60]!r}: there are {', '.join(there)}")
                self._load(part.folder / checkpoint)
            self._loaded.move_to_end(checkpoint)
            return self._loaded[checkpoint]

    def _load(self, checkpoint: Path) -> Trained:
        trained = load_run(checkpoint, best=self.best, weights=self._weights)
        if self.takes_over and (differing := _differences(self.trained, trained)):
            raise RunError(
                f"{checkpoint} does not fit what plays ({'; '.join(differing)}), since the config of its run has been "
                "changed: start the server again"
            )
        if self.is_live:
            self._compile(trained)
        self._loaded[checkpoint.name] = trained
        while len(self._loaded) > _KEPT:
            self._loaded.popitem(last=False)
        return trained

    def _compile(self, trained: Trained) -> None:
        for top_k in (None, 1):  # both loops that a player may come to need
            trained.stream(self.request(top_k=top_k)).render(BLOCK)

    # ---- its speed -------------------------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Compile what plays, and measure how fast that is, alone and on all cores; nothing where nothing is live.
        Raises UsageError where a control cannot be played."""
        if not self.is_live:
            return
        unplayable = _UNPLAYABLE if self.other is None else {*_UNPLAYABLE, BLEND}
        for name in sorted(unplayable.intersection(self.schema.names)):
            raise UsageError(
                f"a control of this run is named {name}, which cannot be set while it plays: rename it and train "
                "again, or make sounds with generate.py"
            )
        self._compile(self.trained)
        self.speed = self._measured(1)
        cores = usable_cores()
        self.speed_of_all = self._measured(cores) if cores > 1 else self.speed

    def _measured(self, voices: int) -> float:
        """Seconds of sound per second, of all voices together, in the quicker blocks: others may be using the machine
        just now."""
        streams = [self.trained.stream(self.request(random_seed=seed)) for seed in range(voices)]
        until = time.perf_counter() + _TRIED_SECONDS

        def play(stream: Any) -> list[float]:
            took: list[float] = []
            while not took or time.perf_counter() < until:
                started = time.perf_counter()
                stream.render(BLOCK)
                took.append(time.perf_counter() - started)
            return took

        with ThreadPoolExecutor(voices) as threads:
            blocks = [seconds for took in threads.map(play, streams) for seconds in took]
        return voices * BLOCK / self.trained.sample_rate / float(np.quantile(blocks, 0.25))

    @property
    def voices(self) -> int:
        """How many voices this machine carries in real time, at least one; see `warm_up`."""
        return max(1, int(self.speed_of_all * _SHARE))

    @property
    def warning(self) -> str | None:
        """A sentence where not even one voice is made in real time."""
        if not self.is_live or self.speed >= 1.0 / _SHARE:
            return None
        return (
            f"This network makes {self.speed:.2f} s of sound per second on this machine, too slow to play without "
            "gaps: generate sounds instead, or train a smaller one."
        )

    @property
    def verdict(self) -> str:
        """What was learned, in a sentence; "" where that is not known, and where the sound follows controls, which says
        more."""
        if self.schema.names:
            return ""
        try:
            history = read_history(self._part())
        except RunError:  # a damaged table of losses is no reason not to play
            return ""
        return verdict(*history.scaled("bits"), "bits") if history.in_bits else ""

    # ---- as a document ---------------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """All that a page needs to know, as JSON; see `app`."""
        trained = self.trained
        product = trained.family.product(trained.config, trained.family.stages(trained.config)[-1])
        levels = product.quantizer.levels if product.quantizer is not None else None
        foreign = set(trained.family.foreign_requests)
        if self.kind == "values":  # numbers, of which no k are the likeliest
            foreign |= {"top_k", "top_p"}
        return {
            "id": _id(trained),
            "family": trained.config.model,
            "kind": self.kind,
            "sample_rate": trained.sample_rate,
            "rate": trained.sample_rate if product.rate is None else product.rate,
            "block": BLOCK,
            "lead_seconds": _LEAD_SECONDS,
            "parameters": [self._parameter(each) for each in self.schema.parameters],
            "temperature": {"initial": TEMPERATURE},
            "top_k": {"initial": 0, "high": None if "top_k" in foreign else levels},
            "checkpoints": self.checkpoints(),
            "checkpoint": self.current.path.name,
            "takes_over": ("best" if self.best else "newest") if self.takes_over else None,
            "blend": None if self.other is None else {"initial": 0.0, "other": _titled(self.other)},
            "stages": trained.family.stages(trained.config),
            "reads_text": trained.family.reads_text(trained.config),
            "takes": [name for name in ("top_k", "top_p", "bias", "text") if name not in foreign],
            "speed": self.speed or None,
            "warning": self.warning,
            "verdict": self.verdict,
        }

    def _parameter(self, parameter: Parameter) -> dict[str, Any]:
        low, high = sorted(parameter.span)
        return {
            "name": parameter.name,
            "units": parameter.units,
            "low": low,
            "high": high,
            "scale": parameter.scale,
            "interp": parameter.interp,
            "outside": parameter.outside,
            "category": parameter.is_category,
            "categories": list(parameter.categories),
            "values": self.trained.values.get(parameter.name, []),
            "initial": self.initial(parameter),
        }

    def checkpoints(self) -> list[dict[str, Any]]:
        """Those of the last stage that there are, as JSON."""
        entries = self._part().checkpoints
        best = next((entry.name for entry in reversed(entries) if entry.best), None)
        return [
            {
                "name": entry.name,
                "epoch": entry.epoch,
                "step": entry.step,
                "value": entry.value,
                "best": entry.name == best,
                "label": f"epoch {entry.epoch}, step {entry.step}" + (", best" if entry.name == best else ""),
            }
            for entry in entries
        ]


def _id(trained: Trained) -> str:
    return str(trained.run.read("run.json").get("id", trained.run.folder.parent.name))


def _titled(trained: Trained) -> str:
    return f"{_id(trained)}, {trained.path.name}"


def _differences(ours: Trained, theirs: Trained) -> list[str]:
    """What keeps two runs from being blended, a line for each; none where they can be."""
    found = difference({"model": ours.config.model}, {"model": theirs.config.model})
    found = found or difference(_essence(ours), _essence(theirs))
    pairs = zip(ours.models, theirs.models, strict=False)
    if not found and not all(one.fits(other) for one, other in pairs):  # what no weights are needed for
        plain = (each.config.model_dump(mode="json", exclude={"training"}) for each in (ours, theirs))
        found = difference(*plain) or ["the networks"]
    return found


def _essence(trained: Trained) -> dict[str, Any]:
    """What runs that are blended have in common: which networks they are of, and what goes in and comes out."""
    family, config = trained.family, trained.config
    parameters = {each["name"]: each for each in trained.schema.to_document()}
    declared = ("name", "minval", "maxval", "nvals")  # what maps no value
    return {
        "sample_rate": trained.sample_rate,
        "stages": {
            stage: {**family.architecture(config, stage), **asdict(family.product(config, stage))}
            for stage in family.stages(config)
        },
        "controls": {
            name: {key: value for key, value in each.items() if key not in declared}
            for name, each in parameters.items()
        },
    }
