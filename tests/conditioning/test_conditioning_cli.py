"""Steered networks by the command lines: where controls come from, what is made with them, and stages in turn."""

from __future__ import annotations

import csv
import functools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tensorflow as tf

import conditioning
import generate
import samplernn
import train
from commands import call, told
from tierwave.audio.recordings import load
from tierwave.audio.writer import write_wav
from tierwave.cli import evaluate
from tierwave.controls.files import read_control_file
from tierwave.errors import UsageError
from tierwave.family import load_config
from tierwave.generation.load import Trained, Weights, load_run
from tierwave.runs.folder import Run, runs_of

RATE = 8000
SECONDS = 0.12  # of a recording
TRAINING = {
    "batch_size": 8, "jit": False, "num_steps": 6, "learning_rate": 0.02, "checkpoint_minutes": None,
    "early_stopping_patience": None, "generate": False, "output_file_dur": 0.01,
}  # fmt: skip
AUDIO: dict[str, Any] = {
    "model": "conditioning", "conditioned_on": ["inst", "p", "a"], "seq_len": 32, "hidden_size": 8, "num_layers": 2,
    "q_levels": 32, "controls": {"inst": {"units": "category"}, "p": {"units": "midiPitch"}}, "training": TRAINING,
}  # fmt: skip
CURVES: dict[str, Any] = {
    "model": "conditioning", "generates": ["rmse", "pitch"], "conditioned_on": ["fill"], "rate": 100, "seq_len": 4,
    "hidden_size": 6, "num_layers": 1, "training": TRAINING,
}  # fmt: skip
SMALL = {"hidden_size": 6, "num_layers": 1, "net": "baseline"}
CASCADE: dict[str, Any] = {
    "model": "cascade",
    "tiers": [
        {"name": "slow", "generates": ["rmse"], "conditioned_on": ["fill"], "rate": 50, "seq_len": 4, **SMALL},
        {"name": "mid", "generates": ["pitch"], "conditioned_on": ["rmse"], "rate": 100, "seq_len": 6, **SMALL},
        {
            "name": "sound", "generates": ["audio"], "conditioned_on": ["pitch", "fill"], "rate": RATE, "seq_len": 32,
            "q_levels": 32, "exposure": {"noise": 0.1}, **SMALL,
        },
    ],
    "training": {**TRAINING, "batch_size": 4, "num_steps": None, "num_epochs": 1, "checkpoint_steps": 20},
}  # fmt: skip
SAMPLERNN: dict[str, Any] = {
    "model": "samplernn", "seq_len": 16, "frame_sizes": [2, 4], "dim": 8, "num_rnn_layers": 1, "q_levels": 32,
    "emb_size": 4, "conditioned_on": ["p", "a"], "training": {**TRAINING, "num_steps": 12},
}  # fmt: skip
STAGES = ["slow", "mid", "sound"]


def tone(pitch: float, amplitude: float, partial: int = 1, seconds: float = SECONDS) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(round(pitch * 100 + amplitude * 10 + partial)).standard_normal(len(time))
    frequency = 440 * 2 ** ((pitch - 69) / 12) * partial
    return (amplitude * np.sin(2 * np.pi * frequency * time) + 0.02 * noise).astype(np.float32)


