"""What a corpus and a normalisation keep between two commands, damaged: what was there before, or refused, or
made again; never another sound."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import mutators
from melnet.config import Config
from melnet.front_end import Normaliser
from melnet.generation import MelStream
from rule import Kind, Refusal, Wrong, judged
from tierwave.audio.quantize import Quantizer
from tierwave.audio.writer import write_wav
from tierwave.controls.schema import Schema
from tierwave.data.cache import DOCUMENT, load_corpus
from tierwave.data.corpus import Corpus
from tierwave.generation.request import Request
from tierwave.runs.folder import Run

RATE = 4000
ENCODER = Quantizer("linear", 32)
MEL = Config.model_validate({"audio": {"mel_channels": 8}, "tiers": 2, "layers": [2, 1], "text": {}})
PREPARED: dict[str, Any] = {
    **Normaliser(np.linspace(-9.0, -2.0, 8), 1.5).to_document(),
    "text": {"alphabet": " abcdé", "longest": 12},
}


@functools.cache
def place() -> Path:
    """Recordings, their cache whole and as an interrupted command leaves it."""
    folder = Path(tempfile.mkdtemp(prefix="tierwave-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for number in range(3):
        time = np.arange(300 + 40 * number) / RATE
        sound = (0.2 + 0.1 * number) * np.sin(2 * np.pi * 300 * (1 + number) * time)
        write_wav(folder / "data" / f"t{number}.wav", sound.astype(np.float32), RATE)
    corpus_in(folder / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tierwave.data.cache.write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            corpus_in(folder / "begun")
    assert list((folder / "begun").rglob("000002.json"))
    return folder


def interrupted(path: Path, content: bytes) -> None:
    raise KeyboardInterrupt


def corpus_in(cache: Path, data: Path | None = None) -> Corpus:
    return load_corpus(data or cache.parent / "data", ENCODER, cache_dir=cache, normalize="corpus")


def damage(paths: list[Path], rng: Random) -> None:
    """One or two of the files, or one of them in place of another."""
    for path in rng.sample(paths, min(len(paths), rng.choice((1, 1, 2)))):
        if rng.random() < 0.1:
            shutil.copy(rng.choice(paths), path.with_name("copy"))
            path.with_name("copy").replace(path)
        elif path.suffix == ".json" and rng.random() < 0.7:
            path.write_bytes(mutators.json_bytes(json.loads(path.read_bytes()), rng))
        else:
            path.write_bytes(mutators.mutated(path.read_bytes(), rng))


def make_cache(rng: Random, folder: Path) -> Path:
    """The cache of a corpus."""
    shutil.copytree(place() / "whole", folder / "cache")
    paths = sorted((folder / "cache").rglob("*.*"))
    damage([path for path in paths if path.name == DOCUMENT] if rng.random() < 0.8 else paths, rng)
    return folder / "cache"


def make_begun(rng: Random, folder: Path) -> Path:
    """The cache of a corpus that is not finished."""
    shutil.copytree(place() / "begun", folder / "cache")
    damage(sorted((folder / "cache").rglob("*.*")), rng)
    return folder / "cache"


def attempt_cache(cache: Path) -> str:
    """As training opens a corpus."""
    found = judged(lambda: corpus_in(cache, place() / "data"))
    if isinstance(found, Refusal):
        if str(cache) not in found.sentence:
            raise Wrong(f"refused without the cache: {found.sentence}", "not named")
        return "refused"
    whole = corpus_in(place() / "whole")
    about = [(each.recordings, each.gain, each.sample_rate, each.left_out) for each in (found, whole)]
    if about[0] != about[1]:
        raise Wrong(f"{about[1]} became {about[0]}", "another corpus")
    for number in range(len(whole.recordings)):
        if not np.array_equal(found.read(number), whole.read(number)):
            raise Wrong(f"recording {number} has other codes", "other codes")
    return f"{found.taken_over} taken over" if found.taken_over else "opened"


def make_prepared(rng: Random, folder: Path) -> Path:
    """`prepared.json` of a MelNet that reads."""
    (folder / "prepared.json").write_bytes(mutators.json_bytes(PREPARED, rng))
    return folder


def attempt_prepared(folder: Path) -> str:
    """As generation begins with it."""

    def begun() -> MelStream:
        prepared = Run(folder).read("prepared.json")
        request = Request(seconds=0.1, sequences=1, options={"text": "bad"})
        return MelStream([], MEL, request, sample_rate=RATE, schema=Schema(parameters=()), dataset_state=prepared)

    stream = judged(begun)
    if isinstance(stream, Refusal):
        return "refused"
    heard = judged(lambda: stream.normaliser.denormalise(np.zeros((2, 8), np.float32)))
    if isinstance(heard, Refusal) or heard.shape != (2, 8) or not np.isfinite(heard).all():
        raise Wrong(f"no spectrogram: {heard}", "no spectrogram")
    return "read"


KINDS = [
    Kind("cache", make_cache, attempt_cache),
    Kind("unfinished cache", make_begun, attempt_cache),
    Kind("prepared", make_prepared, attempt_prepared),
]


@pytest.mark.parametrize("kind", KINDS, ids=attrgetter("name"))
def test_what_is_kept_is_taken_as_it_was_or_not_at_all(kind: Kind, tried: Callable[[Kind], None]) -> None:
    tried(kind)
