"""Finder: a segmenter by name that travels to other processes, and is loaded there.

find = Finder("facebook/sam3", "the left shoe")
room.matte(find, "sam3", cluster="")            # loaded once in each actor
matte = find.load()(rgb)                        # (H, W, 3) float32 in [0, 1] to (H, W)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from photofound import segmenters
from photofound.device import resolve_device
from photofound.edits.segmenter import Search


@dataclass(frozen=True)
class Finder:
    """A segmenter by name (``photofound.segmenters``, or ``cutout``, the head of a model).

    Args:
        name: of the segmenter.
        text: what it is to find, in words.
        model: of ``cutout``: its folder; None: the embedded one.
    """

    name: str = "cutout"
    text: str = ""
    model: str | None = None

    def __post_init__(self) -> None:
        for name in ("name", "model"):  # others work in other folders
            if (given := getattr(self, name)) and Path(given).is_dir():
                object.__setattr__(self, name, os.path.abspath(given))

    def load(self) -> Search:
        """Raises ValueError for a segmenter that cannot be had, or cannot be told words."""
        if self.name == "cutout":
            from photofound.pipeline import EditPipeline

            pipe = EditPipeline.from_pretrained(self.model).to(resolve_device("auto"))
            return pipe.search("cutout", self.text)
        return Search(segmenters.load(self.name, resolve_device("auto")), self.text)


def finder(name: str, text: str = "", model: str | None = None) -> Finder | Callable[[np.ndarray], np.ndarray]:
    """What finds subjects by a segmenter's name: GrabCut and functions of yours as they are, since they need no network
    and travel by themselves; the others as a ``Finder``."""
    made = Finder(name.strip(), text, model)
    return made.load() if made.name == "grabcut" or segmenters.is_function(made.name) else made
