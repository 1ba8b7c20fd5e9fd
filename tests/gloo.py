"""A toy trained by several processes on CPUs: what test_distributed.py starts, and its single-process twin.

    python tests/gloo.py FOLDER

accelerate does not shard on CPUs, though torch can. For these runs it is told that it does, so that our part of FSDP2
and HSDP is tested without a GPU.
"""

import contextlib
import os
import shutil
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed
import torch.multiprocessing
from accelerate import state
from accelerate.utils import DistributedType
from helpers import free_port
from torch import nn

from photofound.train import shards
from photofound.train.distributed import shared
from photofound.train.settings import TrainConfig
from photofound.train.trainer import Trainer

COMMON = TrainConfig(
    steps=6, batch_size=8, micro_batches=2, lr=0.02, warmup_steps=2, ema=0.5, precision="fp32", device="cpu",
    trackers=(), save_every=3, sample_every=3,
)  # fmt: skip
RUNS = {
    "ddp": COMMON,
    "ddp-muon": replace(COMMON, optimizer="muon"),
    "fsdp": replace(COMMON, parallel="fsdp"),
    "fsdp-muon": replace(COMMON, parallel="fsdp", optimizer="muon"),
    "fsdp-bf16": replace(COMMON, parallel="fsdp", precision="bf16"),
}


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mix, self.gain = nn.Linear(width, width), nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x + torch.tanh(self.mix(x)) * self.gain


class Toy:
    """Two blocks and two heads, of which each batch uses one: a step may leave a head without a gradient."""

    def __init__(self):
        torch.manual_seed(0)
        self.blocks = [Block(4), Block(4)]
        heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(2))
        self.module = nn.ModuleDict({"blocks": nn.ModuleList(self.blocks), "heads": heads})

    def batch(self, generator, size, progress):
        return torch.randn(size, 4, generator=generator), int(progress >= 0.5)

    def predict(self, x, head):
        for block in self.blocks:
            x = block(x)
        return self.module["heads"][head](x)

    def loss(self, batch):
        x, head = batch
        error = (self.predict(x, head).float() - x[:, :2] + 0.1 * torch.randn(len(x), 2)).square().mean()
        return error, {f"head{head}": error}

    def sheet(self):
        inner = self.blocks[0].mix(torch.ones(1, 4))  # not through the block's own forward
        value = (self.predict(torch.ones(1, 4), 0).sum() + inner.sum()).abs()
        return np.full((2, 2, 3), int(1000 * value) % 256, np.uint8)

    def export(self, folder):
        from safetensors.torch import save_file

        folder.mkdir(exist_ok=True)
        save_file({name: value.clone() for name, value in self.module.state_dict().items()}, folder / "m.safetensors")


def shard_on_cpus():
    """Make accelerate keep the FSDP plugin that it is given, as it does on GPUs."""
    original = state.AcceleratorState.__init__

    def init(self, *args, fsdp_plugin=None, **settings):
        new = not state.AcceleratorState._shared_state
        original(self, *args, fsdp_plugin=fsdp_plugin, **settings)
        if new and fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    state.AcceleratorState.__init__ = init


def fork(processes, work):
    """Run ``work()`` in so many processes of one group, as torchrun starts them; they inherit what is imported here, so
    that torch and diffusers are imported once."""
    shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}

    def one(rank):
        ranks = {"RANK": rank, "LOCAL_RANK": rank}
        os.environ.update({name: str(value) for name, value in (shared | ranks).items()})
        work()
        torch.distributed.destroy_process_group()

    torch.multiprocessing.start_processes(one, nprocs=processes, start_method="fork")


IN_SHARDS = replace(
    COMMON, parallel="fsdp", batch_size=12, micro_batches=6, sample_every=0, optimizer="muon", save_as="shards"
)


def save_in_shards(folder):
    """Whole checkpoints; then a run with one in the background, of step 3, which is not written before step 5."""
    Trainer(replace(IN_SHARDS, save_as="whole"), Toy(), folder / "whole").run()
    trainer, passed = Trainer(IN_SHARDS, Toy(), folder / "shards"), threading.Event()
    write, launch = shards._Writer.write_data, trainer.launch

    def write_late(self, *arguments):
        assert passed.wait(60)
        return write(self, *arguments)

    def launch_and_tell(progress):
        update = launch(progress)
        if update.step == 5:
            assert os.listdir(trainer.background.folder) == ["step-3.partial"]
            passed.set()
        return update

    shards._Writer.write_data, trainer.launch = write_late, launch_and_tell
    assert trainer.run()


def go_on_in_shards(folder):
    """From step 3, by another number of processes, to the end; then until one is killed while it writes step 5."""
    shard_on_cpus()
    path = str(folder / "shards" / "checkpoints" / "step-3")
    assert Trainer(IN_SHARDS, Toy(), folder / "three", path).run()
    trainer = Trainer(replace(IN_SHARDS, save_every=1, keep=1), Toy(), folder / "killed", path)
    write = shards._Writer.write_data

    def write_or_die(self, *arguments):
        if self.folder.name == "step-5.partial" and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, *arguments)

    shards._Writer.write_data = write_or_die
    trainer.run()


def train_all(folder):
    shard_on_cpus()
    rank, done = int(os.environ["RANK"]), []
    for name, config in RUNS.items():
        run = folder / name
        assert Trainer(replace(config, steps=3), Toy(), run).run()  # stopped half way, then resumed in shards
        again = Trainer(config, Toy(), run, "latest")
        assert again.engine.sharded == (config.parallel != "ddp") and again.step == 3
        assert again.run()
    assert shared("abcde", lambda word: (done.append(word), word.upper())[1]) == list("ABCDE")
    assert done == list("abcde")[rank::2], "each process does its share"
    save_in_shards(folder)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name in (*RUNS, "whole", "shards", "three", "killed"):
        shutil.rmtree(folder / name, ignore_errors=True)  # of an aborted try
    fork(2, lambda: train_all(folder))
    with contextlib.suppress(torch.multiprocessing.ProcessExitedException):
        fork(3, lambda: go_on_in_shards(folder))
