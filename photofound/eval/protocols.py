"""Evaluation protocols with names: which photographs, which holes, what is known to be true.

Everything is drawn from a fixed seed, so that two people who run a protocol on the same photographs have the same
problems. Pictures are (H, W, 3) uint8, holes and masks (H, W) bool.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from photofound import files, image
from photofound.data import sources
from photofound.data.ledger import files_below, warn_passed_over
from photofound.data.tars import IMAGES
from photofound.edits.colours import COLOURS

# ------------------------------------------------------------------------------------------------------- photographs


@dataclass(frozen=True)
class Photo:
    """A photograph to judge by.

    Attributes:
        mask: its object, or in a published set the hole; None where there is none.
        truth: the same place without the object, where somebody photographed it.
        holes: further holes by their names.
    """

    name: str
    rgb: np.ndarray = field(repr=False)
    caption: str = ""
    mask: np.ndarray | None = field(default=None, repr=False)
    truth: np.ndarray | None = field(default=None, repr=False)
    holes: dict[str, np.ndarray] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Entry:
    """A photograph that has not been read yet.

    Attributes:
        roles: which protocols it is for.
        read: gives it, scaled down to a longest side in pixels, or None.
        about: all that is known of it, as text.
    """

    name: str
    roles: frozenset[str]
    read: Callable[[int | None], Photo]
    about: str = ""


def find_photographs(source: str | Path, match: str | None = None) -> list[Entry]:
    """The photographs of a folder, or of anything else that ``photofound.data.sources`` opens.

    Known layouts: ``eval.json``, a list of objects with ``file`` and ``task`` and perhaps ``caption`` and ``mask``;
    BrushBench (``mapping_file.json``); RORD (``img/``, ``gt/``, ``mask/``); super-resolution sets, of which only the
    originals are taken: those in ``HR``, ``GT``, ``original``, ``GTmod12`` or, in ``Set5``, ``Set5_HR``, or those
    called ``*_HR.png``, of ``image_SRF_2`` and its like each once. Else every photograph, with the
    masks and captions that ``photofound.data.sources`` finds beside it.

    Args:
        match: only those of which anything that is known (name, label, where it comes from) holds this word.

    Raises ValueError when there is none.
    """
    folder = Path(source)
    if (folder / "eval.json").is_file():
        found = _listed(folder)
    elif (folder / "mapping_file.json").is_file():
        found = _brushbench(folder)
    elif all((folder / name).is_dir() for name in ("img", "gt", "mask")):
        found = _rord(folder)
    else:
        found = _any(_high_resolution(folder))
    chosen = [entry for entry in found if match is None or match.lower() in f"{entry.name} {entry.about}".lower()]
    if not chosen:
        which = f" that {match!r} describes" if found and match else ""
        raise ValueError(f"data: {source} holds no photographs{which}; name another folder")
    return chosen


def sample_photographs() -> list[Entry]:
    """Those in scikit-image's wheel: what there is where nobody named any. Raises ImportError without it."""
    try:
        from skimage import data
    except ImportError:
        raise ImportError("sample photographs need scikit-image: pip install 'photofound[eval]'") from None

    def read(name: str, max_side: int | None) -> Photo:
        picture = Image.fromarray(getattr(data, name)())
        if max_side is not None:
            picture.thumbnail((max_side, max_side))
        return Photo(name, np.asarray(picture))

    return [Entry(name, frozenset({"photo"}), partial(read, name)) for name in ("astronaut", "cat", "coffee", "rocket")]


