"""Controls measured from the recordings of a corpus, once: the curves are kept beside the cache of codes.

They are measured from what the codes say, so they describe what a network hears, after resampling and normalising.
A file of curves is named by the sound and the way it was measured: equal sound is measured once, wherever it lies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tierwave.analysis.features import FEATURES, Analysis, measure
from tierwave.analysis.statistics import SILENCE_DBFS
from tierwave.controls.files import read_control_file, write_controls
from tierwave.controls.sources import ControlSources
from tierwave.controls.tracks import Controls, Track
from tierwave.data.corpus import Corpus
from tierwave.errors import RunError
from tierwave.system.parallel import parallel_map

FOLDER = "controls"  # of the cache
VOICING = "voicing"  # comes with a pitch: 1 where there is one
PITCHES = ("midi", "pitch")
_FEATURE_OF = {name: feature for feature, names in FEATURES.items() for name in names if name != VOICING}
_FEATURE_OF[VOICING] = "midi"


def measurable(names: Collection[str]) -> list[str]:
    """Those of `names` that can be measured from a sound."""
    return [name for name in names if name in _FEATURE_OF]


def declared(name: str, sample_rate: int) -> dict[str, Any]:
    """What a schema knows of a measured control: its units."""
    units = Analysis((_FEATURE_OF[name],)).declared(sample_rate)[name]["units"]
    return {} if units is None else {"units": units}


def measure_sound(audio: np.ndarray, sample_rate: int, names: Sequence[str]) -> Controls:
    """The measured controls of a sound `[samples]`, in the order of `names`."""
    features = tuple(dict.fromkeys(_FEATURE_OF[name] for name in names))
    found = measure(audio, sample_rate, Analysis(features)) if features else {}
    return {name: found[name] for name in names}


def complete(
    sources: ControlSources,
    corpus: Corpus,
    decode: Callable[[np.ndarray], np.ndarray],
    names: Sequence[str],
    measured: Collection[str],
    *,
    cache_dir: Path,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[tuple[Controls, ...], list[str]]:
    """The controls `names` of every recording, from its sources, or measured where it has none of that name and
    `measured` has; a measured pitch brings its voicing. And which names were measured of any recording.

    The other arguments are those of `measure_corpus`. Raises RunError as `ControlSources.read`.
    """
    found = [sources.read(recording.name) for recording in corpus.recordings]
    wanted = [[name for name in measured if name not in each.names] for each in found]
    curves = measure_corpus(corpus, decode, wanted, cache_dir=cache_dir, jobs=jobs, progress=progress)
    controls = tuple(
        {**own, **each.controls([name for name in names if name not in missing])}
        for each, missing, own in zip(found, wanted, curves, strict=True)
    )
    return controls, [name for name in measured if any(name in missing for missing in wanted)]


def measure_corpus(
    corpus: Corpus,
    decode: Callable[[np.ndarray], np.ndarray],
    wanted: Sequence[Collection[str]],
    *,
    cache_dir: Path,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Controls, ...]:
    """The measured controls of every recording; with a pitch comes its voicing.

    decode: a picklable function from codes to amplitudes; wanted: the names to measure, by recording; jobs: processes.
    What an earlier call has measured is read again. progress(done, total) counts files that are measured now.
    """
    folder = cache_dir / FOLDER
    tasks = [
        (number, feature, _file(folder, corpus.recordings[number].digest, corpus.sample_rate, feature))
        for number, names in enumerate(wanted)
        for feature in dict.fromkeys(_FEATURE_OF[name] for name in names)
    ]
    curves: dict[tuple[int, str], Controls] = {}
    missing = {}
    for number, feature, path in tasks:
        kept = _kept(path, feature)
        if kept is None:
            missing[path] = _Task(corpus, number, feature, path)
        else:
            curves[number, feature] = kept
    work = partial(_measured, decode=decode)
    for done, _ in enumerate(parallel_map(work, list(missing.values()), jobs=min(jobs, max(1, len(missing)))), 1):
        if progress is not None:
            progress(done, len(missing))
    for number, feature, path in tasks:
        if (number, feature) not in curves:
            curves[number, feature] = read_control_file(path).tracks()
    found: list[dict[str, Track]] = [{} for _ in wanted]
    for (number, _), tracks in curves.items():
        found[number] |= tracks
    return tuple(found)


def voiced_share(controls: Sequence[Controls]) -> float:
    """The share of frames with a pitch among those that sound, 0 to 1; of recordings whose voicing was measured."""
    voiced = sounding = 0
    for tracks in controls:
        if VOICING in tracks:
            heard = np.ones(len(tracks[VOICING].values), bool)
            if "level" in tracks:
                heard = tracks["level"].at(tracks[VOICING].times) > SILENCE_DBFS
            sounding += int(heard.sum())
            voiced += int(((tracks[VOICING].values > 0) & heard).sum())
    return voiced / sounding if sounding else 0.0


@dataclass(frozen=True)
class _Task:
    corpus: Corpus
    number: int
    feature: str
    path: Path


def _measured(task: _Task, decode: Callable[[np.ndarray], np.ndarray]) -> None:
    from threadpoolctl import threadpool_limits

    audio = decode(task.corpus.read(task.number))
    with threadpool_limits(1):  # the last digits of a matrix product depend on how many threads share it
        tracks = measure(audio, task.corpus.sample_rate, Analysis((task.feature,)))
    write_controls(task.path, tracks)


def _file(folder: Path, digest: str, sample_rate: int, feature: str) -> Path:
    key = hashlib.blake2b(repr((digest, sample_rate, Analysis((feature,)))).encode(), digest_size=12)
    return folder / f"{key.hexdigest()}.csv"


def _kept(path: Path, feature: str) -> Controls | None:
    """The curves in a file; None where there is none, or it is damaged."""
    if not path.is_file():
        return None
    try:
        tracks = read_control_file(path).tracks()
    except (RunError, OSError):
        return None
    return tracks if set(tracks) == set(FEATURES[feature]) else None
