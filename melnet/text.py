"""Transcripts of a corpus, their alphabet, and both as a source of batches.

Transcripts lie in the corpus folder: in LJSpeech's `metadata.csv` (`id|text|normalised`, no header, columns by number
from 0), or in a CSV with a column `filename` and one that the config names.
"""

from __future__ import annotations

import itertools
import re
import reprlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tierwave.controls.sources import without_audio_suffix, without_recording
from tierwave.data.corpus import Corpus
from tierwave.data.windows import Where
from tierwave.errors import RunError, UsageError
from tierwave.files.names import folded, matcher
from tierwave.files.text import read_cells, read_header, read_text
from tierwave.files.urls import Place, Url, place_of

METADATA_NAME = "metadata.csv"
FILENAME = "filename"
MOST_CHARACTERS = 1024  # rows of the embedding, which is built before the corpus is known


def normalised(text: str) -> str:
    """Lower case, composed (NFC), any white space one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text.lower()).split())


@dataclass(frozen=True)
class Alphabet:
    """The characters that a network knows, in order: the first has the code 1, 0 is padding."""

    characters: str

    @classmethod
    def fit(cls, texts: Sequence[str]) -> Alphabet:
        """Of normalised texts, sorted. Raises RunError if there are more than `MOST_CHARACTERS`."""
        characters = "".join(sorted(set().union(*texts)))
        if len(characters) > MOST_CHARACTERS:
            raise RunError(
                f"the texts are written in {len(characters)} different characters, and {MOST_CHARACTERS} can be told "
                "apart: transcribe them in an alphabet"
            )
        return cls(characters)

    def encode(self, text: str, whose: str = "the text") -> np.ndarray:
        """Codes int32 `[characters]` of a text, which is normalised first. Raises UsageError for an empty text or a
        character that is not in the alphabet."""
        text = normalised(text)
        if not text:
            raise UsageError(f"{whose} is empty: write what is to be said")
        for character in text:
            if character not in self.characters:
                name = unicodedata.name(character, f"U+{ord(character):04X}").lower()
                raise UsageError(
                    f'{whose} has the character "{character}" ({name}), and the network has learned only '
                    f'"{self.characters}": write it with those'
                )
        return np.array([self.characters.index(character) + 1 for character in text], np.int32)


def padded(codes: Sequence[np.ndarray], multiple_of: int = 1) -> np.ndarray:
    """Codes of texts, int32 `[texts, longest]`, padded with 0."""
    longest = -(-max(map(len, codes)) // multiple_of) * multiple_of
    return np.stack([np.pad(each, (0, longest - len(each))) for each in codes]).astype(np.int32)


class Texts:
    """The texts of a corpus, one per recording: a source of codes (see `tierwave.data.windows`). said: the normalised
    texts; remarks: warnings about their file."""

    dtype: np.dtype[Any] = np.dtype(np.int32)
    per_step = False

    def __init__(self, said: Sequence[str], names: Sequence[str], alphabet: Alphabet, remarks: Sequence[str] = ()):
        self.said, self.alphabet, self.remarks = tuple(said), alphabet, tuple(remarks)
        whose = [f"the text of {name}" for name in names]
        self.codes = padded([alphabet.encode(*each) for each in zip(said, whose, strict=True)])
        self.shape: tuple[int, ...] = self.codes.shape[1:]

    @classmethod
    def of(cls, corpus: Corpus, data_dir: Place, column: str | int, stored: Mapping[str, Any] | None = None) -> Texts:
        """The texts of a corpus in `data_dir`, in the alphabet `stored` in a run, or in their own.

        Raises RunError for a recording without text or a missing file, UsageError for a character that is not in the
        stored alphabet.
        """
        names = [recording.name for recording in corpus.recordings]
        path, found = find_transcripts(data_dir, column)
        row_of = matcher(found)
        said = [_text_of(name, found, row_of, path) for name in names]
        remarks = _strays(path, found, [*names, *(name for name, _ in corpus.left_out)])
        return cls(said, names, Alphabet.fit(said) if stored is None else alphabet_of(stored), remarks)

    @property
    def document(self) -> dict[str, Any]:
        """What the run stores; `alphabet_of` reads it."""
        return {"alphabet": self.alphabet.characters, "longest": self.shape[0]}

    def read(self, where: Where) -> np.ndarray:
        """Codes of each lane's recording, int32 `[lanes, longest]`."""
        return self.codes[where.recording]


