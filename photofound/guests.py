"""Other people's models behind our exact compositing: any inpainting, fill or editing pipeline of diffusers as the
painter.

    pipe = InpaintPipeline.from_pretrained("black-forest-labs/FLUX.1-Fill-dev")
    photofound outpaint cup.png --prompt "on a marble table" --model stable-diffusion-v1-5/stable-diffusion-inpainting

A guest is given a crop with context at the size that it was trained at. What comes back is put where it belongs (models
shift and zoom), its colours are matched beside the hole, the seam is closed, and the photograph's own pixels are put
back: what is kept is bit-exact, as with our own models. Weights are safetensors; no code of a checkpoint is run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoPipelineForInpainting, DiffusionPipeline
from torch import Tensor, nn

from photofound import files
from photofound.device import fast_dtype
from photofound.edits import composite
from photofound.edits.task import Backdrop, Condition, get_task
from photofound.errors import first_line
from photofound.image import Picture, to_tensor
from photofound.model import fingerprint
from photofound.painter import Painter, abilities, edits
from photofound.painting import Draft
from photofound.pipeline import EditPipeline
from photofound.sampling import Callback

_LEAST_SIDE = 64  # pixels of a reference: FLUX.2 refuses less


class GuestPipeline(EditPipeline):
    """Our pipeline with a guest as its painter. ``EditPipeline.from_pretrained`` and those of the tasks return one for
    a folder or Hub id of another diffusers pipeline.

    Args:
        guest: the diffusers pipeline, loaded.
    """

    def __init__(self, guest: DiffusionPipeline) -> None:
        DiffusionPipeline.__init__(self)
        self._calls = {}
        self._adopt(Painter(guest, abilities(guest)))

    def _adopt(self, painter: Painter) -> None:
        """Paint with it, in the place of networks of our own."""
        self.painter = painter
        for part in ("transformer", "vae", "text_encoder", "tokenizer", "detail", "upscaler"):
            setattr(self, part, None)
        can = self.painter.can
        self.register_to_config(
            tile=can.side,
            default_steps=can.steps,
            default_guidance=can.guidance,
            task_steps=None,
            distilled=None,
            canvas="harmonic",
            surfaces=False,
            trained_tasks=None,
            prompt_tokens=None,
        )

    @classmethod
    def load(cls, source: str | Path, **options: Any) -> GuestPipeline:
        """A guest from a folder or a Hub id; ``options`` are those of diffusers' ``from_pretrained``.

        Raises ValueError for a folder that may not be loaded, or a pipeline that cannot edit. FileNotFoundError.
        """
        folder = Path(source)
        if folder.is_dir():
            options = dict.fromkeys(check_guest(folder)) | options
        options["torch_dtype"] = options.pop("dtype", None) or options.get("torch_dtype") or fast_dtype()
        try:
            guest = DiffusionPipeline.from_pretrained(str(source), use_safetensors=True, **options)
            if "PRX" in type(guest).__name__:
                raise ValueError(f"it is a PRX; convert it: photofound convert --from-prx {source} -o editor")
            guest = _for_edits(guest)
            guest.set_progress_bar_config(disable=True)
            return cls(guest)
        except (OSError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
            raise ValueError(f"model: {source} cannot be used: {first_line(error)}") from error

    @classmethod
    def _family(cls) -> type[EditPipeline]:
        return GuestPipeline

    @classmethod
    def from_pipe(cls, pipeline: Any, **components: Any) -> Any:
        """This task with another guest pipeline's guest."""
        made = cls(pipeline.painter.pipe)
        made.fallback = pipeline.fallback
        return made

    # ------------------------------------------------------------------------------------ what the guest does by itself

    @property
    def _execution_device(self) -> torch.device:
        device: torch.device = self.painter.pipe._execution_device
        return device

    @property
    def device(self) -> torch.device:
        device: torch.device = self.painter.pipe.device
        return device

    @property
    def precision(self) -> torch.dtype:
        network = getattr(self.painter.pipe, "transformer", None) or getattr(self.painter.pipe, "unet", None)
        return torch.float32 if network is None else next(network.parameters()).dtype

    def fingerprint(self) -> dict[str, Any]:
        return fingerprint.of_pipeline(self.painter.pipe)

    def to(self, *args: Any, **kwargs: Any) -> GuestPipeline:
        self.painter.pipe.to(*args, **kwargs)
        return self

    @property
    def _networks(self) -> dict[str, Any]:
        return {name: part for name, part in self.painter.pipe.components.items() if isinstance(part, nn.Module)}

    def maybe_free_model_hooks(self) -> None:
        """The guest does so after each of its calls."""

    def load_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """The guest's own; safetensors only."""
        self._require_whole("load_lora_weights")
        self.painter.pipe.load_lora_weights(*args, **{**kwargs, "use_safetensors": True})

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        self._require_whole("fuse_lora")
        self.painter.pipe.fuse_lora(*args, **kwargs)

    def unfuse_lora(self, *args: Any, **kwargs: Any) -> None:
        self._require_whole("unfuse_lora")
        self.painter.pipe.unfuse_lora(*args, **kwargs)

    def set_adapters(self, *args: Any, **kwargs: Any) -> None:
        self.painter.pipe.set_adapters(*args, **kwargs)

    def unload_lora_weights(self) -> None:
        self.painter.pipe.unload_lora_weights()

    def load_ip_adapter(self, *args: Any, **kwargs: Any) -> None:
        """The guest's own, which takes a ``reference`` from then on; safetensors only, as a file or a state dict."""
        names = kwargs.get("weight_name", args[2] if len(args) > 2 else "")
        for name in [names] if isinstance(names, str) else names:
            if name and not name.endswith(".safetensors"):
                raise ValueError(f"load_ip_adapter: {name} is a pickle, which may run code; name a .safetensors file")
        self.painter.pipe.load_ip_adapter(*args, **kwargs)
        self.painter = Painter(self.painter.pipe, abilities(self.painter.pipe))

    def unload_ip_adapter(self) -> None:
        self.painter.pipe.unload_ip_adapter()
        self.painter = Painter(self.painter.pipe, abilities(self.painter.pipe))

    def set_ip_adapter_scale(self, scale: Any) -> None:
        self.painter.pipe.set_ip_adapter_scale(scale)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        self._require_whole("save_pretrained")
        self.painter.pipe.save_pretrained(*args, **kwargs)

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        self.painter.pipe.enable_model_cpu_offload(*args, **kwargs)

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        self.painter.pipe.enable_sequential_cpu_offload(*args, **kwargs)

    # --------------------------------------------------------------------------------------------------------- painting

    def is_trained(self, task: str) -> bool:
        can = self.painter.can
        if task in ("upscale", "cutout"):
            return task == "upscale" and can.enlarges > 0
        if task == "generate":
            return can.words or can.mask  # what fills a hole fills an empty picture
        return can.instruction if get_task(task).instructs else can.mask or can.instruction

    def offers(self, task: str) -> bool:
        return not get_task(task).needs_network or self.is_trained(task)

    @property
    def parameter_count(self) -> int:
        network = getattr(self.painter.pipe, "transformer", None) or getattr(self.painter.pipe, "unet", None)
        return sum(weight.numel() for weight in network.parameters()) if network is not None else 0

    def check_task(self, task: str) -> None:
        """Raises ValueError for a task that the guest cannot do."""
        if self.offers(task):
            return
        kind, can = type(self.painter.pipe).__name__, self.painter.can
        advice = "use the embedded model (leave --model out) or another one"
        if get_task(task).instructs:
            advice = "it follows no instructions; name a model that does (docs/models.md)"
        elif can.words and not (can.mask or can.instruction):
            advice = f"it makes pictures from words alone; {advice}"
        raise ValueError(f"{task}: {kind} cannot do it; {advice}")

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
        """The guest in place of the transformer. A background that is given is taken as it is."""
        if start is not None:
            return start

        def step(index: int) -> None:
            if callback is not None:
                callback(self, index, torch.zeros(()), {"latents": condition.canvas})
            bar.update()
            if self.interrupt:
                self.painter.stop()

        with self._call() as call:
            bar = self._bar(call, steps * len(condition))
            made = self.painter.paint(condition, steps, guidance, generators, step, call.negative_prompt)
            return made.to(condition.canvas)

    def _joined(self, draft: Draft, made: Tensor) -> Tensor:
        assert isinstance(draft.backdrop, Backdrop)
        return to_tensor(draft.backdrop.pixels[draft.part.box.slices])

    def _batch_key(self, condition: Condition) -> Any:
        return (object(),)  # guests are asked one by one

    @property
    def _pixel_multiple(self) -> int:
        return self.painter.can.multiple

    def _wants_exemplars(self) -> bool:
        return False

    def _reference(self, picture: Picture, backdrop: Backdrop | None) -> Tensor | None:
        """All of a reference, no larger than what the guest works on."""
        if backdrop is not None:
            return None
        kind, can = type(self.painter.pipe).__name__, self.painter.can
        if not can.reference:
            raise ValueError(
                f"reference: {kind} takes none; say it in the prompt, or use a model that does (docs/models.md)"
            )
        seen = to_tensor(picture.rgb())
        scale = min(1.0, can.side / math.sqrt(picture.width * picture.height))
        scale = max(scale, _LEAST_SIDE / min(picture.size))
        size = max(1, round(picture.height * scale)), max(1, round(picture.width * scale))
        return composite.resize(seen, size).clamp(-1, 1)


