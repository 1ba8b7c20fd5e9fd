"""Photographs for training that fit into memory: read once, kept as uint8, cropped and batched on the device.

The source is a folder of WebDataset tars, each sample ``KEY.jpg`` (or any other suffix of a picture that is read) with
``KEY.json`` (``text``) and, where there is one, a foreground mask ``KEY.mask.png`` (white = object). For more than
memory holds see ``stream.py``.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from torch import Tensor

from photofound import files
from photofound.card.record import Origin, licence_of, tally
from photofound.edits.colours import alike, border_colour, ground_colour
from photofound.edits.geometry import bounding_box
from photofound.edits.masks import GRABCUT_FRAME, Segmenter, grabcut
from photofound.edits.task import Sample
from photofound.picture import image

logger = logging.getLogger(__name__)

MAX_FILES = 100  # of one sample
MAX_BREAKS = 1000  # places where a tar is damaged and reading goes on
DAMAGED = 0.01  # the share of damaged samples that a run puts up with
T = TypeVar("T")

IMAGES = tuple(dict.fromkeys((".webp", ".jpg", ".jpeg", ".png", *image.READABLE_SUFFIXES)))
"""Suffixes of a sample's photograph: the first of them that there is."""
MASKS = tuple(f".mask{suffix}" for suffix in IMAGES)


@dataclass(frozen=True)
class Photograph:
    """One training photograph. ``pixels``: (3, H, W) uint8; ``matte``: (1, H, W) uint8, 255 = object, or None;
    ``source`` and ``licence`` as its metadata name them, "" where they do not."""

    pixels: Tensor
    matte: Tensor | None
    caption: str
    source: str
    licence: str = ""


class Ledger:
    """Counts samples and the damaged ones, names each of these in the log, and ends a run that meets too many."""

    def __init__(self, log: Path | None = None) -> None:
        self.log, self.seen, self.damaged = log, 0, 0
        self._last = ""

    def skip(self, name: str, reason: object) -> None:
        """Note a damaged sample."""
        self.damaged += 1
        what = why(reason).removeprefix(f"{name}: ")
        self._last = " ".join(f"{name[:300]} ({what[:300]})".split())  # a stranger's names are one short line
        logger.warning("data: skipped %s", self._last)
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a") as file:
                file.write(self._last + "\n")

    def check(self, least: int = 1000) -> None:
        """Raise ValueError when more than 1 % are damaged, of ``least`` samples or more."""
        if self.damaged > DAMAGED * max(self.seen, least):
            raise ValueError(
                f"data: {self.damaged} of {self.seen} samples are damaged, more than {DAMAGED:.0%}; the last is "
                f"{self._last}; drop them with 'photofound train prepare'"
            )


def why(error: object) -> str:
    """What an error says, with its kind where that tells more."""
    if not isinstance(error, Exception) or (isinstance(error, (ValueError, OSError)) and str(error)):
        return str(error)
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def read(folder: str | Path, short_side: int = 288, limit: int | None = None) -> list[Photograph]:
    """All photographs below ``folder``, a path or a URL, scaled down so that the short side is ``short_side`` (never
    up). Damaged ones are left out and named in the log.

    Raises FileNotFoundError when there is no tar, ValueError when none holds a picture with a caption, or when more
    than 1 % of them are damaged.
    """
    tars = files.find(folder, "*.tar")
    if not tars:
        raise FileNotFoundError(f"data: {folder} holds no .tar; point data.folder at WebDataset tars")
    tell_rest(folder, tars)
    found = (sample for tar in tars for sample in samples(tar) if ".json" in sample or "damaged" in sample)
    with ThreadPoolExecutor(4) as pool:
        decoded = list(pool.map(lambda s: _decoded(s, short_side), _take(found, limit)))
    photographs = kept(decoded)
    if not photographs:
        raise ValueError(f"data: no sample in {folder} has both a picture and a .json; see the WebDataset format")
    return photographs


