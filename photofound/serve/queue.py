"""A queue of edits, and the worker threads that compute them in batches: one, unless another server computes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from photofound.edits.request import Request
from photofound.edits.task import Job
from photofound.image import Picture
from photofound.notices import warnings_to
from photofound.picture.layers import Layer, flatten
from photofound.pipeline import EditPipeline
from photofound.serve.config import ServeConfig
from photofound.serve.metrics import Metrics


class Busy(Exception):
    """The queue is full; try again in ``seconds``."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full; try again in {seconds} s")
        self.seconds = seconds


class TooLong(Exception):
    """The edit took more than its time."""


class UpstreamFailed(Exception):
    """The server that paints in our place (``upstream``) gave no picture. ``status`` is that of our own answer, after
    ``seconds`` it may be asked again."""

    def __init__(self, reason: str, status: int = 502, seconds: int | None = None) -> None:
        super().__init__(f"the upstream server {reason}")
        self.status, self.seconds = status, seconds


class Abandoned(Exception):
    """Nobody waits for the result any more."""


def batch_key(request: Request) -> Any:
    """Requests with the same key may be computed together."""
    size = request.inputs.get("size") if request.picture is None else request.picture.size
    alone = id(request) if request.layers else None  # layers of many together would fill the memory
    return request.task, size, request.steps, request.guidance, request.best_of, alone


@dataclass(eq=False)
class Ticket:
    """A request in the queue, and its result.

    Attributes:
        request: what to do.
        result: the future of its picture.
        queued: when it was submitted, as ``time.monotonic``.
        waited: seconds from then until its batch began.
        deadline: when it must be done; infinite until its batch begins.
        layers: of the result, where they are asked for.
        note: what to tell the client beside the picture, such as the warnings of its preparation.
        abandoned: whether the client has gone.
    """

    request: Request
    result: Future[Picture] = field(default_factory=Future)
    queued: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    deadline: float = math.inf
    layers: list[Layer] | None = None
    note: str = ""
    abandoned: bool = False


