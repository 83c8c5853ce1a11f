"""The keys of a SampleRNN config, their defaults, and which values exclude each other."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tierwave.audio.lookback import LONGEST, Lag, needed
from tierwave.config import Amount, GlobalNormClip, Layers, StrictModel, ValueClip, Width
from tierwave.controls.schema import ControlInputs, Parameter, Schema, control_inputs
from tierwave.errors import UsageError


class Lookback(StrictModel):
    """By what period the sample tier looks back (see `tierwave.audio.lookback`).

    control: a pitch, in semitones (midiPitch), or in hertz on a logarithmic scale; where it is too low, and without
    one, the period is found in the sound itself. Its period and octaves are filled in by train.py.
    """

    control: str | None = None
    period: Annotated[float, Field(gt=0, le=1e9)] | None = Field(
        None, description="in samples, at the control's lower end"
    )
    octaves: Annotated[float, Field(ge=-100, le=100)] | None = Field(None, description="from there to its upper end")
    limit: Annotated[int, Field(ge=16, le=LONGEST)] = Field(480, description="the longest lag in samples")


class Config(StrictModel):
    """A SampleRNN. All keys are optional; the defaults are PRiSM's three-tier network.

    frame_sizes: samples per frame, ascending, each a multiple of the one before; the last is the top tier. One entry
    makes the original's two-tier network, none a plain sample-level RNN. `convention` bundles what PRiSM and the
    paper's code do differently and nobody tunes: PRiSM projects the top tier's frames to `dim`, upsamples without bias
    and uses Keras' initialisers; the paper's code feeds raw frames to the top RNN, upsamples with bias, and uses
    He/LeCun initialisers, N(0, 1) embeddings and an LSTM forget bias of 3.
    """

    model: Literal["samplernn"] = "samplernn"
    seq_len: Width = Field(1024, description="samples per training window; a multiple of the top frame size")
    frame_sizes: list[Width] = Field([16, 64], description="samples per frame, ascending")
    dim: Width = Field(1024, description="width of every tier")
    rnn_type: Literal["gru", "lstm"] = "gru"
    num_rnn_layers: Layers = 4
    q_type: Literal["mu-law", "linear", "a-law"] = "mu-law"
    q_levels: Annotated[int, Field(ge=2, le=65536)] = 256
    emb_size: Annotated[int, Field(ge=0, le=1_000_000)] = Field(256, description="width of the embedding; 0 = one-hot")
    emb_init: Literal["random", "sinusoids"] = Field(
        "random", description="embeddings before training; sinusoids: neighbouring levels begin alike"
    )
    start: bool = Field(False, description="begin from the starting weights that come with the program")
    skip_conn: bool | Literal["prism"] = False
    rnn_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    weight_norm: bool = False
    learn_h0: bool = False
    gru_reset: Literal["after", "before"] = "after"
    convention: Literal["prism", "paper"] = "prism"
    gradient_clip: GlobalNormClip | ValueClip | None = GlobalNormClip()
    normalize: Literal["none", "corpus", "file"] = "none"
    conditioned_on: list[str] = Field(default_factory=list, description="names of controls that steer the sound")
    controls: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="by control: lo, hi, scale, interp, outside, units, categories, encoding"
    )
    lookback: Lookback | None = Field(None, description="the control by whose period the sample tier looks back")
    logit_cap: Amount | None = Field(None, description="logits become cap * tanh(logits / cap)")
    zero_mean: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="samples of a running mean that is taken from generated sound before the network hears it"
    )
    recompute: bool = Field(False, description="compute layers again in the backward pass, without frame tiers")
    training: dict[str, Any] = Field(default_factory=dict, description="any flag of train.py")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Config:
        for small, large in zip(self.frame_sizes, self.frame_sizes[1:], strict=False):
            if large <= small or large % small:
                raise ValueError(
                    f"frame_sizes {self.frame_sizes} must ascend and divide one another, and {large} is not a larger "
                    f"multiple of {small}; use for example [{small}, {small * max(2, round(large / small))}]"
                )
        if self.seq_len % self.top_frame:
            nearest = max(1, round(self.seq_len / self.top_frame)) * self.top_frame
            raise ValueError(
                f"seq_len {self.seq_len} must be a multiple of the top frame size {self.top_frame}; use {nearest}"
            )
        if self.skip_conn and self.num_rnn_layers == 1:
            raise ValueError(
                "skip_conn joins several RNN layers, and num_rnn_layers is 1; set num_rnn_layers to 2 or more or "
                "skip_conn to false"
            )
        if self.rnn_type == "lstm" and self.gru_reset == "before":
            raise ValueError('gru_reset "before" has no meaning for rnn_type "lstm"; leave gru_reset out')
        if self.emb_init == "sinusoids" and not self.emb_size:
            raise ValueError('emb_init "sinusoids" needs embeddings; set emb_size to 64, or leave emb_init out')
        if self.recompute and self.frame_sizes:
            raise ValueError(
                f"recompute saves nothing with frame_sizes {self.frame_sizes}, since the memory is the sample tier's; "
                "leave it out, or set frame_sizes to []; --accumulate 4 takes a quarter of a batch at a time"
            )
        if len(set(self.conditioned_on)) < len(self.conditioned_on):
            raise ValueError(f"conditioned_on {self.conditioned_on} names a control twice; keep it once")
        unknown = [name for name in self.controls if name not in self.conditioned_on]
        if unknown:
            raise ValueError(f"controls names {unknown[0]}, which is not in conditioned_on")
        control_inputs(self.conditioned_on, self.controls)
        self._lookback_fits()
        return self

    def _lookback_fits(self) -> None:
        if self.lookback is None:
            return
        name = self.lookback.control
        if name is not None and name not in self.conditioned_on:
            raise ValueError(f"lookback names the control {name}, which is not in conditioned_on; add it there")
        if not self.frame_sizes:
            raise ValueError("lookback is for networks with frame tiers; give frame_sizes, or leave lookback out")

    @property
    def control_inputs(self) -> tuple[ControlInputs, ...]:
        """The inputs of the network that each control takes."""
        return control_inputs(self.conditioned_on, self.controls)

    @property
    def lag(self) -> Lag | None:
        """Which control tells how far the sample tier looks back; None where none does. ValueError before it is
        `completed`."""
        told = self.lookback
        if told is None or told.control is None:
            return None
        if told.period is None or told.octaves is None:
            raise ValueError("lookback has no period and octaves: train.py fills them in (`Config.completed`)")
        return Lag(self.conditioned_on.index(told.control), told.period, told.octaves, told.limit)

    @property
    def top_frame(self) -> int:
        """Samples per step of the slowest tier."""
        return self.frame_sizes[-1] if self.frame_sizes else 1

    def completed(self, schema: Schema, sample_rate: float) -> Config:
        """The config with what only the controls' ranges and the rate of the corpus tell, in Hz: the period by which
        to look back. Raises UsageError where the control is no pitch."""
        if self.lookback is None:
            return self
        told = Lookback(limit=self.lookback.limit)
        if self.lookback.control in schema.names:  # a pitch that too little of the sound has was left out
            period, octaves = period_of(schema.of(self.lookback.control), sample_rate)
            told = Lookback(control=self.lookback.control, period=period, octaves=octaves, limit=told.limit)
        return self.model_copy(update={"lookback": told})

    @property
    def history(self) -> int:
        """How many earlier samples a window needs (its overlap): whole top frames."""
        if self.lookback is None:
            return self.top_frame
        return -(-needed(self.lookback.limit) // self.top_frame) * self.top_frame

    @property
    def sample_frame(self) -> int:
        """How many of the last samples the sample tier sees."""
        return self.frame_sizes[0] if self.frame_sizes else 1


def period_of(pitch: Parameter, sample_rate: float) -> tuple[float, float]:
    """The period in samples at a pitch's lower end, and the octaves from there to its upper end. Raises UsageError for
    a control that is no pitch, or in hertz but not on a logarithmic scale."""
    lo, hi = pitch.span
    if pitch.units == "midiPitch" and pitch.scale == "linear":
        return sample_rate / (440.0 * 2.0 ** ((lo - 69.0) / 12.0)), (hi - lo) / 12.0
    if pitch.units in ("hertz", "frequency") and pitch.scale == "log":
        return sample_rate / lo, math.log2(hi / lo)
    raise UsageError(
        f"lookback needs a pitch, and {pitch.name} has the units {pitch.units or 'of nothing'} on a {pitch.scale} "
        "scale: give it the units midiPitch, or hertz and the scale log"
    )
