"""The processes of a run and how they share a model: the part of ``accelerate`` that the training loop needs.

One process, DDP (each process holds the whole model), FSDP2 (weights, gradients and optimizer state are spread over
all processes) or HSDP (spread within groups, repeated across them). Launched by ``photofound train``, ``accelerate
launch`` or torchrun: the launcher decides how many processes there are, the configuration how they share a model.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from photofound.device import device_name as device_name
from photofound.device import resolve_device as resolve_device
from photofound.train.settings import TrainConfig

T = TypeVar("T")
R = TypeVar("R")
PARALLEL = ("ddp", "fsdp", "hsdp")
TRACKERS = {"tensorboard": "pip install 'photofound[train]'", "wandb": "pip install 'photofound[wandb]'"}


@dataclass(frozen=True)
class World:
    """Which of the run's processes this is. A stage needs it to read its own share of the data."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")


def seed_of(*parts: object) -> int:
    """A seed made of values that have a text: the same in every process and in every run."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=7).digest()
    return int.from_bytes(digest)


class Engine:
    """What the loop needs of its processes. All of them call every method, in the same order.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``; of several processes on a node each takes the GPU of its local rank.
        precision: ``bf16`` (autocast; weights stay fp32) or ``fp32``.
        parallel: ``ddp``, ``fsdp`` or ``hsdp``.
        shard_size: hsdp: how many processes one copy of the model is spread over, usually those of a node.
        trackers: names of ``TRACKERS``; they write below ``folder``.
        timeout: minutes after which processes that wait for another one give up.

    Raises:
        ValueError: sharding would not take place, or a tracker is not installed.
    """

    def __init__(
        self,
        device: str = "auto",
        precision: str = "bf16",
        parallel: str = "ddp",
        shard_size: int | None = None,
        trackers: Sequence[str] = (),
        folder: Path | None = None,
        timeout: float = 60.0,
    ) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
        from accelerate.state import AcceleratorState
        from accelerate.utils import ProjectConfiguration

        _check_launcher(os.environ)
        processes = int(os.environ.get("WORLD_SIZE", 1))
        place = resolve_device(device)
        _require(trackers)
        AcceleratorState._reset_state(
            reset_partial_state=True
        )  # a process may start several runs, each with settings of its own
        self.accelerator = Accelerator(
            cpu=place.type == "cpu",
            device_placement=False,  # stages are built on ``world.device``, which may be a named GPU
            mixed_precision="no",  # autocast is entered in one place, below: accelerate leaves it out under FSDP2
            log_with=list(trackers) or None,
            project_config=ProjectConfiguration(str(folder), logging_dir=str(folder / "tensorboard"))
            if folder
            else None,
            # Heads, the critic and optional inputs have no gradient in some steps. A touch of 0 * weight would give
            # them one of zero, and the optimizer would decay what a single process leaves alone.
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=timedelta(minutes=timeout)),
            ],
            **_sharding(parallel, shard_size, processes, precision),
        )
        _check_sharding(parallel, str(self.accelerator.distributed_type.value), processes, self.accelerator.device)
        _open_host_group(timedelta(minutes=timeout))
        single = processes == 1 and place.index is not None
        here = place if single else self.accelerator.device  # a named GPU (cuda:1) is for a single process
        self.world = World(self.accelerator.process_index, self.accelerator.num_processes, here)
        self.main = self.accelerator.is_main_process
        self.first_of_node = self.accelerator.is_local_main_process
        self.sharded, self.half = parallel != "ddp", precision == "bf16"

    # -------------------------------------------------------------------------------------------------------- the model

    def prepare(
        self, module: nn.Module, blocks: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer]
    ) -> tuple[Callable[..., Any], list[torch.optim.Optimizer]]:
        """Share ``module`` among the processes.

        Returns:
            ``call`` and the optimizers, which now hold this process's part of the weights. ``call(function, *args)``
            returns ``function(*args)``. Everything that uses the weights must go through ``call``: it averages
            gradients, gathers shards and sets the precision.
        """
        if self.sharded:
            for parameter in module.parameters():
                parameter.data = parameter.data.contiguous()  # FSDP2 takes no channels_last
            # accelerate finds the units of sharding by their class: a class that others have, too, is left to the root.
            others = {type(m).__name__ for m in set(module.modules()) - set(blocks)}
            self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(
                {type(block).__name__ for block in blocks} - others
            )
        call = _Call(module, self.world.device.type if self.half else None)
        # What is frozen is the same in every process. It may be on the CPU, or of a kind that cannot be sent.
        frozen = [name for name, parameter in call.named_parameters() if not parameter.requires_grad]
        nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(call, frozen)
        model, *prepared = self.accelerator.prepare(call, *optimizers)
        self._model = model
        return model, prepared

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to the weights'."""
        self.accelerator.backward(loss)

    def accumulating(self, last: bool) -> AbstractContextManager:
        """Around forward and backward of a micro-batch: only the last one of an update averages over processes."""
        return contextlib.nullcontext() if last else self.accelerator.no_sync(self._model)

    def clip(self, parameters: Iterator[nn.Parameter], largest: float) -> Tensor:
        """Scale the gradients down to the norm ``largest``; their norm before, on the device."""
        return on_device_whole(self.accelerator.clip_grad_norm_(parameters, largest))

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar on the device over all processes."""
        if self.world.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.world.size

    # ------------------------------------------------------------------------------------------------ among processes

    def gather(self, values: list[Any]) -> list[Any]:
        """The processes' lists, joined by rank; the same in every process."""
        if self.world.size == 1:
            return values
        lists: list[Any] = [None] * self.world.size
        dist.all_gather_object(lists, values, group=_host_group())
        return [value for each in lists for value in each]

    def agree(self, first: float, stop: bool) -> tuple[float, bool]:
        """Process 0's value, and whether any process wants to stop."""
        if self.world.size == 1:
            return first, stop
        votes = torch.tensor([first if self.main else 0.0, float(stop)], dtype=torch.float64)
        dist.all_reduce(votes, group=_host_group())
        return float(votes[0]), bool(votes[1] > 0)

    def wait(self) -> None:
        """Wait until every process is here."""
        self.accelerator.wait_for_everyone()

    def first_on_node(self) -> AbstractContextManager:
        """Within the block the node's first process goes first: it fills caches and downloads."""
        return self.accelerator.local_main_process_first()

    @contextlib.contextmanager
    def unsharded(self) -> Iterator[None]:
        """Within the block every process holds whole weights, also outside of forward passes. Sampling needs that."""
        from torch.distributed.fsdp import FSDPModule

        units = [unit for unit in self._model.modules() if isinstance(unit, FSDPModule)] if self.sharded else []
        for unit in units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        try:
            yield
        finally:
            for unit in units:
                unit.set_reshard_after_forward(unit is not self._model, recurse=False)  # FSDP's own default
                unit.reshard()

    @contextlib.contextmanager
    def gathered(self, module: nn.Module) -> Iterator[None]:
        """Within the block a sharded module holds whole weights on the CPU, for saving."""
        if not self.sharded:
            yield
            return
        shards = [(m, name, p) for m in module.modules() for name, p in m._parameters.items() if p is not None]
        for owner, name, shard in shards:
            owner._parameters[name] = nn.Parameter(whole(shard), requires_grad=shard.requires_grad)
        try:
            yield
        finally:
            for owner, name, shard in shards:
                owner._parameters[name] = shard

    # -------------------------------------------------------------------------------------------------------- trackers

    def start_trackers(self, name: str, first_step: int) -> None:
        """``first_step`` is where a resumed run goes on: TensorBoard drops what an earlier one wrote beyond it."""
        if self.accelerator.log_with:
            self.accelerator.init_trackers(name, init_kwargs={"tensorboard": {"purge_step": first_step}})

    def log(self, row: Mapping[str, float], step: int) -> None:
        self.accelerator.log(dict(row), step=step)

    def log_image(self, name: str, picture: Any, step: int) -> None:
        """``picture``: (H, W, 3) uint8 array."""
        for tracker in self.accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: picture[None]}, step=step, **layout)

    def end_trackers(self) -> None:
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def leave(self) -> None:
        """Disconnect from the other processes, when all is done."""
        self.accelerator.state.destroy_process_group()


