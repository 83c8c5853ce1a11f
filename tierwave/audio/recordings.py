"""Recordings: find, probe, load, resample, chunk, write.

The only module that touches soundfile, soxr and pydub. Knows nothing of models, datasets or command lines.

Audio is float32 in [-1, 1], `[samples]` when mono, else `[samples, channels]`; a *frame* is one sample of every
channel. A recording of any length is read in blocks, so memory stays bounded unless the whole is asked for.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import threading
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from natsort import natsorted, ns

from tierwave.audio.containers import Part, Window, layout_of, second_movie
from tierwave.errors import AudioWarning, RunError, UsageError
from tierwave.files.folders import LeftOut, walk
from tierwave.files.names import located
from tierwave.files.places import Url, place_of

Audio = npt.NDArray[np.float32]

LIBSNDFILE_SUFFIXES = {
    ".wav",
    ".wave",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aif",
    ".aiff",
    ".aifc",
    ".au",
    ".snd",
    ".caf",
    ".w64",
    ".rf64",
    ".voc",
    ".sph",
    ".nist",
    ".iff",
    ".8svx",
    ".paf",
    ".xi",
}
FFMPEG_SUFFIXES = {
    ".m4a",
    ".m4b",
    ".mp4",
    ".mov",
    ".3gp",
    ".aac",
    ".wma",
    ".asf",
    ".webm",
    ".mka",
    ".mkv",
    ".ac3",
    ".eac3",
    ".amr",
    ".ape",
    ".wv",
    ".tta",
    ".mp2",
    ".mpc",
    ".spx",
    ".dsf",
}
AUDIO_SUFFIXES = LIBSNDFILE_SUFFIXES | FFMPEG_SUFFIXES

# Formats that are written, with libsndfile's name and the usual sample format of each.
WRITTEN = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
_RATES = {"MP3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)}  # Hz, where not all are known
_WRITTEN_AT_ONCE = 1 << 16  # frames; the Vorbis encoder takes all of a call onto its stack

INSTALL_FFMPEG = (
    "install ffmpeg (`apt install ffmpeg`, `brew install ffmpeg`, `winget install ffmpeg`) or convert the file to wav"
)

LOWEST_RATE, HIGHEST_RATE = 100, 768_000  # Hz; a header that says less or more is no sound's

_MOST_BUFFERED = 1 << 24  # samples of all channels that are decoded at once
LARGEST_VALUE = 1e12  # of a sample; floats that are whole numbers of 32 bits are far below, damaged ones far beyond
LENGTH_TOLERANCE = 0.1  # seconds that a header may promise too much

SILENCE_WINDOW_SECONDS = 0.01

# When channels are told to cancel: the power of their mean against that of the loudest, which must be heard itself.
_CANCELLED_SHARE = 1e-4
_HEARD_POWER = 1e-6
_SHORTEST_HEARD = 100  # frames

_NO_LENGTH = 1 << 62  # frames that libsndfile tells where it knows none
_FULL = (errno.ENOSPC, errno.EDQUOT)

_INTEGER_BITS = {"PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}

# Sample formats of other containers in terms of what a wav can hold. What is missing here (mp3, Vorbis, mu-law, ADPCM
# and other lossy codes) has no depth of its own and becomes PCM_16. 64-bit floats are float32 once they have been read.
_WAV_SUBTYPES = {
    "PCM_S8": "PCM_U8",
    "PCM_U8": "PCM_U8",
    "ALAC_20": "PCM_24",
    "ALAC_24": "PCM_24",
    "DWVW_24": "PCM_24",
    "PCM_24": "PCM_24",
    "ALAC_32": "PCM_32",
    "PCM_32": "PCM_32",
    "FLOAT": "FLOAT",
    "DOUBLE": "FLOAT",
}


class AudioError(RunError):
    """A recording that cannot be used. Says which file and why."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"Cannot use {self.path}: {self.reason}"


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


# ---- find ------------------------------------------------------------------------------------------------------------


def find_audio(paths: Sequence[Path | str], *, own: bool = False) -> list[Path]:
    """The recordings that `search_audio` finds."""
    return search_audio(paths, own=own)[0]


