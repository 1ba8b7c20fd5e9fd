"""metadata.py: EXIF, XMP and resolution travel, upright and without what is no longer true."""

import dataclasses
import io
import warnings

import numpy as np
import pytest
from native import DEPTHS, noise, write
from PIL import Image, ImageOps

from photofound import image as module
from photofound.image import Picture, decode, encode, load, output_format, save
from photofound.picture import metadata

pytestmark = pytest.mark.usefixtures("no_surprises")

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
GOOGLE = "http://ns.google.com/photos/1.0"


def xmp(attributes="", elements=""):
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about="" '
        f'xmlns:dc="http://purl.org/dc/elements/1.1/" {attributes}><dc:format>image/jpeg</dc:format>{elements}'
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


ITEM = '<rdf:li rdf:parseType="Resource"><C:Item I:Semantic="GainMap" I:Length="123"/></rdf:li>'
GONE = {
    "a gain map": xmp('xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'),
    "Apple's gain map": xmp(
        'xmlns:H="http://ns.apple.com/HDRGainMap/1.0/" xmlns:apdi="http://ns.apple.com/pixeldatainfo/1.0/"',
        "<H:HDRGainMapVersion>65536</H:HDRGainMapVersion><apdi:AuxiliaryImageType>x</apdi:AuxiliaryImageType>",
    ),
    "a container": xmp(
        f'xmlns:C="{GOOGLE}/container/" xmlns:I="{GOOGLE}/container/item/"',
        f"<C:Directory><rdf:Seq>{ITEM}</rdf:Seq></C:Directory>",
    ),
    "a motion photo": xmp(f'xmlns:G="{GOOGLE}/camera/" G:MotionPhoto="1" G:MotionPhotoVersion="1"'),
    "a micro video": xmp(
        f'xmlns:G="{GOOGLE}/camera/"', "<G:MicroVideo>1</G:MicroVideo><G:MicroVideoOffset>9</G:MicroVideoOffset>"
    ),
    "a depth map": xmp(f'xmlns:D="{GOOGLE}/depthmap/" D:Mime="image/png" D:Data="AAAA"'),
    "a focus by a depth map": xmp(f'xmlns:F="{GOOGLE}/focus/" F:BlurAtInfinity="AAAA"'),
    "further XMP": xmp('xmlns:N="http://ns.adobe.com/xmp/note/" N:HasExtendedXMP="0123"'),
    "a preview": xmp('xmlns:xmp="http://ns.adobe.com/xap/1.0/"', "<xmp:Thumbnails><rdf:Alt/></xmp:Thumbnails>"),
    "another maker's video": xmp('xmlns:O="http://ns.oplus.com/photos/1.0/camera/" O:MotionPhotoOwner="oplus"'),
    "a signature elsewhere": xmp('xmlns:d="http://purl.org/dc/terms/" d:provenance="https://example.com/0123"'),
    "a digest of IPTC": xmp('xmlns:p="http://ns.adobe.com/photoshop/1.0/" p:LegacyIPTCDigest="AB"'),
    "a size": xmp('xmlns:t="http://ns.adobe.com/tiff/1.0/" t:ImageWidth="4000" t:ImageLength="3000"'),
}
WORDS = b"GainMap hdrgm Motion MicroVideo AAAA 0123 Thumbnails Digest 4000 Item apdi".split()


@pytest.mark.parametrize("name", GONE)
def test_what_is_no_longer_true_goes(name):
    kept = metadata.without_stale(GONE[name])
    assert not any(word in kept for word in WORDS) and b"<dc:format>image/jpeg</dc:format>" in kept
    assert any(word in GONE[name] for word in WORDS)


def test_what_stays_true_is_not_touched():
    for true in (
        xmp(),
        xmp('xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"', "<xmp:Label>Thumbnails</xmp:Label>"),
        xmp(f'xmlns:G="{GOOGLE}/camera/" G:BurstID="7"'),
        b"no XML",
        None,
    ):
        assert metadata.without_stale(true) is true


