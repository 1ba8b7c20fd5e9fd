"""Unusual files of every kind, made in memory, and the table of what each keeps: docs/file-formats.md.

    python -m tests.corpus      # measures, and writes the table again

Every file shows the same photograph-like picture, WIDTH x HEIGHT when upright, so its content is known: ``truth`` are
the values that must be read.
"""

from __future__ import annotations

import dataclasses
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms

from photofound.image import Picture, decode, encode, output_format

WIDTH, HEIGHT = 80, 64
HOLE = 16  # side of the square in the corner that is painted; JPEG's blocks end where it does
TOUCHED = 32  # side of the square whose compressed blocks it may change
DOCS = Path(__file__).resolve().parent.parent / "docs" / "file-formats.md"
BEGIN, END = "<!-- made by python -m tests.corpus -->", "<!-- end -->"


@dataclass(frozen=True)
class Case:
    """A file. `truth` is (H, W, C) as `Picture.pixels` must be, within `tolerance` on the mean; None: it is refused."""

    name: str
    data: bytes
    truth: np.ndarray | None
    tolerance: float = 0.0

    @property
    def kind(self) -> str:
        return self.name.split(":")[0]


def scene(channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    """(HEIGHT, WIDTH, channels): soft colours with some grain; with 16 bits the low ones are used; alpha is a ramp."""
    rng = np.random.default_rng(7)
    soft = cv2.resize(rng.random((5, 6, 4)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    soft = (0.15 + 0.7 * soft + 0.02 * rng.standard_normal(soft.shape)).clip(0, 1)
    soft[..., 3] = np.linspace(0, 1, WIDTH)
    picked = {1: [0], 2: [0, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3], 5: [0, 1, 2, 3, 3]}[channels]
    return np.rint(soft[..., picked] * np.iinfo(dtype).max).astype(dtype)


# ------------------------------------------------------------------------------------------------------------ metadata


def profile(space: str = "RGB ", gamma: float = 2.2) -> bytes:
    """A minimal ICC profile: Adobe RGB's primaries (or grey), one gamma; far from sRGB."""
    xyz = lambda *v: b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(x * 65536) for x in v))  # noqa: E731
    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    tags = {b"wtpt": xyz(0.9642, 1, 0.8249)}
    if space == "GRAY":
        tags[b"kTRC"] = curve
    else:
        tags |= {b"rXYZ": xyz(0.6097, 0.3111, 0.0195), b"gXYZ": xyz(0.2053, 0.6257, 0.0609)}
        tags |= {b"bXYZ": xyz(0.1492, 0.0632, 0.7446), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    table, body, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    header = struct.pack(">I4sI4s4s4s", offset + len(body), b"lcms", 0x02100000, b"mntr", space.encode(), b"XYZ ")
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + xyz(0.9642, 1, 0.8249)[8:]
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:exif="http://ns.adobe.com/exif/1.0/" xmp:Rating="5" exif:GPSLatitude="48,51N"/></rdf:RDF></x:xmpmeta>"""


def exif(orientation: int = 1) -> Image.Exif:
    """Camera, time and place."""
    made = Image.Exif()
    made[0x010F], made[0x0112] = "Maker", orientation
    made.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    made.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 0.0)})
    made[0x8769] = made[0x8825] = 0
    return made


def everything(orientation: int = 1) -> dict:
    return {"exif": exif(orientation), "icc_profile": profile(), "xmp": XMP, "dpi": (300, 300)}


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera held that way stores, so that EXIF turns it back into `pixels`."""
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }
    return np.ascontiguousarray(stored[orientation](pixels))


# ----------------------------------------------------------------------------------------------------------- the files


def image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def pil(source: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    (image(source) if isinstance(source, np.ndarray) else source).save(stream, kind, **options)
    return stream.getvalue()


def opencv(pixels: np.ndarray, suffix: str, *options: int) -> bytes:
    order = [2, 1, 0, 3][: pixels.shape[2]] if pixels.shape[2] > 2 else [0]
    return cv2.imencode(suffix, np.ascontiguousarray(pixels[..., order]), options)[1].tobytes()


def tiff(pixels: np.ndarray, **options) -> bytes:
    import tifffile

    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def jpegs() -> Iterator[Case]:
    colour, grey = scene(3), scene(1)

    def case(name: str, truth: np.ndarray = colour, tolerance: float = 5, source=None, **options) -> Case:
        settings = {"quality": 85} | options
        return Case(f"JPEG: {name}", pil(truth if source is None else source, "JPEG", **settings), truth, tolerance)

    for sampling in ("4:4:4", "4:2:2", "4:2:0"):
        yield case(sampling, subsampling=sampling)
    for name, flag in {"4:1:1": 0x411111, "4:4:0": 0x121111}.items():
        data = opencv(colour, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, flag)
        yield Case(f"JPEG: {name}", data, colour, 6)
    yield case("progressive", progressive=True)
    yield case("restart markers", restart_marker_rows=1)
    yield case("RGB without YCbCr", keep_rgb=True)
    yield case("quality 30", quality=30, tolerance=8)
    yield case("quality 100", quality=100, subsampling="4:4:4", tolerance=1)
    yield case("grey", grey)
    yield case("grey with a grey profile", grey, icc_profile=profile("GRAY", 1.8))
    yield case("CMYK", source=image(colour).convert("CMYK"))
    for orientation in range(1, 9):
        yield case(f"EXIF orientation {orientation}", source=turned(colour, orientation), exif=exif(orientation))
    yield case(
        "orientation in XMP only", source=turned(colour, 6), xmp=XMP.replace(b"xmp:R", b'tiff:Orientation="6" xmp:R')
    )
    yield case("Adobe RGB, EXIF, XMP, turned", source=turned(colour, 8), **everything(8))
    yield case("damaged profile", icc_profile=profile()[:200])
    yield case("damaged EXIF", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(range(200)))
    yield case("one pixel", colour[:1, :1], tolerance=12)
    whole = pil(colour, "JPEG", quality=85)
    yield Case("JPEG: with a video behind it", whole + b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 9, colour, 5)
    yield Case(
        "JPEG: two pictures (MPO)", pil(image(colour), "MPO", save_all=True, append_images=[image(grey)]), colour, 5
    )
    yield Case("JPEG: cut off in the middle", whole[: len(whole) // 2], None)
    yield Case("JPEG: cut off in the header", whole[:100], None)
    last = whole[whole.rindex(b"\xff\xda") :][:14]
    yield Case("JPEG: 500 empty scans", whole[:-2] + last * 500 + b"\xff\xd9", None)


def pngs() -> Iterator[Case]:
    for channels, name in enumerate(("grey", "grey + alpha", "RGB", "RGBA"), 1):
        yield Case(f"PNG: {name}, 8 bit", pil(scene(channels), "PNG"), scene(channels))
        deep = scene(channels, np.uint16)
        yield Case(f"PNG: {name}, 16 bit", png(deep), deep)
        yield Case(f"PNG: {name}, 16 bit, interlaced", png(deep, interlaced=True), deep)
    for bits in (1, 2, 4):
        few = (scene(1) >> (8 - bits)) * np.uint8(255 // (2**bits - 1))
        yield Case(f"PNG: grey, {bits} bit", png(few >> (8 - bits), bits=bits), few)
    yield Case("PNG: RGB, interlaced", png(scene(3), interlaced=True), scene(3))
    palette = image(scene(3)).convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    colours = np.asarray(palette.convert("RGB"))
    yield Case("PNG: palette", pil(palette, "PNG"), colours)
    small = image(scene(3)).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    yield Case("PNG: palette, 2 bit", pil(small, "PNG", bits=2), np.asarray(small.convert("RGB")))
    alpha = bytes(range(0, 256, 4))
    clear = np.dstack([colours, np.frombuffer(alpha, np.uint8)[np.asarray(palette)]])
    yield Case("PNG: palette with alpha", pil(palette, "PNG", transparency=alpha), clear)
    for channels, dtype in ((1, np.uint8), (3, np.uint8), (1, np.uint16), (3, np.uint16)):
        pixels, depth = scene(channels, dtype), np.iinfo(dtype).max
        key = pixels[3, 5]
        truth = np.dstack([pixels, np.where((pixels == key).all(2), 0, depth).astype(dtype)])
        name = f"PNG: {'grey' if channels == 1 else 'RGB'}, {pixels.itemsize * 8} bit, one colour transparent"
        yield Case(name, png(pixels, [(b"tRNS", key.astype(">u2").tobytes())]), truth)
    deep = scene(3, np.uint16)
    icc = (b"iCCP", b"wide\0\0" + zlib.compress(profile()))
    place = (b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0"))
    xmp = (b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + XMP)
    yield Case("PNG: 16 bit, Adobe RGB, EXIF, XMP, turned", png(turned(deep, 6), [icc, place, xmp]), deep)
    yield Case(
        "PNG: EXIF and XMP behind the pixels",
        png(scene(3), after=[(b"eXIf", place[1].replace(b"\0\x06\0\0", b"\0\1\0\0")), xmp]),
        scene(3),
    )
    yield Case("PNG: gamma of its own", png(scene(3), [(b"gAMA", struct.pack(">I", 100_000))]), scene(3))
    two = pil(image(scene(3)), "PNG", save_all=True, append_images=[image(scene(3)[::-1])])
    yield Case("PNG: animated", two, scene(3))
    whole = pil(scene(3), "PNG")
    yield Case("PNG: cut off", whole[: len(whole) * 2 // 3], None)
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    yield Case("PNG: a byte changed", bytes(broken), None)
    for width, height in ((60_000, 60_000), (0, 5), (200, 200)):
        yield Case(f"PNG: says {width:,} x {height:,}", png(scene(3), size=(width, height)), None)


def png(
    pixels: np.ndarray,
    chunks: Sequence[tuple[bytes, bytes]] = (),
    after: Sequence[tuple[bytes, bytes]] = (),
    bits: int | None = None,
    interlaced: bool = False,
    size: tuple[int, int] | None = None,
) -> bytes:
    """A PNG of any kind; none of the writers at hand makes them all. `size` is what the header says."""
    bits = bits or pixels.itemsize * 8
    height, width, channels = pixels.shape
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    lines = b""
    for top, left, down, right in starts if interlaced else [(0, 0, 1, 1)]:
        for line in pixels[top::down, left::right].reshape(-(-(height - top) // down), -1):
            packed = (
                np.packbits(np.unpackbits(line[:, None], 1)[:, -bits:])
                if bits < 8
                else line.astype(line.dtype.newbyteorder(">"))
            )
            lines += b"\0" + packed.tobytes()
    header = struct.pack(
        ">IIBBBBB", *(size or (width, height)), bits, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, interlaced
    )
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


def webps() -> Iterator[Case]:
    colour, clear = scene(3), scene(4)
    yield Case("WebP: lossless", pil(colour, "WEBP", lossless=True), colour)
    yield Case("WebP: lossless with alpha", pil(clear, "WEBP", lossless=True, exact=True), clear)
    yield Case(
        "WebP: lossless, Adobe RGB, EXIF, XMP, turned",
        pil(turned(colour, 3), "WEBP", lossless=True, **everything(3)),
        colour,
    )
    whole = pil(colour, "WEBP", quality=85)
    yield Case("WebP: lossy", whole, colour, 5)
    yield Case("WebP: lossy with alpha", pil(clear, "WEBP", quality=85, exact=True), clear, 6)
    yield Case(
        "WebP: animated",
        pil(image(colour), "WEBP", save_all=True, append_images=[image(colour[::-1])], lossless=True),
        colour,
    )
    yield Case("WebP: cut off", whole[: len(whole) // 2], None)


def tiffs() -> Iterator[Case]:
    for dtype in (np.uint8, np.uint16):
        bits, top = np.dtype(dtype).itemsize * 8, np.iinfo(dtype).max
        grey, colour, clear = scene(1, dtype), scene(3, dtype), scene(4, dtype)
        rgb = {"photometric": "rgb"}
        yield Case(f"TIFF: grey, {bits} bit", tiff(grey[..., 0]), grey)
        yield Case(f"TIFF: grey, {bits} bit, white is zero", tiff(top - grey[..., 0], photometric="miniswhite"), grey)
        yield Case(f"TIFF: RGB, {bits} bit", tiff(colour, **rgb), colour)
        yield Case(f"TIFF: RGB, {bits} bit, big-endian", tiff(colour, byteorder=">", **rgb), colour)
        yield Case(f"TIFF: RGB, {bits} bit, BigTIFF", tiff(colour, bigtiff=True, **rgb), colour)
        yield Case(f"TIFF: RGB, {bits} bit, in tiles", tiff(colour, tile=(32, 32), **rgb), colour)
        yield Case(
            f"TIFF: RGB, {bits} bit, deflated differences",
            tiff(colour, compression="zlib", predictor=True, **rgb),
            colour,
        )
        planes = tiff(np.ascontiguousarray(colour.transpose(2, 0, 1)), planarconfig="separate", **rgb)
        yield Case(f"TIFF: RGB, {bits} bit, planes apart", planes, colour if bits == 8 else None)
        yield Case(f"TIFF: RGBA, {bits} bit", tiff(clear, extrasamples=["unassalpha"], **rgb), clear)
        half = clear.copy()
        half[..., 3] = half[..., 3].clip(top // 2)  # a colour that was multiplied by 0 cannot be told any more
        times = np.dstack([np.rint(half[..., :3] * (half[..., 3:] / top)).astype(dtype), half[..., 3]])
        yield Case(f"TIFF: RGBA, {bits} bit, times alpha", tiff(times, extrasamples=["assocalpha"], **rgb), half, 1)
        yield Case(
            f"TIFF: RGB and an unnamed channel, {bits} bit", tiff(clear, extrasamples=["unspecified"], **rgb), colour
        )
        yield Case(
            f"TIFF: {bits} bit, Adobe RGB, EXIF, XMP",
            encode(Picture(colour, icc_profile=profile(), exif=exif().tobytes(), xmp=XMP, dpi=(300, 300)), "TIFF"),
            colour,
        )
    colour = scene(3)
    yield Case(
        "TIFF: 16 bit, turned",
        tiff(turned(scene(3, np.uint16), 6), photometric="rgb", extratags=[(274, 3, 1, 6, True)]),
        scene(3, np.uint16),
    )
    yield Case(
        "TIFF: 1 bit",
        pil(image(scene(1)).point(lambda v: 255 * (v > 127), "1"), "TIFF"),
        np.where(scene(1) > 127, 255, 0).astype(np.uint8),
    )
    yield Case(
        "TIFF: 1 bit, fax",
        pil(image(scene(1)).point(lambda v: 255 * (v > 127), "1"), "TIFF", compression="group4"),
        np.where(scene(1) > 127, 255, 0).astype(np.uint8),
    )
    palette = image(colour).convert("P", palette=Image.Palette.ADAPTIVE)
    yield Case("TIFF: palette", pil(palette, "TIFF"), np.asarray(palette.convert("RGB")))
    yield Case("TIFF: LZW", pil(colour, "TIFF", compression="tiff_lzw"), colour)
    yield Case("TIFF: JPEG inside", pil(colour, "TIFF", compression="jpeg", quality=90), colour, 4)
    yield Case("TIFF: CMYK", pil(image(colour).convert("CMYK"), "TIFF"), colour, 2)
    lab = ImageCms.profileToProfile(
        image(colour), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    yield Case("TIFF: L*a*b*", pil(lab, "TIFF"), colour, 4)
    unit = scene(1, np.uint16)[..., 0] / np.float32(65535)
    yield Case("TIFF: grey, floats from 0 to 1", tiff(unit.astype(np.float32)), scene(1, np.uint16), 0.1)
    yield Case(
        "TIFF: two pages", pil(image(colour), "TIFF", save_all=True, append_images=[image(colour[::-1])]), colour
    )
    yield Case("TIFF: grey, floats from 0 to 9", tiff(unit * 9), None)
    yield Case("TIFF: grey, 32 bit", tiff(scene(1, np.uint32)[..., 0]), None)
    yield Case("TIFF: CMYK, 16 bit", tiff(scene(4, np.uint16), photometric="separated"), None)
    yield Case("TIFF: five channels, 16 bit", tiff(scene(5, np.uint16), photometric="rgb", planarconfig="contig"), None)
    yield Case("TIFF: cut off", tiff(scene(3, np.uint16), photometric="rgb", compression="zlib")[:-2000], None)


def others() -> Iterator[Case]:
    grey, colour, clear, deep = scene(1), scene(3), scene(4), scene(3, np.uint16)
    palette = image(colour).convert("P", palette=Image.Palette.ADAPTIVE)
    black = image(grey).point(lambda v: 255 * (v > 127), "1")
    truth = np.where(grey > 127, 255, 0).astype(np.uint8)
    yield Case("BMP: RGB", pil(colour, "BMP"), colour)
    yield Case("BMP: grey", pil(grey, "BMP"), grey)
    yield Case("BMP: palette", pil(palette, "BMP"), np.asarray(palette.convert("RGB")))
    yield Case("BMP: 1 bit", pil(black, "BMP"), truth)
    yield Case("BMP: 32 bit", pil(clear, "BMP"), colour)
    yield Case("BMP: cut off", pil(colour, "BMP")[:-500], None)
    yield Case("GIF: still", pil(palette, "GIF"), np.asarray(palette.convert("RGB")))
    few = image(colour).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    see = np.dstack([np.asarray(few.convert("RGB")), np.where(np.asarray(few) == 3, 0, 255).astype(np.uint8)])
    yield Case("GIF: transparent", pil(few, "GIF", transparency=3, optimize=False), see)
    yield Case(
        "GIF: animated",
        pil(palette, "GIF", save_all=True, append_images=[image(colour[::-1]).convert("P")]),
        np.asarray(palette.convert("RGB")),
    )
    header = b"%d %d " % (WIDTH, HEIGHT)
    yield Case("PPM: RGB", pil(colour, "PPM"), colour)
    yield Case("PPM: grey", pil(grey, "PPM"), grey)
    yield Case("PPM: 1 bit", pil(black, "PPM"), truth)
    yield Case("PPM: RGB, 16 bit", b"P6 # raw\n" + header + b"65535\n" + deep.astype(">u2").tobytes(), deep)
    ten = (deep >> 6).astype(">u2").tobytes()
    yield Case("PPM: RGB, 10 bit", b"P6 " + header + b"1023\n" + ten, colour, 1)
    one = scene(1, np.uint16)
    yield Case("PPM: grey, 16 bit", b"P5 " + header + b"65535\n" + one.astype(">u2").tobytes(), one)
    yield Case("JPEG 2000: RGB", pil(colour, "JPEG2000"), colour)
    yield Case("JPEG 2000: RGB, 16 bit", opencv(deep, ".jp2", cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000), deep)
    yield Case("JPEG 2000: grey, 16 bit", pil(Image.fromarray(one[..., 0]), "JPEG2000"), one)
    yield Case("JPEG 2000: a bare stream", pil(colour, "JPEG2000", no_jp2=True), colour)
    yield Case("AVIF: RGB", pil(colour, "AVIF", quality=90, subsampling="4:4:4"), colour, 4)
    yield Case("AVIF: RGBA", pil(clear, "AVIF", quality=90), clear, 6)
    meta = {name: value for name, value in everything(6).items() if name != "dpi"}
    yield Case("AVIF: Adobe RGB, EXIF, XMP, turned", pil(turned(colour, 6), "AVIF", quality=90, **meta), colour, 5)
    yield Case("AVIF: cut off", pil(colour, "AVIF")[:-200], None)
    yield Case("HEIC: RGB, EXIF, XMP", heic(colour), colour, 5)
    yield Case("HEIC: RGB, 10 bit", heic(deep), colour, 5)


def heic(pixels: np.ndarray) -> bytes:
    import pillow_heif

    stream, mode = io.BytesIO(), "RGB;16" if pixels.dtype == np.uint16 else "RGB"
    source = pillow_heif.from_bytes(mode, (WIDTH, HEIGHT), pixels.tobytes())
    source.save(stream, quality=90, exif=exif().tobytes(), xmp=XMP)
    return stream.getvalue()


def no_pictures() -> Iterator[Case]:
    """What comes under a picture's name and is none, or is one that is not opened on purpose."""
    yield Case("not a picture: empty", b"", None)
    yield Case("not a picture: text", b"hello there\n" * 99, None)
    yield Case("not a picture: a web page saved as .jpg", b"<!DOCTYPE html><html><body>404</body></html>", None)
    yield Case("not a picture: SVG", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', None)
    yield Case("not a picture: EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", None)
    yield Case("not a picture: PDF", b"%PDF-1.7\n" + bytes(200), None)
    yield Case("not a picture: Photoshop", b"8BPS\0\1" + bytes(300), None)
    yield Case("not a picture: zeros", bytes(4096), None)


def corpus() -> list[Case]:
    return [*jpegs(), *pngs(), *webps(), *tiffs(), *others(), *no_pictures()]


# ----------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Row:
    """What became of one file: read, a corner painted, written in its own format, read again."""

    kind: str
    name: str
    read: str  # "RGB, 16 bit", or "refused"
    written: str = ""
    kept: str = ""  # the pixels that were not painted
    metadata: dict[str, bool] = dataclasses.field(default_factory=dict)  # what was there -> whether it still is
    place_gone: bool | None = None  # with --strip; None where there was none
    remark: str = ""


def measure(case: Case) -> Row:
    name = case.name.partition(": ")[2]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            given = decode(case.data, "it")
        except ValueError as error:
            return Row(case.kind, name, "refused", remark=_plain(str(error)))
        keep = np.ones((given.height, given.width), np.float32)
        keep[:HOLE, :HOLE] = 0
        edited = given.paste(np.full((*keep.shape, 3), 0.5, np.float32), keep)
        written = output_format(given)
        again = decode(encode(edited, written), "it")
        stripped = decode(encode(edited.without_location(), written), "it")
    return Row(
        case.kind,
        name,
        _describe(given),
        written,
        _difference(given, again),
        {what: value == _metadata(again).get(what) for what, value in _metadata(given).items()},
        not _has_place(stripped) if _has_place(given) else None,
        "; ".join(dict.fromkeys(_plain(str(each.message)) for each in caught)),
    )


def _describe(picture: Picture) -> str:
    names = {1: "grey", 2: "grey + alpha", 3: "RGB", 4: "RGBA"}
    return f"{names[picture.pixels.shape[2]]}, {picture.pixels.itemsize * 8} bit"


def _difference(given: Picture, again: Picture) -> str:
    """How far the kept pixels of the second file are from those of the first, outside the touched blocks."""
    one, two = (_as_rgba(picture) for picture in (given, again))
    untouched = np.ones(one.shape[:2], bool)
    untouched[:TOUCHED, :TOUCHED] = False
    if given.depth == again.depth and (one[untouched] == two[untouched]).all():
        return "exact"
    difference = np.abs(one / given.depth - two / again.depth)[untouched].max(initial=0) * 255
    return f"within {2 ** int(np.ceil(np.log2(max(difference, 1))))}/255"


def _as_rgba(picture: Picture) -> np.ndarray:
    colours = picture.colours.repeat(3, 2) if picture.is_grey else picture.colours
    alpha = picture.pixels[..., -1:] if picture.has_alpha else np.full_like(colours[..., :1], picture.depth)
    return np.dstack([colours, alpha])


def _metadata(picture: Picture) -> dict[str, object]:
    """Profile, EXIF and XMP, as far as there are any. AVIF says "upright" by leaving the orientation out."""
    parsed = Image.Exif()
    parsed.load(picture.exif or b"")
    folders = {folder: dict(parsed.get_ifd(folder)) for folder in (0x8769, 0x8825)}
    entries = {tag: value for tag, value in parsed.items() if tag not in (0x0112, 282, 283, 296)} | folders
    entries = {tag: str(value) for tag, value in entries.items() if value}
    found = {"profile": picture.icc_profile, "EXIF": entries, "XMP": picture.xmp}
    return {what: value for what, value in found.items() if value}


def _has_place(picture: Picture) -> bool:
    parsed = Image.Exif()
    parsed.load(picture.exif or b"")
    return bool(parsed.get_ifd(0x8825)) or b"GPS" in (picture.xmp or b"")


def _plain(message: str) -> str:
    """A message of ours without the file's name and what a library says, which changes from release to release."""
    return re.sub(r" \([^()]*(\([^()]*\))?[^()]*\)|: \w+\(.*\)|  .*", "", message.removeprefix("it: "))


QUALITIES = [(quality, sampling) for sampling in ("4:2:0", "4:2:2", "4:4:4") for quality in (60, 75, 90, 95)]


def recompressed(quality: int, sampling: str) -> list[str]:
    """A photograph as a JPEG, read and written again: as it was, and at the quality that other files get."""
    from skimage import data

    given = decode(pil(data.coffee()[100:308, 100:404], "JPEG", quality=quality, subsampling=sampling))
    cells = [f"{quality}, {sampling}"]
    for asked in (None, 95):
        written = encode(given, "JPEG", asked)
        difference = np.abs(decode(written).pixels.astype(int) - given.pixels)
        cells.append(f"{(difference.max(2) == 0).mean():.1%} exact, mean difference {difference.mean():.2f}")
    return cells


def table(rows: list[Row]) -> str:
    """Markdown: a line per format, a line per quality of JPEG, a line per file."""
    head = ["read", "written as", "kept pixels", "profile", "EXIF", "XMP", "place, with `--strip`"]
    lines = [*_header(["format", *head])]
    for kind in dict.fromkeys(row.kind for row in rows):
        if mine := [row for row in rows if row.kind == kind and row.read != "refused"]:
            lines.append(_line([kind, *_summary(mine)]))
    lines += ["", "A photograph that was a JPEG, written again where nothing was painted:", ""]
    lines += _header(["quality, sampling", "compressed as it was", "at quality 95, 4:4:4"])
    lines += [_line(recompressed(*each)) for each in QUALITIES]
    lines += ["", f"All {len(rows)} files:", "", *_header(["file", *head[:3], "remark"])]
    lines += [_line([f"{row.kind}: {row.name}", row.read, row.written, row.kept, row.remark]) for row in rows]
    return "\n".join(lines)


def _header(names: list[str]) -> list[str]:
    return [_line(names), _line(["---"] * len(names))]


def _summary(rows: list[Row]) -> list[str]:
    """The cells of one format."""
    read = ", ".join(sorted({row.read.rpartition(", ")[2] for row in rows}, key=lambda bits: int(bits.split()[0])))
    kept = sorted({row.kept for row in rows}, key=lambda text: ("exact" not in text, len(text), text))
    cells = [
        read,
        ", ".join(sorted({row.written for row in rows})),
        kept[0] if len(kept) == 1 else f"{kept[0]} to {kept[-1]}",
    ]
    for what in ("profile", "EXIF", "XMP"):
        found = {row.metadata[what] for row in rows if what in row.metadata}
        cells.append({(): "-", (True,): "kept", (False,): "lost"}.get(tuple(found), "kept or lost"))
    gone = {row.place_gone for row in rows} - {None}
    return [*cells, {(): "-", (True,): "gone"}.get(tuple(gone), "STILL THERE")]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def page(rows: list[Row]) -> str:
    """The documentation page with new tables."""
    before, _, rest = DOCS.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOCS.write_text(page([measure(case) for case in corpus()]))
    print(DOCS)
