"""From a person's request to a training session, and from a run folder to trained models.

`train` puts config, corpus, split, run folder, learner and callbacks together, and refuses to mix what does not belong
together; `load_trained` reads all it needs from the run. Asks the family for whatever is the family's own.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from tierwave.audio import load
from tierwave.config import (
    TrainingOptions,
    apply_overrides,
    difference,
    dumps,
    offset_in_samples,
    resolve_training,
    split_training,
    validate,
)
from tierwave.corpus import Corpus, Normalize, load_corpus, normalised, summary
from tierwave.dataset import lane_warnings
from tierwave.errors import UsageError
from tierwave.families import load_family
from tierwave.metrics import CodeStatistics
from tierwave.quantize import Quantizer
from tierwave.runs import (
    CONFIG_NAME,
    CheckpointEntry,
    Run,
    create_run,
    environment,
    find_checkpoint,
    only_training,
    runs_of,
    write_text,
)
from tierwave.splits import Split, make_split

if TYPE_CHECKING:
    from tierwave.training import Trainer

SPLIT_OPTIONS = {"val_frac", "test_frac", "num_val_batches"}
MOST_MARKOV_LEVELS = 1024  # beyond this a table of code pairs is larger than any corpus
SayLine = Callable[[str, bool], None]


@dataclass(frozen=True)
class Session:
    """What a person asked train.py for.

    document: the config; None takes that of the run that is resumed. overrides: `KEY=VALUE` that win over it, and over
    what the resumed run was trained with. typed: training flags that were typed, by name, which win over both. source:
    what to call the config in messages. rewrite: one statistics line, written over.
    """

    identity: str
    data_dir: Path
    document: dict[str, Any] | None
    source: str
    overrides: Sequence[str] = ()
    typed: Mapping[str, Any] = field(default_factory=dict)
    logdir_root: Path = Path("logdir")
    output_dir: Path = Path("generated")
    resume: bool = True
    resume_from: Path | None = None
    init_from: Path | None = None
    rewrite: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a session ended: why, where its run lies, and the signal that ended it, if one did."""

    reason: str
    run: Run
    signal: int | None


def train(
    session: Session,
    default_document: Callable[[], dict[str, Any]],
    say_line: SayLine,
    start_tensorflow: Callable[[], None] = lambda: None,
) -> Outcome:
    """Train as the session says, going on from its newest checkpoint where there is one.

    default_document() gives the config for a new run when the session names none. say_line(text, rewrite) prints.
    start_tensorflow() is called before TensorFlow is imported, which is after config and recordings were found good.
    Raises UsageError and RunError with what to do.
    """
    if os.sep in session.identity or session.identity.strip() in ("", ".", ".."):
        raise UsageError(f"--id {session.identity!r} must be a plain name, since a folder is named after it")
    with contextlib.ExitStack() as locks:
        locks.enter_context(only_training(session.logdir_root, session.identity))
        resumed = _checkpoint_to_resume(session)
        if resumed is not None:
            _refuse_imported(resumed[0])
            owner = resumed[0].folder.resolve().parent
            if owner != (session.logdir_root / session.identity).resolve():  # --resume_from leads into another id's run
                locks.enter_context(only_training(owner.parent, owner.name))
        stored = None if resumed is None else resumed[0].read(CONFIG_NAME)
        document = session.document
        if document is None and stored is None and session.init_from is not None:
            document, _ = split_training(find_checkpoint(session.init_from)[0].read(CONFIG_NAME))
        if document is None:
            document = stored if stored is not None else default_document()
        document = apply_overrides(document, session.overrides)
        family = load_family(document.get("model", "samplernn"))
        config = validate(family.Config, document, session.source)
        if stored is None:
            options = resolve_training(session.typed, document, session.source)
        else:
            assert resumed is not None
            _refuse_other_architecture(document, stored, family, resumed[0], session)
            trained_with = apply_overrides(stored, session.overrides)
            options = resolve_training(session.typed, trained_with, str(resumed[0].folder / CONFIG_NAME))
        _refuse_foreign_options(options, family)
        return _train(session, family, config, options, resumed, say_line, start_tensorflow)


def _checkpoint_to_resume(session: Session) -> tuple[Run, CheckpointEntry] | None:
    if not session.resume:
        return None
    if session.resume_from is not None:
        return find_checkpoint(session.resume_from)
    for run in reversed(runs_of(session.logdir_root / session.identity)):
        if run.checkpoints:
            return run, run.latest()
    return None


