"""What can be wrong with controls, controls and cascades is answered by one sentence; what can work does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import generate
import train
from commands import Capture, call, told
from tierwave.audio.writer import write_wav
from tierwave.cli import controls, evaluate
from tierwave.runs.folder import Run, runs_of

pytestmark = pytest.mark.usefixtures("eager", "loaded_once")

RATE = 4000
TRAINING = {"batch_size": 4, "generate": False, "jit": False, "num_steps": 1}
CONFIG: dict[str, Any] = {
    "model": "conditioning", "conditioned_on": ["p", "inst"], "seq_len": 8, "hidden_size": 6, "num_layers": 1,
    "q_levels": 16, "controls": {"inst": {"units": "category"}}, "training": TRAINING,
}  # fmt: skip
SIZES = {"seq_len": 8, "hidden_size": 6, "num_layers": 1, "net": "baseline"}
SLOW = {"name": "slow", "generates": ["rmse"], "conditioned_on": ["p"], "rate": 100, **SIZES}
MID = {"name": "mid", "generates": ["pitch"], "conditioned_on": ["rmse"], "rate": 200, **SIZES}
SOUND = {"name": "sound", "generates": ["audio"], "conditioned_on": ["pitch"], **SIZES, "q_levels": 16}


def cascade(*tiers: dict[str, Any]) -> dict[str, Any]:
    return {"model": "cascade", "tiers": list(tiers), "training": TRAINING}


def tone(number: int, samples: int = 480) -> np.ndarray:
    noise = np.random.default_rng(number).standard_normal(samples)
    return (0.5 * np.sin(np.arange(samples) * (0.3 + 0.1 * number)) + 0.05 * noise).astype(np.float32)


def lacks(sentence: str, expected: Sequence[str]) -> list[str]:
    return [part for part in expected if part not in sentence]


class Place:
    """Three recordings with curves beside them, a config, and the commands that use them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        for number in range(3):
            write_wav(self.data / f"r{number}.wav", tone(number), RATE)
            self.curve(number, p=[(0, 60 + 6 * number)], inst=[(0, number)])

    def curve(self, number: int, **points: Sequence[tuple[float, float]]) -> None:
        rows = [f"{name},{time},{value}" for name, pairs in points.items() for time, value in pairs]
        self.write(f"data/r{number}.csv", "\n".join(["name,time,value", *rows, ""]))

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def training(
        self, *words: Any, config: dict[str, Any] | None = None, identity: str = "one", **keys: Any
    ) -> list[Any]:
        path = self.write("tiny.config.json", json.dumps({**(config or CONFIG), **keys}))
        flags = {"id": identity, "data_dir": self.data, "config_file": path, "logdir_root": self.folder / "logdir"}
        flags["output_dir"] = self.folder / "generated"
        return [word for name, value in flags.items() for word in (f"--{name}", value)] + list(words)

    def generating(self, *words: Any, identity: str = "one") -> list[Any]:
        command = ["--checkpoint_path", self.folder / "logdir" / identity, "--output_path", self.folder / "sound.wav"]
        return [*command, "--dur", 0.01, "--random_seed", 1, *words]

    def run(self, identity: str = "one") -> Run:
        return runs_of(self.folder / "logdir" / identity)[-1]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Runs of one step that no test changes: one steered, one of a cascade, one of controls, one unsteered."""
    place = Place(tmp_path_factory.mktemp("trained"))
    assert call(train.main, place.training()) == 0
    assert call(train.main, place.training(conditioned_on=[], controls={}, identity="free")) == 0
    for number in range(3):
        curve = [(time / 100, number + time) for time in range(13)]
        place.curve(number, p=[(0, 60 + 6 * number)], inst=[(0, number)], rmse=curve, pitch=curve)
    assert call(train.main, place.training(config=cascade(SLOW, MID, SOUND), identity="tiers")) == 0
    config = {"model": "conditioning", **{key: value for key, value in SLOW.items() if key != "name"}}
    assert call(train.main, place.training(config={**config, "training": TRAINING}, identity="curves")) == 0
    return place


# Control files -----------------------------------------------------------------------------------------------------


def test_a_curve_that_ends_too_soon_is_held_and_check_tells(place: Place, capsys: Capture) -> None:
    place.curve(0, p=[(0, 60), (0.01, 61)], inst=[(0, 0)])
    assert call(train.main, place.training()) == 0
    assert capsys.readouterr().err == "" and place.run().latest().step == 1
    assert call(controls.main, ["check", place.data]) == 1
    output = capsys.readouterr()
    assert "Fault: p of r0.wav" in output.out and "ends at 0.01 s, and the sound lasts 0.12 s" in output.out
    assert len(output.err.splitlines()) == 1
    place.curve(0, p=[(0, 60), (0.12, 61)], inst=[(0, 0)])
    assert call(controls.main, ["check", place.data]) == 0


def test_a_range_that_the_recordings_do_not_have_is_refused(place: Place, capsys: Capture) -> None:
    flat = {"inst": {"units": "category"}, "p": {"lo": 61, "hi": 61}}
    sentence = told(capsys, train.main, place.training(controls=flat), 1)
    assert lacks(sentence, ["p is to go from 61 to 61", "the recordings hold 60 to 72", "leave them out"]) == []
    place.write("data/params_schema.csv", "name;lo;hi\np;1,5;2,5\n")
    sentence = told(capsys, train.main, place.training(), 1)
    assert lacks(sentence, ["p is to go from 1.5 to 2.5", "the recordings hold 60 to 72"]) == []
    assert not runs_of(place.folder / "logdir" / "one")
    assert call(controls.main, ["check", place.data]) == 1
    assert "Fault: p is to go from 1.5 to 2.5, but the recordings hold 60 to 72" in capsys.readouterr().out


def test_a_repeated_time_is_a_step(place: Place, capsys: Capture) -> None:
    place.curve(0, p=[(0, 60), (0.06, 60), (0.06, 72), (0.12, 72)], inst=[(0, 0)])
    assert call(train.main, place.training()) == 0
    assert "p 60 to 72 (over time)" in capsys.readouterr().out


WRONG_UNIT = "#units,p=hertzz\nname,time,value\np,0,1\ninst,0,0\n"


@pytest.mark.parametrize(
    ("text", "code", "expected"),
    [
        ("name,time,value\np,0,1\np,0.05,2\np,0.02,3\n", 1, ["p in", "r0.csv", "goes back in time at point 3"]),
        ("name,time,value\np,0,nan\np,0.1,1\n", 1, ["p in", "r0.csv", "nan at 0 s", "correct"]),
        ("name,time,value\np,nan,1\n", 1, ["p in", "r0.csv", "time that is not a number"]),
        ("name,time,value\np,0,inf\n", 1, ["p in", "r0.csv", "inf at 0 s"]),
        ("name,time,value\np,0,loud\n", 1, ["line 2 of", "r0.csv", "'loud'", "number"]),
        ("name,time,value\np,0,1,5\n", 1, ["line 2 of", "r0.csv", "4 cells, not 3", "point"]),
        ("time|p\n0|1\n0.1|2\n", 1, ["r0.csv", "separated by commas"]),
        ("", 1, ["r0.csv", "no table", "name,time,value"]),
        (WRONG_UNIT, 2, ["hertzz", "did you mean hertz?"]),
        ("name,time,value\nq,0,1\n", 1, ["r0.wav has no control p", "it has q", "r0.csv"]),
    ],
    ids=["unsorted", "nan", "nan time", "inf", "text", "comma", "bars", "empty", "unit", "other"],
)
def test_a_broken_curve_names_its_file(
    place: Place, capsys: Capture, text: str, code: int, expected: list[str]
) -> None:
    place.write("data/r0.csv", text)
    sentence = told(capsys, train.main, place.training(), code)
    assert lacks(sentence, expected) == [], sentence
    assert not runs_of(place.folder / "logdir" / "one")


def test_a_name_with_a_comma_works_all_the_way(place: Place, capsys: Capture) -> None:
    for number in range(3):
        place.write(f"data/r{number}.csv", f'name,time,value\n"a,b",0,{number}\n"a,b",0.1,{number + 1}\n')
    assert call(train.main, place.training(conditioned_on=["a,b"], controls={})) == 0
    assert call(generate.main, place.generating("--control", "a,b=0:1,0.005:2")) == 0
    beside = place.folder / "sound_controls.csv"
    assert '"a,b",0.005,2' in beside.read_text()
    wav = (place.folder / "sound.wav").read_bytes()
    assert call(generate.main, place.generating("--controls", beside)) == 0
    assert (place.folder / "sound.wav").read_bytes() == wav and capsys.readouterr().err == ""


def test_what_is_missing_names_the_recording_and_where_it_was_looked_for(place: Place, capsys: Capture) -> None:
    (place.data / "r1.csv").unlink()
    sentence = told(capsys, train.main, place.training(), 1)
    assert lacks(sentence, ["r1.wav has no control p", "none at all", "r1.csv", "its file name"]) == []
    place.write("data/r1.csv", "name,time,value\np,0,60\n")
    assert "r1.wav has no control inst (it has p)" in told(capsys, train.main, place.training(), 1)
    sentence = told(capsys, train.main, place.training("--param_dir", place.folder / "nowhere"), 2)
    assert "--param_dir" in sentence and "nowhere is no folder" in sentence
    sentence = told(capsys, train.main, place.training("--params", place.folder / "nowhere.csv"), 2)
    assert "nowhere.csv" in sentence and "--params" in sentence
    sentence = told(capsys, train.main, place.training("--params", place.data / "r0.csv"), 2)
    assert "curves of one sound" in sentence and "--param_dir" in sentence


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["r1.wav,66,1", "r2.wav,72,2"], []),  # agrees with the curves, and they suffice
        (["r1.wav,67,1"], ["p of r1.wav is 66 in", "r1.csv", "but 67 in", "manifest.csv", "correct or remove"]),
        (["r1.wav,nan,1"], ["line 2 of", "manifest.csv", "nan for p"]),
        (["r1.wav,66,1", "r1.wav,67,1"], ["manifest.csv", "two rows for r1.wav that differ", "line 3"]),
    ],
    ids=["agrees", "disagrees", "nan", "twice"],
)
def test_two_sources_must_agree(place: Place, capsys: Capture, rows: list[str], expected: list[str]) -> None:
    manifest = place.write("manifest.csv", "\n".join(["filename,p,inst", *rows, ""]))
    words = place.training("--params", manifest)
    if not expected:
        assert call(train.main, words) == 0
        return
    sentence = told(capsys, train.main, words, 1)
    assert lacks(sentence, expected) == [], sentence


def test_a_file_name_must_agree_too(place: Place, capsys: Capture) -> None:
    for suffix in (".wav", ".csv"):
        (place.data / f"r0{suffix}").rename(place.data / f"r0_p64.00{suffix}")
    sentence = told(capsys, train.main, place.training(), 1)
    assert lacks(sentence, ["p of r0_p64.00.wav is 60 in", "but 64 in its file name"]) == [], sentence


@pytest.mark.parametrize(
    ("controls", "code", "expected"),
    [
        ({"p": {"units": "midPitch"}}, 2, ["midPitch", "did you mean midiPitch?"]),
        ({"p": {"low": 1}}, 2, ["low", "did you mean lo?"]),
        ({"p": {"scale": "log", "lo": 0}}, 2, ["p: lo is 0", "log", "raise lo"]),
        ({"p": {"outside": "ignore"}}, 2, ["outside", "ignore", "clip"]),
        ({"q": {"lo": 1}}, 2, ["controls names q"]),
    ],
    ids=["unit", "key", "scale", "outside", "name"],
)
def test_a_wrong_mapping_in_the_config(
    place: Place, capsys: Capture, controls: dict[str, Any], code: int, expected: list[str]
) -> None:
    sentence = told(capsys, train.main, place.training(controls=controls), code)
    assert lacks(sentence, [*expected, "tiny.config.json"]) == [], sentence


def test_a_range_without_width_is_told(place: Place, capsys: Capture) -> None:
    for number in range(3):
        place.curve(number, p=[(0, 60)], inst=[(0, number)])
    assert call(train.main, place.training()) == 0
    output = capsys.readouterr()
    assert "Warning: p is 60" in output.out and "steer nothing" in output.out and output.err == ""


# Configs and flags of training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tiers", "expected"),
    [
        ([SLOW, MID], ["last tier, mid", 'ends in one that generates ["audio"]']),
        ([MID, SLOW, SOUND], ["tier mid is conditioned on rmse, which a later tier generates", "order"]),
        ([{**SLOW, "rate": 400}, MID, SOUND], ["tier mid at 200 Hz", "rmse at 400 Hz"]),
        ([SLOW, {**MID, "name": "slow"}, SOUND], ["two tiers are called slow"]),
        ([SLOW, {**SLOW, "name": "again"}, SOUND], ["rmse is generated by two tiers"]),
        ([SLOW, MID, {**SOUND, "conditioned_on": ["p"]}], ["pitch is generated, but no tier is conditioned on it"]),
        ([{**SLOW, "rate": None}, MID, SOUND], ["rate is missing", "rmse"]),
        ([{**SLOW, "net": 7}, MID, SOUND], ["tiers.0.net is 7"]),
        ([{**SLOW, "training": {"num_step": 2}}, MID, SOUND], ["slow", "num_step", "did you mean num_steps?"]),
    ],
    ids=lambda part: part[0] if isinstance(part[0], str) else "",
)
def test_a_cascade_that_does_not_fit_together(
    place: Place, capsys: Capture, tiers: list[dict[str, Any]], expected: list[str]
) -> None:
    sentence = told(capsys, train.main, place.training(config=cascade(*tiers)), 2)
    assert lacks(sentence, [*expected, "tiny.config.json"]) == [], sentence


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--tfr", "1.5"], ["--tfr is 1.5", "at most 1"]),
        (["--tfr", "-0.1"], ["--tfr is -0.1", "at least 0"]),
        (["--ss", "2"], ["--ss is 2", "at most 1"]),
        (["--input_noise", "-1"], ["--input_noise is -1", "at least 0"]),
        (["--set", "training.tfr=3"], ["training.tfr is 3", "at most 1"]),
        (["--set", "exposure.noise=0.1"], ["exposure needs a rate"]),
        (["--set", "exposure.rate=50", "exposure.noise=2"], ["exposure.noise is 2", "at most 1"]),
        (["--stage", "sound"], ["--stage sound", "the config has conditioning"]),
    ],
    ids=" ".join,
)
def test_a_wrong_flag_of_train(place: Place, capsys: Capture, words: list[str], expected: list[str]) -> None:
    sentence = told(capsys, train.main, place.training(*words), 2)
    assert lacks(sentence, expected) == [], sentence


@pytest.mark.parametrize("option", [{"val_frac": 0.5}, {"sample_rate": 2000}], ids=lambda option: next(iter(option)))
def test_a_tier_cannot_hold_out_anything_else(trained: Place, capsys: Capture, option: dict[str, Any]) -> None:
    tiers = cascade({**SLOW, "training": option}, MID, SOUND)
    sentence = told(capsys, train.main, trained.training(config=tiers, identity="forgotten"), 2)
    assert lacks(sentence, [f"slow: training.{next(iter(option))}", "one for all tiers"]) == []


def test_an_unknown_stage_is_told_with_the_nearest(place: Place, capsys: Capture) -> None:
    words = place.training("--stage", "slow", "sonud", config=cascade(SLOW, MID, SOUND))
    sentence = told(capsys, train.main, words, 2)
    assert lacks(sentence, ["--stage sonud", "slow, mid, sound", "did you mean sound?"]) == []


def test_parameters_without_a_network_that_takes_them(place: Place, capsys: Capture) -> None:
    for flag, value in (("--param_dir", place.data), ("--params", place.data / "r0.csv")):
        sentence = told(capsys, train.main, place.training(flag, value, conditioned_on=[], controls={}), 2)
        assert lacks(sentence, [flag, "nothing to steer", "conditioned_on"]) == []


@pytest.mark.parametrize("monitor", ["accuracy", "val_accuracy"])
def test_parameters_have_no_accuracy(trained: Place, capsys: Capture, monitor: str) -> None:
    config = {"model": "conditioning", **{key: value for key, value in SLOW.items() if key != "name"}}
    words = trained.training("--monitor", monitor, config={**config, "training": TRAINING}, identity="monitored")
    sentence = told(capsys, train.main, words, 2)
    assert lacks(sentence, [f"--monitor {monitor}", "generates values", monitor.replace("accuracy", "loss")]) == []


@pytest.mark.parametrize(
    ("keys", "expected"),
    [({"hidden_size": 7}, "hidden_size: 6 -> 7"), ({"net": "baseline"}, "net:"), ({"cell": "lstm"}, 'cell: "gru"')],
    ids=["size", "net", "cell"],
)
def test_weights_of_another_architecture(trained: Place, capsys: Capture, keys: dict[str, Any], expected: str) -> None:
    words = trained.training("--init_from", trained.folder / "logdir" / "one", identity="other", **keys)
    sentence = told(capsys, train.main, words, 2)
    assert lacks(sentence, ["another architecture", expected, "run.config.json", "--config_file"]) == []


# Asking for sound -----------------------------------------------------------------------------------------------------

BOTH = ["--control", "p=66", "inst=1"]


def save(place: Place, name: str, array: Any) -> Path:
    np.save(place.folder / name, array)
    return place.folder / name


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["p (60 to 72)", "inst (0 to 2 category)", "--control p=66 inst=1", "--controls", "--seed"]),
        (["--control", "p=66"], ["inst (0 to 2 category)", "--control inst=1"]),
        (["--control", "q=1"], ["no control q", "p, inst"]),
        (["--control", "insd=1"], ["no control insd", "did you mean inst?"]),
        (["--control", "p"], ["--control p is not NAME=VALUE"]),
        (["--control", "p="], ["--control p=", "not a number"]),
        (["--control", "p=high"], ["'high' is not a number"]),
        (["--control", "p=1:2:3"], ["p=1:2:3", "64:76"]),
        (["--control", "p=0.5:1,0.1:2"], ["seconds must not go back"]),
        (["--control", "p=1", "p=2"], ["p twice"]),
        (["--control", "p=66", "inst=7"], ["inst is 7", "give one of 0, 1, 2"]),
        ([*BOTH, "--prime", "loud"], ["--prime loud", "--prime random"]),
        ([*BOTH, "--prime", "random:0"], ["--prime random:0", "seconds above 0"]),
        ([*BOTH, "--prime", "0.5"], ["--prime 0.5", "--seed"]),
        ([*BOTH, "--external_sr", "100"], ["--external_sr 100", "--external_array"]),
        ([*BOTH, "--override", "p=x.csv"], ["--override p=x.csv", "no tier generates p", "--control"]),
        ([*BOTH, "--tier_temperature", "sound=1"], ["--tier_temperature sound=1", "no tier sound", "conditioning"]),
        (["--controls", "nowhere.csv"], ["nowhere.csv", "check the path"]),
    ],
    ids=lambda part: " ".join(part)[-30:] if part and part[0].startswith("--") else "",
)
def test_a_wrong_request_of_a_steered_run(
    trained: Place, capsys: Capture, words: list[str], expected: list[str]
) -> None:
    sentence = told(capsys, generate.main, trained.generating(*words), 2)
    assert lacks(sentence, expected) == [], sentence


@pytest.mark.parametrize(
    ("array", "rate", "code", "expected"),
    [
        (np.ones([1, 5, 2]), None, 2, ["array.npy", "--external_sr"]),
        (np.ones([1, 5, 2]), 0, 2, ["--external_sr is 0", "above 0"]),
        (np.ones(5), 100, 2, ["array.npy", "[5]", "[batch, length, 2] (p, inst)"]),
        (np.ones([5, 2]), 100, 2, ["[5, 2]", "array[None]"]),
        (np.ones([1, 5, 3]), 100, 2, ["[1, 5, 3]", "[batch, length, 2]"]),
        (np.ones([0, 5, 2]), 100, 2, ["[0, 5, 2]"]),
        (np.full([1, 5, 2], np.nan), 100, 1, ["array.npy", "nan"]),
        (np.array(["a"]), 100, 1, ["array.npy", "real numbers"]),
    ],
    ids=["no rate", "rate 0", "flat", "no batch", "features", "empty", "nan", "text"],
)
def test_a_wrong_array(
    trained: Place, capsys: Capture, array: Any, rate: int | None, code: int, expected: list[str]
) -> None:
    words = ["--external_array", save(trained, "array.npy", array)]
    words += [] if rate is None else ["--external_sr", rate]
    sentence = told(capsys, generate.main, trained.generating(*words), code)
    assert lacks(sentence, expected) == [], sentence


def test_what_is_no_array_or_no_table(trained: Place, capsys: Capture) -> None:
    text = trained.write("text.npy", "no array")
    sentence = told(capsys, generate.main, trained.generating("--external_array", text, "--external_sr", 10), 1)
    assert "text.npy is not an .npy array" in sentence
    damaged = trained.folder / "damaged.npy"
    np.save(damaged, np.zeros((1, 5, 2)))
    damaged.write_bytes(damaged.read_bytes().replace(b"(1, 5, 2)", b"\xd31, 5, 2)"))
    words = ["--external_array", damaged, "--external_sr", 10]
    assert "damaged.npy is not an .npy array" in told(capsys, generate.main, trained.generating(*words), 1)
    gone = ["--external_array", trained.folder / "gone.npy", "--external_sr", 10]
    assert "gone.npy" in told(capsys, generate.main, trained.generating(*gone), 2)
    table = trained.write("table.csv", "name,time,value\np,0,66\np,-1,60\n")
    assert "goes back in time" in told(capsys, generate.main, trained.generating("--controls", table), 1)
    table = trained.write("table.csv", "name,time,value\np,0,66\n")
    assert "inst (0 to 2 category)" in told(capsys, generate.main, trained.generating("--controls", table), 2)


def test_beyond_the_range_is_clipped_with_a_sentence(trained: Place, capsys: Capture) -> None:
    assert call(generate.main, trained.generating("--control", "p=0:66,0.005:99", "inst=1")) == 0
    output = capsys.readouterr()
    assert output.err == ""
    (warning,) = [line for line in output.out.splitlines() if line.startswith("Warning")]
    assert warning == "Warning: p: 99 lies outside the trained range 60 to 72: it was clipped"


def test_what_a_table_has_besides_is_told(trained: Place, capsys: Capture) -> None:
    table = trained.write("table.csv", "name,time,value\np,0,66\ninst,0,1\nq,0,5\n")
    assert call(generate.main, trained.generating("--controls", table)) == 0
    output = capsys.readouterr()
    assert f"Not used of {table}: q" in output.out and output.err == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--control", "p=66"], ["--control", "without controls"]),
        (["--external_sr", "10"], ["--external_sr 10"]),
        (["--controls", "x.csv"], ["--controls", "without controls"]),
        (["--external_array", "x.npy", "--external_sr", "10"], ["--external_array", "without controls"]),
        (["--override", "p=x.csv"], ["--override", "without controls"]),
    ],
    ids=lambda part: part[0],
)
def test_there_is_nothing_to_steer_in_an_unsteered_run(
    trained: Place, capsys: Capture, words: list[str], expected: list[str]
) -> None:
    sentence = told(capsys, generate.main, trained.generating(*words, identity="free"), 2)
    assert lacks(sentence, expected) == [], sentence


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ([], 2, ["p (60 to 72)"]),
        (["--tier_temperature", "midd=1"], 2, ["no tier midd", "did you mean mid?"]),
        (["--tier_temperature", "mid"], 2, ["--tier_temperature mid is not TIER=NUMBER"]),
        (["--tier_temperature", "mid=-1"], 2, ["mid", "-1", "0 or more"]),
        (["--tier_seed", "loud=1"], 2, ["no tier loud", "did you mean sound?"]),
        (["--tier_seed", "mid=1.5"], 2, ["--tier_seed mid=1.5 is not"]),
        (["--override", "rmse"], 2, ["--override rmse is not NAME=FILE"]),
        (["--override", "pich=x.csv"], 2, ["no control pich", "did you mean pitch?"]),
        (["--override", "p=x.csv"], 2, ["no tier generates p"]),
        (["--override", "pitch=nowhere.csv"], 2, ["nowhere.csv", "check the path"]),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) and part and part[0].startswith("--") else "",
)
def test_a_wrong_request_of_a_cascade(
    trained: Place, capsys: Capture, words: list[str], code: int, expected: list[str]
) -> None:
    given = ["--control", "p=66", *words] if words else []
    sentence = told(capsys, generate.main, trained.generating(*given, identity="tiers"), code)
    assert lacks(sentence, expected) == [], sentence


def test_an_override_without_the_curve(trained: Place, capsys: Capture) -> None:
    table = trained.write("other.csv", "name,time,value\nrmse,0,1\n")
    words = ["--control", "p=66", "--override", f"pitch={table}"]
    sentence = told(capsys, generate.main, trained.generating(*words, identity="tiers"), 2)
    assert lacks(sentence, ["has no pitch, only rmse"]) == []


# Evaluating -----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_evaluated(trained: Place, capsys: Capture, tmp_path: Path) -> None:
    run = [trained.folder / "logdir" / "one"]
    for number in range(2):
        write_wav(tmp_path / f"n{number}.wav", tone(number), RATE)
    sentence = told(capsys, evaluate.main, [*run, "--data_dir", tmp_path], 1)
    assert lacks(sentence, ["n0.wav has no control p", "n0.csv"]) == []
    assert "held nothing out" in told(capsys, evaluate.main, [*run, "--part", "test"], 2)
    assert "no control q" in told(capsys, evaluate.main, [*run, "--controls", "q"], 2)
    (made,) = (path for path in (trained.folder / "logdir" / "one").iterdir() if path.is_dir())
    shared = tmp_path / "shared"
    shutil.copytree(made, shared)
    (shared / "split.json").unlink()  # as of what was imported or shared
    sentence = told(capsys, evaluate.main, [shared, "--part", "valid"], 2)
    assert lacks(sentence, ["has no split", "--data_dir", "leave --part out"]) == []
    free = [trained.folder / "logdir" / "free"]
    assert "trained without controls" in told(capsys, evaluate.main, [*free, "--controls"], 2)


# What was found wrong once ------------------------------------------------------------------------------------------


def test_an_unknown_unit_in_a_curve_names_its_file(place: Place, capsys: Capture) -> None:
    place.write("data/r0.csv", WRONG_UNIT)
    assert lacks(told(capsys, train.main, place.training(), 2), ["r0.csv", "p"]) == []


@pytest.mark.parametrize("words", [["--monitor", "val_accuracy"], ["--init_from", "one"]], ids=lambda words: words[0])
def test_what_is_refused_leaves_no_run_behind(trained: Place, capsys: Capture, words: list[str]) -> None:
    config = {"model": "conditioning", **{key: value for key, value in SLOW.items() if key != "name"}}
    words = [str(trained.folder / "logdir" / word) if word == "one" else word for word in words]
    command = trained.training(*words, config={**config, "training": TRAINING}, identity="refused")
    told(capsys, train.main, command, 2)
    assert not [path for path in (trained.folder / "logdir" / "refused").iterdir() if path.is_dir()]


def test_weights_are_checked_before_anything_is_trained(trained: Place, capsys: Capture) -> None:
    tiers = cascade(SLOW, MID, {**SOUND, "hidden_size": 9})
    words = ["--init_from", trained.folder / "logdir" / "tiers"]
    capsys.readouterr()
    assert call(train.main, trained.training(*words, config=tiers, identity="late")) == 2
    assert "Stopped: num_steps" not in capsys.readouterr().out


def test_there_is_nothing_to_extrapolate_in_an_unsteered_run(trained: Place, capsys: Capture) -> None:
    assert "--extrapolate" in told(capsys, generate.main, trained.generating("--extrapolate", identity="free"), 2)


def test_a_stage_alone_cannot_be_given_what_it_generates(trained: Place, capsys: Capture) -> None:
    words = trained.generating("--control", "p=66", "rmse=1", identity="curves")
    sentence = told(capsys, generate.main, words, 2)
    assert "generate" in sentence and "there is no control" not in sentence


def test_the_example_is_a_value_that_can_be_had(place: Place, capsys: Capture) -> None:
    for number in range(3):
        place.curve(number, p=[(0, 0), (0.06, 50), (0.12, 0)])
    words = place.training(conditioned_on=["p"], controls={"p": {"lo": 0, "hi": 1}})
    assert call(train.main, words) == 0
    sentence = told(capsys, generate.main, place.generating(), 2)
    value = float(sentence.partition("--control p=")[2].partition(",")[0])
    assert 0 <= value <= 1


def test_what_cannot_be_measured_is_told(trained: Place, capsys: Capture) -> None:
    run = [trained.folder / "logdir" / "tiers", "--controls", "--dur", 0.1]
    assert "none of p can be measured in a sound" in told(capsys, evaluate.main, run, 2)


def test_a_rate_that_is_too_slow_for_what_is_held_out(trained: Place, capsys: Capture) -> None:
    words = trained.training(config=cascade({**SLOW, "rate": 20}, MID, SOUND), identity="slow")
    sentence = told(capsys, train.main, words, 2)
    assert "no recording is as long as one step" not in sentence  # they last 0.12 s


@pytest.mark.parametrize("value", ["0.5", "1"])
def test_a_category_takes_only_what_was_trained(place: Place, capsys: Capture, value: str) -> None:
    for number in range(3):
        place.curve(number, p=[(0, 60)], inst=[(0, 2 * number)])
    assert call(train.main, place.training(conditioned_on=["inst"])) == 0
    sentence = told(capsys, generate.main, place.generating("--control", f"inst={value}"), 2)
    assert lacks(sentence, ["inst", value, "0", "2", "4"]) == []


def test_what_steers_only_a_replaced_tier_is_not_needed(trained: Place) -> None:
    words = ["--control", "rmse=1", "pitch=1"]
    assert call(generate.main, trained.generating(*words, identity="tiers")) == 0


def test_an_offset_into_a_folder_is_refused(trained: Place, capsys: Capture) -> None:
    words = trained.generating(*BOTH, "--seed", trained.data, "--seed_offset", 10)
    assert "--seed_offset" in told(capsys, generate.main, words, 2)