def _for_edits(guest: Any) -> Any:
    """A pipeline that edits, where the weights have one; else one that makes pictures from words. Raises ValueError."""
    if edits(guest):
        return guest
    try:
        return AutoPipelineForInpainting.from_pipe(guest)
    except (ValueError, TypeError, AttributeError):
        return guest


def check_guest(folder: Path) -> list[str]:
    """Refuse a guest's folder that is not to be loaded: code, pickled weights alone, classes from elsewhere. Returns
    the parts that it does without. Raises ValueError."""
    index, without = files.read_json(folder / "model_index.json"), []
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list):
            continue
        if entry[:1] == [None]:
            without.append(name)
            continue
        library = str(entry[0]).split(".")[0]
        if library not in ("diffusers", "transformers") and not hasattr(diffusers.pipelines, library):
            raise ValueError(f"model: {folder}: {name} is of {entry[0]!r}; only diffusers and transformers are trusted")
        part = folder / name
        weights = [path for path in part.glob("*") if path.suffix in files.PICKLE_SUFFIXES]
        if weights and not list(part.glob("*.safetensors")):
            raise ValueError(f"model: {weights[0]} is a pickle, which may run code; save it as safetensors")
    if code := sorted(folder.rglob("*.py")):
        raise ValueError(f"model: {code[0]} is code, which is never run; remove it if the model does without")
    return without
