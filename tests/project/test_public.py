"""What `import tierwave` offers: it is light, it is there, and it is written down."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tierwave

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", tierwave.__all__)
def test_a_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(tierwave, name) and name in dir(tierwave)
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert name == "__version__" or re.search(rf"`{name}`", page)


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'load_runs'"):
        _ = tierwave.load_runs


def test_the_package_alone_imports_nothing() -> None:
    heavy = ("tierwave.", "numpy", "keras")
    code = f"import sys, tierwave; print([name for name in sys.modules if name.startswith({heavy})])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