def tell_rest(folder: str | Path, read: Sequence[str]) -> None:
    """Say which pictures, tars and parquet files of a folder on this machine are not among those that are read."""
    here = files.local(folder)
    if here is not None and here.is_dir():
        kinds, known = (*IMAGES, ".tar", ".parquet"), set(read)
        tell_passed_over(here, [p.name for p in files_below(here) if p.suffix.lower() in kinds and str(p) not in known])


def tell_passed_over(where: str | Path, names: Sequence[str], why: str = "") -> None:
    """One line in the log; the same one once, not in every epoch."""
    if names:
        rest = f", {len(names) - 3} more" if len(names) > 3 else ""
        _warn_once(f"data: {where}: passed over {', '.join(names[:3])}{rest}" + (f" ({why})" if why else ""))


@lru_cache(maxsize=1000)
def _warn_once(line: str) -> None:
    logger.warning("%s", line)


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and of those in it, sorted; nothing that is hidden."""
    found: list[Path] = []
    for top, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(top, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def kept(found: Sequence[T | tuple[str, Exception]]) -> list[T]:
    """What there is of a collection without its damaged samples, (name, error) each, which are counted and named.

    Raises ValueError when more than 1 % of it are damaged.
    """
    ledger = Ledger()
    ledger.seen = len(found)
    for damaged in found:
        if isinstance(damaged, tuple):
            ledger.skip(*damaged)
    ledger.check(least=1)
    return [each for each in found if not isinstance(each, tuple)]


def _take(found: Iterator[dict[str, bytes]], limit: int | None) -> Iterator[dict[str, bytes]]:
    for i, sample in enumerate(found):
        if limit is not None and i >= limit:
            return
        yield sample


def samples(tar: str | Path) -> Iterator[dict[str, bytes]]:
    """The samples of a WebDataset tar that have a picture: ``.EXTENSION`` -> bytes, grouped by folder and key (members
    of a sample lie together), and ``name`` for messages. One whose files are sparse or too large to be read has
    ``damaged``, which says so. Where the tar itself is damaged, a sample says that, and those behind the damage follow;
    one beside it that has fewer files than others is dropped."""
    current: str | None = None
    sample: dict[str, bytes] = {}
    size, beside = 0, False  # beside a damage
    usual: set[str] | None = None
    without: list[str] = []  # names of samples that have no picture

    def ended() -> Iterator[dict[str, bytes]]:
        nonlocal usual
        if "damaged" in sample:
            yield sample
        elif _whole(sample) and not (beside and (usual is None or usual - _kinds(sample))):
            usual = _kinds(sample)
            yield sample
        elif sample and not beside:
            without.append(sample["name"].decode(errors="replace").removeprefix(f"{tar} "))

    try:
        with files.open_file(tar) as opened:
            for found in _members(opened):
                if isinstance(found, Exception):
                    beside = True
                    yield from ended()
                    if "damaged" not in sample:  # else it was the damage
                        yield _unreadable(tar, found)
                    current, sample = None, {}
                    continue
                archive, member = found
                if not member.isfile():
                    continue
                key, _, extension = Path(member.name).name.partition(".")
                key = f"{Path(member.name).parent}/{key}"
                if key != current:
                    yield from ended()
                    beside = beside and current is None
                    current, sample, size = key, {"name": f"{tar} ({member.name})".encode()}, 0
                size += member.size
                if member.issparse():
                    sample["damaged"] = f"its .{extension} is sparse".encode()
                elif size > files.MAX_BYTES or len(sample) > MAX_FILES:
                    limit = f"{files.MAX_BYTES:,} bytes or {MAX_FILES} files"
                    sample.setdefault("damaged", f"its .{extension} makes it more than {limit}".encode())
                elif "damaged" not in sample:
                    try:
                        file = archive.extractfile(member)
                        assert file is not None
                        sample["." + extension.lower()] = file.read()
                    except tarfile.ReadError as error:  # it ends before its time
                        sample |= _unreadable(tar, error)
    except Exception as error:  # tarfile and what decompresses raise nearly anything
        sample = _unreadable(tar, error)
    yield from ended()
    tell_passed_over(tar, without, "no picture beside it")


def _unreadable(tar: str | Path, error: Exception) -> dict[str, bytes]:
    return {"name": str(tar).encode(), "damaged": f"cannot be read ({why(error)}); replace it".encode()}


def _kinds(sample: dict[str, bytes]) -> set[str]:
    """Extensions of a sample's files; those of pictures are one."""
    return {"image" if extension in IMAGES else extension for extension in sample}


