"""The ways in besides make: the Dockerfile and environment.yml, checked as far as can be without building them."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
EXTRAS = set(SETUP["options.extras_require"])
PYTHONS = set(re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"]))
HOME = "/opt/tierwave"


def instructions() -> list[tuple[str, str]]:
    """(instruction, the rest) of every line of the Dockerfile, continued lines as one, without comments."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in whole.splitlines() if line)]


def of(instruction: str) -> list[str]:
    return [rest for word, rest in instructions() if word == instruction]


def copied() -> dict[str, str]:
    """Where each file or folder of the repository goes."""
    found = {}
    for rest in of("COPY"):
        words = [word for word in shlex.split(rest) if not word.startswith("--")]
        if "--from" in rest:
            continue
        for source in words[:-1]:
            target = words[-1]
            found[source] = f"{target.rstrip('/')}/{source}" if target.endswith("/") else target
    return found


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a path through; the last rule that fits decides."""
    sent = True
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        if rule and not rule.startswith("#"):
            pattern = rule.removeprefix("!").removeprefix("**/")
            parts = [path, *(str(above) for above in Path(path).parents), *(Path(path).parts if "**/" in rule else ())]
            if any(fnmatch(part, pattern) for part in parts if part != "."):
                sent = rule.startswith("!")
    return sent


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image has under /opt/tierwave."""
    folder = tmp_path_factory.mktemp("image")
    for source in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
        elif source != "docker-entrypoint.sh":
            shutil.copy(ROOT / source, folder / source)
    return folder


def test_every_instruction_is_one_and_every_source_exists_and_is_sent() -> None:
    known = {"FROM", "ARG", "WORKDIR", "RUN", "COPY", "ENV", "USER", "VOLUME", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in instructions()} == known
    sources = copied()
    assert {"setup.cfg", "tierwave", "configs", "docker-entrypoint.sh"} <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [source for source in sources if not is_sent(source)] == []
    inside = ["tierwave/play/x.js", "tierwave/controls/__init__.py", "configs/small.config.json"]
    assert all(is_sent(path) for path in inside)
    private = [".git/config", ".venv/bin/python", "logdir/x", "demo/corpus/x.wav", "tierwave/__pycache__/x.pyc"]
    assert not any(is_sent(path) for path in [*private, "x.wav", "tests/conftest.py"])


def test_all_packages_and_scripts_are_copied() -> None:
    packages = [line.strip().rstrip("*") for line in SETUP["options.packages.find"]["include"].split() if line.strip()]
    scripts = [f"{line}.py" for line in SETUP["options"]["py_modules"].split()]
    named = re.findall(r"file: (\S+)", (ROOT / "setup.cfg").read_text()) + SETUP["metadata"]["license_files"].split()
    assert packages and scripts and named
    assert {*packages, *scripts, *named, "pyproject.toml", "default.config.json"} <= set(copied())


def test_the_image_is_of_a_python_that_is_supported_and_runs_as_nobody_special() -> None:
    images = of("FROM")
    assert len({image.split()[0] for image in images}) == 1  # both stages: the environment is copied between them
    version = re.match(r"python:(3\.\d+)-slim", images[0])
    assert version is not None and version[1] in PYTHONS
    order = [word for word, _ in instructions()]
    assert of("USER") == ["tierwave"] and order.index("USER") > max(i for i, word in enumerate(order) if word == "RUN")
    assert "useradd --create-home --uid 1000 tierwave" in " ".join(of("RUN"))
    assert json.loads(of("VOLUME")[0]) == ["/data", "/work"] and of("WORKDIR")[-1] == "/work"