def write_track(path: Path, **curves: Sequence[tuple[float, float]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{name},{time},{value}" for name, points in curves.items() for time, value in points]
    path.write_text("\n".join(["name,time,value", *rows, ""]), encoding="utf-8")
    return path


def spelt(inst: int, p: float, a: float) -> str:
    """RNNControl's file names."""
    return f"x_inst{inst:05.2f}_p{p:05.2f}_a{a:05.2f}.wav"


TONES = [(inst, p, a) for inst in (0, 1) for p in (64.0, 76.0) for a in (0.25, 0.5)]
HEARD = spelt(1, 76.0, 0.5)


class Studio:
    """A folder with recordings, configs and runs, and the command lines in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.logdir, self.out = folder, folder / "logdir", folder / "out"
        for inst, p, a in TONES:
            write_wav(folder / "named" / spelt(inst, p, a), tone(p, a, 1 + inst), RATE)
        times = np.arange(13) / 100
        for number, (fill, pitch) in enumerate((fill, pitch) for fill in (0.1, 0.9) for pitch in (60, 72)):
            write_wav(folder / "curved" / f"r{number}.wav", tone(pitch, 0.2 + 0.3 * fill), RATE)
            write_track(
                folder / "curved" / f"r{number}.csv",
                fill=[(0, fill)],
                rmse=[(time, 0.1 + 3 * fill * time) for time in times],
                pitch=[(time, pitch + np.sin(30 * time)) for time in times],
            )

    def training(self, identity: str, config: dict[str, Any] | None, *words: Any, data: str = "named") -> list[Any]:
        """The words after train.py."""
        command = ["--id", identity, "--data_dir", self.folder / data, "--logdir_root", self.logdir]
        command += ["--output_dir", self.folder / "generated", "--verbose", "True"]
        if config is not None:
            path = self.folder / f"{identity}.config.json"
            path.write_text(json.dumps(config))
            command += ["--config_file", path]
        return [*command, *words]

    def train(self, identity: str, config: dict[str, Any] | None, *words: Any, data: str = "named") -> Run:
        assert call(train.main, self.training(identity, config, *words, data=data)) == 0
        return self.run(identity)

    def run(self, identity: str) -> Run:
        return runs_of(self.logdir / identity)[-1]

    def copy(self, identity: str, other: str) -> Run:
        """The runs of an id under another, to be changed."""
        shutil.copytree(self.logdir / identity, self.logdir / other)
        return self.run(other)

    def make(self, identity: str, name: str, *words: Any, seconds: float = 0.02, seed: int = 7) -> Path:
        """Call generate.py; the wav it was asked for."""
        command = ["--checkpoint_path", self.logdir / identity, "--output_path", self.out / f"{name}.wav"]
        command += ["--dur", seconds, "--random_seed", seed, *words]
        assert generate.main([str(word) for word in command]) == 0
        return self.out / f"{name}.wav"

    def sound(self, identity: str, *words: Any, seconds: float = 0.02, seed: int = 7) -> np.ndarray:
        """What generate.py makes, in 16-bit steps."""
        path = self.make(identity, "sound", *words, seconds=seconds, seed=seed)
        return soundfile.read(path, dtype="int16")[0]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def named(studio: Studio) -> str:
    """A run of RNNControl's network, steered by what stands in the file names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py", "--id", "a name", "--demo"])
        studio.train("named", AUDIO, "--num_steps", 14, "--checkpoint_steps", 7, "--set", "training.generate=true")
    return "named"


@pytest.fixture(scope="module")
def curves(studio: Studio) -> str:
    """A run that generates controls; the network by MTCRNN's number."""
    studio.train("curves", {**CURVES, "net": 1}, data="curved")
    return "curves"


@pytest.fixture(scope="module")
def sampled(studio: Studio) -> str:
    """A steered SampleRNN."""
    studio.train("sampled", SAMPLERNN)
    return "sampled"


@pytest.fixture(scope="module")
def cascade(studio: Studio) -> str:
    """A cascade, trained by one command."""
    studio.train("cascade", CASCADE, data="curved")
    return "cascade"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is loaded and its loops are compiled once for all calls of generate.py; likelihoods without XLA."""
    tf.get_logger().setLevel("ERROR")  # of many functions that are traced in one process
    monkeypatch.setattr("tierwave.generation.load.load_run", _load_run)
    for family in (conditioning, samplernn):
        monkeypatch.setattr(family.FAMILY, "prefers_xla", lambda config, on_gpu: False)


@functools.lru_cache
def _load_run(path: Path, best: bool = False, config_document: None = None, weights: Weights | None = None) -> Trained:
    if weights not in (None, "tensorflow"):
        return _load_run(path, best, config_document).on_engine()
    trained = load_run(path, best=best, config_document=config_document, weights=weights)
    if trained.models[-1].has_accuracy:
        for variable in trained.models[-1].weights:  # a few steps make a network that hardly listens: this one does
            variable.assign((1.5 if trained.family is samplernn.FAMILY else 4.0) * variable)
    return trained


def losses(part: Run) -> list[list[str]]:
    """The rows of losses.csv without the times they took."""
    with open(part.folder / "losses.csv", encoding="utf-8", newline="") as file:
        return [[value for name, value in row.items() if name != "seconds"] for row in csv.DictReader(file)]


def steps_of(part: Run) -> int:
    return part.latest().step


# One stage that makes audio: training -------------------------------------------------------------------------------


def test_a_run_knows_its_parameters(studio: Studio, named: str) -> None:
    run = studio.run(named)
    document = run.read("schema.json")
    assert [entry["name"] for entry in document["parameters"]] == ["inst", "p", "a"]
    assert [(entry["lo"], entry["hi"]) for entry in document["parameters"]] == [(0, 1), (64, 76), (0.25, 0.5)]
    assert [entry["units"] for entry in document["parameters"]] == ["category", "midiPitch", None]
    assert document["values"] == {"inst": [0, 1], "p": [64, 76], "a": [0.25, 0.5]}
    assert len(losses(run)) >= 14 and losses(run)[13][0] == "14"
    sounds = sorted((studio.folder / "generated" / named).glob("[!.]*"))
    assert [path.name for path in sounds] == [f"named_s={step}_e=0_t=0.75.wav" for step in (14, 7)]
    assert [soundfile.info(path).frames for path in sounds] == [round(0.01 * RATE)] * 2


def test_the_log_holds_the_command_and_when_it_ran(studio: Studio, named: str) -> None:
    lines = (studio.run(named).folder / "log.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0].endswith(": train.py --id 'a name' --demo") and lines[-1].endswith(": ended")
    assert lines[0][:4].isdigit() and lines[-1][:4].isdigit()
    assert any(line.startswith("Controls: inst 0 to 1 category (2 values), p 64 to 76") for line in lines)


@pytest.mark.slow
def test_the_same_parameters_from_anywhere_train_the_same_way(studio: Studio, tmp_path: Path) -> None:
    """File names, a manifest that is given, curves in a folder: the same losses, and others for other parameters."""
    plain = {**AUDIO, "conditioned_on": ["p"], "controls": {}}
    expected = losses(studio.train("by_name", plain))
    data = tmp_path / "unnamed"
    rows: dict[str, list[str]] = {"right": ["filename,p"], "wrong": ["filename,p"]}
    for number, (inst, p, a) in enumerate(TONES):
        data.mkdir(exist_ok=True)
        shutil.copy(studio.folder / "named" / spelt(inst, p, a), data / f"{number}.wav")
        write_track(tmp_path / "curves" / f"{number}.csv", p=[(0, p), (0.05, p)])
        rows["right"].append(f"{number}.wav,{p}")
        rows["wrong"].append(f"{number}.wav,{p if number % 3 else 150 - p}")
    for name, lines in rows.items():
        (tmp_path / f"{name}.csv").write_text("\n".join([*lines, ""]))
    found = {}
    for identity, words in {
        "by_manifest": ["--params", tmp_path / "right.csv"],
        "by_curve": ["--param_dir", tmp_path / "curves"],
        "by_wrong": ["--params", tmp_path / "wrong.csv"],
    }.items():
        flag, where = map(str, words)
        found[identity] = losses(studio.train(identity, plain, flag, where, data=str(data)))
        assert studio.run(identity).read("run.json")[flag[2:]] == where
    shutil.copy(tmp_path / "right.csv", data / "params.csv")
    found["beside"] = losses(studio.train("beside", plain, data=str(data)))
    assert found["by_manifest"] == found["by_curve"] == found["beside"] == expected
    assert found["by_wrong"] != expected


def held_out(run: Run) -> list[tuple[str, float, float]]:
    return [(name, start / RATE, stop / RATE) for name, start, stop in run.read("split.json")["valid"]]


@pytest.mark.slow
def test_ranges_are_those_of_what_is_trained_on(studio: Studio, tmp_path: Path) -> None:
    for number in range(2):
        write_wav(tmp_path / "data" / f"{number}.wav", tone(60 + number, 0.4, seconds=0.3), RATE)
        write_track(tmp_path / "data" / f"{number}.csv", p=[(0, 1), (0.299, 3)])
    config = {**AUDIO, "conditioned_on": ["p"], "controls": {}}
    first = studio.train("first", config, "--num_steps", 1, data=str(tmp_path / "data"))
    for name, start, stop in held_out(first):
        events = [(0, 1), (start, 2), (start, 50), (stop, 50), (stop, 2), (0.299, 3)]
        write_track(tmp_path / "data" / f"{Path(name).stem}.csv", p=events)
    second = studio.train("second", config, "--num_steps", 1, data=str(tmp_path / "data"))
    assert second.read("split.json") == first.read("split.json") and held_out(second)
    (fitted,) = second.read("schema.json")["parameters"]
    assert (fitted["lo"], fitted["hi"]) == (1, pytest.approx(3, abs=0.01))
    told = (second.folder / "log.txt").read_text()
    assert "Warning: p: 50 lies outside the trained range 1 to" in told


# One stage that makes audio: generating -----------------------------------------------------------------------------

MIDDLE = ["--control", "inst=1", "p=70", "a=0.3"]
LIVELY = ["--temperature", "4"]


@pytest.mark.parametrize("seconds", [0.0001, 1 / 30, 0.0301])
def test_a_sound_has_exactly_the_asked_samples(studio: Studio, named: str, seconds: float) -> None:
    assert len(studio.sound(named, *MIDDLE, seconds=seconds)) == max(1, round(seconds * RATE))
    assert len(studio.sound(named, *MIDDLE, "--sample_rate", 6000, seconds=seconds)) == max(1, round(seconds * 6000))


def test_what_is_asked_for_steers_the_sound_and_is_written_beside_it(studio: Studio, named: str) -> None:
    found = {}
    for name, p, points in [
        ("low", "64", [(0.0, 64.0)]),
        ("high", "76", [(0.0, 76.0)]),
        ("ramp", "64:76", [(0.0, 64.0), (0.02, 76.0)]),
        ("points", "0:64,0.01:64,0.01:76", [(0.0, 64.0), (0.01, 64.0), (0.01, 76.0)]),
    ]:
        path = studio.make(named, name, "--control", "inst=1", f"p={p}", "a=0.3", *LIVELY)
        found[name] = path.read_bytes()
        track = read_control_file(path.with_name(f"{name}_controls.csv")).track("p")
        assert list(zip(track.times, track.values, strict=True)) == points
    assert len(set(found.values())) == 4


def test_a_control_does_nothing_before_its_time(studio: Studio, named: str) -> None:
    for word in ("0:64,0.01:64,0.01:76", "0:64,0.01:64,0.02:76"):
        still = studio.sound(named, "--control", "inst=1", "p=64", "a=0.3", *LIVELY)
        moved = studio.sound(named, "--control", "inst=1", f"p={word}", "a=0.3", *LIVELY)
        np.testing.assert_array_equal(still[:81], moved[:81])  # the step is at sample 80, which is an input of 81
        assert not np.array_equal(still, moved)


def test_the_same_curves_by_any_way_give_the_same_sound(studio: Studio, named: str, tmp_path: Path) -> None:
    typed = studio.sound(named, "--control", "inst=1", "p=0:64,0.01:64,0.01:76", "a=0.5")
    columns = {"inst": [(0, 1)], "p": [(0, 64), (0.01, 64), (0.01, 76)], "a": [(0, 0.5)]}
    table = write_track(tmp_path / "wanted.csv", **columns)  # type: ignore[arg-type]
    np.testing.assert_array_equal(studio.sound(named, "--controls", table), typed)
    array = np.ones([1, 160, 3], np.float32)  # inst, p, a: the order of conditioned_on
    array[0, :80, 1], array[0, 80:, 1], array[..., 2] = 64, 76, 0.5
    np.save(tmp_path / "wanted.npy", array)
    given = ["--external_array", tmp_path / "wanted.npy", "--external_sr", RATE]
    np.testing.assert_array_equal(studio.sound(named, *given), typed)
    array[..., 1] = 70  # what is typed wins over the table, that over the array
    np.save(tmp_path / "other.npy", array)
    other = ["--external_array", tmp_path / "other.npy", "--external_sr", RATE]
    np.testing.assert_array_equal(studio.sound(named, *other, "--controls", table), typed)
    higher = studio.sound(named, *other, "--controls", table, "--control", "p=64")
    np.testing.assert_array_equal(higher, studio.sound(named, "--control", "inst=1", "p=64", "a=0.5"))


def test_an_array_of_several_sounds_steers_a_sequence_each(studio: Studio, named: str, tmp_path: Path) -> None:
    array = np.ones([2, 10, 3]) * [1, 64, 0.5]
    array[1, :, 1] = 76
    np.save(tmp_path / "two.npy", array)
    words = ["--external_array", tmp_path / "two.npy", "--external_sr", 100, "--num_seqs", 3, "--temperature", 0]
    studio.make(named, "batch", *words)
    found = [soundfile.read(studio.out / f"batch_e=0({index})_t=0.wav")[0] for index in range(3)]
    assert not np.array_equal(found[0], found[1]) and np.array_equal(found[1], found[2])


def test_a_seed_brings_its_own_parameters(studio: Studio, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    seed = studio.folder / "named" / HEARD
    own = studio.sound(named, "--seed", seed, *LIVELY)
    assert "Following the seed's own inst, p, a" in capsys.readouterr().out
    typed = studio.sound(named, "--seed", seed, "--control", "inst=1", "p=76", "a=0.5", *LIVELY)
    np.testing.assert_array_equal(own, typed)
    assert not np.array_equal(own, studio.sound(named, "--seed", seed, "--control", "p=64", *LIVELY))
    outside = studio.folder / "elsewhere" / f"mine_{HEARD}"
    outside.parent.mkdir(exist_ok=True)
    shutil.copy(seed, outside)
    np.testing.assert_array_equal(studio.sound(named, "--seed", outside, *LIVELY), own)


def test_the_same_random_seed_gives_the_same_bytes(studio: Studio, named: str) -> None:
    first, again = (studio.make(named, name, *MIDDLE).read_bytes() for name in ("first", "again"))
    assert first == again != studio.make(named, "other", *MIDDLE, seed=8).read_bytes()


def test_several_sequences_have_temperatures_and_files_of_their_own(studio: Studio, named: str) -> None:
    studio.make(named, "take", *MIDDLE, "--num_seqs", 3, "--temperature", 0, 1.5)
    stems = ["take_e=0(0)_t=0", "take_e=0(1)_t=1.5", "take_e=0(2)_t=1.5"]
    there = {path.name for path in studio.out.glob("take*")}
    assert there == {f"{stem}{end}" for stem in stems for end in (".wav", ".json", "_controls.csv")}
    sounds = [(studio.out / f"{stem}.wav").read_bytes() for stem in stems]
    assert len(set(sounds)) == 3
    about = [json.loads((studio.out / f"{stem}.json").read_text())["temperature"] for stem in stems]
    assert about == [0, 1.5, 1.5]
    alone = studio.sound(named, *MIDDLE, "--temperature", 0, seed=99)
    np.testing.assert_array_equal(soundfile.read(studio.out / f"{stems[0]}.wav", dtype="int16")[0], alone)


def test_top_k_limits_what_is_drawn(studio: Studio, named: str) -> None:
    likeliest = studio.sound(named, *MIDDLE, "--temperature", 0)
    np.testing.assert_array_equal(studio.sound(named, *MIDDLE, "--temperature", 2, "--top_k", 1), likeliest)
    few = studio.sound(named, *MIDDLE, "--temperature", 2, "--top_k", 2)
    many = studio.sound(named, *MIDDLE, "--temperature", 2)
    assert len(np.unique(few)) < len(np.unique(many))


@pytest.mark.parametrize(
    "words",
    [
        ["--control", "inst=0", "p=64:76", "a=0:0.25,0.01:0.25,0.01:0.5"],
        ["--control", "inst=1", "p=60", "a=0.3"],  # clipped
        ["--seed", HEARD, "--prime", "0.03"],
        ["--prime", "floor", *MIDDLE],
    ],
    ids=lambda words: words[1],
)
def test_the_controls_beside_a_sound_play_it_again_bit_for_bit(studio: Studio, named: str, words: list[str]) -> None:
    asked = [studio.folder / "named" / word if word == HEARD else word for word in words]
    first = studio.make(named, "first", *asked)
    without = asked[: asked.index("--control")] if "--control" in asked else asked
    again = studio.make(named, "again", *without, "--controls", first.with_name("first_controls.csv"))
    assert again.read_bytes() == first.read_bytes()
    assert again.with_name("again_controls.csv").read_text() == first.with_name("first_controls.csv").read_text()


def test_priming_takes_the_first_seconds_of_a_seed(studio: Studio, named: str) -> None:
    seed = studio.folder / "named" / HEARD
    sound, _ = load(seed)
    cut = studio.folder / "cut" / HEARD
    write_wav(cut, sound[: round(0.05 * RATE)], RATE)
    short = studio.sound(named, "--seed", seed, "--prime", 0.05, *LIVELY)
    np.testing.assert_array_equal(short, studio.sound(named, "--seed", cut, *LIVELY))
    assert not np.array_equal(short, studio.sound(named, "--seed", seed, *LIVELY))
    kept = studio.sound(named, "--seed", seed, "--prime", 0.05, "--include_seed", *LIVELY)
    assert len(kept) == round(0.07 * RATE)
    np.testing.assert_array_equal(kept[-160:], short)


def test_noise_may_come_first(studio: Studio, named: str) -> None:
    silence = studio.sound(named, *MIDDLE, *LIVELY)
    primes = ("random", "random:0.02", "floor")
    sounds = [silence] + [studio.sound(named, *MIDDLE, *LIVELY, "--prime", word) for word in primes]
    assert all(len(sound) == 160 for sound in sounds)
    assert len({sound.tobytes() for sound in sounds}) == 4
    again = studio.sound(named, *MIDDLE, *LIVELY, "--prime", "random:0.02")
    np.testing.assert_array_equal(again, sounds[2])


def test_a_folder_as_seed_is_a_random_place_in_it(
    studio: Studio, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places, sounds = [], []
    for seed in (1, 1, 2, 3):
        sounds.append(studio.sound(named, "--seed", studio.folder / "named", "--prime", 0.02, seed=seed).tobytes())
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Seed: ")]
        places.append(line)
        path, _, offset = line.removeprefix("Seed: ").rpartition(" from ")
        assert Path(path).parent == studio.folder / "named"
        assert 0 <= float(offset.removesuffix(" s")) <= SECONDS - 0.02 + 0.001
    assert places[0] == places[1] and sounds[0] == sounds[1] and len(set(places)) == 3


def test_beyond_the_trained_range_is_clipped_unless_asked_for(
    studio: Studio, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--control", "inst=1", "a=0.5"]
    end = studio.sound(named, *words, "p=76", "--temperature", 0)
    capsys.readouterr()
    clipped = studio.sound(named, *words, "p=100", "--temperature", 0)
    captured = capsys.readouterr()
    (warning,) = [line for line in captured.out.splitlines() if line.startswith("Warning: ")]
    assert warning == "Warning: p: 100 lies outside the trained range 64 to 76 midiPitch: it was clipped"
    assert captured.err == ""
    np.testing.assert_array_equal(clipped, end)
    beyond = studio.sound(named, *words, "p=100", "--temperature", 0, "--extrapolate")
    assert "Warning" not in capsys.readouterr().out and not np.array_equal(beyond, end)


def test_what_is_beside_a_sound(studio: Studio, named: str) -> None:
    path = studio.make(named, "about", *MIDDLE, "--spectrogram", "--top_k", 5, seconds=0.03)
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    expected = {"temperature": 0.75, "top_k": 5, "seconds": 0.03, "random_seed": 7, "control": MIDDLE[1:], "step": 14}
    assert {name: about[name] for name in expected} == expected
    assert Path(about["checkpoint"] + ".index").is_file()


# A stage that generates controls ----------------------------------------------------------------------------------


def test_parameters_are_generated_as_curves_in_raw_units(studio: Studio, curves: str) -> None:
    run = studio.run(curves)
    assert run.read("run.config.json")["net"] == "split"  # number 1
    words = ["--control", "fill=0.1:0.9", "--num_seqs", 2, "--temperature", 1]
    studio.make(curves, "curve", *words, seconds=0.2)
    ranges = {entry["name"]: (entry["lo"], entry["hi"]) for entry in run.read("schema.json")["parameters"]}
    made = []
    for index in range(2):
        tracks = read_control_file(studio.out / f"curve_e=0({index})_t=1_conditioning.csv").tracks()
        assert list(tracks) == ["rmse", "pitch"]
        for name, track in tracks.items():
            np.testing.assert_allclose(np.diff(track.times), 0.01)
            assert track.times[0] == 0 and track.times[-1] >= 0.2 - 1e-9
            lo, hi = ranges[name]
            assert lo <= track.values.min() < track.values.max() <= hi
        made.append(tracks["pitch"].values)
        assert "fill" in read_control_file(studio.out / f"curve_e=0({index})_t=1_controls.csv").names
    assert not np.array_equal(made[0], made[1])
    assert not list(studio.out.glob("curve*.wav"))


def test_parameters_have_a_loss_and_neither_bits_nor_an_accuracy(studio: Studio, cascade: str) -> None:
    with open(studio.run(cascade).folder / "slow" / "losses.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["loss"] and not row["accuracy"] and not row["bits"] and not row["val_accuracy"] for row in rows)
    assert any(row["val_loss"] for row in rows)


@pytest.mark.parametrize("number", [1, 5])
def test_the_same_seed_gives_the_same_curves(studio: Studio, curves: str, number: int) -> None:
    identity = curves
    if number != 1:
        identity = f"net{number}"
        studio.train(identity, {**CURVES, "net": number}, "--num_steps", 2, data="curved")
    assert studio.run(identity).read("run.config.json")["net"] == {1: "split", 5: "mixture"}[number]
    texts = []
    for seed in (1, 1, 2):
        studio.make(identity, identity, "--control", "fill=0.5", seed=seed)
        texts.append((studio.out / f"{identity}_conditioning.csv").read_text())
    assert texts[0] == texts[1] != texts[2]


# SampleRNN ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_samplernn_is_steered_too(studio: Studio, sampled: str) -> None:
    low = studio.make(sampled, "low", "--control", "p=64", "a=0.25", *LIVELY).read_bytes()
    high = studio.make(sampled, "high", "--control", "p=76", "a=0.25", *LIVELY).read_bytes()
    assert low != high
    moved = studio.make(sampled, "moved", "--control", "p=64:76", "a=0.5", seconds=1 / 30)
    again = studio.make(sampled, "again", "--controls", moved.with_name("moved_controls.csv"), seconds=1 / 30)
    assert moved.read_bytes() == again.read_bytes() and soundfile.info(moved).frames == round(RATE / 30)


@pytest.mark.slow
def test_a_samplernn_continues_a_seed_with_its_parameters(studio: Studio, sampled: str) -> None:
    seed = studio.folder / "named" / HEARD
    own = studio.sound(sampled, "--seed", seed, "--prime", 0.05, *LIVELY)
    typed = studio.sound(sampled, "--seed", seed, "--prime", 0.05, "--control", "p=76", "a=0.5", *LIVELY)
    np.testing.assert_array_equal(own, typed)
    assert not np.array_equal(own, studio.sound(sampled, "--control", "p=76", "a=0.5", *LIVELY))


# Cascades: training -------------------------------------------------------------------------------------------------


def test_one_command_trains_all_tiers_into_folders_of_their_own(studio: Studio, cascade: str) -> None:
    run = studio.run(cascade)
    for stage in STAGES:
        part = run.stage(stage)
        assert part.read("finished.json")["num_epochs"] == part.latest().epoch == 1
        assert len(losses(part)) == steps_of(part) + 1 > 20  # and a row of the epoch
    log = (run.folder / "log.txt").read_text()
    places = [log.index(f"Stage {stage} ({number} of 3)") for number, stage in enumerate(STAGES, 1)]
    assert places == sorted(places)
    schema = run.read("schema.json")
    assert [entry["name"] for entry in schema["parameters"]] == ["fill", "rmse", "pitch"]
    assert schema["values"]["fill"] == [0.1, 0.9]
    assert not (run.folder / "checkpoints.json").exists()


def stamps(run: Run) -> dict[str, int]:
    """When the files that training writes were last written."""
    return {
        str(path): path.stat().st_mtime_ns
        for path in run.folder.rglob("*")
        if path.name in ("losses.csv", "checkpoints.json", "finished.json") or ".ckpt-" in path.name
    }


@pytest.mark.slow
def test_what_is_finished_is_left_alone_and_goes_on_when_asked(
    studio: Studio, cascade: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = studio.copy(cascade, "again")
    written = stamps(run)
    assert len(written) >= 3 * 5
    capsys.readouterr()
    assert studio.train("again", CASCADE, data="curved").folder == run.folder
    said = capsys.readouterr().out
    assert all(f"{stage} is finished; --num_epochs and the like make it go on." in said for stage in STAGES)
    assert stamps(run) == written
    studio.train("again", CASCADE, "--num_epochs", 2, data="curved")
    for stage in STAGES:
        before = losses(studio.run(cascade).stage(stage))
        after = losses(run.stage(stage))
        assert after[: len(before)] == before and len(after) == 2 * len(before)


@pytest.mark.slow
def test_a_cascade_that_was_ended_between_stages_or_within_one_goes_the_same_way(
    studio: Studio, cascade: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = studio.train("parts", CASCADE, "--stage", "slow", data="curved")
    assert run.stage("slow").checkpoints and not run.stage("mid").checkpoints and not run.stage("sound").checkpoints
    studio.train("parts", CASCADE, "--stage", "mid", "--num_steps", 4, data="curved")
    assert steps_of(run.stage("mid")) == 4 and not (run.folder / "sound").exists()
    capsys.readouterr()
    assert studio.train("parts", CASCADE, "--num_steps", "None", data="curved").folder == run.folder
    said = capsys.readouterr().out
    assert "slow is finished" in said and "(step 4)" in said
    for stage in STAGES:
        assert losses(run.stage(stage)) == losses(studio.run(cascade).stage(stage))


@pytest.mark.slow
def test_stages_have_options_of_their_own_and_what_is_typed_wins(studio: Studio) -> None:
    document = json.loads(json.dumps(CASCADE))
    document["training"] |= {"num_steps": 6, "checkpoint_steps": None}
    document["tiers"][0]["training"] = {"num_steps": 2, "tfr": 0.5}
    document["tiers"][1]["training"] = {"ss": 0.0, "input_noise": 0.1}
    run = studio.train("own", document, "--learning_rate", 0.01, data="curved")
    found = [run.stage(stage).read("finished.json") for stage in STAGES]
    assert [steps_of(run.stage(stage)) for stage in STAGES] == [2, 6, 6]
    assert [each["tfr"] for each in found] == [0.5, 1, 1] and [each["ss"] for each in found] == [None, 0, None]
    assert all(each["learning_rate"] == 0.01 for each in found)
    kept = run.read("run.config.json")["tiers"]
    assert [tier["training"] for tier in kept] == [{"num_steps": 2, "tfr": 0.5}, {"ss": 0.0, "input_noise": 0.1}, {}]
    studio.train("own", document, data="curved")  # as it was trained: nothing is left to do
    assert [steps_of(run.stage(stage)) for stage in STAGES] == [2, 6, 6]


@pytest.mark.slow
def test_sounds_and_curves_of_training_are_called_after_their_stage(studio: Studio) -> None:
    words = ["--generate", "True", "--checkpoint_steps", 2, "--num_steps", 2, "--stage", "slow", "sound"]
    studio.train("heard", CASCADE, *words, data="curved")
    folder = studio.folder / "generated" / "heard"
    there = {path.name for path in folder.glob("[!.]*")}
    assert {"heard_slow_s=2_e=0_t=0.75.csv", "heard_sound_s=2_e=0_t=0.75.wav"} <= there
    assert all(name.startswith(("heard_slow_", "heard_sound_")) for name in there)


# Cascades: generating -----------------------------------------------------------------------------------------------

FILL = ["--control", "fill=0.1:0.9"]


def test_a_cascade_makes_a_sound_a_curve_per_tier_and_a_picture(studio: Studio, cascade: str) -> None:
    path = studio.make(cascade, "all", *FILL, "--spectrogram", seconds=0.03)
    assert soundfile.info(path).frames == 240 and path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    there = {each.name for each in studio.out.glob("all*")}
    assert there == {"all.wav", "all.json", "all.png", "all_controls.csv", "all_slow.csv", "all_mid.csv"}
    parameters = {entry["name"]: entry for entry in studio.run(cascade).read("schema.json")["parameters"]}
    for tier, name, rate in (("slow", "rmse", 50), ("mid", "pitch", 100)):
        ((found, track),) = read_control_file(studio.out / f"all_{tier}.csv").tracks().items()
        assert found == name and track.times[-1] >= 0.03 - 1e-9
        np.testing.assert_allclose(np.diff(track.times), 1 / rate)
        assert parameters[name]["lo"] - 1e-6 <= track.values.min()
        assert track.values.max() <= parameters[name]["hi"] + 1e-6
    again = studio.make(cascade, "replay", "--controls", studio.out / "all_controls.csv", seconds=0.03)
    assert again.read_bytes() == path.read_bytes()
    assert (studio.out / "replay_slow.csv").read_text() == (studio.out / "all_slow.csv").read_text()


def test_a_tier_may_be_replaced_by_a_curve(
    studio: Studio, cascade: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = studio.make(cascade, "made", *FILL, seconds=0.03).read_bytes()
    own = studio.make(cascade, "own", *FILL, "--override", f"pitch={studio.out / 'made_mid.csv'}", seconds=0.03)
    assert "pitch is taken from" in capsys.readouterr().out and own.read_bytes() == made  # what it would have made
    drawn = write_track(tmp_path / "drawn.csv", pitch=[(0, 60), (0.01, 60), (0.01, 72)])
    given = studio.make(cascade, "given", *FILL, "--override", f"pitch={drawn}", "--temperature", 0, seconds=0.03)
    typed = studio.make(cascade, "typed", *FILL, "pitch=0:60,0.01:60,0.01:72", "--temperature", 0, seconds=0.03)
    plain = studio.make(cascade, "plain", *FILL, "--temperature", 0, seconds=0.03)
    assert given.read_bytes() == typed.read_bytes() != plain.read_bytes()
    beside = read_control_file(studio.out / "given_controls.csv")
    assert beside.track("pitch").values.tolist() == [60, 60, 72] and "fill" in beside.names


def test_tiers_have_temperatures_and_seeds_of_their_own(studio: Studio, cascade: str) -> None:
    def made(name: str, *words: Any, seed: int = 7) -> tuple[str, str, bytes]:
        path = studio.make(cascade, name, *FILL, *words, seconds=0.03, seed=seed)
        return *((studio.out / f"{name}_{tier}.csv").read_text() for tier in ("slow", "mid")), path.read_bytes()  # type: ignore[return-value]

    plain = made("a")
    other = made("b", "--tier_seed", "mid=5")
    assert other[0] == plain[0] and other[1] != plain[1] and other[2] != plain[2]
    cold = [made(name, "--tier_temperature", "slow=0", seed=seed) for name, seed in (("c", 1), ("d", 2))]
    assert cold[0][0] == cold[1][0] and cold[0][1] != cold[1][1]
    loud = made("e", "--tier_temperature", "sound=0")
    assert loud[:2] == plain[:2] and loud[2] != plain[2]
    about = json.loads((studio.out / "b.json").read_text())
    assert about["tier_seed"] == {"mid": 5}


def test_a_cascade_continues_a_seed_in_every_tier(studio: Studio, cascade: str) -> None:
    seed = studio.folder / "curved" / "r3.wav"
    words = ["--seed", seed, "--prime", 0.05]
    found = studio.make(cascade, "seeded", *words, "--include_seed", seconds=0.03)
    assert soundfile.info(found).frames == round(0.08 * RATE)
    track = read_control_file(studio.out / "seeded_controls.csv").track("fill")
    assert set(track.values) == {0.9}
    typed = studio.make(cascade, "typed", *words, "--control", "fill=0.9", seconds=0.03)
    assert soundfile.read(found, dtype="int16")[0][-240:].tolist() == soundfile.read(typed, dtype="int16")[0].tolist()
    for name, prime in (("noise", "random:0.02"), ("floor", "floor")):
        studio.make(cascade, name, "--prime", prime, "--control", "fill=0.9", seconds=0.03)
    texts = {(studio.out / f"{name}_slow.csv").read_text() for name in ("seeded", "noise", "floor")}
    assert len(texts) == 3


def test_a_stage_may_be_named_and_what_is_missing_is_told(
    studio: Studio, cascade: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = studio.run(cascade)
    part = run.stage("slow")
    earlier = part.checkpoints[0]
    assert earlier.step < part.latest().step
    trained = load_run(part.folder / earlier.name)
    newest = [steps_of(run.stage(stage)) for stage in STAGES[1:]]
    found = [part.root.stage(stage) for stage in STAGES]
    steps = [
        next(entry.step for entry in place.checkpoints if entry.name == trained.checkpoints[stage].name)
        for stage, place in zip(STAGES, found, strict=True)
    ]
    assert steps == [20, *newest] and trained.entry == earlier
    command = ["--checkpoint_path", str(part.folder / earlier.name), "--output_path", str(studio.out / "stage.wav")]
    assert generate.main([*command, "--dur", "0.01", "--control", "fill=0.5"]) == 0
    assert json.loads((studio.out / "stage.json").read_text())["step"] == earlier.step
    shutil.rmtree(studio.copy(cascade, "half").folder / "sound")
    capsys.readouterr()
    command = ["--checkpoint_path", str(studio.logdir / "half"), "--output_path", str(studio.out / "half.wav")]
    assert generate.main([*command, "--control", "fill=0.5"]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "the stage sound has no checkpoint" in sentence and "train.py --stage sound" in sentence


# Transfer -----------------------------------------------------------------------------------------------------------


def model_of(studio: Studio, identity: str) -> Any:
    trained = load_run(studio.logdir / identity)
    return trained.models[0], trained.schema


def steering(model: Any, schema: Any, **raw: float) -> np.ndarray:
    """What raw values add to the first map."""
    names = model.stage.conditioned_on
    seen = np.array([float(schema.of(name).normalise(raw[name], outside="allow")) for name in names])
    return seen @ model.first.kernel.numpy()[model.value_width :] + model.first.bias.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("names", [["a", "new", "p", "inst"], ["p"]], ids=["more", "fewer"])
def test_weights_are_taken_over_by_the_names_of_the_parameters(
    studio: Studio, named: str, tmp_path: Path, names: list[str]
) -> None:
    """Of another corpus, whose ranges differ: the same raw values do what they did; what is gone is in its middle."""
    rows = ["filename,inst,p,a,new"]
    for number in range(4):
        write_wav(tmp_path / f"{number}.wav", tone(50 + 13 * number, 0.5), RATE)
        rows.append(f"{number}.wav,{number % 2},{50 + 13 * number},{0.1 + 0.2 * number},{number}")
    (tmp_path / "params.csv").write_text("\n".join([*rows, ""]))
    controls = {name: value for name, value in AUDIO["controls"].items() if name in names}
    config = {**AUDIO, "conditioned_on": names, "controls": controls}
    identity = f"transfer{len(names)}"
    words = ["--init_from", studio.logdir / named, "--num_steps", 1, "--learning_rate", 1e-12]
    studio.train(identity, config, *words, data=str(tmp_path))
    (source, theirs), (target, ours) = model_of(studio, named), model_of(studio, identity)
    assert ours.of("p").span == (50, 89) and theirs.of("p").span == (64, 76)
    same = 0
    for old, new in zip(source.variables, target.variables, strict=True):
        if old.path != source.first.kernel.path and old.path != source.first.bias.path:
            np.testing.assert_allclose(new.numpy(), old.numpy(), atol=1e-9)
            same += old.numpy().size
    assert same > 500
    width = source.value_width
    np.testing.assert_allclose(target.first.kernel.numpy()[:width], source.first.kernel.numpy()[:width], atol=1e-9)
    if "new" in names:
        np.testing.assert_allclose(target.first.kernel.numpy()[width + names.index("new")], 0, atol=1e-9)
    for p in (64, 70, 85):
        raw = {"inst": 1, "p": p, "a": 0.3, "new": 2} if "a" in names else {"inst": 0.5, "p": p, "a": 0.375, "new": 2}
        np.testing.assert_allclose(steering(target, ours, **raw), steering(source, theirs, **raw), atol=1e-5)


# Evaluation ---------------------------------------------------------------------------------------------------------


def evaluated(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    capsys.readouterr()
    assert evaluate.main([str(word) for word in words]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_a_steered_network_is_measured_with_the_parameters_of_the_recordings(
    studio: Studio, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where: list[Any] = [studio.logdir / named, "--data_dir", studio.folder / "named", "--json"]
    right = json.loads(evaluated(capsys, *where))
    assert right["total"]["samples"] == len(TONES) * round(SECONDS * RATE) and len(right["files"]) == len(TONES)
    for number, (inst, p, a) in enumerate(TONES):
        (tmp_path / "other").mkdir(exist_ok=True)
        shutil.copy(studio.folder / "named" / spelt(inst, p, a), tmp_path / "other" / f"{number}.wav")
    rows = [f"{number}.wav,{inst},{140 - p},{a}" for number, (inst, p, a) in enumerate(TONES)]
    (tmp_path / "wrong.csv").write_text("\n".join(["filename,inst,p,a", *rows, ""]))
    where[2] = tmp_path / "other"
    wrong = json.loads(evaluated(capsys, *where, "--params", tmp_path / "wrong.csv"))
    assert wrong["total"]["samples"] == right["total"]["samples"]
    assert wrong["total"]["bits_per_sample"] != right["total"]["bits_per_sample"]


def test_held_out_likelihood_is_what_training_said(
    studio: Studio, cascade: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = studio.run(cascade)
    about = json.loads(evaluated(capsys, run.folder, "--part", "valid", "--json"))
    held = sum(stop - start for _, start, stop in run.read("split.json")["valid"])
    assert about["total"]["samples"] == held and set(about["tiers"]) == {"slow", "mid"}
    for stage, values in about["tiers"].items():
        part = run.stage(stage)
        row = [row for row in losses(part) if row[6]][-1]  # of the last epoch
        assert int(row[0]) == part.latest().step
        assert values["nats_per_value"] == pytest.approx(float(row[6]), rel=1e-4)
    table = evaluated(capsys, run.folder, "--data_dir", studio.folder / "curved")
    assert "slow: " in table and "nats per value (24 values)" in table and "mid: " in table and "(48 values)" in table


@pytest.mark.slow
def test_following_is_told_in_numbers(
    studio: Studio, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [studio.logdir / named, "--controls", "p", "--dur", 0.15, "--output_dir", tmp_path]
    assert "does it follow?" in evaluated(capsys, *words, "--json", tmp_path / "followed.json")
    assert '"p"' in json.dumps(json.loads((tmp_path / "followed.json").read_text())["following"])
    assert len(list(tmp_path.glob("*.wav"))) == len(list(tmp_path.glob("*.png"))) > 2


# What was found wrong once ------------------------------------------------------------------------------------------


def test_the_checkpoint_beside_a_sound_of_a_cascade_is_there(studio: Studio, cascade: str) -> None:
    path = studio.make(cascade, "told", *FILL, seconds=0.01)
    assert Path(json.loads(path.with_suffix(".json").read_text())["checkpoint"] + ".index").is_file()


def test_a_stage_may_be_named_by_its_index_file(studio: Studio, cascade: str) -> None:
    part = studio.run(cascade).stage("slow")
    earlier = part.checkpoints[0]
    assert load_run(part.folder / f"{earlier.name}.index").entry == earlier


def test_fine_curves_of_a_cascade_play_again(studio: Studio, cascade: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0.1, 0.9, 60)
    fine = write_track(tmp_path / "fine.csv", fill=[(number / 1000, value) for number, value in enumerate(values)])
    studio.make(cascade, "fine", "--controls", fine, seconds=0.05)
    studio.make(cascade, "fine2", "--controls", studio.out / "fine_controls.csv", seconds=0.05)
    assert (studio.out / "fine2_slow.csv").read_text() == (studio.out / "fine_slow.csv").read_text()


def test_a_replaced_curve_is_not_written_as_generated(studio: Studio, cascade: str) -> None:
    studio.make(cascade, "replaced", *FILL, "pitch=66", seconds=0.01)
    assert not (studio.out / "replaced_mid.csv").exists()


def test_a_tier_may_not_take_the_name_of_a_file() -> None:
    document = json.loads(json.dumps(CASCADE))
    document["tiers"][0]["name"] = "controls"
    with pytest.raises(UsageError):
        load_config(document, "x.config.json")


def test_a_finished_stage_goes_on_from_an_earlier_checkpoint(
    studio: Studio, cascade: str, capsys: pytest.CaptureFixture[str]
) -> None:
    part = studio.copy(cascade, "back").stage("slow")
    earlier, rows = part.checkpoints[0], losses(part)
    assert earlier.step < part.latest().step
    capsys.readouterr()
    studio.train("back", CASCADE, "--resume_from", part.folder / earlier.name, data="curved")
    assert "Going on from" in capsys.readouterr().out
    assert losses(part) == rows  # and comes to the same end


def test_a_seed_brings_what_it_has(
    studio: Studio, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, _ = load(studio.folder / "named" / HEARD)
    write_wav(tmp_path / "mine_p76.00.wav", sound, RATE)
    words = ["--seed", tmp_path / "mine_p76.00.wav", *LIVELY, "--control", "inst=1", "a=0.5"]
    own = studio.sound(named, *words)
    assert "Following the seed's own p" in capsys.readouterr().out
    np.testing.assert_array_equal(own, studio.sound(named, *words, "p=76"))
    assert not np.array_equal(own, studio.sound(named, *words, "p=64"))


@pytest.mark.slow
def test_a_seed_needs_no_folder_of_parameters_that_is_gone(studio: Studio, tmp_path: Path) -> None:
    for number in range(2):
        write_wav(tmp_path / "data" / f"{number}.wav", tone(60 + number, 0.4), RATE)
        write_track(tmp_path / "curves" / f"{number}.csv", p=[(0, number)])
    config = {**AUDIO, "conditioned_on": ["p"], "controls": {}}
    words = ["--param_dir", tmp_path / "curves", "--num_steps", 1]
    studio.train("gone", config, *words, data=str(tmp_path / "data"))
    shutil.rmtree(tmp_path / "curves")
    assert len(studio.sound("gone", "--seed", tmp_path / "data" / "0.wav", "--control", "p=0.5", seconds=0.005)) == 40


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_parameters(
    studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        write_wav(tmp_path / "data" / f"{number}.wav", tone(60 + number, 0.4), RATE)
        for name, value in (("one", number), ("other", 5 * number)):
            write_track(tmp_path / name / f"{number}.csv", p=[(0, value)])
    config = {**AUDIO, "conditioned_on": ["p"], "controls": {}}
    data = str(tmp_path / "data")
    run = studio.train("mixed", config, "--param_dir", tmp_path / "one", data=data)
    words = studio.training("mixed", config, "--param_dir", tmp_path / "other", "--num_steps", 8, data=data)
    sentence = told(capsys, train.main, words, 2)
    assert "the controls of 1 recordings" in sentence and "are other ones than the run" in sentence
    studio.train("mixed", config, "--num_steps", 8, data=data)  # those that it was trained on, without being told where
    assert run.latest().step == 8 and run.read("run.json")["param_dir"] == str(tmp_path / "one")


@pytest.mark.slow
def test_a_squared_error_is_not_told_in_nats(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    run = studio.train("squared", {**CURVES, "net": 0, "loss": "sampled_mse"}, "--num_steps", 2, data="curved")
    text = evaluated(capsys, run.folder, "--data_dir", studio.folder / "curved")
    assert "conditioning: " in text and "nats" not in text


def test_a_single_stage_may_start_from_a_stage_of_a_cascade(studio: Studio, cascade: str) -> None:
    sound = {key: value for key, value in CASCADE["tiers"][2].items() if key not in ("name", "exposure")}
    part = studio.run(cascade).stage("sound")
    config = {"model": "conditioning", **sound, "training": TRAINING}
    words = ["--init_from", part.folder / part.latest().name, "--num_steps", 1, "--learning_rate", 1e-12]
    studio.train("from_stage", config, *words, data="curved")
    ours, theirs = (load_run(studio.logdir / identity).models[-1].variables for identity in ("from_stage", cascade))
    for new, old in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(new, old, atol=1e-9)


def test_curves_go_where_they_were_asked_to_go(studio: Studio, curves: str) -> None:
    command = ["--checkpoint_path", studio.logdir / curves, "--output_path", studio.out / "asked.csv"]
    assert generate.main([str(word) for word in [*command, "--dur", 0.05, "--control", "fill=0.5"]]) == 0
    assert not list(studio.out.glob("asked.csv_*"))


@pytest.mark.slow
def test_held_out_values_beyond_the_range_are_no_noise_on_stderr(
    studio: Studio, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """The log tells of them once; the sounds that are made in training follow the held-out curves, clipped."""
    config = {**AUDIO, "conditioned_on": ["p"], "controls": {}}
    for number in range(2):
        write_wav(tmp_path / f"{number}.wav", tone(60 + number, 0.4, seconds=0.3), RATE)
        write_track(tmp_path / f"{number}.csv", p=[(0, 1), (0.299, 3)])
    first = studio.train("quiet", config, "--num_steps", 1, data=str(tmp_path))
    for name, start, stop in held_out(first):
        events = [(0, 1), (start, 2), (start, 50), (stop, 50), (stop, 2), (0.299, 3)]
        write_track(tmp_path / f"{Path(name).stem}.csv", p=events)
    recwarn.clear()
    studio.train("quiet2", config, "--generate", "True", "--checkpoint_steps", 1, "--num_steps", 1, data=str(tmp_path))
    assert list((studio.folder / "generated" / "quiet2").glob("*.wav"))
    assert [str(each.message) for each in recwarn if "trained range" in str(each.message)] == []
