"""Every command and every Python snippet in README.md and docs/ is run, in the order of its page, at a small size.

A page is worked through in a folder of its own, in which made-up recordings lie under the names that the pages use.
What a run costs is cut by words that are appended to the documented ones (`SMALLER`). A run that a page uses and does
not train comes from the page that trains it. What cannot be run here is named, with the reason, in `EXCEPTIONS`; a
command that is neither fails.
"""

from __future__ import annotations

import configparser
import contextlib
import functools
import gc
import hashlib
import io
import json
import logging
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import soundfile
import tensorboard.program
import tensorflow as tf
from markdown_it import MarkdownIt

import train
import tune
from tierwave.generation import load as trained

pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # of runpy

ROOT = Path(__file__).resolve().parents[2]

# Commands that are not run, by how they begin, and why. Those with our own flags are still parsed.
EXCEPTIONS = {
    "python3 -m venv .venv": "makes an environment; .ci/run does",
    ". .venv/bin/activate": "concerns the shell",
    "python -m tierwave fetch": "a network; tests/data/test_fetch.py has a server of its own",
    "ssh ": "another machine",
    "python train.py --id birds --data_dir /shared/birds": "several machines; two processes are in "
    "tests/training/test_devices.py",
    "python train.py --id birds --data_dir birds --cluster": "Ray; tests/system/test_cluster.py starts a cluster",
    "python tune.py --role": "several processes; tests/search/test_tune_cli.py has them",
}
# Snippets of Python that are not run, by a line that they have.
SNIPPETS = {
    "import numpy, torch": "PyTorch is no dependency; tests/conditioning/test_import_weights.py reads what it makes"
}

# What makes a network small, by the key `model` of its config.
KEYS = {
    "samplernn": "dim=4 emb_size=2 num_rnn_layers=1 seq_len=64",
    "conditioning": "hidden_size=4 num_layers=1 seq_len=32",
    "cascade": "tiers.0.hidden_size=4 tiers.0.num_layers=1 tiers.0.seq_len=8 tiers.1.hidden_size=4 "
    "tiers.1.num_layers=1 tiers.1.seq_len=8 tiers.2.hidden_size=4 tiers.2.num_layers=1 tiers.2.seq_len=32",
    "melnet": "tiers=2 layers=[1,1] hidden_size=4 mixtures=1 seq_len=8 audio.mel_channels=20",
}
# Words that are appended, by program, or by a program and a flag that it is called with.
SMALLER = {
    "train.py": "--num_steps 2 --batch_size 4 --optimizer sgd --jit False --generate False --max_minutes 5",
    "generate.py": "--dur 0.1",
    "generate.py --frames": "--frames 8 --inversion griffin_lim",
    "generate.py --text": "--frames 8 --inversion griffin_lim",
    "tune.py": "--max_trials 2 --num_epochs 1",
    "tierwave demo": "--seconds 0.3",
    "tierwave evaluate --controls": "--dur 0.2",
    "tierwave controls extract": "--jobs 1",
    "tierwave play": "--port 0 --osc 0",  # ports that are free
    "tierwave export": "--dur 0.1",
    "tierwave report": "--seconds 0.2",
    "bench.presets": "--steps 1",
}


# The pages ------------------------------------------------------------------------------------------------------------


VARIABLE = re.compile(r"[A-Z_]+=")


@dataclass(frozen=True)
class Command:
    """A shell command as it is documented, on one line, or a snippet of Python."""

    where: str  # page and line
    text: str
    python: bool = False

    @property
    def words(self) -> list[str]:
        """Without the variables that are set before it."""
        words = shlex.split(self.text, comments=True)
        return words[next(i for i, word in enumerate(words) if not VARIABLE.match(word)) :]

    @property
    def environment(self) -> dict[str, str]:
        words = shlex.split(self.text, comments=True)
        return dict(word.split("=", 1) for word in words[: len(words) - len(self.words)])


