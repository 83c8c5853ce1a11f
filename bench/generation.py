"""Audio samples per second of generation, beside the machine's limit measured in turns with it."""

from __future__ import annotations

import resource
import statistics
import time
from typing import Any

from bench.cases import CONFIGS
from bench.limits import generation_limit


def measure(name: str, streams: int, *, seconds: float = 2.0, repeats: int = 7) -> dict[str, Any]:
    """One configuration; limit and generation take turns, medians of both."""
    import samplernn
    from samplernn.stream import SampleStream
    from tierwave.generation.request import Request, group_sizes
    from tierwave.nn.runtime import one_thread_per_call
    from tierwave.system.cores import usable_cores

    one_thread_per_call()
    config = CONFIGS[name]
    cores = len(group_sizes(streams, usable_cores()))
    stream = SampleStream(samplernn.FAMILY.build(config), 16000, Request(sequences=streams, seconds=1.0))
    started = time.perf_counter()
    stream.render(4096)
    first = time.perf_counter() - started
    block = 4096 * max(1, round(seconds / repeats / max(_timed(stream, 4096), 1e-6)))
    speeds, limits, text = [], [], ""
    for _ in range(repeats):
        limit = generation_limit(config, streams, cores, repeats=1)
        limits.append(limit.samples_per_second)
        text = limit.text
        speeds.append(streams * block / _timed(stream, block))
    speed, bound = statistics.median(speeds), statistics.median(limits)
    return {
        "benchmark": "generation",
        "config": name,
        "streams": streams,
        "cores": cores,
        "samples_per_second": speed,
        "real_time_at_16kHz": speed / streams / 16000,
        "limit": bound,
        "share": statistics.median(s / limit for s, limit in zip(speeds, limits, strict=True)),
        "limit_text": text,
        "compile_seconds": first,
        "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _timed(stream: Any, samples: int) -> float:
    started = time.perf_counter()
    stream.render(samples)
    return time.perf_counter() - started
