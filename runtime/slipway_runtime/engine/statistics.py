"""A model's statistics in the words and the nesting of Triton's statistics extension."""

from typing import Any

from slipway_runtime.engine.endpoint import Endpoint


def statistics(endpoint: Endpoint) -> dict[str, Any]:
    """ModelStatistics as JSON has it: all whole numbers, durations in nanoseconds."""
    stats = endpoint.stats
    ran = stats.success - stats.cache_hits
    return {
        "name": endpoint.name,
        "version": endpoint.version,
        "last_inference": stats.last_ms,
        "inference_count": stats.inferences,
        "execution_count": stats.executions,
        "inference_stats": {
            "success": _duration(stats.success, stats.request_ns),
            "fail": _duration(sum(stats.failure.values()), stats.failure_ns),
            "queue": _duration(ran, stats.queue_ns),
            "compute_input": _duration(ran, stats.input_ns),
            "compute_infer": _duration(ran, stats.infer_ns),
            "compute_output": _duration(ran, stats.output_ns),
            "cache_hit": _duration(stats.cache_hits, stats.cache_hit_ns),
            "cache_miss": _duration(stats.cache_misses, stats.cache_miss_ns),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(size.executions, size.input_ns),
                "compute_infer": _duration(size.executions, size.infer_ns),
                "compute_output": _duration(size.executions, size.output_ns),
            }
            for rows, size in sorted(stats.batches.items())
        ],
        "memory_usage": [],
        "response_stats": {},
    }


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}
