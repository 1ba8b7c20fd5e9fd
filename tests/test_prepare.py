"""Preparing a collection: what is dropped and why, what is added, and that a stopped run goes on."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import wait_until
from PIL import Image, ImageFilter

from photofound import cli
from photofound.card import record
from photofound.data import photos, precomputed, units
from photofound.data.duplicates import duplicates, fingerprint
from photofound.data.photograph import decode, to_unit
from photofound.data.sources import Source
from photofound.data.stream import Stream
from photofound.edits.geometry import aspect_buckets
from photofound.train import annotate
from photofound.training import prepare as stage
from photofound.training.prepare import PrepareConfig, prepare

pytestmark = pytest.mark.slow  # whole runs, in processes of their own


def picture(seed, size=(80, 60)):
    """A photograph-like picture: smooth, and unlike that of any other seed."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def product(seed=0, ground=(205, 205, 205)):
    """A coloured disc on an even ground."""
    y, x = np.mgrid[:90, :120]
    inside = np.hypot(y - 45, x - 60) < 25
    noise = np.random.default_rng(seed).normal(0, 3, (90, 120, 3))
    array = np.where(inside[..., None], (200, 30, 35), ground) + noise
    return Image.fromarray(array.clip(0, 255).astype(np.uint8)), inside


def collection(folder, pictures, captions=True):
    """An image folder of named pictures (or bytes), captioned by their names."""
    folder.mkdir(exist_ok=True, parents=True)
    rows = []
    for name, content in pictures.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            content.save(folder / name)
        rows.append({"file_name": name} | ({"text": Path(name).stem} if captions else {}))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def settings(**changes):
    return PrepareConfig(**{"min_side": 32, "workers": 0, "shard_size": 4, **changes})


def samples(folder):
    """Every sample of the shards: key -> extension -> bytes."""
    found = {}
    for tar in sorted(Path(folder).glob("*.tar")):
        with tarfile.open(tar) as archive:
            for member in archive:
                key, _, extension = member.name.partition(".")
                found.setdefault(key, {})[extension] = archive.extractfile(member).read()
    return found


def metas(folder):
    return {json.loads(files["json"])["text"]: json.loads(files["json"]) for files in samples(folder).values()}


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.tar")}


# ------------------------------------------------------------------------------------------------------ what is kept


def test_what_is_dropped_and_why(tmp_path):
    whole = io.BytesIO()
    picture(1).save(whole, "PNG")
    pictures = {f"good{i}.png": picture(i) for i in range(5)}
    pictures |= {
        "small.png": picture(10, (90, 30)),
        "long.png": picture(11, (400, 40)),
        "wide.png": picture(12, (120, 32)),
    }
    pictures |= {"empty.jpg": b"", "cut.png": whole.getvalue()[:900], "words.webp": b"no picture"}
    pictures |= {"again.jpg": picture(3).resize((120, 90))}
    source = collection(tmp_path / "in", pictures)
    report = prepare(source, tmp_path / "out", settings())
    assert report["read"] == 12 and report["kept"] == 6
    assert report["dropped"] == {"damaged": 3, "too small": 1, "too long": 1, "duplicate": 1}
    assert report["origins"] == [{"source": "", "licence": "", "photographs": 6}]
    assert set(metas(tmp_path / "out")) == {f"good{i}" for i in range(5)} | {"wide"}
    lines = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    why = {Path(line["name"]).name: (line["dropped"], line["why"]) for line in lines}
    assert why["small.png"] == ("too small", "90x30") and why["long.png"] == ("too long", "400x40")
    assert why["again.jpg"][0] == "duplicate" and why["again.jpg"][1].endswith("good3.png")
    assert "truncated" in why["cut.png"][1] and "empty" in why["empty.jpg"][1]


