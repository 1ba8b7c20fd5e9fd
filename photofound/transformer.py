"""The name of ``EditTransformer`` in saved models; the class lives in ``photofound.model.transformer``."""

# Three rules of the format of saved models:
# 1. model_index.json says ["photofound.transformer", "EditTransformer"], for ever.
# 2. diffusers does not import this module. It takes it from sys.modules, and looks for the name ModelMixin in it. So
#    ``import photofound`` imports it, and it imports torch and diffusers when one of its names is asked for.
# 3. diffusers writes the class's __module__ when it saves, which is therefore this one.
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers.models.modeling_utils import ModelMixin as ModelMixin

    from photofound.model.transformer import EditTransformer as EditTransformer

_LIVE_IN = {"ModelMixin": "diffusers.models.modeling_utils", "EditTransformer": "photofound.model.transformer"}


def __getattr__(name: str) -> Any:
    if name not in _LIVE_IN:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(_LIVE_IN[name]), name)
