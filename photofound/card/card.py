"""Model cards, written from what runs recorded, and the contact sheets that go with them.

    photofound card runs/mine --eval report/report.json --price 2.5 --watts 700

A card is a README.md in the Hub's format beside a model's weights. It is made of

- the components' configurations and the headers of their weights: architecture and parameters;
- ``training.json`` (``photofound.card.record``): data, recipe, hours and hardware of the whole chain;
- ``evaluation.json``: the tables of a report of ``photofound eval``;
- ``about.yaml``, if somebody wrote one: what no record knows (see ``About``).

All of it lies in the model's folder, so that ``photofound card MODEL`` makes the same card again. What is not known is
said to be unknown.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from photofound import config, files
from photofound.card import record
from photofound.card.record import Training
from photofound.model.folder import one_line, read_json

CARD, ABOUT, EVALUATION = "README.md", "about.yaml", "evaluation.json"
FILES = (CARD, ABOUT, EVALUATION, record.MODEL)  # all that a card is and is made of, but for pictures

# --------------------------------------------------------------------------------------------------------- what is told


@dataclass(frozen=True)
class Limit:
    """Something that the model does badly, with a picture of it: a file beside the card."""

    text: str
    picture: str | None = None


@dataclass(frozen=True)
class About:
    """What no record knows, from ``about.yaml``; whoever made the model writes it once.

    Attributes:
        licence: of the weights, by the Hub's name for it; "" = not decided, which the card says.
        price, watts: of one device for an hour and while it computes, by a part of the device's name; "" = of all.
        use, people, brands: in place of the card's general sentences.
        limits: what was seen; where it is behind other methods is added from the evaluation.
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
    use: str = ""
    limits: tuple[Limit, ...] = ()
    people: str = ""
    brands: str = ""


@dataclass(frozen=True)
class Component:
    """One component of a pipeline, by its configuration and the headers of its weights."""

    name: str
    kind: str
    shape: str
    parameters: int
    dtype: str
    bytes: int


def components(folder: Path) -> list[Component]:
    """Those of a folder in diffusers layout that have weights; a student's teacher is one more."""
    index = read_json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    names = [name for name, entry in index.items() if isinstance(entry, list) and any(entry)]
    return [_component(folder / name) for name in (*names, "teacher") if any((folder / name).glob("*.safetensors"))]


def _component(folder: Path) -> Component:
    from safetensors import safe_open

    tree = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    parameters = 0
    kinds: dict[str, None] = {}
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with one_line("model", file), safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                part = tensors.get_slice(name)
                parameters += math.prod(part.get_shape())
                kinds[part.get_dtype()] = None
    kind = tree.get("_class_name") or ", ".join(tree.get("architectures") or ()) or "unknown"
    size = sum(file.stat().st_size for file in files)
    return Component(folder.name, kind, _shape(tree), parameters, ", ".join(kinds), size)


_SHAPE = {
    "depth": "{} blocks", "hidden_size": "width {}", "num_heads": "{} heads", "patch_size": "patch {}",
    "in_channels": "{} channels in", "latent_channels": "{} latent channels", "num_layers": "{} layers",
    "d_model": "width {}", "condition_space": "condition in {}", "prediction_type": "predicts the {}",
    "tasks": "tasks: {}",
}  # fmt: skip


def _shape(tree: Mapping[str, Any]) -> str:
    """What a configuration says that people ask about."""
    said = {key: ", ".join(v) if isinstance(v, list) else v for key, v in tree.items() if key in _SHAPE}
    return "; ".join(words.format(said[key]) for key, words in _SHAPE.items() if said.get(key) is not None)


# -------------------------------------------------------------------------------------------------------------- writing