def search_audio(
    paths: Sequence[Path | str], *, own: bool = False, without: Sequence[Path] = ()
) -> tuple[list[Path], LeftOut]:
    """Every recording among `paths`, each once, in natural order (`take 2` before `take 10`); and what in the folders
    could not be looked at, or is passed over as Tierwave's own, with the reason.

    A file is taken as it is, whatever its name. A folder is searched recursively for the suffixes in `AUDIO_SUFFIXES`
    in any case, as `folders.walk` does, which see for `own` and `without`. There may be no recordings.

    Raises:
        UsageError: a path does not exist, or is a URL.
    """
    found: list[Path] = []
    left_out: LeftOut = []
    for given in [paths] if isinstance(paths, str | Path) else paths:
        path = place_of(given)
        if isinstance(path, Url):
            raise UsageError(f"{path} is no folder of this machine: copy its recordings to one, and name that")
        path = located(path)
        if path.is_dir():
            files, passed_over = walk(path, _is_recording, own=own, without=without)
            found += files
            left_out += passed_over
        elif path.exists():
            found.append(path)
        else:
            raise UsageError(f"There is no file or folder {path}: check the spelling, and quote a path with spaces")
    # By plain text first: the file system must not decide on names that are equal in natural order (1.wav, 01.wav).
    ordered: list[Path] = natsorted(sorted(found, key=str), alg=ns.PATH)
    first: dict[Path, Path] = {}
    for path in ordered:
        first.setdefault(path.resolve(), path)
    return list(first.values()), list(dict.fromkeys(left_out))


def find_audio_at(url: Url) -> list[Url]:
    """Every recording in a folder at a URL, in the order of `find_audio`; a file is taken as it is.

    Raises:
        UsageError: there is no such folder or file.
    """
    if not url.is_dir():
        try:
            url.stat()
        except FileNotFoundError:
            raise UsageError(f"There is no file or folder {url}: check the address and your access to it") from None
        return [url]
    found: list[tuple[PurePosixPath, Url]] = []
    for folder, _, names in url.walk():
        inside = PurePosixPath() if folder == url else folder.relative_to(url)
        if not any(part.startswith(".") for part in inside.parts):
            found += [(inside / name, folder / name) for name in names if _is_recording(name)]
    ordered = natsorted(sorted(found, key=lambda pair: str(pair[0])), key=lambda pair: pair[0], alg=ns.PATH)
    return [recording for _, recording in ordered]


def _is_recording(name: str) -> bool:
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES


# ---- read ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Track:
    """One part of a file, as a decoder sees it."""

    part: Part
    sample_rate: int
    channels: int
    frames: int
    subtype: str


class _Sound(soundfile.SoundFile):
    """A file that is read from its beginning to its end. soundfile seeks after every block to where it is already,
    which in an mp3 changes all that follows."""

    def seekable(self) -> bool:
        return False


