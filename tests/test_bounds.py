"""Files whose pieces cost more than their pixels: refused at once, and honest files of many pieces are not."""

from __future__ import annotations

import io
import itertools
import struct
import subprocess
import sys
import textwrap
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from photofound import image
from photofound.picture import bounds


def written(kind: str, mode: str = "RGB", size: tuple[int, int] = (8, 8), **options) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*extra: bytes, behind: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(8 * 25)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + behind + chunk(b"IEND")


def tags(*entries: tuple[int, int, int, bytes | int], tail: bytes = b"") -> bytes:
    """A TIFF's list of (tag, type, count, value), where bytes lie behind it and a number is the value itself."""
    start, behind = 8 + 2 + 12 * len(entries) + 4, b""
    listed = b""
    for tag, kind, count, value in entries:
        if isinstance(value, bytes):
            value, behind = start + len(behind), behind + value
        listed += struct.pack("<HHLL", tag, kind, count, value)
    return b"II*\0" + struct.pack("<LH", 8, len(entries)) + listed + bytes(4) + behind + tail


def tiff(*more: tuple[int, int, int, bytes | int], strips: int = 1) -> bytes:
    """Grey, a row of 8 pixels for each strip; all strips are the same bytes."""
    offsets, lengths = struct.pack("<L", 8) * strips, struct.pack("<L", 8) * strips
    where = [(273, 4, strips, offsets), (279, 4, strips, lengths)] if strips > 1 else [(273, 4, 1, 8), (279, 4, 1, 8)]
    size = [(256, 4, 1, 8), (257, 4, 1, strips), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    return tags(*sorted([*size, *where, (277, 3, 1, 1), (278, 4, 1, 1), *more], key=lambda entry: entry[0]))


def shared(count: int, length: int, first: int = 400) -> bytes:
    """A list of tags that all name the same bytes."""
    start = 8 + 2 + 12 * count + 4
    listed = b"".join(struct.pack("<HHLL", first + n, 7, length, start) for n in range(count))
    return b"II*\0" + struct.pack("<LH", 8, count) + listed + bytes(4) + bytes(length)


def bmp(runs: bytes, width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 14 + 40 + 1024 + len(runs), 0, 0, 14 + 40 + 1024) + header + bytes(1024) + runs


def inside(file: bytes, at: int, more: bytes) -> bytes:
    return file[:at] + more + file[at:]


def segment(kind: int, data: bytes) -> bytes:
    return bytes([0xFF, kind]) + struct.pack(">H", len(data) + 2) + data


def attacks(scale: int) -> dict[str, bytes]:
    """Files of about ``scale`` MiB that take seconds to minutes per 30 MiB where nothing is counted."""
    many = scale * 2**20
    jpeg, gif, webp = written("JPEG"), written("GIF", "P"), written("WEBP")
    jp2, j2k = written("JPEG2000"), written("JPEG2000", no_jp2=True)
    head = jp2.index(b"jp2h")
    boxes = b"\0\0\0\x08free" * (many // 8)
    longer = struct.pack(">I", int.from_bytes(jp2[head - 4 : head], "big") + len(boxes))
    return {
        "PNG of private chunks": png(chunk(b"prVt") * (many // 12)),
        "PNG of texts": png(chunk(b"tEXt", b"a\0b") * (many // 15)),
        "PNG of empty pixels": png(behind=chunk(b"IDAT") * (many // 12)),
        "JPEG of comments": inside(jpeg, 2, segment(0xFE, b"") * (many // 4)),
        "JPEG of comments behind an end": inside(jpeg, 2, b"\xff\xd9" + segment(0xFE, b"") * (many // 4)),
        "JPEG of comments in a segment that is no segment": inside(
            jpeg, 2, (b"\xff\xf0\xff\xfe" + segment(0xFE, b"") * 16_000) * (many // 64_000)
        ),
        "JPEG of comments among its pixels": inside(jpeg, -2, segment(0xFE, b"") * (many // 4)),
        "JPEG of EXIF": inside(jpeg, 2, segment(0xE1, b"Exif\0\0" + bytes(1000)) * (many // 1010)),
        "JPEG of Photoshop's records": inside(
            jpeg, 2, segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5400) * (many // 65_000)
        ),
        "JPEG of components": inside(
            jpeg, 2, segment(0xC0, b"\x08\0\x08\0\x08\3" + b"\1\x11\0" * 21_000) * (many // 63_000)
        ),
        "JPEG of tables": inside(jpeg, 2, segment(0xDB, bytes(65_000)) * (many // 65_000)),
        "JPEG of filling": inside(jpeg, 2, b"\xff" * many),
        "JPEG of restarts": inside(jpeg, 2, b"\xff\xd0" * (many // 2)),
        "GIF of comments": inside(gif, gif.index(b","), b"!\xfe\1a\0" * (many // 5)),
        "GIF of one comment": inside(gif, gif.index(b","), b"!\xfe" + b"\xff".ljust(256, b"a") * (many // 256) + b"\0"),
        "GIF of blocks": inside(gif, gif.index(b","), b"!\xff" + b"\1a" * (many // 2) + b"\0"),
        "GIF of filling": inside(gif, gif.index(b","), b"\1" * many),
        "GIF of comments in a second picture": inside(gif, -1, b"!\xfe\1a\0" * (many // 5)),
        "WebP of chunks": webp[:4]
        + struct.pack("<I", len(webp) + many - 8)
        + webp[8:12]
        + b"abcd\0\0\0\0" * (many // 8),
        "BMP of runs": bmp((b"\1\5" * 4000 + b"\0\0") * (many // 8002), 4000, many // 8002),
        "PPM of a comment": b"P6\n#" + b"a" * many + b"\n8 8\n255\n" + bytes(192),
        "PBM of comments": b"P1 3000 3000\n" + b"1#\n" * (many // 3),
        "TIFF of strips": tiff(strips=many // 8),
        "TIFF of tags on the same bytes": shared(16_000, many),
        "TIFF of numbers": tiff((258, 3, many // 2, b"\x08\0" * (many // 2))),
        "JPEG 2000 of boxes": inside(jp2, 12, boxes),
        "JPEG 2000 of boxes in its header": jp2[: head - 4] + longer + b"jp2h" + boxes + jp2[head + 4 :],
        "JPEG 2000 of comments": inside(j2k, j2k.index(b"\xff\x52"), segment(0x64, b"\0\1") * (many // 6)),
        "PNG with EXIF of tags on the same bytes": png(chunk(b"eXIf", shared(16_000, 2**21))),
        "PNG with EXIF of fractions": png(chunk(b"eXIf", tags((700, 5, many // 8, bytes(many))))),
        "WebP with EXIF of tags on the same bytes": written("WEBP", exif=shared(16_000, 2**21)),
    }


def seconds_to_answer(data: bytes) -> tuple[float, str]:
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image.upright_size(data, "it", 2**62)
            picture = image.decode(data, "it", 24_000_000)
            said = f"read {picture.width}x{picture.height}"
        except ValueError as error:
            said = str(error)
    return time.process_time() - started, said


ATTACKS = attacks(4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_pieces_cost_no_more_than_pixels(name):
    seconds, said = seconds_to_answer(ATTACKS[name])
    assert seconds < 3, (seconds, said)
    assert said.startswith(("it: ", "read 8x8")) and "\n" not in said
    if name in REFUSED:
        assert "too long to read" in said


REFUSED = {name for name in ATTACKS if name.startswith(("GIF", "TIFF", "PPM", "PBM", "BMP"))} | {
    "PNG of private chunks",
    "PNG of texts",
    "PNG of empty pixels",
    "JPEG of comments",
    "JPEG of comments behind an end",
    "JPEG of comments among its pixels",
    "JPEG of EXIF",
    "JPEG of Photoshop's records",
    "JPEG of components",
    "JPEG of tables",
    "JPEG of filling",
    "JPEG of restarts",
    "JPEG 2000 of boxes",
    "JPEG 2000 of boxes in its header",
}


@pytest.mark.parametrize("name", [name for name in ATTACKS if name.startswith("PNG of")])
def test_the_chunks_of_a_png_are_counted_before_any_is_read(name):
    with pytest.raises(bounds.TooMuch, match="too many tiny pieces"):
        bounds.check(ATTACKS[name])


def test_the_few_records_that_an_editor_writes_are_read():
    record = b"8BIM\4\4\0\0\0\0\0\4abcd"
    assert image.decode(inside(written("JPEG"), 2, segment(0xED, b"Photoshop 3.0\0" + record * 100))).size == (8, 8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_xmp_of_many_elements_is_left_out(kind):
    """A megabyte of it took a minute to mark."""
    head = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" Crop="">'
    for body in (b"<a/>", b"<!---->", b"<?a?>", b"<![CDATA[a]]>"):
        packet = head + body * (2**20 // len(body)) + b"</x:xmpmeta>"
        picture = image.Picture(np.zeros((8, 8, 3), np.uint8), xmp=packet)
        started = time.process_time()
        with pytest.warns(UserWarning, match="XMP was left out .* elements and attributes"):
            assert image.decode(image.encode(picture, kind)).xmp is None
        assert time.process_time() - started < 3


def test_what_follows_the_end_of_a_png_is_not_counted():
    assert image.decode(png() + bytes(2**20)).size == (8, 8)


@pytest.mark.hostile
def test_large_attacks_take_seconds_and_little_memory(tmp_path):
    """Each of 30 MiB, in a process of its own, which may not take 2 GB."""
    measure = """
        import resource, sys, time, warnings
        from photofound.image import decode, upright_size
        import cv2
        warnings.simplefilter("ignore")
        resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000, 2_000_000_000))
        data, started = open(sys.argv[1], "rb").read(), time.process_time()
        try:
            upright_size(data, max_pixels=2**62), decode(data, max_pixels=24_000_000)
        except ValueError:
            pass
        print(time.process_time() - started)
    """
    for name, data in attacks(30).items():
        (tmp_path / "it").write_bytes(data)
        command = [sys.executable, "-c", textwrap.dedent(measure), str(tmp_path / "it")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (name, done.stderr)
        assert float(done.stdout) < 8, (name, done.stdout)


@pytest.mark.slow
def test_honest_files_of_many_pieces_are_read():
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG", compress_level=0)
    data = stream.getvalue()
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in noise), 0)
    parts = [chunk(b"IDAT", pixels[i : i + 1024]) for i in range(0, len(pixels), 1024)]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1500, 1500, 8, 2, 0, 0, 0))
    small_chunks = b"\x89PNG\r\n\x1a\n" + header + b"".join(parts) + chunk(b"IEND")
    assert (image.decode(small_chunks).pixels == noise).all() and (image.decode(data).pixels == noise).all()

    assert image.decode(tiff(strips=40_000)).size == (8, 40_000)  # of one row each, as libtiff writes wide pictures
    frames = [Image.fromarray(np.roll(noise, n, 1)[:600, :600, 0]) for n in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], comment=b"a" * 5000)
    with pytest.warns(match="several frames"):
        assert image.decode(stream.getvalue()).size == (600, 600)
    assert image.decode(inside(written("JPEG"), 2, segment(0xE2, b"x" * 60_000) * 500)).size == (8, 8)
    runs = b"".join(b"".join(b"\1" + bytes([value]) for value in row) + b"\0\0" for row in noise[:500, :500, 0])
    assert image.decode(bmp(runs, 500, 500)).size == (500, 500)


def test_exif_that_costs_too_much_is_left_out_with_a_warning():
    file = png(chunk(b"eXIf", shared(16_000, 2**21)))
    with pytest.warns(match="EXIF data is damaged and was left out"):
        assert image.decode(file).exif is None
    with pytest.raises(bounds.TooMuch, match="bytes"):
        bounds.check_exif(bytes(bounds.EXIF + 1))


def test_a_file_on_disk_is_counted_like_bytes(tmp_path):
    path = tmp_path / "it.pbm"
    path.write_bytes(ATTACKS["PBM of comments"])
    with pytest.raises(ValueError, match="too many tiny pieces"):
        image.load(path)


def test_pillows_own_limit_is_neither_used_nor_changed(monkeypatch):
    """A thread that reads a slow file keeps no other from reading: nothing of the process is changed meanwhile."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert image.decode(png()).size == (8, 8) and Image.MAX_IMAGE_PIXELS == 10


def netpbm_files():
    rng = np.random.default_rng(0)
    for kind, white in itertools.product(
        ("P1", "P2", "P3", "P4", "P5", "P6"), (1, 7, 254, 255, 256, 1023, 65534, 65535)
    ):
        if kind in ("P1", "P4") and white > 1:
            continue
        values = rng.integers(0, white + 1, (5, 7, 3 if kind in ("P3", "P6") else 1))
        head = f"{kind}\n# a comment\n7 5\n".encode() + (b"" if kind in ("P1", "P4") else f"{white}\n".encode())
        if kind in ("P1", "P2", "P3"):
            body = b"#\n" + b" # word\r\n".join(b" ".join(b"%d" % v for v in row.ravel()) for row in values)
        elif kind == "P4":
            body = np.packbits(values[..., 0].astype(bool), axis=1).tobytes()
        else:
            body = values.astype(">u2" if white > 255 else "u1").tobytes()
        yield pytest.param(head + body, id=f"{kind}, white {white}")


@pytest.mark.parametrize("data", list(netpbm_files()))
def test_netpbm_files_have_the_values_that_pillow_gives(data):
    from photofound.picture import netpbm

    expected = Image.open(io.BytesIO(data))
    expected.load()
    opened = Image.open(io.BytesIO(data))
    netpbm.decode_with_numpy(opened, data)
    opened.load()
    assert opened.mode == expected.mode and (np.asarray(opened) == np.asarray(expected)).all()


@pytest.mark.parametrize(
    "data", [b"P3 2 2 255\n1 2 3", b"P2 1 1 7\n8", b"P2 1 1 7\n-1", b"P1 2 1\n12", b"P5 2 2 7\n\1"]
)
def test_netpbm_files_with_wrong_numbers_are_refused(data):
    with pytest.raises(ValueError, match="damaged"):
        image.decode(data)


def test_a_large_netpbm_file_in_digits_takes_no_minutes():
    data = b"P3 1000 800 99\n" + b"7 " * 2_400_000
    seconds, said = seconds_to_answer(data)
    assert seconds < 3 and said == "read 1000x800"
