"""The library's messages in the words of the demo's page."""

from __future__ import annotations

import re

from photofound.errors import one_line

# What the library says to programmers, and what that is on the page.
_WORDS = (
    (r"; if you trust it, set max_pixels.*", "; this page takes none larger"),
    (r"^the subject is empty.*", "nothing is left of the subject; brush over what to keep"),
    (r"^the [\w ]+ (is missing; pass .*|is empty \(all black\).*)", "nothing is brushed; brush over what to change"),
    (r"^the [\w ]+ is full \(all white\).*", "all of it is brushed; leave something out"),
    (r"pass subject=MASK", "brush over what to keep"),
    (r"which needs a package: .*", "which this page cannot read; save it as JPEG"),
    (r"; choose (another output|png or tif)\b.*", "; choose PNG beside Download"),
    (r"save as PNG to keep them", "choose PNG beside Download to keep them"),
    (r"num_inference_steps", "Steps"),
    (r"guidance_scale", "Guidance"),
    (r"num_images_per_prompt", "Images"),
    (r"\b(\w+)_image\b", r"\1"),
)
_ROOT = r"(?:file://|[A-Za-z]:|~|\.{1,2})?[\\/]"
# All of a path but its last part. With spaces it is a path between quotes, or from a start or a colon to a colon.
_PLACES = (
    re.compile(rf"(?<=['\"]){_ROOT}[^'\"]*[\\/](?=[^'\"])"),
    re.compile(rf"(?:(?<=^)|(?<=: )){_ROOT}[^:;'\"]*[\\/](?=[^\\/:;'\"]+(?::|$))"),
    re.compile(rf"(?<![\w.):/\\~]){_ROOT}(?:[^\\/\s'\"]+[\\/])*(?=[^\s\\/])"),
)


def in_words(error: BaseException | str) -> str:
    """What is wrong, in one line for a visitor: in the page's words, and without a place on the server."""
    line = error if isinstance(error, str) else one_line(error)
    if isinstance(error, MemoryError) or "out of memory" in line or "allocate memory" in line:
        return "the server has too little memory for this; try it with a smaller photograph"
    if isinstance(error, OSError) and error.strerror:
        return f"the server cannot use one of its files ({error.strerror.lower()}); try again later"
    for pattern, words in _WORDS:
        line = re.sub(pattern, words, line)
    for place in _PLACES:
        line = place.sub("", line)
    return line
