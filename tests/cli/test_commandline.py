"""Flags made from a model, the sentences of refusal, and the exit codes."""

from __future__ import annotations

import argparse
import errno
import gc
import io
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

import generate
import train
import tune
from commands import call
from tierwave import cli
from tierwave.audio.writer import SoundWriter
from tierwave.cli import distances, evaluate, export, fetch, memory
from tierwave.cli.flags import FlagParser, add_model_flags, boolean, optional, typed_values
from tierwave.cli.running import loading, run, typed_here
from tierwave.config import StrictModel, TrainingOptions, resolve_training
from tierwave.errors import AudioWarning, RunError, UsageError
from tierwave.system.progress import ProgressLine


class Options(StrictModel):
    steps: int = Field(10, description="how many, 100% of them")
    speed: Annotated[float, Field(gt=0)] = 1.5
    limit: int | None = None
    loud: bool = False
    mode: Literal["fast", "slow"] = "fast"
    level: Literal[1, 2] | None = None
    jit: bool | Literal["auto"] = "auto"
    widths: list[int] = [1, 2]
    ratios: tuple[float, ...] | None = None
    place: int | str = 0
    name: str | None = None
    nested: TrainingOptions | None = None


def parser() -> FlagParser:
    flags = FlagParser(prog="train.py")
    add_model_flags(flags, Options, skip=["nested"])
    flags.add_argument("--raw", type=int)
    flags.add_argument("--choice", choices=["red", "green"])
    return flags


def typed(*words: str) -> dict[str, Any]:
    return typed_values(parser().parse_args(words), Options)


def refusal(capsys: pytest.CaptureFixture[str], flags: FlagParser, *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        flags.parse_args(words)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("train.py: ") and printed.err.count("\n") == 1
    return printed.err


# Values ------------------------------------------------------------------------------------------------------------


@given(word=st.sampled_from(["true", "false"]), length=st.integers(1, 5), upper=st.lists(st.booleans(), min_size=5))
def test_boolean_takes_any_prefix_in_any_case(word: str, length: int, upper: list[bool]) -> None:
    prefix = word[:length]
    written = "".join(letter.upper() if up else letter for letter, up in zip(prefix, upper, strict=False))
    assert boolean(written) is (word == "true")


@pytest.mark.parametrize("text", ["", "yes", "no", "1", "0", "truer", "rue", "None", " true"])
def test_boolean_refuses_anything_else(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"{text!r}.*True nor False"):
        boolean(text)


def test_optional_takes_none_and_the_rest() -> None:
    assert optional(int)("None") is None and optional(int)("3") == 3 and optional(str)("none") == "none"
    with pytest.raises(argparse.ArgumentTypeError, match="'three' is not a whole number; .*, or None"):
        optional(int)("three")


# Flags from a model ------------------------------------------------------------------------------------------------


def test_only_typed_flags_appear() -> None:
    assert typed() == {}
    assert typed("--steps", "3", "--raw", "4") == {"steps": 3}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--speed", "2"], {"speed": 2.0}),
        (["--speed", "-1e-3"], {"speed": -0.001}),
        (["--speed=-.5"], {"speed": -0.5}),
        (["--limit", "None"], {"limit": None}),
        (["--limit", "3"], {"limit": 3}),
        (["--loud"], {"loud": True}),
        (["--loud", "--steps", "3"], {"loud": True, "steps": 3}),
        (["--loud", "F"], {"loud": False}),
        (["--mode", "slow"], {"mode": "slow"}),
        (["--level", "2"], {"level": 2}),
        (["--level", "None"], {"level": None}),
        (["--jit", "auto"], {"jit": "auto"}),
        (["--jit", "false"], {"jit": False}),
        (["--jit"], {"jit": True}),
        (["--widths", "3", "4", "5"], {"widths": [3, 4, 5]}),
        (["--ratios", "0.5", "1"], {"ratios": [0.5, 1.0]}),
        (["--ratios", "None"], {"ratios": None}),
        (["--place", "8000"], {"place": 8000}),
        (["--place", "1.5s"], {"place": "1.5s"}),
        (["--place", "-1s"], {"place": "-1s"}),
        (["--name", "a b"], {"name": "a b"}),
        (["--name", "-well"], {"name": "-well"}),
        (["--name", "-"], {"name": "-"}),
        (["--ratios", "-1", "-.5e-3", "--steps", "3"], {"ratios": [-1.0, -0.0005], "steps": 3}),
        (["--name", "None"], {"name": None}),
    ],
)
def test_words_become_values(words: list[str], expected: dict[str, Any]) -> None:
    values = typed(*words)
    assert values == expected
    assert [type(value) for value in values.values()] == [type(value) for value in expected.values()]


