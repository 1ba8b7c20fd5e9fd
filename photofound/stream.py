"""The name that code of others imports; see ``photofound.data.stream``."""

from photofound.data.stream import *  # noqa: F403
