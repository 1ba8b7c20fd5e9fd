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

import argparse
import dataclasses
import hashlib
import io
import itertools
import json
import logging
import sys
import tarfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from photofound import config, files
from photofound.card import record
from photofound.data import exemplars, photos, precomputed
from photofound.data.sources import Raw, Source, open_source, raw
from photofound.device import resolve_device
from photofound.edits import colours, geometry
from photofound.edits.masks import grabcut
from photofound.errors import first_line
from photofound.model import autoencoder, text
from photofound.picture import image

LOOKS = (9, 8)  # width and height of the grey picture that neighbours are compared in


@dataclass(frozen=True)
class PrepareConfig:
    """What is kept of a collection, and what is added to it."""

    source: dict[str, Any] = field(default_factory=dict)  # columns of SRC: image, captions, mask, foreground, ...
    min_side: int = 256  # drop what has a shorter side
    max_aspect: float = 4.0  # drop what is longer than this many times its width, or wider
    max_pixels: int | None = None  # drop what is larger; None: image.py's limit
    scorer: str | None = None  # module:function, (H, W, 3) float RGB in [0, 1] -> number
    min_score: float = 0.5  # drop what scores less
    near: int = (
        3  # drop what differs in at most this many of 64 bits from an earlier one, and alike in colour; -1: keep
    )
    short_side: int | None = None  # scale down to it; None: files are kept as they are
    quality: int = 90  # WebP, of what is scaled down
    captioner: str | None = None  # colour, module:function (RGB -> text), or an image-to-text model of transformers
    matte: str | None = None  # grabcut (plain grounds only), or module:function (RGB -> (H, W) in [0, 1])
    text: bool = False  # add the embedding of every caption
    latents: bool = False  # add the latents of the middle of the picture, in the shape of its bucket
    model: str | None = None  # a pipeline's folder or id, whose text encoder and autoencoder make the two
    text_encoder: str | None = None  # or by themselves, as model.text_encoder and model.vae of the training name them
    vae: str | None = None
    text_length: int = 64  # as model.text_length: tokens of a caption that are read
    side: int = 512  # as data.crop: the latents' buckets have about side x side pixels
    multiple: int = 32  # as data.multiple
    widest: float = 2.0  # as data.widest
    exemplars: int = (
        0  # write so many samples with exemplar canvases instead (photofound.data.exemplars); SRC: a shard folder
    )
    crop: int = 128  # exemplars: the samples' side
    sizes: tuple[int, ...] = (136, 208, 272)  # exemplars: short sides, as data.sizes of the training
    weights: dict[str, float] = field(default_factory=dict)  # exemplars: as data.weights of the training
    cache: str | None = None  # exemplars: as data.cache of the training
    shard_size: int = 1000  # samples per tar
    workers: int = 2
    cluster: bool = False  # on Ray, in place of processes

    def __post_init__(self) -> None:
        for name, least in (("min_side", 1), ("max_aspect", 1), ("quality", 1), ("shard_size", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} is too small; it must be at least {least}")
        if self.quality > 100 or self.near > 16:
            raise ValueError(f"quality: {self.quality} and near: {self.near} must be at most 100 and 16")
        if self.short_side is not None and self.short_side < 16:
            raise ValueError(f"short_side: {self.short_side} is too small; it must be at least 16 pixels")
        for kind, network in (("text", "text_encoder"), ("latents", "vae")):
            if getattr(self, kind) and not (self.model or getattr(self, network)):
                raise ValueError(f"{kind}: name a pipeline that makes them with --model=DIR, or --{network}=DIR")
        if self.latents:
            geometry.aspect_buckets(self.side, self.multiple, self.widest)  # says what does not fit together


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

    def units(self) -> Any:
        return _opened(json.dumps(dataclasses.asdict(self.source)), self.settings.shard_size)

    def samples(self, unit: int) -> Iterator[tuple[str, Raw | Damaged]]:
        """Keys and samples of a unit."""
        dataset = self.units()
        for number, row in enumerate(dataset.shard(dataset.num_shards, unit)):
            try:
                found: Raw | Damaged = raw(row, self.source)
            except Exception as error:  # whatever a row makes its readers raise, the others are good
                name = str(row.get("name") or row.get("__key__") or self.source.path)
                found = Damaged(name, photos.why(error).removeprefix(f"{name}: "))
            yield f"{unit:05d}_{number:06d}", found


@cache
def _opened(source: str, part: int) -> Any:
    """Opened once per process: listing a large collection takes a while."""
    return open_source(Source(**json.loads(source)), part)


# --------------------------------------------------------------------------------------- first pass: look at everything


def scan(job: Job, unit: int) -> None:
    """Check and describe every sample of a unit."""
    lines = [_look(job.settings, key, sample) for key, sample in job.samples(unit)]
    _write_json(job.result("scan", unit), lines)


def _look(settings: PrepareConfig, key: str, sample: Raw | Damaged) -> dict[str, Any]:
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
        shown = min(512, min(width, height)) if settings.scorer else 64
        pixels, _ = photos.decode(sample.image, photos.scaled((width, height), shown), sample.mask, sample.name)
    except Exception as error:
        return line | {"dropped": "damaged", "why": photos.why(error)}
    if settings.scorer:
        line["score"] = float(config.function(settings.scorer)(pixels.astype(np.float32) / 255))
        if not line["score"] >= settings.min_score:
            return line | {"dropped": "low score", "why": f"{line['score']:.3g}"}
    return line | dict(zip(("bits", "colours"), fingerprint(pixels), strict=True))


def fingerprint(pixels: np.ndarray) -> tuple[int, str]:
    """What a picture (H, W, 3) uint8 looks like, however it is scaled and compressed.

    Returns:
        64 bits, each whether a place is brighter than its right neighbour (the difference hash), and its colours at
        4 x 4 places, as hex.
    """
    import cv2

    grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), LOOKS, interpolation=cv2.INTER_AREA).astype(int)
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