SHELL, PYTHON, OTHER = {"sh", "bash", "shell", "console"}, {"python", "py"}, {"text", "json", "csv", "yaml", "toml"}
PROGRAMS = {"python", "python3", "make", "pip", "tensorboard", ".", "git", "cd", "docker", "conda", "jupyter", "ray"}


def commands_of(page: Path) -> list[Command]:
    """All commands and snippets of a page, in order; AssertionError for a block of which it is not clear what it is."""
    found = []
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type not in ("fence", "code_block"):
            continue
        assert token.map is not None
        where = f"{page.relative_to(ROOT)}:{token.map[0] + 1}"
        language = token.info.split()[0] if token.info.strip() else ""
        if language in PYTHON:
            found.append(Command(where, token.content, python=True))
        elif language in SHELL or (not language and _looks_like_shell(token.content)):
            text = re.sub(r"[ \t]*\\\n\s*", " ", token.content)
            found += [Command(where, line.strip()) for line in text.splitlines() if shlex.split(line, comments=True)]
        elif language not in OTHER and not language.startswith("{"):
            found.append(Command(where, token.content, python=True))
            compile(token.content, where, "exec")  # an indented block is shell or Python; all else is fenced
    return found


def _looks_like_shell(text: str) -> bool:
    lines = [shlex.split(line, comments=True) for line in re.sub(r"\\\n", " ", text).splitlines()]
    words = next((words for words in lines if words), [])
    return next((word for word in words if not VARIABLE.match(word)), "") in PROGRAMS


