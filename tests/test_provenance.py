"""Results say in their metadata that a part of them was generated, in every format that can, and lose nothing else."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, features

from photofound import __version__, cli, image
from photofound.image import Picture
from photofound.picture import provenance
from photofound.picture.provenance import COMPOSITE, GENERATED, mark, source_type

NAMES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "iptc": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "mm": "http://ns.adobe.com/xap/1.0/mm/",
    "evt": "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#",
}
OURS = f"photofound {__version__}"


def packet(properties="", attributes="", about=""):
    """XMP as a camera or an editor writes it, with prefixes of its own."""
    spaces = (
        'xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:m="http://ns.adobe.com/xap/1.0/mm/" '
        'xmlns:e="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"'
    )
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<r:RDF {spaces}><r:Description r:about="{about}" {attributes}>{properties}</r:Description></r:RDF>'
        '</x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def picture(xmp=None, **settings):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    return Picture(pixels, xmp=xmp, **settings)


def tree(xmp):
    return ElementTree.fromstring(xmp)


def agents(xmp):
    return [node.text for node in tree(xmp).findall(".//mm:History/rdf:Seq/rdf:li/evt:softwareAgent", NAMES)]


def test_a_picture_without_metadata_gets_the_mark():
    made = mark(picture())
    assert source_type(picture()) is None and source_type(made) == COMPOSITE
    (description,) = tree(made.xmp).findall(".//rdf:RDF/rdf:Description", NAMES)
    assert description.get(f"{{{NAMES['rdf']}}}about") == ""
    assert description.findtext("iptc:DigitalSourceType", namespaces=NAMES) == COMPOSITE
    assert description.findtext("iptc:AISystemUsed", namespaces=NAMES) == "photofound"
    assert description.findtext("iptc:AISystemVersionUsed", namespaces=NAMES) == __version__
    assert agents(made.xmp) == [OURS]
    assert made.xmp.startswith(b"<?xpacket begin=") and made.xmp.endswith(b'<?xpacket end="w"?>')
    assert np.array_equal(made.pixels, picture().pixels)


def test_what_was_there_stays():
    creator = "<dc:creator><r:Seq><r:li>Ann &amp; Bob</r:li></r:Seq></dc:creator>"
    event = '<m:History><r:Seq><r:li e:action="saved" e:softwareAgent="Other 1"/></r:Seq></m:History>'
    made = mark(picture(packet(creator + event, 'dc:format="image/jpeg"', about="uuid:1")))
    first, ours = tree(made.xmp).findall(".//rdf:RDF/rdf:Description", NAMES)
    assert first.findtext("dc:creator/rdf:Seq/rdf:li", namespaces=NAMES) == "Ann & Bob"
    assert first.get(f"{{{NAMES['dc']}}}format") == "image/jpeg"
    assert ours.get(f"{{{NAMES['rdf']}}}about") == "uuid:1"  # one picture, one name
    (history,) = tree(made.xmp).findall(".//mm:History", NAMES)
    saved, edited = history.find("rdf:Seq", NAMES)
    assert saved.get(f"{{{NAMES['evt']}}}softwareAgent") == "Other 1"
    assert edited.findtext("evt:action", namespaces=NAMES) == "edited" and agents(made.xmp) == [OURS]


@pytest.mark.parametrize(
    "before",
    [
        packet("<i:DigitalSourceType>{}</i:DigitalSourceType>"),
        packet(attributes='i:DigitalSourceType="{}"'),
        packet('<i:DigitalSourceType r:resource="{}"/>'),
    ],
)
def test_the_source_type_is_one_however_it_was_written(before):
    camera = provenance.SOURCE_TYPES + "digitalCapture"
    for said, then in ((camera, COMPOSITE), (COMPOSITE, COMPOSITE), (GENERATED, GENERATED)):
        xmp = before.decode().replace("{}", said).encode()
        assert source_type(picture(xmp)) == said
        made = mark(picture(xmp))
        assert source_type(made) == then
        assert made.xmp.count(b"digitalsourcetype/") == 1


def test_a_second_edit_adds_an_event_and_no_second_mark():
    twice = mark(mark(picture()))
    assert agents(twice.xmp) == [OURS, OURS] and twice.xmp.count(b"digitalsourcetype/") == 1
    assert len(tree(twice.xmp).findall(".//iptc:AISystemUsed", NAMES)) == 1


@pytest.mark.parametrize("xmp", [b"no xml", b"<a/>", b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + packet(), b"\xff\xfe"])
def test_metadata_that_cannot_be_read_are_replaced_and_it_is_said(xmp):
    with pytest.warns(UserWarning, match="XMP is no clean XML and was replaced by the mark"):
        made = mark(picture(xmp))
    assert source_type(made) == COMPOSITE and source_type(picture(xmp)) is None


FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", *(["AVIF"] if features.check("avif") else [])]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_but_bmp_carries_it(tmp_path, kind):
    path = tmp_path / f"out{image.suffix_of(kind)}"
    given = picture(packet("<dc:creator><r:Seq><r:li>Ann</r:li></r:Seq></dc:creator>"))
    image.save(mark(given), path)
    assert source_type(image.load(path)) == COMPOSITE and b"Ann" in image.load(path).xmp
    assert COMPOSITE.encode() in path.read_bytes()  # as search engines find it: not compressed
    with Image.open(path) as opened:  # by another reader
        assert COMPOSITE in str(opened.info["xmp"])


def test_sixteen_bits_carry_it_too_and_bmp_cannot(tmp_path):
    deep = Picture(np.random.default_rng(0).integers(0, 65536, (8, 12, 3), np.uint16))
    for suffix in (".png", ".tif"):
        image.save(mark(deep), tmp_path / f"deep{suffix}")
        loaded = image.load(tmp_path / f"deep{suffix}")
        assert source_type(loaded) == COMPOSITE and np.array_equal(loaded.pixels, deep.pixels)
    image.save(mark(picture()), tmp_path / "out.bmp")
    assert source_type(image.load(tmp_path / "out.bmp")) is None


def test_the_command_line_marks_results_unless_told_not_to(tiny_folder, tmp_path):
    photo = tmp_path / "photo.jpg"
    image.save(picture(packet("<dc:creator><r:Seq><r:li>Ann</r:li></r:Seq></dc:creator>")), photo)
    common = ["expand", str(photo), "--left", "4", "--model", str(tiny_folder), "--steps", "1", "--quiet", "-o"]
    assert cli.main([*common, str(tmp_path / "marked.jpg")]) == 0
    assert cli.main([*common, str(tmp_path / "plain.jpg"), "--no-mark"]) == 0
    marked, plain = (image.load(tmp_path / name) for name in ("marked.jpg", "plain.jpg"))
    assert source_type(marked) == COMPOSITE and agents(marked.xmp) == [OURS] and b"Ann" in marked.xmp
    assert source_type(plain) is None and b"Ann" in plain.xmp
    assert np.array_equal(marked.pixels, plain.pixels)


def test_a_mask_of_what_was_kept_is_not_generated(tiny_folder, tmp_path):
    photo = tmp_path / "cup.png"
    cut_out = np.zeros((40, 40, 4), np.uint8)
    cut_out[10:30, 10:30] = (200, 60, 40, 255)
    image.save(cut_out, photo)
    out = ["-o", str(tmp_path / "out.png"), "--save-subject", "--model", str(tiny_folder), "--steps", "1", "--quiet"]
    assert cli.main(["outpaint", str(photo), *out]) == 0
    assert source_type(image.load(tmp_path / "out.png")) == COMPOSITE
    assert source_type(image.load(tmp_path / "out-subject.png")) is None
