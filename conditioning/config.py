"""The keys of a conditioning stage and of a cascade of stages, their defaults, and which values exclude each other.

A stage generates audio, or named controls at a rate of its own, and is conditioned on any controls; sizes follow from
the names. A cascade lists stages from slow controls down to audio.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from tierwave.config import Amount, GlobalNormClip, Layers, StrictModel, ValueClip, Width
from tierwave.controls.schema import ControlInputs, control_inputs
from tierwave.files.folders import name_fault

AUDIO = "audio"
# MTCRNN's numbers 0 to 6, and RNNControl's network, which is the baseline without the rectifier behind its first map.
NETS = ("baseline", "split", "shared_split", "pathways", "shared_pathways", "mixture", "wide", "rnncontrol")
NetName = Literal["baseline", "split", "shared_split", "pathways", "shared_pathways", "mixture", "wide", "rnncontrol"]
AUDIO_NETS = ("baseline", "wide", "rnncontrol")


def _net_of_number(net: Any) -> Any:
    if isinstance(net, int) and not isinstance(net, bool) and 0 <= net <= 6:
        return NETS[net]
    return net


class Exposure(StrictModel):
    """How controls are degraded in training to resemble those of generation: resampled to `rate` and back, with noise.
    rate: Hz; None in a cascade: that of the tier that generates the control. noise: standard deviation, as a share of
    the control's range."""

    rate: Amount | None = None
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0


class Stage(StrictModel):
    """One network: what it generates, from what, and how."""

    generates: Annotated[list[str], Field(min_length=1)] = Field(
        default_factory=lambda: [AUDIO], description='["audio"], or names of controls'
    )
    conditioned_on: list[str] = Field(default_factory=list, description="names of controls")
    rate: Amount | None = Field(None, description="values per second; audio: None takes the corpus's")
    seq_len: Width = Field(256, description="steps per training window")
    hidden_size: Width = 48
    num_layers: Layers = 4
    net: Annotated[NetName, BeforeValidator(_net_of_number)] = Field(
        "rnncontrol", description="name of the network, or MTCRNN's number 0 to 6"
    )
    cell: Literal["gru", "lstm", "phased_lstm"] = "gru"
    audio_input: Literal["scalar", "onehot", "embedding"] = "scalar"
    emb_size: Width = Field(32, description="width of the embedding, for audio_input embedding")
    q_type: Literal["mu-law", "linear", "a-law", "mu-law-floor"] = "mu-law"
    q_levels: Annotated[int, Field(ge=2, le=65536)] = 256
    loss: Literal["nll", "sampled_mse", "mixture"] | None = Field(
        None, description="None: mixture for the net mixture, else nll, which is cross-entropy for audio"
    )
    mixtures: Width = Field(3, description="Gaussians per control, for the net mixture")
    scale_floor: Amount = Field(0.001, description="smallest standard deviation, as a share of the range")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    recompute: bool = Field(False, description="compute layers again in the backward pass: more time, less memory")
    exposure: Exposure | None = None
    gradient_clip: GlobalNormClip | ValueClip | None = GlobalNormClip()

    @model_validator(mode="after")
    def _possible(self) -> Stage:
        for key, names in (("generates", self.generates), ("conditioned_on", self.conditioned_on)):
            if len(set(names)) < len(names) or any(not name.strip() for name in names):
                raise ValueError(f"{key} {names} must be different names; keep each once")
        if AUDIO in self.generates and len(self.generates) > 1:
            raise ValueError(f"generates {self.generates}: audio is made alone; give the controls to another tier")
        if AUDIO in self.conditioned_on:
            raise ValueError("conditioned_on holds audio, which is no control; leave it out")
        both = [name for name in self.conditioned_on if name in self.generates]
        if both:
            raise ValueError(f"{both[0]} is both generated and conditioned on; keep it in one of them")
        if self.makes_audio:
            self._check_audio()
        else:
            self._check_parameters()
        if self.net != "mixture" and self.mixtures != Stage.model_fields["mixtures"].default:
            raise ValueError(f'mixtures {self.mixtures} belongs to the net "mixture", and net is "{self.net}"')
        if self.exposure is not None and not self.conditioned_on:
            raise ValueError("exposure changes what conditions a network, and conditioned_on is empty; leave it out")
        return self

    def _check_audio(self) -> None:
        if self.net not in AUDIO_NETS:
            raise ValueError(f'net "{self.net}" is for controls; for audio take one of {", ".join(AUDIO_NETS)}')
        if self.loss not in (None, "nll"):
            raise ValueError(f'loss "{self.loss}" is for controls; audio has nll (cross-entropy)')
        if self.rate is not None and self.rate != int(self.rate):
            raise ValueError(f"rate {self.rate:g} of audio is a sample rate, a whole number of Hz")
        if self.scale_floor != Stage.model_fields["scale_floor"].default:
            raise ValueError("scale_floor belongs to controls; audio has no standard deviation")
        if self.audio_input != "embedding" and self.emb_size != Stage.model_fields["emb_size"].default:
            raise ValueError(f'emb_size {self.emb_size} needs audio_input "embedding", which is "{self.audio_input}"')

    def _check_parameters(self) -> None:
        if self.rate is None:
            raise ValueError(f"rate is missing: how many values a second of {', '.join(self.generates)}? (such as 125)")
        for key in ("audio_input", "emb_size", "q_type", "q_levels"):
            if getattr(self, key) != Stage.model_fields[key].default:
                raise ValueError(f"{key} belongs to audio, and this stage generates {', '.join(self.generates)}")
        if self.loss == "sampled_mse" and self.scale_floor != Stage.model_fields["scale_floor"].default:
            raise ValueError('scale_floor does nothing for loss "sampled_mse", which has no floor; leave it out')
        if (self.loss == "mixture") != (self.net == "mixture") and self.loss is not None:
            raise ValueError(f'loss "{self.loss}" does not fit net "{self.net}": mixture goes with mixture')

    @property
    def makes_audio(self) -> bool:
        """Whether the stage generates audio."""
        return self.generates == [AUDIO]

    @property
    def value_width(self) -> int:
        """How many inputs of the network the values of a step take."""
        widths = {"scalar": 1, "onehot": self.q_levels, "embedding": self.emb_size}
        return widths[self.audio_input] if self.makes_audio else len(self.generates)

    @property
    def stacks(self) -> int:
        """How many recurrent stacks the network has."""
        features = len(self.generates)
        return {"split": 2, "shared_split": 3, "pathways": features, "shared_pathways": features + 1}.get(self.net, 1)

    @property
    def loss_name(self) -> str:
        """The loss, None resolved."""
        return self.loss or ("mixture" if self.net == "mixture" else "nll")


