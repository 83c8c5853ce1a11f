"""Recordings into chunks of equal length, silence left out: what `chunk_audio.py` does."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from natsort import natsorted

from tierwave.audio.finding import AUDIO_SUFFIXES, search_audio
from tierwave.audio.recordings import open_recording
from tierwave.audio.resample import Audio, highpass_blocks
from tierwave.audio.writer import wav_subtype, write_wav
from tierwave.errors import AudioError, UsageError
from tierwave.files.folders import LeftOut, chunk_stem, make_own, refuse_file
from tierwave.files.names import folded
from tierwave.files.writing import unfinished_files
from tierwave.system.parallel import parallel_map

SMALL_BYTES = 1 << 22  # recordings of this size in all are cut before other processes have started
SILENCE_WINDOW_SECONDS = 0.01


@dataclass(frozen=True)
class ChunkOptions:
    """How to cut. Lengths are in milliseconds, the rate in Hz (None: the recording's), the threshold in dBFS, the
    high-pass in Hz (None: there is none).

    Raises:
        UsageError: a value out of range.
    """

    chunk_length: float = 8000
    overlap: float = 0
    sample_rate: int | None = None
    mono: bool = True
    silence_threshold: float = -64
    keep_tail: bool = False
    highpass: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.chunk_length < math.inf:
            raise UsageError(f"chunk_length must be more than 0 milliseconds, not {self.chunk_length:g}")
        if not 0 <= self.overlap < self.chunk_length:
            raise UsageError(
                f"overlap must be at least 0 and less than chunk_length ({self.chunk_length:g} milliseconds), "
                f"not {self.overlap:g}"
            )
        if self.sample_rate is not None and self.sample_rate < 1:
            raise UsageError(f"sample_rate must be at least 1 Hz, not {self.sample_rate}")
        if self.highpass is not None and not 0 < self.highpass < math.inf:
            raise UsageError(f"highpass must be more than 0 Hz, not {self.highpass:g}")
        if math.isnan(self.silence_threshold):
            raise UsageError("silence_threshold must be a number of dBFS such as -64, not nan")

    def frames(self, sample_rate: int) -> tuple[int, int]:
        """Chunk length and overlap in frames at `sample_rate` Hz."""
        # Downwards, so that a recording of n chunk lengths gives n chunks; the small addend is for inexact products.
        chunk_frames = max(1, int(self.chunk_length * sample_rate / 1000 + 1e-6))
        return chunk_frames, min(round(self.overlap * sample_rate / 1000), chunk_frames - 1)


@dataclass(frozen=True)
class FileReport:
    """What became of one recording.

    silent, written: names of the chunks; replaced: how many of the written ones took the place of a file; left_over:
    seconds of an incomplete last chunk that was not kept; problem: why the recording, or the rest of it, was of no use
    (the chunks before that place are kept); remarks: what is odd about it, such as an end that is cut off.
    """

    source: Path
    silent: tuple[str, ...]
    written: tuple[str, ...]
    replaced: int
    left_over: float
    problem: str | None
    remarks: tuple[str, ...]

    @property
    def processed(self) -> int:
        """How many chunks the recording has, silent ones included."""
        return len(self.silent) + len(self.written)


# ---- which recordings, under which names -----------------------------------------------------------------------------


def find_sources(inputs: Sequence[Path | str], output_dir: Path | str) -> tuple[list[Path], LeftOut]:
    """The recordings among `inputs`, files and folders, but for the chunks of an earlier run in `output_dir`; and what
    in the folders was left out, with the reason.

    Raises:
        UsageError: a path does not exist, `output_dir` is a file or one of the folders to search, or there are no
            recordings.
    """
    output = Path(output_dir).resolve()
    if output.is_file():
        raise UsageError(f"output_dir {output_dir} is a file: choose a folder")
    refuse_file("output_dir", Path(output_dir))
    if output in [path.resolve() for path in map(Path, inputs) if path.is_dir()]:
        raise UsageError(f"output_dir {output_dir} is searched for recordings too: choose a folder of its own")
    sources, left_out = search_audio(inputs, without=[output])
    left_out = [(path, why) for path, why in left_out if path.resolve() != output]
    if not sources:
        where, suffixes = ", ".join(map(str, inputs)), " ".join(sorted(AUDIO_SUFFIXES))
        but = f" (but {'; '.join(f'{path}: {why}' for path, why in left_out[:3])})" if left_out else ""
        raise UsageError(f"There are no recordings in {where}{but}: looked for files that end in one of {suffixes}")
    return sources, left_out


def output_stems(sources: Sequence[Path]) -> list[str]:
    """A stem of its own for the chunks of each recording: the recording's, where no other has the same.

    Recordings of one stem are told apart by as little as will do: the suffix (`a_wav`, `a_flac`) in one folder, the
    names of the folders (`left_a`, `right_a`), both, and where that is in vain a number. Two names that differ only
    in case or in Unicode form are the same, as they are on some file systems. What not every system allows in a name
    is replaced.
    """
    same: dict[str, list[Path]] = {}
    for source in sources:
        same.setdefault(_folded(chunk_stem(source.stem)), []).append(source)
    taken = set(same)
    chosen: dict[Path, str] = {}
    for group in same.values():
        names = [chunk_stem(group[0].stem)] if len(group) == 1 else _distinct_names(group, taken)
        taken |= {_folded(name) for name in names}
        chosen |= dict(zip(group, names, strict=True))
    return [chosen[source] for source in sources]


def _distinct_names(group: list[Path], taken: set[str]) -> list[str]:
    folders = [source.resolve().parent.parts[1:] for source in group]  # without the root, which is no name
    for depth in range(max(map(len, folders)) + 1):
        for with_suffix in (False, True):
            names = [
                chunk_stem(
                    "_".join([*parts[len(parts) - min(depth, len(parts)) :], source.stem])
                    + ("_" + source.suffix.removeprefix(".") if with_suffix else "")
                )
                for source, parts in zip(group, folders, strict=True)
            ]
            distinct = {_folded(name) for name in names}
            if len(distinct) == len(group) and not distinct & taken:
                return names
    free = (number for number in itertools.count() if _folded(chunk_stem(f"{group[0].stem}_{number}")) not in taken)
    return [chunk_stem(f"{source.stem}_{number}") for source, number in zip(group, free, strict=False)]


def _folded(name: str) -> str:
    return folded(name).casefold()


def earlier_chunks(sources: Sequence[Path], output_dir: Path | str, reports: Iterable[FileReport]) -> list[str]:
    """The chunks of `sources` in `output_dir` that are in none of `reports`: those of a cut with other options."""
    now = {name for report in reports for name in report.written}
    stems = set(output_stems(sources))
    names = (re.fullmatch(r"(.+)_chunk_\d+\.wav", path.name) for path in Path(output_dir).iterdir())
    return natsorted(name[0] for name in names if name and name[1] in stems and name[0] not in now)


# ---- cutting ---------------------------------------------------------------------------------------------------------


def cut(blocks: Iterable[Audio], chunk_frames: int, overlap_frames: int = 0) -> Iterator[Audio]:
    """The chunks of a recording that comes in blocks: every `chunk_frames - overlap_frames` frames one of
    `chunk_frames`, and a shorter last one if they leave something over."""
    pending: list[Audio] = []
    held = 0  # frames in `pending`, of which the first are in the chunk before
    already_covered = 0
    for block in blocks:
        pending.append(block)
        held += len(block)
        if held < chunk_frames:
            continue
        joined = np.concatenate(pending)
        start = 0
        while len(joined) - start >= chunk_frames:
            yield joined[start : start + chunk_frames]
            start += chunk_frames - overlap_frames
        already_covered = overlap_frames
        pending = [joined[start:].copy()]  # a view would keep all of `joined` in memory
        held = len(pending[0])
    if held > already_covered:
        yield np.concatenate(pending)


def is_silent(chunk: npt.ArrayLike, sample_rate: int, threshold_dbfs: float = -64.0) -> bool:
    """Whether at least half of a chunk, `[samples]` or `[samples, channels]`, is one stretch below the threshold.

    The level is the RMS over a window of 10 ms that slides by one sample (over all channels), in dB relative to a
    constant full-scale signal: a full-scale sine lies at -3 dBFS. A stretch is what consecutive windows below the
    threshold cover. A click therefore ends a stretch; PRiSM takes one RMS over half the chunk, in which it may drown.
    pydub's `detect_silence` slides by milliseconds, and takes ten times as long.
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


def chunk_file(
    source: Path,
    stem: str,
    output_dir: Path,
    options: ChunkOptions,
    on_progress: Callable[[int], None] = lambda more: None,
) -> FileReport:
    """Write `<stem>_chunk_<n>.wav` for each chunk of a recording that is not silent; n counts silent ones too.

    Args:
        on_progress: called now and then with the bytes of the file that have been cut since the last call.

    Raises:
        UsageError, RunError: a chunk cannot be written. A recording that cannot be read is a problem in the report.
    """
    silent: list[str] = []
    written: list[str] = []
    replaced, left_over, problem = 0, 0.0, None
    remarks: tuple[str, ...] = ()
    size, done = source.stat().st_size, 0

    def advance(position: int) -> None:
        nonlocal done
        if position > done:
            on_progress(position - done)
            done = position

    try:
        with open_recording(source) as reading:
            info = reading.info
            rate = options.sample_rate or info.sample_rate
            chunk_frames, overlap_frames = options.frames(rate)
            expected = max(1, round(info.frames * rate / info.sample_rate))
            blocks = reading.blocks(options.sample_rate, mono=options.mono)
            if options.highpass is not None:
                blocks = highpass_blocks(blocks, rate, options.highpass)
            for number, chunk in enumerate(cut(blocks, chunk_frames, overlap_frames)):
                advance(size * min(number * (chunk_frames - overlap_frames), expected) // expected)
                if len(chunk) < chunk_frames and not options.keep_tail:
                    left_over = (len(chunk) - (overlap_frames if number else 0)) / rate
                    break
                name = f"{stem}_chunk_{number}.wav"
                if is_silent(chunk, rate, options.silence_threshold):
                    silent.append(name)
                    continue
                replaced += (output_dir / name).exists()
                write_wav(output_dir / name, chunk, rate, wav_subtype(info.subtype))
                written.append(name)
            remarks = tuple(reading.remarks)
    except AudioError as error:
        problem = str(error)
    advance(size)
    return FileReport(source, tuple(silent), tuple(written), replaced, left_over, problem, remarks)


def chunk_recordings(
    sources: Sequence[Path],
    output_dir: Path | str,
    options: ChunkOptions,
    *,
    jobs: int = 1,
    on_progress: Callable[[int], None] = lambda more: None,
    searched: Sequence[Path] = (),
) -> Iterator[FileReport]:
    """Chunk every recording, and report on each in the order given. Chunks of the same names are replaced.

    Args:
        sources: as from `find_sources`, each once.
        jobs: processes of this machine; a few small recordings are cut in this one.
        on_progress: as for `chunk_file`, or called with the size of each recording that is done.
        searched: folders of recordings; if `output_dir` is made in one of them, it is marked as Tierwave's own.

    Raises:
        UsageError: chunks would take the place of a recording, or `output_dir` cannot be written.
        RunError: writing failed.
    """
    if jobs < 1:
        raise UsageError(f"jobs must be at least 1, not {jobs}")
    output = Path(output_dir)
    stems = output_stems(sources)
    _refuse_to_overwrite(sources, output, stems)
    try:
        # Chunks beside the recordings that they were cut from would be the same sound twice.
        if any(output.resolve().is_relative_to(folder.resolve()) for folder in searched):
            make_own(output)
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"output_dir {output_dir} cannot be created ({error.strerror}): choose another") from error
    sizes = [source.stat().st_size for source in sources]
    if sum(sizes) < SMALL_BYTES:
        jobs = 1
    abandoned = unfinished_files([output])
    tasks = list(zip(sources, stems, strict=True))
    if min(jobs, len(tasks)) == 1:
        for source, stem in tasks:
            yield chunk_file(source, stem, output, options, on_progress)
    else:
        work = functools.partial(_chunk, output=output, options=options)
        for size, report in zip(sizes, parallel_map(work, tasks, jobs=jobs), strict=True):
            on_progress(size)
            yield report
    for path in abandoned:
        path.unlink(missing_ok=True)


def _chunk(task: tuple[Path, str], output: Path, options: ChunkOptions) -> FileReport:
    return chunk_file(*task, output, options)


def _refuse_to_overwrite(sources: Sequence[Path], output_dir: Path, stems: Sequence[str]) -> None:
    folded = set(map(_folded, stems))
    for source in sources:
        chunk_name = re.fullmatch(r"(.+)_chunk_\d+\.wav", _folded(source.name))
        if chunk_name and chunk_name[1] in folded and source.resolve().parent == output_dir.resolve():
            raise UsageError(f"The recording {source} could be overwritten by a chunk: choose another output_dir")
