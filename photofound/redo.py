"""Making a result again from what its file says: the same task, inputs, seed and model, and so the same bits.

    again = redo("cup-outpaint.png")       # the photograph is looked for beside it
    again.same, again.picture

Nothing that a file says is taken for a path: pictures are found by their digests, the model by its own.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from photofound import __version__, image
from photofound.edits import recipe as recipes
from photofound.edits.inputs import FOLDER, Input, names_file
from photofound.edits.request import Request
from photofound.edits.segmenter import OWN
from photofound.edits.task import SAMPLING, get_task, task_names
from photofound.image import Picture
from photofound.model import fingerprint
from photofound.picture import provenance
from photofound.picture.digest import digest
from photofound.pipeline import EditPipeline
from photofound.runtimes.session import RUNTIMES
from photofound.storage import EMBEDDED

_DEEPEST = 32  # edits in a chain


@dataclass(frozen=True)
class Again:
    """A result that was made again.

    Attributes:
        picture: with the same recipe and mark.
        same: whether its pixels are bit for bit those that the recipe names.
    """

    picture: Picture
    same: bool


def redo(
    result: Any,
    places: Sequence[str | Path] = (),
    pipe: Callable[[Mapping[str, Any]], EditPipeline] | EditPipeline | None = None,
    segmenter: Any = None,
) -> Again:
    """Make a result again.

    The photograph and other pictures are looked for in ``places`` and beside the result, by their digests. One that is
    a result itself and is not there is made again, too. A black and white mask is in the recipe.

    Args:
        result: a file, or a Picture, with a recipe.
        places: files and folders to look in.
        pipe: the model, any task's pipeline of it, or a function that loads it for a recipe; None = ``load_model``.
        segmenter: what found the subject, if that was neither ``cutout`` nor ``grabcut``; never taken from the file.

    Raises:
        ValueError: there is no recipe, an input is not found, the model is not the same, or the seed is unknown.
    """
    picture = Picture.from_any(result)
    made = recipes.read(picture)
    if made is None:
        raise ValueError(f"{picture.path or 'image'}: its metadata have no recipe, so it cannot be made again")
    beside = [picture.path.parent] if picture.path is not None else []
    made_again = _Redo([*map(Path, places), *beside], pipe or load_model, picture.path, segmenter).make(made)
    stripped = made_again if _has_place(picture) else made_again.without_location()
    return Again(provenance.mark(stripped, whole="image" not in made), digest(stripped) == made["result"].get("sha256"))


def load_model(made: Mapping[str, Any]) -> EditPipeline:
    """The model that a recipe names, in its precision: the embedded one or its teacher, or one of the Hub that is here
    already. Nothing is downloaded because a file says so.

    Raises ValueError if it is not to be had."""
    wanted, options = made.get("model", {}), _loading(made)
    name = wanted.get("name")
    if fingerprint.of_folder(Path(EMBEDDED)) == wanted.get("sha256"):
        return EditPipeline.from_pretrained(**options)
    if name is None:
        with warnings.catch_warnings(action="ignore"):
            teacher: EditPipeline = EditPipeline.from_pretrained(teacher=True, **options)
        if teacher.fingerprint() == wanted:
            return teacher
    if isinstance(name, str) and name.count("/") == 1 and not Path(name).exists():
        with suppress(OSError, ValueError):
            return EditPipeline.from_pretrained(name, local_files_only=True, **options)
    raise ValueError(
        f"model: it was made by {name or 'a model without a name'} (sha256 {str(wanted.get('sha256'))[:12]}), which is "
        "not the embedded one; name its folder with --model"
    )


def _loading(made: Mapping[str, Any]) -> dict[str, Any]:
    dtype = getattr(torch, str(made.get("computed", {}).get("dtype")), None)
    return {"runtime": runtime_of(made)} | ({"torch_dtype": dtype} if isinstance(dtype, torch.dtype) else {})


def runtime_of(made: Mapping[str, Any]) -> str | None:
    """What ran the networks of a recipe, where it was not torch."""
    runtime = str(made.get("computed", {}).get("runtime")).partition(" ")[0]
    return runtime if runtime in RUNTIMES else None


def _has_place(picture: Picture) -> bool:
    """Whether its metadata say where the photograph was taken."""
    without = picture.without_location()
    return (without.exif, without.xmp) != (picture.exif, picture.xmp)


class _Redo:
    """Makes one recipe after another; looks each input up in the same places."""

    def __init__(self, places: Iterable[Path], pipe: Any, result: Path | None, segmenter: Any = None) -> None:
        self._places, self._pipe, self._result = list(dict.fromkeys(places)), pipe, result
        self._segmenter = segmenter
        self._loaded: EditPipeline | None = None

    def make(self, made: Mapping[str, Any], depth: int = 0) -> Picture:
        """The result of a recipe, with the recipe that its making gives."""
        name = made["task"]
        if name not in task_names():
            raise ValueError(f"task: {name!r}, which the recipe names, is not known here; install what it comes with")
        if depth > _DEEPEST:
            raise ValueError(f"the recipe is a chain of more than {_DEEPEST} edits; name the photograph with --from")
        if not isinstance(made.get("seed"), int):
            raise ValueError("seed: the recipe does not say it, since the noise came from a generator of the caller's")
        _warn_of_other_versions(made)
        source = self._source(made, depth)
        with self._inputs(made) as inputs:
            variant = made.get("variant", 0)
            request = _request(made, source, inputs)
            pipe = self._model(made).for_task(name)
            found = pipe.answer(request, count=variant + 1).images[variant]
        return replace(found, format=source.format if source is not None else None)

    def _model(self, made: Mapping[str, Any]) -> EditPipeline:
        """The model, loaded once for all edits of a chain that it has made."""
        wanted = made.get("model", {})
        if isinstance(self._pipe, EditPipeline):
            self._loaded = self._pipe
        elif self._loaded is None or self._loaded.fingerprint()["sha256"] != wanted.get("sha256"):
            self._loaded = self._pipe(made)
            self._loaded.optimize(_optimizations(made, but=self._loaded.optimizations))
        _warn_of_other_ways(made, self._loaded)
        found = self._loaded.fingerprint()
        for part in ("sha256", "lora"):
            if found.get(part) != wanted.get(part):
                what, is_now, was = "model" if part == "sha256" else "LoRA", found.get(part), wanted.get(part)
                raise ValueError(
                    f"{what}: not the same: {str(found['name'])} with sha256 {str(is_now)[:12]} is not "
                    f"{wanted.get('name')} with {str(was)[:12]}, which made it; name that with --model"
                )
        return self._loaded

    # -------------------------------------------------------------------------------------------------------- inputs

    def _source(self, made: Mapping[str, Any], depth: int) -> Picture | None:
        written = made.get("image")
        if not written:
            return None
        found = self._find(written)
        if found is None and "recipe" in written:
            again = provenance.mark(self.make(written["recipe"], depth + 1), whole="image" not in written["recipe"])
            format = image.output_format(None, None, written.get("format") or "png")
            again = image.decode(image.encode(again, format), "image")  # as the file that it was read from
            found = again if digest(again) == written["sha256"] else None
        return _required(found, "image", written, self._places)

    @contextmanager
    def _inputs(self, made: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The inputs of a recipe, found; within the block a folder of one picture stands for the one it was in."""
        with tempfile.TemporaryDirectory(prefix="photofound-") as folder:
            known, given = {each.name: each for each in get_task(made["task"]).inputs}, {}
            for name, written in made["inputs"].items():
                if name not in known:
                    raise ValueError(f"{name}: the recipe gives it, and {made['task']} does not ask for it here")
                given[name] = self._input(known[name], written, Path(folder))
            yield given

    def _input(self, asked: Input, written: Any, folder: Path) -> Any:
        if asked.kind == "segmenter":
            return self._segmenter_of(str(written))
        if isinstance(written, str) and names_file(asked.kind, written):
            raise ValueError(f"{asked.name}: it was made with a file, {written!r}, that the recipe does not hold")
        if not isinstance(written, dict):
            return _tuples(written)
        found = recipes.mask_of(written) or self._find(written)
        found = _required(found, asked.name, written, self._places)
        if asked.kind != FOLDER:
            return found
        name = Path(str(written.get("name"))).name  # its words are why it was chosen
        if found.path is None or Path(name).suffix.lower() not in image.READABLE_SUFFIXES:
            raise ValueError(f"{asked.name}: the recipe names no picture in it; the file is damaged")
        (folder / name).write_bytes(found.path.read_bytes())
        return folder

    def _segmenter_of(self, written: str) -> str:
        """A recipe may be a stranger's, and a segmenter's name may run code or download a model."""
        if written in OWN or self._segmenter is not None:
            return self._segmenter if self._segmenter is not None else written
        raise ValueError(f"segmenter: it was made with {written!r}; if you want it to be run, name it with --segmenter")

    def _find(self, written: Mapping[str, Any]) -> Picture | None:
        """The picture of that digest in the places; of the many in a folder only those of its size are decoded."""
        size = recipes.size_of(written)
        for path in self._candidates():
            try:
                with warnings.catch_warnings(action="ignore"):
                    if image.upright_size(path.read_bytes(), max_pixels=2**62) != size:
                        continue
                    picture = image.load(path)
            except (ValueError, OSError):
                continue
            if digest(picture) == written.get("sha256"):
                return picture
        return None

    def _candidates(self) -> Iterator[Path]:
        """Files first, then those in the folders: in the order of how much of the result's name theirs begins with."""
        stem = "" if self._result is None else self._result.stem
        for place in self._places:
            if place.is_file():
                yield place
            elif place.is_dir():
                found = [path for path in sorted(place.iterdir()) if path.suffix.lower() in image.READABLE_SUFFIXES]
                yield from sorted(found, key=lambda path: not stem.startswith(path.stem))


