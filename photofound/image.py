"""The name that code of others imports from; see ``photofound.picture.image``."""

from photofound.picture.image import *  # noqa: F403
