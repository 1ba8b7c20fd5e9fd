"""Do backgrounds follow prompts and pictures? Colours, materials, references and seeds on product photographs.

    python benchmarks/backgrounds.py --data DIR --perceptual squeezenet1_0.safetensors [--model DIR] [--products 4]
                                     [--plain] [--only PART ...] [--markdown FILE] [--sheet FILE.png]
                                     [--jpeg FILE.jpg] [--collapse]

DIR holds an ``eval.json`` that lists ``file``, ``mask``, ``task`` and ``licence``. What is measured is the background
alone, where the mask is 0 and a little away from the product.

- colours: the mean over products of CIE a*, b* within 30 degrees of the word's hue at a chroma above 12; white, black
  and grey by lightness (L* above 82, below 30, 35 to 75) at a chroma below 14.
- materials: SqueezeNet's features of the background without its colour, the mean and spread of each channel, nearest to
  those of surfaces that are drawn with other seeds and without a product.
- pictures: of two photographs A and B as ``reference`` (or, in a model without that input, as the ``gallery``) each
  result must be nearer to its own in colour and in the energy of its texture than the other result is.
- seeds: the mean of 32 seeds, high-passed, over the spread that independent pictures would leave (1 = nothing in
  common), outside of the product's shadow.

``--plain`` switches drawn surfaces off: the model alone. ``--collapse`` measures what the model does with words.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from photofound import OutpaintPipeline, image
from photofound.edits import staging, surfaces
from photofound.edits.ground import lab
from photofound.edits.surfaces import Surface
from photofound.image import Picture
from photofound.model import text
from photofound.model.vision import PerceptualNet

SIDE = 512
COLOURS = {
    "red": (200, 30, 35), "green": (60, 145, 60), "yellow": (235, 210, 60), "white": None, "black": None,
    "orange": (235, 130, 35), "pink": (235, 150, 175), "brown": (115, 75, 45), "grey": None, "blue": (45, 95, 190),
}  # fmt: skip
COLOUR_PROMPTS = ("a {} background", "on a {} cloth", "on a {} table", "before a {} wall")
MATERIALS = {
    "wood": "on a wooden table", "marble": "on a marble table", "grass": "on green grass", "linen": "on linen",
    "concrete": "on concrete", "sand": "on sand",
}  # fmt: skip
SHEET = ("on a wooden table", "on a marble table", "on green grass", "on a red cloth", "pure white",
         "grey concrete wall")  # fmt: skip
SEEDS = 32
PARTS = ("colours", "materials", "pictures", "seeds", "seconds")


class Product:
    """A product photograph at ``SIDE``, its matte, and where its background is judged."""

    def __init__(self, folder: Path, entry: dict[str, Any]) -> None:
        picture = image.load(folder / entry["file"])
        scale = SIDE / max(picture.size)
        self.picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
        given = image.load(folder / entry["mask"])
        mask = image.load_mask(given, given.size, kept=True)
        self.matte = cv2.resize(mask, self.picture.size, interpolation=cv2.INTER_AREA)
        self.name, self.licence = Path(entry["file"]).stem, entry["licence"]
        matte = (self.matte > 0).astype(np.uint8)
        self.background = cv2.dilate(matte, np.ones((13, 13), np.uint8)) == 0
        self.unshaded = cv2.dilate(matte, np.ones((SIDE // 5, SIDE // 5), np.uint8)) == 0  # beyond its shadow, too


def edit(pipe: Any, product: Product, prompt: str, seed: int = 0, **inputs: Any) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    settings = {"generator": generator, "output_type": "picture"}
    result: Picture = pipe(product.picture, prompt=prompt, subject=product.matte, **inputs, **settings).images[0]
    return result.rgb()


# --------------------------------------------------------------------------------------------------------- measurements


def mean_lab(rgb: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(3,): the mean in CIE L*a*b*."""
    return lab(rgb[where] * 255).mean(0)


def obeys(word: str, mean: np.ndarray) -> bool:
    """Whether a background's mean (3,) in L*a*b* is what a colour word says."""
    chroma = float(np.hypot(mean[1], mean[2]))
    wanted = COLOURS[word]
    if wanted is None:
        low, high = {"white": (82, 101), "black": (-1, 30), "grey": (35, 75)}[word]
        return low < mean[0] < high and chroma < 14
    target = lab(np.array([wanted], np.float32))[0]
    turn = np.degrees(np.arctan2(mean[2], mean[1]) - np.arctan2(target[2], target[1]))
    return chroma > 12 and abs((turn + 180) % 360 - 180) <= 30


