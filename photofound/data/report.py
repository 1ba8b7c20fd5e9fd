"""The report on a prepared collection: figures, and the page for people."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from photofound.card import record


def summarise(
    kept: Sequence[Mapping[str, Any]],
    dropped: Sequence[Mapping[str, Any]],
    shards: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The figures of a report.

    Args:
        kept: a line per photograph: width, height, matte, captions, source, licence.
        dropped: a line per photograph: why it was dropped.
        shards: entries of ``index.json``.
        seconds: pass -> its time in the last call.
    """
    origins = record.count_origins((line["source"], line["licence"]) for line in kept)
    return {
        "read": len(kept) + len(dropped),
        "kept": len(kept),
        "origins": [dataclasses.asdict(each) for each in origins],
        "dropped": dict(Counter(line["dropped"] for line in dropped).most_common()),
        "mattes": dict(Counter(line["matte"] for line in kept if line["matte"])),
        "captions": dict(Counter(kind for line in kept for kind in line["captions"])),
        "without caption": sum(not line["captions"] for line in kept),
        "short sides": histogram((min(line["width"], line["height"]) for line in kept), (256, 384, 512, 768, 1024)),
        "aspects": histogram((line["width"] / line["height"] for line in kept), (0.5, 0.67, 0.9, 1.12, 1.5, 2.0)),
        "shards": len(shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "seconds": {stage: round(value, 1) for stage, value in seconds.items()},
    }


def histogram(values: Iterable[float], edges: Sequence[float]) -> dict[str, int]:
    """How many lie below, between and above the edges."""
    names = [f"below {edges[0]}", *(f"{a} to {b}" for a, b in itertools.pairwise(edges)), f"from {edges[-1]}"]
    counts = Counter(int(np.searchsorted(edges, value, side="right")) for value in values)
    return {name: counts[i] for i, name in enumerate(names) if counts[i]}


def markdown(report: Mapping[str, Any]) -> str:
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