class Reading:
    """An open recording: `info` of its header, its sound block by block, and, once that has been read, `remarks` on
    what is odd about it: that it is cut off, or that its channels cancel. From `opened`."""

    def __init__(self, path: Path, file: BinaryIO, tracks: Sequence[_Track], remarks: Sequence[str] = ()) -> None:
        self._file, self._tracks = file, tracks
        rate = tracks[0].sample_rate
        frames = sum(round(track.frames * rate / track.sample_rate) for track in tracks)
        self.info = AudioInfo(path, rate, tracks[0].channels, frames, tracks[0].subtype)
        self.remarks = list(remarks)
        self._fixed = len(self.remarks)

    @property
    def certain(self) -> bool:
        """Whether `info.frames` is the number that can be read, but for damage: else it is a guess."""
        return all(track.part.certain for track in self._tracks)

    def blocks(
        self, sample_rate: int | None = None, *, mono: bool = True, block_seconds: float = 10.0
    ) -> Iterator[Audio]:
        """The sound: as `read_blocks`, which see. Parts of other rates and numbers of channels become as the first."""
        del self.remarks[self._fixed :]
        rate = self.info.sample_rate if sample_rate is None else sample_rate
        heard = _Heard(self.info.path)
        for file_rate, tracks in itertools.groupby(self._tracks, lambda track: track.sample_rate):
            decoded = (block for track in tracks for block in self._decoded(track, mono, block_seconds, heard))
            yield from resample_blocks(decoded, file_rate, rate)
        if not heard.seconds:
            raise AudioError(self.info.path, heard.fault or "it holds no samples")
        self.remarks += heard.remarks(any(track.part.unfinished for track in self._tracks))

    def count(self) -> int:
        """The frames at the recording's rate, counted by reading them."""
        return sum(len(block) for block in self.blocks())

    def _decoded(self, track: _Track, mono: bool, block_seconds: float, heard: _Heard) -> Iterator[Audio]:
        part, rate = track.part, track.sample_rate
        before = heard.seconds
        with closing(Window(self._file, part)) as window, ExitStack() as stack:
            complaints: list[str] = []
            with _decoder_heard(complaints):
                sound = stack.enter_context(_Sound(window))
            mixed = _Mix(sound.channels) if mono else None
            length = min(round(block_seconds * rate), _MOST_BUFFERED // sound.channels)  # a header may say 700 channels
            buffer = np.empty((max(1, length), sound.channels), np.float32)
            position, fault = 0, None
            while fault is None:
                try:
                    with ExitStack() as hearing:
                        if sound.format == "MP3":
                            hearing.enter_context(_decoder_heard(complaints))
                        block = sound.read(out=buffer)
                except soundfile.SoundFileError as error:
                    # What came before the fault is there.
                    block = buffer[: max(0, min(sound.tell() - position, len(buffer)))]
                    fault = f"it is damaged there ({_reason(error) or 'it cannot be decoded'})"
                if not len(block):
                    break
                usable = (np.abs(block) <= LARGEST_VALUE).all(axis=1)  # False for NaN
                if not usable.all():
                    first = int(usable.argmin())
                    value, seconds = np.abs(block[first]).max(), before + (position + first) / rate
                    what = f"values as large as {value:.0e}" if np.isfinite(value) else "NaN or infinity"
                    raise AudioError(self.info.path, f"it holds {what} at {seconds:.4f} s")
                position += len(block)
                heard.seconds = before + position / rate
                yield _fitted(block.copy(), self.info.channels) if mixed is None else mixed.of(block)
        if window.failure is not None:
            fault = f"it cannot be read there ({window.failure.strerror})"
        if mixed is not None:
            heard.cancelled += mixed.cancelled / rate
            heard.first_channel |= mixed.first_channel
        told = track.frames / part.share if part.certain and part.share else position
        heard.told += max(told, position) / rate
        heard.fault = heard.fault or fault
        heard.complaint = heard.complaint or next(filter(None, map(_complaint, complaints)), None)
        heard.cut |= part.cut or (sound.format == "FLAC" and part.certain and position < track.frames)
        heard.skipped += part.skipped


@dataclass
class _Heard:
    """How much has been read of a recording, by its own rates, and how."""

    path: Path
    seconds: float = 0.0
    told: float = 0.0
    cut: bool = False
    skipped: int = 0
    fault: str | None = None
    complaint: str | None = None
    cancelled: float = 0.0
    first_channel: bool = False

    def remarks(self, unfinished: bool) -> Iterator[str]:
        if unfinished:
            yield (
                f"its header is unfinished (the recorder did not close it): all {_seconds(self.seconds)} up to the end "
                "of the file are used"
            )
        why = self.fault or ("it is cut off" if self.cut else "it ends there")
        # Some formats estimate a length to a block or two.
        if self.told - self.seconds > LENGTH_TOLERANCE:
            yield f"it holds {_seconds(self.told)} by its header, {_seconds(self.seconds)} could be read: {why}"
        elif self.cut or self.fault:
            yield f"{_seconds(self.seconds)} could be read: {why}"
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
    """Channels as one: their mean, or the first where they cancel. What is first heard of a recording decides.

    cancelled: frames in which there is sound and the mean has none.
    """

    def __init__(self, channels: int) -> None:
        self.cancelled = 0
        self.first_channel = False
        self._decided = channels == 1

    def of(self, block: Audio) -> Audio:
        mean: Audio = block.mean(axis=1)
        if block.shape[1] == 1 or len(block) < _SHORTEST_HEARD:
            return block[:, 0].copy() if self.first_channel else mean
        loudest = float(np.square(block, dtype=np.float64).mean(axis=0).max())
        if loudest > _HEARD_POWER:
            cancels = float(np.square(mean, dtype=np.float64).mean()) < _CANCELLED_SHARE * loudest
            if not self._decided:
                self._decided, self.first_channel = True, cancels
            self.cancelled += len(block) if cancels else 0
        return block[:, 0].copy() if self.first_channel else mean


_decoding = threading.Lock()


@contextmanager
def _decoder_heard(said: list[str]) -> Iterator[None]:
    """Adds to `said` what libsndfile's decoder of mp3 writes on the process's error stream meanwhile: it has no other
    way to tell of damage. One decodes at a time, so that nobody hears another's."""
    with _decoding, ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))
            kept = os.dup(2)
        except OSError:  # no error stream, or no room to keep what is said
            yield
            return
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            if file.seek(0, os.SEEK_END):
                file.seek(0)
                said += file.read(1 << 16).splitlines()