def test_files_are_kept_as_they_are_unless_they_are_scaled(tmp_path):
    source = collection(tmp_path / "in", {"a.png": picture(1), "b.jpg": picture(2), "c.tif": picture(3)})
    prepare(source, tmp_path / "out", settings())
    found = {json.loads(files["json"])["text"]: files for files in samples(tmp_path / "out").values()}
    assert found["a"]["png"] == (tmp_path / "in" / "a.png").read_bytes()
    assert found["b"]["jpg"] == (tmp_path / "in" / "b.jpg").read_bytes()
    assert set(found["c"]) == {"webp", "json"}
    prepare(source, tmp_path / "small", settings(short_side=40))
    for files in samples(tmp_path / "small").values():
        assert Image.open(io.BytesIO(files["webp"])).size == (53, 40)
        assert json.loads(files["json"])["height"] == 40


def test_a_scorer_decides(tmp_path, monkeypatch):
    (tmp_path / "myscore.py").write_text("def red(rgb):\n    return rgb[..., 0].mean() - rgb[..., 2].mean() + 0.5\n")
    monkeypatch.chdir(tmp_path)
    red, blue = Image.new("RGB", (64, 64), (200, 0, 0)), Image.new("RGB", (64, 64), (0, 0, 200))
    source = collection(tmp_path / "in", {"red.png": red, "blue.png": blue})
    report = prepare(source, tmp_path / "out", settings(scorer="myscore:red"))
    assert report["dropped"] == {"low score": 1} and set(metas(tmp_path / "out")) == {"red"}


def test_shards_are_listed_with_their_sums(tmp_path):
    import hashlib

    report = prepare(
        collection(tmp_path / "in", {f"{i}.png": picture(i) for i in range(10)}), tmp_path / "out", settings()
    )
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["samples"] == 10 and [shard["samples"] for shard in index["shards"]] == [4, 4, 2]
    for shard in index["shards"]:
        content = (tmp_path / "out" / shard["file"]).read_bytes()
        assert len(content) == shard["bytes"] and hashlib.sha256(content).hexdigest() == shard["sha256"]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "10 of 10 photographs are kept (100.0%)" in text and "| text | 10 |" in text
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(json.dumps(report))
    assert report["aspects"] == {"1.12 to 1.5": 10} and report["short sides"] == {"below 256": 10}


def test_what_is_prepared_can_be_trained_on(tmp_path):
    pictures = {f"{i}.png": picture(i) for i in range(9)} | {"disc.png": product()[0]}
    prepare(collection(tmp_path / "in", pictures), tmp_path / "out", settings(matte="grabcut"))
    read = photos.read(tmp_path / "out")
    assert sorted(photo.caption for photo in read) == sorted([str(i) for i in range(9)] + ["disc"])
    stream = Stream([Source(str(tmp_path / "out"))], 4, aspect_buckets(32, 8), workers=0, shuffle=10)
    sample = next(iter(stream))
    assert sample.pixels.shape[:2] == (4, 3) and len(set(sample.prompt)) == 4


@pytest.fixture
def bucket():
    """An object store, in memory: what is behind ``memory://``."""
    import fsspec

    store = fsspec.filesystem("memory")
    yield store
    store.rm("/shop", recursive=True)


def test_what_is_prepared_is_read_back_from_wherever_it_lies(tmp_path, tiny_folder, bucket):
    """Through file://, behind the URL of a store, streamed and in memory, with what was computed before."""
    source = collection(tmp_path / "in", {f"{i}.png": picture(i) for i in range(6)})
    made = {"model": str(tiny_folder), "text": True, "latents": True, "side": 32, "multiple": 16}
    prepare(source, f"file://{tmp_path}/out", settings(**made))
    assert {p.name for p in tmp_path.iterdir()} == {"in", "out"}
    assert not any("image" in meta for meta in metas(tmp_path / "out").values())  # no path of this machine's
    bucket.put(str(tmp_path / "out"), "/shop/out", recursive=True)
    for path in (str(tmp_path / "out"), f"file://{tmp_path}/out", "memory://shop/out", "memory://shop/out/*.tar"):
        stream = Stream(
            [Source(path)], 4, aspect_buckets(32, 16), workers=0, shuffle=6, precomputed=("text", "latents")
        )
        sample = next(iter(stream))
        assert sample.latents.shape[:2] == (4, 4) and set(sample.prompt) == set(sample.embeddings)
        precomputed.check(Source(path), "text", annotate.fingerprints(settings(**made))["text"])
        assert record.prepared(path)[1] == ("6 of 6 photographs kept; dropped: none",)
        if "*" not in path:
            assert sorted(photo.caption for photo in photos.read(path)) == list("012345")
    again = prepare("memory://shop/out", tmp_path / "again", settings())
    assert again["kept"] == 6


