"""Writing: which format a result gets, and its bytes, with profile, EXIF, XMP and resolution."""

from __future__ import annotations

import dataclasses
import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from photofound import files
from photofound.errors import first_line
from photofound.picture import arrays, colour, metadata, white
from photofound.picture.formats import HOLDS_16_BIT, HOLDS_ALPHA, LONGEST_SIDE, SUFFIXES, suffix_of, writable_names
from photofound.picture.picture import Picture

_PNG_XMP = "XML:com.adobe.xmp"  # the keyword of the text chunk that holds it


def output_format(
    source: Picture | None,
    path: str | os.PathLike[str] | None = None,
    format: str | None = None,
    alpha: bool = False,
) -> str:
    """The format to write: `format` if given, else the path's suffix, else the source's, else PNG. With `alpha` it is
    one that holds an alpha channel: PNG replaces a source's format that does not.

    Raises ValueError for an unknown format or suffix, for a path with the suffix of another format, and for a requested
    format that does not hold alpha.
    """
    kind = _output_format(source, path, format)
    if not alpha or kind in HOLDS_ALPHA:
        return kind
    if format is None and (path is None or not Path(path).suffix):
        return "PNG"
    kept = ", ".join(sorted(suffix_of(name)[1:] for name in HOLDS_ALPHA))
    raise ValueError(f"{path or format}: {kind} holds no transparency; use one of {kept}")


def _output_format(source: Picture | None, path: str | os.PathLike[str] | None, format: str | None) -> str:
    suffix = Path(path).suffix.lower() if path is not None else ""
    if format is not None:
        wanted = SUFFIXES.get("." + format.lower().lstrip("."))
        if wanted is None:
            raise ValueError(f"unknown format {format!r}; use one of {writable_names()}")
        if SUFFIXES.get(suffix, wanted) != wanted:
            raise ValueError(f"format is {format!r} but the output is named {path}; change one of the two")
        return wanted
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if suffix:
        raise ValueError(f"{path}: cannot write {suffix!r} files; use one of {writable_names()} or give a format")
    kind = (source.format if source is not None else None) or "PNG"
    return kind if kind in SUFFIXES.values() else "PNG"


def save(
    picture: Any,
    path: str | os.PathLike[str],
    format: str | None = None,
    quality: int | None = None,
    overwrite: bool = False,
    sign: Callable[[bytes, str], bytes] | None = None,
) -> Path:
    """Write anything that `Picture.from_any` takes to `path`, and return the path. The file is written whole or not at
    all; after an error the old one is unchanged.

    PNG, TIFF and BMP are lossless; WebP is lossless if the source was. PNG and TIFF hold 16 bits; others round to 8,
    with a warning. JPEG and BMP hold no alpha: it is flattened onto white, with a warning. The profile, EXIF and XMP
    are kept (BMP has none, so its colours are converted to sRGB). docs/file-formats.md has the measured details.

    Args:
        format: as in `output_format`.
        quality: 1 to 100, of JPEG, AVIF and lossy WebP, without subsampling. None: a JPEG that comes from a JPEG of the
            same size is compressed in the same way, so that kept pixels change least; all others at 95.
        overwrite: replace an existing file.
        sign: what is done to the file's bytes, given its format, before they are written (`picture.credentials`).

    Raises FileExistsError without `overwrite`, ValueError for a bad format or size, OSError if `path` is not writable.
    """
    path, picture = Path(path), Picture.from_any(picture)
    format = output_format(picture, path, format)
    check_output(path, overwrite)
    data = encode(picture, format, quality)
    files.write(path, data if sign is None else sign(data, format))
    return path


