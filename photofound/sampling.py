"""Sampling: a batch of conditions becomes pictures, by guided, tiled steps along the flow.

Shapes: B batch, H and W working pixels, f the autoencoder's factor, h = H / f and w = W / f.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from photofound.edits import geometry
from photofound.edits.geometry import Box
from photofound.edits.task import Condition, is_regression
from photofound.model import autoencoder, text
from photofound.model.condition import fold_condition
from photofound.optimizations import OptimizedPipeline

_TOKENS_AT_ONCE = 1152  # tiles are computed together up to so many tokens; below, a network's layers are too small
_TEXT_ROOM = 32  # prompts are padded to multiples of so many tokens, so that most have one shape and share a batch
_BEGIN = 0.5  # of a given background: the time that sampling starts at; its shapes stay, its light may change
Callback = Callable[..., dict[str, Tensor] | None]


@dataclass(frozen=True)
class Tiling:
    """Overlapping parts of a latent (h, w) that a model looks at one by one.

    Attributes:
        boxes: where they are; all of one size.
        weight: (rows, columns) of a tile, low at its edges.
        coverage: (h, w), the sum of all tiles' weights; 1 where there is none.
    """

    boxes: list[Box]
    weight: Tensor
    coverage: Tensor

    @property
    def area(self) -> int:
        """Latents of a tile."""
        return self.weight.numel()


def cut(x: Tensor, boxes: Sequence[Box]) -> Tensor:
    """The boxes' parts of (B, C, h, w), one after another: (boxes * B, C, rows, columns)."""
    return torch.cat([x[(..., *box.slices)] for box in boxes])


def as_text_to_image(condition: Condition) -> Condition:
    """The same prompts with nothing given, for the head that every model has."""
    blank, hole = torch.zeros_like(condition.canvas), torch.ones_like(condition.hole)
    return Condition(blank, hole, ["generate"] * len(condition), condition.prompt, torch.zeros_like(condition.strength))


@dataclass
class KnownRegion:
    """Sampling with a text-to-image model that keeps what is given: after every step the latents outside the hole are
    those of the photograph, at that step's noise (RePaint, arXiv:2201.09865, eq. 8; Blended Latent Diffusion,
    arXiv:2206.02779).

    A step that is taken once makes a hole that does not know its surroundings. Taken ``resample`` times, with noise
    added between, what is given and what is made agree (RePaint, section 4.2; here for the straight path x_t = (1 - t)
    x0 + t eps).

    Attributes:
        hole: (B, 1, h, w), 1 = a latent that any pixel of the hole lies in.
        clean: (B, C, h, w), the latents of the canvas.
        noise: (B, C, h, w), what sampling started from.
        resample: how often each step is taken, >= 1.
    """

    hole: Tensor
    clean: Tensor
    noise: Tensor
    resample: int = 1

    @classmethod
    def of(cls, hole: Tensor, clean: Tensor, resample: int) -> KnownRegion:
        """For a hole (B, 1, H, W) of pixels."""
        factor = hole.shape[-1] // clean.shape[-1]
        covered = F.max_pool2d(hole, factor) if factor > 1 else hole
        return cls((covered > 0).to(clean), clean, torch.zeros_like(clean), resample)

    def put_back(self, x: Tensor, t: Tensor) -> Tensor:
        """x at time t, with what is given outside the hole."""
        return torch.lerp((1 - t) * self.clean + t * self.noise, x, self.hole)

    def step(
        self,
        velocity: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        t: Tensor,
        after: Tensor,
        generators: Sequence[torch.Generator | None],
    ) -> tuple[Tensor, Tensor]:
        """From time t to ``after``: the latents there, and the last velocity."""
        x = self.put_back(x, t)
        for left in reversed(range(self.resample)):
            v = velocity(x, t)
            made = self.put_back(x - (t - after) * v, after)
            if left and after > 0:
                x = self.put_back(self._noised(made, after, t, generators), t)
        return made, v

    @staticmethod
    def _noised(x: Tensor, t: Tensor, later: Tensor, generators: Sequence[torch.Generator | None]) -> Tensor:
        """x at time t brought to a ``later`` one, by as much new noise as is missing there."""
        shrink = (1 - later) / (1 - t)
        missing = (later**2 - (shrink * t) ** 2).clamp(min=0).sqrt()
        return shrink * x + missing * torch.cat([_noise((1, *x.shape[1:]), each) for each in generators]).to(x)