# ------------------------------------------------------------------------------------- second pass: write what is left


def write(job: Job, unit: int) -> None:
    """Write the kept samples of a unit as tars, and then what they are. Tars that a stopped call wrote are not made
    again."""
    kept = set(json.loads(job.result("kept", unit).read_text()))
    parts = sorted((job.folder / "work" / "parts").glob(f"{unit:05d}-*.json"))
    made = [json.loads(part.read_text()) for part in parts]
    last = made[-1]["samples"][-1]["key"] if made else ""
    samples = ((key, sample) for key, sample in job.samples(unit) if key in kept and key > last)
    while part := list(itertools.islice(samples, job.settings.shard_size)):
        name = f"{unit:05d}-{len(made):03d}"
        made.append(_write_part(job, name, [(key, sample) for key, sample in part if isinstance(sample, Raw)]))
    shards = [part["shard"] for part in made if part["shard"]["samples"]]
    _write_json(job.result("write", unit), {"shards": shards, "samples": [x for part in made for x in part["samples"]]})


def _write_part(job: Job, name: str, samples: Sequence[tuple[str, Raw]]) -> dict[str, Any]:
    """One tar, and what is in it."""
    lines, written = [], []
    for key, sample in samples:
        try:
            files, line = _make(job.settings, sample)
        except Exception as error:
            lines.append({"key": key, "name": sample.name, "dropped": "damaged", "why": photos.why(error)})
            continue
        written.append((key, files))
        lines.append({"key": key, **line})
    made = {"shard": _write_tar(job.folder / f"{name}.tar", written), "samples": lines}
    _write_json(job.folder / "work" / "parts" / f"{name}.json", made)
    return made


def _make(settings: PrepareConfig, sample: Raw) -> tuple[dict[str, bytes], dict[str, Any]]:
    """A sample's files by extension, and a line about it."""
    width, height = image.upright_size(sample.image, sample.name, settings.max_pixels)
    size = photos.scaled((width, height), settings.short_side or min(width, height))
    pixels, matte = photos.decode(
        sample.image, size, sample.mask, sample.name, settings.max_pixels, foreground=sample.foreground
    )
    files = {_extension(sample.image): sample.image} if size == (width, height) else {"webp": _webp(pixels, settings)}
    if "" in files:  # TIFF and the like, which the shards are not to hold
        files = {"webp": _webp(pixels, settings)}
    matte_kind = "given" if matte is not None else None
    if matte is None and settings.matte:
        matte, matte_kind = _cut(settings.matte, pixels), settings.matte
    if matte is not None:
        files["mask.png"] = _encoded(matte, "PNG", optimize=True)
    captions = _describe(settings.captioner, sample, pixels)
    caption = next(iter(captions.values()), "")
    if settings.text or settings.latents:
        picture = next(content for kind, content in files.items() if f".{kind}" in photos.IMAGES)
        files["safetensors"] = _precompute(settings, picture, sample.name, list(captions.values()))
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


def _cut(matte: str, pixels: np.ndarray) -> np.ndarray | None:
    """The object's matte (H, W) uint8, if it comes out clean."""
    planes = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    if matte == "grabcut":
        found = photos.cut_clean(planes, grabcut, short_side=320)
    else:
        found = photos.cut_clean(planes, config.function(matte), plain=False, short_side=1024)
    return None if found is None else found[0].numpy()