def test_help_has_description_default_and_choices() -> None:
    text = " ".join(parser().format_help().split())
    assert "--steps N how many, 100% of them (default: 10)" in text
    assert "--mode fast|slow" in text and "(default: fast)" in text
    assert "--limit N|None" in text and "(default: None)" in text
    assert "--widths N [N ...]" in text and "(default: 1 2)" in text
    assert "--loud [True|False]" in text and "--nested" not in text


def test_a_field_that_no_flag_can_express_must_be_skipped() -> None:
    with pytest.raises(TypeError, match="skip"):
        add_model_flags(FlagParser(), Options)


def test_every_training_option_has_a_flag_that_takes_its_default() -> None:
    flags = FlagParser()
    add_model_flags(flags, TrainingOptions)
    words: list[str] = []
    for name, value in TrainingOptions().model_dump().items():
        words += [f"--{name}", *(str(entry) for entry in (value if isinstance(value, list) else [value]))]
    values = typed_values(flags.parse_args(words), TrainingOptions)
    assert values == TrainingOptions().model_dump()
    values.pop("val_frac")
    assert resolve_training(values, {}, "a") == TrainingOptions()


# Refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--stepps", "3"], ["--stepps", "did you mean --steps?"]),
        (["--zzzzzz=3"], ["--zzzzzz is not a flag", "--help"]),
        (["--step", "3"], ["--step is not a flag", "did you mean --steps?"]),
        (["--steps", "many"], ["--steps", "'many'", "write one such as 64"]),
        (["--steps", "2.5"], ["--steps", "'2.5'", "whole number"]),
        (["--steps"], ["--steps: "]),
        (["--limit", "x"], ["--limit", "'x'", "or None"]),
        (["--speed", "fast"], ["--speed", "'fast'", "write one such as 0.5"]),
        (["--loud", "yes"], ["--loud", "'yes'", "True nor False"]),
        (["--mode", "Slow"], ["--mode", "'Slow'", "fast, slow", "did you mean slow?"]),
        (["--mode", "zzz"], ["--mode", "'zzz'", "choose one"]),
        (["--level", "3"], ["--level", "'3'", "1, 2", "None"]),
        (["--jit", "maybe"], ["--jit", "'maybe'", "auto, True, False"]),
        (["--widths"], ["--widths: "]),
        (["--widths", "1", "b"], ["--widths", "'b'", "whole number"]),
        (["--raw", "x"], ["--raw", "'x'", "whole number"]),
        (["--choice", "gren"], ["--choice", "'gren'", "red, green", "did you mean green?"]),
        (["--steps", "3", "4"], ["'4'", "belongs to no flag", "quotes"]),
        (["-q"], ["'-q'", "--help"]),
    ],
)
def test_refusal_names_flag_value_and_remedy(
    capsys: pytest.CaptureFixture[str], words: list[str], named: list[str]
) -> None:
    sentence = refusal(capsys, parser(), *words)
    assert all(part in sentence for part in named), sentence


def test_an_unknown_flag_is_named_before_a_missing_one(capsys: pytest.CaptureFixture[str]) -> None:
    flags = FlagParser(prog="train.py")
    flags.add_argument("--data_dir", required=True)
    flags.add_argument("--out", required=True)
    assert "did you mean --data_dir?" in refusal(capsys, flags, "--data_dri", "x")
    assert "required: --data_dir, --out" in refusal(capsys, flags)
    assert "required: --out" in refusal(capsys, flags, "--data_dir", "x")


