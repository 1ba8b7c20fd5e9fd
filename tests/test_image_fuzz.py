"""image.py on bytes that nobody meant to be read: a picture or one clear line, no crash, no hang, no memory eaten."""

import json
import struct
import subprocess
import sys
import textwrap
import time
import warnings
import zlib

import corpus
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from photofound.image import Picture, decode, encode, save

LIMIT = 250_000  # pixels
WHOLE = [case.data for case in corpus.corpus() if case.truth is not None]
NAMES = [case.name for case in corpus.corpus() if case.truth is not None]


def bounded(examples: int) -> settings:
    """The same examples on every machine, as many as the suite's time allows."""
    quiet = list(HealthCheck)  # the machine may be busy
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=quiet)


NUMBERS = [0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]
lies = st.builds(
    lambda value, form: struct.pack(form, value & (2 ** (8 * struct.calcsize(form)) - 1)),
    st.sampled_from(NUMBERS),
    st.sampled_from([">B", ">H", "<H", ">I", "<I", ">Q"]),
)
# Half of the damage is done to the first 400 bytes, where the headers are.
place = st.one_of(st.integers(0, 400), st.integers(0, 2**16))


@st.composite
def damaged(draw) -> bytes:
    """A real file with bytes changed, numbers replaced, parts cut, repeated, or taken from another file."""
    data = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(place) % (len(data) + 1)
        match draw(st.sampled_from(["byte", "lie", "cut", "end", "repeat", "splice", "junk"])):
            case "byte" if start < len(data):
                data[start] = draw(st.integers(0, 255))
            case "lie":
                lie = draw(lies)
                data[start : start + len(lie)] = lie
            case "cut":
                del data[start : start + draw(st.integers(1, 200))]
            case "end":
                del data[start:]
            case "repeat":
                part = data[start : start + draw(st.integers(1, 100))]
                data[start:start] = part * draw(st.integers(1, 50))
            case "splice":
                other = draw(st.sampled_from(WHOLE))
                data[start:] = other[draw(place) % (len(other) + 1) :]
            case "junk":
                data[start:start] = draw(st.binary(max_size=60))
    return bytes(data)


def read(data: bytes) -> Picture | None:
    """The picture, usable in every way, or None where it was refused in one line."""
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = decode(data, "it", max_pixels=LIMIT)
        except ValueError as error:
            assert str(error).startswith("it: ") and "\n" not in str(error), error
            picture = None
        else:
            assert picture.width * picture.height <= LIMIT
            assert picture.rgb().shape == (picture.height, picture.width, 3)
            again = decode(encode(picture.without_location(), "PNG"), max_pixels=LIMIT)
            np.testing.assert_array_equal(again.pixels, picture.pixels)
    assert time.process_time() - started < 5
    return picture


@pytest.mark.slow
@bounded(1000)
@given(damaged())
def test_damaged_files(data):
    read(data)


@bounded(150)
@given(st.binary(max_size=300), st.sampled_from(WHOLE), st.integers(1, 40))
def test_junk_behind_a_known_beginning(junk, file, length):
    read(file[:length] + junk)


@pytest.mark.slow
def test_the_damage_is_neither_trivial_nor_fatal():
    """The strategy above is worth something: what it makes is sometimes a picture and sometimes not."""
    seen = []

    @bounded(100)
    @given(damaged())
    def look(data):
        seen.append(read(data) is not None)

    look()
    assert 0.1 < np.mean(seen) < 0.9


