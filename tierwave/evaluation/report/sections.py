"""A report as HTML: what was collected, in the order in which a person asks for it.

Is it well? How do the losses run? What does it sound like? How near is it? What was it made of? Measures nothing.
"""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from librosa import hz_to_mel

from tierwave.analysis.control_accuracy import Followed
from tierwave.analysis.faults import Fault, in_unit
from tierwave.analysis.plots import spectrogram_image
from tierwave.analysis.statistics import average_spectrum
from tierwave.evaluation.likelihood import Evaluation
from tierwave.evaluation.report import page
from tierwave.evaluation.report.collect import Heard, Report, Stage
from tierwave.evaluation.report.page import Line
from tierwave.runs.folder import environment

_TICKS_HZ = (100, 250, 500, 1000, 2000, 4000, 8000, 16000)
_MANY, _TOO_MANY = 12, 200  # rows of a table that are shown only when asked for, and that are left out
_ABSURD = 3.0  # times the highest bar, above which a curve is cut off


def written(report: Report) -> str:
    """The whole page."""
    run = report.run.folder.resolve()
    name = f"{run.parent.name} / {run.name}"
    body = [page.heading(name, 1), page.paragraph(_subtitle(report), "quiet"), page.facts(_facts(report))]
    body.append(_warnings(report))
    for stage in report.stages:
        body += _curves(stage, len(report.stages) > 1)
    body += _sounds(report)
    body += _nearness(report)
    body += _likelihood(report)
    body += _following(report)
    body += _corpus(report)
    body += _making(report)
    return page.document(f"{name} - Tierwave", [part for part in body if part])


def _subtitle(report: Report) -> str:
    described = report.documents.get("run.json", {})
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
            best = min(history.epochs, key=lambda each: each.told)
            held_out = "held out" if best.valid is not None else "in training"
            found[f"{stage.unit}, {held_out}{which}"] = f"{in_unit(best.told, stage.unit):.3f}"
            found[f"best epoch{which}"] = f"{best.number} of {history.epochs[-1].number}"
        if len(history.steps):
            found[f"steps{which}"] = f"{int(np.nanmax(history.steps)):,}"
    return found


def _warnings(report: Report) -> str:
    told = [f"{where}: {fault.sentence}" for where, fault in report.faults]
    told += [f"the recordings themselves: {fault.name} ({fault.found})." for fault in report.recording_faults]
    kind, words = ("warning", page.heading("Warnings", 3) + page.listed(told)) if told else ("fine", "")
    if not told:
        words = page.paragraph("No warnings: losses and sounds look as they should.")
    remarks = page.card(page.listed(report.remarks), "warning") if report.remarks else ""
    return page.card(words, kind) + remarks


# Losses --------------------------------------------------------------------------------------------------------------


def _curves(stage: Stage, several: bool) -> list[str]:
    history, unit = stage.history, stage.unit
    title = f"Losses of {stage.name}" if several else "Losses"
    if not len(history.steps) and not history.epochs:
        return [page.heading(title), page.paragraph("Nothing was logged: this stage was not trained here.", "quiet")]

    def scaled(values: Sequence[float] | np.ndarray) -> np.ndarray:
        return np.array([in_unit(float(value), unit) for value in values])

    ends = np.array(history.ends, np.float64)
    valid = [np.nan if epoch.valid is None else epoch.valid for epoch in history.epochs]
    lines = [
        Line("each step", history.steps, scaled(history.losses), 0, "thin"),
        Line("training", ends, scaled([epoch.train for epoch in history.epochs]), 0),
        Line("held out", ends, scaled(valid), 1),
    ]
    edges = np.array([history.steps.min(initial=ends[0] if len(ends) else 0), history.steps.max(initial=0)])
    for number, (name, bar) in enumerate(history.baselines.items()):
        lines.append(Line(name, edges, np.full(2, in_unit(bar, unit)), 2 + number, "dashed"))
    finite = np.concatenate([line.y[np.isfinite(line.y)] for line in lines])
    baselines = [in_unit(bar, unit) for bar in history.baselines.values()]
    limits = None
    if baselines and max(baselines) > 0 and len(finite) and finite.max() > _ABSURD * max(baselines):
        limits = (float(finite.min()), _ABSURD * max(baselines))
    drawn = page.chart(lines, across="steps", up=f"{unit} per {_element(unit)}", limits=limits)
    norms = page.chart(
        [Line("", history.steps, np.where(history.gradient_norms > 0, history.gradient_norms, np.nan), 3, "")],
        across="steps",
        up="norm of the gradient",
        logarithmic=True,
    )
    head = ["epoch", "step", f"training ({unit})", f"held out ({unit})"]
    rows = [
        [each.number, end, in_unit(each.train, unit), "" if each.valid is None else in_unit(each.valid, unit)]
        for each, end in zip(history.epochs, history.ends, strict=True)
    ]
    below = page.folded("Gradient", norms) + page.folded("Epochs", page.table(rows[-_TOO_MANY:], head))
    return [page.heading(title), page.card(drawn), below]


