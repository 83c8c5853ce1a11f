"""What libsndfile cannot read, decoded by ffmpeg to a temporary wave file."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

from tierwave.audio.finding import LIBSNDFILE_SUFFIXES
from tierwave.errors import AudioError, RunError

INSTALL_FFMPEG = (
    "install ffmpeg (`apt install ffmpeg`, `brew install ffmpeg`, `winget install ffmpeg`) or convert the file to wav"
)

FULL = (errno.ENOSPC, errno.EDQUOT)


def decode_with_ffmpeg(path: Path, folder: Path, reason: str) -> tuple[Path, str, list[str]]:
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
    if any(os.strerror(number) in done.stderr for number in FULL):
        raise no_space(path)
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


def no_space(path: Path) -> RunError:
    return RunError(
        f"There is no space left in {tempfile.gettempdir()} (TMPDIR) to decode {path}: free some, or set TMPDIR to a "
        "folder with more"
    )
