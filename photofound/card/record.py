"""The record of how a model was made: the facts behind its card.

A record is a list of ``Training``, the oldest first: for example of an autoencoder, the pretraining on its latents, and
a distillation. A run writes ``record.json`` into its folder: the trainings of the models that it started from, then its
own. It writes the same as ``training.json`` beside the model that it exports. So a model's folder has the whole chain,
and hours and samples add up over it.

A training has sessions, one for each start of the run. Checkpoints hold them. A session that was resumed ends at its
checkpoint, so no step counts twice.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from photofound import config, files

RUN, MODEL = "record.json", "training.json"  # in a run's folder, beside a model's weights
INCOMPLETE = "a part of it ran before runs kept records: its hardware is unknown, its samples are an upper bound"


@dataclass(frozen=True)
class Origin:
    """Photographs of one source under one licence; "" if unknown, None if they were not counted."""

    source: str = ""
    licence: str = ""
    photographs: int | None = None


@dataclass(frozen=True)
class RoomRead:
    """Photographs that were read from a room (``photofound.room``).

    Attributes:
        room: the name of its folder.
        version: of its table.
        where: the query.
        digest: of the photographs' keys, by which the room knows which they were.
    """

    room: str
    version: int
    where: str = ""
    photographs: int = 0
    digest: str = ""


@dataclass(frozen=True)
class Session:
    """A part of a run, from its start or a checkpoint to its end or its last checkpoint.

    Attributes:
        device: the name of the device of each process; "" = not recorded.
        count: the number of devices.
        torch, photofound: versions.
        date: of the start, UTC.
        seconds: by the clock, the same for all devices.
        changed: settings that differ from the previous session: name -> "before -> now".
        joules: of all devices, as they measured it themselves; None = they did not.
    """

    device: str = ""
    count: int = 1
    torch: str = ""
    photofound: str = ""
    date: str = ""
    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    changed: dict[str, str] = field(default_factory=dict)
    joules: float | None = None


@dataclass(frozen=True)
class Training:
    """One training of some parts of a pipeline.

    Attributes:
        id: the same in every copy of this training, so that joined records count it once.
        name: the stage: autoencoder, pretrain, finetune, ...
        parts: components that it changed: vae, transformer, text_encoder, upscaler.
        settings: the run's last configuration, without paths.
        filtering: sentences on what was left out of the data.
        notes: other sentences for the card.
        rooms: the photographs that were read from data rooms.
    """

    id: str
    name: str
    parts: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    data: tuple[Origin, ...] = ()
    filtering: tuple[str, ...] = ()
    sessions: tuple[Session, ...] = ()
    notes: tuple[str, ...] = ()
    rooms: tuple[RoomRead, ...] = ()

    @property
    def steps(self) -> int:
        return sum(session.steps for session in self.sessions)

    @property
    def samples(self) -> int:
        return sum(session.samples for session in self.sessions)

    @property
    def hours(self) -> float:
        """By the clock."""
        return sum(session.seconds for session in self.sessions) / 3600

    @property
    def joules(self) -> float | None:
        """Energy as it was measured; None where a session's was not."""
        each = [session.joules for session in self.sessions]
        return None if not each or None in each else sum(filter(None, each))

    @property
    def device_hours(self) -> dict[str, float]:
        """Hours of each kind of device, all devices of that kind together."""
        total: Counter[str] = Counter()
        for session in self.sessions:
            total[session.device] += session.seconds * session.count / 3600  # type: ignore[assignment]
        return dict(total)


# ------------------------------------------------------------------------------------------------------ read and write