def pages() -> list[Path]:
    """README, then docs/ in the order in which index.md has them."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    names = [name for tree in re.findall(r"```{toctree}(.*?)```", index, re.DOTALL) for name in tree.split()]
    listed = [ROOT / "docs" / f"{name}.md" for name in names if (ROOT / "docs" / f"{name}.md").exists()]
    others = sorted(set((ROOT / "docs").glob("*.md")) - set(listed))
    return [ROOT / "README.md", *listed, *others]


def exception(command: Command) -> str | None:
    """How the entry begins that excepts a command."""
    if command.python:
        return next((line for line in SNIPPETS if line in command.text), None)
    return next((start for start in EXCEPTIONS if shlex.join(command.words).startswith(start)), None)


# The folder in which a page is worked through -------------------------------------------------------------------------


def _tone(seconds: float, rate: int, pitch: float, seed: int = 0) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    wave = sum(np.sin(2 * np.pi * frequency * number * time) / number for number in range(1, 5))
    return 0.25 * wave * np.sin(np.pi * time / seconds) + 0.003 * np.random.default_rng(seed).standard_normal(len(time))


def _write(path: Path, sound: np.ndarray, rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate)


def furnish(folder: Path) -> None:
    """Recordings under the names that the pages use, and what lies in the folder of the project."""
    programs = ("train.py", "generate.py", "chunk_audio.py", "tune.py")
    for name in (*programs, "configs", "default.config.json", "bench", "examples"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("path/to/recordings", "recordings", "other/recordings"):
        _write(folder / name / "long.wav", _tone(8.2, 16000, 60), 16000)
        _write(folder / name / "other rate.flac", _tone(2.2, 11025, 67), 11025)
    _write(folder / "path/to/recording.wav", _tone(2.5, 22050, 64), 22050)
    for instrument in ("reed_acoustic_000", "brass_acoustic_018"):
        for pitch in (70, 75, 79):
            _write(folder / "nsynth" / f"{instrument}-{pitch:03}-127.wav", _tone(3.2, 16000, pitch), 16000)
    words = ("zero", "one", "two", "three")
    rows = []
    for number, word in enumerate(words):
        for take in range(8):  # from 30 recordings on they are held out whole, as networks that read need them
            name = f"{number}_george_{take}.wav"
            _write(folder / "digits" / name, _tone(0.4, 8000, 50 + number, 8 * number + take), 8000)
            rows.append(f"{name},{word}")
    (folder / "digits" / "metadata.csv").write_text("\n".join(["filename,text", *rows, ""]))
    for number in range(3):  # the made-up trainings make no sounds
        _write(folder / "generated" / "birds" / f"birds_e={number}_t=0.75.wav", _tone(0.5, 16000, 60 + number), 16000)
    (folder / "take.csv").write_text("name,time,value\ninst,0,0\np,0,70\np,2,79\n")
    (folder / "datasets" / "music").mkdir(parents=True)
    np.save(folder / "datasets" / "music" / "music_train.npy", np.stack([_tone(0.5, 16000, 60 + i) for i in range(8)]))
    _write(folder / "humpback_whale.ogg", _tone(1.5, 16000, 62), 16000)


def smaller(words: Sequence[str], folder: Path) -> list[str]:
    """A command of ours with what makes it small appended, inside its --set where it has one."""
    words = list(words)
    program = words[2] if words[1] == "-m" else words[1]
    program += f" {words[3]}" if program == "tierwave" else ""
    if keys := _small_keys(program, words, folder):
        if "--set" in words:
            after = words.index("--set") + 1
            end = next((i for i in range(after, len(words)) if words[i].startswith("--")), len(words))
            words[end:end] = keys
        else:
            words += ["--set", *keys]
    names = [f"{program} {word}" for word in words[2:]]
    return words + SMALLER.get(next((name for name in names if name in SMALLER), program), "").split()


def _small_keys(program: str, words: Sequence[str], folder: Path) -> list[str]:
    if program == "tune.py":
        return ["training.jit=False", "training.num_steps=2", "training.batch_size=4", "emb_size=4", "seq_len=64"]
    if program != "train.py" or ("--init_from" in words and "--config_file" not in words):  # then it is small already
        return []
    config = words[words.index("--config_file") + 1] if "--config_file" in words else "default.config.json"
    return KEYS[json.loads((folder / config).read_text()).get("model", "samplernn")].split()


@dataclass
class Desk:
    """A page that is being worked through."""

    page: Path
    folder: Path
    provide: Callable[[str, Desk], None]  # brings logdir/NAME from the page that trains it
    commands: list[Command] = field(default_factory=list)
    done: int = 0
    names: dict[str, object] = field(default_factory=lambda: {"__name__": "snippet"})

    def __post_init__(self) -> None:
        self.commands = commands_of(self.page)
        furnish(self.folder)

    def work(self, until: int | None = None) -> None:
        """Run the commands up to and with number `until`, all by default."""
        while self.done < len(self.commands) and (until is None or self.done <= until):
            command = self.commands[self.done]
            self.done += 1
            self.run(command)

    def run(self, command: Command) -> None:
        if exception(command) is not None:
            return
        used = re.findall(r"logdir/([\w-]+)", command.text) or ["birds"] * ("--logdir logdir" in command.text)
        for name in used:
            if not (self.folder / "logdir" / name).exists() and f"--id {name}" not in command.text:
                self.provide(name, self)
        began = time.process_time()
        with _inside(self.folder):
            if command.python:
                exec(compile(command.text, command.where, "exec"), self.names)
            else:
                _run_shell(command, self.folder)
        spent = time.process_time() - began
        print(f"{spent:5.1f} s of CPU  {command.where}  {command.text[:100]}")  # pytest -rP shows it


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _run_shell(command: Command, folder: Path) -> None:
    words = command.words
    program = words[0]
    if words[:4] == ["python", "-m", "tierwave", "play"]:
        _serve(command, smaller(words, folder))
    elif program == "python":
        _run_python(command, smaller(words, folder))
    elif program == "make":
        done = subprocess.run(["make", "-n", "-C", str(ROOT), *words[1:]], capture_output=True, text=True)
        assert done.returncode == 0, f"{command.where}: {command.text}\n{done.stderr}"
    elif program == "pip":
        assert words[1] == "install", f"{command.where}: {command.text}"
        for requirement in (word for word in words[2:] if not word.startswith("-")):
            _check_requirement(command, requirement)
    elif program == "tensorboard":
        _inspect(command, words)
    else:
        raise AssertionError(f"{command.where}: {command.text}\n  run it here, or except it with a reason")


def _inspect(command: Command, words: list[str]) -> None:
    """TensorBoard itself takes the words, and tells what it would show."""
    output = io.StringIO()
    board = tensorboard.program.TensorBoard()
    board.configure([*words, "--inspect"])
    with contextlib.redirect_stdout(output):
        code = board.main()
    assert code == 0 and "Event statistics" in output.getvalue(), f"{command.where}: {output.getvalue()}"


def _run_python(command: Command, words: list[str]) -> None:
    output = io.StringIO()
    # A training of two steps is not traced first, and a trial of a search is one.
    code = _called(words, output, eager=words[1] in ("train.py", "tune.py"))
    assert code in (0, None), f"{command.where}: {shlex.join(words)}\n{output.getvalue()[-2000:]}"


def _called(words: list[str], output: io.StringIO, *, eager: bool = False) -> object:
    """The exit code of a Python command, run in this process."""
    before = sys.argv
    tf.config.run_functions_eagerly(eager)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            if words[1] == "-m":
                sys.argv = [words[2], *words[3:]]
                runpy.run_module(words[2], run_name="__main__", alter_sys=True)
            else:
                sys.argv = words[1:]
                runpy.run_path(words[1], run_name="__main__")
    except SystemExit as left:
        return left.code
    finally:
        sys.argv = before
        tf.config.run_functions_eagerly(False)
    return None


class Said(io.StringIO):
    """What a server prints. From the line with its address on, in a thread: its page is opened, and Ctrl-C pressed."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []  # what came of the page
        self.visits: list[threading.Thread] = []

    def write(self, text: str) -> int:
        if not self.visits and (address := re.search(r"http://[\d.\w]+:\d+/?", text)):
            self.visits.append(threading.Thread(target=self._visit, args=(address[0],)))
            self.visits[0].start()
        return super().write(text)

    def _visit(self, address: str) -> None:
        try:
            with urllib.request.urlopen(address, timeout=30) as page:
                self.opened.append(f"{page.status} {page.headers['content-type']}")
        finally:
            os.kill(os.getpid(), signal.SIGINT)


