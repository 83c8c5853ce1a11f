"""Which of several processes that train together this one is: what TF_CONFIG says. Knows no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tierwave.errors import UsageError
from tierwave.textfiles import parse_json

TF_CONFIG = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True)
class Task:
    """This process among those of TF_CONFIG: its number, and how many there are. The chief is number 0."""

    rank: int = 0
    workers: int = 1


def task_of(environment: Mapping[str, str]) -> Task:
    """Which process TF_CONFIG says this is; alone where it says nothing. Raises UsageError where it is not what
    TensorFlow reads."""
    text = environment.get(TF_CONFIG, "")
    if not text.strip():
        return Task()
    try:
        document = parse_json(text)
    except ValueError as error:
        raise UsageError(
            f"the environment variable TF_CONFIG is not JSON ({error}): write for example {EXAMPLE}"
        ) from None
    cluster = document.get("cluster") if isinstance(document, dict) else None
    if not cluster:
        return Task()
    task = document.get("task")
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise UsageError(f"TF_CONFIG must hold the objects cluster and task: write for example {EXAMPLE}")
    unknown = sorted(cluster.keys() - {"chief", "worker"})
    if unknown:
        raise UsageError(f'TF_CONFIG has tasks of the type "{unknown[0]}", and only chief and worker can train')
    chiefs, workers = (cluster.get(kind, []) for kind in ("chief", "worker"))
    if not all(isinstance(each, list) and all(isinstance(name, str) for name in each) for each in (chiefs, workers)):
        raise UsageError(f"TF_CONFIG must list the workers as HOST:PORT: write for example {EXAMPLE}")
    kind, index = task.get("type"), task.get("index")
    listed = {"chief": chiefs, "worker": workers}.get(kind if isinstance(kind, str) else "", [])
    if not isinstance(index, int) or not 0 <= index < len(listed):
        raise UsageError(
            f"TF_CONFIG says that this is the task {kind} {index}, and its cluster has {len(chiefs)} chief and "
            f"{len(workers)} workers: give every process its own type and index, from 0"
        )
    return Task(index + (len(chiefs) if kind == "worker" else 0), len(chiefs) + len(workers))
