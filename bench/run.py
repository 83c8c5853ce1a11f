"""`python -m bench.run [BENCHMARK ...] [--small] [--json FILE] [--recordings FILE[@SECONDS] ...]`.

Every case runs in a process of its own, so that peaks of memory are its own, with BLAS held to one thread: the limits
are measured on the cores that the case uses.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BENCHMARKS = ("generation", "training", "steered", "spectrograms", "pipeline", "startup", "inversion", "play", "page")


def cases(benchmark: str, small: bool, recordings: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The arguments of `measure` for every case of a benchmark; `recordings` are what is inverted, files with the
    second to begin at after an @, and three made-up sounds where there are none."""
    if benchmark == "inversion":
        if small:
            return [{"sound": "strings", "seconds": 0.3, "iterations": 4, "refinement": 2}]
        return [{"sound": sound} for sound in recordings or ("strings", "bells", "speech")]
    if benchmark == "play":
        return [{"seconds": 2, "hidden": 8, "layers": 1}] if small else [{"pages": pages} for pages in (1, 4)]
    if benchmark == "page":
        return [{"seconds": 2, "hidden": 8, "layers": 1}] if small else [{}]
    if benchmark == "generation":
        if small:
            return [
                {"name": name, "voices": 2, "samples": 64, "live": 16, "repeats": 1}
                for name in ("tiny", "rnncontrol_small")
            ]
        # A long block of prism takes seconds.
        sizes = {"small": 4096, "rnncontrol": 4096, "prism": 512}
        return [{"name": name, "voices": voices, "samples": sizes[name]} for name in sizes for voices in (1, 10)]
    if benchmark == "training":
        if small:
            return [{"name": "tiny", "lanes": 2, "repeats": 2}]
        both = ["float32", "mixed_bfloat16"]
        return [
            {"name": "B", "lanes": 16},
            {"name": "A", "lanes": 8, "precisions": both, "repeats": 5},
            {"name": "B", "lanes": 64},
        ]
    if benchmark == "steered":
        if small:
            return [{"lanes": 2, "window": 16, "hidden": 8, "layers": 1, "repeats": 2}]
        return [{"lanes": 64}, {"lanes": 256, "repeats": 5}]
    if benchmark == "spectrograms":
        if small:
            return [
                {"what": "flat", "hidden": 4, "layers": 1, "repeats": 1, "small": True},
                {"what": "pass", "streams": 2, "channels": 8, "frames": 8, "hidden": 4, "repeats": 1},
            ]
        return [{"what": "flat"}, {"what": "pass"}, {"what": "whole"}]
    if benchmark == "pipeline":
        if small:
            return [{"name": "tiny", "lanes": 4, "minutes": 0.1, "steps": 2}]
        return [{"name": "B", "lanes": 16}, {"name": "B", "lanes": 64}]
    return [{"config_file": "configs/tiny.config.json", "repeats": 1}] if small else [{}]


def measured(benchmark: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Measure one case in this process."""
    found = importlib.import_module(f"bench.{benchmark}").measure(**arguments)
    return found if isinstance(found, list) else [found]


def run_case(benchmark: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Measure one case in a new process."""
    code = (
        "import json, sys; from bench.run import measured; "
        "print(json.dumps(measured(sys.argv[1], json.loads(sys.argv[2]))))"
    )
    environment = {
        **os.environ,
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code, benchmark, json.dumps(arguments)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{benchmark} {arguments} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of one benchmark as Markdown; the sentences about limits stand below it."""
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in ("benchmark", "limit_text")))

    def cell(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, float):
            return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        return str(value)

    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += ["| " + " | ".join(cell(row.get(name)) for name in columns) + " |" for row in rows]
    texts = [f"- limit of {row['config']}: {row['limit_text']}" for row in rows if "limit_text" in row]
    return "\n".join([*lines, "", *dict.fromkeys(texts)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks that are named (all of them otherwise), print tables, write JSON."""
    flags = argparse.ArgumentParser(prog="python -m bench.run", description="Speed beside the machine's limit.")
    flags.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=f"of {', '.join(BENCHMARKS)} (all)")
    flags.add_argument("--small", action="store_true", help="tiny sizes, seconds in all: does it run?")
    flags.add_argument("--json", type=Path, help="write all figures to this file")
    flags.add_argument(
        "--recordings",
        nargs="+",
        default=[],
        metavar="FILE[@SECONDS]",
        help="what inversion inverts, 4 seconds of each from that second on (made-up sounds)",
    )
    arguments = flags.parse_args(argv)
    for name in arguments.benchmarks:
        if name not in BENCHMARKS:
            flags.error(f"{name!r} is not a benchmark; there are {', '.join(BENCHMARKS)}")
    everything = []
    for benchmark in arguments.benchmarks or BENCHMARKS:
        found = cases(benchmark, arguments.small, arguments.recordings)
        rows = [row for case in found for row in run_case(benchmark, case)]
        print(f"\n## {benchmark}\n\n{table(rows)}", flush=True)
        everything += rows
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
