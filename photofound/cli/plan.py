"""What a command has to do: which photographs it reads, and where each result goes.

Problems with files are found here, before a model is loaded. ``args`` come from ``options.task_parser``.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from photofound.cli.console import say
from photofound.cli.formats import is_picture, output_suffix
from photofound.cli.options import inputs_of

if TYPE_CHECKING:
    from photofound.edits.task import Task


@dataclass(frozen=True)
class Work:
    """One photograph and where its results go.

    Attributes:
        image: the photograph.
        outputs: one file per variant.
        subject: where the subject's mask is written, or None.
        layers: one file per variant, or none.
        error: why this photograph cannot be edited, or None.
    """

    image: Path
    outputs: list[Path]
    subject: Path | None = None
    error: Exception | None = None
    layers: tuple[Path, ...] = ()

    @property
    def files(self) -> list[Path]:
        """All files that are written."""
        return [*self.outputs, *([self.subject] if self.subject else []), *self.layers]

    def is_done(self) -> bool:
        """Whether all results exist and are whole. Prints a warning for one that is damaged."""
        from photofound import image

        there = [path for path in self.files if path.is_file()]
        broken = [path for path in there if path not in self.layers and not image.is_whole(path)]
        for path in broken:
            say(f"warning: {path}: is not a whole picture and is made again")
        return len(there) == len(self.files) and not broken


def plan_work(task: Task, args: argparse.Namespace) -> list[Work]:
    """One ``Work`` per photograph, in order. A problem with one photograph of a folder becomes that ``Work.error``; it
    does not stop the others.

    Raises ValueError, FileNotFoundError or FileExistsError if nothing can be done at all.
    """
    from photofound import image

    alpha = task.result_alpha(**_given(task, args))
    if args.format is not None:
        image.output_format(None, None, args.format, alpha)
    require_file(args.image)
    for name in _given_files(task, args):
        require_file(getattr(args, name))
    folder = args.image.is_dir()
    if args.recursive and not folder:
        raise ValueError(f"--recursive: {args.image} is not a folder; leave the option out")
    taken: dict[Path, Path] = {}
    photographs = _photographs(task, args) if folder else [args.image]
    work = [_plan_one(task, args, photograph, folder, taken) for photograph in photographs]
    if all(each.error for each in work):
        raise next(each.error for each in work if each.error)
    if args.report is not None:
        image.check_output(args.report, overwrite=True)
        if args.report in taken or is_picture(args.report):
            raise ValueError(f"--report: {args.report} is a picture, or named like one; name another file")
    return work


def _plan_one(task: Task, args: argparse.Namespace, photograph: Path, folder: bool, taken: dict[Path, Path]) -> Work:
    """The work on one photograph. ``taken``: the outputs so far, and which photograph each belongs to."""
    from photofound import image

    try:
        work = _work_on(task, args, photograph, folder)
        for path in work.files:
            if (other := taken.setdefault(path, photograph)) != photograph:
                raise ValueError(f"{path}: both {other.name} and {photograph.name} go there; rename one")
            _check_output(path, args, folder)
        image.output_format(None, work.outputs[0], args.format, task.result_alpha(**_given(task, args)))
        return work
    except FileExistsError:  # the remedy is an option, which holds for all photographs
        raise
    except (OSError, ValueError) as error:
        return Work(photograph, [], error=error)


def _check_output(path: Path, args: argparse.Namespace, folder: bool) -> None:
    from photofound import image

    try:
        image.check_output(path, args.overwrite or args.skip_existing)
    except FileExistsError as error:
        raise FileExistsError(f"{error}" + (", or --skip-existing to go on" if folder else "")) from None


def _photographs(task: Task, args: argparse.Namespace) -> list[Path]:
    """The photographs of the folder but for files that the command line names and the results of an earlier run."""
    named = [getattr(args, name) for name in _given_files(task, args)]
    named += [Path(each) for each in (args.output, args.report, getattr(args, "gallery", None)) if each]
    return find_photographs(args.image, named, args, lambda top, stems: _earlier_results(task, args, top, stems))


def find_photographs(
    folder: Path,
    named: Sequence[Path],
    args: argparse.Namespace,
    results: Callable[[Path, Sequence[str]], set[str]] = lambda top, stems: set(),
) -> list[Path]:
    """The photographs of a folder, sorted. Prints which other files it skips and why.

    Args:
        named: files and folders that are something else, by the command line.
        args: has ``recursive`` and ``quiet``.
        results: which of a folder's stems are results of this edit.

    Raises ValueError if there is none, OSError if the folder cannot be read.
    """
    found: list[Path] = []
    skipped: dict[str, list[str]] = {}
    own = {_resolved(path) for path in named} - {_resolved(folder)}

    def unreadable(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise error
        skipped.setdefault("cannot be read", []).append(error.filename)

    for top, folders, names in os.walk(folder, onerror=unreadable):
        here = [path for path in map(Path(top).joinpath, sorted(names)) if _resolved(path) not in own]
        below = [path for path in map(Path(top).joinpath, sorted(folders)) if _resolved(path) not in own]
        earlier = results(Path(top), [path.stem for path in here])
        for path in here:
            if path.name.startswith("."):
                skipped.setdefault("hidden", []).append(path.name)
            elif not is_picture(path):
                skipped.setdefault("no picture", []).append(path.name)
            elif path.stem in earlier:
                skipped.setdefault("a result of this edit", []).append(path.name)
            else:
                found.append(path)
        entered = [p for p in below if args.recursive and not p.name.startswith(".") and not p.is_symlink()]
        why = "a folder that is hidden or a link" if args.recursive else "a folder, see --recursive"
        skipped.setdefault(why, []).extend(path.name for path in below if path not in entered)
        folders[:] = [path.name for path in entered]
    summary = "; ".join(f"{_first_names(names)} ({why})" for why, names in skipped.items() if names)
    if not found:
        advice = f"; passed over: {summary}" if summary else ""
        raise ValueError(f"{folder}: the folder holds no image to edit, name another{advice}")
    if summary and not args.quiet:
        say(f"{folder}: passed over {summary}")
    return sorted(found)


def find_input(path: Path, top: Path, photograph: Path, name: str) -> Path:
    """The file at ``path``. If that is a folder, the picture in it that is named like the photograph; if the photograph
    lies in a folder below ``top``, it lies in the same folder below ``path``. Raises ValueError if there is not one."""
    if not path.is_dir():
        return path
    folder = path / photograph.parent.relative_to(top) if top.is_dir() else path
    names = os.listdir(folder) if folder.is_dir() else []  # pathlib takes seconds for a large folder
    named = (folder / each for each in names if os.path.splitext(each)[0] == photograph.stem)
    matches = sorted(each for each in named if is_picture(each))
    if len(matches) != 1:
        found = " and ".join(p.name for p in matches[:2]) or "nothing"
        what = name.removesuffix("_image")
        raise ValueError(f"{photograph}: {folder} must hold one {what} called {photograph.stem}.*, it holds {found}")
    return matches[0]


def _resolved(path: Path) -> str:
    """The path without links. Unlike ``Path.resolve`` it takes links that lead in a circle."""
    return os.path.realpath(path)


def _earlier_results(task: Task, args: argparse.Namespace, folder: Path, stems: Sequence[str]) -> set[str]:
    """Which stems of a folder are results of an earlier run, if this run writes into the folder that it reads."""
    if args.output is None or _resolved(Path(args.output)) != _resolved(args.image):
        return set()
    known = set(stems)
    made = {stem: re.fullmatch(rf"(.+)-{re.escape(task.name)}(-\d+)?(-subject)?", stem, re.DOTALL) for stem in stems}
    return {stem for stem, match in made.items() if match and match[1] in known}


def _first_names(names: Sequence[str], most: int = 3) -> str:
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])


def require_file(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check the path")
    if not path.is_dir() and not path.is_file():
        raise ValueError(f"{path}: is not a regular file; name one image file or a folder")


def _given(task: Task, args: argparse.Namespace) -> dict[str, Any]:
    """The inputs as they were typed."""
    return {each.name: getattr(args, each.name) for each in inputs_of(task)}


def _given_files(task: Task, args: argparse.Namespace) -> list[str]:
    """Names of the inputs that are files and were given."""
    given = {each.name: getattr(args, each.name) for each in inputs_of(task) if each.kind != "folder"}
    return [name for name, value in given.items() if isinstance(value, Path)]


def _work_on(task: Task, args: argparse.Namespace, photograph: Path, folder: bool) -> Work:
    """Name the outputs of one photograph: --output, or NAME-TASK.SUFFIX in a folder, numbered if there are several.
    Creates the folder."""
    from photofound import image

    target = Path(args.output) if args.output else None
    if target is None or folder or target.is_dir() or args.output.endswith(("/", os.sep)):
        target = target or _default_folder(task, args.image, folder)
        target = target / photograph.parent.relative_to(args.image) if folder else target
        target.mkdir(parents=True, exist_ok=True)
        given = _given(task, args)
        usual = task.result_format(**given)
        format = args.format or (image.suffix_of(usual) if usual else None)
        target = (
            target / f"{photograph.stem}-{task.name}{output_suffix(photograph, format, task.result_alpha(**given))}"
        )
    outputs = _numbered(target, args.num_images)
    saves_subject = getattr(args, "save_subject", False)
    subject = target.with_name(f"{target.stem}-subject.png") if saves_subject else None
    return Work(photograph, outputs, subject, layers=_layer_files(getattr(args, "layers", None), outputs, folder))


def _layer_files(wanted: str | None, outputs: Sequence[Path], folder: bool) -> tuple[Path, ...]:
    """Where layers go: a file, or for several results ``ora`` or ``psd``, files beside them. Raises ValueError."""
    from photofound.picture import layered

    if wanted is None:
        return ()
    kind = f".{wanted.removeprefix('.').lower()}"
    if kind in layered.SUFFIXES:
        return tuple(path.with_suffix(kind) for path in outputs)
    path = Path(wanted)
    if path.suffix.lower() not in layered.SUFFIXES:
        raise ValueError(f"--layers: {wanted} is neither .ora (OpenRaster: GIMP, Krita) nor .psd (Photoshop)")
    if folder:
        raise ValueError(f"--layers: {wanted} is one file, and there are many photographs; give ora or psd")
    return tuple(_numbered(path, len(outputs)))


def new_outputs(task: Task, args: argparse.Namespace) -> list[Path]:
    """Where the pictures of a task without a photograph go: --output, or TASK.png, numbered if there are several.
    Creates the folder."""
    from photofound import image

    target = Path(args.output or task.name)
    if args.output and (target.is_dir() or args.output.endswith(("/", os.sep))):
        target = target / task.name
    if not target.suffix:
        target = target.with_name(target.name + image.suffix_of(image.output_format(None, None, args.format or "png")))
    target.parent.mkdir(parents=True, exist_ok=True)
    return _numbered(target, args.num_images)


def _numbered(path: Path, number: int) -> list[Path]:
    """NAME.png, or NAME-1.png, NAME-2.png, ..."""
    endings = [""] if number == 1 else [f"-{n + 1}" for n in range(number)]
    return [path.with_name(f"{path.stem}{ending}{path.suffix}") for ending in endings]


def _default_folder(task: Task, path: Path, folder: bool) -> Path:
    """Where results go without --output: beside the photograph, or into NAME-TASK beside the folder. Inside the folder,
    a second run would edit the results of the first."""
    if not folder:
        return path.parent
    path = path if path.name not in ("", "..") else Path(_resolved(path))
    return path.parent / f"{path.name}-{task.name}"
