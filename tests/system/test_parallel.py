"""Work in several processes: in order, once each, errors as themselves, and nobody left behind."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tierwave.cli import flags as commandline
from tierwave.errors import AudioError, AudioWarning, RunError, UsageError
from tierwave.system.parallel import parallel_map

HERE = Path(__file__).resolve().parent


def slow_square(number: int) -> int:
    time.sleep(0.02 * (3 - number % 3))
    return number * number


def where(_: int, modules: tuple[str, ...]) -> tuple[int, list[str]]:
    return os.getpid(), [module for module in modules if module in sys.modules]


def refuse(number: int) -> int:
    if number == 3:
        raise UsageError("--jobs is wrong; write another")
    if number == 13:
        raise AudioError(Path("a b.wav"), "it is no sound")
    return number


def die(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
    return number


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order(jobs: int) -> None:
    assert list(parallel_map(slow_square, range(11), jobs=jobs)) == [n * n for n in range(11)]
    assert list(parallel_map(slow_square, [], jobs=jobs)) == []


def test_without_other_processes_it_is_done_when_it_is_asked_for() -> None:
    done: list[int] = []
    results = parallel_map(lambda number: done.append(number) or -number, range(5))
    assert (next(results), done) == (0, [0])
    assert (next(results), done) == (-1, [0, 1])


def test_processes_are_others_and_light() -> None:
    heavy = ("tensorflow", "librosa", "matplotlib", "pydub", "ray")
    found = list(parallel_map(functools.partial(where, modules=heavy), range(6), jobs=2))
    assert os.getpid() not in {process for process, _ in found}
    assert [modules for _, modules in found] == [[]] * 6


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_comes_as_itself(jobs: int) -> None:
    with pytest.raises(UsageError, match="^--jobs is wrong; write another$"):
        list(parallel_map(refuse, range(10), jobs=jobs))
    with pytest.raises(AudioError, match="^Cannot use a b.wav: it is no sound$") as caught:
        list(parallel_map(refuse, range(10, 20), jobs=jobs))
    assert caught.value.reason == "it is no sound"


def test_a_process_that_is_killed_is_told_with_what_to_do() -> None:
    with pytest.raises(RunError, match=r"memory ran out: give fewer --jobs than 2; .*run the same command again$"):
        list(parallel_map(die, range(5), jobs=2))


def test_wrong_use_is_told() -> None:
    with pytest.raises(UsageError, match="--jobs 0 must be 1 or more"):
        parallel_map(refuse, [1], jobs=0)


# ---- the end of the process that spreads -----------------------------------------------------------------------------

PARENT = """
import os, sys, time
sys.path[:0] = sys.argv[2:]
from test_parallel import wait_here
from tierwave.cli.running import run
from tierwave.system.parallel import parallel_map
if __name__ == "__main__":
    sys.exit(run(lambda: list(parallel_map(wait_here, [sys.argv[1]] * 2, jobs=2)) and None, debug=False))
"""


def wait_here(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 40
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def is_running(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("with_what", [signal.SIGKILL, signal.SIGINT])
def test_no_process_is_left_when_the_first_is_stopped(tmp_path: Path, with_what: signal.Signals) -> None:
    (tmp_path / "at").mkdir()
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "at"), str(HERE), str(HERE.parents[1])],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    until(lambda: len(list((tmp_path / "at").iterdir())) == 2)
    workers = [path.name for path in (tmp_path / "at").iterdir()]
    if with_what == signal.SIGINT:  # Ctrl-C goes to all of them
        os.killpg(parent.pid, with_what)
    else:
        parent.kill()
    _, errors = parent.communicate(timeout=40)
    assert parent.returncode == (130 if with_what == signal.SIGINT else -9)
    if with_what == signal.SIGINT:
        assert errors.decode() == "parent.py: stopped by Ctrl-C\n"
    until(lambda: not any(map(is_running, workers)))


def odd(number: int) -> int:
    warnings.warn(AudioWarning(f"{number % 2}.wav: it is cut off"), stacklevel=1)
    return number


def test_what_other_processes_find_odd_is_told_by_this_one(capfd: pytest.CaptureFixture[str]) -> None:
    assert commandline.run(lambda: print(list(parallel_map(odd, range(4), jobs=2))), debug=False) == 0
    said = capfd.readouterr()
    assert said.out == "[0, 1, 2, 3]\n"
    assert sorted(line.partition(": ")[2] for line in said.err.splitlines()) == [
        "0.wav: it is cut off",
        "1.wav: it is cut off",
    ]
