"""HTML and SVG, as far as a report needs them: a page without requests, tables, charts, pictures, sounds.

Every text is escaped here and nowhere else; what functions return is HTML. Knows nothing of runs.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile

_STYLE = """
:root { color-scheme: light dark; --ink: #24262b; --quiet: #6b7280; --paper: #fbfaf8; --card: #ffffff;
  --line: #e3e1dc; --warn: #b45309; --warn-paper: #fff7e6; --good: #3f7d20;
  --c0: #5a2a82; --c1: #c2410c; --c2: #0f766e; --c3: #1d4ed8; --c4: #a21caf; --c5: #4d7c0f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e5e1; --quiet: #9aa0aa; --paper: #17181b; --card: #1f2125;
  --line: #35383e; --warn: #fbbf24; --warn-paper: #2c2413; --good: #a3e635;
  --c0: #c4a1e8; --c1: #fb923c; --c2: #5eead4; --c3: #93c5fd; --c4: #f0abfc; --c5: #bef264; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .2rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .7rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; } p { margin: .4rem 0; }
.quiet { color: var(--quiet); } .number { text-align: right; font-variant-numeric: tabular-nums; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .9rem 1.1rem;
  margin: .8rem 0; overflow-x: auto; }
.warning { border-left: 4px solid var(--warn); background: var(--warn-paper); }
.fine { border-left: 4px solid var(--good); }
.facts { display: flex; flex-wrap: wrap; gap: .7rem; margin: 1.2rem 0; }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .55rem .9rem;
  min-width: 8rem; flex: 1; } .facts b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; font-weight: 600; }
th, td { padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th.number { text-align: right; } tr:last-child td { border-bottom: 0; }
pre { margin: 0; font: 13px/1.45 ui-monospace, monospace; overflow-x: auto; }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
details { margin: .6rem 0; } summary { cursor: pointer; }
.sound { display: grid; grid-template-columns: 15rem 1fr; gap: .4rem 1.1rem; align-items: center; }
.sound img { width: 100%; height: 7.5rem; border-radius: 4px; } .sound audio { width: 100%; }
@media (max-width: 45rem) { .sound { grid-template-columns: 1fr; } }
.badge { background: var(--good); color: var(--card); border-radius: 4px; padding: 0 .4rem; font-size: .8rem; }
.fault { color: var(--warn); }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--quiet); font: 12px system-ui, sans-serif; }
svg .grid { stroke: var(--line); stroke-width: 1; } svg polyline { fill: none; stroke-width: 2;
  stroke-linejoin: round; } svg .thin { stroke-width: 1; opacity: .35; } svg .dashed { stroke-dasharray: 6 5; }
"""
_COLOURS = 6


def document(title: str, body: Sequence[str]) -> str:
    """The whole page. Its policy forbids every request, so that a mistake of ours would stay without effect."""
    policy = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def text(value: Any) -> str:
    """Any value as escaped text."""
    return html.escape(str(value))


def heading(title: str, level: int = 2) -> str:
    return f"<h{level}>{text(title)}</h{level}>"


def paragraph(words: str, kind: str = "") -> str:
    return f'<p class="{kind}">{text(words)}</p>'


def card(body: str, kind: str = "") -> str:
    return f'<div class="card {kind}">{body}</div>'


def listed(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{text(each)}</li>" for each in sentences) + "</ul>"


def verbatim(words: str) -> str:
    return f"<pre>{text(words)}</pre>"


def folded(title: str, body: str) -> str:
    """What is seen only when it is asked for."""
    return f"<details><summary>{text(title)}</summary>{card(body)}</details>"


def facts(named: Mapping[str, str]) -> str:
    """A few numbers, large."""
    cells = [f'<div><span class="quiet">{text(name)}</span><b>{text(value)}</b></div>' for name, value in named.items()]
    return f'<div class="facts">{"".join(cells)}</div>'


def table(rows: Sequence[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """Cells are escaped; a column whose first cell is a number is set to the right."""
    if not rows:
        return ""
    kinds = [' class="number"' if isinstance(cell, (int, float)) else "" for cell in rows[0]]
    lines = []
    if head:
        lines.append("".join(f"<th{kind}>{text(cell)}</th>" for kind, cell in zip(kinds, head, strict=True)))
    for row in rows:
        lines.append("".join(f"<td{kind}>{text(number(cell))}</td>" for kind, cell in zip(kinds, row, strict=True)))
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def number(value: Any) -> Any:
    """A number in four digits, anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


# Sounds and pictures -------------------------------------------------------------------------------------------------


