"""Recordings that are damaged: read, or left out with the reason; and what was not read is told."""

from __future__ import annotations

import functools
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

import mutators
from rule import LONGEST_SENTENCE, Kind, Refusal, Wrong, judged
from tierwave.audio.arrays import find_rows, read_row
from tierwave.audio.recordings import LENGTH_TOLERANCE, AudioInfo, open_recording, probe
from tierwave.errors import AudioError

FFMPEG = shutil.which("ffmpeg")
FRAMES = 4000
MORE_FRAMES = {"flac": 20_000, "mp3": 20_000, "m4a": 20_000, "ogg": 60_000}  # a frame or a page is not the whole
FORMATS = {
    "wav": "PCM_U8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW IMA_ADPCM MS_ADPCM GSM610 G721_32 NMS_ADPCM_24",
    "aiff": "PCM_S8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW IMA_ADPCM DWVW_16",
    "au": "PCM_S8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW G721_32 G723_24",
    "caf": "PCM_S8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW ALAC_16 ALAC_24",
    "flac": "PCM_S8 PCM_16 PCM_24",
    "ogg": "VORBIS OPUS",
    "mp3": "MPEG_LAYER_III",
    "w64": "PCM_16 PCM_24 FLOAT IMA_ADPCM",
    "rf64": "PCM_16 FLOAT",
    "voc": "PCM_U8 PCM_16 ULAW",
    "nist": "PCM_16 PCM_24 ULAW",
    "svx": "PCM_S8 PCM_16",
    "paf": "PCM_16 PCM_24",
    "xi": "DPCM_8 DPCM_16",
}
NO_LENGTH = ("paf", "xi")  # is told by their headers, as libsndfile writes them
BLOCK = {"mp3": 1152, "m4a": 2048}  # samples of which a decoder may keep some to itself at the end
SUFFIXES = {"nist": "sph"}


class Given(NamedTuple):
    """A damaged recording. way: what was done to it; frames: how many, at its own rate, are there or must be missed
    aloud; resampled: the rate it is read at; ffmpeg: whether there is one."""

    path: Path
    way: str
    frames: int
    resampled: int | None
    ffmpeg: bool


def _sound(frames: int, channels: int, rate: int) -> np.ndarray:
    time = np.arange(frames) / rate
    noise = np.random.default_rng(1).normal(0, 0.1, frames)
    sound = np.where(time < time[-1] / 3, noise, 0.3 * np.sin(2 * np.pi * 220 * time))
    return np.repeat(sound[:, None], channels, axis=1)


@functools.cache
def good(suffix: str, subtype: str, channels: int, rate: int, frames: int = FRAMES) -> bytes:
    """A whole recording."""
    frames = MORE_FRAMES.get(suffix, frames)
    if suffix == "m4a":
        wav = good("wav", "PCM_16", channels, rate, frames)
        coding = ["-c:a", subtype, "-movflags", "frag_keyframe+empty_moov", "-f", "mp4", "-"]
        command = ["ffmpeg", "-loglevel", "error", "-f", "wav", "-i", "-", *coding]
        return subprocess.run(command, input=wav, capture_output=True, check=True).stdout
    file = io.BytesIO()
    soundfile.write(file, _sound(frames, channels, rate), rate, subtype, format=suffix.upper())
    return file.getvalue()


