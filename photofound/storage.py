"""Loading and saving: folders, the Hub, teachers of few-step students, LoRAs."""

from __future__ import annotations

import inspect
import re
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.loaders.lora_base import LoraBaseMixin
from filelock import FileLock
from torch import Tensor, nn

from photofound import files
from photofound.device import fast_dtype
from photofound.model import autoencoder, fingerprint
from photofound.model.folder import (
    check_folder,
    check_lora,
    check_part,
    find_lora,
    is_for_teacher,
    is_foreign,
    loading_errors,
    lora_errors,
    read_json,
)
from photofound.model.quantize import is_quantized
from photofound.runtimes import networks
from photofound.runtimes.check import exported_for
from photofound.runtimes.session import RUNTIMES, computed_in, require
from photofound.transformer import EditTransformer

EMBEDDED = autoencoder.EMBEDDED
_NETWORKS = ("detail", "upscaler")  # that a pipeline may lack
_HUB_OPTIONS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "variant")


class StoredPipeline(DiffusionPipeline, LoraBaseMixin):
    """How a pipeline comes from a folder and goes into one."""

    _lora_loadable_modules = ["transformer"]
    transformer_name = "transformer"

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None = None,
        *,
        teacher: bool = False,
        runtime: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a pipeline: the embedded model (None), a folder, or a Hub id. Weights are safetensors; nothing else is
        read.

        Args:
            pretrained_model_name_or_path: None, a folder in diffusers layout, or ``owner/name`` on the Hub.
            teacher: of a few-step student, load the model of many steps that it was distilled from.
            runtime: ``onnx`` or ``openvino``: run the networks there, on the CPU. A model with weights of torch is
                exported first, once, into the user's cache. None: what the folder was exported for, else ``torch``.
            **kwargs: as in diffusers. ``torch_dtype`` (or ``dtype``) defaults to bfloat16 where this machine computes
                in it, else float32; ONNX Runtime computes in float32 whatever it is.

        Raises:
            FileNotFoundError: no such folder. ValueError: missing or damaged shards, pickled weights, classes of
                foreign modules, no teacher, a folder exported for another runtime. ImportError: without the runtime.
        """
        if runtime not in (None, "torch", *RUNTIMES):
            raise ValueError(f"runtime: {runtime!r} is unknown; use torch, {' or '.join(RUNTIMES)}")
        source = EMBEDDED if pretrained_model_name_or_path is None else pretrained_model_name_or_path
        kwargs["dtype"] = kwargs.pop("torch_dtype", None) or kwargs.get("dtype") or fast_dtype()
        if not Path(source).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
            hub = {name: kwargs[name] for name in _HUB_OPTIONS if name in kwargs}
            name, source = str(source), cls.download(str(source), use_safetensors=True, **hub)
            _download_card(name, hub)
        if is_foreign(Path(source)):
            if runtime in RUNTIMES:
                raise ValueError(f"runtime: {source} is another project's pipeline, which runs on torch; leave it out")
            if teacher:
                raise ValueError(f"model: {source} is no few-step student of ours; leave teacher out")
            guests = import_module("photofound.guests")  # by name: it is built on this file
            guest = guests.GuestPipeline.load(source, **kwargs)
            return guest.for_task(cls.task_name, quiet=False) if hasattr(cls, "task_name") else guest
        replaced = {"transformer", "scheduler"} if teacher else set(kwargs)
        if exported_for(Path(source)) or runtime in RUNTIMES:
            return cls._of_graphs(Path(source), runtime, teacher, kwargs)
        check_folder(Path(source), replaced)
        if teacher:
            kwargs |= _teacher(Path(source), kwargs["dtype"])
        with loading_errors(source):
            pipeline = super().from_pretrained(str(source), use_safetensors=True, **kwargs)
        if {"transformer", "vae", "text_encoder", "upscaler"} & set(kwargs):  # not the folder's: its card is not theirs
            pipeline.register_to_config(_name_or_path=None)
        return pipeline

    @classmethod
    def _of_graphs(cls, source: Path, runtime: str | None, teacher: bool, given: dict[str, Any]) -> Any:
        """Load a pipeline whose networks are graphs; of a model with weights of torch, those of the user's cache."""
        exported = exported_for(source)
        if exported and runtime not in (None, exported):
            raise ValueError(
                f"runtime: {source} was exported for {exported}, not for {runtime}; leave it out, or export the model "
                f"that it was made of: photofound export --to {'onnx' if runtime == 'torch' else runtime} -o DIR"
            )
        if exported and teacher:
            raise ValueError(f"model: {source} has no teacher to load; export one: photofound export --teacher")
        runtime = exported or str(runtime)
        require(runtime)
        folder = source if exported else cls._exported(source, runtime, teacher)
        index = read_json(folder / "model_index.json")
        precision = computed_in(runtime, given["dtype"])
        with loading_errors(source):
            parts = networks.load(folder, runtime, precision, but=set(given))
        settings = {name: index[name] for name in cls.settings_names() if name in index}
        optional = {name: given[name] for name in (*parts, *settings) if name in given}
        blank = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
        pipeline = cls(**{**blank, **settings, **parts, **optional})
        pipeline.register_to_config(_name_or_path=str(source))
        return pipeline

    @classmethod
    def _exported(cls, source: Path, runtime: str, teacher: bool) -> Path:
        """The folder in the user's cache that a model is exported to, when it is first asked for."""
        check_folder(source)
        kind = f"{runtime}-teacher" if teacher else runtime
        folder = files.cache_folder() / "exported" / f"{fingerprint.of_folder(source)[:16]}-{kind}"
        if exported_for(folder) is None:
            from photofound.runtimes import export  # at use: it needs the exporter's packages

            warnings.warn(f"the model is exported for {runtime} once, into {folder}; it takes a minute", stacklevel=4)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if exported_for(folder) is None:
                    export.export(cls.from_pretrained(source, teacher=teacher, dtype=torch.float32), runtime, folder)
        return folder

    @classmethod
    def with_lora(cls, pretrained_model_name_or_path: str | Path | None, lora: str | Path, **kwargs: Any) -> Any:
        """Load a pipeline with a LoRA, on the model that the LoRA was trained from: of a few-step student its teacher,
        where the LoRA says so. Arguments and errors are those of ``from_pretrained`` and ``load_lora_weights``."""
        pipe = cls.from_pretrained(pretrained_model_name_or_path, **kwargs)
        file = find_lora(lora)
        if pipe.config.distilled and file is not None and is_for_teacher(file):
            pipe = cls.from_pretrained(pretrained_model_name_or_path, teacher=True, **kwargs)
        pipe.load_lora_weights(lora)
        return pipe

    def fingerprint(self) -> dict[str, Any]:
        """Which model it is, for a recipe: ``name``, a folder's or an id of the Hub, or None, and ``sha256``, over its
        files (``photofound.model.fingerprint``); for weights that are no folder's over the weights, and with a LoRA
        also ``lora``."""
        return fingerprint.of_pipeline(self)

    @classmethod
    def settings_names(cls) -> list[str]:
        """The arguments of the constructor that are no networks: what a folder's ``model_index.json`` says of them."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return [each.name for each in parameters if each.default is not each.empty and each.name not in _NETWORKS]

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **components: Any) -> Any:
        """This task on another pipeline's components; no weights are copied or cast. ``components`` replace some of
        them."""
        if hasattr(pipeline, "painter"):  # another model's, which keeps to itself
            return pipeline.for_task(cls.task_name)
        settings = {name: pipeline.config[name] for name in cls.settings_names() if name in pipeline.config}
        made = cls(**{**pipeline.components, **settings, **components})
        made.fallback = getattr(pipeline, "fallback", None)
        if not components:  # these are the same weights still, and the same card is true of them
            made.register_to_config(_name_or_path=pipeline.config.get("_name_or_path"))
        return made

    def save_pretrained(self, save_directory: str | Path, *args: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save as in diffusers, with a model card: that of the folder which the pipeline was loaded from, else one of
        what is known (``photofound.card.card``). LoRAs that are active are merged into the transformer that is written,
        so that the folder gives the same pictures; keep their own files to take them out again."""
        self._require_whole("save_pretrained")
        save_directory = files.output_path(save_directory, "save_pretrained")
        if push_to_hub:
            hub = {k: kwargs.pop(k) for k in ("commit_message", "private", "token", "create_pr") if k in kwargs}
            repo_id = kwargs.pop("repo_id", Path(save_directory).name)
        super().save_pretrained(str(save_directory), *args, **kwargs)
        self._save_card(Path(save_directory))
        if push_to_hub:
            self._upload(Path(save_directory), repo_id, **hub)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
    ) -> str:
        """Upload as in diffusers, whose card of nothing but tags is ours here."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization=safe_serialization, variant=variant)
            return self._upload(Path(folder), repo_id, commit_message, private, token, create_pr, subfolder)

    def _upload(
        self,
        folder: Path,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        subfolder: str | None = None,
    ) -> str:
        from huggingface_hub import create_repo

        repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        options = {"token": token, "commit_message": commit_message, "create_pr": create_pr, "subfolder": subfolder}
        return self._upload_folder(str(folder), repo_id, **options)

    @property
    def _networks(self) -> dict[str, Any]:
        """The networks by name."""
        return {name: part for name, part in self.components.items() if isinstance(part, nn.Module)}

    def _require_whole(self, what: str) -> None:
        """Raises ValueError where weights have eight bits: no file format of ours holds them, and no LoRA is added."""
        if runtime := getattr(self._networks.get("transformer"), "runtime", None):
            raise ValueError(f"{what}: this model is graphs for {runtime}; do it to the model of torch, then export")
        if any(map(is_quantized, self._networks.values())):
            raise ValueError(f"{what}: the weights have eight bits by now; do this first, then quantize")

    def _save_card(self, folder: Path) -> None:
        """Weights that were loaded from a folder and not adapted since have that folder's card."""
        from photofound.card import card  # at use: whoever edits needs no card

        origin = self.config.get("_name_or_path")
        adapted = getattr(self.transformer, "_hf_peft_config_loaded", False)
        if not origin or adapted or not card.copy_card(Path(origin), folder):
            card.write(folder, ())

    def load_lora_weights(
        self, source: str | Path | dict[str, Tensor], adapter_name: str | None = None, **kwargs: Any
    ) -> None:
        """Add a LoRA to the transformer: a safetensors file, a folder or Hub id that holds one, or a state dict.

        Warns when it was trained on a student's teacher, and this is the student; ``with_lora`` takes the right one.

        Raises FileNotFoundError for a file that is not there; ValueError for one that holds no LoRA for this model.
        """
        self._require_whole("load_lora_weights")
        kwargs["use_safetensors"] = True
        file = None if isinstance(source, dict) else find_lora(source, kwargs.get("weight_name"))
        if file is not None:
            check_lora(file, self.transformer)
            if self.config.distilled and is_for_teacher(file):
                warnings.warn(
                    f"LoRA: {file.name} was trained on the model of many steps that this one was distilled from; load "
                    "that by from_pretrained(..., teacher=True), or expect it to do less here",
                    stacklevel=2,
                )
            kwargs["weight_name"], source = file.name, file.parent
        before = set(getattr(self.transformer, "peft_config", {}))
        given = source if isinstance(source, dict) else str(source)
        with lora_errors("the state dict" if isinstance(source, dict) else str(file or source)):
            self.transformer.load_lora_adapter(given, adapter_name=adapter_name, prefix="transformer", **kwargs)
            if set(getattr(self.transformer, "peft_config", {})) == before and not kwargs.get("hotswap"):
                raise ValueError("it holds no LoRA layers for a transformer")

    def fuse_lora(self, components: Sequence[str] = ("transformer",), **kwargs: Any) -> None:
        """Add the active LoRAs to the weights, as in diffusers: ``lora_scale``, ``adapter_names``, ``safe_fusing``."""
        self._require_whole("fuse_lora")
        super().fuse_lora(list(components), **kwargs)
        self.register_to_config(_name_or_path=None)  # the weights are no longer that folder's, nor is its card true

    def unfuse_lora(self, components: Sequence[str] = ("transformer",), **kwargs: Any) -> None:
        """Take them out again; the weights are the former ones but for rounding."""
        self._require_whole("unfuse_lora")
        super().unfuse_lora(list(components), **kwargs)

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | Path,
        transformer_lora_layers: dict[str, Tensor],
        transformer_lora_adapter_metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write LoRA layers so that ``load_lora_weights`` takes the folder. The metadata, peft's configuration as a
        dict, says the alpha; without it, alpha is taken to be the rank."""
        save_directory = files.output_path(save_directory, "save_lora_weights")
        layers, metadata = {"transformer": transformer_lora_layers}, {"transformer": transformer_lora_adapter_metadata}
        cls._save_lora_weights(save_directory, layers, metadata, **kwargs)


def _download_card(name: str, hub: dict[str, Any]) -> None:
    """Fetch the model's card to where its weights were downloaded, so that saving carries it along; or do without."""
    from huggingface_hub import snapshot_download

    from photofound.card.card import FILES

    options = {key: hub[key] for key in ("cache_dir", "local_files_only", "token", "revision") if key in hub}
    with suppress(OSError, ValueError):  # not there, or not reachable: nobody loads a model for its card
        snapshot_download(name, allow_patterns=[*FILES, "*.jpg", "*.png"], **options)


def _teacher(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """What differs when a student's folder is loaded as its teacher. Raises ValueError where it holds none."""
    distilled = read_json(folder / "model_index.json").get("distilled")
    if not distilled or not (folder / "teacher").is_dir():
        reason = "its folder holds no teacher/" if distilled else "it is no few-step student"
        raise ValueError(f"model: {folder} has no teacher to load, {reason}; leave teacher out")
    check_part(folder / "teacher", EditTransformer)
    check_part(folder / "teacher", FlowMatchEulerDiscreteScheduler)
    transformer = EditTransformer.from_pretrained(folder / "teacher", torch_dtype=dtype, use_safetensors=True)
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "teacher")
    settings = {"distilled": None, "default_steps": distilled["teacher_steps"]}
    settings["task_steps"] = distilled.get("task_steps")
    return {"transformer": transformer, "scheduler": scheduler, **settings}
