"""Search for a good config: `python tune.py --data_dir recordings --search dim=64,128`. Parses, calls, prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from tierwave.cli.flags import REPEATABLE, FlagParser, optional
from tierwave.cli.running import typed_here
from tierwave.config import apply_overrides, read_document
from tierwave.errors import UsageError
from tierwave.nn.runtime import import_tensorflow
from tierwave.search.distributed import Address, serve, work
from tierwave.search.plan import DEFAULT_EPOCHS, DEFAULT_TRIALS, TYPES, Search
from tierwave.search.search import tune
from tierwave.search.space import OBJECTIVES, Axis, choices, parse_search
from tierwave.system.progress import ProgressLine

DEFAULT_CONFIG = Path(__file__).with_name("default.config.json")
LISTS = {
    "batch_size": int,
    "seq_len": int,
    "dim": int,
    "rnn_type": str,
    "num_rnn_layers": int,
    "q_type": str,
    "rnn_dropout": float,
    "learning_rate": float,
    "momentum": float,
    "optimizer": str,
}
"""PRiSM's flags, each with a list of values, and what these are."""

WORKERS = ["role", "chief", "id", "data_dir", "logdir_root", "param_dir", "params", "timeout", "verbose", "debug"]
"""The flags that say something to a worker."""


def parser() -> FlagParser:
    """All flags of tune.py."""
    flags = FlagParser("tune.py", description="Search for a good config.")
    flags.add_argument("--id", default="tune", help="name of the search (default: tune)")
    flags.add_argument("--data_dir", type=Path, help="folder of training audio, searched recursively")
    flags.add_argument("--type", choices=TYPES, default="bayesian", help="how to search (default: bayesian)")
    flags.add_argument(
        "--objective", choices=list(OBJECTIVES), default="val_loss", help="what to optimise (default: val_loss)"
    )
    flags.add_argument(
        "--search",
        action="append",
        default=[],
        nargs="+",
        metavar="KEY=VALUES",
        help="search any config key: KEY=V1,V2 or KEY=lo..hi or KEY=lo..hi:log",
    )
    flags.add_argument(
        "--frame_sizes",
        action="append",
        nargs="+",
        type=int,
        metavar="N",
        help="one choice of frame sizes; repeat the flag for further ones",
    )
    for name, kind in LISTS.items():
        flags.add_argument(f"--{name}", nargs="+", type=kind, metavar="V", help=f"values of {name} to search")
    flags.add_argument("--config_file", type=Path, help="what is not searched (default: ./default.config.json)")
    flags.add_argument("--set", **REPEATABLE, metavar="KEY=VALUE", help="override config keys; nested keys with dots")
    flags.add_argument("--num_epochs", type=int, help=f"maximum epochs of a trial (default: {DEFAULT_EPOCHS})")
    flags.add_argument("--max_trials", type=int, help=f"trials (default: {DEFAULT_TRIALS}; hyperband: its own number)")
    flags.add_argument(
        "--early_stopping_patience",
        type=optional(int),
        default=3,
        help="epochs without improvement after which a trial ends (default: 3)",
    )
    flags.add_argument("--val_frac", type=float, default=0.1, help="fraction held out, the same in all trials (0.1)")
    flags.add_argument("--random_seed", type=int, default=0, help="seed of the search and of every trial (default: 0)")
    flags.add_argument("--stage", help="train and judge only this stage (default: all)")
    flags.add_argument("--max_minutes", type=float, help="stop after this much time; the same command resumes")
    flags.add_argument("--max_minutes_per_trial", type=float, help="end every trial after this much time")
    flags.add_argument(
        "--logdir_root", type=Path, default=Path("logdir"), help="folder for the search's own folder (./logdir)"
    )
    flags.add_switch("--resume", help="resume the search of this id", default=True)
    flags.add_argument(
        "--param_dir", type=optional(Path), help="folder of the controls (default: that of the recordings)"
    )
    flags.add_argument("--params", type=optional(Path), help="manifest of controls, a CSV with a column filename")
    flags.add_argument("--role", choices=["chief", "worker"], help="in a search by several processes or machines")
    flags.add_argument("--chief", default="127.0.0.1:8500", metavar="HOST:PORT", help="its address (127.0.0.1:8500)")
    flags.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        help="seconds without a message after which a worker, or the chief, counts as dead (default: 60)",
    )
    flags.add_switch("--verbose", help="print everything that trials print")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, search, return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    flags = parser()
    return flags.run(lambda arguments: _tune(arguments, words, flags), words)


def _tune(arguments: Any, words: Sequence[str], flags: FlagParser) -> int:
    for name in ("num_epochs", "max_trials", "max_minutes", "max_minutes_per_trial", "timeout"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name} {value} must be more than 0")
    line = ProgressLine()

    def say_line(text: str, rewrite: bool) -> None:
        line.say(typed_here(text, flags), rewrite)

    def start() -> None:
        import_tensorflow(debug=arguments.debug)

    address = Address.parse(arguments.chief)
    if arguments.role == "worker":
        own = {f"--{name}" for name in WORKERS}
        typed = dict.fromkeys(word.partition("=")[0] for word in words if word.startswith("--"))
        ignored = [flag for flag in typed if flag not in own]
        if ignored:
            say_line(f"Warning: {', '.join(ignored)}: the chief says what is searched, and a worker follows it.", False)
        typed_search = Search(**_fields(arguments))
        signal = work(typed_search, address, say_line, start, patience=arguments.timeout, verbose=arguments.verbose)
        return 0 if signal is None else 128 + signal
    search = _search(arguments)
    if arguments.role == "chief":
        serve(search, address, say_line, start, silence=arguments.timeout)
        return 0
    signal = tune(search, say_line, start, verbose=arguments.verbose)
    return 0 if signal is None else 128 + signal


def _search(arguments: Any) -> Search:
    axes: list[Axis] = [parse_search(text) for texts in arguments.search for text in texts]
    lists = {"frame_sizes": arguments.frame_sizes, **{name: getattr(arguments, name) for name in LISTS}}
    axes += [choices(name, values, f"--{name}") for name, values in lists.items() if values is not None]
    if arguments.config_file is not None:
        document, source = read_document(arguments.config_file), str(arguments.config_file)
    elif DEFAULT_CONFIG.exists():
        document, source = read_document(DEFAULT_CONFIG), DEFAULT_CONFIG.name
    else:
        document, source = {"model": "samplernn"}, DEFAULT_CONFIG.name
    document = apply_overrides(document, arguments.set)
    return Search(document=document, source=source, axes=axes, **_fields(arguments))


def _fields(arguments: Any) -> dict[str, Any]:
    """The flags that `Search` has as fields."""
    return {field.name: getattr(arguments, field.name) for field in fields(Search) if hasattr(arguments, field.name)}


if __name__ == "__main__":
    sys.exit(main())
