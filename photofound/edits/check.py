"""What a marketplace would refuse of a file: its size, format, colours, background, and how much the subject fills.

for reason in faults("shoe.jpg", presets.load("amazon-main")): ...
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from photofound import image as images
from photofound.edits.effects import connected
from photofound.edits.geometry import bounding_box
from photofound.edits.presets import Preset, Rules
from photofound.image import Picture
from photofound.picture import colour

_FRAME = 2  # pixels along each side that must be the background
_SUBJECT = 24  # of 255: what differs more from the background belongs to the subject, or to a dark shadow
_RINGING = 16  # pixels around the subject that a JPEG's blocks may have tinted
_NEUTRAL, _BLACK = 10, 150  # of 255: a shadow's colours differ by no more, and it is no darker below the ground
_STEP, _SHARP = 6, 0.8  # a product's outline is a step of 6 of 255 within a JPEG's block, along most of it
_STRAY = 0.0005  # of the picture: less than that may differ from the background


def faults(path: str | os.PathLike[str], preset: Preset) -> list[str]:
    """The reasons why a file would be refused, one line each; none where it would be accepted.

    Raises ValueError or FileNotFoundError for a file that is no picture.
    """
    path, rules = Path(path), preset.rules
    with warnings.catch_warnings(action="ignore"):  # about what reading changes: here it is only looked at
        picture = images.load(path)
    found = [*_file_faults(path, picture, rules), *_size_faults(picture, rules)]
    if rules.profile == "srgb" and colour.profile_mode(picture.icc_profile, picture.is_grey) is not None:
        found.append("colours: its profile is not sRGB; convert it")
    alpha = picture.alpha()
    if rules.transparent is False and alpha is not None and alpha.min() < 1:
        found.append(f"transparency: {(alpha < 1).mean():.0%} of its pixels are transparent; give it a background")
    if rules.background is not None or rules.fill is not None:
        found += _ground_faults(picture, rules)
    return found


def _file_faults(path: Path, picture: Picture, rules: Rules) -> list[str]:
    found, size = [], path.stat().st_size
    if rules.formats is not None and picture.format not in rules.formats:
        found.append(f"format: {picture.format} is not taken; use {', '.join(rules.formats)}")
    named = images.SUFFIXES.get(path.suffix.lower())
    if named is not None and named != picture.format:
        found.append(f"format: it is {picture.format} but named {path.suffix}; rename it")
    if rules.bytes is not None and size > rules.bytes:
        found.append(f"file: {size / 1e6:.1f} MB is more than {rules.bytes / 1e6:.0f}; save it smaller")
    return found


def _size_faults(picture: Picture, rules: Rules) -> list[str]:
    width, height = picture.size
    shown, found = f"{width}x{height}", []
    measured = {
        "width": (rules.width, width, width),
        "height": (rules.height, height, height),
        "longest side": (rules.longest, max(width, height), max(width, height)),
        "shortest side": (rules.shortest, min(width, height), min(width, height)),
        "sides": (rules.sides, min(width, height), max(width, height)),
    }
    for name, (bounds, low, high) in measured.items():
        if bounds is not None and not (bounds[0] <= low and high <= bounds[1]):
            found.append(f"size: {shown}; {name} must be {bounds[0]:.0f} to {bounds[1]:.0f} pixels")
    if rules.megapixels is not None and width * height > rules.megapixels * 1e6:
        found.append(f"size: {shown} is {width * height / 1e6:.0f} megapixels, more than {rules.megapixels:.0f}")
    if rules.aspect is not None and abs(width - rules.aspect * height) >= 1:
        found.append(f"aspect: {shown} is {width / height:.3f}, not {rules.aspect:.3f}; place it on another canvas")
    return found


def _ground_faults(picture: Picture, rules: Rules) -> list[str]:
    """About the background and the subject, by the colours: the file does not say which is which."""
    seen = np.rint(picture.rgb() * 255).astype(np.int16)
    alpha = picture.alpha()
    if alpha is not None:
        seen[alpha == 0] = rules.background or (255, 255, 255)
    ground = np.array(rules.background if rules.background is not None else _frame_colour(seen), np.int16)
    away = np.abs(seen - ground).max(2)
    found = []
    if rules.background is not None:
        found += _frame_faults(away, seen, rules.background)
    subject = _subject(away)
    if not subject.any():
        return [*found, "subject: nothing stands out from the background"]
    if rules.background is not None and rules.shadow is False:
        found += _stray_faults(away, subject, rules.background)
    if rules.fill is not None:
        found += _fill_faults(subject, _without_greys(subject, seen, away), rules)
    return found


def _fill_faults(subject: np.ndarray, sure: np.ndarray, rules: Rules) -> list[str]:
    """Whether the subject fills too little or too much of the frame. Where a shadow is allowed, what may be one counts
    on the side of the file: the truth lies between the two."""
    assert rules.fill is not None
    height, width = subject.shape
    least, most = rules.fill
    boxes = [bounding_box(each) for each in ((subject,) if rules.shadow is False else (sure, subject))]
    fills = [round(max(box.width / width, box.height / height), 3) for box in boxes]
    if fills[-1] >= least and fills[0] <= most:
        return []
    fill = fills[-1] if fills[-1] < least else fills[0]
    return [f"subject: fills {fill:.0%} of the frame; it must be {least:.0%} to {most:.0%}"]


def _without_greys(subject: np.ndarray, seen: np.ndarray, away: np.ndarray) -> np.ndarray:
    """The subject without what may be its shadow on a grey or white ground: grey, and not black."""
    grey = (seen.max(2) - seen.min(2) <= _NEUTRAL) & (away < _BLACK)
    sure = _subject(np.where(grey, 0, away))
    return sure if sure.any() else subject


def _frame_colour(seen: np.ndarray) -> np.ndarray:
    sides = (seen[:_FRAME], seen[-_FRAME:], seen[:, :_FRAME], seen[:, -_FRAME:])
    median: np.ndarray = np.median(np.concatenate([side.reshape(-1, 3) for side in sides]), 0)
    return median


def _frame(shape: tuple[int, ...], width: int) -> np.ndarray:
    """(H, W) bool: the outermost pixels, ``width`` on each side."""
    frame = np.ones(shape, bool)
    frame[width:-width, width:-width] = False
    return frame


def _frame_faults(away: np.ndarray, seen: np.ndarray, ground: tuple[int, int, int]) -> list[str]:
    frame = _frame(away.shape, _FRAME)
    wrong = frame & (away > 0)
    if not wrong.any():
        return []
    y, x = np.argwhere(wrong)[away[wrong].argmax()]
    share = wrong.sum() / frame.sum()
    return [f"background: {share:.1%} of the frame is not {_hex(ground)}; the worst is {_hex(seen[y, x])} at {x},{y}"]


def _subject(away: np.ndarray) -> np.ndarray:
    """(H, W) bool: what stands out from the background, without specks."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats((away > _SUBJECT).astype(np.uint8))
    large = stats[:, cv2.CC_STAT_AREA] >= max(4, away.size * 2e-6)
    large[0] = False
    return large[labels] if count > 1 else np.zeros(away.shape, bool)


