"""The name that code of others imports; see ``photofound.picture.provenance``."""

from photofound.picture.provenance import *  # noqa: F403
