"""From what a person types to a `Request`: seeds, priming, and the curves that a trained network is to follow.

Controls are looked for in this order: typed, in a CSV, in an array, the seed's own.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tierwave.audio.finding import find_audio
from tierwave.audio.quantize import Quantizer
from tierwave.controls.files import read_control_file, read_take
from tierwave.controls.live import LIVE_NAMES
from tierwave.controls.parse import parse_controls, read_array
from tierwave.controls.schema import Schema
from tierwave.controls.tracks import Controls, Track, shifted
from tierwave.errors import UsageError
from tierwave.files.names import located
from tierwave.generation.load import Trained, load_run, seed_audio, seed_controls
from tierwave.generation.request import Request
from tierwave.generation.vocoder import Vocoder

NOISE_SECONDS = 0.5
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class PromptOptions:
    """Flags of generate.py that become part of a `Request` once the run is known, as they were typed.

    prime: seconds of the seed, or "random" or "floor", with seconds behind a colon. control, override,
    tier_temperature, tier_seed: `NAME=...`.
    """

    seed: Path | None = None
    seed_offset: int | str = 0
    prime: str | None = None
    controls: Path | None = None
    control: Sequence[str] = ()
    external_array: Path | None = None
    external_sr: float | None = None
    override: Sequence[str] = ()
    tier_temperature: Sequence[str] = ()
    tier_seed: Sequence[str] = ()
    extrapolate: bool = False
    low_resolution: Path | None = None
    vocoder: Path | None = None


def build_request(trained: Trained, plain: Request, prompt: PromptOptions) -> tuple[Trained, Request, list[str]]:
    """The run (with its ranges open, for --extrapolate), the whole request, and remarks, one sentence each.

    plain: the request as far as it needs no run. Raises UsageError and RunError with what to do.
    """
    stages = trained.family.stages(trained.config)
    refuse_foreign(trained, plain, prompt)
    from_tier = plain.options.get("from_tier", 1)
    if from_tier > len(stages):
        raise UsageError(f"--from_tier {from_tier}: the run has only {len(stages)} tiers")
    if (from_tier > 1) != (prompt.low_resolution is not None):
        raise UsageError("--from_tier and --low_resolution belong together: from which tier on, above whose low tiers")
    if prompt.extrapolate:
        trained = replace(trained, schema=_open(trained.schema))
    remarks: list[str] = []
    priming, after = _priming(trained, plain, prompt, remarks)
    controls, averaged = _controls(trained, plain, prompt, after, remarks)
    options = dict(plain.options)
    if prompt.low_resolution is not None:
        options["low_audio"] = seed_audio(trained, prompt.low_resolution)
    if prompt.vocoder is not None:
        options["vocoder"] = Vocoder(load_run(prompt.vocoder, weights="auto"), trained.sample_rate, plain)
    request = replace(
        plain,
        **priming,
        controls=controls,
        averaged=averaged,
        tier_temperature=_by_tier(prompt.tier_temperature, "--tier_temperature", stages, float),
        tier_seed=_by_tier(prompt.tier_seed, "--tier_seed", stages, int),
        options=options,
    )
    return trained, request, remarks


def refuse_foreign(trained: Trained, plain: Request, prompt: PromptOptions = PromptOptions()) -> None:
    """UsageError for what this family would ignore."""
    given = {**vars(plain), **plain.options, **vars(prompt)}
    for name, why in trained.family.foreign_requests.items():
        if given.get(name):
            raise UsageError(f"--{name} {given[name]} does nothing for this model ({why}): leave it out")


def _open(schema: Schema) -> Schema:
    opened = [
        parameter if parameter.is_category else parameter.model_copy(update={"outside": "allow"})
        for parameter in schema.parameters
    ]
    return Schema(parameters=tuple(opened))


def _by_tier(
    texts: Sequence[str], flag: str, stages: Sequence[str], number: Callable[[str], _Number]
) -> dict[str, _Number]:
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = number(value)
        except ValueError:
            raise UsageError(f"{flag} {text} is not TIER=NUMBER: write for example {flag} {stages[0]}=1") from None
        if name not in stages:
            near = difflib.get_close_matches(name, stages, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(stages)}"
            raise UsageError(f"{flag} {text}: there is no tier {name}; {hint}")
    return found


def _priming(
    trained: Trained, plain: Request, prompt: PromptOptions, remarks: list[str]
) -> tuple[dict[str, Any], Controls | None]:
    """What comes before the new sound, as fields of a request, and the seed's controls after it (time 0 at its end)."""
    word, _, amount = (prompt.prime or "").partition(":")
    if word in ("random", "floor"):
        if prompt.seed is not None:
            raise UsageError(f"--prime {prompt.prime} and --seed {prompt.seed} both say what comes before: give one")
        seconds = _seconds(amount, prompt) if amount else NOISE_SECONDS
        noise = _noise(trained, word, seconds, plain.random_seed)
        return {"seed_audio": noise, "primed_at_random": word == "random"}, None
    if prompt.seed is None:
        if prompt.prime is not None:
            raise UsageError(f"--prime {prompt.prime} has no seed to take seconds of: give --seed, or --prime random")
        return {}, None
    path, offset = located(prompt.seed), prompt.seed_offset
    rate = trained.sample_rate
    if path.is_dir():
        if prompt.seed_offset not in (0, "0s"):
            raise UsageError(
                f"--seed_offset {prompt.seed_offset} into the folder {path}: a random place in it is taken; name one "
                "recording, or leave the offset out"
            )
        rng = np.random.default_rng(plain.random_seed)
        files = find_audio([path])
        if not files:
            raise UsageError(f"--seed {path} holds no recording: name a recording or a folder of them")
        path = files[int(rng.integers(len(files)))]
        wanted = round((_seconds(word, prompt) if word else 1.0) * rate)
        offset = int(rng.integers(max(1, len(seed_audio(trained, path)) - wanted)))
        remarks.append(f"Seed: {path} from {offset / rate:.3f} s")
    sound = seed_audio(trained, path, offset)
    own = seed_controls(trained, path, offset) if trained.family.parameters(trained.config) else None
    if word:
        sound = sound[: max(1, round(_seconds(word, prompt) * rate))]
    after = None if own is None else shifted(own, len(sound) / rate)
    return {"seed_audio": sound, "seed_controls": own}, after


