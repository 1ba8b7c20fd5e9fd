"""Learning of choices: a LoRA for each task, kept only if choices that it has not seen say that it is better.

    for outcome in learn(Path("choices"), Path("choices/learned")):
        print(outcome.line)

A training is short by default (``BUDGET``), and one that was stopped or killed goes on when it is asked for again.

Edits are split, not pairs, so that no photograph is on both sides. On each held-out pair the implicit reward of
Diffusion-DPO (arXiv:2311.12908, eq. 14) ranks the two results: how much more the trained model than its start explains
of one. An edit agrees if most of its pairs are ranked as people did. The LoRA is kept if the 95 % interval (Clopper and
Pearson) of the share of edits that agree lies above one half. A model can also win by getting worse at both results,
only more so at the rejected one: if it explains what people preferred worse than before by more than 5 %, that is said.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from photofound import choices, files
from photofound.eval.metrics import proportion_interval
from photofound.train import checkpoint
from photofound.train.distributed import World

HELD = 6  # edits to judge by, at least: of five, not even five that agree tell a model from chance
LEAST = 2 * HELD  # edits that a task needs
BUDGET = (
    "--train.steps=300",
    "--train.batch_size=8",
    "--train.save_every=20",
    "--train.keep=1",
    "--train.log_every=10",
)
MINUTES = 30.0  # of each task's training, unless its steps are over before
_DRAWS = 12  # crops, times and noises of each held-out pair
_WORSE = 1.05  # an error on preferred results, as a share of the start's, that is worth a word
_LORA = "pytorch_lora_weights.safetensors"


class Stopped(Exception):
    """A training was stopped by a signal, and saved: the same call goes on with it."""


@dataclass(frozen=True)
class Choices:
    """A task's choices, divided.

    Attributes:
        folder: where they are.
        train, held: pairs to train on, and pairs to judge by.
    """

    task: str
    folder: Path
    train: Sequence[dict[str, Any]]
    held: Sequence[dict[str, Any]]

    @property
    def line(self) -> str:
        """For people: how many there are, and how many have to agree."""
        edits, held = (len({pair["edit"] for pair in side}) for side in (self.train, self.held))
        enough = next(n for n in range(held + 1) if proportion_interval(n, held)[0] > 0.5)
        said = f"{self.task}: {len(self.train)} choices of {edits} edits to learn of, {held} edits are held out; "
        return said + f"what is learnt is kept if {enough} of them agree"


@dataclass(frozen=True)
class Outcome:
    """What a task's choices taught.

    Attributes:
        edits, pairs: how many were held out; ``trained``: pairs that were trained on.
        agree: held-out edits that the trained model ranks as people did; a tie counts half.
        low, high: the 95 % interval of their share.
        error: of the trained model on held-out preferred results, as a share of the start's.
        kept: the LoRA's file, or None.
    """

    task: str
    edits: int
    pairs: int
    trained: int
    agree: float
    low: float
    high: float
    error: float
    kept: str | None = None

    @property
    def better(self) -> bool:
        return self.low > 0.5

    @property
    def line(self) -> str:
        """For people."""
        share = self.agree / self.edits
        said = f"{self.task}: {self.agree:g} of {self.edits} held-out edits agree with people's choices ({share:.0%}, "
        said += (
            f"95 % interval {self.low:.0%} to {self.high:.0%}; error on what they chose: {self.error:.1%} of before)"
        )
        if not self.kept:
            return f"{said}: not kept, the interval reaches one half; collect more choices"
        warning = "; it got worse at what they chose, too, so look at its pictures" if self.error > _WORSE else ""
        return f"{said}: kept, {self.kept}{warning}"


def learn(
    folder: Path,
    out: Path,
    start: str | None = None,
    tasks: Sequence[str] | None = None,
    hold_out: float = 0.25,
    overrides: Sequence[str] = (),
    minutes: float = MINUTES,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Outcome]:
    """Train a LoRA of each task's choices; yields what came of each.

    Args:
        folder: of choices, as ``choices.record`` writes it.
        out: ``TASK.safetensors`` and ``TASK.json`` are written here; runs lie below ``runs``. One that was not finished
            goes on, if choices and settings are the same.
        start: the model, a folder or an id of the Hub; None = the embedded one.
        tasks: these alone.
        hold_out: share of the edits to judge by; ``HELD`` at least.
        overrides: settings of ``photofound train preference``, like ``--train.steps=200``, in place of ``BUDGET``.
        minutes: of each task's training, at most.
        say: takes lines for people on the way.

    Raises ValueError if there are no choices, or too few; Stopped.
    """
    for found in find(folder, tasks, hold_out):
        say(found.line)
        yield _learn_one(found, out, _settings(found.task, start, minutes, overrides), say)


def dry_run(
    folder: Path,
    out: Path,
    start: str | None = None,
    tasks: Sequence[str] | None = None,
    hold_out: float = 0.25,
    overrides: Sequence[str] = (),
    minutes: float = MINUTES,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Say what ``learn`` would do, with the time that it takes by one step of each training. Nothing is written."""
    for found in find(folder, tasks, hold_out):
        say(found.line)
        settings = _settings(found.task, start, None, overrides)
        if _train(["--dry-run", f"--data.folder={found.folder}", *settings]):
            raise ValueError(f"learn: the training of {found.task} cannot be tried; see what it said above")
        say(f"{found.task}: {minutes:g} minutes at most; judging comes on top. {out} is where it goes")


