"""Make training shards of a collection of photographs: check, deduplicate, filter, caption, matte, precompute.

    photofound train prepare SRC DST [--config FILE] [--short_side=512] [--captioner=colour] [--matte=grabcut] ...

SRC is anything that photofound.data.sources reads: a folder of images, parquet or tars, or a dataset's id on the Hub.
DST becomes a folder of WebDataset tars with index.json (every shard), report.md and report.json (what was kept, what
was dropped and why) and dropped.jsonl. Work is done in units, the shards of SRC, in two passes: the first looks at
every photograph, the second writes those that are left. A unit is written whole or not at all, so that the same command
goes on after any stop. Units are shared out over processes (--workers=8) or over a Ray cluster (--cluster=true, DST on
a disk that all nodes see).

With --exemplars=N, DST becomes a folder of N samples whose holes are filled with exemplars, for the training of the
detail network and of the transformer; the same command goes on after any stop.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from photofound import config, files, image
from photofound.card import record
from photofound.data import exemplars, report, units
from photofound.data.duplicates import duplicates, fingerprint
from photofound.data.ledger import error_text
from photofound.data.photograph import decode, scaled
from photofound.data.sources import Part, Raw, Source, open_parts, raw
from photofound.data.store import PhotoStore
from photofound.data.table import Table, is_room
from photofound.data.tars import IMAGES, write_tar
from photofound.errors import one_line
from photofound.room import readers
from photofound.train import annotate
from photofound.train.annotate import AnnotateConfig
from photofound.train.idle import StageConfig


@dataclass(frozen=True)
class PrepareConfig(AnnotateConfig, StageConfig):
    """Which photographs are kept, and what is added to them."""

    STAGE: ClassVar = "prepare"

    source: dict[str, Any] = field(default_factory=dict)  # columns of SRC: image, captions, mask, foreground, ...
    min_side: int = 256  # drop what has a shorter side
    max_aspect: float = 4.0  # drop what is longer than this many times its width, or wider
    max_pixels: int | None = None  # drop what is larger; null = the limit of every reader
    scorer: str | None = None  # module:function, (H, W, 3) float RGB in [0, 1] -> number
    min_score: float = 0.5  # drop what scores less
    near: int = 3  # drop what differs in at most so many of 64 bits from an earlier one of the same colours; -1: keep
    short_side: int | None = None  # scale photographs down to it; null = files are kept as they are
    quality: int = 90  # of the WebP files of photographs that are scaled down
    exemplars: int = 0  # write so many samples with exemplar canvases instead; SRC is a folder of shards
    crop: int = 128  # exemplars: the samples' side
    sizes: tuple[int, ...] = (136, 208, 272)  # exemplars: short sides, as data.sizes of the training
    weights: dict[str, float] = field(default_factory=dict)  # exemplars: as data.weights of the training
    cache: str | None = None  # exemplars: as data.cache of the training
    shard_size: int = 1000  # samples per tar
    workers: int = 2  # processes
    cluster: bool = False  # work on a Ray cluster in place of processes

    def __post_init__(self) -> None:
        for name, least in (("min_side", 1), ("max_aspect", 1), ("quality", 1), ("shard_size", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} is too small; it must be at least {least}")
        if self.quality > 100 or self.near > 16:
            raise ValueError(f"quality: {self.quality} and near: {self.near} must be at most 100 and 16")
        if self.short_side is not None and self.short_side < 16:
            raise ValueError(f"short_side: {self.short_side} is too small; it must be at least 16 pixels")
        super().__post_init__()


class Damaged(NamedTuple):
    """A sample that cannot be read: its name, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Job:
    """One call of the command. Everything that a worker needs, wherever it runs."""

    source: Source
    folder: Path
    settings: PrepareConfig

    def result(self, stage: str, unit: int) -> Path:
        """Where a stage writes what it found in a unit. That it is there means that the unit is done."""
        return self.folder / "work" / stage / f"{unit:05d}.json"

    def units(self) -> list[Part]:
        return _opened(json.dumps(dataclasses.asdict(self.source)), self.settings.shard_size)

    def samples(self, unit: int) -> Iterator[tuple[str, Raw | Damaged]]:
        """Keys and samples of a unit."""
        for number, row in enumerate(self.units()[unit].rows()):
            try:
                found: Raw | Damaged = raw(row, self.source)
            except Exception as error:  # whatever a row makes its readers raise, the others are good
                name = str(row.get("name") or row.get("__key__") or self.source.path)
                found = Damaged(name, error_text(error).removeprefix(f"{name}: "))
            yield f"{unit:05d}_{number:06d}", found


