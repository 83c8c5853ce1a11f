"""The configs of conditioning stages and cascades: what they take, what they refuse, and the way to a file and back."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import conditioning
from conditioning.config import NETS, Cascade, Config, Exposure, Stage, parameters, steerable
from tierwave.config import TrainingOptions, dumps, resolve_training
from tierwave.errors import UsageError
from tierwave.family import load_config

AUDIO = {"model": "conditioning"}
PITCH = {"model": "conditioning", "generates": ["pitch"], "conditioned_on": ["fill"], "rate": 125}


def tier(name: str, generates: list[str], conditioned_on: list[str], rate: float | None = None, **keys: Any) -> dict:
    return {"name": name, "generates": generates, "conditioned_on": conditioned_on, "rate": rate, **keys}


SLOW = tier("slow", ["rmse", "pitch"], ["fill"], 125)
FAST = tier("fast", ["mfcc"], ["rmse", "pitch", "bow"], 500)
SOUND = tier("sound", ["audio"], ["mfcc", "pitch", "inst"], 16000)


def cascade(*tiers: dict, **keys: Any) -> dict:
    return {"model": "cascade", "tiers": list(tiers), **keys}


def loaded(document: dict) -> Any:
    family, config = load_config(document, "some.config.json")
    assert family is conditioning.FAMILY
    return config


# What is refused -----------------------------------------------------------------------------------------------------

REFUSED = [
    # one stage
    (AUDIO | {"generates": []}, "generates is [], but must be a list of 1 or more"),
    (AUDIO | {"conditioned_on": ["p", "p"]}, "conditioned_on ['p', 'p'] must be different names; keep each once"),
    (AUDIO | {"conditioned_on": ["p", " "]}, "conditioned_on ['p', ' '] must be different names"),
    (PITCH | {"generates": ["a", "a"]}, "generates ['a', 'a'] must be different names; keep each once"),
    (AUDIO | {"generates": ["audio", "p"]}, "audio is made alone; give the controls to another tier"),
    (AUDIO | {"conditioned_on": ["audio"]}, "conditioned_on holds audio, which is no control; leave it out"),
    (PITCH | {"conditioned_on": ["audio"]}, "conditioned_on holds audio, which is no control; leave it out"),
    (PITCH | {"conditioned_on": ["pitch"]}, "pitch is both generated and conditioned on; keep it in one of them"),
    (AUDIO | {"net": "wide", "mixtures": 4}, 'mixtures 4 belongs to the net "mixture", and net is "wide"'),
    (PITCH | {"mixtures": 2}, 'mixtures 2 belongs to the net "mixture", and net is "rnncontrol"'),
    (AUDIO | {"exposure": {"rate": 50}}, "conditioned_on is empty; leave it out"),
    (AUDIO | {"conditioned_on": ["p"], "exposure": {"noise": 0.1}}, "exposure needs a rate"),
    (AUDIO | {"conditioned_on": ["p"], "exposure": {"rate": 50, "noise": 1.5}}, "must be at most 1"),
    (AUDIO | {"conditioned_on": ["p"], "exposure": {"rate": 0}}, "must be greater than 0"),
    # audio
    *(
        (AUDIO | {"net": net}, f'net "{net}" is for controls; for audio take one of baseline, wide, rnncontrol')
        for net in ("split", "shared_split", "pathways", "shared_pathways", "mixture")
    ),
    (AUDIO | {"net": 1}, 'net "split" is for controls'),
    (AUDIO | {"loss": "sampled_mse"}, 'loss "sampled_mse" is for controls; audio has nll (cross-entropy)'),
    (AUDIO | {"loss": "mixture"}, 'loss "mixture" is for controls; audio has nll (cross-entropy)'),
    (AUDIO | {"rate": 16000.5}, "rate 16000.5 of audio is a sample rate, a whole number of Hz"),
    (AUDIO | {"scale_floor": 0.01}, "scale_floor belongs to controls; audio has no standard deviation"),
    (AUDIO | {"emb_size": 8}, 'emb_size 8 needs audio_input "embedding", which is "scalar"'),
    (AUDIO | {"emb_size": 8, "audio_input": "onehot"}, 'emb_size 8 needs audio_input "embedding", which is "onehot"'),
    # controls
    (PITCH | {"rate": None}, "rate is missing: how many values a second of pitch? (such as 125)"),
    (PITCH | {"audio_input": "onehot"}, "audio_input belongs to audio, and this stage generates pitch"),
    (PITCH | {"emb_size": 8}, "emb_size belongs to audio, and this stage generates pitch"),
    (PITCH | {"q_type": "linear"}, "q_type belongs to audio, and this stage generates pitch"),
    (PITCH | {"q_levels": 128}, "q_levels belongs to audio, and this stage generates pitch"),
    (PITCH | {"loss": "mixture"}, 'loss "mixture" does not fit net "rnncontrol": mixture goes with mixture'),
    (PITCH | {"loss": "nll", "net": "mixture"}, 'loss "nll" does not fit net "mixture": mixture goes with mixture'),
    (PITCH | {"loss": "sampled_mse", "net": 5}, 'loss "sampled_mse" does not fit net "mixture"'),
    (PITCH | {"loss": "sampled_mse", "scale_floor": 0.5}, 'scale_floor does nothing for loss "sampled_mse"'),
    # types and bounds
    *((AUDIO | {"net": net}, f"net is {json.dumps(net)}, but must be 'baseline'") for net in (7, -1, True, "0", 0.5)),
    (AUDIO | {"cell": "rnn"}, "cell is \"rnn\", but must be 'gru', 'lstm' or 'phased_lstm'"),
    (AUDIO | {"q_levels": 1}, "q_levels is 1, but must be at least 2"),
    (AUDIO | {"q_levels": 65537}, "q_levels is 65537, but must be at most 65536"),
    (AUDIO | {"dropout": 1.0}, "dropout is 1.0, but must be less than 1"),
    (AUDIO | {"dropout": -0.1}, "dropout is -0.1, but must be at least 0"),
    (PITCH | {"scale_floor": 0}, "scale_floor is 0, but must be greater than 0"),
    *(
        (AUDIO | {key: 0}, f"{key} is 0, but must be {'greater than 0' if key == 'rate' else 'at least 1'}")
        for key in ("seq_len", "hidden_size", "num_layers", "rate", "mixtures", "emb_size")
    ),
    (AUDIO | {"hiden_size": 8}, "did you mean hidden_size?"),
    (AUDIO | {"batch_size": 8}, "did you mean training.batch_size?"),
    (AUDIO | {"controls": {"p": {"lo": 1}}}, "controls names p, which no stage generates or is conditioned on"),
    # cascades
    (cascade(), "tiers is [], but must be a list of 1 or more"),
    ({"model": "cascade"}, "tiers is missing; add it: the stages in order; the last makes audio"),
    (cascade(tier("no spaces", ["audio"], [])), "tiers.0.name is"),
    (cascade(tier("", ["audio"], [])), "tiers.0.name is"),
    (cascade({"generates": ["audio"]}), "tiers.0.name is missing; add it: such as pitch or audio"),
    (cascade(SLOW | {"net": "wide", "mixtures": 5}, FAST, SOUND), 'mixtures 5 belongs to the net "mixture"'),
    (cascade(SLOW, FAST | {"name": "slow"}, SOUND), "two tiers are called slow; give each a name of its own"),
    (cascade(SLOW, FAST | {"generates": ["rmse"]}, SOUND), "rmse is both generated and conditioned on"),
    (
        cascade(SLOW, tier("fast", ["mfcc", "rmse"], ["pitch"], 500), SOUND),
        "rmse is generated by two tiers; leave it to one of them",
    ),
    (cascade(SOUND, SOUND | {"name": "again"}), "audio is generated by two tiers; leave it to one of them"),
    (cascade(SLOW, FAST), 'the last tier, fast, generates mfcc; a cascade ends in one that generates ["audio"]'),
    (cascade(SOUND, SLOW, FAST), "the last tier, fast, generates mfcc"),
    (
        cascade(FAST, SLOW, SOUND),
        "tier fast is conditioned on rmse, which a later tier generates; a tier sees only what comes before it",
    ),
    (
        cascade(tier("a", ["x"], ["y"], 100), tier("b", ["y"], ["x"], 100), tier("sound", ["audio"], ["x", "y"])),
        "tier a is conditioned on y, which a later tier generates",
    ),
    (cascade(SLOW | {"name": "controls"}, FAST, SOUND), "a tier cannot be called controls, as files"),
    (cascade(SLOW | {"name": "Tensorboard"}, FAST, SOUND), "a tier cannot be called Tensorboard, as files"),
    (cascade(SLOW | {"name": "con"}, FAST, SOUND), "a tier cannot be called con, as a folder is named after it: "),
    (cascade(SLOW | {"training": {"val_frac": 0.2}}, FAST, SOUND), "slow: training.val_frac is one for all tiers"),
    (
        cascade(SLOW | {"exposure": {"noise": 0.3}}, FAST, SOUND),
        "tier slow has an exposure, but no tier generates what it is conditioned on; leave it out",
    ),
    (
        cascade(SLOW | {"rate": 600}, FAST, SOUND),
        "tier fast at 500 Hz is conditioned on rmse at 600 Hz; a cascade goes from slow tiers to faster ones",
    ),
    (cascade(SLOW, FAST, SOUND | {"rate": 400}), "tier sound at 400 Hz is conditioned on mfcc at 500 Hz"),
    (
        cascade(SLOW, FAST, SOUND | {"conditioned_on": ["pitch"]}),
        "mfcc is generated, but no tier is conditioned on it; leave it out or use it",
    ),
    (cascade(SLOW, FAST, SOUND, controls={"hum": {}}), "controls names hum, which no stage generates or is"),
    (
        cascade(SLOW, FAST, SOUND, controls={"pitch": {"nvals": 4, "encoding": "one_hot"}}),
        "pitch is generated as a number, so it cannot be one_hot; leave its encoding out",
    ),
    (
        AUDIO | {"conditioned_on": ["who"], "controls": {"who": {"units": "category", "encoding": "one_hot"}}},
        'controls: who: encoding "one_hot" needs to know how many values there are',
    ),
    (cascade(SLOW, FAST, SOUND, normalize="all"), "normalize is \"all\", but must be 'none', 'corpus' or 'file'"),
    (cascade(SLOW, FAST, SOUND | {"controls": {}}), "is not a key here"),
    (cascade(SLOW, FAST, SOUND | {"exposure": {"rate": -1}}), "must be greater than 0"),
]


@pytest.mark.parametrize(("document", "sentence"), REFUSED, ids=[text[:50] for _, text in REFUSED])
def test_what_cannot_be_is_refused_in_a_sentence(document: dict, sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)) as caught:
        loaded(document)
    assert str(caught.value).startswith("some.config.json: ")
    assert "\n" not in str(caught.value)


def test_every_refusal_of_the_module_is_in_the_table() -> None:
    """Whoever adds a refusal adds a line above: each `raise ValueError` begins with words found in some message."""
    import ast
    from pathlib import Path

    from conditioning import config

    assert config.__file__ is not None
    tree = ast.parse(Path(config.__file__).read_text(encoding="utf-8"))
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    messages = []
    for document, _ in REFUSED:
        with pytest.raises(UsageError) as caught:
            loaded(document)
        messages.append(str(caught.value))
    assert len(raised) > 15
    for call in raised:
        assert isinstance(call, ast.Call)
        text = call.args[0]
        parts = text.values if isinstance(text, ast.JoinedStr) else [text]
        words = [part.value for part in parts if isinstance(part, ast.Constant)]
        pattern = ".*".join(re.escape(str(part)) for part in words)
        assert any(re.search(pattern, message) for message in messages), words


# What is taken -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(7))
def test_mtcrnns_numbers_are_names_of_nets(number: int) -> None:
    """Spec 1.4: 0 baseline, 1 split, 2 with a common stack, 3 pathways, 4 with a common stack, 5 mixtures, 6 wide."""
    names = ["baseline", "split", "shared_split", "pathways", "shared_pathways", "mixture", "wide"]
    document = AUDIO if number == 6 else PITCH
    config = loaded(document | {"net": number})
    assert config.net == names[number] == NETS[number]
    assert config == loaded(document | {"net": names[number]})


def test_a_loss_follows_from_the_net() -> None:
    assert loaded(AUDIO).loss_name == "nll"
    assert loaded(PITCH).loss_name == "nll"
    assert loaded(PITCH | {"net": 5}).loss_name == "mixture"
    assert loaded(PITCH | {"net": 5, "loss": "mixture", "mixtures": 1}).loss_name == "mixture"
    assert loaded(PITCH | {"loss": "sampled_mse"}).loss_name == "sampled_mse"


def test_what_a_cascade_may_be() -> None:
    equal = cascade(SLOW, FAST | {"rate": 125}, SOUND)  # as fast is not faster
    assert [one.rate for one in loaded(equal).tiers] == [125, 125, 16000]
    skipping = cascade(tier("slow", ["p"], [], 2), tier("sound", ["audio"], ["p"]))
    assert loaded(skipping).tiers[1].rate is None
    alone = loaded(cascade(tier("sound", ["audio"], ["p"])))
    assert conditioning.FAMILY.stages(alone) == ["sound"]
    without_rate = cascade(SLOW, FAST, SOUND | {"exposure": {"noise": 0.1}})
    assert loaded(without_rate).tiers[2].exposure == Exposure(noise=0.1)


# To a file and back --------------------------------------------------------------------------------------------------

WHOLE = [
    AUDIO,
    AUDIO | {"generates": ["audio"], "conditioned_on": ["p", "a"], "rate": 16000, "audio_input": "embedding"}
    | {"emb_size": 7, "exposure": {"rate": 62.5, "noise": 0.05}, "gradient_clip": {"value": 1.0}, "dropout": 0.1}
    | {"controls": {"p": {"units": "midiPitch", "lo": 60}}, "training": {"batch_size": 3, "tfr": 0.5}},
    AUDIO | {"gradient_clip": None, "net": 6, "cell": "phased_lstm", "q_type": "mu-law-floor", "normalize": "file"},
    PITCH | {"net": 5, "mixtures": 2, "loss": "mixture", "scale_floor": 1e-4},
    PITCH | {"generates": ["a", "b"], "rate": 62.5, "conditioned_on": [], "loss": "sampled_mse", "net": 3},
    cascade(SLOW | {"training": {"tfr": 0.1, "early_stopping_patience": None}}, FAST | {"exposure": {}}, SOUND)
    | {"controls": {"inst": {"categories": ["reed", "brass"]}}, "training": {"num_epochs": 3}, "normalize": "corpus"},
]  # fmt: skip


@pytest.mark.parametrize("document", WHOLE, ids=range(len(WHOLE)))
def test_a_config_comes_back_from_json(document: dict) -> None:
    config = loaded(document)
    text = dumps(config)
    again = loaded(json.loads(text))
    assert again == config
    assert dumps(again) == text
    assert json.loads(text)["model"] == document["model"]
    for key, value in document.items():
        if key not in ("net", "tiers"):
            assert json.loads(text)[key] == value


def test_the_defaults_are_rnncontrols() -> None:
    config = loaded(AUDIO)
    assert (config.seq_len, config.hidden_size, config.num_layers, config.q_levels) == (256, 48, 4, 256)
    assert (config.net, config.cell, config.audio_input, config.q_type) == ("rnncontrol", "gru", "scalar", "mu-law")
    assert conditioning.FAMILY.sample_rate(config) is None
    assert conditioning.FAMILY.sample_rate(loaded(AUDIO | {"rate": 8000.0})) == 8000
    assert conditioning.FAMILY.sample_rate(loaded(PITCH)) is None  # a rate of values is no sample rate
    assert conditioning.FAMILY.sample_rate(loaded(cascade(SLOW, FAST, SOUND))) == 16000


# What the rest of the project asks ------------------------------------------------------------------------------------


def test_parameters_and_what_is_steered() -> None:
    config = loaded(cascade(SLOW, FAST, SOUND))
    assert parameters(config) == ["fill", "rmse", "pitch", "bow", "mfcc", "inst"]
    assert steerable(config) == ["fill", "bow", "inst"]
    assert steerable(config, "slow") == ["fill"]
    assert steerable(config, "fast") == ["rmse", "pitch", "bow"]
    assert steerable(config, "sound") == ["mfcc", "pitch", "inst"]
    single = loaded(PITCH)
    assert parameters(single) == ["fill", "pitch"]
    assert steerable(single) == steerable(single, "conditioning") == ["fill"]
    assert parameters(loaded(AUDIO)) == steerable(loaded(AUDIO)) == []


def test_stages_architecture_clipping_and_windows_are_each_tiers_own() -> None:
    document = cascade(
        SLOW | {"hidden_size": 7, "gradient_clip": {"value": 2.0}, "seq_len": 9},
        FAST | {"gradient_clip": None},
        SOUND | {"q_type": "mu-law-floor", "q_levels": 32, "seq_len": 40},
    )
    config = loaded(document)
    assert conditioning.FAMILY.stages(config) == ["slow", "fast", "sound"]
    assert conditioning.FAMILY.clipping(config, "slow") == {"clip_norm": None, "clip_value": 2.0}
    assert conditioning.FAMILY.clipping(config, "fast") == {"clip_norm": None, "clip_value": None}
    assert conditioning.FAMILY.clipping(config) == {"clip_norm": 5.0, "clip_value": None}
    assert conditioning.FAMILY.window_samples(config) == 40
    assert (conditioning.FAMILY.encoder(config).q_type, conditioning.FAMILY.encoder(config).levels) == (
        "mu-law-floor",
        32,
    )
    assert len(conditioning.FAMILY.warnings(config)) == 1 and "mu-law-floor" in conditioning.FAMILY.warnings(config)[0]
    assert conditioning.FAMILY.architecture(config, "slow")["hidden_size"] == 7
    same = loaded(PITCH | {"conditioned_on": ["a", "b"], "rate": 99, "seq_len": 3, "dropout": 0.5})
    assert conditioning.FAMILY.architecture(same, "conditioning") == conditioning.FAMILY.architecture(
        loaded(PITCH), "conditioning"
    )
    for key, value in {"cell": "lstm", "net": 5, "num_layers": 1, "generates": ["other"]}.items():
        other = loaded(PITCH | {key: value})
        assert conditioning.FAMILY.architecture(other, "conditioning") != conditioning.FAMILY.architecture(
            same, "conditioning"
        )


def options_of(document: dict, name: str, typed: dict[str, Any]) -> TrainingOptions:
    """What a stage is trained with: typed before the stage's own before those of all."""
    config = loaded(document)
    own = conditioning.FAMILY.training_of(config, name)
    return resolve_training(typed, {"training": {**document.get("training", {}), **own}}, "some.config.json")