def _serve(command: Command, words: list[str]) -> None:
    """A command that goes on until it is stopped: the page that it names is there, and Ctrl-C ends it.

    In this process; tests/play/test_play.py has one of its own."""
    output = Said()
    with mock.patch.object(logging, "shutdown"):  # its logging would close streams that pytest needs, through absl's
        code = _called(words, output)
    gc.unfreeze()  # which it leaves to the end of its process
    for visit in output.visits:
        visit.join()
    told = f"{command.where}: {shlex.join(words)}\n{output.getvalue()[-2000:]}"
    assert code in (0, 130), told
    assert output.opened and re.match("200 text/html", output.opened[0]), told


@functools.lru_cache
def _setup() -> configparser.ConfigParser:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup


def _check_requirement(command: Command, requirement: str) -> None:
    """`.` and `.[extra]` are ours; anything else belongs to an extra."""
    extras = _setup()["options.extras_require"]
    if own := re.fullmatch(r"\.(?:\[([\w,]+)\])?", requirement):
        missing = [name for name in (own[1] or "").split(",") if name and name not in extras]
        assert not missing, f"{command.where}: there is no extra {missing}"
    else:
        name = re.match(r"[\w-]+(\[\w+\])?", requirement)
        assert name and name[0] in "\n".join(extras.values()), f"{command.where}: {requirement} is in no extra"


# The tests ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def desks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Desk]:
    opened: dict[Path, Desk] = {}

    def open_desk(page: Path) -> Desk:
        if page not in opened:
            opened[page] = Desk(page, tmp_path_factory.mktemp(page.stem), provide)
        return opened[page]

    def provide(name: str, asking: Desk) -> None:
        for page in pages():
            for number, command in enumerate(commands_of(page)):
                if not command.python and re.search(rf"--id {re.escape(name)}( |$)", command.text):
                    if page == asking.page:  # it comes later on the page that asks
                        continue
                    desk = open_desk(page)
                    desk.work(until=number)
                    shutil.copytree(desk.folder / "logdir" / name, asking.folder / "logdir" / name)
                    words = command.words
                    corpus = words[words.index("--data_dir") + 1] if "--data_dir" in words else None
                    if corpus and not (asking.folder / corpus).exists():
                        shutil.copytree(desk.folder / corpus, asking.folder / corpus)
                    return
        raise AssertionError(f"{asking.page.name} uses logdir/{name}, which no page trains")

    return open_desk