@cache
def _opened(source: str, part: int) -> list[Part]:
    """Opened once per process: listing a large collection takes a while."""
    return open_parts(Source(**json.loads(source)), part)


# --------------------------------------------------------------------------------------- first pass: look at everything


def scan(job: Job, unit: int) -> None:
    """Check and describe every sample of a unit."""
    lines = [inspect(job.settings, key, sample) for key, sample in job.samples(unit)]
    _write_json(job.result("scan", unit), lines)


def inspect(settings: PrepareConfig, key: str, sample: Raw | Damaged) -> dict[str, Any]:
    """What is known of a sample after one look: ``dropped`` says why it is not kept, else what it looks like."""
    if isinstance(sample, Damaged):
        return {"key": key, "name": sample.name, "dropped": "damaged", "why": sample.why}
    line: dict[str, Any] = {"key": key, "name": sample.name}
    try:
        width, height = image.upright_size(sample.image, sample.name, settings.max_pixels)
        line |= {"width": width, "height": height}
        if min(width, height) < settings.min_side:
            return line | {"dropped": "too small", "why": f"{width}x{height}"}
        if max(width, height) > settings.max_aspect * min(width, height):
            return line | {"dropped": "too long", "why": f"{width}x{height}"}
        side = min(512, min(width, height)) if settings.scorer else 64
        pixels, _ = decode(sample.image, scaled((width, height), side), sample.mask, sample.name)
    except Exception as error:
        return line | {"dropped": "damaged", "why": error_text(error)}
    if settings.scorer:
        line["score"] = float(config.function(settings.scorer)(pixels.astype(np.float32) / 255))
        if not line["score"] >= settings.min_score:
            return line | {"dropped": "low score", "why": f"{line['score']:.3g}"}
    return line | dict(zip(("bits", "colours"), fingerprint(pixels), strict=True))


# ------------------------------------------------------------------------------------- second pass: write what is left


def write(job: Job, unit: int) -> None:
    """Write the kept samples of a unit as tars, and then what they are. Tars that a stopped call wrote are not made
    again."""
    kept = set(json.loads(job.result("kept", unit).read_text(encoding="utf-8")))
    parts = sorted((job.folder / "work" / "parts").glob(f"{unit:05d}-*.json"))
    made = [json.loads(part.read_text(encoding="utf-8")) for part in parts]
    last = made[-1]["samples"][-1]["key"] if made else ""
    samples = ((key, sample) for key, sample in job.samples(unit) if key in kept and key > last)
    while part := list(itertools.islice(samples, job.settings.shard_size)):
        name = f"{unit:05d}-{len(made):03d}"
        made.append(_write_part(job, name, [(key, sample) for key, sample in part if isinstance(sample, Raw)]))
    shards = [part["shard"] for part in made if part["shard"]["samples"]]
    _write_json(job.result("write", unit), {"shards": shards, "samples": [x for part in made for x in part["samples"]]})


def _write_part(job: Job, name: str, samples: Sequence[tuple[str, Raw]]) -> dict[str, Any]:
    """Write one tar; returns its entry and a line per sample."""
    lines, written = [], []
    for key, sample in samples:
        try:
            files, line = make_sample(job.settings, sample)
        except Exception as error:
            lines.append({"key": key, "name": sample.name, "dropped": "damaged", "why": error_text(error)})
            continue
        written.append((key, files))
        lines.append({"key": key, **line})
    made = {"shard": write_tar(job.folder / f"{name}.tar", written), "samples": lines}
    _write_json(job.folder / "work" / "parts" / f"{name}.json", made)
    return made


