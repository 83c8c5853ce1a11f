"""The report of a run: one page without requests, in which every checkpoint is heard and what is wrong is said."""

from __future__ import annotations

import base64
import csv
import functools
import io
import json
import math
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import samplernn
import train
from commands import call, told, untraced
from samplernn.config import Config
from tierwave.audio.writer import write_wav
from tierwave.cli.report import main
from tierwave.config import dumps
from tierwave.family import load_config
from tierwave.files.writing import write_text
from tierwave.runs.checkpoints import make_checkpoint, restore_checkpoint
from tierwave.runs.folder import CONFIG_NAME, CheckpointEntry, Run, create_run, runs_of
from tierwave.runs.history import read_history

RATE, LEVELS, SECONDS = 4000, 16, 0.2
COLUMNS = ("step", "epoch", "loss", "accuracy", "bits", "gradient_norm", "seconds", "val_loss", "val_accuracy")


class Page(HTMLParser):
    """What a browser would see of a page: its elements, text and sounds; well-formed, or it fails."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)

    @property
    def sounds(self) -> list[tuple[np.ndarray, int]]:
        kept = [str(attributes["src"]) for tag, attributes in self.tags if tag == "audio"]
        return [soundfile.read(io.BytesIO(base64.b64decode(source.partition("base64,")[2]))) for source in kept]

    @property
    def addresses(self) -> list[str]:
        """All that a browser would fetch."""
        found = [str(value) for _, attributes in self.tags for name, value in attributes.items() if name in _FETCHED]
        return [address for address in found if not address.startswith(("data:", "#"))]


_FETCHED = ("src", "href", "srcset", "poster", "action", "data", "xlink:href")


@functools.lru_cache
def network(document: str, stage: str) -> Any:
    """The network of a stage of a config, one for all runs that have the same: its loops are compiled once."""
    family, config = load_config(json.loads(document), "here")
    return family.build(config, stage)


@pytest.fixture(scope="module", autouse=True)
def built_once() -> Iterator[None]:
    """Reports give the weights of their runs to networks that are built and compiled already."""

    def loaded(family: Any, config: Any, stage: str, checkpoint: Path) -> Any:
        model = network(dumps(config), stage)
        restore_checkpoint(checkpoint, {"model": model})
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tierwave.generation.load.load_model", loaded)
        yield
    network.cache_clear()


def make_run(root: Path, data: Path, *, silent: bool = False, bits: Sequence[float] = (3.0, 2.5)) -> Run:
    """A run of random weights with a checkpoint per entry of `bits`; a silent one always says the code of silence."""
    run = create_run(root, "run")
    levels = 256 if silent else LEVELS  # of few levels none is near 0
    config = Config(q_levels=levels, seq_len=32, frame_sizes=[4, 8], dim=6, num_rnn_layers=1, emb_size=5)
    model = network(dumps(config), samplernn.FAMILY.stages(config)[0])
    rows = []
    for epoch, loss in enumerate(bits, start=1):
        for variable in model.weights:
            variable.assign(np.random.default_rng(epoch).normal(0.0, 0.7, variable.shape))
        if silent:
            last = next(v for v in reversed(model.weights) if v.shape == (levels,))
            last.assign(100.0 * (np.arange(levels) == samplernn.FAMILY.encoder(config).silence))
        make_checkpoint({"model": model}).write(str(run.folder / f"model.ckpt-{epoch}"))
        run.record(CheckpointEntry(f"model.ckpt-{epoch}", epoch, 10 * epoch, loss, True, True), None)
        nats = loss * math.log(2)
        rows.append([10 * epoch, epoch, nats, 0.1, loss, 1.0, 0.1, "", ""])
        rows.append([10 * epoch, epoch, nats, 0.1, "", "", 1, nats, 0.1])
    with open(run.folder / "losses.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    names = sorted(path.name for path in data.glob("*.wav"))
    spans = [[name, 0, RATE] for name in names]
    run.write("run.json", {
        "sample_rate": RATE, "corpus": {}, "data_dir": str(data.resolve()), "command": ["train.py", "--id", "<b>&run"],
        "versions": {"tierwave": "0.0.1"}, "created": "2026-01-02T03:04:05+00:00",
    })  # fmt: skip
    run.write("split.json", {"method": "files", "train": spans[1:], "valid": spans[:1], "test": []})
    run.write("statistics.json", {"gain": 1.0, "files": len(names), "histogram_bits": 3.5, "markov_bits": 3.2})
    write_text(run.folder / CONFIG_NAME, dumps(config))
    return run


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    time = np.arange(RATE) / RATE
    for number in range(3):
        sound = 0.4 * np.sin(2 * np.pi * (300 + 100 * number) * time) * np.hanning(RATE)
        write_wav(folder / f"{number}_<i>&amp;.wav", sound, RATE)
    return folder


def reported(run: Run, target: Path, *words: Any) -> Page:
    assert call(main, [run.folder, "--output", target, "--seconds", SECONDS, *words]) == 0
    page = Page(target)
    assert page.addresses == []
    text = target.read_text(encoding="utf-8").lower()
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text and "<script" not in text
    assert "prefers-color-scheme" in text and "default-src 'none'" in text.replace("&#x27;", "'")
    return page


def test_every_checkpoint_is_heard_and_nothing_is_fetched(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, recordings, bits=(3.0, 2.5, 2.4))
    page = reported(run, tmp_path / "out.html")
    sounds = page.sounds
    assert len(sounds) == 4  # a recording, and three checkpoints
    assert [(len(sound), rate) for sound, rate in sounds[1:]] == [(round(SECONDS * RATE), RATE)] * 3
    assert len({sound.tobytes() for sound, _ in sounds}) == 4
    assert page.count("img") == 4 and page.count("svg") >= 3
    for words in (
        "model.ckpt-3", "best", "code histogram", "markov bits", "train.py --id '<b>&run'", "q_levels", "0.0.1",
        "0_<i>&amp;.wav", "bits per sample with the best checkpoint", "white noise", "2.400",
    ):  # fmt: skip
        assert words in page.text, words
    capsys.readouterr()
    again = reported(run, tmp_path / "again.html", "--likelihood", "False")
    assert "Generating" not in capsys.readouterr().out  # what was made is kept
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(sounds, again.sounds, strict=True))
    other = reported(run, tmp_path / "other.html", "--likelihood", "False", "--random_seed", 1)
    assert not np.array_equal(other.sounds[1][0], sounds[1][0])


def test_what_is_wrong_is_said_on_top_and_on_the_terminal(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, recordings, silent=True, bits=(3.9, 3.8, 3.7))
    page = reported(run, tmp_path / "out.html", "--likelihood", "False")
    said = capsys.readouterr().out
    for words in ("silent: 100% of the sound", "not learning: after 3 epochs"):
        assert words in page.text and f"{words}" in said
    assert max(float(np.abs(sound).max()) for sound, _ in page.sounds[1:]) < 0.2


def test_without_the_recordings_what_was_logged_is_told(tmp_path: Path, recordings: Path) -> None:
    run = make_run(tmp_path, recordings)
    run.write("run.json", {**run.read("run.json"), "data_dir": str(tmp_path / "gone")})
    page = reported(run, tmp_path / "out.html")
    assert len(page.sounds) == 2 and "best logged" in page.text and "is not there any more" in page.text
    with open(run.folder / "losses.csv", "a", encoding="utf-8") as file:
        file.write("21,3,nan,0.1,,nan,,,\n")
    assert math.isnan(read_history(run).losses[-1])
    page = reported(run, tmp_path / "nan.html", "--likelihood", "False")
    assert "loss is not a number" in page.text


def test_a_run_from_outside_cannot_have_other_files_read(
    tmp_path: Path, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, recordings)
    write_wav(tmp_path / "secret.wav", np.full(RATE, 0.5), RATE)
    split = run.read("split.json")
    run.write("split.json", {**split, "valid": [["../" * 20 + str(tmp_path / "secret.wav").lstrip("/"), 0, RATE]]})
    assert call(main, [run.folder, "--output", tmp_path / "out.html"]) == 1
    assert "split.json is damaged (valid.0.0" in capsys.readouterr().err
    linked = recordings / "linked.wav"
    linked.symlink_to(tmp_path / "secret.wav")
    run.write("split.json", {**split, "valid": [[linked.name, 0, RATE]]})
    page = reported(run, tmp_path / "out.html", "--likelihood", "False")
    linked.unlink()
    assert "lies outside" in page.text and len(page.sounds) == 2


def test_a_run_that_can_only_be_read_is_reported_elsewhere(
    tmp_path: Path, recordings: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, recordings)
    (run.folder / "report").touch()  # as without the right to make a folder, which tests may have everywhere
    page = reported(run, tmp_path / "out.html", "--likelihood", "False")
    assert len(page.sounds) == 3 and "has no sound" not in page.text  # a recording and two checkpoints
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert call(main, [run.folder]) == 2
    assert "--output" in capsys.readouterr().err and not (run.folder / "report.html").exists()


def test_what_cannot_be_had_is_left_out_and_told(tmp_path: Path, recordings: Path) -> None:
    run = make_run(tmp_path, recordings, bits=(3.0, 2.8, 2.5))
    (data,) = run.folder.glob("model.ckpt-2.data*")
    data.write_bytes(data.read_bytes()[:100])
    page = reported(run, tmp_path / "out.html", "--likelihood", "False", "--controls")
    assert len(page.sounds) == 3  # a recording and two checkpoints
    assert "model.ckpt-2 has no sound" in page.text and "No control was requested" in page.text


def test_a_run_that_broke_off_before_its_first_checkpoint_is_told_of(tmp_path: Path, recordings: Path) -> None:
    run = make_run(tmp_path, recordings, bits=())
    write_text(run.folder / "losses.csv", ",".join(COLUMNS) + "\n1,1,nan,0.1,nan,nan,0.1,,\n")
    page = reported(run, tmp_path / "out.html")
    assert "loss is not a number" in page.text and "No sound was made" in page.text and page.sounds == []


def test_a_gradient_that_overflows_under_a_scaled_loss_is_no_fault(tmp_path: Path, recordings: Path) -> None:
    run = make_run(tmp_path, recordings)
    with open(run.folder / "losses.csv", "a", encoding="utf-8") as file:
        file.write("21,3,1.7,0.1,2.4,inf,0.1,,\n22,3,1.")  # and a row of which half is written
    assert len(read_history(run).epochs) == 2
    write_text(run.folder / CONFIG_NAME, json.dumps({**run.read(CONFIG_NAME), "training": {"precision": "float32"}}))
    assert "loss is not a number" in reported(run, tmp_path / "out.html", "--likelihood", "False").text
    scaled = {"precision": "mixed_float16"}
    write_text(run.folder / CONFIG_NAME, json.dumps({**run.read(CONFIG_NAME), "training": scaled}))
    assert "loss is not a number" not in reported(run, tmp_path / "out.html", "--likelihood", "False").text


def test_recordings_that_are_rows_of_an_array_are_told_of(tmp_path: Path, recordings: Path) -> None:
    data = tmp_path / "arrays"
    data.mkdir()
    rng = np.random.default_rng(0)
    np.save(data / "music.npy", rng.uniform(-0.5, 0.5, [3, RATE]).astype(np.float16))
    run = make_run(tmp_path, recordings)
    run.write("run.json", {**run.read("run.json"), "data_dir": str(data)})
    run.write("split.json", {"method": "files", "train": [], "valid": [["music.npy/1", 0, RATE]], "test": []})
    sounds = reported(run, tmp_path / "out.html", "--likelihood", "False").sounds
    assert len(sounds) == 3
    run.write("run.json", {**run.read("run.json"), "data_dir": str(data / "music.npy")})
    again = reported(run, tmp_path / "out.html", "--likelihood", "False").sounds
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(sounds, again, strict=True))


def test_mistakes_are_told_in_one_sentence(tmp_path: Path, recordings: Path, capsys: Any) -> None:
    assert "logdir" in told(capsys, main, [tmp_path / "nowhere"], 2)
    run = make_run(tmp_path, recordings)
    assert "is a folder" in told(capsys, main, [run.folder, "--output", tmp_path], 2)
    assert "dur is 0 seconds" in told(capsys, main, [run.folder, "--seconds", 0], 2)
    assert "0 or more" in told(capsys, main, [run.folder, "--random_seed", -1], 2)


# All families --------------------------------------------------------------------------------------------------------

TRAINING = {
    "batch_size": 4, "jit": False, "num_steps": 3, "generate": False, "checkpoint_minutes": None, "val_frac": 0.25,
}  # fmt: skip
SMALL = {"hidden_size": 6, "num_layers": 1, "net": "baseline"}
CASCADE = {
    "model": "cascade",
    "tiers": [
        {"name": "slow", "generates": ["rmse"], "conditioned_on": ["midi"], "rate": 50, "seq_len": 4, **SMALL},
        {
            "name": "sound", "generates": ["audio"], "conditioned_on": ["rmse", "midi", "a"], "rate": 8000,
            "seq_len": 32, "q_levels": 32, **SMALL,
        },
    ],
    "controls": {"midi": {"units": "midiPitch"}, "a": {"units": "amplitude"}},
    "training": TRAINING,
}  # fmt: skip
VALUES = {
    "model": "conditioning", "generates": ["rmse"], "conditioned_on": ["midi"], "rate": 50, "seq_len": 4, **SMALL,
    "training": TRAINING,
}  # fmt: skip
MELNET = {
    "model": "melnet", "audio": {"n_fft": 128, "win_length": 128, "hop_length": 64, "mel_channels": 16}, "tiers": 2,
    "layers": [2, 1], "hidden_size": 6, "mixtures": 2, "seq_len": 16, "training": TRAINING,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "sounds", "words"),
    [
        (
            CASCADE,
            3,
            [
                "Checkpoints of slow",
                "Checkpoints of sound",
                "Requested: midi=60 to ",
                ", a=0.",
                "requested",
                "nats per value",
            ],
        ),
        (VALUES, 1, ["rmse", "nats per value"]),
        pytest.param(
            MELNET, 3, ["Checkpoints of tier1", "Checkpoints of tier2", "nats per value"], marks=pytest.mark.slow
        ),
    ],
    ids=["cascade", "values", "melnet"],
)
def test_every_family_and_every_stage(
    config: dict[str, Any], sounds: int, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    time = np.arange(1600) / 8000
    for number, pitch in enumerate((60, 64, 67, 72)):
        sound = 0.4 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time)
        write_wav(tmp_path / "tones" / f"{number}.wav", sound, 8000)
        rows = ["name,time,value", f"midi,0,{pitch}", f"a,0,{0.1 * (number + 1)}", "rmse,0,0.1", "rmse,0.2,0.3"]
        write_text(tmp_path / "tones" / f"{number}.csv", "\n".join([*rows, ""]))
    write_text(tmp_path / "a.config.json", json.dumps(config))
    command = ["--id", "a", "--data_dir", tmp_path / "tones", "--config_file", tmp_path / "a.config.json"]
    with untraced():
        assert call(train.main, [*command, "--logdir_root", tmp_path / "logdir", "--verbose", "False"]) == 0
        run = runs_of(tmp_path / "logdir" / "a")[-1]
        page = reported(run, tmp_path / "out.html", *(["--controls"] if config is CASCADE else []))
    assert len(page.sounds) == sounds
    for each in words:
        assert each in page.text, each
    if config is CASCADE:
        assert "rank corr." in page.text
