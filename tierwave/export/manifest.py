"""The generation step of a run as files: its graphs, and manifest.json, which says how to drive them.

A host keeps the last codes, calls the graphs of a stage at every step of theirs, slowest first, and draws the next code
from the logits; docs/sharing.md has it line by line. Knows runs and `StepGraph`s; no network.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tierwave
from tierwave.controls.schema import Parameter
from tierwave.errors import UsageError
from tierwave.files.names import json_text
from tierwave.files.writing import write_bytes, write_text
from tierwave.generation.load import Trained

if TYPE_CHECKING:
    from tierwave.nn.step_graph import StepGraph

NAME = "manifest.json"
VERSION = 1  # of the manifest; a host should refuse one that it does not know
MAPPING = (
    "what controls and values hold: (f(v) - f(lo)) / (f(hi) - f(lo)) of the raw value v, clipped to lo and hi unless "
    "outside is allow; f(v) is v for the scale linear, ln(v) for log, ln(1 + v) for log1p; 0 where lo equals hi; a "
    "category is the number of its name"
)


def write_steps(trained: Trained, folder: Path, formats: Sequence[str]) -> None:
    """The graphs of every stage in these formats ("onnx", "litert"), and the manifest, into `folder`.

    Raises UsageError for a run whose family has no such step, a format that cannot hold one, or a missing library.
    """
    steps_of = [trained.family.step_graphs(model) for model in trained.models]
    if not all(steps_of):
        raise UsageError(
            f"{' and '.join(f'--{name}' for name in formats)}: a {trained.config.model} network makes a spectrogram "
            "in passes over tiers, not sound step by step, so it has no step to export: leave it out"
        )
    from tierwave.export.formats import FORMATS

    stages = trained.family.stages(trained.config)
    described = []
    for stage, steps in zip(stages, steps_of, strict=True):
        graphs = []
        for graph in steps:
            name = graph.name if len(stages) == 1 else f"{stage}_{graph.name}"
            files = {}
            for kind in formats:
                suffix, convert = FORMATS[kind]
                files[kind] = name + suffix
                write_bytes(folder / files[kind], convert(graph))
            graphs.append({"name": graph.name, "files": files, **_described(graph)})
        about = {"name": stage, **_stage(trained, stage), "controls_at": steps[0].controls_at}
        described.append({**about, "graphs": graphs})
    document = {
        "manifest": VERSION,
        "made_by": f"tierwave {tierwave.__version__}",
        "model": trained.config.model,
        "sample_rate": trained.sample_rate,
        "parameters": [_parameter(trained, parameter) for parameter in trained.schema.parameters],
        "mapping": MAPPING,
        "stages": described,
    }
    text = json_text(document, allow_nan=False)
    # Long tables of numbers in one line each.
    text = re.sub(r"\[\s+([-+.,\de\s]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    write_text(folder / NAME, text + "\n")


def _stage(trained: Trained, stage: str) -> dict[str, Any]:
    """What a stage makes, from what, how often a second, and how its codes are heard."""
    product = trained.family.product(trained.config, stage)
    about = {
        "generates": list(product.generates),
        "conditioned_on": list(product.conditioned_on),
        "rate": trained.sample_rate if product.rate is None else product.rate,
    }
    quantizer = product.quantizer
    if quantizer is None:
        return about
    decoded = [float(f"{value:.9g}") for value in quantizer.table()]
    return about | {
        "quantizer": {
            "type": quantizer.q_type, "levels": quantizer.levels, "silence": quantizer.silence, "decoded": decoded,
        }
    }  # fmt: skip


def _described(graph: StepGraph) -> dict[str, Any]:
    """Inputs and outputs in order."""
    inputs = []
    for name, spec in graph.inputs.items():
        about: dict[str, Any] = {"name": name, "dtype": spec.dtype.name, "shape": spec.shape.as_list()}
        if f"next_{name}" in graph.outputs:
            start = graph.initial.get(name)
            about |= {"next": f"next_{name}", "initial": None if start is None else [float(v) for v in start]}
        inputs.append(about)
    shapes = graph.output_shapes()
    outputs = [{"name": name, "dtype": shapes[name][1], "shape": shapes[name][0]} for name in graph.outputs]
    return {"every": graph.every, "inputs": inputs, "outputs": outputs}


def _parameter(trained: Trained, parameter: Parameter) -> dict[str, Any]:
    lo, hi = parameter.span
    return {
        "name": parameter.name,
        "units": parameter.units,
        "lo": lo,
        "hi": hi,
        "scale": parameter.scale,
        "interp": parameter.interp,
        "outside": parameter.outside,
        "categories": list(parameter.categories),
        "trained_on": trained.values.get(parameter.name),
    }
