"""Embeddings of a room's photographs by any vision network, and clusters of them.

A network is ``small`` (``photofound.room.shapes``, no network at all), the ``.safetensors`` file of a SqueezeNet, or a
folder or Hub id of transformers: CLIP and SigLIP, which know words, too, DINO, ViT. Vectors have length 1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from photofound import files
from photofound.data.photograph import to_unit
from photofound.data.table import EMBEDDING, Table, contents
from photofound.device import resolve_device
from photofound.model import vision
from photofound.room import shapes
from photofound.room.describe import pixels_of

SMALL = "small"
CLUSTER = "cluster"
_CENTRES = "clusters.safetensors"
_SIDE = 224  # of the squares that networks get which do not say
_SAMPLE = 50_000  # vectors that clusters are found among
_BATCH = 32


class Network:
    """A network by name, loaded when it is first used.

    Attributes:
        column: the room's column of its vectors.
    """

    def __init__(self, name: str, device: str = "auto") -> None:
        here = name != SMALL and Path(name).exists()
        self.name, self.device = os.path.abspath(name) if here else name, device
        self.column = column_of(name)

    @cached_property
    def net(self) -> vision.FeatureNet:
        """Raises FileNotFoundError, ImportError or ValueError for a network that cannot be had."""
        made = vision.load_features(self.name)
        return made.to(resolve_device(self.device)).eval()

    @cached_property
    def width(self) -> int:
        return shapes.WIDTH if self.name == SMALL else int(self.pictures([np.zeros((8, 8, 3), np.uint8)]).shape[1])

    @property
    def field(self) -> Any:
        """The column as a ``pyarrow.Field``, with the network's name."""
        import pyarrow as pa

        return pa.field(self.column, pa.list_(pa.float32(), self.width), metadata={"network": self.name})

    @property
    def side(self) -> int:
        """Of the squares that ``of_squares`` takes."""
        return 0 if self.name == SMALL else int(getattr(self.net, "side", _SIDE))

    def pictures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(N, D) float32 of length 1; pictures (H, W, 3) uint8 of any shapes, each seen as a whole, as a square."""
        if self.name == SMALL:
            return np.stack([shapes.vector(picture) for picture in pictures])
        return self.of_squares(squares(pictures, self.side))

    @torch.inference_mode()
    def of_squares(self, made: np.ndarray) -> np.ndarray:
        """(N, D) float32 of length 1, of ``squares``. A GPU gets the next part while it works on one."""
        device = torch.device(resolve_device(self.device))
        found = []
        for start in range(0, len(made), _BATCH):
            pixels = torch.from_numpy(made[start : start + _BATCH].transpose(0, 3, 1, 2).copy())
            if device.type == "cuda":
                pixels = pixels.pin_memory()
            found.append(self.net(to_unit(pixels.to(device, non_blocking=True))).float())
        return unit(torch.cat(found).cpu().numpy())

    @torch.inference_mode()
    def words(self, text: str) -> np.ndarray:
        """(D,) of length 1. Raises ValueError for a network that has seen no words."""
        if self.name == SMALL:
            raise ValueError(f"{SMALL}: knows no words; embed the room with a CLIP or SigLIP model")
        return unit(self.net.prompts([text]).float().cpu().numpy())[0]

    def array(self, pictures: Sequence[np.ndarray]) -> Any:
        """Their vectors as a ``pyarrow`` array."""
        return as_array(self.pictures(pictures))


def squares(pictures: Sequence[np.ndarray], side: int) -> np.ndarray:
    """(N, side, side, 3) uint8 of pictures (H, W, 3) of any shapes."""
    import cv2

    return np.stack([cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) for picture in pictures])


def as_array(vectors: np.ndarray) -> Any:
    """(N, D) as a ``pyarrow.FixedSizeListArray``."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), vectors.shape[1])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


def column_of(name: str) -> str:
    """The column of a network: its last name in small letters."""
    return EMBEDDING + re.sub(r"[^a-z0-9]+", "_", Path(name).name.lower().removesuffix(".safetensors")).strip("_")


def networks(table: Table) -> list[Network]:
    """The networks that a room has embeddings by."""
    return [Network(name) for name in table.vectors().values()]


def embed(
    table: Table, network: Network, where: str | None = None, done: Callable[[int], None] = lambda count: None
) -> int:
    """Embed the photographs that lack a network's vector; returns how many. Damaged ones keep none."""
    compute = Embedding(network.field, network.pictures)
    return table.fill([network.field], compute, Embedding.READ, where, done=done)


