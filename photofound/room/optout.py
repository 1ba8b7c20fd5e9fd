"""Who must not be in a room: an opt-out list, kept in the room, that every later add respects.

It is a text file, ``optout.txt``, one entry a line, ``#`` begins a comment:

    3f79bb7b435b05321651daefd374cdc681dc06faa65e374e38337b88ca046dea    SHA-256 of a file
    example.com                     a domain, with all below it; so is a source, a folder, the name of a file
    example.com/private/            everything below
    example.com/*/portraits         robots.txt's patterns: * is anything, $ the end
    Disallow: example.com/staff     the same, as robots.txt spells it
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from photofound import files

NAME = "optout.txt"
SOURCES = "sources.jsonl"
"""Further sources of photographs, a line each: a file that two sources offer is in the room once."""
_HASH = re.compile(r"(?:sha256:)?([0-9a-f]{64})", re.I)
_URL_COLUMNS = ("url", "source_url", "image_url", "source_path", "author", "creator", "photographer")
_LARGEST = 512 * 2**20


class OptOut:
    """An opt-out list in memory: some eighty bytes for each hash."""

    def __init__(self, entries: Iterable[str]) -> None:
        self.hashes: set[bytes] = set()
        self.names: set[str] = set()
        patterns: list[str] = []
        for entry in entries:
            if digest := _HASH.fullmatch(entry):
                self.hashes.add(bytes.fromhex(digest[1]))
            elif "*" in entry or entry.endswith("$"):
                patterns.append(_regex(entry))
            else:
                self.names.add(_plain(entry))
        self._patterns = re.compile("|".join(patterns)) if patterns else None

    @classmethod
    def of_room(cls, folder: Path) -> OptOut:
        """The list of a room."""
        path = folder / NAME
        return cls(read(path) if path.is_file() else ())

    def __bool__(self) -> bool:
        return bool(self.hashes or self.names or self._patterns)

    def has_hash(self, *digests: str) -> bool:
        """Whether a file of one of these SHA-256 has opted out."""
        return any(bytes.fromhex(digest) in self.hashes for digest in digests)

    def has_place(self, *texts: str, meta: Mapping[str, Any] | None = None) -> bool:
        """Whether a source, a collection, a name, or a URL or a person in the metadata has opted out."""
        if not self.names and not self._patterns:
            return False
        named = [str(value) for key, value in (meta or {}).items() if key in _URL_COLUMNS and isinstance(value, str)]
        for text in filter(None, map(_plain, (*texts, *named))):
            if any(each in self.names for each in _above(text)):
                return True
            if self._patterns is not None and self._patterns.match(text):
                return True
        return False


def read(path: Path) -> Iterator[str]:
    """The entries of a list. Raises OSError, and ValueError for what is no text."""
    try:
        lines = files.read(path, _LARGEST).decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(
            f"{path}: is no text in UTF-8; an opt-out list has a hash, a source or a pattern a line"
        ) from None
    for line in lines:
        entry = re.sub(r"^\s*(disallow|source|domain)\s*:\s*", "", line.partition("#")[0].strip(), flags=re.I)
        if entry and not re.match(r"(user-agent|allow|sitemap|crawl-delay)\s*:", entry, re.I):
            yield entry


def extend(folder: Path, entries: Iterable[str], note: str) -> int:
    """Add entries to a room's list, within its lock; those that are there stay single. Returns how many were new."""
    path = folder / NAME
    before = files.read(path, _LARGEST).decode("utf-8") if path.is_file() else ""
    known = {line.strip() for line in before.splitlines()}
    new = [entry for entry in dict.fromkeys(entries) if entry not in known]
    if new:
        start = before if not before or before.endswith("\n") else before + "\n"
        files.write(path, start + f"# {note}\n" + "".join(f"{entry}\n" for entry in new))
    return len(new)


def note_sources(folder: Path, found: Iterable[Mapping[str, str]]) -> None:
    """Note further sources of photographs that are in the room by another one, each once: what any of them takes back
    is forgotten. Within the lock."""
    lines = dict.fromkeys(json.dumps(each) for each in found)
    if lines:
        path = folder / SOURCES
        known = set(path.read_text().splitlines()) if path.is_file() else set()
        with path.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines if line not in known))


def other_sources(folder: Path) -> Iterator[dict[str, str]]:
    """What ``note_sources`` has noted: ``key``, ``source`` and ``collection``."""
    path = folder / SOURCES
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            yield json.loads(line)
        except ValueError:  # half a line of a killed process
            continue


def _plain(text: str) -> str:
    """A source, a path or a URL to compare: without scheme, query and last slash, the host in small letters."""
    text = " ".join(text.split())
    if "://" in text:
        parts = urlsplit(text)
        text = f"{parts.hostname or ''}{parts.path}"
    host, slash, rest = text.partition("/")
    return f"{host.lower() if '.' in host else host}{slash}{rest}".rstrip("/")


def _above(text: str) -> Iterator[str]:
    """The text, the folders that it lies in, and the domains above its host."""
    parts = text.split("/")
    paths = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
    yield from (path for path in paths if path)
    labels = parts[0].split(".")
    if len(labels) > 2 and re.fullmatch(r"[\w.-]+", parts[0]):
        for count in range(1, len(labels) - 1):
            host = ".".join(labels[count:])
            yield from (host + path[len(parts[0]) :] for path in paths)


def _regex(pattern: str) -> str:
    """A pattern of robots.txt (RFC 9309, 2.2.3) as a regular expression: it holds from the start, * is anything."""
    ends = pattern.endswith("$")
    body = ".*".join(map(re.escape, _plain(pattern.removesuffix("$")).split("*")))
    host = r"(?:[\w-]+\.)*" if re.match(r"[\w-]+(\\?\.[\w-]+)+(/|$)", pattern) else ""
    return f"(?:{host}{body}{'$' if ends else ''})"
