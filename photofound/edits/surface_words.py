"""From words to a surface: the material, the colour and the place that a prompt names; and to a picture of a gallery.

The vocabulary is English, with the most common words of German, French and Spanish. It is written without accents;
"holz*" is the beginning of a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from photofound.edits.colours import colour_name
from photofound.edits.materials import DEFAULTS, RGB, Surface
from photofound.image import READABLE_SUFFIXES


class _Material(NamedTuple):
    """Words for a material.

    Attributes:
        name: the material's name in ``materials.MATERIALS``.
        view: the surface's view; None = the other words decide.
        colour: sRGB, 0..255; None = the material's default.
        words: separated by spaces.
    """

    name: str
    view: str | None
    colour: RGB | None
    words: str


_MATERIALS = tuple(_Material(*row) for row in (
    ("wood", None, None, "wood wooden woods plank planks timber parquet holz* bois madera"),
    ("wood", None, (168, 122, 78), "oak eiche* chene roble"),
    ("wood", None, (92, 62, 43), "walnut mahogany nuss* noyer nogal"),
    ("wood", None, (214, 178, 132), "pine birch maple ash beech bamboo kiefer* birke* pin pino"),
    ("marble", None, None, "marble marbled marmor* marbre marmol"),
    ("linen", None, None, "linen burlap canvas jute hessian leinen* lin lino"),
    ("cloth", None, None, "cloth fabric textile tablecloth silk satin velvet cotton blanket sheet towel drape drapery "
     "curtain stoff* tuch* tischdecke tissu nappe tela mantel"),
    ("concrete", None, None, "concrete cement beton* hormigon cemento"),
    ("plaster", "wall", None, "plaster stucco plastered putz* gips* platre yeso estuco"),
    ("paper", None, None, "paper cardboard papier* papel"),
    ("sand", "ground", None, "sand sandy beach desert dune dunes strand* wuste* sable plage arena playa"),
    ("tiles", None, None, "tile tiles tiled ceramic porcelain fliese* kachel* carrelage carreaux azulejo azulejos"),
    ("stone", None, None, "stone slate rock granite stein* schiefer* pierre ardoise piedra pizarra"),
    ("grass", "ground", None, "grass grassy lawn meadow turf field gras rasen* wiese* herbe pelouse pre hierba cesped "
     "prado"),
    ("bokeh", "ground", None, "bokeh lights lichter lumieres luces"),
    ("sweep", "ground", None, "studio backdrop sweep seamless background hintergrund fond fondo estudio"),
    ("plaster", "wall", None, "wall wand mur pared muro"),
))  # fmt: skip
_PLACES = {  # view -> its material if the prompt names none, and the words for the place
    "ground": ("wood", "table tabletop desk counter countertop worktop shelf board bench floor flooring tisch* boden "
               "regal table sol plancher mesa suelo escritorio"),
    "flat": ("sweep", "flatlay overhead topdown"),
    "plain": ("sweep", "surface ground setting oberflache untergrund surface superficie"),
}  # fmt: skip
_FLAT = ("flat lay", "from above", "top view", "top down", "bird s eye", "von oben", "vue de dessus", "desde arriba")
_TONES = {"dark": 0.55, "deep": 0.68, "light": 1.45, "pale": 1.5, "bright": 1.15, "dunkel": 0.55, "hell": 1.45,
          "fonce": 0.55, "clair": 1.45, "oscuro": 0.55, "claro": 1.45}  # fmt: skip
_COLOURS: dict[str, RGB] = {
    "white": (245, 245, 245), "black": (22, 22, 23), "grey": (140, 140, 140), "gray": (140, 140, 140),
    "red": (186, 28, 34), "green": (60, 145, 60), "blue": (45, 95, 190), "yellow": (235, 205, 60),
    "orange": (232, 126, 36), "pink": (235, 150, 175), "brown": (122, 80, 50), "beige": (220, 200, 170),
    "purple": (110, 60, 150), "teal": (40, 135, 135), "cream": (244, 234, 210), "ivory": (246, 242, 226),
    "navy": (28, 42, 92), "turquoise": (64, 200, 194), "mint": (178, 226, 200), "olive": (112, 116, 52),
    "burgundy": (110, 22, 40), "crimson": (176, 20, 50), "coral": (244, 126, 104), "lavender": (196, 182, 226),
    "violet": (120, 70, 170), "magenta": (200, 40, 140), "cyan": (70, 190, 220), "gold": (206, 164, 74),
    "golden": (206, 164, 74), "silver": (188, 190, 194), "charcoal": (58, 60, 64), "tan": (200, 164, 124),
    "khaki": (180, 168, 120), "rust": (160, 76, 40), "peach": (248, 200, 170), "sky": (140, 196, 235),
    "emerald": (30, 130, 90), "mustard": (205, 160, 50), "anthracite": (52, 55, 60), "snowy": (244, 247, 250),
}  # fmt: skip
_OTHER_LANGUAGES = {
    "white": "weiss* blanc blanche blanco blanca", "black": "schwarz* noir noire negro negra",
    "grey": "grau* gris grise", "red": "rot rote roten roter rotes rotem rouge rojo roja",
    "green": "grun* vert verte verde", "blue": "blau* bleu bleue azul", "yellow": "gelb* jaune amarillo amarilla",
    "orange": "naranja", "pink": "rosa rose", "brown": "braun* marron brun brune", "purple": "lila morado morada",
}  # fmt: skip
# The surface is named after the first of these: "a red cup ON a white table".
_PREPOSITIONS = {"on", "onto", "upon", "over", "against", "before", "front", "atop", "with", "in", "at", "auf", "vor",
                 "an", "sur", "devant", "contre", "sobre", "ante", "contra", "en"}  # fmt: skip
# They may stand beside a colour or a material without naming anything else.
_MODIFIERS = {"pure", "plain", "solid", "a", "an", "the", "of", "very", "clean", "simple", "rein*", "uni", "puro"}
_COLOURED_BY_NATURE = ("grass", "wood", "marble", "concrete")
"""Materials that a word for their usual colour does not change: brown wood is wood."""


@cache
def _vocabulary() -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """Whole words, and beginnings of words, with their meanings: ("material", _Material), ("place", view),
    ("colour", name) or ("tone", factor)."""
    exact: dict[str, Any] = {}
    stems: list[tuple[str, Any]] = []

    def add(words: str, meaning: Any) -> None:
        for word in words.split():
            if word.endswith("*"):
                stems.append((word[:-1], meaning))
            else:
                exact.setdefault(word, meaning)

    for name in _COLOURS:
        add(name, ("colour", "grey" if name == "gray" else name))
    for name, words in _OTHER_LANGUAGES.items():
        add(words, ("colour", name))
    for tone, factor in _TONES.items():
        add(tone, ("tone", factor))
    for material in _MATERIALS:
        add(material.words, ("material", material))
    for view, (_, words) in _PLACES.items():
        add(words, ("place", view))
    return exact, stems


def _meanings(word: str) -> list[Any]:
    """The meanings of a word: none, one, or two of a German compound (Holztisch)."""
    exact, stems = _vocabulary()
    if word in exact:
        return [exact[word]]
    if word.endswith("s") and word[:-1] in exact:
        return [exact[word[:-1]]]
    found = [meaning for stem, meaning in stems if word.startswith(stem)]
    for tail, meaning in (("tisch", ("place", "ground")), ("boden", ("place", "ground")), ("wand", exact["wand"])):
        if len(word) > len(tail) and word.endswith(tail):
            found.append(meaning)
            found += [exact[word[: -len(tail)]]] if word[: -len(tail)] in exact else []
    return found


def surface_of(prompt: str, alone: bool = False) -> Surface | None:
    """The surface that a prompt names, or None where it names none.

    If there is a preposition ("on", "before", "against", ...), the words behind the first one are read before all
    words: "a red cup on a white table" names a white table. A colour alone is a studio's backdrop; a table alone is
    made of wood.

    Args:
        alone: the prompt must name a material or a colour and nothing else: "dark wooden planks" is a surface, "a
            wooden chair" and "a table" are not.
    """
    plain = unicodedata.normalize("NFKD", prompt.lower().replace("ß", "ss"))
    words = re.findall(r"[a-z]+", "".join(c for c in plain if not unicodedata.combining(c)))[:200]
    if alone:
        kinds = {kind for word in words for kind, _ in _meanings(word)}
        if not kinds & {"material", "colour"} or not all(
            _meanings(w) or w in _MODIFIERS | _PREPOSITIONS for w in words
        ):
            return None
    after = next((i + 1 for i, word in enumerate(words) if word in _PREPOSITIONS), 0)
    for part in (words[after:], words) if after else (words,):
        found = _surface_in(part, bare=part is words)
        if found is not None:
            return found
    return None


def _surface_in(words: Sequence[str], bare: bool) -> Surface | None:
    """The surface that these words name. ``bare``: they have no preposition before them, so that a colour must stand
    alone to count."""
    meanings = [meaning for word in words for meaning in _meanings(word)]
    materials: list[_Material] = [material for kind, material in meanings if kind == "material"]
    places = [view for kind, view in meanings if kind == "place"]
    colours = [name for kind, name in meanings if kind == "colour"]
    tones = [factor for kind, factor in meanings if kind == "tone"]
    nothing_else = all(_meanings(word) or word in _MODIFIERS for word in words)
    if not materials and not places and not (colours and nothing_else and bare):
        return None
    # A word for a wall or a backdrop says less than a word for a material: a "wooden wall" is made of wood.
    walls = [each for each in materials if each.name == "plaster"]
    backdrops = [each for each in materials if each.name == "sweep"]
    chosen = [each for each in materials if each not in walls + backdrops] or walls or backdrops
    if chosen:
        material, view, colour, _ = chosen[0]
    else:
        material, view, colour = (_PLACES[places[0]][0] if places else "sweep"), None, None
    if walls and view is None:
        view = "wall"
    if "flat" in places or any(phrase in " ".join(words) for phrase in _FLAT):
        view = "flat"
    colour = colour or DEFAULTS[material]
    usual = colour_name(np.array(colour, np.float32))
    if colours and not (material in _COLOURED_BY_NATURE and colours[0] in usual):
        colour = _COLOURS[colours[0]]
        if colours[0] == "white" and "pure" in words:
            colour = (255, 255, 255)
    if tones:
        colour = _lightened(colour, tones[0])
    return Surface(material, colour, view or "ground")


def _lightened(colour: RGB, factor: float) -> RGB:
    """A darker colour for a factor below 1, a lighter and paler one above."""
    rgb = np.array(colour, np.float64)
    rgb = rgb * factor if factor <= 1 else 255 - (255 - rgb) / factor
    red, green, blue = (int(part) for part in rgb.round().clip(0, 255))
    return red, green, blue


# ---------------------------------------------------------------------------------------------------- a user's pictures


def from_gallery(folder: str | Path, prompt: str) -> Path:
    """The picture in a folder that shares most words of its file name with the prompt; among equals the first by name.

    Raises FileNotFoundError if there is no such folder, ValueError, which lists the names, if none fits.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"gallery: {folder} is no folder; name one that holds pictures")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in READABLE_SUFFIXES and path.is_file())
    wanted = _words(prompt)
    shared = [len(wanted & _words(path.stem)) for path in files]
    best = max(shared, default=0)
    if not best:
        names = ", ".join(path.name for path in files[:20]) or "no picture"
        raise ValueError(f"gallery: no file name shares a word with {prompt!r}; {folder} holds {names}")
    return files[shared.index(best)]


def _words(text: str) -> set[str]:
    """Words of two letters and more, without a plural's s, prepositions and modifiers."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    found = (word for word in re.findall(r"[^\W\d_]{2,}", plain) if word not in _PREPOSITIONS | _MODIFIERS)
    return {word[:-1] if len(word) > 3 and word.endswith("s") else word for word in found}
