"""Networks that are graphs, in the place of torch's: what a pipeline asks of its parts, answered by sessions.

Each keeps torch's network as an outline, on the meta device and without memory: its configuration and its words.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from photofound.model import autoencoder, checks
from photofound.model.detail import DetailNetwork
from photofound.model.folder import built, check_folder, component_class, read_json
from photofound.model.superresolution import Upscaler
from photofound.model.transformer import EditTransformerOutput
from photofound.runtimes import graphs
from photofound.runtimes.graphs import Graph
from photofound.runtimes.session import SUFFIXES, Session

NETWORKS = ("transformer", "vae", "text_encoder", "detail", "upscaler")


class GraphNetwork(nn.Module):
    """What all have in common.

    Args:
        outline: torch's network, without memory.
        sessions: by the last part of the graph's name.
    """

    outline: Any

    def __init__(self, outline: Any, sessions: Mapping[str, Session]) -> None:
        super().__init__()
        self.__dict__["outline"] = outline  # not as a part of this one, which would have its weights
        self.sessions = dict(sessions)

    @property
    def runtime(self) -> str:
        """``onnx`` or ``openvino``."""
        return next(iter(self.sessions.values())).runtime

    @property
    def precision(self) -> torch.dtype:
        """What it computes in; tensors go in and out in float32."""
        return next(iter(self.sessions.values())).precision

    @property
    def config(self) -> Any:
        return self.outline.config

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def to(self, *args: Any, **kwargs: Any) -> GraphNetwork:
        """Raises ValueError for another device than the CPU. Other precisions are chosen when it is loaded."""
        device = torch._C._nn._parse_to(*args, **{k: v for k, v in kwargs.items() if k != "silence_dtype_warnings"})[0]
        if device is not None and device.type != "cpu":
            raise ValueError(f"device: runtime {self.runtime} computes on the cpu here, not on {device}; use cpu")
        return self

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Raises ValueError: there are no weights of torch."""
        raise ValueError(f"save_pretrained: this model is graphs for {self.runtime}; copy the folder that it came from")


class GraphTransformer(GraphNetwork):
    """In the place of EditTransformer, for sampling: text and reference come as keys and values, and the condition, the
    task and the strength are always given."""

    def task_index(self, name: str) -> int:
        """As of EditTransformer."""
        return int(self.outline.task_index(name))

    def num_parameters(self) -> int:
        return int(self.outline.num_parameters())

    def new_cache(self) -> None:
        """No step is skipped: a graph is computed as a whole."""

    def encode_text(self, text: Tensor) -> Tensor:
        return self.sessions["text"](text)[0]

    def encode_reference(self, reference: Tensor) -> Tensor:
        checks.check_reference_latents(self, reference)
        return self.sessions["reference"](reference)[0]

    @property
    def reference_in(self) -> Any:
        return self.outline.reference_in

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        *,
        task: Tensor | int,
        strength: Tensor,
        text_kv: Tensor,
        condition: Tensor | None = None,
        attention_mask: Tensor | None = None,
        guidance: Tensor | None = None,
        reference_kv: Tensor | None = None,
        referenced: Tensor | None = None,
        cache: None = None,
    ) -> EditTransformerOutput:
        """As of EditTransformer; what is of batch 1 is for all."""
        batch = len(latents)
        if attention_mask is None:
            attention_mask = torch.ones(1, text_kv.shape[3], dtype=torch.bool)
        if reference_kv is None:  # one token that nobody looks at
            reference_kv, referenced = torch.zeros_like(text_kv[:1, :, :, :1]), torch.zeros(1, dtype=torch.bool)
        elif referenced is None:
            referenced = torch.ones(1, dtype=torch.bool)
        given: dict[str, Any] = {"latents": latents, "timestep": timestep.float(), "condition": condition}
        given |= {"task": torch.tensor([task]) if isinstance(task, int) else task, "strength": strength.float()}
        given |= {"guidance": guidance, "text_kv": text_kv, "attention_mask": attention_mask}
        given |= {"reference_kv": reference_kv, "referenced": referenced}
        session = self.sessions["model"]
        wanted = [given[name].expand(batch, *[-1] * (given[name].ndim - 1)) for name in session.names]
        return EditTransformerOutput(sample=session(*wanted)[0])


