"""The figures that Prometheus reads at /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = to = CollectorRegistry()
        ProcessCollector(registry=to)
        self.requests = Counter("photofound_requests", "Answers by task and status", ["task", "status"], registry=to)
        self.seconds = Histogram(
            "photofound_request_seconds", "From the request to its answer", ["task"], buckets=SECONDS, registry=to
        )
        self.wait = Histogram("photofound_queue_seconds", "In the queue", ["task"], buckets=SECONDS, registry=to)
        self.batch = Histogram(
            "photofound_batch_size", "Edits computed together", ["task"], buckets=BATCH_SIZES, registry=to
        )
        self.waiting = Gauge("photofound_queue_length", "Edits that wait", registry=to)
        self.uploads = Gauge("photofound_upload_bytes", "Bodies of all requests in progress", registry=to)