@pytest.mark.slow
def test_what_cannot_be_read_is_left_out_where_it_names_such_data():
    bomb = b"<!DOCTYPE a [<!ENTITY b 'c'>]>" + GONE["a gain map"]
    for bad in (bomb, GONE["a motion photo"][:-20], b"<a>" * 100_000 + b"ImageWidth" + b"</a>" * 100_000):
        with pytest.warns(UserWarning, match="left out"):
            assert metadata.without_stale(bad) is None


def test_iptc_regions_go_when_pixels_move():
    region = xmp(
        'xmlns:I="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" I:DigitalSourceType="d"',
        '<I:ImageRegion><rdf:Bag><rdf:li><I:RegionBoundary I:rbUnit="pixel" I:rbX="9"/></rdf:li></rdf:Bag>'
        "</I:ImageRegion>",
    )
    picture = Picture(np.zeros((8, 8, 3), np.uint8), xmp=region)
    assert metadata.without_stale(region) == region
    for changed in (picture.extend(left=4), picture.resize((16, 16))):
        assert b"Region" not in changed.xmp and b"DigitalSourceType" in changed.xmp


def test_places_in_the_picture_go_when_its_size_changes():
    panorama = xmp(f'xmlns:P="{GOOGLE}/panorama/" P:FullPanoWidthPixels="4000" P:ProjectionType="equirectangular"')
    picture = Picture(np.zeros((8, 8, 3), np.uint8), xmp=panorama)
    assert picture.crop((0, 0, 8, 8)).xmp == panorama
    for changed in (picture.extend(left=4), picture.resize((16, 16))):
        assert b"Pano" not in changed.xmp and b"dc:format" in changed.xmp


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_file_that_is_read_says_nothing_of_what_was_left_in_it(kind):
    file = encode(Picture(np.zeros((8, 8, 3), np.uint8), xmp=GONE["a motion photo"]), kind)
    assert b"MotionPhoto" in file
    assert b"Motion" not in decode(file).xmp and b"MotionPhoto" not in encode(decode(file), kind)


# ----------------------------------------------------------------------------------------------------- files of cameras


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path / f"a{suffix}", noise(5, 8, 3), exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    with Image.open(path) as image:
        np.testing.assert_array_equal(Picture.from_any(image).pixels, expected)
    picture = load(path)
    np.testing.assert_array_equal(picture.pixels, expected)
    again = load(save(picture, tmp_path / "b.png"))  # a second reading must not turn it a second time
    np.testing.assert_array_equal(again.pixels, expected)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_16_bit_files(tmp_path, suffix, orientation):
    deep, exif = noise(5, 8, 3, np.uint16), Image.Exif()
    exif[0x0112] = orientation
    data = encode(Picture(deep, exif=exif.tobytes()), output_format(None, f"a{suffix}"))
    small = Image.fromarray(np.arange(40, dtype=np.uint8).reshape(5, 8))
    small.getexif()[0x0112] = orientation
    order = np.asarray(ImageOps.exif_transpose(small))  # where each of the 40 pixels goes
    np.testing.assert_array_equal(decode(data).pixels, deep.reshape(40, 3)[order])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
