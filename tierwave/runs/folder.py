"""The run folder: what a training session is, and its checkpoints.

    <logdir_root>/<id>/                        all runs of an id, one lock
        20.11.2026_12.00.00/                   one run
            run.config.json                    resolved family config and training options; train.py takes it as it is
            run.json                           sample rate, corpus, versions, seeds
            split.json statistics.json         what was held out; what the recordings are like
            log.txt losses.csv tensorboard/    what was printed; one row per step; curves, sounds, pictures
            schema.json                        controls: how raw values map, and which were trained on
            <stage>/                           what follows, if the run has several stages; finished.json when it is
            model.ckpt-<epoch>.*               checkpoints
            resume.ckpt-<step>.*               the newest one in mid-epoch
            checkpoints.json                   which checkpoint is what, and which is best

Every file is written under a temporary name and moved into place. Knows files and TensorFlow's checkpoint format, no
family and no training loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tierwave.errors import RunError, UsageError
from tierwave.files.documents import CHECKPOINT_NAME, CHECKPOINTS, CheckpointEntry, entries_of, parsed
from tierwave.files.folders import make_own
from tierwave.files.names import json_text, printable
from tierwave.files.text import decode
from tierwave.files.writing import write_text
from tierwave.runs.archive import opened

CONFIG_NAME = "run.config.json"
STAMP = "%d.%m.%Y_%H.%M.%S"
_STAMP = re.compile(r"^(\d\d)\.(\d\d)\.(\d{4})_(\d\d)\.(\d\d)\.(\d\d)(?:_(\d+))?$")
_CHECKPOINT = re.compile(CHECKPOINT_NAME)


class Run:
    """A run folder."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def write(self, name: str, document: Any) -> None:
        """Store a JSON document in the run."""
        write_text(self.folder / name, json_text(document) + "\n")

    def read(self, name: str) -> Any:
        """A JSON document of the run, which is what `documents` says; RunError if it is missing or damaged."""
        path = self.folder / name
        try:
            return parsed(name, decode(path.read_bytes()))
        except FileNotFoundError:
            raise RunError(f"{path} is missing: this folder is not a whole run; name another, or train anew") from None
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}): name another run, or train anew") from None

    def stage(self, name: str | None) -> Run:
        """The part of the run in which one stage of several is kept, a folder of its name; None: the run itself."""
        return self if name is None else Run(self.folder / name)

    @property
    def root(self) -> Run:
        """The whole run of which this is a stage, or this run."""
        above = self.folder.parent
        is_stage = not (self.folder / CONFIG_NAME).exists() and (above / CONFIG_NAME).exists()
        return Run(above) if is_stage else self

    @property
    def run_id(self) -> str:
        """What tells this run from all others, its copies aside; "" for one that was imported or is of old."""
        path = self.root.folder / "run.json"
        return str(Run(path.parent).read(path.name).get("mark", "")) if path.exists() else ""

    @property
    def stages(self) -> list[Run]:
        """The stages that have checkpoints, the newest last; the run itself if it has only one."""
        if self.checkpoints:
            return [self]
        inside = [Run(path.parent) for path in self.folder.glob(f"*/{CHECKPOINTS}")]
        found = [stage for stage in inside if stage.checkpoints]
        return sorted(found, key=lambda stage: stage.written)

    @property
    def written(self) -> datetime:
        """When the newest checkpoint was written, whatever copies have made of the times of files."""
        changed = datetime.fromtimestamp((self.folder / CHECKPOINTS).stat().st_mtime, timezone.utc)
        return _moment(self.latest().written) or changed

    @property
    def begun(self) -> datetime:
        """When the run was begun, by a clock that does not depend on where; a run of old by its folder's name."""
        with contextlib.suppress(RunError):  # a damaged file is reported where it is used
            if (created := _moment(self.read("run.json").get("created", ""))) is not None:
                return created
        with contextlib.suppress(ValueError, OverflowError, OSError):
            return datetime.strptime(self.folder.name[:19], STAMP).astimezone()
        return datetime.min.replace(tzinfo=timezone.utc)

    @property
    def checkpoints(self) -> list[CheckpointEntry]:
        """Checkpoints whose files are there, in the order in which they were written.

        That is not always by step: training may go on from an earlier one, and what it writes then is the newest.
        """
        entries = entries_of(self.read(CHECKPOINTS)) if (self.folder / CHECKPOINTS).exists() else []
        return [entry for entry in entries if self.is_there(entry.name)]

    def is_there(self, name: str) -> bool:
        """Whether both files of a checkpoint exist."""
        return (self.folder / f"{name}.index").exists() and (self.folder / f"{name}.data-00000-of-00001").exists()

    def record(self, entry: CheckpointEntry, max_checkpoints: int | None) -> None:
        """List a checkpoint that was just written, then delete what retention no longer keeps.

        Kept are the newest `max_checkpoints` (all if None), always the best one, and the newest resume point as long as
        it is the newest checkpoint of all.
        """
        entry = replace(entry, written=entry.written or now())  # that of a shared run is as old as it was
        entries = [old for old in self.checkpoints if old.name != entry.name] + [entry]
        kept = [old for old in entries if old.kept]
        stay = set(kept if max_checkpoints is None else kept[-max_checkpoints:])
        stay.update([old for old in kept if old.best][-1:])
        stay.add(entry)
        self.write(CHECKPOINTS, [asdict(old) for old in entries if old in stay])
        for old in entries:
            if old not in stay:
                self.remove_files(old.name)
        for path in self.folder.glob("*.ckpt-*_temp"):  # TensorFlow's, of a write that was killed
            shutil.rmtree(path, ignore_errors=True)

    def remove_files(self, name: str) -> None:
        """Delete a checkpoint's files, half written ones too, the index first: none is left that looks whole."""
        shutil.rmtree(self.folder / f"{name}_temp", ignore_errors=True)
        for path in [self.folder / f"{name}.index", *self.folder.glob(f"{name}.data-*")]:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def latest(self) -> CheckpointEntry:
        """The newest checkpoint; RunError if there is none."""
        entries = self.checkpoints
        if not entries:
            raise RunError(f"{self.folder} holds no checkpoint yet: train for longer, or name another run")
        return entries[-1]

    def best(self) -> CheckpointEntry:
        """The best checkpoint by the monitored value, or the newest if none was ever compared."""
        return next((entry for entry in reversed(self.checkpoints) if entry.best), None) or self.latest()