Normalize = Literal["none", "corpus", "file"]


class Config(Stage):
    """One stage as a model of its own: MTCRNN's tier, RNNControl's network. The defaults are RNNControl's."""

    model: Literal["conditioning"] = "conditioning"
    normalize: Normalize = "none"
    controls: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="by control: lo, hi, scale, interp, outside, units, categories, encoding"
    )
    training: dict[str, Any] = Field(default_factory=dict, description="any flag of train.py")

    @model_validator(mode="after")
    def _controls_known(self) -> Config:
        _refuse_unknown(self.controls, [*self.generates, *self.conditioned_on])
        _refuse_one_hot(self.controls, self.generates)
        if self.exposure is not None and self.exposure.rate is None:
            raise ValueError("exposure needs a rate, through which the conditioning passes (None is for cascades)")
        return self

    @property
    def name(self) -> str:
        """The name of the one stage."""
        return "conditioning"

    @property
    def tiers(self) -> list[Config]:
        """The stages in order: this one."""
        return [self]


# Options that all tiers of a cascade share, since they share a corpus and a split.
COMMON_TRAINING = ("val_frac", "test_frac", "num_val_batches", "sample_rate", "random_seed")


class Tier(Stage):
    """One stage of a cascade."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] = Field(description="such as pitch or audio")
    training: dict[str, Any] = Field(default_factory=dict, description="flags of train.py for this tier only")

    @model_validator(mode="after")
    def _name_is_free(self) -> Tier:
        if self.name.lower() in ("controls", "stages", "tensorboard"):
            raise ValueError(f"a tier cannot be called {self.name}, as files beside a sound are; choose another name")
        if fault := name_fault(self.name):
            raise ValueError(f"a tier cannot be called {self.name}, as a folder is named after it: {fault}")
        return self

    @model_validator(mode="after")
    def _training_of_its_own(self) -> Tier:
        common = [key for key in self.training if key in COMMON_TRAINING]
        if common:
            raise ValueError(
                f"{self.name}: training.{common[0]} is one for all tiers, which share a corpus; put it into the "
                "cascade's training"
            )
        return self


class Cascade(StrictModel):
    """Stages in order, from slow controls down to audio; every name comes from an earlier tier or from the user."""

    model: Literal["cascade"]
    tiers: Annotated[list[Tier], Field(min_length=1)] = Field(description="the stages in order; the last makes audio")
    normalize: Normalize = "none"
    controls: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="by control: lo, hi, scale, interp, outside, units, categories, encoding"
    )
    training: dict[str, Any] = Field(default_factory=dict, description="any flag of train.py, for all tiers")

    @model_validator(mode="after")
    def _fits_together(self) -> Cascade:
        names = [tier.name.lower() for tier in self.tiers]  # a folder each, which may not tell Slow from slow
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"two tiers are called {twice[0]}; give each a name of its own")
        made = [name for tier in self.tiers for name in tier.generates]
        twice = [name for name in made if made.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is generated by two tiers; leave it to one of them")
        if not self.tiers[-1].makes_audio:
            raise ValueError(
                f"the last tier, {names[-1]}, generates {', '.join(self.tiers[-1].generates)}; a cascade ends in one "
                'that generates ["audio"]'
            )
        before: dict[str, Tier] = {}
        for tier in self.tiers:
            late = [name for name in tier.conditioned_on if name in made and name not in before]
            if late:
                raise ValueError(
                    f"tier {tier.name} is conditioned on {late[0]}, which a later tier generates; a tier sees only "
                    "what comes before it, so change their order, or break the circle if there is one"
                )
            if tier.exposure is not None and not any(name in made for name in tier.conditioned_on):
                raise ValueError(
                    f"tier {tier.name} has an exposure, but no tier generates what it is conditioned on; leave it out"
                )
            for name in tier.conditioned_on:
                faster = before[name].rate if name in before else None
                if faster is not None and tier.rate is not None and faster > tier.rate:
                    raise ValueError(
                        f"tier {tier.name} at {tier.rate:g} Hz is conditioned on {name} at {faster:g} Hz; a cascade "
                        "goes from slow tiers to faster ones, so lower the one rate or raise the other"
                    )
            before.update({name: tier for name in tier.generates})
        used = {name for tier in self.tiers for name in tier.conditioned_on}
        unused = [name for name in made if name != AUDIO and name not in used]
        if unused:
            raise ValueError(f"{unused[0]} is generated, but no tier is conditioned on it; leave it out or use it")
        _refuse_unknown(self.controls, [*made, *used])
        _refuse_one_hot(self.controls, made)
        return self


def _refuse_unknown(controls: dict[str, dict[str, Any]], known: list[str]) -> None:
    unknown = [name for name in controls if name not in known]
    if unknown:
        raise ValueError(f"controls names {unknown[0]}, which no stage generates or is conditioned on")


def _refuse_one_hot(controls: dict[str, dict[str, Any]], made: list[str]) -> None:
    control_inputs(list(controls), controls)
    for name in made:
        if controls.get(name, {}).get("encoding") == "one_hot":
            raise ValueError(f"{name} is generated as a number, so it cannot be one_hot; leave its encoding out")


def control_inputs_of(config: Config | Cascade, tier: Stage) -> tuple[ControlInputs, ...]:
    """The inputs of the network that each control takes that a tier is conditioned on."""
    return control_inputs(tier.conditioned_on, config.controls)


def parameters(config: Config | Cascade) -> list[str]:
    """Every control that training needs of the corpus."""
    names = [name for tier in config.tiers for name in [*tier.conditioned_on, *tier.generates] if name != AUDIO]
    return list(dict.fromkeys(names))


def playing(config: Config | Cascade, stage: str | None, given: Collection[str]) -> list[Any]:
    """The tiers to run where the controls `given` are given: those that generate any other; stage: only this one."""
    return [
        tier
        for tier in config.tiers
        if stage in (None, tier.name) and (stage is not None or not set(tier.generates) <= set(given))
    ]


def steerable(config: Config | Cascade, stage: str | None = None, given: Collection[str] = ()) -> list[str]:
    """The controls that come from the user, since no tier generates them; stage: those of this one tier by itself;
    given: generated ones that are given instead."""
    tiers = playing(config, stage, given)
    made = {name for tier in config.tiers for name in tier.generates if stage is None}
    return list(dict.fromkeys(name for tier in tiers for name in tier.conditioned_on if name not in made))
