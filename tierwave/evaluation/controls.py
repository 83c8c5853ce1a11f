"""Generated sounds of a trained network, measured: how near they are to requested controls, and to recordings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tierwave.analysis.control_accuracy import accuracy_picture, measure_controls
from tierwave.analysis.control_scenarios import scenarios
from tierwave.analysis.control_summary import ControlSummary, Result, summarise
from tierwave.analysis.statistics import spectral_comparison
from tierwave.audio.finding import find_audio
from tierwave.audio.recordings import AudioError, load
from tierwave.audio.writer import write_wav
from tierwave.errors import AudioWarning, UsageError
from tierwave.files.folders import allowed_name, make_own, refuse_file
from tierwave.generation.load import Trained
from tierwave.generation.request import Request
from tierwave.system.progress import Count, uncounted

SIDE_BY_SIDE = 10  # sounds that are generated at a time


def evaluate_controls(
    trained: Trained,
    *,
    names: Sequence[str] | None = None,
    seconds: float = 2.0,
    plain: Request,
    output_dir: Path | None = None,
    progress: Count | None = None,
) -> ControlSummary:
    """How near generated sounds are to the controls requested: generated at `scenarios`, measured, summed up.

    names: of controls, by default all that can be measured. plain: temperature, top_k, top_p and random seed.
    output_dir: of every sound, with a picture of the curves requested and measured. Raises UsageError for a run without
    controls.
    """
    steerable = trained.family.steerable(trained.config)
    if not steerable:
        raise UsageError(f"{trained.run.folder} was trained without controls, so there is nothing to follow")
    schema = trained.schema.select(steerable)
    requests = scenarios(schema, trained.values, names=names or None, seconds=seconds)
    if not requests:
        raise UsageError(
            f"none of {', '.join(steerable)} can be measured in a sound: pitch, loudness, brightness and what "
            "`python -m tierwave controls extract` measures can"
        )
    results = []
    if output_dir is not None:
        refuse_file("--output_dir", output_dir)
        make_own(output_dir)
    for start in range(0, len(requests), SIDE_BY_SIDE):
        group = requests[start : start + SIDE_BY_SIDE]
        request = replace(
            plain,
            sequences=len(group),
            seconds=seconds,
            temperature=plain.temperature[:1],
            controls=tuple(scenario.controls for scenario in group),
            random_seed=plain.random_seed + start,
        )
        stream = trained.stream(request)
        stream.progress = progress or uncounted
        sounds = stream.render(request.samples(trained.sample_rate))
        for number, (scenario, sound) in enumerate(zip(group, sounds, strict=True)):
            accuracies = measure_controls(sound, trained.sample_rate, scenario.controls, schema)
            results.append(Result(scenario, accuracies))
            if output_dir is not None:
                path = output_dir / allowed_name(f"{scenario.kind} {scenario.name}")
                write_wav(f"{path}.wav", sound, trained.sample_rate)
                accuracy_picture(f"{path}.png", accuracies, sound, trained.sample_rate, title=scenario.name)
            if progress is not None:
                progress("Generating and measuring", start + number + 1, len(requests))
    return summarise(results)


def compare_sounds(trained: Trained, data_dir: Path, sounds: Sequence[Path]) -> dict[str, float]:
    """`spectral_comparison` of generated sounds (files or folders) with all recordings, at the run's rate."""

    def loaded(paths: Sequence[Path], *, own: bool = False) -> list[np.ndarray]:
        usable = []
        for path in find_audio(paths, own=own):
            try:
                usable.append(load(path, trained.sample_rate)[0])
            except AudioError as error:
                if own:  # of the recordings the evaluation has named it
                    warnings.warn(AudioWarning(f"left out: {error}"), stacklevel=2)
        return usable

    found = loaded(sounds, own=True)
    if not found:
        raise UsageError(f"--sounds {' '.join(map(str, sounds))} holds no sound: name wav files that were generated")
    return spectral_comparison(loaded([data_dir]), found, trained.sample_rate)
