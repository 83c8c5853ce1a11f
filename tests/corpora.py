"""Corpora of codes that a test has made, as files such as the cache holds."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tierwave.data.corpus import Corpus, Recording


def recording_of(name: str, samples: int, digest: str = "", rate: int = 16000, **levels: Any) -> Recording:
    usual: dict[str, Any] = {"name": name, "samples": samples, "digest": digest, "file_rate": rate, "channels": 1}
    usual |= {"peak": 1.0, "dc": 0.0, "rms": 0.1, "silent_share": 0.0, "clipped_share": 0.0}
    return Recording(**(usual | levels))


def without_codes(recordings: Sequence[Recording], rate: int = 16000, normalize: Any = "none") -> Corpus:
    """A corpus of which only the recordings matter."""
    return Corpus(tuple(recordings), (), rate, 1.0, (), np.dtype(np.uint8), normalize)


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tierwave-corpora-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def corpus_of(sounds: Sequence[np.ndarray], rate: int = 16000, names: Sequence[str] | None = None) -> Corpus:
    """Codes `[samples]` of recordings, all of one dtype."""
    folder = Path(tempfile.mkdtemp(dir=_folder()))
    files = [folder / f"{number:06d}.codes" for number in range(len(sounds))]
    for path, sound in zip(files, sounds, strict=True):
        sound.tofile(path)
    names = names or [f"{number}.wav" for number in range(len(sounds))]
    recordings = [
        recording_of(name, len(sound), str(number), rate)
        for number, (name, sound) in enumerate(zip(names, sounds, strict=True))
    ]
    return Corpus(tuple(recordings), (), rate, 1.0, tuple(files), sounds[0].dtype)
