"""What ``benchmarks/gpu.py`` measures: its parts, each a list of rows, a row a function that returns figures.

Weights are random, drawn on the device, of the shapes in ``gpu_device``; only the embedded model is loaded.
"""

import argparse
import os
import socket
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, PRXTransformer2DModel
from gpu_device import CONFIGS, GPU, HALF, TASKS
from latency import Bench, of_task, photograph, request
from torch import Tensor, nn
from transformer import compare, euler_ours, euler_prx, forward
from transformers import AutoModelForTextEncoding, ByT5Tokenizer, T5GemmaConfig, T5GemmaModuleConfig

from photofound import config
from photofound.model.prx import PRX_FIELDS, transformer_from_prx
from photofound.pipeline import EditPipeline
from photofound.train.adapt import adapt
from photofound.train.distributed import World
from photofound.train.settings import AdaptedModelConfig, TrainConfig
from photofound.train.trainer import Trainer
from photofound.training.pretrain import Config, PretrainStage

PROMPT = "a white cup of coffee on a wooden table beside a window, soft morning light, a plant behind it"
Row = tuple[str, Callable[[], dict[str, Any]]]


def copying(gpu: GPU) -> dict[str, float]:
    source = torch.ones(gpu.sizes.copy // 4, device=gpu.device)
    target = torch.empty_like(source)
    timed = gpu.timed(lambda: target.copy_(source))
    return {"GB/s": 2 * gpu.sizes.copy / timed["s"] / 1e9, **timed}


def peak(gpu: GPU) -> list[Row]:
    """What the GPU can do: a bf16 matrix product, and a copy (bytes read and written)."""
    return [("matrix product", gpu.matmul), ("copy", lambda: copying(gpu))]


def pairs(gpu: GPU) -> list[tuple[str, int, int]]:
    """Names, pixels and batches of the two sizes."""
    sizes = gpu.sizes
    both = ((sizes.small, sizes.small_batch), (sizes.large, sizes.large_batch))
    return [(f"{px} px, batch {batch}", px, batch) for px, batch in both]


def infer(gpu: GPU, px: int, batch: int, compiled: bool = False) -> dict[str, float]:
    model = gpu.transformer(HALF).eval()
    if compiled:
        model.compile_repeated_blocks(dynamic=False)
    config, side = model.config, px // gpu.shape.factor
    draw = {"device": gpu.device, "dtype": HALF}
    x = torch.randn(batch, config.in_channels, side, side, **draw)
    condition = torch.randn(batch, config.condition_channels, side, side, **draw)
    text = torch.randn(batch, gpu.sizes.text_tokens, config.context_in_dim, **draw)
    t = torch.full((1,), 0.5, device=gpu.device)
    with torch.no_grad():
        timed = gpu.timed(lambda: model(x, t, text, condition=condition, task=1))
    flops, tokens = gpu.cost(px)
    return gpu.rates(timed, batch, flops, tokens)


def infers(gpu: GPU) -> list[Row]:
    """One forward pass of the transformer in bf16, the text's part in it, eager."""
    return [(name, lambda px=px, batch=batch: infer(gpu, px, batch)) for name, px, batch in pairs(gpu)]


class Latents:
    """A stage (see ``photofound.train.contract.Stage``) whose latents and texts are drawn on the device."""

    def __init__(self, gpu: GPU, px: int, trained: str = "full") -> None:
        self.transformer = gpu.transformer(torch.float32)
        self.module: nn.Module = nn.ModuleDict({"transformer": self.transformer}).train()
        adapt(self.module, AdaptedModelConfig(train=trained))
        self.blocks = list(self.transformer.blocks)
        shape = self.transformer.config
        side = px // gpu.shape.factor
        self.latents, self.condition = (shape.in_channels, side, side), (shape.condition_channels, side, side)
        self.text = (gpu.sizes.text_tokens, shape.context_in_dim)

    def batch(self, generator: torch.Generator, size: int, progress: float) -> tuple[Tensor, ...]:
        draw = {"generator": generator, "device": generator.device}
        shapes = (self.latents, self.latents, self.condition, self.text)
        return *(torch.randn(size, *shape, **draw) for shape in shapes), torch.rand(size, **draw)

    def loss(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        x0, noise, condition, text, t = batch
        task = torch.arange(len(t), device=t.device) % len(TASKS)
        x_t = torch.lerp(x0, noise, t[:, None, None, None])
        v = self.transformer(x_t, t, text, condition=condition, task=task, strength=t).sample
        return (v.float() - (noise - x0)).square().mean(), {}

    def sheet(self) -> Any:
        raise NotImplementedError("speed is measured, not pictures")

    def export(self, folder: Path) -> None:
        raise NotImplementedError("speed is measured, nothing is kept")


def update(gpu: GPU, px: int, batch: int, trained: str = "full", **train: Any) -> dict[str, float]:
    """A whole update of the trainer: bf16 autocast, fp32 weights, AdamW, clipping, the average of weights."""
    settings = TrainConfig(batch_size=batch, device=str(gpu.device), lr=1e-5, trackers=(), **train)
    trainer = Trainer(settings, Latents(gpu, px, trained), Path("unused"))
    timed = gpu.timed(lambda: trainer.advance(0.0))
    if trainer.skipped:
        raise ValueError(f"{trainer.skipped} updates had no finite loss")
    flops, tokens = gpu.cost(px)
    row = gpu.rates(timed, batch, 3 * flops, tokens)
    if trained != "full":  # frozen weights need no gradient: fewer FLOPs
        row = {name: value for name, value in row.items() if not name.startswith(("MFU", "TFLOP"))}
    return {"samples/s": batch / timed["s"]} | row


def trains(gpu: GPU) -> list[Row]:
    """One update of the trainer on latents and texts in memory, eager."""
    return [(name, lambda px=px, batch=batch: update(gpu, px, batch)) for name, px, batch in pairs(gpu)]


def editor(gpu: GPU) -> Any:
    """A pipeline of the large shape that edits in four steps without guidance, as a student does."""
    half = T5GemmaModuleConfig(**gpu.shape.text)
    shape = T5GemmaConfig(encoder=half, decoder=half)
    shape.is_encoder_decoder = False  # its encoder refuses to be built from the pair's configuration
    count = len(gpu.shape.vae)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * count, "up_block_types": ["UpDecoderBlock2D"] * count}
    usual, norms = torch.get_default_dtype(), 4 if gpu.toy else 32
    torch.set_default_dtype(HALF)
    try:
        with gpu.device:
            vae = AutoencoderKL(
                block_out_channels=gpu.shape.vae, layers_per_block=2, latent_channels=16, norm_num_groups=norms,
                use_quant_conv=False, use_post_quant_conv=False, **blocks,
            )  # fmt: skip
            encoder = AutoModelForTextEncoding.from_config(shape)
    finally:
        torch.set_default_dtype(usual)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=2.0)
    parts = (gpu.transformer(HALF).eval(), vae.eval(), encoder.eval(), ByT5Tokenizer(), scheduler)
    most = {"prompt_tokens": 256, "default_guidance": 1.0, "default_steps": 4}
    return EditPipeline(*parts, tile=gpu.sizes.large, **most)


