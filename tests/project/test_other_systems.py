"""Windows and macOS, as far as they can be tried here: what they lack is taken away, what they forbid is not made."""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import importlib
import io
import signal
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from desk import COMMANDS, Command, lay
from test_imports import COMMAND_LINES, PACKAGES, ROOT, sources

from conditioning.config import Cascade
from tierwave.audio.quantize import Quantizer
from tierwave.audio.writer import write_wav
from tierwave.config import validate
from tierwave.controls.sources import find_control_sources
from tierwave.data.cache import load_corpus
from tierwave.data.splits import find_sources
from tierwave.errors import UsageError
from tierwave.files.folders import allowed_name, chunk_stem, name_fault, refuse_file, refuse_name, refuse_shared
from tierwave.files.names import folded
from tierwave.runs.folder import create_run, only_training
from tierwave.runs.imported import check_identity

SOURCES = sources(*PACKAGES, *COMMAND_LINES)
MODULES = {
    "fcntl",
    "resource",
    "pwd",
    "grp",
    "termios",
    "tty",
    "pty",
    "posix",
    "syslog",
    "readline",
    "msvcrt",
    "winreg",
}
ABSENT = {
    "os": {
        "fork", "forkpty", "getuid", "geteuid", "getgid", "getegid", "getgroups", "sysconf", "statvfs", "uname",
        "chown", "sched_getaffinity", "sched_setaffinity", "killpg", "getpgid", "setsid", "mkfifo", "mknod",
        "getloadavg",
        "nice", "wait", "waitid", "setuid", "O_DIRECTORY", "O_NOFOLLOW", "posix_fallocate", "pread", "pwrite",
        "sync", "fchmod",
    },
    "signal": {"SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGALRM", "SIGQUIT", "SIGPIPE", "SIGCHLD",
               "alarm", "setitimer"},
    "time": {"tzset", "clock_gettime"},
}  # fmt: skip


@functools.cache
def parsed() -> list[tuple[Path, list[ast.AST]]]:
    """Every source file, and all that stands in it."""
    return [(path, list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))) for path in SOURCES]


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call, and where it stands."""
    for path, nodes in parsed():
        for node in nodes:
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def parents_of(nodes: list[ast.AST]) -> dict[ast.AST, ast.AST]:
    return {child: parent for parent in nodes for child in ast.iter_child_nodes(parent)}


def guarded(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether a use stands where its absence is provided for."""
    while node in parents:
        node = parents[node]
        if isinstance(node, (ast.Try, ast.ExceptHandler)):
            return True
        if isinstance(node, (ast.If, ast.IfExp)) and any(
            word in ast.unparse(node.test) for word in ("hasattr", "sys.platform", "os.name")
        ):
            return True
    return False


def test_what_other_systems_lack_is_used_only_where_that_is_provided_for() -> None:
    found = []
    for path, nodes in parsed():
        parents = parents_of(nodes)
        for node in nodes:
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name in MODULES]
            elif isinstance(node, ast.ImportFrom):
                names = [alias.name for alias in node.names if alias.name in ABSENT.get(node.module or "", ())]
                names += [node.module] if node.module in MODULES else []
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [node.attr] if node.attr in ABSENT.get(node.value.id, ()) else []
            line = getattr(node, "lineno", 0)
            found += [f"{path.relative_to(ROOT)}:{line} {name}" for name in names if not guarded(node, parents)]
    assert found == []


def test_text_is_read_and_written_in_an_encoding_that_is_said() -> None:
    """Elsewhere it would be that of the system: cp1252, or whatever a person chose."""
    found = []
    for place, node in calls():
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        said = {keyword.arg for keyword in node.keywords}
        modes = [each.value for mode in node.args[1:2] for each in ast.walk(mode) if isinstance(each, ast.Constant)]
        binary = any(isinstance(mode, str) and "b" in mode and len(mode) <= 4 for mode in modes)
        opens = called == "open" and isinstance(node.func, ast.Name) and not binary
        own = isinstance(node.func, ast.Name)  # `writing.write_text`, which is always UTF-8
        if (opens or (called in ("read_text", "write_text") and not own)) and "encoding" not in said:
            found.append(f"{place} {ast.unparse(node)[:60]}")
    assert found == []


def test_paths_within_a_corpus_are_written_with_slashes() -> None:
    found = [
        place
        for place, node in calls()
        if isinstance(node.func, ast.Name) and node.func.id == "str" and ".relative_to(" in ast.unparse(node)
    ]
    assert found == []


def test_processes_are_never_forked() -> None:
    found = []
    for place, node in calls():
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if called in ("ProcessPoolExecutor", "Pool", "Process", "get_context") and "'spawn'" not in ast.unparse(node):
            found.append(f"{place} {ast.unparse(node)[:60]}")
    assert [line for line in found if "ray" not in line and "cluster.py" not in line] == []


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """A Python as on Windows, without the modules, functions and signals that it lacks there.

    Only around what is tried: pytest itself needs some of them before and after.
    """
    real = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name in MODULES - {"msvcrt"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "__import__", without)
        patch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=lambda *_: None, LK_NBLCK=2))
        for module, names in ABSENT.items():
            for name in names:
                patch.delattr(sys.modules[module], name, raising=False)
        yield


