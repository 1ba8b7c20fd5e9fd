"""Model cards, written from what runs recorded.

    photofound card runs/mine --eval report/report.json --price 2.5 --watts 700

A card is a README.md in the Hub's format beside a model's weights. ``card.md`` is its template. It is made from

- the components' configurations and the headers of their weights: architecture and parameters;
- ``training.json`` (``photofound.card.record``): data, recipe, hours and hardware of all trainings;
- ``evaluation.json``: the tables of a report of ``photofound eval``;
- ``about.yaml``, if there is one: what no record knows (see ``About``).

All of it lies in the model's folder, so ``photofound card MODEL`` makes the same card again. The card says which facts
are unknown.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from photofound import config
from photofound.card import evaluation as evaluations
from photofound.card import facts, record
from photofound.card.rates import GRID, Rates
from photofound.card.record import Training

CARD, ABOUT, EVALUATION = "README.md", "about.yaml", "evaluation.json"
FILES = (CARD, ABOUT, EVALUATION, record.MODEL)  # the card and what it is made from, without its pictures


@dataclass(frozen=True)
class Limit:
    """Something that the model does badly, optionally with a picture of it: a file beside the card."""

    text: str
    picture: str | None = None


@dataclass(frozen=True)
class About:
    """What no record knows: ``about.yaml``, written by the model's author.

    Attributes:
        licence: of the weights, by the Hub's name for it; "" = not decided, which the card says.
        price, watts, grid: see ``photofound.card.rates.Rates``.
        use, people, brands: in place of the card's general sentences.
        limits: what was observed. The card adds the metrics by which other methods are better.
    """

    name: str = ""
    summary: str = ""
    licence: str = ""
    base_model: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    currency: str = "$"
    price: dict[str, float] = field(default_factory=dict)
    watts: dict[str, float] = field(default_factory=dict)
    grid: float = GRID
    use: str = ""
    limits: tuple[Limit, ...] = ()
    people: str = ""
    brands: str = ""


# -------------------------------------------------------------------------------------------------------------- writing


def write(
    folder: Path,
    trainings: Sequence[Training],
    report: Mapping[str, Any] | None = None,
    method: str | None = None,
    price: Mapping[str, float] | None = None,
    watts: Mapping[str, float] | None = None,
) -> Path:
    """Write ``training.json``, ``evaluation.json`` and the card of the model in ``folder``; returns the card's path.

    Args:
        report: of ``photofound eval``; None if the model has not been evaluated.
        method: the model's name in the report; None: the name of the model.
        price, watts: in place of those in ``about.yaml``.

    Raises ValueError for a report or an ``about.yaml`` that do not fit.
    """
    about = read_about(folder)
    about = replace(about, price=dict(price or about.price), watts=dict(watts or about.watts))
    evaluation = evaluations.excerpt(report, method or about.name or name_of(folder)) if report else None
    text = render(folder, trainings, about, evaluation)
    if trainings:
        record.write(folder / record.MODEL, trainings)
    (folder / EVALUATION).unlink(missing_ok=True)
    if evaluation:
        (folder / EVALUATION).write_text(json.dumps(evaluation, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / CARD).write_text(text, encoding="utf-8")
    return folder / CARD


def name_of(folder: Path) -> str:
    """The name of a model: that of its folder; the ``model`` folder of a run has the run's name."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "model" else folder.name


def read_about(folder: Path) -> About:
    """``about.yaml`` of a folder, or the defaults. Raises ValueError for unknown keys and missing pictures."""
    path = folder / ABOUT
    about = config.load(About, path if path.is_file() else None)
    for limit in about.limits:
        if limit.picture and Path(limit.picture).name != limit.picture:
            raise ValueError(f"card: {path} names {limit.picture}, which is a path; put the picture beside it")
        if limit.picture and not (folder / limit.picture).is_file():
            raise ValueError(f"card: {path} names {limit.picture}, which is not beside it; add the picture")
    return about


def copy_card(source: Path, folder: Path) -> bool:
    """Copy the card of one model's folder, with the files that belong to it, into another.

    Returns False if there is no card.
    """
    if not (source / CARD).is_file():
        return False
    pictures = (limit.picture for limit in read_about(source).limits if limit.picture)
    for name in (*FILES, *pictures):
        if (source / name).is_file() and source.resolve() != folder.resolve():
            shutil.copyfile(source / name, folder / name)
    return True


# ------------------------------------------------------------------------------------------------------------- the card

_SUMMARY = "An editor of photographs: one latent diffusion transformer for several edits, made with photofound."

_USE = """For editing photographs that you have the right to edit, with a person who checks the results, and as a start
for fine-tuning. The pipeline keeps the given pixels exact, whatever the model paints."""

_PEOPLE = """Do not use it to change how a person looks without their consent, or to show a person in a place where they
were not. It does not recognise people. Nobody checked whether the training photographs show any."""

_BRANDS = """The training photographs may show trade marks. Outpainting keeps a product's own marks, pixel for pixel.
Painted parts may resemble other marks by accident. Check before you publish."""


