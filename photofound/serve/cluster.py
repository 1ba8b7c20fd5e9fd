"""The server on a Ray cluster: as many replicas as there is work (extra ``[cluster]``).

    serve run photofound.cluster:build model=editor gpus=1 max_replicas=8 server.queue=64

Each replica is the whole of ``photofound.serve.app``, with its own model and its own queue. Ray spreads requests over
the replicas, and adds one when more than ``target`` requests are in progress in each. This file is part of the library
because ``serve deploy`` imports it by name from the installed package on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from photofound import config
from photofound.serve.config import ServeConfig

if TYPE_CHECKING:
    from fastapi import FastAPI


@dataclass(frozen=True)
class ClusterConfig:
    """What one replica is, and how many there may be.

    Attributes:
        model: a folder that every machine sees, or a Hub id; None = the embedded model.
        gpus, cpus: what a replica gets; a fraction is shared with other replicas.
        min_replicas, max_replicas: bounds of the autoscaling.
        target: how many requests per replica Ray aims at.
        upscale_seconds, downscale_seconds: how long the load must be too high, or too low, before Ray acts.
        api_key_file: as of ``photofound serve``; without it $PHOTOFOUND_API_KEY of the machines.
        server: the settings of a replica; Ray sends it ``batch`` + ``queue`` requests at once.
    """

    model: str | None = None
    gpus: float = 0.0
    cpus: float = 1.0
    min_replicas: int = 1
    max_replicas: int = 4
    target: float = 4.0
    upscale_seconds: float = 10.0
    downscale_seconds: float = 300.0
    api_key_file: str | None = None
    server: ServeConfig = field(default_factory=ServeConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ValueError(
                f"cluster: min_replicas is {self.min_replicas} and max_replicas {self.max_replicas}; "
                "give 1 <= min_replicas <= max_replicas"
            )


def build(settings: dict[str, Any]) -> Any:
    """Ray Serve's application from ``key=value`` settings of ``ClusterConfig``, ``server.key=value`` for the server's.

    Raises ValueError for an unknown key or a wrong value, ImportError without Ray.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise ImportError(f"photofound.serve.cluster needs Ray ({error}); pip install 'photofound[cluster]'") from error

    wanted = config.load(ClusterConfig, overrides=[f"{key}={value}" for key, value in settings.items()])
    at_once = wanted.server.batch + wanted.server.queue
    deployment = serve.deployment(
        name="photofound",
        max_ongoing_requests=at_once,
        max_queued_requests=at_once,  # Ray answers further ones with 503
        ray_actor_options={"num_gpus": wanted.gpus, "num_cpus": wanted.cpus},
        autoscaling_config={
            "min_replicas": wanted.min_replicas,
            "max_replicas": wanted.max_replicas,
            "target_ongoing_requests": wanted.target,
            "upscale_delay_s": wanted.upscale_seconds,
            "downscale_delay_s": wanted.downscale_seconds,
        },
        graceful_shutdown_timeout_s=600.0,  # a replica that is removed finishes its queue
    )

    def application() -> FastAPI:  # Ray calls it in each replica; an application would be pickled here
        return replica(wanted)

    return deployment(serve.ingress(application)()).bind()


def replica(wanted: ClusterConfig) -> FastAPI:
    """The ASGI application of one replica, with its model loaded. Ray calls this on the replica's machine."""
    import torch

    from photofound.device import fast_dtype
    from photofound.pipeline import EditPipeline
    from photofound.serve.app import create_app
    from photofound.serve.keys import read_keys

    device = "cuda" if torch.cuda.is_available() else "cpu"  # a replica sees only its own GPUs
    pipe = EditPipeline.from_pretrained(wanted.model, torch_dtype=fast_dtype(device)).to(device)
    keys = read_keys(wanted.api_key_file) or wanted.server.keys
    # Another replica would not know a job of this one.
    return create_app(pipe, replace(wanted.server, keys=keys, jobs=""))
