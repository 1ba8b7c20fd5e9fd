"""The name that deployments import: ``serve run photofound.cluster:build``; see ``photofound.serve.cluster``."""

from photofound.serve.cluster import *  # noqa: F403
