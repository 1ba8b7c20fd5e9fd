"""Records: what a run was, chained over models, counted once, and pieced together where none was kept."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace

import pytest

from photofound.card import record
from photofound.card.record import Origin, Session, Training
from photofound.data import photos as data


def training(identity="a", name="pretrain", parts=("transformer",), **changes):
    first = Session("CPU, 2 threads", 1, "2.13.0", "0.1.0", "2026-01-02", steps=10, samples=320, seconds=60.0)
    second = Session("GPU", 8, "2.13.0", "0.1.0", "2026-01-03", 5, 160, 1800.0, {"train.lr": "0.1 -> 0.2"})
    made = Training(identity, name, parts, {"train": {"lr": 0.2}}, (Origin("s", "MIT", 7),), sessions=(first, second))
    return replace(made, **changes)


def test_sums_run_over_all_sessions():
    made = training()
    assert (made.steps, made.samples) == (15, 480) and made.hours == pytest.approx(31 / 60)
    assert made.device_hours == pytest.approx({"CPU, 2 threads": 1 / 60, "GPU": 4.0})


def test_a_record_is_read_as_it_was_written(tmp_path):
    chain = [training(), training("b", notes=("a note",), filtering=("sieved",), data=(Origin("t", "", None),))]
    record.write(tmp_path / "deep" / record.MODEL, chain)
    assert record.read(tmp_path / "deep" / record.MODEL) == chain
    assert [p.name for p in (tmp_path / "deep").iterdir()] == [record.MODEL]  # no partial file is left
    assert record.read(tmp_path / "nothing.json") == []


@pytest.mark.parametrize(
    "text", ["", "[]", '{"trainings": [{"name": "x"}]}', '{"trainings": [{"id": 1, "name": "x"}]}']
)
def test_a_damaged_record_is_one_line(tmp_path, text):
    (tmp_path / record.MODEL).write_text(text)
    with pytest.raises(ValueError, match=r"record: .*training.json is damaged .*restore it, or delete it"):
        record.read(tmp_path / record.MODEL)


def test_a_run_inherits_a_model_or_the_component_that_it_takes(tmp_path):
    vae, text = training("vae", "autoencoder", ("vae",)), training("all", parts=("transformer", "text_encoder"))
    record.write(tmp_path / record.MODEL, [vae, text, training("student", "distill")])
    for part in ("vae", "transformer", "scheduler"):
        (tmp_path / part).mkdir()
    assert record.inherited(tmp_path) == [vae, text]  # a student is trained on from its teacher
    assert record.inherited(tmp_path / "vae") == [vae] and record.inherited(tmp_path / "transformer") == [text]
    assert record.inherited(tmp_path / "scheduler") == [] == record.inherited("org/name") == record.inherited(None)


def test_a_joined_chain_holds_each_training_once_as_told_last():
    vae, old, new = training("vae"), training("m"), training("m", notes=("longer",))
    assert record.join([vae, old], [vae, new]) == [vae, new]


def test_origins_are_counted_by_source_and_licence():
    pairs = [("a", "MIT")] * 2 + [("b", "CC0-1.0")] * 3 + [("a", "")] * 2 + [("", "")]
    assert record.count_origins(pairs) == (
        Origin("a", "", 2), Origin("a", "MIT", 2), Origin("b", "CC0-1.0", 3), Origin("", "", 1),
    )  # fmt: skip
    assert record.licence_of({"license": "MIT"}) == "MIT" == record.licence_of({"licence": "MIT", "license": None})
    assert record.licence_of({"text": "a cup"}) == "" == record.licence_of({"licence": " "})
    assert record.licence_of({"licence": "  ", "license": " CC0 "}) == "CC0"


def test_settings_lose_their_places_and_tell_their_changes():
    tree = {
        "folder": "/srv/me/photos/train/",
        "list": ["~/a/b", "C:\\data\\c", "file:///srv/d"],
        "id": "org/name",
        "n": {"x": 1},
    }
    assert record.without_paths(tree) == {"folder": "train", "list": ["b", "c", "d"], "id": "org/name", "n": {"x": 1}}
    assert record.changes({"train": {"lr": 1, "steps": 2}}, {"train": {"lr": 1, "steps": 3, "ema": 0}}) == {
        "train.steps": "2 -> 3", "train.ema": "None -> 0",
    }  # fmt: skip


def test_what_preparing_left_beside_the_shards(tmp_path):
    assert record.prepared(tmp_path) == ((), ())
    report = {"read": 1200, "kept": 1000, "dropped": {"duplicate": 150, "small": 50}}
    report["origins"] = [{"source": "s", "licence": "MIT", "photographs": 1000}]
    (tmp_path / "report.json").write_text(json.dumps(report))
    kept = "1,000 of 1,200 photographs kept; dropped: 150 duplicate, 50 small"
    assert record.prepared(tmp_path) == ((Origin("s", "MIT", 1000),), (kept,))


# --------------------------------------------------------------------------------------------------------- older runs


def tar(path, samples):
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(picture, "PNG")
    with tarfile.open(path, "w") as archive:
        for key, table in samples.items():
            for name, content in ((f"{key}.png", picture.getvalue()), (f"{key}.json", json.dumps(table).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def test_a_run_without_a_record_is_pieced_together(tmp_path):
    run, photos = tmp_path / "runs" / "old", tmp_path / "photos"
    run.mkdir(parents=True)
    photos.mkdir()
    tar(photos / "0.tar", {"a": {"text": "x", "source": "s", "licence": "MIT"}, "b": {"text": "y"}})
    (run / "config.yaml").write_text(
        f"model: {{vae: null, train_text: false}}\ndata: {{folder: {photos}}}\ntrain: {{batch_size: 32}}\n"
    )
    lines = [{"step": 1, "loss": 2.5, "minutes": 0.1}, {"step": 40, "loss": 0.5, "minutes": 3.0}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 41, "lo')
    (made,) = record.of_folder(run, data.origins)
    assert (made.name, made.parts, made.steps, made.samples, made.hours) == (
        "pretrain",
        ("transformer",),
        40,
        1280,
        0.05,
    )
    assert made.data == (Origin("", "", 1), Origin("s", "MIT", 1)) and made.notes == (record.INCOMPLETE,)
    assert made.device_hours == {"": 0.05} and made.settings["data"]["folder"] == "photos"
    assert record.of_folder(run, data.origins)[0].id == made.id  # joined with its copy, it counts once
    with pytest.raises(ValueError, match="holds neither record.json nor config.yaml and metrics.jsonl"):
        record.of_folder(tmp_path, data.origins)