def find(folder: Path, tasks: Sequence[str] | None = None, hold_out: float = 0.25) -> list[Choices]:
    """The choices of a folder, task by task. Raises ValueError if there are none, or too few."""
    found = choices.tasks_in(folder)
    if missing := [task for task in tasks or () if task not in found]:
        raise ValueError(f"learn: {folder} has no choices of {missing[0]}; it has {', '.join(found) or 'none'}")
    if not found:
        raise ValueError(f"learn: {folder} has no choices; collect some with 'photofound demo --choices {folder}'")
    if not 0 < hold_out < 1:
        raise ValueError(f"hold_out: {hold_out} must be a share between 0 and 1")
    made = []
    for task in tasks or found:
        pairs = choices.read(found[task])
        edits = len({pair["edit"] for pair in pairs})
        if edits < LEAST:
            raise ValueError(f"learn: {task} has choices of {edits} edits, {LEAST} are the least; collect more")
        made.append(Choices(task, found[task], *divide(pairs, hold_out)))
    return made


def divide(pairs: Sequence[dict[str, Any]], share: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Pairs to train on and pairs to judge by; those of an edit stay together. The digest of an edit decides, so that
    more choices leave the former ones on their sides as far as the shares allow."""
    edits = sorted({pair["edit"] for pair in pairs})
    held = set(edits[: max(HELD, math.ceil(share * len(edits)))])
    return [pair for pair in pairs if pair["edit"] not in held], [pair for pair in pairs if pair["edit"] in held]


def _settings(task: str, start: str | None, minutes: float | None, overrides: Sequence[str]) -> list[str]:
    """Those of ``photofound train preference``; of two that name the same thing the later one counts."""
    made = [
        f"--mix.tasks={{{task}: 1.0}}",
        "--data.hold_out=0",
        "--model.merged=false",
        "--validation.times=0",
        *BUDGET,
    ]
    made += [f"--model.start={start}"] * (start is not None)
    limit = [] if minutes is None else [f"--train.minutes={minutes:g}"]
    return [*made, *limit, *overrides]


def _train(words: Sequence[str]) -> int:
    training = import_module("photofound.training")
    status: int = training.run("preference", words)
    if status == training.STOPPED:
        raise Stopped("learn: stopped, and saved; the same command goes on with it")
    return status


def _learn_one(found: Choices, out: Path, settings: Sequence[str], say: Callable[[str], None]) -> Outcome:
    task, run = found.task, out / "runs" / found.task
    asked = json.dumps({"pairs": [found.train, found.held], "settings": settings})
    same = run / "asked.json"
    goes_on = same.is_file() and same.read_text(encoding="utf-8") == asked
    if not goes_on:
        shutil.rmtree(run, ignore_errors=True)
        for name, pairs in (("train", found.train), ("held", found.held)):
            choices.copy(pairs, found.folder, run / name)
        files.write(same, asked)
    resume = ["--resume", "latest"] if checkpoint.all_steps(run / "run" / "checkpoints") else []
    if resume:
        say(f"{task}: going on with {run / 'run'}")
    if _train(["--run-dir", str(run / "run"), f"--data.folder={run / 'train'}", *resume, *settings]):
        raise ValueError(f"learn: the training of {task} ended early; see what it said above")
    say(f"{task}: judging by the choices that were held out")
    lora = run / "run" / "model" / "lora" / _LORA
    outcome = judge(task, run / "held", lora, [*settings, f"--data.folder={run / 'held'}"], len(found.train), say)
    kept = out / f"{task}.safetensors"
    kept.unlink(missing_ok=True)  # that of fewer choices
    if outcome.better:
        shutil.copyfile(lora, kept)
        outcome = replace(outcome, kept=str(kept))
    files.write(out / f"{task}.json", json.dumps(asdict(outcome), indent=2) + "\n")
    return outcome


@torch.no_grad()
def judge(
    task: str,
    held: Path,
    lora: Path,
    settings: Sequence[str],
    trained: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """What held-out pairs say of a LoRA: each is looked at in ``_DRAWS`` crops, times and noises.

    Args:
        held: folder of pairs.
        settings: those of the training, with ``data.folder`` the folder of held-out pairs.
        trained: pairs that it was trained on.
        say: takes a line for people after every tenth pair.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    from photofound import config

    preference: Any = import_module("photofound.training.preference")
    stage = preference.PreferenceStage(config.load(preference.Config, None, list(settings)), World())
    weights = {name.removeprefix("transformer."): value for name, value in load_file(lora).items()}
    set_peft_model_state_dict(stage.pipeline.transformer, weights)
    stage.module.eval()
    data, pairs = stage.config.data, choices.read(held)
    votes: dict[str, list[float]] = {}
    errors, references = 0.0, 0.0
    results = zip(pairs, *preference.read(data.folder, max(data.sizes)), strict=True)
    for count, (pair, better, worse) in enumerate(results, 1):
        stores = [preference.PhotoStore.build([one], data.sizes).to(stage.device) for one in (better, worse)]
        for store in stores:
            store.captions = [words[:1] for words in store.captions]
        batch = stage._pairs(*stores, _DRAWS, torch.Generator(stage.device).manual_seed(0), 0.0)
        error, reference = (each.double() for each in stage.errors(batch, torch.Generator().manual_seed(0)))
        reward = (reference - error).mean(1)
        if count % 10 == 0:
            say(f"{task}: judged {count} of {len(pairs)} choices")
        votes.setdefault(pair["edit"], []).append(_vote(float(reward[0] - reward[1])))
        errors, references = errors + float(error[0].mean()), references + float(reference[0].mean())
    agree = sum(_vote(sum(each) / len(each) - 0.5) for each in votes.values())
    low, high = proportion_interval(math.floor(agree), len(votes))
    return Outcome(task, len(votes), len(pairs), trained, agree, low, high, errors / max(references, 1e-12))


def _vote(margin: float) -> float:
    """1 for a result that is ranked as people did, 0 for one that is not, 1/2 for a tie."""
    return 0.5 * ((margin > 0) + (margin >= 0))
