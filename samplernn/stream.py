"""Sound of a SampleRNN as it is made, by the engine or by TensorFlow's sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tierwave.controls.schema import Schema
from tierwave.controls.tracks import Controls
from tierwave.engine.network import Network
from tierwave.engine.voices import Voices
from tierwave.generation.request import Request, Stream

if TYPE_CHECKING:
    from samplernn.model import SampleRNN
    from tierwave.generation.voices import SampledVoices


class SampleStream(Stream):
    """Sound of a SampleRNN: `render`, `set`, `record` (see `Stream`).

    model: a network of the engine, or one of Keras.
    """

    def __init__(self, model: SampleRNN | Network, sample_rate: int, request: Request, schema: Schema | None = None):
        super().__init__(sample_rate, request.seconds)
        self.live = request.live_controls(schema, sample_rate)
        quantizer = model.about["quantizer"] if isinstance(model, Network) else model.quantizer
        top = int(model.parts[0, 0]) if isinstance(model, Network) else model.config.top_frame
        self._amplitudes = quantizer.table()
        self._voices = _voices(model, request)
        if request.seed_audio is not None and len(request.seed_audio):
            codes, controls = quantizer.encode(request.seed_audio).astype(np.int32), self._seed_inputs(request)
            # Codes that do not fill a top frame are padded on the left with silence, and controls with their first.
            missing = -len(codes) % top
            codes = np.concatenate([np.full(missing, quantizer.silence, np.int32), codes])
            if controls is not None:
                controls = np.pad(controls, [(0, 0), (missing, 0), (0, 0)], mode="edge")
            self._voices.prime(np.repeat(codes[None], request.sequences, axis=0), controls)
        self._generated = 0  # samples per voice

    def _seed_inputs(self, request: Request) -> np.ndarray | None:
        """The controls of the seed, float32 `[voices, samples, controls]`: its own if all are known, else those that
        the request starts with."""
        schema = self.live.schema
        samples = 0 if request.seed_audio is None else len(request.seed_audio)
        if not schema.names:
            return None
        if request.seed_controls is not None and set(schema.names) <= set(request.seed_controls):
            own = schema.inputs(request.seed_controls, self.sample_rate, samples)
            return np.repeat(own[None], request.sequences, axis=0)
        return np.repeat(self.live.inputs(0, 1), samples, axis=1)

    def set(self, *, voice: int | None = None, **values: float | str) -> float:
        """Controls in raw units, temperature and top_k (0: off), from the next control point on."""
        return self.live.set(self._generated, voice=voice, **values)

    def record(self, voice: int = 0) -> Controls:
        """What was drawn and set, to be drawn again."""
        return self.live.record(voice)

    def replace(self, models: Sequence[Any]) -> None:
        """Go on with another network."""
        if not isinstance(self._voices, Voices):
            super().replace(models)
        else:
            self._voices.replace(models[0])

    def render(self, samples: int) -> np.ndarray:
        """The next samples, float32 `[voices, samples]`."""
        with self.pace.block(samples):
            codes = self._voices.run(self.live.settings(self._generated, samples))
            self._generated += samples
            found: np.ndarray = self._amplitudes[codes]
            return found


def _voices(model: SampleRNN | Network, request: Request) -> Voices | SampledVoices:
    """The voices of a network of the engine, or of a model of Keras."""
    if isinstance(model, Network):
        return Voices(model, request.sequences, request.random_seed, top_p=request.top_p)
    from samplernn.sampler import sampler_of
    from tierwave.generation.voices import SampledVoices

    return SampledVoices(sampler_of(model), request.sequences, request.random_seed, top_p=request.top_p)
