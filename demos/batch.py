"""One edit of many photographs, as the command line does it with a folder: one that fails stops none of the others."""

from __future__ import annotations

import dataclasses
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from photofound.demos.desk import Form
from photofound.demos.studio import Cancelled, Studio
from photofound.demos.words import in_words
from photofound.edits.task import get_task
from photofound.errors import EXPECTED

MOST = 100  # photographs at once


def check(task_name: str, count: int) -> None:
    """Raises ValueError for what cannot be done with many photographs."""
    task = get_task(task_name)
    if not task.takes_picture or any(each.required and each.kind == "mask" for each in task.inputs):
        raise ValueError(f"{task_name}: needs a mask for each photograph; use the command line with a folder of masks")
    if not 1 <= count <= MOST:
        raise ValueError(f"{count} photographs are too many or none; choose 1 to {MOST}")


def edit_all(
    work: Studio,
    files: Sequence[tuple[str, Path]],
    form: Form,
    folder: Path,
    visitor: str,
    progress: Callable[[float, str], None],
) -> tuple[Path, list[str]]:
    """Edit each of ``files``, (name, path), by the form, once, and write all results into a zip in ``folder``.

    ``report.jsonl`` in the zip has a line for each photograph, as ``--report`` of the command line writes it. Returns
    the zip, and a line for each failure.

    Raises ValueError where nothing could be edited, Cancelled after ``work.cancel(visitor)``.
    """
    check(form.task, len(files))
    form = dataclasses.replace(form, variants=1)
    target, names = folder / f"photofound-{form.task}.zip", set[str]()
    failed, report = list[str](), list[str]()
    # Pictures are compressed already.
    with work.stoppable(visitor) as stop, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as packed:
        for index, (name, path) in enumerate(files):

            def tell(share: float, what: str, index: int = index) -> None:
                progress((index + share) / len(files), f"photograph {index + 1} of {len(files)}, {what}")

            started, error, written = time.monotonic(), None, None
            try:
                if stop.is_set():
                    raise Cancelled
                with _edited(work, name, path, form, visitor, tell) as result:
                    written = _free(result.name, names)
                    packed.write(result, written)
            except EXPECTED as caught:
                error = in_words(caught)
                failed.append(error if name in error else f"{name}: {error}")
            line = {"input": name, "output": written, "seconds": round(time.monotonic() - started, 3)}
            line |= {"seed": form.seed, "status": "failed" if error else "done", "error": error}
            report.append(json.dumps(line, ensure_ascii=False) + "\n")
        packed.writestr("report.jsonl", "".join(report))
    if len(failed) == len(files):
        raise ValueError(failed[0])
    return target, failed


@contextmanager
def _edited(
    work: Studio, name: str, path: Path, form: Form, visitor: str, progress: Callable[[float, str], None]
) -> Iterator[Path]:
    """One photograph on a desk of its own: the file of its result, until the block ends."""
    desk = work.open_picture(work.read(path, name), Path(name).stem)
    try:
        made, _, _ = work.run(desk, form, visitor, progress)
        yield work.export(made, form.format)
    finally:
        work.close(desk)


def _free(name: str, names: set[str]) -> str:
    """The name, or one with a number where two photographs are called alike."""
    stem, suffix, count = Path(name).stem, Path(name).suffix, 1
    while name in names:
        count += 1
        name = f"{stem}-{count}{suffix}"
    names.add(name)
    return name