def alphabet_of(document: Mapping[str, Any]) -> Alphabet:
    """The alphabet that `Texts.document` holds. Raises RunError where it holds none."""
    characters = document.get("alphabet") if isinstance(document, Mapping) else None
    if not isinstance(characters, str) or not 0 < len(set(characters)) == len(characters) <= MOST_CHARACTERS:
        raise RunError(f"the run's alphabet ({reprlib.repr(characters)}) is not one: take the run's file from a backup")
    return Alphabet(characters)


def find_transcripts(data_dir: Place | str, column: str | int) -> tuple[Path, dict[str, str]]:
    """The file of transcripts in a corpus folder, or beside a single recording, and texts by file name or id.

    column: a number for `metadata.csv`, a name for a CSV with a column `filename`. Raises RunError where there is none
    or more than one, or it is malformed.
    """
    data_dir = place_of(data_dir)
    if isinstance(data_dir, Url):
        raise UsageError(f"transcripts cannot be read at {data_dir}: copy the recordings to a folder of this machine")
    folder = data_dir if data_dir.is_dir() else data_dir.parent
    if isinstance(column, int):
        path = folder / METADATA_NAME
        if not path.is_file():
            raise RunError(
                f"text.column is {column}, a column of {METADATA_NAME}, and there is none in {folder}: put it there, "
                "or name the column of a CSV that has filename,text"
            )
        return path, _collected(path, _metadata_rows(path, column))
    fitting, unreadable = [], []
    for path in sorted(folder.glob("*.csv")):
        try:
            if {FILENAME, column} <= set(read_header(path)):
                fitting.append(path)
        except (RunError, OSError) as error:  # some other file, if one is found
            unreadable.append(str(error))
    if len(fitting) != 1:
        number = f"; for the columns of {METADATA_NAME}, give a number" if (folder / METADATA_NAME).is_file() else ""
        found = " and ".join(path.name for path in fitting) if fitting else "no CSV"
        raise RunError(
            f"{found} in {folder} has the columns {FILENAME} and {column}, where the texts are looked for: there must "
            f"be one such file{number}{''.join(f'; {each}' for each in unreadable[:1])}"
        )
    return fitting[0], _collected(fitting[0], _manifest_rows(fitting[0], column))


def _text_of(name: str, found: Mapping[str, str], row_of: Callable[[str], str | None], path: Path) -> str:
    """The normalised text of a recording by its path within the corpus, with or without suffix, or its bare name."""
    stem = without_audio_suffix(name)
    for key in map(row_of, (name, stem, PurePosixPath(name).name, PurePosixPath(stem).name)):
        if key is not None:
            if not found[key]:
                raise RunError(f"{name} has an empty text in {path}: fill it in, or take the recording away")
            return found[key]
    raise RunError(f"{name} has no text in {path}: add a row for it, or take the recording away")


def _strays(path: Path, found: Iterable[str], names: Iterable[str]) -> list[str]:
    """A warning about texts without a recording, usable or not."""
    stems = {folded(without_audio_suffix(name)) for name in names}
    known = stems | {stem.rpartition("/")[2] for stem in stems}
    rows = [row for row in found if folded(without_audio_suffix(row)) not in known]
    return [f"{path} has texts for {without_recording(rows)}: correct the names, or delete the rows"] if rows else []


def _collected(path: Path, rows: Iterator[tuple[int, str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line, name, text in rows:
        key = name.strip().replace("\\", "/").removeprefix("./")
        said = normalised(text)
        if found.setdefault(key, said) != said:
            raise RunError(f"{path} has two texts for {key}, the second at line {line}: keep one of them")
    return found


def _metadata_rows(path: Path, column: int) -> Iterator[tuple[int, str, str]]:
    """(line, id, text); quotation marks are part of the text."""
    for line, row in enumerate(re.split(r"\r\n?|\n", read_text(path)), start=1):
        cells = row.split("|")
        if not row.strip():
            continue
        if not 0 < column < len(cells):
            raise RunError(
                f"line {line} of {path} has {len(cells)} columns between its |, and text.column is {column} (the id is "
                "column 0): correct the line, or name another column"
            )
        yield line, cells[0], cells[column]


def _manifest_rows(path: Path, column: str) -> Iterator[tuple[int, str, str]]:
    rows = itertools.dropwhile(lambda each: each[1][0].startswith("#"), read_cells(path).rows)
    _, header = next(rows)
    names = [name.strip() for name in header]
    at, text = names.index(FILENAME), names.index(column)
    for line, row in rows:
        if len(row) != len(names):
            raise RunError(
                f"line {line} of {path} has {len(row)} cells, not {len(names)}: put a text with commas in quotes"
            )
        yield line, row[at], row[text]
