"""The name that code of others imports; see ``photofound.edits.geometry``."""

from photofound.edits.geometry import *  # noqa: F403
