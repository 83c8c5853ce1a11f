"""Training, from a person's request to a trained run: plan, prepare, check, and train each stage in turn."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tierwave.analysis.control_scenarios import trained_values
from tierwave.config import TrainingOptions, dumps
from tierwave.errors import UsageError
from tierwave.files.folders import refuse_name
from tierwave.files.urls import absolute
from tierwave.files.writing import write_text
from tierwave.generation.load import DATASET_STATE, hardly_trained
from tierwave.runs.folder import CONFIG_NAME, Run, create_run, environment, now, only_training
from tierwave.runs.log import Log
from tierwave.system.progress import SayLine, unheard
from tierwave.system.tasks import meet, task_of
from tierwave.training.checks import refuse_other_slots, refuse_other_workers, refuse_too_large
from tierwave.training.plan import Plan, TrainingRequest, TrainingResult, plan_of
from tierwave.training.prepare import Material, load_recordings, prepare
from tierwave.training.stage import RunContext, Stage, stage_of, train_stage
from tierwave.training.summary import baselines, beyond_range, described_controls, described_split, noise_floor

if TYPE_CHECKING:
    from tierwave.training.devices import Devices


def train(
    request: TrainingRequest,
    default_document: Callable[[], dict[str, Any]] = lambda: {"model": "samplernn"},
    say_line: SayLine = unheard,
    start_tensorflow: Callable[[], None] = lambda: None,
) -> TrainingResult:
    """Train as requested, resuming from the newest checkpoint where there is one.

    default_document() gives the config for a new run when the request names none. say_line(text, rewrite) prints.
    start_tensorflow() is called before TensorFlow is imported, after config and recordings were found good. Nothing is
    written to a run before its checkpoint was restored. Raises UsageError and RunError with what to do.
    """
    refuse_name("--id", request.identity, request.logdir_root)
    task = task_of(os.environ)
    with contextlib.ExitStack() as held:
        if task.rank == 0:  # the chief speaks for all, and holds the lock for all
            held.enter_context(only_training(request.logdir_root, request.identity))
        plan = plan_of(request, default_document, say_line if task.rank == 0 else unheard)
        if task.rank == 0 and plan.root is not None:  # --resume_from leads into another id's run
            owner = plan.root.folder.resolve().parent
            if owner != (request.logdir_root / request.identity).resolve():
                held.enter_context(only_training(owner.parent, owner.name))
        material = prepare(plan)
        plan = material.plan
        sources = plan.sources()

        start_tensorflow()
        devices = _devices(plan, lambda: meet(task, say_line, request.worker_timeout))
        stages = [stage_of(plan, name, material, devices) for name in plan.stages]
        refuse_too_large((stage.demand for stage in stages), devices)
        if plan.resumed is not None:
            stored = plan.resumed.document, plan.resumed.config
            refuse_other_slots(plan.family, plan.by_stage, plan.entries(), plan.resumed.root, stored)
        config = plan.family.with_training(plan.config, plan.options, plan.by_stage)
        refuse_other_workers(devices, _agreement(plan, material, config))

        run = _common_run(plan, devices)
        context = RunContext(run, devices, sources, dumps(config), plan.say_line)
        if devices.is_chief:  # only one process writes and prints
            context = held.enter_context(_recorded(plan, material, context))
        return _train_stages(plan, stages, material, context)


def encode(request: TrainingRequest, default_document: Callable[[], dict[str, Any]], say_line: SayLine) -> None:
    """Encode the recordings of a request into its cache and do no more."""
    refuse_name("--id", request.identity, request.logdir_root)
    plan = plan_of(request, default_document, say_line)
    load_recordings(plan, None if plan.root is None else plan.root.read("run.json"))


def _train_stages(plan: Plan, stages: Sequence[Stage], material: Material, context: RunContext) -> TrainingResult:
    """Train the stages in turn, each from its checkpoint on."""
    from tierwave.training.callbacks import Limits

    run, devices, entries = context.run, context.devices, plan.entries()
    # A checkpoint that was named is trained on, even one of a finished stage.
    named = None
    if plan.resumed is not None and plan.request.resume_from is not None:
        named = plan.resumed.part.folder
    result = TrainingResult("there was nothing left to train", run, None)
    limits = Limits()
    spent = 0.0  # minutes of steps
    cut_short: dict[str, Run] = {}
    for number, stage in enumerate(stages):
        options, part = stage.options, plan.part(run, stage.name)
        if plan.has_several:
            if devices.from_chief(_is_finished(part, options)) and part.folder != named:
                context.say(f"{stage.name} is finished; --num_epochs and the like make it go on.")
                continue
            context.say(f"Stage {stage.name} ({number + 1} of {len(stages)}):")
            own = plan.family.training_of(plan.config, stage.name).get("max_minutes")
            if options.max_minutes is not None and own is None:  # the time that is left, in equal shares
                left = (options.max_minutes - spent) / (len(stages) - number)
                share = float(devices.from_chief(max(left, options.max_minutes / len(stages) / 2)))
                options = options.model_copy(update={"max_minutes": share})
                limits = Limits(is_share=True)
            else:
                limits = Limits()
        entry = entries[stage.name][1] if stage.name in entries else None
        result = train_stage(plan, stage, options, material, context, entry, limits)
        spent += limits.seconds / 60.0
        if not result.finished:
            cut_short[stage.name] = part
        if plan.has_several and result.finished and devices.is_chief:
            part.write("finished.json", stage.options.model_dump(mode="json"))
        if result.signal is not None:
            break
    if devices.is_chief and plan.has_several:
        for remark in hardly_trained(cut_short):
            context.say(f"Warning: {remark}")
    return TrainingResult(result.reason, run, result.signal)


def _is_finished(part: Run, options: TrainingOptions) -> bool:
    """Whether a stage has ended by itself under these options (however long this command may take)."""
    if not (part.folder / "finished.json").exists() or not part.checkpoints:
        return False
    done = part.read("finished.json")
    here = {"max_minutes": None, "memory_check": None}
    return {**done, **here} == {**options.model_dump(mode="json"), **here}


# ---- devices and workers ---------------------------------------------------------------------------------------------


def _devices(plan: Plan, meet_workers: Callable[[], None]) -> Devices:
    from tierwave.nn.runtime import grow_gpu_memory
    from tierwave.training.devices import has_joined, make_devices

    if plan.options.strategy == "multiworker" and not has_joined():  # an earlier training may have, in this process
        meet_workers()
    grow_gpu_memory()
    return make_devices(plan.options.strategy)


def _agreement(plan: Plan, material: Material, config: Any) -> dict[str, Any]:
    """What all workers have to agree on."""
    resumed = plan.resumed
    return {
        "config": config.model_dump(mode="json"),
        "stages": plan.stages,
        "recordings": len(material.corpus.recordings),
        "samples": material.corpus.samples,
        "sound": _digest(material.corpus.identity),
        "parameters": _digest(material.digests),
        "prepared": _digest(material.dataset_json or {}),
        "checkpoint to go on from": "none" if resumed is None else f"{resumed.part.folder.name}/{resumed.entry.name}",
    }


def _digest(document: Any) -> str:
    return hashlib.blake2b(json.dumps(document, sort_keys=True).encode(), digest_size=8).hexdigest()


def _common_run(plan: Plan, devices: Devices) -> Run:
    """The run of all workers: the one that training resumes in, or a new one that the chief makes."""
    if plan.root is not None:
        return plan.root
    request = plan.request
    made = create_run(request.logdir_root, request.identity) if devices.is_chief else None
    name = devices.texts("" if made is None else made.folder.name)[0]  # the chief's
    run = Run(request.logdir_root / request.identity / name)
    visible = devices.total([float(run.folder.is_dir() or other != devices.rank) for other in range(devices.workers)])
    blind = [rank for rank, count in enumerate(visible) if count < devices.workers]
    if blind:
        raise UsageError(
            f"worker {blind[0]} does not see the run folder {run.folder} that the chief has made: --logdir_root must "
            "be a folder that all workers share, such as one on a network file system"
        )
    return run


# ---- what the run records --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _recorded(plan: Plan, material: Material, context: RunContext) -> Iterator[RunContext]:
    """The context of the chief, which writes what the run records of the training, and its log. A new run's folder goes
    again if nothing was written to it."""
    encoder, run = plan.family.encoder(plan.config), context.run
    log = Log(run.folder / "log.txt", plan.say_line)
    try:
        codes = any(plan.family.product(plan.config, stage).quantizer is not None for stage in plan.stages)
        found = baselines(material.corpus, material.split, encoder, predicted=codes)
        statistics = material.corpus.statistics() | found
        statistics["noise_floor"] = noise_floor(material.corpus, encoder)
        documents, remarks = _documents(plan, material, statistics)
        for text in [*material.remarks, *remarks, described_split(material.split, material.corpus, statistics)]:
            log.say(text, False)

        def begin() -> None:
            if log.is_open:
                return
            for name, document in documents.items():
                run.write(name, document)
            write_text(run.folder / CONFIG_NAME, context.config_text + "\n")
            log.open()

        yield replace(context, statistics=statistics, say_line=log.say, begin=begin)
    finally:
        log.close()
        if plan.root is None:
            with contextlib.suppress(OSError):  # it is empty only if training never began
                run.folder.rmdir()


def _documents(plan: Plan, material: Material, statistics: Mapping[str, float]) -> tuple[dict[str, Any], list[str]]:
    """What the run records, by the names of its files; and sentences about the controls among it."""
    documents: dict[str, Any] = {"statistics.json": statistics}
    if plan.root is None:
        documents["split.json"] = material.split.to_document(material.corpus)
    documents["run.json"] = _described(plan, material)
    if material.dataset_json is not None:
        documents[DATASET_STATE] = material.dataset_json
    if material.steering is None:
        return documents, []
    values = trained_values(material.schema, material.steering.controls)
    documents["schema.json"] = {"parameters": material.schema.to_document(), "values": values}
    remarks = [f"Warning: {text}" for text in beyond_range(material.steering)]
    return documents, [*remarks, described_controls(material.steering, values)]


def _described(plan: Plan, material: Material) -> dict[str, Any]:
    """What run.json says."""
    request = plan.request
    described: dict[str, Any] = {
        "id": request.identity,
        "mark": uuid.uuid4().hex,
        "created": now(),
        "command": sys.argv,
        "sample_rate": material.corpus.sample_rate,
        "data_dir": absolute(request.data_dir),
        "corpus": material.corpus.identity,
        "versions": environment(),
    }
    if plan.root is not None:
        described = plan.root.read("run.json")
    if material.steering is not None:
        given = {"param_dir": request.param_dir, "params": request.params}
        if plan.root is None or any(given.values()):
            described |= {key: None if path is None else str(path.resolve()) for key, path in given.items()}
        described["controls"] = material.digests
        described["measured"] = material.measured
    return described
