"""Filters of photographs: what each tells from real photographs, and how fast they are. Prints Markdown.

    python benchmarks/filters.py measure --data SOURCE --limit 200      # a folder of images, tars, a room, ...
    python benchmarks/filters.py measure --data SOURCE --only text
    python benchmarks/filters.py speed --data SOURCE --limit 200
    python benchmarks/filters.py fit-text --data SOURCE --limit 420     # prints the weights of room/letters.py

``measure``: photographs as they are, written as JPEGs of quality 90, against the same photographs made worse in one
way, or drawn pictures of their size. Columns: the area under the ROC curve, the share of the bad ones that the
threshold drops, the share of the photographs that it drops, and the precision where there are as many bad ones as
good ones. What the threshold drops of the photographs is named, to be looked at; some of it is bad indeed.

``speed``: CPU milliseconds a photograph, in one thread: reading and decoding, each filter, and all in one pass.
"""

from __future__ import annotations

import argparse
import io
import itertools
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from photofound.data.sources import Source, open_source, raw
from photofound.room import letters
from photofound.room.describe import pixels_of
from photofound.room.filters import MEASURES, SIDE, Sample

WORDS = (
    "the quick sale new offer price shop best photo stock image copyright free menu file edit view settings account "
    "search home help 2024 49.99 50% OFF www.shop.example Sample PREVIEW limited edition summer"
).split()
Rng = np.random.Generator


def photographs(path: str, limit: int, skip: tuple[str, ...] = ()) -> Iterator[tuple[str, bytes, str]]:
    """Name, file and caption of photographs, spread over the first few thousand."""
    source = Source(path)
    rows = (raw(row, source) for row in open_source(source))
    chosen = (row for row in rows if not row.name.rpartition("/")[2].startswith(skip or ("\0",)))
    for sample in itertools.islice(chosen, limit):
        yield sample.name, sample.image, sample.captions[0][0] if sample.captions else ""


def jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


# --------------------------------------------------------------------------------------------------- worse photographs


def blurred(sigma: float) -> Callable[[np.ndarray, Rng], np.ndarray]:
    return lambda pixels, rng: cv2.GaussianBlur(pixels, (0, 0), sigma)


def shaken(pixels: np.ndarray, rng: Rng) -> np.ndarray:
    """Moved by nine pixels in some direction."""
    kernel = np.zeros((9, 9), np.float32)
    kernel[4] = 1 / 9
    turn = cv2.getRotationMatrix2D((4, 4), float(rng.uniform(0, 180)), 1)
    kernel = cv2.warpAffine(kernel, turn, (9, 9))
    return cv2.filter2D(pixels, -1, kernel / kernel.sum())


def enlarged(pixels: np.ndarray, rng: Rng) -> np.ndarray:
    """As it is when a picture of 0.4 times its size is enlarged."""
    small = cv2.resize(pixels, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, pixels.shape[1::-1], interpolation=cv2.INTER_CUBIC)


def exposed(stops: float) -> Callable[[np.ndarray, Rng], np.ndarray]:
    table = np.clip(((np.arange(256) / 255) ** 2.2 * 2**stops) ** (1 / 2.2) * 255, 0, 255).round().astype(np.uint8)
    return lambda pixels, rng: table[pixels]


def framed(pixels: np.ndarray, rng: Rng) -> np.ndarray:
    """With strips of black, white or a colour at one, two or four sides."""
    colour = rng.integers(0, 256, 3) if rng.random() < 0.3 else np.full(3, rng.choice([0, 255]))
    wide = int(rng.integers(3, 41))
    sides = ((1, 1, 0, 0), (0, 0, 1, 1), (1, 1, 1, 1), (1, 0, 0, 0))[rng.integers(4)]
    return cv2.copyMakeBorder(pixels, *(wide * s for s in sides), cv2.BORDER_CONSTANT, value=colour.tolist())


def some_words(rng: Rng, least: int, most: int) -> str:
    text = " ".join(rng.choice(WORDS) for _ in range(rng.integers(least, most + 1)))
    return text.upper() if rng.random() < 0.3 else text


