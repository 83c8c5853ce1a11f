"""The same bytes by Ray tasks as by one process; left out where Ray is not installed."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import chunk_audio
from tierwave.audio.quantize import Quantizer
from tierwave.audio.writer import write_wav
from tierwave.cli import controls
from tierwave.data.corpus import load_corpus
from tierwave.errors import AudioError, RunError, UsageError
from tierwave.system import parallel as spread

# Not by importing it: it reads its environment when it is imported.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]

RATE = 8000
read_before = False


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """One for all tests: what is connected already is used."""
    global read_before
    read_before = "ray" in sys.modules
    with spread.connected(spread.LOCAL, 2):
        yield spread.LOCAL


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    for number in range(5):
        sound = np.random.default_rng(number).uniform(-0.5, 0.5, 3000 + 100 * number).astype(np.float32)
        write_wav(tmp_path / "in" / f"{number}.wav", sound, RATE)
    (tmp_path / "in" / "broken.wav").write_text("no sound")
    return tmp_path / "in"


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_starts_on_loopback_and_reports_to_nobody(cluster: str) -> None:
    import ray

    if read_before:
        pytest.skip("Ray was imported by something else, and has read its environment")
    assert ray.util.get_node_ip_address() == "127.0.0.1"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_chunks_are_the_same(recordings: Path, tmp_path: Path, cluster: str) -> None:
    for name, flags in (("one", ["--jobs", "1"]), ("many", ["--cluster", cluster])):
        words = ["--input_file", str(recordings), "--output_dir", str(tmp_path / name), "--chunk_length", "100"]
        assert chunk_audio.main([*words, *flags]) == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "many") and len(tree(tmp_path / "one")) == 18


def test_curves_are_the_same(recordings: Path, tmp_path: Path, cluster: str) -> None:
    for name, flags in (("one", ["--jobs", "1"]), ("many", ["--cluster", cluster])):
        words = ["extract", str(recordings), "--param_dir", str(tmp_path / name), "--features", "rmse"]
        assert controls.main([*words, *flags]) == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "many") and len(tree(tmp_path / "one")) == 5


def test_codes_are_the_same(recordings: Path, tmp_path: Path, cluster: str) -> None:
    encoder = Quantizer("mu-law", 256)
    one = load_corpus(recordings, encoder, cache_dir=tmp_path / "one", normalize="corpus")
    many = load_corpus(recordings, encoder, cache_dir=tmp_path / "many", normalize="corpus", cluster=cluster)
    assert one.identity == many.identity
    assert tree(tmp_path / "one") == tree(tmp_path / "many") and len(tree(tmp_path / "one")) == 6


def refuse(number: int) -> int:
    if number == 3:
        raise AudioError(Path("a b.wav"), "it is no sound")
    return number


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_an_error_comes_as_itself_and_a_lost_task_is_told(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    with pytest.raises(AudioError, match="^Cannot use a b.wav: it is no sound$") as caught:
        found.extend(spread.spread(refuse, range(6), cluster=cluster))
    assert type(caught.value) is AudioError
    monkeypatch.setattr(spread, "TRIES", 1)
    with pytest.raises(RunError, match=r"a task of the cluster local was lost \(.*\): .*run the same command again"):
        list(spread.spread(die, range(1), cluster=cluster))


def test_where_there_is_no_cluster_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def nobody(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", nobody)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"--cluster {address}: there is no Ray cluster .*refused"):
            list(spread.spread(refuse, range(2), cluster=address))
    with pytest.raises(UsageError, match=r"--cluster auto: .*\(Could not find any running Ray instance\): start one"):
        list(spread.spread(refuse, range(2), cluster="auto"))
