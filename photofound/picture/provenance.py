"""A mark in a file's metadata: a part of the picture was generated.

    image.save(provenance.mark(result), "out.jpg")

The mark is XMP with the properties of the IPTC (Photo Metadata Standard 2025.1): the digital source type, by which
search engines and social networks recognise generated pictures; the system that was used; the edit's note
(``Picture.note``); and an entry in the history of edits. Beside it stands how the picture was made, in a property of
our own (``Picture.recipe``). PNG, JPEG, WebP, TIFF and AVIF carry it, BMP does not. All other XMP stays as it was. The
mark is a label: who wants it signed adds Content Credentials (``photofound.picture.credentials``).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any
from xml.dom import minidom
from xml.parsers.expat import ExpatError

from photofound import __version__, files
from photofound.picture.metadata import check_xmp
from photofound.picture.picture import Picture

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
COMPOSITE = SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia"  # a photograph of which a part was generated
GENERATED = SOURCE_TYPES + "trainedAlgorithmicMedia"  # all of it was

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_MM = "http://ns.adobe.com/xap/1.0/mm/"
_EVENT = "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
_OURS = "urn:photofound:xmp:1/"
_EMPTY = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}"></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def mark(picture: Picture, whole: bool = False, generated: bool = True) -> Picture:
    """The picture with the mark in its metadata: a part of it was generated, or the ``whole``. Its pixels are the same.
    If nothing was ``generated``, as in a cut-out or a packshot (``Picture.generated``), they say only how it was made.

    If its metadata say that all of it was generated, they still do. XMP that cannot be read is replaced, with a
    warning.
    """
    document = _readable(picture)
    kind = GENERATED if whole or _value(document, "DigitalSourceType") == GENERATED else COMPOSITE
    properties: dict[str, str] = {}
    generated = generated and picture.generated
    if generated:
        properties = {"DigitalSourceType": kind, "AISystemUsed": "photofound", "AISystemVersionUsed": __version__}
    if generated and picture.note:
        properties["AIPromptInformation"] = picture.note
    for name in properties:
        _remove(document, _IPTC, name)
    _remove(document, _OURS, "Recipe")
    description = _description(document)
    for name, value in properties.items():
        description.appendChild(_element(document, _IPTC, f"Iptc4xmpExt:{name}")).appendChild(
            document.createTextNode(value)
        )
    if picture.recipe:
        ours = description.appendChild(_element(document, _OURS, "photofound:Recipe"))
        ours.setAttribute("xmlns:photofound", _OURS)
        ours.appendChild(document.createTextNode(picture.recipe))
    _history(document, description).appendChild(_event(document, "" if generated else picture.note))
    return dataclasses.replace(picture, xmp=_written(document))


def source_type(picture: Picture) -> str | None:
    """The digital source type in a picture's metadata, such as ``COMPOSITE``; None if there is none."""
    document = _parsed(picture.xmp)
    return None if document is None else _value(document, "DigitalSourceType")


def _readable(picture: Picture) -> minidom.Document:
    """The picture's XMP, or a new one in place of none and of what cannot be read."""
    document = _parsed(picture.xmp)
    if document is None:
        if picture.xmp:
            warnings.warn("the picture's XMP is no clean XML and was replaced by the mark", stacklevel=3)
        document = minidom.parseString(_EMPTY.encode())
    return document


def recipe(source: Any) -> dict[str, Any] | None:
    """How a result, anything that ``Picture.from_any`` takes, was made: from its metadata; None if they do not say it.

    Raises ValueError if they are damaged, or if it is no picture.
    """
    picture = Picture.from_any(source)
    document = _parsed(picture.xmp) if picture.xmp and _OURS.encode() in picture.xmp else None
    text = None if document is None else _value(document, "Recipe", _OURS)
    return None if text is None else files.parse_json(text, "the recipe in the picture's metadata")


def without_recipe(picture: Picture) -> Picture:
    """The picture without a recipe, in its metadata too: that of a photograph is not true of what is made of it."""
    picture = dataclasses.replace(picture, recipe="") if picture.recipe else picture
    if not picture.xmp or _OURS.encode() not in picture.xmp or (document := _parsed(picture.xmp)) is None:
        return picture
    _remove(document, _OURS, "Recipe")
    return dataclasses.replace(picture, xmp=_written(document))


