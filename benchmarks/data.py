"""Samples per second of photofound.data.stream and of other loaders of the same tars, in one run.

    python benchmarks/data.py --data SHARDS
    python benchmarks/data.py --data SHARDS --workers 2 --samples 4000 --repeats 5

Every loader reads the tars, decodes with two workers, scales and crops to 256 x 256 and gives uint8 batches of 32. The
loaders take turns, so other load on the machine affects all of them; a row gives the median of the repeats
and of the ratios to plain ``datasets`` of the same turn: by the clock, and by the processor time of the process and its
workers, which other load changes less (Linux only). datago reads tars from one cloud's buckets only, so it gets
the same files unpacked, resizes in Rust, and has no captions to read; ours also reads headers for buckets and gives
floats. Loaders that are not installed are left out: pip install 'photofound[bench]'.
"""

import argparse
import itertools
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from photofound.data.sources import Source
from photofound.data.stream import Stream

SIZE, BATCH = 256, 32


def square(picture: Image.Image) -> np.ndarray:
    """(3, 256, 256) uint8: scaled to cover the square, its middle."""
    scale = SIZE / min(picture.size)
    width, height = (max(SIZE, round(side * scale)) for side in picture.size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    resized = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)[top : top + SIZE, left : left + SIZE].transpose(2, 0, 1).copy()


def ours(tars: list[str], workers: int) -> Iterator[int]:
    pattern = str(Path(tars[0]).parent / "*.tar")
    for sample in Stream([Source(pattern)], BATCH, [(SIZE, SIZE)], workers=workers):
        yield len(sample)


def plain_datasets(tars: list[str], workers: int) -> Iterator[int]:
    import datasets

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        return {"pixels": square(row["webp"] or row["jpg"]), "text": row["json"]["text"]}

    rows = datasets.load_dataset("webdataset", data_files=tars, split="train", streaming=True)
    rows = rows.shuffle(seed=0, buffer_size=1024).map(convert, remove_columns=rows.column_names)
    for batch in torch.utils.data.DataLoader(rows.with_format("torch"), BATCH, num_workers=workers):
        yield len(batch["pixels"])


def webdataset(tars: list[str], workers: int) -> Iterator[int]:
    import webdataset as wds

    def convert(row: dict[str, Any]) -> tuple[np.ndarray, str]:
        return square(row.get("webp") or row["jpg"]), row["json"]["text"]

    rows = wds.WebDataset(tars, shardshuffle=100, seed=0).shuffle(1024).decode("pil").map(convert).batched(BATCH)
    for pixels, _ in torch.utils.data.DataLoader(rows, batch_size=None, num_workers=workers):
        yield len(pixels)


def datago(folder: str, workers: int) -> Iterator[int]:
    from datago import DatagoClient

    os.environ["DATAGO_MAX_TASKS"] = os.environ["RAYON_NUM_THREADS"] = str(max(1, workers))
    settings = {
        "source_type": "file",
        "source_config": {"root_path": folder, "random_sampling": True, "rank": 0, "world_size": 1},
        "image_config": {
            "crop_and_resize": True,
            "default_image_size": SIZE,
            "downsampling_ratio": SIZE,
            "min_aspect_ratio": 1.0,
            "max_aspect_ratio": 1.0,
            "pre_encode_images": False,
            "image_to_rgb8": True,
        },
        "limit": 1_000_000,
        "samples_buffer_size": 4 * BATCH,
    }
    client = DatagoClient(json.dumps(settings))
    client.start()
    try:
        while (sample := client.get_sample_auto_convert()) is not None:
            np.asarray(sample["image"])
            yield 1
    finally:
        client.stop()


def processor_seconds() -> float:
    """What this process and those that it has started have used of processors."""
    found = sum(os.times()[:4])
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            found += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def speed(batches: Iterator[int], samples: int) -> tuple[float, float]:
    """Samples per second, and per second of a processor, after the first 64, which start the workers."""
    warm = 0
    for count in batches:
        warm += count
        if warm >= 64:
            break
    start, used, done = time.perf_counter(), processor_seconds(), 0
    for count in batches:
        done += count
        if done >= samples:
            break
    return done / (time.perf_counter() - start), done / (processor_seconds() - used)


def unpack(tars: list[str], folder: str) -> str:
    """Pictures alone, as files."""
    for tar in tars:
        with tarfile.open(tar) as archive:
            for member in archive:
                if Path(member.name).suffix in (".webp", ".jpg") and (file := archive.extractfile(member)):
                    (Path(folder) / f"{Path(tar).stem}-{Path(member.name).name}").write_bytes(file.read())
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of WebDataset tars: webp or jpg, and json with text")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    tars = sorted(str(path) for path in Path(args.data).glob("*.tar"))
    loaders: dict[str, Callable[[Any, int], Iterator[int]]] = {
        "datasets + PIL": plain_datasets,
        "photofound.data.stream": ours,
        "webdataset": webdataset,
        "datago (files)": datago,
    }
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
    with tempfile.TemporaryDirectory() as folder:
        files = unpack(tars, folder)
        for _, (name, loader) in itertools.product(range(args.repeats), loaders.items()):
            try:
                batches = loader(files if loader is datago else tars, args.workers)
                speeds[name].append(speed(batches, args.samples))
                batches.close()  # type: ignore[attr-defined]
            except (ImportError, ZeroDivisionError) as error:
                print(f"{name} is left out: {error}")
    print("| loader | samples/s | ratio | samples per CPU s | ratio |\n|---|---|---|---|---|")
    base = speeds["datasets + PIL"]
    for name, values in speeds.items():
        if values:
            row = [name]
            for own, others in zip(zip(*values, strict=True), zip(*base, strict=True), strict=True):
                ratio = median(value / other for value, other in zip(own, others, strict=True))
                row += [f"{median(own):.0f}", f"{ratio:.2f}"]
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
