"""Streams of photographs: every format, who gets what, and that a resumed stream is the one that was stopped."""

from __future__ import annotations

import io
import itertools
import json
import logging

import numpy as np
import pytest
import torch
from helpers import write_tar
from PIL import Image

from photofound.data import decoder, ledger, precomputed, reader
from photofound.data import shards as shards_module
from photofound.data.ledger import Ledger
from photofound.data.reader import read_ahead
from photofound.data.shards import EndlessSource
from photofound.data.sources import Source, open_parts
from photofound.data.stream import Stream
from photofound.edits.geometry import aspect_buckets

BUCKETS = aspect_buckets(32, 8)


def flat(number, size=(40, 40)):
    """A photograph of one colour that tells its number: the red channel of 10 times it."""
    return Image.new("RGB", size, (number % 25 * 10, number // 25 * 10, 0))


def file(image, format="PNG", **settings):
    out = io.BytesIO()
    image.save(out, format, **settings)
    return out.getvalue()


def shards(folder, count, per_shard=8, size=lambda i: (40, 40)):
    """Numbered photographs in tars; the caption is the number."""
    folder.mkdir(exist_ok=True, parents=True)
    for first in range(0, count, per_shard):
        members = {}
        for i in range(first, min(first + per_shard, count)):
            members |= {f"{i:04d}.png": file(flat(i, size(i))), f"{i:04d}.json": {"text": str(i)}}
        write_tar(folder / f"{first:04d}.tar", members)
    return folder


def open_stream(*paths, batch_size=4, buckets=BUCKETS, **settings):
    found = [path if isinstance(path, Source) else Source(str(path)) for path in paths]
    return Stream(found, batch_size, buckets, **{"workers": 0, "shuffle": 16, **settings})


def take(opened, count):
    return list(itertools.islice(iter(opened), count))


def words(samples):
    return [prompt for sample in samples for prompt in sample.prompt]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a.pixels, b.pixels) and torch.equal(a.matte, b.matte) and list(a.prompt) == list(b.prompt)
        for a, b in zip(one, other, strict=True)
    )


# ------------------------------------------------------------------------------------------------------------ formats


def matte_of(sample, index=0):
    return sample.matte[index, 0]


def cut_out(size=(40, 40)):
    """A grey square in the middle, everything else transparent."""
    rgba = np.zeros((size[1], size[0], 4), np.uint8)
    rgba[10:30, 10:30] = (128, 128, 128, 255)
    return Image.fromarray(rgba)