def audio(sound: np.ndarray, sample_rate: int) -> str:
    """A player with the sound in it, float [samples] as a wav of 16 bits."""
    wav = io.BytesIO()
    soundfile.write(wav, np.clip(sound, -1.0, 1.0), sample_rate, format="WAV", subtype="PCM_16")
    return f'<audio controls preload="none" src="data:audio/wav;base64,{_base64(wav.getvalue())}"></audio>'


def picture(image: np.ndarray, described: str) -> str:
    """An image, uint8 [height, width, 3], stretched to its place."""
    from matplotlib.image import imsave

    png = io.BytesIO()
    imsave(png, image, format="png")
    return f'<img alt="{text(described)}" src="data:image/png;base64,{_base64(png.getvalue())}">'


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


# Charts --------------------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT = 900, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 30, 44
_MOST_POINTS = 900


@dataclass(frozen=True, eq=False)
class Line:
    """A line of a chart: x and y [points], NaN where it is broken; kind: "", "thin" or "dashed"; colour: 0 to 5."""

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: int = 0
    kind: str = ""


def chart(
    lines: Sequence[Line],
    *,
    across: str,
    up: str,
    logarithmic: bool = False,
    limits: tuple[float, float] | None = None,
    ticks: Mapping[float, str] | None = None,
) -> str:
    """Lines in one frame, as SVG that takes the colours of the page.

    across, up: what the axes are. logarithmic: the upright one. limits: of the upright axis, by default what holds all.
    ticks: places on the level axis, and what to write there, by default round numbers.
    """
    shown = [line for line in lines if np.isfinite(line.y).any()]
    if not shown:
        return paragraph("there is nothing to draw", "quiet")
    scale = np.log10 if logarithmic else np.asarray
    heights = np.concatenate([scale(line.y[np.isfinite(line.y)]) for line in shown])
    low, high = (float(heights.min()), float(heights.max())) if limits is None else map(float, scale(np.array(limits)))
    margin = 0.05 * (high - low) or 0.5
    low, high = low - margin, high + margin
    places = np.concatenate([line.x for line in shown])
    left, right = float(places.min()), float(places.max())
    right = right if right > left else left + 1.0

    def x_of(value: Any) -> Any:
        return _LEFT + (np.asarray(value) - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    def y_of(value: Any) -> Any:
        return _TOP + (high - np.clip(value, low, high)) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in _ticks(low, high):
        y = float(y_of(tick))
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        written = f"{10.0**tick:.3g}" if logarithmic else f"{tick:g}"
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{written}</text>')
    for place, written in (ticks or {tick: f"{tick:g}" for tick in _ticks(left, right)}).items():
        x = float(x_of(place))
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{text(written)}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 3}" text-anchor="end">{text(across)}</text>')
    parts.append(f'<text x="{_LEFT}" y="16">{text(up)}</text>')
    for line in shown:
        colour = f"var(--c{line.colour % _COLOURS})"
        for across_it, up_it in _pieces(line, scale):
            xs, ys = x_of(across_it), y_of(up_it)
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs, ys, strict=True))
            drawn = f'<polyline class="{line.kind}" style="stroke: {colour}" points="{points}"/>'
            if len(xs) == 1:
                drawn = f'<circle cx="{xs[0]:.1f}" cy="{ys[0]:.1f}" r="3" style="fill: {colour}"/>'
            parts.append(drawn)
    place = float(_WIDTH - _RIGHT)
    for line in reversed([line for line in shown if line.name]):
        place -= 7.0 * len(line.name) + 40
        parts.append(
            f'<polyline class="{line.kind}" style="stroke: var(--c{line.colour % _COLOURS})" '
            f'points="{place:.0f},12 {place + 24:.0f},12"/><text x="{place + 29:.0f}" y="16">{text(line.name)}</text>'
        )
    named = ", ".join(line.name for line in shown if line.name)
    label = text(f"{up}: {named}")
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _pieces(line: Line, scale: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """What of a line can be drawn in one go, in no more points than there are pixels."""
    step = math.ceil(len(line.x) / _MOST_POINTS)
    x, y = line.x, line.y
    if step > 1:
        whole = len(x) // step * step
        x, y = (part[:whole].reshape(-1, step).mean(axis=1) for part in (x, y))
    finite = np.isfinite(y)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], finite.astype(int), [0]])))
    return [(x[a:b], scale(y[a:b])) for a, b in zip(ends[::2], ends[1::2], strict=True)]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two."""
    rough = (high - low) / 5.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough)
    return [round(count * step, 10) for count in range(math.ceil(low / step), math.floor(high / step) + 1)]
