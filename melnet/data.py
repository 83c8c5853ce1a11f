"""Windows of spectrograms, for training. The corpus stores sound; spectrograms are computed when needed and cached in
memory while there is room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from melnet.config import Config
from melnet.front_end import MelFrontEnd, Normaliser
from melnet.text import Texts
from tierwave.audio.quantize import Quantizer
from tierwave.data.corpus import Corpus
from tierwave.data.splits import Span, Split
from tierwave.data.windows import Where, frame_spans
from tierwave.errors import UsageError
from tierwave.files.urls import Place

CACHED_BYTES = 1 << 30  # of spectrograms in memory
ENCODER = Quantizer("linear", 65536)


class Spectrograms:
    """The normalised log-mel spectrograms of a corpus, a source of windows (see `tierwave.data.windows`).

    Before and after a span lies 0, the mean, from which sampling starts too. texts: of the recordings, a source of its
    own; None where the config has no text.
    """

    dtype: np.dtype[Any] = np.dtype(np.float32)
    per_step = True

    def __init__(self, corpus: Corpus, front_end: MelFrontEnd, normaliser: Normaliser, texts: Texts | None = None):
        self.corpus, self.front_end, self.normaliser, self.texts = corpus, front_end, normaliser, texts
        self.shape: tuple[int, ...] = (front_end.audio.mel_channels,)
        self._cached: dict[int, np.ndarray] = {}
        self._bytes = 0

    def to_json(self) -> dict[str, Any]:
        """What the run stores: the normalisation, and under "text" the alphabet."""
        document = self.normaliser.to_document()
        return document if self.texts is None else {**document, "text": self.texts.document}

    @property
    def remarks(self) -> tuple[str, ...]:
        """Warnings about the file of transcripts."""
        return () if self.texts is None else self.texts.remarks

    def of(self, recording: int) -> np.ndarray:
        """The normalised spectrogram of a recording, float32 `[frames, channels]`."""
        if recording in self._cached:
            return self._cached[recording]
        whole = self.normaliser.normalise(self.front_end.analyse(sound_of(self.corpus, recording), seed=recording))
        if self._bytes + whole.nbytes <= CACHED_BYTES:
            self._cached[recording] = whole
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
    return ENCODER.decode(corpus.read(recording))


def prepare(
    corpus: Corpus, split: Split | None, config: Config, stored: dict[str, Any] | None, *, data_dir: Place | None = None
) -> Spectrograms:
    """The spectrograms of a corpus, normalised as `stored` in the run or fitted to the training split; with text also
    the transcripts in `data_dir`, the corpus's folder. split: None with `stored`. Raises what `Texts.of` raises."""
    front_end = MelFrontEnd(config.audio, corpus.sample_rate)
    texts = None
    if config.text is not None:
        if data_dir is None:
            raise ValueError("the transcripts of a corpus lie in its folder: pass data_dir")
        texts = Texts.of(corpus, data_dir, config.text.column, None if stored is None else stored.get("text", {}))
    if stored is not None:
        return Spectrograms(corpus, front_end, Normaliser.from_document(stored, config.audio.mel_channels), texts)

    if split is None:
        raise ValueError("without a stored normalisation, pass the split to fit one")
    training = (
        front_end.analyse(sound_of(corpus, span.recording), seed=span.recording, start=span.start, stop=span.stop)
        for span in spans_of(split.train, corpus, config)
    )
    return Spectrograms(corpus, front_end, Normaliser.of(config.audio, training), texts)


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


def text_window(spans: Sequence[Span], corpus: Corpus, config: Config) -> int:
    """Frames of a window with text: as many as the longest recording has, so that each is one window.

    Raises UsageError for a span of frames that begins within a recording, since its place in the text is unknown.
    """
    for span in spans:
        if span.start > 0:
            raise UsageError(
                f"a part of {corpus.recordings[span.recording].name} is held out, and with text a recording is one "
                "piece: give 30 recordings or more, which are then held out whole, or hold out none with --val_frac 0 "
                "--monitor loss"
            )
    # The longest of all recordings, so that held-out ones need no other compiled graph.
    whole = [Span(number, 0, recording.samples) for number, recording in enumerate(corpus.recordings)]
    longest = max(span.stop for span in spans_of(whole, corpus, config))
    return -(-longest // config.time_factor) * config.time_factor