def test_what_is_filled_is_read_back_from_wherever_it_lies(tmp_path, bucket):
    from photofound.data import drawn, exemplars

    exemplars.write(drawn.store(3, (40,)), tmp_path, 4, exemplars.Plan(crop=32), workers=0)
    bucket.put(str(tmp_path), "/shop/filled", recursive=True)
    one, *others = map(exemplars.Exemplars, (tmp_path, f"file://{tmp_path}", "memory://shop/filled"))
    for other in others:
        assert torch.equal(other.canvas, one.canvas) and other.origins() == one.origins() != ()


@pytest.mark.parametrize("more", [[], ["--exemplars=4"]])
def test_an_output_behind_a_url_is_refused(tmp_path, monkeypatch, capsys, more):
    monkeypatch.chdir(tmp_path)
    source = collection(tmp_path / "in", {"a.png": picture(1)})
    assert cli.main(["train", "prepare", source, "s3://bucket/out", *more]) == 2
    error = capsys.readouterr().err
    assert more or "DST: s3://bucket/out is a URL" in error
    assert error.count("\n") == 1 and not (tmp_path / "s3:").exists()


@pytest.mark.parametrize("words", ['{"a":' * 3000 + "1" + "}" * 3000, "{", "[1]", "x: y: z"])
def test_whatever_a_row_raises_is_one_dropped_sample(tmp_path, words):
    pictures = {f"{i}.png": picture(i) for i in range(3)}
    prepare(collection(tmp_path / "in", pictures), tmp_path / "first", settings())
    (tar,) = (tmp_path / "first").glob("*.tar")
    with tarfile.open(tar, "a") as archive:
        for name, content in (("bad: name.png", (tmp_path / "in" / "0.png").read_bytes()), ("bad: name.json", words)):
            info = tarfile.TarInfo(name)
            content = content.encode() if isinstance(content, str) else content
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    report = prepare(str(tmp_path / "first"), tmp_path / "second", settings())
    assert report["kept"] == 3 and report["dropped"] == {"damaged": 1}
    line = json.loads((tmp_path / "second" / "dropped.jsonl").read_text())
    assert line["name"].endswith("(bad: name.png)") and line["why"]


# --------------------------------------------------------------------------------------------------------- duplicates


def test_fingerprints_survive_scaling_and_compression():
    for seed in range(20):
        one = picture(seed, (320, 240))
        file = io.BytesIO()
        one.resize((200, 150), Image.Resampling.LANCZOS).save(file, "JPEG", quality=70)
        bits, colours = zip(*[fingerprint(np.asarray(p.convert("RGB"))) for p in (one, Image.open(file))], strict=True)
        assert duplicates(bits, colours, 3) == [None, 0]


def test_different_pictures_are_no_duplicates():
    prints = [fingerprint(np.asarray(picture(seed))) for seed in range(200)]
    assert duplicates(*zip(*prints, strict=True), 3) == [None] * 200
    white = [Image.new("RGB", (80, 80), (250, 250, 250)) for _ in range(3)]
    white[0].paste((200, 0, 0), (30, 30, 50, 50))
    white[1].paste((0, 0, 200), (30, 30, 50, 50))  # the same thing in blue
    white[2].paste((200, 0, 0), (30, 5, 50, 25))  # elsewhere
    prints = [fingerprint(np.asarray(p)) for p in white]
    assert duplicates(*zip(*prints, strict=True), 3) == [None] * 3


