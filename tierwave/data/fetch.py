"""Corpora that many have used, downloaded and laid out for train.py, only when asked.

Recordings are left as they are. What they say is put where a MelNet with "text" looks for it (`melnet.text`): in
`metadata.csv`, or in a CSV with the columns filename and text. `SOURCE.json` says where all came from, and, being
written last, that it is whole. An interrupted download begins again when the command is given again; one that is
whole is kept until it is laid out.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tierwave.audio.finding import find_audio
from tierwave.data.downloads import Archive, Progress, download, unpack
from tierwave.errors import RunError, UsageError
from tierwave.files.text import parse_json
from tierwave.files.writing import write_text

SOURCE = "SOURCE.json"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TRANSCRIPTS = ".trans.txt"
MODELS = {"samplernn": "a SampleRNN", "melnet": "a MelNet", "text": "a MelNet that reads"}


@dataclass(frozen=True)
class Collection:
    """A corpus on the web. archives: by the name of the subset; top: the folder in them that holds all; kept: what of
    that is kept, None: all; finish(folder): lays the rest out; hints: (key of `MODELS`, what to give train.py)."""

    title: str
    licence: str
    home: str
    archives: dict[str, Archive]
    top: str
    finish: Callable[[Path], None]
    hints: tuple[tuple[str, str], ...]
    kept: str | None = None

    @property
    def default(self) -> str:
        """The subset that is taken where none is named."""
        return next(iter(self.archives))


def fetch(
    collection: Collection,
    folder: Path,
    subset: str,
    *,
    archive: Archive | None = None,
    keep_archive: bool = False,
    progress: Callable[[str], Progress] = lambda what: lambda done, total: None,
) -> int:
    """Download a subset into `folder`, unpack it and lay it out; how many recordings `folder` has then.

    archive: another address, or checksum, than the collection's. progress(what) gives what is told of the bytes of
    each step. Nothing is fetched that is there. Raises RunError and UsageError with what to do.
    """
    import pooch

    archive = archive or collection.archives[subset]
    sources = _sources(folder)
    if subset not in sources:
        begun = bool(sources) or any(folder.glob(f"{archive.name}*"))
        strangers = find_audio([folder]) if folder.is_dir() and not begun else []
        if strangers:
            raise UsageError(f"{folder} holds other recordings, such as {strangers[0].name}: name a folder of its own")
        path = download(archive, folder, progress(f"Fetching {archive.name}"))
        digest = archive.sha256 or pooch.file_hash(str(path))
        unpacked = folder / f"{subset}.new"
        shutil.rmtree(unpacked, ignore_errors=True)
        unpack(path, unpacked, progress(f"Unpacking {archive.name}"))
        _move(unpacked, collection, folder)
        collection.finish(folder)
        sources[subset] = {
            "corpus": collection.title,
            "home": collection.home,
            "licence": collection.licence,
            "url": archive.url,
            "sha256": digest,
        }
        write_text(folder / SOURCE, json.dumps(sources, indent=1) + "\n")
        if not keep_archive:
            path.unlink()
    return len(find_audio([folder]))


def _sources(folder: Path) -> dict[str, Any]:
    """What of a collection lies in a folder, by subset."""
    path = folder / SOURCE
    if not path.exists():
        return {}
    try:
        found = parse_json(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RunError(f"{path} is broken: delete it, and the corpus is fetched anew")
    return found


def _move(unpacked: Path, collection: Collection, folder: Path) -> None:
    """The content of an archive to its place in the folder, over what an interrupted call has left there."""
    source = unpacked / collection.top / (collection.kept or "")
    if not source.is_dir():
        raise RunError(
            f"the archive holds no folder {collection.top}/{collection.kept or ''}, so it is not {collection.title}: "
            "name the right one with --url, or leave that out"
        )
    for path in sorted(source.iterdir()):
        target = folder / path.name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        os.replace(path, target)
    shutil.rmtree(unpacked)


# The corpora ---------------------------------------------------------------------------------------------------------


def _as_it_is(folder: Path) -> None:
    """LJSpeech's own metadata.csv is what `text` reads."""


def _gather_transcripts(folder: Path) -> None:
    """LibriSpeech's transcripts, one file per chapter (`id TEXT`), as one metadata.csv (`id|TEXT`)."""
    rows = []
    for path in sorted(folder.rglob(f"*{TRANSCRIPTS}")):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(" ")
            if name:
                rows.append(f"{name}|{text.strip()}")
    write_text(folder / "metadata.csv", "".join(f"{row}\n" for row in rows))


def _spell_digits(folder: Path) -> None:
    """The word that each `<digit>_<speaker>_<take>.wav` says, in text.csv."""
    names = [path.name for path in find_audio([folder]) if path.name.partition("_")[0] in map(str, range(10))]
    rows = [f"{name},{DIGITS[int(name[0])]}" for name in names]
    write_text(folder / "text.csv", "\n".join(["filename,text", *rows, ""]))


_OPENSLR = "https://www.openslr.org/resources/12"
_LIBRISPEECH = {
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "dev-other": "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    "train-clean-100": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    "train-clean-360": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    "train-other-500": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
}

COLLECTIONS = {
    "ljspeech": Collection(
        title="LJSpeech 1.1",
        licence="public domain",
        home="https://keithito.com/LJ-Speech-Dataset/",
        archives={
            "1.1": Archive(
                "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2",
                "be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5",
                unpacked=1.4,
            )
        },
        top="LJSpeech-1.1",
        finish=_as_it_is,
        hints=(
            ("samplernn", "--config_file configs/small.config.json --sample_rate 16000"),
            ("text", "--config_file configs/melnet_digits_text.config.json --set text.column=2"),
        ),
    ),
    "librispeech": Collection(
        title="LibriSpeech",
        licence="CC BY 4.0",
        home="https://www.openslr.org/12/",
        archives={
            name: Archive(f"{_OPENSLR}/{name}.tar.gz", digest, unpacked=1.1) for name, digest in _LIBRISPEECH.items()
        },
        top="LibriSpeech",
        finish=_gather_transcripts,
        hints=(
            ("samplernn", "--config_file configs/small.config.json"),
            ("melnet", "--config_file configs/melnet_digits.config.json"),
            ("text", "--config_file configs/melnet_digits_text.config.json --set text.column=1"),
        ),
    ),
    "fsdd": Collection(
        title="Free Spoken Digit Dataset 1.0.9",
        licence="CC BY-SA 4.0",
        home="https://github.com/Jakobovski/free-spoken-digit-dataset",
        archives={
            "1.0.9": Archive(
                "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz",
                "8bc44cde129d505cbbb6b365c09f80c663f2aa77578afc634e6141a2f87100c0",
                unpacked=3.0,
            )
        },
        top="free-spoken-digit-dataset-1.0.9",
        kept="recordings",
        finish=_spell_digits,
        hints=(
            ("samplernn", "--config_file configs/small.config.json"),
            ("melnet", "--config_file configs/melnet_digits.config.json"),
            ("text", "--config_file configs/melnet_digits_text.config.json"),
        ),
    ),
}