class _Call(nn.Module):
    """Calls a function inside its ``forward``, since DDP and FSDP do their work around a forward.

    ``autocast`` is the device type that computes in bfloat16; None = no autocast."""

    def __init__(self, module: nn.Module, autocast: str | None) -> None:
        super().__init__()
        self.module, self.autocast = module, autocast

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        with torch.autocast(self.autocast or "cpu", torch.bfloat16, enabled=self.autocast is not None):
            return function(*args)


def whole(tensor: Tensor) -> Tensor:
    """The tensor; of a sharded one all of it, on the CPU (every process must call this)."""
    gather = getattr(tensor.detach(), "full_tensor", None)  # a DTensor
    return tensor if gather is None else gather().cpu()


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor: the tensor itself, unless it is sharded."""
    shard = getattr(tensor, "to_local", None)
    return tensor if shard is None else shard()


def on_device_whole(tensor: Tensor) -> Tensor:
    """As ``whole``, on the device."""
    gather = getattr(tensor.detach(), "full_tensor", None)
    return tensor if gather is None else gather()


def shard_of(value: Tensor, like: Tensor) -> Tensor:
    """As ``shard_like``, of a tensor that every process holds, without any of them sending it."""
    mesh, placements = getattr(like, "device_mesh", None), getattr(like, "placements", None)
    if mesh is None:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, mesh, placements, src_data_rank=None)


def shared(work: Sequence[T], function: Callable[[T], R]) -> list[R]:
    """``function`` of each piece of work, each piece by one of the processes; all of them get all results, which are
    sent as they are pickled. Every process must call this with the same work."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [function(each) for each in work]
    rank, size = dist.get_rank(), dist.get_world_size()
    own = {index: function(work[index]) for index in range(rank, len(work), size)}
    gathered: list[Any] = [None] * size
    dist.all_gather_object(gathered, own, group=_host_group())
    found = {index: result for part in gathered for index, result in part.items()}
    return [found[index] for index in range(len(work))]


