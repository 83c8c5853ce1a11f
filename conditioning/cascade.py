"""Several tiers on one timeline, from slow controls down to audio; a single tier is a timeline of one.

Time is in seconds from the first generated sample. Step k of a tier at rate r lies at k / r; it is predicted from step
k - 1 and the controls there. A control comes from the user (`tierwave.controls.live`) or from an earlier tier, whose
steps are generated when they are needed, not before, and are interpolated: what is set live takes effect as soon as
possible, and the sound does not depend on the sizes of blocks.

    time       0         8 ms      16 ms
    125 Hz     |---------|---------|         rmse, pitch
    16 kHz     ||||||||||||||||||||||        audio
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from conditioning.config import Cascade, Config, Stage, playing
from conditioning.engine import EngineVoices
from tierwave.audio.quantize import Quantizer
from tierwave.controls.live import Settings
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Controls, Track, resample_track
from tierwave.controls.transfer import as_trained
from tierwave.engine.network import Network
from tierwave.errors import UsageError
from tierwave.generation.request import Request, Stream

if TYPE_CHECKING:
    from conditioning.model import ConditionalTier
    from tierwave.generation.voices import SampledVoices

_EARLIER = 4  # steps of a tier before those that a lower tier reads, for interpolation


class TierStream(Stream):
    """Sound, or controls, of a stage or a cascade: `render`, `set`, `record`, `curves` (see `Stream`).

    A curve of `request.controls` replaces what a tier generates under its name. models: one per tier, of
    Keras or networks of the engine; only: the one
    tier to run, conditioned on the request's curves.
    """

    def __init__(
        self,
        models: Sequence[ConditionalTier | Network],
        config: Config | Cascade,
        request: Request,
        *,
        sample_rate: int,
        schema: Schema,
        only: str | None = None,
    ):
        super().__init__(sample_rate, request.seconds)
        drawn = {name for controls in request.controls for name in controls}
        tiers = playing(config, only, drawn)
        made = {name for tier in config.tiers for name in tier.generates if only is None}
        used = {name for tier in tiers for name in tier.conditioned_on}
        if tiers[-1].makes_audio:
            refuse_faster(tiers, sample_rate)
        self.request, self.schema, self.tier_count = request, schema, len(config.tiers)
        self.voices = request.sequences
        names = [name for name in schema.names if name in used and (name not in made or name in drawn)]
        # Controls of tiers that are not run have no effect.
        idle = {name for name in schema.names if name not in names} if only is None else set[str]()
        curves = [{name: each[name] for name in each if name not in idle} for each in request.controls]
        self.live = request.live_controls(schema.select(names), sample_rate, curves)
        self.makes_audio = tiers[-1].makes_audio
        self._is_alone = only is not None  # the one tier whose model is given
        self._tiers = [
            _Tier(self, index, tier, self._model_of(index, models))
            for index, tier in enumerate(config.tiers)
            if tier in tiers
        ]
        self._maker = {name: tier for tier in self._tiers for name in tier.stage.generates}
        for tier in self._tiers:
            tier.prime()

    def set(self, *, voice: int | None = None, **values: float | str) -> float:
        """Controls in raw units, temperature and top_k (0: off), from the next control point on."""
        last = self._tiers[-1]
        return self.live.set(round(last.generated / last.rate * self.sample_rate), voice=voice, **values)

    def record(self, voice: int = 0) -> Controls:
        """What was drawn and set, to be drawn again."""
        return self.live.record(voice)

    def replace(self, models: Sequence[Any]) -> None:
        """Go on with other networks of all tiers."""
        for tier in self._tiers:
            if not isinstance(tier.voices, EngineVoices):  # all tiers are of one kind
                super().replace(models)
            else:
                tier.voices.replace(self._model_of(tier.index, models))

    def _model_of(self, index: int, models: Sequence[Any]) -> Any:
        """The model of the tier at this place in the config."""
        return models[0 if self._is_alone else index]

    def render(self, samples: int) -> np.ndarray:
        """The next samples, float32 `[voices, samples]`."""
        if not self.makes_audio:
            raise UsageError("this run generates controls, no audio: ask for its curves")
        with self.pace.block(samples):
            codes = self._tiers[-1].generate(samples)
            return self._tiers[-1].quantizer.table()[codes]

    def curves(self, seconds: float, voice: int = 0) -> dict[str, Controls]:
        """The generated controls of every tier in raw units up to `seconds`, by the tier's name."""
        found: dict[str, Controls] = {}
        for tier in self._tiers:
            replaced = [name in self.live.schema.names for name in tier.stage.generates]
            if tier.stage.makes_audio or all(replaced):
                continue
            tier.reach(math.ceil(seconds * tier.rate - 1e-9))
            made = tier.tracks(voice, seconds)
            found[tier.name] = {name: made[name] for name in made if name not in self.live.schema.names}
        return found

    def controls_at(self, tier: _Tier, first: int, count: int) -> np.ndarray:
        """The controls of a tier at its steps from `first` on, float32 `[voices, count, controls]`."""
        names = tier.stage.conditioned_on
        values = np.empty([self.voices, count, len(names)], np.float32)
        own = self.live.schema.names
        if any(name in own for name in names):
            given = self.live.inputs(first, count, rate=tier.rate)
        for column, name in enumerate(names):
            if name in own:
                values[:, :, column] = given[:, :, own.index(name)]
            else:
                values[:, :, column] = self._maker[name].read(name, first, count, tier.rate)
        return values