def _complaint(line: str) -> str | None:
    """What a line of the decoder's says of damage, None for one that says nothing of it."""
    found = re.search(r"error: (.*)|(Illegal Audio-MPEG-Header)", line)
    return None if found is None else (found[1] or found[2]).strip().rstrip(".!")


def _fitted(block: Audio, channels: int) -> Audio:
    """`[frames, channels]` with so many channels: as they are, or their mean in each."""
    if block.shape[1] == channels:
        return block
    return np.repeat(block.mean(axis=1, keepdims=True), channels, axis=1)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.3f} s"


@contextmanager
def opened(path: Path | str) -> Iterator[Reading]:
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
            why, remarks = next(iter(reasons.values())), []
            try:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tierwave-"))
            except OSError as error:
                raise (_no_space(path) if error.errno in _FULL else error) from None
            target, subtype, remarks = _decode_with_ffmpeg(path, Path(folder), why)
            if (second := second_movie(file)) is not None:
                remarks.append(f"another recording lies in it from byte {second} on, which is not read: make it a file")
            file = stack.enter_context(open(target, "rb"))
            tracks, _ = _tracks(file, layout_of(file))
            tracks = [replace(track, subtype=subtype) for track in tracks]
        for track in tracks:
            if not LOWEST_RATE <= track.sample_rate <= HIGHEST_RATE:
                raise AudioError(
                    path,
                    f"its header gives a sample rate of {track.sample_rate} Hz, and those of sound are "
                    f"{LOWEST_RATE} to {HIGHEST_RATE} Hz",
                )
        yield Reading(path, file, tracks, remarks)


def _tracks(file: BinaryIO, parts: Sequence[Part]) -> tuple[list[_Track], dict[int, str]]:
    """The parts that libsndfile can read; and why it cannot read the others, by number from 1."""
    tracks, reasons = [], {}
    for number, part in enumerate(parts, 1):
        try:
            with _decoder_heard([]), closing(Window(file, part)) as window, _Sound(window) as sound:
                frames = sound.frames if part.certain or sound.frames < _NO_LENGTH else 0
                tracks.append(_Track(part, sound.samplerate, sound.channels, frames, sound.subtype))
        except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a suffix that means headerless data
            reasons[number] = _reason(error)
    return tracks, reasons


def probe(path: Path | str) -> AudioInfo:
    """What a recording holds; where its header does not tell its length for certain, it is read to count its frames.

    Raises:
        AudioError: as `opened`.
    """
    with opened(path) as reading:
        return reading.info if reading.certain else replace(reading.info, frames=reading.count())


