"""Recordings, read in blocks: `with open_recording(path) as reading: reading.info; reading.blocks(16000)`.

libsndfile decodes, and ffmpeg what it cannot (`ffmpeg.py`); odd headers are dealt with in `containers.py`.

Audio is float32 in [-1, 1], `[samples]` when mono, else `[samples, channels]`; a *frame* is one sample of every
channel. A recording of any length is read in blocks, so memory stays bounded unless the whole is asked for.
"""

from __future__ import annotations

import itertools
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from tierwave.audio.containers import layout_of, second_movie
from tierwave.audio.ffmpeg import FULL, decode_with_ffmpeg, no_space
from tierwave.audio.parts import Part, Window
from tierwave.audio.resample import Audio, joined, resample_blocks
from tierwave.audio.writer import libsndfile_reason
from tierwave.errors import AudioError, AudioWarning
from tierwave.files.names import located

LOWEST_RATE, HIGHEST_RATE = 100, 768_000  # Hz; a header that says less or more is no sound's
LARGEST_VALUE = 1e12  # of a sample; floats that are whole numbers of 32 bits are far below, damaged ones far beyond
LENGTH_TOLERANCE = 0.1  # seconds that a header may promise too much; some formats estimate a length to a block or two

_MOST_BUFFERED = 1 << 24  # samples of all channels that are decoded at once
_UNKNOWN_LENGTH = 1 << 62  # frames; libsndfile reports more where a header does not say how many there are

# Channels cancel if the power of their mean is below this share of the loudest one's, and that one is not silent.
_CANCELLED_SHARE = 1e-4
_SILENT_POWER = 1e-6
_SHORTEST_COMPARED = 100  # frames


@dataclass(frozen=True)
class AudioInfo:
    """What a recording's header says.

    `frames` is the number of samples per channel, `sample_rate` is in Hz. `subtype` is libsndfile's name of the sample
    format (`PCM_16`, `FLOAT`, `VORBIS`, ...); of what only ffmpeg reads it is `PCM_24` for more than 16 bits, else
    `PCM_16`.
    """

    path: Path
    sample_rate: int
    channels: int
    frames: int
    subtype: str

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


@contextmanager
def open_recording(path: Path | str) -> Iterator[Reading]:
    """A recording to read, whatever its name; what libsndfile cannot read, ffmpeg decodes to a temporary file.

    All that is in the file is read (see `tierwave.audio.containers`): parts that lie one behind the other, what follows
    a header that was never completed, and of what is cut off or damaged all before that place, with a remark.

    Raises:
        AudioError: the file cannot be opened, or needs ffmpeg and there is none, or its sample rate is none.
        RunError: there is no space to decode it.
    """
    path = located(Path(path))
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
            if not file.read(1):
                raise AudioError(path, "the file is empty")
            parts = layout_of(file)
        except OSError as error:
            raise AudioError(path, f"it cannot be opened ({error.strerror})") from error
        tracks, reasons = _tracks(file, parts)
        remarks = [f"part {number} of its {len(parts)} cannot be used ({why})" for number, why in reasons.items()]
        if not tracks:
            try:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tierwave-"))
            except OSError as error:
                raise (no_space(path) if error.errno in FULL else error) from None
            target, subtype, remarks = decode_with_ffmpeg(path, Path(folder), next(iter(reasons.values())))
            if (second := second_movie(file)) is not None:
                remarks.append(f"another recording lies in it from byte {second} on, which is not read: make it a file")
            file = stack.enter_context(open(target, "rb"))
            tracks = [replace(track, subtype=subtype) for track in _tracks(file, layout_of(file))[0]]
        for track in tracks:
            if not LOWEST_RATE <= track.sample_rate <= HIGHEST_RATE:
                raise AudioError(
                    path,
                    f"its header gives a sample rate of {track.sample_rate} Hz, and those of sound are "
                    f"{LOWEST_RATE} to {HIGHEST_RATE} Hz",
                )
        yield Reading(path, file, tracks, remarks)


def probe(path: Path | str) -> AudioInfo:
    """What a recording holds; where its header does not tell its length for certain, it is read to count its frames.

    Raises:
        AudioError: as `open_recording`.
    """
    with open_recording(path) as reading:
        return reading.info if reading.certain else replace(reading.info, frames=sum(map(len, reading.blocks())))


def load(path: Path | str, sample_rate: int | None = None, *, mono: bool = True) -> tuple[Audio, int]:
    """A whole recording and its sample rate in Hz. An `AudioWarning` says what is odd about it.

    Raises:
        AudioError: as `open_recording` and `Reading.blocks`.
    """
    with open_recording(path) as reading:
        audio = reading.whole(sample_rate, mono=mono)
        for remark in reading.remarks:
            warnings.warn(AudioWarning(f"{path}: {remark}"), stacklevel=2)
        return audio, sample_rate or reading.info.sample_rate