def create_run(logdir_root: Path, identity: str, when: datetime | None = None) -> Run:
    """A new, empty run folder, named by the time."""
    stamp = (when or datetime.now()).strftime(STAMP)
    for attempt in range(1000):
        folder = Path(logdir_root) / identity / (stamp if attempt == 0 else f"{stamp}_{attempt}")
        try:
            folder.mkdir(parents=True)
            return Run(folder)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(
                f"the run folder {folder} cannot be made ({error.strerror}): name another --logdir_root"
            ) from None
    raise RunError(f"no free name for a run under {Path(logdir_root) / identity}")


def runs_of(folder: Path) -> list[Run]:
    """All runs in an id's folder, oldest first; anything that is not a run is passed over."""
    found = []
    for child in folder.iterdir() if folder.is_dir() else []:
        match = _STAMP.match(child.name)
        if match and (child / CONFIG_NAME).exists():
            day, month, year, *rest = (int(part or 0) for part in match.groups())
            found.append((Run(child).begun, (year, month, day, *rest), child))
    return [Run(child) for *_, child in sorted(found)]


def now() -> str:
    """This moment for a document: ISO 8601 with a zone, which orders what is written on different machines."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def _moment(text: str) -> datetime | None:
    """What `now` wrote; None for anything without a zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if found.tzinfo is None else found