@pytest.mark.parametrize(("extras", "wanted"), [("", "."), ("gpu", ".[gpu]"), ("gpu,play", ".[gpu,play]")])
def test_what_is_installed_follows_the_argument(tmp_path: Path, extras: str, wanted: str) -> None:
    """The RUN lines by the shell itself, with programs that tell how they were called."""
    assert set(extras.split(",")) - {""} <= EXTRAS
    assert 'ARG EXTRAS=""' in (ROOT / "Dockerfile").read_text()
    for command in of("RUN"):
        subprocess.run(["sh", "-n", "-c", command], check=True)
    (command,) = [command for command in of("RUN") if "pip install" in command]
    program = tmp_path / "pip"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    shown = command.replace("/opt/venv/bin/pip", shlex.quote(str(program)))
    done = subprocess.run(["sh", "-c", shown], env={"EXTRAS": extras}, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-3:] == ["--editable", wanted, ""]


def entrypoint(image: Path, work: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The image's entry point, with this Python."""
    (path,) = json.loads(of("ENTRYPOINT")[0])
    assert copied()["docker-entrypoint.sh"] == f"/usr/local/bin/{path}"
    programs = work / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (programs / "python").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(image),
        "TIERWAVE_HOME": str(image),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = ["sh", str(ROOT / path), *words]
    return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)


def test_the_entry_point_runs_scripts_modules_and_programs(image: Path, tmp_path: Path) -> None:
    for script in ("train.py", "generate.py", "chunk_audio.py", "tune.py"):
        done = entrypoint(image, tmp_path, script, "--help")
        assert done.returncode == 0 and "usage:" in done.stdout, done.stderr
    done = entrypoint(image, tmp_path, "-m", "tierwave", "fetch", "--help")
    assert done.returncode == 0 and "ljspeech" in done.stdout, done.stderr
    where = "import tierwave, melnet, sys; print(tierwave.__file__, melnet.__file__, sys.argv[1:])"
    done = entrypoint(image, tmp_path, "python", "-c", where, "a b")
    assert done.stdout.split(" ", 2)[2] == "['a b']\n" and done.stdout.startswith(f"{image}/tierwave/"), done.stderr
    assert f" {image}/melnet/" in done.stdout  # what is run is what was copied
    assert entrypoint(image, tmp_path, "nothing.py").returncode == 2
    assert os.access(ROOT / "docker-entrypoint.sh", os.X_OK)
    assert json.loads(of("CMD")[0]) == ["train.py", "--help"]


def test_the_image_makes_its_demo_corpus_in_the_working_folder(image: Path, tmp_path: Path) -> None:
    done = entrypoint(image, tmp_path, "-m", "tierwave", "demo", "tones", "--sample_rate", "8000", "--seconds", "0.2")
    assert done.returncode == 0 and len(list((tmp_path / "tones").glob("*.wav"))) == 117, done.stderr


def test_the_examples_of_the_dockerfile_are_commands_that_exist(image: Path) -> None:
    comments = "\n".join(line[1:] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("#"))
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    examples = re.sub(r"\\\n", " ", comments + page[page.index("## Docker") :])
    assert set(re.findall(r"--build-arg EXTRAS=(\S+)", examples)) == {"gpu"}
    presets = re.findall(rf"{HOME}/(configs/\S+)", examples)
    assert presets and all((image / preset).exists() for preset in presets)
    assert all((image / script).exists() for script in re.findall(r"\b(\w+\.py)\b", examples))


def test_conda_brings_python_and_programs_and_pip_the_rest_as_setup_cfg_says() -> None:
    document = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert document["name"] == "tierwave" and document["channels"] == ["conda-forge"]
    plain = [each for each in document["dependencies"] if isinstance(each, str)]
    (pip,) = [each["pip"] for each in document["dependencies"] if isinstance(each, dict)]
    version = re.fullmatch(r"python=(3\.\d+)", next(each for each in plain if each.startswith("python")))
    assert version is not None and version[1] in PYTHONS and "pip" in plain
    (line,) = pip  # nothing is pinned in two places
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", line)
    assert extras is not None and set(extras[1].split(",")) <= EXTRAS
    libraries = set(re.findall(r"^[\w-]+", SETUP["options"]["install_requires"], re.MULTILINE))
    assert "tensorflow" in libraries and not libraries & {each.split("=")[0] for each in plain}
