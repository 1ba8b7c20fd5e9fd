"""Ways to caption a photograph."""

from __future__ import annotations

from photofound.data.photograph import Photograph
from photofound.edits.colours import border_colour

_LEADS = ("A photo of ", "A product photo of ", "a photo of ")
_TAILS = (" laid out or hanging at home", " in a grocery store", " on a plain light background", ", or its preparation")


def captions(photograph: Photograph) -> list[str]:
    """Ways to caption a photograph: its own words, shorter ones, and ones that name the ground's colour where one
    dominates."""
    words = photograph.caption.strip().rstrip(".")
    for lead in _LEADS:
        words = words.removeprefix(lead)
    subject = words
    for tail in _TAILS:
        subject = subject.removesuffix(tail)
    subject = subject.split(" on a ")[0]
    colour = border_colour(photograph.pixels)
    if colour is None:
        return [words, words, subject]
    return [words, f"{subject} on a {colour} background", f"on a {colour} background", f"{colour} background"]
