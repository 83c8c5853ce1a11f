"""Audio samples per second of generation by the engine and by TensorFlow, in turns with the machine's limit."""

from __future__ import annotations

import resource
import statistics
import time
from typing import Any

from bench.cases import CONFIGS
from bench.limits import generation_limit


def measure(
    name: str, streams: int, *, seconds: float = 2.0, repeats: int = 7, live: int = 256
) -> list[dict[str, Any]]:
    """One configuration on the engine, with each type of weights, and on TensorFlow; they and the limit take turns,
    medians of all. live: samples of the short blocks that are timed too."""
    import samplernn
    from samplernn.stream import SampleStream
    from tierwave.engine.network import InMemory
    from tierwave.generation.request import Request, group_sizes
    from tierwave.nn.runtime import one_thread_per_call
    from tierwave.runs.checkpoints import named_weights
    from tierwave.system.cores import usable_cores

    one_thread_per_call()
    config = CONFIGS[name]
    cores = len(group_sizes(streams, usable_cores()))
    model = samplernn.FAMILY.build(config)
    weights = InMemory(named_weights(model))
    players = {
        kind: samplernn.FAMILY.network(config, "samplernn", weights, kind, name)
        for kind in ("float32", "bfloat16", "int8")
    }
    made, first, blocks = {}, {}, {}
    both: dict[str, Any] = {"tensorflow": model, **players}
    for kind, player in both.items():
        made[kind] = SampleStream(player, 16000, Request(sequences=streams, seconds=1.0))
        first[kind] = _timed(made[kind], 4096)
        made[kind].render(live)
        blocks[kind] = 4096 * max(1, round(seconds / repeats / max(_timed(made[kind], 4096), 1e-6)))
    speeds: dict[str, list[float]] = {kind: [] for kind in made}
    live_speeds: dict[str, list[float]] = {kind: [] for kind in made}
    limits, text = [], ""
    for _ in range(repeats):
        limit = generation_limit(config, streams, cores, repeats=1)
        limits.append(limit.samples_per_second)
        text = limit.text
        for kind, stream in made.items():
            speeds[kind].append(streams * blocks[kind] / _timed(stream, blocks[kind]))
            live_speeds[kind].append(streams * live / min(_timed(stream, live) for _ in range(8)))
    before = statistics.median(speeds["tensorflow"])
    found = []
    for kind in made:
        speed = statistics.median(speeds[kind])
        found.append(
            {
                "benchmark": "generation",
                "config": name,
                "weights": kind,
                "streams": streams,
                "cores": cores,
                "samples_per_second": speed,
                "real_time_at_16kHz": speed / streams / 16000,
                "live_real_time_at_16kHz": statistics.median(live_speeds[kind]) / streams / 16000,
                "against_tensorflow": speed / before,
                "live_against_tensorflow": statistics.median(
                    ours / theirs for ours, theirs in zip(live_speeds[kind], live_speeds["tensorflow"], strict=True)
                ),
                "limit": statistics.median(limits),
                "share": statistics.median(s / limit for s, limit in zip(speeds[kind], limits, strict=True)),
                "limit_text": text,
                "compile_seconds": first[kind],
                "million_products_per_sample": next(iter(players.values())).multiplications / 1e6,
                "weights_MB": None if kind == "tensorflow" else players[kind].weights.nbytes / 1e6,
                "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    return found


def _timed(stream: Any, samples: int) -> float:
    started = time.perf_counter()
    stream.render(samples)
    return time.perf_counter() - started