def one_edit(
    gpu: GPU, pipeline: Any, task: str, px: int, steps: int | None = None, prompt: str = ""
) -> dict[str, float]:
    """Medians of whole calls and of their parts, as ``benchmarks/latency.py`` has them; the first call warms up."""
    pipe = of_task(pipeline, task)
    bench = Bench(pipe, argparse.Namespace(device=str(gpu.device), repeats=gpu.sizes.repeats, steps=steps))
    photo, inputs = photograph(px, px), request(task, px, px) | ({"prompt": prompt} if prompt else {})
    gpu.count_memory()
    first = bench.once(pipe, task, photo, inputs)["seconds"]
    power: dict[str, float] = {}
    with gpu.power(power):
        calls = [bench.once(pipe, task, photo, inputs) for _ in range(gpu.sizes.repeats)]
    row = {
        {"seconds": "s", "CPU": "CPU s"}.get(name, name): median(call[name] for call in calls)
        for name in calls[0]
        if name != "image"
    }
    row["rest"] = row["s"] - sum(row[name] for name in row if name not in ("s", "CPU s", "calls"))
    return row | {"first s": first} | gpu.memory() | power


def large_edit(gpu: GPU, compiled: bool = False) -> dict[str, float]:
    pipe = editor(gpu)
    if compiled:
        pipe.transformer.compile_repeated_blocks(dynamic=False)
    return one_edit(gpu, pipe, "inpaint", gpu.sizes.large, 4, PROMPT)


