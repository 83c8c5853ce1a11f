"""The versions that CI installs, beside those that may be installed."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
PYTHONS = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])


def requirements(text: str) -> list[Requirement]:
    lines = [line.strip() for line in text.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "%"))]


def holds(requirement: Requirement, python: str) -> bool:
    """Whether it concerns this Python on a Linux machine."""
    machine = {"python_version": python, "python_full_version": f"{python}.7", "sys_platform": "linux", "extra": ""}
    return requirement.marker is None or requirement.marker.evaluate(machine)


WANTED = {"": SETUP["options"]["install_requires"], **SETUP["options.extras_require"]}


@pytest.mark.parametrize("python", PYTHONS)
def test_each_dependency_has_one_version_within_its_range(python: str) -> None:
    constraints = [each for each in requirements((ROOT / "constraints.txt").read_text()) if holds(each, python)]
    versions: dict[str, Version] = {}
    for each in constraints:
        (pin,) = each.specifier
        assert pin.operator == "==" and "*" not in pin.version, each
        assert canonicalize_name(each.name) not in versions, f"{each.name} has two versions on Python {python}"
        versions[canonicalize_name(each.name)] = Version(pin.version)
    for extra, text in WANTED.items():
        for each in requirements(text):
            if holds(each, python):
                version = versions.get(canonicalize_name(each.name))
                assert version is not None, f"{each} of {extra or 'install_requires'} is not in constraints.txt"
                assert each.specifier.contains(version), f"{each} of {extra or 'install_requires'}, but {version}"


def test_make_installs_these_versions() -> None:
    makefile = (ROOT / "Makefile").read_text()
    installs = re.findall(r"\$\(pip\) install (.*)", makefile)
    assert installs and all(each.startswith("--constraint constraints.txt ") for each in installs)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


# Below these there are published holes: of which kind.
KNOWN = {
    "starlette": "1.3.1",  # quadratic Range headers, Host headers that are believed, forms without limits
    "keras": "3.12.1",  # archives and HDF5 files that are believed
    "onnx": "1.21",  # external data that lies outside of a model's folder
    "grpcio": "1.66.2",  # HPACK
    "jupyterlab": "4.6.2",  # scripts in notebooks and pictures
    "pydantic": "2.8",  # addresses of e-mail, quadratic; and lists that end at their first fault
    "ipython": "8.10",  # window titles on Windows
    "pytest": "9.0.3",  # a guessable folder in /tmp
}


@pytest.mark.parametrize("name", KNOWN)
def test_no_version_with_a_known_hole_is_let_in(name: str) -> None:
    found = [each for text in WANTED.values() for each in requirements(text) if each.name == name]
    assert found
    for each in found:
        (lowest,) = [Version(pin.version) for pin in each.specifier if pin.operator == ">="]
        assert lowest >= Version(KNOWN[name])