def make_sample(settings: PrepareConfig, sample: Raw) -> tuple[dict[str, bytes], dict[str, Any]]:
    """A sample's files by extension, and a line about it."""
    width, height = image.upright_size(sample.image, sample.name, settings.max_pixels)
    size = scaled((width, height), settings.short_side or min(width, height))
    pixels, matte = decode(
        sample.image, size, sample.mask, sample.name, settings.max_pixels, foreground=sample.foreground
    )
    files = {_extension(sample.image): sample.image} if size == (width, height) else {"webp": _webp(pixels, settings)}
    if "" in files:  # TIFF and the like, which the shards are not to hold
        files = {"webp": _webp(pixels, settings)}
    matte_kind = "given" if matte is not None else None
    if matte is None and settings.matte:
        matte, matte_kind = annotate.cut_out(settings.matte, pixels), settings.matte
    if matte is not None:
        files["mask.png"] = _encoded(matte, "PNG", optimize=True)
    captions = annotate.describe(settings.captioner, sample, pixels)
    caption = next(iter(captions.values()), "")
    if settings.text or settings.latents:
        picture = next(content for kind, content in files.items() if f".{kind}" in IMAGES)
        files["safetensors"] = annotate.precompute(settings, picture, sample.name, list(captions.values()))
    kept = {
        name: value for name, value in sample.row.items() if isinstance(value, (str, int, float)) and name != "json"
    }
    meta = kept | {"text": caption, "captions": captions, "width": size[0], "height": size[1]}
    files["json"] = json.dumps(meta | {"name": Path(sample.name).name}, ensure_ascii=False).encode()
    line = {"width": size[0], "height": size[1], "captions": list(captions)}
    line |= {"source": str(kept.get("source", "")), "licence": record.licence_of(kept)}
    return files, line | {"matte": matte_kind if matte is not None else None}


def _extension(file: bytes) -> str:
    kinds = {b"\xff\xd8": "jpg", b"\x89PNG": "png"}
    webp = "webp" if file[:4] == b"RIFF" and file[8:12] == b"WEBP" else ""
    return next((kind for magic, kind in kinds.items() if file.startswith(magic)), webp)


def _webp(pixels: np.ndarray, settings: PrepareConfig) -> bytes:
    return _encoded(pixels, "WEBP", quality=settings.quality)


def _encoded(pixels: np.ndarray, format: str, **options: Any) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format, **options)
    return out.getvalue()


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, json.dumps(content))


# ------------------------------------------------------------------------------------------------------ both passes


def prepare(source: str, folder: str | Path, settings: PrepareConfig | None = None) -> dict[str, Any]:
    """Prepare a collection; the report. Goes on where an earlier call with the same settings was stopped.

    Raises ValueError for sources that cannot be read, and for a folder that holds something else.
    """
    settings = settings or PrepareConfig()
    folder = files.output_path(folder, "DST")
    folder = folder.resolve() if settings.cluster else folder  # a cluster's workers run in folders of their own
    job = Job(config.build(Source, {"path": source} | settings.source, "source."), folder, settings)
    for name in (settings.scorer, settings.captioner, settings.matte):
        if name and ":" in name:
            config.function(name)
    annotate.load_models(settings)
    count = len(job.units())
    _begin(job, count)
    if is_room(job.source.path):
        table = Table(job.source.path, job.source.version)
        readers.note(table, job.source.where, "export", str(folder.resolve()))
    seconds = {}
    for stage in (scan, write):
        start = time.perf_counter()
        todo = [unit for unit in range(count) if not job.result(stage.__name__, unit).is_file()]
        units.run(partial(stage, job), todo, stage.__name__, settings.workers, settings.cluster)
        seconds[stage.__name__] = time.perf_counter() - start
        if stage is scan:
            dropped = _choose(job, count)
    return _report(job, count, dropped, seconds)


