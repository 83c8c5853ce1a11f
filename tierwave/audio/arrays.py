"""Corpora of the original SampleRNN: `.npy` files `[recordings, samples]`, each row of which is a recording.

`music_train.npy` and its like hold float16, eight seconds a row, all at one rate that no file states. Rows are read one
by one from the disk. An array of another kind, such as a spectrogram next to its sound, is left out with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from natsort import natsorted, ns

from tierwave.audio.finding import AUDIO_SUFFIXES
from tierwave.audio.recordings import AudioInfo
from tierwave.errors import AudioError
from tierwave.files.folders import LeftOut, walk
from tierwave.files.writing import ArrayError, load_array

SUFFIX = ".npy"
SHORTEST = 1000  # samples; an array with shorter rows holds features, a frame in each
MOST_OVER = 1e-3  # beyond full scale; half precision may round up
MOST_EXAMINED = 16  # rows, spread over an array, that show whether it holds sound


@dataclass(frozen=True)
class Row:
    """Recording `number`, from 0, of an array file. Its name, `music_train.npy/12`, stays when more are appended."""

    path: Path
    number: int


def find_rows(folder: Path, *, without: Sequence[Path] = ()) -> tuple[list[Row], LeftOut]:
    """The recordings of every array file under `folder`, or of that file, in natural order; and (path, reason) of the
    array files that hold none, and of what `folders.walk` leaves out, which see for `without`."""
    rows: list[Row] = []
    left_out: LeftOut = []
    if folder.is_file():
        found = [folder] if _is_array(folder.name) else []
    else:
        found, left_out = walk(folder, _is_array, without=without)
    for path in natsorted(sorted(found, key=str), alg=ns.PATH):
        try:
            rows += [Row(path, number) for number in range(len(_opened(path)))]
        except AudioError as error:
            left_out.append((path, error.reason))
    return rows, left_out


class RowReading:
    """A row as an open recording, as `recordings.Reading`: one channel, at the rate that is named."""

    certain = True
    remarks: Sequence[str] = ()

    def __init__(self, row: Row, sample_rate: int) -> None:
        self._sound = read_row(row)
        self.info = AudioInfo(row.path, sample_rate, 1, len(self._sound), "FLOAT")

    def blocks(self, sample_rate: int | None = None) -> Iterator[npt.NDArray[np.float32]]:
        """The whole row, which is of that rate already."""
        yield self._sound


def read_row(row: Row) -> npt.NDArray[np.float32]:
    """The whole of one recording, float32 `[samples]`. Raises AudioError where it is no sound."""
    return _sound(row.path, _array(row.path), row.number)


def _is_array(name: str) -> bool:
    return name.lower().endswith(SUFFIX)


def _opened(path: Path) -> np.ndarray:
    """The array of a file, which stays on the disk; AudioError where it holds no recordings."""
    beside = [path.with_suffix(suffix) for suffix in sorted(AUDIO_SUFFIXES) if path.with_suffix(suffix).exists()]
    if beside:
        raise AudioError(path, f"it belongs to the recording {beside[0].name}")
    array = _array(path)
    if array.ndim != 2 or not array.size or not (array.dtype.kind == "f" or array.dtype == np.int16):
        shape = ", ".join(map(str, array.shape))
        wanted = "floats or int16 [recordings, samples]"
        raise AudioError(path, f"it is {array.dtype} [{shape}], and recordings are {wanted}")
    if array.shape[1] < SHORTEST:
        raise AudioError(path, f"its rows have {array.shape[1]} values, and a recording has {SHORTEST} or more")
    for number in np.unique(np.linspace(0, len(array) - 1, MOST_EXAMINED, dtype=int)):
        try:
            _sound(path, array, int(number))
            break
        except AudioError as error:
            fault = error.reason
    else:  # in none of them
        raise AudioError(path, fault)
    return array


def _array(path: Path) -> np.ndarray:
    try:
        array = load_array(path, mapped=True)
    except ArrayError as error:
        raise AudioError(path, f"it cannot be read as an array ({error.reason})") from error
    except OSError as error:
        raise AudioError(path, f"it cannot be opened ({error.strerror})") from error
    if not isinstance(array, np.ndarray):  # an archive under another name
        raise AudioError(path, "it holds several arrays, and one is needed")
    return array


def _sound(path: Path, array: np.ndarray, number: int) -> npt.NDArray[np.float32]:
    if number >= len(array):
        raise AudioError(path, f"it has no row {number} any more")
    values = np.asarray(array[number])
    with np.errstate(over="ignore", invalid="ignore"):  # float64 may overflow to infinity, which is refused
        sound = values.astype(np.float32)
    if values.dtype == np.int16:
        sound /= np.float32(32768)
    if not np.isfinite(sound).all():
        raise AudioError(path, f"row {number} holds NaN or infinity")
    peak = float(np.abs(sound).max())
    if peak > 1 + MOST_OVER:
        raise AudioError(path, f"the values of row {number} reach {peak:.4g}, and those of sound lie within 1")
    return sound