def check_output(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Check a path before the work is done: raise the errors that `save` would raise about it."""
    if not os.fspath(path):
        raise ValueError("the output's path is empty; name a file")
    path = files.output_path(Path(path), "output")
    if len(os.fsencode(path.name)) > 255:  # of nearly every file system
        raise ValueError(f"{path}: the name is longer than 255 bytes; choose a shorter output")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file for the output")
    if path.exists() and not path.is_file():  # a pipe or a device
        raise ValueError(f"{path}: is not a regular file; name a file for the output")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: exists already; choose another output or pass --overwrite (overwrite=True)")
    if not path.parent.exists():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist; create it first")
    if not path.parent.is_dir():
        raise NotADirectoryError(f"{path}: {path.parent} is not a folder; choose another output")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: the folder {path.parent} cannot be written to; choose another output")


def check_fit(picture: Picture, format: str, size: tuple[int, int] | None = None) -> None:
    """Check before the work is done that `format` holds a result of `size` (width, height; None = the picture's own).

    Raises ValueError, as `encode` does, if it is too large. Warns if 16 bits per channel will become 8.
    """
    check_side(size or picture.size, format)
    if lost := lost_depth(picture, format):
        warnings.warn(lost, stacklevel=3)


def lost_depth(picture: Picture, format: str) -> str:
    """One sentence if the picture has more bits per channel than `format` holds, else ""."""
    if picture.depth == 255 or format in HOLDS_16_BIT:
        return ""
    return f"{format} holds 8 bits per channel: 16 are rounded; save as PNG to keep them"


def check_side(size: tuple[int, int], format: str) -> None:
    """Raise ValueError for (width, height) beyond what `format` holds."""
    longest = LONGEST_SIDE.get(format)
    if longest is not None and max(size) > longest:
        raise ValueError(f"{format} holds at most {longest} pixels a side, not {size[0]}x{size[1]}; choose png or tif")


def encode(picture: Picture, format: str, quality: int | None = None) -> bytes:
    """The bytes of an image file. `format` is one that `output_format` returns; the rest is as in `save`."""
    if format not in SUFFIXES.values():
        raise ValueError(f"unknown format {format!r}; use one of {writable_names()}")
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}; it must lie between 1 and 100")
    check_side(picture.size, format)
    picture = _fit_to_format(picture, format)
    if format == "TIFF":
        return _encode_tiff(picture)
    if picture.depth > 255:
        return _with_colour_chunks(_encode_png_16(picture), picture)
    stream = io.BytesIO()
    try:
        image, options = _compression(picture, format, quality)
        try:
            image.save(stream, format, **picture.pil_metadata, **options)  # not every writer reads `info`
        except OSError:  # Pillow's buffer is too small for a noisy JPEG in more than one pass
            if not options.get("optimize"):
                raise
            stream = io.BytesIO()
            image.save(stream, format, **picture.pil_metadata, **options | {"optimize": False, "progressive": False})
    except (OSError, ValueError, RuntimeError, struct.error) as error:
        size = f"{picture.width}x{picture.height}"
        raise ValueError(f"cannot write a {size} image as {format} ({first_line(error)}); try PNG") from error
    if format == "JPEG" and picture.keep_white and not picture.is_grey:
        return white.restored(stream.getvalue(), (picture.pixels == picture.depth).all(2))
    return _with_colour_chunks(stream.getvalue(), picture) if format == "PNG" else stream.getvalue()


def _compression(picture: Picture, format: str, quality: int | None) -> tuple[Image.Image, dict[str, Any]]:
    """The image for Pillow to compress, and the options of its `save`."""
    image = picture.to_pil()
    source = picture.jpeg if format == "JPEG" and quality is None else None
    if source is not None and source.fits(image):
        return source.restored(image), source.options | {"optimize": True}
    quality = 95 if quality is None else quality
    options: dict[str, Any] = {}
    if format == "JPEG":
        options = {"quality": quality, "subsampling": "4:4:4", "optimize": True}
        if picture.keep_white:
            options = {"qtables": white.tables(quality), "subsampling": "4:4:4"}
    elif format == "WEBP":
        options = {"lossless": picture.lossless, "quality": 80 if picture.lossless else quality, "exact": True}
    elif format == "AVIF":  # at Pillow's own speed of 6, twelve megapixels take more than a minute
        options = {"quality": quality, "subsampling": "4:4:4", "speed": 8}
    elif format == "PNG" and picture.xmp:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt(_PNG_XMP, picture.xmp.decode("utf-8"))
    return image, options


def _fit_to_format(picture: Picture, format: str) -> Picture:
    """The nearest picture that the format can hold."""
    if (alpha := picture.alpha()) is not None and format not in HOLDS_ALPHA:
        warnings.warn(f"{format} holds no transparency: flattened onto white; save as PNG to keep it", stacklevel=5)
        white = np.ones((picture.height, picture.width, 3), np.float32)
        picture = picture.paste(white, alpha, flatten=True)
    if format == "BMP" and colour.profile_mode(picture.icc_profile, picture.is_grey) is not None:
        warnings.warn("BMP holds no colour profile: colours converted to sRGB; save as PNG to keep them", stacklevel=5)
        picture = dataclasses.replace(picture, pixels=np.rint(picture.rgb() * 255).astype(np.uint8), icc_profile=None)
    if lost := lost_depth(picture, format):
        warnings.warn(lost, stacklevel=5)
        picture = dataclasses.replace(picture, pixels=arrays.to_8_bit(picture.pixels))
    # WebP has no grey, and neither Pillow nor OpenCV read a 16-bit grey TIFF with alpha.
    if picture.is_grey and (format == "WEBP" or (format == "TIFF" and picture.has_alpha and picture.depth > 255)):
        picture = picture.in_colour()
    if format == "JPEG" and picture.exif and len(picture.exif) > 65_000:
        warnings.warn("the EXIF data is too long for a JPEG and was left out", stacklevel=5)
        picture = dataclasses.replace(picture, exif=None)
    if format == "JPEG" and picture.xmp and len(picture.xmp) > 65_000:
        warnings.warn("the XMP data is too long for a JPEG and was left out", stacklevel=5)
        picture = dataclasses.replace(picture, xmp=None)
    return picture


def _encode_png_16(picture: Picture) -> bytes:
    """A 16-bit PNG of any channel count. Pillow writes only grey, OpenCV no grey + alpha and no resolution."""
    height, width, channels = picture.pixels.shape
    lines = picture.pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.empty((height, 1 + lines.shape[1]), np.uint8)
    filtered[:, 0] = 2  # every line as its difference from the line above ("Up"), modulo 256
    filtered[0, 1:] = lines[0]
    filtered[1:, 1:] = lines[1:] - lines[:-1]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    if picture.icc_profile:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.icc_profile)))
    if picture.dpi:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(dots / 0.0254) for dots in picture.dpi), 1)))
    if picture.exif:
        chunks.append((b"eXIf", picture.exif.removeprefix(b"Exif\0\0")))
    if picture.xmp:  # not compressed, no language
        chunks.append((b"iTXt", _PNG_XMP.encode() + bytes(5) + picture.xmp))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + _png_chunks(chunks)


def _png_chunks(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def _with_colour_chunks(png: bytes, picture: Picture) -> bytes:
    """A PNG with the chunks that say what the colours mean, right behind the header."""
    chunks = [(name, data) for name, data in picture.colour if not (name == b"sRGB" and picture.icc_profile)]
    return png[:33] + _png_chunks(chunks) + png[33:]


def _encode_tiff(picture: Picture) -> bytes:
    """A baseline TIFF, 8 or 16 bits: one deflated strip of horizontal differences.

    No library writes all of it: Pillow has no 16-bit colour, OpenCV no profile, and tifffile leaves EXIF's folders out
    (docs/file-formats.md has the table).
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    height, width, channels = picture.pixels.shape
    lines = picture.pixels.astype(picture.pixels.dtype.newbyteorder("<"))
    lines[:, 1:] -= picture.pixels[:, :-1]
    strip = zlib.compress(lines.tobytes(), 6)
    start = b"II*\0\x08\0\0\0"  # little-endian, the one directory follows at byte 8
    tags = ImageFileDirectory_v2(start)
    for tag, value in metadata.exif_entries(picture.exif).items():
        tags[tag] = value
    tags[256], tags[257] = width, height
    tags[258], tags[339] = (lines.dtype.itemsize * 8,) * channels, (1,) * channels  # bits, unsigned
    tags[259], tags[317] = 8, 2  # deflate, horizontal differences
    tags[262], tags[277] = 1 if picture.is_grey else 2, channels  # black is zero, or RGB
    tags[273], tags[278], tags[279] = 0, height, len(strip)
    if picture.has_alpha:
        tags[338] = 2  # straight, not premultiplied
    if picture.icc_profile:
        tags.tagtype[34675] = 7  # bytes as they are
        tags[34675] = picture.icc_profile
    if picture.xmp:
        tags.tagtype[700] = 1
        tags[700] = picture.xmp
    if picture.dpi:
        tags[296], tags[282], tags[283] = 2, *picture.dpi
    stream = io.BytesIO()
    stream.write(start)
    tags.save(stream)  # moves the strip's offset to just behind the directory
    return stream.getvalue() + strip