def _refuse_imported(run: Run) -> None:
    if run.read("run.json")["corpus"] is None:
        raise UsageError(
            f"the run {run.folder} was imported, so it has weights but no training to go on with: start one from them "
            f"under another --id, with --init_from {run.folder} --config_file {run.folder / CONFIG_NAME}"
        )


def _refuse_other_architecture(
    document: dict[str, Any], stored: dict[str, Any], family: ModuleType, run: Run, session: Session
) -> None:
    def architecture(of: dict[str, Any], source: str) -> dict[str, Any]:
        return split_training(validate(family.Config, of, source).model_dump(mode="json"))[0]

    before = architecture(stored, str(run.folder / CONFIG_NAME))
    now = architecture(document, session.source)
    changes = difference(before, now)
    if changes:
        raise UsageError(
            f"the run {run.folder} was trained with another config ({'; '.join(changes)}): give this one another --id, "
            "or train from the run's weights with --init_from, or start over with --resume False"
        )


def _refuse_foreign_options(options: TrainingOptions, family: ModuleType) -> None:
    for name, why in family.FOREIGN_OPTIONS.items():
        value = getattr(options, name)
        if value != TrainingOptions.model_fields[name].default:
            raise UsageError(f"--{name} {value} does nothing for this model ({why}): leave it out")


