"""What the best of several results is worth, against one result, by a distance that the score does not see.

    python benchmarks/seeds.py --data DIR --perceptual FILE [--limit 43] [--candidates 4]
    python benchmarks/seeds.py --data OTHERS --perceptual FILE --weights      # other photographs, to choose weights by

Each fill is made by the pipeline with ``best_of``, as a user makes it; the perceptual distance (SqueezeNet's) to the
photograph judges all of its candidates. A row's figure is the distance of the candidate that is chosen over the mean of
all, averaged over the fills, with a 95 % interval (bootstrap over photographs): below 1 = better than any one of them.
"first" is the one that is made without ``best_of``. Photographs are scaled to 256 pixels; holes come from a fixed seed.
Agreement and each fault of ``photofound.edits.scores`` have a row of their own. The last lines tell what a low score
says of a fill: the distance of the lowest sixth by score over the mean of its kind of hole.

The weights in ``photofound.edits.scores`` were chosen on training photographs, never on those that are judged.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from photofound.edits import scores
from photofound.eval import protocols
from photofound.eval.methods import PhotofoundMethod
from photofound.eval.metrics import bootstrap, perceptual
from photofound.eval.photographs import find_photographs
from photofound.model.vision import PerceptualNet

FILLS = ("strokes-20", "box-centre", "border-12.5", "object-erase")


class Watched:
    """Within the block, the candidates and the choice of every call of ``scores.choose``."""

    def __enter__(self) -> Watched:
        self.original, self.calls = scores.choose, list[dict[str, Any]]()

        def choose(pictures: Any, hole: Any, found: Any) -> int:
            chosen = self.original(pictures, hole, found)
            self.calls.append({"pictures": pictures, "hole": hole, "scores": found, "chosen": chosen})
            return chosen

        scores.choose = choose
        return self

    def __exit__(self, *_: Any) -> None:
        scores.choose = self.original


def fills(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The candidates of each fill: distances, faults, agreement, and which is chosen."""
    network = PerceptualNet.from_file(args.perceptual)
    method = PhotofoundMethod(args.model, teacher=args.teacher, best_of=args.candidates)
    photographs, names = find_photographs(args.data), args.protocols or FILLS
    for problem in protocols.problems(photographs, names, args.limit, max_side=256):
        assert problem.truth is not None
        with Watched() as watched:
            method.edit(problem, 0)
        ((call),) = watched.calls
        truth = problem.truth.astype(np.float32) / 255
        distances = [perceptual(network, picture.astype(np.float32), truth) for picture in call["pictures"]]
        faults = [asdict(each) for each in call["scores"]]
        rows = {name: [each[name] for each in faults] for name in faults[0]}
        rows["agreement"] = scores.disagreement(call["pictures"], call["hole"])
        total = [each.total for each in call["scores"]]
        print(problem.protocol, problem.name, *(f"{each:.4f}" for each in distances), call["chosen"], flush=True)
        yield {"kind": problem.protocol, "photo": problem.name, "distances": distances, "chosen": call["chosen"]} | {
            "rows": rows,
            "total": total,
        }


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
    parser.add_argument("--weights", action="store_true", help="also try other weights of agreement")
    args = parser.parse_args()

    found = list(fills(args))
    distances = np.array([each["distances"] for each in found])
    ratios, each_fill = distances / distances.mean(1, keepdims=True), np.arange(len(found))
    photographs = [each["photo"] for each in found]
    choices = {"best_of": np.array([each["chosen"] for each in found]), "the truth": distances.argmin(1)}
    choices["first"] = np.zeros(len(found), int)
    rows = {name: np.array([each["rows"][name] for each in found]) for name in found[0]["rows"]}
    choices |= {f"{name} alone": values.argmin(1) for name, values in rows.items() if np.ptp(values)}
    if args.weights:
        faults = sum(scores.WEIGHTS[name] * values for name, values in rows.items() if name != "agreement")
        for weight in (0, 0.5, 1, 2, 4, 8, 16):
            choices[f"faults + {weight} x agreement"] = (faults + weight * rows["agreement"]).argmin(1)
    print(f"\n{len(found)} fills, {args.candidates} candidates\n\n| chosen by | ratio | 95 % |\n|---|---|---|")
    for name, chosen in choices.items():
        made = ratios[each_fill, chosen]
        low, high = interval(made, photographs)
        print(f"| {name} | {made.mean():.4f} | {low:.4f} to {high:.4f} |")
    total = np.array([each["total"][0] for each in found])
    kinds = np.array([each["kind"] for each in found])
    beside = np.array([distances[i, 0] / distances[kinds == kinds[i], 0].mean() for i in each_fill])
    low = total <= np.quantile(total, 1 / 6)
    print(f"\nlowest sixth by score (up to {total[low].max():.3f}): {beside[low].mean():.2f} of the mean distance of")
    print(
        f"their kind; the others: {beside[~low].mean():.2f}. Below {scores.BELOW}: {(total < scores.BELOW).mean():.0%}"
    )


if __name__ == "__main__":
    main()
