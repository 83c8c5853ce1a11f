"""generate.py on the engine: without TensorFlow, with and without a cache of numba's, and from damaged weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import soundfile

import generate
import samplernn
from commands import call, told
from samplernn.config import Config
from samplernn.stream import SampleStream
from tierwave.cli import hear
from tierwave.engine.voices import Voices
from tierwave.generation.load import MANY, Trained, load_run, weights_for
from tierwave.generation.request import Request
from tierwave.generation.voices import SampledVoices
from tierwave.nn.runtime import has_gpu
from tierwave.runs.imported import write_imported

ROOT = Path(__file__).resolve().parents[2]
WATCHED = ("tensorflow", "keras", "librosa", "matplotlib", "natsort", "tierwave.analysis.plots")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras.utils.set_random_seed(1)
    config = Config(dim=8, seq_len=64, emb_size=4, num_rnn_layers=1)
    folder = tmp_path_factory.mktemp("log")
    made = write_imported(samplernn.FAMILY.build(config), config, "a", folder, sample_rate=8000, source=folder)
    return made.run.folder


def words(run: Path, output: Path, *more: str) -> list[str]:
    paths = ["--checkpoint_path", str(run), "--output_path", str(output)]
    return [*paths, "--dur", "0.02", "--random_seed", "1", *more]


def elsewhere(run: Path, output: Path, *more: str, **environment: str) -> str:
    """The same in a process of its own; what it said, and which of the watched modules it imported."""
    code = (
        "import generate, sys; code = generate.main(sys.argv[1:]); "
        f"print([name for name in {WATCHED!r} if name in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words(run, output, *more)],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_sound_is_generated_without_tensorflow(run: Path, tmp_path: Path) -> None:
    assert "[]" in elsewhere(run, tmp_path / "a.wav").splitlines()
    assert call(generate.main, words(run, tmp_path / "b.wav", "--weights", "tensorflow")) == 0
    ours, theirs = (soundfile.read(tmp_path / name)[0] for name in ("a.wav", "b.wav"))
    assert len(ours) == 160 and (ours == theirs).all()
    assert json.loads((tmp_path / "a.json").read_text())["weights"] == "auto"


def test_a_run_is_played_without_tensorflow(run: Path) -> None:
    code = (
        "import sys, tierwave.play.app; from pathlib import Path; "
        "from tierwave.play.instrument import Instrument; "
        "played = Instrument(Path(sys.argv[1])); played.warm_up(); assert played.document()['speed'] > 0; "
        f"print([name for name in {WATCHED!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_machine_without_a_cache_compiles_each_time_and_says_so(run: Path, tmp_path: Path) -> None:
    """numba's cache lies beside the source, or in the home folder: neither can be written to here."""
    copy = tmp_path / "program"
    shutil.copytree(ROOT / "tierwave", copy / "tierwave", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("samplernn", "generate.py"):
        source = ROOT / name
        shutil.copytree(source, copy / name) if source.is_dir() else shutil.copy(source, copy / name)
    code = "import generate, sys; sys.exit(generate.main(sys.argv[1:]))"
    environment = {**os.environ, "XDG_CACHE_HOME": str(copy / "a file" / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("NUMBA_CACHE_DIR", None)
    said = []
    for name in ("a.wav", "b.wav", "c.wav"):
        if name == "c.wav":  # files where folders would have to be, which keep out an administrator too
            (copy / "a file").write_text("")
            for cache in copy.rglob("__pycache__"):
                shutil.rmtree(cache)
            for folder in ("engine", "runs"):
                (copy / "tierwave" / folder / "__pycache__").write_text("")
        done = subprocess.run(
            [sys.executable, "-c", code, *words(run, tmp_path / name)],
            cwd=copy, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout + done.stderr)
    assert ["Compiling" in text for text in said] == [True, False, True]
    assert "at each start" not in said[0]
    assert "at each start" in said[2]


@pytest.mark.parametrize("command", ["generate", "hear"])
def test_nothing_is_compiled_for_what_is_refused(
    command: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared: list[Trained] = []
    monkeypatch.setattr(Trained, "prepare", lambda trained, say: prepared.append(trained))
    if command == "generate":
        assert "nothing to steer" in told(capsys, generate.main, words(run, tmp_path / "a.wav", "--control", "p=1"), 2)
        assert prepared == []
        assert call(generate.main, words(run, tmp_path / "a.wav")) == 0 and len(prepared) == 1
    else:
        assert "nothing to ask it for" in told(capsys, hear.main, [run, "--output_dir", tmp_path / "a"], 2)
        assert prepared == []


@pytest.mark.slow
def test_two_processes_share_a_cache(run: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    processes = [
        subprocess.Popen(
            [sys.executable, "generate.py", *words(run, tmp_path / f"{number}.wav")], cwd=ROOT, env=environment
        )
        for number in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    sounds = [soundfile.read(tmp_path / f"{number}.wav")[0] for number in range(2)]
    assert (sounds[0] == sounds[1]).all()


def test_the_engine_plays_what_keras_holds_unless_tensorflow_is_asked_for(run: Path) -> None:
    sounds = []
    for weights, kind in ((None, Voices), ("tensorflow", SampledVoices)):
        stream = load_run(run, weights=weights).stream(Request(random_seed=3))
        assert isinstance(stream, SampleStream) and isinstance(stream._voices, kind)
        sounds.append(stream.render(200))
    np.testing.assert_array_equal(*sounds)


def test_many_sounds_are_made_on_a_gpu() -> None:
    looked: list[int] = []

    def there() -> bool:
        looked.append(1)
        return True

    assert weights_for("auto", MANY, there) == "tensorflow" and looked == [1]
    assert weights_for("auto", MANY, lambda: False) == "auto"
    assert (weights_for("auto", MANY - 1, there), weights_for("int8", MANY, there)) == ("auto", "int8")
    assert looked == [1]  # TensorFlow, which takes seconds, was not asked in vain


def test_tensorflow_is_asked_for_a_gpu_only_where_a_driver_is(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = ["GPU:0"]
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind=None: devices)
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert not has_gpu()
    monkeypatch.setattr("shutil.which", lambda _: "nvidia-smi")
    assert has_gpu()
    devices.clear()
    assert not has_gpu()


def damaged(run: Path, folder: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(run, folder / run.name))


def test_damaged_weights_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = damaged(run, tmp_path)
    (data,) = copy.glob("*.data-00000-of-00001")
    wrong = bytearray(data.read_bytes())
    wrong[len(wrong) // 3] ^= 8
    data.write_bytes(wrong)
    assert "is damaged or cut short" in told(capsys, generate.main, words(copy, tmp_path / "x.wav"), 1)
    assert not (tmp_path / "x.wav").exists()


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
def test_weights_that_are_no_numbers_are_refused(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(dim=8, seq_len=64, emb_size=4, num_rnn_layers=1)
    model = samplernn.FAMILY.build(config)
    kernel = model.sample_tier.hidden[1].kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    made = write_imported(model, config, "a", tmp_path, sample_rate=8000, source=tmp_path)
    asked = words(made.run.folder, tmp_path / "x.wav", "--weights", weights)
    assert "weights that are not finite" in told(capsys, generate.main, asked, 1)


def test_a_checkpoint_of_another_network_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = damaged(run, tmp_path)
    config = copy / "run.config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dim": 16}))
    assert "another architecture" in told(capsys, generate.main, words(copy, tmp_path / "x.wav"), 1)
