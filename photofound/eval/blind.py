"""A blind comparison of two methods: a page of shuffled pairs without names, a key, and what the choices say.

    pairs = make_pairs(problems(find_photographs(folder), ["box-centre"]), a, b, seed=0)
    write(folder, pairs, (a.name, b.name), seed=0)             # blind.html for a person, blind-key.json for later
    print(as_text(score("choices.json", "blind-key.json")))

The page holds pixels alone: PNGs that are coded alike, without names or metadata, in an order and on sides that the
key knows. Pictures are (H, W, 3) uint8.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from photofound import files
from photofound.eval.methods import Method
from photofound.eval.metrics import proportion_interval, sign_test
from photofound.eval.protocols import PROTOCOLS, Problem
from photofound.eval.report import details

PAGE, KEY, CHOICES = "blind.html", "blind-key.json", "choices.json"
SIDES = ("left", "right")

# -------------------------------------------------------------------------------------------------------------- pairs


@dataclass(frozen=True)
class Pair:
    """One question, and the results of two methods, as large as each other.

    Attributes:
        given: what both were given, the hole outlined.
        left: 0 where the first method's result is on the left, else 1.
        results: of the first method and the second.
    """

    protocol: str
    picture: str
    question: str
    left: int
    given: np.ndarray = field(repr=False)
    results: tuple[np.ndarray, np.ndarray] = field(repr=False)


_QUESTIONS = {
    "inpaint": "Which fills the outlined part better?",
    "expand": "Which continues the picture better, beyond the outline?",
    "erase": "Which takes away what is outlined better?",
    "upscale": "Which is the better enlargement?",
    "outpaint": "Which has the better background?",
}


def make_pairs(
    problems: Iterable[Problem],
    a: Method,
    b: Method,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Pair]:
    """The results of both methods for every problem that both can do, for the seed 0 of those that draw, shuffled.

    Of each protocol, and of all, each method is on the left half of the time, to within one. Equal problems, methods
    and seeds give equal pairs; other pictures another shuffling. Raises ValueError for less than one pair.
    """
    found: list[tuple[Problem, tuple[np.ndarray, np.ndarray]]] = []
    for problem in problems:
        if problem.task in a.tasks and problem.task in b.tasks:
            progress(f"{problem.protocol}: {problem.name}")
            found.append((problem, (_edited(a, problem), _edited(b, problem))))
    if not found:
        raise ValueError(f"blind: {a.name} and {b.name} have no protocol in common on these photographs; name others")
    pictures = hashlib.sha256(b"".join(result.tobytes() for _, results in found for result in results)).digest()
    rng = np.random.default_rng([seed % 2**32, *pictures[:8]])
    left = _sides([problem.protocol for problem, _ in found], rng)
    return [_pair(found[i][0], found[i][1], left[i]) for i in rng.permutation(len(found))]


def _edited(method: Method, problem: Problem) -> np.ndarray:
    result = method.edit(problem, 0)
    wanted = (problem.given if problem.truth is None else problem.truth).shape
    if result.shape != wanted:
        raise ValueError(f"{method.name} returned {result.shape} for {problem.name}, not {wanted}; leave it out")
    return result


def _sides(protocols: Sequence[str], rng: np.random.Generator) -> list[int]:
    """Which method is on the left: taking turns from one protocol's last pair to the next one's first, then shuffled
    within each."""
    left, turn = [0] * len(protocols), int(rng.integers(2))
    for name in dict.fromkeys(protocols):
        places = [i for i, each in enumerate(protocols) if each == name]
        sides = [(turn + n) % 2 for n in range(len(places))]
        turn = (turn + len(places)) % 2
        for place, side in zip(places, rng.permutation(sides), strict=True):
            left[place] = int(side)
    return left


def _pair(problem: Problem, results: tuple[np.ndarray, np.ndarray], left: int) -> Pair:
    shown = {"given": problem.given, "0": results[0], "1": results[1]}
    if PROTOCOLS[problem.protocol].enlarges:
        shown = details(shown, 256)
    elif problem.hole is not None and problem.task != "outpaint":
        shown["given"] = _outlined(problem.given, problem.hole)
    question = _QUESTIONS[problem.task] + (f" Asked for: \u201c{problem.prompt}\u201d" if problem.prompt else "")
    return Pair(problem.protocol, problem.name, question, left, shown["given"], (shown["0"], shown["1"]))


def _outlined(rgb: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The hole's border in white beside black, two pixels in all."""
    import cv2

    inside, made = hole.astype(np.uint8), rgb.copy()
    kernel = np.ones((3, 3), np.uint8)
    made[cv2.dilate(inside, kernel) > inside] = 255
    made[inside > cv2.erode(inside, kernel, borderValue=1)] = 0
    return made


# --------------------------------------------------------------------------------------------------------------- page


