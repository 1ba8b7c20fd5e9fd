"""What saves time and memory: weights of eight bits, skipped blocks, an autoencoder that works tile by tile."""

from __future__ import annotations

from typing import Any

from torch import nn

from photofound.model.cache import THRESHOLD, check_threshold
from photofound.model.quantize import quantize
from photofound.storage import StoredPipeline

_QUANTIZED = ("transformer", "unet", "text_encoder")  # networks whose name begins so


class OptimizedPipeline(StoredPipeline):
    """The pipelines of all tasks that share weights share these settings, too."""

    @property
    def _networks(self) -> dict[str, Any]:
        """The networks by name."""
        return {name: part for name, part in self.components.items() if isinstance(part, nn.Module)}

    def quantize(self, kind: str) -> None:
        """Store the weights of the transformer and the text encoder in eight bits, ``int8`` or ``fp8``, by torchao. It
        saves memory, not time. A batch still gives what its members give alone. LoRAs are to be loaded before; such a
        pipeline cannot be saved.

        Raises ValueError for an unknown kind, or where it is done already; ImportError without torchao.
        """
        for name, network in self._networks.items():
            if name.startswith(_QUANTIZED):
                quantize(network, kind)

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
