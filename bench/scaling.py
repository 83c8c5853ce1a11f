"""What a second worker brings: `python -m bench.scaling [--config_file FILE]`. Processes of this machine, a core each.

Weak scaling gives every worker the same number of lanes, strong scaling divides them among the workers. Ideal: weak,
the same time per update; strong, half of it. Lost are the sum of gradients over loopback, and waiting for each other.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
PINNED = "import os, sys, train\nos.sched_setaffinity(0, {int(sys.argv[1])})\nsys.exit(train.main(sys.argv[2:]))\n"


def seconds_per_update(config_file: Path, workers: int, lanes: int, steps: int) -> float:
    """The median of the later half of `steps` updates of `workers` processes with `lanes` lanes in all."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--demo", "--id", "bench", "--logdir_root", f"{folder}/logdir", "--output_dir", f"{folder}/generated"]
        words += ["--config_file", str(config_file), "--batch_size", str(lanes), "--num_steps", str(steps)]
        words += ["--generate", "False", "--strategy", "multiworker" if workers > 1 else "one", "--verbose"]
        addresses = [f"127.0.0.1:{_free_port()}" for _ in range(workers)]
        started = []
        for index in range(workers):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            if workers > 1:
                environment["TF_CONFIG"] = json.dumps(task)
            command = [sys.executable, "-c", PINNED, str(index), *words]
            started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
        codes = [process.wait() for process in started]
        if any(codes):
            raise RuntimeError(f"workers ended with {codes}")
        (table,) = Path(folder, "logdir", "bench").glob("*/losses.csv")
        with open(table, encoding="utf-8", newline="") as file:
            times = [float(row["seconds"]) for row in csv.DictReader(file) if row["gradient_norm"]]
    return statistics.median(times[len(times) // 2 :])


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def main(argv: Sequence[str] | None = None) -> int:
    flags = argparse.ArgumentParser("python -m bench.scaling", description=__doc__)
    flags.add_argument("--config_file", type=Path, default=ROOT / "configs" / "small.config.json")
    flags.add_argument("--lanes", type=int, default=16, help="of one worker (%(default)s)")
    flags.add_argument("--steps", type=int, default=30)
    given = flags.parse_args(argv)
    alone = seconds_per_update(given.config_file, 1, given.lanes, given.steps)
    weak = seconds_per_update(given.config_file, 2, 2 * given.lanes, given.steps)
    strong = seconds_per_update(given.config_file, 2, given.lanes, given.steps)
    print(f"{given.config_file.name}, {given.lanes} lanes: one worker {1000 * alone:.0f} ms")
    print(f"weak, two workers with {given.lanes} lanes each: {1000 * weak:.0f} ms, efficiency {alone / weak:.0%}")
    print(f"strong, two workers with {given.lanes} lanes in all: {1000 * strong:.0f} ms, {alone / strong:.2f} times")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