@pytest.mark.parametrize(
    "name", ["JPEG: progressive", "PNG: RGBA, 16 bit", "WebP: lossless", "TIFF: RGB, 16 bit, in tiles"]
)
def test_a_file_cut_anywhere_is_whole_or_refused(name):
    """Never a picture of which half is grey."""
    data = WHOLE[NAMES.index(name)]
    whole = decode(data).pixels
    for length in [*range(0, 200, 7), *range(200, len(data), max(1, len(data) // 40))]:
        picture = read(data[:length])
        assert picture is None or (picture.pixels == whole).all(), length


@pytest.mark.slow
@bounded(60)
@given(damaged(), st.sampled_from([".png", ".jpg", ".webp", ".tif", ".bmp"]))
def test_nothing_is_written_or_all_of_it(tmp_path_factory, data, suffix):
    folder = tmp_path_factory.mktemp("out")
    picture = read(data)
    if picture is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = save(picture, folder / f"a{suffix}")
    assert [each.name for each in folder.iterdir()] == [path.name]
    with Image.open(path) as image:
        image.load()
        assert image.size == picture.size


# ------------------------------------------------------------------------------------------------------------ memory


def bombs() -> dict[str, bytes]:
    """Small files that would become large ones."""
    zeros = zlib.compress(bytes(120_000_000), 1)
    colour = corpus.scene(3)
    jpeg = bytearray(corpus.pil(colour, "JPEG"))
    size = jpeg.index(b"\xff\xc0") + 5
    jpeg[size : size + 4] = struct.pack(">HH", 65_500, 65_500)
    gif = bytearray(corpus.pil(corpus.scene(1), "GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    bmp = bytearray(corpus.pil(colour, "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    ppm = b"P6 60000 60000 255\n" + bytes(100)
    webp = bytearray(corpus.pil(colour, "WEBP"))
    size = webp.index(b"\x9d\x01\x2a") + 3
    webp[size : size + 4] = struct.pack("<HH", 16_383, 16_383)
    tiff = bytearray(corpus.tiff(colour, photometric="rgb"))
    jp2 = bytearray(corpus.pil(colour, "JPEG2000"))
    wide = struct.pack(">II", corpus.HEIGHT, corpus.WIDTH)
    jp2 = jp2.replace(wide, struct.pack(">II", 2**30, 2**30)).replace(
        wide[4:] + wide[:4], struct.pack(">II", 2**30, 2**30)
    )
    counts = tiff.replace(struct.pack("<HHI", 273, 4, 1), struct.pack("<HHI", 273, 4, 2**31))
    return {
        "PNG of a large size": corpus.png(colour, size=(65_000, 65_000)),
        "PNG whose pixels go on": corpus.png(colour, [(b"IDAT", zeros)]),
        "PNG with a profile of 120 MB": corpus.png(colour, [(b"iCCP", b"x\0\0" + zeros)]),
        "PNG with a text of 120 MB": corpus.png(colour, [(b"zTXt", b"x\0\0" + zeros)]),
        "PNG with XMP of 120 MB": corpus.png(colour, [(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zeros)]),
        "JPEG of a large size": bytes(jpeg),
        "GIF of a large size": bytes(gif),
        "BMP of a large size": bytes(bmp),
        "PPM of a large size": ppm,
        "WebP of a large size": bytes(webp),
        "TIFF with two thousand million strips": bytes(counts),
        "JPEG 2000 of a large size": bytes(jp2),
    }


MEASURE = """
    import json, resource, sys, time, warnings
    from photofound.image import decode
    import numpy, cv2
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000, 2_000_000_000))
    for path in sys.argv[1:]:
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            word = f"read {decode(open(path, 'rb').read(), max_pixels=1_000_000).size}"
        except ValueError as error:
            word = f"refused {error}"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps([word[:200], grown / 1024, time.process_time() - started]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux counts it")
def test_bombs_cost_neither_memory_nor_time(tmp_path):
    files = bombs()
    for number, data in enumerate(files.values()):
        (tmp_path / str(number)).write_bytes(data)
    paths = [str(tmp_path / str(number)) for number in range(len(files))]
    command = [sys.executable, "-c", textwrap.dedent(MEASURE), *paths]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, line in zip(files, done.stdout.splitlines(), strict=True):
        word, megabytes, seconds = json.loads(line)
        assert word.startswith("refused") or "read (80, 64)" in word, (name, word)
        assert megabytes < 48 and seconds < 2, (name, word, megabytes, seconds)