def write(
    folder: Path,
    trainings: Sequence[Training],
    report: Mapping[str, Any] | None = None,
    method: str | None = None,
    price: Mapping[str, float] | None = None,
    watts: Mapping[str, float] | None = None,
) -> Path:
    """Write ``training.json``, ``evaluation.json`` and the card of the model in ``folder``; the card's path.

    Args:
        report: of ``photofound eval``; None: the model has not been evaluated.
        method: which of the report's methods this model is; None: the one that is called like it.
        price, watts: in place of those in ``about.yaml``.

    Raises ValueError for a report or an ``about.yaml`` that do not fit.
    """
    about = read_about(folder)
    about = replace(about, price=dict(price or about.price), watts=dict(watts or about.watts))
    evaluation = reduced(report, method or about.name or name_of(folder)) if report else None
    text = render(folder, trainings, about, evaluation)
    if trainings:
        record.write(folder / record.MODEL, trainings)
    (folder / EVALUATION).unlink(missing_ok=True)
    if evaluation:
        (folder / EVALUATION).write_text(json.dumps(evaluation, indent=1, ensure_ascii=False) + "\n")
    (folder / CARD).write_text(text)
    return folder / CARD


def name_of(folder: Path) -> str:
    """What a model's folder is called; a run's ``model`` is called like the run."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "model" else folder.name


def read_about(folder: Path) -> About:
    """``about.yaml`` of a folder, or what can be said without one. Raises ValueError for unknown keys, and for
    pictures that are not there."""
    path = folder / ABOUT
    about = config.load(About, path if path.is_file() else None)
    for limit in about.limits:
        if limit.picture and Path(limit.picture).name != limit.picture:
            raise ValueError(f"card: {path} names {limit.picture}, which is a path; put the picture beside it")
        if limit.picture and not (folder / limit.picture).is_file():
            raise ValueError(f"card: {path} names {limit.picture}, which is not beside it; add the picture")
    return about


def read_report(path: Path) -> dict[str, Any]:
    """A report.json. Raises FileNotFoundError and ValueError for anything else."""
    if not path.is_file():
        raise FileNotFoundError(f"card: {path} does not exist; write it with 'photofound eval PHOTOS -o DIR'")
    try:
        tree = files.parse_json(files.read(path), "it")
        if not all(each["figures"].items() for each in tree["summary"]):
            raise ValueError("a summary without figures")
        return tree
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"card: {path} is no report of 'photofound eval' ({error}); name its report.json") from None


def reduced(report: Mapping[str, Any], method: str) -> dict[str, Any]:
    """What a card needs of a report: its summary, which of its methods the model is, and the paired differences from
    which ``standing`` judges."""
    names = list(dict.fromkeys(each["method"] for each in report["summary"]))
    found = report.get("method") or next((name for name in names if name == method), None)
    found = found or next((name for name in names if name.startswith(method)), None)
    if found is None:
        raise ValueError(f"card: the report has no method {method!r}; name one of {', '.join(names)} with --method")
    kept = {key: report[key] for key in ("about", "metrics", "models", "summary") if key in report}
    paired = [each for each in report.get("differences", ()) if each["method"] == found and each["metric"] in _JUDGED]
    kept |= {"differences": paired} if paired else {}
    return {"method": found} | record.placeless(kept)


def carry(source: Path, folder: Path) -> bool:
    """Copy the card of one model's folder, and what belongs to it, into another; whether there was one."""
    if not (source / CARD).is_file():
        return False
    about = read_about(source)
    named = [*FILES, *(limit.picture for limit in about.limits if limit.picture)]
    for name in named:
        if (source / name).is_file() and source.resolve() != folder.resolve():
            shutil.copyfile(source / name, folder / name)
    return True


# ------------------------------------------------------------------------------------------------------------- the card


def render(
    folder: Path,
    trainings: Sequence[Training] = (),
    about: About | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> str:
    """The card as Markdown with its front matter, checked by the Hub's own reader."""
    from huggingface_hub import ModelCard

    about = about or About()
    name = about.name or name_of(folder)
    parts, trainings = components(folder), _numbered(trainings)
    sections = [
        f"# {name}\n\n{about.summary.strip() or _SUMMARY}",
        _model(parts),
        _usage(),
        _training(trainings, about),
        _data(trainings),
        _recipe(trainings),
        _evaluation(evaluation),
        "## Intended use\n\n" + (about.use.strip() or _USE),
        _limits(about, evaluation),
        _safety(about),
    ]
    front = _front(name, about, evaluation)
    text = f"---\n{front}\n---\n\n" + "\n\n".join(sections) + "\n"
    ModelCard(text)  # raises where the front matter is not what the Hub reads
    return text


def _front(name: str, about: About, evaluation: Mapping[str, Any] | None) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license=about.licence or "unknown",
        library_name="diffusers",
        pipeline_tag="image-to-image",
        tags=list(dict.fromkeys(("photofound", "inpainting", "outpainting", "super-resolution", *about.tags))),
        model_name=name,
        eval_results=_results(evaluation) or None,
        base_model=list(about.base_model) or None,
        datasets=list(about.datasets) or None,
    )
    return data.to_yaml().strip()


