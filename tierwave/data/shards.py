"""The codes of many recordings, a file each, read in blocks that are kept for a while.

A file per recording, and not several packed into one: a worker then opens the files of its own lanes and no others,
every finished one stands for itself when a corpus is being encoded, and two that encode the same one cannot disagree.
No file stays open or mapped, so that neither the number of recordings nor that of lanes meets a limit of the system,
and a file is read in the same way wherever it lies. Knows numbers, no sound.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tierwave.errors import RunError
from tierwave.files.places import Place

LOCAL_BLOCK, LOCAL_KEPT = 1 << 16, 1 << 26  # bytes of a block, and of all blocks that are kept
REMOTE_BLOCK, REMOTE_KEPT = 1 << 20, 1 << 28  # a read costs some 50 ms there, however much is read
_AT_ONCE = 16  # reads of a remote place

Part = tuple[int, int, int]  # (recording, start, stop)


class Shards:
    """The codes of recordings: `names[n]` in `folder` holds `samples[n]` of them, of `dtype`.

    Blocks are kept up to a total size, and at least four for every part that is asked for at a time.
    """

    def __init__(self, folder: Place, names: Sequence[str], samples: Sequence[int], dtype: np.dtype[Any]):
        self.folder, self.names, self.samples, self.dtype = folder, tuple(names), tuple(samples), dtype
        local = isinstance(folder, Path)
        self._block = (LOCAL_BLOCK if local else REMOTE_BLOCK) // dtype.itemsize
        self._most = (LOCAL_KEPT // LOCAL_BLOCK) if local else (REMOTE_KEPT // REMOTE_BLOCK)
        self._kept: dict[tuple[int, int], np.ndarray] = {}
        self._lock = threading.Lock()

    def whole(self, number: int) -> np.ndarray:
        """All codes of one recording `[samples]`: mapped from a file of this machine, else read."""
        if isinstance(self.folder, Path):
            path = self.folder / self.names[number]
            try:
                return np.memmap(path, dtype=self.dtype, mode="r", shape=(self.samples[number],))
            except (OSError, ValueError) as error:
                raise self._damaged(number, str(error)) from error
        return self._fetch(number, 0, self.samples[number])

    def parts(self, wanted: Iterable[Part]) -> list[np.ndarray]:
        """Codes `[stop - start]` of each part, which must lie within its recording."""
        wanted = list(wanted)
        self._most = max(self._most, 4 * len(wanted))
        if not isinstance(self.folder, Path):
            self._fetch_together(wanted)
        size, kept = self._block, self._kept
        found = []
        for number, start, stop in wanted:
            block = start // size
            first = block * size
            if stop <= first + size:
                codes = kept.get((number, block))
                if codes is None:
                    codes = self._read(number, block)
                found.append(codes[start - first : stop - first])
            elif stop - start > 4 * size:  # too much to be worth keeping
                found.append(self._fetch(number, start, stop - start))
            else:
                joined = np.concatenate([self._read(number, each) for each in self._blocks(start, stop)])
                found.append(joined[start - first : stop - first])
        return found

    def _blocks(self, start: int, stop: int) -> range:
        return range(start // self._block, -(-stop // self._block))

    def _read(self, number: int, block: int) -> np.ndarray:
        key = (number, block)
        codes = self._kept.get(key)
        if codes is None:
            codes = self._fetch(number, block * self._block, self._block)
            with self._lock:
                self._kept[key] = codes
                # Lanes read on: the oldest block is the one least likely to be wanted again.
                while len(self._kept) > self._most:
                    del self._kept[next(iter(self._kept))]
        return codes

    def _fetch_together(self, wanted: Sequence[Part]) -> None:
        """Read what is missing side by side: a remote place is slow to answer, not slow to send."""
        missing = {
            (number, block): None
            for number, start, stop in wanted
            if stop - start <= 4 * self._block
            for block in self._blocks(start, stop)
            if (number, block) not in self._kept
        }
        if len(missing) > 1:
            with ThreadPoolExecutor(min(_AT_ONCE, len(missing))) as pool:
                list(pool.map(lambda key: self._read(*key), missing))

    def _fetch(self, number: int, first: int, count: int) -> np.ndarray:
        """`count` codes from `first` on, as far as there are any."""
        count = min(count, self.samples[number] - first)
        start, length = first * self.dtype.itemsize, count * self.dtype.itemsize
        place = self.folder / self.names[number]
        try:
            if isinstance(place, Path):
                with open(place, "rb") as file:
                    file.seek(start)
                    content = file.read(length)
            else:
                content = place.read_range(start, length)
        except FileNotFoundError:
            raise self._damaged(number, "it is missing") from None
        if len(content) != length:
            raise self._damaged(number, "it is shorter than it was")
        return np.frombuffer(content, self.dtype)

    def _damaged(self, number: int, reason: str) -> RunError:
        return RunError(
            f"the cache {self.folder} is damaged ({self.names[number]}: {reason}): delete it, and it is made anew"
        )
