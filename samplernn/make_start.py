"""The starting weights of SampleRNN, from a run that was trained on synthesised sound (`make start`).

python -m samplernn.make_start RUN OUTPUT.npz
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tierwave.cli.flags import FlagParser
from tierwave.nn.runtime import import_tensorflow


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, write the file, return the exit code."""
    flags = FlagParser("samplernn.make_start", description="Keep a run's weights as starting weights, in 8 bits each.")
    flags.add_argument("run", metavar="RUN", type=Path, help="a checkpoint, its .index file, a run or an id's folder")
    flags.add_argument("output", metavar="OUTPUT", type=Path, help="a .npz file")
    return flags.run(_make, argv)


def _make(arguments: Any) -> None:
    from tierwave.config import split_training
    from tierwave.generation.load import load_run
    from tierwave.runs.folder import CONFIG_NAME
    from tierwave.runs.start import write_start

    import_tensorflow(debug=arguments.debug)
    trained = load_run(arguments.run)
    config, _ = split_training(trained.run.read(CONFIG_NAME))
    write_start(arguments.output, trained.models[0], config, trained.schema)
    print(f"Wrote {arguments.output} ({arguments.output.stat().st_size / 1e6:.2f} MB), from {trained.path}")


if __name__ == "__main__":
    sys.exit(main())