def _results(evaluation: Mapping[str, Any] | None) -> list[Any]:
    """The model's own figures as the Hub's index wants them."""
    from huggingface_hub import EvalResult

    if not evaluation:
        return []
    titles = evaluation.get("metrics", {})
    return [
        EvalResult(
            task_type="image-to-image",
            task_name=each["protocol"],
            dataset_type=each["protocol"],
            dataset_name=f"{each['protocol']}, {each['pictures']} photographs",
            metric_type=metric,
            metric_name=titles.get(metric, {}).get("title", metric),
            metric_value=float(f"{figure['value']:.5g}"),
        )
        for each in evaluation["summary"]
        if each["method"] == evaluation["method"]
        for metric, figure in each["figures"].items()
        if figure["value"] is not None and metric not in _COSTS
    ]


_JUDGED = ("perceptual", "y_psnr", "psnr")  # by the first that there is
_STRONGEST = "PatchMatch"  # of what fills holes without a model; a claim without it would be empty
_COSTS = ("seconds", "memory")  # of one machine; no quality

_SUMMARY = "An editor of photographs: one latent diffusion transformer for several edits, made with photofound."


def _model(parts: Sequence[Component]) -> str:
    rows = [(c.name, f"`{c.kind}`", c.shape, _count(c.parameters), c.dtype, _bytes(c.bytes)) for c in parts]
    total = sum(part.parameters for part in parts if part.name != "teacher")
    size = sum(part.bytes for part in parts)
    table = _table(("component", "class", "shape", "parameters", "weights", "size"), rows)
    return f"## Model\n\n{table}\n\n{_count(total)} parameters, {_bytes(size)} of safetensors."


def _usage() -> str:
    return """## How to use

```
pip install photofound
photofound outpaint cup.png --prompt "on a marble table" --model FOLDER_OR_ID
```

```python
from photofound import InpaintPipeline

pipe = InpaintPipeline.from_pretrained("FOLDER_OR_ID")
pipe("room.jpg", mask_image="mask.png", prompt="a plant").images[0]
```"""


# --------------------------------------------------------------------------------------------------------- the training


def _training(trainings: Sequence[Training], about: About) -> str:
    if not trainings:
        return "## Training\n\nNo record: nothing is known here of how these weights were made."
    rows = [(*_what(t), *_spent([t], about)) for t in trainings]
    if len(trainings) > 1:
        total = ("**all**", "", _number(sum(t.steps for t in trainings)), _number(sum(t.samples for t in trainings)))
        rows.append((*total, *_spent(trainings, about)))
    head = ("training", "of", "updates", "samples", "hours", "hardware", "energy", "cost")
    notes = [f"- {t.name}: {note}." for t in trainings for note in t.notes]
    return "\n\n".join(
        ["## Training", _table(head, rows), _rates(trainings, about), *(["\n".join(notes)] * bool(notes))]
    )


def _numbered(trainings: Iterable[Training]) -> list[Training]:
    """The same, with names of their own: pretrain, pretrain 2, ..."""
    seen: Counter[str] = Counter()
    named = []
    for training in trainings:
        seen[training.name] += 1
        number = f" {seen[training.name]}" * (seen[training.name] > 1)
        named.append(replace(training, name=training.name + number))
    return named


def _what(training: Training) -> tuple[str, ...]:
    parts = ", ".join(training.parts) or "unknown"
    return training.name, parts, _number(training.steps), _number(training.samples)