class EditQueue:
    """A queue of edits, and the worker threads that compute them. All methods may be called from any thread.

    Args:
        pipe: any task's pipeline; the other tasks share its weights.
        config: bounds of the queue and of a batch.
        metrics: where waiting times and sizes of batches are counted.
    """

    def __init__(self, pipe: EditPipeline, config: ServeConfig | None = None, metrics: Metrics | None = None) -> None:
        self.config = config or ServeConfig()
        self.metrics = metrics or Metrics()
        self.metrics.waiting.set_function(lambda: len(self._waiting))
        self._pipe = pipe
        self._waiting: list[Ticket] = []
        self._places = 0  # in use
        self._changed = threading.Condition()
        self._closing = False
        self._preparing = threading.Lock()
        self._seconds_per_edit = 1.0  # a running mean
        self._threads = [
            threading.Thread(target=self._work, name=f"photofound-edits-{i}", daemon=True)
            for i in range(self.config.workers)
        ]

    # ------------------------------------------------------------------------------------------ for requests' threads

    def start(self) -> None:
        """Start the workers."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Accept nothing more, finish what is queued, and return when it is done."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def alive(self) -> bool:
        """Whether all workers run; without them only a new process helps."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def ready(self) -> bool:
        """Whether edits are accepted."""
        return self.alive and not self._closing

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one request, from before its body is read until its answer is sent. There are as many as edits
        may wait and be computed at once. Raises Busy if all are in use, or if the queue is closed."""
        with self._changed:
            if self._closing:
                raise Busy(5)
            if self._places >= self.config.queue + self.config.batch:
                raise Busy(max(1, math.ceil(self._places * self._seconds_per_edit)))
            self._places += 1
        try:
            yield
        finally:
            with self._changed:
                self._places -= 1

    def submit(self, request: Request) -> Ticket:
        """Queue an edit; ``ticket.result`` is its future. Raises Busy if the queue is closed. ``place`` bounds how many
        may wait."""
        with self._changed:
            if self._closing:
                raise Busy(5)
            ticket = Ticket(request)
            self._waiting.append(ticket)
            self._changed.notify_all()
        return ticket

    def abandon(self, ticket: Ticket) -> None:
        """The client has gone: remove the ticket from the queue. If it is being computed, that stops when all of its
        batch are abandoned."""
        with self._changed:
            ticket.abandoned = True
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                ticket.result.cancel()
                self._changed.notify_all()

    # ---------------------------------------------------------------------------------------------- the worker threads

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._process(batch)
            del batch  # it may hold a hundred megabytes, and the next one may be long in coming

    def _next_batch(self) -> list[Ticket] | None:
        """The oldest ticket and others with its key; waits ``window`` seconds for more. None: stop."""
        with self._changed:
            while True:
                while not self._waiting:
                    if self._closing:
                        return None
                    self._changed.wait()
                first = self._waiting[0]
                key, until = batch_key(first.request), first.queued + self.config.window
                batch = [ticket for ticket in self._waiting if batch_key(ticket.request) == key][: self.config.batch]
                left = until - time.monotonic()
                if len(batch) == self.config.batch or left <= 0 or self._closing:
                    break
                self._changed.wait(left)
            self._waiting = [ticket for ticket in self._waiting if ticket not in batch]
            return [ticket for ticket in batch if ticket.result.set_running_or_notify_cancel()]

    def _process(self, batch: list[Ticket]) -> None:
        start = time.monotonic()
        prepared = []
        for ticket in batch:
            ticket.waited = start - ticket.queued
            ticket.deadline = start + self.config.edit_seconds * len(batch)
            self.metrics.waited(ticket.request.task, ticket.waited)
        for ticket in batch:
            job = self._prepare(ticket)
            if isinstance(job, Exception):
                ticket.result.set_exception(job)
            else:
                prepared.append((ticket, job))
        if prepared:
            self._compute(prepared)
            self._seconds_per_edit += 0.2 * ((time.monotonic() - start) / len(batch) - self._seconds_per_edit)

    def _prepare(self, ticket: Ticket) -> Job | Exception:
        """The ticket's Job, or the error."""
        request = ticket.request
        try:
            pipe = self._pipe.for_task(request.task)
            warned: list[str] = []
            with self._preparing, warnings_to(warned.append):  # one thread at a time listens to warnings
                job = pipe.prepare(request.picture, **request.inputs)
            ticket.note = "; ".join(filter(None, [pipe.unread(request.inputs.get("prompt")), *warned]))
            return job
        except Exception as error:
            return error

    def _compute(self, prepared: Sequence[tuple[Ticket, Job]]) -> None:
        """Run a batch. If it fails, its members run one by one, so that a bad request does not spoil the others."""
        tickets, jobs = zip(*prepared, strict=True)
        start = time.monotonic()
        results = self._run(tickets, jobs)
        if not isinstance(results, Exception):
            self.metrics.computed(tickets[0].request.task, len(tickets), time.monotonic() - start)
            for ticket, result in zip(tickets, results, strict=True):
                ticket.result.set_result(result)
        elif len(prepared) == 1 or isinstance(results, (Abandoned, TooLong)):
            for ticket in tickets:
                ticket.result.set_exception(results)
        else:
            for each in prepared:
                self._compute([each])

    def _run(self, tickets: Sequence[Ticket], jobs: Sequence[Job]) -> Sequence[Picture] | Exception:
        """One picture per job, or the error."""

        def stop_in_time(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if all(ticket.abandoned for ticket in tickets):
                raise Abandoned
            if time.monotonic() > max(ticket.deadline for ticket in tickets):
                raise TooLong
            return tensors

        first = tickets[0].request
        try:
            pipe = self._pipe.for_task(first.task)
            generators = [ticket.request.generator() for ticket in tickets]
            if first.layers:  # it is alone
                tickets[0].layers = pipe.layers(jobs[0], generators[0], *pipe.settings(first), stop_in_time)
                made = [flatten(tickets[0].layers)]
            else:
                made = pipe.run(jobs, generators, *pipe.settings(first), stop_in_time, first.best_of)
            return [
                pipe.with_recipe(picture, ticket.request, job)
                for picture, ticket, job in zip(made, tickets, jobs, strict=True)
            ]
        except Exception as error:
            return error
