"""The notebooks run from top to bottom, at a small size; they hold settings and calls, no logic and no outputs."""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import re
import signal
import sys
import threading
import time
import zipfile
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from tierwave import notebook
from tierwave.controls.schema import Parameter, Schema
from tierwave.errors import UsageError
from tierwave.generation.request import Request
from tierwave.notebook.sliders import Drawing, Sliders, steps

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ("samplernn", "conditioning", "melnet")
RATE = 8000
TRAINING: dict[str, Any] = {"jit": False, "batch_size": 8, "output_file_dur": 0.2}
SMALL: dict[str, dict[str, Any]] = {
    "samplernn": {
        "PRESET": "tiny",
        "SAMPLE_RATE": RATE,
        "CHUNK_SECONDS": 0.2,
        "MAX_MINUTES": 0.02,
        "SOUND_SECONDS": 0.1,
        "CHANGES": ["dim=8", "emb_size=4", "seq_len=64"],
        "TRAINING": {**TRAINING, "checkpoint_steps": 1},
        "DEMO": {"sample_rate": RATE, "pitches": [64, 70], "loudnesses": [0.5], "seconds": 0.4},
    },
    "conditioning": {
        "SOUND_SECONDS": 0.4,
        "MAX_MINUTES": 1,
        "CHANGES": ["hidden_size=4", "num_layers=1", "seq_len=32"],
        "TRAINING": {**TRAINING, "num_steps": 3, "early_stopping_patience": None},
        "DEMO": {"sample_rate": RATE, "pitches": [64, 76], "loudnesses": [0.5, 1.0], "seconds": 0.3},
    },
    "melnet": {
        "PRESET": "melnet_tiny",
        "FRAMES": 8,
        "ITERATIONS": 3,
        "MAX_MINUTES": 1,
        "CHANGES": ["hidden_size=4", "layers=[1,1,1]", "mixtures=1", "seq_len=8"],
        "TRAINING": {**TRAINING, "num_steps": 2, "early_stopping_patience": None},
        "DEMO": {"sample_rate": RATE, "pitches": [64, 70], "loudnesses": [0.5], "seconds": 0.4},
    },
}


def read(name: str) -> Any:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def cells(book: Any, kind: str = "code") -> list[Any]:
    return [cell for cell in book.cells if cell.cell_type == kind]


def settings(book: Any) -> Any:
    (cell,) = [cell for cell in cells(book) if "parameters" in cell.metadata.get("tags", [])]
    return cell


# As they lie in the repository ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_valid_and_has_no_outputs(name: str) -> None:
    book = read(name)
    nbformat.validate(book)
    assert set(book.metadata) == {"kernelspec", "language_info", "colab"} and book.metadata.kernelspec.name == "python3"
    assert [cell.id for cell in cells(book) if cell.outputs or cell.execution_count is not None] == []
    assert sorted({tag for cell in book.cells for tag in cell.metadata.get("tags", [])}) == ["parameters"]
    text = (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    assert text == nbformat.writes(book) + "\n"  # what an editor would write, so that changes stay small


def test_these_are_all_notebooks_and_the_docs_name_them() -> None:
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(NOTEBOOKS)
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert [name for name in NOTEBOOKS if f"(../notebooks/{name}.ipynb)" not in page] == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_badge_leads_to_the_notebook_in_the_repository_that_is_installed(name: str) -> None:
    book = read(name)
    (repository,) = re.findall(r'REPOSITORY = "https://github\.com/([\w./-]+)"', json.dumps(book).replace('\\"', '"'))
    assert repository == "tierwave/tierwave"
    link = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}.ipynb"
    first = cells(book, "markdown")[0].source
    assert f"](https://colab.research.google.com/assets/colab-badge.svg)]({link})" in first
    assert len(re.findall("tierwave/tierwave", json.dumps(book))) == 2  # the badge, and what is installed


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_holds_settings_and_calls_and_no_logic(name: str) -> None:
    book = read(name)
    install, *others = cells(book)
    assert "%pip install" in install.source and "find_spec" in install.source
    for cell in others:
        assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE), cell.source
        for node in ast.walk(ast.parse(cell.source)):
            kinds = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.While, ast.Try, ast.If, ast.With, ast.Global)
            assert not isinstance(node, kinds), cell.source
    for node in ast.parse(settings(book).source).body:
        assert isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).isupper()
        ast.literal_eval(node.value)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_installed_where_it_is_missing_and_only_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    class Shell:
        def system(self, command: str) -> None:
            called.append(f"!{command}")

        def run_line_magic(self, magic: str, words: str) -> None:
            called.append(f"%{magic} {words}")

    code = TransformerManager().transform_cell(cells(read(name))[0].source)
    scope: dict[str, Any] = {"get_ipython": Shell}
    exec(code, scope)
    assert called == []
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(code, scope)
    # The clone brings configs/, which no package has; a kernel sees what is installed so only when it starts again.
    assert called == [
        "!git clone --quiet --depth 1 {REPOSITORY} tierwave-source",
        '%pip install --quiet --editable "./tierwave-source[notebooks]"',
    ]
    assert sys.path[-1] == os.path.abspath("tierwave-source")