def _stray_faults(away: np.ndarray, subject: np.ndarray, ground: tuple[int, int, int]) -> list[str]:
    """Off-white, a gradient or a shadow: what differs a little outside the subject. What the subject encloses is its
    own, and so is what ends in a step beside it, as a white shoe does: a shadow fades, and off-white is all around."""
    import cv2

    near = cv2.dilate(subject.astype(np.uint8), np.ones((2 * _RINGING + 1,) * 2, np.uint8))
    outside = connected(near == 0, _frame(near.shape, 1))
    wrong = outside & (away > 0)
    around = outside & (cv2.dilate(near, np.ones((9, 9), np.uint8)) > 0)
    if wrong.mean() > _STRAY and wrong[around].mean() < 0.5:
        wrong &= ~_with_outline(wrong, away)
    if wrong.mean() <= _STRAY:
        return []
    share = wrong.sum() / max(1, outside.sum())
    return [f"background: {share:.1%} of it is not {_hex(ground)}: a shadow, a gradient or off-white"]


def _with_outline(parts: np.ndarray, away: np.ndarray) -> np.ndarray:
    """(H, W) bool: those of the connected parts whose border on the pure background is a step."""
    import cv2

    _, labels = cv2.connectedComponents(parts.astype(np.uint8))
    beside = cv2.dilate(labels.astype(np.float32), np.ones((3, 3), np.uint8)).astype(np.int32)
    border = (away == 0) & (beside > 0)
    stepped = border & (cv2.dilate(away.clip(0, 255).astype(np.uint8), np.ones((17, 17), np.uint8)) >= _STEP)
    total, steps = (np.bincount(beside[each], minlength=labels.max() + 1) for each in (border, stepped))
    found: np.ndarray = (steps > _SHARP * total)[labels] & parts
    return found


def _hex(colour: np.ndarray | tuple[int, int, int]) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in colour)
