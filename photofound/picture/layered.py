"""Files of layers: which there are, and writing them.

save(found, flatten(found), "out.ora")      # or out.psd
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from photofound import files
from photofound.picture import openraster, psd
from photofound.picture.encode import check_output
from photofound.picture.layers import Layer
from photofound.picture.picture import Picture

MIME = {"ORA": "image/openraster", "PSD": "image/vnd.adobe.photoshop"}
SUFFIXES = tuple(f".{kind.lower()}" for kind in MIME)


def check_path(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """A path for layers. Raises ValueError for another suffix, and the errors of ``check_output``."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"layers: {path} is neither .ora (OpenRaster: GIMP, Krita) nor .psd (Photoshop); name one")
    check_output(path, overwrite)
    return Path(path)


def save(found: Sequence[Layer], flat: Picture, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write layers and their flat picture, atomically. The path's suffix says which kind of file. Raises ValueError,
    OSError."""
    target = check_path(path, overwrite)
    files.write(target, encode(found, flat, target.suffix[1:].upper()))
    return target


def encode(found: Sequence[Layer], flat: Picture, kind: str) -> bytes:
    """The bytes of a file of layers, ``ORA`` or ``PSD``. Raises ValueError for what that cannot hold."""
    return (openraster if kind == "ORA" else psd).encode(found, flat)