# Run -----------------------------------------------------------------------------------------------------------------


# As the fixture `without_xla`, in a kernel: XLA compiles for longer than the small notebooks run.
UNCOMPILED = """
from conditioning.sampler import TierSampler as values
from melnet.sampler import TierSampler as spectrograms
from samplernn.sampler import Sampler as samples

for each in (samples, values, spectrograms):
    each.__init__.__kwdefaults__["jit"] = False
del each, samples, values, spectrograms
"""


@pytest.fixture
def jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, with a kernel of this Python, whatever kernels this machine has."""
    place = tmp_path / "jupyter" / "kernels" / "python3"
    place.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (place / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    startup = tmp_path / "ipythondir" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "uncompiled.py").write_text(UNCOMPILED)
    work = tmp_path / "work"
    work.mkdir()
    return work


def small(name: str) -> Any:
    """A notebook with small settings in the place of its own; those not named stay as they are."""
    book = read(name)
    cell = settings(book)
    values = {ast.unparse(node.targets[0]): node.value for node in ast.parse(cell.source).body}  # type: ignore[attr-defined]
    assert set(SMALL[name]) <= set(values), "a setting that the notebook does not have"
    own = {key: ast.literal_eval(value) for key, value in values.items()}
    cell.source = "\n".join(f"{key} = {value!r}" for key, value in {**own, **SMALL[name]}.items())
    return book


def client_of(book: Any, work: Path) -> NotebookClient:
    return NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(work)}})


def printed(book: Any) -> str:
    outputs = [output for cell in cells(book) for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def shown(book: Any, kind: str) -> list[str]:
    """What cells show of a kind, such as image/png."""
    data = [output.data for cell in cells(book) for output in cell.outputs if "data" in output]
    return [each[kind] for each in data if kind in each]


def players(book: Any) -> list[tuple[np.ndarray, int]]:
    """The sounds that can be played, as they are embedded."""
    embedded = re.findall(r"data:audio/wav;base64,([^\"]+)", "".join(shown(book, "text/html")))
    return [soundfile.read(io.BytesIO(base64.b64decode(each))) for each in embedded]


def checked_pictures(book: Any) -> int:
    pictures = [base64.b64decode(each) for each in shown(book, "image/png")]
    assert all(each.startswith(b"\x89PNG") and len(each) > 3000 for each in pictures)
    return len(pictures)


def kill_when_there_is_a_checkpoint(client: NotebookClient, work: Path) -> threading.Thread:
    """What a disconnect does: the kernel is gone in the middle of training."""

    def wait_and_kill() -> None:
        until = time.monotonic() + 500
        pattern = "tierwave-work/logdir/mine/*/model.ckpt-step*.index"
        while time.monotonic() < until and len(list(work.glob(pattern))) < 2:
            time.sleep(0.05)
        assert client.km is not None
        os.kill(client.km.provisioner.pid, signal.SIGKILL)  # type: ignore[union-attr]

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a kernel is killed by a signal")
@pytest.mark.timeout(900)
def test_samplernn_goes_on_after_a_disconnect(jupyter: Path) -> None:
    first = small("samplernn")
    settings(first).source += "\nMAX_MINUTES = 10"
    client = client_of(first, jupyter)
    killer = kill_when_there_is_a_checkpoint(client, jupyter)
    with pytest.raises(DeadKernelError):
        client.execute()
    killer.join()
    book = small("samplernn")
    client_of(book, jupyter).execute()
    told = printed(book)
    going_on = [int(step) for step in re.findall(r"Going on from .* \(step (\d+)\)", told)]
    assert len(going_on) == 2 and 1 <= going_on[0] < going_on[1]  # after the kill, and in the cell that goes on
    assert "There are no recordings" in told and told.count("Stopped: max_minutes (0.02) is over") == 2
    assert "2 chunks" in told and "To beat on held-out sound" in told
    sounds = players(book)
    # A recording, a sound of training in each of two cells, four temperatures, a seed that goes on.
    assert len(sounds) == 8 and {rate for _, rate in sounds} == {RATE}
    assert [len(sound) for sound, _ in sounds[-5:]] == [RATE // 10] * 5
    assert len({sound.tobytes() for sound, _ in sounds[-5:]}) == 5
    assert checked_pictures(book) == 1 + 2 * 2 + 5  # beside each sound one, and the curves of two cells
    assert {path.name for path in (jupyter / "tierwave-work/sounds").glob("[!.]*")} == {
        f"mine_{n}.wav" for n in range(4)
    }
    assert (jupyter / "tierwave-work/sounds.zip").exists()
    with zipfile.ZipFile(jupyter / "tierwave-work/mine.zip") as network:
        assert any(each.endswith("README.md") for each in network.namelist())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_conditioning_is_trained_played_and_measured(jupyter: Path) -> None:
    book = small("conditioning")
    client_of(book, jupyter).execute()
    told = printed(book)
    assert "demo_inst00.00_p64.00_a00.50.wav {'inst': 0.0, 'p': 64.0, 'a': 0.5}" in told
    assert "p midiPitch from 64.0 76.0" in told and "times real time" in told
    assert len(re.findall(r"^p: ([\d.]+ cents off \(\d+ % of|none of) its frames voiced", told, re.MULTILINE)) == 2
    # Of the sliders, steps, break-points, the drawn curve, and played live.
    lengths = [len(sound) for sound, _ in players(book)]
    assert lengths[-5:] == [round(0.4 * RATE)] * 4 + [16 * (RATE // 8)]
    assert checked_pictures(book) >= 7
    views = shown(book, "application/vnd.jupyter.widget-view+json")
    assert len(views) >= 3  # upload, sliders, drawing
    played = jupyter / "tierwave-work" / "played"
    assert sorted(path.name for path in played.glob("[!.]*")) == ["break-points.wav", "drawn.wav", "steps.wav"]
    assert (jupyter / "tierwave-work" / "take.csv").read_text().count("\n") > 16


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_melnet_is_inverted_trained_and_sampled(jupyter: Path) -> None:
    book = small("melnet")
    client_of(book, jupyter).execute()
    told = printed(book)
    assert "frames x channels, 62.5 frames per second" in told
    assert re.search(r"Stage tier3 \(3 of 3\)", told)
    sounds = players(book)
    # A recording, two inversions, two upsamplings of three tiers, three from nothing.
    assert len(sounds) == 1 + 2 + 2 + 3
    # Fewer iterations than any would take, and yet the inversions are of the recording's length and level.
    recording, back = sounds[0][0], sounds[1][0]
    assert abs(len(recording) - len(back)) < 128 and 0.3 < np.std(back) / np.std(recording) < 3
    # Beside each sound one, the spectrogram, two of the tiers, and the curve of training.
    assert checked_pictures(book) == len(sounds) + 1 + 2 + 1


# What they call ------------------------------------------------------------------------------------------------------


class Stream:
    """A stream that sounds like its first control: so many per mille of full scale."""

    sample_rate = RATE

    def __init__(self, request: Request) -> None:
        self.request = request

    def duration(self) -> float:
        return self.request.seconds

    def render(self, samples: int) -> np.ndarray:
        (controls,) = self.request.controls
        times = np.arange(samples) / RATE
        return next(iter(controls.values())).at(times).astype(np.float32)[None] / 1000

    def curves(self, seconds: float, voice: int = 0) -> dict[str, Any]:
        return {}

    def stages(self, voice: int = 0) -> dict[str, Any]:
        return {}


class Trained:
    """A run that is steered by a pitch, a loudness and one of two instruments, and keeps what it was asked."""

    schema = Schema(
        parameters=(
            Parameter(name="p", units="midiPitch", lo=60.0, hi=72.0),
            Parameter(name="a", lo=0.1, hi=0.9),
            Parameter(name="inst", lo=0.0, hi=2.0, categories=("oboe", "horn", "flute")),
        )
    )
    values = {"p": [60.0, 72.0], "a": [0.1, 0.9], "inst": [0.0, 2.0]}
    config = None

    def __init__(self, names: tuple[str, ...] = ("p", "a", "inst")) -> None:
        self.family = SimpleNamespace(steerable=lambda config: list(names))
        self.run = SimpleNamespace(folder="logdir/x")
        self.asked: list[Request] = []

    def stream(self, request: Request) -> Stream:
        self.asked.append(request)
        return Stream(request)


def test_sliders_stand_over_the_trained_range_and_say_what_is_played() -> None:
    trained: Any = Trained()
    board = Sliders(trained, seconds=0.5, temperature=0.8)
    p, a, inst = board.parameters.values()
    assert (p.min, p.max, a.min, a.max) == (60.0, 72.0, 0.1, 0.9)
    assert p.description == "p (midiPitch)" and a.description == "a"
    assert inst.options == (("oboe", 0.0), ("flute", 2.0))  # a horn was never heard
    board.set(p=70, inst="flute")
    assert {name: track.values.tolist() for name, track in board.controls().items()} == {
        "p": [70.0],
        "a": [0.5],
        "inst": [2.0],
    }
    glide = board.controls(p="60:72")["p"]
    assert glide.times.tolist() == [0.0, 0.5] and glide.values.tolist() == [60.0, 72.0]
    board.top_k.value, board.seed.value = 5, 7
    board.button.click()
    assert board.sound is not None and board.sound.seconds == 0.5
    np.testing.assert_allclose(board.sound.audio, 0.07, rtol=1e-6)
    heard, _ = soundfile.read(io.BytesIO(board.player.value))
    np.testing.assert_allclose(heard, 0.07, atol=1e-4)
    assert bytes(board.picture.value).startswith(b"\x89PNG")
    (asked,) = trained.asked
    assert (asked.temperature, asked.top_k, asked.random_seed, asked.seconds) == ([0.8], 5, 7, 0.5)
    board.top_k.value = 0
    board.play()
    assert trained.asked[1].top_k is None
    for wrong in ({"q": 1}, {"inst": "drum"}, {"p": "high"}):
        with pytest.raises(UsageError):
            board.set(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="nothing to slide"):
        Sliders(Trained(()))  # type: ignore[arg-type]


def test_a_drawn_curve_is_a_track_of_its_parameter() -> None:
    drawing = Drawing(Trained.schema.of("p"), seconds=2.0, points=9)
    drawing.draw([60, 72])
    track = drawing.track()
    assert track.name == "p" and track.times.tolist() == np.linspace(0, 2, 9).tolist()
    np.testing.assert_allclose(track.values, np.linspace(60, 72, 9), atol=12 / 500)  # a slider's step
    drawing.draw([0.0])
    assert set(drawing.track().values) == {60.0}  # within what was trained on
    drawing.sliders[4].value = 66.0  # by the mouse
    assert drawing.track().at(1.0) == 66.0
    for wrong in ({"points": 1}, {"seconds": 0.0}):
        with pytest.raises(UsageError):
            Drawing(Trained.schema.of("p"), **wrong)  # type: ignore[arg-type]


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=9), st.floats(0.1, 100))
def test_steps_hold_each_value_for_the_same_time(values: list[float], seconds: float) -> None:
    track = steps("p", values, seconds)
    inside = (np.arange(len(values))[:, None] + [0.001, 0.5, 0.999]) * seconds / len(values)
    np.testing.assert_array_equal(track.at(inside), np.repeat(np.array(values)[:, None], 3, axis=1))
    assert (track.times[0], track.at(10 * seconds)) == (0.0, values[-1])


def test_a_sound_is_played_as_loud_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(notebook, "display", seen.append)
    quiet = 0.01 * np.sin(np.arange(RATE) / 10).astype(np.float32)
    notebook.listen(quiet, RATE, "quiet").show()
    heard, rate = soundfile.read(io.BytesIO(seen[0].data))
    assert rate == RATE and np.abs(heard - quiet).max() < 1e-4
    notebook.listen(300 * quiet, RATE).show()
    heard, _ = soundfile.read(io.BytesIO(seen[2].data))
    np.testing.assert_allclose(heard, quiet / quiet.max(), atol=1e-3)  # what is too loud for a player, and no other
    path = notebook.listen(quiet, RATE).save(tmp_path / "new" / "x.wav")
    assert notebook.listen(path).title == "x.wav" and len(notebook.listen(path, 2 * RATE).audio) == 2 * RATE
    with pytest.raises(UsageError, match="no sample rate"):
        notebook.listen(quiet)


def test_play_takes_curves_in_words(tmp_path: Path) -> None:
    trained: Any = Trained()
    sound = notebook.play(trained, "p=60:72 a=0.5 inst=horn", seconds=0.1, title="x", top_p=0.9)
    np.testing.assert_allclose(sound.audio, np.linspace(0.06, 0.072, RATE // 10), atol=2e-5)
    assert trained.asked[0].top_p == 0.9 and sound.controls["inst"].values.tolist() == [1.0]
    assert sound.picture().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="no control q"):
        notebook.play(trained, "q=1")


class Colab:
    """Stands in for the module google.colab."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.drive = SimpleNamespace(mount=lambda place: self.done.append(f"mount {place}"))
        uploaded = {"take 1.wav": b"RIFF", "../../evil.wav": b"1", "a\\b.wav": b"2"}
        self.files = SimpleNamespace(upload=lambda: uploaded, download=lambda path: self.done.append(f"down {path}"))


