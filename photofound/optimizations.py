"""What saves time and memory: weights of eight bits, skipped blocks, an autoencoder that works tile by tile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from photofound.model.cache import THRESHOLD, check_threshold
from photofound.model.quantize import quantize
from photofound.runtimes import session
from photofound.storage import StoredPipeline

_QUANTIZED = ("transformer", "unet", "text_encoder")  # networks whose name begins so


class OptimizedPipeline(StoredPipeline):
    """The pipelines of all tasks that share weights share these settings, too."""

    def quantize(self, kind: str) -> None:
        """Store the weights of the transformer and the text encoder in eight bits, ``int8`` or ``fp8``, by torchao. It
        saves memory, not time. A batch still gives what its members give alone. LoRAs are to be loaded before; such a
        pipeline cannot be saved.

        Raises ValueError for an unknown kind, or where it is done already; ImportError without torchao.
        """
        if self.runtime != "torch":
            raise ValueError(f"quantize: runtime {self.runtime} computes with the weights as they are; use torch")
        for name, network in self._networks.items():
            if name.startswith(_QUANTIZED):
                quantize(network, kind)
                network._photofound_quantized = kind

    def enable_first_block_cache(self, threshold: float = THRESHOLD) -> None:
        """Let sampling steps whose first block does nearly what it did before skip the other blocks. For models of many
        steps: one of two steps has nothing to skip. A batch still gives what its members give alone.

        Args:
            threshold: how far the first block's work may be from that of the step whose results are used again, in
                [0, 1]; more is faster and less like the plain result. 0 = off.

        Raises:
            ValueError: for another threshold, or a network that has no such cache.
        """
        threshold = check_threshold(threshold)
        self.disable_first_block_cache()
        if threshold == 0:
            return
        from diffusers import FirstBlockCacheConfig

        network: Any = self._networks.get("transformer")
        if not hasattr(network, "enable_cache"):
            kind = type(network or self._networks.get("unet")).__name__
            raise ValueError(f"cache: {kind} has no blocks that may be skipped; leave the cache out")
        network.enable_cache(FirstBlockCacheConfig(threshold=threshold))

    def disable_first_block_cache(self) -> None:
        """Compute every block of every step again."""
        network: Any = self._networks.get("transformer")
        if getattr(network, "is_cache_enabled", False):
            network.disable_cache()

    def enable_path_drop_guidance(self) -> None:
        """Guide away from what the outer blocks make without the text, in place of the whole model without the text:
        Path-Drop Guidance (SPRINT, arXiv:2510.21986, section 3.3), for models that were trained with
        ``recipe.sprint_drop``. Guided steps cost little more than unguided ones. It counts where ``guidance_scale`` is
        not 1.

        Raises ValueError for a model without a fusion of its paths, and for a few-step student, which is not guided.
        """
        network: Any = self._networks.get("transformer")
        if getattr(network, "fusion", None) is None:
            raise ValueError("path-drop: this model has no two paths (it is for those trained with recipe.sprint); "
                             "leave it out")  # fmt: skip
        if self.config.get("distilled"):
            raise ValueError("path-drop: a few-step model is told the scale and not guided; use its teacher")
        network._photofound_path_drop = True

    def disable_path_drop_guidance(self) -> None:
        """Guide by the whole model without the text again."""
        network: Any = self._networks.get("transformer")
        network._photofound_path_drop = False

    @property
    def path_drop_guidance(self) -> bool:
        """Whether ``enable_path_drop_guidance`` is on."""
        return bool(getattr(self._networks.get("transformer"), "_photofound_path_drop", False))

    def compile(self, graphs: bool = False) -> None:
        """Compile the transformer, block by block, and the autoencoder's decoder by ``torch.compile``. The first call,
        and the first one at a new size, waits for the compiler. Results differ in the last bits.

        Args:
            graphs: compile the whole transformer and replay it as a CUDA graph, which launches a step's kernels at
                once: for small models, whose kernels are shorter than their launch.

        Raises:
            ValueError: graphs on another device than CUDA's, or weights of eight bits.
        """
        networks, device = self._networks, self._execution_device
        painter: Any = networks.get("transformer") or networks.get("unet")
        if graphs and device.type != "cuda":
            raise ValueError(f"compile: graphs are CUDA's, and this model is on {device.type}; leave graphs out")
        if any(hasattr(network, "_photofound_quantized") for network in networks.values()):
            raise ValueError("compile: the weights have eight bits by now; load the model anew and leave quantize out")
        if graphs:
            painter.compile(mode="reduce-overhead")
        elif getattr(painter, "_repeated_blocks", None):
            painter.compile_repeated_blocks()
        else:
            painter.compile()
        decoder: Any = getattr(networks.get("vae"), "decoder", None)
        if decoder is not None:
            decoder.compile()
        painter._photofound_compiled = "graphs" if graphs else "blocks"

    @property
    def precision(self) -> torch.dtype:
        """What the network that paints computes in."""
        dtype: torch.dtype = getattr(self.transformer, "precision", self.transformer.dtype)
        return dtype

    @property
    def runtime(self) -> str:
        """What runs the networks: ``torch``, ``onnx`` or ``openvino``."""
        return str(getattr(self._networks.get("transformer"), "runtime", "torch"))

    @property
    def computed(self) -> dict[str, Any]:
        """Where and how this pipeline computes, as far as it decides about bits."""
        precision, version = str(self.precision).removeprefix("torch."), torch.__version__.partition("+")[0]
        known = {"device": self._execution_device.type, "dtype": precision, "torch": version}
        if self.runtime != "torch":
            known["runtime"] = session.version(self.runtime)
        return {**known, **self.optimizations}

    @property
    def optimizations(self) -> dict[str, Any]:
        """Those that are on and change the pixels: ``quantize``, ``compile``, ``cache_threshold``, ``path_drop``,
        ``vae_tiling``. For recipes."""
        networks = self._networks
        painter: Any = networks.get("transformer")
        cache = getattr(painter, "_cache_config", painter)  # diffusers keeps the configuration, ours its number
        kinds = {getattr(each, "_photofound_quantized", None) for each in networks.values()} - {None}
        found = {
            "quantize": next(iter(kinds), None),
            "compile": getattr(painter, "_photofound_compiled", None),
            "cache_threshold": getattr(cache, "threshold", None) or getattr(cache, "_threshold", None) or None,
            "path_drop": self.path_drop_guidance or None,
            "vae_tiling": getattr(networks.get("vae"), "use_tiling", False) or None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def optimize(self, wanted: Mapping[str, Any]) -> None:
        """Switch on what ``optimizations`` has named. Raises ValueError for what cannot be."""
        if "quantize" in wanted:
            self.quantize(str(wanted["quantize"]))
        if "compile" in wanted:
            self.compile(graphs=wanted["compile"] == "graphs")
        if "cache_threshold" in wanted:
            self.enable_first_block_cache(wanted["cache_threshold"])
        if "path_drop" in wanted:
            self.enable_path_drop_guidance()
        if "vae_tiling" in wanted:
            self.enable_vae_tiling()

    def enable_vae_tiling(self) -> None:
        """Let the autoencoder work tile by tile, where it can: less memory for large working sizes."""
        vae: Any = self._networks.get("vae")
        if hasattr(vae, "enable_tiling"):
            vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Undo ``enable_vae_tiling``."""
        vae: Any = self._networks.get("vae")
        if hasattr(vae, "disable_tiling"):
            vae.disable_tiling()

    def enable_vae_slicing(self) -> None:
        """Pictures are encoded and decoded one by one here anyway: nothing changes."""

    def disable_vae_slicing(self) -> None:
        """Pictures are encoded and decoded one by one here anyway: nothing changes."""