@pytest.mark.parametrize("near", [0, 1, 3, 7])
def test_near_bits_are_found_whichever_they_are(near):
    """Against comparing each with each."""
    rng = np.random.default_rng(near)
    bits = [int(rng.integers(0, 2**63)) for _ in range(60)]
    for _ in range(120):
        flips = rng.choice(64, rng.integers(0, 10), replace=False)
        bits.append(bits[rng.integers(60)] ^ sum(1 << int(f) for f in flips))
    colours = ["00" * 48] * len(bits)
    wanted: list[int | None] = []
    for i, value in enumerate(bits):
        earlier = (j for j in range(i) if wanted[j] is None and (value ^ bits[j]).bit_count() <= near)
        wanted.append(next(earlier, None))
    assert duplicates(bits, colours, near) == wanted and any(w is not None for w in wanted)
    assert duplicates(bits, colours, -1) == [None] * len(bits)


# ------------------------------------------------------------------------------------------------------ what is added


def test_captions_of_one_s_own_and_the_colour_of_the_ground(tmp_path):
    source = collection(tmp_path / "in", {"a photo of a disc.png": product()[0], "busy.png": picture(1)})
    report = prepare(source, tmp_path / "out", settings(captioner="colour"))
    found = metas(tmp_path / "out")
    assert found["a photo of a disc"]["captions"]["colour"] == "a disc on a light grey background"
    assert found["busy"]["captions"] == {"text": "busy"}
    assert report["captions"] == {"text": 2, "colour": 1} and report["without caption"] == 0
    bare = prepare(
        collection(tmp_path / "bare", {"0.png": product()[0]}, False), tmp_path / "b", settings(captioner="colour")
    )
    assert bare["captions"] == {"colour": 1} and set(metas(tmp_path / "b")) == {"on a light grey background"}


