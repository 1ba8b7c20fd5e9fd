"""Pictures in one import: what the rest of the library, and code of others, uses of ``photofound.picture``."""

from photofound.picture.arrays import from_tensor, nearest, to_tensor
from photofound.picture.bounds import MAX_PIXELS, ImageError, TooLarge
from photofound.picture.encode import check_fit, check_output, check_side, encode, lost_depth, output_format, save
from photofound.picture.formats import (
    FORMATS_VARIABLE,
    HOLDS_ALPHA,
    READABLE,
    READABLE_SUFFIXES,
    SUFFIXES,
    readable,
    suffix_of,
)
from photofound.picture.jpeg import JpegSource
from photofound.picture.mask import load_mask, require_hole
from photofound.picture.metadata import check_xmp
from photofound.picture.picture import Picture, decode, is_whole, load, upright_size

__all__ = [
    "FORMATS_VARIABLE",
    "HOLDS_ALPHA",
    "MAX_PIXELS",
    "READABLE",
    "READABLE_SUFFIXES",
    "SUFFIXES",
    "ImageError",
    "JpegSource",
    "Picture",
    "TooLarge",
    "check_fit",
    "check_output",
    "check_side",
    "check_xmp",
    "decode",
    "encode",
    "from_tensor",
    "is_whole",
    "load",
    "load_mask",
    "lost_depth",
    "nearest",
    "output_format",
    "readable",
    "require_hole",
    "save",
    "suffix_of",
    "to_tensor",
    "upright_size",
]
