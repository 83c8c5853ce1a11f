"""A training session, from a person's request to a trained run: plan, prepare, check, and train each stage in turn."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tierwave.analysis.control_accuracy import trained_values
from tierwave.config import TrainingOptions, dumps
from tierwave.errors import UsageError
from tierwave.files.folders import refuse_name
from tierwave.files.places import absolute
from tierwave.files.writing import write_text
from tierwave.generation.load import DATASET_STATE, Source, find_source, hardly_trained
from tierwave.runs.folder import CONFIG_NAME, Run, create_run, environment, now, only_training
from tierwave.runs.log import Log
from tierwave.system.progress import SayLine, unheard
from tierwave.system.tasks import meet, task_of
from tierwave.training.checks import refuse_other_slots, refuse_other_workers, refuse_too_large, refuse_untrainable
from tierwave.training.memory import Demand
from tierwave.training.plan import Checkpoint, Plan, TrainingRequest, TrainingResult, plan_of
from tierwave.training.prepare import Material, load_recordings, prepare
from tierwave.training.stage import RunContext, train_stage
from tierwave.training.summary import baselines, beyond_range, described_controls, described_split, noise_floor

if TYPE_CHECKING:
    from tierwave.training.devices import Devices


def train(
    session: TrainingRequest,
    default_document: Callable[[], dict[str, Any]] = lambda: {"model": "samplernn"},
    say_line: SayLine = unheard,
    start_tensorflow: Callable[[], None] = lambda: None,
) -> TrainingResult:
    """Train as the session says, going on from its newest checkpoint where there is one.

    default_document() gives the config for a new run when the session names none. say_line(text, rewrite) is told what
    train.py prints. start_tensorflow() is called before TensorFlow is imported, which is after config and recordings
    were found good. Raises UsageError and RunError with what to do.
    """
    refuse_name("--id", session.identity, session.logdir_root)
    task, everyone = task_of(os.environ), say_line
    if task.rank > 0:  # the chief speaks for all, and holds the lock for all
        say_line = unheard
    with contextlib.ExitStack() as locks:
        if task.rank == 0:
            locks.enter_context(only_training(session.logdir_root, session.identity))
        plan, resumed = plan_of(session, default_document, say_line)
        if resumed is not None:  # --resume_from leads into another id's run
            owner = resumed[0].root.folder.resolve().parent
            if task.rank == 0 and owner != (session.logdir_root / session.identity).resolve():
                locks.enter_context(only_training(owner.parent, owner.name))

        def start() -> None:
            start_tensorflow()
            if plan.options.strategy == "multiworker":
                from tierwave.training.devices import has_joined

                if not has_joined():  # by a training before, in this process: TensorFlow listens at the address now
                    meet(task, everyone, session.worker_timeout)

        return _train(plan, resumed, start)


def encode(session: TrainingRequest, default_document: Callable[[], dict[str, Any]], say_line: SayLine) -> None:
    """Encode the recordings of a session into its cache and do no more."""
    refuse_name("--id", session.identity, session.logdir_root)
    plan, resumed = plan_of(session, default_document, say_line)
    load_recordings(plan, None if resumed is None else resumed[0].root.read("run.json"))


def _train(plan: Plan, resumed: Checkpoint | None, start_tensorflow: Callable[[], None]) -> TrainingResult:
    """Prepare and check all, then train the stages. Nothing is written to a run before its checkpoint was restored."""
    root = None if resumed is None else resumed[0].root
    material = prepare(plan, root)
    weights = _weights(plan, root)
    by_stage = {stage: plan.by_stage[stage] for stage in plan.stages}
    refuse_untrainable(
        plan.family,
        plan.config,
        by_stage,
        lambda stage, spans: material.windows(plan, stage, spans, lanes=1),
        material.split,
    )
    start_tensorflow()
    devices = _devices(plan.options)
    refuse_too_large((_demand(plan, stage, material, devices) for stage in plan.stages), devices)
    entries = _entries(plan, resumed)
    if root is not None:
        refuse_other_slots(plan.by_stage, root, entries)
    trained_config = plan.family.with_training(plan.config, plan.options, plan.by_stage)
    refuse_other_workers(devices, _told_to_workers(plan, material, trained_config, resumed))
    run = _common_run(devices, plan.session, root)
    context = RunContext(run, devices, weights, dumps(trained_config), plan.say_line)
    named = resumed[0].folder if resumed is not None and plan.session.resume_from is not None else None
    if not devices.is_chief:  # only one process writes and prints
        return _train_stages(plan, material, context, entries, named)
    encoder = plan.family.encoder(plan.config)
    statistics = material.corpus.statistics() | baselines(material.corpus, material.split, encoder)
    statistics["noise_floor"] = noise_floor(material.corpus, encoder)
    documents, remarks = _documents(plan, material, statistics, root)
    log = Log(run.folder / "log.txt", plan.say_line)

    def begin() -> None:
        if log.is_open:
            return
        for name, document in documents.items():
            run.write(name, document)
        write_text(run.folder / CONFIG_NAME, context.config_text + "\n")
        log.open()

    try:
        for text in [*material.remarks, *remarks, described_split(material.split, material.corpus, statistics)]:
            log.say(text, False)
        context = replace(context, statistics=statistics, say_line=log.say, begin=begin)
        return _train_stages(plan, material, context, entries, named)
    finally:
        log.close()
        if root is None:
            with contextlib.suppress(OSError):  # it is empty only if training never began
                run.folder.rmdir()


def _train_stages(
    plan: Plan,
    material: Material,
    context: RunContext,
    entries: Mapping[str, Checkpoint],
    named: Path | None,
) -> TrainingResult:
    """Train the stages in turn, each from its entry on. named: the folder of the stage of which a person named a
    checkpoint to go on from, which it does though it be finished."""
    from tierwave.training.callbacks import Limits

    run, devices = context.run, context.devices
    outcome = TrainingResult("there was nothing left to train", run, None)
    limits = Limits()
    spent = 0.0  # minutes of steps
    cut_short: dict[str, Run] = {}
    for number, stage in enumerate(plan.stages):
        options = plan.by_stage[stage]
        part = plan.part(run, stage)
        if plan.has_several:
            again = part.folder == named
            if devices.from_chief(_is_finished(part, options)) and not again:
                context.say(f"{stage} is finished; --num_epochs and the like make it go on.")
                continue
            context.say(f"Stage {stage} ({number + 1} of {len(plan.stages)}):")
            own = plan.family.training_of(plan.config, stage).get("max_minutes")
            if options.max_minutes is not None and own is None:  # the time that is left, in equal shares
                left = (options.max_minutes - spent) / (len(plan.stages) - number)
                share = float(devices.from_chief(max(left, options.max_minutes / len(plan.stages) / 2)))
                options = options.model_copy(update={"max_minutes": share})
                limits = Limits(is_share=True)
            else:
                limits = Limits()
        entry = entries[stage][1] if stage in entries else None
        outcome = train_stage(plan, stage, options, material, context, entry, limits)
        spent += limits.seconds / 60.0
        if not outcome.finished:
            cut_short[stage] = part
        if plan.has_several and outcome.finished and devices.is_chief:
            part.write("finished.json", plan.by_stage[stage].model_dump(mode="json"))
        if outcome.signal is not None:
            break
    if devices.is_chief and plan.has_several:
        for remark in hardly_trained(cut_short):
            context.say(f"Warning: {remark}")
    return TrainingResult(outcome.reason, run, outcome.signal)


def _is_finished(part: Run, options: TrainingOptions) -> bool:
    """Whether a stage has ended by itself under these options (however long this command may take)."""
    if not (part.folder / "finished.json").exists() or not part.checkpoints:
        return False
    done = part.read("finished.json")
    here = {"max_minutes": None, "memory_check": None}
    return {**done, **here} == {**options.model_dump(mode="json"), **here}


# ---- where it goes on from -------------------------------------------------------------------------------------------


def _entries(plan: Plan, resumed: Checkpoint | None) -> dict[str, Checkpoint]:
    """The checkpoint that each stage goes on from: the one that was named, else its newest."""
    if resumed is None:
        return {}
    parts = {stage: plan.part(resumed[0].root, stage) for stage in plan.stages}
    found = {stage: (part, part.latest()) for stage, part in parts.items() if part.checkpoints}
    return found | {stage: (part, resumed[1]) for stage, part in parts.items() if part.folder == resumed[0].folder}


def _weights(plan: Plan, root: Run | None) -> dict[str, Source | None]:
    """Where the weights of each new stage come from, if they come from another run."""
    path = plan.session.init_from
    new = [stage for stage in plan.stages if root is None or not plan.part(root, stage).checkpoints]
    if path is None or not new:
        return {}
    found = {stage: find_source(plan.family, plan.config, stage, path) for stage in new}
    if not any(found.values()):
        raise UsageError(f"--init_from {path} fits none of {', '.join(found)}: use its config with --config_file")
    return found


# ---- devices and workers ---------------------------------------------------------------------------------------------


def _demand(plan: Plan, stage: str, material: Material, devices: Devices) -> Demand:
    options = plan.by_stage[stage]
    windows = material.windows(plan, stage, material.split.train, lanes=options.batch_size)
    return plan.demand(stage, options, devices, windows)


def _devices(options: TrainingOptions) -> Devices:
    from tierwave.nn.runtime import grow_gpu_memory
    from tierwave.training.devices import make_devices

    grow_gpu_memory()
    return make_devices(options.strategy)


def _told_to_workers(plan: Plan, material: Material, trained_config: Any, resumed: Checkpoint | None) -> dict[str, Any]:
    """What all workers have to agree on."""
    return {
        "config": trained_config.model_dump(mode="json"),
        "stages": plan.stages,
        "recordings": len(material.corpus.recordings),
        "samples": material.corpus.samples,
        "sound": _digest(material.corpus.identity),
        "parameters": _digest(material.digests),
        "prepared": _digest(material.dataset_json or {}),
        "checkpoint to go on from": "none" if resumed is None else f"{resumed[0].folder.name}/{resumed[1].name}",
    }


def _digest(document: Any) -> str:
    return hashlib.blake2b(json.dumps(document, sort_keys=True).encode(), digest_size=8).hexdigest()


def _common_run(devices: Devices, session: TrainingRequest, root: Run | None) -> Run:
    """The run of all workers: the one that training goes on in, or a new one that the chief makes."""
    if root is not None:
        return root
    made = create_run(session.logdir_root, session.identity) if devices.is_chief else None
    name = devices.text_from_chief("" if made is None else made.folder.name)
    run = Run(session.logdir_root / session.identity / name)
    seen = devices.total([float(run.folder.is_dir() or other != devices.rank) for other in range(devices.workers)])
    blind = [rank for rank, count in enumerate(seen) if count < devices.workers]
    if blind:
        raise UsageError(
            f"worker {blind[0]} does not see the run folder {run.folder} that the chief has made: --logdir_root must "
            "be a folder that all workers share, such as one on a network file system"
        )
    return run


# ---- what the run keeps ----------------------------------------------------------------------------------------------


def _documents(
    plan: Plan, material: Material, statistics: dict[str, float], root: Run | None
) -> tuple[dict[str, Any], list[str]]:
    """What the run keeps of the session, by the names of its files; and sentences about the controls among it."""
    documents: dict[str, Any] = {"statistics.json": statistics}
    if root is None:
        documents["split.json"] = material.split.to_document(material.corpus)
    documents["run.json"] = _described(plan, material, None if root is None else root.read("run.json"))
    if material.dataset_state is not None:
        documents[DATASET_STATE] = material.dataset_json
    if material.steering is None:
        return documents, []
    values = trained_values(material.schema, material.steering.controls)
    documents["schema.json"] = {"parameters": material.schema.to_document(), "values": values}
    remarks = [f"Warning: {text}" for text in beyond_range(material.steering)]
    return documents, [*remarks, described_controls(material.steering, values)]


def _described(plan: Plan, material: Material, before: dict[str, Any] | None) -> dict[str, Any]:
    """What run.json says; before: what it said, where training goes on."""
    session = plan.session
    described = before or {
        "id": session.identity,
        "mark": uuid.uuid4().hex,
        "created": now(),
        "command": sys.argv,
        "sample_rate": material.corpus.sample_rate,
        "data_dir": absolute(session.data_dir),
        "corpus": material.corpus.identity,
        "versions": environment(),
    }
    if material.steering is not None:
        given = {"param_dir": session.param_dir, "params": session.params}
        if before is None or any(given.values()):
            described |= {key: None if path is None else str(path.resolve()) for key, path in given.items()}
        described["controls"] = material.digests
    return described
