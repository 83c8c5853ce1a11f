"""What training refuses, each in a sentence that says what to do: options, runs and corpora that do not belong
together, networks that do not fit, workers that would not train the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tierwave.config import TrainingOptions, difference, resolve_training, split_training
from tierwave.data.corpus import Corpus
from tierwave.errors import UsageError
from tierwave.family import Family
from tierwave.files.names import folded
from tierwave.files.urls import Url
from tierwave.runs.folder import CONFIG_NAME, CheckpointEntry, Run
from tierwave.runs.history import read_history
from tierwave.training.memory import Demand, TooLarge, judged, room_of

if TYPE_CHECKING:
    from tierwave.training.devices import Devices

# ---- before anything is read -----------------------------------------------------------------------------------------


def refuse_foreign_options(options: TrainingOptions, family: Family) -> None:
    for name, why in family.foreign_options.items():
        value = getattr(options, name)
        if value != TrainingOptions.model_fields[name].default:
            raise UsageError(f"--{name} {value} does nothing for this model ({why}): leave it out")


def refuse_imported(run: Run) -> None:
    if run.read("run.json")["corpus"] is None:
        raise UsageError(
            f"the run {run.folder} was imported, so it has weights but no training to go on with: start one from them "
            f"under another --id, with --init_from {run.folder} --config_file {run.folder / CONFIG_NAME}"
        )


def refuse_other_architecture(config: Any, stored: Any, run: Run) -> None:
    def architecture(config: Any) -> dict[str, Any]:
        document = config.model_dump(mode="json")
        # How the tiers are trained is no part of what they are; another bound on gradients is what a sentence advises.
        for name in ("training_per_tier", "recompute", "gradient_clip"):
            document.pop(name, None)
        if isinstance(document.get("lookback"), dict):  # train.py fills in the rest
            document["lookback"] = {key: document["lookback"][key] for key in ("control", "limit")}
        for tier in document["tiers"] if isinstance(document.get("tiers"), list) else ():
            for name in ("training", "recompute", "gradient_clip"):
                tier.pop(name, None)
        return split_training(document)[0]

    changes = difference(architecture(stored), architecture(config))
    if changes:
        raise UsageError(
            f"the run {run.folder} was trained with another config ({'; '.join(changes)}): give this one another --id, "
            "or train from the run's weights with --init_from, or start over with --resume False"
        )


# ---- of recordings and controls --------------------------------------------------------------------------------------


def refuse_other_corpus(corpus: Corpus, described: dict[str, Any], data_dir: Path | Url, run: Run) -> None:
    if described["sample_rate"] != corpus.sample_rate:
        raise UsageError(
            f"the run {run.folder} was trained at {described['sample_rate']} Hz, and --sample_rate asks for "
            f"{corpus.sample_rate}: leave it out, or give this training another --id"
        )
    before, now = described["corpus"], corpus.identity
    if before != now:  # by another form of their names they are the same
        before, now = ({folded(name): digest for name, digest in each.items()} for each in (before, now))
    if before != now:
        gone, new = sorted(before.keys() - now.keys()), sorted(now.keys() - before.keys())
        changed = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
        parts = [
            f"{len(names)} {what} (such as {names[0]})"
            for what, names in (("missing", gone), ("new", new), ("changed", changed))
            if names
        ]
        raise UsageError(
            f"--data_dir {data_dir} is another corpus than the run {run.folder} was trained on "
            f"({', '.join(parts)}): give this training another --id, or start from the run's weights with --init_from"
        )


def refuse_other_parameters(digests: Mapping[str, str], described: dict[str, Any], run: Run) -> None:
    before = described.get("controls")
    if before is None or not digests:
        return
    before = {folded(name): digest for name, digest in before.items()}
    changed = [name for name, digest in digests.items() if before.get(folded(name)) != digest]
    if changed:
        raise UsageError(
            f"the controls of {len(changed)} recordings (such as {changed[0]}) are other ones than the run "
            f"{run.folder} was trained on: give this training another --id, or start from the run's weights with "
            "--init_from"
        )


def refuse_monitor(family: Family, config: Any, stage: str, monitor: str) -> None:
    if monitor.endswith("accuracy") and not family.has_accuracy(config, stage):
        raise UsageError(
            f"--monitor {monitor}: {stage} generates values, of which none is right or wrong; take "
            f"{monitor.replace('accuracy', 'loss')}"
        )


# ---- of devices and checkpoints --------------------------------------------------------------------------------------


def refuse_too_large(demands: Iterable[Demand], devices: Devices) -> None:
    """TooLarge, on every worker, where a stage clearly does not fit into the memory of one."""
    complaint = ""
    try:
        for demand in demands:
            judged(demand, room_of(demand))
    except TooLarge as error:
        complaint = str(error)
    for text in devices.texts(complaint):
        if text:
            raise TooLarge(text)


def refuse_other_slots(
    family: Family,
    by_stage: Mapping[str, TrainingOptions],
    entries: Mapping[str, tuple[Run, CheckpointEntry]],
    root: Run,
    stored: tuple[dict[str, Any], Any],
) -> None:
    """UsageError where a checkpoint holds the state of another optimiser than a stage now has; RunError where it, or
    the history of its run, is damaged. stored: the document and the config of the run."""
    from tierwave.runs.tensors import check_run_id, read_progress
    from tierwave.training.step import slots_of

    document, config = stored
    for stage, (part, entry) in entries.items():
        check_run_id(part.folder / entry.name, part)
        read_history(part)  # which training continues too
        before = read_progress(part.folder / entry.name).get("slots", "")
        if not before:  # an old checkpoint, which did not say
            training = {**split_training(document)[1], **family.training_of(config, stage)}
            before = slots_of(resolve_training({}, {"training": training}, str(root.folder / CONFIG_NAME)))
        options = by_stage[stage]
        if before != slots_of(options):
            typed = f"--optimizer {options.optimizer}"
            typed += f" --momentum {options.momentum:g}" if options.optimizer in before else ""
            raise UsageError(
                f"{typed} cannot go on in the run {part.folder}, whose checkpoints hold the state of {before}: "
                f"leave it out, or start from the run's weights under another --id, with --init_from {root.folder}"
            )


def refuse_other_workers(devices: Devices, mine: dict[str, Any]) -> None:
    """UsageError, on every worker, where one would train something else than the chief."""
    texts = devices.texts(json.dumps(mine))
    for rank, text in enumerate(texts[1:], start=1):
        changes = difference(json.loads(texts[0]), json.loads(text))
        if changes:
            raise UsageError(
                f"worker {rank} would train something else than the chief ({'; '.join(changes)}): start all workers "
                "with the same flags, config and recordings, and a --logdir_root that all of them share"
            )
