"""Who may import whom. Read from the source, so that it holds for code that no test runs too."""

from __future__ import annotations

import ast
import configparser
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ("samplernn", "conditioning", "melnet")
PACKAGES = ("tierwave", *FAMILIES)
COMMAND_LINES = ("train", "generate", "chunk_audio", "tune")
# What a distribution is imported as, where that is another name.
MODULES = {
    "pyyaml": "yaml",
    "grpcio": "grpc",
    "ipython": "IPython",
    "python-osc": "pythonosc",
    "markdown-it-py": "markdown_it",
}
# Lowest first: a folder of tierwave/ (or a file beside them) imports only what stands before it.
ORDER = (
    ("errors", "files", "system", "config_errors", "config")
    + ("audio", "controls", "nn", "engine", "analysis", "data", "runs", "family", "generation", "training")
    + ("evaluation", "search", "play", "export", "notebook", "cli")
)
# A family names a request and a stream in its signatures, for type checkers alone.
IN_SIGNATURES = ("tierwave.family", "tierwave.generation.request")
HEAVY = ("tensorflow", "keras", "librosa", "soundfile", "soxr", "pydub", "matplotlib", "scipy", "numba", "numpy")


def sources(*places: str) -> list[Path]:
    found = [path for place in places for path in (ROOT / place).rglob("*.py")]
    return sorted(found + [path for place in places if (path := ROOT / f"{place}.py").is_file()])


def imports(path: Path, tree: ast.AST | None = None) -> Iterator[tuple[str, int]]:
    """The absolute name of each module that `path` imports, also within functions and by name, and the line."""
    inside = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(tree or ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = inside[: len(inside) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from tierwave import errors` names a module, `from tierwave.errors import RunError` something in one.
            yield from ((f"{base}.{alias.name}".lstrip("."), node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            words = [word.value for word in ast.walk(node) if isinstance(word, ast.Constant)]
            # What begins with a point is the end of a name that is known only when it runs.
            yield from ((word, node.lineno) for word in words if isinstance(word, str) and not word.startswith("."))


def top(module: str) -> str:
    return module.split(".")[0]


def imports_of(places: tuple[str, ...], forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources(*places)
        for module, line in imports(path)
        if top(module) in forbidden
    ]


def test_the_reader_sees_every_form_of_import() -> None:
    tree = ast.parse(
        "import a.b\nfrom c import d\nfrom . import e\nfrom .f import g\nfrom .. import h\n"
        "def late():\n    from i import j\n    importlib.import_module('k.l')\n"
    )
    assert sorted(module for module, _ in imports(ROOT / "samplernn" / "model.py", tree)) == sorted(
        ["a.b", "c.d", "samplernn.e", "samplernn.f.g", "h", "i.j", "k.l"]
    )
    assert sources("tierwave")


def test_tierwave_imports_no_family_but_by_name_and_late() -> None:
    found = [line for line in imports_of(("tierwave",), FAMILIES) if not line.startswith("tierwave/family.py:")]
    assert found == []
    code = "import tierwave.family, sys; print([name for name in sys.argv[1:] if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *FAMILIES], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def room(module: str) -> str:
    """The folder of `tierwave` that a module lies in, or the module itself where it lies in none."""
    return (module.split(".") + [""])[1]


def test_folders_import_only_what_stands_before_them() -> None:
    rooms = {path.relative_to(ROOT / "tierwave").parts[0].removesuffix(".py") for path in sources("tierwave")}
    assert rooms - {"__init__", "__main__"} == set(ORDER)
    place = {name: number for number, name in enumerate(ORDER)}
    upward = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources("tierwave")
        if (own := room(".".join(path.relative_to(ROOT).with_suffix("").parts))) in place
        for module, line in imports(path)
        if top(module) == "tierwave" and place.get(room(module), -1) > place[own]
        if not (own == "family" and module.startswith(IN_SIGNATURES[1]))
    ]
    assert upward == []


def test_modules_of_a_folder_import_each_other_in_no_circle() -> None:
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sources("tierwave")
    }
    graph = {}
    for name, path in modules.items():
        named = {module if module in modules else module.rpartition(".")[0] for module, _ in imports(path)}
        graph[name] = {module for module in named & set(modules) if module != name and (name, module) != IN_SIGNATURES}
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


def test_folders_are_small() -> None:
    """A newcomer looks through a folder at a glance."""
    for folder in {path.parent for path in sources(*PACKAGES)}:
        entries = [path for path in folder.iterdir() if path.suffix == ".py" and path.stem != "__init__"]
        assert len(entries) <= (5 if folder == ROOT / "tierwave" else 15), folder


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_imports_another(family: str) -> None:
    assert imports_of((family,), tuple(other for other in FAMILIES if other != family)) == []


def test_nothing_imports_a_command_line() -> None:
    assert imports_of((*PACKAGES, *COMMAND_LINES), COMMAND_LINES) == []


def test_nothing_imports_tests_or_benchmarks() -> None:
    assert imports_of((*PACKAGES, *COMMAND_LINES), ("tests", "bench")) == []


def test_no_module_is_a_drawer_for_everything() -> None:
    vague = ("utils", "util", "helpers", "helper", "misc", "common")
    assert [str(path) for path in sources(*PACKAGES, "tests", "bench") if path.stem in vague] == []


def test_no_code_from_data() -> None:
    everything = (*PACKAGES, *COMMAND_LINES, "bench")
    found = imports_of(everything, ("pickle", "cPickle", "dill", "cloudpickle", "shelve"))
    found += [line for line in imports_of(everything, ("joblib",)) if "tierwave/system/parallel.py" not in line]
    for path in sources(*everything):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            unpickles = [keyword for keyword in node.keywords if keyword.arg == "allow_pickle"]
            if called in ("eval", "exec", "compile", "__import__", "joblib.load") or any(
                ast.unparse(keyword.value) != "False" for keyword in unpickles
            ):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} calls {ast.unparse(node)}")
    assert found == []


def test_every_library_that_is_imported_is_declared() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    names = [match[0] for text in wanted for match in re.finditer(r"^[\w-]+", text, re.MULTILINE)]
    declared = {MODULES.get(name.lower(), name.lower().replace("-", "_")) for name in names}
    own = {*PACKAGES, *COMMAND_LINES, "bench", "tests", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}
    undeclared = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources(*PACKAGES, *COMMAND_LINES, "bench", "tests")
        for module, line in imports(path)
        if top(module) not in own | declared | set(sys.stdlib_module_names)
    ]
    assert undeclared == []


@pytest.mark.parametrize("module", ["tierwave.config", "tierwave.cli.flags", "tierwave.cli.running", "tierwave.errors"])
def test_flags_are_answered_before_anything_heavy_is_loaded(module: str) -> None:
    code = f"import {module}, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