def write(folder: Path, pairs: Sequence[Pair], names: tuple[str, str], seed: int) -> Path:
    """Write ``blind.html`` and ``blind-key.json`` into a folder; the page's path."""
    asked = [
        {"question": pair.question, "given": _png(pair.given)}
        | {side: _png(pair.results[which]) for side, which in zip(SIDES, (pair.left, 1 - pair.left), strict=True)}
        for pair in pairs
    ]
    page = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    sides = [
        {"protocol": pair.protocol, "picture": pair.picture, "left": names[pair.left], "right": names[1 - pair.left]}
        for pair in pairs
    ]
    key = {"page": page, "seed": seed, "methods": list(names), "pairs": sides}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE).write_text(_html(page, asked), encoding="utf-8")
    (folder / KEY).write_text(json.dumps(key, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder / PAGE


def _png(picture: np.ndarray) -> str:
    """Pixels and nothing else."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


_STYLE = """
:root { color-scheme: dark; }
* { box-sizing: border-box; }
body { margin: 0; background: #2b2b2b; color: #eee; font: 16px/1.45 system-ui, sans-serif; text-align: center; }
main { max-width: 1500px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.15rem; font-weight: 600; margin: .25rem 0; }
progress { width: min(28rem, 90%); }
#given { max-height: 26vh; max-width: 90%; margin: .5rem 0; }
#results { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; align-items: start; }
#results button { background: none; border: 3px solid transparent; border-radius: 8px; padding: 4px; cursor: pointer; }
#results button:hover, #results button:focus-visible, #results .chosen { border-color: #7ab8ff; outline: none; }
#results img { width: 100%; max-height: 58vh; object-fit: contain; display: block; }
.row { display: flex; gap: .75rem; justify-content: center; flex-wrap: wrap; margin: .75rem 0; }
.row button { font: inherit; color: inherit; background: #3c3c3c; border: 1px solid #666; border-radius: 8px;
              padding: .45rem 1rem; cursor: pointer; }
.row button:hover { background: #4a4a4a; }
kbd { border: 1px solid #777; border-radius: 4px; padding: 0 .35em; font: .85em system-ui, sans-serif; }
small { color: #b8b8b8; }
textarea { width: min(40rem, 95%); height: 10rem; }
[hidden] { display: none !important; }
"""

_SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const store = "photofound-blind-" + data.page;
let choices = {}, at = 0;
try { choices = JSON.parse(localStorage.getItem(store)) || {}; } catch (error) { choices = {}; }
while (at < data.pairs.length && choices[at + 1]) at++;

function text() { return JSON.stringify({page: data.page, choices: choices}, null, 1) + "\\n"; }
function keep() {
  try { localStorage.setItem(store, JSON.stringify(choices)); } catch (error) { /* not allowed here */ }
}

async function show() {
  const done = at >= data.pairs.length, here = at, count = Object.keys(choices).length;
  element("asking").hidden = done;
  element("done").hidden = !done;
  element("bar").max = data.pairs.length;
  element("bar").value = count;
  element("where").textContent = done ? count + " of " + data.pairs.length + " answered"
                                      : "Pair " + (at + 1) + " of " + data.pairs.length;
  if (done) { element("text").value = text(); return; }
  const pair = data.pairs[at], images = ["given", "left", "right"].map((name) => {
    const image = new Image();
    image.src = pair[name];
    return image;
  });
  await Promise.all(images.map((image) => image.decode().catch(() => null)));  // both appear at once
  if (here !== at) return;
  element("question").textContent = pair.question;
  for (const name of ["given", "left", "right"]) element(name).src = pair[name];
  for (const side of ["left", "right"]) element("pick-" + side).classList.toggle("chosen", choices[at + 1] === side);
}

function choose(choice) {
  if (at >= data.pairs.length) return;
  choices[at + 1] = choice;
  keep();
  at++;
  show();
}
function back() { if (at > 0) { at--; show(); } }
function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text()], {type: "application/json"}));
  link.download = "choices.json";
  link.click();
}

element("pick-left").onclick = () => choose("left");
element("pick-right").onclick = () => choose("right");
element("same").onclick = () => choose("same");
element("back").onclick = back;
element("again").onclick = back;
for (const id of ["save", "save-now"]) element(id).onclick = save;
document.addEventListener("keydown", (event) => {
  const keys = {ArrowLeft: () => choose("left"), ArrowRight: () => choose("right"), ArrowDown: () => choose("same"),
                Backspace: back};
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  if (event.target && event.target.tagName === "TEXTAREA") return;
  event.preventDefault();
  keys[event.key]();
});
show();
"""

_BODY = """
<main>
<h1 id="question">Which is better?</h1>
<progress id="bar" value="0" max="1"></progress> <small id="where"></small>
<div id="asking">
<img id="given" alt="what was given">
<div id="results">
<button id="pick-left" aria-label="the left one is better"><img id="left" alt="left result"></button>
<button id="pick-right" aria-label="the right one is better"><img id="right" alt="right result"></button>
</div>
<div class="row">
<button id="back">Back <kbd>⌫</kbd></button>
<button id="same">No difference <kbd>↓</kbd></button>
<button id="save-now">Save what there is</button>
</div>
<small>Click the better picture, or press <kbd>←</kbd> or <kbd>→</kbd>. Above: what was given.</small>
</div>
<div id="done" hidden>
<p>That was the last pair. Save the choices, and score them with <code>photofound eval --score choices.json</code>.</p>
<div class="row"><button id="save">Save choices.json</button><button id="again">Back <kbd>⌫</kbd></button></div>
<textarea id="text" readonly aria-label="the choices as JSON"></textarea>
</div>
</main>
"""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def _html(page: str, asked: Sequence[dict[str, str]]) -> str:
    """One page that fetches nothing, and may not."""
    data = json.dumps({"page": page, "pairs": asked}).replace("<", "\\u003c")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Which is better?</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{_BODY}"
        f'<script type="application/json" id="data">{data}</script><script>{_SCRIPT}</script></body></html>\n'
    )


# -------------------------------------------------------------------------------------------------------------- score


@dataclass(frozen=True)
class Tally:
    """How often each of two methods was preferred, and how often neither."""

    wins: tuple[int, int]
    ties: int


@dataclass(frozen=True)
class Score:
    """What the choices say.

    Attributes:
        asked: pairs on the page, of which some may not have been answered.
        protocols: a tally per protocol.
    """

    methods: tuple[str, str]
    asked: int
    all: Tally
    protocols: dict[str, Tally]


def score(choices: str | Path, key: str | Path) -> Score:
    """Read the choices back. Raises FileNotFoundError, and ValueError for files that are none or not of one page."""
    made, known = _object(Path(choices), "choices"), _object(Path(key), "key")
    names, pairs = _checked_key(Path(key), known)
    if not isinstance(made.get("choices"), dict) or not isinstance(made.get("page"), str):
        raise ValueError(f"score: {choices} must hold page and choices, as the page saves them; save it again")
    if made["page"] != known["page"]:
        raise ValueError(f"score: {choices} is of another page than {key}; name the key of its page with --key")
    counts: dict[str, Counter[str]] = {}
    numbers = {str(i + 1) for i in range(len(pairs))}
    for number, choice in made["choices"].items():
        if number not in numbers:
            raise ValueError(f"score: {choices} has a pair {number[:20]!r}; the key knows 1 to {len(pairs)}")
        if choice not in (*SIDES, "same"):
            raise ValueError(f"score: {choices}: pair {number} says {choice!r:.40}, not left, right or same")
        pair = pairs[int(number) - 1]
        counts.setdefault(pair["protocol"], Counter())[pair.get(choice, "")] += 1
    if not counts:
        raise ValueError(f"score: {choices} holds no choice yet; go on with the page")
    order = [name for name in dict.fromkeys(pair["protocol"] for pair in pairs) if name in counts]
    tallies = {name: _tally(counts[name], names) for name in order}
    return Score(names, len(pairs), _tally(sum(counts.values(), Counter()), names), tallies)


def _tally(counts: Counter[str], names: tuple[str, str]) -> Tally:
    return Tally((counts[names[0]], counts[names[1]]), counts[""])


def _object(path: Path, what: str) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"score: the {what} {path} does not exist; name the file")
    try:
        return files.read_json(path)
    except ValueError as error:
        raise ValueError(f"score: {error}; name the {what}") from None


def _checked_key(path: Path, tree: dict[str, Any]) -> tuple[tuple[str, str], list[dict[str, str]]]:
    names: Any = tree.get("methods")
    pairs: Any = tree.get("pairs")
    known = isinstance(names, list) and len(names) == 2 and all(isinstance(name, str) and name for name in names)
    known = known and names[0] != names[1] and isinstance(tree.get("page"), str) and isinstance(pairs, list)
    if not known or not all(_placed(each, names) for each in pairs):
        raise ValueError(f"score: {path} is no key of a blind comparison; name the {KEY} beside its page")
    return (names[0], names[1]), pairs


def _placed(pair: Any, names: list[str]) -> bool:
    """Whether an entry of the key says which of the two methods is on which side."""
    if not isinstance(pair, dict) or not isinstance(pair.get("protocol"), str):
        return False
    return [pair.get("left"), pair.get("right")] in (names, names[::-1])


def as_text(found: Score) -> str:
    """Wins, ties, the sign test and an interval; a line per protocol where there are several."""
    (a, b), tally = found.methods, found.all
    first, second = tally.wins
    decided = first + second
    low, high = proportion_interval(first, decided)
    lines = [
        f"{a} against {b}: {decided + tally.ties} of {found.asked} pairs judged",
        f"{a} preferred: {first}",
        f"{b} preferred: {second}",
        f"no difference: {tally.ties}",
    ]
    if decided:
        share = f"{first / decided:.1%} [{low:.1%}, {high:.1%}]"
        lines.append(f"{a} is preferred in {share} of the {decided} decided pairs (95 % interval, Clopper-Pearson)")
    lines.append(f"two-sided sign test without ties: p = {sign_test(first, second):.4g}")
    if len(found.protocols) > 1:
        lines += ["", f"| protocol | {a} | {b} | no difference | p |", "|---|---|---|---|---|"]
        for name, each in found.protocols.items():
            cells = (*each.wins, each.ties, f"{sign_test(*each.wins):.3g}")
            lines.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