@pytest.mark.parametrize("dtype", DEPTHS)
def test_exif_and_dpi_travel(tmp_path, suffix, dtype):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    exif.get_ifd(0x8825)[1] = "N"
    exif[0x8769] = exif[0x8825] = 0
    picture = load(write(tmp_path / "a.jpg", noise(5, 8, 3), exif=exif, dpi=(300, 300)))
    picture = dataclasses.replace(picture, pixels=picture.pixels.astype(dtype) * (np.iinfo(dtype).max // 255))
    path = save(picture, tmp_path / f"b{suffix}")
    with Image.open(path) as image:
        found = image.getexif()
        assert found[0x010F] == "Maker" and found.get(0x0112, 1) == 1
        assert found.get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09" and found.get_ifd(0x8825)[1] == "N"
        if suffix != ".webp":
            assert np.allclose(image.info["dpi"], 300, atol=0.1)
    np.testing.assert_array_equal(load(path).size, picture.size)


PLACES = b"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" tiff:Orientation="6"
 xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="48,51N"
 xmlns:dji="http://www.dji.com/drone-dji/1.0/" dji:RelativeAltitude="+80" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmp:Rating="5" xmlns:ps="http://ns.adobe.com/photoshop/1.0/" ps:City="Paris" ps:Credit="Ann\xc3\xa9e"
 ><exif:GPSLongitude>2,17E</exif:GPSLongitude><xmp:Label>red</xmp:Label></rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp", ".avif"])
@pytest.mark.parametrize("dtype", DEPTHS)
def test_xmp_travels_upright(tmp_path, suffix, dtype):
    data = io.BytesIO()
    Image.fromarray(noise(5, 8, 3)).save(data, "JPEG", xmp=PLACES)
    picture = decode(data.getvalue())
    assert picture.size == (5, 8), "where EXIF has no orientation, that of the XMP counts"
    assert picture.xmp == PLACES.replace(b'Orientation="6"', b'Orientation="1"')
    picture = dataclasses.replace(picture, pixels=picture.pixels.astype(dtype) * (np.iinfo(dtype).max // 255))
    again = load(save(picture, tmp_path / f"a{suffix}"))
    assert again.xmp == picture.xmp and again.size == picture.size
    with Image.open(tmp_path / f"a{suffix}") as image:
        image.load()
        assert image.info["xmp"] == picture.xmp  # where other programs look for it


def test_a_picture_without_its_place_keeps_all_else(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769).update({0x9003: "2024:05:06 07:08:09", 0x927C: b"somewhere in Paris, preview at 4711"})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 0.0)})
    exif[0x8769] = exif[0x8825] = 0
    picture = load(write(tmp_path / "a.jpg", noise(5, 8, 3), exif=exif, xmp=PLACES))
    assert b"Paris" not in picture.exif and b"Paris" in picture.xmp  # the maker's note is never kept
    clean = picture.without_location()
    parsed = Image.Exif()
    parsed.load(clean.exif)
    assert parsed[0x010F] == "Maker" and dict(parsed.get_ifd(0x8769)) == {0x9003: "2024:05:06 07:08:09"}
    assert parsed.get_ifd(0x8825) == {} and b"Paris" not in clean.exif
    for gone in ("GPS", "Altitude", "City", "Paris", "48,51", "2,17E"):
        assert gone not in clean.xmp.decode(), gone
    for kept in ('xmp:Rating="5"', "<xmp:Label>red</xmp:Label>", 'ps:Credit="Ann\u00e9e"', "<?xpacket end"):
        assert kept in clean.xmp.decode(), kept
    np.testing.assert_array_equal(clean.pixels, picture.pixels)
    assert Picture(picture.pixels).without_location().exif is None


@pytest.mark.parametrize("xmp", [b"<x/", b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>", b"<x>" * 5000 + b"</x>" * 5000])
def test_xmp_that_cannot_be_searched_is_left_out_with_the_place(xmp):
    with pytest.warns(UserWarning, match="cannot be searched"):
        assert Picture(noise(2, 2, 3), xmp=xmp).without_location().xmp is None


def test_xmp_that_a_file_cannot_hold_is_left_out(tmp_path):
    with pytest.warns(UserWarning, match="XMP data is too long"):
        assert load(save(Picture(noise(2, 2, 3), xmp=b"<x/>" * 20_000), tmp_path / "a.jpg")).xmp is None
    Image.fromarray(noise(2, 2, 3)).save(tmp_path / "b.webp", xmp=b"<x>\xff</x>")
    with pytest.warns(UserWarning, match="not UTF-8"):
        assert load(tmp_path / "b.webp").xmp is None


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be", "utf-32-le"]
)
@pytest.mark.parametrize("declared", ["", '<?xml version="1.0" encoding="UTF-16"?>'], ids=["plain", "declared"])
def test_xmp_in_other_encodings_is_read(tmp_path, encoding, declared):
    """And is UTF-8 from then on, whatever it says of itself; a place in it is found."""
    text = PLACES.decode().replace("\n", "")
    Image.fromarray(noise(2, 2, 3)).save(tmp_path / "a.webp", xmp=(declared + text).encode(encoding))
    picture = load(tmp_path / "a.webp")
    assert b"Ann\xc3\xa9e" in picture.xmp and b"encoding" not in picture.xmp and b"\0" not in picture.xmp
    clean = picture.without_location().xmp
    assert b"Paris" not in clean and b"Ann\xc3\xa9e" in clean


PLACED = {0x9214: (10, 20, 5), 0xA214: (10, 20), 0xA20E: 3000.0, 0xA210: 3}


@pytest.mark.parametrize("change", ["extended", "resized", "turned", "none"])
def test_places_among_the_pixels_go_when_these_move(tmp_path, change):
    exif, xmp = Image.Exif(), PLACES.replace(b'xmp:Rating="5"', b'xmp:Rating="5" exif:SubjectArea="9,9"')
    exif[0x0112], exif[0x010F] = 6 if change == "turned" else 1, "Maker"
    exif.get_ifd(0x8769).update({0x9003: "2024:05:06 07:08:09", **PLACED})
    exif[0x8769] = 0
    picture = load(write(tmp_path / "a.jpg", noise(6, 8, 3), exif=exif, xmp=xmp))
    if change in ("extended", "resized"):
        picture = picture.extend(left=2) if change == "extended" else picture.resize((16, 12))
    again = load(save(picture, tmp_path / "b.jpg"))
    parsed = Image.Exif()
    parsed.load(again.exif)
    kept = set(PLACED) if change == "none" else set()
    assert set(parsed.get_ifd(0x8769)) == {0x9003} | kept and parsed[0x010F] == "Maker"
    assert (b"SubjectArea" in again.xmp) == (change == "none") and b'Rating="5"' in again.xmp


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("spelling", ["tiff:Orientation='6'", 'tiff:Orientation = "6"'])
@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_an_orientation_in_xmp_alone_is_minded(tmp_path, encoding, spelling, suffix):
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" {spelling}/>'
    pixels = noise(16, 32, 3)
    path = write(tmp_path / f"a{suffix}", pixels, xmp=packet.encode(encoding), lossless=True)
    picture = load(path)
    assert picture.size == (16, 32) and module.upright_size(path.read_bytes()) == (16, 32)
    assert b"6" not in picture.xmp
    if suffix == ".webp":
        np.testing.assert_array_equal(picture.pixels, np.rot90(pixels, -1))


XMP_BOMBS = {
    "deep": b"<x>" * 5000 + b"</x>" * 5000,
    "deep and open": b"<x>" * 5000,
    "deep in UTF-16": ("<x>" * 5000).encode("utf-16"),
    "entities": b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>",
    "entities in UTF-16": "<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>".encode("utf-16-be"),
    "large": b"<x>" + b" " * 2**22 + b"</x>",
}


@pytest.mark.parametrize("what", XMP_BOMBS)
def test_xmp_that_would_take_long_is_left_out(tmp_path, what):
    """When it is read, where it is marked, and where a place is looked for: the edit never fails for it."""
    from photofound.picture import provenance

    Image.fromarray(noise(2, 2, 3)).save(tmp_path / "a.webp", xmp=XMP_BOMBS[what])
    with pytest.warns(UserWarning, match="its XMP was left out"):
        assert load(tmp_path / "a.webp").xmp is None
    by_hand = Picture(noise(2, 2, 3), xmp=XMP_BOMBS[what])
    with pytest.warns(UserWarning, match="cannot be searched"):
        assert by_hand.without_location().xmp is None
    with pytest.warns(UserWarning, match="replaced by the mark"):
        assert provenance.source_type(provenance.mark(by_hand)) == provenance.COMPOSITE


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    data = io.BytesIO()
    Image.fromarray(noise(5, 8, 3)).save(data, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(range(200)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decode(data.getvalue()).size == (8, 5)