class GraphAutoencoder(GraphNetwork):
    """In the place of a diffusers autoencoder."""

    @property
    def spatial_compression_ratio(self) -> int:
        return autoencoder.factor(self.outline)

    def encode(self, pixels: Tensor) -> Any:
        """With ``latents``, unscaled."""
        return SimpleNamespace(latents=self.sessions["encoder"](pixels)[0])

    def decode(self, latents: Tensor, return_dict: bool = True) -> Any:
        pixels = self.sessions["decoder"](latents)[0]
        return SimpleNamespace(sample=pixels) if return_dict else (pixels,)


class GraphText(GraphNetwork):
    """In the place of a text encoder of transformers."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        """With ``last_hidden_state``."""
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        return SimpleNamespace(last_hidden_state=self.sessions["model"](input_ids, mask)[0])


class GraphDetail(GraphNetwork):
    """In the place of a DetailNetwork."""

    forward = DetailNetwork.forward

    @property
    def multiple(self) -> int:
        return int(self.outline.multiple)

    def paint(self, inputs: Tensor) -> Tensor:
        """As of DetailNetwork."""
        return self.sessions["model"](inputs)[0]


class GraphUpscaler(GraphNetwork):
    """In the place of an Upscaler."""

    forward = Upscaler.forward

    @property
    def reach(self) -> int:
        return int(self.outline.reach)

    def trunk(self, low: Tensor) -> Tensor:
        """As of Upscaler."""
        return self.sessions["trunk"](low)[0]

    def details(self, features: Tensor, scale: int) -> Tensor:
        """As of Upscaler."""
        return F.pixel_shuffle(self.sessions[f"x{scale}"](features)[0], scale)


_CLASSES = {
    "transformer": GraphTransformer,
    "vae": GraphAutoencoder,
    "text_encoder": GraphText,
    "detail": GraphDetail,
    "upscaler": GraphUpscaler,
}


def load(folder: Path, runtime: str, precision: torch.dtype, but: Collection[str] = ()) -> dict[str, Any]:
    """The parts of an exported pipeline: networks, scheduler, tokenizer; those in ``but`` come from elsewhere.

    Raises the errors of ``photofound.model.folder.check_folder``.
    """
    index = read_json(folder / "model_index.json")
    named = {name for name in NETWORKS if index.get(name) not in (None, [None, None])}
    check_folder(folder, named | set(but))
    parts: dict[str, Any] = {}
    outlines: dict[str, Any] = {}
    for name in (*NETWORKS, "scheduler", "tokenizer"):
        cls: Any = None if name in but else component_class(folder, name, index.get(name))
        if cls is None:
            continue
        if name not in NETWORKS:
            parts[name] = cls.from_pretrained(folder / name)
            continue
        outlines[name] = built(folder / name, cls, read_json(folder / name / "config.json"))
    guided = bool(index.get("distilled"))
    for graph in graphs.graphs_of(SimpleNamespace(config=SimpleNamespace(distilled=guided), **_whole(outlines))):
        part, _, name = graph.name.partition("/")
        session = _session(folder, graph, runtime, precision)
        parts.setdefault(part, {})[name] = session
    return parts | {name: _CLASSES[name](outline, parts[name]) for name, outline in outlines.items()}


def _whole(outlines: Mapping[str, Any]) -> dict[str, Any]:
    return {name: outlines.get(name) for name in NETWORKS}


def _session(folder: Path, graph: Graph, runtime: str, precision: torch.dtype) -> Session:
    names = [each.name for each in graph.inputs]
    return Session((folder / graph.name).with_suffix(SUFFIXES[runtime]), runtime, names, precision)
