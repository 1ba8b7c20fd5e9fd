"""Glass and hair on another background: how near the subject's colours and its matte come to the truth.

    python benchmarks/matting.py [--data DIR] [--side 512] [--sheet FILE.png]

Subjects with a known matte and known colours are laid over known grounds, which makes a photograph; then their colours
are found again, and they are laid over another ground. Hair (700 strands of many colours) and glass (a bottle with a
label, a cap, a rim and a light) are drawn; DIR adds photographs with masks, as ``benchmarks/cutout.py`` reads them,
whose outlines are blurred. Grounds: white, wood, and with DIR a photograph, sharp and out of focus.

First table: mean absolute error of the composite where the matte is soft, in levels of 8 bits, by kind of subject and
by ground, with the true matte; what "nearest" is over it; seconds. Second table: sum of absolute differences of the
matte (in thousands) and its mean over soft pixels, from an outline that is half a per cent off.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from cutout import subjects

from photofound import image
from photofound.edits import matting, surfaces

NEW = "a dark red cloth"  # the ground that subjects are laid on
PHOTOGRAPHS = 8


class Cut(NamedTuple):
    """A subject: its kind, colours (H, W, 3) and matte (H, W), floats in [0, 1]."""

    kind: str
    colours: np.ndarray
    matte: np.ndarray


def hair(side: int, seed: int) -> Cut:
    """A head with strands of hair, each of a colour of its own, drawn at four times the size."""
    rng, large = np.random.default_rng(seed), 4 * side
    matte = np.zeros((large, large), np.uint8)
    base = rng.uniform(0.15, 0.7, 3)
    colours = np.full((large, large, 3), base, np.float32)
    middle, radius = np.array([0.5, 0.55]) * large, 0.22 * large
    cv2.circle(matte, middle.astype(int).tolist(), int(radius), 255, -1, cv2.LINE_AA)
    for _ in range(700):
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.2) * large
        start, bends = angle, angle + rng.normal(0, 0.3) + rng.normal(0, 0.09, 24).cumsum()
        steps = length / 24 * np.stack([np.cos(bends), np.sin(bends)], 1)
        path = middle + radius * 0.95 * np.array([np.cos(start), np.sin(start)]) + steps.cumsum(0)
        points, width = path.astype(np.int32).reshape(-1, 1, 2), int(rng.integers(1, 7))
        colour = (base * rng.uniform(0.6, 1.4) + rng.normal(0, 0.02, 3)).clip(0, 1).tolist()
        cv2.polylines(matte, [points], False, 255, width, cv2.LINE_AA)
        cv2.polylines(colours, [points], False, colour, width + 6)
    grain = cv2.GaussianBlur(rng.normal(0, 1, (side, side)).astype(np.float32), (0, 0), 3)
    small = (cv2.resize(x, (side, side), interpolation=cv2.INTER_AREA) for x in (colours, matte.astype(np.float32)))
    colours, alpha = next(small), next(small)
    return Cut("hair", (colours + 0.25 * grain[..., None]).clip(0, 1), alpha / 255)


def glass(side: int, seed: int) -> Cut:
    """A bottle: clear, with a rim that is less so, a light, an opaque cap and an opaque label."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[0:side, 0:side] / side).astype(np.float32)
    inside = 0.18 + 0.05 * np.sin(9 * y + rng.uniform(0, 6)) - np.abs(x - 0.5)
    tall = (y > 0.15) & (y < 0.85)
    body = cv2.GaussianBlur((60 * inside).clip(0, 1) * tall, (0, 0), 1.2)
    rim = np.exp(-(((inside - 0.012) / 0.014) ** 2)) * tall
    light = np.exp(-(((x - 0.43) / 0.02) ** 2) - ((y - 0.45) / 0.2) ** 2)
    matte = np.maximum(body * rng.uniform(0.12, 0.3) + 0.75 * rim, 0.85 * light * body)
    cap = (y > 0.13) & (y < 0.24) & (np.abs(x - 0.5) < 0.12)
    label = (np.abs(y - 0.6) < 0.09) & (inside > 0.02)
    matte[cap | label] = 1
    colours = rng.uniform(0.3, 0.8, 3) * (1 - 0.5 * rim[..., None]) + 0.6 * light[..., None]
    colours[cap], colours[label] = rng.uniform(0, 1, (2, 3))
    return Cut("glass", colours.clip(0, 1).astype(np.float32), cv2.GaussianBlur(matte, (0, 0), 0.7).clip(0, 1))