def write_folder(folder):
    rows = []
    for i in range(4):
        flat(i).save(folder / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": str(i)})
    cut_out().getchannel("A").save(folder / "m.png")
    rows[0]["mask_file_name"] = "m.png"
    rows[1]["mask_file_name"] = None
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")


def write_plain_folder(folder):
    for i in range(4):
        (folder / "deep").mkdir(exist_ok=True)
        flat(i).save(folder / "deep" / f"{i}.png")
        (folder / "deep" / f"{i}.txt").write_text(f" {i}\n")


def write_parquet(folder, binary):
    import datasets

    files = [file(flat(i)) for i in range(4)]
    image = files if binary else [{"bytes": content, "path": None} for content in files]
    mask = [file(cut_out().getchannel("A")), None, None, None]
    table = datasets.Dataset.from_dict({"image": image, "caption": [str(i) for i in range(4)], "mask": mask})
    table.to_parquet(folder / "train.parquet")


def write_tars(folder):
    alpha = file(cut_out().getchannel("A"))
    write_tar(folder / "a.tar", {"0.png": file(flat(0)), "0.json": {"text": "0"}, "0.mask.png": alpha})
    members = {"x/1.jpg": file(flat(1), "JPEG", quality=95), "x/1.json": {"text": "1"}}
    members |= {"x/2.webp": file(flat(2), "WEBP"), "x/2.txt": b"2", "x/3.png": file(flat(3)), "x/3.json": {"text": "3"}}
    write_tar(folder / "b.tar", members)


FORMATS = {
    "folder": write_folder,
    "plain folder": write_plain_folder,
    "parquet of bytes": lambda folder: write_parquet(folder, True),
    "parquet of files": lambda folder: write_parquet(folder, False),
    "tars": write_tars,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_pixels_captions_and_masks(tmp_path, name):
    FORMATS[name](tmp_path)
    (sample,) = take(open_stream(tmp_path, flip=False, shuffle=4), 1)
    assert sample.pixels.shape == (4, 3, 32, 32) and sample.matte.shape == (4, 1, 32, 32)
    assert sorted(sample.prompt) == list("0123")
    for pixels, matte, prompt in zip(sample.pixels, sample.matte, sample.prompt, strict=True):
        red = (pixels[0].mean() + 1) * 127.5
        assert abs(float(red) - 10 * int(prompt)) < 3 and pixels[1].max() < -0.9
        has = prompt == "0" and name != "plain folder"
        assert matte.mean() == pytest.approx((16 / 32) ** 2 if has else 0, abs=0.02)


def test_files_and_patterns_name_a_source_too(tmp_path):
    shards(tmp_path, 24)
    assert set(words(take(open_stream(tmp_path / "0008.tar"), 4))) == {str(i) for i in range(8, 16)}
    numbered = open_stream(tmp_path / "00{08..16}.tar", shuffle=16)  # those that are there
    assert set(words(take(numbered, 4))) == {str(i) for i in range(8, 24)}
    with pytest.raises(ValueError, match=r"\{16\.\.08\} must count up"):
        take(open_stream(tmp_path / "00{16..08}.tar"), 1)
    both = open_stream(tmp_path / "00[01]*.tar", shuffle=24)
    assert set(words(take(both, 6))) == {str(i) for i in range(24)}


# ------------------------------------------------------------------------------------------------------------ columns


@pytest.mark.slow
def test_captions_are_drawn_by_their_weights(tmp_path):
    write_tar(tmp_path / "x.tar", {"0.png": file(flat(0)), "0.json": {"a": "often", "b": "seldom"}})
    source = Source(str(tmp_path), captions={"a": 4, "b": 1})
    drawn = words(take(open_stream(source, batch_size=50), 8))
    assert 0.72 < drawn.count("often") / len(drawn) < 0.88 and set(drawn) == {"often", "seldom"}


def test_the_foreground_is_a_mask_a_cut_out_or_the_alpha_in_this_order(tmp_path):
    left = np.zeros((40, 40, 4), np.uint8)
    left[:, :20] = 255
    mask = Image.fromarray(np.uint8(255 * (np.mgrid[:40, :40][0] < 10)))
    photograph, cut, mask = file(cut_out()), file(Image.fromarray(left)), file(mask)
    members = {"0.png": photograph, "1.png": photograph, "1.foreground.png": cut, "2.png": photograph}
    members |= {"2.foreground.png": cut, "2.mask.png": mask} | {f"{i}.json": {"text": str(i)} for i in range(3)}
    write_tar(tmp_path / "x.tar", dict(sorted(members.items())))
    (sample,) = take(open_stream(tmp_path, batch_size=3, shuffle=3, flip=False), 1)
    shares = dict(zip(sample.prompt, sample.matte.mean((1, 2, 3)).tolist(), strict=True))
    assert shares["0"] == pytest.approx(0.25, abs=0.02) and shares["1"] == pytest.approx(0.5, abs=0.02)
    assert shares["2"] == pytest.approx(0.25, abs=0.02)
    zero = sample.pixels[list(sample.prompt).index("0")]
    assert (zero[:, :6] == 1).all()  # transparent parts are white


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"shuffle": 0}, {"interleave": 0}])
def test_sizes_are_positive(settings):
    with pytest.raises(ValueError, match="must be at least 1"):
        open_stream("x", **settings)
    with pytest.raises(ValueError, match="no source"):
        open_stream()


# ------------------------------------------------------------------------------------------------------------- order


