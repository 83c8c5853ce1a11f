"""What is trained on: recordings as codes, their controls, what is held out, and what the family makes of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tierwave.controls.schema import Parameter, Schema, mismatch
from tierwave.controls.sources import ControlSources, find_control_sources, unused_manifest
from tierwave.controls.tracks import Controls, constants_of
from tierwave.data.cache import load_corpus
from tierwave.data.corpus import Corpus, summary
from tierwave.data.measured import PITCHES, complete, declared, measurable, voiced_share
from tierwave.data.splits import Split, make_split
from tierwave.data.windows import Steering
from tierwave.errors import RunError, UsageError
from tierwave.generation.load import DATASET_STATE, load_schema
from tierwave.system.tasks import TF_CONFIG
from tierwave.training.checks import refuse_other_corpus, refuse_other_parameters
from tierwave.training.plan import Plan

LEAST_VOICED = 0.3  # share of the sound, below which its pitch steers nothing
SPLIT_OPTIONS = {"val_frac", "test_frac", "num_val_batches"}


@dataclass(frozen=True)
class Material:
    """What all stages are trained on. plan: as it is carried out, without a pitch where there is too little of it;
    steering: None where nothing steers; measured: the controls that were measured where recordings came without them;
    digests: of the controls, by recording; dataset_state: what the family made of the corpus; remarks: sentences for
    whoever trains."""

    plan: Plan
    corpus: Corpus
    split: Split
    steering: Steering | None
    measured: list[str]
    digests: dict[str, str]
    dataset_state: Any
    remarks: list[str]

    @property
    def schema(self) -> Schema:
        """Of the controls that steer, empty where none do."""
        return Schema() if self.steering is None else self.steering.schema

    @property
    def dataset_json(self) -> dict[str, Any] | None:
        """What the run keeps of what the family made."""
        document: dict[str, Any] | None = None if self.dataset_state is None else self.dataset_state.to_json()
        return document


def prepare(plan: Plan) -> Material:
    """Read, decode and split all that is trained on; as the run did that training resumes in, if it does.

    Raises UsageError and RunError where it is not what the run was trained on, or where there is too little of it.
    """
    request, family, config, root = plan.request, plan.family, plan.config, plan.root
    described = None if root is None else root.read("run.json")
    corpus = load_recordings(plan, described)
    remarks = [summary(corpus), *(f"Warning: {text}" for text in [*corpus.warnings(), *family.warnings(config)])]
    sources, measured, controls = _controls(plan, corpus, described)
    plan, without = _without_pitch(plan, measured, controls)
    remarks += [without] if without else []
    config, names = plan.config, family.parameters(plan.config)
    measured = [name for name in measured if name in names]
    controls = tuple({name: tracks[name] for name in names} for tracks in controls)
    digests = _digests(corpus, controls) if controls else {}
    if sources is None:
        passed_over = unused_manifest(request.data_dir)
    else:
        everything = [*(recording.name for recording in corpus.recordings), *(name for name, _ in corpus.left_out)]
        passed_over = [*sources.remarks, *sources.strays(everything)]
    remarks += [f"Warning: {text}" for text in passed_over]
    if root is not None and described is not None:
        refuse_other_corpus(corpus, described, request.data_dir, root)
        refuse_other_parameters(digests, described, root)
        ignored = sorted(SPLIT_OPTIONS & request.typed.keys())
        if ignored:
            remarks.append(f"Warning: --{ignored[0]} changes nothing here: a resumed run keeps what it held out.")
        split = Split.from_document(root.read("split.json"), corpus)
        schema = Schema() if sources is None else load_schema(root)
        stored = root.read(DATASET_STATE) if (root.folder / DATASET_STATE).exists() else None
    else:
        split = _split(plan, corpus, controls)
        remarks += [f"Warning: {text}" for text in split.remarks]
        schema = Schema() if sources is None else _fitted(plan, sources, corpus, split, controls, measured)
        stored = None
    config = family.completed(config, schema, corpus.sample_rate)
    plan = replace(plan, config=config)
    dataset_state = family.prepare(corpus, split, config, stored, data_dir=request.data_dir)
    remarks += [f"Warning: {text}" for text in (() if dataset_state is None else dataset_state.remarks)]
    steering = None
    if sources is not None:
        seconds = tuple(recording.samples / corpus.sample_rate for recording in corpus.recordings)
        steering = Steering(schema, controls, seconds)
    return Material(plan, corpus, split, steering, measured, digests, dataset_state, remarks)


def load_recordings(plan: Plan, described: dict[str, Any] | None) -> Corpus:
    """The recordings, encoded; described: what a run that is resumed knows of them."""
    request = plan.request
    return load_corpus(
        request.data_dir,
        plan.family.encoder(plan.config),
        sample_rate=_sample_rate(plan, described),
        normalize=plan.config.normalize,
        cache_dir=_cache_dir(plan),
        jobs=_jobs(),
        without=[root / name for root in (request.logdir_root, request.output_dir) for name in ("", request.identity)],
        progress=lambda done, total: plan.say_line(f"Decoding: {done}/{total} recordings", True),
    )


def _cache_dir(plan: Plan) -> Path:
    return plan.request.cache_dir or plan.request.logdir_root / ".cache"


def _jobs() -> int:
    # Workers on one machine share the cache, so each fills it with one process.
    return 1 if os.environ.get(TF_CONFIG) else os.cpu_count() or 1


def _sample_rate(plan: Plan, described: dict[str, Any] | None) -> int | None:
    asked, configured = plan.options.sample_rate, plan.family.sample_rate(plan.config)
    if asked and configured and asked != configured:
        raise UsageError(
            f"--sample_rate {asked} and the config's rate of audio, {configured}, differ: leave one of them out"
        )
    return asked or configured or (described["sample_rate"] if described else None)


def _controls(
    plan: Plan, corpus: Corpus, described: dict[str, Any] | None
) -> tuple[ControlSources | None, list[str], tuple[Controls, ...]]:
    """Where the controls lie, None if the config has none; the names of those that are measured where they lie
    nowhere; and those of every recording, with the voicing of a pitch that was measured."""
    request, names = plan.request, plan.family.parameters(plan.config)
    if not names:
        for flag, value in (("param_dir", request.param_dir), ("params", request.params)):
            if value is not None:
                raise UsageError(
                    f"--{flag} {value} has nothing to steer: name controls in the config's conditioned_on, or "
                    "leave it out"
                )
        if request.follow:
            raise UsageError(
                "--follow has nothing to measure: name level, midi or the like in the config's conditioned_on, or "
                "leave --config_file out"
            )
        return None, [], ()
    given = {"param_dir": request.param_dir, "params": request.params}
    if described is not None and not any(given.values()):
        given = {key: Path(described[key]) if described.get(key) else None for key in given}
    # Whether names may stand for the values of a control, and which, is the config's to say.
    known = Schema(parameters=tuple(Parameter(name=name) for name in names))
    sources = find_control_sources(
        request.data_dir,
        param_dir=given["param_dir"],
        params=given["params"],
        name_params=names,
        categories=known.updated(plan.config.controls, plan.source).named,
    )
    follows = request.follow or bool(described and described.get("measured"))
    measured = measurable(names) if follows else []
    encoder = plan.family.encoder(plan.config)
    controls, missing = complete(
        sources,
        corpus,
        encoder.decode,
        names,
        measured,
        cache_dir=_cache_dir(plan),
        jobs=_jobs(),
        progress=lambda done, total: plan.say_line(f"Measuring: {done}/{total} recordings", True),
    )
    return sources, missing, controls


def _without_pitch(plan: Plan, measured: Sequence[str], controls: Sequence[Controls]) -> tuple[Plan, str]:
    """The plan without a measured pitch where too little of the sound has one, and a sentence that says so; else the
    plan as it is, and "". RunError where nothing else steers the network."""
    config = plan.config
    steering: list[str] = getattr(config, "conditioned_on", [])
    kept = [name for name in steering if not (name in PITCHES and name in measured)]
    share = voiced_share(controls)
    if plan.root is not None or kept == steering or share >= LEAST_VOICED:
        return plan, ""
    said = f"{share:.0%} of the sound has a pitch, and {LEAST_VOICED:.0%} is the least that can be learned from"
    if not kept:
        raise RunError(f"there is nothing to follow, since {said}: add level to the config's conditioned_on")
    controlled = {name: config.controls[name] for name in kept if name in config.controls}
    config = config.model_copy(update={"conditioned_on": kept, "controls": controlled})
    left_out = " and ".join(name for name in steering if name not in kept)
    return replace(plan, config=config), f"Without {left_out}, since {said}."


def _digests(corpus: Corpus, controls: Sequence[Controls]) -> dict[str, str]:
    """A digest of the controls of every recording, by its name."""
    found = {}
    for recording, tracks in zip(corpus.recordings, controls, strict=True):
        digest = hashlib.blake2b(digest_size=8)
        for name, track in sorted(tracks.items()):
            digest.update(name.encode() + track.times.tobytes() + track.values.tobytes())
        found[recording.name] = digest.hexdigest()
    return found


def _split(plan: Plan, corpus: Corpus, controls: Sequence[Controls]) -> Split:
    family, config, options = plan.family, plan.config, plan.options
    encoder = family.encoder(config)
    fraction = options.val_frac
    if options.num_val_batches is not None:
        wanted = options.num_val_batches * options.batch_size * family.window_samples(config)
        fraction = wanted / corpus.samples
        if fraction + options.test_frac >= 1:
            raise UsageError(
                f"num_val_batches {options.num_val_batches} holds out {wanted} samples, and the corpus has only "
                f"{corpus.samples}: use a smaller number, or --val_frac"
            )
    return make_split(
        corpus,
        lambda index: encoder.decode(corpus.read(index)),
        valid_fraction=fraction,
        test_fraction=options.test_frac,
        seed=options.random_seed,
        smallest_guard=max(family.overlap(config), plan.request.guard),
        values=[constants_of(each) for each in controls] or None,
    )


def _fitted(
    plan: Plan,
    sources: ControlSources,
    corpus: Corpus,
    split: Split,
    controls: tuple[Controls, ...],
    measured: Sequence[str],
) -> Schema:
    """The schema of the corpus and the config, its open ranges fitted to what is trained on."""
    names = plan.family.parameters(plan.config)
    schema = sources.schema_of([recording.name for recording in corpus.recordings], names)
    units = {name: declared(name, corpus.sample_rate) for name in measured if schema.of(name).units is None}
    schema = schema.updated(units, "the measured controls")
    schema = schema.updated(plan.config.controls, plan.source)
    rate = corpus.sample_rate
    fitted = schema.fit(
        {
            name: track
            if track.is_constant
            else track.between(span.start / rate, span.stop / rate, schema.of(name).interp)
            for name, track in controls[span.recording].items()
        }
        for span in split.train
    )
    for parameter in fitted.parameters:
        if complaint := mismatch(parameter, [tracks[parameter.name] for tracks in controls]):
            raise RunError(complaint)
    return fitted