def texture_energy(rgb: np.ndarray, where: np.ndarray) -> float:
    """Logarithm of the standard deviation of what is finer than 4 pixels."""
    grey = rgb @ np.array((0.299, 0.587, 0.114), np.float32)
    return float(np.log(1e-4 + (grey - cv2.GaussianBlur(grey, (0, 0), 4))[where].std()))


@torch.no_grad()
def features(net: PerceptualNet, rgb: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Mean and spread of every channel over the background, without its colour, brightness and contrast."""
    grey = rgb @ np.array((0.299, 0.587, 0.114), np.float32)
    inside = grey[where]
    grey = np.where(where, (grey - inside.mean()) / (inside.std() + 0.02), 0).astype(np.float32)
    pixels = torch.from_numpy(grey * 0.4)[None, None].expand(1, 3, -1, -1).clamp(-1, 1)
    known = torch.from_numpy(where.astype(np.float32))[None, None]
    found = []
    for tap in net(pixels):
        weight = torch.nn.functional.interpolate(known, size=tap.shape[-2:], mode="area")
        weight = (weight > 0.9).float()
        total = weight.sum().clamp(min=1)
        mean = (tap * weight).sum((2, 3)) / total
        spread = (((tap - mean[..., None, None]) ** 2 * weight).sum((2, 3)) / total).sqrt()
        both = torch.cat([mean, spread], 1)[0]
        found.append(both / both.norm().clamp(min=1e-6))
    return torch.cat(found).numpy()


def colours(pipe: Any, products: Sequence[Product]) -> tuple[list[str], int]:
    lines, right = ["| word | " + " | ".join(COLOUR_PROMPTS) + " |", "|---|" + "---|" * len(COLOUR_PROMPTS)], 0
    for word in COLOURS:
        cells = []
        for prompt in COLOUR_PROMPTS:
            results = [edit(pipe, product, prompt.format(word)) for product in products]
            means = [mean_lab(result, product.background) for result, product in zip(results, products, strict=True)]
            mean = np.mean(means, 0)
            cells.append((obeys(word, mean), f"{mean[0]:.0f}, {mean[1]:.0f}, {mean[2]:.0f}"))
        right += cells[0][0]
        lines.append(f"| {word} | " + " | ".join(f"{'yes' if ok else 'NO'} ({said})" for ok, said in cells) + " |")
    return lines, right


def materials(pipe: Any, products: Sequence[Product], net: PerceptualNet) -> tuple[list[str], int]:
    """The table, and how many materials are found in most of their pictures."""
    full = np.ones((SIDE, SIDE), bool)
    references: dict[str, list[np.ndarray]] = {}
    for name, prompt in MATERIALS.items():
        surface = surfaces.surface_of(prompt) or Surface(name, surfaces.DEFAULTS[name])
        drawn = [surfaces.render(surface, (SIDE, SIDE), 900 + seed, 0.4, 0.5) for seed in range(4)]
        references[name] = [features(net, rgb, full) for rgb in drawn]
    lines, right = ["| prompt | taken for |", "|---|---|"], 0
    for name, prompt in MATERIALS.items():
        taken = []
        for seed, product in enumerate(products):
            found = features(net, edit(pipe, product, prompt, seed), product.background)
            distance = {n: min(np.linalg.norm(found - each) for each in known) for n, known in references.items()}
            taken.append(min(distance, key=lambda n: distance[n]))
        right += taken.count(name) > len(taken) / 2
        lines.append(f"| {prompt} | {', '.join(taken)} |")
    return lines, right


def pictures(pipe: Any, product: Product, photographs: Sequence[Path], folder: Path) -> tuple[list[str], int, int]:
    """Swaps of two photographs: in how many both results are nearer to their own, in colour and in texture."""
    from photofound.edits.task import get_task

    by_reference = any(each.name == "reference" for each in get_task("outpaint").inputs)
    lines, coloured, textured = ["| pictures | colour | texture |", "|---|---|---|"], 0, 0
    for first, second in zip(photographs[::2], photographs[1::2], strict=True):
        about, means, energies = [], [], []
        for path in (first, second):
            small = staging.crop_to_fill(image.load(path).rgb(), product.picture.size)
            about.append((mean_lab(small, product.background), texture_energy(small, product.background)))
            if by_reference:
                result = edit(pipe, product, "", reference=path)
            else:
                own = folder / path.stem
                own.mkdir(exist_ok=True)
                image.save(image.load(path), own / "own.png", overwrite=True)
                result = edit(pipe, product, "own", gallery=own)
            means.append(mean_lab(result, product.background))
            energies.append(texture_energy(result, product.background))
        closer = [np.linalg.norm(means[i] - about[i][0]) < np.linalg.norm(means[1 - i] - about[i][0]) for i in (0, 1)]
        finer = [abs(energies[i] - about[i][1]) < abs(energies[1 - i] - about[i][1]) for i in (0, 1)]
        coloured, textured = coloured + all(closer), textured + all(finer)
        lines.append(f"| {first.stem}, {second.stem} | {'yes' if all(closer) else 'NO'} | "
                     f"{'yes' if all(finer) else 'NO'} |")  # fmt: skip
    return lines, coloured, textured


def common_pattern(results: Sequence[np.ndarray], where: np.ndarray) -> float:
    """How much of the fine structure all seeds share: the spread of their high-passed mean over that of one of them
    divided by the root of their number, which is what independent pictures leave. 1 = nothing in common."""
    fine = []
    for rgb in results:
        grey = rgb @ np.array((0.299, 0.587, 0.114), np.float32)
        fine.append((grey - cv2.GaussianBlur(grey, (0, 0), 6))[where])
    single = float(np.mean([each.std() for each in fine]))
    return float(np.mean(fine, 0).std()) / (single / len(fine) ** 0.5)


def sheet(pipe: Any, products: Sequence[Product]) -> np.ndarray:
    """A row per product, a column per prompt; uint8."""
    rows = []
    for number, product in enumerate(products):
        row = [edit(pipe, product, prompt, number) for prompt in SHEET]
        cells = []
        for rgb in row:
            cell = np.full((SIDE, SIDE, 3), 255, np.uint8)
            top, left = (SIDE - rgb.shape[0]) // 2, (SIDE - rgb.shape[1]) // 2
            cell[top : top + rgb.shape[0], left : left + rgb.shape[1]] = (rgb * 255).round()
            cells.append(cell)
        rows.append(np.hstack(cells))
    return np.vstack(rows)


def collapse(pipe: Any, product: Product) -> list[str]:
    """What the model alone does with words: how far apart its text encoder puts them, and how much of its background
    depends on the word, on the seed and on neither."""
    lines = ["| | mean cosine | least |", "|---|---|---|"]
    kinds = {
        "ten colours, 'on a X background'": [f"on a {word} background" for word in COLOURS],
        "ten colours alone": list(COLOURS),
        "six materials": list(MATERIALS.values()),
        "captions of other kinds": ["a dog on a beach", "two cups of coffee", "city at night", "a bowl of soup"],
    }
    for name, prompts in kinds.items():
        found = [text.encode(pipe.tokenizer, pipe.text_encoder, [prompt])[0][0].float().mean(0) for prompt in prompts]
        unit = torch.stack([each / each.norm() for each in found])
        cosine = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)]
        lines.append(f"| {name} | {cosine.mean():.3f} | {cosine.min():.3f} |")
    lines += ["", "| steps | guidance | spread over words | over seeds | common pattern |", "|---|---|---|---|---|"]
    for teacher, settings in ((False, (2, 1.0)), (False, (2, 2.0)), (False, (2, 6.0)), (True, (20, 2.0)),
                              (True, (20, 6.0))):  # fmt: skip
        model = OutpaintPipeline.from_pretrained(teacher=True) if teacher else pipe
        model.set_progress_bar_config(disable=True)
        model.register_to_config(surfaces=False)
        options = {"num_inference_steps": settings[0], "guidance_scale": settings[1]}
        number = 4 if teacher else 16
        by_word = [edit(model, product, f"on a {w} background", 0, **options) for w in list(COLOURS)[:number]]
        by_seed = [edit(model, product, "on a red background", s, **options) for s in range(number)]
        spreads = [
            np.stack([mean_lab(rgb, product.background) for rgb in group]).std(0) for group in (by_word, by_seed)
        ]
        said = " | ".join(f"{np.linalg.norm(each):.1f}" for each in spreads)
        kind = "teacher" if teacher else "student"
        lines.append(f"| {kind}, {settings[0]} | {settings[1]:g} | {said} | "
                     f"{common_pattern(by_seed, product.unshaded):.2f} of {number ** 0.5:.1f} |")  # fmt: skip
    return lines


def seconds(pipe: Any, product: Product) -> tuple[float, float]:
    """The medians of five edits of ``SIDE`` pixels: as a person sees it, and of processor time."""
    seen, spent = [], []
    for seed in range(5):
        start, began = time.perf_counter(), time.process_time()
        edit(pipe, product, SHEET[seed], seed)
        seen.append(time.perf_counter() - start)
        spent.append(time.process_time() - began)
    return sorted(seen)[2], sorted(spent)[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--perceptual", type=Path)
    add("--model")
    add("--products", type=int, default=4, help="how many are measured on; default: 4")
    add("--plain", action="store_true", help="the model alone, without drawn surfaces")
    add("--collapse", action="store_true", help="measure what the model does with words, and nothing else")
    add("--only", nargs="*", default=list(PARTS), choices=PARTS, help="what is measured; nothing: the sheet alone")
    add("--work", type=Path, default=Path("out/backgrounds"), help="folder for pictures on the way")
    add("--markdown", type=Path)
    add("--sheet", type=Path)
    add("--jpeg", type=Path, help="the sheet at a third of its size, of photographs that may be passed on")
    args = parser.parse_args()

    entries = json.loads((args.data / "eval.json").read_text())
    chosen = [each for each in entries if each.get("mask") and each["task"] == "product"]
    free = [each for each in chosen if each["licence"].startswith(("BSD", "MIT", "OSL"))]
    others = [each for each in chosen if each not in free]
    products = [Product(args.data, each) for each in free[: args.products]]
    pipe: Any = OutpaintPipeline.from_pretrained(*filter(None, [args.model]))
    pipe.set_progress_bar_config(disable=True)
    if args.plain or args.collapse:
        pipe.register_to_config(surfaces=False)
    if args.collapse:
        print("\n".join(collapse(pipe, products[0])))
        return
    report: list[str] = []
    if "colours" in args.only:
        lines, right = colours(pipe, products)
        report += [f"Colours: {right} of {len(COLOURS)} (first column; L*, a*, b* of the mean)", "", *lines, ""]
    if "materials" in args.only and args.perceptual:
        lines, right = materials(pipe, products, PerceptualNet.from_file(args.perceptual))
        report += [f"Materials: {right} of {len(MATERIALS)}", "", *lines, ""]
    if "pictures" in args.only:
        photographs = [args.data / each["file"] for each in entries if each["task"] == "photo"][:20]
        args.work.mkdir(parents=True, exist_ok=True)
        lines, coloured, textured = pictures(pipe, products[0], photographs, args.work)
        total = len(photographs) // 2
        report += [f"Swaps of pictures: colour {coloured}, texture {textured} of {total}", "", *lines, ""]
    if "seeds" in args.only:
        product = products[2 % len(products)]  # a small one, with much around it
        for prompt in ("on a red cloth", "on a marble table", "a grey background"):
            results = [edit(pipe, product, prompt, seed) for seed in range(SEEDS)]
            shared = common_pattern(results, product.unshaded)
            report.append(f"Common pattern of {SEEDS} seeds, {prompt!r}: {shared:.2f} of {SEEDS**0.5:.1f}")
        report.append("")
    if "seconds" in args.only:
        seen, spent = seconds(pipe, products[0])
        report += [f"Seconds at {SIDE}x{SIDE}: {seen:.2f}, of processor time {spent:.2f}"]
    if report:
        print("\n".join(report))
        if args.markdown:
            args.markdown.write_text("\n".join(report) + "\n")
    if args.sheet or args.jpeg:
        listed = free if args.jpeg else [*free, *others]
        made = sheet(pipe, [Product(args.data, each) for each in listed[:12]])
        if args.sheet:
            Image.fromarray(made).save(args.sheet)
        if args.jpeg:
            small = cv2.resize(made, None, fx=1 / 3, fy=1 / 3, interpolation=cv2.INTER_AREA)
            Image.fromarray(small).save(args.jpeg, quality=82, optimize=True)


if __name__ == "__main__":
    main()
