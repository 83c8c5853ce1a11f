"""A report as one HTML page without requests: `report.html.j2` filled with what was collected."""

from __future__ import annotations

import base64
import functools
import html
import io
import json
import platform
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import soundfile

from tierwave.analysis.control_accuracy import ControlAccuracy
from tierwave.analysis.plots import (
    COLOURS,
    GRID,
    INK,
    Line,
    line_chart,
    spectra_chart,
    spectrogram_image,
    svg,
)
from tierwave.analysis.statistics import average_spectrum, bits
from tierwave.controls.tracks import Track
from tierwave.evaluation.report.collect import CheckpointSound, Report, Stage
from tierwave.runs.folder import environment
from tierwave.runs.history import code_baselines, in_unit, losses_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_EPOCHS = 200  # of the table, the last ones
_MOST_ENTRIES = 20  # of a list in a cell of a table
_CSS = {INK: "var(--quiet)", GRID: "var(--line)", **{colour: f"var(--c{i})" for i, colour in enumerate(COLOURS)}}


def html_page(report: Report) -> str:
    """The whole page."""
    run = report.run.folder.resolve()
    documents = report.documents
    described, split = documents.get("run.json", {}), documents.get("split.json", {})
    newest = next((stage.sounds[0] for stage in reversed(report.stages) if stage.sounds), None)
    schema, command = documents.get("schema.json"), described.get("command")
    parts = [part for part in ("train", "valid", "test") if split.get(part)]
    return _template().render(
        report=report,
        name=f"{run.parent.name} / {run.name}",
        several=len(report.stages) > 1,
        subtitle=_subtitle(report, described),
        facts=_facts(report),
        warnings=[f"{where}: {issue.sentence}" for where, issue in report.issues]
        + [f"the recordings themselves: {issue.name} ({issue.seen})." for issue in report.recording_issues],
        recording=_recording(report),
        spectra=_spectra(report),
        likelihood_words=_likelihood_words(report),
        logged=_logged(report),
        newest_accuracy={} if newest is None else newest.accuracies,
        statistics=[
            [name.replace("_", " "), _in_a_cell(value)] for name, value in documents.get("statistics.json", {}).items()
        ],
        split=split,
        parts=[_part(name, split[name], report.sample_rate) for name in parts],
        spans=[
            [part, name, float(start / report.sample_rate), float(stop / report.sample_rate)]
            for part in parts
            for name, start, stop in split[part]
        ],
        command=shlex.join(map(str, command)) if isinstance(command, list) else "",
        config=_json(documents["run.config.json"]),
        schema=_json(schema["parameters"]) if schema else "",
        versions=_versions(described.get("versions", {})),
    )


@functools.lru_cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "digits": digits,
        "spectrogram": _spectrogram,
        "wav": _wav,
        "losses": _losses,
        "gradients": _gradients,
        "epochs": _epochs,
        "about": _about,
        "curve": _curve,
        "requested_and_measured": _requested_and_measured,
    }
    return environment.get_template("report.html.j2")


def _json(document: Any) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False)