def test_words_after_a_double_dash_are_no_flags() -> None:
    flags = FlagParser()
    flags.add_argument("files", nargs="*")
    assert flags.parse_args(["--", "--odd name.wav", "--other"]).files == ["--odd name.wav", "--other"]


# Exit codes --------------------------------------------------------------------------------------------------------


def failing(error: BaseException) -> Callable[[], int]:
    def body() -> int:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "named"),
    [
        (UsageError("--dim is 0; raise it"), 2, ["--dim is 0; raise it"]),
        (RunError("no checkpoint in x;\ntrain first"), 1, ["no checkpoint in x; train first"]),
        (OSError(errno.ENOSPC, "No space left on device", "a.wav"), 1, ["a.wav: No space", "free some space"]),
        (PermissionError(errno.EACCES, "Permission denied", "run"), 1, ["run", "Permission denied", "another place"]),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a"), 1, ["a: No such file", "check the path"]),
        (OSError("the disk is odd"), 1, ["the disk is odd"]),
        (KeyboardInterrupt(), 130, ["Ctrl-C"]),
    ],
)
def test_exit_code_and_sentence(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    named: list[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/train.py", "--x"])
    assert run(failing(error), debug=False) == code
    printed = capsys.readouterr().err
    assert printed.startswith("train.py: ") and printed.count("\n") == 1
    assert all(part in printed for part in named), printed
    assert run(failing(error), debug=True) == code
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [UsageError, RunError])
def test_a_megabyte_in_a_message_leaves_its_beginning_and_the_remedy(kind: type[Exception]) -> None:
    told = str(kind(f"--set dim={'9' * 2**20} is too much: write a smaller number"))
    assert told.startswith("--set dim=99") and told.endswith("9 is too much: write a smaller number")
    assert len(told) < 1200
    assert str(kind("dim is -1: write a number above 0")) == "dim is -1: write a number above 0"


def test_success_and_faults_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: None, debug=False) == 0
    assert run(lambda: 3, debug=False) == 3
    with pytest.raises(ZeroDivisionError):
        run(failing(ZeroDivisionError()), debug=False)
    assert capsys.readouterr().err == ""


def test_what_is_typed_twice_counts_twice_and_only_once_per_call() -> None:
    for flags, name, rest in (
        (train.parser(), "set", []),
        (tune.parser(), "set", ["--data_dir", "x"]),
        (generate.parser(), "control", ["--checkpoint_path", "x", "--output_path", "y"]),
    ):
        typed = flags.parse_args([*rest, f"--{name}", "a=1", "b=2", f"--{name}", "c=3"])
        assert getattr(typed, name) == ["a=1", "b=2", "c=3"]
        assert getattr(flags.parse_args(rest), name) == []


@pytest.mark.parametrize(
    ("flags", "name", "rest"),
    [
        (train.parser(), "stage", []),
        (export.parser(), "control", ["run", "--output", "x.zip"]),
        (distances.parser(), "generated", ["--recordings", "x"]),
        (distances.parser(), "recordings", ["--generated", "x"]),
        (evaluate.parser(), "sounds", ["x"]),
        (memory.parser(), "config_file", []),
        (fetch.parser(), "subset", ["librispeech", "x"]),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_files_and_names_that_are_typed_twice_count_twice(flags: FlagParser, name: str, rest: list[str]) -> None:
    typed = flags.parse_args([*rest, f"--{name}", "one", f"--{name}", "two", "three"])
    assert [str(each) for each in getattr(typed, name)] == ["one", "two", "three"]


# Signals -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def by_default() -> Iterator[None]:
    before = [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)]
    yield
    signal.signal(signal.SIGTERM, before[0])
    signal.signal(signal.SIGHUP, before[1])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
@pytest.mark.usefixtures("by_default")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_and_leaves_nothing_half_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    def body() -> None:
        with SoundWriter(tmp_path / "new.wav", 8000) as wav:
            wav.write([0.5])
            os.kill(os.getpid(), number)
            time.sleep(10)

    assert run(body, debug=False) == 128 + number
    assert capsys.readouterr().err.rstrip().endswith(f"stopped by {number.name}")
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) == signal.SIG_DFL


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
@pytest.mark.usefixtures("by_default")
def test_a_command_started_with_nohup_outlives_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert run(lambda: os.kill(os.getpid(), signal.SIGHUP), debug=False) == 0


