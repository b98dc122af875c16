"""How vLLM's scheduler stands, as the worker process reads it and as the window takes it."""

from __future__ import annotations

from collections.abc import Mapping

from halo_sql.engines.protocol import Gauges


def scheduler_gauges() -> dict[str, float]:
    """What vLLM's scheduler says of itself: share of the KV cache in use, queues; preemptions, and seconds that
    requests waited (and how many have), so far."""
    from prometheus_client import REGISTRY

    wanted = {
        "vllm:kv_cache_usage_perc": "kv_used",
        "vllm:num_requests_running": "running",
        "vllm:num_requests_waiting": "waiting",
        "vllm:num_preemptions_total": "preemptions",
        "vllm:request_queue_time_seconds_sum": "queued_s",
        "vllm:request_queue_time_seconds_count": "queued",
    }
    found: dict[str, float] = {}
    for metric in REGISTRY.restricted_registry(list(wanted)).collect():
        for sample in metric.samples:
            if sample.name in wanted:
                found[wanted[sample.name]] = found.get(wanted[sample.name], 0.0) + sample.value
    return found


def read_gauges(told: Mapping[str, float], before: Mapping[str, float]) -> Gauges:
    """What a worker told of its scheduler (``frames``), and what it had told before."""
    queued = told.get("queued", 0.0) - before.get("queued", 0.0)
    queued_s = told.get("queued_s", 0.0) - before.get("queued_s", 0.0)
    return Gauges(
        told.get("kv_used", 0.0),
        int(told.get("running", 0)),
        int(told.get("waiting", 0)),
        int(told.get("preemptions", 0)),
        max(0.0, queued_s / queued) if queued > 0 else 0.0,
    )
