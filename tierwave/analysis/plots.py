"""Pictures of sound and of searches as PNG, and charts of training and of sounds as PNG or SVG.

Uses matplotlib's figure objects only: no pyplot, hence no global state, no window system, and any thread may draw.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tierwave.audio.spectrogram import log_mel
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Controls, Track
from tierwave.errors import RunError
from tierwave.files.writing import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RANGE_DB = 80.0

INK, GRID = "#333333", "#dddddd"
COLOURS = ("#5a2a82", "#c2410c", "#0f766e", "#1d4ed8", "#a21caf", "#4d7c0f")  # of lines

_SHADES = "magma"
_OVERLAY_COLOURS = ("#67e8f9", "#86efac", "#fde68a", "#f0abfc")  # light, on the dark of the spectrogram
_TICKS_HZ = (100, 250, 500, 1000, 2000, 4000, 8000, 16000)
_WINDOW_SECONDS = 0.04
_MOST_COLUMNS = 1500  # more than a picture shows only costs time
_MOST_LETTERS = 60  # of a text that are written one by one; the words of a longer one begin where they stand
_MOST_WORDS = 80
_MOST_ROWS = 6  # values of a category that are named in a strip
_LONGEST_NAME = 24  # letters of such a name
_MOST_POINTS = 900  # of a line in a chart
_ABSURD = 3.0  # times the highest baseline, above which a curve of losses is cut off


def sound_picture(
    path: Path | str,
    audio: np.ndarray,
    sample_rate: int,
    *,
    title: str = "",
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    overlays: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    names: Mapping[str, Mapping[float, str]] | None = None,
) -> None:
    """Write a PNG: the waveform, below it the mel spectrogram in dB, below that one strip per curve.

    The file is whole or not there: it is written beside its place and moved.

    Args:
        path: of the PNG; its folder must exist.
        audio: float [samples], full scale 1.0.
        sample_rate: hertz.
        title: plain text above the picture.
        curves: by name, times in seconds [points] and values [points] in their own unit.
        overlays: by name, times in seconds [points] and frequencies in hertz [points], drawn over the spectrogram.
        names: of the curves that are categories, what stands at their values in place of numbers.

    Raises:
        RunError: the file cannot be written.
        ValueError: the audio is not one channel of at least one finite sample.
    """
    audio = _checked(audio)
    curves = curves or {}
    seconds = len(audio) / sample_rate
    heights = [1.0, 2.6, *(0.7 for _ in curves)]
    figure, axes = _figure(11.0, 1.55 * sum(heights) + 0.9, heights, title)
    _draw_waveform(axes[0], audio, sample_rate)
    _draw_spectrogram(axes[1], audio, sample_rate)
    if overlays:
        _draw_overlays(axes[1], overlays)
    for index, (axis, (name, (times, values))) in enumerate(zip(axes[2:], curves.items(), strict=True)):
        _draw_curve(axis, name, times, values, COLOURS[1 + index % (len(COLOURS) - 1)])
        if names and name in names:
            _name_values(axis, names[name])
    axes[-1].set_xlabel("seconds", color=INK)
    axes[-1].set_xlim(0.0, seconds)
    figure.align_ylabels(axes)
    _write(Path(path), png(figure))


def controls_picture(
    path: Path | str, audio: np.ndarray, sample_rate: int, controls: Controls, schema: Schema, title: str = ""
) -> None:
    """`sound_picture` with a strip for every curve of `controls`, in raw units, categories as steps between their
    names; those that are frequencies, or pitches, also lie over the spectrogram."""
    seconds = len(audio) / sample_rate

    def drawn(track: Track) -> tuple[np.ndarray, np.ndarray]:
        steps = track.name in schema.names and schema.of(track.name).interp == "previous"
        return _drawn(track, seconds, steps)

    def named(name: str) -> str:
        units = None if name not in schema.names or schema.of(name).is_category else schema.of(name).units
        return f"{name} ({units})" if units else name

    curves = {named(name): drawn(track) for name, track in controls.items()}
    names = {
        named(name): _names_of(schema.of(name), track)
        for name, track in controls.items()
        if name in schema.names and schema.of(name).is_category
    }
    overlays = {name: drawn(track) for name, track in _frequencies(controls, schema).items()}
    sound_picture(path, audio, sample_rate, title=title, curves=curves, overlays=overlays, names=names)


def stages_picture(path: Path | str, stages: Mapping[str, np.ndarray], seconds: float, *, title: str = "") -> None:
    """Write a PNG of log-mel spectrograms `[frames, channels]` by name, one below the other, on one scale of colours.

    seconds: the length of each. Raises RunError where the file cannot be written.
    """
    figure, axes = _figure(11.0, 1.9 * len(stages) + 0.9, [1.0] * len(stages), title)
    decibels = {name: 10.0 / np.log(10.0) * stage for name, stage in stages.items()}
    top = max(float(stage.max()) for stage in decibels.values())
    for axis, (name, stage) in zip(axes, decibels.items(), strict=True):
        axis.imshow(
            stage.T,
            origin="lower",
            aspect="auto",
            cmap=_SHADES,
            vmin=top - RANGE_DB,
            vmax=top,
            extent=(0.0, seconds, 0, stage.shape[1]),
            interpolation="nearest",
        )
        axis.set_ylabel(name, color=INK, fontsize=9)
    axes[-1].set_xlabel("seconds", color=INK)
    figure.align_ylabels(axes)
    _write(Path(path), png(figure))


def alignment_picture(path: Path | str, alignment: np.ndarray, text: str, seconds_per_frame: float) -> None:
    """Write a PNG: which characters of a text were read when, the text upwards and time to the right.

    Args:
        path: of the PNG; its folder must exist.
        alignment: float [frames, characters], the share of each frame's look that falls on each character.
        text: its characters.
        seconds_per_frame: of the alignment.

    Raises:
        RunError: the file cannot be written.
        ValueError: the alignment is not one of at least one frame, with a column for each character.
    """
    alignment = np.asarray(alignment, np.float32)
    if alignment.ndim != 2 or not alignment.size or alignment.shape[1] != len(text):
        raise ValueError(f"[frames, {len(text)}] are needed, not {alignment.shape}: a column for each character.")
    seconds = len(alignment) * seconds_per_frame
    if len(text) <= _MOST_LETTERS:
        labels = {index: "\u2423" if letter == " " else letter for index, letter in enumerate(text)}
    else:
        labels = {match.start(): match.group() for match in re.finditer(r"\S+", text)}
        labels = dict(list(labels.items())[:: math.ceil(len(labels) / _MOST_WORDS)])
    figure, (axis,) = _figure(11.0, 1.5 + float(np.clip(0.19 * len(labels), 2.5, 13.0)))
    image = axis.imshow(
        alignment.T,
        origin="lower",
        aspect="auto",
        cmap=_SHADES,
        extent=(0.0, seconds, -0.5, len(text) - 0.5),
        vmin=0.0,
        vmax=max(float(alignment.max()), 1e-3),
        interpolation="nearest",
    )
    axis.set_yticks(list(labels), list(labels.values()), parse_math=False)
    axis.set_xlabel("seconds", color=INK)
    _colour_bar(axis, image, "share of the look")
    _write(Path(path), png(figure))


def parallel_picture(
    path: Path | str,
    axes: Mapping[str, Sequence[Any]],
    *,
    title: str = "",
    logarithmic: Collection[str] = (),
    rising: bool = False,
) -> None:
    """Write a PNG of parallel coordinates (Inselberg 1985): an upright axis per name, a line per entry across them.

    Args:
        path: of the PNG; its folder must exist.
        axes: by name, a value per line, all equally many. An axis of numbers is a scale, any other has a place for each
            of its values. The last one, of numbers, gives the lines their colour; those that come later lie on top.
        title: plain text above the picture.
        logarithmic: names of axes that are to be so.
        rising: whether high values of the last axis are the good ones, which are drawn dark and wide.

    Raises:
        RunError: the file cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(axes)
    lines = len(axes[names[-1]])
    figure = Figure(figsize=(max(6.0, 2.2 * len(names)), 5.0), dpi=110)
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0.08, 0.1, 0.84, 0.74))
    places = {name: _places(axes[name], name in logarithmic) for name in names}
    goodness = places[names[-1]][0] if rising else 1.0 - places[names[-1]][0]
    shades = colormaps[_SHADES](0.92 * (1.0 - goodness))
    across = np.arange(len(names))
    for line in range(lines):
        heights = [places[name][0][line] for name in names]
        width = 3.0 if line == lines - 1 else 1.6
        axis.plot(across, heights, color=shades[line], linewidth=width, alpha=0.9, solid_capstyle="round", zorder=2)
    halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
    for place, name in enumerate(names):
        axis.plot([place, place], [0.0, 1.0], color=INK, linewidth=1.0, zorder=1)
        axis.text(place, 1.06, name, ha="center", fontsize=10, color=INK, parse_math=False)
        for height, text in places[name][1].items():
            axis.plot([place - 0.015, place + 0.015], [height, height], color=INK, linewidth=1.0, zorder=3)
            axis.text(
                place + 0.03, height, text, va="center", fontsize=8, color=INK, bbox=halo, zorder=3, parse_math=False
            )
    if title:
        axis.set_title(title, fontsize=13, color=INK, pad=28, parse_math=False)
    axis.set_xlim(-0.1, len(names) - 0.6)
    axis.set_ylim(-0.04, 1.04)
    axis.set_axis_off()
    _write(Path(path), png(figure))


