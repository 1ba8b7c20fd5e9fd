"""Near-duplicates among pictures, however they are scaled and compressed, in bounded memory.

Pictures are compared by 64 bits and 48 bytes each (``fingerprint``). Which pairs of N are near is found without
comparing each with each (Manku, Jain and Das Sarma, 2007, "Detecting near-duplicates for web crawling"): the bits are
cut into blocks, and two that differ in at most ``near`` bits agree in all bits of some k blocks. For every choice of k
blocks the pictures are sorted by those bits, so that candidates lie side by side.

    bits, colours (N pictures) -> near_pairs -> groups -> representatives: for each picture the kept one that it doubles
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

HASH_SIZE = (9, 8)  # width and height of the grey picture whose neighbouring pixels are compared
SAME_COLOUR = 8  # of 255, at every place
PLACES = 4  # colours are compared at 4 x 4 places
ROWS = 2**23  # pictures that are sorted at once: 24 bytes each
_CHUNK = 2**20
_MIX = np.uint64(0x9E3779B97F4A7C15)  # an odd number: multiplying by it spreads the bits that differ over all

Pairs = Iterator[tuple[np.ndarray, np.ndarray]]


def fingerprint(pixels: np.ndarray) -> tuple[int, str]:
    """What a picture (H, W, 3) uint8 looks like, however it is scaled and compressed.

    Returns:
        64 bits, each whether a place is brighter than its right neighbour (the difference hash), and its colours at
        4 x 4 places, as hex.
    """
    import cv2

    grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), HASH_SIZE, interpolation=cv2.INTER_AREA).astype(int)
    bits = np.packbits(grey[:, :-1] > grey[:, 1:])
    colours = cv2.resize(pixels, (PLACES, PLACES), interpolation=cv2.INTER_AREA)
    return int.from_bytes(bits.tobytes()), colours.tobytes().hex()


def duplicates(bits: Sequence[int], colours: Sequence[str], near: int) -> list[int | None]:
    """For each picture the first kept one that it doubles, or None: at most ``near`` bits apart, and within 8 of 255
    in colour at every place, so that the red and the blue of one product are two, as are small things on white."""
    if near < 0:
        return [None] * len(bits)
    hashes = np.array(bits, np.uint64)
    places = np.array([list(bytes.fromhex(each)) for each in colours], np.uint8).reshape(len(hashes), 3 * PLACES**2)
    found = groups(len(hashes), near_pairs(hashes, near, places))
    kept = representatives(len(hashes), found, fingerprints_alike(hashes, places, near))
    return [None if first == index else first for index, first in enumerate(kept.tolist())]


def tables(near: int) -> list[np.uint64]:
    """The choices of blocks: for each the mask (uint64) of its bits. Any 64 bits with at most ``near`` ones are zero
    everywhere in one of the masks, at least."""
    blocks, together = _blocks(near)
    edges = np.linspace(0, 64, blocks + 1).astype(int).tolist()
    parts = [((1 << high) - 1) ^ ((1 << low) - 1) for low, high in itertools.pairwise(edges)]
    return [np.uint64(sum(chosen)) for chosen in itertools.combinations(parts, together)]


def near_pairs(bits: np.ndarray, near: int, colours: np.ndarray | None = None, rows: int = ROWS) -> Pairs:
    """All pairs of pictures that are near, each once, in parts.

    Memory is 24 bytes for each of ``rows`` pictures and one for each, beside the arrays, which may be
    ``numpy.memmap``. Time grows with N log N, and with the pairs that agree in the bits of a table and in brightness.

    Args:
        bits: (N,) uint64.
        near: bits that may differ, 0 to 61.
        colours: (N, 48) uint8; pictures are near only if these differ by at most 8 everywhere. None = not compared.
        rows: pictures that are sorted at once.

    Yields (i, j): two arrays (M,) of indices.
    """
    light = brightness(bits, colours)
    for bucket in buckets(len(bits), near, rows):
        yield from pairs_in(bucket, bits, light, near, colours)


class Bucket(NamedTuple):
    """What is sorted at once: a table, and those of its pictures that fall into one of ``parts`` by their hash."""

    table: int
    part: int
    parts: int


def buckets(count: int, near: int, rows: int = ROWS) -> list[Bucket]:
    """All that there are; each can be worked on by itself, anywhere. Raises ValueError."""
    if not 0 <= near <= 61:
        raise ValueError(f"near: {near} bits of 64; give a number from 0 to 61 (3 is usual)")
    parts = -(-count // rows)
    return [Bucket(table, part, parts) for table in range(len(tables(near))) for part in range(parts)]


def pairs_in(bucket: Bucket, bits: np.ndarray, light: np.ndarray, near: int, colours: np.ndarray | None) -> Pairs:
    """The pairs of ``near_pairs`` that are found in a bucket; ``light`` is ``brightness``."""
    masks = tables(near)
    mask = masks[bucket.table]
    values, order = _sorted(bits, light, mask, bucket.part, bucket.parts)
    for i, j in _neighbours(values, order):
        differ = bits[i] ^ bits[j]
        close = np.bitwise_count(differ) <= near
        # A pair that agrees in several tables is found in the first of them.
        close &= differ & mask == 0
        for earlier in masks[: bucket.table]:
            close &= differ & earlier != 0
        i, j = i[close], j[close]
        if colours is not None and len(i):
            close = _same_colours(colours[i], colours[j])
            i, j = i[close], j[close]
        if len(i):
            yield i, j


def forest(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """As few pairs as join the same pictures: less than one for each picture, however many pairs there are."""
    i = j = np.zeros(0, np.int64)
    for one, other in pairs:
        ids, index = np.unique(np.concatenate([i, one, j, other]), return_inverse=True)
        half = len(index) // 2
        roots = _joined(len(ids), [(index[:half], index[half:])])
        members = np.flatnonzero(roots != np.arange(len(ids)))
        i, j = ids[roots[members]], ids[members]
    return i, j


def groups(count: int, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
    """Connected groups of two pictures or more, each an array of indices in rising order.

    Memory is some 30 bytes a picture, however many pairs there are.
    """
    roots = _joined(count, pairs)
    joined = np.flatnonzero(np.bincount(roots, minlength=count)[roots] > 1)
    if not len(joined):
        return
    joined = joined[np.argsort(roots[joined], kind="stable")]
    yield from np.split(joined, np.flatnonzero(np.diff(roots[joined])) + 1)


def _joined(count: int, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(count,) for each picture the first of its group."""
    parent = np.arange(count)
    for i, j in pairs:
        while True:
            one, other = _roots(parent, i), _roots(parent, j)
            apart = one != other
            if not apart.any():
                break
            i, j = one[apart], other[apart]
            np.minimum.at(parent, np.maximum(i, j), np.minimum(i, j))
    return _roots(parent, parent)


