"""The photographs of an evaluation: plain folders, published test sets, and every source that training reads.

Pictures are (H, W, 3) uint8, masks and holes (H, W) bool.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from photofound import files, image
from photofound.data import sources
from photofound.data.ledger import files_below, warn_passed_over
from photofound.data.tars import IMAGES


@dataclass(frozen=True)
class EvalPhotograph:
    """A photograph to evaluate on.

    Attributes:
        mask: marks the object, or the hole of a published test set; None without a mask.
        truth: a photograph of the same place without the object; None if there is none.
        holes: named holes of a published test set.
    """

    name: str
    rgb: np.ndarray = field(repr=False)
    caption: str = ""
    mask: np.ndarray | None = field(default=None, repr=False)
    truth: np.ndarray | None = field(default=None, repr=False)
    holes: dict[str, np.ndarray] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class LazyPhotograph:
    """A photograph that has not been read yet.

    Attributes:
        roles: what it can be used for; each protocol needs photographs of one role.
        read: reads it; the argument is the longest side in pixels to scale it down to, None for its own size.
        about: everything that is known about it, as text for ``match``.
    """

    name: str
    roles: frozenset[str]
    read: Callable[[int | None], EvalPhotograph]
    about: str = ""


def find_photographs(source: str | Path, match: str | None = None) -> list[LazyPhotograph]:
    """The photographs of a folder, or of any other source that ``photofound.data.sources`` opens.

    These layouts are recognised:

    - ``eval.json``: a list of objects with ``file`` and ``task``, optionally ``caption`` and ``mask``;
    - BrushBench: ``mapping_file.json``;
    - RORD: the folders ``img``, ``gt`` and ``mask``;
    - super-resolution sets: only the originals are used. They lie in ``HR``, ``GT``, ``original``, ``GTmod12`` or
      ``NAME_HR`` (of the set NAME), or are called ``*_HR.png``. Of several ``image_SRF_N`` folders one is used.

    In any other folder every photograph is used, with the mask and the caption beside it.

    Args:
        match: keep only photographs whose name, label or source contains this word.

    Raises ValueError if no photograph is found.
    """
    folder = Path(source)
    if (folder / "eval.json").is_file():
        found = _listed(folder)
    elif (folder / "mapping_file.json").is_file():
        found = _brushbench(folder)
    elif all((folder / name).is_dir() for name in ("img", "gt", "mask")):
        found = _rord(folder)
    else:
        found = _any_source(_high_resolution(folder))
    chosen = [entry for entry in found if match is None or match.lower() in f"{entry.name} {entry.about}".lower()]
    if not chosen:
        which = f" that {match!r} describes" if found and match else ""
        raise ValueError(f"data: {source} holds no photographs{which}; name another folder")
    return chosen


def sample_photographs() -> list[LazyPhotograph]:
    """Four photographs from scikit-image, for a run without a folder. Raises ImportError without scikit-image."""
    try:
        from skimage import data
    except ImportError:
        raise ImportError("sample photographs need scikit-image: pip install 'photofound[eval]'") from None

    def read(name: str, max_side: int | None) -> EvalPhotograph:
        picture = Image.fromarray(getattr(data, name)())
        if max_side is not None:
            picture.thumbnail((max_side, max_side))
        return EvalPhotograph(name, np.asarray(picture))

    return [
        LazyPhotograph(name, frozenset({"photo"}), partial(read, name))
        for name in ("astronaut", "cat", "coffee", "rocket")
    ]


def with_role(entries: Sequence[LazyPhotograph], role: str, limit: int | None = None) -> list[LazyPhotograph]:
    """The photographs with a role; at most ``limit`` of them, spread evenly over the list."""
    found = [entry for entry in entries if role in entry.roles]
    return found if limit is None else found[:: max(1, len(found) // limit)][:limit]


_ROLES = {"photo": "photo", "product": "product", "object-removal": "removal", "inpaint-with-gt": "masked"}


def _listed(folder: Path) -> list[LazyPhotograph]:
    found = []
    for each in _json(folder / "eval.json", list):
        if not isinstance(each, dict) or not {"file", "task"} <= set(each):
            raise ValueError(f"data: {folder / 'eval.json'} must list objects with file and task, not {each!r:.80}")
        role, mask = _ROLES.get(each["task"]), folder / each["mask"] if "mask" in each else None
        if role is None or (role != "photo" and mask is None):
            continue
        file, caption = folder / each["file"], each.get("caption", "")
        read = partial(_photo, file, each["file"], caption, mask, None)
        found.append(LazyPhotograph(each["file"], frozenset({role}), read, json.dumps(each)))
    return found


def _brushbench(folder: Path) -> list[LazyPhotograph]:
    """BrushBench (arXiv:2403.06976): run-length coded holes, inside and outside an object, at 512 x 512."""

    def read(each: dict[str, Any], max_side: int | None) -> EvalPhotograph:
        sides = {"inside": "inpainting_mask", "outside": "outpainting_mask"}
        holes = {side: _run_lengths(each[key], (512, 512)) for side, key in sides.items() if key in each}
        rgb = np.asarray(Image.fromarray(_read(folder / each["image"], each["image"])).resize((512, 512)))
        return EvalPhotograph(each["image"], rgb, each.get("caption", ""), holes=holes)

    found = []
    for key, each in _json(folder / "mapping_file.json", dict).items():
        if not isinstance(each, dict) or "image" not in each:
            raise ValueError(f"data: {folder / 'mapping_file.json'}: {key} must be an object with image and caption")
        about = each.get("caption", "")
        found.append(LazyPhotograph(each["image"], frozenset({"brushbench"}), partial(read, each), about))
    return found


def _run_lengths(code: Sequence[Any], shape: tuple[int, int]) -> np.ndarray:
    """A mask from pairs of start and length. Pixels are counted from 1, row by row."""
    flat = np.zeros(shape[0] * shape[1], bool)
    for start, length in np.asarray(code, int).reshape(-1, 2):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(shape)


def _rord(folder: Path) -> list[LazyPhotograph]:
    """RORD (BMVC 2022): video frames with a person in the way, and the same view without the person."""
    found = []
    names = ("img", "gt", "mask")
    images, truths, masks = (_by_name(folder / name) for name in names)
    for name, path in images.items():
        for kind, others in (("gt", truths), ("mask", masks)):
            if name not in others:
                raise ValueError(
                    f"data: {folder / kind / name}.* is missing, which belongs to {path}; copy the whole set"
                )
        relative = str(path.relative_to(folder / "img"))
        read = partial(_photo, path, relative, "", masks[name], truths[name])
        found.append(LazyPhotograph(relative, frozenset({"rord"}), read))
    return found


def _by_name(folder: Path) -> dict[str, Path]:
    """The pictures below a folder: relative path without suffix -> path. Other files are reported and left out."""
    paths = files_below(folder)
    pictures = [path for path in paths if path.suffix.lower() in IMAGES]
    warn_passed_over(folder, [path.name for path in sorted(set(paths) - set(pictures))], "no picture")
    return {str(path.relative_to(folder).with_suffix("")): path for path in pictures}


def _high_resolution(folder: Path) -> Path | list[Path]:
    """The originals of a super-resolution set in one of the usual layouts; otherwise the folder itself."""
    for name in ("HR", "GT", "original", "GTmod12", f"{folder.name}_HR"):
        if (folder / name).is_dir():
            return folder / name
    return _originals_of_pairs(folder) or folder


def _originals_of_pairs(folder: Path) -> list[Path]:
    """The files ``*_HR.png`` (or another suffix) of a set that stores pairs.

    Folders ``image_SRF_N`` hold the same pictures, cropped to a multiple of N. One of them is used: N = 2 if there is
    one, since the crop for 4 is a part of it, then N = 4, then the first."""
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


def _any_source(source: Path | list[Path]) -> list[LazyPhotograph]:
    if isinstance(source, list):
        readers = {path: partial(_photo, path, path.name, "", None, None) for path in source}
        return [LazyPhotograph(path.name, frozenset({"photo"}), read) for path, read in readers.items()]
    opened = sources.Source(str(source))
    found: list[LazyPhotograph] = []
    for row in sources.open_source(opened):
        name = str(row.get("name") or row.get("__key__") or len(found))
        masked = any(row.get(column) is not None for column in sources.MASK_COLUMNS)
        roles = frozenset({"photo", "product", "masked"} if masked else {"photo"})
        about = " ".join(value for value in row.values() if isinstance(value, str))
        name = name.removeprefix(str(source)).lstrip("/")
        found.append(LazyPhotograph(name, roles, partial(_from_row, row, opened, name), about))
    return found


def _from_row(row: Mapping[str, Any], source: sources.Source, name: str, max_side: int | None) -> EvalPhotograph:
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
) -> EvalPhotograph:
    """Read and scale down to ``max_side``. The mask and the truth are resized to the photograph's size."""
    picture = Image.fromarray(_read(file, name))
    if max_side is not None:
        picture.thumbnail((max_side, max_side))
    mask_array, truth_array = None, None
    if mask is not None:
        opened = _open(mask, f"{name}, mask")
        matte = Image.fromarray(image.load_mask(opened, opened.size, f"mask of {name}", kept=True))
        mask_array = np.asarray(matte.resize(picture.size)) > 0.5
    if truth is not None:
        truth_array = np.asarray(Image.fromarray(_read(truth, name)).resize(picture.size))
    return EvalPhotograph(name, np.asarray(picture), caption, mask_array, truth_array)


def _open(file: Path | bytes, name: str) -> image.Picture:
    return image.load(file) if isinstance(file, Path) else image.decode(file, name)


def _read(file: Path | bytes, name: str) -> np.ndarray:
    return np.rint(_open(file, name).rgb() * 255).astype(np.uint8)


def _json(path: Path, kind: type) -> Any:
    try:
        return files.read_json(path, kind, files.MAX_BYTES)
    except (ValueError, OSError) as error:
        raise ValueError(f"data: {error}; correct the file") from None