def check_training_is_kept(common: dict, own: dict[str, dict], typed: dict[str, Any]) -> None:
    tiers = [SLOW, FAST, SOUND]
    document = cascade(*(one | {"training": own.get(one["name"], {})} for one in tiers), training=common)
    config = loaded(document)
    by_stage = {name: options_of(document, name, typed) for name in conditioning.FAMILY.stages(config)}
    common_options = resolve_training(typed, document, "some.config.json")
    trained = json.loads(dumps(conditioning.FAMILY.with_training(config, common_options, by_stage)))
    assert resolve_training({}, trained, "run") == common_options
    for name, options in by_stage.items():
        assert options_of(trained, name, {}) == options


@pytest.mark.parametrize(
    ("common", "own", "typed"),
    [
        ({}, {}, {}),
        ({}, {}, {"learning_rate": 0.5, "early_stopping_patience": None}),
        ({"learning_rate": 0.1}, {"slow": {"learning_rate": 0.2}}, {"batch_size": 5}),
        ({"learning_rate": 0.1}, {"slow": {"learning_rate": 0.2}}, {"learning_rate": 0.3}),
        ({"early_stopping_patience": 7}, {"slow": {"early_stopping_patience": None}}, {}),
        ({"ss": 0.5}, {"fast": {"ss": None, "tfr": 0.5}}, {"random_seed": 3}),
        ({"num_val_batches": 4}, {}, {}),
        ({"val_frac": 0.2}, {}, {"num_val_batches": 4}),
        ({"num_val_batches": 4}, {}, {"val_frac": 0.2}),
        ({"temperature": 0.5}, {"sound": {"temperature": [1.0, 0.5]}}, {}),
    ],
)
def test_a_trained_cascade_resolves_to_the_options_it_was_trained_with(
    common: dict, own: dict[str, dict], typed: dict[str, Any]
) -> None:
    check_training_is_kept(common, own, typed)