def representatives(
    count: int,
    found: Iterable[np.ndarray],
    alike: Callable[[int, np.ndarray], np.ndarray],
    rank: np.ndarray | None = None,
) -> np.ndarray:
    """(count,) for each picture the kept one that it doubles; its own index if it is kept.

    Within a group, the best is kept, and everything that is like it goes; then the best of the rest, and so on. So
    whatever goes is like a kept one itself, not only like something that is like it.

    Args:
        found: ``groups``.
        alike: of a picture and others (M,), which of the others are like it: (M,) bool.
        rank: (count,) the lowest is the best; None = the first.
    """
    kept = np.arange(count)
    for group in found:
        left = group if rank is None else group[np.argsort(rank[group], kind="stable")]
        while len(left):
            first, left = int(left[0]), left[1:]
            gone = alike(first, left)
            kept[left[gone]] = first
            left = left[~gone]
    return kept


def fingerprints_alike(
    bits: np.ndarray, colours: np.ndarray | None, near: int
) -> Callable[[int, np.ndarray], np.ndarray]:
    """For ``representatives``: near in bits and in colours."""

    def alike(one: int, others: np.ndarray) -> np.ndarray:
        close: np.ndarray = np.bitwise_count(bits[others] ^ bits[one]) <= near
        if colours is not None and close.any():
            close[close] = _same_colours(colours[others[close]], colours[one][None])
        return close

    return alike


# ------------------------------------------------------------------------------------------------------------- helpers


def _blocks(near: int) -> tuple[int, int]:
    """How many blocks the bits are cut into, and how many of them agree. Three of near + 3 make keys of 32 bits for
    near = 3 in 20 tables; with more bits apart, fewer tables of shorter keys are faster."""
    together = 3 if near <= 4 else 2 if near <= 10 else 1
    return near + together, together


def brightness(bits: np.ndarray, colours: np.ndarray | None) -> np.ndarray:
    """(N,) uint8: the mean of each picture's colours. Means differ by at most what the colours differ by."""
    mean = np.zeros(len(bits), np.uint8)
    if colours is not None:
        for start in range(0, len(bits), _CHUNK):
            part = slice(start, start + _CHUNK)
            mean[part] = colours[part].mean(axis=1, dtype=np.float32)
    return mean


def _sorted(
    bits: np.ndarray, brightness: np.ndarray, mask: np.uint64, part: int, parts: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted values (M,) uint64 of the pictures of a part, and their indices. Those that agree in the mask's bits are
    of one part, agree in all but the lowest eight bits of the value, and are sorted by their brightness there."""
    values, indices = [], []
    for start in range(0, len(bits), _CHUNK):
        value = (bits[start : start + _CHUNK] & mask) * _MIX
        chosen = np.arange(start, start + len(value))
        if parts > 1:
            of_part = (value >> np.uint64(32)) % np.uint64(parts) == part
            value, chosen = value[of_part], chosen[of_part]
        values.append((value & ~np.uint64(255)) | brightness[chosen])
        indices.append(chosen)
    every, index = np.concatenate(values), np.concatenate(indices)
    order = np.argsort(every)
    return every[order], index[order]


def _neighbours(values: np.ndarray, order: np.ndarray) -> Pairs:
    """Pairs of indices whose sorted values are near enough to agree in the mask's bits and in their brightness."""
    starts = np.arange(len(values) - 1)
    for step in itertools.count(1):
        starts = starts[starts + step < len(values)]
        starts = starts[values[starts + step] - values[starts] <= SAME_COLOUR]
        if not len(starts):
            return
        for begin in range(0, len(starts), _CHUNK):
            some = starts[begin : begin + _CHUNK]
            yield order[some], order[some + step]


def _same_colours(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(np.int16) - other).max(axis=1) <= SAME_COLOUR


def _roots(parent: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    found = parent[nodes]
    while True:
        above = parent[found]
        if np.array_equal(above, found):
            return found
        found = above