def edits(gpu: GPU) -> list[Row]:
    """A 4-step inpainting with a prompt, from picture to picture; ``benchmarks/latency.py`` explains the parts."""
    return [(f"inpaint, {gpu.sizes.large} px, 4 steps", lambda: large_edit(gpu))]


def against(gpu: GPU, px: int, batch: int, steps: int, compiled: bool = False) -> dict[str, float]:
    """diffusers' transformer and ours with its weights, in turns: medians, and the median of the ratios."""
    torch.manual_seed(0)
    given = {name: gpu.shape.transformer[name] for name in PRX_FIELDS if name in gpu.shape.transformer}
    with gpu.device:
        prx = PRXTransformer2DModel(**given)
        for block in prx.blocks:
            nn.init.normal_(block.modulation.lin.weight, std=0.02)
    nn.Module.to(prx, dtype=HALF).eval()
    ours = transformer_from_prx(prx, tasks=TASKS).eval()
    if compiled:
        for block in (*prx.blocks, *ours.blocks):
            block.compile(dynamic=False)
    side = px // gpu.shape.factor
    x = torch.randn(batch, given["in_channels"], side, side, device=gpu.device, dtype=HALF)
    text = torch.randn(batch, gpu.sizes.text_tokens, given["context_in_dim"], device=gpu.device, dtype=HALF)
    times = torch.linspace(1, 0, steps + 1).tolist()
    runs = [lambda: forward(prx, x, text, None), lambda: forward(ours, x, text, None)]
    if steps > 1:
        runs = [lambda: euler_prx(prx, x, text, None, times), lambda: euler_ours(ours, x, text, None, times)]
    with torch.no_grad():
        theirs, mine, ratio, apart = compare(*runs, 2 * gpu.sizes.repeats, str(gpu.device))
    return {"diffusers s": theirs, "s": mine, "ratio": ratio, "apart": apart}


def rivals(gpu: GPU) -> list[Row]:
    """Ours against diffusers' PRXTransformer2DModel, same weights, in turns, eager; a ratio above 1: ours is faster."""
    rows: list[Row] = [
        (f"forward, {name}", lambda px=px, batch=batch: against(gpu, px, batch, 1)) for name, px, batch in pairs(gpu)
    ]
    both = (gpu.sizes.small, gpu.sizes.large)
    return [*rows, *((f"20 steps, {px} px, batch 1", lambda px=px: against(gpu, px, 1, 20)) for px in both)]


def nano_update(gpu: GPU, batch: int, compiled: bool = False) -> dict[str, float]:
    """An update of the embedded model's stage: crops, masks, conditions, latents and text, on drawn photographs."""
    sizes = gpu.sizes
    changes = [f"--data.drawn={sizes.nano_photographs}", f"--data.crop={sizes.nano_pixels}"]
    changes += [f"--data.late_crop={sizes.nano_pixels}", "--data.late_from=1.0", "--train.trackers=[]"]
    changes += [f"--train.batch_size={batch}", f"--train.compile={compiled}", f"--train.device={gpu.device}"]
    settings = config.load(Config, CONFIGS / "nano-cpu.yaml", changes)
    stage = PretrainStage(settings, World(device=gpu.device))
    trainer = Trainer(settings.train, stage, Path("unused"))
    timed = gpu.timed(lambda: trainer.advance(0.0))
    memory, generator = gpu.memory(), torch.Generator(gpu.device).manual_seed(0)
    drawn = gpu.timed(lambda: stage.batch(generator, batch, 0.0))
    rest = {name: value for name, value in timed.items() if name != "s"}
    row = {"samples/s": batch / timed["s"], "s": timed["s"], "s of the batch": drawn["s"]}
    return row | memory | rest


def nano_edit(gpu: GPU, task: str, at_once: int = 1) -> dict[str, float]:
    pipe, px = EditPipeline.from_pretrained().to(gpu.device), gpu.sizes.edit
    if at_once == 1:
        row = one_edit(gpu, pipe, task, px)
        return {"edits/s": 1 / row["s"]} | row
    pipe = of_task(pipe, task)
    photo, inputs = photograph(px, px), request(task, px, px)
    timed = gpu.timed(lambda: pipe([photo] * at_once, **inputs), warm=2)
    return {"edits/s": at_once / timed["s"]} | timed | gpu.memory()


