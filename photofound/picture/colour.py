"""Native colours <-> sRGB, through the ICC profile that says what the native values mean.

8 bits go through Little CMS (Pillow's ``ImageCms``), 16 bits through our own floats (``profiles``), because Pillow has
no 16-bit transforms. Profiles that are made of tables (scanners, printers) are converted in 8 bits, whatever the depth.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from photofound.errors import first_line
from photofound.picture import metadata, profiles
from photofound.picture.arrays import grey_to_rgb, to_8_bit

LARGEST_PROFILE = 8 * 2**20
"""Bytes. Profiles of displays have some kilobytes, those of printers up to a few megabytes."""
_LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601, as in Pillow and OpenCV


def to_srgb(colours: np.ndarray, profile: bytes | None) -> np.ndarray:
    """Native colours (H, W, 1 or 3) uint8 or uint16 -> (H, W, 3) float32 sRGB in [0, 1]; grey is repeated."""
    white = np.float32(np.iinfo(colours.dtype).max)
    convert = _transform(profile, colours.shape[2] == 1, to_srgb=True)
    if convert is None:
        return grey_to_rgb(colours.astype(np.float32) / white)
    transform, mode = convert
    colours = grey_to_rgb(colours) if mode == "RGB" else colours
    if (exact := _exact(profile, colours.dtype)) is not None:
        return grey_to_rgb(exact.to_srgb(colours))
    return grey_to_rgb(_apply(transform, to_8_bit(colours)).astype(np.float32) / np.float32(255))


def from_srgb(rgb: np.ndarray, profile: bytes | None, is_grey: bool, dtype: np.dtype) -> np.ndarray:
    """(h, w, 3) sRGB, clipped to [0, 1] -> (h, w, 1 or 3) float32 native values, unrounded; inverts ``to_srgb``."""
    rgb = rgb.clip(0, 1)
    convert = _transform(profile, is_grey, to_srgb=False) if rgb.size else None
    if convert is not None and (exact := _exact(profile, dtype)) is not None:
        rgb = exact.from_srgb(rgb)
    elif convert is not None:
        rgb = _apply(convert[0], np.rint(rgb * 255).astype(np.uint8)).astype(np.float32) / np.float32(255)
    if is_grey and rgb.shape[2] == 3:
        rgb = (rgb @ _LUMA)[..., None].astype(np.float32)
    return rgb * np.float32(np.iinfo(dtype).max)


def profile_mode(profile: bytes | None, is_grey: bool) -> str | None:
    """The colours that a profile describes, "RGB" or "L"; None if native values are sRGB already."""
    convert = _transform(profile, is_grey, to_srgb=True)
    return None if convert is None else convert[1]


def _exact(profile: bytes | None, dtype: np.dtype) -> profiles.Profile | None:
    """The conversion that keeps 16 bits, where it is needed and possible."""
    return profiles.parse(profile) if profile and dtype == np.uint16 else None


# ------------------------------------------------------------------------------------------------ Little CMS transforms


class _ProfileKey:
    """A colour profile as the key of a cache. Its hash stands for it, so that nothing large is kept or compared."""

    def __init__(self, data: bytes) -> None:
        self.data: bytes | None = data
        self.digest = hashlib.sha256(data).digest()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ProfileKey) and self.digest == other.digest


def _transform(profile: bytes | None, is_grey: bool, to_srgb: bool) -> tuple[Any, str] | None:
    """(ImageCms transform, the profile's mode "RGB" or "L"), or None when native values already are sRGB.

    A damaged or very large profile, or one for another kind of picture, is ignored with a warning.
    """
    if profile is None:
        return None
    if len(profile) > LARGEST_PROFILE:
        warnings.warn(f"the picture's colour profile is ignored: {profile_size(profile)}", stacklevel=5)
        return None
    key = _ProfileKey(profile)
    try:
        return _built_transform(key, is_grey, to_srgb)
    finally:
        key.data = None  # the cache keeps the key


def profile_size(profile: bytes) -> str:
    """Why a profile of more than ``LARGEST_PROFILE`` is not used, for a warning."""
    size, limit = len(profile) / 2**20, LARGEST_PROFILE / 2**20
    return f"it has {size:.0f} MiB, more than {limit:.0f}; its values are read as sRGB"


@lru_cache(maxsize=32)
def _built_transform(key: _ProfileKey, is_grey: bool, to_srgb: bool) -> tuple[Any, str] | None:
    from PIL import ImageCms

    assert key.data is not None
    try:
        native = ImageCms.ImageCmsProfile(io.BytesIO(key.data))
        mode = {"RGB": "RGB", "GRAY": "L"}[native.profile.xcolor_space.strip()]
        if mode == "L" and not is_grey:
            raise ValueError("a grey profile on a colour picture")
        srgb = ImageCms.createProfile("sRGB")
        intent, black_point = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        there = ImageCms.buildTransform(native, srgb, mode, "RGB", intent, black_point)
        if _changes_nothing(there, mode):
            return None
        return (there if to_srgb else ImageCms.buildTransform(srgb, native, "RGB", mode, intent, black_point)), mode
    except (ImageCms.PyCMSError, KeyError, OSError, TypeError, ValueError) as error:
        warnings.warn(f"the picture's colour profile is ignored: {error!r}; its values are read as sRGB", stacklevel=6)
        return None


def _changes_nothing(to_srgb: Any, mode: str) -> bool:
    """Whether a transform stays within 1/255 everywhere: the many profiles that are sRGB under some name."""
    if mode == "L":
        native = np.arange(256, dtype=np.uint8)[None, :, None]
    else:
        steps = np.linspace(0, 255, 16).astype(np.uint8)
        native = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(64, 64, 3)
    return bool(np.abs(_apply(to_srgb, native).astype(int) - native).max() <= 1)


def _apply(transform: Any, pixels: np.ndarray) -> np.ndarray:
    """(H, W, 1 or 3) uint8 through an ImageCms transform, (H, W, 1 or 3) uint8."""
    from PIL import ImageCms

    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    converted = np.asarray(ImageCms.applyTransform(image, transform))
    return converted[..., None] if converted.ndim == 2 else converted


# ------------------------------------------------------------------------------------- what a file says of its colours


def as_rgb(image: Image.Image, profile: bytes | None, name: str) -> tuple[Image.Image, bytes | None]:
    """An image of CMYK, L*a*b*, YCbCr or HSV as RGB, with the profile that applies then."""
    from PIL import ImageCms

    if image.mode in ("YCbCr", "HSV"):  # other axes of the same space, so the profile stays right
        return image.convert("RGB"), profile
    warnings.warn(f"{name}: is {image.mode}; converted to RGB", stacklevel=6)
    source: Any = io.BytesIO(profile) if profile else None
    if image.mode == "LAB":  # absolute colours, which need no profile
        source = ImageCms.createProfile("LAB")
    try:
        if source is not None:
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, source, srgb, outputMode="RGB") or image, None
    except (ImageCms.PyCMSError, OSError) as error:
        warnings.warn(f"{name}: its colour profile is ignored ({first_line(error)})", stacklevel=6)
    return image.convert("RGB"), None


def profile_of(image: Image.Image, name: str) -> bytes | None:
    """A file's own profile, or one made from what it says of its colours otherwise: code points, PNG's gamma and
    primaries, or Adobe RGB in EXIF, as cameras write it. None where they are sRGB, or close to it."""
    profile: bytes | None = image.info.get("icc_profile") or None
    if profile and len(profile) > LARGEST_PROFILE:
        warnings.warn(f"{name}: its colour profile was left out: {profile_size(profile)}", stacklevel=6)
        profile = None
    return profile or _named_profile(image, name)


def _named_profile(image: Image.Image, name: str) -> bytes | None:
    grey, info = image.mode in ("1", "L", "LA", "La", "I", "I;16"), image.info
    primaries, transfer = info.get("code_points") or (1, 13)
    if transfer in (16, 18):
        warnings.warn(f"{name}: is an HDR picture; its values are read as sRGB, and a PNG keeps its mark", stacklevel=6)
        return None
    if info.get("code_points"):
        if (primaries, transfer) in ((1, 13), (1, 1), (1, 6), (2, 2)) or primaries not in profiles.PRIMARIES:
            return None
        curve = profiles.CURVES.get(transfer, profiles.CURVES[13])
        return profiles.build(profiles.PRIMARIES[primaries], curve, f"H.273 {primaries}/{transfer}", grey)
    if "srgb" in info:
        return None
    if "gamma" in info or "chromaticity" in info:
        return _profile_of_gamma(info.get("gamma"), info.get("chromaticity"), grey)
    exif = image.getexif()
    with suppress(*metadata.EXIF_ERRORS):
        if not grey and exif.get_ifd(0x8769).get(0xA001) == 65535 and exif.get_ifd(0xA005).get(1) == "R03":
            return profiles.build(profiles.ADOBE_RGB, (563 / 256,), "Adobe RGB (1998)")
    return None


def _profile_of_gamma(gamma: Any, primaries: Any, grey: bool) -> bytes | None:
    """The profile of PNG's gAMA (None = sRGB's curve) and cHRM (None = sRGB's primaries)."""
    primaries = profiles.SRGB if primaries is None else tuple(float(each) for each in primaries)
    is_srgb = len(primaries) == 8 and max(abs(a - b) for a, b in zip(primaries, profiles.SRGB, strict=True)) < 0.005
    usual = not gamma or abs(gamma * 2.2 - 1) <= 0.05  # many programs write sRGB so
    if len(primaries) != 8 or (usual and (is_srgb or grey)):
        return None
    curve = profiles.CURVES[13] if not gamma else (1 / gamma,)
    return profiles.build(primaries, curve, f"gamma {1 / gamma:.2g}" if gamma else "primaries of a PNG", grey)