def test_files_go_in_and_out_in_colab_and_in_jupyter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert notebook.colab() is None and notebook.workspace(on_drive=True) == Path("tierwave-work")
    assert Path("tierwave-work").is_dir()
    with pytest.raises(UsageError, match="hides the package"):
        notebook.workspace("tierwave")
    button = notebook.upload("in")
    about = {"type": "audio/wav", "size": 4, "last_modified": datetime(2026, 1, 1)}
    button.value = ({"name": "x.wav", "content": memoryview(b"RIFF"), **about},)
    assert (tmp_path / "in" / "x.wav").read_bytes() == b"RIFF"
    assert notebook.download("in").path == "in.zip" and (tmp_path / "in.zip").exists()
    colab = Colab()
    monkeypatch.setitem(sys.modules, "google.colab", colab)  # type: ignore[arg-type]
    monkeypatch.setattr(notebook, "DRIVE", str(tmp_path / "drive"))
    assert notebook.workspace("my-work") == Path("my-work") and colab.done == []
    assert notebook.workspace("my-work", on_drive=True) == tmp_path / "drive" / "MyDrive" / "my-work"
    notebook.upload("in")
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"x.wav", "take 1.wav", "evil.wav", "b.wav"}
    notebook.download(tmp_path / "in" / "x.wav")
    assert colab.done == [f"mount {tmp_path / 'drive'}", f"down {tmp_path / 'in' / 'x.wav'}"]
    assert "3 files are in in." in capsys.readouterr().out


def test_presets_are_those_of_the_repository_and_tones_stand_in_for_recordings(tmp_path: Path) -> None:
    assert notebook.preset("tiny") == json.loads((ROOT / "configs" / "tiny.config.json").read_text())
    with pytest.raises(UsageError, match="there is no preset huge in .*, but cascade, .*tiny"):
        notebook.preset("huge")
    options: dict[str, Any] = {"sample_rate": RATE, "pitches": [64], "loudnesses": [0.5], "seconds": 0.2}
    for _ in range(2):  # the notebook may be run again
        made = notebook.recordings(tmp_path / "new", **options)
        assert made == tmp_path / "new-demo" and len(list(made.glob("*.wav"))) == 3
        assert not list((tmp_path / "new").glob("*.wav"))
    soundfile.write(tmp_path / "own.wav", np.zeros(9), RATE)
    assert notebook.recordings(tmp_path, **options) == tmp_path and not (tmp_path / "params.csv").exists()
