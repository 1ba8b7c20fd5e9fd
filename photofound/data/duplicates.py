"""Near-duplicates among pictures, however they are scaled and compressed."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

HASH_SIZE = (9, 8)  # width and height of the grey picture whose neighbouring pixels are compared


def fingerprint(pixels: np.ndarray) -> tuple[int, str]:
    """What a picture (H, W, 3) uint8 looks like, however it is scaled and compressed.

    Returns:
        64 bits, each whether a place is brighter than its right neighbour (the difference hash), and its colours at
        4 x 4 places, as hex.
    """
    import cv2

    grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), HASH_SIZE, interpolation=cv2.INTER_AREA).astype(int)
    bits = np.packbits(grey[:, :-1] > grey[:, 1:])
    colours = cv2.resize(pixels, (4, 4), interpolation=cv2.INTER_AREA)
    return int.from_bytes(bits.tobytes()), colours.tobytes().hex()


def duplicates(bits: Sequence[int], colours: Sequence[str], near: int) -> list[int | None]:
    """For each picture the first kept one that it doubles, or None: at most ``near`` bits apart, and within 8 of 255
    in colour at every place, so that the red and the blue of one product are two, as are small things on white.

    Numbers that differ in at most n bits agree in one of n + 1 bands of bits, so only those are compared.
    """
    if near < 0:
        return [None] * len(bits)
    hashes = np.array(bits, np.uint64)
    places = np.array([list(bytes.fromhex(each)) for each in colours], np.int16).reshape(len(hashes), -1)
    edges = np.linspace(0, 64, near + 2).astype(int).tolist()
    parts = [(low, high - low) for low, high in itertools.pairwise(edges)]
    bands: dict[tuple[int, int], list[int]] = defaultdict(list)
    found: list[int | None] = []
    for index, value in enumerate(bits):
        keys = [(band, value >> low & (1 << width) - 1) for band, (low, width) in enumerate(parts)]
        others = np.array(sorted({i for key in keys for i in bands[key]}), np.int64)
        alike = np.bitwise_count(hashes[others] ^ hashes[index]) <= near
        alike[alike] = np.abs(places[others[alike]] - places[index]).max(1) <= 8
        found.append(int(others[alike][0]) if alike.any() else None)
        if found[-1] is None:
            for key in keys:
                bands[key].append(index)
    return found