def render(
    folder: Path,
    trainings: Sequence[Training] = (),
    about: About | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> str:
    """The card as Markdown with the Hub's front matter; ``evaluation`` is an excerpt of a report."""
    from huggingface_hub import ModelCard

    about = about or About()
    name = about.name or name_of(folder)
    trainings = facts.with_unique_names(trainings)
    content = {
        "name": name,
        "summary": about.summary.strip() or _SUMMARY,
        "licence": about.licence,
        "use": about.use.strip() or _USE,
        "people": about.people.strip() or _PEOPLE,
        "brands": about.brands.strip() or _BRANDS,
        "table": table,
        "bullets": lambda lines: "\n".join(f"- {line}" for line in lines),
        **_model(folder),
        **_training(trainings, Rates(about.price, about.watts, about.currency, about.grid)),
        **_data(trainings),
        **_evaluation(evaluation),
        "thousand": evaluations.cost_of_thousand(evaluation, about.price, about.currency),
        "limits": about.limits,
        "weaknesses": evaluations.weaknesses(evaluation),
    }
    template = Path(__file__).with_suffix(".md")
    return str(ModelCard.from_template(_front_matter(name, about, evaluation), str(template), **content)) + "\n"


def _front_matter(name: str, about: About, evaluation: Mapping[str, Any] | None) -> Any:
    from huggingface_hub import ModelCardData

    return ModelCardData(
        license=about.licence or "unknown",
        library_name="diffusers",
        pipeline_tag="image-to-image",
        tags=list(dict.fromkeys(("photofound", "inpainting", "outpainting", "super-resolution", *about.tags))),
        model_name=name,
        eval_results=_eval_results(evaluation) or None,
        base_model=list(about.base_model) or None,
        datasets=list(about.datasets) or None,
    )


def _eval_results(evaluation: Mapping[str, Any] | None) -> list[Any]:
    """The model's own figures for the Hub's index."""
    from huggingface_hub import EvalResult

    if not evaluation:
        return []
    metrics = evaluation.get("metrics", {})
    return [
        EvalResult(
            task_type="image-to-image",
            task_name=protocol,
            dataset_type=protocol,
            dataset_name=f"{protocol}, {summary['pictures']} photographs",
            metric_type=metric,
            metric_name=metrics.get(metric, {}).get("title", metric),
            metric_value=float(f"{figure['value']:.5g}"),
        )
        for protocol, summaries in evaluations.by_protocol(evaluation).items()
        for summary in summaries
        if summary["method"] == evaluation["method"]
        for metric, figure in summary["figures"].items()
        if figure["value"] is not None and metric not in evaluations.COSTS
    ]


# ------------------------------------------------------------------------------------------- what the template is given


def _model(folder: Path) -> dict[str, Any]:
    parts = facts.components(folder)
    rows = [
        (c.name, f"`{c.kind}`", c.shape, facts.count_text(c.parameters), c.dtype, facts.bytes_text(c.bytes))
        for c in parts
    ]
    return {
        "components": rows,
        "parameters": facts.count_text(sum(part.parameters for part in parts if part.name != "teacher")),
        "size": facts.bytes_text(sum(part.bytes for part in parts)),
    }


def _training(trainings: Sequence[Training], rates: Rates) -> dict[str, Any]:
    rows = [(t.name, ", ".join(t.parts) or "unknown", *_counts([t]), *facts.cost_cells([t], rates)) for t in trainings]
    total = (*_counts(trainings), *facts.cost_cells(trainings, rates))
    if len(trainings) > 1:
        rows.append(("**all**", "", *total))
    return {
        "trainings": trainings,
        "total": dict(zip(("updates", "samples", "hours", "hardware", "energy", "carbon", "cost"), total, strict=True)),
        "costs": rows,
        "rates": facts.rates_text(trainings, rates),
        "notes": [f"{training.name}: {note}." for training in trainings for note in training.notes],
        "sessions": [
            (t.name, *facts.session_cells(session), facts.main_settings(t)) for t in trainings for session in t.sessions
        ],
    }


def _counts(trainings: Sequence[Training]) -> tuple[str, str]:
    """Updates and samples of some trainings together."""
    return facts.number_text(sum(t.steps for t in trainings)), facts.number_text(sum(t.samples for t in trainings))


def _data(trainings: Sequence[Training]) -> dict[str, Any]:
    users, every = facts.users_of_origins(trainings), sum(bool(training.data) for training in trainings)
    rows = [
        (
            o.source or "not named",
            facts.number_text(o.photographs),
            o.licence or "unknown",
            facts.names_text(names, every),
        )
        for o, names in users.items()
    ]
    counts: dict[int, list[str]] = {}
    for training in (each for each in trainings if each.data):
        counts.setdefault(sum(origin.photographs or 0 for origin in training.data), []).append(training.name)
    filtering = dict.fromkeys(line for training in trainings for line in training.filtering)
    return {
        "origins": rows,
        "photographs": "; ".join(
            f"{facts.names_text(names, every)}: {count:,} photographs" for count, names in counts.items()
        ),
        "most_photographs": max(counts, default=0),
        "unlicensed": sum(not origin.licence for origin in users),
        "filtering": "; ".join(filtering) or "no record",
    }


def _evaluation(evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    if not evaluation:
        return {"evaluation": None}
    figures = [figure for each in evaluation["summary"] for figure in each["figures"].values()]
    known = any(figure.get("low") is not None for figure in figures)
    return {
        "evaluation": evaluation,
        "intervals": "with their 95 % intervals" if known else "without intervals, which were not computed",
        "protocols": evaluations.by_protocol(evaluation),
        "figure_table": evaluations.figure_table,
        "comparisons": evaluations.comparisons(evaluation),
        "legend": evaluations.legend(evaluation),
        "facts": "; ".join(f"{key}: {value}" for key, value in evaluation.get("about", {}).items()),
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
