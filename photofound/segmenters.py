"""Segmenters by name: ``grabcut``, a model of transformers (id or folder), ``nobg[:ID]``, ``rembg[:MODEL]``,
``module:function``. The model's own head, ``cutout``, is ``subjects.SubjectPipeline.search``'s.

    segmenter = load("facebook/sam2.1-hiera-tiny")
"""

from __future__ import annotations

import importlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from photofound import config
from photofound.edits.segmenter import Segmenter, grabcut, of_function

NOBG = "feyninc/FeyNobg"
REMBG = "isnet-general-use"  # Apache-2.0; rembg's own default must not be used for business
_LOADED = 2  # models that stay in memory


def load(name: str, device: torch.device | str = "cpu") -> Segmenter:
    """The segmenter of a name; the last two stay in memory. Raises ValueError, with one line, for an unknown name, a
    missing package, a model that cannot be loaded."""
    return _load(str(name).strip(), str(device))


@lru_cache(maxsize=_LOADED)
def _load(name: str, device: str) -> Segmenter:
    kind, colon, rest = name.partition(":")
    if name == "grabcut":
        return grabcut()
    if kind == "rembg":
        return _rembg(rest or REMBG)
    if kind == "nobg":
        from photofound.model import segmentation

        return segmentation.load_nobg(rest or NOBG, device)
    if is_function(name):
        try:
            return of_function(config.function(name), name)
        except ValueError as error:
            raise ValueError(f"segmenter: {error}") from None
    if not Path(name).is_dir() and not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        known = "cutout, grabcut, rembg, nobg, a model's folder or Hub id, or module:function"
        raise ValueError(f"segmenter: {name!r} is unknown; give {known}")
    from photofound.model import segmentation

    return segmentation.load(name, device)


def is_function(name: str) -> bool:
    """Whether a name is that of a function of Python, which runs what its module holds."""
    kind, colon, _ = name.strip().partition(":")
    return bool(colon) and kind not in ("rembg", "nobg") and not Path(name.strip()).is_dir()


def _rembg(model: str) -> Segmenter:
    """One of the models of the package rembg, which fetches it on first use."""
    try:
        rembg = importlib.import_module("rembg")
    except (ImportError, SystemExit) as error:  # rembg exits where onnxruntime is missing
        needs = getattr(error, "name", None) or "rembg"
        raise ValueError(f"segmenter: rembg needs {needs}, which is missing; pip install 'photofound[rembg]'") from None
    try:
        session = rembg.new_session(model)
    except Exception as error:  # ValueError for an unknown model; its download and onnxruntime raise their own
        raise ValueError(f"segmenter: rembg cannot load {model!r} ({error})".replace("\n", " ")) from None

    def find(picture: np.ndarray, **_: Any) -> np.ndarray:
        found = np.asarray(rembg.remove(picture, session=session, only_mask=True))
        return found.reshape(picture.shape[:2]).astype(np.float32) / 255

    return Segmenter(f"rembg:{model}", find, fine=True)