def _members(opened: BinaryIO) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo] | Exception]:
    """The members of a tar, each with the archive to read it from. Where a header is broken, or a member claims more
    bytes than there are, what is wrong comes in between, and reading goes on at the next header that is whole."""
    stream: Any = opened
    start, told = 0, False
    for _ in range(MAX_BREAKS):
        last = start  # the header that was read last
        try:
            archive = tarfile.open(fileobj=opened) if start == 0 else tarfile.TarFile(fileobj=stream)
            stream = archive.fileobj
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # they are not needed again, there may be millions
                last = member.offset_data - tarfile.BLOCKSIZE
                if member.size < 0:
                    raise tarfile.ReadError("a member of negative size")
                told = False
                yield archive, member
            last = archive.offset
            if _is_end(stream, last):
                return
            raise tarfile.ReadError(f"a broken header at byte {last:,}")
        except Exception as error:
            if not told:
                yield error
        told = True
        try:
            found = _next_header(stream, last + tarfile.BLOCKSIZE)
        except Exception:  # of what decompresses
            return
        if found is None:
            return
        start = found
        stream.seek(start)


def _is_end(stream: BinaryIO, offset: int) -> bool:
    """Whether a tar ends here: with two empty blocks, or with its file."""
    stream.seek(offset)
    return not any(stream.read(2 * tarfile.BLOCKSIZE))


def _next_header(stream: BinaryIO, start: int) -> int | None:
    """Where the next block is that looks like a header; None where there is none within the largest sample."""
    step = 2**20
    stream.seek(start)
    for offset in range(start, start + files.MAX_BYTES, step):
        content = stream.read(step)
        for block in range(0, len(content), tarfile.BLOCKSIZE):
            if content[block + 257 : block + 262] == b"ustar":
                return offset + block
        if len(content) < step:
            return None
    return None


def _whole(sample: dict[str, bytes]) -> bool:
    return "damaged" in sample or any(e in sample for e in IMAGES)


def _decoded(sample: dict[str, bytes], short_side: int) -> Photograph | tuple[str, Exception]:
    """A photograph, or its name and what is wrong with it."""
    try:
        return _decode(sample, short_side)
    except Exception as error:
        return sample["name"].decode(errors="replace"), error


def _decode(sample: dict[str, bytes], short_side: int) -> Photograph:
    name = sample["name"].decode(errors="replace")
    if "damaged" in sample:
        raise ValueError(sample["damaged"].decode(errors="replace"))
    try:
        meta: dict[str, Any] = json.loads(sample[".json"])
        file = next(sample[e] for e in IMAGES if e in sample)
        mask = next((sample[e] for e in MASKS if e in sample), None)
        about = (str(meta["text"]), str(meta.get("source", "")), licence_of(meta))
        return photograph(file, short_side, mask, name, None, *about)
    except KeyError:
        raise ValueError('its .json has no "text"') from None


def photograph(
    file: bytes,
    short_side: int,
    mask: bytes | None = None,
    name: str = "image",
    foreground: bytes | None = None,
    caption: str = "",
    source: str = "",
    licence: str = "",
) -> Photograph:
    """A photograph of a file, scaled down (never up) to a short side of ``short_side``; the rest is as in ``decode``.

    Raises ValueError or OSError when it is damaged.
    """
    pixels, matte = decode(file, scaled(image.upright_size(file, name), short_side), mask, name, foreground=foreground)
    return Photograph(_planes(pixels), None if matte is None else _planes(matte), caption, source, licence)


