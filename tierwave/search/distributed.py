"""A search by several processes or machines: a chief that says what is tried, and workers that train it.

They speak Keras Tuner's own protocol (gRPC, `KERASTUNER_*`), which has neither passwords nor encryption: for one
machine, or a network of trusted ones. Whoever falls silent is given up: a worker's trial goes to another, and a worker
without a chief ends. What is searched and found is `tuning`'s business.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tierwave.errors import RunError, UsageError
from tierwave.runs.folder import only_training
from tierwave.search.search import (
    TRIALS,
    Plan,
    Print,
    Search,
    Start,
    begin,
    digest_of,
    make_room,
    need_keras_tuner,
    plan_of,
    report,
    trial_lines,
    work_off,
)
from tierwave.search.space import OBJECTIVES

LINGER_SECONDS = 10.0  # for which a chief that is done waits for workers to ask once more


@dataclass(frozen=True)
class Address:
    """Where a chief listens."""

    host: str
    port: int

    @staticmethod
    def parse(text: str) -> Address:
        """`HOST:PORT`. Raises UsageError for anything else."""
        host, colon, port = text.rpartition(":")
        if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise UsageError(f"--chief {text} is not HOST:PORT: write for example --chief 127.0.0.1:8500")
        return Address(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in ("localhost", "[::1]") or self.host.startswith("127.")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def serve(
    search: Search,
    address: Address,
    say_line: Print,
    start_tensorflow: Start = lambda: None,
    *,
    silence: float = 60.0,
) -> None:
    """Be the chief: hand trials to workers until all are done, then tell what was found.

    silence: seconds after which a worker that is not heard of has died and its trial is given to another. Raises
    UsageError and RunError as `tune`, and where the address cannot be listened on.
    """
    need_keras_tuner()
    plan = plan_of(search)
    with only_training(search.logdir_root, search.identity):
        make_room(search, say_line)
        start_tensorflow()
        oracle = begin(search, plan, say_line, silence=silence, shared=True)
        _set_environment(address, "chief")
        import grpc
        from keras_tuner.src import protos
        from keras_tuner.src.distribute.oracle_chief import OracleServicer

        # Two chiefs on one port would share the questions between them.
        server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=[("grpc.so_reuseport", 0)])
        protos.get_service_grpc().add_OracleServicer_to_server(OracleServicer(oracle), server)
        try:
            bound = server.add_insecure_port(str(address))
        except RuntimeError:
            bound = 0
        if bound == 0:
            raise RunError(
                f"--chief {address} cannot be listened on: the port is taken or the address is none of this machine's; "
                "choose another"
            )
        server.start()
        if not address.is_loopback:
            say_line(
                "Warning: workers and chief talk without password or encryption: whoever reaches "
                f"{address} can take part. Use it on a network that you trust.",
                False,
            )
        say_line(f"The chief listens on {address}; start workers with --role worker --chief {address}.", False)
        try:
            _wait_for_workers(oracle, say_line)
        finally:
            server.stop(grace=1.0).wait()
        report(oracle, plan, search, say_line)


def _wait_for_workers(oracle: Any, say_line: Print) -> None:
    while not oracle.is_over:
        time.sleep(0.2)
        if oracle.fault is not None:
            raise oracle.fault
        oracle.give_back_of_the_silent()
        if oracle.is_closed and time.monotonic() > oracle.deadline + oracle.silence:
            say_line("Warning: workers did not give their trials back in time.", False)
            break
    until = time.monotonic() + LINGER_SECONDS
    while oracle.tuner_ids and time.monotonic() < until:  # they shall hear that it is over
        time.sleep(0.2)


def work(
    address: Address,
    data_dir: Path | None,
    folder: Path,
    say_line: Print,
    start_tensorflow: Start = lambda: None,
    *,
    param_dir: Path | None = None,
    params: Path | None = None,
    patience: float = 60.0,
    verbose: bool = False,
) -> int | None:
    """Be a worker: train what the chief says until it has no more; the signal that ended it, if one did.

    folder: of the search on this machine; shared with the other workers, their trials can be gone on with. patience:
    seconds to wait for an answer. Raises RunError where the chief does not answer, UsageError where the recordings are
    not its own.
    """
    need_keras_tuner()
    if data_dir is None:
        raise UsageError("--data_dir is missing: name a folder of recordings")
    recordings = digest_of(data_dir)
    start_tensorflow()
    tuner_id = f"{socket.gethostname()}-{os.getpid()}"
    _set_environment(address, tuner_id)
    import grpc
    from keras_tuner.src.distribute import oracle_client

    from tierwave.search.trial import Runner

    oracle_client.TIMEOUT = patience  # an hour otherwise
    with contextlib.closing(grpc.insecure_channel(str(address))) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=patience)
        except grpc.FutureTimeoutError:
            raise RunError(
                f"no chief answers at {address} within {patience:g} s: start it first, with --role chief --chief "
                f"{address}, and look whether the address is right and a firewall lets it through"
            ) from None
    oracle = oracle_client.OracleClient(None)
    try:
        told = json.loads(oracle.get_trial("plan").hyperparameters.values["plan"])
        plan = Plan.from_document(told)
        if plan.corpus is not None and plan.corpus != recordings:
            raise UsageError(
                f"--data_dir {data_dir} holds other recordings than the chief's: all workers need the same ones"
            )
        deadline = math.inf if told["seconds"] is None else time.monotonic() + told["seconds"]
        runner = Runner(
            plan.space,
            (plan.objective, OBJECTIVES[plan.objective]),
            data_dir,
            folder / TRIALS,
            trial_lines(say_line, verbose),
            guard=plan.guard,
            minutes=plan.minutes,
            deadline=deadline,
            param_dir=param_dir,
            params=params,
        )
        say_line(f"Working for {address} as {tuner_id}.", False)
        with _heartbeat(oracle, patience / 6.0) as beat:
            work_off(oracle, runner, tuner_id, begun=beat, say=lambda text: say_line(text, False))
    except grpc.RpcError as error:
        reason = error.details() if isinstance(error, grpc.Call) else error
        raise RunError(
            f"the chief at {address} does not answer any more ({reason}): start it again, it goes on where it stood, "
            "and then this worker"
        ) from None
    return runner.signal


@contextlib.contextmanager
def _heartbeat(oracle: Any, seconds: float) -> Iterator[Callable[[str | None], None]]:
    """Tell the chief now and then that the trial which was named last is alive."""
    import grpc

    trial: str | None = None
    over = threading.Event()

    def beat() -> None:
        while not over.wait(seconds):
            if trial is not None:
                with contextlib.suppress(grpc.RpcError):  # what follows the trial will say so
                    oracle.get_trial(trial)

    def name(number: str | None) -> None:
        nonlocal trial
        trial = number

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield name
    finally:
        over.set()


def _set_environment(address: Address, tuner_id: str) -> None:
    """What Keras Tuner reads."""
    os.environ.update(
        KERASTUNER_ORACLE_IP=address.host, KERASTUNER_ORACLE_PORT=str(address.port), KERASTUNER_TUNER_ID=tuner_id
    )
    os.environ.setdefault("no_grpc_proxy", address.host)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