def written(pixels: np.ndarray, rng: Rng, opacity: float = 1.0) -> tuple[np.ndarray, tuple[float, ...]]:
    """Words in one of five typefaces, readable where they stand; the picture and their box."""
    high, wide = pixels.shape[:2]
    size, text = int(high * rng.uniform(0.04, 0.13)), some_words(rng, 2, 4)
    plotted = rng.random() < 0.4
    face = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX]))
    scale, stroke = size / 30, max(1, round(size / 30 * rng.choice([1, 1.5, 2])))
    font = ImageFont.load_default(size)

    def length(words: str) -> float:
        return cv2.getTextSize(words, face, scale, stroke)[0][0] if plotted else font.getlength(words)

    while length(text) > 0.95 * wide and len(text) > 6:
        text = text[:-1]
    x, y = rng.uniform(0, max(1, wide - length(text))), rng.uniform(0, high - 1.3 * size)
    box = (x, y, x + length(text), y + 1.25 * size)
    dark = pixels[int(y) : int(y) + size, int(x) : int(x) + 9].mean() >= 128
    colour = (
        tuple(rng.integers(0, 256, 3).tolist()) if opacity == 1 and rng.random() < 0.4 else (0 if dark else 255,) * 3
    )
    mask = Image.new("L", (wide, high))
    if plotted:
        plot = np.zeros((high, wide), np.uint8)
        mask = Image.fromarray(cv2.putText(plot, text, (int(x), int(y) + size), face, scale, 255, stroke, cv2.LINE_AA))
    else:
        ImageDraw.Draw(mask).text((x, y), text, 255, font)
    alpha = np.asarray(mask, np.float32)[..., None] / 255 * opacity
    return np.rint(pixels * (1 - alpha) + np.array(colour, np.float32) * alpha).astype(np.uint8), box


def with_words(opacity: float) -> Callable[[np.ndarray, Rng], np.ndarray]:
    return lambda pixels, rng: written(pixels, rng, opacity)[0]