def _spent(trainings: Sequence[Training], about: About) -> tuple[str, ...]:
    """Hours by the clock, devices, energy and cost of some trainings together."""
    devices: dict[str, float] = {}
    for training in trainings:
        for device, hours in training.device_hours.items():
            devices[device] = devices.get(device, 0.0) + hours
    energy, cost = _priced(devices, about.watts), _priced(devices, about.price)
    hardware = "; ".join(f"{_hours(hours)} of {device or 'unknown hardware'}" for device, hours in devices.items())
    clock = sum(training.hours for training in trainings)
    spent = "unknown" if energy is None else f"{energy / 1000:.2g} kWh"
    return _hours(clock), hardware, spent, "unknown" if cost is None else f"{about.currency}{cost:,.2f}"


def _priced(devices: Mapping[str, float], rates: Mapping[str, float]) -> float | None:
    """The sum over devices of hours times the rate; None where one has no rate."""
    found = [(hours, rate_of(device, rates)) for device, hours in devices.items()]
    return None if any(rate is None for _, rate in found) else sum(hours * rate for hours, rate in found if rate)


def rate_of(device: str, rates: Mapping[str, float]) -> float | None:
    """The rate whose name is a part of the device's, else the one for all, else None."""
    named = (rate for name, rate in rates.items() if name and name.lower() in device.lower())
    return next(named, rates.get(""))


def _rates(trainings: Iterable[Training], about: About) -> str:
    """What energy and cost are computed from."""
    devices = dict.fromkeys(device for training in trainings for device in training.device_hours)
    said = []
    for device in devices:
        watts, price = rate_of(device, about.watts), rate_of(device, about.price)
        parts = [
            f"{watts:g} W" if watts is not None else "",
            f"{about.currency}{price:g} an hour" if price is not None else "",
        ]
        if any(parts):
            said.append(f"{device or 'unknown hardware'}: {' and '.join(filter(None, parts))}")
    if not said:
        return "Energy was not measured, and no power or price was stated to estimate it from."
    return f"Energy was not measured: energy and cost are hours times what was stated ({'; '.join(said)})."


def _data(trainings: Sequence[Training]) -> str:
    users: dict[record.Origin, list[str]] = {}
    for training in trainings:
        for origin in training.data:
            users.setdefault(origin, []).append(training.name)
    if not users:
        return "## Data\n\nNo record of the training data."
    rows = [
        (
            origin.source or "not named",
            _number(origin.photographs),
            origin.licence or "unknown",
            ", ".join(dict.fromkeys(names)),
        )
        for origin, names in users.items()
    ]
    counts = {t.name: sum(o.photographs or 0 for o in t.data) for t in trainings if t.data}
    totals = "; ".join(f"{name}: {_number(count)} photographs" for name, count in counts.items())
    unknown = sum(not origin.licence for origin in users)
    words = [f"In all, {totals}." + (f" The licence of {unknown} of the rows is unknown." if unknown else "")]
    filtering = list(dict.fromkeys(line for training in trainings for line in training.filtering))
    words.append("Filtering: " + ("; ".join(filtering) if filtering else "no record") + ".")
    return "## Data\n\n" + "\n\n".join([_table(("source", "photographs", "licence", "used by"), rows), *words])


def _recipe(trainings: Sequence[Training]) -> str:
    """Every setting and every session, folded away."""
    import yaml

    if not trainings:
        return "## Recipe\n\nNo record."
    blocks = ["## Recipe", "Every training's complete configuration, and its sessions: what was changed on the way."]
    for training in trainings:
        rows = [
            (s.date or "unknown", _number(s.steps), _hours(s.seconds / 3600), _devices(s), s.torch or "unknown",
             ", ".join(f"`{name}` {change}" for name, change in s.changed.items()) or "-")
            for s in training.sessions
        ]  # fmt: skip
        settings = yaml.safe_dump(training.settings, sort_keys=False, allow_unicode=True).strip()
        blocks += [
            f'<details markdown="1"><summary>{training.name}</summary>',
            _table(("begun", "updates", "time", "devices", "torch", "changed"), rows),
            f"```yaml\n{settings}\n```",
            "</details>",
        ]
    return "\n\n".join(blocks)


def _devices(session: record.Session) -> str:
    return f"{session.count} x {session.device}" if session.device else "unknown"


# ------------------------------------------------------------------------------------------------------- the evaluation


