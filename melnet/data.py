"""Windows of spectrograms beside each other: what a MelNet is trained on.

The corpus keeps sound; its spectrogram is computed where it is needed, and kept while there is room. Knows corpora, the
front end and its normalisation; no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from melnet.config import Config
from tierwave.corpus import Corpus
from tierwave.dataset import Where
from tierwave.errors import UsageError
from tierwave.mel import MelFrontEnd, Normaliser
from tierwave.quantize import Quantizer
from tierwave.splits import Span, Split
from tierwave.steering import frame_spans

KEPT_BYTES = 1 << 30  # of spectrograms in memory
ENCODER = Quantizer("linear", 65536)


class Spectrograms:
    """The normalised log-mel spectrograms of a corpus, a source of windows (see `tierwave.dataset`).

    What lies before and after a span is 0, the mean: that is also what sampling starts from.
    """

    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, corpus: Corpus, front_end: MelFrontEnd, normaliser: Normaliser):
        self.corpus, self.front_end, self.normaliser = corpus, front_end, normaliser
        self.shape: tuple[int, ...] = (front_end.audio.mel_channels,)
        self._kept: dict[int, np.ndarray] = {}
        self._bytes = 0

    @property
    def document(self) -> dict[str, Any]:
        """What the run stores: the normalisation."""
        return self.normaliser.to_document()

    def of(self, recording: int) -> np.ndarray:
        """The whole of one recording, normalised, float32 `[frames, channels]`."""
        if recording in self._kept:
            return self._kept[recording]
        whole = self.normaliser.normalise(self.front_end.analyse(sound_of(self.corpus, recording), seed=recording))
        if self._bytes + whole.nbytes <= KEPT_BYTES:
            self._kept[recording] = whole
            self._bytes += whole.nbytes
        return whole

    def read(self, where: Where) -> np.ndarray:
        """The frames at `where`, float32 `[lanes, steps, channels]`."""
        found = np.zeros([*where.at.shape, *self.shape], np.float32)
        for lane, recording in enumerate(where.recording):
            inside = where.inside[lane]
            if inside.any():
                found[lane, inside] = self.of(int(recording))[where.at[lane, inside]]
        return found


def sound_of(corpus: Corpus, recording: int) -> np.ndarray:
    """One recording as float32 `[samples]`."""
    return ENCODER.decode(np.asarray(corpus.of(recording)))


def prepare(corpus: Corpus, split: Split, config: Config, stored: dict[str, Any] | None) -> Spectrograms:
    """The spectrograms of a corpus, normalised as the run says (`stored`) or by what is trained on."""
    front_end = MelFrontEnd(config.audio, corpus.sample_rate)
    if stored is not None:
        return Spectrograms(corpus, front_end, Normaliser.from_document(stored))

    def trained_on() -> Any:
        for span in spans_of(split.train, corpus, config):
            sound = sound_of(corpus, span.recording)
            yield front_end.analyse(sound, seed=span.recording, start=span.start, stop=span.stop)

    return Spectrograms(corpus, front_end, Normaliser.of(config.audio, trained_on()))


def spans_of(spans: Sequence[Span], corpus: Corpus, config: Config) -> list[Span]:
    """Spans of samples as spans of frames. Raises UsageError where no frame is left."""
    rate = corpus.sample_rate / config.audio.hop_length
    found = frame_spans(spans, corpus.sample_rate, rate)
    if not found:
        raise UsageError(
            f"the recordings are shorter than a frame of {config.audio.hop_length} samples: use longer ones, or a "
            "smaller audio.hop_length"
        )
    return found