def _train(
    session: Session,
    family: ModuleType,
    config: Any,
    options: TrainingOptions,
    resumed: tuple[Run, CheckpointEntry] | None,
    say_line: SayLine,
    start_tensorflow: Callable[[], None],
) -> Outcome:
    described = None if resumed is None else resumed[0].read("run.json")
    encoder = family.encoder(config)
    corpus = load_corpus(
        session.data_dir,
        encoder,
        sample_rate=options.sample_rate or (described["sample_rate"] if described else None),
        normalize=config.normalize,
        cache_dir=session.logdir_root / ".cache",
        progress=lambda done, total: say_line(f"Decoding: {done}/{total} recordings", True),
    )
    opening = [summary(corpus), *(f"Warning: {text}" for text in [*corpus.warnings(), *family.warnings(config)])]
    if resumed is not None and described is not None:
        _refuse_other_corpus(corpus, described, session, resumed[0])
        run = resumed[0]
        ignored = sorted(SPLIT_OPTIONS & session.typed.keys())
        if ignored:
            opening.append(f"Warning: --{ignored[0]} changes nothing here: a resumed run keeps what it held out.")
        split = Split.from_document(run.read("split.json"), corpus)
        start_tensorflow()
    else:
        split = _split(corpus, encoder, family, config, options)
        start_tensorflow()
        run = create_run(session.logdir_root, session.identity)
        run.write("split.json", split.to_document(corpus))
        run.write(
            "run.json",
            {
                "id": session.identity,
                "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "command": sys.argv,
                "sample_rate": corpus.sample_rate,
                "data_dir": str(session.data_dir.resolve()),
                "corpus": corpus.identity,
                "versions": environment(),
            },
        )
    log = open(run.folder / "log.txt", "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed below)

    def logged(text: str, rewrite: bool) -> None:
        log.write(text + "\n")
        say_line(text, rewrite)

    try:
        statistics = {**corpus.statistics(), **_baselines(corpus, split, encoder)}
        run.write("statistics.json", statistics)
        config_text = dumps(config.model_copy(update={"training": options.model_dump(mode="json")}))
        write_text(run.folder / CONFIG_NAME, config_text + "\n")
        for text in [*opening, _described_split(split, corpus, statistics)]:
            logged(text, False)
        trainer = _trainer(session, family, config, options, corpus, split, run, config_text, logged)
        if resumed is not None:
            typed_rate = session.typed.get("learning_rate")
            for remark in trainer.restore(run, resumed[1]):
                logged(remark, False)
            if typed_rate is not None:
                trainer.learning_rate = typed_rate
            logged(f"Going on from {run.folder / resumed[1].name} (step {resumed[1].step}).", False)
        elif session.init_from is not None:
            _take_weights(trainer, family, config, session.init_from)
        trainer.fit()
        reason = trainer.stop_reason or ""
        best = run.best()
        if best.best and best != run.latest():
            logged(f"The best checkpoint is {best.name}: generate.py --best takes it, without it the newest.", False)
        logged(f"Stopped: {reason}. The run is in {run.folder}", False)
        return Outcome(reason, run, trainer.interrupted)
    finally:
        log.close()


def _split(corpus: Corpus, encoder: Any, family: ModuleType, config: Any, options: TrainingOptions) -> Split:
    fraction = options.val_frac
    if options.num_val_batches is not None:
        wanted = options.num_val_batches * options.batch_size * config.seq_len
        fraction = wanted / corpus.samples
        if fraction + options.test_frac >= 1:
            raise UsageError(
                f"num_val_batches {options.num_val_batches} holds out {wanted} samples, and the corpus has only "
                f"{corpus.samples}: use a smaller number, or --val_frac"
            )
    return make_split(
        corpus,
        lambda index: encoder.decode(np.asarray(corpus.of(index))),
        valid_fraction=fraction,
        test_fraction=options.test_frac,
        seed=options.random_seed,
        smallest_guard=family.overlap(config),
    )


def _refuse_other_corpus(corpus: Corpus, described: dict[str, Any], session: Session, run: Run) -> None:
    if described["sample_rate"] != corpus.sample_rate:
        raise UsageError(
            f"the run {run.folder} was trained at {described['sample_rate']} Hz, and --sample_rate asks for "
            f"{corpus.sample_rate}: leave it out, or give this training another --id"
        )
    before, now = described["corpus"], corpus.identity
    if before != now:
        gone, new = sorted(before.keys() - now.keys()), sorted(now.keys() - before.keys())
        changed = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
        parts = [
            f"{len(names)} {what} (such as {names[0]})"
            for what, names in (("missing", gone), ("new", new), ("changed", changed))
            if names
        ]
        raise UsageError(
            f"--data_dir {session.data_dir} is another corpus than the run {run.folder} was trained on "
            f"({', '.join(parts)}): give this training another --id, or start from the run's weights with --init_from"
        )


def _baselines(corpus: Corpus, split: Split, encoder: Any) -> dict[str, float]:
    """What models without any memory reach on the held-out codes, in bits per sample: the bars to beat."""
    if not isinstance(encoder, Quantizer) or encoder.levels > MOST_MARKOV_LEVELS or not split.valid:
        return {}

    def codes(spans: Any) -> list[np.ndarray]:
        return [np.asarray(corpus.of(span.recording)[span.start : span.stop]) for span in spans]

    counted = CodeStatistics(encoder.levels)
    for segment in codes(split.train):
        counted.add(segment)
    valid = codes(split.valid)
    return {"histogram_bits": counted.histogram_bits(valid), "markov_bits": counted.markov_bits(valid)}


def _described_split(split: Split, corpus: Corpus, statistics: dict[str, Any]) -> str:
    def seconds(spans: Any) -> float:
        return sum(span.stop - span.start for span in spans) / corpus.sample_rate

    how = "whole recordings" if split.method == "files" else "stretches spread over the recordings"
    text = f"Training on {seconds(split.train):.1f} s, validating on {seconds(split.valid):.1f} s"
    if split.test:
        text += f", testing on {seconds(split.test):.1f} s"
    text += f" ({how} held out)"
    if "markov_bits" in statistics:
        text += (
            f"\nTo beat on held-out sound: {statistics['histogram_bits']:.3f} bits per sample (code histogram), "
            f"{statistics['markov_bits']:.3f} (first-order Markov model)"
        )
    return text


def _trainer(
    session: Session,
    family: ModuleType,
    config: Any,
    options: TrainingOptions,
    corpus: Corpus,
    split: Split,
    run: Run,
    config_text: str,
    say_line: SayLine,
) -> Trainer:
    import tensorflow as tf

    from tierwave.callbacks import Generation, generation_request, standard_callbacks
    from tierwave.training import Learner, Trainer, grow_gpu_memory, make_strategy

    grow_gpu_memory()
    strategy = make_strategy(options.strategy)
    stage = family.stages(config)[0]
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    jit = family.prefers_xla(config, on_gpu) if options.jit == "auto" else options.jit
    learner = Learner(
        lambda: family.build(
            config, stage, compute_dtype=options.precision.removeprefix("mixed_"), fused=on_gpu and not jit
        ),
        options,
        jit=jit,
        strategy=strategy,
        **family.clipping(config),
    )
    lanes = {"lanes": options.batch_size, "multiple_of": strategy.num_replicas_in_sync}
    data = family.dataset(corpus, split.train, config, stage, seed=options.random_seed, **lanes)
    valid = family.dataset(corpus, split.valid, config, stage, shuffled=False, **lanes) if split.valid else None
    for warning in lane_warnings(data, options.batch_size):
        say_line(f"Warning: {warning}", False)
    say_line(
        f"{learner.model.count_params():,} parameters, {data.lanes} lanes x {data.window} samples, {data.steps} steps "
        f"an epoch, {options.precision}, {'XLA' if jit else 'no XLA'}",
        False,
    )
    generation = None
    if options.generate and options.max_generate_per_epoch > 0:
        seed = seed_audio(options.seed, options.seed_offset, corpus.sample_rate, config.normalize, corpus.gain)
        folder = session.output_dir / session.identity
        try:  # now, not after the first epoch
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be written to ({error.strerror}): name another --output_dir, or leave generating "
                "out with --generate False"
            ) from None
        request = generation_request(options, seed)
        generation = Generation(
            lambda request: family.stream([learner.model], config, request, sample_rate=corpus.sample_rate),
            request,
            folder,
            session.identity,
            lambda text: say_line(text, False),
        )
    callbacks = standard_callbacks(
        config_text=config_text,
        generation=generation,
        sample_rate=corpus.sample_rate,
        say_line=say_line,
        rewrite=session.rewrite,
    )
    return Trainer(learner, data, valid, options, run, callbacks)


