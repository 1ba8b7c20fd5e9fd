"""EditPipeline: from a request to a picture. A diffusers pipeline that every task's pipeline derives from.

Shapes: B batch, H and W working pixels, f the autoencoder's factor, h = H / f and w = W / f.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Unpack, cast

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler, ModelMixin
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from photofound.call import (
    CONVERTERS,
    ELSEWHERE,
    REPEATS,
    SINGLE,
    Seeds,
    as_list,
    as_picture,
    candidates,
    generators_of,
    input_value,
    plain,
    repeats,
)
from photofound.call import EditOutput as EditOutput
from photofound.call import ImageLike as ImageLike
from photofound.call import Settings as Settings
from photofound.detail import DetailNetwork
from photofound.device import fast_dtype as fast_dtype
from photofound.edits import recipe
from photofound.edits.inputs import SUBJECT_INPUTS, check_text, names_file
from photofound.edits.request import Request
from photofound.edits.task import Job, Task, class_name, get_task
from photofound.image import Picture
from photofound.judging import JudgingPipeline
from photofound.model import deep_compression, text
from photofound.model.folder import check_settings
from photofound.picture import layered, layers, provenance
from photofound.picture.layers import Layer
from photofound.sampling import Callback as Callback
from photofound.storage import EMBEDDED as EMBEDDED
from photofound.superresolution import Upscaler
from photofound.transformer import EditTransformer

CANVASES = ("harmonic", "exemplar")


class EditPipeline(JudgingPipeline):
    """What the tasks' pipelines share.

    Several threads may use one pipeline, or pipelines that share weights, at once: a call keeps what it changes to
    itself. Not so ``enable_model_cpu_offload`` and LoRAs that are loaded, fused or weighted meanwhile.

    Args:
        transformer: EditTransformer.
        vae: a diffusers autoencoder, or None for pixel space.
        text_encoder, tokenizer: from transformers, or None for a model without text.
        scheduler: FlowMatchEulerDiscreteScheduler; for a plain LCM student FlowMatchLCMScheduler.
        tile: working side in pixels that the model was trained at; larger pictures are worked on in tiles of it.
        default_steps, default_guidance: what ``num_inference_steps`` and ``guidance_scale`` are when they are left out.
        task_steps: tasks that want another number of steps than ``default_steps``, like ``{"upscale": 1}``.
        noise_scale: standard deviation of the noise that sampling starts from (2 for PRX's pixel-space models).
        detail: a DetailNetwork, which paints holes of given pixels at pixel resolution, or None.
        canvas: what holes of given pixels are filled with before the model looks: ``harmonic``, or ``exemplar``, the
            photograph's own patches (``photofound.edits.exemplar``). A checkpoint works with what it was trained on.
        exemplars: how the photograph's own patches are searched, ``thorough`` or ``quick``
            (``photofound.edits.exemplar.SEARCHES``).
        distilled: None, or of a few-step student (docs/distillation.md) ``{"phases": P, "guidance": [low, high],
            "teacher_steps": N}``: its phases, the guidance scales that it knows, its teacher's default steps.
        surfaces: whether outpaint starts from a drawn surface if the prompt names one (``photofound.edits.surfaces``).
        upscaler: a network that enlarges pictures by itself (``photofound.model.superresolution``), or None: then the
            transformer does it.
        trained_tasks: what the transformer has learnt; None = every task that it has a head for. The others are
            sampled as text to image that keeps what is given (``photofound.sampling.KnownRegion``).
        sigmas: which noise levels sampling goes through: ``linear``, or ``scheduler``, those of its own.
        prompt_cleaning: what is done to a prompt before it is read: None, ``light`` or ``full``, as PRX does it
            (``photofound.model.text.clean``).
        prompt_tokens: how many tokens of a prompt are read; None = what ``photofound.model.text.limit`` says.
    """

    task_name: ClassVar[str]
    model_cpu_offload_seq = "text_encoder->transformer->vae->detail->upscaler"
    _optional_components = ["vae", "text_encoder", "tokenizer", "detail", "upscaler"]

    def __init__(
        self,
        transformer: EditTransformer,
        vae: ModelMixin | None,
        text_encoder: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        scheduler: FlowMatchEulerDiscreteScheduler | FlowMatchLCMScheduler,
        tile: int = 256,
        default_steps: int = 20,
        default_guidance: float = 2.0,
        noise_scale: float = 1.0,
        distilled: dict[str, Any] | None = None,
        task_steps: dict[str, int] | None = None,
        detail: DetailNetwork | None = None,
        canvas: str = "harmonic",
        surfaces: bool = False,
        upscaler: Upscaler | None = None,
        trained_tasks: Sequence[str] | None = None,
        sigmas: str = "linear",
        prompt_cleaning: str | None = None,
        prompt_tokens: int | None = None,
        exemplars: str = "thorough",
    ) -> None:
        super().__init__()
        self._calls = {}
        deep_compression.use_fast_blocks(vae)
        if canvas not in CANVASES:
            raise ValueError(f"canvas: {canvas!r} is unknown; use {' or '.join(CANVASES)}")
        settings = {
            "tile": tile,
            "default_steps": default_steps,
            "default_guidance": default_guidance,
            "noise_scale": noise_scale,
            "distilled": distilled,
            "task_steps": task_steps,
            "surfaces": surfaces,
            "trained_tasks": None if trained_tasks is None else list(trained_tasks),
            "sigmas": sigmas,
            "prompt_cleaning": prompt_cleaning,
            "prompt_tokens": prompt_tokens,
            "exemplars": exemplars,
        }
        check_settings(settings)
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
            detail=detail,
            upscaler=None if upscaler is None else upscaler.to(memory_format=torch.channels_last),
        )
        self.register_to_config(**settings, canvas=canvas)

    # ---------------------------------------------------------------------------------------------------------- asking

    @torch.no_grad()
    def edit(self, source: ImageLike, settings: Settings, **inputs: Any) -> Any:
        """Run this pipeline's task: prepare, work, finish. ``inputs`` are those that the task declares. The picture and
        each input may be a list, or an array or tensor with a batch's dimension: one for each picture; anything else
        is for all. Results come picture by picture, the variants of each together."""
        unknown = set(settings) - set(Settings.__annotations__)
        if named := sorted(unknown & set(ELSEWHERE)):
            raise ValueError(f"{named[0]}: {ELSEWHERE[named[0]]}")
        if unknown:
            raise TypeError(f"{type(self).__name__}: unknown argument {', '.join(map(repr, sorted(unknown)))}")
        if told := get_task(self.task_name).ignored(settings):
            warnings.warn(told, stacklevel=3)
        steps, guidance, count = self.check(settings)
        convert = CONVERTERS.get(settings.get("output_type") or "pil")
        if convert is None:
            raise ValueError(f"output_type: {settings['output_type']!r} is unknown; use {', '.join(CONVERTERS)}")
        callback = settings.get("callback_on_step_end")
        if callback is not None and not callable(callback):
            raise ValueError(
                f"callback_on_step_end: {callback!r} is no function; pass f(pipe, step, timestep, tensors)"
            )
        for prompt in as_list(inputs.get("prompt")):
            if isinstance(prompt, str):
                check_text("prompt", prompt)
            if sentence := self.unread(prompt):
                warnings.warn(sentence, stacklevel=3)
        tensors = settings.get("callback_on_step_end_tensor_inputs") or ()
        if strange := [name for name in tensors if name not in self._callback_tensor_inputs]:
            raise ValueError(f"callback_on_step_end_tensor_inputs: there is no {strange[0]!r}, only 'latents'")
        resample = repeats(settings.get("resample"))
        best_of = candidates(settings.get("best_of"))
        asked = self._requests(source, inputs)
        jobs = [self.prepare(as_picture(one), **given, resample=resample) for one, given in asked]
        generators = generators_of(settings.get("generator"), len(jobs) * count)
        pictures: list[Picture] = []
        wanted, stacks = settings.get("layers"), list[list[Layer]]()
        paths = self._layer_paths(wanted, len(generators))
        seeds = Seeds()
        # One after another, since variants that share a generator draw from it in turn.
        with self._call() as call:
            call.negative_prompt = self._negative(settings.get("negative_prompt"))
            for job, generator in zip((job for job in jobs for _ in range(count)), generators, strict=True):
                if self.interrupt:
                    break
                seed, variant = seeds.of(generator, job)
                if wanted:
                    if best_of > 1:
                        raise ValueError("best_of: layers are made of one result; leave one of both out")
                    stacks.append(self.layers(job, generator, steps, guidance, callback))
                    made = [layers.flatten(stacks[-1])]
                else:
                    made = self.run([job], [generator], steps, guidance, callback, best_of)
                if settings.get("output_type") == "picture":
                    wished = {name: settings.get(name) for name in ("resample", "best_of")}
                    request = replace(job.asked, seed=seed, steps=steps, guidance=guidance, **wished)
                    made = [self.with_recipe(each, request, job, variant, call.negative_prompt) for each in made]
                pictures += made
        images = [convert(picture) for picture in pictures]
        notes = [picture.note for picture in pictures]
        if not settings.get("return_dict", True):
            return (images,)
        for path, stack, flat in zip(paths, stacks, pictures, strict=False):
            layered.save(stack, flat, path, overwrite=True)
        return EditOutput(
            images=images, notes=notes, keep=job.keep, layers=stacks if wanted else None, scores=call.scores or None
        )

    def _layer_paths(self, wanted: Any, count: int) -> list[Path]:
        """Where layers are written. Raises ValueError, before the work is done."""
        if not wanted:
            return []
        if not get_task(self.task_name).has_layers:
            raise ValueError(f"layers: {self.task_name} has none; leave them out")
        if isinstance(wanted, bool):
            return []
        path = layered.check_path(wanted, overwrite=True)
        return [path.with_stem(f"{path.stem}-{i + 1}") for i in range(count)] if count > 1 else [path]

    def _negative(self, prompt: Any) -> str:
        """The prompt that guidance leads away from."""
        if prompt in (None, ""):
            return ""
        if not isinstance(prompt, str):
            raise ValueError(f"negative_prompt: {prompt!r} is no text; pass one string for all pictures")
        if self.config.distilled:
            raise ValueError(
                "negative_prompt: a few-step model is not guided away from anything; say it in the prompt, or load its "
                "teacher (teacher=True)"
            )
        return prompt

    def _requests(self, source: Any, inputs: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
        """What is asked for, picture by picture: lists have one entry for each, anything else is for all."""
        single = {each.name: SINGLE[each.kind] for each in get_task(self.task_name).inputs if each.kind in SINGLE}
        given = {"image": source, **inputs}
        given = {name: list(value) if getattr(value, "ndim", 0) == 4 else value for name, value in given.items()}
        lists = {name: value for name, value in given.items() if isinstance(value, (list, tuple))}
        lists = {name: value for name, value in lists.items() if name not in single or not single[name](value)}
        number = max([1, *map(len, lists.values())])
        for name, value in lists.items():
            if len(value) not in (1, number) or not value:
                raise ValueError(f"{name}: got {len(value)} for {number} pictures; give one for all, or one for each")
        rows = [given | {name: value[i % len(value)] for name, value in lists.items()} for i in range(number)]
        return [(row.pop("image"), row) for row in rows]

    @classmethod
    def _family(cls) -> type[EditPipeline]:
        """What the pipelines of the tasks derive from."""
        return EditPipeline

    def offers(self, task: str) -> bool:
        """Whether the checkpoint is made for a task, or the task does without one: what a server offers."""
        return task in self.transformer.config.tasks or not get_task(task).needs_network

    @property
    def parameter_count(self) -> int:
        """Parameters of the network that paints."""
        return int(self.transformer.num_parameters())

    def check_task(self, task: str) -> None:
        """Raises ValueError for a task that this model cannot do."""
        if get_task(task).instructs:
            raise ValueError(
                f"{task}: this model follows no instructions; name one that does (docs/models.md) with --model"
            )
        if get_task(task).fit == "tiles" and not (self.is_trained(task) or self._enlarges_alone(task)):
            raise ValueError(f"{task}: this model has not learnt it, and has no upscaler; use another model")

    def for_task(self, name: str, quiet: bool = True) -> EditPipeline:
        """A task's pipeline on the same weights, ``quiet``: without a progress bar. It costs microseconds. Raises
        ValueError naming the known tasks."""
        pipe: EditPipeline = pipeline_class(name, self._family()).from_pipe(self)
        if quiet:
            pipe.set_progress_bar_config(disable=True)
        return pipe

    @torch.no_grad()
    def answer(self, request: Request, count: int = 1, callback: Callback | None = None) -> EditOutput:
        """Prepare a request once and make ``count`` pictures of it, which draw from one generator in turn: variant i is
        what ``num_images_per_prompt`` gives. Its images are Pictures."""
        pipe = self if getattr(self, "task_name", None) == request.task else self.for_task(request.task)
        settings: Settings = {
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance,
            "num_images_per_prompt": count,
            "resample": request.resample,
            "best_of": request.best_of,
            "generator": request.generator(),
            "callback_on_step_end": callback,
            "output_type": "picture",
            "layers": request.layers,
        }
        return cast(EditOutput, pipe.edit(request.picture, settings, **request.inputs))

    def settings(self, request: Request) -> tuple[int, float]:
        """Steps and guidance of a request, with the checkpoint's own filled in. Raises ValueError."""
        return self.check({"num_inference_steps": request.steps, "guidance_scale": request.guidance})[:2]

    def prepare(self, picture: Picture | None, resample: int = REPEATS, **inputs: Any) -> Job:
        """Make a request ready: ``Task.prepare``, with this model's segmenter where the task wants one. An input that
        is None has its default. ``picture`` is None for a task that takes none.

        Raises ValueError for what cannot be edited, and for a task that this model cannot do.
        """
        task = get_task(self.task_name)
        if task.takes_picture and picture is None:
            raise ValueError(f"image: {self.task_name} needs a photograph; pass one")
        self.check_task(task.name)
        if not task.takes_picture and inputs.get("size") is None:
            inputs["size"] = (self.config.tile, self.config.tile)
        inputs |= {each.name: input_value(each, inputs[each.name]) for each in task.inputs if each.name in inputs}
        asked = Request(task.name, picture, dict(inputs))
        if task.wants_segmenter:
            inputs["segment"] = self.search(*(inputs.get(each.name) for each in SUBJECT_INPUTS))
        return replace(task.prepare(picture, **task.with_defaults(inputs)), resample=resample, asked=asked)

    @torch.no_grad()
    def run(
        self,
        jobs: Sequence[Job],
        generators: Sequence[torch.Generator | None],
        steps: int,
        guidance: float,
        callback: Callback | None = None,
        best_of: int | None = None,
    ) -> list[Picture]:
        """Work on what ``prepare`` has made ready: one picture per job, of several candidates the best
        (``photofound.judging``)."""
        best_of = candidates(best_of)
        if best_of > 1 or self.fallback is not None:
            return self.judged(jobs, generators, steps, guidance, callback, best_of)
        made = get_task(self.task_name).run(self, jobs, generators, steps, guidance, callback)
        return [provenance.without_recipe(picture) for picture in made]

    @torch.no_grad()
    def layers(
        self,
        job: Job,
        generator: torch.Generator | None,
        steps: int,
        guidance: float,
        callback: Callback | None = None,
    ) -> list[Layer]:
        """What ``run`` makes of a job, as layers from the bottom to the top; ``layers.flatten`` gives the picture."""
        found = get_task(self.task_name).layers(self, job, generator, steps, guidance, callback)
        return [replace(each, picture=provenance.without_recipe(each.picture)) for each in found]

    def with_recipe(
        self, made: Picture, request: Request, job: Job, variant: int = 0, negative_prompt: str = ""
    ) -> Picture:
        """A result with the recipe that ``provenance.mark`` writes into its metadata: what was asked for, of which
        pictures, by which model, and what was kept. One that a fallback has made has that model's already."""
        if made.recipe:
            return made
        sampled = dict[str, Any].fromkeys(("steps", "guidance", "resample"))
        if get_task(request.task).samples:
            sampled = dict(zip(("steps", "guidance"), self.settings(request), strict=True))
            sampled["negative_prompt"] = negative_prompt or None
        call = self._current
        if call.made_by is None:  # the same for all results of a call, and weights take long to hash
            call.made_by = {"model": self.fingerprint(), "computed": self.computed}
        return replace(made, recipe=recipe.of(request, job, made, sampled, call.made_by, variant))

    def check(self, settings: Settings) -> tuple[int, float, int]:
        """Steps, guidance and number of variants, with the checkpoint's defaults filled in. Raises ValueError."""
        steps, guidance = plain(settings.get("num_inference_steps")), plain(settings.get("guidance_scale"))
        steps = self._default_steps(self.task_name) if steps is None else steps
        guidance = self.config.default_guidance if guidance is None else guidance
        count = plain(settings.get("num_images_per_prompt"))
        count = 1 if count is None else count
        least = 0 if self._enlarges_alone(self.task_name) else 1
        if not isinstance(steps, int) or not least <= steps <= 1000:
            raise ValueError(f"num_inference_steps: {steps!r} must be a whole number from {least} to 1000")
        if not isinstance(guidance, (int, float)) or not 0 <= guidance <= 100:
            raise ValueError(f"guidance_scale: {guidance!r} must be a number from 0 to 100; 1 is no guidance")
        if not isinstance(count, int) or not 1 <= count <= 64:
            raise ValueError(f"num_images_per_prompt: {count!r} must be a whole number from 1 to 64")
        return steps, float(guidance), count

    def unread(self, prompt: Any) -> str:
        """What to tell of a prompt whose end the model does not read, in one sentence; else empty."""
        if self.tokenizer is None or not isinstance(prompt, str):
            return ""
        return text.unread(self.tokenizer, self._cleaned(prompt), self.config.prompt_tokens)

    def _enlarges_alone(self, task: str) -> bool:
        """Whether the upscaler does this task without the transformer, unless steps are asked for."""
        return task == "upscale" and self.upscaler is not None


# ------------------------------------------------------------------------------------------- the pipelines of the tasks


def pipeline_class(name: str, family: type[EditPipeline] = EditPipeline) -> type[EditPipeline]:
    """The pipeline of a task, ``InpaintPipeline`` for ``inpaint``: a ``family`` that is called with the task's
    inputs. Raises ValueError naming the known tasks."""
    made: type[EditPipeline] = _pipeline_class(get_task(name), cast(Any, family))
    return made


@cache
def _pipeline_class(task: Task, family: type[EditPipeline]) -> type[EditPipeline]:
    parameter, kinds = inspect.Parameter, inspect.Parameter
    parameters = [parameter("self", kinds.POSITIONAL_OR_KEYWORD)]
    if task.takes_picture:
        parameters.append(parameter("image", kinds.POSITIONAL_OR_KEYWORD, annotation=ImageLike))
    for each in task.inputs:
        annotation = _ANNOTATIONS.get(each.kind, Any)
        parameters.append(
            parameter(each.name, kinds.POSITIONAL_OR_KEYWORD, default=each.default, annotation=annotation)
        )
    parameters.append(parameter("settings", kinds.VAR_KEYWORD, annotation=Unpack[Settings]))
    signature = inspect.Signature(parameters, return_annotation=EditOutput)

    def __call__(self: EditPipeline, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        inputs = dict(given.arguments)
        settings = inputs.pop("settings")
        del inputs["self"]
        for each in task.inputs:  # here alone: a server's client must not name files
            if isinstance(name := inputs[each.name], str) and names_file(each.kind, name):
                inputs[each.name] = Path(name)
        return self.edit(inputs.pop("image", None), settings, **inputs)

    title = class_name(task.name)
    __call__.__qualname__, __call__.__module__ = f"{title}.__call__", "photofound"
    __call__.__doc__ = _call_docstring(task)
    __call__.__signature__ = signature  # type: ignore[attr-defined]
    members: dict[str, Any] = {
        "task_name": task.name,
        "__call__": __call__,
        "__doc__": inspect.getdoc(type(task)) or task.summary,
    }
    made = type(title, (family,), members | {"__module__": "photofound", "__qualname__": title})
    return made


_ANNOTATIONS: dict[str, Any] = {
    "image": ImageLike,
    "mask": ImageLike,
    "text": str,
    "int": int | None,
    "length": int | str,
    "aspect": str | tuple[float, float] | None,
    "size": str | tuple[int, int] | None,
    "share": str | float | None,
    "sides": int | str | tuple[int | str, ...],
    "place": str | tuple[int | str, int | str] | None,
    "fit": str,
    "background": ImageLike | None,
    "preset": str | Path | None,
    "flag": bool,
    "segmenter": str | Callable[..., Any] | None,
    "points": str | Sequence[tuple[float, ...]] | None,
    "folder": str | Path | None,
}


_IMAGE = "    image: PIL image, numpy array (H, W) or (H, W, C), path or Picture; any size, 8 or 16 bit.\n"
_SUBJECT = """\
    segmenter: what finds the subject: a name (docs/segmenters.md), or a function from (H, W, 3) uint8, and ``text`` and
        ``points`` if it takes them, to a matte (H, W) in [0, 1]. None: the checkpoint's own head, else GrabCut.
    subject_text: the subject in words, for a segmenter that reads them.
    subject_points: (x, y) or (x, y, inside) in pixels, or a sequence of them, for a segmenter that takes them.
"""
_CALL = """Make one picture, or a list of them.

Args:
{image}{inputs}    **settings: how to sample and what to return, see ``photofound.pipeline.Settings``.

Returns:
    EditOutput with ``images``, ``notes`` and ``keep``.
"""


def _call_docstring(task: Task) -> str:
    """That of ``prepare``, whose arguments and errors are the pipeline's, too."""
    own = inspect.getdoc(task.prepare) or ""
    inputs = re.search(r"^Args:\n((?: .*\n?|\n(?= ))*)", own, re.M)
    asked = f"{inputs[1].rstrip()}\n" if inputs else ""
    asked += _SUBJECT * task.wants_segmenter
    raises = re.search(r"^Raises:\n(?:.|\n)*", own, re.M)
    return _CALL.format(image=_IMAGE * task.takes_picture, inputs=asked) + (f"\n{raises[0]}" if raises else "")