def _places(values: Sequence[Any], logarithmic: bool) -> tuple[np.ndarray, dict[float, str]]:
    """The height of each value on its axis, 0 to 1, and what to write at which heights."""
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if not numbers or len(set(values)) == 1:
        written = [value if isinstance(value, str) else json.dumps(value) for value in values]
        kinds = sorted(set(written))
        height = {kind: 0.5 if len(kinds) == 1 else number / (len(kinds) - 1) for number, kind in enumerate(kinds)}
        return np.array([height[text] for text in written]), {place: kind for kind, place in height.items()}
    scaled = np.log(np.asarray(values, np.float64)) if logarithmic else np.asarray(values, np.float64)
    low, high = scaled.min(), scaled.max()
    ticks = np.linspace(low, high, 5)
    numbered = zip(np.linspace(0.0, 1.0, 5), np.exp(ticks) if logarithmic else ticks, strict=True)
    texts = {float(place): f"{tick:.4g}" for place, tick in numbered}
    return (scaled - low) / (high - low), texts


# Charts --------------------------------------------------------------------------------------------------------------


def losses_chart(
    steps: np.ndarray,
    losses: np.ndarray,
    held_out: tuple[np.ndarray, np.ndarray],
    baselines: Mapping[str, float],
    up: str,
) -> Figure:
    """The losses of a training: of every update and smoothed, of held-out sound, and the baselines to beat.

    Args:
        steps, losses: [updates].
        held_out: steps and losses [epochs].
        baselines: losses by name.
        up: what the upright axis is.
    """
    lines = [Line("", steps, losses, 0, "thin"), Line("training", steps, _smoothed(losses), 0)]
    lines.append(Line("held out", *held_out, 1, "marked"))
    places = np.concatenate([steps, held_out[0]])
    ends = np.array([places.min(initial=np.inf), places.max(initial=-np.inf)]) if len(places) else np.zeros(2)
    for number, (name, loss) in enumerate(baselines.items(), start=2):
        lines.append(Line(name, ends, np.full(2, loss), number, "dashed"))
    figure = line_chart(lines, "steps", up)
    highest = max(baselines.values(), default=0.0)
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in lines])
    if highest > 0 and values.max() > _ABSURD * highest:
        figure.axes[0].set_ylim(float(values.min()), _ABSURD * highest)
    return figure


