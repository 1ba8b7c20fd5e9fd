"""WebDataset tars: their samples, still encoded, and writing them. What is whole in a damaged tar is read.

A sample is ``KEY.jpg`` (or any other suffix of a picture that is read) with ``KEY.json`` and whatever else has its key.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from photofound import files, image, remote
from photofound.data.ledger import error_text, files_below, warn_passed_over

MAX_FILES = 100  # of one sample
MAX_BREAKS = 1000  # damaged places in a tar; reading goes on after each of them

IMAGES = tuple(dict.fromkeys((".webp", ".jpg", ".jpeg", ".png", *image.READABLE_SUFFIXES)))
"""Suffixes of a sample's photograph: the first of them that there is."""
MASKS = tuple(f".mask{suffix}" for suffix in IMAGES)


def warn_unread(folder: str | Path, read: Sequence[str]) -> None:
    """Say which pictures, tars and parquet files of a folder on this machine are not among those that are read."""
    here = files.local(folder)
    if here is not None and here.is_dir():
        kinds, known = (*IMAGES, ".tar", ".parquet"), set(read)
        warn_passed_over(here, [p.name for p in files_below(here) if p.suffix.lower() in kinds and str(p) not in known])


def read_tar(
    tar: str | Path, start: int = 0, step: int = 1, opener: files.Opener = files.open_file
) -> Iterator[dict[str, bytes]]:
    """Every ``step``-th sample of a WebDataset tar that has a picture, from number ``start`` on (of the others only
    headers are read): ``.EXTENSION`` -> bytes, grouped by folder and key (members
    of a sample lie together), and ``name`` for messages. Links are passed over and named. One whose files are sparse or
    too large to be read has ``damaged``, which says so. Where the tar itself is damaged, a sample says that, and those
    after the damage follow; one beside it that has fewer files than others is dropped."""
    current: str | None = None
    sample: dict[str, bytes] = {}
    size, beside = 0, False  # beside a damage
    usual: set[str] | None = None
    number = 0  # of the sample, among those that are given
    without: list[str] = []  # names of samples that have no picture
    links: list[str] = []

    def wanted() -> bool:
        return number >= start and (number - start) % step == 0

    def given(sample: dict[str, bytes]) -> Iterator[dict[str, bytes]]:
        nonlocal number
        if wanted():
            yield sample
        number += 1

    def ended() -> Iterator[dict[str, bytes]]:
        nonlocal usual, number
        if "damaged" in sample:
            yield from given(sample)
        elif _whole(sample) and not (beside and (usual is None or usual - _kinds(sample))):
            usual = _kinds(sample)
            yield from given(sample)
        elif sample and not beside:
            without.append(sample["name"].decode(errors="replace").removeprefix(f"{tar} "))

    try:
        with opener(str(tar)) as opened:
            for found in _members(opened):
                if isinstance(found, Exception):
                    beside = True
                    yield from ended()
                    if "damaged" not in sample:  # else it was the damage
                        yield from given(_unreadable(tar, found))
                    current, sample = None, {}
                    continue
                archive, member = found
                if not member.isfile():
                    if member.issym() or member.islnk():
                        links.append(member.name)
                    continue
                key, _, extension = Path(member.name).name.partition(".")
                key = f"{Path(member.name).parent}/{key}"
                if key != current:
                    yield from ended()
                    beside = beside and current is None
                    current, sample, size = key, {"name": f"{tar} ({member.name})".encode()}, 0
                size += member.size
                if member.issparse():
                    sample["damaged"] = f"its .{extension} is sparse".encode()
                elif size > files.MAX_BYTES or len(sample) > MAX_FILES:
                    limit = f"{files.MAX_BYTES:,} bytes or {MAX_FILES} files"
                    sample.setdefault("damaged", f"its .{extension} makes it more than {limit}".encode())
                elif "damaged" not in sample:
                    try:
                        file = archive.extractfile(member)
                        assert file is not None
                        if not wanted():
                            file.seek(max(0, member.size - 1))  # to see whether it is whole
                        sample["." + extension.lower()] = file.read()
                    except tarfile.ReadError as error:  # it ends before its time
                        sample |= _unreadable(tar, error)
    except remote.Unreachable:  # no fault of the tar's
        raise
    except Exception as error:  # tarfile and what decompresses raise nearly anything
        sample = _unreadable(tar, error)
    yield from ended()
    warn_passed_over(tar, without, "no picture beside it")
    warn_passed_over(tar, links, f"{len(links)} links, which are not followed")


def _unreadable(tar: str | Path, error: Exception) -> dict[str, bytes]:
    return {"name": str(tar).encode(), "damaged": f"cannot be read ({error_text(error)}); replace it".encode()}


def _kinds(sample: dict[str, bytes]) -> set[str]:
    """Extensions of a sample's files; those of pictures are one."""
    return {"image" if extension in IMAGES else extension for extension in sample}


def _members(opened: BinaryIO) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo] | Exception]:
    """The members of a tar, each with the archive to read it from. Where a header is broken, or a member claims more
    bytes than there are, what is wrong comes in between, and reading goes on at the next header that is whole."""
    stream: Any = opened
    start, reported = 0, False
    for _ in range(MAX_BREAKS):
        last = start  # the header that was read last
        try:
            archive = tarfile.open(fileobj=opened) if start == 0 else tarfile.TarFile(fileobj=stream)
            stream = archive.fileobj
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # they are not needed again, there may be millions
                last = member.offset_data - tarfile.BLOCKSIZE
                if member.size < 0:
                    raise tarfile.ReadError("a member of negative size")
                reported = False
                yield archive, member
            last = archive.offset
            if _is_end(stream, last):
                return
            raise tarfile.ReadError(f"a broken header at byte {last:,}")
        except remote.Unreachable:
            raise
        except Exception as error:
            if not reported:
                yield error
        reported = True
        try:
            found = _next_header(stream, last + tarfile.BLOCKSIZE)
        except remote.Unreachable:
            raise
        except Exception:  # of what decompresses
            return
        if found is None:
            return
        start = found
        stream.seek(start)


def _is_end(stream: BinaryIO, offset: int) -> bool:
    """Whether a tar ends here: with two empty blocks, or with its file."""
    stream.seek(offset)
    return not any(stream.read(2 * tarfile.BLOCKSIZE))


def _next_header(stream: BinaryIO, start: int) -> int | None:
    """Where the next block is that looks like a header; None where there is none within the largest sample."""
    step = 2**20
    stream.seek(start)
    for offset in range(start, start + files.MAX_BYTES, step):
        content = stream.read(step)
        for block in range(0, len(content), tarfile.BLOCKSIZE):
            if content[block + 257 : block + 262] == b"ustar":
                return offset + block
        if len(content) < step:
            return None
    return None


def _whole(sample: dict[str, bytes]) -> bool:
    return "damaged" in sample or any(e in sample for e in IMAGES)


def write_tar(path: Path, samples: Sequence[tuple[str, Mapping[str, bytes]]]) -> dict[str, Any]:
    """Write samples, (key, extension -> file) each, as a tar, whole or not at all; its entry for ``index.json``.

    Members carry no times and owners, so that the same samples are the same bytes.
    """
    with files.replacing(path) as partial:
        with tarfile.open(partial, "w") as archive:
            for key, parts in samples:
                for extension, content in parts.items():
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        content = partial.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return {"file": path.name, "samples": len(samples), "bytes": len(content), "sha256": digest}
