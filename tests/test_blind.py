"""Blind pairs: balanced, seeded, without a trace of who is who; what is chosen is what is scored."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import struct
import subprocess
from collections import Counter

import numpy as np
import pytest
from helpers import noise
from PIL import Image

from photofound import cli
from photofound.eval import blind
from photofound.eval.blind import KEY, PAGE, make_pairs, score, write
from photofound.eval.methods import CLASSICAL, Method
from photofound.eval.protocols import Problem, centre_box
from photofound.training import evaluate

NAMES = ("dark secret", "light secret")


class Flat(Method):
    """Fills and enlarges with one grey, so that whoever looks sees whose it is."""

    tasks, uses_seed = ("inpaint", "upscale"), False

    def __init__(self, name, grey):
        self.name, self.grey = name, grey

    def edit(self, problem, seed):
        return np.full_like(problem.truth, self.grey)


A, B = Flat(NAMES[0], 10), Flat(NAMES[1], 240)


def problems(counts=(7, 4)):
    """Holes and enlargements, so many of each."""
    hole = centre_box(24, 32)
    for i in range(counts[0]):
        yield Problem(
            "box-centre", f"{i}-secret.png", "inpaint", noise(24, 32, seed=i), hole, noise(24, 32, seed=i), "a <cup>"
        )
    for i in range(counts[1]):
        yield Problem(
            "x2", f"{i}-secret.png", "upscale", noise(24, 32, seed=i)[::2, ::2], None, noise(24, 32, seed=i), scale=2
        )
    yield Problem("outpaint-product", "n", "outpaint", noise(24, 32), hole, None)  # which these two cannot


def order(pairs):
    return [(pair.protocol, pair.picture, pair.left) for pair in pairs]


def data(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))


def pixels(uri):
    raw = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return raw, np.asarray(Image.open(io.BytesIO(raw)))


@pytest.mark.parametrize("counts", [(7, 4), (1, 0), (5, 5), (8, 3)])
@pytest.mark.parametrize("seed", range(4))
def test_sides_are_balanced_within_every_protocol_and_overall(counts, seed):
    pairs = make_pairs(problems(counts), A, B, seed)
    assert len(pairs) == sum(counts)
    left = Counter((pair.protocol, pair.left) for pair in pairs)
    for protocol in ("box-centre", "x2"):
        assert abs(left[protocol, 0] - left[protocol, 1]) <= 1
    assert abs(sum(pair.left for pair in pairs) * 2 - len(pairs)) <= 1


def test_shuffling_goes_by_the_seed_and_by_the_pictures():
    first = order(make_pairs(problems(), A, B, 0))
    assert first == order(make_pairs(problems(), A, B, 0)) and sorted(first) != first
    others = [order(make_pairs(problems(), A, B, seed)) for seed in range(1, 9)]
    assert len({tuple(other) for other in [first, *others]}) == 9
    assert order(make_pairs(problems(), A, Flat("b", 241), 0)) != first
    assert {pair[2] for other in others for pair in other[:1]} == {0, 1}  # the first pair tells nothing


def test_the_key_says_what_the_page_shows(tmp_path):
    pairs = make_pairs(problems(), A, B, 3)
    page = data(write(tmp_path, pairs, NAMES, 3).read_text())
    key = json.loads((tmp_path / KEY).read_text())
    assert page["page"] == key["page"] and len(page["pairs"]) == len(key["pairs"]) == 11
    assert key["methods"] == list(NAMES) and key["seed"] == 3
    for shown, known in zip(page["pairs"], key["pairs"], strict=True):
        greys = {NAMES[0]: 10, NAMES[1]: 240}
        for side in ("left", "right"):
            assert (pixels(shown[side])[1] == greys[known[side]]).all()
        given = pixels(shown["given"])[1]
        truth = noise(24, 32, seed=int(known["picture"][0]))
        if known["protocol"] == "box-centre":  # outlined, and the rest as it was
            assert (given[0] == truth[0]).all() and (given[8, 10:20] == 0).all() and (given[7, 10:20] == 255).all()


def test_the_page_does_not_tell_who_is_who(tmp_path):
    text = write(tmp_path, make_pairs(problems(), A, B), NAMES, 0).read_text()
    page = data(text)
    for word in ("secret", *NAMES, "seed", "box-centre"):
        assert word not in text
    assert set(page) == {"page", "pairs"} and all(
        set(p) == {"question", "given", "left", "right"} for p in page["pairs"]
    )
    assert all(list(p) == ["question", "given", "left", "right"] for p in page["pairs"])
    for pair in page["pairs"]:
        for side in ("left", "right", "given"):
            raw, at, kinds = pixels(pair[side])[0], 8, []
            while at < len(raw):
                length, kind = struct.unpack(">I4s", raw[at : at + 8])
                kinds.append(kind)
                at += 12 + length
            assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}  # no text, no EXIF, no date
    assert len({pixels(pair[side])[1].shape for pair in page["pairs"][:1] for side in ("left", "right")}) == 1
    questions = {p["question"] for p in page["pairs"]}
    assert len(questions) == 2 and "Which fills the outlined part better? Asked for: “a <cup>”" in questions


def test_the_page_fetches_nothing(tmp_path):
    text = write(tmp_path, make_pairs(problems(), A, B), NAMES, 0).read_text()
    markup = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)
    assert "default-src &#x27;none&#x27;" in markup or "default-src 'none'" in markup
    assert not re.search(r"https?:|//[a-z]|fetch\(|XMLHttp|import\(|<link|url\(|sendBeacon", markup)
    assert text.count("</script>") == 2  # nothing in the data ends it early


HARNESS = r"""
const fs = require("fs"), vm = require("vm");
const page = fs.readFileSync(process.argv[2], "utf8"), keys = JSON.parse(process.argv[3]);
const nodes = {}, listeners = {}, stored = {}, blobs = [], made = [];
const node = (id) => nodes[id] ??= {id, hidden: false, classList: {toggle() {}}, click() { made.push(this.download); }};
node("data").textContent = page.match(/id="data">([^]*?)<\/script>/)[1];
for (const id of page.replace(/id="data">[^]*?<\/script>/, "").matchAll(/id="([\w-]+)"/g)) node(id[1]);
Object.assign(globalThis, {
  document: {getElementById: (id) => { if (!nodes[id]) throw id; return nodes[id]; }, createElement: () => node("a"),
             addEventListener: (name, f) => { listeners[name] = f; }},
  Image: class { decode() { return Promise.resolve(); } },
  Blob: class { constructor(parts) { blobs.push(parts.join("")); } },
  localStorage: {getItem: (k) => stored[k] ?? null, setItem: (k, v) => { stored[k] = v; }},
});
URL.createObjectURL = () => "blob:x";
vm.runInThisContext(page.match(/<script>([^]*?)<\/script>/)[1]);
const settle = () => new Promise((done) => setTimeout(done, 0));
(async () => {
  await settle();
  const seen = [];
  for (const key of keys) {
    seen.push([node("left").src, node("right").src]);
    if (nodes[key]) nodes[key].onclick(); else listeners.keydown({key, preventDefault() {}});
    await settle();
  }
  const stuck = node("asking").hidden;
  node("save").onclick();
  console.log(JSON.stringify({saved: blobs.at(-1), seen, done: stuck, shown: node("text").value, stored, made}));
})();
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's script")
def test_keys_and_clicks_are_saved_as_choices(tmp_path):
    page = write(tmp_path, make_pairs(problems((3, 1)), A, B, 1), NAMES, 1)
    (tmp_path / "run.cjs").write_text(HARNESS)
    presses = ["ArrowLeft", "ArrowRight", "Backspace", "pick-left", "same", "x", "ArrowRight", "ArrowRight"]
    ran = subprocess.run(
        ["node", str(tmp_path / "run.cjs"), str(page), json.dumps(presses)], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    saved = json.loads(found["saved"])
    known = data(page.read_text())
    assert saved == {"page": known["page"], "choices": {"1": "left", "2": "left", "3": "same", "4": "right"}}
    assert found["saved"] == found["shown"] and found["done"] and found["made"] == ["choices.json"]
    assert json.loads(found["stored"]["photofound-blind-" + known["page"]]) == saved["choices"]
    assert [found["seen"][i] for i in (0, 1, 2, 3, 4)] == [
        [known["pairs"][i][side] for side in ("left", "right")] for i in (0, 1, 2, 1, 2)
    ]
    (tmp_path / "choices.json").write_text(found["saved"])
    assert sum(score(tmp_path / "choices.json", tmp_path / KEY).all.wins) == 3


def judged(folder, choose, count=(40, 20)):
    """Choices of somebody who sees the pixels: ``choose`` (mean of the left one, of the right one, number)."""
    page = data(write(folder, make_pairs(problems(count), A, B), NAMES, 0).read_text())
    choices = {}
    for number, pair in enumerate(page["pairs"], 1):
        answer = choose(*(pixels(pair[side])[1].mean() for side in ("left", "right")), number)
        if answer:
            choices[str(number)] = answer
    (folder / "choices.json").write_text(json.dumps({"page": page["page"], "choices": choices}))
    return score(folder / "choices.json", folder / KEY)


def test_who_prefers_the_darker_one_prefers_the_method_that_makes_it(tmp_path):
    found = judged(tmp_path, lambda left, right, number: "left" if left < right else "right")
    assert found.methods == NAMES and found.asked == 60 and found.all == blind.Tally((60, 0), 0)
    assert found.protocols == {"box-centre": blind.Tally((40, 0), 0), "x2": blind.Tally((20, 0), 0)}
    lines = blind.as_text(found).splitlines()
    assert lines[0] == "dark secret against light secret: 60 of 60 pairs judged"
    assert lines[1:4] == ["dark secret preferred: 60", "light secret preferred: 0", "no difference: 0"]
    assert "100.0% [94.0%, 100.0%] of the 60 decided pairs" in lines[4] and lines[5].endswith("p = 1.735e-18")
    assert "| x2 | 20 | 0 | 0 | 1.91e-06 |" in lines


def test_who_always_takes_the_left_one_prefers_nobody(tmp_path):
    found = judged(tmp_path, lambda left, right, number: "left")
    assert found.all.wins == (30, 30) and "p = 1" in blind.as_text(found)


def test_ties_and_gaps_are_counted_apart(tmp_path):
    def choose(left, right, number):
        return None if number > 50 else "same" if number % 5 == 0 else "left" if left < right else "right"

    found = judged(tmp_path, choose)
    assert found.all == blind.Tally((40, 0), 10) and "50 of 60 pairs judged" in blind.as_text(found)
    only = judged(tmp_path, lambda left, right, number: "same")
    assert only.all == blind.Tally((0, 0), 60) and blind.as_text(only).count("p = 1") == 1


# --------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(noise(48, 64, seed=i)).save(folder / f"{i}.png")
    return folder


@pytest.mark.slow
def test_from_the_command_line_to_a_verdict(photos, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--protocols", "box-centre,strokes-20", "-o", str(out)]
    assert cli.main(["eval", str(photos), "--blind", "telea", "patchmatch", *options]) == 0
    said = capsys.readouterr().out
    assert said.startswith(str(out / PAGE)) and f"6 pairs; keep {out / KEY} from" in said
    key = json.loads((out / KEY).read_text())
    assert key["methods"] == ["Telea", "PatchMatch"] and Counter(p["left"] for p in key["pairs"]) == {
        "Telea": 3, "PatchMatch": 3,
    }  # fmt: skip
    sides = {str(i): "left" if p["left"] == "Telea" else "right" for i, p in enumerate(key["pairs"], 1)}
    (out / "choices.json").write_text(json.dumps({"page": key["page"], "choices": sides}))
    assert cli.main(["eval", "--score", str(out / "choices.json")]) == 0  # the key lies beside it
    assert "Telea preferred: 6\nPatchMatch preferred: 0\n" in capsys.readouterr().out
    shutil.move(out / "choices.json", tmp_path / "choices.json")
    assert cli.main(["eval", "--score", str(tmp_path / "choices.json"), "-o", str(out)]) == 0
    assert cli.main(["eval", "--score", str(tmp_path / "choices.json"), "--key", str(out / KEY), "--quiet"]) == 0
    assert capsys.readouterr().out.count("p = 0.03125") == 2
    assert cli.main(["eval", str(photos), "--blind", "telea", "patchmatch", *options]) == 2
    assert "holds a blind comparison; pass --overwrite" in capsys.readouterr().err


def test_a_model_against_a_classic(photos, tmp_path, tiny_folder):
    options = ["--protocols", "box-centre", "--limit", "1", "-o", str(tmp_path / "out"), "--dtype", "float32"]
    assert cli.main(["eval", str(photos), "--blind", f"{tiny_folder}@1", "navier-stokes", *options]) == 0
    key = json.loads((tmp_path / "out" / KEY).read_text())
    assert key["methods"] == [f"{tiny_folder.name}, 1 steps", "Navier-Stokes"] and len(key["pairs"]) == 1


def test_without_photographs_there_are_scikit_images(tmp_path):
    options = ["--protocols", "x4", "--limit", "2", "--max-side", "64", "-o", str(tmp_path)]
    assert cli.main(["eval", "--blind", "bicubic", "lanczos", *options]) == 0
    pictures = {pair["picture"] for pair in json.loads((tmp_path / KEY).read_text())["pairs"]}
    assert pictures == {"astronaut", "coffee"}


def test_names_of_options_and_of_files_agree():
    assert evaluate.KEY == KEY and set(CLASSICAL) > {"patchmatch"}


CHOICES = {"page": "p", "choices": {"1": "left"}}
GOOD = {"page": "p", "methods": ["a", "b"], "pairs": [{"protocol": "x2", "left": "a", "right": "b"}]}


@pytest.mark.parametrize(
    ("choices", "key", "said"),
    [
        ("{", GOOD, "choices.json is no JSON"),
        ("[" * 100_000, GOOD, "choices.json is no JSON"),
        ([1], GOOD, "choices.json must hold a JSON object"),
        ({"page": "p"}, GOOD, "must hold page and choices"),
        ({"page": 1, "choices": {}}, GOOD, "must hold page and choices"),
        ({"page": "p", "choices": {}}, GOOD, "holds no choice yet"),
        ({"page": "q", "choices": {"1": "left"}}, GOOD, "is of another page than"),
        ({"page": "p", "choices": {"2": "left"}}, GOOD, "has a pair '2'; the key knows 1 to 1"),
        ({"page": "p", "choices": {"01": "left"}}, GOOD, "has a pair '01'"),
        ({"page": "p", "choices": {"1": "a"}}, GOOD, "pair 1 says 'a', not left, right or same"),
        ({"page": "p", "choices": {"1": ["left"]}}, GOOD, "pair 1 says ['left']"),
        (CHOICES, {}, "is no key of a blind comparison"),
        (CHOICES, GOOD | {"methods": ["a", "a"]}, "is no key of a blind comparison"),
        (CHOICES, GOOD | {"pairs": [{"protocol": "x2", "left": "a", "right": "c"}]}, "is no key"),
        (CHOICES, GOOD | {"pairs": [{"protocol": "x2", "left": ["a"], "right": "b"}]}, "is no key"),
        (CHOICES, GOOD | {"pairs": [7]}, "is no key"),
        (CHOICES, GOOD | {"pairs": None}, "is no key"),
        (CHOICES, None, "no blind-key.json lies beside"),
        (None, GOOD, "does not exist; name the file"),
    ],
)
def test_a_file_that_is_none_is_one_line(tmp_path, capsys, choices, key, said):
    for name, tree in (("choices.json", choices), (KEY, key)):
        if tree is not None:
            (tmp_path / name).write_text(tree if isinstance(tree, str) else json.dumps(tree))
    assert cli.main(["eval", "--score", str(tmp_path / "choices.json"), "-o", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("photofound: score: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--blind", "telea", "telea"], "both methods are called Telea"),
        (["--blind", "telea", "bicubic"], "Telea and bicubic have no protocol in common"),
        (["--blind", "telea", "gone/at-all"], "gone/at-all"),
        (["--blind", "telea", "patchmatch", "--score", "x.json"], "pass one of them"),
        (["--blind", "telea"], "expected 2 arguments"),
    ],
)
def test_a_mistake_is_one_line(photos, tmp_path, capsys, options, said):
    assert cli.main(["eval", str(photos), "--protocols", "box-centre,x2", *options, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
    assert cli.main(["eval"]) == 2 and "no photographs are named" in capsys.readouterr().err