def scaled(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """A size (W, H) brought down, never up, to a short side of ``short_side``."""
    scale = min(1.0, short_side / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def origins(folder: str | Path, limit: int | None = None) -> list[tuple[str, str]]:
    """Source and licence of each photograph of ``read``, in its order, "" where unknown. No picture is decoded."""
    found = (sample for tar in files.find(folder, "*.tar") for sample in samples(tar) if ".json" in sample)
    return [_origin(sample) for sample in _take(found, limit)]


def _origin(sample: dict[str, bytes]) -> tuple[str, str]:
    try:
        table = json.loads(sample[".json"])
        return str(table.get("source", "")), licence_of(table)
    except (ValueError, AttributeError, RecursionError):
        return "", ""


def decode(
    file: bytes,
    size: tuple[int, int],
    mask: bytes | None = None,
    name: str = "image",
    max_pixels: int | None = None,
    foreground: bytes | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """A photograph at ``size`` (W, H), upright, in sRGB, transparent parts on white.

    JPEGs are decoded at a fraction of their size where that is enough.

    Returns:
        (H, W, 3) uint8 and the matte (H, W) uint8, 255 = object: ``mask``, else the alpha of the cut-out
        ``foreground``, else the photograph's own alpha, else None.
    """
    picture = image.decode(file, name, max_pixels, at_least=size)
    alpha = picture.alpha()
    if alpha is not None:  # before it is resized: hidden colours must not bleed into visible ones
        picture = image.Picture.from_any(picture.rgb() * alpha[..., None] + (1 - alpha[..., None]))
    pixels = _eight_bit(picture.resize(size).rgb())
    if mask is not None:
        given = _same_frame(mask, size, f"{name}, mask")
        matte = image.load_mask(given, given.size, f"mask of {name}", kept=True)
        return pixels, _eight_bit(_resized_matte(matte, size))
    if foreground is not None:
        cut_out = _same_frame(foreground, size, f"{name}, foreground")
        alpha = cut_out.alpha()
        if alpha is None:
            raise ValueError(f"{name}: its foreground has no alpha channel; pass a mask if it is one")
    return pixels, None if alpha is None or alpha.min() == 1 else _eight_bit(_resized_matte(alpha, size))


def _same_frame(file: bytes, size: tuple[int, int], name: str) -> image.Picture:
    """A mask or a cut-out, which must be of about the photograph's shape."""
    picture = image.decode(file, name)
    if abs(picture.width * size[1] / (picture.height * size[0]) - 1) > 0.05:
        raise ValueError(f"{name}: is {picture.width}x{picture.height}, of another shape than the photograph")
    return picture


def _resized_matte(matte: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import cv2

    method = cv2.INTER_AREA if size[0] < matte.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(matte, size, interpolation=method)


def _eight_bit(array: np.ndarray) -> np.ndarray:
    return np.rint(array * 255).astype(np.uint8)


def _planes(array: np.ndarray) -> Tensor:
    """(H, W) or (H, W, C) to (C, H, W)."""
    return torch.from_numpy(array.reshape(*array.shape[:2], -1).transpose(2, 0, 1).copy())


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 0..255 to float32 [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1)


def to_bytes(pixels: Tensor) -> Tensor:
    """Float [-1, 1] to uint8 0..255: the other way; what lies beyond is clipped."""
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def random_int(high: int, generator: torch.Generator) -> int:
    """A uniform integer in [0, high)."""
    return int(torch.randint(high, (1,), generator=generator, device=generator.device))


class PhotoStore:
    """All photographs at a few sizes in one flat uint8 tensor on the device.

    Sizes take the place of random rescaling: a crop from the smallest size is nearly the whole picture, one from the
    largest is texture. A photograph below several sizes is kept once; its rows share their pixels. Crops are views; a
    batch of them is one copy, on the CPU or a GPU alike.

    Attributes:
        flat: all pixels and mattes, uint8.
        table: (R, 9) int64, one row per photograph and size: offset of the pixels, of the matte (-1 = none), height,
            width, the complete object's left, top, right and bottom (zeros = none), and the photograph's index.
        captions, sources, licences: per photograph, the ways to caption it, where it is from, under which licence.
    """

    def __init__(
        self,
        flat: Tensor,
        table: Tensor,
        captions: list[list[str]],
        sources: list[str],
        licences: list[str] | None = None,
    ) -> None:
        self.flat, self.table, self.captions, self.sources = flat, table, captions, sources
        self.licences = licences or [""] * len(sources)
        self.offset, self.matte_offset, self.height, self.width = table[:, :4].unbind(1)
        self.box, self.photograph = table[:, 4:8], table[:, 8]

    @classmethod
    def build(cls, photographs: Sequence[Photograph], sizes: Sequence[int]) -> PhotoStore:
        rows: list[list[int]] = []
        chunks: list[Tensor] = []
        offset = 0
        for index, photograph in enumerate(photographs):
            kept: dict[tuple[int, ...], list[int]] = {}  # shape -> row
            for size in sizes:
                pixels, matte = _scaled(photograph, size)
                if pixels.shape not in kept:
                    matte_offset = -1 if matte is None else offset + pixels.numel()
                    kept[pixels.shape] = [offset, matte_offset, *pixels.shape[-2:], *_object_box(matte), index]
                    chunks += [pixels.flatten()] if matte is None else [pixels.flatten(), matte.flatten()]
                    offset += sum(x.numel() for x in (pixels, matte) if x is not None)
                rows.append(kept[pixels.shape])
        sources, licences = [p.source for p in photographs], [p.licence for p in photographs]
        return cls(torch.cat(chunks), torch.tensor(rows), [captions(p) for p in photographs], sources, licences)

    def save(self, path: Path) -> None:
        """Write the store as one safetensors file, whole or not at all."""
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        words = {name: json.dumps(getattr(self, name)) for name in ("captions", "sources", "licences")}
        with files.replacing(path) as partial:
            save_file({"flat": self.flat, "table": self.table.contiguous()}, partial, words)

    @classmethod
    def load(cls, path: Path) -> PhotoStore:
        """Read what ``save`` wrote. Raises ValueError for any other file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                words = file.metadata() or {}
                captions, sources = json.loads(words["captions"]), json.loads(words["sources"])
                licences = json.loads(words.get("licences", "null"))  # older stores have none
                return cls(file.get_tensor("flat"), file.get_tensor("table"), captions, sources, licences)
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"data.cache: {path} is no photo store ({error}); delete it, it is made again") from None

    def to(self, device: torch.device | str) -> PhotoStore:
        """The same store with its pixels on ``device``."""
        return PhotoStore(self.flat.to(device), self.table, self.captions, self.sources, self.licences)

    def part(self, rows: Tensor) -> PhotoStore:
        """Some rows of the store, chosen by (R,) bool; the pixels are shared."""
        return PhotoStore(self.flat, self.table[rows], self.captions, self.sources, self.licences)

    def origins(self) -> tuple[Origin, ...]:
        """Where the photographs of its rows are from, under which licences, and how many they are."""
        return tally((self.sources[i], self.licences[i]) for i in self.photograph.unique().tolist())

    @property
    def device(self) -> torch.device:
        return self.flat.device

    @classmethod
    def open(
        cls, folder: str, sizes: Sequence[int], cache: str | None = None, limit: int | None = None, mattes: bool = False
    ) -> PhotoStore:
        """The store of a folder of tars: from its cache file where that exists, else built, and cached if a file is
        named. ``mattes`` adds those of ``matte_plain_grounds``."""
        path = files.output(cache, "data.cache") if cache else None
        if path and path.is_file():
            return cls.load(path)._licensed(folder, limit)
        photographs = read(folder, max(sizes), limit)
        store = cls.build(matte_plain_grounds(photographs) if mattes else photographs, sizes)
        if path:
            store.save(path)
        return store

    def _licensed(self, folder: str, limit: int | None) -> PhotoStore:
        """This store; one without licences takes them from the tars that it was made of, if they are still there."""
        if not any(self.licences) and (here := files.local(folder)) is not None and here.is_dir():
            found = origins(folder, limit)
            if [source for source, _ in found] == self.sources:
                self.licences = [licence for _, licence in found]
        return self

    def rows(self, crop: int, objects: bool = False) -> Tensor:
        """Indices of the rows that a crop fits into; with ``objects``, those whose whole object fits into it."""
        fits = (self.height >= crop) & (self.width >= crop)
        if objects:
            sides = torch.stack([self.box[:, 2] - self.box[:, 0], self.box[:, 3] - self.box[:, 1]]).amax(0)
            fits &= (sides > crop // 5) & (sides <= crop - 4)
        return fits.nonzero()[:, 0]

    def sample(self, rows: Tensor, crop: int, objects: bool, generator: torch.Generator, mirror: bool = True) -> Sample:
        """Random square crops of the given rows, with ``mirror`` every other one mirrored; with ``objects`` each holds
        the whole object.

        ``generator`` is on the CPU; the pixels and mattes of the result are on the store's device.
        """
        count = len(rows)
        height, width, box = self.height[rows], self.width[rows], self.box[rows]
        top_range, left_range = torch.zeros(count, 2), torch.zeros(count, 2)
        top_range[:, 1], left_range[:, 1] = height - crop, width - crop
        if objects:  # the window must begin before the object and end after it
            top_range[:, 0], left_range[:, 0] = (box[:, 3] - crop).clamp(min=0), (box[:, 2] - crop).clamp(min=0)
            top_range[:, 1] = torch.minimum(top_range[:, 1], box[:, 1].float())
            left_range[:, 1] = torch.minimum(left_range[:, 1], box[:, 0].float())
        u = torch.rand(count, 2, generator=generator).clamp(max=1 - 1e-6)  # else rounding can step over the end
        top = (top_range[:, 0] + u[:, 0] * (top_range[:, 1] - top_range[:, 0] + 1)).floor().long()
        left = (left_range[:, 0] + u[:, 1] * (left_range[:, 1] - left_range[:, 0] + 1)).floor().long()
        flip = torch.rand(count, generator=generator) < 0.5 * mirror
        places = list(zip(rows.tolist(), top.tolist(), left.tolist(), flip.tolist(), strict=True))
        pixels = torch.stack([self._window(int(self.offset[r]), 3, r, y, x, crop, f) for r, y, x, f in places])
        empty = torch.zeros(1, crop, crop, dtype=torch.uint8, device=self.device)
        mattes = [(int(self.matte_offset[r]), r, y, x, f) for r, y, x, f in places]
        matte = torch.stack([self._window(o, 1, r, y, x, crop, f) if o >= 0 else empty for o, r, y, x, f in mattes])
        picks = torch.rand(count, generator=generator)
        prompts = [_pick(self.captions[int(c)], float(u)) for c, u in zip(self.photograph[rows], picks, strict=True)]
        return Sample(to_unit(pixels), matte.float().div_(255), prompts)

    def _window(self, offset: int, channels: int, row: int, top: int, left: int, crop: int, flip: bool) -> Tensor:
        """A (channels, crop, crop) view of the store."""
        height, width = int(self.height[row]), int(self.width[row])
        planes = self.flat[offset : offset + channels * height * width].view(channels, height, width)
        window = planes[:, top : top + crop, left : left + crop]
        return window.flip(-1) if flip else window


def _pick(choices: Sequence[str], u: float) -> str:
    return choices[min(int(u * len(choices)), len(choices) - 1)]


def _scaled(photograph: Photograph, size: int) -> tuple[Tensor, Tensor | None]:
    """The photograph with a short side of ``size`` (as it is, if it is smaller)."""
    shape = _shape_of_short_side(photograph.pixels, size)
    if shape == tuple(photograph.pixels.shape[-2:]):
        return photograph.pixels, photograph.matte
    return _resized(photograph.pixels, shape), None if photograph.matte is None else _resized(photograph.matte, shape)


def _shape_of_short_side(pixels: Tensor, size: int) -> tuple[int, ...]:
    """(H, W) of a picture scaled down, never up, to a short side of ``size``."""
    scale = min(1.0, size / min(pixels.shape[-2:]))
    return tuple(round(side * scale) for side in pixels.shape[-2:])


def _resized(pixels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(C, H, W) uint8 to (C, *shape): area average when it shrinks, linear when it grows."""
    import cv2

    method = cv2.INTER_AREA if shape[0] < pixels.shape[1] else cv2.INTER_LINEAR
    array = cv2.resize(pixels.permute(1, 2, 0).numpy(), shape[::-1], interpolation=method)
    return torch.from_numpy(array.reshape(*shape, -1).transpose(2, 0, 1).copy())


def _object_box(matte: Tensor | None, frame: int = 1) -> tuple[int, int, int, int]:
    """The box of a complete object: one that covers 3 to 75 % and does not touch the outermost ``frame`` pixels; zeros
    for none."""
    if matte is None:
        return (0, 0, 0, 0)
    solid = matte[0].numpy() > 127
    if solid.sum() != solid[frame:-frame, frame:-frame].sum() or not 0.03 < solid.mean() < 0.75:
        return (0, 0, 0, 0)
    return tuple(bounding_box(solid))  # type: ignore[return-value]


def holds_object(matte: Tensor) -> bool:
    """Whether a matte (1, H, W) in [0, 1] is that of a complete object (see ``_object_box``)."""
    return _object_box((matte.cpu() * 255).byte()) != (0, 0, 0, 0)


def cut_clean(
    pixels: Tensor, segmenter: Segmenter = grabcut, plain: bool = True, short_side: int = 112
) -> Tensor | None:
    """The matte (1, H, W) uint8 of a photograph's object (3, H, W), where it comes out clean, else None.

    Clean means: complete (see ``_object_box``) and 5 to 70 % of the picture; with ``plain`` also that the border is of
    one colour, without which GrabCut is guessing, and at most 30 % of the object: more is ground or a shadow on it.
    ``short_side`` is what the segmenter sees at most.
    """
    ground = ground_colour(pixels) if plain else None
    if plain and ground is None:
        return None
    small = _resized(pixels, _shape_of_short_side(pixels, short_side))
    rgb = small.permute(1, 2, 0).numpy()
    mask = segmenter(rgb.astype(np.float32) / 255)
    matte, solid = torch.from_numpy(_eight_bit(mask))[None], mask > 0.5
    # GrabCut's mattes never reach the frame: of an object that does, they end where it is told that there is none.
    frame = math.ceil((GRABCUT_FRAME + 0.01) * min(solid.shape)) if segmenter is grabcut else 1
    if _object_box(matte, frame) == (0, 0, 0, 0) or not 0.05 < float(solid.mean()) < 0.7:
        return None
    if ground is not None and alike(rgb[solid], ground).mean() > 0.3:
        return None
    return _resized(matte, tuple(pixels.shape[-2:]))


def matte_plain_grounds(photographs: Sequence[Photograph], workers: int = 2) -> list[Photograph]:
    """Give photographs of objects on an even ground a matte by GrabCut, where it comes out clean."""

    def matted(photograph: Photograph) -> Photograph:
        matte = None if photograph.matte is not None else cut_clean(photograph.pixels)
        return photograph if matte is None else replace(photograph, matte=matte)

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(matted, photographs))


_LEADS = ("A photo of ", "A product photo of ", "a photo of ")
_TAILS = (" laid out or hanging at home", " in a grocery store", " on a plain light background", ", or its preparation")


def captions(photograph: Photograph) -> list[str]:
    """Ways to caption a photograph: its own words, shorter ones, and ones that name the ground's colour where one
    dominates."""
    words = photograph.caption.strip().rstrip(".")
    for lead in _LEADS:
        words = words.removeprefix(lead)
    subject = words
    for tail in _TAILS:
        subject = subject.removesuffix(tail)
    subject = subject.split(" on a ")[0]
    colour = border_colour(photograph.pixels)
    if colour is None:
        return [words, words, subject]
    return [words, f"{subject} on a {colour} background", f"on a {colour} background", f"{colour} background"]