def test_functions_caption_and_cut_out(tmp_path, monkeypatch):
    code = "def words(rgb):\n    return f' a picture of {rgb.shape[1]} by {rgb.shape[0]} '\n"
    code += "def reds(rgb):\n    return (rgb[..., 0] > rgb[..., 1] + 0.3).astype('float32')\n"
    (tmp_path / "described.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    image, inside = product()
    source = collection(tmp_path / "in", {"disc.png": image})
    report = prepare(source, tmp_path / "out", settings(captioner="described:words", matte="described:reds"))
    assert metas(tmp_path / "out")["disc"]["captions"] == {"text": "disc", "caption": "a picture of 120 by 90"}
    (files,) = samples(tmp_path / "out").values()
    mask = np.asarray(Image.open(io.BytesIO(files["mask.png"]))) > 127
    assert (mask == inside).mean() > 0.99 and report["mattes"] == {"described:reds": 1}


def test_mattes_are_the_given_ones_or_clean_ones(tmp_path):
    image, inside = product()
    source = collection(tmp_path / "in", {"disc.png": image, "busy.png": picture(1), "own.png": picture(2)})
    rows = [json.loads(line) for line in (tmp_path / "in" / "metadata.jsonl").read_text().splitlines()]
    Image.new("L", (80, 60), 255).save(tmp_path / "in" / "m.png")
    rows[2]["mask_file_name"] = "m.png"
    (tmp_path / "in" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = prepare(source, tmp_path / "out", settings(matte="grabcut"))
    assert report["mattes"] == {"grabcut": 1, "given": 1}
    found = {json.loads(files["json"])["text"]: files for files in samples(tmp_path / "out").values()}
    mask = np.asarray(Image.open(io.BytesIO(found["disc"]["mask.png"]))) > 127
    assert (mask & inside).sum() / (mask | inside).sum() > 0.95 and "mask.png" not in found["busy"]


def test_embeddings_and_latents_are_those_of_the_model(tmp_path, tiny_folder):
    from photofound.data import precomputed
    from photofound.model import autoencoder, text
    from photofound.pipeline import EditPipeline

    tall = picture(1, (64, 100)).filter(ImageFilter.GaussianBlur(1))
    source = collection(tmp_path / "in", {"a cup.png": tall})
    extras = settings(model=str(tiny_folder), text=True, latents=True, side=64, multiple=16)
    prepare(source, tmp_path / "out", extras)
    (files,) = samples(tmp_path / "out").values()
    embeddings, found = precomputed.unpack(files["safetensors"])
    pipe = EditPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
    with torch.no_grad():
        wanted, _ = text.encode(pipe.tokenizer, pipe.text_encoder, ["a cup"])
    assert embeddings["a cup"].dtype == torch.bfloat16
    assert torch.allclose(embeddings["a cup"].float(), wanted[0], atol=0.02)
    assert found.dtype == torch.float16 and found.shape == (4, 80 // 8, 48 // 8)
    pixels, _ = decode((tmp_path / "in" / "a cup.png").read_bytes(), (51, 80))
    middle = to_unit(torch.from_numpy(pixels[:, 1:49].copy())).permute(2, 0, 1)[None]
    with torch.no_grad():
        latents = autoencoder.encode(pipe.vae, middle)[0]
    assert torch.allclose(found.float(), latents, atol=2e-3 * float(latents.abs().max()))


def test_a_model_of_transformers_captions(tmp_path):
    from transformers import BertTokenizer, CLIPImageProcessorPil, GitConfig, GitForCausalLM, GitProcessor

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cup"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = GitConfig(
        vision_config={**vision, "image_size": 32, "patch_size": 16}, vocab_size=8, **shape, max_position_embeddings=80
    )
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 2, 3, 0
    model = GitForCausalLM(config)
    model.generation_config.update(bos_token_id=2, eos_token_id=3, pad_token_id=0)
    torch.nn.init.zeros_(model.output.weight)
    model.output.bias.data.copy_(torch.arange(8) == 7)  # it says one word, for ever
    model.save_pretrained(tmp_path / "git")
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    images = CLIPImageProcessorPil(**size)
    GitProcessor(images, BertTokenizer(str(tmp_path / "vocab.txt"))).save_pretrained(tmp_path / "git")
    source = collection(tmp_path / "in", {"a.png": picture(1)})
    prepare(source, tmp_path / "out", settings(captioner=str(tmp_path / "git")))
    assert metas(tmp_path / "out")["a"]["captions"]["caption"].split()[:3] == ["cup"] * 3


# --------------------------------------------------------------------------------------------------- stopping, going on


def big(tmp_path):
    return collection(tmp_path / "in", {f"{i:02d}.png": picture(i) for i in range(22)} | {"zz.png": picture(3)})


def test_a_stopped_run_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    """Stopped at every third write, again and again, it comes to the same bytes as one that was not."""
    source = big(tmp_path)
    prepare(source, tmp_path / "whole", settings(shard_size=3))
    replace, done = os.replace, []

    def stopping(partial, path):
        done.append(path)
        if len(done) % 3 == 0:  # before it takes its place
            raise KeyboardInterrupt
        replace(partial, path)

    monkeypatch.setattr(os, "replace", stopping)
    stops = 0
    while not (tmp_path / "out" / "index.json").exists() and stops < 30:
        try:
            prepare(source, tmp_path / "out", settings(shard_size=3))
        except KeyboardInterrupt:
            stops += 1
    assert 5 < stops < 30, stops
    monkeypatch.undo()
    report = prepare(source, tmp_path / "out", settings(shard_size=3))
    assert report["kept"] == 22 and report["dropped"] == {"duplicate": 1}
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob("*.partial"))
    assert (tmp_path / "out" / "index.json").read_text() == (tmp_path / "whole" / "index.json").read_text()


def test_done_work_is_not_done_again(tmp_path, monkeypatch):
    source = big(tmp_path)
    prepare(source, tmp_path / "out", settings())
    monkeypatch.setattr(stage, "make_sample", lambda *_: pytest.fail("made again"))
    monkeypatch.setattr(stage, "inspect", lambda *_: pytest.fail("looked at again"))
    assert prepare(source, tmp_path / "out", settings(workers=5))["kept"] == 22


SLOW = """
    import pathlib, time
    calls = []

    def words(rgb):
        calls.append(1)
        if not pathlib.Path("killed").exists():
            time.sleep(600 if len(calls) > 15 else 0.02)
        return "slow"
"""


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path, monkeypatch, capsys):
    """SIGKILL, in a process of its own, while it works."""
    (tmp_path / "slow.py").write_text(textwrap.dedent(SLOW))
    source = big(tmp_path)
    options = ["--min_side=32", "--shard_size=3", "--workers=0", "--captioner=slow:words"]
    words = [source, str(tmp_path / "out"), *options]
    with subprocess.Popen([sys.executable, "-m", "photofound.training.prepare", *words], cwd=tmp_path) as process:
        try:
            wait_until(lambda: len(list((tmp_path / "out").glob("*.tar"))) >= 2)
        finally:
            process.kill()
    before = contents(tmp_path / "out")
    assert 2 <= len(before) < 8 and not (tmp_path / "out" / "index.json").exists()
    (tmp_path / "killed").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.main(["train", "prepare", *words]) == 0
    assert "22 of 23 photographs in 8 shards" in capsys.readouterr().out
    after = contents(tmp_path / "out")
    assert {name: after[name] for name in before} == before and len(after) == 8


