"""Which type of weights plays a run fastest here for hardly any likelihood: what `--weights auto` takes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from tierwave.controls.live import Settings
from tierwave.data.windows import LaneWindows
from tierwave.engine.network import Network, WeightKind
from tierwave.engine.voices import Voices
from tierwave.generation.load import WEIGHTS_CHOSEN, Trained, network_of

KINDS: tuple[WeightKind, ...] = ("float32", "bfloat16", "int8")
MOST_BITS = 0.01  # per sample, that a type may lose
SAMPLES = 20_000  # of held-out sound that are compared, or somewhat more
_SPEED_STEPS, _SPEED_BLOCKS = 256, 9


@dataclass(frozen=True)
class WeightChoice:
    """Bits per sample of held-out sound and samples per second of one voice, by the type of weights; and the fastest
    type that loses at most `MOST_BITS`."""

    bits: dict[str, float]
    speed: dict[str, float]

    @property
    def chosen(self) -> str:
        allowed = [kind for kind, bits in self.bits.items() if bits <= self.bits["float32"] + MOST_BITS]
        return max(allowed, key=self.speed.__getitem__)

    def table(self) -> str:
        """As lines of text."""
        rows = [
            f"{kind}: {self.bits[kind]:.4f} bits per sample, {self.speed[kind]:,.0f} samples per second"
            for kind in self.bits
        ]
        return "\n".join([*rows, f"--weights auto takes {self.chosen} from now on"])


def choose_weights(trained: Trained, windows: LaneWindows) -> WeightChoice:
    """Measure the last stage of a run of Keras models on `windows` of held-out sound, and keep the choice in the run,
    for this checkpoint."""
    stage = trained.family.stages(trained.config)[-1]
    bits: dict[str, float] = {}
    speed: dict[str, float] = {}
    for kind in KINDS:
        network = network_of(trained.family, trained.config, stage, trained.models[-1], kind)
        bits[kind] = _bits(network, windows)
        speed[kind] = _speed(network)
    found = WeightChoice(bits, speed)
    document = {"checkpoint": trained.checkpoints[stage].name, "weights": found.chosen, "bits": bits, "speed": speed}
    trained.run.write(WEIGHTS_CHOSEN, document)
    return found


def _bits(network: Network, windows: LaneWindows) -> float:
    """Bits per sample of the first windows. A lane goes on where a new recording begins, which is the same for all."""
    voices: Voices | None = None
    nats, counted, overlap, steps_ahead = 0.0, 0.0, windows.overlap, int(network.about["controls_ahead"])
    for span, place, reset in zip(*windows.layout(0), strict=True):
        batch = windows.batch((span, place, reset))
        codes, mask = batch["inputs"], batch["mask"]
        controls = None
        if "controls" in batch:
            controls = batch["controls"][:, overlap - steps_ahead : codes.shape[1] - steps_ahead]
        if voices is None:
            voices = Voices(network, len(codes), 0)
        voices.begin(codes[:, overlap - network.history : overlap])
        logits = voices.predictions(codes[:, overlap:], controls).astype(np.float64)
        peak = logits.max(axis=-1, keepdims=True)
        total = np.log(np.exp(logits - peak).sum(axis=-1)) + peak[..., 0]
        given = np.take_along_axis(logits, codes[:, overlap:, None], axis=-1)[..., 0]
        nats += float(((total - given) * mask).sum())
        counted += float(mask.sum())
        if counted >= SAMPLES:
            break
    return nats / max(counted, 1.0) / float(np.log(2.0))


def _speed(network: Network) -> float:
    """Samples per second of one voice, in the quicker blocks."""
    voices = Voices(network, 1, 0, threads=1)
    inputs = np.full([1, _SPEED_STEPS, len(network.about["controls"])], 0.5, np.float32)
    shape = inputs.shape[:2]
    settings = Settings(inputs, np.ones(shape, np.float32), np.zeros(shape, np.int32))
    voices.run(settings)
    took: list[Any] = []
    for _ in range(_SPEED_BLOCKS):
        started = time.perf_counter()
        voices.run(settings)
        took.append(time.perf_counter() - started)
    return float(_SPEED_STEPS / np.quantile(took, 0.25))