def _seconds(text: str, prompt: PromptOptions) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e6:
        raise UsageError(f"--prime {prompt.prime}: give seconds above 0 (1.5), random, floor, or random:0.5")
    return seconds


def _noise(trained: Trained, kind: str, seconds: float, seed: int) -> np.ndarray:
    """Noise to start from: codes at random, all alike (MTCRNN's and RNNControl's), or the corpus's own noise floor."""
    rng = np.random.default_rng([seed % 2**63, 11])
    samples = max(1, round(seconds * trained.sample_rate))
    if kind == "random":
        encoder = trained.family.encoder(trained.config)
        table = encoder.table() if isinstance(encoder, Quantizer) else np.linspace(-1, 1, 256, dtype=np.float32)
        return table[rng.integers(len(table), size=samples)]
    floor = trained.run.read("statistics.json").get("noise_floor")
    if floor is None:
        raise UsageError("--prime floor: the run does not know its corpus's noise floor; take --prime random")
    return (floor * rng.standard_normal(samples)).astype(np.float32)


def _controls(
    trained: Trained, plain: Request, prompt: PromptOptions, own: Controls | None, remarks: list[str]
) -> tuple[tuple[Controls, ...], bool]:
    """The curves to follow, one `Controls` per sequence or one for all, and whether to average them."""
    family, config, schema = trained.family, trained.config, trained.schema
    wanted = family.steerable(config)
    if not schema.names:
        for flag in ("control", "controls", "external_array", "external_sr", "override", "extrapolate"):
            if value := getattr(prompt, flag):
                words = " ".join(value) if isinstance(value, (list, tuple)) else value
                raise UsageError(
                    f"--{flag} {words} has nothing to steer, since {trained.run.folder} was trained without "
                    "controls: leave it out"
                )
        return (), True
    typed = dict(parse_controls(prompt.control, seconds=plain.seconds, schema=schema))
    several = len(family.stages(config)) > 1
    for name in typed:
        if name not in wanted and not several:
            raise UsageError(f"--control {name}: this run generates {name}, so it cannot be given; leave it out")
    averaged = True
    from_file: Controls = {}
    if prompt.controls is not None:
        from_file, live = read_take(prompt.controls)
        averaged = not live
        ignored = [name for name in from_file if name not in (*schema.names, *LIVE_NAMES)]
        if ignored:
            remarks.append(f"Not used of {prompt.controls}: {', '.join(ignored)}")
        from_file = {name: track for name, track in from_file.items() if name not in ignored}
    replaced = {**_overrides(prompt.override, schema, wanted), **{n: t for n, t in typed.items() if n not in wanted}}
    for name in [*replaced, *(name for name in from_file if name in schema.names and name not in wanted)]:
        remarks.append(f"{name} is taken from {(replaced.get(name) or from_file[name]).source}, not generated.")
    arrays: list[Controls] = [{}]
    if prompt.external_array is not None:
        if prompt.external_sr is None:
            raise UsageError(f"--external_array {prompt.external_array} needs its rate in Hz: give --external_sr")
        arrays = read_array(prompt.external_array, wanted, prompt.external_sr)
    elif prompt.external_sr is not None:
        raise UsageError(f"--external_sr {prompt.external_sr:g} has no array: give --external_array, or leave it out")
    seeds_own = {name: own[name] for name in wanted if own is not None and name in own}
    if seeds_own and not set(wanted) <= {*typed, *from_file, *arrays[0]}:
        remarks.append(f"Following the seed's own {', '.join(seeds_own)} where nothing else is given.")
    merged = tuple({**seeds_own, **array, **from_file, **replaced, **typed} for array in arrays)
    if len(merged) > plain.sequences:
        remarks.append(f"Only the first {plain.sequences} of {len(merged)} sounds in {prompt.external_array} are made.")
    for controls in merged:
        for parameter in schema.parameters:
            if parameter.is_category and parameter.name in controls:
                for value in np.unique(controls[parameter.name].values):
                    parameter.refuse_unseen(float(value), trained.values.get(parameter.name))
    missing = [name for name in family.steerable(config, None, merged[0]) if name not in merged[0]]
    if missing:
        raise UsageError(_missing(trained, missing))
    return merged, averaged