def _evaluation(evaluation: Mapping[str, Any] | None) -> str:
    if not evaluation:
        return "## Evaluation\n\nThese weights have not been evaluated, or the figures are not here."
    metrics = evaluation.get("metrics", {})
    known = any(f.get("low") is not None for each in evaluation["summary"] for f in each["figures"].values())
    intervals = "with their 95 % intervals" if known else "without intervals, which were not computed"
    blocks = ["## Evaluation", f"Means over photographs, {intervals}; the best of a column in bold."]
    for protocol, methods in _by_protocol(evaluation).items():
        names = list(dict.fromkeys(name for each in methods for name in each["figures"]))
        best = {name: _best(methods, name, metrics.get(name, {}).get("better")) for name in names}
        rows = [(each["method"], *(_figure(each, n, metrics, best[n]) for n in names)) for each in methods]
        head = ("method", *(metrics.get(name, {}).get("title", name) for name in names))
        blocks += [f"### {protocol}, {methods[0]['pictures']} photographs", _table(head, rows)]
    said = standing(evaluation)
    blocks += ["### Beside methods without a model", "\n".join(f"- {line}" for line in said)] if said else []
    facts = [f"{key}: {value}" for key, value in evaluation.get("about", {}).items()]
    legend = [f"- **{m['title']}**: {m['about']}." for m in metrics.values() if _used(m, evaluation) and m.get("about")]
    return "\n\n".join([*blocks, *(["\n".join(legend)] * bool(legend)), *(["; ".join(facts) + "."] * bool(facts))])


