"""photofound: edit photographs with one latent diffusion transformer.

>>> from photofound import OutpaintPipeline
>>> pipe = OutpaintPipeline.from_pretrained()
>>> pipe("cup.png", prompt="on a marble table").images[0].save("cup-on-marble.png")
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# A checkout keeps tasks/, training/ and demos/ beside this folder; a wheel has them inside it.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file():
    __path__.append(str(_root))

# Public names and where they live; torch and diffusers are imported when one is first used, not before.
_LAZY = {
    "OutpaintPipeline": "photofound.tasks.outpaint",
    "InpaintPipeline": "photofound.tasks.inpaint",
    "ExpandPipeline": "photofound.tasks.expand",
    "ErasePipeline": "photofound.tasks.erase",
    "UpscalePipeline": "photofound.tasks.upscale",
    "CutoutPipeline": "photofound.tasks.cutout",
    "EditPipeline": "photofound.pipeline",
    "EditTransformer": "photofound.transformer",
    "Condition": "photofound.edits.task",
    "Picture": "photofound.picture.image",
}
__all__ = ["__version__", *_LAZY]

if TYPE_CHECKING:
    from photofound.edits.task import Condition as Condition
    from photofound.picture.image import Picture as Picture
    from photofound.pipeline import EditPipeline as EditPipeline
    from photofound.tasks.cutout import CutoutPipeline as CutoutPipeline
    from photofound.tasks.erase import ErasePipeline as ErasePipeline
    from photofound.tasks.expand import ExpandPipeline as ExpandPipeline
    from photofound.tasks.inpaint import InpaintPipeline as InpaintPipeline
    from photofound.tasks.outpaint import OutpaintPipeline as OutpaintPipeline
    from photofound.tasks.upscale import UpscalePipeline as UpscalePipeline
    from photofound.transformer import EditTransformer as EditTransformer


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'photofound' has no attribute {name!r}")