def make(suffix: str) -> Callable[[Random, Path], Given]:
    """A maker of damaged files of a format."""

    def whole(rng: Random) -> bytes:
        subtype = rng.choice(("aac", "alac") if suffix == "m4a" else FORMATS[suffix].split())
        channels = rng.choice((1, 1, 2))
        rate = rng.choice((8000, 16000, 44100))
        while suffix != "m4a" and not _can_be(suffix, subtype, channels, rate):
            channels, rate = 1, 8000 if rate == 16000 else 16000
        return good(suffix, subtype, channels, rate)

    def damaged(rng: Random, folder: Path) -> Given:
        path = folder / f"take.{SUFFIXES.get(suffix, suffix)}"
        content = whole(rng)
        frames, chance = frames_of(content, path.suffix), rng.random()
        if chance < 0.2:
            way, content = "cut off", content[: rng.randrange(len(content) // 2, len(content))]
        elif chance < 0.3:
            way, middle = "damaged within", rng.randrange(len(content) // 2, len(content))
            content = content[:middle] + rng.choice(mutators.BYTES)(content[middle:], rng)
        elif chance < 0.35:
            way, content = "twice", content + content
            frames *= 2
        else:
            ways = [mutators.mutated_chunks] * 6 if mutators.chunks_of(content) else []
            way, frames, content = "anything", 0, mutators.mutated(content, rng, ways)
        if suffix in NO_LENGTH:
            frames = 0
        path.write_bytes(content)
        # Most files that libsndfile refuses go to ffmpeg, a process each: mostly there is none.
        return Given(path, way, frames, rng.choice((None, None, 16000)), suffix == "m4a" or rng.random() < 0.03)

    return damaged


@functools.cache
def frames_of(content: bytes, suffix: str) -> int:
    """How many frames a whole recording gives; codecs pad."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"good{suffix}"
        path.write_bytes(content)
        found = judged(lambda: read(path, None), (AudioError,))
        if isinstance(found, Refusal) or found[2] or len(found[0]) < FRAMES:
            raise Wrong(f"a whole recording is read as {found}", "not whole")
        return len(found[0])


@functools.cache
def _can_be(suffix: str, subtype: str, channels: int, rate: int) -> bool:
    try:
        return bool(good(suffix, subtype, channels, rate))
    except soundfile.SoundFileError:
        return False


def read(path: Path, rate: int | None) -> tuple[np.ndarray, AudioInfo, list[str]]:
    """As training, chunking and seeds read a recording: its sound, what its header says, and what was told of it."""
    with open_recording(path) as reading:
        blocks = list(reading.blocks(rate))
        return np.concatenate(blocks), reading.info, reading.remarks


def attempt(given: Given) -> str:
    """Reads a recording, and counts."""
    before = os.environ["PATH"]
    if not given.ffmpeg:
        os.environ["PATH"] = ""
    try:
        probed = judged(lambda: probe(given.path), (AudioError,))
        found = judged(lambda: read(given.path, given.resampled), (AudioError,))
    finally:
        os.environ["PATH"] = before
    if isinstance(found, Refusal):
        return "refused"
    sound, info, remarks = found
    if isinstance(probed, Refusal):
        raise Wrong(f"{len(sound)} samples were read, and what the header says was not: {probed.sentence}", "probe")
    if sound.dtype != np.float32 or sound.ndim != 1 or not np.isfinite(sound).all():
        raise Wrong(f"what was read is {sound.dtype} {sound.shape}, or not finite", "not sound")
    if any(not remark.strip() or len(remark) > LONGEST_SENTENCE for remark in remarks):
        raise Wrong(f"remarks: {remarks}", "remarks")
    rate = given.resampled or info.sample_rate
    if not remarks and len(sound) / rate < probed.seconds - LENGTH_TOLERANCE:
        raise Wrong(f"{len(sound) / rate:.3f} s of {probed.seconds:.3f} s in silence", "silent part")
    missing = round(given.frames * rate / info.sample_rate) - len(sound)
    if not remarks and missing > BLOCK.get(given.path.suffix[1:], 1):
        raise Wrong(f"{given.way}: {missing} samples are missing in silence, {info}", f"silent part, {given.way}")
    return "read, with a remark" if remarks else "read"


KINDS = [Kind(suffix, make(suffix), attempt) for suffix in FORMATS]
if FFMPEG is not None:
    KINDS.append(Kind("m4a", make("m4a"), attempt, cost=10))


@pytest.mark.parametrize("kind", KINDS, ids=attrgetter("name"))
def test_a_damaged_recording_is_read_or_named(kind: Kind, tried: Callable[[Kind], None]) -> None:
    tried(kind)


# Arrays --------------------------------------------------------------------------------------------------------------


def _array(rng: Random) -> bytes:
    numbers = np.random.default_rng(rng.randrange(4))
    array = 0.5 * numbers.uniform(-1, 1, (3, 1200))
    kinds = ("<f4", "<f8", "<f2", "<i2", ">f4", "<i4", "?", "<c8", "<U3")
    kind = rng.choice((*["<f4", "<f2", "<i2"] * 3, *kinds))
    file = io.BytesIO()
    np.save(file, (array * (1000 if kind == "<i2" else 1)).astype(kind))
    return file.getvalue()


def _header(content: bytes, rng: Random) -> bytes:
    """The text in an array's header is what can be damaged best."""
    old = rng.choice((b"(3, 1200)", b"False", b"'<f4'", b"'descr'", b"{", b"}", b"shape", b","))
    shapes = (b"(-3, 1200)", b"(3, 99999999999)", b"()", b"(3,)", b"(0, 5)", b"[3]", b"(")
    new = rng.choice((*shapes, b"True", b"'|O'", b"'<f3'", b"\xd3"))
    return content.replace(old, new, 1)


def make_rows(rng: Random, folder: Path) -> Path:
    """An array of recordings, damaged."""
    path = folder / "music_train.npy"
    path.write_bytes(mutators.mutated(_array(rng), rng, [_header] * 10))
    return path


def attempt_rows(path: Path) -> str:
    """Reads it as a corpus does."""
    found = judged(lambda: find_rows(path))
    if isinstance(found, Refusal):
        raise Wrong(f"one array ends the corpus: {found.sentence}", "ends the corpus")
    rows, left_out = found
    if bool(rows) == bool(left_out):
        raise Wrong(f"{len(rows)} rows, and left out: {left_out}", "neither read nor left out")
    sounds = [judged(functools.partial(read_row, row), (AudioError,)) for row in rows[:5]]
    return "refused" if all(isinstance(sound, Refusal) for sound in sounds) else "read"


@pytest.mark.parametrize("kind", [Kind("rows", make_rows, attempt_rows)], ids=attrgetter("name"))
def test_a_damaged_array_of_recordings_is_read_or_named(kind: Kind, tried: Callable[[Kind], None]) -> None:
    tried(kind)
