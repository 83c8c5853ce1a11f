"""Train a network on a folder of recordings: `python train.py --data_dir recordings`. Parses, calls, prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tierwave.cli.flags import REPEATABLE, FlagParser, add_model_flags, optional, typed_values
from tierwave.config import NO_START, START, TrainingOptions, read_document
from tierwave.errors import UsageError
from tierwave.files.urls import place_of
from tierwave.nn.runtime import import_tensorflow
from tierwave.system.progress import ProgressLine

DEFAULT_CONFIG = Path(__file__).with_name("default.config.json")
STEERED_CONFIG = Path(__file__).with_name("configs") / "steered.config.json"


def parser() -> FlagParser:
    """All flags of train.py."""
    flags = FlagParser("train.py", description="Train a network on a folder of recordings.")
    flags.add_argument("--id", default="default", help="name of the training session (default: default)")
    flags.add_argument("--data_dir", type=place_of, help="folder of training audio, searched recursively; or a URL")
    flags.add_argument(
        "--cache_dir",
        type=optional(Path),
        help="folder for the encoded recordings (default: logdir_root/.cache)",
    )
    flags.add_switch("--demo", help="create and use the synthetic demo corpus")
    flags.add_switch("--verbose", help="a line per step, not one that is rewritten or printed every few seconds")
    flags.add_argument(
        "--logdir_root", type=Path, default=Path("logdir"), help="for logs and checkpoints, a folder per id (./logdir)"
    )
    flags.add_argument(
        "--output_dir", type=Path, default=Path("generated"), help="for generated audio, a folder per id (./generated)"
    )
    flags.add_argument("--config_file", type=Path, help="*.config.json (default: ./default.config.json)")
    flags.add_argument("--set", **REPEATABLE, metavar="KEY=VALUE", help="override config keys; nested keys with dots")
    flags.add_switch("--resume", help="resume from the newest checkpoint of this id", default=True)
    flags.add_argument("--resume_from", type=optional(Path), help="resume from this checkpoint")
    flags.add_argument(
        "--init_from",
        type=optional(_source),
        help="start from another run's weights, from the starting weights that come with the program (start), or none",
    )
    flags.add_argument(
        "--param_dir", type=optional(Path), help="folder of the controls (default: that of the recordings)"
    )
    flags.add_argument("--params", type=optional(Path), help="manifest of controls, a CSV with a column filename")
    flags.add_switch(
        "--follow", help="measure the recordings' loudness and pitch, and train a network that follows them"
    )
    flags.add_argument(
        "--stage", nargs="+", action="extend", metavar="NAME", help="train only these stages (default: all, in order)"
    )
    flags.add_argument(
        "--cluster", type=optional(str), metavar="ADDRESS", help="train on a Ray cluster (auto, HOST:PORT), or local"
    )
    flags.add_argument("--num_workers", type=int, help="processes on the cluster (default: 2)")
    flags.add_argument(
        "--max_failures", type=int, help="on the cluster: how often all are restarted after one is lost (default: 3)"
    )
    flags.add_argument(
        "--worker_timeout",
        type=optional(float),
        metavar="SECONDS",
        help="how long to wait for the other workers of TF_CONFIG (default: unlimited)",
    )
    add_model_flags(flags.add_argument_group("training"), TrainingOptions)
    return flags


def _source(text: str) -> Path | str:
    return text if text in (START, NO_START) else Path(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, train, return the exit code."""
    return parser().run(_train, argv)


def _train(arguments: Any) -> int:
    if arguments.worker_timeout is not None and not arguments.worker_timeout >= 0:
        raise UsageError(f"--worker_timeout {arguments.worker_timeout} must be 0 or more seconds")
    typed = typed_values(arguments, TrainingOptions)
    document = None if arguments.config_file is None else read_document(arguments.config_file)
    if arguments.demo:
        from tierwave.data.demo import make_corpus

        arguments.data_dir = arguments.logdir_root / "demo_corpus"
        make_corpus(arguments.data_dir)
    if arguments.data_dir is None:
        raise UsageError("--data_dir is missing: name a folder of recordings, or try --demo")

    from tierwave.training.plan import TrainingRequest
    from tierwave.training.session import train

    default = STEERED_CONFIG if arguments.follow else DEFAULT_CONFIG
    say_line = ProgressLine().say
    session = TrainingRequest(
        identity=arguments.id,
        data_dir=arguments.data_dir,
        document=document,
        source=str(arguments.config_file or default.name),
        overrides=arguments.set,
        typed=typed,
        logdir_root=arguments.logdir_root,
        output_dir=arguments.output_dir,
        resume=arguments.resume,
        resume_from=arguments.resume_from,
        init_from=arguments.init_from,
        follow=arguments.follow,
        rewrite=not arguments.verbose,
        stages=arguments.stage,
        param_dir=arguments.param_dir,
        params=arguments.params,
        cache_dir=arguments.cache_dir,
        worker_timeout=arguments.worker_timeout,
    )
    if arguments.cluster is None:
        for name in ("num_workers", "max_failures"):
            if getattr(arguments, name) is not None:
                raise UsageError(
                    f"--{name} {getattr(arguments, name)} is of a cluster: add --cluster local, or leave it out"
                )
        outcome = train(session, lambda: _document(default), say_line, lambda: import_tensorflow(debug=arguments.debug))
    else:
        from tierwave.training.ray_cluster import train_on_cluster

        outcome = train_on_cluster(
            session,
            _document(default),
            say_line,
            address=arguments.cluster,
            workers=2 if arguments.num_workers is None else arguments.num_workers,
            failures=3 if arguments.max_failures is None else arguments.max_failures,
        )
    return 0 if outcome.signal is None else 128 + outcome.signal


def _document(default: Path) -> dict[str, Any]:
    """A config that lies beside this script; of default.config.json, installed without it, the family's defaults."""
    return {"model": "samplernn"} if default == DEFAULT_CONFIG and not default.exists() else read_document(default)


if __name__ == "__main__":
    sys.exit(main())
