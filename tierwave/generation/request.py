"""What to generate, in the same words for every family; and a stream of sound, as it is made and written to files."""

from __future__ import annotations

import abc
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tierwave.audio.resample import resample, resample_blocks
from tierwave.audio.writer import SoundWriter, writable_suffix
from tierwave.controls.live import LiveControls
from tierwave.controls.schema import Schema
from tierwave.controls.tracks import Controls
from tierwave.errors import UsageError
from tierwave.files.folders import make_own
from tierwave.system.progress import Count, uncounted


@dataclass(frozen=True)
class Request:
    """What to generate.

    sequences: how many sounds, side by side. seconds: of each, fractions allowed. temperature: one per sequence; a
    longer list is cut, a shorter one repeats its last value; 0 takes the most likely value. top_k, top_p: sample only
    from the k most likely values, or from the fewest that hold this much probability. seed_audio: float32 `[samples]`
    at the model's rate, to be continued; None starts from silence. random_seed: the same seed gives the same sound.

    For steered models: controls, the curves to follow, time 0 at the first new sample, for all sequences or one per
    sequence (the last is repeated); averaged: whether they are averaged where they are finer than a tier (not what
    was recorded live). seed_controls: the controls of seed_audio, time 0 at its first sample. primed_at_random: tiers
    that generate controls start from noise of the length of seed_audio. tier_temperature, tier_seed: by tier.

    options: what only one family knows, such as `melnet.generation.SpectrogramOptions`; others ignore it.
    """

    sequences: int = 1
    seconds: float = 3.0
    temperature: Sequence[float] = (0.75,)
    top_k: int | None = None
    top_p: float | None = None
    seed_audio: np.ndarray | None = field(default=None, repr=False)
    random_seed: int = 0
    controls: tuple[Controls, ...] = field(default=(), repr=False)
    averaged: bool = True
    seed_controls: Controls | None = field(default=None, repr=False)
    primed_at_random: bool = False
    tier_temperature: Mapping[str, float] = field(default_factory=dict)
    tier_seed: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.sequences < 1:
            raise UsageError(f"num_seqs is {self.sequences}, and at least 1 sequence must be asked for")
        if not (np.isfinite(self.seconds) and self.seconds > 0):
            raise UsageError(f"dur is {self.seconds:g} seconds, and it must be more than 0")
        if not self.temperature or any(not (np.isfinite(t) and t >= 0) for t in self.temperature):
            raise UsageError(f"temperature is {list(self.temperature)}, and every value must be 0 or more")
        if any(not (np.isfinite(t) and t >= 0) for t in self.tier_temperature.values()):
            raise UsageError(f"tier_temperature is {dict(self.tier_temperature)}, and every value must be 0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top_k is {self.top_k}, and it must be 1 or more (None switches it off)")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p:g}, and it must lie in (0, 1] (None switches it off)")

    @property
    def temperatures(self) -> list[float]:
        """One temperature per sequence."""
        given = [float(value) for value in self.temperature][: self.sequences]
        return given + given[-1:] * (self.sequences - len(given))

    def live_controls(
        self, schema: Schema | None, sample_rate: int, curves: Sequence[Controls] | None = None
    ) -> LiveControls:
        """The controls, temperatures and top_k of this request; curves: in place of its own."""
        return LiveControls(
            schema or Schema(),
            self.sequences,
            sample_rate,
            drawn=self.controls if curves is None else curves,
            temperatures=self.temperatures,
            top_k=self.top_k,
            averaged=self.averaged,
        )

    def seed_seconds(self, sample_rate: int) -> float:
        """How long the seed is."""
        return 0.0 if self.seed_audio is None else len(self.seed_audio) / sample_rate

    def samples(self, sample_rate: int) -> int:
        """Exactly how many samples each sequence gets at this rate, at least one."""
        return max(1, round(self.seconds * sample_rate))


class Pace:
    """How fast sound is made. speed: seconds of sound per second of work; late_blocks: blocks that took longer to make
    than they last, of `blocks`."""

    def __init__(self, sample_rate: int):
        self.sample_rate, self.samples, self.seconds = sample_rate, 0, 0.0
        self.blocks = self.late_blocks = 0

    @property
    def speed(self) -> float:
        """Of all blocks so far; 0 before the first."""
        return self.samples / self.sample_rate / self.seconds if self.seconds else 0.0

    @contextlib.contextmanager
    def block(self, samples: int) -> Iterator[None]:
        """Times the making of a block."""
        started = time.perf_counter()
        yield
        took = time.perf_counter() - started
        self.samples, self.seconds, self.blocks = self.samples + samples, self.seconds + took, self.blocks + 1
        self.late_blocks += took > samples / self.sample_rate