def _begin(job: Job, count: int) -> None:
    """Take the folder, or go on in it."""
    path = job.folder / "work" / "settings.json"
    mine = {"source": dataclasses.asdict(job.source), "units": count} | config.to_dict(job.settings)
    mine = {name: value for name, value in mine.items() if name not in ("workers", "cluster")}
    if path.is_file():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        for name, value in mine.items():
            if theirs.get(name) != json.loads(json.dumps(value)):
                before = f"{job.folder} was begun with {name} = {theirs.get(name)!r}, not {value!r}"
                raise ValueError(f"prepare: {before}; choose another folder, or delete this one")
        for partial in [*job.folder.glob("*.partial"), *job.folder.glob("work/*/*.partial")]:
            partial.unlink()
        return
    if job.folder.is_dir() and any(job.folder.iterdir()):
        raise ValueError(f"prepare: {job.folder} is not empty; choose another folder")
    _write_json(path, mine)


def _choose(job: Job, count: int) -> list[dict[str, Any]]:
    """Find duplicates over all units, and write for each unit which samples are kept. Returns the dropped ones."""
    lines = [line for unit in range(count) for line in json.loads(job.result("scan", unit).read_text(encoding="utf-8"))]
    left = [line for line in lines if "dropped" not in line]
    twins = duplicates([line["bits"] for line in left], [line["colours"] for line in left], job.settings.near)
    for line, twin in zip(left, twins, strict=True):
        if twin is not None:
            line |= {"dropped": "duplicate", "why": left[twin]["name"]}
    kept: dict[int, list[str]] = {unit: [] for unit in range(count)}
    for line in left:
        if "dropped" not in line:
            kept[int(line["key"].partition("_")[0])].append(line["key"])
    for unit, keys in kept.items():
        if not job.result("kept", unit).is_file():
            _write_json(job.result("kept", unit), keys)
    return [{name: line[name] for name in ("name", "dropped", "why")} for line in lines if "dropped" in line]


def _report(job: Job, count: int, dropped: list[dict[str, Any]], seconds: Mapping[str, float]) -> dict[str, Any]:
    """Write index, report and the list of what was dropped; returns the report."""
    written = [json.loads(job.result("write", unit).read_text(encoding="utf-8")) for unit in range(count)]
    lines = [line for unit in written for line in unit["samples"]]
    late = [line for line in lines if "dropped" in line]
    dropped = dropped + [{name: line[name] for name in ("name", "dropped", "why")} for line in late]
    kept = [line for line in lines if "dropped" not in line]
    shards = [shard for unit in written for shard in unit["shards"]]
    made = report.summarise(kept, dropped, shards, seconds)
    made |= {"source": job.source.path, "settings": config.to_dict(job.settings)}
    index = {"samples": len(kept), "bytes": made["bytes"], "shards": shards}
    index["precomputed"] = annotate.fingerprints(job.settings)
    (job.folder / "dropped.jsonl").write_text("".join(json.dumps(line) + "\n" for line in dropped), encoding="utf-8")
    (job.folder / "report.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    (job.folder / "report.md").write_text(report.markdown(made), encoding="utf-8")
    _write_json(job.folder / "index.json", index)
    return made


def write_exemplars(source: str, folder: str, settings: PrepareConfig) -> int:
    """Fill the folder with ``settings.exemplars`` samples of the shards in ``source``; the shards that were missing.

    Raises ValueError or FileNotFoundError."""
    store = PhotoStore.open(source, settings.sizes, settings.cache, mattes=True)
    plan = exemplars.Plan(settings.crop, weights=settings.weights)
    return exemplars.write(store, files.output_path(folder, "DST"), settings.exemplars, plan, settings.workers)


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0, or 2 for a mistake, which is one line on stderr."""
    from photofound.cli.model import quiet_libraries
    from photofound.training import parser

    try:
        args, overrides = parser("prepare", __doc__).split(argv)
        settings = config.load(PrepareConfig, args.config, overrides)
        models = settings.captioner, settings.matte, settings.model, settings.text_encoder, settings.vae
        quiet_libraries(importing=any(models))
        if settings.exemplars:
            written = write_exemplars(args.source, args.folder, settings)
            print(f"{args.folder}: {written} shards of {exemplars.SHARD} samples written, the others were there")
            return 0
        made = prepare(args.source, args.folder, settings)
    except (ValueError, OSError) as error:
        print(f"photofound: {one_line(error)}", file=sys.stderr)
        return 2
    print(f"{args.folder}: {made['kept']:,} of {made['read']:,} photographs in {made['shards']} shards")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