@pytest.mark.slow
def test_every_photograph_comes_once_per_epoch_in_another_order_each_time(tmp_path):
    shards(tmp_path, 64)
    drawn = words(take(open_stream(tmp_path), 48))
    epochs = [drawn[i : i + 64] for i in range(0, 192, 64)]
    assert all(sorted(map(int, epoch)) == list(range(64)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [int(w) // 8 for w in epochs[0]] != sorted(int(w) // 8 for w in epochs[0])  # shards, too
    assert words(take(open_stream(tmp_path), 48)) == drawn
    assert words(take(open_stream(tmp_path, seed=1), 48)) != drawn


@pytest.mark.slow
def test_sources_are_drawn_by_their_weights(tmp_path):
    often, seldom = shards(tmp_path / "often", 30), shards(tmp_path / "seldom", 5)
    for tar in seldom.glob("*.tar"):  # tell them apart by their captions
        write_tar(tar, {f"{i}.png": file(flat(i)) for i in range(5)} | {})
    drawn = words(take(open_stream(Source(str(often), weight=3), Source(str(seldom), weight=1)), 200))
    share = sum(word != "" for word in drawn) / len(drawn)
    assert 0.7 < share < 0.8


def epochs_of(path, rank, world, epochs, interleave=3, **settings):
    """The captions of each epoch that one process reads, and its shards by how often they were opened."""
    source, draws = EndlessSource(Source(str(path)), rank, world, 0, interleave, Ledger()), np.random.default_rng(rank)
    found = [[] for _ in range(epochs + 1)]
    while True:
        sample = source.next(draws.random())
        if source.epoch == epochs:
            return found[:epochs]
        found[source.epoch].append(sample.captions[0][0])


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_processes_share_every_epoch(tmp_path, world, caplog):
    """Five tars of four: dealt out whole among five processes or fewer, else in slices."""
    shards(tmp_path, 20, per_shard=4)
    drawn = [epochs_of(tmp_path, rank, world, 3) for rank in range(world)]
    for epoch in range(3):
        shares = [each[epoch] for each in drawn]
        assert sorted(int(word) for share in shares for word in share) == list(range(20))
        tars = [{int(word) // 4 for word in share} for share in shares]
        assert world == 1 or max(map(len, tars)) < 5  # nobody reads everything
        assert max(map(len, shares)) - min(map(len, shares)) <= 4
    assert len({tuple(epoch) for epoch in drawn[0]}) == 3
    totals = [sum(map(len, each)) for each in drawn]
    assert max(totals) - min(totals) <= 4  # who had a shard more has one less in a later epoch
    assert ("5 shards are fewer than 7 processes" in caplog.text) == (world == 7)


def test_a_batch_is_of_many_shards(tmp_path):
    shards(tmp_path, 128, per_shard=16)

    def shards_of_a_batch(interleave):
        drawn = take(open_stream(tmp_path, batch_size=8, shuffle=16, interleave=interleave), 8)
        return np.mean([len({int(word) // 16 for word in sample.prompt}) for sample in drawn])

    assert shards_of_a_batch(1) == 1 and shards_of_a_batch(8) > 4


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("start, step", [(0, 2), (1, 1), (3, 2), (9, 1)])
def test_rows_of_a_part_from_a_number_on(tmp_path, name, start, step):
    FORMATS[name](tmp_path)
    for part in open_parts(Source(str(tmp_path))):
        assert list(part.rows(start, step)) == list(part.rows())[start::step]


def sizes(i):
    return [(40, 40), (40, 40), (40, 60), (80, 40), (40, 40), (34, 40), (40, 41)][i % 7]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_resumed_stream_gives_what_the_stopped_one_would_have(tmp_path, workers):
    """Through JSON, at any batch, over several epochs and sources, with photographs waiting in four buckets."""
    one, two = shards(tmp_path / "one", 37, size=sizes), shards(tmp_path / "two", 9, size=sizes)

    def opened(workers):
        return open_stream(Source(str(one), weight=2), str(two), workers=workers, shuffle=8, seed=3)

    whole, states, running = [], [], opened(0)
    for sample in itertools.islice(iter(running), 60):
        whole.append(sample)
        states.append(json.dumps(running.state_dict()))
    assert max(len(state) for state in states) < 4000
    for stop in (0, 1, 13, 29, 44) if workers == 0 else (21,):
        resumed = opened(workers)
        resumed.load_state_dict(json.loads(states[stop]))
        rest = []
        for sample, state in zip(itertools.islice(iter(resumed), 59 - stop), states[stop + 1 :], strict=True):
            rest.append(sample)
            assert resumed.state_dict()["position"]["target"] == json.loads(state)["position"]["target"]
        assert same(rest, whole[stop + 1 :])
    again = opened(workers)  # stopped twice
    again.load_state_dict(json.loads(states[10]))
    take(again, 5)
    third = opened(workers)
    third.load_state_dict(json.loads(json.dumps(again.state_dict())))
    assert same(take(third, 4), whole[16:20])


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_resumes(tmp_path, name):
    FORMATS[name](tmp_path)
    whole = open_stream(tmp_path, batch_size=3, shuffle=5)
    batches, states = [], []
    for sample in itertools.islice(iter(whole), 9):
        batches.append(sample)
        states.append(whole.state_dict())
    resumed = open_stream(tmp_path, batch_size=3, shuffle=5)
    resumed.load_state_dict(json.loads(json.dumps(states[4])))
    assert same(take(resumed, 4), batches[5:])


def test_processes_resume_each_at_its_own_place(tmp_path):
    shards(tmp_path, 20, per_shard=4)
    for rank in range(2):
        whole = open_stream(tmp_path, rank=rank, world=2)
        iterator = iter(whole)
        next(iterator)
        state = json.loads(json.dumps(whole.state_dict()))
        rest = list(itertools.islice(iterator, 5))
        resumed = open_stream(tmp_path, rank=rank, world=2)
        resumed.load_state_dict(state)
        assert same(take(resumed, 5), rest)


@pytest.mark.parametrize("workers", [0, 1])
def test_opening_a_stream_draws_nothing_from_torchs_own_generator(tmp_path, workers):
    """A resumed run opens its stream at a step where the whole run did not."""
    opened = open_stream(shards(tmp_path, 16), workers=workers)
    before = torch.get_rng_state()
    take(opened, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_before_the_first_batch_the_position_is_the_beginning(tmp_path):
    shards(tmp_path, 8)
    opened, other = open_stream(tmp_path), open_stream(tmp_path)
    assert opened.state_dict() == {}
    other.load_state_dict({})
    assert same(take(opened, 2), take(other, 2))


def test_another_batch_size_goes_on_reading_with_a_note(tmp_path, caplog):
    shards(tmp_path, 64)
    opened = open_stream(tmp_path)
    before = set(words(take(opened, 4)))  # a round
    other = open_stream(tmp_path, batch_size=8)
    other.load_state_dict(opened.state_dict())
    with caplog.at_level(logging.WARNING):
        after = words(take(other, 2))
    assert "batch size, buckets or shuffling have changed" in caplog.text
    assert len(after) == 16 and len(before & set(after)) <= 16
    more = open_stream(tmp_path, tmp_path)
    more.load_state_dict(opened.state_dict())
    with caplog.at_level(logging.WARNING):
        take(more, 1)
    assert "the number of sources has changed" in caplog.text


# ------------------------------------------------------------------------------------------------------------ buckets


@pytest.mark.slow
def test_batches_are_of_one_bucket_and_full(tmp_path):
    shards(tmp_path, 42, size=sizes)
    drawn = take(open_stream(tmp_path), 60)
    assert {tuple(sample.pixels.shape[2:]) for sample in drawn} == {(32, 32), (40, 24), (24, 40)}
    assert all(len(sample) == 4 for sample in drawn)
    for sample in drawn:
        for prompt in sample.prompt:
            width, height = sizes(int(prompt))
            assert (height / width > 1.25) == (sample.pixels.shape[2] == 40)
            assert (width / height > 1.25) == (sample.pixels.shape[3] == 40)
    counts = {int(word): words(drawn).count(word) for word in set(words(drawn))}
    assert len(counts) == 42 and max(counts.values()) - min(counts.values()) <= 2


@pytest.mark.slow
def test_a_rare_shape_is_repeated_rather_than_never_given(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_WAIT", 2)
    shards(tmp_path, 64, size=lambda i: (40, 60) if i == 5 else (40, 40))
    opened, whole, states = open_stream(tmp_path, seed=2), [], []
    for sample in itertools.islice(iter(opened), 60):
        whole.append(sample)
        states.append(opened.state_dict())
    rare = [sample for sample in whole if sample.pixels.shape[2:] == (40, 24)]
    assert rare and all(list(sample.prompt) == ["5"] * 4 for sample in rare)
    for stop in range(0, 50, 7):  # also where it has waited for rounds
        resumed = open_stream(tmp_path, seed=2)
        resumed.load_state_dict(states[stop])
        assert same(take(resumed, 8), whole[stop + 1 : stop + 9])


def test_a_tall_product_is_not_cut(tmp_path):
    """The object touches neither window's edge, wherever the window lies."""
    tall = Image.new("RGB", (40, 72), (255, 255, 255))
    tall.paste((200, 0, 0), (12, 2, 28, 62))
    mask = Image.new("L", (40, 72), 0)
    mask.paste(255, (12, 2, 28, 62))
    write_tar(tmp_path / "x.tar", {"0.png": file(tall), "0.json": {"text": "a bottle"}, "0.mask.png": file(mask)})
    buckets = aspect_buckets(64, 8)
    drawn = take(open_stream(tmp_path, buckets=buckets, batch_size=16, enlarge=2), 2)
    assert drawn[0].pixels.shape[2:] == (80, 48)
    for sample in drawn:
        assert (sample.matte[:, :, [0, -1]] < 0.5).all() and (sample.matte.mean((1, 2, 3)) > 0.25).all()


def test_windows_move_within_the_picture_and_mirror_it(tmp_path):
    ramp = np.repeat(np.arange(44, dtype=np.uint8)[None] * 5, 40, 0)
    write_tar(tmp_path / "x.tar", {"0.png": file(Image.fromarray(ramp)), "0.json": {"text": ""}})
    square = [(40, 40)]
    (sample,) = take(open_stream(tmp_path, buckets=square, batch_size=64), 1)
    rows = ((sample.pixels[:, 0, 0] + 1) * 127.5 / 5).round().int()
    rising = rows[:, 1] > rows[:, 0]
    assert 10 < int(rising.sum()) < 54
    assert {int(row[0]) for row in rows[rising]} == {0, 1, 2, 3, 4}
    (straight,) = take(open_stream(tmp_path, buckets=square, batch_size=64, flip=False), 1)
    assert (straight.pixels[:, 0, 0, 1] > straight.pixels[:, 0, 0, 0]).all()


def test_small_photographs_are_passed_over(tmp_path):
    shards(tmp_path, 16, size=lambda i: (20, 20) if i % 2 else (30, 30))
    drawn = words(take(open_stream(tmp_path), 6))
    assert {int(word) % 2 for word in drawn} == {0}
    with pytest.raises(ValueError, match="are all too small .* 20x20 .*choose a smaller size, or raise enlarge"):
        take(open_stream(shards(tmp_path / "small", 8, size=lambda i: (20, 20))), 1)


# ------------------------------------------------------------------------------------------------------------- damage


def with_damage(folder, good, bad):
    members = {}
    for i in range(good + bad):
        content = file(Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8)))
        content = content if i >= bad else (b"no picture" if i % 2 else content[:2000])  # at the head, and within
        members |= {f"{i:04d}.png": content, f"{i:04d}.json": {"text": str(i)}}
    write_tar(folder / "x.tar", members)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_samples_are_skipped_and_named(tmp_path, workers, caplog, monkeypatch):
    monkeypatch.setattr(ledger, "DAMAGED", 0.1)
    log = tmp_path / "logs" / "skipped.txt"
    opened = open_stream(with_damage(tmp_path, 60, 2), workers=workers, log=log)
    with caplog.at_level(logging.WARNING):
        drawn = take(opened, 15)
    assert all(len(sample) == 4 for sample in drawn) and not {"0", "1"} & set(words(drawn))
    assert opened.ledger.damaged == len(log.read_text().splitlines()) >= 2
    for name in ("0000.png", "0001.png"):
        assert f"x.tar ({name})" in log.read_text() and name in caplog.text


def test_too_many_damaged_samples_end_the_run(tmp_path):
    opened = open_stream(with_damage(tmp_path, 60, 4))
    with pytest.raises(
        ValueError, match=r"data: \d+ of \d+ samples are damaged, more than 1%; the last is .*png"
    ) as error:
        take(opened, 400)
    assert "\n" not in str(error.value)
    assert len(take(open_stream(shards(tmp_path / "whole", 8)), 20)) == 20


def test_one_per_cent_is_counted_of_a_thousand_at_least():
    ledger = Ledger()
    ledger.seen = 500
    for _ in range(10):
        ledger.skip("x", "x: broken")
        ledger.check()
    ledger.skip("x", "x: broken")
    with pytest.raises(ValueError, match=r"11 of 500 samples .* the last is x \(broken\)"):
        ledger.check()
    ledger.seen = 1100
    ledger.check()


def test_a_tar_that_was_cut_off_is_one_damaged_sample(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(ledger, "DAMAGED", 0.5)
    shards(tmp_path, 16)
    cut = tmp_path / "0008.tar"
    cut.write_bytes(cut.read_bytes()[:1800])
    with caplog.at_level(logging.WARNING):
        drawn = set(words(take(open_stream(tmp_path), 6)))
    assert (
        drawn >= {str(i) for i in range(8)}
        and "0008.tar (cannot be read (ReadError: unexpected end of data)" in caplog.text
    )


@pytest.mark.parametrize("error", [RecursionError("deep"), ImportError("no decoder"), MemoryError(), KeyError("x")])
@pytest.mark.parametrize("where", ["raw", "upright_size", "decode"])
def test_whatever_one_row_raises_the_stream_goes_on(tmp_path, monkeypatch, caplog, error, where):
    """Read, measured and decoded."""
    owner = {"raw": shards_module, "upright_size": reader.image, "decode": decoder}[where]
    whole = getattr(owner, where)

    def once(first, *rest, **settings):
        content = first["png"] if where == "raw" else first
        if content == bad:
            raise error
        return whole(first, *rest, **settings)

    bad = file(flat(3))
    monkeypatch.setattr(ledger, "DAMAGED", 0.1)
    monkeypatch.setattr(owner, where, once)
    opened = open_stream(shards(tmp_path, 24))
    drawn = words(take(opened, 10))
    assert "3" not in drawn and len(drawn) == 40 and opened.ledger.damaged >= 1
    assert "0003.png" in caplog.text and type(error).__name__ in caplog.text


def test_names_of_strangers_are_one_short_line_in_the_log(caplog):
    Ledger().skip("a\nb" + "x" * 10_000, ValueError("bad\r\n" * 1000))
    (line,) = caplog.messages
    assert "\n" not in line and len(line) < 700


def test_a_sample_of_other_latents_than_its_neighbours_is_damaged(tmp_path, caplog):
    members = {}
    for i in range(8):
        latents = torch.zeros(4, 4, 4) if i else torch.zeros(3, 4, 4)
        latents = latents + float("nan") if i == 1 else latents
        members |= {f"{i}.png": file(flat(i)), f"{i}.safetensors": precomputed.pack({}, latents)}
    write_tar(tmp_path / "x.tar", members)
    opened = open_stream(tmp_path, batch_size=8, shuffle=8, precomputed=("latents",))
    (sample,) = take(opened, 1)
    assert sample.latents.shape == (8, 4, 4, 4) and sample.latents.isfinite().all()
    assert opened.ledger.damaged == 2 and "other shapes" in caplog.text


def test_a_whole_batch_of_damage_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "DAMAGED", 1.0)
    drawn = take(open_stream(with_damage(tmp_path, 1, 3), batch_size=1), 3)
    assert words(drawn) == ["3"] * 3


def test_limits_hold_before_anything_is_decoded(tmp_path, monkeypatch):
    shards(tmp_path, 8)
    monkeypatch.setattr(decoder, "decode", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="damaged, more than 1%.*above the limit"):
        take(open_stream(tmp_path, max_pixels=1000), 1)


def test_a_source_without_photographs_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "DAMAGED", 1.0)
    write_tar(tmp_path / "x.tar", {"0.txt": b"words"})
    with pytest.raises(ValueError, match="gives no photograph; look at its format"):
        take(open_stream(tmp_path), 1)


def test_reading_ahead_passes_errors_on_and_stops_with_its_reader():
    def broken():
        yield 1
        raise ValueError("broken")

    ahead = read_ahead(broken(), 2)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)
    endless = read_ahead(itertools.count(), 2)
    assert [next(endless) for _ in range(5)] == [0, 1, 2, 3, 4]
    endless.close()
