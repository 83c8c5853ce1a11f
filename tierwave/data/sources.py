"""The recordings of a corpus, wherever they lie: files, files at a URL, rows of an array file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tierwave.audio.arrays import SUFFIX, Row, RowReading, find_rows
from tierwave.audio.finding import find_audio_at, search_audio
from tierwave.audio.recordings import Reading, open_recording
from tierwave.files.folders import LeftOut
from tierwave.files.names import name_within
from tierwave.files.urls import Place, Url, fetched

Reasons = tuple[tuple[str, str], ...]  # (name, why it is left out)


@dataclass(frozen=True)
class AudioSource:
    """One recording. name: its path below the corpus folder, with slashes; size in bytes and changed, the time of the
    file's last change, tell whether it is still the same; row: its number in an array file."""

    name: str
    place: Place
    size: int
    changed: int | str
    row: int | None = None

    @contextlib.contextmanager
    def opened(self, sample_rate: int) -> Iterator[Reading | RowReading]:
        """The recording to read; what is at a URL is copied to this machine for so long.

        sample_rate: of a row, which does not tell its own. Raises AudioError as `open_recording`.
        """
        if isinstance(self.place, Path) and self.row is not None:
            yield RowReading(Row(self.place, self.row), sample_rate)
            return
        with contextlib.ExitStack() as held:
            path = held.enter_context(fetched(self.place)) if isinstance(self.place, Url) else self.place
            yield held.enter_context(open_recording(path))


def find_audio_sources(root: Place, without: Sequence[Path] = ()) -> tuple[tuple[AudioSource, ...], Reasons, Reasons]:
    """All recordings under `root`, in natural order, rows of arrays last; (name, reason) of array files that hold none;
    and of files and folders that are passed over. Raises UsageError where `root` is not there."""
    if isinstance(root, Url):
        remote = find_audio_at(root)
        return tuple(AudioSource(each.name, each.url, each.size, each.changed) for each in remote), (), ()
    base = root if root.is_dir() else root.parent
    rows, no_rows = find_rows(root, without=without)
    alone = root.is_file() and (rows or no_rows)  # the array itself was named
    files, passed_over = ([], []) if alone else search_audio([root], without=without)
    arrays = [(path, why) for path, why in no_rows if path.suffix.lower() == SUFFIX and path.is_file()]
    passed_over += [each for each in no_rows if each not in arrays]
    sources: dict[str, AudioSource] = {}
    for path, row in [*((path, None) for path in files), *((row.path, row.number) for row in rows)]:
        name = name_within(path, base) + ("" if row is None else f"/{row}")
        if name in sources:
            passed_over.append((path, "another recording has the same name"))
        else:
            status = path.stat()
            sources[name] = AudioSource(name, path, status.st_size, status.st_mtime_ns, row)

    def named(left_out: LeftOut) -> Reasons:
        return tuple(dict.fromkeys((name_within(path, base), why) for path, why in left_out))

    return tuple(sources.values()), named(arrays), named(passed_over)
