"""Recordings of folders: which files are recordings, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path, PurePosixPath

from tierwave.errors import UsageError
from tierwave.files.folders import LeftOut, walk
from tierwave.files.names import located
from tierwave.files.urls import RemoteFile, Url, files_below, local_folder

# fmt: off
LIBSNDFILE_SUFFIXES = {
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf",
    ".w64", ".rf64", ".voc", ".sph", ".nist", ".iff", ".8svx", ".paf", ".xi",
}
FFMPEG_SUFFIXES = {
    ".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".aac", ".wma", ".asf", ".webm", ".mka", ".mkv", ".ac3", ".eac3",
    ".amr", ".ape", ".wv", ".tta", ".mp2", ".mpc", ".spx", ".dsf",
}
# fmt: on
AUDIO_SUFFIXES = LIBSNDFILE_SUFFIXES | FFMPEG_SUFFIXES


def find_audio(paths: Sequence[Path | str], *, own: bool = False) -> list[Path]:
    """The recordings that `search_audio` finds."""
    return search_audio(paths, own=own)[0]


def search_audio(
    paths: Sequence[Path | str], *, own: bool = False, without: Sequence[Path] = ()
) -> tuple[list[Path], LeftOut]:
    """Every recording among `paths`, each once, in natural order (`take 2` before `take 10`); and (path, reason) of
    what in the folders cannot be read, or is left out as Tierwave's own. There may be none.

    A file counts whatever its name. A folder is searched recursively for the suffixes in `AUDIO_SUFFIXES` in any case;
    `own` and `without` are those of `folders.walk`.

    Raises:
        UsageError: a path does not exist, or is a URL.
    """
    from natsort import natsorted, ns  # a command that looks for no recordings starts without it

    found: list[Path] = []
    left_out: LeftOut = []
    for given in [paths] if isinstance(paths, str | Path) else paths:
        path = located(local_folder(given))
        if path.is_dir():
            files, others = walk(path, _is_recording, own=own, without=without)
            found += files
            left_out += others
        elif path.exists():
            found.append(path)
        else:
            raise UsageError(f"There is no file or folder {path}: check the spelling, and quote a path with spaces")
    # Sorted by plain text first, for names that are equal in natural order (1.wav, 01.wav).
    ordered: list[Path] = natsorted(sorted(found, key=str), alg=ns.PATH)
    first: dict[Path, Path] = {}
    for path in ordered:
        first.setdefault(path.resolve(), path)
    return list(first.values()), list(dict.fromkeys(left_out))


def find_audio_at(url: Url) -> list[RemoteFile]:
    """Every recording in a folder at a URL, in the order of `find_audio`; a file is taken as it is.

    Raises UsageError where there is no such folder or file.
    """
    from natsort import natsorted, ns

    found = files_below(url)
    if not found:
        raise UsageError(f"There is no file or folder {url}: check the address and your access to it")
    if len(found) > 1 or not url.text.endswith(f"/{found[0].name}"):
        found = [
            file
            for file in found
            if _is_recording(file.name) and not any(part.startswith(".") for part in PurePosixPath(file.name).parts)
        ]
    return natsorted(sorted(found, key=attrgetter("name")), key=lambda file: PurePosixPath(file.name), alg=ns.PATH)


def _is_recording(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.name.startswith(".") and path.suffix.lower() in AUDIO_SUFFIXES
