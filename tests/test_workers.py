"""Pictures from processes of their own: the same as from here, and one that is stuck or dies takes nothing along."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from photofound import image
from photofound.image import JpegSource, Picture
from photofound.picture import provenance
from photofound.serve import workers
from photofound.serve.workers import Files

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def jpeg(**options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PHOTO).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def files():
    files = Files(2, max_pixels=1_000_000)
    yield files
    files.close()


def test_a_worker_reads_the_same_picture(files):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a cup"
    exif.get_ifd(0x8825)[1] = "N"
    data = jpeg(exif=exif, quality=90, dpi=(72, 72))
    for strip in (False, True):
        here = image.decode(data)
        here = here.without_location() if strip else here
        there = files.read(data, "it", 10**6, 30, strip)
        for field in dataclasses.fields(Picture):
            mine, other = getattr(here, field.name), getattr(there, field.name)
            if isinstance(mine, np.ndarray):
                assert mine.dtype == other.dtype and (mine == other).all()
            elif isinstance(mine, JpegSource):
                assert mine.data == other.data and mine.fits(there.to_pil()) and str(mine.options["qtables"][0][0])
            else:
                assert mine == other, field.name
        written = files.write(there, "JPEG", 30)
        assert written == image.encode(here, "JPEG")
    assert files.size(data, "it", 30) == (40, 60)


def test_sixteen_bits_and_the_mark_arrive(files):
    deep = Picture.from_any(np.arange(60 * 40 * 4, dtype=np.uint16).reshape(40, 60, 4))
    data = files.write(deep, "PNG", 30, mark=True)
    assert (files.read(data, "it", 10**6, 30).pixels == deep.pixels).all()
    assert provenance.source_type(Picture.from_any(data)) == provenance.COMPOSITE


def test_what_is_lost_is_told(files):
    stream, said = io.BytesIO(), []
    Image.new("CMYK", (8, 8)).save(stream, "JPEG")
    files.read(stream.getvalue(), "photo", 10**6, 30, warn=said.append)
    files.write(Picture(np.zeros((8, 8, 4), np.uint8)), "JPEG", 30, warn=said.append)
    assert said[0] == "photo: is CMYK; converted to RGB" and said[1].startswith("JPEG holds no transparency")
    files.read(jpeg(), "photo", 10**6, 30, warn=said.append)
    assert len(said) == 2


def test_a_fresh_process_reads_and_writes():
    """As a server starts it: by the module's name, with its own Python."""
    files = Files(1, max_pixels=1_000_000)
    try:
        assert (files.read(jpeg(), "photo", 10**6, 60).size, len(files._all)) == ((60, 40), 1)
        assert files.write(Picture(PHOTO), "PNG", 60).startswith(b"\x89PNG")
    finally:
        files.close()


def test_errors_have_the_same_words(files):
    with pytest.raises(ValueError, match="photo: is not an image"):
        files.read(b"nothing", "photo", 10**6, 30)
    with pytest.raises(ValueError, match="photo: is 60x40, 0.0 megapixels, above the limit"):
        files.read(jpeg(), "photo", 100, 30)
    with pytest.raises(RuntimeError, match="Traceback"):
        files._ask(30, "photo", "what nobody knows")  # a bug
    assert files.size(jpeg(), "photo", 30) == (60, 40)  # and the process works on


def ask_stopped_worker(files: Files, seconds: float):
    """What ``files`` answers while its process is stopped by a signal."""
    files.size(jpeg(), "photo", 30)  # there is a process
    (process,) = files._all
    os.kill(process._process.pid, signal.SIGSTOP)
    return files.size(jpeg(), "photo", seconds)


@pytest.mark.skipif(sys.platform == "win32", reason="stops a process by a signal")
def test_a_process_that_takes_too_long_is_replaced():
    files = Files(1, max_pixels=1_000_000)
    try:
        with pytest.raises(ValueError, match="photo: takes more than 0.5 s"):
            ask_stopped_worker(files, 0.5)
        assert not files._all
        assert files.size(jpeg(), "photo", 30) == (60, 40)
    finally:
        files.close()


def test_a_process_that_dies_harms_no_other():
    files = Files(1, max_pixels=1_000_000)
    try:
        files.size(jpeg(), "photo", 30)
        (process,) = files._all
        process._process.kill()
        with pytest.raises(ValueError, match="photo: the program that reads this kind of file failed"):
            files.size(jpeg(), "photo", 30)
        assert files.size(jpeg(), "photo", 30) == (60, 40)
    finally:
        files.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux counts it")
def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(workers, "MEMORY", 600 * 2**20)
    monkeypatch.setattr(workers, "PER_PIXEL", 0)
    files = Files(1, max_pixels=10**9)
    stream = io.BytesIO()
    Image.new("RGB", (9_000, 9_000)).save(stream, "PNG")
    try:
        with pytest.raises((MemoryError, ValueError)):
            files.read(stream.getvalue(), "photo", 10**9, 60)
        assert files.size(jpeg(), "photo", 30) == (60, 40)
    finally:
        files.close()


def test_a_slow_picture_delays_no_other(files):
    """Two processes: while one of them is at work, the other answers."""
    entered, go = threading.Event(), threading.Event()

    def busy():
        with files._free:
            entered.set()
            assert go.wait(120)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        assert entered.wait(120)
        assert files.size(jpeg(), "photo", 30) == (60, 40)
    finally:
        go.set()
        thread.join()


@pytest.mark.slow
def test_only_the_formats_that_are_named_are_read(monkeypatch):
    stream = io.BytesIO()
    Image.fromarray(PHOTO).save(stream, "JPEG2000")
    files = Files(1, max_pixels=1_000_000, formats=("PNG", "JPEG"))
    try:
        with pytest.raises(ValueError, match=r"can be read \(PNG, JPEG\)"):
            files.size(stream.getvalue(), "photo", 30)
        assert files.size(jpeg(), "photo", 30) == (60, 40)
    finally:
        files.close()
    assert image.decode(stream.getvalue()).size == (60, 40)
    monkeypatch.setenv(image.FORMATS_VARIABLE, "png, jpeg")
    with pytest.raises(ValueError, match="can be read"):
        image.decode(stream.getvalue())
    monkeypatch.setenv(image.FORMATS_VARIABLE, "png,eps")
    with pytest.raises(ValueError, match="eps is none of"):
        image.decode(stream.getvalue())