class Embedding:
    """The column of a network for a batch of rows, null for damaged files: what ``Table.fill`` calls.

    Args:
        field: the column.
        pictures: pictures to vectors, as ``Network.pictures``.
    """

    READ = ("image", "reference", "collection")

    def __init__(self, field: Any, pictures: Callable[[Sequence[np.ndarray]], np.ndarray]) -> None:
        self.field, self.pictures = field, pictures

    def __call__(self, batch: Any) -> dict[str, Any]:
        import pyarrow as pa

        found: dict[int, np.ndarray] = {}
        for index, file in enumerate(contents(batch)):
            try:
                found[index] = pixels_of(file)
            except Exception:  # it was whole when it was added: its reference has gone
                continue
        made = self.pictures(list(found.values())).tolist() if found else []
        rows = dict(zip(found, made, strict=True))
        return {self.field.name: pa.array([rows.get(index) for index in range(len(batch))], self.field.type)}


# ------------------------------------------------------------------------------------------------------------ clusters


def matrix(column: Any) -> np.ndarray:
    """(N, D) of a column of vectors in a batch, rows of NaN where there is none."""
    width = column.type.list_size
    if not column.null_count:
        return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return np.array([row if row is not None else [np.nan] * width for row in column.to_pylist()], np.float32)


def sample(table: Table, column: str, count: int = _SAMPLE, where: str | None = None) -> np.ndarray:
    """(N, D): up to ``count`` vectors of a room, spread evenly over it."""
    present = f"{column} IS NOT NULL" + (f" AND ({where})" if where else "")
    step = max(1, -(-table.count(present) // count))
    kept, seen = [np.zeros((0, table.dataset.schema.field(column).type.list_size), np.float32)], 0
    for batch in table.scan([column], present):
        rows = matrix(batch[column])
        kept.append(rows[-seen % step :: step])
        seen += len(rows)
    return np.concatenate(kept)


def kmeans(vectors: np.ndarray, count: int, seed: int = 0, rounds: int = 25) -> np.ndarray:
    """(K, D) centres of length 1 by spherical k-means, begun by k-means++ (Arthur and Vassilvitskii, 2007); the largest
    cluster comes first."""
    rng = np.random.default_rng(seed)
    centres = vectors[rng.integers(len(vectors))][None]
    nearest = 1 - vectors @ centres[0]
    while len(centres) < min(count, len(vectors)):
        weights = np.maximum(nearest, 0) ** 2
        if not weights.sum() > 0:  # fewer different vectors than clusters
            break
        chosen = vectors[rng.choice(len(vectors), p=weights / weights.sum())]
        centres = np.concatenate([centres, chosen[None]])
        nearest = np.minimum(nearest, 1 - vectors @ chosen)
    for _ in range(rounds):
        member = np.argmax(vectors @ centres.T, axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, member, vectors)
        filled = np.bincount(member, minlength=len(centres)) > 0
        moved = np.where(filled[:, None], unit(sums), centres)
        if np.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    sizes = np.bincount(np.argmax(vectors @ centres.T, axis=1), minlength=len(centres))
    return centres[np.argsort(-sizes, kind="stable")]


def default_clusters(photographs: int) -> int:
    """As many that a cluster is worth looking at."""
    return int(np.clip(round((photographs / 2) ** 0.5), 1, 24))


def cluster(table: Table, column: str, count: int | None = None) -> tuple[int, int]:
    """Give photographs the number of their cluster, in the column ``cluster``.

    Centres stay in the room, so that photographs that are added later get the numbers of before. They are found anew
    where ``count`` says so, where there are none, or where they are of another network.

    Returns the number of clusters and of the photographs that were assigned.
    """
    import pyarrow as pa

    path = table.folder / _CENTRES
    centres = None if count else _read_centres(path, column)
    if centres is None:
        vectors = sample(table, column)
        if not len(vectors):
            raise ValueError(f"{table.folder}: has no vector in {column}; run 'photofound room embed {table.folder}'")
        centres = kmeans(vectors, count or default_clusters(len(vectors)))
        from safetensors.numpy import save

        files.write(path, save({"centres": centres}, {"column": column}))
        table.drop_columns([CLUSTER] if CLUSTER in table.columns else [])
    found = centres

    def compute(batch: Any) -> dict[str, Any]:
        return {CLUSTER: pa.array(np.argmax(matrix(batch[column]) @ found.T, axis=1), pa.int32())}

    field = pa.field(CLUSTER, pa.int32(), metadata={"vectors": column})
    return len(found), table.fill([field], compute, [column], f"{column} IS NOT NULL", batch=4096)


def _read_centres(path: Path, column: str) -> np.ndarray | None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "np") as file:
            same = (file.metadata() or {}).get("column") == column
            return file.get_tensor("centres") if same else None
    except (SafetensorError, OSError):  # damaged: they are found again
        return None
