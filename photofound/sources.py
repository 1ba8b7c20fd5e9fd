"""The name that code of others imports; see ``photofound.data.sources``."""

from photofound.data.sources import *  # noqa: F403
