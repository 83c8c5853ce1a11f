"""New spectrograms, tier after tier, and the sound of them.

Every tier is sampled whole before the next begins, since the feature extractor looks both ways in time. A recording
can be continued (its frames are forced, tier by tier), or only refined: `from_tier` takes its low tiers. A run with
text speaks the text of the request, and its sound ends with the text, or at the requested length if that is earlier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from melnet.config import Config
from melnet.front_end import MelFrontEnd, Normaliser
from melnet.inversion import invert
from melnet.multiscale import Size, below, interleave, sizes, split
from melnet.text import alphabet_of, normalised, padded
from tierwave.audio.spectrogram import LOG_FLOOR
from tierwave.controls.schema import Schema
from tierwave.controls.tracks import Controls
from tierwave.errors import UsageError
from tierwave.generation.request import Request, Stream
from tierwave.nn.distributions import voice_seeds

if TYPE_CHECKING:
    from melnet.attention import Alignment
    from melnet.model import MelTier

TEXT_LENGTHS = 32  # texts are padded to multiples of this, since each length is compiled


@dataclass(frozen=True)
class SpectrogramOptions:
    """What only a MelNet is asked for: `Request.options`.

    frames: their number, instead of seconds. from_tier: the first tier that is sampled, above the lower tiers of the
    recording low_audio, float32 `[samples]`. bias: sharpens the mixtures (Graves 2013). text: what is said, in all
    sequences or one in each. inversion: how spectrograms become sound; vocoder: what makes it instead
    (`tierwave.generation.vocoder`).
    """

    frames: int | None = None
    from_tier: int = 1
    low_audio: np.ndarray | None = None
    bias: float = 0.0
    text: str | Sequence[str] | None = None
    inversion: Literal["griffin_lim", "gradient"] = "gradient"
    vocoder: Callable[[np.ndarray, float, int], np.ndarray] | None = None

    def __post_init__(self) -> None:
        if self.frames is not None and self.frames < 1:
            raise UsageError(f"frames is {self.frames}, and it must be 1 or more")
        if self.from_tier < 1 or not self.bias >= 0:
            raise UsageError(f"from_tier ({self.from_tier}) must be 1 or more, and bias ({self.bias:g}) 0 or more")


class MelStream(Stream):
    """Sound of a MelNet, whose spectrogram is made whole when it is first needed.

    models: one per tier, or per tier up to `stage`, or that of `stage` alone, on top of the low tiers of
    the option low_audio unless it is the first.

    Made with the spectrograms: `spectrograms`, log-mel after each tier, coarse to fine; `lengths`, the frames of each
    voice; with text `alignments`, the attention of each new frame of the first tier to each character, one `[frames,
    characters]` per voice. The text is that of seed and new sound together.
    """

    def __init__(
        self,
        models: Sequence[MelTier],
        config: Config,
        request: Request,
        *,
        sample_rate: int,
        schema: Schema | None = None,
        dataset_state: dict[str, Any] | None = None,
        stage: str | None = None,
    ):
        if dataset_state is None:
            raise UsageError("the run has no normalisation of spectrograms (prepared.json): train it anew")
        super().__init__(sample_rate, request.seconds)
        self.models, self.config, self.request = models, config, request
        self.last = config.tiers if stage is None else int(stage.removeprefix("tier"))
        self.options = SpectrogramOptions(**request.options)
        self.first = max(self.options.from_tier, self.last - len(models) + 1)
        self.front_end = MelFrontEnd(config.audio, sample_rate)
        self.normaliser = Normaliser.from_document(dataset_state, config.audio.mel_channels)
        self.live = request.live_controls(schema, sample_rate)
        self.texts: list[str] = []
        self._codes = self._encode_texts(dataset_state)
        self.spectrograms: list[np.ndarray] = []
        self.alignments: list[np.ndarray] = []
        self.lengths: list[int] = []
        self._sound: np.ndarray | None = None
        self._rendered = 0

    @property
    def frames(self) -> int:
        """The requested new frames, before rounding up to a multiple that divides into tiers."""
        if self.options.frames is not None:
            return self.options.frames
        return self.front_end.frames(self.request.samples(self.sample_rate))

    def duration(self) -> float:
        """How long the sound is, in seconds; with text the spectrograms, which decide that, are made now."""
        if self._codes is not None:
            self.log_mels()
            if max(self.lengths) < self.frames:
                return max(self.lengths) / self.front_end.frame_rate
        low = self.options.low_audio
        if low is not None:
            return len(low) / self.sample_rate
        return self.frames / self.front_end.frame_rate if self.options.frames is not None else self.request.seconds

    def set(self, *, voice: int | None = None, **values: float | str) -> float:
        """Controls in raw units and temperature, before the first `render`."""
        if self.spectrograms:
            raise UsageError("a MelNet makes the whole sound at once: set what steers it before it begins")
        return self.live.set(0, voice=voice, **values)

    def record(self, voice: int = 0) -> Controls:
        """What was drawn and set."""
        return self.live.record(voice)

    def alignment(self, voice: int = 0) -> tuple[str, np.ndarray] | None:
        """The text and the first tier's attention to it, `[its frames, characters]`; None without text."""
        self.log_mels()
        return (self.texts[voice], self.alignments[voice]) if self.alignments else None

    def stages(self, voice: int = 0) -> dict[str, np.ndarray]:
        """The log-mel spectrograms `[frames, channels]` after each tier, with elements of missing tiers repeated."""
        self.log_mels()
        first = self.last - len(self.spectrograms) + 1
        names = [f"tiers 1 to {first + number}" for number in range(len(self.spectrograms))]
        return {name: stage[voice] for name, stage in zip(names, self.spectrograms, strict=True)}

    def render(self, samples: int) -> np.ndarray:
        """The next samples, float32 `[voices, samples]`; silence after the end."""
        with self.pace.block(samples):
            if self._sound is None:
                self._sound = self._invert()
            piece = self._sound[:, self._rendered : self._rendered + samples]
            self._rendered += samples
            return np.pad(piece, [(0, 0), (0, samples - piece.shape[1])])

    def log_mels(self) -> np.ndarray:
        """The finished spectrograms, log-mel float32 `[voices, frames, channels]`, made now if they are not yet."""
        if not self.spectrograms:
            self._sample()
        return self.spectrograms[-1]

    def _invert(self) -> np.ndarray:
        """The whole sound of the finished spectrograms."""
        log_mels = self.log_mels()
        if self.options.vocoder is not None:
            rate, hop = self.front_end.frame_rate, self.config.audio.hop_length
            return self.options.vocoder(log_mels, rate, log_mels.shape[1] * hop)
        sounds = []
        for voice, (log_mel, length) in enumerate(zip(log_mels, self.lengths, strict=True)):

            def progress(done: int, total: int, voice: int = voice) -> None:
                self.progress("Inverting", voice * total + done, len(log_mels) * total)

            sounds.append(invert(log_mel[:length], self.front_end, method=self.options.inversion, progress=progress))
        longest = max(map(len, sounds))
        return np.stack([np.pad(sound, (0, longest - len(sound))) for sound in sounds])

    # --- text -------------------------------------------------------------------------------------------------------

    def _encode_texts(self, dataset_state: dict[str, Any]) -> np.ndarray | None:
        """Codes int32 `[voices, characters]` of the texts for the first tier, None if it needs none; sets `texts`."""
        text, sequences = self.options.text, self.request.sequences
        if self.config.text is None:
            if text is not None:
                raise UsageError('this run has not learned to read: leave --text out, or train one with "text"')
            return None
        if self.first > 1:
            return None
        if text is None:
            raise UsageError("this run reads aloud: write what with --text")
        texts = [text] * sequences if isinstance(text, str) else list(text)
        if len(texts) != sequences:
            raise UsageError(f"{len(texts)} texts were given for {sequences} sequences: give one, or one for each")
        alphabet = alphabet_of(dataset_state.get("text", {}))
        self.texts = [normalised(each) for each in texts]
        return padded([alphabet.encode(each) for each in self.texts], TEXT_LENGTHS)

    def _ends(self, alignments: Sequence[Alignment]) -> list[int | None]:
        """The number of frames of the first tier after which each voice has spoken its text; None: not yet."""
        from melnet.attention import end_of, is_past

        return [end_of(passed) for passed in np.concatenate([is_past(*each) for each in alignments], axis=1)]

    # --- sampling ---------------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        """Sample all tiers into `spectrograms`."""
        config, request = self.config, self.request
        given = self._given(request.seed_audio, config.time_factor, whole=False)
        prime = 0 if given is None else given.shape[0]
        low = self._given(self.options.low_audio, config.time_factor, whole=True)
        wanted = self.frames if low is None else low.shape[0] - prime
        frames = prime + math.ceil(wanted / config.time_factor) * config.time_factor
        every = sizes(frames, config.audio.mel_channels, config.tiers)
        first = self.first
        if first > 1 and low is None:
            raise UsageError(f"sampling from tier {first} needs the tiers below it: give a recording to take them from")
        voices = request.sequences
        self.lengths = [wanted] * voices
        lower = None
        if first > 1 and low is not None:
            whole = np.repeat(low[None, :frames], voices, axis=0)
            lower = np.asarray(below(whole, first, config.tiers)[1])
            self._store(lower, frames, prime, wanted)
        for number in range(first, self.last + 1):
            model = self.models[number - self.last - 1]
            forced = None if given is None else split(given, config.tiers)[number - 1]
            values = self._sample_tier(model, number, every[number - 1], frames, forced, lower)
            if number == 1 and self.alignments:
                frames = values.shape[1] * config.time_factor
                every = sizes(frames, config.audio.mel_channels, config.tiers)
                wanted = min(wanted, frames - prime)
                self.lengths = [min(wanted, len(each) * config.time_factor) for each in self.alignments]
            per_frame = values.shape[1] // every[0].frames
            for voice, alignment in enumerate(self.alignments):
                end = prime // config.time_factor + len(alignment)
                values[voice, end * per_frame :] = 0.0  # the mean, as after the end of a recording in training
            lower = values if lower is None else interleave(lower, values, number)
            self._store(lower, frames, prime, wanted)

    def _given(self, sound: np.ndarray | None, factor: int, *, whole: bool) -> np.ndarray | None:
        """The normalised spectrogram of a recording `[frames, channels]` in multiples of `factor` frames: the last
        ones, or (whole) all, with the last frame repeated to fill up."""
        if sound is None or not len(sound):
            return None
        log_mel = self.front_end.analyse(np.asarray(sound, np.float32))
        frames = self.normaliser.normalise(log_mel)
        if whole:
            return np.pad(frames, [(0, -len(frames) % factor), (0, 0)], mode="edge")
        usable = len(frames) // factor * factor
        if usable < factor:
            raise UsageError(
                f"the seed has {len(frames)} frames, and one of the first tier is {factor}: use a longer seed"
            )
        return frames[len(frames) - usable :]

    def _sample_tier(
        self, model: MelTier, number: int, size: Size, frames: int, forced: np.ndarray | None, lower: np.ndarray | None
    ) -> np.ndarray:
        """All of one tier, `[voices, size.frames, size.bins]`, normalised; its first frames are `forced`. With text the
        tier ends with the longest text, and `alignments` are set."""
        from melnet.sampler import BLOCK_FRAMES, sampler_of

        request, voices = self.request, self.request.sequences
        sampler = sampler_of(model)
        weights = sampler.weights()
        controls = None
        if self.config.conditioned_on:
            rate = self.front_end.frame_rate * size.frames / frames
            controls = self.live.inputs(0, size.frames, rate=rate)
        conditions = sampler.condition(lower, controls, weights)
        memory = sampler.encode_text(self._codes, weights) if number == 1 and self._codes is not None else None
        alignments: list[Alignment] = []
        state = sampler.start(voices)
        pieces = []
        done = 0
        if forced is not None:
            repeated = np.repeat(forced[None], voices, axis=0)
            done = forced.shape[0]
            state = sampler.prime(state, repeated, conditions, weights, memory)
            pieces.append(repeated)
        name = f"tier{number}"
        seed = request.tier_seed.get(name, request.random_seed * 1_000_003 + number)
        seeds = voice_seeds(seed, voices)
        temperature = np.asarray(request.temperatures, np.float32)
        if name in request.tier_temperature:
            temperature = np.full(voices, request.tier_temperature[name], np.float32)
        while done < size.frames:
            self.progress(f"Tier {number}", done, size.frames)
            count = min(BLOCK_FRAMES, size.frames - done)
            block, state = sampler.run(
                weights, state, conditions, done, count, seeds, temperature, self.options.bias, memory
            )
            pieces.append(block.values)
            done += count
            if block.alignment is not None:
                alignments.append(block.alignment)
                if None not in self._ends(alignments):
                    break
        self.progress(f"Tier {number}", size.frames, size.frames)
        values = np.concatenate(pieces, axis=1)
        if alignments:
            whole = np.concatenate([each.weights for each in alignments], axis=1)
            new = whole.shape[1]
            ends = [end or new for end in self._ends(alignments)]
            self.alignments = [each[:end, : len(text)] for each, end, text in zip(whole, ends, self.texts, strict=True)]
            values = values[:, : done - new + max(ends)]
        return values

    def _store(self, lower: np.ndarray, frames: int, prime: int, wanted: int) -> None:
        """Add to `spectrograms` the tiers so far as log-mel at full size, elements of missing tiers repeated."""
        channels = self.config.audio.mel_channels
        full = lower.repeat(frames // lower.shape[1], axis=1).repeat(channels // lower.shape[2], axis=2)
        log_mels = self.normaliser.denormalise(full[:, prime : prime + wanted])
        for log_mel, length in zip(log_mels, self.lengths, strict=True):
            log_mel[length:] = math.log(LOG_FLOOR)
        self.spectrograms.append(log_mels)
