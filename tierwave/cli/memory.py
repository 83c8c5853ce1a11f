"""`tierwave memory`: what training a config will take, without training it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tierwave.cli.flags import REPEATABLE, FlagParser
from tierwave.config import apply_overrides, read_document
from tierwave.nn.runtime import import_tensorflow
from tierwave.training.memory import GIGABYTE, demands


def parser() -> FlagParser:
    """All flags of `python -m tierwave memory`."""
    flags = FlagParser("tierwave memory", description="Estimate how much memory training a config will take.")
    flags.add_argument("--config_file", type=Path, required=True, help="*.config.json, one or more", **REPEATABLE)
    flags.add_argument("--set", **REPEATABLE, metavar="KEY=VALUE", help="override config keys; nested keys with dots")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, print a line per stage, return the exit code."""
    return parser().run(_print, argv)


def _print(arguments: argparse.Namespace) -> None:
    import_tensorflow(debug=arguments.debug)
    for path in arguments.config_file:
        document = apply_overrides(read_document(path), arguments.set)
        for demand in demands(document, str(path)):
            need = demand.estimate()
            print(
                f"{path.name.removesuffix('.config.json'):24} {demand.stage:12} {demand.weights:12,} weights, "
                f"batch_size {demand.options.batch_size:4}: {need.total / GIGABYTE:6.1f} GB"
            )