def digits(value: Any) -> Any:
    """A number in four digits, anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


# Charts, pictures and sounds -----------------------------------------------------------------------------------------


def inline(figure: Figure) -> str:
    """A chart as SVG that takes the colours of the page, which may be dark."""
    axis = figure.axes[0]
    legend = axis.get_legend()
    names = [] if legend is None else [text.get_text() for text in legend.get_texts()]
    label = f"{axis.get_title(loc='left')}: {', '.join(names)}"
    drawn = svg(figure).replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
    for colour, variable in _CSS.items():
        drawn = drawn.replace(f": {colour}", f": {variable}")
    return drawn


def _losses(stage: Stage) -> str:
    return inline(losses_figure(stage.history, stage.unit))


def _gradients(stage: Stage) -> str:
    norms = np.where(stage.history.gradient_norms > 0, stage.history.gradient_norms, np.nan)
    return inline(
        line_chart([Line("", stage.history.steps, norms, 3)], "steps", "norm of the gradient", logarithmic=True)
    )


def _epochs(stage: Stage) -> list[list[Any]]:
    history, unit = stage.history, stage.unit
    rows: list[list[Any]] = [
        [each.number, end, in_unit(each.train, unit), "" if each.valid is None else in_unit(each.valid, unit)]
        for each, end in zip(history.epochs, history.ends, strict=True)
    ]
    return rows[-_MOST_EPOCHS:]


def _curve(track: Track) -> str:
    return inline(line_chart([Line("", track.times, track.values)], "seconds", track.name))


def _spectra(report: Report) -> str | None:
    """Average spectra of the newest sound and of the recordings."""
    if report.newest_audio is None or not report.recordings:
        return None
    sounds = {"recordings": np.concatenate(report.recordings), "generated": report.newest_audio}
    spectra = {name: average_spectrum(sound, report.sample_rate) for name, sound in sounds.items()}
    return inline(spectra_chart(spectra, report.sample_rate))


def _requested_and_measured(accuracy: ControlAccuracy, name: str) -> str:
    requested = "requested" if accuracy.aspect.absolute else "requested, shifted to fit"
    lines = [
        Line(requested, accuracy.times, accuracy.aligned, 1, "dashed"),
        Line("measured", accuracy.times, accuracy.measured, 0),
    ]
    up = f"{name} ({accuracy.aspect.unit}), {accuracy.words}".replace(" ()", "")
    return inline(line_chart(lines, "seconds", up))


def _spectrogram(sound: np.ndarray, sample_rate: int) -> str:
    from matplotlib.image import imsave

    png = io.BytesIO()
    imsave(png, spectrogram_image(sound, sample_rate), format="png")
    return _data("image/png", png.getvalue())


def _wav(sound: np.ndarray, sample_rate: int) -> str:
    """A sound, float [samples], as a wav of 16 bits."""
    wav = io.BytesIO()
    soundfile.write(wav, np.clip(sound, -1.0, 1.0), sample_rate, format="WAV", subtype="PCM_16")
    return _data("audio/wav", wav.getvalue())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


# Words and tables ----------------------------------------------------------------------------------------------------


def _subtitle(report: Report, described: Mapping[str, Any]) -> str:
    created = str(described.get("created", "")).replace("T", " ").partition("+")[0].partition(".")[0]
    parts = [report.model, f"{report.sample_rate} Hz", f"trained on {described.get('data_dir', 'unknown recordings')}"]
    return ", ".join(part for part in [*parts, f"begun {created}" if created else ""] if part)


def _facts(report: Report) -> dict[str, str]:
    found: dict[str, str] = {}
    if report.parameters is not None:
        found["weights"] = f"{report.parameters:,}"
    for stage in report.stages:
        which = f" ({stage.name})" if len(report.stages) > 1 else ""
        history = stage.history
        if history.epochs:
            best = min(history.epochs, key=lambda each: each.monitored)
            held_out = "held out" if best.valid is not None else "in training"
            found[f"{stage.unit}, {held_out}{which}"] = f"{in_unit(best.monitored, stage.unit):.3f}"
            found[f"best epoch{which}"] = f"{best.number} of {history.epochs[-1].number}"
        if len(history.steps):
            found[f"steps{which}"] = f"{int(np.nanmax(history.steps)):,}"
    return found


def _recording(report: Report) -> np.ndarray | None:
    """As much of the recordings as was generated, float [samples]."""
    if not report.recordings:
        return None
    lengths = [len(sound.audio) for stage in report.stages for sound in stage.sounds if sound.audio is not None]
    return np.concatenate(report.recordings)[: max(lengths, default=5 * report.sample_rate)]


def _about(sound: CheckpointSound) -> str:
    words = [f"epoch {sound.entry.epoch}", f"step {sound.entry.step:,}"]
    if sound.entry.value is not None:
        words.append(f"monitored {sound.entry.value:.4f}")
    words += [
        f"{name}: {each.words}"
        for name, each in sound.accuracies.items()
        if each.error is not None or each.aspect.sound == "pitch"
    ]
    return ", ".join(words)


def _likelihood_words(report: Report) -> str:
    found = report.likelihood
    if found is None or not found.files:
        return "Of the best checkpoint, read from beginning to end."
    words = f"{found.total.bits_per_sample:.3f} bits per sample with the best checkpoint; "
    words += f"chance is {found.chance_bits:.3f}"
    baselines = code_baselines(report.documents.get("statistics.json", {}))
    words += "".join(f", {name} {bits(nats):.3f}" for name, nats in baselines.items()) + "."
    return " ".join([words, *(stage.verdict for stage in report.stages if stage.verdict)])


def _logged(report: Report) -> list[list[Any]]:
    """The best loss that training logged of each stage."""
    rows: list[list[Any]] = []
    for stage in report.stages:
        if stage.history.epochs:
            best = min(stage.history.epochs, key=lambda each: each.monitored)
            rows.append([stage.name, best.number, float(in_unit(best.monitored, stage.unit)), stage.unit])
    return rows


def _part(name: str, spans: list[Any], sample_rate: int) -> list[Any]:
    label = {"train": "trained on", "valid": "held out", "test": "left untouched"}[name]
    seconds = sum(stop - start for _, start, stop in spans) / sample_rate
    return [label, len({recording for recording, *_ in spans}), len(spans), float(seconds)]


def _in_a_cell(value: Any) -> str:
    if not isinstance(value, (dict, list)):
        return str(digits(value))
    entries = [f"{key}: {each}" for key, each in value.items()] if isinstance(value, dict) else [*map(str, value)]
    more = f" and {len(entries) - _MOST_ENTRIES} more" if len(entries) > _MOST_ENTRIES else ""
    return (", ".join(entries[:_MOST_ENTRIES]) + more) or "none"


def _versions(then: Mapping[str, Any]) -> list[list[str]]:
    now = {**environment(), "system": platform.system()}
    return [[name, str(then.get(name, "")), str(now.get(name, ""))] for name in dict.fromkeys([*then, *now])]
