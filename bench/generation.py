"""What a sample costs by the engine and by TensorFlow, in turns: in processor time, since other programs may run; and
beside it, for each type of weights, the least that its multiply-adds and bytes would take (`bench.limits`)."""

from __future__ import annotations

import resource
import statistics
import time
from typing import Any, get_args

from bench.limits import generation_limit, weight_bytes
from bench.presets import presets

RATE = 16000


def measure(
    name: str, voices: int, *, samples: int = 4096, live: int = 256, repeats: int = 7, **keys: Any
) -> list[dict[str, Any]]:
    """A preset with random weights, of which `keys` may differ: on the engine with each type of weights, and by
    TensorFlow. samples: of a long block; live: of a short one."""
    from tierwave.config import read_document
    from tierwave.controls.schema import Parameter, Schema
    from tierwave.controls.tracks import Track
    from tierwave.engine.network import WeightKind
    from tierwave.family import load_config
    from tierwave.generation.load import network_of
    from tierwave.generation.request import Request

    family, config = load_config({**read_document(presets()[name]), **keys}, name)
    schema = Schema(parameters=tuple(Parameter(name=each, lo=0.0, hi=1.0) for each in family.steerable(config)))
    config = family.completed(config, schema, RATE)
    (stage,) = family.stages(config)
    model = family.build(config, stage)
    networks = {kind: network_of(family, config, stage, model, kind) for kind in get_args(WeightKind)}
    players = {"tensorflow": model, **networks}
    drawn = {each: Track.constant(each, 0.5) for each in schema.names}
    request = Request(sequences=voices, controls=(drawn,), temperature=[1.0])
    streams = {
        kind: family.stream([player], config, request, sample_rate=RATE, schema=schema)
        for kind, player in players.items()
    }
    blocks = dict.fromkeys((live, samples))
    spent: dict[tuple[str, int], list[tuple[float, float]]] = {(kind, size): [] for kind in streams for size in blocks}
    for kind, size in spent:
        streams[kind].render(size)  # compiles
    for _ in range(repeats):
        for (kind, size), found in spent.items():
            count = max(1, samples // size // 4)
            found += [_cost(streams[kind], size) for _ in range(count)]
    before = {size: _quick([processor for processor, _ in spent["tensorflow", size]]) for size in blocks}
    limits = {kind: generation_limit(network, voices, repeats=repeats) for kind, network in networks.items()}
    rows = []
    for (kind, size), found in spent.items():
        processor, clock = (_quick(column) for column in zip(*found, strict=True))
        rows.append(
            {
                "benchmark": "generation",
                "config": name,
                "voices": voices,
                "block": size,
                "weights": kind,
                "microseconds": processor / size / voices * 1e6,
                "ratio": before[size] / processor,
                "real_time_of_all": voices * size / RATE / clock,
                "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
        if kind in limits:
            limit = limits[kind]
            rows[-1] |= {
                "multiply_adds": networks[kind].multiplications,
                "bytes": weight_bytes(networks[kind]),
                "limit_microseconds": 1e6 / limit.samples_per_second,
                "share": size * voices / processor / limit.samples_per_second,
                "limit_text": limit.text,
            }
    return rows


def _cost(stream: Any, samples: int) -> tuple[float, float]:
    """Seconds of processor time, of all threads, and by the clock, of a block."""
    processor, clock = time.process_time(), time.perf_counter()
    stream.render(samples)
    return time.process_time() - processor, time.perf_counter() - clock


def _quick(seconds: Any) -> float:
    """Of the quicker quarter of the blocks, in the middle: the others were disturbed."""
    ordered = sorted(seconds)
    return statistics.median(ordered[: max(1, len(ordered) // 4)])
