"""Training over a Ray cluster: the same session on every worker, started again from its checkpoints when one is lost.

Ray Train starts the workers, tells them of each other (TF_CONFIG) and restarts all of them when one fails, a bounded
number of times; every attempt resumes from the newest checkpoint, as any session does. A small actor carries what the
chief says, and why attempts failed, to the process that asked.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tierwave.config import NO_START, START
from tierwave.errors import RunError, UsageError
from tierwave.files.urls import absolute, place_of
from tierwave.system.cluster import connected, starting
from tierwave.system.progress import SECONDS, SayLine, clock, every, waiting
from tierwave.training.plan import TrainingRequest, TrainingResult
from tierwave.training.session import encode

SECONDS_BETWEEN_LINES = 0.5  # in which the chief's lines are fetched
_PATHS = ("data_dir", "logdir_root", "output_dir", "resume_from", "init_from", "param_dir", "params", "cache_dir")


def train_on_cluster(
    session: TrainingRequest,
    default_document: dict[str, Any],
    say_line: SayLine,
    *,
    address: str,
    workers: int,
    failures: int = 3,
) -> TrainingResult:
    """`session.train` on `workers` processes of the Ray cluster at `address` ("local": started here, for as long as it
    takes). failures: how often all workers are started again when one is lost.

    Raises UsageError and RunError as `session.train` does, and RunError when there were too many failures.
    """
    if workers < 1:
        raise UsageError(f"--num_workers {workers} must be 1 or more")
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    with contextlib.ExitStack() as held:
        with waiting(say_line, starting(address)):
            ray = held.enter_context(connected(address, workers + 1))
            desk = held.enter_context(_desk(ray))
        held.enter_context(_told(ray, desk, say_line))
        encode(session, lambda: default_document, say_line)  # once: the workers then find the cache
        return _fit(ray, desk, _elsewhere(session, workers), default_document, workers, failures)


def _elsewhere(session: TrainingRequest, workers: int) -> TrainingRequest:
    """The session for a process with another working folder, together with others."""
    paths = {name: getattr(session, name) for name in _PATHS}
    elsewhere: dict[str, Any] = {
        name: path if path is None or path in (START, NO_START) else place_of(absolute(path))
        for name, path in paths.items()
    }
    typed = {**session.typed, "strategy": "multiworker"} if workers > 1 else dict(session.typed)
    return replace(session, typed=typed, **elsewhere)


def _fit(
    ray: Any, desk: Any, session: TrainingRequest, default_document: dict[str, Any], workers: int, failures: int
) -> TrainingResult:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

    there = ray.cluster_resources()
    if there.get("CPU", 0) < workers:
        raise UsageError(
            f"--num_workers {workers} need a core each, and the cluster has {there.get('CPU', 0):g}: ask for fewer, or "
            "add machines"
        )
    trainer = TensorflowTrainer(
        _work,
        train_loop_config={"session": session, "default": default_document, "desk": desk},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=there.get("GPU", 0) >= workers),
        run_config=RunConfig(
            name=session.identity,
            storage_path=str(session.logdir_root / ".ray"),
            failure_config=FailureConfig(max_failures=failures),
            callbacks=[_callback(desk)],
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray's own kinds differ from version to version
        reasons = ray.get(desk.reasons.remote()) or [_first_line(error)]
        raise RunError(
            f"training was given up after {len(reasons)} failures, the last of them: {reasons[-1]}; the newest "
            "checkpoint is good, and the same command goes on from it"
        ) from error
    ending = ray.get(desk.ending.remote())
    if isinstance(ending, Exception):
        raise ending
    if ending is None:
        raise RunError("the workers ended without a word: see Ray's logs, and run the same command again")
    return ending


def _work(config: dict[str, Any]) -> None:
    """What every worker does, in every attempt."""
    import ray
    from ray.train import get_context

    from tierwave.training.devices import WorkerLost
    from tierwave.training.session import train

    session, desk = config["session"], config["desk"]
    if ray.get(desk.ending.remote()) is not None:
        return  # an earlier attempt has ended with what no other attempt can mend

    told_at = -math.inf

    def say_line(text: str, rewrite: bool) -> None:
        nonlocal told_at
        now = time.monotonic()
        if not rewrite or now - told_at >= SECONDS_BETWEEN_LINES:
            told_at = now
            desk.say.remote(text, rewrite)

    try:
        outcome = train(session, lambda: config["default"], say_line)
    except WorkerLost:
        raise
    except (UsageError, RunError) as error:
        ray.get(desk.end.remote(type(error)(str(error))))
        raise
    if get_context().get_world_rank() == 0:
        ray.get(desk.end.remote(outcome))


class _Desk:
    """What workers leave for the process that asked: lines, reasons of failures, and how it ended."""

    def __init__(self) -> None:
        self._lines: list[tuple[str, bool]] = []
        self._reasons: list[str] = []
        self._ending: TrainingResult | Exception | None = None

    def say(self, text: str, rewrite: bool) -> None:
        self._lines.append((text, rewrite))

    def fail(self, reason: str) -> None:
        self._reasons.append(reason)
        self._lines.append((f"Failure {len(self._reasons)}: {reason}", False))

    def end(self, ending: TrainingResult | Exception) -> None:
        if self._ending is None:
            self._ending = ending

    def lines(self) -> list[tuple[str, bool]]:
        """Those since the last call."""
        new, self._lines = self._lines, []
        return new

    def reasons(self) -> list[str]:
        return self._reasons

    def ending(self) -> TrainingResult | Exception | None:
        return self._ending


@contextlib.contextmanager
def _desk(ray: Any) -> Iterator[Any]:
    desk = ray.remote(_Desk).options(num_cpus=0).remote()
    try:
        yield desk
    finally:
        ray.kill(desk)


@contextlib.contextmanager
def _told(ray: Any, desk: Any, say_line: SayLine) -> Iterator[None]:
    """The chief's lines are said here while the block lasts."""
    heard_at = time.monotonic()

    def tell() -> None:
        nonlocal heard_at
        lines = ray.get(desk.lines.remote())
        for text, rewrite in lines:
            say_line(text, rewrite)
        if lines:
            heard_at = time.monotonic()
        elif time.monotonic() - heard_at >= SECONDS:
            say_line(f"Nothing new from the workers for {clock(time.monotonic() - heard_at)}", True)

    try:
        with every(SECONDS_BETWEEN_LINES, tell):
            yield
    finally:
        tell()


def _callback(desk: Any) -> Any:
    from ray.train import UserCallback

    class TellFailures(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            import ray

            # "lost contact" is a consequence; show other errors first
            reasons = {rank: _first_line(error) for rank, error in sorted(worker_exceptions.items())}
            first = [text for text in reasons.items() if "another one is gone" not in text[1]] or list(reasons.items())
            ray.get(desk.fail.remote("; ".join(f"worker {rank}: {text}" for rank, text in first)))

    return TellFailures()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
