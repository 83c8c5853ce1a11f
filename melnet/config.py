"""The keys of a MelNet config, their defaults, and which values exclude each other."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from melnet.front_end import MelAudio
from melnet.multiscale import factors
from tierwave.config import Amount, GlobalNormClip, Layers, StrictModel, ValueClip, Width
from tierwave.controls.schema import ControlInputs, control_inputs


class Text(StrictModel):
    """Text that the sound speaks, by attention in the first tier's central stack.

    column: of `metadata.csv` (LJSpeech's: by number, from 0) or of a manifest (by name). components: of the
    discretised mixture of logistics. layer: of the central stack after which attention stands; None: in the middle.
    """

    column: str | Annotated[int, Field(ge=0, le=65_536)] = "text"
    components: Width = 10
    layer: Layers | None = None


class Config(StrictModel):
    """A MelNet. seq_len: frames per training window, of the whole spectrogram; a multiple of the tiers' time factor."""

    model: Literal["melnet"] = "melnet"
    audio: MelAudio = Field(default_factory=MelAudio)
    tiers: Annotated[int, Field(ge=1, le=12)] = 6
    layers: list[Layers] = Field([12, 5, 4, 3, 2, 2], description="recurrent layers of each tier")
    hidden_size: Width = 512
    mixtures: Width = 10
    cell: Literal["lstm", "gru"] = "lstm"
    seq_len: Width = Field(256, description="frames per training window")
    scale_floor: Amount = Field(0.001, description="smallest standard deviation, in normalised units")
    conditioned_on: list[str] = Field(default_factory=list, description="names of controls")
    controls: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="by control: lo, hi, scale, interp, outside, units, categories, encoding"
    )
    text: Text | None = None
    recompute: bool = Field(False, description="compute layers again in the backward pass: more time, less memory")
    gradient_clip: GlobalNormClip | ValueClip | None = GlobalNormClip()
    normalize: Literal["none", "corpus", "file"] = "none"
    training: dict[str, Any] = Field(default_factory=dict, description="any flag of train.py")
    training_per_tier: list[dict[str, Any]] = Field(default_factory=list, description="what differs, by tier")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Config:
        if len(self.layers) != self.tiers:
            raise ValueError(f"layers {self.layers} are {len(self.layers)}, and tiers is {self.tiers}; give one each")
        by_time, by_frequency = factors(self.tiers)
        if self.audio.mel_channels % by_frequency:
            raise ValueError(
                f"audio.mel_channels {self.audio.mel_channels} must be a multiple of {by_frequency} with {self.tiers} "
                "tiers"
            )
        if self.seq_len % by_time:
            nearest = max(1, round(self.seq_len / by_time)) * by_time
            raise ValueError(
                f"seq_len {self.seq_len} must be a multiple of {by_time} with {self.tiers} tiers; use {nearest}"
            )
        if len(self.training_per_tier) not in (0, self.tiers):
            raise ValueError(
                f"training_per_tier has {len(self.training_per_tier)} entries, and tiers is {self.tiers}; give one "
                "each, {} where nothing differs"
            )
        if self.text is not None and self.text.layer is not None and self.text.layer > self.layers[0]:
            raise ValueError(f"text.layer {self.text.layer} is above the first tier's {self.layers[0]} layers")
        unknown = [name for name in self.controls if name not in self.conditioned_on]
        if unknown:
            raise ValueError(f"controls names {unknown[0]}, which is not in conditioned_on")
        control_inputs(self.conditioned_on, self.controls)
        return self

    @property
    def control_inputs(self) -> tuple[ControlInputs, ...]:
        """The inputs of the network that each control takes."""
        return control_inputs(self.conditioned_on, self.controls)

    @property
    def time_factor(self) -> int:
        """Frames of the whole per frame of the first tier."""
        return factors(self.tiers)[0]
