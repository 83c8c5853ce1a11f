"""Pictures of sound, and of searches: a PNG for people, and an image for TensorBoard.

Uses matplotlib's figure objects only: no pyplot, hence no global state, no window system, and any thread may draw.
Knows nothing of models or runs.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
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

RANGE_DB = 80.0

_COLOURS = "magma"
_INK, _WAVE, _GRID = "#333333", "#5a2a82", "#dddddd"
_CURVE_COLOURS = ("#c2410c", "#0f766e", "#1d4ed8", "#a21caf", "#4d7c0f", "#b45309")
_OVERLAY_COLOURS = ("#67e8f9", "#86efac", "#fde68a", "#f0abfc")  # light, on the dark of the spectrogram
_TICKS_HZ = (100, 250, 500, 1000, 2000, 4000, 8000, 16000)
_WINDOW_SECONDS = 0.04
_MOST_COLUMNS = 1500  # more than a picture shows only costs time
_MOST_LETTERS = 60  # of a text that are written one by one; the words of a longer one begin where they stand
_MOST_WORDS = 80
_MOST_ROWS = 6  # values of a category that are named in a strip
_LONGEST_NAME = 24  # letters of such a name


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    audio = _checked(audio)
    curves = curves or {}
    seconds = len(audio) / sample_rate
    heights = [1.0, 2.6, *(0.7 for _ in curves)]
    size = (11.0, 1.55 * sum(heights) + 0.9)
    figure = Figure(figsize=size, dpi=110, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    if title:
        axes[0].set_title(title, fontsize=13, color=_INK, pad=10, parse_math=False)
    _draw_waveform(axes[0], audio, sample_rate)
    _draw_spectrogram(axes[1], audio, sample_rate)
    if overlays:
        _draw_overlays(axes[1], overlays)
    for index, (axis, (name, (times, values))) in enumerate(zip(axes[2:], curves.items(), strict=True)):
        _draw_curve(axis, name, times, values, _CURVE_COLOURS[index % len(_CURVE_COLOURS)])
        if names and name in names:
            _name_values(axis, names[name])
    for axis in axes:
        axis.tick_params(colors=_INK, labelsize=9, length=3)
        axis.yaxis.label.set_color(_INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(_INK)
    axes[-1].set_xlabel("seconds", color=_INK)
    axes[-1].set_xlim(0.0, seconds)
    figure.align_ylabels(axes)

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    _write(Path(path), buffer.getvalue())


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(
        figsize=(11.0, 1.9 * len(stages) + 0.9), dpi=110, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(stages), 1, sharex=True, squeeze=False)[:, 0]
    if title:
        axes[0].set_title(title, fontsize=13, color=_INK, pad=10, parse_math=False)
    decibels = {name: 10.0 / np.log(10.0) * stage for name, stage in stages.items()}
    top = max(float(stage.max()) for stage in decibels.values())
    for axis, (name, stage) in zip(axes, decibels.items(), strict=True):
        axis.imshow(
            stage.T,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=top - 80.0,
            vmax=top,
            extent=(0.0, seconds, 0, stage.shape[1]),
            interpolation="nearest",
        )
        axis.set_ylabel(name, color=_INK, fontsize=9)
        axis.tick_params(colors=_INK, labelsize=8, length=3)
    axes[-1].set_xlabel("seconds", color=_INK)
    figure.align_ylabels(axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    _write(Path(path), buffer.getvalue())


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    alignment = np.asarray(alignment, np.float32)
    if alignment.ndim != 2 or not alignment.size or alignment.shape[1] != len(text):
        raise ValueError(f"[frames, {len(text)}] are needed, not {alignment.shape}: a column for each character.")
    seconds = len(alignment) * seconds_per_frame
    if len(text) <= _MOST_LETTERS:
        labels = {index: "\u2423" if letter == " " else letter for index, letter in enumerate(text)}
    else:
        labels = {match.start(): match.group() for match in re.finditer(r"\S+", text)}
        labels = dict(list(labels.items())[:: math.ceil(len(labels) / _MOST_WORDS)])
    figure = Figure(
        figsize=(11.0, 1.5 + float(np.clip(0.19 * len(labels), 2.5, 13.0))),
        dpi=110,
        layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08),
    )
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    image = axis.imshow(
        alignment.T,
        origin="lower",
        aspect="auto",
        cmap=_COLOURS,
        extent=(0.0, seconds, -0.5, len(text) - 0.5),
        vmin=0.0,
        vmax=max(float(alignment.max()), 1e-3),
        interpolation="nearest",
    )
    axis.set_yticks(list(labels), list(labels.values()), parse_math=False)
    axis.tick_params(colors=_INK, labelsize=9, length=3)
    axis.set_xlabel("seconds", color=_INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(_INK)
    bar = axis.figure.colorbar(image, cax=axis.inset_axes((1.012, 0.0, 0.014, 1.0)))
    bar.set_label("share of the look", color=_INK)
    bar.ax.tick_params(colors=_INK, labelsize=9, length=3)
    bar.ax.spines[:].set_visible(False)

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    _write(Path(path), buffer.getvalue())


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
    shades = colormaps[_COLOURS](0.92 * (1.0 - goodness))
    across = np.arange(len(names))
    for line in range(lines):
        heights = [places[name][0][line] for name in names]
        width = 3.0 if line == lines - 1 else 1.6
        axis.plot(across, heights, color=shades[line], linewidth=width, alpha=0.9, solid_capstyle="round", zorder=2)
    halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
    for place, name in enumerate(names):
        axis.plot([place, place], [0.0, 1.0], color=_INK, linewidth=1.0, zorder=1)
        axis.text(place, 1.06, name, ha="center", fontsize=10, color=_INK, parse_math=False)
        for height, text in places[name][1].items():
            axis.plot([place - 0.015, place + 0.015], [height, height], color=_INK, linewidth=1.0, zorder=3)
            axis.text(
                place + 0.03, height, text, va="center", fontsize=8, color=_INK, bbox=halo, zorder=3, parse_math=False
            )
    if title:
        axis.set_title(title, fontsize=13, color=_INK, pad=28, parse_math=False)
    axis.set_xlim(-0.1, len(names) - 0.6)
    axis.set_ylim(-0.04, 1.04)
    axis.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    _write(Path(path), buffer.getvalue())


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


def spectra_picture(spectra: Mapping[str, np.ndarray], sample_rate: int) -> bytes:
    """A PNG of average spectra in dB (see `metrics.average_spectrum`), by name, over frequency as the ear spaces it.

    Args:
        spectra: [bins] each, from 0 Hz to half the sample rate.
        sample_rate: hertz.
    """
    from librosa import hz_to_mel
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(8.0, 3.6), dpi=110, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for (name, spectrum), colour in zip(spectra.items(), itertools.cycle((_INK, *_CURVE_COLOURS))):
        place = hz_to_mel(np.linspace(0.0, sample_rate / 2.0, len(spectrum)))
        axis.plot(place, spectrum, color=colour, linewidth=1.4, label=name)
    shown = [tick for tick in _TICKS_HZ if tick <= sample_rate / 2.0]
    axis.set_xticks([float(hz_to_mel(tick)) for tick in shown], [_hertz_name(tick) for tick in shown])
    axis.set_xlim(0.0, float(hz_to_mel(sample_rate / 2.0)))
    axis.set_xlabel("Hz", color=_INK)
    axis.set_ylabel("dB per Hz", color=_INK)
    axis.grid(color=_GRID, linewidth=0.6)
    axis.tick_params(colors=_INK, labelsize=9, length=3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper right", fontsize=9, framealpha=0.8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


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
    return colormaps[_COLOURS](level.T[::-1], bytes=True)[..., :3]


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
        axis.plot(np.arange(len(audio)) / sample_rate, audio, color=_WAVE, linewidth=0.7)
    else:
        starts = np.arange(0, len(audio), step)
        low, high = np.minimum.reduceat(audio, starts), np.maximum.reduceat(audio, starts)
        axis.fill_between(starts / sample_rate, low, high, color=_WAVE, linewidth=0.4, step="post")
    top = max(1e-3, 1.05 * float(np.abs(audio).max()))
    axis.set_ylim(-top, top)
    axis.axhline(0.0, color=_GRID, linewidth=0.6, zorder=0)
    axis.set_ylabel("amplitude")


def _draw_spectrogram(axis: Axes, audio: np.ndarray, sample_rate: int) -> None:
    from librosa import hz_to_mel

    highest = float(hz_to_mel(sample_rate / 2.0))
    image = axis.imshow(
        _decibels(audio, sample_rate).T,
        origin="lower",
        aspect="auto",
        cmap=_COLOURS,
        extent=(0.0, len(audio) / sample_rate, 0.0, highest),
        vmin=-RANGE_DB,
        vmax=0.0,
        interpolation="bilinear",
    )
    shown = [tick for tick in _TICKS_HZ if hz_to_mel(tick) <= highest]
    axis.set_yticks([float(hz_to_mel(tick)) for tick in shown], [_hertz_name(tick) for tick in shown])
    axis.set_ylabel("Hz")
    # An inset, because a colour bar of its own would make this panel narrower than the others.
    bar = axis.figure.colorbar(image, cax=axis.inset_axes((1.012, 0.0, 0.014, 1.0)))
    bar.set_label("dB below the loudest", color=_INK)
    bar.set_ticks([0.0, -20.0, -40.0, -60.0, -RANGE_DB], labels=["0", "20", "40", "60", f"{RANGE_DB:g}"])
    bar.ax.tick_params(colors=_INK, labelsize=9, length=3)
    bar.ax.spines[:].set_visible(False)


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
    axis.grid(color=_GRID, linewidth=0.6)
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