@contextlib.contextmanager
def console() -> Iterator[io.BytesIO]:
    """A terminal that knows the letters of cp1252 only, in place of stdout and stderr; what was shown there."""
    shown = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        for stream in ("stdout", "stderr"):
            patch.setattr(sys, stream, io.TextIOWrapper(shown, "cp1252", errors="strict", write_through=True))
        yield shown


def test_the_lock_of_a_training_needs_no_fcntl(tmp_path: Path) -> None:
    with elsewhere(), only_training(tmp_path, "one"):
        assert (tmp_path / "one" / ".lock").is_file()
        assert not hasattr(signal, "SIGHUP")
    assert hasattr(signal, "SIGHUP")


def test_recordings_are_cut_with_a_console_that_lacks_their_letters(tmp_path: Path) -> None:
    import chunk_audio
    from tierwave.cli import controls

    data = tmp_path / "笛 ≤ 1"
    write_wav(data / "fløte 笛.wav", np.sin(np.arange(8000) / 5).astype(np.float32), 8000)
    (data / "params.csv").write_text("filename,p\nfløte 笛.wav,1\n", encoding="utf-8")
    words = ["--input_file", str(data), "--output_dir", str(tmp_path / "笛"), "--chunk_length", "500"]
    with elsewhere(), console() as shown:
        assert chunk_audio.main(words) == 0
        assert controls.main(["check", str(data)]) == 0
        said = shown.getvalue()
    assert len(list((tmp_path / "笛").rglob("*.wav"))) == 2
    assert b"2 written to" in said and b"\\u7b1b" in said


def done_elsewhere(command: Command, folder: Path) -> None:
    """Does what a command does, on another system."""
    with elsewhere(), console() as shown:
        code = command(folder)
        said = shown.getvalue().decode("cp1252")
    assert code == 0 and "Traceback" not in said, said
    assert command.result(folder)


@pytest.fixture(scope="module")
def trained_elsewhere(tmp_path_factory: pytest.TempPathFactory, eager: None) -> Path:
    """A folder, of a name that the terminal cannot show, with recordings of odd names and a run of them."""
    folder = tmp_path_factory.mktemp("笛 ≤")
    lay(folder)
    for number, name in enumerate(("a/Fløte 笛.wav", "b/fløte 笛.wav", "b/FLØTE 笛_chunk_0.wav")):
        write_wav(folder / "corpus" / name, np.sin(np.arange(90) / (5 + number)).astype(np.float32), 4000)
    done_elsewhere(next(command for command in COMMANDS if command.name == "train"), folder)
    return folder


LONG = ("report", "tune")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, id=command.name, marks=[pytest.mark.slow] if command.name in LONG else [])
        for command in COMMANDS
        if command.name != "train"
    ],
)
def test_a_command_needs_nothing_that_other_systems_lack(command: Command, trained_elsewhere: Path) -> None:
    """And what it writes beside each other has names that are told apart where letters have no case."""
    done_elsewhere(command, trained_elsewhere)
    for folder in [trained_elsewhere, *(path for path in trained_elsewhere.rglob("*") if path.is_dir())]:
        if "corpus" not in folder.parts:
            names = [path.name for path in folder.iterdir()]
            assert len({folded(name).casefold() for name in names}) == len(names), names
            assert [name for name in names if name_fault(name)] == []


@pytest.mark.parametrize("module", ["train", "generate", "tune", "chunk_audio"])
def test_the_help_is_in_letters_of_every_console(module: str) -> None:
    command = importlib.import_module(module)
    parser = command.make_parser() if module == "chunk_audio" else command.parser()
    parser.format_help().encode("cp1252")


@pytest.mark.parametrize(
    "name",
    [
        "a:b",
        "con",
        "NUL.txt",
        "com1",
        "a.",
        " a",
        "a ",
        "",
        ".",
        "..",
        "...",
        "a/b",
        "a\\b",
        "what?",
        "a\nb",
        "*",
        "aux .b",
    ],
)
def test_a_run_is_not_called_what_another_system_forbids(name: str, tmp_path: Path) -> None:
    assert name_fault(name)
    with pytest.raises(UsageError, match="--id .* must be a plain name, since a folder is named after it: "):
        refuse_name("--id", name, tmp_path)
    with pytest.raises(UsageError, match="must be a plain name"):
        check_identity(name, tmp_path)


@pytest.mark.parametrize("name", ["birds", "Vögel 2", "con1", "console", "a.b", ".hidden", "-x", "com10", "null"])
def test_plain_names_are_taken(name: str, tmp_path: Path) -> None:
    assert name_fault(name) == ""
    assert name_fault(create_run(tmp_path, name).folder.name) == ""


def test_a_run_that_is_called_so_already_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    refuse_name("--id", "a:b", tmp_path)
    with pytest.raises(UsageError):
        refuse_name("--id", "..", tmp_path)


