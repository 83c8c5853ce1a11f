"""`tierwave fetch`: download a corpus that many have used, and lay it out for train.py.

tierwave fetch fsdd data/fsdd
tierwave fetch librispeech data/librispeech --subset dev-clean
tierwave fetch ljspeech data/ljspeech
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tierwave.cli.flags import FlagParser, optional
from tierwave.data.fetch import COLLECTIONS, MODELS, fetch
from tierwave.errors import UsageError
from tierwave.system.progress import ProgressLine, amounts


def parser() -> FlagParser:
    """All flags of `python -m tierwave fetch`."""
    flags = FlagParser("tierwave fetch", description="Download a corpus and lay it out for train.py.")
    flags.add_argument("corpus", choices=sorted(COLLECTIONS), help=", ".join(sorted(COLLECTIONS)))
    flags.add_argument("folder", metavar="FOLDER", type=Path, help="created if missing")
    flags.add_argument(
        "--subset",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="subsets of librispeech, one or more (default: dev-clean, 0.3 GB)",
    )
    flags.add_argument("--url", help="another address of the same archive (default: the publisher's)")
    flags.add_argument(
        "--sha256",
        type=optional(str),
        default="known",
        metavar="HEX|None",
        help="checksum to expect instead of the known one; None: accept any, and record it (default: known)",
    )
    flags.add_switch("--keep_archive", help="keep the archive in the folder")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, fetch, say what to do next."""
    return parser().run(_fetch, argv)


def _fetch(arguments: Any) -> None:
    collection = COLLECTIONS[arguments.corpus]
    subsets = arguments.subset or [collection.default]
    for subset in subsets:
        if subset not in collection.archives:
            raise UsageError(f"--subset {subset}: {arguments.corpus} has {', '.join(collection.archives)}")
    if len(subsets) > 1 and (arguments.url or arguments.sha256 != "known"):
        raise UsageError(f"--url and --sha256 are of one archive, and {len(subsets)} subsets are named: name one")
    line = ProgressLine()
    for subset in subsets:
        archive = collection.archives[subset]
        if arguments.url:
            archive = replace(archive, url=arguments.url)
        if arguments.sha256 != "known":
            archive = replace(archive, sha256=arguments.sha256)
        count = fetch(
            collection,
            arguments.folder,
            subset,
            archive=archive,
            keep_archive=arguments.keep_archive,
            progress=functools.partial(amounts, line),
        )
    line.say(f"{collection.title} ({', '.join(subsets)}) is in {arguments.folder}: {count} recordings.")
    line.say(f"Licence: {collection.licence}; {collection.home}")
    for name, flags in collection.hints:
        words = f"--id {arguments.corpus}_{name} --data_dir {shlex.quote(str(arguments.folder))} {flags}"
        line.say(f"To train {MODELS[name]}:\n    python train.py {words}")