def _describe(captioner: str | None, sample: Raw, pixels: np.ndarray) -> dict[str, str]:
    """Captions by kind: ``text`` is the collection's own, then the captioner's."""
    captions = {"text" if i == 0 else f"text{i + 1}": words for i, (words, _) in enumerate(sample.captions) if words}
    if captioner == "colour":
        planes = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        colour = colours.border_colour(planes)
        if colour is not None:
            named = photos.Photograph(planes, None, captions.get("text", ""), "")
            captions["colour"] = photos.captions(named)[1 if captions else 2]
    elif captioner is not None:
        caption = config.function(captioner) if ":" in captioner else _image_to_text(captioner)
        captions["caption"] = str(caption(pixels.astype(np.float32) / 255)).strip()
    return {kind: words for kind, words in captions.items() if words}


@cache
def _image_to_text(name: str) -> Callable[[np.ndarray], str]:
    """A captioner of any image-to-text model of transformers: a folder, or an id on the Hub."""
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(name)
        model = AutoModelForImageTextToText.from_pretrained(name, use_safetensors=True).eval()
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"captioner: {name!r} cannot be loaded ({reason}); see --help for what it may be") from None
    device = resolve_device("auto")
    model.to(device)
    chats = getattr(processor, "chat_template", None) is not None
    question = [{"type": "image"}, {"type": "text", "text": "Describe this photograph in one sentence."}]

    @torch.inference_mode()
    def caption(rgb: np.ndarray) -> str:
        words = {}
        if chats:
            talk = [{"role": "user", "content": question}]
            words = {"text": processor.apply_chat_template(talk, add_generation_prompt=True)}
        picture = Image.fromarray((rgb * 255).round().astype(np.uint8))
        inputs = processor(images=picture, return_tensors="pt", **words).to(device)
        out = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        start = inputs["input_ids"].shape[1] if chats else 0
        said: str = processor.batch_decode(out[:, start:], skip_special_tokens=True)[0]
        return said

    return caption


@cache
def _pipeline(name: str) -> Any:
    from photofound.pipeline import EditPipeline

    return EditPipeline.from_pretrained(name, torch_dtype=torch.float32)


@cache
def _text_encoder(source: str | None, model: str | None) -> tuple[Any, Any]:
    """Tokenizer and text encoder, by themselves or those of a pipeline."""
    if source:
        tokenizer, encoder = text.load(source)
    else:
        tokenizer, encoder = _pipeline(str(model)).tokenizer, _pipeline(str(model)).text_encoder
    return tokenizer, encoder.to(resolve_device("auto")).eval()


@cache
def _vae(source: str | None, model: str | None) -> Any:
    """The autoencoder, by itself or that of a pipeline."""
    vae = autoencoder.load(source) if source else _pipeline(str(model)).vae
    if vae is None:
        raise ValueError(f"latents: {source or model} works on pixels, it has no autoencoder; leave latents out")
    return vae.to(resolve_device("auto")).eval()


@torch.inference_mode()
def _precompute(settings: PrepareConfig, file: bytes, name: str, captions: Sequence[str]) -> bytes:
    """What ``precomputed.pack`` makes of a sample as the shard has it."""
    embeddings, latents = {}, None
    if settings.text and captions:
        parts = _text_encoder(settings.text_encoder, settings.model)
        hidden, mask = text.encode(*parts, captions, settings.text_length)
        rows = hidden if mask is None else [row[tokens] for row, tokens in zip(hidden, mask, strict=True)]
        embeddings = dict(zip(captions, rows, strict=True))
    if settings.latents:
        vae, size = _vae(settings.vae, settings.model), image.upright_size(file, name)
        buckets = geometry.aspect_buckets(settings.side, settings.multiple, settings.widest)
        covered = geometry.cover(*size, bucket := geometry.nearest_bucket(*size, buckets))
        pixels, _ = photos.decode(file, covered, name=name)
        shown = torch.from_numpy(pixels[geometry.middle(covered, bucket).slices].transpose(2, 0, 1).copy())
        latents = autoencoder.encode(vae, photos.to_unit(shown)[None].to(resolve_device("auto")))[0]
    return precomputed.pack(embeddings, latents)


def _makers(settings: PrepareConfig) -> dict[str, Any]:
    """What training compares itself with before it takes embeddings and latents from the shards."""
    makers = {}
    if settings.text:
        parts = _text_encoder(settings.text_encoder, settings.model)
        makers["text"] = precomputed.text_maker(*parts, settings.text_length)
    if settings.latents:
        vae = _vae(settings.vae, settings.model)
        makers["latents"] = precomputed.latents_maker(vae, settings.side, settings.multiple, settings.widest)
    return makers


