"""A blind comparison of two methods: a page of shuffled pairs without names, its key, and the score of the choices.

    pairs = make_pairs(problems(find_photographs(folder), ["box-centre"]), a, b, seed=0)
    write(folder, pairs, (a.name, b.name), seed=0)             # blind.html for a person, blind-key.json for later
    print(as_text(score("choices.json", "blind-key.json")))

The page (``blind.html`` with its data) holds nothing but pixels: PNG files without names or metadata, all encoded in
the same way. Only the key knows their order and sides. Pictures are (H, W, 3) uint8.
"""

from __future__ import annotations

import base64
import hashlib
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
from photofound.eval.report import centre_crops

PAGE, KEY, CHOICES = "blind.html", "blind-key.json", "choices.json"
SIDES = ("left", "right")

# -------------------------------------------------------------------------------------------------------------- pairs


@dataclass(frozen=True)
class Pair:
    """One question, and the results of the two methods, which have the same size.

    Attributes:
        left: 0 if the first method's result is on the left, 1 if the second's is.
        given: the input of both methods, with the hole outlined.
        results: of the first and the second method.
    """

    protocol: str
    picture: str
    question: str
    left: int
    given: np.ndarray = field(repr=False)
    results: tuple[np.ndarray, np.ndarray] = field(repr=False)


_QUESTIONS = {
    "inpaint": "Which fills the outlined part better?",
    "expand": "Which continues the picture better beyond the outline?",
    "erase": "Which removes the outlined object better?",
    "upscale": "Which enlargement is better?",
    "outpaint": "Which background is better?",
}


def make_pairs(
    problems: Iterable[Problem],
    a: Method,
    b: Method,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Pair]:
    """The results of both methods for every problem that both can do, shuffled. Methods that use a seed get seed 0.

    Within each protocol, and over all, each method is on the left half of the time, to within one pair. Equal problems,
    methods and seeds give equal pairs; other pictures are shuffled in another way. Raises ValueError if there is no
    pair.
    """
    found: list[tuple[Problem, tuple[np.ndarray, np.ndarray]]] = []
    for problem in problems:
        if problem.task in a.tasks and problem.task in b.tasks:
            progress(f"{problem.protocol}: {problem.name}")
            found.append((problem, (_edit(a, problem), _edit(b, problem))))
    if not found:
        raise ValueError(f"blind: {a.name} and {b.name} have no protocol in common on these photographs; name others")
    pictures = hashlib.sha256(b"".join(result.tobytes() for _, results in found for result in results)).digest()
    rng = np.random.default_rng([seed % 2**32, *pictures[:8]])
    left = _sides([problem.protocol for problem, _ in found], rng)
    return [_pair(found[i][0], found[i][1], left[i]) for i in rng.permutation(len(found))]


def _edit(method: Method, problem: Problem) -> np.ndarray:
    result = method.edit(problem, 0)
    wanted = (problem.given if problem.truth is None else problem.truth).shape
    if result.shape != wanted:
        raise ValueError(f"{method.name} returned {result.shape} for {problem.name}, not {wanted}; leave it out")
    return result


def _sides(protocols: Sequence[str], rng: np.random.Generator) -> list[int]:
    """Which method is on the left: alternating over all pairs, then shuffled within each protocol."""
    left, turn = [0] * len(protocols), int(rng.integers(2))
    for name in dict.fromkeys(protocols):
        places = [i for i, each in enumerate(protocols) if each == name]
        sides = [(turn + n) % 2 for n in range(len(places))]
        turn = (turn + len(places)) % 2
        for place, side in zip(places, rng.permutation(sides), strict=True):
            left[place] = int(side)
    return left


def _pair(problem: Problem, results: tuple[np.ndarray, np.ndarray], left: int) -> Pair:
    pictures = {"given": problem.given, "0": results[0], "1": results[1]}
    if PROTOCOLS[problem.protocol].enlarges:
        pictures = centre_crops(pictures, 256)
    elif problem.hole is not None and problem.task != "outpaint":
        pictures["given"] = _outlined(problem.given, problem.hole)
    question = _QUESTIONS[problem.task] + (f" Asked for: \u201c{problem.prompt}\u201d" if problem.prompt else "")
    return Pair(problem.protocol, problem.name, question, left, pictures["given"], (pictures["0"], pictures["1"]))


