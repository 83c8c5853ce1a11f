"""What SampleRNN offers to the rest (see `tierwave.family`). TensorFlow is imported only when a model is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from samplernn.config import Config
from samplernn.footprint import footprint
from tierwave.controls.schema import Schema
from tierwave.data.windows import LaneWindows
from tierwave.family import Family
from tierwave.generation.request import Request, Stream
from tierwave.nn.footprint import Footprint

if TYPE_CHECKING:
    from samplernn.model import SampleRNN
    from tierwave.engine.network import Named, Network, WeightKind
    from tierwave.nn.step_graph import StepGraph

# Keys that may differ from those of the run whose weights are taken over.
_WEIGHTLESS = (
    "seq_len", "rnn_dropout", "gradient_clip", "normalize", "logit_cap", "q_type", "conditioned_on", "controls",
    "training", "recompute", "start", "emb_init", "lookback", "zero_mean",
)  # fmt: skip


class SampleRNNFamily(Family):
    """SampleRNN (Mehri et al. 2017, PRiSM 2020): raw audio, sample by sample, in tiers of falling frame size."""

    configs = {"samplernn": Config}

    def build(self, config: Config, stage: str | None = None, **options: Any) -> SampleRNN:
        from samplernn.model import SampleRNN

        return SampleRNN(config, **options)

    def stream(
        self,
        models: Sequence[SampleRNN | Network],
        config: Config,
        request: Request,
        *,
        sample_rate: int,
        schema: Schema | None = None,
        **_: Any,
    ) -> Stream:
        from samplernn.stream import SampleStream

        return SampleStream(models[0], sample_rate, request, schema)

    def network(self, config: Config, stage: str, weights: Named, kind: WeightKind, origin: str) -> Network:
        from samplernn.engine import network

        return network(config, weights, kind, origin=origin)

    def step_graphs(self, model: SampleRNN) -> list[StepGraph]:
        from samplernn.steps import step_graphs

        return step_graphs(model)

    def overlap(self, config: Config) -> int:
        return config.history

    def footprint(self, config: Config, stage: str, windows: LaneWindows | None = None) -> Footprint:
        return footprint(config)

    def warnings(self, config: Config) -> list[str]:
        if config.q_type == "mu-law" and config.q_levels != 256:
            return [f"q_levels is {config.q_levels}: mu-law has 256 levels by tradition, and PRiSM always takes 256."]
        return []

    def architecture(self, config: Config, stage: str) -> dict[str, Any]:
        return {key: value for key, value in config.model_dump(mode="json").items() if key not in _WEIGHTLESS}

    def take_weights(
        self,
        source: SampleRNN,
        target: SampleRNN,
        source_schema: Schema,
        schema: Schema,
        *,
        absent: float = 0.5,
        **dataset_states: Any,
    ) -> None:
        from samplernn.model import transplant

        transplant(source, target, source_schema, schema, absent)


FAMILY = SampleRNNFamily()
