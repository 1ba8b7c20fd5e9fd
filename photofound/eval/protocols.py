"""Evaluation protocols with names: which holes in which photographs, and the known truth.

Everything is drawn from a fixed seed, so two people who run a protocol on the same photographs get the same problems.
Pictures are (H, W, 3) uint8, holes and masks (H, W) bool.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from photofound.edits.colours import COLOURS
from photofound.eval.photographs import EvalPhotograph, LazyPhotograph, with_role

# ------------------------------------------------------------------------------------------------ holes, degradations


def strokes(height: int, width: int, seed: int, share: float = 0.2) -> np.ndarray:
    """Random brush strokes that cover at least ``share`` of the picture."""
    import cv2

    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    side = min(height, width)
    while mask.mean() < share:
        point = rng.uniform((0, 0), (width, height))
        angle, thickness = rng.uniform(0, 2 * np.pi), max(2, round(side * rng.uniform(0.02, 0.08)))
        for _ in range(rng.integers(2, 6)):
            angle += rng.uniform(-1, 1)
            end = point + side * rng.uniform(0.05, 0.3) * np.array([np.cos(angle), np.sin(angle)])
            a, b = (tuple(int(v) for v in p) for p in (point, end))
            cv2.line(mask, a, b, 1, thickness)
            point = end
    return mask.astype(bool)


def centre_box(height: int, width: int) -> np.ndarray:
    """The middle ninth of the picture."""
    mask = np.zeros((height, width), bool)
    mask[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = True
    return mask


def border(height: int, width: int, share: float = 0.125) -> np.ndarray:
    """A frame: ``share`` of the height at the top and bottom, ``share`` of the width at the left and right."""
    mask = np.ones((height, width), bool)
    y, x = round(height * share), round(width * share)
    mask[y : height - y, x : width - x] = False
    return mask


def paste_product(rgb: np.ndarray, product: EvalPhotograph, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The photograph with a product pasted on it, a third as large, and the product's mask grown by 4 pixels."""
    import cv2

    assert product.mask is not None
    height, width = rgb.shape[:2]
    scale = min(height, width) / 3 / max(product.mask.shape)
    size = (max(1, round(product.mask.shape[1] * scale)), max(1, round(product.mask.shape[0] * scale)))
    pixels = cv2.resize(product.rgb, size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(product.mask.astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
    rng = np.random.default_rng(seed)
    top, left = rng.integers(0, height - size[1]), rng.integers(0, width - size[0])
    pasted_on, hole = rgb.copy(), np.zeros((height, width), np.uint8)
    pasted_on[top : top + size[1], left : left + size[0]][small] = pixels[small]
    hole[top : top + size[1], left : left + size[0]] = small
    return pasted_on, cv2.dilate(hole, np.ones((9, 9), np.uint8)).astype(bool)


def degrade(rgb: np.ndarray, scale: int, seed: int) -> np.ndarray:
    """A low-resolution picture as cameras and websites make it: blurred, scaled down, with noise, JPEG-compressed
    (Real-ESRGAN, arXiv:2107.10833, first order). The seed draws the amounts."""
    import cv2

    rng = np.random.default_rng(seed)
    blurred = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.2, 0.5) * scale)
    size = (rgb.shape[1] // scale, rgb.shape[0] // scale)
    method = rng.choice([cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC])
    small = cv2.resize(blurred, size, interpolation=int(method)).astype(np.float32)
    noised = small + rng.normal(0, rng.uniform(1, 10), small.shape)
    stream = io.BytesIO()
    Image.fromarray(noised.round().clip(0, 255).astype(np.uint8)).save(
        stream, "JPEG", quality=int(rng.integers(60, 95))
    )
    return np.asarray(Image.open(stream).convert("RGB"))


# --------------------------------------------------------------------------------------------------------- protocols


@dataclass(frozen=True)
class Problem:
    """One edit that every method is asked for.

    Attributes:
        task: name of the edit.
        given: the input picture. Holes are grey, except where the method has to erase what is in them.
        hole: where to paint; None for upscaling.
        truth: the known right result; None if nobody knows it.
        prompt: may be empty.
        contrast: the same prompt with another colour word. The two results are compared.
        colour: (3,) in [0, 1], the colour that the prompt names.
        scale: the factor of an enlargement.
    """

    protocol: str
    name: str
    task: str
    given: np.ndarray = field(repr=False)
    hole: np.ndarray | None = field(repr=False)
    truth: np.ndarray | None = field(repr=False)
    prompt: str = ""
    contrast: str = ""
    colour: tuple[float, float, float] | None = None
    scale: int = 1


# (photograph, seed, product) -> the fields of a Problem
Maker = Callable[[EvalPhotograph, int, EvalPhotograph | None], dict[str, Any]]


@dataclass(frozen=True)
class Protocol:
    """A rule that turns photographs into problems.

    Attributes:
        title, about: for reports.
        role: which photographs it needs.
        make: turns a photograph into a problem.
        pastes: whether it also needs a product to paste.
        enlarges: whether results are larger than the input.
        repeat: the number of problems, reusing photographs if needed; None: one problem per photograph.
        multiple: photographs are cropped to a multiple of it, since an enlargement has such sides.
    """

    title: str
    about: str
    role: str
    make: Maker
    pastes: bool = False
    enlarges: bool = False
    repeat: int | None = None
    multiple: int = 4


def _hide(task: str, draw: Callable[[int, int, int], np.ndarray]) -> Maker:
    """Problems whose hole is grey, so that no method sees the truth."""

    def make(photo: EvalPhotograph, seed: int, product: EvalPhotograph | None) -> dict[str, Any]:
        height, width = photo.rgb.shape[:2]
        return _with_grey_hole(task, photo.rgb, draw(height, width, seed))

    return make


def _with_grey_hole(task: str, rgb: np.ndarray, hole: np.ndarray, prompt: str = "") -> dict[str, Any]:
    given = np.where(hole[..., None], np.uint8(127), rgb)
    return {"task": task, "given": given, "hole": hole, "truth": rgb, "prompt": prompt}


def _erase(photo: EvalPhotograph, seed: int, product: EvalPhotograph | None) -> dict[str, Any]:
    assert product is not None
    given, hole = paste_product(photo.rgb, product, seed)
    return {"task": "erase", "given": given, "hole": hole, "truth": photo.rgb}


def _outpaint(photo: EvalPhotograph, seed: int, product: EvalPhotograph | None) -> dict[str, Any]:
    assert photo.mask is not None
    return {
        "task": "outpaint",
        "given": photo.rgb,
        "hole": ~photo.mask,
        "truth": None,
        "prompt": "on a wooden table",
    }


# From the first colour to the second. Each swap also appears in the other direction.
SWAPS = (
    ("red", "blue"), ("blue", "red"), ("green", "purple"), ("purple", "green"), ("yellow", "dark blue"),
    ("dark blue", "yellow"), ("black", "white"), ("white", "black"), ("orange", "teal"), ("teal", "orange"),
)  # fmt: skip


def _colour_word(photo: EvalPhotograph, seed: int, product: EvalPhotograph | None) -> dict[str, Any]:
    before, after = SWAPS[seed % len(SWAPS)]
    red, green, blue = (value / 255 for value in COLOURS[after][0])
    prompts = {"prompt": f"on a {after} background", "contrast": f"on a {before} background"}
    return _outpaint(photo, seed, product) | prompts | {"colour": (red, green, blue)}


def _enlarge(scale: int, shrink: Callable[[np.ndarray, int, int], np.ndarray]) -> Maker:
    def make(photo: EvalPhotograph, seed: int, product: EvalPhotograph | None) -> dict[str, Any]:
        small = shrink(photo.rgb, scale, seed)
        return {"task": "upscale", "given": small, "hole": None, "truth": photo.rgb, "scale": scale}

    return make


def _bicubic(rgb: np.ndarray, scale: int, seed: int) -> np.ndarray:
    size = (rgb.shape[1] // scale, rgb.shape[0] // scale)
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


def _own_mask(photo: EvalPhotograph, seed: int, product: EvalPhotograph | None) -> dict[str, Any]:
    assert photo.mask is not None
    return _with_grey_hole("inpaint", photo.rgb, photo.mask, photo.caption)


def _removal(photo: EvalPhotograph, seed: int, product: EvalPhotograph | None) -> dict[str, Any]:
    return {"task": "erase", "given": photo.rgb, "hole": photo.mask, "truth": photo.truth}


def _brush(side: str) -> Maker:
    def make(photo: EvalPhotograph, seed: int, product: EvalPhotograph | None) -> dict[str, Any]:
        if side not in photo.holes:
            raise ValueError(f"data: {photo.name} has no {side} mask; copy the whole of BrushBench")
        return _with_grey_hole("inpaint", photo.rgb, photo.holes[side], photo.caption)

    return make


PROTOCOLS = {
    "strokes-20": Protocol(
        "strokes 20 %",
        "brush strokes over 20 % of the picture are filled",
        "photo",
        _hide("inpaint", strokes),
    ),
    "box-centre": Protocol(
        "centre box 1/9",
        "the middle ninth is filled",
        "photo",
        _hide("inpaint", lambda height, width, seed: centre_box(height, width)),
    ),
    "border-12.5": Protocol(
        "border 12.5 %",
        "an eighth is continued on every side",
        "photo",
        _hide("expand", lambda height, width, seed: border(height, width)),
    ),
    "object-erase": Protocol(
        "erase a pasted object",
        "a product pasted on the photograph is erased; the photograph itself is the truth",
        "photo",
        _erase,
        pastes=True,
    ),
    "x2": Protocol(
        "upscale x2", "enlarged from a bicubic reduction", "photo", _enlarge(2, _bicubic), enlarges=True, multiple=2
    ),
    "x4": Protocol("upscale x4", "enlarged from a bicubic reduction", "photo", _enlarge(4, _bicubic), enlarges=True),
    "x2-real": Protocol(
        "upscale x2, real degradations",
        "enlarged from a blurred, noised JPEG",
        "photo",
        _enlarge(2, degrade),
        enlarges=True,
        multiple=2,
    ),
    "x4-real": Protocol(
        "upscale x4, real degradations",
        "enlarged from a blurred, noised JPEG",
        "photo",
        _enlarge(4, degrade),
        enlarges=True,
    ),
    "outpaint-product": Protocol(
        "outpaint a product", "a new background, 'on a wooden table'; the truth is unknown", "product", _outpaint
    ),
    "colour-words": Protocol(
        "colour words",
        "ten swaps of the colour word in a background prompt; does the mean background colour visibly follow?",
        "product",
        _colour_word,
        repeat=len(SWAPS),
    ),
    "own-masks": Protocol(
        "fill own masks",
        "the photograph's own mask is filled; the prompt is its caption",
        "masked",
        _own_mask,
    ),
    "object-removal": Protocol(
        "remove objects", "what the photograph's own mask covers is erased; the truth is unknown", "removal", _removal
    ),
    "rord": Protocol("RORD", "real objects are erased; the truth is the next frame without them", "rord", _removal),
    "brushbench-inside": Protocol(
        "BrushBench, inside", "objects are painted again from their caption", "brushbench", _brush("inside")
    ),
    "brushbench-outside": Protocol(
        "BrushBench, outside",
        "everything but the object is painted again from its caption",
        "brushbench",
        _brush("outside"),
    ),
}
LARGEST_PRODUCT = 768  # pixels; larger product photographs take long and add nothing
SMALLEST = 32  # pixels; SSIM's window and the perceptual network need this much


def available(entries: Sequence[LazyPhotograph]) -> list[str]:
    """Names of the protocols that these photographs can be used for."""
    roles = frozenset().union(*(entry.roles for entry in entries))
    return [name for name, p in PROTOCOLS.items() if p.role in roles and (not p.pastes or "product" in roles)]


def check_names(names: Sequence[str], entries: Sequence[LazyPhotograph]) -> None:
    """Raises ValueError for an unknown protocol, or one that these photographs cannot be used for."""
    for name in names:
        if name not in PROTOCOLS:
            raise ValueError(f"protocol {name!r} is unknown; known: {', '.join(PROTOCOLS)}")
        if name not in available(entries):
            wanted = "product" if PROTOCOLS[name].pastes else PROTOCOLS[name].role
            raise ValueError(f"protocol {name!r} needs {_NEEDS[wanted]}; leave it out or name other data")


_NEEDS = {
    "photo": "photographs",
    "product": "photographs with the mask of an object",
    "masked": "photographs with masks",
    "removal": "photographs that eval.json lists for object-removal",
    "rord": "the folders img/, gt/ and mask/ of RORD",
    "brushbench": "the mapping_file.json of BrushBench",
}


def problems(
    entries: Sequence[LazyPhotograph],
    names: Sequence[str],
    limit: int | None = None,
    seed: int = 0,
    max_side: int | None = None,
) -> Iterator[Problem]:
    """The problems of the named protocols, photograph by photograph.

    Args:
        limit: at most this many photographs per protocol, spread evenly.
        seed: of holes, positions and degradations.
        max_side: larger photographs are scaled down to this side in pixels.

    A photograph that cannot be read or used is left out with a warning. Raises ValueError as ``check_names`` does.
    """
    check_names(names, entries)
    products = with_role(entries, "product")
    for role, repeat in dict.fromkeys((PROTOCOLS[name].role, PROTOCOLS[name].repeat) for name in names):
        wanted = [name for name in names if (PROTOCOLS[name].role, PROTOCOLS[name].repeat) == (role, repeat)]
        chosen = with_role(entries, role, min(limit or repeat, repeat) if repeat else limit)
        for i in range(repeat or len(chosen)):
            photo = _read_or_warn(chosen[i % len(chosen)], role, max_side)
            if photo is None:
                continue
            title = f"{i + 1}, {photo.name}" if repeat else photo.name
            for name in wanted:
                pastes = PROTOCOLS[name].pastes
                product = _read_or_warn(products[i % len(products)], "product", max_side) if pastes else None
                if pastes and product is None:
                    continue
                cropped = _crop_to_multiple(photo, PROTOCOLS[name].multiple) if role == "photo" else photo
                yield Problem(name, title, **PROTOCOLS[name].make(cropped, seed + i, product))


def _read_or_warn(entry: LazyPhotograph, role: str, max_side: int | None) -> EvalPhotograph | None:
    try:
        largest = min(max_side or LARGEST_PRODUCT, LARGEST_PRODUCT) if role == "product" else max_side
        photo = entry.read(largest)
        if min(photo.rgb.shape[:2]) < SMALLEST:
            size = f"{photo.rgb.shape[1]}x{photo.rgb.shape[0]}"
            raise ValueError(f"{entry.name}: {size} is too small to judge by, a side needs {SMALLEST} pixels")
        if role != "photo" and photo.mask is not None and photo.mask.min() == photo.mask.max():
            raise ValueError(f"{entry.name}: its mask marks {'all' if photo.mask.any() else 'nothing'} of it")
    except (ValueError, OSError) as error:
        warnings.warn(f"left out: {error}", stacklevel=3)
        return None
    return photo


def _crop_to_multiple(photo: EvalPhotograph, multiple: int) -> EvalPhotograph:
    """Without the last rows and columns that ``multiple`` does not divide. No enlargement could have them."""
    inner = tuple(slice(side // multiple * multiple) for side in photo.rgb.shape[:2])
    mask = None if photo.mask is None else photo.mask[inner]
    return replace(photo, rgb=np.ascontiguousarray(photo.rgb[inner]), mask=mask)