@pytest.mark.slow
def test_processes_make_what_one_makes(tmp_path):
    source = big(tmp_path)
    prepare(source, tmp_path / "one", settings())
    prepare(source, tmp_path / "two", settings(workers=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two") != {}


@pytest.mark.slow
def test_a_ray_cluster_makes_what_one_makes(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed; pip install 'photofound[cluster]' to test it")
    source = big(tmp_path)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else a busy machine lets its workers wait for minutes
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        prepare(source, tmp_path / "one", settings())
        prepare(source, tmp_path / "cluster", settings(cluster=True))
        assert contents(tmp_path / "one") == contents(tmp_path / "cluster") != {}
        with pytest.raises(ValueError, match="a unit failed on the cluster") as error:
            units.run(failing, [0], "failing", cluster=True)
        assert "\n" not in str(error.value)
    finally:
        ray.shutdown()


def failing(unit):
    raise ValueError("this unit is no good")


# ----------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "the following arguments are required: SRC, DST"),
        (["{in}", "{out}", "--near=99"], "near: 99 must be at most 100 and 16"),
        (["{in}", "{out}", "--min_side=0"], "min_side: 0 is too small"),
        (["{in}", "{out}", "--short_side=3"], "short_side: 3 is too small"),
        (["{in}", "{out}", "--shortside=64"], "unknown key 'shortside'; did you mean 'short_side'"),
        (["{in}", "{out}", "--text=true"], "name a pipeline that makes them with --model=DIR"),
        (["{in}", "{out}", "--text=true", "--model={in}"], "model"),
        (["{in}", "{out}", "--matte=magic"], "matte: 'magic' is unknown; give cutout, grabcut"),
        (["{in}", "{out}", "--scorer=nothing:here"], "'nothing:here' is no module:function that can be imported"),
        (["{in}", "{out}", "--captioner=nobody/nothing"], "captioner: 'nobody/nothing' cannot be loaded"),
        (["{in}", "{out}", "--source={imgae: x}"], "unknown key 'source.imgae'; did you mean 'image'"),
        (["{in}", "{in}"], "is not empty; choose another folder"),
        (["{in}/nothing", "{out}"], "cannot be read"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, arguments, says):
    places = {"in": collection(tmp_path / "in", {"a.png": picture(1)}), "out": str(tmp_path / "out")}
    filled = [a.replace("{in}", places["in"]).replace("{out}", places["out"]) for a in arguments]
    assert cli.main(["train", "prepare", *filled]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and "Traceback" not in error


def test_other_settings_need_another_folder(tmp_path, capsys):
    source = collection(tmp_path / "in", {"a.png": picture(1)})
    command = ["train", "prepare", source, str(tmp_path / "out"), "--min_side=32", "--workers=0"]
    assert cli.main(command) == 0
    assert "1 of 1 photographs in 1 shards" in capsys.readouterr().out
    assert cli.main([*command, "--near=5"]) == 2
    assert "was begun with near = 3, not 5; choose another folder" in capsys.readouterr().err


def test_help_says_what_it_does(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["train", "prepare", "--help"])
    assert left.value.code == 0 and "WebDataset" in capsys.readouterr().out
