"""metadata.py: XMP says nothing of bytes that are gone, and keeps all else."""

import numpy as np
import pytest

from photofound.image import Picture, decode, encode
from photofound.picture import metadata

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


def test_what_cannot_be_read_is_left_out_where_it_names_such_data():
    bomb = b"<!DOCTYPE a [<!ENTITY b 'c'>]>" + GONE["a gain map"]
    for bad in (bomb, GONE["a motion photo"][:-20], b"<a>" * 100_000 + b"ImageWidth" + b"</a>" * 100_000):
        with pytest.warns(UserWarning, match="left out"):
            assert metadata.without_stale(bad) is None


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
