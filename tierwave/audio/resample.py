"""Sound at another sample rate, and without what lies below hearing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import soxr

from tierwave.errors import UsageError

Audio = npt.NDArray[np.float32]


def resample(audio: npt.ArrayLike, from_rate: int, to_rate: int) -> Audio:
    """`[samples]` or `[samples, channels]` at `from_rate` Hz, band-limited, at `to_rate` Hz (soxr, quality HQ).

    Exactly `round(samples * to_rate / from_rate)` samples come out.
    """
    array = np.asarray(audio, np.float32)
    return joined(list(resample_blocks([array], from_rate, to_rate)), array.shape[1] if array.ndim > 1 else 1)


def resample_blocks(blocks: Iterable[Audio], from_rate: int, to_rate: int) -> Iterator[Audio]:
    """`resample` of a sound that comes in blocks, `[samples]` or `[samples, channels]`, in bounded memory."""
    if to_rate < 1 or from_rate < 1:
        raise UsageError(f"A sample rate must be at least 1 Hz, but {min(from_rate, to_rate)} was asked for")
    if from_rate == to_rate:
        yield from blocks
        return
    stream = None
    frames_in = frames_out = 0
    for block in blocks:
        if stream is None:
            channels = 1 if block.ndim == 1 else block.shape[1]
            stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="HQ")
        resampled = stream.resample_chunk(np.ascontiguousarray(block))
        frames_in += len(block)
        frames_out += len(resampled)
        if len(resampled):
            yield resampled
    if stream is not None:
        last = stream.resample_chunk(np.ascontiguousarray(block[:0]), last=True)
        missing = max(0, round(frames_in * to_rate / from_rate) - frames_out)
        # soxr rounds the length in its own way: a sample more or less.
        last = last[:missing]
        yield np.concatenate([last, np.zeros((missing - len(last), *last.shape[1:]), np.float32)])


def highpass_blocks(blocks: Iterable[Audio], rate: int, cutoff: float) -> Iterator[Audio]:
    """A sound that comes in blocks without what lies below `cutoff` Hz, a DC offset above all (Butterworth, second
    order). It starts as if its first sample had always been there, so that an offset makes no click."""
    from scipy import signal

    if not 0 < cutoff < rate / 2:
        raise UsageError(f"A high-pass at {cutoff:g} Hz does not fit {rate} Hz: give between 0 and {rate / 2:g} Hz")
    sections = signal.butter(2, cutoff, "highpass", fs=rate, output="sos")
    state = None
    for block in blocks:
        if state is None and len(block):
            state = np.multiply.outer(signal.sosfilt_zi(sections), block[0].astype(np.float64))
        if len(block):
            filtered, state = signal.sosfilt(sections, block, axis=0, zi=state)
            block = filtered.astype(np.float32)
        yield block


def joined(blocks: list[Audio], channels: int) -> Audio:
    if not blocks:
        return np.zeros((0,) if channels == 1 else (0, channels), np.float32)
    return np.concatenate(blocks)