def read_blocks(
    path: Path | str, sample_rate: int | None = None, *, mono: bool = True, block_seconds: float = 10.0
) -> Iterator[Audio]:
    """A recording, block by block: `[samples]`, or `[samples, channels]` with `mono=False`.

    Mono is the mean of the channels, or the first if they cancel. The blocks put together hold exactly
    `round(frames * sample_rate / file_rate)` samples. A recording whose data ends before its header says is read as
    far as it goes. An `AudioWarning` says what is odd about it.

    Args:
        sample_rate: in Hz; None keeps the recording's.
        block_seconds: length of the blocks that are decoded; the last one, and resampled ones, differ.

    Raises:
        AudioError: the file cannot be opened or decoded, is empty, or holds NaN or infinity.
    """
    with opened(path) as reading:
        yield from reading.blocks(sample_rate, mono=mono, block_seconds=block_seconds)
        for remark in reading.remarks:
            warnings.warn(AudioWarning(f"{path}: {remark}"), stacklevel=2)


def load(path: Path | str, sample_rate: int | None = None, *, mono: bool = True) -> tuple[Audio, int]:
    """A whole recording and its sample rate in Hz: all of `read_blocks` put together.

    Raises:
        AudioError: as `read_blocks`.
    """
    audio, rate, remarks = load_with_remarks(path, sample_rate, mono=mono)
    for remark in remarks:
        warnings.warn(AudioWarning(f"{path}: {remark}"), stacklevel=2)
    return audio, rate


def load_with_remarks(
    path: Path | str, sample_rate: int | None = None, *, mono: bool = True
) -> tuple[Audio, int, list[str]]:
    """`load`, but what is odd about the recording is returned too, and not warned of."""
    with opened(path) as reading:
        info = reading.info
        blocks = list(reading.blocks(sample_rate, mono=mono))
        return _concatenate(blocks, 1 if mono else info.channels), sample_rate or info.sample_rate, reading.remarks


