"""How a JPEG was compressed, so that an edit of it is compressed in the same way.

What an edit keeps then comes out of the same quantisation nearly as it went in (docs/file-formats.md measures it).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, JpegImagePlugin

from photofound.picture import metadata
from photofound.picture.arrays import SIDEWAYS, upright


@dataclass(frozen=True, eq=False)
class JpegSource:
    """A JPEG file with what Pillow needs to compress another picture of its size in the same way."""

    data: bytes  # the file
    size: tuple[int, int]  # upright
    is_grey: bool
    orientation: int
    options: dict[str, Any]  # Pillow's: quantisation tables as they are once upright, sampling, scans

    @staticmethod
    def of(image: Image.Image, stream: BinaryIO) -> JpegSource | None:
        """The source of a grey or colour JPEG. None if Pillow cannot write its kind, or if turning it upright moves its
        blocks."""
        if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.mode not in ("L", "RGB"):
            return None
        sampling = 0 if image.mode == "L" else JpegImagePlugin.get_sampling(image)
        orientation = metadata.orientation(image)
        tables = _upright_tables(image, orientation)
        if sampling not in (0, 1, 2) or tables is None or not _keeps_blocks(image.size, sampling, orientation):
            return None
        options = {"qtables": tables, "subsampling": sampling, "progressive": "progressive" in image.info}
        options["keep_rgb"] = image.layer[0][0] == ord("R")  # components named R, G, B: not converted to YCbCr
        stream.seek(0)
        size = image.size[::-1] if orientation in SIDEWAYS else image.size
        return JpegSource(stream.read(), size, image.mode == "L", orientation, options)

    def fits(self, image: Image.Image) -> bool:
        """Whether an image of mode L or RGB has the size and the channels of this file."""
        return image.size == self.size and (image.mode == "L") == self.is_grey

    def restored(self, image: Image.Image) -> Image.Image:
        """The image to compress: ``image``, with the file's own luma and chroma where it still has the file's colours.

        Chroma at half size is interpolated for the eye when it is read, and would be blurred a little by every further
        averaging. Repeated instead, its average is what the file holds.
        """
        if self.is_grey or self.options["keep_rgb"] or self.options["subsampling"] == 1 or min(self.size) < 16:
            return image
        ycbcr = self._decoded("YCbCr")
        if self.options["subsampling"] == 2:
            ycbcr[..., 1:] = self._decoded("YCbCr", 2)[..., 1:]
        changed = (np.asarray(image) != self._decoded("RGB")).any(axis=2)
        ycbcr[changed] = np.asarray(image.convert("YCbCr"))[changed]
        return Image.fromarray(ycbcr, "YCbCr")

    def _decoded(self, mode: str, scale: int = 1) -> np.ndarray:
        """(H, W, 3) uint8, upright. Decoded at half its size and repeated, chroma at half size is as it is stored."""
        with JpegImagePlugin.JpegImageFile(io.BytesIO(self.data)) as image:
            width, height = image.size
            image.draft(mode, (width // scale, height // scale))
            pixels = np.asarray(image) if scale == 1 else np.asarray(image).repeat(scale, axis=0).repeat(scale, axis=1)
            return np.array(upright(pixels[:height, :width], self.orientation))


def _upright_tables(image: JpegImagePlugin.JpegImageFile, orientation: int) -> list[list[int]] | None:
    """The quantisation tables of the components. A turn by a right angle swaps horizontal and vertical frequencies."""
    order = [8 * (n % 8) + n // 8 if orientation in SIDEWAYS else n for n in range(64)]
    tables = [image.quantization[table] for _, _, _, table in image.layer if table in image.quantization]
    if not tables or len(tables) < len(image.layer):
        return None
    while len(tables) > 1 and tables[-1] == tables[-2]:  # the last one serves all further components
        tables.pop()
    return [[table[n] for n in order] for table in tables]


def _keeps_blocks(size: tuple[int, int], sampling: int, orientation: int) -> bool:
    """Whether the blocks of a JPEG stay blocks when it is turned upright: they start at the top left corner."""
    width, height = (16, 8) if sampling == 1 else (16, 16) if sampling == 2 else (8, 8)
    if orientation in (2, 3, 7, 8) and size[0] % width or orientation in (3, 4, 6, 7) and size[1] % height:
        return False
    return not (sampling == 1 and orientation in SIDEWAYS)  # 4:2:2 on its side is not a kind that Pillow writes