def _written(document: minidom.Document) -> bytes:
    return "".join(node.toxml() for node in document.childNodes).encode()


def _parsed(xmp: bytes | None) -> minidom.Document | None:
    """XMP as a document that holds an rdf:RDF, or None."""
    if not xmp:
        return None
    try:
        check_xmp(xmp)
        document = minidom.parseString(xmp)
    except (ExpatError, ValueError):
        return None
    return document if document.getElementsByTagNameNS(_RDF, "RDF") else None


def _descriptions(document: minidom.Document) -> Iterator[minidom.Element]:
    """The top-level descriptions: their properties are the picture's."""
    (rdf, *_) = document.getElementsByTagNameNS(_RDF, "RDF")
    for node in rdf.childNodes:
        if node.nodeType == node.ELEMENT_NODE and (node.namespaceURI, node.localName) == (_RDF, "Description"):
            yield node


def _properties(document: minidom.Document, space: str, name: str) -> Iterator[minidom.Element]:
    for description in _descriptions(document):
        for node in list(description.childNodes):
            if node.nodeType == node.ELEMENT_NODE and (node.namespaceURI, node.localName) == (space, name):
                yield node


def _value(document: minidom.Document, name: str, space: str = _IPTC) -> str | None:
    """A simple property. XMP may write it as an attribute or as an element."""
    found = [each.getAttributeNS(space, name) for each in _descriptions(document)]
    for node in _properties(document, space, name):
        found.append(node.getAttributeNS(_RDF, "resource"))
        found.append("".join(child.data for child in node.childNodes if child.nodeType in (3, 4)))
    return next((value.strip() for value in found if value.strip()), None)


def _remove(document: minidom.Document, space: str, name: str) -> None:
    for description in _descriptions(document):
        if description.hasAttributeNS(space, name):
            description.removeAttributeNS(space, name)
    for node in _properties(document, space, name):
        _drop(node)


def _drop(node: minidom.Element) -> None:
    assert node.parentNode is not None
    node.parentNode.removeChild(node)


def _description(document: minidom.Document) -> minidom.Element:
    """A new rdf:Description of the picture beside the others: XMP readers merge them."""
    about = next((each.getAttributeNS(_RDF, "about") for each in _descriptions(document)), "")
    (rdf, *_) = document.getElementsByTagNameNS(_RDF, "RDF")
    description = rdf.appendChild(_element(document, _RDF, "rdf:Description"))
    description.setAttributeNS(_RDF, "rdf:about", about)
    for prefix, space in (("rdf", _RDF), ("Iptc4xmpExt", _IPTC), ("xmpMM", _MM), ("stEvt", _EVENT)):
        description.setAttribute(f"xmlns:{prefix}", space)  # whatever other descriptions call them
    return description


def _history(document: minidom.Document, description: minidom.Element) -> minidom.Element:
    """The list of edits: the picture's own, else a new one."""
    for node in _properties(document, _MM, "History"):
        if lists := node.getElementsByTagNameNS(_RDF, "Seq"):
            return lists[0]
        _drop(node)  # no list: not XMP
    history = description.appendChild(_element(document, _MM, "xmpMM:History"))
    return history.appendChild(_element(document, _RDF, "rdf:Seq"))


def _event(document: minidom.Document, note: str = "") -> minidom.Element:
    """An entry of the history. It has no time, so that the same edit gives the same file."""
    event = _element(document, _RDF, "rdf:li")
    event.setAttribute("xmlns:rdf", _RDF)
    event.setAttribute("xmlns:stEvt", _EVENT)
    event.setAttributeNS(_RDF, "rdf:parseType", "Resource")
    values = {"action": "edited", "softwareAgent": f"photofound {__version__}", "parameters": note}
    for name, value in ((name, value) for name, value in values.items() if value):
        event.appendChild(_element(document, _EVENT, f"stEvt:{name}")).appendChild(document.createTextNode(value))
    return event


def _element(document: minidom.Document, space: str, name: str) -> minidom.Element:
    return document.createElementNS(space, name)
