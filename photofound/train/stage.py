"""The stage that trains the transformer on edits, which pretraining, fine-tuning, preferences and distillation share.

It holds the pipeline, the photographs and the frozen networks. It makes batches, runs the model, measures held-out
photographs, draws the sheet of samples and exports the pipeline. A subclass adds ``loss``.

Shapes: B samples, latents (B, C, h, w), pictures (B, 3, H, W) in [-1, 1], holes (B, 1, H, W) in [0, 1], times (B,).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from photofound.card import record
from photofound.card.record import Origin
from photofound.data import drawn, precomputed
from photofound.data.exemplars import Exemplars
from photofound.data.sources import Source
from photofound.data.store import PhotoStore
from photofound.data.stream import check_sizes, photographs
from photofound.data.table import Table, is_room
from photofound.edits import reference as references
from photofound.edits.geometry import aspect_buckets
from photofound.edits.task import Condition, Sample, is_regression
from photofound.model import autoencoder, flow, text
from photofound.model.condition import fold_condition
from photofound.model.cost import forward_cost
from photofound.picture import sheet as sheets
from photofound.room import readers
from photofound.train import fewer_bits
from photofound.train.build import build_pipeline
from photofound.train.distributed import World, shared
from photofound.train.mix import PRETEXT, Batch, StreamReader, TaskMixer, blank, hold_out, take
from photofound.train.prompts import Prompts
from photofound.train.recipe import Recipe
from photofound.train.settings import EditConfig

STREAM_SHEET = 64  # photographs of a stream that lie on the device, for the sheets of samples


class EditStage:
    """What the trainer needs to train the transformer (``photofound.train.contract.Stage``), all but ``loss``.

    Args:
        config: the configuration; ``config.model.start`` or its shapes say what is trained.
        world: the device, and which of the processes this is.
        photographs: the photographs to train on, those to hold out among them; None reads what ``config.data`` names.
        hole_is_matte: see ``TaskMixer``.

    Attributes:
        pipeline: the EditPipeline whose parts are trained.
        module: the trained parts: ``transformer`` and, if asked for, ``text_encoder`` and the recipe's ``projector``.
        mixer: draws batches in which tasks are mixed.
        store: the photographs to train on; of a stream the first ones, for sheets.
        held_out: the photographs to measure on, or None.

    Raises ValueError before the first step for what would stop the run later.
    """

    config: Any  # an EditConfig; subclasses narrow it
    ahead = True  # batches do not depend on what is trained

    def __init__(
        self,
        config: EditConfig,
        world: World,
        photographs: PhotoStore | None = None,
        hole_is_matte: bool = False,
    ) -> None:
        self.config, self.world, self.device = config, world, world.device
        torch.manual_seed(config.train.seed)
        self._build_networks([name for name, share in config.mix.tasks.items() if share > 0 and name not in PRETEXT])
        shape = self.pipeline.transformer.config
        share = _reference_share(config.mix.reference, self.pipeline)
        self.mixer = TaskMixer(config.mix, config.data, self.encode, share, shape.reference_size, hole_is_matte)
        self._check_precomputed()
        self.store = (photographs or self._read_photographs()).to(self.device)
        self.held_out: PhotoStore | None = None
        if config.data.hold_out:
            self.store, self.held_out = hold_out(self.store, config.data.hold_out)
        elif config.data.held_out:
            self.held_out = self._first_of(config.data.held_out).to(self.device)
        elif config.train.validate_every:
            raise ValueError("train.validate_every: nothing is held out; set data.hold_out or data.held_out")
        self.stream = StreamReader(config.data, config.train.seed, world) if config.data.sources else None
        self.exemplars = {each.crop: each for each in map(Exemplars, config.data.exemplars)}
        self.last_crop = config.data.late_crop if config.data.late_from < 1 else config.data.crop
        self._costs: dict[tuple[int, float], tuple[int, float]] = {}
        self._check_sizes()
        self.prompts = Prompts(config.prompts, self.pipeline) if config.prompts.texts else None
        if world.rank == 0 and (line := self._cut_captions()):
            print(line)

    # -------------------------------------------------------------------------------------------------------- set up

    def _build_networks(self, edits: Sequence[str]) -> None:
        """Build the pipeline and the recipe's networks, and choose the parts that are trained."""
        config, self.edits = self.config, edits
        self.pipeline = build_pipeline(config.model, edits)
        self.early_shift = config.mix.shift or float(self.pipeline.scheduler.config.shift)
        self._sample_as_trained()
        self.pipeline.set_progress_bar_config(disable=True)
        self.vae = self.pipeline.vae.requires_grad_(False).eval() if self.pipeline.vae is not None else None
        self.module = nn.ModuleDict({"transformer": self.pipeline.transformer})
        if config.recipe.repa_e:
            if self.vae is None:
                raise ValueError("recipe.repa_e: there is no autoencoder to train; set it to 0")
            self.module["vae"] = self.vae
        if config.model.train_text:
            self.module["text_encoder"] = self.pipeline.text_encoder
        else:
            self.pipeline.text_encoder.requires_grad_(False).eval()
        self.module.requires_grad_(True).train()
        self._freeze()
        self.pipeline.to(self.device)  # not before: what is frozen may be a quarter as large now
        if "text" in config.data.precomputed:  # what is left for it to read is the empty prompt, once
            self.pipeline.text_encoder.to("cpu")
        self._embedded: dict[str, Tensor] = {}  # prompt -> (L, D), of those that were not computed before
        self.recipe = Recipe(config.recipe, self.pipeline.transformer, self.vae, self.device, config.model.frozen)
        if self.recipe.projector is not None:
            self.module["projector"] = self.recipe.projector
        if self.recipe.critic is not None:
            self.module["critic"] = self.recipe.critic
        self.rates = {name: config.recipe.repa_e_rate for name in ("vae", "critic") if name in self.module}
        self.blocks: list[nn.Module] = list(self.pipeline.transformer.blocks)

    def _read_again(self) -> Any:
        """The pipeline as it was before training, on the CPU; what is new in it has the same random weights."""
        with torch.random.fork_rng():
            torch.manual_seed(self.config.train.seed)
            return build_pipeline(self.config.model, self.edits)

    def _freeze(self) -> None:
        """Keep what is not trained as ``model.frozen`` says."""
        if self.config.model.frozen == "bf16":
            if self.config.train.precision != "bf16":
                raise ValueError("model.frozen: bf16 goes with train.precision=bf16")
            for name in ("vae", "text_encoder"):
                if name not in self.module and getattr(self.pipeline, name) is not None:
                    fewer_bits.lower(getattr(self.pipeline, name), "bf16")

    def _sample_as_trained(self) -> None:
        """Give the pipeline's sampler the shift that training ends with."""
        end = self.shift_at(1.0 if self.config.data.late_from < 1 else 0.0)
        scheduler = self.pipeline.scheduler
        if end != scheduler.config.shift:
            self.pipeline.register_modules(scheduler=type(scheduler).from_config(scheduler.config, shift=end))

    def _read_photographs(self) -> PhotoStore:
        """The photographs that ``config.data`` names, those to hold out among them."""
        data = self.config.data
        if data.drawn:
            return drawn.store(data.drawn, data.sizes)
        if data.sources:
            return self._first_of(data.sources)
        return PhotoStore.open(data.folder, data.sizes, data.cache, data.limit, mattes=True)

    def _first_of(self, sources: Sequence[Source]) -> PhotoStore:
        """The first photographs of sources, in memory."""
        sizes = self.config.data.sizes
        return PhotoStore.build(photographs(sources, STREAM_SHEET, max(sizes)), sizes)

    def _cut_captions(self) -> str:
        """A line on captions that are longer than what the model reads; empty where there are none."""
        if (tokenizer := self.pipeline.tokenizer) is None:
            return ""
        captions = [max(several, key=len, default="") for several in self.store.captions[:1000]]
        most, cleaning = self.config.model.text_length, self.pipeline.config.get("prompt_cleaning")
        captions = [text.clean(caption, cleaning) for caption in captions]
        if not (cut := sum(bool(text.unread(tokenizer, caption, most)) for caption in captions)):
            return ""
        few = f"data: {cut} of {len(captions)} captions have more than the {most} tokens of text_length"
        return f"{few}; their ends are not read"

    def _check_precomputed(self) -> None:
        """Raise ValueError for embeddings and latents that other networks made, or of other pictures."""
        data, model, mine = self.config.data, self.config.model, {}
        if "text" in data.precomputed:
            if "text_encoder" in self.module:
                raise ValueError(
                    "model.train_text: embeddings are of the encoder before it is trained; set it to false"
                )
            parts = self.pipeline.tokenizer, self.pipeline.text_encoder
            cleaning = self.pipeline.config.get("prompt_cleaning")
            mine["text"] = precomputed.text_fingerprint(*parts, model.text_length, cleaning)
        if "latents" in data.precomputed:
            if self.vae is None:
                raise ValueError("data.precomputed: there are no latents without an autoencoder; leave them out")
            mine["latents"] = precomputed.latents_fingerprint(self.vae, data.crop, data.multiple, data.widest)
        for source, (kind, fingerprint) in itertools.product(data.sources, mine.items()):
            precomputed.check(source, kind, fingerprint)

    def _check_sizes(self) -> None:
        """Raise ValueError for what would stop the run when pictures grow, or at its end when its sheet is drawn."""
        data, recipe, shape = self.config.data, self.config.recipe, self.pipeline.transformer.config
        token = autoencoder.factor(self.vae) * shape.patch_size
        if stray := set(self.exemplars) - {data.crop, data.late_crop}:
            raise ValueError(f"data.exemplars: crops of {min(stray)} pixels are not those of this run; leave them out")
        if (data.sources or getattr(data, "buckets", False)) and data.multiple % token:
            raise ValueError(f"data.multiple: {data.multiple} is no multiple of a token's {token} pixels; give one")
        for name, crop in {"crop": data.crop, "late_crop": self.last_crop}.items():
            if crop % token:
                raise ValueError(f"data.{name}: {crop} is no multiple of a token's {token} pixels; give one")
            routed = recipe.skipped(0.0, (crop // token) ** 2)
            if routed and not self.pipeline.transformer.route_span:
                raise ValueError(
                    f"recipe.tread, recipe.sprint: a route needs a depth of at least 6, and this is {shape.depth}"
                )
            if data.sources:
                check_sizes(data.sources, aspect_buckets(crop, data.multiple, data.widest))
        crops = {self.last_crop} if data.sources else {data.crop, self.last_crop}  # a stream's store is for sheets
        for crop in crops:
            if data.sources and max(data.sizes) < crop:
                raise ValueError(
                    f"data.sizes: sheets of samples show crops of {crop} pixels, and {max(data.sizes)} is the largest "
                    "size; add a larger one"
                )
            for name in self.shares_for(self.store, crop):
                self.mixer.choices(self.store, crop, self.mixer.needs_object[name])
        parts = self.config.train.micro_batches or self.world.size
        least = self.batch_size(self.config.train.batch_size // parts, 1.0)
        if recipe.contrastive and least < 2:
            raise ValueError(f"recipe.contrastive: needs two samples at a time, and late batches have {least}")

    # ------------------------------------------------------------------------------------------------------- batches

    def batch_size(self, size: int, progress: float) -> int:
        """Late in the run, when pictures are larger, batches may be smaller."""
        late = progress >= self.config.data.late_from
        return max(1, round(size * self.config.data.late_batch)) if late else size

    def batch(self, generator: torch.Generator, size: int, progress: float) -> Batch:
        """``size`` samples of all tasks, from the stream or from memory."""
        late = progress >= self.config.data.late_from
        crop = self.config.data.late_crop if late else self.config.data.crop
        if self.stream is not None:
            condition, sample = self.mixer.divide(self.stream.next(crop, size), generator)
        else:
            condition, sample = self.draw(self.store, crop, size, generator)
        return Batch(condition, sample, progress)

    masked_loss = staticmethod(flow.masked_loss)

    def compile_step(self) -> None:
        """Compile the transformer as one graph, forward and backward, and the loss on what it predicts."""
        self.pipeline.transformer.compile()
        self.masked_loss = torch.compile(flow.masked_loss)

    def draw(self, store: PhotoStore, crop: int, size: int, generator: torch.Generator) -> tuple[Condition, Sample]:
        """``size`` crops of a store, as conditions and targets; exemplar canvases in those to train on alone."""
        exemplars = self.exemplars.get(crop) if store is self.store else None
        return self.mixer.draw(store, crop, size, generator, self.shares_for(store, crop), exemplars)

    def shares_for(self, store: PhotoStore, crop: int) -> dict[str, float]:
        """The tasks to draw from a store, and their shares.

        All of them from the photographs to train on, so that a mix that cannot be drawn is an error. Held-out
        photographs, and those of a stream that are kept for sheets, give what they can.
        """
        whole = store is self.store and self.stream is None
        return self.mixer.shares if whole else self.mixer.possible(store, crop)

    def state_dict(self) -> dict[str, Any]:
        """The position in the stream; empty for photographs in memory."""
        return {} if self.stream is None else self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.stream is not None:
            self.stream.load_state_dict(state)

    # -------------------------------------------------------------------------------------------------------- the model

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels to the latents that are trained on, float32."""
        return autoencoder.encode(self.vae, pixels).float()

    def clean_latents(self, sample: Sample) -> Tensor:
        """The latents x0 of the targets, float32: those computed before training, else of the pixels."""
        return self.encode(sample.pixels) if sample.latents is None else sample.latents.float()

    def shift_at(self, progress: float) -> float:
        """The shift of the times at this share of the run."""
        mix, data = self.config.mix, self.config.data
        if progress < data.late_from:
            return self.early_shift
        if mix.shift_by_size:  # of noise that hides as much: the side is the root of the number of tokens
            return self.early_shift * data.late_crop / data.crop
        return mix.late_shift or self.early_shift

    def noise_like(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        """Gaussian noise of the model's scale."""
        noise = torch.randn(x0.shape, generator=generator, device=self.device)
        return noise * self.pipeline.config.noise_scale

    def drop_conditions(self, condition: Condition, generator: torch.Generator) -> Condition:
        """Leave out some prompts, pictures and references, for classifier-free guidance (arXiv:2207.12598).

        Half of the samples without a prompt lose their reference, too: guidance compares with neither.
        """
        mix = self.config.mix
        if generator.device.type != "cpu":  # prompts are chosen by the processor, which must not wait for the GPU
            drop = torch.rand(len(condition), generator=torch.Generator().manual_seed(int(torch.randint(2**31, (1,)))))
        else:
            drop = torch.rand(len(condition), generator=generator)
        no_text = (drop < mix.drop_text) | (drop > 1 - mix.drop_both)
        prompts = ["" if gone else prompt for gone, prompt in zip(no_text.tolist(), condition.prompt, strict=True)]
        if condition.referenced is not None:
            lost = torch.rand(len(condition), generator=generator, device=self.device) < 0.5
            lost = no_text.to(self.device, non_blocking=True) & lost
            condition = replace(condition, referenced=condition.referenced & ~lost)
        gone = (drop > 1 - 2 * mix.drop_both).to(self.device, non_blocking=True) & ~is_regression(condition)
        return replace(blank(condition, gone), prompt=prompts)

    def predict(
        self,
        x_t: Tensor,
        t: Tensor,
        condition: Condition,
        route: Tensor | None = None,
        tap: int | Sequence[int] | None = None,
        model: Any = None,
        embeddings: Mapping[str, Tensor] | None = None,
        path_drop: Tensor | bool = False,
    ) -> tuple[Tensor, Tensor, Any]:
        """The model's velocity at x_t, its clean sample, and the features after block ``tap``.

        Args:
            route, tap, path_drop: see ``EditTransformer.forward``.
            model: a transformer to ask in place of the one that is trained.
            embeddings: prompt -> (L, D), those that are known already.
        """
        model = model or self.pipeline.transformer
        with torch.no_grad():
            folded = fold_condition(condition, self.vae, model.config.condition_space).float()
        tokens, mask = self.encode_prompts(condition.prompt, embeddings)
        task = torch.tensor([model.task_index(name) for name in condition.task], device=self.device)
        inputs = {"condition": folded, "task": task, "strength": condition.strength, "route": route, "tap": tap}
        inputs |= self.reference_inputs(model, condition) | {"path_drop": path_drop}
        out = model(x_t, t, tokens, mask, **inputs)
        return (*flow.interpret(out.sample.float(), x_t, t, model.config.prediction_type), out.features)

    def target(self, x_t: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The velocity that the model's is compared with."""
        return flow.velocity_target(x_t, x0, noise, t, self.pipeline.transformer.config.prediction_type)

    @torch.no_grad()
    def reference_inputs(self, model: Any, condition: Condition) -> dict[str, Tensor]:
        """A transformer's inputs for references: their latents, and which samples have one.

        Empty for a transformer without that input. Otherwise never empty, so that in every process the same weights
        have a gradient.
        """
        if not model.config.reference_embeds:
            return {}
        side = model.config.reference_size // autoencoder.factor(self.vae)
        latents = torch.zeros(len(condition), model.config.in_channels, side, side, device=self.device)
        referenced = condition.referenced
        if condition.reference is None or referenced is None:
            referenced = latents.new_zeros(len(condition), dtype=torch.bool)
        rows = referenced.nonzero()[:, 0]
        if condition.reference is not None and len(rows):
            latents[rows] = self.encode(condition.reference[rows])
        if self.config.train.compiled:  # for one shape
            return {"reference": latents, "referenced": referenced}
        if not len(rows):
            return {"reference": latents[:1], "referenced": referenced[:1]}  # one for all samples; none of them has it
        return {"reference": latents[rows], "referenced": rows}

    def encode_prompts(
        self, prompts: Sequence[str], embeddings: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings (B, L, D) and their mask, as ``text.encode`` gives them; those that are known are not computed."""
        parts, length = (self.pipeline.tokenizer, self.pipeline.text_encoder), self.config.model.text_length
        fixed, cleaning = self.config.train.compiled, self.pipeline.config.get("prompt_cleaning")
        if not embeddings:
            hidden, mask = text.encode(*parts, prompts, length, "max_length" if fixed else "longest", cleaning)
            return hidden.to(self.device), None if mask is None else mask.to(self.device)
        rows = dict(embeddings)
        if unknown := [prompt for prompt in dict.fromkeys(prompts) if prompt not in rows]:  # the empty one, mostly
            if len(self._embedded) > 1000:
                self._embedded.clear()
            if new := [prompt for prompt in unknown if prompt not in self._embedded]:
                hidden, mask = text.encode(*parts, new, length, "longest", cleaning)
                masks = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device) if mask is None else mask
                self._embedded |= {prompt: hidden[i, masks[i]].to(self.device) for i, prompt in enumerate(new)}
            rows |= {prompt: self._embedded[prompt] for prompt in unknown}
        return text.stack([rows[prompt] for prompt in prompts], length if fixed else None)

    # ----------------------------------------------------------------------------------------------------- validation

    def validate(self) -> dict[str, Tensor]:
        """``val_loss``: the loss on the held-out photographs."""
        return {"val_loss": self.validation_loss(self.validation_batch)}

    @cached_property
    def validation_batch(self) -> Batch:
        """What ``validate`` measures."""
        assert self.held_out is not None
        return self.fixed_batch(self.held_out, self.config.data.held_out_crops)

    def fixed_batch(self, store: PhotoStore, size: int) -> Batch:
        """Crops of photographs and their holes, the same at each call."""
        generator = torch.Generator(self.device).manual_seed(0)
        return Batch(*self.draw(store, self.config.data.crop, size, generator), progress=0.0)

    def validation_loss(self, batch: Batch) -> Tensor:
        """The flow-matching loss of a batch at fixed noise and at times spread evenly over (0, 1); all pixels count the
        same, and nothing is dropped."""
        generator = torch.Generator(self.device).manual_seed(0)
        count = len(batch.condition)
        times = (torch.randperm(count, generator=generator, device=self.device) + 0.5) / count
        channels, factor = self.pipeline.transformer.config.in_channels, autoencoder.factor(self.vae)
        shape = channels, *(side // factor for side in batch.sample.pixels.shape[-2:])
        parts = list(torch.arange(count).split(self.config.train.batch_size))
        noises = [self.noise_like(torch.empty(len(rows), *shape), generator) for rows in parts]

        def of(part: int) -> Tensor:
            """The losses of a part's samples, in main memory: the processes share out the parts."""
            rows = parts[part]
            x0 = self.encode(batch.sample.pixels[rows])
            condition = take(batch.condition, rows)
            noise, t = flow.regression_start(noises[part], times[rows], is_regression(condition))
            x_t = flow.add_noise(x0, noise, t)
            v, *_ = self.predict(x_t, t, condition)
            target = self.target(x_t, x0, noise, t)
            return flow.masked_loss(v, target, condition.hole, self.config.mix.known_weight).cpu()

        return torch.cat(shared(range(len(parts)), of)).mean()

    # -------------------------------------------------------------------------------------------------------- results

    def sheet(self) -> np.ndarray:
        """One row per task, three times: the canvas, the model's picture, the target. The processes share out the
        tasks."""

        def row(name: str) -> list[Tensor]:
            cpu, generator = torch.Generator().manual_seed(7), torch.Generator(self.device).manual_seed(7)
            condition, sample = self.mixer.draw_task(self.store, name, self.last_crop, 3, generator, cpu)
            seeds = [torch.Generator().manual_seed(i) for i in range(3)]
            made = self.pipeline.sample(condition, steps=12, guidance=2.0, generators=seeds)
            given = references.inset(condition.canvas * (1 - 0.5 * condition.hole) + 0.5 * condition.hole, condition)
            return [picture.cpu() for i in range(3) for picture in (given[i], made[i], sample.pixels[i])]

        return sheets.sheet(shared(list(self.shares_for(self.store, self.last_crop)), row))

    def pictures(self) -> dict[str, np.ndarray]:
        """Those of ``config.prompts``."""
        return self.prompts.pictures() if self.prompts else {}

    def work(self, progress: float) -> tuple[int, float]:
        """Tokens of a sample, and FLOP of the transformer in a step with it: forward, and backward twice as dear. What
        is computed twice to save memory counts once."""
        data, recipe = self.config.data, self.config.recipe
        crop = data.late_crop if progress >= data.late_from else data.crop
        side, shape = crop // autoencoder.factor(self.vae), self.pipeline.transformer.config
        skip = recipe.skipped(progress, (side // shape.patch_size) ** 2)
        if (crop, skip) not in self._costs:
            cost = forward_cost(self.pipeline.transformer, side, side, self.config.model.text_length, skip)
            self._costs[crop, skip] = cost.tokens, 3.0 * cost.flops
        return self._costs[crop, skip]

    def record(self) -> dict[str, Any]:
        """For the model's card: the parts that are trained, the data, and the models that this one started from."""
        model, data = self.config.model, self.config.data
        starts = (model.start,) if model.start else (autoencoder.resolved(model.vae), model.text_encoder)
        folders = [source.path for source in data.sources] or [data.folder] * (not data.drawn)
        found = {folder: record.prepared(folder) for folder in folders if not is_room(folder)}
        streamed = [
            each for path, (known, _) in found.items() for each in known or (Origin(record.without_paths(path)),)
        ]
        rooms = self._rooms()
        streamed += [each for table, where in rooms for each in readers.origins(table, where)]
        return {
            "parts": [name for name in ("transformer", "text_encoder", "vae") if name in self.module],
            "parents": record.join(*map(record.inherited, starts)),
            "data": streamed if data.sources else self.store.origins(),
            "filtering": [line for _, lines in found.values() for line in lines],
            "rooms": [readers.look(table, where) for table, where in rooms],
        }

    def note_reading(self, run_dir: Path, training: str) -> None:
        """Let the rooms that are read know of this training, by its run's folder and its id in the record."""
        for table, where in self._rooms():
            readers.note(table, where, "training", str(run_dir.resolve()), training)

    def _rooms(self) -> list[tuple[Table, str | None]]:
        """The rooms that are trained on, and which of their photographs."""
        data = self.config.data
        read = data.sources or [Source(data.folder)] * (not data.drawn)
        return [(Table(s.path, s.version), s.where) for s in read if is_room(s.path)]

    def export(self, folder: Path) -> None:
        """Save the pipeline in diffusers layout."""
        self.as_read(self.pipeline).save_pretrained(folder, safe_serialization=True)

    def as_read(self, pipeline: Any) -> Any:
        """A pipeline whose frozen networks are as they were read, not in fewer bits."""
        if self.config.model.frozen == "fp32":
            return pipeline
        read = self._read_again()
        names = [name for name in ("vae", "text_encoder") if name not in self.module]
        return type(pipeline).from_pipe(pipeline, **{name: getattr(read, name) for name in names})


def _reference_share(share: float | None, pipeline: Any) -> float:
    """The share of samples that get a reference: ``mix.reference``, where that is None by the model.

    Raises ValueError where it does not fit the model.
    """
    config = pipeline.transformer.config
    if share is not None and not 0 <= share <= 1:
        raise ValueError(f"mix.reference: {share} must be a share from 0 to 1")
    if not config.reference_embeds:
        if share:
            raise ValueError(f"mix.reference: {share}, but the model takes no reference; set model.reference to true")
        return 0.0
    multiple = autoencoder.factor(pipeline.vae) * config.patch_size
    if config.reference_size < multiple or config.reference_size % multiple:
        raise ValueError(f"model.reference_size: {config.reference_size} is no multiple of {multiple}; give one")
    return 0.7 if share is None else share