_host_groups: dict[Any, Any] = {}


def _open_host_group(timeout: timedelta) -> None:
    """A second group of all processes, for what lies in main memory: what they tell each other in it never waits for a
    GPU."""
    world = dist.group.WORLD
    if dist.is_initialized() and world not in _host_groups and dist.get_backend() != "gloo":
        _host_groups[world] = dist.new_group(backend="gloo", timeout=timeout)


def _host_group() -> Any:
    return _host_groups.get(dist.group.WORLD)  # None: the group of all is one


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor in the layout of ``like``: itself, or this process's shard of it."""
    mesh, placements = getattr(like, "device_mesh", None), getattr(like, "placements", None)
    if mesh is None or hasattr(value, "placements"):  # it may be laid out already
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), mesh, placements)


def make_engine(config: TrainConfig, run_dir: Path | None = None) -> Engine:
    """The processes as the configuration wants them; ``run_dir`` is where trackers write."""
    trackers = config.trackers
    if trackers is None:
        trackers = ("tensorboard",) if find_spec("tensorboard") else ()
    shape = config.parallel, config.shard_size
    return Engine(config.device, config.precision, *shape, trackers, run_dir, config.timeout)


def _sharding(parallel: str, shard_size: int | None, processes: int, precision: str) -> dict[str, Any]:
    """The arguments of ``Accelerator`` for sharding."""
    if parallel == "ddp":
        return {}
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.parallelism_config import ParallelismConfig
    from torch.distributed.fsdp import MixedPrecisionPolicy

    if parallel == "hsdp" and (not shard_size or processes % shard_size or not 1 < shard_size < processes):
        raise ValueError(
            f"train.shard_size: {shard_size} cannot divide {processes} processes into groups of several; set it to the "
            "number of GPUs of a node, or use train.parallel=fsdp"
        )
    half = torch.bfloat16 if precision == "bf16" else None
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=False,  # stages build their weights in every process, from one seed
        # Weights are gathered in bf16, gradients summed in fp32; inputs are left to autocast, since times need fp32.
        mixed_precision_policy=MixedPrecisionPolicy(half, torch.float32, cast_forward_inputs=False),
    )
    sizes = {"dp_shard_size": shard_size, "dp_replicate_size": processes // shard_size} if shard_size else {}
    return {"fsdp_plugin": plugin, "parallelism_config": ParallelismConfig(**sizes) if parallel == "hsdp" else None}


def _check_launcher(environment: Mapping[str, str]) -> None:
    """Raise ValueError where ``accelerate launch --cpu`` was asked for several processes and started one.

    It does so without MPI; it then sets ``MASTER_ADDR``, where several processes would meet, but no rank."""
    several = "MASTER_ADDR" in environment and environment.get("ACCELERATE_USE_CPU", "").lower() == "true"
    ranks = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
    if several and not any(name in environment for name in ranks):
        raise ValueError(
            "accelerate launch --cpu has started one process of several; on CPUs use 'torchrun --nproc-per-node N -m "
            "photofound.training.STAGE ... --train.device=cpu', or its --mpirun_hostfile"
        )


def _check_sharding(parallel: str, active: str, processes: int, device: torch.device) -> None:
    """Raise ValueError where accelerate does not shard as asked: it says nothing on CPUs and in a single process."""
    if parallel != "ddp" and active != "FSDP":
        raise ValueError(
            f"train.parallel: {parallel} is not active, accelerate runs {processes} process(es) on {device.type} as "
            f"{active}; start on GPUs with 'torchrun --nproc-per-node N -m photofound.training.STAGE' or 'accelerate "
            "launch', or set train.parallel=ddp"
        )
    if parallel == "ddp" and active in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise ValueError(
            f"train.parallel: ddp was asked for, but accelerate's own configuration says {active}; set "
            "train.parallel=fsdp or hsdp, or start with torchrun, which does not read that configuration"
        )


def _require(trackers: Sequence[str]) -> None:
    for name in trackers:
        if name not in TRACKERS:
            raise ValueError(f"train.trackers: {name!r} is unknown; use {' or '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise ValueError(f"train.trackers: {name} is not installed; {TRACKERS[name]}")