def screenshot(pixels: np.ndarray, rng: Rng) -> np.ndarray:
    """A window with a bar, lines of text, buttons, and sometimes the photograph in it."""
    high, wide = pixels.shape[:2]
    dark = rng.random() < 0.3
    paper = tuple(rng.integers(15, 45, 3).tolist() if dark else rng.integers(235, 256, 3).tolist())
    made = Image.new("RGB", (wide, high), paper)
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(int(rng.integers(11, 16)))
    draw.rectangle((0, 0, wide, int(rng.integers(20, 50))), fill=tuple(rng.integers(0, 256, 3).tolist()))
    y = 60
    while y < high - 10:
        x = int(rng.integers(10, 130))
        if rng.random() < 0.15:
            draw.rounded_rectangle((x, y, x + 120, y + 28), 6, fill=tuple(rng.integers(0, 256, 3).tolist()))
            y += 36
        else:
            draw.text((x, y), some_words(rng, 2, 9), (230,) * 3 if dark else (30,) * 3, font)
            y += int(rng.integers(15, 24))
    if rng.random() < 0.4:
        made.paste(Image.fromarray(pixels).resize((wide // 3, high // 3)), (wide - wide // 3 - 5, high // 3))
    return np.array(made)


def drawn(pixels: np.ndarray, rng: Rng) -> np.ndarray:
    """Flat shapes with smooth edges."""
    high, wide = pixels.shape[:2]
    made = Image.new("RGB", (2 * wide, 2 * high), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(made)
    for _ in range(rng.integers(3, 25)):
        colour = tuple(rng.integers(0, 256, 3).tolist())
        x, y = int(rng.integers(-wide // 2, 2 * wide)), int(rng.integers(-high // 2, 2 * high))
        box = (x, y, x + int(rng.integers(20, wide)), y + int(rng.integers(20, high)))
        (draw.ellipse, draw.rectangle)[rng.integers(2)](box, fill=colour)
    return np.array(made.resize((wide, high), Image.Resampling.LANCZOS))


def chart(pixels: np.ndarray, rng: Rng) -> np.ndarray:
    """Bars with numbers below them."""
    high, wide = pixels.shape[:2]
    made = Image.new("RGB", (wide, high), "white")
    draw, step = ImageDraw.Draw(made), (wide - 70) // 8
    draw.line((40, 10, 40, high - 30, wide - 10, high - 30), fill="black")
    for i in range(8):
        x, top = 50 + i * step, int(rng.integers(30, high - 40))
        draw.rectangle((x, top, x + 2 * step // 3, high - 31), fill=tuple(rng.integers(0, 256, 3).tolist()))
        draw.text((x, high - 26), str(i), "black", ImageFont.load_default(11))
    draw.text((wide // 3, 5), some_words(rng, 2, 3), "black", ImageFont.load_default(14))
    return np.array(made)


WORSE: dict[str, dict[str, Callable[[np.ndarray, Rng], np.ndarray]]] = {
    "sharpness": {"blurred, sigma 1": blurred(1), "blurred, sigma 2": blurred(2), "shaken by 9 pixels": shaken,
                  "enlarged 2.5 times": enlarged},
    "exposure": {f"{stops:+g} stops": exposed(stops) for stops in (1.5, 2.5, -4, -5)},
    "graphics": {"screenshots": screenshot, "flat drawings": drawn, "charts": chart},
    "borders": {"strips of one colour": framed},
    "text": {"words": with_words(1), "words, opacity .45": with_words(0.45), "words, opacity .25": with_words(0.25)},
}  # fmt: skip
CAPTIONS: dict[str, Callable[[str, Rng], str]] = {
    "names of files": lambda text, rng: f"{rng.choice(['IMG', 'DSC', 'image', 'photo'])}_{rng.integers(9999):04}.jpg",
    "codes": lambda text, rng: " ".join(f"{w[:2].upper()}{rng.integers(99)}" for w in text.split()[:4]) or "X1",
    "one word again and again": lambda text, rng: " ".join(text.split()[:1] * 6) or "x",
    "one word": lambda text, rng: " ".join(text.split()[-1:]) or "x",
}


def file_sets(name: str, pixels: list[np.ndarray], rng: Rng) -> dict[str, list[bytes]]:
    """The bad sets of a filter, as files."""
    if name in ("jpeg", "blocks"):
        sets = {f"quality {quality}": [jpeg(p, quality) for p in pixels] for quality in (20, 40)}
        again = [jpeg(pixels_of(file, SIDE)) for file in sets["quality 20"]]
        return sets | {"quality 20, written again at 90": again}
    return {kind: [jpeg(worse(p, rng)) for p in pixels] for kind, worse in WORSE.get(name, {}).items()}


# ------------------------------------------------------------------------------------------------------------- commands


def area_under_curve(good: np.ndarray, bad: np.ndarray) -> float:
    """How often a good one has more than a bad one, where more is better."""
    order = np.sort(good)
    return float(
        (len(good) - (np.searchsorted(order, bad, "left") + np.searchsorted(order, bad, "right")) / 2).mean()
        / len(good)
    )


def measure(args: argparse.Namespace) -> None:
    found = list(photographs(args.data, args.limit))
    pixels = [pixels_of(file, SIDE) for _, file, _ in found]
    good_files = [jpeg(each) for each in pixels]
    print("| filter | keeps | against | AUC | bad ones dropped | photographs dropped | precision |\n|" + "---|" * 7)
    notes = []
    for name, each in MEASURES.items():
        if (args.only and name not in args.only) or (name == "caption" and not any(text for *_, text in found)):
            continue
        rng = np.random.default_rng(0)
        good = each.scores(
            [Sample(file, {"caption": text}) for file, (_, _, text) in zip(good_files, found, strict=True)]
        )
        if name == "caption":
            texts = [text for _, _, text in found]
            sets = {k: [Sample(b"", {"caption": make(t, rng)}) for t in texts] for k, make in CAPTIONS.items()}
        else:
            sets = {k: [Sample(file) for file in files] for k, files in file_sets(name, pixels, rng).items()}
        wrong = (~each.kept(good)).mean()
        sign = 1 if each.keeps == ">=" else -1
        for kind, samples in sets.items():
            bad = each.scores(samples)
            dropped = (~each.kept(bad)).mean()
            told = f"{area_under_curve(sign * good, sign * bad):.3f} | {dropped:.1%} | {wrong:.1%}"
            precision = dropped / max(dropped + wrong, 1e-9)
            print(f"| {name} | {each.keeps} {each.threshold:g} | {kind} | {told} | {precision:.3f} |", flush=True)
        worst = np.argsort(sign * good)[: int((~each.kept(good)).sum())]
        notes.append(f"{name}: " + (", ".join(f"{found[i][0]} {good[i]:.3g}" for i in worst[:12]) or "none"))
    print(f"\n{len(found)} photographs; dropped of them:\n\n" + "\n".join(notes))


def speed(args: argparse.Namespace) -> None:
    found = list(photographs(args.data, args.limit))
    rows: dict[str, float] = {}

    def timed(name: str, work: Callable[[Sample], object], warm: Callable[[Sample], object]) -> None:
        samples = [Sample(file, {"caption": text}) for _, file, text in found]
        for sample in samples:
            warm(sample)
        start = time.process_time()
        for sample in samples:
            work(sample)
        rows[name] = (time.process_time() - start) / len(samples) * 1e3

    timed("decoding", lambda s: s.pixels, lambda s: None)
    timed("grey, and what is no ground", lambda s: (s.grey, s.things), lambda s: s.pixels)
    for name, each in MEASURES.items():
        timed(name, lambda s, each=each: each.scores([s]), lambda s: (s.pixels, s.grey, s.things))
    timed("all in one pass", lambda s: [each.scores([s]) for each in MEASURES.values()], lambda s: None)
    size = np.mean([len(file) for _, file, _ in found])
    print("| | CPU ms a photograph |\n|---|---|\n" + "\n".join(f"| {name} | {ms:.2f} |" for name, ms in rows.items()))
    print(f"\n{len(found)} photographs of {size / 1e3:.0f} kB: {1e3 / rows['all in one pass']:.0f} a second and core")


def fit_text(args: argparse.Namespace) -> None:
    """Chains of letters in photographs against those in words that are drawn into them."""
    import torch

    rng = np.random.default_rng(5)
    features, labels = [], []
    for _, file, _ in photographs(args.data, args.limit, tuple(args.skip)):
        pixels = pixels_of(file, SIDE)
        for line in letters.lines(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)):
            features.append(line.features)
            labels.append(0.0)
        for opacity in (1.0, 1.0, 0.6, 0.45):
            made, box = written(pixels, rng, opacity)
            seen = pixels_of(jpeg(made, int(rng.choice([75, 85, 95]))), SIDE)
            for line in letters.lines(cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY)):
                left, top, right, bottom = line.box
                over = max(0, min(right, box[2]) - max(left, box[0])) * max(0, min(bottom, box[3]) - max(top, box[1]))
                if over > 0.6 * (right - left) * (bottom - top):
                    features.append(line.features)
                    labels.append(1.0)
    table, wanted = np.array(features), torch.tensor(labels, dtype=torch.float64)
    mean, spread = table.mean(0), table.std(0) + 1e-9
    scaled = torch.tensor((table - mean) / spread)
    balance = torch.where(wanted > 0, 1 / wanted.mean(), 1 / (1 - wanted.mean()))
    weights = torch.zeros(table.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = scaled @ weights + bias
        value = (
            torch.nn.functional.binary_cross_entropy_with_logits(found, wanted, balance) + 1e-3 * weights.square().sum()
        )
        value.backward()
        return value

    optimizer.step(loss)
    plain = weights.detach().numpy() / spread
    print(f"{len(labels)} chains, {int(sum(labels))} of them words")
    print("WEIGHTS =", np.round(plain, 3).tolist())
    print("BIAS =", round(float(bias.detach()) - float(mean @ plain), 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("measure", "speed", "fit-text"))
    parser.add_argument("--data", required=True, help="where photographs are read from")
    parser.add_argument("--limit", type=int, default=200, help="photographs; default: 200")
    parser.add_argument("--only", nargs="*", help="filters")
    parser.add_argument(
        "--skip", nargs="*", default=[], help="of fit-text: beginnings of names that bear text themselves"
    )
    args = parser.parse_args()
    {"measure": measure, "speed": speed, "fit-text": fit_text}[args.command](args)


if __name__ == "__main__":
    main()