def _decode_with_ffmpeg(path: Path, folder: Path, reason: str) -> tuple[Path, str, list[str]]:
    """The first sound track as a float wave file in `folder`, its subtype in the terms of `AudioInfo`, and remarks.

    pydub says which ffmpeg to use, so that its settings hold. It does not decode: it would keep the whole recording
    in memory, as integers.
    """
    try:
        # Without ffmpeg, pydub warns when it is imported; the error below says it better.
        warnings.filterwarnings("ignore", message="Couldn't find ff", module="pydub")
        from pydub import AudioSegment
    except ImportError as error:
        remedy = "install pydub (from Python 3.13 on together with audioop-lts) and ffmpeg, or convert the file to wav"
        missing = f"libsndfile does not read it ({reason}) and pydub cannot be imported ({error})"
        raise AudioError(path, f"{missing}: {remedy}") from error
    program = shutil.which(AudioSegment.converter)
    if program is None:
        missing = f"libsndfile does not read it ({reason}) and ffmpeg was not found"
        if path.suffix.lower() in LIBSNDFILE_SUFFIXES:
            raise AudioError(path, f"{missing}; if it is audio of a rarer kind, {INSTALL_FFMPEG}")
        raise AudioError(path, f"{missing}: {INSTALL_FFMPEG}")
    target = folder / "decoded.wav"
    command = [program, "-hide_banner", "-nostdin", "-nostats"]
    command += ["-protocol_whitelist", "file", "-i", str(path.resolve())]  # a playlist in disguise opens no network
    # Beyond 4 GB it is RF64. Not W64: libsndfile takes the floats that ffmpeg writes there for whole numbers.
    command += ["-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "wav", "-rf64", "auto", "-y", str(target)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if any(os.strerror(number) in done.stderr for number in _FULL):
        raise _no_space(path)
    if "matches no streams" in done.stderr:
        raise AudioError(path, "it holds no sound track")
    if done.returncode or not target.exists():
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        told = last_line.removeprefix(f"{path.resolve()}: ").rstrip(".")
        raise AudioError(path, f"neither libsndfile ({reason}) nor ffmpeg ({told}) can read it")
    stream = re.search(r"Stream #.*Audio:.*", done.stderr)
    deep = stream is not None and re.search(r"\bs32p?\b|\(24 bit\)", stream[0])
    # ffmpeg goes on as far as it can, and leaves with 0.
    damage = re.search(
        r".*(partial file|Invalid data found|corrupt|[Tt]runcated|Error (submitting|while)).*", done.stderr
    )
    remarks = (
        [] if damage is None else [f"it is damaged or cut off: what could be read is used (ffmpeg: {_told(damage[0])})"]
    )
    return target, "PCM_24" if deep else "PCM_16", remarks


def _told(line: str) -> str:
    """A line of ffmpeg's without what stands in front of its message."""
    return re.sub(r"^(\[[^]]*\] *|\S*/\S*: *)+", "", line).strip().rstrip(".")


def _no_space(path: Path) -> RunError:
    return RunError(
        f"There is no space left in {tempfile.gettempdir()} (TMPDIR) to decode {path}: free some, or set TMPDIR to a "
        "folder with more"
    )


def _reason(error: Exception) -> str:
    """libsndfile's reason alone, without the path and the punctuation around it."""
    text = getattr(error, "error_string", str(error))
    return text.removeprefix("Error : ").rstrip(". ")


# ---- resample --------------------------------------------------------------------------------------------------------


def resample(audio: npt.ArrayLike, from_rate: int, to_rate: int) -> Audio:
    """`[samples]` or `[samples, channels]` at `from_rate` Hz, band-limited, at `to_rate` Hz (soxr, quality HQ).

    Exactly `round(samples * to_rate / from_rate)` samples come out.
    """
    array = np.asarray(audio, np.float32)
    return _concatenate(list(resample_blocks([array], from_rate, to_rate)), array.shape[1] if array.ndim > 1 else 1)


def resample_blocks(blocks: Iterable[Audio], from_rate: int, to_rate: int) -> Iterator[Audio]:
    """`resample` of a sound that comes in blocks, `[samples]` or `[samples, channels]`, in bounded memory."""
    if to_rate < 1 or from_rate < 1:
        raise UsageError(f"A sample rate must be at least 1 Hz, but {min(from_rate, to_rate)} was asked for")
    if from_rate == to_rate:
        yield from blocks
        return
    stream = None
    frames_in = frames_out = 0
    for block in blocks:
        if stream is None:
            channels = 1 if block.ndim == 1 else block.shape[1]
            stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="HQ")
        resampled = stream.resample_chunk(np.ascontiguousarray(block))
        frames_in += len(block)
        frames_out += len(resampled)
        if len(resampled):
            yield resampled
    if stream is not None:
        last = stream.resample_chunk(np.ascontiguousarray(block[:0]), last=True)
        missing = max(0, round(frames_in * to_rate / from_rate) - frames_out)
        # soxr rounds the length in its own way: a sample more or less.
        last = last[:missing]
        yield np.concatenate([last, np.zeros((missing - len(last), *last.shape[1:]), np.float32)])


def highpass_blocks(blocks: Iterable[Audio], rate: int, cutoff: float) -> Iterator[Audio]:
    """A sound that comes in blocks without what lies below `cutoff` Hz, a DC offset above all (Butterworth, second
    order). It starts as if its first sample had always been there, so that an offset makes no click."""
    from scipy import signal

    if not 0 < cutoff < rate / 2:
        raise UsageError(f"A high-pass at {cutoff:g} Hz does not fit {rate} Hz: give between 0 and {rate / 2:g} Hz")
    sections = signal.butter(2, cutoff, "highpass", fs=rate, output="sos")
    state = None
    for block in blocks:
        if state is None and len(block):
            state = np.multiply.outer(signal.sosfilt_zi(sections), block[0].astype(np.float64))
        if len(block):
            filtered, state = signal.sosfilt(sections, block, axis=0, zi=state)
            block = filtered.astype(np.float32)
        yield block


def _concatenate(blocks: list[Audio], channels: int) -> Audio:
    if not blocks:
        return np.zeros((0,) if channels == 1 else (0, channels), np.float32)
    return np.concatenate(blocks)


# ---- chunk -----------------------------------------------------------------------------------------------------------


