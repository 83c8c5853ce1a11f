"""A search by several processes or machines: a chief that decides what is tried, and workers that train it.

They use Keras Tuner's own chief, workers and protocol (gRPC, `KERASTUNER_*`), which has neither passwords nor
encryption: for one machine, or a network of trusted ones. A worker that falls silent loses its trial to another; a
worker without a chief ends. The plan of the search is in `search.json`, which workers read.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

from tierwave.errors import RunError, UsageError
from tierwave.runs.folder import only_training
from tierwave.search.plan import SEARCH_FILE, ChiefLost, Plan, Search, digest_of, need_recordings, plan_of, read_plan
from tierwave.search.search import Print, Start, begin, make_room, need_keras_tuner, report, trial_lines

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
    def pair(self) -> tuple[str, int]:
        """As sockets have it."""
        return self.host.strip("[]"), self.port

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in ("localhost", "[::1]") or self.host.startswith("127.")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


# The chief -------------------------------------------------------------------------------------------------------


def serve(
    search: Search,
    address: Address,
    say_line: Print,
    start_tensorflow: Start = lambda: None,
    *,
    silence: float = 60.0,
) -> None:
    """Be the chief: hand trials to workers until all are done, then report.

    silence: seconds after which a silent worker counts as dead and its trial is given to another. Raises UsageError and
    RunError as `tune`, and if the address cannot be listened on.
    """
    need_keras_tuner()
    plan = plan_of(search)
    with only_training(search.logdir_root, search.id):
        make_room(search, say_line)
        start_tensorflow()
        from tierwave.search.trial import TrialTuner

        _refuse_taken(address)
        oracle = begin(search, plan, say_line, silence=silence, shared=True)
        if not address.is_loopback:
            say_line(
                "Warning: workers and chief talk without password or encryption: whoever reaches "
                f"{address} can take part. Use it on a network that you trust.",
                False,
            )
        _set_environment(address, "chief")
        # Keras Tuner's chief ends only when a worker asks in vain; this one also when its time is over.
        server = threading.Thread(target=TrialTuner(oracle, plan, search, say_line).search, daemon=True)
        server.start()
        say_line(f"The chief listens on {address}; start workers with --role worker --chief {address}.", False)
        _wait_for_workers(oracle, server, say_line)
        report(oracle, plan, search, say_line)


def _refuse_taken(address: Address) -> None:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        socket.create_server(address.pair, family=family).close()
    except OSError:
        raise RunError(
            f"--chief {address} cannot be listened on: the port is taken or the address is none of this machine's; "
            "choose another"
        ) from None


def _wait_for_workers(oracle: Any, server: threading.Thread, say_line: Print) -> None:
    while server.is_alive() and not oracle.is_over:
        time.sleep(0.2)
        oracle.give_back_of_the_silent()
        if oracle.is_closed and time.monotonic() > oracle.deadline + oracle.silence:
            say_line("Warning: workers did not give their trials back in time.", False)
            break
    until = time.monotonic() + LINGER_SECONDS
    while oracle.tuner_ids and time.monotonic() < until:  # they end when they ask once more
        time.sleep(0.2)


# Workers ---------------------------------------------------------------------------------------------------------


def work(
    search: Search,
    address: Address,
    say_line: Print,
    start_tensorflow: Start = lambda: None,
    *,
    patience: float = 60.0,
    verbose: bool = False,
) -> int | None:
    """Be a worker: train what the chief decides until there is no more; the signal that ended it, if one did.

    Of `search` a worker needs its folder, where the chief's `search.json` must lie, and the recordings; workers that
    share the folder can go on with each other's trials. patience: seconds to wait for the chief. Raises RunError if the
    chief does not answer, UsageError if its search is not in the folder or is of other recordings.
    """
    need_keras_tuner()
    digest_of(need_recordings(search))  # before TensorFlow takes its seconds
    start_tensorflow()
    import grpc
    import keras_tuner

    from tierwave.search.trial import TrialTuner

    tuner_id = f"{socket.gethostname().replace('chief', '')}-{os.getpid()}"  # Keras Tuner looks for "chief" in it
    _set_environment(address, tuner_id)

    def check_chief() -> None:
        _wait_for(address, patience)

    try:
        check_chief()
    except ChiefLost:
        raise RunError(
            f"no chief answers at {address} within {patience:g} s: start it first, with --role chief --chief "
            f"{address}, and look whether the address is right and a firewall lets it through"
        ) from None
    plan = _plan_in(search)
    tuner = TrialTuner(
        keras_tuner.Oracle(keras_tuner.Objective(*plan.goal)),  # which Keras Tuner replaces by the chief's
        plan,
        search,
        trial_lines(say_line, verbose),
        say=lambda text: say_line(text, False),
        check_chief=check_chief,
    )
    over = threading.Event()

    def beat() -> None:
        while not over.wait(patience / 6.0):
            number = tuner.current
            with contextlib.suppress(grpc.RpcError):  # the next request will say what is wrong
                if number is not None and tuner.oracle.get_trial(number).status == "STOPPED":
                    tuner.deadline = time.monotonic()

    try:
        if {axis.name for axis in tuner.oracle.get_space().space} != {axis.key for axis in plan.space.axes}:
            raise UsageError(f"{search.folder / SEARCH_FILE} is not the chief's: copy it again, or share --logdir_root")
        say_line(f"Working for {address} as {tuner_id}.", False)
        threading.Thread(target=beat, daemon=True).start()
        return tuner.run()
    except grpc.RpcError as error:
        raise _lost(address, str(error.details() if isinstance(error, grpc.Call) else error)) from None
    finally:
        over.set()


def _plan_in(search: Search) -> Plan:
    """The chief's plan. Raises UsageError if it is missing or of other recordings."""
    path = search.folder / SEARCH_FILE
    if not path.exists():
        raise UsageError(
            f"{path} does not exist: give worker and chief the same --id and --logdir_root, or copy the chief's "
            f"{SEARCH_FILE} there"
        )
    plan = Plan.from_document(read_plan(path))
    if plan.recordings not in (None, digest_of(need_recordings(search))):
        raise UsageError(
            f"--data_dir {search.data_dir} holds other recordings than the chief's: all workers need the same ones"
        )
    return plan


def _wait_for(address: Address, patience: float) -> None:
    """Wait until the chief listens. Raises ChiefLost after `patience` seconds; Keras Tuner would wait for an hour."""
    until = time.monotonic() + patience
    while True:
        try:
            socket.create_connection(address.pair, timeout=patience).close()
            return
        except OSError as error:
            if time.monotonic() >= until:
                raise _lost(address, str(error)) from None
            time.sleep(0.2)


def _lost(address: Address, reason: str) -> ChiefLost:
    return ChiefLost(
        f"the chief at {address} does not answer any more ({reason}): start it again, it goes on where it stood, and "
        "then this worker"
    )


def _set_environment(address: Address, tuner_id: str) -> None:
    """Set what Keras Tuner reads."""
    os.environ.update(
        KERASTUNER_ORACLE_IP=address.host, KERASTUNER_ORACLE_PORT=str(address.port), KERASTUNER_TUNER_ID=tuner_id
    )
    os.environ.setdefault("no_grpc_proxy", address.host)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
