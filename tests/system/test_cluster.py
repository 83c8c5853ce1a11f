"""Connecting to a Ray cluster: on the loopback interface, reporting to nobody, and told where there is none."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import types
from pathlib import Path

import pytest

from tierwave.errors import RunError, UsageError
from tierwave.system.cluster import INSTALL_RAY, LOCAL, connected
from tierwave.training.plan import TrainingRequest
from tierwave.training.ray_cluster import train_on_cluster

# Not by importing it: it reads its environment when it is imported.
with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


def test_without_ray_there_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="--cluster auto needs Ray .*pip install") as caught, connected("auto", 1):
        pass
    assert INSTALL_RAY in str(caught.value)


@pytest.mark.parametrize(
    ("address", "kind", "told"),
    [
        ("local", RunError, r"Ray did not start on this machine \(The current node timed out.*less busy"),
        ("auto", UsageError, r"--cluster auto: there is no Ray cluster to work on \(The current node timed out"),
    ],
)
def test_a_ray_that_does_not_start_is_told(
    monkeypatch: pytest.MonkeyPatch, address: str, kind: type[Exception], told: str
) -> None:
    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen.\nMore of it.")

    ray = types.SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(kind, match=told), connected(address, 2):
        pass


@pytest.mark.parametrize(
    ("address", "what"),
    [(LOCAL, "Starting Ray ..."), ("10.0.0.1:6379", "Joining the Ray cluster 10.0.0.1:6379 ...")],
)
def test_that_a_cluster_starts_is_told(
    address: str, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said: list[str] = []
    request = TrainingRequest("id", tmp_path, {})
    with pytest.raises(UsageError, match="needs Ray"):
        train_on_cluster(request, {}, lambda text, rewrite: said.append(text), address=address, workers=2)
    assert said[0] == what


@with_ray
@pytest.mark.slow
def test_it_starts_on_loopback_and_reports_to_nobody() -> None:
    read_before = "ray" in sys.modules
    with connected(LOCAL, 2) as ray:
        if read_before:
            pytest.skip("Ray was imported by something else, and has read its environment")
        assert ray.util.get_node_ip_address() == "127.0.0.1"
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@with_ray
@pytest.mark.slow
def test_where_there_is_no_cluster_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def nobody(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", nobody)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        match = f"--cluster {address}: there is no Ray cluster .*refused"
        with pytest.raises(UsageError, match=match), connected(address, 2):
            pass
    match = r"--cluster auto: .*\(Could not find any running Ray instance\): start one"
    with pytest.raises(UsageError, match=match), connected("auto", 2):
        pass
