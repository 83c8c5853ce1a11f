"""What libsndfile cannot read: pydub says which ffmpeg there is and what is in the file, and ffmpeg decodes it.

pydub's own decoding (`AudioSegment.from_file`) is not used: it holds the whole recording in memory, 1.8 GB for an hour,
and rounds the floats of lossy formats to 16 bits.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

from tierwave.audio.finding import LIBSNDFILE_SUFFIXES
from tierwave.errors import AudioError, RunError

INSTALL_FFMPEG = (
    "install ffmpeg (`apt install ffmpeg`, `brew install ffmpeg`, `winget install ffmpeg`) or convert the file to wav"
)
FULL = (errno.ENOSPC, errno.EDQUOT)

# ffmpeg decodes as far as it can, and exits with 0.
_DAMAGE = re.compile(r".*(partial file|Invalid data found|corrupt|[Tt]runcated|Error (submitting|while)).*")
_PREFIXES = re.compile(r"^(\[[^]]*\] *|\S*/\S*: *)+")  # of a line: the part of ffmpeg, and the file


def decode_with_ffmpeg(path: Path, folder: Path, reason: str) -> tuple[Path, str, list[str]]:
    """The first sound track as a float wave file in `folder`, its subtype in the terms of `AudioInfo`, and remarks.

    reason: why libsndfile does not read it.

    Raises:
        AudioError: pydub or ffmpeg is missing, or it cannot read the file either.
        RunError: the disk is full.
    """
    program, tracks = _pydub(path, reason)
    sound = next((track for track in tracks or () if track.get("codec_type") == "audio"), None)
    if tracks is not None and sound is None:
        raise AudioError(path, "it holds no sound track")
    target = folder / "decoded.wav"
    command = [program, "-hide_banner", "-nostdin", "-nostats"]
    command += ["-protocol_whitelist", "file", "-i", str(path.resolve())]  # a playlist in disguise opens no network
    # Beyond 4 GB it is RF64. Not W64: libsndfile takes the floats that ffmpeg writes there for integers.
    command += ["-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "wav", "-rf64", "auto", "-y", str(target)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if any(os.strerror(number) in done.stderr for number in FULL):
        raise no_space(path)
    if done.returncode or not target.exists():
        lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("To ignore this")]
        message = (lines or ["no message"])[-1].removeprefix(f"{path.resolve()}: ").rstrip(".")
        raise AudioError(path, f"neither libsndfile ({reason}) nor ffmpeg ({message}) can read it")
    remarks = []
    if damage := _DAMAGE.search(done.stderr):
        message = _PREFIXES.sub("", damage[0]).strip().rstrip(".")
        remarks.append(f"it is damaged or cut off: what could be read is used (ffmpeg: {message})")
    deep = sound is not None and sound.get("sample_fmt", "").startswith("s32")
    return target, "PCM_24" if deep else "PCM_16", remarks


def _pydub(path: Path, reason: str) -> tuple[str, list[dict[str, Any]] | None]:
    """The ffmpeg that pydub would use, and the tracks of a file; None where it cannot say."""
    try:
        # Without ffmpeg, pydub warns when it is imported; the error below says it better.
        warnings.filterwarnings("ignore", message="Couldn't find ff", module="pydub")
        from pydub import AudioSegment
        from pydub.utils import mediainfo_json
    except ImportError as error:
        remedy = "install pydub (from Python 3.13 on together with audioop-lts) and ffmpeg, or convert the file to wav"
        missing = f"libsndfile does not read it ({reason}) and pydub cannot be imported ({error})"
        raise AudioError(path, f"{missing}: {remedy}") from error
    program = shutil.which(AudioSegment.converter)
    if program is None:
        missing = f"libsndfile does not read it ({reason}) and ffmpeg was not found"
        rarer = "; if it is audio of a rarer kind, " if path.suffix.lower() in LIBSNDFILE_SUFFIXES else ": "
        raise AudioError(path, f"{missing}{rarer}{INSTALL_FFMPEG}")
    try:
        return program, mediainfo_json(str(path.resolve())).get("streams")
    except (OSError, ValueError, KeyError):  # there is no ffprobe, or its answer is none
        return program, None


def no_space(path: Path) -> RunError:
    """The error of a temporary folder that has no room for what `path` is decoded to."""
    return RunError(
        f"There is no space left in {tempfile.gettempdir()} (TMPDIR) to decode {path}: free some, or set TMPDIR to a "
        "folder with more"
    )
