"""Whatever a person can do wrong is answered by one sentence with what, where and the remedy; what can work does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import generate
import train
from commands import Capture, call, told
from tierwave.audio.recordings import probe
from tierwave.audio.writer import write_wav
from tierwave.runs.folder import Run, runs_of

pytestmark = pytest.mark.usefixtures("eager")

RATE = 4000
CONFIG = {
    "seq_len": 16,
    "frame_sizes": [2, 4],
    "dim": 8,
    "num_rnn_layers": 1,
    "q_levels": 32,
    "emb_size": 4,
    "training": {"batch_size": 4, "generate": False, "jit": False, "num_steps": 2},
}


def tone(samples: int, frequency: float = 0.3) -> np.ndarray:
    noise = np.random.default_rng(samples).standard_normal(samples)
    return (0.5 * np.sin(np.arange(samples) * frequency) + 0.05 * noise).astype(np.float32)


def make_corpus(folder: Path, lengths: Sequence[int] = (200, 150), rate: int = RATE) -> Path:
    for number, samples in enumerate(lengths):
        write_wav(folder / f"{number}.wav", tone(samples, 0.3 + 0.1 * number), rate)
    return folder


def make_config(folder: Path, **keys: Any) -> Path:
    path = folder / "tiny.config.json"
    path.write_text(json.dumps({**CONFIG, **keys}), encoding="utf-8")
    return path


class Place:
    """A corpus, a config and a logdir in a folder of their own, and the commands that use them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corpus, self.config = make_corpus(folder / "corpus"), make_config(folder)

    def training(self, *words: Any, identity: str = "one", **changes: Any) -> list[Any]:
        flags = {
            "id": identity,
            "data_dir": self.corpus,
            "config_file": self.config,
            "logdir_root": self.folder / "logdir",
            "output_dir": self.folder / "generated",
            **changes,
        }
        return [word for name, value in flags.items() for word in (f"--{name}", value)] + list(words)

    def generating(self, *words: Any, **changes: Any) -> list[Any]:
        flags = {
            "checkpoint_path": self.folder / "logdir" / "one",
            "output_path": self.folder / "sound.wav",
            "dur": 0.01,
            **changes,
        }
        return [word for name, value in flags.items() for word in (f"--{name}", value)] + list(words)

    @property
    def run(self) -> Run:
        return runs_of(self.folder / "logdir" / "one")[-1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place with a run of two steps under the id "one", which no test changes."""
    place = Place(tmp_path_factory.mktemp("trained"))
    assert call(train.main, place.training()) == 0
    return place


@pytest.fixture
def copy(trained: Place, tmp_path: Path) -> Place:
    """The same, to be damaged."""
    shutil.copytree(trained.folder / "logdir", tmp_path / "logdir")
    place = Place(tmp_path)
    shutil.rmtree(place.corpus)
    shutil.copytree(trained.corpus, place.corpus)
    return place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# Recordings --------------------------------------------------------------------------------------------------------


def spoil(folder: Path) -> dict[str, str]:
    """One file of every unusable kind, by the reason that is to be told."""
    make_corpus(folder)
    whole = (folder / "0.wav").read_bytes()
    for path in folder.iterdir():
        path.unlink()
    (folder / "no_audio.wav").write_text("a text that calls itself audio")
    (folder / "half_a_header.wav").write_bytes(whole[:20])
    (folder / "empty.flac").write_bytes(b"")
    write_wav(folder / "silent.wav", np.zeros(300, np.float32), RATE)
    write_wav(folder / "constant.wav", np.full(300, 0.3, np.float32), RATE)
    broken = tone(300)
    broken[150] = np.nan
    soundfile.write(folder / "not_a_number.wav", broken, RATE, "FLOAT")
    write_wav(folder / "one_sample.wav", np.full(1, 0.5, np.float32), RATE)
    write_wav(folder / "no_sample.wav", np.zeros(0, np.float32), RATE)
    return {
        "no_audio.wav": "libsndfile",
        "half_a_header.wav": "",
        "empty.flac": "empty",
        "silent.wav": "silent",
        "constant.wav": "silent",
        "not_a_number.wav": "NaN",
        "one_sample.wav": "1 sample",
        "no_sample.wav": "0 samples",
    }


def test_files_that_cannot_be_used_are_named_and_left_out(place: Place, capsys: Capture) -> None:
    reasons = spoil(place.corpus)
    write_wav(place.corpus / "good.wav", tone(300), RATE)
    whole = (place.corpus / "good.wav").read_bytes()
    (place.corpus / "cut_short.wav").write_bytes(whole[: len(whole) // 2])  # used as far as it goes
    assert call(train.main, place.training()) == 0
    output = capsys.readouterr()
    assert not output.err
    lines = [line for line in output.out.splitlines() if "left out" in line]
    assert len(lines) == len(reasons)
    for name, reason in reasons.items():
        (line,) = [line for line in lines if f"left out: {name}: " in line]
        assert reason in line and len(line.split(": ", 2)[2]) > 5
    assert "Corpus: 2 recordings" in output.out
    assert sorted(name for name, _ in place.run.read("statistics.json")["left_out"]) == sorted(reasons)
    assert sorted(place.run.read("run.json")["corpus"]) == ["cut_short.wav", "good.wav"]


def test_a_folder_with_nothing_usable_is_refused_with_the_reasons(place: Place, capsys: Capture) -> None:
    reasons = spoil(place.corpus)
    sentence = told(capsys, train.main, place.training(), 1)
    assert str(place.corpus) in sentence and "add" in sentence
    assert sum(name in sentence for name in reasons) >= 3
    assert not place.folder.joinpath("logdir", "one").exists() or not runs_of(place.folder / "logdir" / "one")


def test_no_recordings_at_all(place: Place, capsys: Capture) -> None:
    shutil.rmtree(place.corpus)
    sentence = told(capsys, train.main, place.training(), 2)
    assert str(place.corpus) in sentence
    (place.corpus / "deeper").mkdir(parents=True)
    (place.corpus / "deeper" / "notes.txt").write_text("nothing to hear")
    sentence = told(capsys, train.main, place.training(), 1)
    assert str(place.corpus) in sentence and "--data_dir" in sentence
    words = [word for word in place.training() if word not in ("--data_dir", place.corpus)]
    assert "--data_dir" in told(capsys, train.main, words, 2) and "--demo" in told(capsys, train.main, words, 2)


def test_a_file_shorter_than_a_window_and_a_corpus_shorter_than_a_batch_are_learnt(
    place: Place, capsys: Capture
) -> None:
    make_corpus(place.corpus, (5, 40))
    assert call(train.main, place.training("--batch_size", 64)) == 0
    output = capsys.readouterr()
    (warning,) = [line for line in output.out.splitlines() if "batch_size 64" in line]
    assert warning.startswith("Warning: ") and "lanes are used" in warning
    assert place.run.latest().step == 2 and not output.err


def test_a_corpus_too_short_to_hold_anything_out(place: Place, capsys: Capture) -> None:
    shutil.rmtree(place.corpus)
    make_corpus(place.corpus, (6,))
    sentence = told(capsys, train.main, place.training(), 1)
    assert "too short to hold out" in sentence and "--val_frac 0" in sentence and "--monitor loss" in sentence
    assert call(train.main, place.training("--val_frac", 0, "--monitor", "loss")) == 0
    assert place.run.latest().step == 2


def test_mixed_rates_need_a_decision(place: Place, capsys: Capture) -> None:
    write_wav(place.corpus / "other.wav", tone(500), 8000)
    sentence = told(capsys, train.main, place.training(), 1)
    assert "4000 Hz: 2 files" in sentence and "8000 Hz: 1 files" in sentence and "--sample_rate 4000" in sentence
    assert call(train.main, place.training("--sample_rate", 4000)) == 0
    assert place.run.read("run.json")["sample_rate"] == 4000


def test_more_validation_than_there_is(place: Place, capsys: Capture) -> None:
    sentence = told(capsys, train.main, place.training("--num_val_batches", 100), 2)
    assert "num_val_batches 100" in sentence and "6400 samples" in sentence and "350" in sentence
    sentence = told(capsys, train.main, place.training("--num_val_batches", 1, "--val_frac", 0.2), 2)
    assert "num_val_batches 1" in sentence and "val_frac" in sentence
    assert call(train.main, place.training("--num_val_batches", 1)) == 0


# Configs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{'dim': 8}", ["not JSON", "line 1"]),
        ('{"dim": 8,\n "dim": 9}', ["dim", "2 times"]),
        ("[8]", ["object"]),
        ('{"dimm": 8}', ["dimm", "did you mean dim?"]),
        ('{"batch_size": 8}', ["batch_size", "training.batch_size"]),
        ('{"training": {"batchsize": 8}}', ["training.batchsize", "batch_size"]),
        ('{"training": {"batch_size": "8"}}', ["training.batch_size", '"8"', "whole number"]),
        ('{"dim": "8"}', ["dim", '"8"', "whole number"]),
        ('{"dim": 8.5}', ["dim", "8.5", "whole number"]),
        ('{"dim": 0}', ["dim", "0", "at least 1"]),
        ('{"rnn_type": "gruu"}', ["rnn_type", "gruu", "gru"]),
        ('{"frame_sizes": [16, 50]}', ["frame_sizes", "[16, 50]", "multiple of 16", "[16, 48]"]),
        ('{"frame_sizes": [64, 16]}', ["frame_sizes", "[64, 16]", "ascend"]),
        ('{"seq_len": 1000}', ["seq_len 1000", "multiple of", "64", "1024"]),
        ('{"skip_conn": true, "num_rnn_layers": 1}', ["skip_conn", "num_rnn_layers"]),
        ('{"q_levels": 1}', ["q_levels", "1", "at least 2"]),
        ('{"gradient_clip": {"norm": 1}}', ["gradient_clip", "norm", "global_norm"]),
        ('{"model": "sampelrnn"}', ["sampelrnn", "samplernn"]),
    ],
)
def test_a_wrong_config_names_file_key_value_and_remedy(
    place: Place, capsys: Capture, text: str, expected: list[str]
) -> None:
    place.config.write_text(text)
    sentence = told(capsys, train.main, place.training(), 2)
    assert [part for part in expected if part not in sentence] == [], sentence
    if "family" not in sentence:
        assert place.config.name in sentence


def test_a_config_that_is_not_there_names_its_neighbours(place: Place, capsys: Capture) -> None:
    sentence = told(capsys, train.main, place.training(config_file=place.folder / "small.config.json"), 2)
    assert "small.config.json does not exist" in sentence and place.config.name in sentence


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("dim", ["--set dim", "KEY=VALUE"]),
        ("dimm=8", ["dimm", "did you mean dim?"]),
        ("dim=eight", ["dim", '"eight"', "whole number"]),
        ("dim.deep=8", ["dim.deep=8", "no keys"]),
        ("frame_sizes.7=8", ["frame_sizes.7=8", "list of 2"]),
        ("seq_len=18", ["seq_len 18", "use 16"]),
        ("training.optimizer=adagrad", ["training.optimizer", "adagrad", "adam"]),
    ],
)
def test_a_wrong_override(place: Place, capsys: Capture, setting: str, expected: list[str]) -> None:
    sentence = told(capsys, train.main, place.training("--set", setting), 2)
    assert [part for part in expected if part not in sentence] == [], sentence


# Flags -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--batchsize", "4"], ["--batchsize", "--batch_size"]),
        (["--batch_size"], ["--batch_size", "argument"]),
        (["--batch_size", "many"], ["--batch_size", "many", "whole number"]),
        (["--batch_size", "0"], ["--batch_size", "0", "at least 1"]),
        (["--optimizer", "adagrad"], ["--optimizer", "adagrad", "rmsprop"]),
        (["--learning_rate", "-1e-3"], ["--learning_rate", "-0.001", "greater than 0"]),
        (["--momentum", "1"], ["--momentum", "1", "less than 1"]),
        (["--verbose", "perhaps"], ["--verbose", "perhaps", "True"]),
        (["--temperature", "1", "-1"], ["--temperature", "-1", "at least 0"]),
        (["--monitor", "val_los"], ["--monitor", "val_los", "val_loss"]),
        (["--val_frac", "0"], ["val_frac is 0", "monitor"]),
        (["--val_frac", "0.6", "--test_frac", "0.4"], ["val_frac 0.6", "test_frac 0.4"]),
        (["--val_frac", "1"], ["--val_frac", "1", "less than 1"]),
        (["--output_file_dur", "0"], ["--output_file_dur", "0", "greater than 0"]),
        (["--seed_offset", "100"], ["seed_offset 100", "seed"]),
        (["--seed_offset", "later"], ["--seed_offset", "later"]),
        (["--id", "a/b"], ["--id", "a/b", "name"]),
        (["--id", ".."], ["--id", "..", "name"]),
        (["--id", "take [2]"], ["take [2]", "brackets", "--id"]),
        (["stray"], ["stray"]),
        # What belongs to other families must not be taken and forgotten.
        (["--tfr", "0.5"], ["--tfr", "0.5", "leave it out"]),
        (["--ss", "0.5"], ["--ss", "0.5", "leave it out"]),
        (["--set", "training.tfr=0.5"], ["tfr", "0.5", "leave it out"]),
        (["--param_dir", "x"], ["--param_dir", "x", "leave it out"]),
        (["--params", "x.csv"], ["--params", "x.csv", "leave it out"]),
        (["--stage", "1"], ["--stage", "1", "samplernn"]),
        (["--num_workers", "2"], ["--num_workers", "2", "leave it out"]),
    ],
    ids=" ".join,
)
def test_a_wrong_flag_of_train(place: Place, capsys: Capture, words: list[str], expected: list[str]) -> None:
    sentence = told(capsys, train.main, place.training(*words), 2)
    assert [part for part in expected if part not in sentence] == [], sentence


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--duration", "1"], ["--duration", "did you mean --"]),
        (["--dur", "long"], ["--dur", "long", "number"]),
        (["--dur", "0"], ["dur", "0", "more than 0"]),
        (["--dur", "nan"], ["dur", "nan", "more than 0"]),
        (["--num_seqs", "0"], ["num_seqs", "0", "at least 1"]),
        (["--temperature", "0.5", "-1"], ["temperature", "-1", "0 or more"]),
        (["--top_k", "0"], ["top_k", "0", "1 or more"]),
        (["--top_p", "1.5"], ["top_p", "1.5", "(0, 1]"]),
        (["--sample_rate", "0"], ["--sample_rate", "0", "positive"]),
        (["--seed_offset", "later"], ["seed_offset", "later", "1.5s"]),
        (["--seed_offset", "-5"], ["seed_offset", "-5", "1.5s"]),
        (["--seed_offset", "100"], ["seed_offset 100", "give seed"]),
        (["--include_seed"], ["--include_seed", "--seed"]),
        (["--controls", "x.csv"], ["--controls", "leave it out"]),
        (["--control", "pitch=60"], ["--control", "leave it out"]),
        (["--prime", "0.5"], ["--prime 0.5", "give --seed"]),
        (["--prime", "randon"], ["--prime randon", "--seed"]),
        (["--external_array", "x.npy"], ["--external_array", "leave it out"]),
        (["--external_sr", "100"], ["--external_sr", "leave it out"]),
        (["--override", "a=b.csv"], ["--override", "leave it out"]),
        (["--tier_temperature", "samplernn=1"], ["--tier_temperature", "samplernn=1", "leave it out"]),
        (["--tier_seed", "samplernn=1"], ["--tier_seed", "samplernn=1", "leave it out"]),
        (["--text", "one"], ["--text one", "leave it out"]),
        (["--bias", "1"], ["--bias 1", "leave it out"]),
        (["--frames", "10"], ["--frames", "leave it out"]),
        (["--from_tier", "2"], ["--from_tier", "leave it out"]),
        (["--low_resolution", "x.wav"], ["--low_resolution", "leave it out"]),
        (["--inversion", "griffin_lim"], ["--inversion", "leave it out"]),
        (["--vocoder", "x"], ["--vocoder", "leave it out"]),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("loaded_once")
def test_a_wrong_flag_of_generate(trained: Place, capsys: Capture, words: list[str], expected: list[str]) -> None:
    sentence = told(capsys, generate.main, trained.generating(*words), 2)
    assert [part for part in expected if part not in sentence] == [], sentence
    assert not (trained.folder / "sound.wav").exists()


def test_generate_needs_a_checkpoint_and_a_place_to_write_to(capsys: Capture) -> None:
    sentence = told(capsys, generate.main, [], 2)
    assert "--output_path" in sentence and "--checkpoint_path" in sentence


def test_debug_shows_the_traceback(place: Place, capsys: Capture) -> None:
    assert call(train.main, place.training("--debug", data_dir=place.folder / "nothing")) == 2
    assert "Traceback" in capsys.readouterr().err


# Runs and checkpoints ------------------------------------------------------------------------------------------------


def test_another_corpus_under_the_id_of_a_run_is_refused(copy: Place, capsys: Capture) -> None:
    make_corpus(copy.corpus, (200, 160, 100))  # the second changed, the third new
    sentence = told(capsys, train.main, copy.training("--num_steps", 3), 2)
    assert "--id" in sentence and "--init_from" in sentence
    assert "1 new (such as 2.wav)" in sentence and "1 changed (such as 1.wav)" in sentence
    (copy.corpus / "0.wav").unlink()
    assert "1 missing (such as 0.wav)" in told(capsys, train.main, copy.training("--num_steps", 3), 2)
    assert call(train.main, copy.training("--num_steps", 3, identity="two", init_from=copy.folder / "logdir/one")) == 0


def test_the_same_corpus_in_another_place_is_the_same(copy: Place) -> None:
    moved = copy.corpus.rename(copy.folder / "elsewhere")
    assert call(train.main, copy.training("--num_steps", 3, data_dir=moved)) == 0
    assert copy.run.latest().step == 3


def test_another_architecture_under_the_id_of_a_run_is_refused(copy: Place, capsys: Capture) -> None:
    make_config(copy.folder, dim=16, rnn_type="lstm")
    sentence = told(capsys, train.main, copy.training("--num_steps", 3), 2)
    assert "dim: 8 -> 16" in sentence and "rnn_type" in sentence and "seq_len" not in sentence
    assert "--id" in sentence and "--init_from" in sentence and "--resume False" in sentence
    assert call(train.main, copy.training("--num_steps", 3, "--resume", "False")) == 0


def test_another_rate_under_the_id_of_a_run_is_refused(copy: Place, capsys: Capture) -> None:
    sentence = told(capsys, train.main, copy.training("--num_steps", 3, "--sample_rate", 8000), 2)
    assert "4000 Hz" in sentence and "8000" in sentence and "--sample_rate" in sentence


def test_weights_of_another_architecture_cannot_be_started_from(copy: Place, capsys: Capture) -> None:
    make_config(copy.folder, dim=16)
    words = copy.training(identity="two", init_from=copy.folder / "logdir" / "one")
    sentence = told(capsys, train.main, words, 2)
    assert "--init_from" in sentence and "dim: 8 -> 16" in sentence and "--config_file" in sentence


def cut(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".data-00000-of-00001", ".index"])
def test_a_truncated_checkpoint_is_told_and_not_used(copy: Place, capsys: Capture, suffix: str, share: float) -> None:
    name = copy.run.latest().name
    cut(copy.run.folder / f"{name}{suffix}", share)
    sentence = told(capsys, generate.main, copy.generating(), 1)
    assert name in sentence and "damaged" in sentence and "earlier" in sentence
    assert not (copy.folder / "sound.wav").exists()
    sentence = told(capsys, train.main, copy.training("--num_steps", 3), 1)
    assert name in sentence and "damaged" in sentence and "--resume_from" in sentence


def test_a_checkpoint_with_a_changed_byte_is_told(copy: Place, capsys: Capture) -> None:
    path = copy.run.folder / f"{copy.run.latest().name}.data-00000-of-00001"
    data = bytearray(path.read_bytes())
    for place in range(0, len(data), 50):
        data[place] ^= 0xFF
    path.write_bytes(bytes(data))
    assert "damaged" in told(capsys, generate.main, copy.generating(), 1)


@pytest.mark.parametrize(
    "changes",
    [{"dim": 16}, {"num_rnn_layers": 2}, {"frame_sizes": [4]}, {"rnn_type": "lstm"}, {"q_levels": 64}],
    ids=str,
)
def test_a_checkpoint_of_another_architecture_than_its_config(
    copy: Place, capsys: Capture, changes: dict[str, Any]
) -> None:
    path = copy.run.folder / "run.config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    sentence = told(capsys, generate.main, copy.generating(), 1)
    assert copy.run.latest().name in sentence and "another architecture" in sentence and "damaged" not in sentence


def test_fewer_layers_than_the_checkpoint_has(trained: Place, tmp_path: Path, capsys: Capture) -> None:
    """Every weight of the smaller network is there, with the right shape; still it is another one."""
    place = Place(tmp_path)
    make_config(tmp_path, num_rnn_layers=2)
    assert call(train.main, place.training("--num_steps", 1)) == 0
    smaller = make_config(tmp_path, num_rnn_layers=1)
    sentence = told(capsys, generate.main, place.generating("--config_file", smaller), 1)
    assert "another architecture" in sentence


def test_a_run_without_its_config(copy: Place, capsys: Capture) -> None:
    folder, name = copy.run.folder, copy.run.latest().name
    (folder / "run.config.json").unlink()
    for path in (folder, folder / name, folder / f"{name}.index"):
        sentence = told(capsys, generate.main, copy.generating(checkpoint_path=path), 1 if path != folder else 2)
        assert "run.config.json" in sentence
    # With one given it works.
    assert call(generate.main, copy.generating("--config_file", copy.config, checkpoint_path=folder / name)) == 0


@pytest.mark.parametrize("name", ["run.json", "run.config.json", "checkpoints.json", "split.json"])
@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}'])
def test_damaged_documents_of_a_run(copy: Place, capsys: Capture, name: str, text: str) -> None:
    (copy.run.folder / name).write_text(text)
    found = call(train.main, copy.training("--num_steps", 3))
    errors = capsys.readouterr().err.splitlines()
    assert found in (1, 2) and len(errors) == 1, errors
    assert name in errors[0] or (name == "run.config.json" and str(copy.run.folder) in errors[0])


def test_a_missing_document_of_a_run(copy: Place, capsys: Capture) -> None:
    (copy.run.folder / "run.json").unlink()
    assert "run.json is missing" in told(capsys, generate.main, copy.generating(), 1)


def test_checkpoints_that_are_not_there(copy: Place, capsys: Capture) -> None:
    folder, name = copy.run.folder, copy.run.latest().name
    sentence = told(capsys, generate.main, copy.generating(checkpoint_path=folder / "model.ckpt-7"), 2)
    assert "model.ckpt-7" in sentence and name in sentence
    sentence = told(capsys, generate.main, copy.generating(checkpoint_path=copy.folder / "nowhere"), 2)
    assert "nowhere" in sentence and "logdir" in sentence
    sentence = told(capsys, generate.main, copy.generating(checkpoint_path=copy.corpus), 2)
    assert "no checkpoint" in sentence and str(copy.corpus) in sentence
    for flag in ("--resume_from", "--init_from"):
        sentence = told(capsys, train.main, copy.training(flag, folder / "model.ckpt-7", identity="two"), 2)
        assert "model.ckpt-7" in sentence and name in sentence


# Seeds -------------------------------------------------------------------------------------------------------------


def test_a_seed_offset_past_the_end(trained: Place, tmp_path: Path, capsys: Capture) -> None:
    for offset, shown in (("200", "200"), ("5s", "5s")):
        words = ["--seed", trained.corpus / "0.wav", "--seed_offset", offset]
        expected = [f"--seed_offset {shown}", "200 samples", "smaller"]
        sentence = told(capsys, generate.main, trained.generating(*words), 2)
        assert [part for part in expected if part not in sentence] == [], sentence
        place = Place(tmp_path)
        sentence = told(capsys, train.main, place.training(*words, "--generate"), 2)
        assert [part for part in expected if part not in sentence] == [], sentence


def test_a_seed_that_cannot_be_heard(trained: Place, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "noise.wav").write_text("no audio")
    for path in (tmp_path / "noise.wav", tmp_path / "missing.wav"):
        sentence = told(capsys, generate.main, trained.generating("--seed", path), 1)
        assert str(path) in sentence


def test_a_seed_shorter_than_a_frame_is_padded_with_silence_before_it(trained: Place, tmp_path: Path) -> None:
    short, padded = tmp_path / "short.wav", tmp_path / "padded.wav"
    sound = tone(3) + np.float32(0.2)
    write_wav(short, sound, RATE)
    write_wav(padded, np.concatenate([np.zeros(1, np.float32), sound]), RATE)
    made = []
    for seed in (short, padded):
        target = tmp_path / f"from_{seed.stem}.wav"
        words = trained.generating("--seed", seed, "--random_seed", 1, output_path=target)
        assert call(generate.main, words) == 0
        made.append(soundfile.read(target)[0])
    assert len(made[0]) == 40
    np.testing.assert_array_equal(made[0], made[1])


# Places ------------------------------------------------------------------------------------------------------------


def test_places_that_cannot_be_written_to(trained: Place, tmp_path: Path, capsys: Capture) -> None:
    place = Place(tmp_path)
    below = tmp_path / "file" / "deeper"
    below.parent.write_text("a file, not a folder")
    sentence = told(capsys, train.main, place.training(logdir_root=below), 2)
    assert str(below) in sentence and "--logdir_root" in sentence
    sentence = told(capsys, generate.main, trained.generating(output_path=below / "x.wav"), 2)
    assert str(below / "x.wav") in sentence and "folder" in sentence
    sentence = told(capsys, generate.main, trained.generating(output_path=tmp_path / "x.m4a"), 2)
    assert "x.m4a: sound is written as .wav, .flac, .ogg, .mp3" in sentence
    (tmp_path / "taken.wav").mkdir()
    sentence = told(capsys, generate.main, trained.generating(output_path=tmp_path / "taken.wav"), 2)
    assert "taken.wav" in sentence and "folder" in sentence


def test_an_output_folder_that_cannot_be_written_to_is_told_before_training(place: Place, capsys: Capture) -> None:
    below = place.folder / "file" / "deeper"
    below.parent.write_text("a file, not a folder")
    sentence = told(capsys, train.main, place.training("--generate", "True", output_dir=below), 2)
    assert str(below) in sentence and "--output_dir" in sentence
    assert "Step: 1/" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["Möwen über Åland, 音楽", pytest.param("-it's 100% {fine}", marks=pytest.mark.slow)])
def test_spaces_and_letters_of_any_script_in_paths(tmp_path: Path, capsys: Capture, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    place = Place(folder)
    (place.corpus / "0.wav").rename(place.corpus / f"{name}.wav")
    words = place.training("--generate", "True", "--output_file_dur", 0.01, "--num_epochs", 1, "--num_steps", 30)
    words[words.index("--id") : words.index("--id") + 2] = [f"--id={name}"]
    assert call(train.main, words) == 0
    logdir = folder / "logdir" / name
    (run,) = runs_of(logdir)
    assert f"{name}.wav" in run.read("run.json")["corpus"]
    sounds = list((folder / "generated" / name).glob("[!.]*"))
    assert [path.name for path in sounds] == [f"{name}_e=1_t=0.75.wav"]
    target = folder / f"{name}.flac"
    seed = place.corpus / f"{name}.wav"
    words = ["--checkpoint_path", logdir, "--output_path", target, "--dur", 0.01, "--seed", seed]
    assert call(generate.main, words) == 0
    assert probe(target).frames == 40
    assert json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))["seed"] == str(seed)
    assert not capsys.readouterr().err
