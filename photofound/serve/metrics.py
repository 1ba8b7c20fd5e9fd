"""The figures that Prometheus reads at /metrics."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counters of one server, in a registry of its own.

    Args:
        model: the name of the model, which the figures of edits carry.
    """

    def __init__(self, model: str = "") -> None:
        self.model, self.registry = model, CollectorRegistry()
        ProcessCollector(registry=self.registry)
        kept: Any = {"registry": self.registry}
        timed = kept | {"labelnames": ["task", "model"], "buckets": SECONDS}
        self._requests = Counter(
            "photofound_requests", "Answers by task and status", ["task", "model", "status"], **kept
        )
        self._seconds = Histogram("photofound_request_seconds", "From the request to its answer", **timed)
        self._wait = Histogram("photofound_queue_seconds", "In the queue", **timed)
        self._edit = Histogram("photofound_edit_seconds", "Computing a batch, per picture", **timed)
        self._batch = Histogram(
            "photofound_batch_size", "Edits computed together", ["task", "model"], buckets=BATCH_SIZES, **kept
        )
        self.waiting = Gauge("photofound_queue_length", "Edits that wait", **kept)
        self.uploads = Gauge("photofound_upload_bytes", "Bodies of all requests in progress", **kept)

    def answered(self, door: str, status: int, seconds: float) -> None:
        """Count an answer. ``door`` is the task, or for clients of other servers the address: ``images/edits``."""
        self._requests.labels(door, self.model, str(status)).inc()
        self._seconds.labels(door, self.model).observe(seconds)

    def waited(self, task: str, seconds: float) -> None:
        """Count an edit whose turn has come."""
        self._wait.labels(task, self.model).observe(seconds)

    def computed(self, task: str, count: int, seconds: float) -> None:
        """Count a batch of ``count`` edits that took ``seconds`` together."""
        self._batch.labels(task, self.model).observe(count)
        for _ in range(count):
            self._edit.labels(task, self.model).observe(seconds / count)