def chunk_spans(
    frames: int, chunk_frames: int, overlap_frames: int = 0, keep_tail: bool = False
) -> list[tuple[int, int]]:
    """Where to cut a recording: (start, stop) of each chunk in frames.

    Consecutive chunks share `overlap_frames`. Every chunk is complete; with `keep_tail` a shorter last one follows if
    the complete ones leave something over.

    Raises:
        UsageError: a chunk of no length, or an overlap that is not less than the chunk.
    """
    if chunk_frames < 1:
        raise UsageError(f"A chunk must be at least one sample long, but {chunk_frames} was asked for")
    if not 0 <= overlap_frames < chunk_frames:
        raise UsageError(
            f"The overlap must be at least 0 and less than the chunk: {overlap_frames} of {chunk_frames} samples"
        )
    step = chunk_frames - overlap_frames
    spans = [(start, start + chunk_frames) for start in range(0, frames - chunk_frames + 1, step)]
    covered = spans[-1][1] if spans else 0
    if keep_tail and covered < frames:
        spans.append((len(spans) * step, frames))
    return spans


def is_silent(chunk: npt.ArrayLike, sample_rate: int, threshold_dbfs: float = -64.0) -> bool:
    """Whether at least half of a chunk, `[samples]` or `[samples, channels]`, is one stretch below the threshold.

    The level is the RMS over a window of 10 ms that slides by one sample (over all channels), in dB relative to a
    constant full-scale signal: a full-scale sine lies at -3 dBFS. A stretch is what consecutive windows below the
    threshold cover. A click therefore ends a stretch; in PRiSM, where pydub's `detect_silence` takes one RMS
    over half the chunk, it may drown.
    """
    samples = np.asarray(chunk, np.float64)
    if not len(samples):
        return True
    power = np.square(samples).reshape(len(samples), -1).mean(axis=1)
    window = min(len(power), max(1, round(SILENCE_WINDOW_SECONDS * sample_rate)))
    limit = window * 10.0 ** (threshold_dbfs / 10)
    # One sample at the limit makes a window loud already: cutting there keeps the running sum, and its rounding, small.
    running = np.concatenate([[0.0], np.cumsum(np.minimum(power, limit))])
    loud = np.flatnonzero(running[window:] - running[:-window] >= limit * (1 - 1e-6))
    windows = len(power) - window + 1
    quiet_windows = int(np.diff(np.concatenate([[-1], loud, [windows]])).max()) - 1
    return quiet_windows > 0 and 2 * (quiet_windows + window - 1) >= len(power)


# ---- write -----------------------------------------------------------------------------------------------------------


def wav_subtype(subtype: str) -> str:
    """The wav sample format that keeps the depth of `AudioInfo.subtype`; PCM_16 for codes that have none."""
    return _WAV_SUBTYPES.get(subtype, "PCM_16")


def writable_suffix(path: Path) -> str:
    """The suffix of a file that can be written, in small letters; "" where the name has none.

    What stands behind the last point of a name such as `a_p60.5` is none.

    Raises:
        UsageError: it is that of another format.
    """
    suffix = path.suffix.lower()
    if suffix in WRITTEN or not re.fullmatch(r"\.[a-z][a-z0-9]*", suffix):
        return suffix if suffix in WRITTEN else ""
    known = ", ".join(WRITTEN)
    raise UsageError(f"Cannot write {path}: sound is written as {known}, so end the name in one of them, not {suffix}")


