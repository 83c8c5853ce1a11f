"""How many inputs of each kind are tried, from which seed, and what is told of them.

`make fuzz` tries thousands of each kind, `make test` a few. The same kind, seed and number are the same input anywhere.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from rule import HANG_SECONDS, Kind, Wrong, listening

FEW = 16  # of each kind, where nobody says how many
MOST_FAULTS = 20  # different ones of a kind, after which it is not tried further


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz", "mutated inputs")
    group.addoption("--inputs", type=int, help=f"of each kind, fewer of those that are slow (default: {FEW})")
    group.addoption("--seed", type=int, default=0, help="of the inputs (default: 0)")
    group.addoption("--kind", help="only inputs of this kind")
    group.addoption("--number", type=int, help="only this input of each kind")
    group.addoption(
        "--keep", type=Path, help="folder for inputs with which something is wrong (default: a temporary one)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("kind", None)
    kinds = {
        id(item): item.callspec.params["kind"].name for item in items if "tried" in getattr(item, "fixturenames", ())
    }
    for item in items:
        if id(item) in kinds:
            item.add_marker(pytest.mark.timeout(0))  # each input has its own limit
    if wanted is not None:
        if wanted not in kinds.values():
            raise pytest.UsageError(f"--kind {wanted}: there are {', '.join(sorted(kinds.values()))}")
        left = [item for item in items if kinds.get(id(item)) != wanted]
        items[:] = [item for item in items if kinds.get(id(item)) == wanted]
        config.hook.pytest_deselected(items=left)


@pytest.fixture
def tried(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Kind], None]:
    """Tries inputs of a kind, and fails with what is needed to try those again with which something is wrong."""
    option = request.config.getoption
    seed, only, keep = option("seed", 0), option("number", None), option("keep", None) or tmp_path / "wrong"

    def try_all(kind: Kind) -> None:
        inputs = option("inputs", None) or FEW
        numbers = range(max(1, inputs // kind.cost)) if only is None else [only]
        came: Counter[str] = Counter()
        faults: dict[str, list[str]] = {}
        real = os.fdopen(os.dup(sys.__stderr__.fileno()), "w") if sys.__stderr__ else None
        with listening(), open(tmp_path / "number", "w", encoding="utf-8") as note:
            for number in numbers:
                os.pwrite(note.fileno(), f"{number:9}\n".encode(), 0)  # of the one that ended the process
                if real is not None:
                    faulthandler.dump_traceback_later(2 * HANG_SECONDS, exit=True, file=real)
                folder = tmp_path / "input"
                folder.mkdir()
                given = kind.make(Random(f"{kind.name} {seed} {number}"), folder)
                try:
                    came[kind.attempt(given)] += 1
                except Wrong as wrong:
                    came["wrong"] += 1
                    same = faults.setdefault(wrong.place, [])
                    kept = keep / kind.name / f"seed {seed} number {number}"
                    if len(same) < 3:
                        shutil.rmtree(kept, ignore_errors=True)
                        shutil.copytree(folder, kept)
                        (kept / "input.txt").write_text(
                            f"{given!r}\n\n{wrong}", encoding="utf-8", errors="backslashreplace"
                        )
                    same.append(f"--kind {kind.name} --seed {seed} --number {number}\nkept in {kept}\n{wrong}")
                    if len(faults) >= MOST_FAULTS:
                        break
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
        if real is not None:
            real.close()
        request.node.user_properties.append(("tried", [kind.name, dict(came.most_common())]))
        if faults:
            told = [f"{len(same)} times: {same[0]}" for same in sorted(faults.values(), key=len, reverse=True)]
            pytest.fail("\n\n".join(told), pytrace=False)

    return try_all


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What came of the inputs of each kind."""
    rows: list[tuple[str, dict[str, int]]] = []
    for reports in terminalreporter.stats.values():
        for report in reports:
            with contextlib.suppress(AttributeError):
                if report.when == "call":
                    rows += [tuple(value) for key, value in report.user_properties if key == "tried"]
    if not rows:
        return
    terminalreporter.section(f"{sum(sum(came.values()) for _, came in rows)} inputs")
    width = max(len(name) for name, _ in rows)
    for name, came in sorted(rows):
        what = ", ".join(f"{word} {count}" for word, count in came.items())
        terminalreporter.line(f"{name:{width}} {sum(came.values()):7}: {what}")
