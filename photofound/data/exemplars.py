"""Training samples whose holes were filled with exemplars ahead of training, since PatchMatch takes a tenth of a second
a picture (``photofound train prepare SRC DST --exemplars=N`` writes them).

A shard is a safetensors file of ``SHARD`` samples. It depends on its number and the settings alone, so that a stopped
run goes on where it stopped and any number of processes writes the same files.

Shapes: N samples, S pixels of a crop's side.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from photofound import files
from photofound.card.record import Origin
from photofound.data.photograph import to_bytes, to_unit
from photofound.data.store import PhotoStore
from photofound.edits import exemplar
from photofound.edits.task import Condition, Sample, get_task

SHARD = 256
_PATTERN = "exemplars-*.safetensors"
_ORIGINS = "origins.json"
_FLAT = 5.0  # a hole whose content deviates by less (of 255) shows nothing to learn: most of these are drawn again
_KEPT_FLAT = 0.15


@dataclass(frozen=True)
class Plan:
    """What the samples are: whose holes, how large, from which photographs.

    Attributes:
        crop: side of the crops in pixels.
        tasks: edit -> share; whose ``example`` draws the holes.
        weights: source -> weight of its photographs; 1 where it is not named.
        seed: of the draws.
    """

    crop: int = 128
    tasks: Mapping[str, float] = field(default_factory=lambda: {"inpaint": 0.45, "expand": 0.35, "erase": 0.2})
    weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0


def write(store: PhotoStore, folder: str | Path, samples: int, plan: Plan | None = None, workers: int = 2) -> int:
    """Write the shards that are missing of ``samples`` samples, with so many processes; returns how many were written.

    Raises ValueError where the folder holds samples of another plan.
    """
    folder, plan = Path(folder), plan or Plan()
    folder.mkdir(parents=True, exist_ok=True)
    _check_plan(folder / "plan.json", plan)
    (folder / _ORIGINS).write_text(
        json.dumps([asdict(origin) for origin in store.origins()], indent=1), encoding="utf-8"
    )
    todo = [number for number in range(-(-samples // SHARD)) if not _path(folder, number).is_file()]
    if workers <= 1 or len(todo) <= 1 or "fork" not in multiprocessing.get_all_start_methods():
        for number in todo:
            _write_shard(store, folder, number, plan)
        return len(todo)
    # The processes inherit the store; sending it to each would copy gigabytes.
    context = multiprocessing.get_context("fork")
    parts = [
        context.Process(target=_write_shards, args=(store, folder, todo[i::workers], plan)) for i in range(workers)
    ]
    for part in parts:
        part.start()
    for part in parts:
        part.join()
    if missing := [number for number in todo if not _path(folder, number).is_file()]:
        raise RuntimeError(f"exemplars: a process ended without shard {missing[0]}; run the command again")
    return len(todo)


def _write_shards(store: PhotoStore, folder: Path, numbers: Sequence[int], plan: Plan) -> None:
    torch.set_num_threads(1)
    for number in numbers:
        _write_shard(store, folder, number, plan)


def _path(folder: Path, number: int) -> Path:
    return folder / f"exemplars-{number:05d}.safetensors"


def _check_plan(path: Path, plan: Plan) -> None:
    said = json.loads(json.dumps(asdict(plan)))
    if path.is_file():
        if files.read_json(path) != said:
            raise ValueError(f"exemplars: {path.parent} holds samples of another plan ({path}); name another folder")
        return
    files.write(path, json.dumps(said, indent=1))


def _write_shard(store: PhotoStore, folder: Path, number: int, plan: Plan) -> None:
    from safetensors.torch import save_file

    condition, sample = draw(store, SHARD, plan, torch.Generator().manual_seed(plan.seed * 1_000_003 + number))
    canvas = exemplar.canvas(sample.pixels, condition.hole, seed=number)
    tensors = {
        "pixels": to_bytes(sample.pixels),
        "canvas": to_bytes(canvas),
        "hole": (condition.hole > 0).to(torch.uint8),
    }
    words = {"task": json.dumps(list(condition.task)), "prompt": json.dumps(list(condition.prompt))}
    with files.replacing(_path(folder, number)) as partial:
        save_file(tensors, partial, words)


def draw(store: PhotoStore, count: int, plan: Plan, generator: torch.Generator) -> tuple[Condition, Sample]:
    """``count`` crops and their holes, as training draws them; of holes with nothing in them only a few."""
    rows = store.rows(plan.crop)
    if not len(rows):
        raise ValueError(f"exemplars: no photograph is as large as {plan.crop} pixels; lower the crop")
    weights = torch.tensor([plan.weights.get(store.sources[int(p)], 1.0) for p in store.photograph[rows]])
    names, shares = list(plan.tasks), torch.tensor(list(plan.tasks.values()))
    kept: list[tuple[Condition, Sample]] = []
    have = 0
    while have < count:
        # A batch of one task at a time, since examples of a batch lend each other their objects.
        task = get_task(names[int(torch.multinomial(shares, 1, generator=generator))])
        picks = rows[torch.multinomial(weights, 16, replacement=True, generator=generator)]
        sample = store.crops(picks, plan.crop, False, generator)
        condition = task.example(sample, generator)
        flat = _deviation(sample.pixels, condition.hole) < _FLAT / 127.5
        chance = torch.rand(len(sample), generator=generator)
        chosen = (~flat | (chance < _KEPT_FLAT)) & (condition.hole.mean((1, 2, 3)) > 0.005)
        for i in chosen.nonzero()[:, 0].tolist():
            kept.append((condition.split()[i], sample[torch.tensor([i])]))
        have += int(chosen.sum())
    conditions, samples = zip(*kept[:count], strict=True)
    return Condition.cat(conditions), Sample.cat(samples)


def _deviation(pixels: Tensor, hole: Tensor) -> Tensor:
    """(B,) standard deviation of the luma within the hole."""
    luma = pixels.mean(1, keepdim=True)
    area = hole.sum((1, 2, 3)).clamp(min=1)
    mean = (luma * hole).sum((1, 2, 3)) / area
    return (((luma - mean[:, None, None, None]).square() * hole).sum((1, 2, 3)) / area).sqrt()


class Exemplars:
    """The samples of a folder, a path or a URL, in memory as uint8.

    Attributes:
        pixels, canvas: (N, 3, S, S) uint8.
        hole: (N, 1, S, S) uint8, 1 = filled.
        task, prompt: one per sample.

    Raises FileNotFoundError where the folder holds none, ValueError for a damaged file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder
        self.shards: list[str] = []
        self.task: list[str] = []
        self.prompt: list[str] = []
        if not self.refresh():
            raise FileNotFoundError(
                f"exemplars: {folder} holds none; make them with 'photofound train prepare --exemplars'"
            )

    pixels: Tensor
    canvas: Tensor
    hole: Tensor

    def refresh(self) -> int:
        """Take in shards that have been written since; returns how many samples that are. Rows keep their numbers."""
        from safetensors import SafetensorError, safe_open

        parts: dict[str, list[Tensor]] = {}
        before = len(self.task)
        for path in files.find(self.folder, _PATTERN):
            if path in self.shards:
                continue
            try:
                with files.on_disk(path) as copy, safe_open(copy, "pt") as file:
                    tensors = {name: file.get_tensor(name) for name in ("pixels", "canvas", "hole")}
                    words = {name: json.loads(file.metadata()[name]) for name in ("task", "prompt")}
            except (SafetensorError, KeyError, TypeError) as error:
                raise ValueError(f"exemplars: {path} is damaged ({error}); delete it, it is made again") from None
            for name, tensor in tensors.items():
                parts.setdefault(name, [getattr(self, name)] if before else []).append(tensor)
            self.task += words["task"]
            self.prompt += words["prompt"]
            self.shards.append(path)
        for name, tensors_of in parts.items():
            setattr(self, name, torch.cat(tensors_of))
        return len(self.task) - before

    def __len__(self) -> int:
        return len(self.pixels)

    def origins(self) -> tuple[Origin, ...]:
        """Where the photographs that the samples were drawn from are from, for the model's card."""
        return tuple(Origin(**entry) for entry in json.loads(files.read_beside(self.folder, _ORIGINS) or "[]"))

    @property
    def crop(self) -> int:
        return self.pixels.shape[-1]

    def rows(self, task: str) -> Tensor:
        """The rows whose holes are those of a task."""
        return torch.tensor([i for i, name in enumerate(self.task) if name == task], dtype=torch.long)

    def take(self, rows: Tensor, device: torch.device | str = "cpu") -> tuple[Condition, Sample]:
        """Conditions whose canvas is the exemplar fill, and samples whose pixels are the truth."""
        pixels, canvas = (to_unit(x[rows].to(device)) for x in (self.pixels, self.canvas))
        hole = self.hole[rows].to(device).float()
        task, prompt = ([words[i] for i in rows.tolist()] for words in (self.task, self.prompt))
        condition = Condition(canvas, hole, task, prompt, hole.new_zeros(len(rows)))
        return condition, Sample(pixels, torch.zeros_like(hole), prompt)