def with_role(entries: Sequence[Entry], role: str, limit: int | None = None) -> list[Entry]:
    """Those with a role; of many, ``limit`` that are spread evenly."""
    found = [entry for entry in entries if role in entry.roles]
    return found if limit is None else found[:: max(1, len(found) // limit)][:limit]


_ROLES = {"photo": "photo", "product": "product", "object-removal": "removal", "inpaint-with-gt": "masked"}


def _listed(folder: Path) -> list[Entry]:
    found = []
    for each in _json(folder / "eval.json", list):
        if not isinstance(each, dict) or not {"file", "task"} <= set(each):
            raise ValueError(f"data: {folder / 'eval.json'} must list objects with file and task, not {each!r:.80}")
        role, mask = _ROLES.get(each["task"]), folder / each["mask"] if "mask" in each else None
        if role is None or (role != "photo" and mask is None):
            continue
        file, caption = folder / each["file"], each.get("caption", "")
        read = partial(_photo, file, each["file"], caption, mask, None)
        found.append(Entry(each["file"], frozenset({role}), read, json.dumps(each)))
    return found


def _brushbench(folder: Path) -> list[Entry]:
    """BrushBench (arXiv:2403.06976): holes inside and outside of an object, run-length coded at 512 x 512."""

    def read(each: dict[str, Any], max_side: int | None) -> Photo:
        sides = {"inside": "inpainting_mask", "outside": "outpainting_mask"}
        holes = {side: _run_lengths(each[key], (512, 512)) for side, key in sides.items() if key in each}
        rgb = np.asarray(Image.fromarray(_read(folder / each["image"], each["image"])).resize((512, 512)))
        return Photo(each["image"], rgb, each.get("caption", ""), holes=holes)

    found = []
    for key, each in _json(folder / "mapping_file.json", dict).items():
        if not isinstance(each, dict) or "image" not in each:
            raise ValueError(f"data: {folder / 'mapping_file.json'}: {key} must be an object with image and caption")
        about = each.get("caption", "")
        found.append(Entry(each["image"], frozenset({"brushbench"}), partial(read, each), about))
    return found


def _run_lengths(code: Sequence[Any], shape: tuple[int, int]) -> np.ndarray:
    """A mask from start, length, start, length, ...; the first pixel is 1, row by row."""
    flat = np.zeros(shape[0] * shape[1], bool)
    for start, length in np.asarray(code, int).reshape(-1, 2):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(shape)


def _rord(folder: Path) -> list[Entry]:
    """RORD (BMVC 2022): frames of a video with somebody in the way, and the same view without."""
    found = []
    names = ("img", "gt", "mask")
    images, truths, masks = (_by_name(folder / name) for name in names)
    for name, path in images.items():
        for kind, others in (("gt", truths), ("mask", masks)):
            if name not in others:
                raise ValueError(
                    f"data: {folder / kind / name}.* is missing, which belongs to {path}; copy the whole set"
                )
        shown = str(path.relative_to(folder / "img"))
        read = partial(_photo, path, shown, "", masks[name], truths[name])
        found.append(Entry(shown, frozenset({"rord"}), read))
    return found


def _by_name(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their paths in it, without suffix; what is none is said."""
    there = files_below(folder)
    pictures = [path for path in there if path.suffix.lower() in IMAGES]
    warn_passed_over(folder, [path.name for path in sorted(set(there) - set(pictures))], "no picture")
    return {str(path.relative_to(folder).with_suffix("")): path for path in pictures}


def _high_resolution(folder: Path) -> Path | list[Path]:
    """Of a super-resolution set in one of the usual layouts the originals; else the folder itself."""
    for name in ("HR", "GT", "original", "GTmod12", f"{folder.name}_HR"):
        if (folder / name).is_dir():
            return folder / name
    return _pairs(folder) or folder


def _pairs(folder: Path) -> list[Path]:
    """The originals ``*_HR.png``, or of another suffix, of pairs. Of several ``image_SRF_N``, which hold the same
    pictures, cropped to what N divides, one: that for x2, of which the crop for x4 is a part; else that for x4."""
    chosen: dict[Path, Path] = {}
    originals = [path for path in files_below(folder) if _is_original(path)]
    for parent in sorted({path.parent for path in originals}):
        numbered = re.fullmatch(r"image_SRF_\d+", parent.name)
        group = parent.parent if numbered else parent
        held = chosen.setdefault(group, parent)
        chosen[group] = min(held, parent, key=lambda each: (not each.name.endswith(("_2", "_4")), each.name))
    return [path for path in originals if path.parent in chosen.values()]


def _is_original(path: Path) -> bool:
    return path.stem.endswith("_HR") and path.suffix.lower() in IMAGES


def _any(source: Path | list[Path]) -> list[Entry]:
    if isinstance(source, list):
        return [
            Entry(path.name, frozenset({"photo"}), partial(_photo, path, path.name, "", None, None)) for path in source
        ]
    opened = sources.Source(str(source))
    found: list[Entry] = []
    for row in sources.open_source(opened):
        name = str(row.get("name") or row.get("__key__") or len(found))
        masked = any(row.get(column) is not None for column in sources.MASK_COLUMNS)
        roles = frozenset({"photo", "product", "masked"} if masked else {"photo"})
        about = " ".join(value for value in row.values() if isinstance(value, str))
        name = name.removeprefix(str(source)).lstrip("/")
        found.append(Entry(name, roles, partial(_from_row, row, opened, name), about))
    return found


def _from_row(row: Mapping[str, Any], source: sources.Source, name: str, max_side: int | None) -> Photo:
    raw = sources.raw(row, source)
    caption = raw.captions[0][0] if raw.captions else ""
    return _photo(raw.image, name, caption, raw.mask, None, max_side)


def _photo(
    file: Path | bytes,
    name: str,
    caption: str,
    mask: Path | bytes | None,
    truth: Path | None,
    max_side: int | None,
) -> Photo:
    """Read, and scale down to ``max_side``; the mask and the truth to the photograph's size."""
    picture = Image.fromarray(_read(file, name))
    if max_side is not None:
        picture.thumbnail((max_side, max_side))
    marked = None
    if mask is not None:
        given = _opened(mask, f"{name}, mask")
        matte = Image.fromarray(image.load_mask(given, given.size, f"mask of {name}", kept=True))
        marked = np.asarray(matte.resize(picture.size)) > 0.5
    whole = None if truth is None else np.asarray(Image.fromarray(_read(truth, name)).resize(picture.size))
    return Photo(name, np.asarray(picture), caption, marked, whole)


def _opened(file: Path | bytes, name: str) -> image.Picture:
    return image.load(file) if isinstance(file, Path) else image.decode(file, name)


def _read(file: Path | bytes, name: str) -> np.ndarray:
    return np.rint(_opened(file, name).rgb() * 255).astype(np.uint8)


def _json(path: Path, kind: type) -> Any:
    try:
        return files.read_json(path, kind, files.MAX_BYTES)
    except (ValueError, OSError) as error:
        raise ValueError(f"data: {error}; mend it") from None


# ------------------------------------------------------------------------------------------------------------- holes


def strokes(height: int, width: int, seed: int, share: float = 0.2) -> np.ndarray:
    """Brush strokes until they cover ``share`` of the picture."""
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
    """The middle ninth."""
    mask = np.zeros((height, width), bool)
    mask[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = True
    return mask


def border(height: int, width: int, share: float = 0.125) -> np.ndarray:
    """``share`` of the height above and below, of the width left and right."""
    mask = np.ones((height, width), bool)
    y, x = round(height * share), round(width * share)
    mask[y : height - y, x : width - x] = False
    return mask


def pasted(rgb: np.ndarray, product: Photo, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The photograph with a product a third as large upon it, and the product's mask, grown by 4 pixels."""
    import cv2

    assert product.mask is not None
    height, width = rgb.shape[:2]
    scale = min(height, width) / 3 / max(product.mask.shape)
    size = (max(1, round(product.mask.shape[1] * scale)), max(1, round(product.mask.shape[0] * scale)))
    pixels = cv2.resize(product.rgb, size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(product.mask.astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
    rng = np.random.default_rng(seed)
    top, left = rng.integers(0, height - size[1]), rng.integers(0, width - size[0])
    given, hole = rgb.copy(), np.zeros((height, width), np.uint8)
    given[top : top + size[1], left : left + size[0]][small] = pixels[small]
    hole[top : top + size[1], left : left + size[0]] = small
    return given, cv2.dilate(hole, np.ones((9, 9), np.uint8)).astype(bool)


def degraded(rgb: np.ndarray, scale: int, seed: int) -> np.ndarray:
    """Scaled down as cameras and websites do it: blurred, shrunk, noised, JPEG-coded (Real-ESRGAN, arXiv:2107.10833,
    first order), by amounts that the seed draws."""
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
    """One thing that every method is asked.

    Attributes:
        task: which edit.
        given: what a method may look at; holes hold grey, unless what they hold is to be erased.
        hole: where to paint; None for upscaling.
        truth: what is known to be right, None where nobody knows.
        prompt: may be empty.
        contrast: the prompt with another colour word, whose result is what ``prompt``'s is compared with.
        colour: (3,) in [0, 1], what the colour word of ``prompt`` means.
        scale: of an enlargement.
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


Maker = Callable[[Photo, int, "Photo | None"], dict[str, Any]]  # photograph, seed, product -> fields of a Problem


@dataclass(frozen=True)
class Protocol:
    """What is asked of which photographs.

    Attributes:
        role: which photographs it is for.
        make: turns one of them into a problem.
        pastes: whether it needs a product, too.
        enlarges: whether results are larger than what is given.
        repeat: so many problems, going round the photographs; None: one per photograph.
        multiple: photographs lose the last rows and columns that it does not divide, as the scale must.
    """

    title: str
    about: str
    role: str
    make: Maker
    pastes: bool = False
    enlarges: bool = False
    repeat: int | None = None
    multiple: int = 4


def _hidden(task: str, draw: Callable[[int, int, int], np.ndarray]) -> Maker:
    """Grey over a hole: nobody sees the truth."""

    def make(photo: Photo, seed: int, product: Photo | None) -> dict[str, Any]:
        height, width = photo.rgb.shape[:2]
        return _filled(task, photo.rgb, draw(height, width, seed))

    return make


def _filled(task: str, rgb: np.ndarray, hole: np.ndarray, prompt: str = "") -> dict[str, Any]:
    given = np.where(hole[..., None], np.uint8(127), rgb)
    return {"task": task, "given": given, "hole": hole, "truth": rgb, "prompt": prompt}


def _erase(photo: Photo, seed: int, product: Photo | None) -> dict[str, Any]:
    assert product is not None
    given, hole = pasted(photo.rgb, product, seed)
    return {"task": "erase", "given": given, "hole": hole, "truth": photo.rgb}


def _outpaint(photo: Photo, seed: int, product: Photo | None) -> dict[str, Any]:
    assert photo.mask is not None
    asked = {"task": "outpaint", "given": photo.rgb, "hole": ~photo.mask, "truth": None}
    return asked | {"prompt": "on a wooden table"}


# From the first colour to the second; each appears as often as its opposite does.
SWAPS = (
    ("red", "blue"), ("blue", "red"), ("green", "purple"), ("purple", "green"), ("yellow", "dark blue"),
    ("dark blue", "yellow"), ("black", "white"), ("white", "black"), ("orange", "teal"), ("teal", "orange"),
)  # fmt: skip


def _colour_word(photo: Photo, seed: int, product: Photo | None) -> dict[str, Any]:
    before, after = SWAPS[seed % len(SWAPS)]
    red, green, blue = (value / 255 for value in COLOURS[after][0])
    prompts = {"prompt": f"on a {after} background", "contrast": f"on a {before} background"}
    return _outpaint(photo, seed, product) | prompts | {"colour": (red, green, blue)}


def _enlarge(scale: int, shrink: Callable[[np.ndarray, int, int], np.ndarray]) -> Maker:
    def make(photo: Photo, seed: int, product: Photo | None) -> dict[str, Any]:
        small = shrink(photo.rgb, scale, seed)
        return {"task": "upscale", "given": small, "hole": None, "truth": photo.rgb, "scale": scale}

    return make


def _bicubic(rgb: np.ndarray, scale: int, seed: int) -> np.ndarray:
    size = (rgb.shape[1] // scale, rgb.shape[0] // scale)
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


def _own_mask(photo: Photo, seed: int, product: Photo | None) -> dict[str, Any]:
    assert photo.mask is not None
    return _filled("inpaint", photo.rgb, photo.mask, photo.caption)


def _removal(photo: Photo, seed: int, product: Photo | None) -> dict[str, Any]:
    return {"task": "erase", "given": photo.rgb, "hole": photo.mask, "truth": photo.truth}


def _brush(side: str) -> Maker:
    def make(photo: Photo, seed: int, product: Photo | None) -> dict[str, Any]:
        if side not in photo.holes:
            raise ValueError(f"data: {photo.name} has no {side} mask; copy the whole of BrushBench")
        return _filled("inpaint", photo.rgb, photo.holes[side], photo.caption)

    return make


PROTOCOLS = {
    "strokes-20": Protocol(
        "strokes 20 %",
        "brush strokes over 20 % of the picture are filled",
        "photo",
        _hidden("inpaint", strokes),
    ),
    "box-centre": Protocol(
        "centre box 1/9",
        "the middle ninth is filled",
        "photo",
        _hidden("inpaint", lambda height, width, seed: centre_box(height, width)),
    ),
    "border-12.5": Protocol(
        "border 12.5 %",
        "an eighth is continued on every side",
        "photo",
        _hidden("expand", lambda height, width, seed: border(height, width)),
    ),
    "object-erase": Protocol(
        "erase a pasted object",
        "a product pasted onto the photograph is taken away; the photograph itself is the truth",
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
        _enlarge(2, degraded),
        enlarges=True,
        multiple=2,
    ),
    "x4-real": Protocol(
        "upscale x4, real degradations",
        "enlarged from a blurred, noised JPEG",
        "photo",
        _enlarge(4, degraded),
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
        "the mask that comes with the photograph is filled, prompted by its caption",
        "masked",
        _own_mask,
    ),
    "object-removal": Protocol(
        "remove objects", "what the mask that comes with the photograph covers is erased; no truth", "removal", _removal
    ),
    "rord": Protocol("RORD", "real objects are erased; the truth is the next frame without them", "rord", _removal),
    "brushbench-inside": Protocol(
        "BrushBench, inside", "objects are painted anew from their caption", "brushbench", _brush("inside")
    ),
    "brushbench-outside": Protocol(
        "BrushBench, outside", "all but the object is painted anew from its caption", "brushbench", _brush("outside")
    ),
}
LARGEST_PRODUCT = 768  # pixels; larger product shots take long and tell no more
SMALLEST = 32  # pixels; SSIM's window and the perceptual network need them


def available(entries: Sequence[Entry]) -> list[str]:
    """Names of the protocols that these photographs allow."""
    roles = frozenset().union(*(entry.roles for entry in entries))
    return [name for name, p in PROTOCOLS.items() if p.role in roles and (not p.pastes or "product" in roles)]


def check_names(names: Sequence[str], entries: Sequence[Entry]) -> None:
    """ValueError for a protocol that is unknown, or that the photographs do not allow."""
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
    entries: Sequence[Entry],
    names: Sequence[str],
    limit: int | None = None,
    seed: int = 0,
    max_side: int | None = None,
) -> Iterator[Problem]:
    """The problems of the named protocols, photograph by photograph.

    Args:
        limit: so many photographs per protocol, spread evenly over those that there are.
        seed: of holes, places and degradations.
        max_side: larger photographs are scaled down to it.

    A photograph that cannot be read or judged by is left out with a warning. Raises ValueError as ``check_names`` does.
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
                whole = _divided(photo, PROTOCOLS[name].multiple) if role == "photo" else photo
                yield Problem(name, title, **PROTOCOLS[name].make(whole, seed + i, product))


def _read_or_warn(entry: Entry, role: str, max_side: int | None) -> Photo | None:
    try:
        photo = _fitting(entry, role, max_side)
        if min(photo.rgb.shape[:2]) < SMALLEST:
            size = f"{photo.rgb.shape[1]}x{photo.rgb.shape[0]}"
            raise ValueError(f"{entry.name}: {size} is too small to judge by, a side needs {SMALLEST} pixels")
        if role != "photo" and photo.mask is not None and photo.mask.min() == photo.mask.max():
            raise ValueError(f"{entry.name}: its mask marks {'all' if photo.mask.any() else 'nothing'} of it")
    except (ValueError, OSError) as error:
        warnings.warn(f"left out: {error}", stacklevel=3)
        return None
    return photo


def _fitting(entry: Entry, role: str, max_side: int | None) -> Photo:
    """Products are scaled down further."""
    return entry.read(min(max_side or LARGEST_PRODUCT, LARGEST_PRODUCT) if role == "product" else max_side)


def _divided(photo: Photo, multiple: int) -> Photo:
    """Without the last rows and columns that ``multiple`` does not divide, which an enlargement could not give back."""
    whole = tuple(slice(side // multiple * multiple) for side in photo.rgb.shape[:2])
    return replace(
        photo, rgb=np.ascontiguousarray(photo.rgb[whole]), mask=None if photo.mask is None else photo.mask[whole]
    )