class Closed(io.StringIO):
    """A terminal that is gone, or another stream that cannot be written to."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


def test_a_closed_terminal_takes_nothing_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Closed(errno.EIO))
    ProgressLine().say("gone")
    monkeypatch.setattr(sys, "stdout", Closed(errno.ENOSPC))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        ProgressLine().say("full")
    monkeypatch.setattr(sys, "stderr", Closed(errno.EIO))

    def body() -> None:
        raise RunError("nobody reads this")

    assert run(body, debug=False) == 1


def test_what_is_odd_about_a_recording_is_a_sentence_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        for name in ("a.wav", "b.wav", "a.wav"):
            warnings.warn(AudioWarning(f"{name}: it is cut off"), stacklevel=1)

    assert run(body, debug=False) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2] for line in lines] == ["a.wav: it is cut off", "b.wav: it is cut off"]


# Remedies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "here"),
    [
        (
            "too large: --memory_check False tries it all the same",
            "too large: --set training.memory_check=False tries it",
        ),
        ("it became nan: try --precision float32", "try --set training.precision=float32"),
        ("take --monitor val_loss, or --steps 3", "take --set training.monitor=val_loss, or --steps 3"),
        ("lower --batch_size to 16", "lower --set training.batch_size to 16"),
        ("another --seed_of_plants", "another --seed_of_plants"),
        ("repair it with --lenient", "repair it with python -m tierwave controls convert --lenient"),
        ("begin with `train.py --init_from RUN --id NEW`", "begin with `train.py --init_from RUN --id NEW`"),
    ],
)
def test_a_remedy_names_what_can_be_typed_here(message: str, here: str) -> None:
    flags = FlagParser("search.py")
    for flag in ("--set", "--steps"):
        flags.add_argument(flag)
    assert here in typed_here(message, flags)


def test_a_command_without_a_config_names_the_command_that_has_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        raise RunError("use an earlier one, for example with --resume_from")

    assert run(body, debug=False, flags=FlagParser("listen.py")) == 1
    assert "for example with train.py --resume_from" in capsys.readouterr().err


# ---- tierwave VERB ---------------------------------------------------------------------------------------------------


def test_the_verbs_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {"__init__", "flags", "running"}
    assert {line.split()[0] for line in lines if line.startswith("    ")} == set(cli.VERBS) == modules


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_verb_says_how_it_is_called(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(cli.main, [verb, "--help"]) == 0
    assert f"tierwave {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "remedy"), [([], "usage: "), (["reprot"], "mean report?"), (["x"], "from controls, ")]
)
def test_a_verb_that_is_none(words: list[str], remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert remedy in capsys.readouterr().err


def test_an_error_begins_with_what_was_typed(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tierwave", "distances", "--generated", "none", "--recordings", "none"]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("tierwave distances: none does not exist")


@pytest.mark.parametrize("words", [["--help"], ["controls", "--help"], ["report", "--help"]])
def test_a_help_that_nobody_reads_to_its_end_is_no_fault(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "tierwave", *words]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert done.stderr == ""


def test_garbage_is_looked_for_again_after_loading() -> None:
    with pytest.raises(RunError), loading():
        assert not gc.isenabled()
        raise RunError("a damaged checkpoint")
    assert gc.isenabled()
    gc.disable()
    try:
        with loading():
            pass
        assert not gc.isenabled()  # who has turned it off wants it so
    finally:
        gc.enable()