def _missing(trained: Trained, missing: Sequence[str]) -> str:
    parts, examples = [], []
    for name in missing:
        parameter = trained.schema.of(name)
        low, high = sorted(parameter.span)
        unit = f" {parameter.units}" if parameter.units else ""
        what = ", ".join(parameter.categories) or f"{low:g} to {high:g}{unit}"
        parts.append(f"{name} ({what})")
        values = trained.values.get(name) or [low]
        middle = min(max(values[len(values) // 2], low), high)
        examples.append(f"{name}={parameter.categories[0] if parameter.categories else f'{middle:g}'}")
    return (
        f"this network is steered by {' and '.join(parts)}: give --control {' '.join(examples)}, a CSV with "
        "--controls, or a --seed whose controls are known"
    )


def _overrides(texts: Sequence[str], schema: Schema, wanted: Sequence[str]) -> dict[str, Track]:
    found: dict[str, Track] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise UsageError(f"--override {text} is not NAME=FILE: write for example --override rmse=curve.csv")
        schema.of(name)
        if name in wanted:
            raise UsageError(f"--override {text}: no tier generates {name}; give it with --controls or --control")
        file = read_control_file(Path(path))
        if name not in file.names:
            raise UsageError(f"--override {text}: {path} has no {name}, only {', '.join(file.tracks()) or 'nothing'}")
        found[name] = file.track(name)
    return found