@pytest.mark.parametrize("key", ["val_frac", "test_frac", "num_val_batches", "sample_rate", "random_seed"])
def test_what_all_tiers_share_is_no_option_of_one(key: str) -> None:
    with pytest.raises(UsageError, match=f"slow: training.{key} is one for all tiers"):
        loaded(cascade(SLOW | {"training": {key: 1}}, FAST, SOUND))


def test_with_training_leaves_the_rest_and_single_stages_have_one_set() -> None:
    config = loaded(cascade(SLOW | {"training": {"batch_size": 2}}, FAST, SOUND))
    assert conditioning.FAMILY.training_of(config, "slow") == {"batch_size": 2}
    assert conditioning.FAMILY.training_of(config, "sound") == {}
    options = TrainingOptions(batch_size=9)
    by_stage = {"slow": TrainingOptions(batch_size=2), "fast": options, "sound": options}
    trained = conditioning.FAMILY.with_training(config, options, by_stage)
    assert isinstance(trained, Cascade)
    assert [one.training for one in trained.tiers] == [{"batch_size": 2}, {}, {}]
    assert trained.model_copy(update={"training": {}, "tiers": config.tiers}) == config
    single = conditioning.FAMILY.with_training(loaded(PITCH), options, {})
    assert isinstance(single, Config)
    assert conditioning.FAMILY.training_of(single, "conditioning") == {}
    assert TrainingOptions.model_validate(single.training) == options


def test_a_stage_is_frozen_and_strict() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Stage().hidden_size = 3
    with pytest.raises(UsageError, match='hidden_size is "8", but must be a whole number'):
        loaded(AUDIO | {"hidden_size": "8"})