@dataclass
class _Call:
    """What goes on in a thread that edits. ``bar`` shows its progress, all of it."""

    stop: bool = False
    steps: int = 0
    negative_prompt: str = ""
    made_by: dict[str, Any] | None = None  # the model and how it computes, once that is known
    scores: list[Any] = field(default_factory=list)  # of its results that were judged
    bar: Any = None


class SamplingPipeline(OptimizedPipeline):
    """The transformer as a sampler, which several threads may use at once."""

    _callback_tensor_inputs = ["latents"]
    _calls: dict[int, _Call]  # by the thread that it runs in

    @torch.no_grad()
    def sample(
        self,
        condition: Condition,
        steps: int,
        guidance: float,
        generators: Sequence[torch.Generator | None],
        callback: Callback | None = None,
        where: Tensor | None = None,
        start: Tensor | None = None,
        resample: int = 1,
    ) -> Tensor:
        """The model alone: (B, 3, H, W) in [-1, 1] for a batch of conditions of one size, H and W multiples of f times
        the patch. ``where`` (B, 1, H, W) tells which part is wanted, by default the hole. With ``start`` (B, 3, H, W)
        in [-1, 1] sampling begins there, at half noise (SDEdit, arXiv:2108.01073).

        A task that the model was never trained for is sampled as text to image, with the given pixels put back after
        every step (``KnownRegion``); each step is then taken ``resample`` times.

        Pictures larger than ``tile`` are sampled as overlapping tiles whose velocities are averaged in every step
        (MultiDiffusion, arXiv:2302.08113, eq. 5), so that they agree.

        A batch gives the same latents as its members one by one. Three things would round differently: products with
        a single row, as time, task, strength and the empty prompt have them, so what all have in common is computed
        once; the autoencoder, which goes one by one; and attention to another number of tokens, so prompts are padded
        to ``_TEXT_ROOM``.
        """
        device, dtype = self._execution_device, self.transformer.dtype
        condition = condition.to(device)
        where, known = condition.hole if where is None else where.to(device), None
        if self._is_untrained(condition):
            clean = torch.cat([autoencoder.encode(self.vae, each).float() for each in condition.canvas.split(1)])
            known = KnownRegion.of(condition.hole, clean, resample)
            condition = as_text_to_image(condition)
        space = self.transformer.config.condition_space
        folded = torch.cat([fold_condition(each, self.vae, space) for each in condition.split()]).to(dtype)
        shape = (1, self.transformer.config.in_channels, *folded.shape[-2:])
        latents = torch.cat([_noise(shape, generator) for generator in generators]).to(device)
        once = is_regression(condition)[:, None, None, None]  # these start at 0, and their first step goes all the way
        latents, answer = torch.where(once, 0.0, latents * self.config.noise_scale), None
        steps = 1 if once.all() else steps
        draws = list(generators) if all(generators) else None  # a plain LCM scheduler adds noise after each step
        velocity = self._velocity(condition, folded, guidance, where)
        first, steps = (1.0, steps) if start is None else (_BEGIN, math.ceil(_BEGIN * steps))
        scheduler = copy.deepcopy(self.scheduler)  # it counts its steps, and other calls may run beside this one
        if self.config.get("sigmas") == "scheduler":
            scheduler.set_timesteps(steps, device=device)
        else:
            scheduler.set_timesteps(sigmas=np.linspace(first, first / steps, steps).tolist(), device=device)
        if known is not None:
            known.noise = latents
        if start is not None:
            given = torch.cat([autoencoder.encode(self.vae, each) for each in start.to(device).split(1)])
            latents = torch.lerp(given.to(latents), latents, float(scheduler.sigmas[0]))
        with self._call() as call:
            bar = self._bar(call, steps)
            for i, t in enumerate(scheduler.timesteps):
                if known is not None:
                    latents, v = known.step(velocity, latents, scheduler.sigmas[i], scheduler.sigmas[i + 1], generators)
                else:
                    v = velocity(latents, t / scheduler.config.num_train_timesteps)
                    answer = latents - v if answer is None else answer
                    latents = scheduler.step(v, t, latents, generator=draws, return_dict=False)[0]
                if callback is not None:
                    latents = _latents(callback(self, i, t, {"latents": latents}), latents)
                bar.update()
                if call.stop:
                    latents = latents - scheduler.sigmas[i + 1] * v  # straight to where it was going
                    break
        latents = latents if answer is None else torch.where(once, answer, latents)
        decoded = torch.cat([autoencoder.decode(self.vae, each) for each in latents.split(1)])
        self.maybe_free_model_hooks()
        return decoded

    def is_trained(self, task: str) -> bool:
        """Whether the checkpoint has learnt a task, by ``trained_tasks`` in its config; None there = every one that the
        transformer has a head for."""
        trained = self.config.get("trained_tasks")
        return task in self.transformer.config.tasks and (trained is None or task in trained)

    def _is_untrained(self, condition: Condition) -> bool:
        """Whether the transformer has heads for these tasks that were never trained."""
        return not all(map(self.is_trained, condition.task)) and set(condition.task) <= set(
            self.transformer.config.tasks
        )

    def _cleaned(self, prompt: str) -> str:
        return text.clean(prompt, self.config.get("prompt_cleaning"))

    def _velocity(
        self, condition: Condition, folded: Tensor, guidance: float, where: Tensor
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The guided, tiled velocity field v(latents (B, C, h, w), t ()) of a condition. Text is encoded once."""
        from photofound.model import flow

        model, batch, distilled = self.transformer, len(condition), self.config.distilled
        told = None
        if distilled:  # a student knows guidance as an input, within the range that it was trained in
            told = torch.tensor([float(np.clip(guidance, *distilled["guidance"]))], device=folded.device)
        # Without a prompt or a reference both branches would be the same.
        negative = self._current.negative_prompt
        paths = self.path_drop_guidance and not bool(is_regression(condition).all())  # these differ anyway
        wanted = any(condition.prompt) or condition.reference is not None or bool(negative) or paths
        guided = not distilled and guidance != 1 and wanted
        copies, drops = 2 if guided else 1, guided and paths
        tokens, mask = self._encode_prompts(list(condition.prompt) + [negative] * (batch * guided))
        heads = [model.task_index(name) for name in condition.task] * copies
        task = heads[0] if len(set(heads)) == 1 else torch.tensor(heads, device=folded.device)
        strength = condition.strength.float().repeat(copies)
        each: dict[str, Any] = {"task": task, "attention_mask": mask}
        each["strength"] = strength[:1] if bool((strength == strength[0]).all()) else strength
        each["text_kv"] = torch.cat([model.encode_text(row) for row in tokens.split(1)])
        if condition.reference is not None and condition.referenced is not None:
            clean = [autoencoder.encode(self.vae, row).to(model.dtype) for row in condition.reference.split(1)]
            each["reference_kv"] = torch.cat([model.encode_reference(row) for row in clean] * copies)
            nobody = torch.zeros_like(condition.referenced)
            each["referenced"] = torch.cat([condition.referenced, nobody][:copies])  # guidance compares with neither
        tiling = self._tiling(where)
        at_once = max(1, _TOKENS_AT_ONCE * model.config.patch_size**2 // (tiling.area * batch * copies))
        groups = [tiling.boxes[i : i + at_once] for i in range(0, len(tiling.boxes), at_once)]
        caches = [model.new_cache() for _ in groups]

        def per_tile(x: Any, tiles: int) -> Any:
            """(copies * B, ...) -> (copies * tiles * B, ...); what all have in common stays as it is."""
            if not isinstance(x, Tensor) or tiles == 1 or len(x) == 1:
                return x
            return x.unflatten(0, (copies, 1, batch)).expand(-1, tiles, *[-1] * x.ndim).flatten(0, 2)

        def velocity(latents: Tensor, t: Tensor) -> Tensor:
            total = torch.zeros_like(latents)
            for group, cache in zip(groups, caches, strict=True):
                x, given = (cut(part, group).to(folded.dtype).repeat(copies, 1, 1, 1) for part in (latents, folded))
                times = t.float().reshape(1)  # the model multiplies time by 1,000: bf16 would round it visibly
                inputs = {name: per_tile(value, len(group)) for name, value in each.items()}
                inputs |= {"condition": given, "guidance": told}
                if drops:  # the branch without text sees the outer blocks alone
                    strong, weak = ({name: _part(part, i, len(x)) for name, part in inputs.items()} for i in range(2))
                    with_all, outer = x.chunk(2)
                    made = model(with_all, times, cache=cache, **strong), model(outer, times, path_drop=True, **weak)
                    out = torch.cat([half.sample for half in made])
                else:
                    out = model(x, times, cache=cache, **inputs).sample
                if model.config.prediction_type == "sample":
                    out = flow.to_velocity(x, out, times)
                out = out.float()
                if guided:
                    with_text, without = out.chunk(2)
                    out = without + guidance * (with_text - without)
                for box, tile in zip(group, out.chunk(len(group)), strict=True):
                    total[(..., *box.slices)] += tile * tiling.weight
            return total / tiling.coverage

        return velocity

    def _tiling(self, hole: Tensor) -> Tiling:
        """Tiles in latent units, without those that lie outside the hole."""
        f = autoencoder.factor(self.vae)
        patch = self.transformer.config.patch_size
        height, width = hole.shape[-2] // f, hole.shape[-1] // f
        side = geometry.round_up(self.config.tile // f, patch)
        overlap = side // geometry.TILE_OVERLAP
        boxes = [_snapped(box, patch) for box in geometry.tiles(width, height, side, overlap)]
        rows, columns = (_ramp(length, overlap, hole.device) for length in (boxes[0].height, boxes[0].width))
        weight = rows[:, None] * columns[None, :]
        boxes = [b for b in boxes if hole[..., b.top * f : b.bottom * f, b.left * f : b.right * f].any()] or boxes
        coverage = torch.zeros(height, width, device=hole.device)
        for box in boxes:
            coverage[box.slices] += weight
        return Tiling(boxes, weight, torch.where(coverage > 0, coverage, 1.0))

    def _encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor | None]:
        """(B, L, D) embeddings, each prompt's computed alone, and the mask (B, L) of what is not padding, or None; of
        batch 1 where all prompts are the same."""
        if self.text_encoder is None:
            width = self.transformer.config.context_in_dim
            return text.no_text(1, width, self._execution_device, self.transformer.dtype), None
        prompts = prompts[:1] if len(set(prompts)) == 1 else prompts
        most = self.config.get("prompt_tokens")
        how = {"max_length": most, "cleaning": self.config.get("prompt_cleaning")}
        encoded = {p: text.encode(self.tokenizer, self.text_encoder, [p], **how) for p in set(prompts)}
        known = {p: hidden[:, : 0 if mask is not None else None] for p, (hidden, mask) in encoded.items()}
        room = self._room(prompts)
        tokens = torch.cat([F.pad(known[p], (0, 0, 0, room - known[p].shape[1])) for p in prompts])
        lengths = torch.tensor([[known[p].shape[1]] for p in prompts], device=tokens.device)
        mask = torch.arange(room, device=tokens.device) < lengths
        tokens, mask = tokens.to(self._execution_device, self.transformer.dtype), mask.to(self._execution_device)
        return tokens, mask if any(prompts) or not lengths.all() else None

    def _room(self, prompts: Sequence[str]) -> int:
        """Tokens that these prompts are padded to; a lone empty prompt is not."""
        if self.text_encoder is None:
            return 1
        most = self.config.get("prompt_tokens")
        longest = max(text.count(self.tokenizer, self._cleaned(prompt), most) for prompt in prompts)
        return geometry.round_up(longest, _TEXT_ROOM) if any(prompts) else max(1, longest)

    # ---------------------------------------------------------------------------------------------- calls and stopping

    @contextmanager
    def _call(self) -> Iterator[_Call]:
        """Within the block, and blocks within it, this thread edits and can be told to stop."""
        here = threading.get_ident()
        if here in self._calls:
            yield self._calls[here]
            return
        call = self._calls[here] = _Call()
        try:
            yield call
        finally:
            if call.bar is not None:
                call.bar.close()
            del self._calls[here]

    def _bar(self, call: _Call, steps: int) -> Any:
        """The call's progress bar, labelled by the task, with ``steps`` more to come: of another part, a further
        variant or picture."""
        call.steps = steps
        if call.bar is None:
            call.bar = self.progress_bar(total=steps)
            if "desc" not in getattr(self, "_progress_bar_config", {}):
                call.bar.set_description(getattr(self, "task_name", None))
        else:
            call.bar.total += steps
            call.bar.refresh()
        return call.bar

    @property
    def _current(self) -> _Call:
        """This thread's call, or that of a thread in which nothing goes on."""
        return self._calls.get(threading.get_ident(), _Call())

    @property
    def interrupt(self) -> bool:
        """Whether this thread's call is to stop."""
        return self._current.stop

    @property
    def num_timesteps(self) -> int:
        """For callbacks: steps of the sampling that goes on in this thread; 0 where none does."""
        return self._current.steps

    @property
    def _interrupt(self) -> bool:  # the name that diffusers' pipelines have for it
        return self.interrupt

    @_interrupt.setter
    def _interrupt(self, stop: bool) -> None:
        here = threading.get_ident()
        for call in [self._calls[here]] if here in self._calls else list(self._calls.values()):
            call.stop = bool(stop)


def _latents(returned: Any, latents: Tensor) -> Tensor:
    """The latents to go on with after a callback."""
    if returned is None:
        return latents
    if not isinstance(returned, dict):
        raise ValueError(f"callback_on_step_end: it returned a {type(returned).__name__}; return a dict, or None")
    changed = returned.get("latents", latents)
    if not isinstance(changed, Tensor) or changed.shape != latents.shape:
        raise ValueError(f"callback_on_step_end: latents must stay a tensor of shape {tuple(latents.shape)}")
    return changed


def _part(value: Any, index: int, batch: int) -> Any:
    """What half of a guided batch is given: a half of what is there for each sample, all of the rest."""
    return value.chunk(2)[index] if isinstance(value, Tensor) and value.ndim and len(value) == batch else value


def _noise(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device if generator is not None else "cpu").float()


def _snapped(box: Box, patch: int) -> Box:
    """A tile moved up and left onto whole patches."""
    left, top = box.left // patch * patch, box.top // patch * patch
    return Box(left, top, left + geometry.round_up(box.width, patch), top + geometry.round_up(box.height, patch))


def _ramp(length: int, rise: int, device: torch.device) -> Tensor:
    """Weights that rise over ``rise`` latents from each end of a tile and never reach 0."""
    position = torch.arange(length, device=device) + 0.5
    return torch.minimum(position, length - position).clamp(max=max(1, rise)) / max(1, rise)