class SoundWriter:
    """A sound file that is whole or not there: `with SoundWriter(path, 16000) as sound: sound.write(block)`.

    The suffix of the name says what it is: one of `WRITTEN`, else a wav. Blocks go to a hidden file beside the target,
    which takes the target's name on a clean exit and is removed otherwise. Integer formats round to the nearest step,
    and all but float formats clip to [-1, 1]. subtype: the sample format, None for the usual one.

    Raises:
        UsageError: the target cannot be created, or its format knows no such `subtype` or rate.
        RunError: writing stopped half-way (a full disk), or a block holds NaN or infinity.
    """

    def __init__(self, path: Path | str, sample_rate: int, subtype: str | None = None, channels: int = 1) -> None:
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        self._format, usual = WRITTEN.get(suffix, WRITTEN[".wav"])
        name = self._format.lower()
        self.subtype = subtype or usual
        if not soundfile.check_format(self._format, self.subtype):
            raise UsageError(
                f"A {name} file cannot hold the sample format {self.subtype}: use PCM_16, PCM_24, PCM_32 or FLOAT in a "
                "wav"
            )
        if sample_rate < 1:
            raise UsageError(f"The sample rate of a {name} file must be at least 1 Hz, not {sample_rate}")
        rates = _RATES.get(self._format)
        if rates is not None and sample_rate not in rates:
            known = ", ".join(map(str, rates))
            raise UsageError(
                f"Cannot write {self.path}: {name} knows no {sample_rate} Hz: choose a wav, or a rate among {known} Hz"
            )
        self.sample_rate = sample_rate
        self.channels = channels
        # The name does not grow with the target's, which may be as long as the file system allows.
        self._temporary = self.path.parent / f".{uuid.uuid4().hex}.part"
        self._file: soundfile.SoundFile | None = None

    def __enter__(self) -> SoundWriter:
        if os.path.isdir(self.path):
            raise UsageError(f"Cannot write {self.path}: it is a folder; give the name of a file")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.touch(exist_ok=False)  # libsndfile calls every reason "System error", the system does not
            # Elsewhere than on Windows a name need not be text.
            name = str(self._temporary) if os.name == "nt" else os.fsencode(self._temporary)
            self._file = soundfile.SoundFile(
                name, "w", self.sample_rate, self.channels, self.subtype, format=self._format
            )
        except (OSError, soundfile.SoundFileError) as error:
            self._discard()
            reason = error.strerror if isinstance(error, OSError) else _reason(error)
            raise UsageError(f"Cannot write {self.path} ({reason}): choose a folder that can be written") from error
        return self

    def write(self, block: npt.ArrayLike) -> None:
        """Append floats, `[samples]` or `[samples, channels]`."""
        if self._file is None:
            raise ValueError("SoundWriter.write is for inside the with statement")
        array = np.asarray(block)
        if array.dtype.kind != "f":
            raise TypeError(f"audio is written as floats in [-1, 1], not as {array.dtype}")
        if not np.isfinite(array).all():
            raise RunError(f"Cannot write {self.path}: the audio holds NaN or infinity")
        array = array.astype(np.float64, copy=False)
        if bits := _INTEGER_BITS.get(self.subtype):
            # libsndfile rounds towards minus infinity, which adds direct current and twice the noise: round first.
            steps = 2.0 ** (bits - 1)
            array = np.clip(np.rint(array * steps), -steps, steps - 1) / steps
        elif self.subtype not in ("FLOAT", "DOUBLE"):
            array = np.clip(array, -1.0, 1.0)
        try:
            for start in range(0, len(array), _WRITTEN_AT_ONCE):
                self._file.write(array[start : start + _WRITTEN_AT_ONCE])
        # soundfile asserts that everything was written.
        except (OSError, soundfile.SoundFileError, AssertionError) as error:
            raise RunError(f"Cannot write {self.path} to its end: is the disk full?") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._file is not None:
                self._file.close()
                self._file = None
            if kind is None:
                os.replace(self._temporary, self.path)
        except (OSError, soundfile.SoundFileError) as failure:
            raise RunError(f"Cannot write {self.path} ({failure}): free the disk or choose another name") from failure
        finally:
            self._discard()

    def _discard(self) -> None:
        with suppress(OSError):  # it tidies up after an error that says more
            self._temporary.unlink()


def write_wav(path: Path | str, audio: npt.ArrayLike, sample_rate: int, subtype: str = "PCM_16") -> None:
    """Write `[samples]` or `[samples, channels]` as a wav, whole or not at all.

    Raises:
        UsageError, RunError: as `SoundWriter`.
    """
    array = np.asarray(audio)
    with SoundWriter(path, sample_rate, subtype, channels=array.shape[1] if array.ndim > 1 else 1) as wav:
        wav.write(array)