def _smoothed(values: np.ndarray) -> np.ndarray:
    """A running mean of what is finite over a twenty-fifth of all, shorter at the ends."""
    width = max(1, len(values) // 50)
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    places = np.arange(len(values))
    low, high = np.maximum(0, places - width), np.minimum(len(values), places + width + 1)
    count = counts[high] - counts[low]
    return np.where(count > 0, (sums[high] - sums[low]) / np.maximum(count, 1), np.nan)


def spectra_chart(spectra: Mapping[str, np.ndarray], sample_rate: int) -> Figure:
    """Average spectra in dB (see `statistics.average_spectrum`), by name, over frequency as the ear spaces it.

    Args:
        spectra: [bins] each, from 0 Hz to half the sample rate.
        sample_rate: hertz.
    """
    from librosa import hz_to_mel

    lines = [
        Line(name, hz_to_mel(np.linspace(0.0, sample_rate / 2.0, len(spectrum))), spectrum, number)
        for number, (name, spectrum) in enumerate(spectra.items())
    ]
    figure = line_chart(lines, "Hz", "average spectrum, dB per Hz")
    figure.axes[0].set_xticks(*_mel_ticks(sample_rate))
    return figure


@dataclass(frozen=True, eq=False)
class Line:
    """A line of a chart: x and y [points], NaN where it is broken; colour: a number of `COLOURS`; kind: "", "thin",
    "dashed" or "marked", which has a mark at each point. One without a name is not in the legend."""

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: int = 0
    kind: str = ""


_KINDS: dict[str, dict[str, Any]] = {
    "": {"linewidth": 1.5},
    "thin": {"linewidth": 0.8, "alpha": 0.35},
    "dashed": {"linewidth": 1.3, "linestyle": (0, (4.5, 3.5))},
    "marked": {"linewidth": 1.5, "marker": "o", "markersize": 3.5},
}


def line_chart(lines: Sequence[Line], across: str, up: str, *, logarithmic: bool = False) -> Figure:
    """Lines in one frame. across, up: what the axes are; logarithmic: the upright one."""
    figure, (axis,) = _figure(9.0, 3.0)
    drawn = [line for line in lines if np.isfinite(line.y).any()]
    if logarithmic:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:.3g}")
        axis.minorticks_off()
    for line in drawn:
        x, y = _thinned(line.x), _thinned(line.y)
        colour = COLOURS[line.colour % len(COLOURS)]
        (artist,) = axis.plot(x, y, color=colour, solid_joinstyle="round", **_KINDS[line.kind])
        artist.set_label(line.name or "_")
        finite = np.concatenate([[False], np.isfinite(y), [False]])
        alone = finite[1:-1] & ~finite[:-2] & ~finite[2:]  # points between gaps, which no line shows
        if line.kind != "marked" and alone.any():
            axis.plot(x[alone], y[alone], "o", color=colour, markersize=3.5)
    if not drawn:
        axis.text(0.5, 0.5, "there is nothing to draw", transform=axis.transAxes, ha="center", color=INK, fontsize=9)
    axis.margins(x=0.0)
    axis.set_title(up, loc="left", fontsize=9, color=INK, parse_math=False)
    axis.set_xlabel(across, color=INK, fontsize=9, loc="right")
    axis.grid(axis="y", color=GRID, linewidth=0.6)
    axis.spines[:].set_visible(False)
    named = [artist for artist in axis.lines if not str(artist.get_label()).startswith("_")]
    if named:
        legend = axis.legend(
            handles=named, loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=len(named), frameon=False, fontsize=9,
            labelcolor=INK,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _thinned(values: np.ndarray) -> np.ndarray:
    """The means of pieces, so that there are no more points than a picture shows."""
    step = math.ceil(len(values) / _MOST_POINTS)
    return values[: len(values) // step * step].reshape(-1, step).mean(axis=1) if step > 1 else values


def svg(figure: Figure) -> str:
    """A figure as an SVG element of a page, which gives its texts a font."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "tierwave"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    element = buffer.getvalue()
    element = element[element.index("<svg") :]
    # Numbers of groups are the same in every figure, and the style would be one of the whole page.
    return re.sub(r'(?<=<g) id="[^"]*"|<style.*?</style>|(?<=;) font-family: [^;"]*;', "", element, flags=re.DOTALL)


def png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _figure(
    width: float, height: float, heights: Sequence[float] = (1.0,), title: str = ""
) -> tuple[Figure, list[Axes]]:
    """A figure in inches with axes of these heights one below the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), dpi=110, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0].tolist()
    for axis in axes:
        axis.tick_params(colors=INK, labelsize=9, length=3)
        axis.yaxis.label.set_color(INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(INK)
    if title:
        axes[0].set_title(title, fontsize=13, color=INK, pad=10, parse_math=False)
    return figure, axes


def _colour_bar(axis: Axes, image: Any, label: str) -> Any:
    """An inset, because a colour bar of its own would make this panel narrower than the others."""
    bar = axis.figure.colorbar(image, cax=axis.inset_axes((1.012, 0.0, 0.014, 1.0)))
    bar.set_label(label, color=INK)
    bar.ax.tick_params(colors=INK, labelsize=9, length=3)
    bar.ax.spines[:].set_visible(False)
    return bar


def _mel_ticks(sample_rate: int) -> tuple[list[float], list[str]]:
    """Places on an axis in mel, and what to write there."""
    from librosa import hz_to_mel

    shown = [tick for tick in _TICKS_HZ if tick <= sample_rate / 2.0]
    return [float(hz_to_mel(tick)) for tick in shown], [_hertz_name(tick) for tick in shown]


def _hertz_name(hertz: int) -> str:
    return f"{hertz // 1000}k" if hertz >= 1000 else str(hertz)


def spectrogram_image(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """The mel spectrogram alone, low frequencies at the bottom, 80 dB from black to white.

    Args:
        audio: float [samples].
        sample_rate: hertz.

    Returns:
        uint8 [mel channels, frames, 3].
    """
    from matplotlib import colormaps

    level = 1.0 + _decibels(_checked(audio), sample_rate) / RANGE_DB
    return colormaps[_SHADES](level.T[::-1], bytes=True)[..., :3]


def _checked(audio: np.ndarray) -> np.ndarray:
    audio = np.asarray(audio, np.float64)
    if audio.ndim != 1 or not len(audio) or not np.isfinite(audio).all():
        raise ValueError(f"a picture needs one channel of finite audio, at least one sample, not shape {audio.shape}.")
    return audio


def _decibels(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mel channels in dB below the loudest, [frames, channels], from -80 to 0."""
    window = max(16, round(_WINDOW_SECONDS * sample_rate))
    n_fft = 1 << math.ceil(math.log2(2 * window))  # finer bins, so that no mel channel is without one
    hop = max(1, window // 8, math.ceil(len(audio) / _MOST_COLUMNS))
    channels = 160 if sample_rate > 11025 else 112
    decibels = log_mel(audio, sample_rate, n_fft, window, hop, channels)
    loudest = decibels.max()
    if loudest <= -99.0:  # silence: all of it is the loudest, and none of it is loud
        return np.full_like(decibels, -RANGE_DB)
    return np.maximum(decibels - loudest, -RANGE_DB)


def _draw_waveform(axis: Axes, audio: np.ndarray, sample_rate: int) -> None:
    """The samples, or where there are too many the lowest and highest of each column."""
    step = math.ceil(len(audio) / (2 * _MOST_COLUMNS))
    if step <= 2:
        axis.plot(np.arange(len(audio)) / sample_rate, audio, color=COLOURS[0], linewidth=0.7)
    else:
        starts = np.arange(0, len(audio), step)
        low, high = np.minimum.reduceat(audio, starts), np.maximum.reduceat(audio, starts)
        axis.fill_between(starts / sample_rate, low, high, color=COLOURS[0], linewidth=0.4, step="post")
    top = max(1e-3, 1.05 * float(np.abs(audio).max()))
    axis.set_ylim(-top, top)
    axis.axhline(0.0, color=GRID, linewidth=0.6, zorder=0)
    axis.set_ylabel("amplitude")


def _draw_spectrogram(axis: Axes, audio: np.ndarray, sample_rate: int) -> None:
    from librosa import hz_to_mel

    highest = float(hz_to_mel(sample_rate / 2.0))
    image = axis.imshow(
        _decibels(audio, sample_rate).T,
        origin="lower",
        aspect="auto",
        cmap=_SHADES,
        extent=(0.0, len(audio) / sample_rate, 0.0, highest),
        vmin=-RANGE_DB,
        vmax=0.0,
        interpolation="bilinear",
    )
    axis.set_yticks(*_mel_ticks(sample_rate))
    axis.set_ylabel("Hz")
    bar = _colour_bar(axis, image, "dB below the loudest")
    bar.set_ticks([0.0, -20.0, -40.0, -60.0, -RANGE_DB], labels=["0", "20", "40", "60", f"{RANGE_DB:g}"])


def _draw_overlays(axis: Axes, overlays: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    from librosa import hz_to_mel

    limits = axis.get_ylim()
    for (name, (times, frequencies)), colour in zip(overlays.items(), itertools.cycle(_OVERLAY_COLOURS)):
        axis.plot(times, hz_to_mel(np.maximum(frequencies, 0.0)), color="black", linewidth=3.0, alpha=0.6)
        axis.plot(times, hz_to_mel(np.maximum(frequencies, 0.0)), color=colour, linewidth=1.4, label=name)
    axis.set_ylim(limits)
    axis.legend(loc="upper right", fontsize=9, framealpha=0.8)


def _draw_curve(axis: Axes, name: str, times: np.ndarray, values: np.ndarray, colour: str) -> None:
    axis.plot(times, values, color=colour, linewidth=1.5)
    axis.set_title(name, loc="left", fontsize=10, color=colour, pad=4, parse_math=False)
    axis.grid(color=GRID, linewidth=0.6)
    axis.margins(y=0.15)
    axis.locator_params(axis="y", nbins=4)


def _name_values(axis: Axes, names: Mapping[float, str]) -> None:
    """Rows of names in place of a scale of numbers, all of one height."""
    axis.set_yticks(list(names), list(names.values()), parse_math=False)
    axis.set_ylim(min(names) - 0.5, max(names) + 0.5)


def _names_of(parameter: Parameter, track: Track) -> dict[float, str]:
    """What stands at the values of a category: at all that have names and at those that the track takes, or where they
    are too many at some of the latter."""
    taken = {float(value) for value in track.values}
    if len(parameter.categories) <= _MOST_ROWS:
        taken.update(map(float, range(len(parameter.categories))))
    values = sorted(taken)[:: math.ceil(len(taken) / _MOST_ROWS)]
    named = {value: parameter.name_of(value) or f"{value:g}" for value in values}
    return {
        value: f"{name[: _LONGEST_NAME - 1]}\u2026" if len(name) > _LONGEST_NAME else name
        for value, name in named.items()
    }


def _write(path: Path, content: bytes) -> None:
    try:
        if not path.parent.is_dir():  # it would be made
            raise FileNotFoundError("there is no such folder")
        write_bytes(path, content)
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"cannot write the picture {path}: {reason}; choose a folder with room that exists.") from error


def _frequencies(controls: Controls, schema: Schema) -> Controls:
    """The tracks that are frequencies, in hertz: they have a place on the spectrogram."""
    from librosa import midi_to_hz

    found = {}
    for name, track in controls.items():
        units = schema.of(name).units if name in schema.names else None
        if units in ("hertz", "frequency"):
            found[name] = track
        elif units == "midiPitch":
            found[name] = Track(name, track.times, midi_to_hz(track.values))
    return found


def _drawn(track: Track, seconds: float, steps: bool) -> tuple[np.ndarray, np.ndarray]:
    """A track as a line over the whole sound: ends held, with corners where it steps."""
    times = np.concatenate([[min(0.0, track.times[0])], track.times, [max(seconds, track.times[-1])]])
    values = np.concatenate([track.values[:1], track.values, track.values[-1:]])
    if steps:
        times, values = np.repeat(times, 2)[1:], np.repeat(values, 2)[:-1]
    return times, values
