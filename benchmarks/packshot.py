"""The seller's day: product photographs to packshots of 2,000 pixels with shadow, from file to file.

    python benchmarks/packshot.py --data DIR [--count 200] [--preset NAME]
    python benchmarks/packshot.py --sheet docs/packshots.jpg [--data DIR]

DIR holds ``eval.json``, a list of {"file", "task", ...}, of which those with ``"task": "product"`` are taken, repeated
to ``--count``. Each is read, cut out, placed on 2,000 x 2,000 pixels, given a soft shadow, written as JPEG, and held to
the rules of ``google-shopping``; then once more by ``amazon-main``, which allows no shadow. It prints seconds for each
part and those of the CPU, the memory after a tenth and at the end, the share that is accepted, and the reasons of the
others.

``--sheet`` writes a contact sheet: of DIR's products that have masks, or without ``--data`` of scikit-image's cup.
"""

from __future__ import annotations

import argparse
import collections
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from photofound import PackshotPipeline, image
from photofound.edits import presets
from photofound.edits.check import faults

RUNS = {
    "google-shopping": {"preset": "google-shopping", "canvas": "2000x2000", "shadow": "soft"},
    "amazon-main": {"preset": "amazon-main"},
}
CELL = 320  # pixels of the sheet's cells
SHADOWS = ("soft", "hard", "contact")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--preset", choices=RUNS, help="one of the two alone")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet, a JPEG, instead of measuring")
    args = parser.parse_args()
    if args.data is None and args.sheet is None:
        parser.error("name a folder of photographs with --data")
    pipe = PackshotPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    listed = [] if args.data is None else json.loads((args.data / "eval.json").read_text())
    products = [each for each in listed if each["task"] == "product"]
    if args.sheet is not None:
        sheet(pipe, args.data, products, args.sheet)
        return 0
    for name, given in RUNS.items() if args.preset is None else [(args.preset, RUNS[args.preset])]:
        measure(pipe, args.data, [products[i % len(products)] for i in range(args.count)], name, given)
    return 0


def measure(pipe: PackshotPipeline, data: Path, products: list[dict], name: str, given: dict) -> None:
    preset, seconds, accepted = presets.load(name), collections.defaultdict(list), 0
    reasons, memory = collections.Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for i, product in enumerate(products):
            path = Path(folder) / f"{i % 8}.jpg"
            started, computed = time.perf_counter(), time.process_time()
            picture = image.load(data / product["file"])
            read = time.perf_counter()
            try:
                (made,) = pipe(picture, output_type="picture", **given).images
            except ValueError as error:
                reasons[str(error)[:40]] += 1
                continue
            done = time.perf_counter()
            image.save(made, path, overwrite=True)
            saved, computed = time.perf_counter(), time.process_time() - computed
            found = faults(path, preset)
            for part, spent in (("read", read - started), ("made", done - read), ("saved", saved - done)):
                seconds[part].append(spent)
            seconds["all"].append(saved - started)
            seconds["CPU"].append(computed)  # what it would take on an idle core: other work does not count
            accepted += not found
            reasons.update(f"{product['file'].split('/')[-1]} {fault[:45]}" for fault in found)
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    tenth = max(1, len(memory) // 10)
    print(f"{name}: {len(products)} pictures, {accepted / len(products):.1%} accepted; refused for {dict(reasons)}")
    for part, spent in seconds.items():
        print(f"  {part:<6}{statistics.median(spent):6.2f} s median, {np.quantile(spent, 0.9):6.2f} s nine in ten")
    print(f"  peak memory {memory[tenth - 1]:.0f} MiB after a tenth, {memory[-1]:.0f} MiB at the end", flush=True)


def sheet(pipe: PackshotPipeline, data: Path | None, products: list[dict], path: Path) -> None:
    """Products on white with the three kinds of shadow, and on marble with a reflection; the cup in four more looks."""
    looks = [{"shadow": kind} for kind in SHADOWS] + [{"background": "marble:black", "reflection": "25%"}]
    shown = [
        (image.load(data / each["file"]), data / each["mask"], looks) for each in products[::4] if each.get("mask")
    ]
    if data is None:
        from skimage.data import coffee

        more = ({"background": "#c00000", "shadow": "soft"}, {"background": "wood"}, {"background": "linen"})
        shown = [(coffee(), None, looks), (coffee(), None, [*more, {"background": "blur", "reference_box": "image"}])]
    rows = []
    for picture, mask, wanted in shown:
        given = {"canvas": f"{2 * CELL}x{2 * CELL}", "padding": "16%", "enlarge": True, "snap": False, "generator": 0}
        given |= {"subject": None if mask is None else str(mask)}
        cells = [pipe(picture, **{**given, **look}).images[0].convert("RGB").resize((CELL, CELL)) for look in wanted]
        rows.append(np.hstack([np.asarray(cell) for cell in cells]))
    Image.fromarray(np.vstack(rows)).save(path, quality=82, optimize=True)
    print(path)


if __name__ == "__main__":
    raise SystemExit(main())
