"""White that stays white in a JPEG: where a block holds an edge, compression leaves its white pixels at 252 or 254.

A marketplace that asks for 255 may refuse these. ``restored`` changes the coefficients of such blocks, and of no
others, until every pixel that was white is decoded as white: the errors that decoding would make are subtracted from
what is encoded, again and again.
"""

from __future__ import annotations

import io
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np

_ROUNDS = 96
_STEPS = 150
_HEAVIEST = 1e4
_REST = 0.02  # how much a pixel that is not white weighs beside a white one
_BEYOND, _GREY = 0.5, 0.3  # decoded values lie so far beyond white and so near to no colour: decoders round them
_lock = threading.Lock()  # the library's files are its own, but not its state


def tables(quality: int) -> list[list[int]]:
    """Quantisation tables with which white can be kept: the usual one for lightness, the finest for colours."""
    from PIL import Image, JpegImagePlugin

    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG", quality=quality)
    with Image.open(stream) as tiny:
        assert isinstance(tiny, JpegImagePlugin.JpegImageFile)
        return [list(tiny.quantization[0]), [1] * 64]


def restored(data: bytes, white: np.ndarray) -> bytes:
    """A JPEG without subsampling (4:4:4) in which the pixels of ``white`` (H, W) bool are decoded as (255, 255, 255).

    Its metadata and all blocks that hold no edge of white stay as they are. Without the package jpeglib it comes back
    unchanged, with a warning.
    """
    try:
        import jpeglib
    except ImportError:
        advice = "pip install jpeglib keeps it, or save a PNG"
        warnings.warn(f"white beside an edge may become 254 in a JPEG; {advice}", stacklevel=3)
        return data
    with _lock, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.jpg"
        path.write_bytes(data)
        image = jpeglib.read_dct(str(path))
        if image.Cb is None or image.Cb.shape != image.Y.shape:
            return data
        planes = [image.Y, image.Cb, image.Cr]
        tables = [image.qt[number].astype(np.float32).ravel() for number in image.quant_tbl_no]
        if not _correct(planes, tables, white):
            return data
        image.write_dct(str(path))
        return path.read_bytes()


def _correct(planes: list[np.ndarray], tables: list[np.ndarray], white: np.ndarray) -> bool:
    """Change quantised coefficients (rows, columns, 8, 8) in place; False where nothing had to be."""
    rows, columns = planes[0].shape[:2]
    padded = np.ones((8 * rows, 8 * columns), bool)
    padded[: white.shape[0], : white.shape[1]] = white
    blocks = padded.reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3).reshape(-1, 64)
    index = np.flatnonzero(blocks.any(1) & ~blocks.all(1))
    if not len(index):
        return False
    wanted = blocks[index]
    found = [plane.reshape(-1, 64)[index].astype(np.float32) for plane in planes]
    _lighten(found[0], tables[0], wanted)
    for values, table in zip(found[1:], tables[1:], strict=True):
        _without_colour(values, table, wanted)
    for plane, values in zip(planes, found, strict=True):
        flat = plane.reshape(-1, 64).copy()
        flat[index] = values.astype(plane.dtype)
        plane[...] = flat.reshape(plane.shape)
    return True


def _lighten(values: np.ndarray, table: np.ndarray, wanted: np.ndarray) -> None:
    """Change the lightness's coefficients (n, 64) in place until ``wanted`` pixels are decoded as white or beyond it,
    which decoders cut off: what is missing is added to what is encoded, again and again."""
    target = (values * table) @ _BASIS
    target[wanted] = 127.0
    live = np.arange(len(values))
    for _ in range(_ROUNDS):
        values[live] = np.rint(target[live] @ _BASIS.T / table)
        missing = np.minimum((values[live] * table) @ _BASIS - (127 + _BEYOND), 0) * wanted[live]
        target[live] -= missing
        live = live[missing.any(1)]
        if not len(live):
            return


def _without_colour(values: np.ndarray, table: np.ndarray, wanted: np.ndarray) -> None:
    """Change a colour's coefficients (n, 64) in place until ``wanted`` pixels are decoded without it. It has no room
    beyond: so the one step of one coefficient that helps most is taken, again and again, and pixels that resist weigh
    more each time. Blocks that find no way, of which hardly anything is not white, become paler."""
    target = (values * table) @ _BASIS
    target[wanted] = 0
    live = np.arange(len(values))
    for paler in (1.0, 0.5, 0.25):
        if paler < 1:
            values[live] = np.rint(paler * target[live] @ _BASIS.T / table)
        live = _descended(values, table, wanted, paler * target, live)
        if not len(live):
            return
    values[live] = 0


def _descended(
    values: np.ndarray, table: np.ndarray, wanted: np.ndarray, target: np.ndarray, live: np.ndarray
) -> np.ndarray:
    """As ``_without_colour``, for the blocks ``live``: those that are left."""
    weight = np.where(wanted[live], 1, _REST).astype(np.float32)
    squares = _BASIS.T**2
    for _ in range(_STEPS):
        away = (values[live] * table) @ _BASIS - target[live]
        wrong = (np.abs(away) > _GREY) & wanted[live]
        some = wrong.any(1)
        live, away, wrong, weight = live[some], away[some], wrong[some], weight[some]
        if not len(live):
            break
        slope = (away * weight) @ _BASIS.T * table
        gain = 2 * np.abs(slope) - (weight @ squares) * table**2
        rows, best = np.arange(len(live)), gain.argmax(1)
        helps = gain[rows, best] > 0
        values[live[helps], best[helps]] -= np.sign(slope[rows, best])[helps]
        stuck = ~helps[:, None] & wrong & (weight < _HEAVIEST)
        weight[stuck] *= 1.5
    return live


def _cosines() -> np.ndarray:
    """(64, 64): row k is the picture of coefficient k, of the orthonormal DCT of 8 x 8 (ITU-T T.81, A.3.3)."""
    n = np.arange(8)
    waves = np.cos((2 * n[None] + 1) * n[:, None] * np.pi / 16) * np.sqrt(np.where(n == 0, 1, 2) / 8)[:, None]
    return np.kron(waves, waves).astype(np.float32)


_BASIS = _cosines()