def refuse_faster(tiers: Sequence[Stage], sample_rate: int) -> None:
    """UsageError for a tier of controls above the sample rate, which the config need not state."""
    for tier in tiers:
        if not tier.makes_audio and tier.rate is not None and tier.rate > sample_rate:
            raise UsageError(
                f"{', '.join(tier.generates)} at {tier.rate:g} Hz are faster than the sound at {sample_rate} Hz: lower "
                "their rate"
            )


class _Tier:
    """One tier on the timeline: generates its steps, and gives them to lower tiers at their rates.

    index: its place in the config, which its random numbers depend on.
    """

    def __init__(self, stream: TierStream, index: int, stage: Stage, model: ConditionalTier | Network):
        request = stream.request
        self.stream, self.index, self.stage, self.model = stream, index, stage, model
        self.quantizer = Quantizer(stage.q_type, stage.q_levels)
        self.name = str(getattr(stage, "name", index))
        self.rate = float(stream.sample_rate if stage.makes_audio else stage.rate or 0.0)
        self.generated = 0
        seed = request.tier_seed.get(self.name)
        if seed is None:  # one per tier, whichever others run; the last tier's is that of a single tier
            last = stream.tier_count - 1
            seed = request.random_seed if index == last else request.random_seed * 1_000_003 + index + 1
        self.voices = _voices(model, stream.voices, seed, request.top_p)
        given = request.tier_temperature.get(self.name)
        self.temperatures = None if given is None else np.full(stream.voices, given, np.float32)
        self.parameters = [] if stage.makes_audio else [stream.schema.of(name) for name in stage.generates]
        self._steps = np.zeros([stream.voices, 64, len(self.parameters)], np.float32)  # normalised; grows
        self._before: np.ndarray | None = None  # the step before the first, if primed
        self._first_controls: np.ndarray | None = None

    # --- making -----------------------------------------------------------------------------------------------------

    def prime(self) -> None:
        """Continue from the seed: all tiers from the same place of the same recording."""
        request, stream, stage = self.stream.request, self.stream, self.stage
        seconds = request.seed_seconds(stream.sample_rate)
        steps = math.floor(seconds * self.rate + 1e-9)
        if steps < 1:
            return
        names = stage.conditioned_on
        if stage.makes_audio:
            sound = request.seed_audio
            values = self.quantizer.encode(np.asarray(sound, np.float32)).astype(np.int32)
            steps = len(values)
        elif request.primed_at_random:
            rng = np.random.default_rng([request.random_seed % 2**63, 7, self.index])
            values = rng.random([steps, len(stage.generates)]).astype(np.float32)
        elif request.seed_controls is not None and set(stage.generates) <= set(request.seed_controls):
            values = self._seed_inputs(stage.generates, seconds, steps)
        else:
            return
        controls = None
        if names and request.seed_controls is not None and set(names) <= set(request.seed_controls):
            controls = np.repeat(self._seed_inputs(names, seconds, steps)[None], stream.voices, axis=0)
        elif names:  # the controls at the start hold before it too
            controls = np.repeat(self.stream.controls_at(self, 0, 1), steps, axis=1)
        repeated = np.repeat(values[None], stream.voices, axis=0)
        self.voices.prime(repeated, controls)
        self._first_controls = None if controls is None else controls[:, -1]
        if not stage.makes_audio:
            self._before = repeated[:, -1]

    def _seed_inputs(self, names: Sequence[str], seconds: float, steps: int) -> np.ndarray:
        """The seed's normalised controls at its last `steps` steps, `[steps, controls]`."""
        controls = self.stream.request.seed_controls or {}
        columns = []
        for parameter in self.stream.schema.select(names).parameters:
            track = controls[parameter.name]
            raw = resample_track(
                track, self.rate, steps, start_seconds=seconds, first_sample=-steps, interp=parameter.interp
            )
            columns.append(as_trained(parameter, raw))
        return np.stack(columns, axis=-1)

    def generate(self, steps: int) -> np.ndarray:
        """The next steps: codes `[voices, steps]` or normalised controls `[voices, steps, features]`."""
        stream, first = self.stream, self.generated
        controls = stream.controls_at(self, first - 1, steps)  # step k follows from the controls at k - 1
        if first == 0 and self._first_controls is not None:
            controls[:, 0] = self._first_controls
        voices = stream.voices
        top_k = np.zeros([voices, steps], np.int32)
        if self.stage.makes_audio:
            temperature, top_k = stream.live.temperature(first, steps), stream.live.top_k(first, steps)
        elif stream.makes_audio:  # a temperature that is set live is the sound's
            temperature = np.repeat(np.asarray(stream.request.temperatures, np.float32)[:, None], steps, axis=1)
        else:
            at = np.round(np.arange(first, first + steps) / self.rate * stream.sample_rate).astype(int)
            temperature = np.concatenate([stream.live.temperature(int(place), 1) for place in at], axis=1)
        if self.temperatures is not None:
            temperature = np.repeat(self.temperatures[:, None], steps, axis=1)
        values = self.voices.run(Settings(controls, temperature, top_k))
        if not self.stage.makes_audio:
            self._store(values)
        self.generated += steps
        return values

    def _store(self, values: np.ndarray) -> None:
        needed = self.generated + values.shape[1]
        if needed > self._steps.shape[1]:
            room = np.zeros_like(self._steps, shape=(len(values), 2 * needed, values.shape[2]))
            room[:, : self.generated] = self._steps[:, : self.generated]
            self._steps = room
        self._steps[:, self.generated : needed] = values

    def reach(self, step: int) -> None:
        """Generate all steps up to this one."""
        if step >= self.generated:
            self.generate(step + 1 - self.generated)

    # --- giving -----------------------------------------------------------------------------------------------------

    def read(self, name: str, first: int, count: int, rate: float) -> np.ndarray:
        """A generated control, normalised, at times (first + i) / rate: float32 `[voices, count]`."""
        column = self.stage.generates.index(name)
        parameter = self.parameters[column]
        self.reach(max(0, math.ceil((first + count - 1) / rate * self.rate - 1e-9)))
        start = max(0, math.floor(first / rate * self.rate) - _EARLIER)
        stop = min(self.generated, math.ceil((first + count - 1) / rate * self.rate) + 2)
        times = np.arange(start, stop) / self.rate
        values = _clipped(self._steps[:, start:stop, column], parameter)
        if start == 0 and self._before is not None:
            times = np.concatenate([[-1.0 / self.rate], times])
            before = _clipped(self._before[:, None, column], parameter)
            values = np.concatenate([before, values], axis=1)
        return np.stack(
            [
                resample_track(Track(name, times, voice), rate, count, first_sample=first, interp=parameter.interp)
                for voice in values
            ]
        )

    def tracks(self, voice: int, seconds: float) -> Controls:
        """The generated controls up to `seconds`, in raw units."""
        found = {}
        stop = min(self.generated, math.ceil(seconds * self.rate - 1e-9) + 1)
        for column, parameter in enumerate(self.parameters):
            raw = parameter.denormalise(_clipped(self._steps[voice, :stop, column], parameter))
            found[parameter.name] = Track.regular(parameter.name, raw, self.rate, f"tier {self.name}")
        return found


def _voices(
    model: ConditionalTier | Network, voices: int, seed: int, top_p: float | None
) -> EngineVoices | SampledVoices:
    """The voices of a network of the engine, or of a model of Keras."""
    if isinstance(model, Network):
        return EngineVoices(model, voices, seed, top_p=top_p)
    from conditioning.sampler import sampler_of
    from tierwave.generation.voices import SampledVoices

    return SampledVoices(sampler_of(model), voices, seed, top_p=top_p)


def _clipped(values: np.ndarray, parameter: Parameter) -> np.ndarray:
    """Values as the lower tiers were trained on: within the range, unless the schema allows others."""
    return values if parameter.outside == "allow" else np.clip(values, 0.0, 1.0)
