"""How near all generated sounds together are to the controls that were requested, as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tierwave.analysis.control_accuracy import (
    Aspect,
    ControlAccuracy,
    Floats,
    changes,
    correlations,
    floored,
    median,
    percent,
    with_unit,
)
from tierwave.analysis.control_scenarios import Scenario

_MOSTLY_VOICED = 0.95  # above which a summary does not speak of it


@dataclass(frozen=True, eq=False)
class Result:
    """How near the sound of a scenario is to its request, by control."""

    scenario: Scenario
    accuracies: Mapping[str, ControlAccuracy]


@dataclass(frozen=True)
class Row:
    """One control over all sounds of one kind; the kind "held" is those in which another control was varied.

    sounds: how many; compared: in how many of them there was anything to compare.
    in_tune: pitch: how many are voiced for half of the time and within 50 cents; None for what is no pitch.
    octave_off: pitch: how many are an octave off for most of the time.
    error, error_p90: median and 90th percentile over the sounds of each sound's median absolute error; loudness that is
        not absolute has one offset for all sounds of a group, so that sounds at different levels count as such, and no
        error in a group in which all requests are the same.
    voiced: pitch: the share of the frames that are voiced, and compared; median of the sounds.
    octaves: brightness: the same in octaves, median.
    rank_correlation, correlation: sweeps: over time, median of the sounds. Constant requests: over the sounds of a
        group, of the median each of them has; median of the groups, None for fewer than three different requests.
    """

    parameter: str
    aspect: Aspect
    kind: str
    sounds: int
    compared: int
    in_tune: int | None
    octave_off: int | None
    error: float | None
    error_p90: float | None
    octaves: float | None
    rank_correlation: float | None
    correlation: float | None
    voiced: float | None = None


@dataclass(frozen=True, eq=False)
class ControlSummary:
    """How near all sounds are to their requests: the rows of a table, and the results they are from."""

    rows: tuple[Row, ...]
    results: tuple[Result, ...]

    @property
    def missed(self) -> list[str]:
        """The sounds with a varied pitch that are not in tune, each with what was measured instead."""
        varied = [(each.scenario, each.accuracies.get(each.scenario.parameter)) for each in self.results]
        return [
            f"{scenario.name}: {accuracy.words}"
            for scenario, accuracy in varied
            if accuracy is not None and accuracy.aspect.sound == "pitch" and not accuracy.in_tune
        ]

    def table(self) -> str:
        """As lines of text."""
        head = ["parameter", "request", "sounds", "in tune", "error", "90 %", "rank corr.", "lin. corr."]
        lines = [head]
        for row in self.rows:
            error = with_unit(row.error, row.aspect.error_unit)
            if row.octaves is not None:
                error += f" ({row.octaves:.2f} oct)"
            lines.append(
                [
                    row.parameter,
                    row.kind,
                    str(row.sounds) if row.compared == row.sounds else f"{row.compared} of {row.sounds}",
                    "-" if row.in_tune is None else f"{row.in_tune} of {row.sounds}",
                    error,
                    with_unit(row.error_p90, row.aspect.error_unit),
                    "-" if row.rank_correlation is None else f"{row.rank_correlation:.3f}",
                    "-" if row.correlation is None else f"{row.correlation:.3f}",
                ]
            )
        form = ["<", "<", *(">" for _ in head[2:])]
        widths = [f"{side}{max(map(len, column))}" for side, column in zip(form, zip(*lines, strict=True), strict=True)]
        text = ["  ".join(map(format, line, widths)).rstrip() for line in lines]
        octaves = sum(row.octave_off or 0 for row in self.rows)
        if octaves:
            text.append(f"an octave off: {octaves} {'sound' if octaves == 1 else 'sounds'}")
        text += [
            f"{row.parameter}, {row.kind}: {percent(row.voiced)} of the frames are voiced, and only they are compared"
            for row in self.rows
            if row.voiced is not None and row.voiced < _MOSTLY_VOICED
        ]
        return "\n".join([*text, *(f"not in tune: {missed}" for missed in self.missed)])

    def document(self) -> dict[str, Any]:
        """As JSON: the rows, and each sound with its request; null where there is no number."""
        return {
            "summary": [
                {
                    "parameter": row.parameter,
                    "sound": row.aspect.sound,
                    "request": row.kind,
                    "error_unit": row.aspect.error_unit,
                    **{key: _plain(getattr(row, key)) for key in _ROW_KEYS},
                }
                for row in self.rows
            ],
            "sounds": [
                {
                    "name": result.scenario.name,
                    "request": result.scenario.kind,
                    "parameter": result.scenario.parameter,
                    "group": result.scenario.group,
                    "seconds": result.scenario.seconds,
                    "controls": {
                        name: {"times": track.times.tolist(), "values": track.values.tolist()}
                        for name, track in result.scenario.controls.items()
                    },
                    "followed": {
                        name: {
                            "sound": accuracy.aspect.sound,
                            "error_unit": accuracy.aspect.error_unit,
                            **{key: _plain(getattr(accuracy, key)) for key in _SOUND_KEYS},
                        }
                        for name, accuracy in result.accuracies.items()
                    },
                }
                for result in self.results
            ],
        }


_ROW_KEYS = (
    "sounds", "compared", "in_tune", "voiced", "octave_off", "error", "error_p90", "octaves", "rank_correlation",
    "correlation",
)  # fmt: skip
_SOUND_KEYS = (
    "share", "offset", "error", "error_p90", "bias", "octaves", "octave_errors", "rank_correlation", "correlation",
)  # fmt: skip


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def median_errors(sounds: Sequence[Mapping[str, ControlAccuracy]]) -> dict[str, float]:
    """By name, the median over several sounds of each one's median absolute error, with one offset for all of them
    where the aspect is not absolute; without those that have no error."""
    found = {}
    for name in dict.fromkeys(name for each in sounds for name in each):
        accuracies = [each[name] for each in sounds if name in each]
        errors = _errors(accuracies, _common_offset(accuracies))
        if errors:
            found[name] = float(np.median(errors))
    return found


def summarise(results: Iterable[Result]) -> ControlSummary:
    """All sounds together: a row for each control and kind of request, in the order they come."""
    results = tuple(results)
    names = dict.fromkeys(name for result in results for name in result.accuracies)
    rows = []
    for name in names:
        offsets = _group_offsets(name, results)
        for kind in ("trained", "between", "sweep", "held"):
            chosen = [
                result
                for result in results
                if name in result.accuracies
                and kind == (result.scenario.kind if result.scenario.parameter == name else "held")
            ]
            if chosen:
                rows.append(_row(name, kind, chosen, offsets))
    return ControlSummary(tuple(rows), results)


def _group_offsets(name: str, results: Sequence[Result]) -> dict[str, float | None]:
    by_group: dict[str, list[ControlAccuracy]] = {}
    for result in results:
        if name in result.accuracies:
            by_group.setdefault(result.scenario.group, []).append(result.accuracies[name])
    return {group: _common_offset(sounds) for group, sounds in by_group.items()}


def _common_offset(sounds: Sequence[ControlAccuracy]) -> float | None:
    """One offset for several sounds; None where all requests are the same, since it would fit any sound."""
    requested = np.concatenate([each.requested[np.isfinite(each.requested)] for each in sounds])
    if not (sounds[0].aspect.absolute or (requested.size and changes(requested))):
        return None
    return median([each.offset for each in sounds if each.offset is not None])


def _errors(sounds: Sequence[ControlAccuracy], offset: float | None) -> list[float]:
    """The median absolute error of each sound that has one; where the aspect is not absolute, with this offset."""
    if sounds[0].aspect.absolute:
        return [each.error for each in sounds if each.error is not None]
    if offset is None:
        return []
    pairs = [floored(each.aspect, each.requested + offset, each.measured) for each in sounds if len(each.times)]
    return [float(np.median(np.abs(got - want))) for want, got in pairs]


def _row(name: str, kind: str, results: Sequence[Result], offsets: Mapping[str, float | None]) -> Row:
    accuracies = [result.accuracies[name] for result in results]
    aspect = accuracies[0].aspect
    numbers = [
        error for result in results for error in _errors([result.accuracies[name]], offsets[result.scenario.group])
    ]
    if kind == "sweep":
        pairs = [(each.rank_correlation, each.correlation) for each in accuracies]
    else:
        pairs = [correlations(*_middles(name, results, group, offset or 0.0)) for group, offset in offsets.items()]
    is_pitch = aspect.sound == "pitch"
    return Row(
        name,
        aspect,
        kind,
        sounds=len(accuracies),
        compared=len(numbers),
        in_tune=sum(each.in_tune for each in accuracies) if is_pitch else None,
        octave_off=sum((each.octave_errors or 0.0) > 0.5 for each in accuracies) if is_pitch else None,
        error=median(numbers),
        error_p90=float(np.percentile(numbers, 90)) if numbers else None,
        octaves=median([each.octaves for each in accuracies if each.octaves is not None]),
        rank_correlation=median([rank for rank, _ in pairs if rank is not None]),
        correlation=median([linear for _, linear in pairs if linear is not None]),
        voiced=median([each.share for each in accuracies]) if is_pitch else None,
    )


def _middles(name: str, results: Sequence[Result], group: str, offset: float) -> tuple[Floats, Floats]:
    """Requested and measured, one median `[sounds]` for each sound of a group that has both."""
    pairs = []
    for result in results:
        each = result.accuracies[name]
        used = np.isfinite(each.requested) & np.isfinite(each.measured)
        if result.scenario.group == group and used.any():
            want, got = floored(each.aspect, each.requested[used] + offset, each.measured[used])
            if each.aspect.sound == "brightness":
                want, got = np.log2(want), np.log2(np.maximum(got, 1.0))
            pairs.append((np.median(want), np.median(got)))
    wanted, came = np.array(pairs, np.float64).reshape(-1, 2).T
    return wanted, came