class Stream(abc.ABC):
    """Sound as it is made; every family's `stream` returns one. The defaults are those of sound that nothing steers and
    that is made in one stage.

    sample_rate: in Hz; makes_audio: or else only `curves`; pace: how fast it is made; progress:
    called while a spectrogram or a curve is made whole.
    """

    makes_audio = True

    def __init__(self, sample_rate: int, seconds: float):
        self.sample_rate, self._seconds = sample_rate, seconds
        self.pace = Pace(sample_rate)
        self.progress: Count = uncounted

    def duration(self) -> float:
        """How long the sound is, in seconds. A sound that ends by itself is made now."""
        return self._seconds

    @abc.abstractmethod
    def render(self, samples: int) -> np.ndarray:
        """The next samples, float32 `[sequences, samples]`; the same for any sizes of blocks."""

    def set(self, *, voice: int | None = None, **values: float | str) -> float:
        """Set controls by name from the next control point on (see `tierwave.controls.live`); voice: None sets all.
        Returns the time in seconds by which all have arrived. Raises UsageError for a name that does not steer it."""
        raise UsageError(f"{', '.join(values)}: nothing steers this sound")

    def replace(self, models: Sequence[Any]) -> None:
        """Go on with other networks of the engine, as many as it was made with, each of which fits the one before it
        (ValueError). Raises UsageError for sound that networks of the engine do not make."""
        raise UsageError("the networks of this sound cannot be exchanged while it is made: TensorFlow makes it")

    def curves(self, seconds: float, voice: int = 0) -> Mapping[str, Controls]:
        """The controls that were generated on the way, by stage, in raw units; {} where there are none."""
        return {}

    def stages(self, voice: int = 0) -> Mapping[str, np.ndarray]:
        """The log-mel spectrograms `[frames, channels]` that were made on the way, coarse to fine; {} where there are
        none."""
        return {}

    def alignment(self, voice: int = 0) -> tuple[str, np.ndarray] | None:
        """What was said and where it was read, `[frames, characters]`; None where nothing is said."""
        return None

    def record(self, voice: int = 0) -> Controls:
        """What steered a voice so far, as curves that give the same sound again."""
        return {}


def sequence_paths(output_path: str | Path, request: Request, epoch: int | None = None) -> list[Path]:
    """Where the sounds go: PRiSM's names, `<stem>_e=<epoch>(<i>)_t=<temperature>.wav`; one sequence without an epoch
    goes to `output_path` as it stands."""
    path = Path(output_path)
    if not writable_suffix(path):
        path = path.with_name(path.name + ".wav")
    if request.sequences == 1 and epoch is None:
        return [path]
    marked = "" if epoch is None else f"_e={epoch}"
    return [
        path.with_name(
            f"{path.stem}{marked}" + (f"({index})" if request.sequences > 1 else "") + f"_t={value:g}{path.suffix}"
        )
        for index, value in enumerate(request.temperatures)
    ]


class Written(NamedTuple):
    """What `write_sounds` wrote. speed: seconds of sound per second; sounds: float32 `[samples]` of each file."""

    speed: float
    sounds: list[np.ndarray]


def write_sounds(
    stream: Stream,
    paths: Sequence[Path],
    seconds: float,
    *,
    sample_rate: int | None = None,
    before: np.ndarray | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Written:
    """Render `seconds` of every sequence into `paths`, half a second at a time.

    sample_rate: of the files; resampled on the way if it is not the stream's. before: float32 `[samples]` written in
    front of every sequence. progress(seconds done, speed against real time) is called after each block. A file appears
    under its name only when it is whole.
    """
    rate = sample_rate or stream.sample_rate
    wanted = max(1, round(seconds * rate))
    total = -(-wanted * stream.sample_rate // rate)
    block = max(1, stream.sample_rate // 2)
    started = time.perf_counter()

    def rendered() -> Iterator[np.ndarray]:
        for start in range(0, total, block):
            sound = stream.render(min(block, total - start))
            done = (start + sound.shape[1]) / stream.sample_rate
            if progress is not None:
                progress(done, done / max(time.perf_counter() - started, 1e-9))
            yield np.ascontiguousarray(sound.T)

    for path in paths:
        if not path.parent.exists():
            with contextlib.suppress(OSError):  # SoundWriter says why
                make_own(path.parent)
    pieces: list[list[np.ndarray]] = [[] for _ in paths]
    with contextlib.ExitStack() as files:
        writers = [files.enter_context(SoundWriter(path, rate)) for path in paths]
        if before is not None:
            first = resample(before, stream.sample_rate, rate)
            for writer, written in zip(writers, pieces, strict=True):
                written.append(writer.write(first))
        left = wanted
        for sounds in resample_blocks(rendered(), stream.sample_rate, rate):
            for writer, written, channel in zip(writers, pieces, sounds[:left].T, strict=True):
                written.append(writer.write(channel))
            left -= min(left, len(sounds))
    speed = total / stream.sample_rate / max(time.perf_counter() - started, 1e-9)
    return Written(speed, [np.concatenate(written).astype(np.float32) for written in pieces])
