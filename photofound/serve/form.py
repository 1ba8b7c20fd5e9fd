"""The form of ``POST /v1/TASK``: a pydantic model of the inputs that the task declares.

FastAPI reads requests by it, refuses what does not fit, and describes it at /docs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import UploadFile
from pydantic import BaseModel, Field, create_model
from pydantic.json_schema import SkipJsonSchema

from photofound import image
from photofound.edits.inputs import FILE_KINDS, Input
from photofound.edits.scores import MOST
from photofound.edits.segmenter import OWN
from photofound.edits.task import SAMPLING, Task, offered
from photofound.picture import layered
from photofound.serve.config import ServeConfig

PHOTOGRAPH = Input("image", "image", "the photograph", required=True)
EXAMPLES = {
    "length": "25%", "aspect": "4:5", "size": "1200x800", "text": "on a marble table", "share": "25%", "sides": "10%",
    "place": "50%,60%",     "fit": "contain", "background": "#ffffff", "preset": "amazon-main", "points": "320,240",
}  # fmt: skip
_LONGEST = {"points": 1500}  # characters of what is written; of other kinds 40


def field_name(each: Input) -> str:
    """The form's field for an input: ``mask`` for ``mask_image``; anything but a file is called as in the pipeline."""
    return each.name.removesuffix("_image") if each.kind in FILE_KINDS else each.name


def form_model(task: Task, config: ServeConfig) -> type[BaseModel]:
    """The whole form of a task."""
    asked = [*[PHOTOGRAPH] * task.takes_picture, *offered(task)]
    fields: dict[str, Any] = {field_name(each): _field(each, config) for each in asked}
    return create_model(f"Body_{task.name}", **(fields | _common_fields(task, config)))


def _field(each: Input, config: ServeConfig) -> tuple[Any, Any]:
    """An input's type and its pydantic field: default, bounds, help and example."""
    kind: Any = str
    settings: dict[str, Any] = {"description": each.help.replace("%%", "%")}
    if each.kind in FILE_KINDS:
        kind = UploadFile
    elif each.kind == "int":
        kind, settings = int, settings | {"ge": -(10**9), "le": 10**9}
    elif each.kind == "flag":
        kind = bool
    elif each.kind == "segmenter":
        kind = Literal[tuple(dict.fromkeys((*OWN, *config.segmenters)))]
    elif each.choices and kind is str:
        kind = Literal[each.choices]
    elif each.kind in ("text", "background"):
        settings |= {"max_length": 2000, "examples": [EXAMPLES[each.kind]]}
    else:
        longest = _LONGEST.get(each.kind, 40)
        settings |= {"max_length": longest, "pattern": f"^({each.spelling})$", "examples": [EXAMPLES[each.kind]]}
    if each.required:
        return kind, Field(**settings)
    if each.default is None:
        return kind | None, Field(default=None, **settings)
    return kind, Field(default=str(each.default) if kind is str else each.default, **settings)


def _common_fields(task: Task, config: ServeConfig) -> dict[str, tuple[Any, Any]]:
    """The fields of every form. ``steps`` and ``guidance`` also have the names that they have in diffusers.

    What changes nothing in a task is not described, and is taken all the same, for clients that send it to every task.
    """
    formats: Any = Literal[tuple(sorted(suffix[1:] for suffix in image.SUFFIXES))]
    layers: Any = Literal[tuple(kind.lower() for kind in layered.MIME)]
    stacked = "answer with the layers instead of the picture: ora (GIMP, Krita) or psd (Photoshop)"
    steps: dict[str, Any] = {"default": None, "ge": 1, "le": config.max_steps}
    guidance: dict[str, Any] = {"default": None, "ge": 0, "le": 100, "allow_inf_nan": False}
    seed = Field(default=0, description="same seed, same pixels", ge=0, le=2**63 - 1, examples=[7])
    best = "make so many, judge them, answer with the best"
    help = "how strongly to follow the prompt; default: the model's"
    common: dict[str, tuple[Any, Any]] = {
        "seed": (int, seed),
        "format": (formats | None, Field(default=None, description="of the answer; default: the photograph's")),
        "strip": (bool, Field(default=False, description="leave out where the photograph was taken")),
        "mark": (bool, Field(default=True, description="say in the metadata that a part of it was generated")),
        "recipe": (bool, Field(default=True, description="say there, too, how it was made: the prompt, the seed, ...")),
        "steps": (int | None, Field(description="sampling steps; default: the model's", **steps)),
        "guidance": (
            float | None,
            Field(description=help, **guidance),
        ),
        **({"layers": (layers | None, Field(default=None, description=stacked))} if task.has_layers else {}),
        **({"best_of": (int | None, Field(default=None, description=best, ge=1, le=MOST))} if task.keeps else {}),
        "num_inference_steps": (int | None, Field(description="another name of steps", deprecated=True, **steps)),
        "guidance_scale": (float | None, Field(description="another name of guidance", deprecated=True, **guidance)),
    }
    for name in {*(() if task.varies else ("seed",)), *(() if task.samples else SAMPLING)} & common.keys():
        common[name] = Annotated[common[name][0], SkipJsonSchema()], common[name][1]
    return common
