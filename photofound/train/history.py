"""What a run notes for the model's card: what it started from, its settings, and how long it ran on what."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from photofound import __version__
from photofound.card import record
from photofound.config import to_dict
from photofound.device import device_name
from photofound.train.distributed import World
from photofound.train.settings import TrainConfig


class History:
    """The record of a run (``photofound.card.record``): the trainings before it, and its own sessions.

    Args:
        stage: the stage; its ``record()`` names parts, data, filtering and parents.
        run_dir: where ``config.yaml`` lies, if there is one.
    """

    def __init__(self, stage: object, config: TrainConfig, run_dir: Path, world: World) -> None:
        facts: dict[str, Any] = getattr(stage, "record", dict)()
        settings = record.settings_of(run_dir) or {"train": to_dict(config)}
        named = {key: tuple(facts.get(key, ())) for key in ("parts", "data", "filtering", "rooms")}
        name = type(stage).__name__.removesuffix("Stage").lower()
        self.parents: list[record.Training] = facts.get("parents", [])
        self.training = record.Training(secrets.token_hex(6), name, settings=record.without_paths(settings), **named)
        today = datetime.now(UTC).date().isoformat()
        self.session = record.Session(device_name(world.device), world.size, torch.__version__, __version__, today)
        self.before = (0, 0, 0.0)  # steps, samples and seconds of the sessions before this one

    def resume(self, state: Mapping[str, Any], step: int, seconds: float, batch_size: int) -> int:
        """Go on with a checkpoint's record; returns the samples up to there.

        A checkpoint from before there were records knows only its steps and its time.
        """
        if "record" in state:
            *self.parents, earlier = record.from_plain(state["record"])
            changed = record.changes(earlier.settings, self.training.settings)
            self.session = replace(self.session, changed=changed)
        else:
            done = record.Session(steps=step, samples=step * batch_size, seconds=seconds)
            earlier = replace(self.training, sessions=(done,), notes=(record.INCOMPLETE,))
        self.training = replace(self.training, id=earlier.id, sessions=earlier.sessions, notes=earlier.notes)
        self.before = (step, earlier.samples, seconds)
        return earlier.samples

    def trainings(self, step: int, samples: int, seconds: float, joules: float | None) -> list[record.Training]:
        """The record up to now: the parents' trainings and this one. ``joules`` are of this session."""
        steps_before, samples_before, seconds_before = self.before
        session = replace(
            self.session,
            steps=step - steps_before,
            samples=samples - samples_before,
            seconds=round(seconds - seconds_before, 3),
            joules=None if joules is None else round(joules, 1),
        )
        return [*self.parents, replace(self.training, sessions=(*self.training.sessions, session))]
