"""The name that task files of others import from; see ``photofound.edits.task``."""

from photofound.edits.task import *  # noqa: F403
