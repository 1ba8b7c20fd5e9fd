"""The best of several results, and a larger model for what did not come out well (``photofound.edits.scores``)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import numpy as np
import torch

from photofound.edits import scores
from photofound.edits.scores import BELOW, Scores
from photofound.edits.task import Job, Task, get_task
from photofound.image import Picture
from photofound.picture import provenance
from photofound.sampling import Callback
from photofound.subjects import SubjectPipeline


@dataclass
class Fallback:
    """A larger model that is loaded when it is first needed.

    Attributes:
        load: gives any of its pipelines.
        name: what notes call it.
        below: a result whose score is lower goes to it.
    """

    load: Callable[[], Any]
    name: str
    below: float = BELOW
    _pipe: Any = None
    _lock: Any = field(default_factory=threading.Lock)

    def pipe(self, task: str) -> Any:
        """Its pipeline of a task."""
        with self._lock:
            if self._pipe is None:
                self._pipe = self.load()
        return self._pipe.for_task(task)


class JudgingPipeline(SubjectPipeline):
    """Results that are judged before they are returned."""

    fallback: Fallback | None = None  # the pipelines of all tasks that share weights share it, too

    def use_fallback(self, model: Any, below: float = BELOW) -> None:
        """Give what does not come out well to a larger model.

        Args:
            model: a folder or Hub id, loaded when it is first needed, or a loaded pipeline; None = none any more.
            below: of a score, in [0, 1]: a result that has less is made anew by that model, with its own steps and
                guidance and the same seed, and the better of both is returned.
        """
        if isinstance(below, bool) or not isinstance(below, (int, float)) or not 0 <= below <= 1:
            raise ValueError(f"fallback_below: {below!r} must be a number from 0 to 1; about {BELOW} is usual")
        if model is None:
            self.fallback = None
            return
        loaded = hasattr(model, "for_task")

        def load() -> Any:
            if loaded:
                return model
            return import_module("photofound.pipeline").EditPipeline.from_pretrained(model).to(self.device)

        name = str(model.config.get("_name_or_path") or type(model).__name__) if loaded else str(model)
        self.fallback = Fallback(load, name, float(below))

    @torch.no_grad()
    def judged(
        self,
        jobs: Sequence[Job],
        generators: Sequence[torch.Generator | None],
        steps: int,
        guidance: float,
        callback: Callback | None = None,
        best_of: int = 1,
    ) -> list[Picture]:
        """One picture per job: the best of ``best_of`` candidates, which draw from the job's generator in turn and
        start from other patches of the photograph each, or what the fallback makes where all are poor. Notes say the
        score. Raises ValueError for several candidates of an edit that keeps nothing to judge them by."""
        task = get_task(self.task_name)
        if best_of > 1 and not all(map(_is_judged, jobs)):
            raise ValueError(f"best_of: {task.name} keeps nothing that its results could be judged by; leave it out")
        candidates: list[list[Picture]] = []
        for attempt in range(best_of):
            if candidates and self.interrupt:
                break
            tried = [replace(job, attempt=attempt) for job in jobs] if attempt else jobs
            made = task.run(self, tried, generators, steps, guidance, callback)
            candidates.append([provenance.without_recipe(picture) for picture in made])
        return [
            self._best(task, job, [made[i] for made in candidates], generators[i], callback)
            for i, job in enumerate(jobs)
        ]

    def _best(
        self, task: Task, job: Job, made: list[Picture], generator: torch.Generator | None, callback: Callback | None
    ) -> Picture:
        if not _is_judged(job):
            return made[0]
        found = [self._scores(task, job, picture.rgb()) for picture in made]
        chosen = min(range(len(made)), key=lambda i: found[i].faults)
        picture, score, notes = made[chosen], found[chosen], [made[chosen].note]
        if len(made) > 1:
            notes.append(f"the best of {len(made)}: score {score.total:.2f}")
        fallback = self.fallback
        if fallback is not None and score.total < fallback.below and not self.interrupt:
            other = self._by_fallback(fallback, task, job, generator, callback)
            theirs = self._scores(task, job, other.rgb())
            better = theirs.faults < score.faults
            picture, notes[0] = (other, other.note) if better else (picture, notes[0])
            kept = "taken" if better else "not taken"
            notes.append(f"fallback {fallback.name}: {kept}, score {theirs.total:.2f} after {score.total:.2f}")
            score = theirs if better else score
        self._current.scores.append(score)
        return replace(picture, note="; ".join(filter(None, notes)))

    def _by_fallback(
        self,
        fallback: Fallback,
        task: Task,
        job: Job,
        generator: torch.Generator | None,
        callback: Callback | None,
    ) -> Picture:
        """What the larger model makes of a job, from the job's own seed."""
        pipe = fallback.pipe(task.name)
        pipe.check_task(task.name)
        seed = None if generator is None else generator.initial_seed()
        fresh = None if seed is None else torch.Generator().manual_seed(seed)
        (picture,) = pipe.run([job], [fresh], *pipe.check({})[:2], callback)
        if job.asked is None:
            return picture
        made: Picture = pipe.with_recipe(picture, replace(job.asked, seed=seed), job)
        return made

    def _scores(self, task: Task, job: Job, rgb: np.ndarray) -> Scores:
        if task.wants_segmenter:
            return scores.of_background(rgb, job.keep > 0.5, self.search())
        return scores.of_fill(rgb, job.hole > 0, continues=not job.prompt)


def _is_judged(job: Job) -> bool:
    """Whether something is kept and something is painted."""
    return bool(np.any(job.keep > 0.5)) and bool(np.any(job.hole > 0))
