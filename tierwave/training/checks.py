"""What training refuses, each in a sentence that says what to do: options, runs and corpora that do not belong
together, networks that do not fit, workers that would not train the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tierwave.config import TrainingOptions, difference, resolve_training, split_training
from tierwave.data.corpus import Corpus
from tierwave.data.splits import Span, Split
from tierwave.data.windows import LaneWindows
from tierwave.errors import UsageError
from tierwave.family import Family, load_config
from tierwave.files.names import folded
from tierwave.files.places import Url
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


def refuse_other_architecture(document: dict[str, Any], stored: dict[str, Any], run: Run, source: str) -> None:
    def architecture(of: dict[str, Any], source: str) -> dict[str, Any]:
        config = load_config(of, source)[1].model_dump(mode="json")
        # How the tiers are trained is no part of what they are; another bound on gradients is what a sentence advises.
        for name in ("training_per_tier", "recompute", "gradient_clip"):
            config.pop(name, None)
        for tier in config["tiers"] if isinstance(config.get("tiers"), list) else ():
            for name in ("training", "recompute", "gradient_clip"):
                tier.pop(name, None)
        return split_training(config)[0]

    before = architecture(stored, str(run.folder / CONFIG_NAME))
    now = architecture(document, source)
    changes = difference(before, now)
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
            f"the parameters of {len(changed)} recordings (such as {changed[0]}) are other ones than the run "
            f"{run.folder} was trained on: give this training another --id, or start from the run's weights with "
            "--init_from"
        )


def refuse_untrainable(
    family: Family,
    config: Any,
    by_stage: Mapping[str, TrainingOptions],
    windows_of: Callable[[str, Sequence[Span]], LaneWindows],
    split: Split,
) -> None:
    """Refuse what a later stage would be refused for, before anything is trained."""
    for stage, options in by_stage.items():
        monitor = options.monitor
        if monitor.endswith("accuracy") and not family.has_accuracy(config, stage):
            raise UsageError(
                f"--monitor {monitor}: {stage} generates values, of which none is right or wrong; take "
                f"{monitor.replace('accuracy', 'loss')}"
            )
        for part, spans in (("train", split.train), ("validate", split.valid)):
            try:
                if spans:
                    windows_of(stage, spans)
            except UsageError as error:
                raise UsageError(f"what there is to {part} on: {error}") from None


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
    by_stage: Mapping[str, TrainingOptions], root: Run, entries: Mapping[str, tuple[Run, CheckpointEntry]]
) -> None:
    """UsageError where a checkpoint holds the state of another optimiser than a stage now has; RunError where it,
    or what was noted on the way, is damaged."""
    from tierwave.runs.checkpoints import check_run_id, read_progress
    from tierwave.training.step import slots_of

    stored = root.read(CONFIG_NAME)
    source = str(root.folder / CONFIG_NAME)
    family, config = load_config(stored, source)
    for stage, (part, entry) in entries.items():
        check_run_id(part.folder / entry.name, part)
        read_history(part)  # of which training goes on too
        before = read_progress(part.folder / entry.name).get("slots", "")
        if not before:  # a checkpoint of old, which did not say
            training = {**split_training(stored)[1], **family.training_of(config, stage)}
            before = slots_of(resolve_training({}, {"training": training}, source))
        now = slots_of(by_stage[stage])
        if before != now:
            optimizer, momentum = by_stage[stage].optimizer, by_stage[stage].momentum
            typed = f"--optimizer {optimizer}" + (f" --momentum {momentum:g}" if optimizer in before else "")
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