def seed_audio(
    path: str | Path | None, offset: int | str, sample_rate: int, normalize: Normalize, gain: float
) -> np.ndarray | None:
    """The recording to continue, float32 `[samples]` at `sample_rate`, from `offset` (samples, or "1.5s") on.

    Its level is changed as the corpus's was: normalize and gain are those of the run.
    """
    if path is None:
        return None
    sound, _ = load(path, sample_rate)
    first = offset_in_samples(offset, sample_rate)
    if first >= len(sound):
        raise UsageError(
            f"--seed_offset {offset} lies past the end of {path}, which has {len(sound)} samples "
            f"({len(sound) / sample_rate:.2f} s) at {sample_rate} Hz: use a smaller offset"
        )
    return normalised(sound, normalize, gain)[first:]


def _take_weights(trainer: Trainer, family: ModuleType, config: Any, path: Path) -> None:
    from tierwave.training import restore_checkpoint

    source, entry = find_checkpoint(path)
    theirs, _ = split_training(source.read(CONFIG_NAME))
    ours, _ = split_training(config.model_dump(mode="json"))
    for key in family.WEIGHTLESS_KEYS:
        theirs.pop(key, None)
        ours.pop(key, None)
    changes = difference(theirs, ours)
    if changes:
        raise UsageError(
            f"--init_from {path} has another architecture ({'; '.join(changes)}): use its config "
            f"({source.folder / CONFIG_NAME}) with --config_file"
        )
    restore_checkpoint(source.folder / entry.name, {"model": trainer.learner.model})


@dataclass(frozen=True)
class Trained:
    """A checkpoint made ready: its run, family, config, models (one per stage), sample rate and the corpus's gain."""

    run: Run
    entry: CheckpointEntry
    family: ModuleType
    config: Any
    models: list[Any]
    sample_rate: int
    gain: float


def load_trained(path: str | Path, *, best: bool = False, config_document: dict[str, Any] | None = None) -> Trained:
    """Everything that generation needs from a checkpoint, run folder or id's folder (see `runs.find_checkpoint`).

    config_document: for a checkpoint without a config beside it. Raises UsageError or RunError with what to do.
    """
    from tierwave.training import grow_gpu_memory, restore_checkpoint

    run, entry = find_checkpoint(path, best=best)
    document = run.read(CONFIG_NAME) if config_document is None else config_document
    family = load_family(document.get("model", "samplernn"))
    config = validate(family.Config, document, str(run.folder / CONFIG_NAME))
    described = run.read("run.json")
    grow_gpu_memory()
    models = []
    for stage in family.stages(config):
        model = family.build(config, stage)
        restore_checkpoint(run.folder / entry.name, {"model": model})
        models.append(model)
    gain = float(run.read("statistics.json")["gain"]) if config.normalize == "corpus" else 1.0
    return Trained(run, entry, family, config, models, int(described["sample_rate"]), gain)