def read(path: Path) -> list[Training]:
    """The trainings in a file; empty if there is no file. Raises ValueError for a damaged one."""
    if not path.is_file():
        return []
    try:
        return from_plain(files.parse_json(files.read(path), "it")["trainings"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"record: {path} is damaged ({error}); restore it, or delete it to do without") from None


def write(path: Path, trainings: Sequence[Training]) -> None:
    """Write the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, json.dumps({"trainings": to_plain(trainings)}, indent=1, ensure_ascii=False) + "\n")


def from_plain(trees: Sequence[dict[str, Any]]) -> list[Training]:
    """The inverse of ``to_plain``. Raises ValueError for other data."""
    return [config.build(Training, tree, "training.") for tree in trees]


def to_plain(trainings: Sequence[Training]) -> list[dict[str, Any]]:
    """Dicts for JSON, without empty fields."""
    return [_without_defaults(config.to_dict(each)) for each in trainings]


def _without_defaults(tree: dict[str, Any]) -> dict[str, Any]:
    """Without empty fields, which ``read`` fills in, also in nested records; settings stay as they are."""
    lists = {k: [_without_defaults(x) for x in v] for k, v in tree.items() if k in ("data", "sessions", "rooms")}
    return {name: value for name, value in (tree | lists).items() if value not in ("", [], {}, None)}


def inherited(folder: str | Path | None) -> list[Training]:
    """The trainings behind a model's folder, or behind one component of it (``MODEL/vae``).

    A distillation is left out, since training a student further starts from its teacher. Empty for Hub ids and folders
    without a record.
    """
    if folder is None or not Path(folder).is_dir():
        return []
    folder = Path(folder)
    trainings = read(folder / MODEL) or [t for t in read(folder.parent / MODEL) if folder.name in t.parts]
    return [training for training in trainings if training.name != "distill"]


def join(*chains: Iterable[Training]) -> list[Training]:
    """The chains one after another, each training once; its last copy counts."""
    found: dict[str, Training] = {}
    for training in (training for chain in chains for training in chain):
        found[training.id] = training
    return list(found.values())


# -------------------------------------------------------------------------------------------------------- from the data


def count_origins(pairs: Iterable[tuple[str, str]]) -> tuple[Origin, ...]:
    """Counts (source, licence) pairs, one per photograph; the largest source comes first."""
    counts = Counter(pairs)
    totals: Counter[str] = Counter()
    for (source, _), count in counts.items():
        totals[source] += count
    order = sorted(counts, key=lambda pair: (-totals[pair[0]], pair[0], -counts[pair], pair[1]))
    return tuple(Origin(source, licence, counts[source, licence]) for source, licence in order)


def licence_of(metadata: Mapping[str, Any]) -> str:
    """The licence in a sample's metadata; "" if there is none."""
    texts = (str(metadata.get(name) or "").strip() for name in ("licence", "license"))
    return next(filter(None, texts), "")


def prepared(folder: str | Path) -> tuple[tuple[Origin, ...], tuple[str, ...]]:
    """Origins and filtering from the ``report.json`` that ``photofound train prepare`` writes beside its shards; empty
    without one."""
    try:
        report = files.parse_json(files.read_beside(folder, "report.json") or "", "report.json")
        origins = tuple(Origin(**each) for each in report.get("origins", ()))
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in report["dropped"].items()) or "none"
        return origins, (f"{report['kept']:,} of {report['read']:,} photographs kept; dropped: {dropped}",)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return (), ()


# ---------------------------------------------------------------------------------------------------------- from a run


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Settings that differ, by their dotted names."""
    old, new = _flat(before), _flat(now)
    return {name: f"{old.get(name)} -> {new.get(name)}" for name in {**old, **new} if old.get(name) != new.get(name)}


def without_paths(tree: Any) -> Any:
    """The configuration with file names in place of absolute paths: a card must not show the folders of a machine."""
    if isinstance(tree, Mapping):
        return {name: without_paths(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [without_paths(value) for value in tree]
    if isinstance(tree, str) and re.match(r"file://|[/~\\]|[A-Za-z]:[\\/]", tree):
        return re.split(r"[/\\]", tree.rstrip("/\\"))[-1]
    return tree


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def settings_of(run_dir: Path) -> dict[str, Any]:
    """A run's ``config.yaml``; empty without one. Raises ValueError if it holds no settings."""
    path = run_dir / "config.yaml"
    return config.read(path) if path.is_file() else {}


def of_folder(folder: Path, origins: Callable[[str, int | None], Iterable[tuple[str, str]]]) -> list[Training]:
    """The record of a run or a model; empty for a model without one.

    The record of an old run without one is reconstructed from ``config.yaml`` and ``metrics.jsonl``. Its hardware stays
    unknown, and its number of samples is an upper bound.

    Args:
        origins: (folder, limit) -> (source, licence) of every photograph: ``photofound.data.photos.origins``.

    Raises ValueError for a folder that is neither a run nor a model.
    """
    if (folder / "model_index.json").is_file():
        return read(folder / MODEL)
    return read(folder / RUN) or _reconstructed(folder, origins)


def _reconstructed(run_dir: Path, origins: Callable[[str, int | None], Iterable[tuple[str, str]]]) -> list[Training]:
    settings = settings_of(run_dir)
    log = run_dir / "metrics.jsonl"
    rows = (
        [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        if log.is_file()
        else []
    )
    if not rows or not settings:
        raise ValueError(
            f"card: {run_dir} holds neither {RUN} nor config.yaml and metrics.jsonl; name a run or a model"
        )
    model, files, last = settings.get("model", {}), settings.get("data", {}), rows[-1]
    start = settings.get("start") or model.get("start")
    is_vae = "latent_channels" in model
    parts = ("vae",) if is_vae else ("transformer",) + ("text_encoder",) * bool(model.get("train_text", True))
    samples = last["step"] * settings["train"]["batch_size"]
    session = Session(steps=last["step"], samples=samples, seconds=round(last["minutes"] * 60, 1))
    name = "autoencoder" if is_vae else _stage_of(settings)
    folder = files.get("folder")
    data = count_origins(origins(folder, files.get("limit"))) if folder and Path(folder).is_dir() else ()
    identity = f"{run_dir.resolve().name}-{rows[0]['loss']}"  # the first loss is a run's own
    filtering = prepared(folder)[1] if folder else ()
    own = Training(identity, name, parts, without_paths(settings), data, filtering, (session,), (INCOMPLETE,))
    return join(inherited(start or model.get("vae")), [own])


def _stage_of(settings: Mapping[str, Any]) -> str:
    """The stage that has such settings."""
    return "distill" if "distill" in settings else "finetune" if "prior" in settings else "pretrain"
