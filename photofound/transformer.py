"""The name of ``EditTransformer`` in saved models; the class lives in ``photofound.model.transformer``."""

# Three rules of the format of saved models:
# 1. model_index.json says ["photofound.transformer", "EditTransformer"], for ever.
# 2. diffusers does not import this module. It takes it from sys.modules, and looks for the name ModelMixin in it.
# 3. diffusers writes the class's __module__ when it saves, which is therefore this one.
from diffusers.models.modeling_utils import ModelMixin as ModelMixin

from photofound.model.transformer import EditTransformer as EditTransformer