@pytest.fixture(scope="module")
def models_once() -> Iterator[None]:
    """Pages that train alike have the same weights: each network is loaded, and its loops are traced, once for all."""
    kept: dict[tuple[str, str, bytes], Any] = {}
    load = trained.load_model

    def load_model(family: ModuleType, config: Any, stage: str, checkpoint: Path) -> Any:
        data = checkpoint.with_name(f"{checkpoint.name}.data-00000-of-00001").read_bytes()
        key = config.model_dump_json(), stage, hashlib.sha256(data).digest()
        if key not in kept:
            kept[key] = load(family, config, stage, checkpoint)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained, "load_model", load_model)
        yield


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page's commands start tells nothing of TensorFlow."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.mark.slow
@pytest.mark.usefixtures("quiet", "models_once")
@pytest.mark.timeout(1500)  # a page is many commands
@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page: Path, desks: Callable[[Path], Desk]) -> None:
    desks(page).work()


def test_exceptions_are_needed_and_their_flags_are_known() -> None:
    commands = [command for page in pages() for command in commands_of(page) if exception(command)]
    assert {exception(command) for command in commands} == {*EXCEPTIONS, *SNIPPETS}
    parsers = {"train.py": train.parser(), "tune.py": tune.parser()}
    for command in commands:
        if not command.python and command.words[1:2] and command.words[1] in parsers:
            parsers[command.words[1]].parse_args(command.words[2:])  # SystemExit, with what is wrong


SPAN = re.compile(r"(?<!`)`(python (?:-m [\w.]+|\w+\.py)[^`]*)`(?!`)")


@functools.lru_cache
def _help(program: tuple[str, ...]) -> str:
    output = io.StringIO()
    before, sys.argv = sys.argv, [program[-1], "--help"]
    try:
        with contextlib.redirect_stdout(output), pytest.raises(SystemExit):
            if program[0] == "-m":
                sys.argv = [program[1], *program[2:], "--help"]
                runpy.run_module(program[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(str(ROOT / program[0]), run_name="__main__")
    finally:
        sys.argv = before
    return output.getvalue()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_commands_within_sentences_name_programs_and_flags_that_exist(page: Path) -> None:
    """They are not run; but what they are called and their flags are as --help has them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for span in SPAN.findall(text):
        words = span.split()[1:]
        program = words[:2] if words[0] == "-m" else words[:1]
        while (
            program[1:2] == ["tierwave"] and len(program) < 4 and words[len(program) :]
        ):  # its verb, and controls' own
            if words[len(program)].startswith("-") or (len(program) == 3 and program[2] != "controls"):
                break
            program = words[: len(program) + 1]
        told = _help(tuple(program))
        flags = [word.partition("=")[0].strip("',") for word in words if word.startswith("--")]
        assert [flag for flag in flags if not re.search(rf"{re.escape(flag)}\b", told)] == [], f"{page.name}: {span}"


def test_make_knows_what_sentences_ask_of_it() -> None:
    spans = {span for page in pages() for span in re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8"))}
    assert len(spans) > 1
    foreign = {"build-container", "run-container"}  # jgarciapueyo's, in coming_from.md
    for target in sorted(spans - foreign):
        done = subprocess.run(["make", "-n", "-C", str(ROOT), target], capture_output=True, text=True)
        assert done.returncode == 0, f"make {target}: {done.stderr}"


def test_there_is_something_to_run() -> None:
    commands = [command for page in pages() for command in commands_of(page)]
    assert sum(command.text.startswith("python train.py") for command in commands) > 10
