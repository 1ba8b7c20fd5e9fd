"""photofound: edit photographs with one latent diffusion transformer.

>>> from photofound import OutpaintPipeline
>>> pipe = OutpaintPipeline.from_pretrained()
>>> pipe("cup.png", prompt="on a marble table").images[0].save("cup-on-marble.png")
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from photofound.names import known_to_diffusers
from photofound.notices import leave_out_idle_lines

__version__ = "0.2.0"

# A checkout keeps tasks/, training/ and demos/ beside this folder; a wheel has them inside it.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file():
    __path__.append(str(_root))

known_to_diffusers()
import_module("photofound.transformer")  # diffusers takes it from sys.modules; it imports nothing heavy
leave_out_idle_lines()

# Public names and where they live; torch and diffusers are imported when one is first used, not before.
_LAZY = {
    "EditPipeline": "photofound.pipeline",
    "EditTransformer": "photofound.transformer",
    "Condition": "photofound.edits.task",
    "Picture": "photofound.image",
    "Request": "photofound.edits.request",
    "Room": "photofound.room.room",
}
# Every task has a pipeline, which is made of what the task declares; these are the built-in ones.
_PIPELINES = (
    "PackshotPipeline",
    "OutpaintPipeline",
    "InpaintPipeline",
    "ExpandPipeline",
    "ErasePipeline",
    "UpscalePipeline",
    "CutoutPipeline",
    "GeneratePipeline",
    "InstructPipeline",
)
__all__ = ["__version__", *_PIPELINES, *_LAZY]

if TYPE_CHECKING:
    from photofound.edits.request import Request as Request
    from photofound.edits.task import Condition as Condition
    from photofound.image import Picture as Picture
    from photofound.pipeline import EditPipeline as EditPipeline
    from photofound.room.room import Room as Room
    from photofound.transformer import EditTransformer as EditTransformer

    PackshotPipeline = OutpaintPipeline = InpaintPipeline = ExpandPipeline = EditPipeline
    ErasePipeline = UpscalePipeline = CutoutPipeline = GeneratePipeline = EditPipeline
    InstructPipeline = EditPipeline


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name.endswith("Pipeline"):
        from photofound.edits.task import class_name, task_names

        for task in task_names():
            if class_name(task) == name:
                return import_module("photofound.pipeline").pipeline_class(task)
    raise AttributeError(f"module 'photofound' has no attribute {name!r}")
