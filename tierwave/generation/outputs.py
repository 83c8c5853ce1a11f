"""Files beside a generated sound: the curves that it follows or was made of, and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tierwave.controls.files import write_controls, write_take
from tierwave.controls.schema import Schema
from tierwave.files.writing import write_array
from tierwave.generation.request import Request, Stream


def write_curves(stream: Stream, path: Path, request: Request, voice: int = 0) -> list[Path]:
    """CSVs beside the sound `path`: what steered it, and what each tier generated."""
    written = []
    if controls := stream.record(voice):
        written.append(path.with_name(f"{path.stem}_controls.csv"))
        write_take(written[-1], controls, stream.sample_rate, averaged=request.averaged)
    for tier, curves in stream.curves(request.seconds, voice).items():
        written.append(path.with_name(f"{path.stem}_{tier}.csv"))
        write_controls(written[-1], curves)
    return written


def draw_sound(
    path: Path, sound: np.ndarray, rate: int, stream: Stream, request: Request, schema: Schema, voice: int = 0
) -> Path:
    """A picture beside the sound `path`, float32 `[samples]` at `rate` Hz, with the curves of `schema` below it."""
    from tierwave.analysis.plots import controls_picture  # most sounds have no picture

    curves = {name: track for name, track in stream.record(voice).items() if name in schema.names}
    for made in stream.curves(request.seconds, voice).values():
        curves = {**curves, **{name: track for name, track in made.items() if name not in curves}}
    picture, title = path.with_suffix(".png"), f"{path.stem} (temperature {request.temperatures[voice]:g})"
    controls_picture(picture, sound, rate, curves, schema, title)
    return picture


def draw_stages(stream: Stream, path: Path, voice: int = 0) -> list[Path]:
    """A picture beside the sound `path` of every spectrogram that was made on the way, and of where a text was read."""
    if not (stages := stream.stages(voice)):
        return []
    from tierwave.analysis.plots import alignment_picture, stages_picture

    pictures = [path.with_name(f"{path.stem}_stages.png")]
    stages_picture(pictures[0], stages, stream.duration(), title=path.stem)
    if (read := stream.alignment(voice)) is not None:
        text, alignment = read
        pictures.append(path.with_name(f"{path.stem}_text.png"))
        alignment_picture(pictures[-1], alignment, text, stream.duration() / max(1, len(alignment)))
    return pictures


def write_spectrogram(stream: Stream, path: Path, voice: int = 0) -> list[Path]:
    """The last spectrogram as an array beside the sound `path`."""
    if not (stages := stream.stages(voice)):
        return []
    array = path.with_suffix(".npy")
    write_array(array, list(stages.values())[-1])
    return [array]
