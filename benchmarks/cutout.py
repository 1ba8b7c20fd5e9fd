"""The quality of cut-outs after each stage: one table.

    python benchmarks/cutout.py --data DIR [--model FOLDER] [--segmenter NAME] [--limit N] [--sheet FILE.png]

DIR holds photographs with masks as ``photofound eval`` reads them: an ``eval.json`` that lists ``file``, ``task`` and
``mask`` (white = subject), with a table for each of the tasks ``product`` and ``foreground``; or any folder of
photographs with masks.

Intersection over union at a matte of 0.5, the share of photographs above 0.9, mean absolute error of the matte, and
seconds per decoded photograph. ``--segmenter`` adds one, as the task ``cutout`` uses it. A model without the head
starts from GrabCut.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from photofound import CutoutPipeline, image
from photofound.edits import masks, matting
from photofound.eval.photographs import find_photographs

Subject = tuple[str, np.ndarray, np.ndarray]  # name, rgb (H, W, 3) float32 in [0, 1], truth (H, W) in [0, 1]


def subjects(folder: Path, limit: int | None) -> dict[str, list[Subject]]:
    """Photographs with masks, by kind."""
    found: dict[str, list[Subject]] = {}
    for kind, name, photograph, mask in _listed(folder) if (folder / "eval.json").is_file() else _others(folder):
        known = found.setdefault(kind, [])
        if limit is None or len(known) < limit:
            picture = image.Picture.from_any(photograph)
            known.append((name, picture.rgb(), image.load_mask(image.Picture.from_any(mask), picture.size)))
    return found


def _listed(folder: Path) -> Iterator[tuple[str, str, Path, Path]]:
    for each in json.loads((folder / "eval.json").read_text()):
        if each["task"] in ("product", "foreground") and "mask" in each:
            yield each["task"], each["file"], folder / each["file"], folder / each["mask"]


def _others(folder: Path) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    for entry in find_photographs(folder):
        photo = entry.read(None)
        if photo.mask is not None:
            yield "subjects", photo.name, photo.rgb, photo.mask.astype(np.float32)


def stages(
    pipe: CutoutPipeline, segmenter: str | None = None
) -> dict[str, Callable[[np.ndarray, np.ndarray | None], np.ndarray]]:
    """The stages: functions from a photograph and the previous stage's matte to a matte."""
    size = matting.WORKING_SIDE
    made: dict[str, Callable[[np.ndarray, np.ndarray | None], np.ndarray]] = {
        "GrabCut at 224": lambda rgb, _: masks.grabcut(rgb)
    }
    if pipe.has_cutout:
        made["head, one look"] = lambda rgb, _: pipe._matte(rgb)
        made["head, two looks"] = lambda rgb, _: pipe.segment(rgb)
        made["what outpaint uses"] = lambda rgb, _: pipe.search()(rgb)
    made[f"+ GrabCut at {size}"] = lambda rgb, rough: matting.refine(rgb, rough, soft=False)
    made["+ closed-form matting"] = lambda rgb, rough: matting.refine(rgb, rough)
    if segmenter is not None:
        search = pipe.search(segmenter)
        made[segmenter] = lambda rgb, _: search(rgb) if search.fine else matting.refine(rgb, search.rough(rgb))
    return made


def measure(
    pipe: CutoutPipeline, found: Sequence[Subject], segmenter: str | None = None
) -> tuple[str, list[np.ndarray]]:
    """A table, and a row of pictures for every photograph."""
    figures: dict[str, list[tuple[float, float, float]]] = {}
    rows = []
    for _, rgb, truth in found:
        rough: np.ndarray | None = None
        row = [rgb, truth]
        for name, stage in stages(pipe, segmenter).items():
            start = time.perf_counter()
            matte = stage(rgb, rough)
            seconds = time.perf_counter() - start
            if name in ("GrabCut at 224", "head, two looks"):
                rough = matte
            figures.setdefault(name, []).append(
                (matting.iou(matte > 0.5, truth > 0.5), float(np.abs(matte - truth).mean()), seconds)
            )
            row.append(matte)
        rows.append(np.hstack([_thumbnail(each) for each in row]))
    lines = ["| | mean IoU | above 0.9 | mean absolute error | seconds |", "|---|---|---|---|---|"]
    for name, of in figures.items():
        ious, errors, times = np.array(of).T
        lines.append(
            f"| {name} | {ious.mean():.3f} | {(ious > 0.9).mean():.0%} | {errors.mean():.4f} | {np.median(times):.2f} |"
        )
    return "\n".join(lines), rows


def _thumbnail(picture: np.ndarray, side: int = 160) -> np.ndarray:
    picture = np.repeat(picture[..., None], 3, 2) if picture.ndim == 2 else picture
    scale = side / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    shown = np.full((side, side, 3), 128, np.uint8)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    shown[: size[1], : size[0]] = (small.clip(0, 1) * 255).round()
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="a pipeline folder; default: the embedded model")
    parser.add_argument("--segmenter", help="another segmenter (docs/segmenters.md), beside the model's own way")
    parser.add_argument("--limit", type=int, help="photographs of a kind")
    parser.add_argument("--sheet", type=Path, help="a picture of all mattes")
    args = parser.parse_args(argv)
    pipe = CutoutPipeline.from_pretrained(args.model)
    if not pipe.has_cutout:
        print("this checkpoint has no head for cut-outs: GrabCut instead\n")
    rows: list[np.ndarray] = []
    for kind, found in subjects(args.data, args.limit).items():
        table, shown = measure(pipe, found, args.segmenter)
        print(f"{len(found)} x {kind}\n\n{table}\n", flush=True)
        rows += shown
    if args.sheet and rows:
        image.save(np.vstack(rows), args.sheet, overwrite=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