def _element(unit: str) -> str:
    return "sample" if unit == "bits" else "value"


# Sounds --------------------------------------------------------------------------------------------------------------


def _sounds(report: Report) -> list[str]:
    body = [page.heading("Sounds")]
    if report.asked:
        body.append(page.paragraph(f"Asked for: {report.asked}.", "quiet"))
    if report.recordings:
        rate = report.sample_rate
        lengths = [len(heard.audio) for stage in report.stages for heard in stage.sounds if heard.audio is not None]
        sound = np.concatenate(report.recordings)[: max(lengths, default=5 * rate)]
        body.append(_player("a recording, held out", "", sound, rate, []))
    for stage in report.stages:
        if len(report.stages) > 1 and stage.sounds:
            body.append(page.heading(f"Checkpoints of {stage.name}", 3))
        best = stage.part.best().name if stage.part.checkpoints else ""
        for heard in stage.sounds:
            body.append(_checkpoint(heard, heard.entry.name == best, stage.unit, report.sample_rate))
    if not any(stage.sounds for stage in report.stages):
        body.append(page.paragraph("No checkpoint was heard.", "quiet"))
    return body


def _checkpoint(heard: Heard, best: bool, unit: str, rate: int) -> str:
    entry = heard.entry
    about = f"epoch {entry.epoch}, step {entry.step:,}"
    if entry.value is not None:
        about += f", monitored {entry.value:.4f}"
    errors = [
        f"{name}: {each.told}"
        for name, each in heard.followed.items()
        if each.error is not None or each.aspect.sound == "pitch"
    ]
    if heard.audio is None:
        charts = "".join(
            page.chart([Line("", track.times, track.values, index)], across="seconds", up=name)
            for index, (name, track) in enumerate(heard.curves.items())
        )
        return page.card(_named(entry.name, best) + page.paragraph(about, "quiet") + charts)
    return _player(entry.name, ", ".join([about, *errors]), heard.audio, rate, heard.faults, best)


def _named(name: str, best: bool) -> str:
    return f"<b>{page.text(name)}</b>" + (' <span class="badge">best</span>' if best else "")


def _player(name: str, about: str, sound: np.ndarray, rate: int, faults: Sequence[Fault], best: bool = False) -> str:
    told = page.paragraph("; ".join(f"{fault.name} ({fault.found})" for fault in faults), "fault") if faults else ""
    left = f"<div>{_named(name, best)}{page.paragraph(about, 'quiet')}{told}</div>"
    image = page.picture(spectrogram_image(sound, rate), f"spectrogram of {name}")
    return page.card(f'<div class="sound">{left}<div>{image}{page.audio(sound, rate)}</div></div>')


# How near ------------------------------------------------------------------------------------------------------------


def _nearness(report: Report) -> list[str]:
    made = [heard.audio for stage in report.stages[-1:] for heard in stage.sounds[:1] if heard.audio is not None]
    if not made or not report.recordings:
        return []
    rate = report.sample_rate
    lines = []
    for name, sound, colour in (("recordings", np.concatenate(report.recordings), 2), ("generated", made[0], 0)):
        spectrum = average_spectrum(sound, rate)
        lines.append(Line(name, hz_to_mel(np.linspace(0.0, rate / 2.0, len(spectrum))), spectrum, colour))
    ticks = {
        float(hz_to_mel(tick)): f"{tick // 1000}k" if tick >= 1000 else str(tick)
        for tick in _TICKS_HZ
        if tick <= rate / 2.0
    }
    drawn = page.chart(lines, across="Hz", up="average spectrum, dB per Hz", ticks=ticks)
    body = [page.heading("How near it comes"), page.card(drawn)]
    if report.comparison is not None:
        words = (
            f"Log-mel spectra of the newest sound ({report.comparison.seconds[0]:.1f} s) against what was held out "
            f"({report.comparison.seconds[1]:.1f} s); beside it the recordings against themselves, and white noise."
        )
        body.append(page.card(page.verbatim(report.comparison.table()) + page.paragraph(words, "quiet")))
    return body


def _likelihood(report: Report) -> list[str]:
    body = [page.heading("Likelihood of what was held out")]
    if report.likelihood is not None:
        body.append(page.paragraph(_in_words(report.likelihood, report)))
        table = page.verbatim(report.likelihood.table())
        many = len(report.likelihood.files) > _MANY
        return [*body, page.folded("Every recording", table) if many else page.card(table)]
    rows = []
    for stage in report.stages:
        if stage.history.epochs:
            best = min(stage.history.epochs, key=lambda each: each.told)
            rows.append([stage.name, best.number, float(in_unit(best.told, stage.unit)), stage.unit])
    if not rows:
        return [*body, page.paragraph("None was logged.", "quiet")]
    return [*body, page.card(page.table(rows, ["stage", "epoch", "best logged", "in"]))]


