"""Recordings of folders: which files are recordings, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from natsort import natsorted, ns

from tierwave.errors import UsageError
from tierwave.files.folders import LeftOut, walk
from tierwave.files.names import located
from tierwave.files.places import Url, place_of

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
