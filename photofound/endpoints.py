"""Servers of others that speak OpenAI's API: their addresses, and what they say is wrong."""

from __future__ import annotations

import json


def is_address(url: str) -> bool:
    """Whether a URL can be where an API begins: http or https with a host, without a user, a query or a fragment."""
    import httpx

    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    wrong = parts.userinfo or parts.query or parts.fragment
    return parts.scheme in ("http", "https") and bool(parts.host) and not wrong


def error_text(body: bytes, most: int) -> str:
    """The sentence in an answer that is an error, in one printable line of ``most`` characters."""
    try:
        error = json.loads(body)["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, LookupError, TypeError, RecursionError):
        text = "it does not say why"
    words = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return " ".join(words.split())[:most]