def refuse_pattern(path: Path) -> None:
    """UsageError where TensorFlow, which looks checkpoints up by patterns, would write them and not find them again, or
    cannot write them, since it knows names in UTF-8 only."""
    if printable(path) != str(path):
        raise UsageError(
            f"{path} cannot hold checkpoints, since TensorFlow takes only names that are UTF-8: use another --id or "
            "--logdir_root, or rename the folder"
        )
    if re.search(r"\[[^/]+\]" if os.name == "nt" else r"\[[^/]+\]|\\", str(path)):
        raise UsageError(
            f"{path} cannot hold checkpoints, since TensorFlow takes square brackets and backslashes in a path for a "
            "pattern: use another --id or --logdir_root, or rename the folder"
        )


def find_checkpoint(path: str | Path, *, best: bool = False) -> tuple[Run, CheckpointEntry]:
    """The run and checkpoint that a person means.

    path: a checkpoint's prefix, its `.index` or `.data` file, a run folder, the zip file of an exported one, or an
    id's folder (its newest run that has a checkpoint). Where a run has several stages, it is the stage that was trained
    last, or the one whose folder was named; `Run.root` leads to the whole. Raises UsageError that says what was looked
    for and what is there.
    """
    path = opened(path)
    refuse_pattern(path)
    name = re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path.name)
    if _CHECKPOINT.match(name) and not path.is_dir():
        run = Run(path.parent)
        for entry in run.checkpoints if run.folder.is_dir() else []:
            if entry.name == name:
                return run, entry
        there = ", ".join(entry.name for entry in run.checkpoints) if run.folder.is_dir() else ""
        raise UsageError(f"there is no checkpoint {name} in {run.folder}; found there: {there or 'no checkpoint'}")
    if not path.is_dir():
        raise UsageError(
            f"{path} is neither a checkpoint (model.ckpt-<epoch>) nor a folder of a run or an id: look under logdir"
        )
    if (path / CHECKPOINTS).exists() and not (Run(path).root.folder / CONFIG_NAME).exists():
        names = ", ".join(entry.name for entry in Run(path).checkpoints) or "none left"
        raise UsageError(
            f"{path / CONFIG_NAME} is missing, which says what the checkpoints beside it are of: name one of them "
            f"({names}) and its config with --config_file"
        )
    one = (path / CONFIG_NAME).exists() or (path / CHECKPOINTS).exists()
    for run in [Run(path)] if one else reversed(runs_of(path)):
        for stage in reversed(run.stages):
            return stage, stage.best() if best else stage.latest()
    raise UsageError(f"no checkpoint was found in {path}: name a run folder, or train first (train.py)")


@contextlib.contextmanager
def only_training(logdir_root: Path, identity: str) -> Iterator[None]:
    """Hold the lock of an id; RunError if another training holds it. It goes with the process, however that ends."""
    folder = Path(logdir_root) / identity
    refuse_pattern(folder)
    from filelock import FileLock, Timeout

    lock, holder = FileLock(folder / ".lock", timeout=0), folder / ".lock.holder"
    try:
        make_own(Path(logdir_root))
        make_own(folder)
        holder.touch()
        lock.acquire()
    except Timeout:
        process = holder.read_text(encoding="utf-8").strip() or "unknown"
        raise RunError(
            f"another training with --id {identity} is running (process {process}): wait for it, or give this one "
            "another --id"
        ) from None
    except OSError as error:
        # A file system without locks must not keep anyone from training.
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK):
            raise UsageError(f"{folder} cannot be written to ({error.strerror}): name another --logdir_root") from None
    try:
        holder.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        lock.release()


def environment() -> dict[str, str]:
    """Versions that a run was made with."""
    import platform

    import keras
    import numpy
    import tensorflow

    import tierwave

    return {
        "tierwave": tierwave.__version__,
        "python": platform.python_version(),
        "tensorflow": tensorflow.__version__,
        "keras": keras.__version__,
        "numpy": numpy.__version__,
        "machine": platform.machine(),
    }