def _write_tar(path: Path, samples: Sequence[tuple[str, Mapping[str, bytes]]]) -> dict[str, Any]:
    """A tar with nothing in it but the samples, so that the same samples are the same bytes; whole or not at all."""
    with files.replacing(path) as partial:
        with tarfile.open(partial, "w") as archive:
            for key, parts in samples:
                for extension, content in parts.items():
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        content = partial.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return {"file": path.name, "samples": len(samples), "bytes": len(content), "sha256": digest}


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, json.dumps(content))


# ------------------------------------------------------------------------------------------------------ all the units


def prepare(source: str, folder: str | Path, settings: PrepareConfig | None = None) -> dict[str, Any]:
    """Prepare a collection; the report. Goes on where an earlier call with the same settings was stopped.

    Raises ValueError for sources that cannot be read, and for a folder that holds something else.
    """
    settings = settings or PrepareConfig()
    folder = files.output(folder, "DST")
    job = Job(config.build(Source, {"path": source} | settings.source, "source."), folder, settings)
    for name in (settings.scorer, settings.captioner, settings.matte):
        if name and ":" in name:
            config.function(name)
    _load_models(settings)
    count = job.units().num_shards
    _begin(job, count)
    seconds = {}
    for stage in (scan, write):
        start = time.perf_counter()
        _run(stage, job, [unit for unit in range(count) if not job.result(stage.__name__, unit).is_file()])
        seconds[stage.__name__] = time.perf_counter() - start
        if stage is scan:
            dropped = _choose(job, count)
    return _report(job, count, dropped, seconds)


def _load_models(settings: PrepareConfig) -> None:
    """What cannot be loaded is told before any work is done; other processes load their own."""
    if settings.captioner and settings.captioner != "colour" and ":" not in settings.captioner:
        _image_to_text(settings.captioner)
    if settings.matte and settings.matte != "grabcut" and ":" not in settings.matte:
        raise ValueError(f"matte: {settings.matte!r} is unknown; use grabcut, or module:function")
    _makers(settings)


def _begin(job: Job, count: int) -> None:
    """Take the folder, or go on in it."""
    path = job.folder / "work" / "settings.json"
    mine = {"source": dataclasses.asdict(job.source), "units": count} | config.to_dict(job.settings)
    mine = {name: value for name, value in mine.items() if name not in ("workers", "cluster")}
    if path.is_file():
        theirs = json.loads(path.read_text())
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


def _run(stage: Callable[[Job, int], None], job: Job, units: Sequence[int]) -> None:
    """The stage on every unit: here, over processes, or over a Ray cluster."""
    from tqdm import tqdm

    if job.settings.cluster:
        done = _on_cluster(stage, job, units)
    elif job.settings.workers > 1 and len(units) > 1:
        done = _over_processes(stage, job, units)
    else:
        done = _here(stage, job, units)
    for _ in tqdm(done, stage.__name__, len(units), unit="unit", disable=not sys.stderr.isatty()):
        pass


def _here(stage: Callable[[Job, int], None], job: Job, units: Sequence[int]) -> Iterator[None]:
    for unit in units:
        stage(job, unit)
        yield


def _over_processes(stage: Callable[[Job, int], None], job: Job, units: Sequence[int]) -> Iterator[None]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    context = multiprocessing.get_context("spawn")  # models and their threads do not survive a fork
    with ProcessPoolExecutor(min(job.settings.workers, len(units)), context, torch.set_num_threads, (1,)) as pool:
        futures = [pool.submit(stage, job, unit) for unit in units]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise ValueError("prepare: a worker was killed (out of memory?); the same command goes on") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _on_cluster(stage: Callable[[Job, int], None], job: Job, units: Sequence[int]) -> Iterator[None]:
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError("cluster: Ray is not installed; pip install 'photofound[cluster]'") from None
    if not units:
        return
    here = dataclasses.replace(job, folder=job.folder.resolve())

    def one(row: dict[str, Any]) -> dict[str, Any]:
        stage(here, int(row["unit"]))
        return row

    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units))
    try:
        for _ in rows.map(one).iter_rows():
            yield
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise ValueError(f"prepare: a unit failed on the cluster ({first_line(cause)})") from None