def _outlined(rgb: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The picture with the hole's border drawn: one white pixel outside, one black pixel inside."""
    import cv2

    inside, outlined = hole.astype(np.uint8), rgb.copy()
    kernel = np.ones((3, 3), np.uint8)
    outlined[cv2.dilate(inside, kernel) > inside] = 255
    outlined[inside > cv2.erode(inside, kernel, borderValue=1)] = 0
    return outlined


# --------------------------------------------------------------------------------------------------------------- page


def write(folder: Path, pairs: Sequence[Pair], names: tuple[str, str], seed: int) -> Path:
    """Write ``blind.html`` and ``blind-key.json`` into a folder; returns the page's path."""
    questions = [
        {"question": pair.question, "given": _png(pair.given)}
        | {side: _png(pair.results[which]) for side, which in zip(SIDES, (pair.left, 1 - pair.left), strict=True)}
        for pair in pairs
    ]
    page = hashlib.sha256(json.dumps(questions).encode()).hexdigest()[:16]
    sides = [
        {"protocol": pair.protocol, "picture": pair.picture, "left": names[pair.left], "right": names[1 - pair.left]}
        for pair in pairs
    ]
    key = {"page": page, "seed": seed, "methods": list(names), "pairs": sides}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE).write_text(_html(page, questions), encoding="utf-8")
    (folder / KEY).write_text(json.dumps(key, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder / PAGE


def _png(picture: np.ndarray) -> str:
    """A data URI of a PNG file without metadata."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _html(page: str, questions: Sequence[dict[str, str]]) -> str:
    """One page that fetches nothing; its policy forbids it, too."""
    data = json.dumps({"page": page, "pairs": questions}).replace("<", "\\u003c")
    return (Path(__file__).parent / "blind.html").read_text(encoding="utf-8").replace("@PAIRS@", data)


# -------------------------------------------------------------------------------------------------------------- score


@dataclass(frozen=True)
class Tally:
    """How often each of two methods was preferred, and how often neither of them."""

    wins: tuple[int, int]
    ties: int


@dataclass(frozen=True)
class Score:
    """The result of a blind comparison.

    Attributes:
        asked: the number of pairs on the page; some may not be answered.
        protocols: a tally per protocol.
    """

    methods: tuple[str, str]
    asked: int
    all: Tally
    protocols: dict[str, Tally]


def score(choices: str | Path, key: str | Path) -> Score:
    """Count the choices with the help of the key.

    Raises FileNotFoundError for a missing file, ValueError for files that are damaged or of different pages.
    """
    answers, key_tree = _read_object(Path(choices), "choices"), _read_object(Path(key), "key")
    names, pairs = _checked_key(Path(key), key_tree)
    if not isinstance(answers.get("choices"), dict) or not isinstance(answers.get("page"), str):
        raise ValueError(f"score: {choices} must hold page and choices, as the page saves them; save it again")
    if answers["page"] != key_tree["page"]:
        raise ValueError(f"score: {choices} is of another page than {key}; name the key of its page with --key")
    counts: dict[str, Counter[str]] = {}
    numbers = {str(i + 1) for i in range(len(pairs))}
    for number, choice in answers["choices"].items():
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


def _read_object(path: Path, what: str) -> dict[str, Any]:
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
    if not known or not all(_is_pair(each, names) for each in pairs):
        raise ValueError(f"score: {path} is no key of a blind comparison; name the {KEY} beside its page")
    return (names[0], names[1]), pairs


def _is_pair(pair: Any, names: list[str]) -> bool:
    """Whether an entry of the key names a protocol, and the two methods on its two sides."""
    if not isinstance(pair, dict) or not isinstance(pair.get("protocol"), str):
        return False
    return [pair.get("left"), pair.get("right")] in (names, names[::-1])


def as_text(result: Score) -> str:
    """Wins, ties, the sign test and an interval; and a table if there are several protocols."""
    (a, b), tally = result.methods, result.all
    first, second = tally.wins
    decided = first + second
    low, high = proportion_interval(first, decided)
    lines = [
        f"{a} against {b}: {decided + tally.ties} of {result.asked} pairs judged",
        f"{a} preferred: {first}",
        f"{b} preferred: {second}",
        f"no difference: {tally.ties}",
    ]
    if decided:
        share = f"{first / decided:.1%} [{low:.1%}, {high:.1%}]"
        lines.append(f"{a} is preferred in {share} of the {decided} decided pairs (95 % interval, Clopper-Pearson)")
    lines.append(f"two-sided sign test without ties: p = {sign_test(first, second):.4g}")
    if len(result.protocols) > 1:
        lines += ["", f"| protocol | {a} | {b} | no difference | p |", "|---|---|---|---|---|"]
        for name, each in result.protocols.items():
            cells = (*each.wins, each.ties, f"{sign_test(*each.wins):.3g}")
            lines.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