def _by_protocol(evaluation: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for each in evaluation["summary"]:
        grouped.setdefault(each["protocol"], []).append(each)
    return grouped


def standing(evaluation: Mapping[str, Any] | None) -> list[str]:
    """Sentences on where the model is better than every method without one, and where not, computed from the figures.

    It is better than another where the paired interval of their difference leaves out 0, or, in a report without
    differences, where its mean is better. Of filling holes nothing is claimed unless PatchMatch was asked, too.
    """
    said = []
    for protocol, methods in _by_protocol(evaluation or {"summary": []}).items():
        assert evaluation is not None
        ours: Mapping[str, Any] = next(
            (each["figures"] for each in methods if each["method"] == evaluation["method"]), {}
        )
        metric = next((name for name in _JUDGED if ours.get(name, {}).get("value") is not None), None)
        others = {each["method"]: each["figures"] for each in methods if each["method"] != evaluation["method"]}
        rivals = [name for name in others if name not in ("untouched", *evaluation.get("models", ()))]
        rivals = [name for name in rivals if others[name].get(metric, {}).get("value") is not None]
        if metric is None or not rivals:
            continue
        title = evaluation["metrics"].get(metric, {}).get("title", metric)
        if "seam" in ours and _STRONGEST not in rivals:
            said.append(f"{protocol}: {_STRONGEST} was not asked, so nothing is claimed.")
            continue
        behind_of = [name for name in rivals if not _ahead(evaluation, protocol, metric, ours, name, others[name])]
        if not behind_of:
            said.append(f"{protocol}: better than every method without a model ({', '.join(rivals)}) by {title}.")
        for name in behind_of:
            mine, theirs = (_figure({"figures": f}, metric, evaluation["metrics"], None) for f in (ours, others[name]))
            worse = not _ahead({**evaluation, "differences": ()}, protocol, metric, ours, name, others[name])
            word = "worse than" if worse else "not surely better than"
            said.append(f"{protocol}: {word} {name}: {title} {mine} against {theirs}.")
    return said


def _ahead(
    evaluation: Mapping[str, Any],
    protocol: str,
    metric: str,
    ours: Mapping[str, Any],
    rival: str,
    theirs: Mapping[str, Any],
) -> bool:
    """Whether the model is better than a rival by a metric."""
    sign = evaluation["metrics"].get(metric, {}).get("better") or (-1 if metric == "perceptual" else 1)
    for each in evaluation.get("differences", ()):
        if (each["protocol"], each["rival"], each["metric"]) == (protocol, rival, metric):
            worst = each["figure"]["low" if sign > 0 else "high"]
            return worst is not None and sign * worst > 0
    return sign * (ours[metric]["value"] - theirs[metric]["value"]) > 0


def _used(metric: Mapping[str, Any], evaluation: Mapping[str, Any]) -> bool:
    return any(evaluation["metrics"].get(name) is metric for each in evaluation["summary"] for name in each["figures"])


def _best(methods: Sequence[Mapping[str, Any]], name: str, better: int | None) -> float | None:
    """The best value of a metric; None where none is better, or all are the same."""
    values = [each["figures"][name]["value"] for each in methods if name in each["figures"]]
    values = [value for value in values if value is not None]
    if better is None or len(set(values)) < 2:
        return None
    return max(values) if better > 0 else min(values) if better < 0 else min(values, key=abs)


def _figure(each: Mapping[str, Any], name: str, metrics: Mapping[str, Any], best: float | None) -> str:
    figure = each["figures"].get(name)
    if figure is None or figure["value"] is None:
        return "-"
    style = metrics.get(name, {}).get("style", ".4g")
    value, low, high = (
        None if x is None else format(x, style) for x in (figure["value"], figure.get("low"), figure.get("high"))
    )
    shown = f"**{value}**" if figure["value"] == best else str(value)
    return shown if None in (low, high) or low == high else f"{shown} [{low}, {high}]"


# ------------------------------------------------------------------------------------------------------- use and limits

_USE = """For editing photographs that you have the right to edit, with a person looking at the results, and as a start
for fine-tuning. Kept pixels are exact whatever the model paints: that is the pipeline's doing, not the weights'."""

_PEOPLE = """Do not use it to change how a person looks without their consent, or to show somebody where they were not.
Nothing in it recognises people; whether the training photographs show any was not checked."""

_BRANDS = """The training photographs may show trade marks. Outpainting keeps a product's own marks, pixel for pixel;
what is painted may resemble others by accident. Check before you publish."""


def _limits(about: About, evaluation: Mapping[str, Any] | None) -> str:
    lines = []
    for limit in about.limits:
        lines.append(
            f"- {limit.text.strip()}" + (f"\n\n  ![{limit.picture}]({limit.picture})\n" if limit.picture else "")
        )
    lines += [f"- {line}" for line in behind(evaluation)]
    if not about.limits:
        lines.append("- Nobody has written down here what these weights do badly. Look before you rely on them.")
    return "## Limits\n\n" + "\n".join(lines)


def behind(evaluation: Mapping[str, Any] | None) -> list[str]:
    """Sentences on where the model is worse than another method of its report; costs aside."""
    said = []
    for protocol, methods in _by_protocol(evaluation or {"summary": []}).items():
        assert evaluation is not None
        metrics = evaluation.get("metrics", {})
        ours: Mapping[str, Any] = next(
            (each for each in methods if each["method"] == evaluation["method"]), {"figures": {}}
        )
        for name in (n for n in ours["figures"] if n not in _COSTS):
            best = _best(methods, name, metrics.get(name, {}).get("better"))
            if best is None or ours["figures"][name]["value"] in (best, None):
                continue
            other = next(e for e in methods if e["figures"].get(name, {}).get("value") == best)
            title = metrics[name].get("title", name)
            mine, theirs = (_figure(each, name, metrics, None) for each in (ours, other))
            if mine != theirs:  # as they are shown
                said.append(f"{protocol}: {title} {mine}, where {other['method']} has {theirs}.")
    return said


def _safety(about: About) -> str:
    return f"""## Safety

- **People.** {about.people.strip() or _PEOPLE}
- **Brands.** {about.brands.strip() or _BRANDS}
- **Provenance.** What the command line saves says in its metadata that a part of it was generated (XMP, IPTC's digital
  source type `compositeWithTrainedAlgorithmicMedia`), unless `--no-mark` is given. It is a label, not a proof: it is
  not signed, and can be taken off. Do not pass results off as unedited photographs."""


# ------------------------------------------------------------------------------------------------------------- Markdown


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(value: int | None) -> str:
    return "not counted" if value is None else f"{value:,}"


def _count(parameters: int) -> str:
    for scale, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= scale:
            return f"{parameters / scale:.3g} {name}"
    return str(parameters)


def _bytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 10 else f"{hours:.2f} h" if hours >= 1 else f"{hours * 60:.1f} min"
