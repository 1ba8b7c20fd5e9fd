"""A pipeline's networks as graphs: functions of tensors alone, with names for what goes in and out, and the sizes that
may vary. They are what other programs can run.

Sizes by name: ``batch``; ``rows`` and ``columns`` of patches, latents or pixels, whatever the graph's unit is; ``text``
and ``reference``, lengths in tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from photofound.model import autoencoder
from photofound.model.detail import DetailNetwork
from photofound.model.superresolution import Upscaler
from photofound.model.transformer import EditTransformer

Size = int | str | tuple[int, str]  # a number, a size that varies, or a multiple of one


@dataclass(frozen=True)
class Given:
    """An input of a graph.

    Attributes:
        name: what it is called.
        shape: its sizes.
        kind: ``normal``, ``share`` (in [0, 1]), ``index`` or ``flag``: which values it has.
        most: of an index, how many there are.
    """

    name: str
    shape: tuple[Size, ...]
    kind: str = "normal"
    most: int = 1

    def sizes(self, sizes: Mapping[str, int]) -> list[int]:
        """Its shape in numbers."""
        return [_length(size, sizes) for size in self.shape]

    def example(self, sizes: Mapping[str, int], generator: torch.Generator) -> Tensor:
        """Random values of these sizes."""
        shape = self.sizes(sizes)
        if self.kind == "index":
            return torch.randint(self.most, shape, generator=generator)
        values = (torch.randn if self.kind == "normal" else torch.rand)(shape, generator=generator)
        return values > 0.3 if self.kind == "flag" else values


@dataclass(frozen=True)
class Graph:
    """One graph.

    Attributes:
        name: its file within a model folder, without a suffix.
        module: what it computes.
        inputs, outputs: in order.
        pixels: of the picture, along its side, that are a row or a column.
    """

    name: str
    module: nn.Module
    inputs: tuple[Given, ...]
    outputs: tuple[str, ...]
    pixels: int = 1

    @property
    def varying(self) -> tuple[str, ...]:
        """The sizes that may vary, in the order in which they occur."""
        found = [size if isinstance(size, str) else size[1] for size in self._sizes() if not isinstance(size, int)]
        return tuple(dict.fromkeys(found))

    def example(self, sizes: Mapping[str, int], seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs of these sizes; equal seeds give equal ones."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(each.example(sizes, generator) for each in self.inputs)

    def dynamic_shapes(self, most: Mapping[str, int]) -> tuple[tuple[dict[int, Any], ...]]:
        """Which sizes vary, up to ``most``, as ``torch.export`` wants to be told."""
        dims = {name: torch.export.Dim(name, min=1, max=most.get(name, _MOST)) for name in self.varying}

        def of(size: Size) -> Any:
            return dims[size] if isinstance(size, str) else size[0] * dims[size[1]] if isinstance(size, tuple) else None

        shapes = (
            {place: of(size) for place, size in enumerate(each.shape) if not isinstance(size, int)}
            for each in self.inputs
        )
        return (tuple(shapes),)

    def _sizes(self) -> Iterator[Size]:
        return (size for each in self.inputs for size in each.shape)


_MOST = 2**20  # of any size that varies


def _length(size: Size, sizes: Mapping[str, int]) -> int:
    if isinstance(size, int):
        return size
    return sizes[size] if isinstance(size, str) else size[0] * sizes[size[1]]


# ------------------------------------------------------------------------------------------------- the networks' graphs


class Call(nn.Module):
    """A function that calls a network."""

    def __init__(self, network: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.function = network, function

    def forward(self, *given: Tensor) -> Any:
        return self.function(self.network, *given)


def _encoded(vae: Any, pixels: Tensor) -> Tensor:
    """Pixels to latents, unscaled."""
    return autoencoder.raw_latents(vae.encode(pixels))


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    pixels: Tensor = vae.decode(latents, return_dict=False)[0]
    return pixels


def _embedded(encoder: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    hidden: Tensor = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return hidden


def transformer_graphs(model: Any, guided: bool, factor: int) -> Iterator[Graph]:
    """The transformer, and what it makes of a text and of a reference once for all steps.

    Args:
        guided: whether the guidance scale is an input, as it is of few-step students.
        factor: pixels along the side of a latent.
    """
    config = model.config
    patch, depth, heads = config.patch_size, config.depth, config.num_heads
    size = config.hidden_size // heads
    area: tuple[Size, ...] = ((patch, "rows"), (patch, "columns"))
    text = Given("text_kv", ("batch", depth, 2, "text", heads, size))
    inputs = [Given("latents", ("batch", config.in_channels, *area)), Given("timestep", ("batch",), "share")]
    if config.condition_channels:
        inputs.append(Given("condition", ("batch", config.condition_channels, *area)))
    inputs += [Given("task", ("batch",), "index", len(config.tasks)), Given("strength", ("batch",), "share")]
    inputs += [Given("guidance", ("batch",), "share")] if guided else []
    inputs += [text, Given("attention_mask", ("batch", "text"), "flag")]
    if config.reference_embeds:
        inputs.append(Given("reference_kv", ("batch", depth, 2, "reference", heads, size)))
        inputs.append(Given("referenced", ("batch",), "flag"))
    names = [each.name for each in inputs[2:]]

    def velocity(model: Any, latents: Tensor, timestep: Tensor, *more: Tensor) -> Tensor:
        answer: Tensor = model(latents, timestep, return_dict=False, **dict(zip(names, more, strict=True)))[0]
        return answer

    yield Graph("transformer/model", Call(model, velocity), tuple(inputs), ("velocity",), patch * factor)
    words = Given("text", ("batch", "text", config.context_in_dim))
    yield Graph("transformer/text", Call(model, EditTransformer.encode_text), (words,), ("text_kv",))
    if config.reference_embeds:
        latents = Given("reference", ("batch", config.in_channels, *area))
        call = Call(model, EditTransformer.encode_reference)
        yield Graph("transformer/reference", call, (latents,), ("reference_kv",), patch * factor)


def autoencoder_graphs(vae: Any) -> Iterator[Graph]:
    """Its two halves."""
    f, channels = autoencoder.factor(vae), autoencoder.channels(vae)
    pixels = Given("pixels", ("batch", int(vae.config.get("in_channels", 3)), (f, "rows"), (f, "columns")))
    yield Graph("vae/encoder", Call(vae, _encoded), (pixels,), ("latents",), f)
    latents = Given("latents", ("batch", channels, "rows", "columns"))
    yield Graph("vae/decoder", Call(vae, _decoded), (latents,), ("pixels",), f)


def text_graphs(encoder: Any) -> Iterator[Graph]:
    """Tokens to embeddings."""
    tokens = Given("input_ids", ("batch", "text"), "index", int(encoder.config.vocab_size))
    mask = Given("attention_mask", ("batch", "text"), "flag")
    yield Graph("text_encoder/model", Call(encoder, _embedded), (tokens, mask), ("embeddings",))


def detail_graphs(network: Any) -> Iterator[Graph]:
    """The network's own part: canvas, guess and hole in, residual and gate out (``DetailNetwork.paint``)."""
    m = network.multiple
    inputs = Given("inputs", ("batch", network.INPUTS, (m, "rows"), (m, "columns")))
    yield Graph("detail/model", Call(network, DetailNetwork.paint), (inputs,), ("painted",), m)


def upscaler_graphs(network: Any) -> Iterator[Graph]:
    """The trunk, which all scales share, and each scale's tail."""
    low = Given("low", ("batch", 3, "rows", "columns"))
    yield Graph("upscaler/trunk", Call(network, Upscaler.trunk), (low,), ("features",))
    features = Given("features", ("batch", network.config.channels, "rows", "columns"))
    for scale in network.config.scales:
        yield Graph(
            f"upscaler/x{scale}", Call(network.tails[f"x{scale}"], nn.Conv2d.__call__), (features,), ("details",)
        )


def graphs_of(pipe: Any) -> list[Graph]:
    """All graphs of a pipeline (``photofound.pipeline.EditPipeline``)."""
    found = list(transformer_graphs(pipe.transformer, bool(pipe.config.distilled), autoencoder.factor(pipe.vae)))
    for part, make in (
        (pipe.vae, autoencoder_graphs),
        (pipe.text_encoder, text_graphs),
        (pipe.detail, detail_graphs),
        (pipe.upscaler, upscaler_graphs),
    ):
        found += [] if part is None else make(part)
    return found