def nano(gpu: GPU) -> list[Row]:
    """The embedded model: updates of its training in samples a second, and edits in pictures a second."""
    sizes = gpu.sizes
    where = f"train, {sizes.nano_pixels} px, batch"
    rows: list[Row] = [
        (f"{where} {batch}", lambda batch=batch: nano_update(gpu, batch)) for batch in sizes.nano_batches
    ]
    for task in ("inpaint", "erase", "upscale"):
        rows.append((f"{task}, {sizes.edit} px", lambda task=task: nano_edit(gpu, task)))
    several = f"inpaint, {sizes.edit} px, {sizes.at_once} pictures in a call"
    return [*rows, (several, lambda: nano_edit(gpu, "inpaint", sizes.at_once))]


def memories(gpu: GPU) -> list[Row]:
    """Fine-tuning at the large size: a LoRA of rank 16 and all weights; text and latents computed before."""
    rows: list[Row] = []
    for trained in ("lora", "full"):
        for batch, again in ((1, False), (gpu.sizes.large_batch, False), (gpu.sizes.large_batch, True)):
            name = f"{trained}, {gpu.sizes.large} px, batch {batch}" + ", checkpointed" * again
            settings = {"batch": batch, "trained": trained, "checkpoint_activations": again}
            rows.append((name, lambda settings=settings: update(gpu, gpu.sizes.large, **settings)))
    return rows


def compiles(gpu: GPU) -> list[Row]:
    """The same with ``torch.compile``, block by block; "first s" holds the compiling."""
    rows: list[Row] = []
    for name, px, batch in reversed(pairs(gpu)):
        rows.append((f"train, {name}", lambda px=px, batch=batch: update(gpu, px, batch, compile=True)))
    name, px, batch = pairs(gpu)[-1]
    rows.append((f"forward, {name}", lambda: infer(gpu, px, batch, compiled=True)))
    rows.append((f"against diffusers, forward, {name}", lambda: against(gpu, px, batch, 1, compiled=True)))
    rows.append((f"inpaint, {px} px, 4 steps", lambda: large_edit(gpu, compiled=True)))
    return rows


def nano_compiles(gpu: GPU) -> list[Row]:
    """The embedded model's updates with ``torch.compile``."""
    where = f"train, {gpu.sizes.nano_pixels} px, batch"
    return [
        (f"{where} {batch}", lambda b=batch: nano_update(gpu, b, compiled=True)) for batch in gpu.sizes.nano_batches
    ]


def sharded(gpu: GPU, px: int, batch: int) -> dict[str, float]:
    """torch's FSDP2 in a loop of its own: bf16 weights gathered, fp32 gradients and moments."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    stage = Latents(gpu, px)
    policy = MixedPrecisionPolicy(HALF, torch.float32, cast_forward_inputs=False)
    mesh = torch.distributed.init_device_mesh(gpu.device.type, (1,))
    for block in (*stage.blocks, stage.transformer):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    optimizer = torch.optim.AdamW(stage.transformer.parameters(), lr=1e-5)
    generator = torch.Generator(gpu.device).manual_seed(0)

    def step() -> None:
        with torch.autocast(gpu.device.type, HALF):
            loss, _ = stage.loss(stage.batch(generator, batch, 0.0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    timed = gpu.timed(step)
    flops, tokens = gpu.cost(px)
    return {"samples/s": batch / timed["s"]} | gpu.rates(timed, batch, 3 * flops, tokens)


def shards(gpu: GPU) -> list[Row]:
    """FSDP2 in a group of one process: torch's own, and (on GPUs only, as accelerate has it) in the trainer."""
    name, px, batch = pairs(gpu)[-1]
    rows: list[Row] = [(f"fully_shard, {name}", lambda: in_group(gpu, lambda: sharded(gpu, px, batch)))]
    if gpu.cuda:
        rows.append((f"trainer, {name}", lambda: in_group(gpu, lambda: update(gpu, px, batch, parallel="fsdp"))))
    return rows


def in_group(gpu: GPU, work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Do the work in a group of one process, as torchrun starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        place = {"device_id": torch.device("cuda", 0)} if gpu.cuda else {}
        torch.distributed.init_process_group("nccl" if gpu.cuda else "gloo", **place)
        return work()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


PARTS: dict[str, Callable[[GPU], list[Row]]] = {
    "peak": peak,
    "forward": infers,
    "train": trains,
    "edit": edits,
    "diffusers": rivals,
    "nano": nano,
    "memory": memories,
    "compile": compiles,
    "nano-compile": nano_compiles,
    "fsdp": shards,  # the last one: what waits for other processes may wait for ever
}