def _tuples(written: Any) -> Any:
    """What JSON has made lists of."""
    return tuple(map(_tuples, written)) if isinstance(written, list) else written


def _required(found: Picture | None, name: str, written: Mapping[str, Any], places: Sequence[Path]) -> Picture:
    if found is None:
        width, height = recipes.size_of(written)
        looked = ", ".join(map(str, places)) or "no place"
        raise ValueError(
            f"{name}: no picture of {width}x{height} with sha256 {str(written.get('sha256'))[:12]} in {looked}; name "
            "its file or folder with --from"
        )
    return found


def _request(made: Mapping[str, Any], source: Picture | None, inputs: dict[str, Any]) -> Request:
    names = {each.name for each in fields(Request)} - {"task", "picture", "inputs", "layers"}
    if made.get("negative_prompt"):
        raise ValueError("negative_prompt: it was made with one, which only a pipeline's own call takes; call that")
    names -= set() if get_task(made["task"]).samples else set(SAMPLING)
    return Request(made["task"], source, inputs, **{name: made[name] for name in names if name in made})


def _optimizations(made: Mapping[str, Any], but: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a recipe that are not on yet."""
    computed, names = made.get("computed", {}), ("quantize", "cache_threshold", "path_drop", "vae_tiling")
    return {name: computed[name] for name in names if name in computed and name not in but}


def _warn_of_other_ways(made: Mapping[str, Any], pipe: EditPipeline) -> None:
    """Say where the model computes otherwise than it did."""
    here, then = pipe.computed, made.get("computed", {})
    for name in sorted({*here, *then} - {"torch"}):
        if here.get(name) != then.get(name):
            was, is_now = then.get(name, "nothing"), here.get(name, "nothing")
            warnings.warn(f"{name} is not the same: it was {was}, this is {is_now}; bits may differ", stacklevel=4)


def _warn_of_other_versions(made: Mapping[str, Any]) -> None:
    computed = made.get("computed", {})
    here = {"photofound": __version__, "torch": torch.__version__.partition("+")[0]}
    there = {"photofound": made.get("photofound"), "torch": computed.get("torch")}
    other = [f"{name} {there[name]}, this is {version}" for name, version in here.items() if there[name] != version]
    if other:
        warnings.warn(
            f"the version is not the same: it was made by {' and by '.join(other)}; bits may differ", stacklevel=4
        )