@pytest.mark.parametrize(("names", "told"), [(("con", "b"), "device"), (("Slow", "slow"), "two tiers are called")])
def test_tiers_are_called_what_folders_can_be(names: tuple[str, str], told: str) -> None:
    tiers = [
        {"name": names[0], "generates": ["p"], "rate": 100},
        {"name": names[1], "generates": ["audio"], "conditioned_on": ["p"]},
    ]
    with pytest.raises(UsageError, match=told):
        validate(Cascade, {"model": "cascade", "tiers": tiers}, "it")


ODD_STEMS = ["a:b", "a?b", "con", "nul.x", "a.", " a", "a ", "...", "aux .b", "a\\b", "x\ny", "<>", "fl\udcf6te"]


@pytest.mark.parametrize("name", ODD_STEMS)
def test_what_is_called_after_something_else_is_called_what_every_system_allows(name: str) -> None:
    assert name_fault(allowed_name(name)) == name_fault(f"{allowed_name(name)}.png") == ""
    assert name_fault(f"{chunk_stem(name)}_chunk_0.wav") == ""
    assert chunk_stem(chunk_stem(name)) == chunk_stem(name)


def test_names_that_are_allowed_stay_and_others_stay_distinct() -> None:
    plain = ["birds", "Vögel 2", "con1", "a.b", "100%", "a_b"]
    assert [allowed_name(name) for name in plain] == [chunk_stem(name) for name in plain] == plain
    assert chunk_stem("con") == "con"  # con_chunk_0.wav is no device
    assert len({allowed_name(name).lower() for name in [*plain, *ODD_STEMS]}) == len(plain) + len(ODD_STEMS)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such recordings")
def test_chunks_and_pictures_of_oddly_named_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import chunk_audio
    from tierwave.cli import controls

    data, chunks = tmp_path / "data", tmp_path / "chunks"
    for number, name in enumerate(("a:b.wav", "a?b.wav", "a_b.wav", "con.wav")):
        write_wav(data / name, np.sin(np.arange(800) / (5 + number)).astype(np.float32), 8000)
    (data / "params.csv").write_text("filename,p\na:b.wav,1\na?b.wav,2\na_b.wav,3\ncon.wav,4\n", encoding="utf-8")
    words = ["--input_file", str(data), "--output_dir", str(chunks), "--chunk_length", "50"]
    assert chunk_audio.main(words) == 0
    made = sorted(path.name for path in chunks.iterdir())
    assert len(made) == 8 and not any(map(name_fault, made))
    (chunks / "params.csv").write_bytes((data / "params.csv").read_bytes())
    sources = find_control_sources(chunks)
    assert sources.strays(made) == []
    assert sorted(float(track.values[0]) for name in made for track in sources.read(name).controls().values()) == [
        *(1, 1, 2, 2, 3, 3, 4, 4)
    ]
    for name in ("a:b.wav", "a?b.wav", "a_b.wav"):
        (chunks / name).write_bytes((data / name).read_bytes())
    encoder = Quantizer("linear", 16)
    corpus = load_corpus(chunks, encoder, cache_dir=tmp_path / "cache")
    found = find_sources(corpus, lambda index: encoder.decode(corpus.read(index)))
    assert sorted(len(source.recordings) for source in found) == [2, 3, 3, 3]
    monkeypatch.chdir(tmp_path)
    assert controls.main(["plot", str(data / "a:b.wav")]) == 0
    (picture,) = tmp_path.glob("*.png")
    assert name_fault(picture.name) == ""


@pytest.mark.parametrize("name", ["con.wav", "a:b.wav", "a?.wav", "nul"])
def test_what_is_written_is_not_called_what_another_system_forbids(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import chunk_audio
    import generate
    from tierwave.export.sharing import check_target

    told = "cannot be written on every system: .*; give it another name"
    with pytest.raises(UsageError, match=told):
        refuse_file("--output", tmp_path / name)
    with pytest.raises(UsageError, match=told):
        check_target(tmp_path / name)
    assert generate.main(["--checkpoint_path", str(tmp_path), "--output_path", str(tmp_path / name)]) == 2
    assert "--output_path" in capsys.readouterr().err
    write_wav(tmp_path / "x.wav", np.zeros(100, np.float32), 8000)
    assert chunk_audio.main(["--input_file", str(tmp_path / "x.wav"), "--output_dir", str(tmp_path / name)]) == 2
    assert "every system" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")
def test_what_is_called_so_already_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a:b.wav").touch()
    refuse_file("--output_path", tmp_path / "a:b.wav")
    refuse_file("--output_dir", Path("."))
    refuse_file("--output_dir", Path(".."))


def test_nothing_is_written_over_what_was_made_of_another_recording() -> None:
    refuse_shared({Path("a.wav"): Path("a.csv"), Path("b.wav"): Path("b.csv")})
    with pytest.raises(UsageError, match=r"a\.wav and a\.flac would share a\.csv"):
        refuse_shared({Path("a.wav"): Path("a.csv"), Path("a.flac"): Path("a.csv")})
