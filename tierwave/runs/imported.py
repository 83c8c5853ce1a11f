"""Weights from elsewhere as a run: what every importer does after it has made a model of them.

Such a run can be played and started from, but not resumed: it has no corpus and no optimiser. Knows runs and
checkpoints; what the foreign weights are called is the families' matter.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tierwave.config import dumps
from tierwave.errors import RunError, UsageError
from tierwave.files.folders import refuse_name
from tierwave.files.writing import write_text
from tierwave.runs.folder import CONFIG_NAME, CheckpointEntry, Run, create_run, environment, now, runs_of


def check_identity(identity: str, logdir_root: Path | str) -> None:
    """UsageError unless `identity` is a plain name under which there is no run yet."""
    refuse_name("--id", identity, Path(logdir_root))
    home = Path(logdir_root) / identity
    if runs_of(home):
        raise UsageError(f"--id {identity} has runs already, in {home}: choose another --id for the imported one")


def write_imported(
    model: Any,
    config: BaseModel,
    identity: str,
    logdir_root: Path | str,
    *,
    sample_rate: int,
    source: Path,
    epoch: int = 0,
    step: int = 0,
    documents: Mapping[str, Any] | None = None,
) -> tuple[Run, CheckpointEntry]:
    """A run folder that holds the model's weights, whole or not at all.

    source: where they come from; epoch, step: how long they were trained; documents: further JSON files by name.
    Raises RunError where it cannot be written.
    """
    import tensorflow as tf

    from tierwave.runs.checkpoints import make_checkpoint

    entry = CheckpointEntry(f"model.ckpt-{epoch}", epoch, step, value=None, best=False, kept=True)
    run = create_run(Path(logdir_root), identity)
    try:
        make_checkpoint({"model": model}).write(str(run.folder / entry.name))
        run.record(entry, None)
        described = {
            "id": identity,
            "created": now(),
            "command": sys.argv,
            "sample_rate": sample_rate,
            "imported_from": str(source.resolve()),
            "corpus": None,
            "versions": environment(),
        }
        for name, document in {"run.json": described, **(documents or {})}.items():
            run.write(name, document)
        write_text(run.folder / CONFIG_NAME, dumps(config))  # last: a folder without it is no run
    except (tf.errors.OpError, OSError) as error:
        shutil.rmtree(run.folder, ignore_errors=True)
        reason = str(getattr(error, "message", None) or error).splitlines()[0]
        raise RunError(
            f"the run could not be written to {run.folder} ({reason}): make room, or name another --logdir_root"
        ) from None
    return run, entry
