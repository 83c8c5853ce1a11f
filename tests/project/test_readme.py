"""The reference page names every flag, key and preset; README is the way in, and its links lead somewhere."""

import re
from pathlib import Path
from typing import get_args

import pytest

import chunk_audio
import generate
import samplernn
import train
import tune
from conditioning.config import Cascade, Config, NetName, Tier
from melnet import bands, convert_yaml
from melnet.config import Config as MelConfig
from melnet.front_end import MelAudio
from tierwave.cli import distances, evaluate, export, fetch, memory, play, report

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
CHOOSING = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
HOUSE = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """What the reference says under a heading."""
    start = REFERENCE.index(f"\n## {heading}\n")
    end = REFERENCE.find("\n## ", start + 1)
    return REFERENCE[start : end if end > 0 else None]


@pytest.mark.parametrize(
    ("heading", "parser"),
    [
        ("train.py", train.parser()),
        ("generate.py", generate.parser()),
        ("tune.py", tune.parser()),
        ("chunk_audio.py", chunk_audio.make_parser()),
        ("python -m tierwave evaluate", evaluate.parser()),
        ("python -m tierwave play", play.parser()),
        ("python -m tierwave report", report.parser()),
        ("python -m tierwave export", export.parser()),
        ("python -m tierwave distances", distances.parser()),
        ("python -m tierwave fetch", fetch.parser()),
        ("python -m tierwave memory", memory.parser()),
        ("python -m melnet.bands", bands.parser()),
        ("python -m melnet.convert_yaml", convert_yaml.parser()),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_every_flag_is_named(heading, parser):
    flags = [action.option_strings[-1] for action in parser._actions if action.option_strings]
    assert [flag for flag in flags if flag != "--help" and f"`{flag}" not in section(heading)] == []


def test_flags_that_are_named_exist():
    for heading, module in (("train.py", train), ("generate.py", generate), ("tune.py", tune)):
        named = {flag for row in section(heading).splitlines() for flag in re.findall(r"`(--\w+)", row.split(" | ")[0])}
        assert named - set(module.parser()._option_string_actions) == set()


def test_every_key_is_named():
    keys = [key for key in samplernn.Config.model_fields if key != "model"]
    assert [key for key in keys if f"| `{key}` |" not in section("SampleRNN's config keys")] == []
    table = section("Config keys of a conditional tier")
    keys = [key for model in (Config, Cascade, Tier) for key in model.model_fields if key != "model"]
    assert [key for key in keys if f"`{key}`" not in table] == []
    assert [net for net in get_args(NetName) if f"`{net}`" not in table] == []
    keys = [key for key in [*MelConfig.model_fields, *MelAudio.model_fields] if key != "model"]
    assert [key for key in keys if f"`{key}`" not in section("MelNet's config keys")] == []


def test_every_preset_is_named():
    presets = [path.name.removesuffix(".config.json") for path in (ROOT / "configs").glob("*.config.json")]
    memory, times = CHOOSING.split("## Time")
    assert [preset for preset in presets if f"`{preset}`" not in memory] == []
    assert [preset for preset in presets if f"`{preset}`" not in times] == []


def test_every_folder_has_a_place_in_the_house_and_what_it_names_is_there():
    folders = [path.parent.name for path in (ROOT / "tierwave").glob("*/__init__.py")]
    assert [folder for folder in folders if not re.search(rf"\b{folder}  ", HOUSE)] == []
    named = re.findall(r"`(t\w+/[\w./]+)`", HOUSE)
    assert len(named) > 12 and [name for name in named if not (ROOT / name).exists()] == []


def test_nothing_is_left_of_a_merge():
    suffixes = {
        ".py",
        ".md",
        ".json",
        ".toml",
        ".cfg",
        ".txt",
        ".yml",
        ".yaml",
        ".js",
        ".html",
        ".css",
        ".c",
        ".j2",
        "",
    }
    folders = (
        "bench",
        "configs",
        "conditioning",
        "docs",
        "examples",
        "melnet",
        "notebooks",
        "samplernn",
        "tests",
        "tierwave",
    )
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    paths = [path for path in [*paths, *ROOT.iterdir()] if path.is_file() and "_build" not in path.parts]
    assert len(paths) > 300
    mark = re.compile(rb"^(<{7}|>{7}) ", re.MULTILINE)
    assert [path for path in paths if mark.search(path.read_bytes())] == []


@pytest.mark.parametrize("page", ["reference", "choosing"])
def test_a_table_says_a_thing_once(page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| `")]
        assert len(rows) == len(set(rows)), sorted(row for row in set(rows) if rows.count(row) > 1)


def test_make_runs_every_test():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    # By their mark alone, so that no file can be forgotten.
    assert re.findall(r"\$\(pytest\) (.*)\)", makefile) == ['-m "not slow and not exhaustive"', "-m slow"]
    assert re.findall(r"make (test\S*)", (ROOT / ".ci/run").read_text(encoding="utf-8")) == ["test", "test-rest"]


def test_the_two_commands_are_on_top():
    assert re.findall(r"^make .*", README, re.MULTILINE)[:2] == ["make demo", "make demo DATA=path/to/recordings"]
    assert README.index("make demo") < 1200


def test_local_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - {
        f"docs/{name}.md" for name in ("index", "contributing", "measurements", "changelog")
    }
    assert pages - set(links) == set()  # README leads to every page