def _in_words(found: Evaluation, report: Report) -> str:
    if not found.files:
        return "Of the best checkpoint, read from beginning to end."
    words = f"{found.total.bits_per_sample:.3f} bits per sample with the best checkpoint; "
    words += f"chance is {found.chance_bits:.3f}"
    statistics = report.documents.get("statistics.json", {})
    if "markov_bits" in statistics:
        words += f", the code histogram {statistics['histogram_bits']:.3f}, a first-order Markov model "
        words += f"{statistics['markov_bits']:.3f}"
    return words + "."


def _following(report: Report) -> list[str]:
    latest = next((stage.sounds[0] for stage in reversed(report.stages) if stage.sounds), None)
    charts = [] if latest is None else [_asked_and_measured(name, each) for name, each in latest.followed.items()]
    if not charts and report.following is None:
        return []
    body = [page.heading("Parameters, asked for and measured")]
    if charts:
        body.append(page.paragraph(f"Of the newest sound: {report.asked}.", "quiet"))
        body += [page.card(chart) for chart in charts]
    if report.following is not None:
        body.append(page.card(page.verbatim(report.following.table())))
    else:
        body.append(page.paragraph("With --controls, every value is asked for and summed up.", "quiet"))
    return body


def _asked_and_measured(name: str, each: Followed) -> str:
    asked = "asked for" if each.aspect.absolute else "asked for, shifted to fit"
    lines = [Line(asked, each.times, each.aligned, 1, "dashed"), Line("measured", each.times, each.measured, 0)]
    return page.chart(lines, across="seconds", up=f"{name} ({each.aspect.unit}), {each.told}".replace(" ()", ""))


# What it was made of -------------------------------------------------------------------------------------------------


def _corpus(report: Report) -> list[str]:
    statistics = report.documents.get("statistics.json", {})
    split = report.documents.get("split.json", {})
    body = [page.heading("Recordings")]
    if statistics:
        rows = [[name.replace("_", " "), _told(value)] for name, value in statistics.items()]
        body.append(page.card(page.table(rows)))
    parts = [name for name in ("train", "valid", "test") if split.get(name)]
    if parts:
        rate = report.sample_rate
        counted = [
            [
                {"train": "trained on", "valid": "held out", "test": "left untouched"}[part],
                len({name for name, *_ in split[part]}),
                len(split[part]),
                float(sum(stop - start for _, start, stop in split[part]) / rate),
            ]
            for part in parts
        ]
        how = "whole recordings" if split.get("method") == "files" else "stretches spread over the recordings"
        body.append(page.card(page.table(counted, ["part", "recordings", "stretches", "seconds"])))
        body.append(page.paragraph(f"Held out are {how}.", "quiet"))
        listed = [
            [part, name, float(start / rate), float(stop / rate)] for part in parts for name, start, stop in split[part]
        ]
        rest = len(listed) - _TOO_MANY
        shown = page.table(listed[:_TOO_MANY], ["part", "recording", "from (s)", "to (s)"])
        if rest > 0:
            shown += page.paragraph(f"and {rest} more, in split.json", "quiet")
        body.append(page.folded("Every stretch", shown))
    return body if len(body) > 1 else []


def _told(value: Any) -> str:
    if isinstance(value, (dict, list)):
        entries = [f"{key}: {each}" for key, each in value.items()] if isinstance(value, dict) else [*map(str, value)]
        more = f" and {len(entries) - 20} more" if len(entries) > 20 else ""
        return (", ".join(entries[:20]) + more) or "none"
    return str(page.number(value))


def _making(report: Report) -> list[str]:
    described = report.documents.get("run.json", {})
    config = report.documents["run.config.json"]
    body = [page.heading("How it was made")]
    command = described.get("command")
    if isinstance(command, list):
        body.append(page.card(f"<code>{page.text(shlex.join(map(str, command)))}</code>"))
    body.append(page.folded("Config", page.verbatim(json.dumps(config, indent=1, ensure_ascii=False))))
    schema = report.documents.get("schema.json")
    if schema:
        text = json.dumps(schema["parameters"], indent=1, ensure_ascii=False)
        body.append(page.folded("Parameters", page.verbatim(text)))
    body.append(page.heading("Versions", 3))
    body.append(page.card(page.table(_versions(described.get("versions", {})), ["", "trained with", "reported with"])))
    return body


def _versions(then: Mapping[str, Any]) -> list[list[str]]:
    now = {**environment(), "system": platform.system()}
    return [[name, str(then.get(name, "")), str(now.get(name, ""))] for name in dict.fromkeys([*then, *now])]