def photographed(rgb: np.ndarray, mask: np.ndarray, side: int, sigma: float) -> Cut:
    """A photographed subject whose outline is blurred; its colours go on beyond it."""
    scale = side / max(mask.shape)
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    rgb, mask = (cv2.resize(x.astype(np.float32), size, interpolation=cv2.INTER_AREA) for x in (rgb, mask))
    inner = cv2.erode((mask > 0.99).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    matte = cv2.GaussianBlur((mask > 0.5).astype(np.float32), (0, 0), sigma)
    return Cut("photographs", image.nearest(rgb, inner), ((matte - 0.02) / 0.96).clip(0, 1))


def cuts(side: int, data: Path | None) -> Iterator[Cut]:
    for seed in range(3):
        yield hair(side, seed)
        yield glass(side, seed)
    if data is not None:
        products = next(iter(subjects(data, PHOTOGRAPHS).values()))
        for i, (_, rgb, mask) in enumerate(products):
            yield photographed(rgb, mask, side, (1.0, 2.0, 4.0)[i % 3])


def drawn(words: str, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    surface = surfaces.surface_of(words)
    assert surface is not None, words
    return surfaces.render(surface, size, seed).clip(0, 1).astype(np.float32)


def grounds(size: tuple[int, int], data: Path | None) -> dict[str, np.ndarray]:
    """(H, W, 3) each, for (width, height)."""
    found = {"white": np.full((size[1], size[0], 3), 0.95, np.float32), "wood": drawn("on a wooden table", size)}
    if data is not None:
        path = sorted(path for path in (data / "images").iterdir() if path.stem.startswith("kodak"))[1]
        found["photograph"] = image.load(path).resize(size).rgb().copy()
        found["out of focus"] = cv2.GaussianBlur(found["photograph"], (0, 0), max(size) / 40)
    return found


def nearest(rgb: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """What outpaint did before: the colour of the nearest opaque pixel."""
    soft = (matte > 0) & (matte < 1)
    return np.where(soft[..., None], image.nearest(rgb, matte >= 1), rgb) if (matte >= 1).any() else rgb


def blur_fusion(rgb: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """The paper's, twice: radius 90, then 6."""
    own = behind = rgb
    a = matte[..., None]
    for radius in (90, 6):

        def blur(x: np.ndarray, radius: int = radius) -> np.ndarray:
            return cv2.blur(x, (2 * radius + 1,) * 2, borderType=cv2.BORDER_REPLICATE)

        weight = blur(matte)[..., None]
        own, behind = blur(own * a) / (weight + 1e-5), blur(behind * (1 - a)) / (1 - weight + 1e-5)
        own = (own + a * (rgb - a * own - (1 - a) * behind)).clip(0, 1)
    return own


def multi_level(rgb: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """pymatting's."""
    from pymatting import estimate_foreground_ml

    found: np.ndarray = estimate_foreground_ml(rgb.astype(np.float64), matte.astype(np.float64))
    return found


COLOURS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "nothing": lambda rgb, matte: rgb,
    "nearest": nearest,
    "blur fusion": blur_fusion,
    "multi-level (pymatting)": multi_level,
    "ours": matting.subject_colours,
}


def measure_colours(found: Sequence[Cut], data: Path | None) -> tuple[str, list[np.ndarray]]:
    """The first table, and a row of composites for every subject."""
    errors: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in COLOURS}
    seconds: dict[str, float] = defaultdict(float)
    rows, count = [], 0
    multi_level(found[0].colours[:64, :64], found[0].matte[:64, :64])  # numba compiles
    for cut in found:
        size = cut.matte.shape[1::-1]
        new, a = drawn(NEW, size, 1), cut.matte[..., None]
        soft = (cut.matte > 0) & (cut.matte < 1)
        truth = a * cut.colours + (1 - a) * new
        for ground, old in grounds(size, data).items():
            photograph = np.rint(255 * (a * cut.colours + (1 - a) * old)).astype(np.float32) / 255
            made = [photograph]
            count += 1
            for name, colours in COLOURS.items():
                start = time.perf_counter()
                own = colours(photograph, cut.matte)
                seconds[name] += time.perf_counter() - start
                composite = a * own + (1 - a) * new
                error = 255 * float(np.abs(composite - truth)[soft].mean())
                for column in (cut.kind, f"on {ground}", "all"):
                    errors[name][column].append(error)
                opaque = cut.matte == 1
                assert name != "ours" or (own[opaque] == photograph[opaque]).all(), "opaque pixels stay"
                made.append(composite)
            rows.append(np.hstack([*made, truth]))
    columns = list(errors["ours"])
    lines = [f"| | {' | '.join(columns)} | nearest / it | seconds |", "|---" * (len(columns) + 3) + "|"]
    means = {name: {column: float(np.mean(of[column])) for column in columns} for name, of in errors.items()}
    for name, of in means.items():
        cells = " | ".join(f"{of[column]:.2f}" for column in columns)
        lines.append(f"| {name} | {cells} | {means['nearest']['all'] / of['all']:.2f} | {seconds[name] / count:.3f} |")
    return "\n".join(lines), rows


def measure_mattes(found: Sequence[Cut], data: Path | None) -> str:
    """The second table."""
    names = {"the outline": None, "guided filter": False, "closed form": True}
    errors: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    for cut in found:
        size = cut.matte.shape[1::-1]
        reach = max(1, round(0.005 * max(size)))
        rough = np.roll(cv2.GaussianBlur(cut.matte, (0, 0), reach), (reach // 2, reach // 2), (0, 1))
        soft = (cut.matte > 0) & (cut.matte < 1)
        a = cut.matte[..., None]
        for old in grounds(size, data).values():
            photograph = (a * cut.colours + (1 - a) * old).astype(np.float32)
            for name, how in names.items():
                if how is None:
                    matte = (rough > 0.5).astype(np.float32)
                else:
                    matte = matting.refine(photograph, rough, soft=how)
                wrong = np.abs(matte - cut.matte)
                errors[name].append((cut.kind, float(wrong.sum()) / 1000, float(wrong[soft].mean())))
    kinds = list(dict.fromkeys(kind for kind, *_ in errors["the outline"]))
    lines = [f"| SAD / 1000, mean over soft pixels | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    for name, rows in errors.items():
        means = (np.mean([row[1:] for row in rows if row[0] == kind], 0) for kind in kinds)
        lines.append(f"| {name} | " + " | ".join(f"{sad:.2f}, {mean:.3f}" for sad, mean in means) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="photographs with masks; default: drawn subjects alone")
    parser.add_argument("--side", type=int, default=512, help="long side of the pictures; default: 512")
    parser.add_argument("--sheet", type=Path, help="all composites, a row each: photograph, methods, truth")
    args = parser.parse_args(argv)
    found = list(cuts(args.side, args.data))
    table, rows = measure_colours(found, args.data)
    print(f"{len(found)} subjects of {args.side} px\n\n{table}\n", flush=True)
    print(measure_mattes(found, args.data))
    if args.sheet:
        wide = max(row.shape[1] for row in rows)
        padded = [np.pad(row, ((0, 0), (0, wide - row.shape[1]), (0, 0))) for row in rows]
        image.save(np.rint(np.vstack(padded) * 255).astype(np.uint8), args.sheet, overwrite=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
