"""Whether the controls of a whole corpus are in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tierwave.audio.finding import search_audio
from tierwave.audio.recordings import probe
from tierwave.controls.schema import Parameter, Schema, coverage, mismatch
from tierwave.controls.sources import ControlSources, FoundControls
from tierwave.controls.tracks import ROUNDING, Track
from tierwave.errors import AudioError, RunError, UsageError
from tierwave.files.folders import told

FEW_VALUES = 32  # up to so many different values are listed one by one
_TOLERATED_SECONDS = 0.1  # allowed gap between the ends of a track and of its recording, besides a step of a steady one


@dataclass(frozen=True)
class Range:
    """Where a control was found: in how many recordings, from which to which value, and which values, if few."""

    recordings: int = 0
    lowest: float = float("inf")
    highest: float = float("-inf")
    values: frozenset[float] | None = frozenset()

    @staticmethod
    def of(tracks: Sequence[Track]) -> Range:
        """The range of a control, of which these are the tracks."""
        values = np.unique(np.concatenate([track.values for track in tracks])) if tracks else np.zeros(0)
        few = frozenset(values.tolist()) if len(values) <= FEW_VALUES else None
        return Range(len(tracks), float(values[0]), float(values[-1]), few) if tracks else Range()


@dataclass(frozen=True)
class Audit:
    """What `audit` found. faults: what stands in the way of training, one sentence each; remarks: what is worth
    knowing; ranges: by control; recordings: how many there are."""

    recordings: int
    ranges: dict[str, Range]
    faults: tuple[str, ...]
    remarks: tuple[str, ...]


def audit(sources: ControlSources, names: Sequence[str] | None = None) -> Audit:
    """Look through a whole corpus for recordings without controls, broken or contradictory ones, values beyond what
    is declared or mapped, and curves that are not as long as the sound.

    names: what every recording must have; None: the schema's, or else whatever any of them has.
    """
    recordings, left_out = search_audio([sources.data_dir])
    faults: list[str] = []
    remarks = [*sources.remarks, *told(left_out, sources.data_dir)]
    found: dict[str, FoundControls] = {}
    for path in recordings:
        try:
            read = sources.read(path)
            found[read.name] = read
            remarks += [remark for file in read.files for remark in file.remarks]
        except RunError as error:
            faults.append(str(error))
    if names is None:
        everywhere = dict.fromkeys(name for read in found.values() for name in read.names)
        names = list(dict.fromkeys([*sources.schema.names, *everywhere]))
    if recordings and not names:
        faults.append(f"no recording under {sources.data_dir} has any control")
    schema: Schema | None = None
    try:
        schema = sources.declared_schema(found.values(), names)
    except (UsageError, RunError) as error:
        faults.append(str(error))
    tracks: dict[str, list[Track]] = {name: [] for name in names}
    for path in recordings:
        name = sources.name_of(path)
        seconds = None
        try:
            seconds = probe(path).seconds
        except AudioError as error:
            faults.append(str(error))
        for key in names if name in found else []:
            try:
                track = found[name].track(key)
            except RunError as error:
                faults.append(str(error))
                continue
            tracks[key].append(track)
            if seconds is not None:
                faults += _misfits(track, name, seconds)
            if schema is not None:
                faults += _beyond(track, schema.of(key), name)
    ranges = {name: Range.of(tracks[name]) for name in names}
    for key, extent in ranges.items():
        if extent.recordings > 1 and extent.lowest == extent.highest:
            remarks.append(f"{key} is {extent.lowest:g} everywhere, so it cannot steer anything")
        if schema is None:
            continue
        parameter = schema.of(key)
        if parameter.nvals and (extent.values is None or len(extent.values) > parameter.nvals):
            faults.append(f"{key} has more different values than its nvals says, {parameter.nvals}")
        if None in (parameter.lo, parameter.hi) and parameter.categories:  # training then maps all categories
            parameter = parameter.model_copy(update={"lo": 0.0, "hi": len(parameter.categories) - 1.0})
        if None not in (parameter.lo, parameter.hi):
            faults += filter(None, [mismatch(parameter, tracks[key])])
            remarks += coverage(parameter, tracks[key])
    remarks += sources.strays(sources.name_of(path) for path in [*recordings, *(path for path, _ in left_out)])
    return Audit(len(recordings), ranges, tuple(faults), tuple(dict.fromkeys(remarks)))


def _misfits(track: Track, name: str, seconds: float) -> list[str]:
    if len(track.times) == 1:
        return []
    first, last = float(track.times[0]), float(track.times[-1])
    # The last frame of an analysis lies up to a hop before the end.
    steady = len(track.times) > 3 and float(np.diff(track.times).max()) < 1.5 * track.interval
    tolerated = _TOLERATED_SECONDS + (track.interval if steady else 0.0)
    what = f"{track.name} of {name} ({track.source})"
    found = []
    if first > tolerated:
        found.append(f"{what} begins at {first:.2f} s: what comes before has its first value")
    if last < seconds - tolerated:
        found.append(f"{what} ends at {last:.2f} s, and the sound lasts {seconds:.2f} s: the rest has its last value")
    if last > seconds + tolerated or first < -tolerated:
        found.append(f"{what} runs from {first:.2f} to {last:.2f} s, and the sound lasts only {seconds:.2f} s")
    return found


def _beyond(track: Track, parameter: Parameter, name: str) -> list[str]:
    lowest, highest = float(track.values.min()), float(track.values.max())
    slack = ROUNDING * max(abs(lowest), abs(highest))
    limits = {"declared": (parameter.minval, parameter.maxval)}
    if parameter.lo is not None and parameter.hi is not None:
        limits["mapped"] = (min(parameter.lo, parameter.hi), max(parameter.lo, parameter.hi))
    found = []
    for kind, (low, high) in limits.items():
        if (low is not None and lowest < low - slack) or (high is not None and highest > high + slack):
            range_ = " to ".join("any" if end is None else f"{end:g}" for end in (low, high))
            found.append(f"{track.name} of {name} goes from {lowest:g} to {highest:g}, beyond the {kind} {range_}")
    return found
