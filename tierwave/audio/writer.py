"""Sound files that are whole or not there."""

from __future__ import annotations

import os
import re
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import soundfile

from tierwave.errors import RunError, UsageError

# Formats that can be written, with libsndfile's name and the usual sample format of each.
WRITTEN = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
_RATES = {"MP3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)}  # Hz
_WRITTEN_AT_ONCE = 1 << 16  # frames; the Vorbis encoder takes all of a call onto its stack

_INTEGER_BITS = {"PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}

# Sample formats of other containers as those of a wav. Lossy codes (mp3, Vorbis, mu-law, ADPCM) are missing here: they
# have no depth, and become PCM_16. 64-bit floats are float32 once they have been read.
_WAV_SUBTYPES = {
    "PCM_S8": "PCM_U8",
    "PCM_U8": "PCM_U8",
    "ALAC_20": "PCM_24",
    "ALAC_24": "PCM_24",
    "DWVW_24": "PCM_24",
    "PCM_24": "PCM_24",
    "ALAC_32": "PCM_32",
    "PCM_32": "PCM_32",
    "FLOAT": "FLOAT",
    "DOUBLE": "FLOAT",
}


def libsndfile_reason(error: Exception) -> str:
    """libsndfile's reason alone, without the path and the punctuation around it."""
    text = getattr(error, "error_string", str(error))
    return text.removeprefix("Error : ").rstrip(". ")


def wav_subtype(subtype: str) -> str:
    """The wav sample format that keeps the depth of `AudioInfo.subtype`; PCM_16 for codes that have none."""
    return _WAV_SUBTYPES.get(subtype, "PCM_16")


def writable_suffix(path: Path) -> str:
    """The suffix of a file that can be written, in small letters; "" where the name has none, as `a_p60.5`.

    Raises:
        UsageError: it is that of another format.
    """
    suffix = path.suffix.lower()
    if suffix in WRITTEN or not re.fullmatch(r"\.[a-z][a-z0-9]*", suffix):
        return suffix if suffix in WRITTEN else ""
    known = ", ".join(WRITTEN)
    raise UsageError(f"Cannot write {path}: sound is written as {known}, so end the name in one of them, not {suffix}")


class SoundWriter:
    """A sound file that is whole or not there: `with SoundWriter(path, 16000) as sound: sound.write(block)`.

    The suffix of the name says what it is: one of `WRITTEN`, else a wav. Blocks go to a hidden file beside the target,
    which takes the target's name on a clean exit and is removed otherwise. Integer formats round to the nearest step,
    and all but float formats clip to [-1, 1]. subtype: the sample format, None for the usual one.

    Raises:
        UsageError: the target cannot be created, or its format knows no such `subtype` or rate.
        RunError: writing stopped half-way (a full disk), or a block holds NaN or infinity.
    """

    def __init__(self, path: Path | str, sample_rate: int, subtype: str | None = None, channels: int = 1) -> None:
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        self._format, usual = WRITTEN.get(suffix, WRITTEN[".wav"])
        name = self._format.lower()
        self.subtype = subtype or usual
        if not soundfile.check_format(self._format, self.subtype):
            raise UsageError(
                f"A {name} file cannot hold the sample format {self.subtype}: use PCM_16, PCM_24, PCM_32 or FLOAT in a "
                "wav"
            )
        if sample_rate < 1:
            raise UsageError(f"The sample rate of a {name} file must be at least 1 Hz, not {sample_rate}")
        rates = _RATES.get(self._format)
        if rates is not None and sample_rate not in rates:
            known = ", ".join(map(str, rates))
            raise UsageError(
                f"Cannot write {self.path}: {name} knows no {sample_rate} Hz: choose a wav, or a rate among {known} Hz"
            )
        self.sample_rate = sample_rate
        self.channels = channels
        # Its name does not contain the target's, which may be as long as the file system allows.
        self._temporary = self.path.parent / f".{uuid.uuid4().hex}.part"
        self._file: soundfile.SoundFile | None = None

    def __enter__(self) -> SoundWriter:
        if os.path.isdir(self.path):
            raise UsageError(f"Cannot write {self.path}: it is a folder; give the name of a file")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.touch(exist_ok=False)  # libsndfile would report no reason
            # On other systems than Windows a name may be bytes that are no text.
            name = str(self._temporary) if os.name == "nt" else os.fsencode(self._temporary)
            self._file = soundfile.SoundFile(
                name, "w", self.sample_rate, self.channels, self.subtype, format=self._format
            )
        except (OSError, soundfile.SoundFileError) as error:
            self._discard()
            reason = error.strerror if isinstance(error, OSError) else libsndfile_reason(error)
            raise UsageError(f"Cannot write {self.path} ({reason}): choose a folder that can be written") from error
        return self

    def write(self, block: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Append floats, `[samples]` or `[samples, channels]`; returns them as they were rounded and clipped."""
        if self._file is None:
            raise ValueError("SoundWriter.write is for inside the with statement")
        array = np.asarray(block)
        if array.dtype.kind != "f":
            raise TypeError(f"audio is written as floats in [-1, 1], not as {array.dtype}")
        if not np.isfinite(array).all():
            raise RunError(f"Cannot write {self.path}: the audio holds NaN or infinity")
        array = array.astype(np.float64, copy=False)
        if bits := _INTEGER_BITS.get(self.subtype):
            # Round here: libsndfile rounds towards minus infinity, which adds direct current and twice the noise.
            steps = 2.0 ** (bits - 1)
            array = np.clip(np.rint(array * steps), -steps, steps - 1) / steps
        elif self.subtype not in ("FLOAT", "DOUBLE"):
            array = np.clip(array, -1.0, 1.0)
        try:
            for start in range(0, len(array), _WRITTEN_AT_ONCE):
                self._file.write(array[start : start + _WRITTEN_AT_ONCE])
        # soundfile asserts that everything was written.
        except (OSError, soundfile.SoundFileError, AssertionError) as error:
            raise RunError(f"Cannot write {self.path} to its end: is the disk full?") from error
        return array

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._file is not None:
                self._file.close()
                self._file = None
            if kind is None:
                os.replace(self._temporary, self.path)
        except (OSError, soundfile.SoundFileError) as failure:
            raise RunError(f"Cannot write {self.path} ({failure}): free the disk or choose another name") from failure
        finally:
            self._discard()

    def _discard(self) -> None:
        with suppress(OSError):  # after another error, which says more
            self._temporary.unlink()


def write_wav(path: Path | str, audio: npt.ArrayLike, sample_rate: int, subtype: str = "PCM_16") -> None:
    """Write `[samples]` or `[samples, channels]` as a wav, whole or not at all.

    Raises:
        UsageError, RunError: as `SoundWriter`.
    """
    array = np.asarray(audio)
    with SoundWriter(path, sample_rate, subtype, channels=array.shape[1] if array.ndim > 1 else 1) as wav:
        wav.write(array)