def _choose(job: Job, count: int) -> list[dict[str, Any]]:
    """Find duplicates over all units, and tell each unit what is kept of it. Returns what is dropped."""
    lines = [line for unit in range(count) for line in json.loads(job.result("scan", unit).read_text())]
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
    """Write index, report and the list of what was dropped."""
    made = [json.loads(job.result("write", unit).read_text()) for unit in range(count)]
    lines = [line for unit in made for line in unit["samples"]]
    late = [line for line in lines if "dropped" in line]
    dropped += [{name: line[name] for name in ("name", "dropped", "why")} for line in late]
    kept = [line for line in lines if "dropped" not in line]
    shards = [shard for unit in made for shard in unit["shards"]]
    origins = record.tally((line["source"], line["licence"]) for line in kept)
    report = {
        "read": len(kept) + len(dropped),
        "kept": len(kept),
        "origins": [dataclasses.asdict(each) for each in origins],
        "dropped": dict(Counter(line["dropped"] for line in dropped).most_common()),
        "mattes": dict(Counter(line["matte"] for line in kept if line["matte"])),
        "captions": dict(Counter(kind for line in kept for kind in line["captions"])),
        "without caption": sum(not line["captions"] for line in kept),
        "short sides": _histogram((min(line["width"], line["height"]) for line in kept), (256, 384, 512, 768, 1024)),
        "aspects": _histogram((line["width"] / line["height"] for line in kept), (0.5, 0.67, 0.9, 1.12, 1.5, 2.0)),
        "shards": len(shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "seconds": {stage: round(value, 1) for stage, value in seconds.items()},  # of the last call
        "source": job.source.path,
        "settings": config.to_dict(job.settings),
    }
    index = {"samples": len(kept), "bytes": report["bytes"], "shards": shards, "precomputed": _makers(job.settings)}
    (job.folder / "dropped.jsonl").write_text("".join(json.dumps(line) + "\n" for line in dropped))
    (job.folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (job.folder / "report.md").write_text(_markdown(report))
    _write_json(job.folder / "index.json", index)
    return report


def _histogram(values: Iterable[float], edges: Sequence[float]) -> dict[str, int]:
    """How many lie below, between and above the edges."""
    names = [f"below {edges[0]}", *(f"{a} to {b}" for a, b in itertools.pairwise(edges)), f"from {edges[-1]}"]
    counts = Counter(int(np.searchsorted(edges, value, side="right")) for value in values)
    return {name: counts[i] for i, name in enumerate(names) if counts[i]}


def _markdown(report: Mapping[str, Any]) -> str:
    """The report for people: one table per question."""
    share = report["kept"] / max(1, report["read"])
    lines = [
        f"# {report['source']}",
        "",
        f"{report['kept']:,} of {report['read']:,} photographs are kept ({share:.1%}), ",
    ]
    lines[-1] += f"in {report['shards']} shards of {report['bytes'] / 1e6:,.1f} MB together."
    for title in ("dropped", "mattes", "captions", "short sides", "aspects"):
        if report[title]:
            lines += ["", f"| {title} | photographs |", "|---|---|"]
            lines += [f"| {name} | {number:,} |" for name, number in report[title].items()]
    lines += ["", "Settings: " + ", ".join(f"{k} {v}" for k, v in report["settings"].items() if v not in (None, {}))]
    return "\n".join(lines) + "\n"


def write_exemplars(source: str, folder: str, settings: PrepareConfig) -> int:
    """Fill the folder with ``settings.exemplars`` samples of the shards in ``source``; the shards that were missing.

    Raises ValueError or FileNotFoundError."""
    store = photos.PhotoStore.open(source, settings.sizes, settings.cache, mattes=True)
    plan = exemplars.Plan(settings.crop, weights=settings.weights)
    return exemplars.write(store, files.output(folder, "DST"), settings.exemplars, plan, settings.workers)


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0, or 2 for a mistake, which is one line on stderr."""
    from photofound.training import _Parser

    parser = _Parser(
        prog="photofound train prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SRC", help="folder, file, pattern, URL, or a dataset's id on the Hub")
    parser.add_argument("folder", metavar="DST", help="new folder, or one that an earlier call was stopped in")
    parser.add_argument("--config", help="YAML or JSON file of the settings; each is also an option --name=value")
    try:
        args, overrides = parser.split(argv)
        settings = config.load(PrepareConfig, args.config, overrides)
        if settings.exemplars:
            written = write_exemplars(args.source, args.folder, settings)
            print(f"{args.folder}: {written} shards of {exemplars.SHARD} samples written, the others were there")
            return 0
        report = prepare(args.source, args.folder, settings)
    except (ValueError, OSError) as error:
        print(f"photofound: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"{args.folder}: {report['kept']:,} of {report['read']:,} photographs in {report['shards']} shards")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
