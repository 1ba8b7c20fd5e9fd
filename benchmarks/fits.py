"""What fits a GPU of so many GB, by the memory plan: no weights, data or GPU are needed.

    python benchmarks/fits.py               # the table in docs/large-models.md

Each cell is the first of a list of settings that fits, from the fastest to the smallest, with GiB at the peak of a step
of four samples, or of one where that is said. Text is computed before. The autoencoder of the large model is not here
to be counted: 0.2 GiB.
"""

import sys
from collections.abc import Sequence
from functools import cache

from photofound import config
from photofound.train.adapt import plan_adapted
from photofound.train.memory import Memory
from photofound.training.finetune import Config

CARDS = (8, 16, 24, 80)  # GB
LARGE = ("--model.start=editor", "--model.vae=elsewhere", "--model.latent=[16, 8]", "--model.hidden_size=1792",
         "--model.depth=16", "--model.num_heads=28", "--model.mlp_ratio=3.5", "--model.condition_space=latents",
         "--model.text_encoder=elsewhere", "--model.text_width=2304", "--model.text_length=256")  # fmt: skip
MODELS = {"embedded, 7 M": (), "PRX, 1.2 B": LARGE}
HALF = ("--model.base=bf16", "--model.frozen=bf16")
PRODUCTS = ("--train.checkpoint_activations=true", "--train.checkpoint_keep=products")
INPUTS = ("--train.checkpoint_activations=true",)
NF4, EIGHT, OFFLOAD = (
    ("--model.base=nf4", "--model.frozen=bf16"),
    ("--train.optimizer=adamw8bit",),
    ("--train.offload=true",),
)
ONE = ("--train.batch_size=1",)
LADDERS = {
    "lora": {
        "plain": (),
        "bf16": HALF,
        "bf16, products": (*HALF, *PRODUCTS),
        "bf16, inputs": (*HALF, *INPUTS),
        "nf4, inputs": (*NF4, *INPUTS),
        "nf4, inputs, one sample": (*NF4, *INPUTS, *ONE),
        "nf4, swap 12, one sample": (*NF4, *INPUTS, *ONE, "--model.swap_blocks=12"),
    },
    "full": {
        "plain": (),
        "products": PRODUCTS,
        "inputs": INPUTS,
        "inputs, adamw8bit": (*INPUTS, *EIGHT),
        "inputs, offload": (*INPUTS, *OFFLOAD),
        "inputs, offload, one sample": (*INPUTS, *OFFLOAD, *ONE),
    },
}


@cache
def need(model: str, trained: str, px: int, settings: Sequence[str]) -> Memory:
    """What a step takes."""
    changes = [*MODELS[model], f"--model.train={trained}", f"--data.crop={px}", "--data.sources=[{path: elsewhere}]"]
    changes += ["--data.precomputed=[text]", "--train.batch_size=4", "--validation.times=0", *settings]
    (phase,) = plan_adapted(config.load(Config, None, changes))
    assert phase.need is not None
    memory: Memory = phase.need(1)
    return memory


def cell(model: str, trained: str, px: int, card: int) -> str:
    """The first settings that fit."""
    for name, settings in LADDERS[trained].items():
        memory = need(model, trained, px, settings)
        if memory.card <= card * 1e9:
            return f"{name}: {memory.peak / 2**30:.1f}"
    return f"nothing: {memory.peak / 2**30:.1f}"


def main() -> int:
    print("| model | trained | px | " + " | ".join(f"{card} GB" for card in CARDS) + " |")
    print("|---" * (3 + len(CARDS)) + "|")
    for model in MODELS:
        for trained in LADDERS:
            for px in (512, 1024):
                cells = [cell(model, trained, px, card) for card in CARDS]
                print("| " + " | ".join([model, trained, str(px), *cells]) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
