"""Unusual files: each is read as what it is or refused in one line, and docs/file-formats.md says what it keeps."""

import re
import warnings

import corpus
import numpy as np
import pytest

from photofound.image import decode

FILES = corpus.corpus()
LOSSLESS = ("PNG", "TIFF", "BMP", "GIF", "PPM", "JPEG 2000", "HEIC")  # by what they are written as


@pytest.fixture(scope="module")
def rows():
    return [corpus.measure(case) for case in FILES]


def test_there_are_enough_of_them():
    assert len(FILES) >= 120 and len({case.name for case in FILES}) == len(FILES)


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.name)
def test_a_file_is_read_as_what_it_is_or_refused_in_one_line(case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if case.truth is None:
            with pytest.raises(ValueError) as caught:
                decode(case.data, "holiday.jpg")
            assert str(caught.value).startswith("holiday.jpg: ") and "\n" not in str(caught.value)
            return
        pixels = decode(case.data).pixels
    assert pixels.shape == case.truth.shape and pixels.dtype == case.truth.dtype
    assert np.abs(pixels.astype(float) - case.truth).mean() <= case.tolerance


@pytest.mark.slow
def test_nothing_that_can_be_kept_is_lost(rows):
    """What the page must never say, whatever is measured."""
    for row in rows:
        if row.read == "refused":
            continue
        assert row.kind not in LOSSLESS or row.kept == "exact", row
        assert "lossless" not in row.name or row.kept == "exact", row
        assert all(row.metadata.values()), row
        assert row.place_gone is not False, row
        if any(what in row.name for what in ("Adobe RGB", "CMYK", "gamma", "animated", "pages", "damaged", "10 bit")):
            assert row.metadata or row.remark, row
    with_all = [row for row in rows if set(row.metadata) == {"profile", "EXIF", "XMP"} and row.place_gone]
    assert {row.kind for row in with_all} == {"JPEG", "PNG", "WebP", "TIFF", "AVIF"}


@pytest.mark.slow
def test_the_page_says_what_is_measured(rows):
    assert corpus.DOCS.read_text() == corpus.page(rows), "run 'python -m tests.corpus' and read what has changed"


@pytest.mark.slow
def test_a_jpeg_changes_less_when_it_is_compressed_as_it_was():
    for quality, sampling in corpus.QUALITIES:
        _, same, other = corpus.recompressed(quality, sampling)
        (exact, mean), (other_exact, other_mean) = (map(float, re.findall(r"\d+\.\d+", t)) for t in (same, other))
        assert exact > other_exact and mean < other_mean, (quality, sampling)
        assert sampling == "4:2:2" or exact > 90, (quality, sampling)