class Reading:
    """An open recording: `info` of its header, its sound block by block, and, once that has been read, `remarks` on
    what is odd about it: that it is cut off, or that its channels cancel. From `open_recording`."""

    def __init__(self, path: Path, file: BinaryIO, tracks: Sequence[_Track], remarks: Sequence[str]) -> None:
        self._file, self._tracks, self._opening_remarks = file, tracks, tuple(remarks)
        rate = tracks[0].sample_rate
        frames = sum(round(track.frames * rate / track.sample_rate) for track in tracks)
        self.info = AudioInfo(path, rate, tracks[0].channels, frames, tracks[0].subtype)
        self.remarks = list(remarks)

    @property
    def certain(self) -> bool:
        """Whether `info.frames` is the number that can be read, but for damage: else it is a guess."""
        return all(track.part.certain for track in self._tracks)

    def blocks(
        self, sample_rate: int | None = None, *, mono: bool = True, block_seconds: float = 10.0
    ) -> Iterator[Audio]:
        """The sound: `[samples]`, or `[samples, channels]` with `mono=False`.

        Mono is the mean of the channels, or the first if they cancel. The blocks put together hold exactly
        `round(frames * sample_rate / file_rate)` samples. Parts of other rates and numbers of channels become as the
        first. A recording that ends before its header says is read as far as it goes.

        Args:
            sample_rate: in Hz; None keeps the recording's.
            block_seconds: length of the blocks that are decoded; the last one, and resampled ones, differ.

        Raises:
            AudioError: it holds no samples, or NaN or infinity.
        """
        rate = self.info.sample_rate if sample_rate is None else sample_rate
        progress = _Progress()
        for track_rate, tracks in itertools.groupby(self._tracks, lambda track: track.sample_rate):
            decoded = (block for track in tracks for block in self._decoded(track, mono, block_seconds, progress))
            yield from resample_blocks(decoded, track_rate, rate)
        if not progress.seconds:
            raise AudioError(self.info.path, progress.fault or "it holds no samples")
        unfinished = any(track.part.unfinished for track in self._tracks)
        self.remarks = [*self._opening_remarks, *progress.remarks(unfinished)]

    def whole(self, sample_rate: int | None = None, *, mono: bool = True) -> Audio:
        """All `blocks` as one array."""
        return joined(list(self.blocks(sample_rate, mono=mono)), 1 if mono else self.info.channels)

    def _decoded(self, track: _Track, mono: bool, block_seconds: float, progress: _Progress) -> Iterator[Audio]:
        part, rate = track.part, track.sample_rate
        start = progress.seconds
        messages: list[str] = []
        with closing(Window(self._file, part)) as window, ExitStack() as stack:
            with _mpeg_messages(messages):
                sound = stack.enter_context(_Sound(window))
            mix = _Mix(sound.channels) if mono else None
            length = min(round(block_seconds * rate), _MOST_BUFFERED // sound.channels)  # a header may say 700 channels
            buffer = np.empty((max(1, length), sound.channels), np.float32)
            position, fault = 0, None
            while fault is None:
                try:
                    with _mpeg_messages(messages) if sound.format == "MP3" else nullcontext():
                        block = sound.read(out=buffer)
                except soundfile.SoundFileError as error:
                    block = buffer[: max(0, min(sound.tell() - position, len(buffer)))]  # what came before the fault
                    fault = f"it is damaged there ({libsndfile_reason(error) or 'it cannot be decoded'})"
                if not len(block):
                    break
                self._refuse_values(block, start + position / rate, rate)
                position += len(block)
                progress.seconds = start + position / rate
                yield _with_channels(block.copy(), self.info.channels) if mix is None else mix.of(block)
        if window.failure is not None:
            fault = f"it cannot be read there ({window.failure.strerror})"
        if mix is not None:
            progress.cancelled += mix.cancelled / rate
            progress.first_channel |= mix.first_channel
        promised = track.frames / part.share if part.certain and part.share else position
        progress.promised += max(promised, position) / rate
        progress.fault = progress.fault or fault
        progress.complaint = progress.complaint or next(filter(None, map(_complaint, messages)), None)
        progress.cut |= part.cut or (sound.format == "FLAC" and part.certain and position < track.frames)
        progress.skipped += part.skipped

    def _refuse_values(self, block: Audio, start: float, rate: int) -> None:
        usable = (np.abs(block) <= LARGEST_VALUE).all(axis=1)  # False for NaN
        if not usable.all():
            first = int(usable.argmin())
            value = np.abs(block[first]).max()
            what = f"values as large as {value:.0e}" if np.isfinite(value) else "NaN or infinity"
            raise AudioError(self.info.path, f"it holds {what} at {start + first / rate:.4f} s")


@dataclass(frozen=True)
class _Track:
    """One part of a file, as libsndfile sees it."""

    part: Part
    sample_rate: int
    channels: int
    frames: int
    subtype: str


def _tracks(file: BinaryIO, parts: Sequence[Part]) -> tuple[list[_Track], dict[int, str]]:
    """The parts that libsndfile can read; and why it cannot read the others, by number from 1."""
    tracks, reasons = [], {}
    for number, part in enumerate(parts, 1):
        try:
            with _mpeg_messages([]), closing(Window(file, part)) as window, _Sound(window) as sound:
                frames = sound.frames if part.certain or sound.frames < _UNKNOWN_LENGTH else 0
                tracks.append(_Track(part, sound.samplerate, sound.channels, frames, sound.subtype))
        except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a suffix that means headerless data
            reasons[number] = libsndfile_reason(error)
    return tracks, reasons


class _Sound(soundfile.SoundFile):
    """A file that is read from its beginning to its end. soundfile seeks after every block to where it is already,
    which in an mp3 changes all that follows."""

    def seekable(self) -> bool:
        return False


@dataclass
class _Progress:
    """How much of a recording has been read, in seconds at its own rates, and what was odd about it."""

    seconds: float = 0.0
    promised: float = 0.0  # by the header
    cut: bool = False
    skipped: int = 0  # bytes
    fault: str | None = None
    complaint: str | None = None
    cancelled: float = 0.0
    first_channel: bool = False

    def remarks(self, unfinished: bool) -> Iterator[str]:
        read = _seconds(self.seconds)
        if unfinished:
            yield (
                f"its header is unfinished (the recorder did not close it): all {read} up to the end of the file are "
                "used"
            )
        why = self.fault or ("it is cut off" if self.cut else "it ends there")
        if self.promised - self.seconds > LENGTH_TOLERANCE:
            yield f"it holds {_seconds(self.promised)} by its header, {read} could be read: {why}"
        elif self.cut or self.fault:
            yield f"{read} could be read: {why}"
        elif self.complaint and not self.skipped:
            yield f"it is damaged within: what its decoder makes of it is used ({self.complaint})"
        if self.skipped:
            yield f"{self.skipped} bytes within it are no sound and are passed over: it is damaged"
        if self.first_channel:
            yield "its channels cancel when mixed down (one is inverted); its first channel is used"
        elif self.cancelled > 1:
            yield (
                f"its channels cancel when mixed down (one is inverted) for {_seconds(self.cancelled)} of it: take one "
                "of them, with another program"
            )


class _Mix:
    """Channels as one: their mean, or the first where they cancel. The first block that is not silent decides.

    cancelled: frames in which there is sound and the mean has none.
    """

    def __init__(self, channels: int) -> None:
        self.cancelled = 0
        self.first_channel = False
        self._decided = channels == 1

    def of(self, block: Audio) -> Audio:
        mean: Audio = block.mean(axis=1)
        if block.shape[1] > 1 and len(block) >= _SHORTEST_COMPARED:
            loudest = float(np.square(block, dtype=np.float64).mean(axis=0).max())
            if loudest > _SILENT_POWER:
                cancels = float(np.square(mean, dtype=np.float64).mean()) < _CANCELLED_SHARE * loudest
                if not self._decided:
                    self._decided, self.first_channel = True, cancels
                self.cancelled += len(block) if cancels else 0
        return block[:, 0].copy() if self.first_channel else mean


def _with_channels(block: Audio, channels: int) -> Audio:
    """`[frames, channels]`: the channels that are there, or their mean in each."""
    if block.shape[1] == channels:
        return block
    return np.repeat(block.mean(axis=1, keepdims=True), channels, axis=1)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.3f} s"


_decoding = threading.Lock()


@contextmanager
def _mpeg_messages(messages: list[str]) -> Iterator[None]:
    """Adds to `messages` what libsndfile's decoder of mp3 writes on the process's error stream meanwhile: it has no
    other way to report damage. Only one thread decodes at a time, so that messages are not mixed up."""
    with _decoding, ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))
            stderr = os.dup(2)
        except OSError:  # there is no error stream, or no room for a file
            yield
            return
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if file.seek(0, os.SEEK_END):
                file.seek(0)
                messages += file.read(1 << 16).splitlines()


def _complaint(line: str) -> str | None:
    """What a message of the decoder says of damage, None for one that says nothing of it."""
    found = re.search(r"error: (.*)|(Illegal Audio-MPEG-Header)", line)
    return None if found is None else (found[1] or found[2]).strip().rstrip(".!")
