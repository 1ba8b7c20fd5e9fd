"""What the best of several results is worth, against one result, by a distance that the score does not see.

    python benchmarks/seeds.py --data DIR --perceptual FILE [--limit 43] [--candidates 4] [--rows FILE]

Each fill is made by the pipeline with ``best_of``, as a user makes it; the perceptual distance (SqueezeNet's) to the
photograph judges all of its candidates. A row's figure is the distance of the candidate that is chosen over that of the
first, which is the one that is made without ``best_of``, and over the mean of all; averaged over the fills, with 95 %
intervals (bootstrap over photographs): below 1 = better. Photographs are scaled to 256 pixels; holes come from a fixed
seed. Each fault of ``photofound.edits.scores`` has a row of its own. The last lines tell what a low
score says of a fill: the distance of the lowest sixth by score over the mean of its kind of hole.

``--rows`` keeps each fill's figures in a file (JSON lines): a run that was stopped goes on, and ``--part 1/2`` and
``--part 2/2`` may run side by side, with a file each; ``cat`` both into one for the table (``--table``).

The weights in ``photofound.edits.scores`` were chosen on training photographs, never on those that are judged.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from photofound.edits import scores
from photofound.edits.scores import Scores
from photofound.eval import protocols
from photofound.eval.methods import PhotofoundMethod
from photofound.eval.metrics import bootstrap, perceptual
from photofound.eval.photographs import find_photographs
from photofound.model.vision import PerceptualNet

FILLS = ("strokes-20", "box-centre", "border-12.5", "object-erase")


class Watched:
    """Within the block, the results that are judged, and their scores."""

    def __enter__(self) -> Watched:
        self.original, self.calls = scores.of_fill, list[tuple[np.ndarray, Scores]]()

        def of_fill(rgb: np.ndarray, *rest: Any, **more: Any) -> Scores:
            self.calls.append((rgb, self.original(rgb, *rest, **more)))
            return self.calls[-1][1]

        scores.of_fill = of_fill
        return self

    def __exit__(self, *_: Any) -> None:
        scores.of_fill = self.original


def fills(args: argparse.Namespace, known: set[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """The candidates of each fill that is not known yet: distances, faults, and which is chosen."""
    network = PerceptualNet.from_file(args.perceptual)
    method = PhotofoundMethod(args.model, teacher=args.teacher, best_of=args.candidates)
    photographs, names = find_photographs(args.data), args.protocols or FILLS
    part, parts = args.part
    for number, problem in enumerate(protocols.problems(photographs, names, args.limit, max_side=256)):
        if number % parts != part - 1 or (problem.protocol, problem.name) in known:
            continue
        assert problem.truth is not None
        with Watched() as watched:
            method.edit(problem, 0)
        truth = problem.truth.astype(np.float32) / 255
        distances = [perceptual(network, rgb.astype(np.float32), truth) for rgb, _ in watched.calls]
        found = [each for _, each in watched.calls]
        faults, total = [asdict(each) for each in found], [each.total for each in found]
        rows = {name: [float(each[name]) for each in faults] for name in faults[0]}
        chosen = int(np.argmin([each.faults for each in found]))
        print(problem.protocol, problem.name, *(f"{each:.4f}" for each in distances), chosen, flush=True)
        yield {"kind": problem.protocol, "photo": problem.name, "distances": distances, "chosen": chosen} | {
            "rows": rows,
            "total": total,
        }


def kept(file: Path | None) -> list[dict[str, Any]]:
    """The fills of a file of ``--rows``; a run that was stopped may have left half of a line."""
    found = []
    for line in file.read_text().splitlines() if file is not None and file.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def interval(values: np.ndarray, photographs: list[str]) -> tuple[float, float]:
    """Of the mean, from the means of photographs: fills of one are not independent."""
    groups = [values[[name == photo for name in photographs]].mean() for photo in dict.fromkeys(photographs)]
    return bootstrap(np.array(groups))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--perceptual", type=Path, required=True)
    parser.add_argument("--model", default="embedded", help="a folder or Hub id; default: the embedded model")
    parser.add_argument("--teacher", action="store_true")
    parser.add_argument("--protocols", type=lambda text: text.split(","), help=f"default: {','.join(FILLS)}")
    parser.add_argument("--limit", type=int, default=43)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--rows", type=Path, help="a file that keeps the fills' figures")
    parser.add_argument("--part", type=lambda text: tuple(map(int, text.split("/"))), default=(1, 1))
    parser.add_argument("--table", action="store_true", help="of the fills in --rows, without making others")
    args = parser.parse_args()

    found = kept(args.rows)
    for row in () if args.table else fills(args, {(each["kind"], each["photo"]) for each in found}):
        found.append(row)
        if args.rows is not None:
            with args.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
    table(found)


def table(found: list[dict[str, Any]]) -> None:
    """Print what choosing is worth."""
    distances = np.array([each["distances"] for each in found])
    over_mean, over_first = distances / distances.mean(1, keepdims=True), distances / distances[:, :1]
    each_fill, photographs = np.arange(len(found)), [each["photo"] for each in found]
    choices = {"best_of": np.array([each["chosen"] for each in found]), "the truth": distances.argmin(1)}
    choices |= {f"always number {i + 1}": np.full(len(found), i) for i in range(distances.shape[1])}
    rows = {name: np.array([each["rows"][name] for each in found]) for name in found[0]["rows"]}
    choices |= {f"{name} alone": values.argmin(1) for name, values in rows.items() if np.ptp(values)}
    print(f"\n{len(found)} fills of {len(set(photographs))} photographs, {distances.shape[1]} candidates\n")
    print("| chosen by | over the first | 95 % | over the mean | 95 % |\n|---|---|---|---|---|")
    for name, chosen in choices.items():
        cells = []
        for ratios in (over_first, over_mean):
            made = ratios[each_fill, chosen]
            low, high = interval(made, photographs)
            cells.append(f"{made.mean():.4f} | {low:.4f} to {high:.4f}")
        print(f"| {name} | {' | '.join(cells)} |")
    total = np.array([each["total"][0] for each in found])
    kinds = np.array([each["kind"] for each in found])
    for kind in dict.fromkeys(kinds):
        gain = over_first[each_fill, choices["best_of"]][kinds == kind].mean()
        print(f"best_of, {kind}: {gain:.4f} of the first")
    beside = np.array([distances[i, 0] / distances[kinds == kinds[i], 0].mean() for i in each_fill])
    low = total <= np.quantile(total, 1 / 6)
    print(f"\nlowest sixth by score (up to {total[low].max():.3f}): {beside[low].mean():.2f} of the mean distance of")
    print(
        f"their kind; the others: {beside[~low].mean():.2f}. Below {scores.BELOW}: {(total < scores.BELOW).mean():.0%}"
    )


if __name__ == "__main__":
    main()
