"""Every stage at toy size, sharded over processes on CPUs: what test_sharded.py starts.

    python tests/sharded.py FOLDER TINY_MODEL

Two processes train every stage in shards into FOLDER, then four one stage in hybrid shards into FOLDER/hybrid.
"""

import json
import shutil
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import torch
from gloo import fork, shard_on_cpus
from PIL import Image
from safetensors.torch import save_file

from photofound import config
from photofound.data import drawn, exemplars
from photofound.model.vision import PerceptualNet
from photofound.train.distributed import make_engine
from photofound.train.trainer import Trainer

ALIKE = "--train.micro_batches=2"  # so that one process trains what two do
SHORT = ["--train.steps=2", "--train.warmup_steps=1", "--train.precision=fp32", "--train.device=cpu",
         "--train.trackers=[]", "--train.batch_size=4"]  # fmt: skip
DRAWN = ["--data.drawn=8", "--data.sizes=[72]", "--data.crop=64"]
EDITS = [*DRAWN, "--data.late_crop=64", "--mix.tasks={{inpaint: 1, outpaint: 1}}"]
LORA = ["--model.lora.rank=2"]
START, PERCEPTUAL, PAIRS, EXEMPLARS = "{tiny}", "{folder}/squeezenet.safetensors", "{folder}/pairs", "{folder}/filled"
RUNS = {
    "pretrain": [f"--model.start={START}", *EDITS, "--train.optimizer=muon", "--train.precision=bf16"],
    "finetune": [f"--model.start={START}", *EDITS, *LORA],
    "distill": [f"--start={START}", *EDITS, "--distill.lora_rank=2", "--distill.adversarial=0.5",
                "--distill.adversarial_from=0", f"--distill.lpips_net={PERCEPTUAL}"],
    "preference": [f"--model.start={START}", f"--data.folder={PAIRS}", "--data.sizes=[72]", "--data.crop=64",
                   "--data.hold_out=3", "--validation.size=4", *LORA],
    "autoencoder": [*DRAWN, "--model.encoder_channels=[8, 8, 8]", "--model.decoder_channels=[8, 8, 8]",
                    "--model.latent_channels=4", "--loss.adversarial=0.1", "--loss.adversarial_from=0"],
    "detail": [f"--model.start={START}", f"--data.exemplars=[{EXEMPLARS}]", f"--data.perceptual={PERCEPTUAL}",
               "--data.hold_out=4", "--model.widths=[8, 8]", "--model.blocks=[1, 1]"],
    "superresolution": ["--data.drawn=8", "--data.short_side=72", "--data.crop=16", "--model.channels=8",
                        "--model.depth=1"],
}  # fmt: skip


def materials(folder):
    """What some stages read: a perceptual network, pairs of results, exemplars."""
    torch.manual_seed(0)
    save_file(PerceptualNet().state_dict(), folder / "squeezenet.safetensors")
    with patch.object(exemplars, "SHARD", 8):  # 256 take ten seconds
        exemplars.write(drawn.store(4, (72,)), folder / "filled", 8, exemplars.Plan(crop=64), workers=0)
    (folder / "pairs").mkdir()
    lines = []
    for index, photo in enumerate(drawn.photographs(9, size=72)):
        picture = Image.fromarray(photo.pixels.permute(1, 2, 0).numpy())
        for name, side in (("a", picture), ("b", picture.point(lambda value: value // 2))):
            side.save(folder / "pairs" / f"{index}{name}.png")
        line = {"file_name": f"{index}a.png", "rejected_file_name": f"{index}b.png", "text": "a cup"}
        lines.append(json.dumps(line) + "\n")
    (folder / "pairs" / "metadata.jsonl").write_text("".join(lines))


def run(name, folder, tiny, *more, source=None):
    """Train two steps to the exported model, fine-tuning stopped between them and resumed."""
    module = import_module(f"photofound.training.{name}")
    arguments = [argument.format(folder=source or folder, tiny=tiny) for argument in (*RUNS[name], *SHORT, *more)]
    settings = config.load(module.Config, None, arguments)
    for steps in (1, 2) if name == "finetune" else (2,):
        train = replace(settings.train, steps=steps)
        engine = make_engine(train)
        stage = getattr(module, f"{name.capitalize()}Stage")(settings, engine.world)
        trainer = Trainer(train, stage, folder / name, "latest", engine)
        assert engine.sharded == (train.parallel != "ddp")
        assert trainer.run()


def run_all(names, folder, tiny, source, *more):
    """Runs of these names into ``folder``; ``source`` holds what they read."""
    shard_on_cpus()
    for name in names:
        run(name, folder, tiny, *more, source=source)


if __name__ == "__main__":
    folder, tiny = map(Path, sys.argv[1:])
    for name in (*RUNS, "hybrid"):
        shutil.rmtree(folder / name, ignore_errors=True)  # of an aborted try
    for name in RUNS:  # imported before the processes are forked: once for all
        import_module(f"photofound.training.{name}")
    fork(2, lambda: run_all(RUNS, folder, tiny, folder, "--train.parallel=fsdp", ALIKE))
    hybrid = ("--train.parallel=hsdp", "--train.shard_size=2")
    fork(4, lambda: run_all(["finetune"], folder / "hybrid", tiny, folder, *hybrid))
