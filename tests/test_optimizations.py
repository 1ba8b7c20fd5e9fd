"""What saves time and memory, on pipelines: how near to the plain result, alone and in company, and what is refused."""

import numpy as np
import pytest
import torch
from helpers import load_pipeline, seeded
from PIL import Image
from skimage import data

from photofound import EditPipeline, ErasePipeline, InpaintPipeline, Picture, cli
from photofound.edits.task import Condition, get_task
from photofound.eval.metrics import psnr
from photofound.model.cache import THRESHOLD, FirstBlockCache
from photofound.model.condition import fold_condition


def jobs() -> list:
    """Two holes in a photograph, with other words each."""
    photo = data.coffee()[60:188, 100:228]
    made = []
    for i, prompt in enumerate(("a cup", "dark wooden table")):
        mask = np.zeros((128, 128), np.uint8)
        mask[40:90, 30 + 10 * i : 85 + 10 * i] = 255
        made.append(get_task("inpaint").prepare(Picture.from_any(np.roll(photo, 40 * i, 1)), mask, prompt))
    return made


def painted(pipe, made: list, steps: int | None = None) -> list[np.ndarray]:
    settings = pipe.check({"num_inference_steps": steps})[:2]
    return [result.to_float() for result in pipe.run(made, [seeded(i) for i in range(len(made))], *settings)]


@pytest.fixture
def nano():
    def load(**options):
        pipe = InpaintPipeline.from_pretrained(**options)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return load


@pytest.fixture
def counted(monkeypatch):
    """All caches that are made."""
    made, init = [], FirstBlockCache.__init__
    monkeypatch.setattr(FirstBlockCache, "__init__", lambda self, *args: (init(self, *args), made.append(self))[0])
    return made


@pytest.mark.slow
def test_skipped_blocks_stay_near_the_plain_result_and_company_does_not_matter(nano, counted):
    """The teacher's twenty steps: 35 dB in the hole at least, and bit for bit what each gives alone."""
    pipe, made = nano(teacher=True), jobs()
    plain = painted(pipe, made)
    pipe.enable_first_block_cache()
    cached = painted(pipe, made)
    assert counted and 0 < sum(each.skipped for each in counted)
    for i, (job, a, b) in enumerate(zip(made, plain, cached, strict=True)):
        assert 35 < psnr(a, b, job.hole > 0) < float("inf")
        alone = pipe.run([job], [seeded(i)], *pipe.check({})[:2])[0].to_float()
        assert (alone == b).all()
    pipe.disable_first_block_cache()
    assert (painted(pipe, made[:1])[0] == plain[0]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "floor"), [("int8", 45), ("fp8", 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_eight_bits_stay_near_the_plain_result_and_company_does_not_matter(nano, kind, floor, dtype):
    pytest.importorskip("torchao")
    pipe, made = nano(dtype=dtype), jobs()
    plain = painted(pipe, made)
    pipe.quantize(kind)
    rounded = painted(pipe, made)
    for i, (job, a, b) in enumerate(zip(made, plain, rounded, strict=True)):
        assert floor < psnr(a, b, job.hole > 0) < float("inf")
        alone = pipe.run([job], [seeded(i)], *pipe.check({})[:2])[0].to_float()
        assert (alone == b).all()


def test_tasks_that_share_weights_share_the_settings(tiny):
    pipe = tiny(InpaintPipeline)
    pipe.enable_first_block_cache(0.3)
    assert pipe.for_task("erase").transformer.new_cache().threshold == 0.3
    ErasePipeline.from_pipe(pipe).enable_first_block_cache()
    assert pipe.transformer.new_cache().threshold == THRESHOLD
    pipe.enable_first_block_cache(0)
    assert not pipe.transformer.is_cache_enabled
    with pytest.raises(ValueError, match="cache: 2 must be a number from 0 to 1"):
        pipe.enable_first_block_cache(2)


def test_what_eight_bits_cannot_do_is_refused_before_anything_is_written(nano, tmp_path):
    pytest.importorskip("torchao")
    pipe = nano()
    pipe.quantize("int8")
    for what, call in {
        "save_pretrained": lambda: pipe.save_pretrained(tmp_path / "out"),
        "load_lora_weights": lambda: pipe.load_lora_weights(tmp_path),
        "fuse_lora": pipe.fuse_lora,
        "unfuse_lora": pipe.unfuse_lora,
    }.items():
        with pytest.raises(ValueError, match=f"{what}: the weights have eight bits by now"):
            call()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="the weights have eight bits already"):
        pipe.quantize("fp8")


def test_memory_switches_are_there(tiny):
    pipe = tiny(InpaintPipeline)
    for name in ("enable_vae_tiling", "disable_vae_tiling", "enable_vae_slicing", "disable_vae_slicing"):
        getattr(pipe, name)()


def test_the_command_line_says_the_threshold_that_counts():
    from photofound.cli.arguments import Parser, add_optimizations
    from photofound.cli.model import optimize

    parser = Parser()
    add_optimizations(parser)
    assert f"default: {THRESHOLD}" in parser.format_help()

    class Pipe:
        def __init__(self):
            self.asked = []

        def quantize(self, kind):
            self.asked.append(kind)

        def enable_first_block_cache(self, *threshold):
            self.asked.append(threshold)

    for line, asked in {
        "": [],
        "--quantize int8": ["int8"],
        "--cache": [()],
        "--cache --cache-threshold 0.3": [(0.3,)],
        "--cache-threshold 0": [(0.0,)],
    }.items():
        optimize(pipe := Pipe(), parser.parse_args(line.split()))
        assert pipe.asked == asked


def test_a_pipeline_of_the_family_has_the_words():
    for name in ("quantize", "enable_first_block_cache", "disable_first_block_cache"):
        assert callable(getattr(EditPipeline, name))


def test_compiling_takes_the_blocks_and_the_decoder_and_is_named_in_recipes(nano, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: compiled.append(type(self).__name__))
    pipe = nano()
    with pytest.raises(ValueError, match="graphs are CUDA's, and this model is on cpu; leave graphs out"):
        pipe.compile(graphs=True)
    assert not compiled and "compile" not in pipe.optimizations
    pipe.optimize({"compile": "blocks"})
    assert compiled.count("Block") == len(pipe.transformer.blocks) and "Decoder" in compiled[-1]
    assert pipe.optimizations == {"compile": "blocks"}


@pytest.fixture(scope="module")
def two_paths(tiny_folder, tmp_path_factory):
    """A tiny model of six blocks with a fusion, in a folder."""
    torch.manual_seed(0)
    pipe = InpaintPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
    shape = {**pipe.transformer.config, "depth": 6, "token_fusion": True}
    pipe.transformer = type(pipe.transformer).from_config(shape)
    for parameter in pipe.transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    folder = tmp_path_factory.mktemp("two-paths")
    pipe.save_pretrained(folder)
    return folder


def test_path_drop_guides_away_from_the_outer_blocks(two_paths, monkeypatch):
    pipe = load_pipeline(InpaintPipeline, two_paths)
    condition = Condition(
        torch.rand(2, 3, 64, 64), torch.ones(2, 1, 64, 64), ["inpaint"] * 2, ["a cup", ""], torch.ones(2)
    )
    folded = fold_condition(condition, pipe.vae, "pixels")
    x, t, seen = torch.randn(2, 4, 8, 8), torch.tensor(0.7), []
    forward = pipe.transformer.forward
    monkeypatch.setattr(
        pipe.transformer,
        "forward",
        lambda *given, **more: (seen.append(more.get("path_drop", False)), forward(*given, **more))[1],
    )

    @torch.no_grad()
    def velocity(guidance, paths):
        (pipe.enable_path_drop_guidance if paths else pipe.disable_path_drop_guidance)()
        seen.clear()
        return pipe._velocity(condition, folded, guidance, condition.hole)(x, t)

    strong = velocity(1.0, True)
    assert seen == [False], "guidance of 1 is none"
    doubled, tripled = velocity(2.0, True), velocity(3.0, True)
    assert seen == [False, True]
    torch.testing.assert_close(tripled - strong, 2 * (doubled - strong), rtol=1e-4, atol=1e-4)
    tokens, mask = pipe._encode_prompts(["a cup", "", "", ""])
    weak = forward(
        x, t.reshape(1), tokens[2:], mask[2:], condition=folded, task=pipe.transformer.task_index("inpaint"),
        strength=condition.strength, path_drop=True,
    ).sample  # fmt: skip
    torch.testing.assert_close(doubled, 2 * strong - weak, rtol=1e-3, atol=1e-4)
    assert (doubled - velocity(2.0, False)).abs().max() > 1e-3 and seen == [False]
    pipe.enable_path_drop_guidance()
    assert pipe.optimizations == {"path_drop": True} and pipe.computed["path_drop"] is True


def test_path_drop_is_an_option_of_every_command_and_is_refused_where_there_is_one_path(
    two_paths, tiny_folder, tmp_path, capsys
):
    picture, mask = tmp_path / "a.png", tmp_path / "mask.png"
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(picture)
    Image.fromarray(np.pad(np.full((32, 32), 255, np.uint8), 16)).save(mask)
    command = ["inpaint", str(picture), str(mask), "--guidance", "3", "--quiet"]
    made = []
    for more in ([], ["--path-drop"]):
        out = tmp_path / f"out{len(made)}.png"
        assert cli.main([*command, "--model", str(two_paths), "-o", str(out), *more]) == 0
        made.append(Picture.from_any(out).to_float())
    assert (made[0] != made[1]).any() and (made[0][:16] == made[1][:16]).all()
    assert cli.main([*command, "--model", str(tiny_folder), "--path-drop", "-o", str(tmp_path / "b.png")]) == 2
    assert "path-drop: this model has no two paths" in capsys.readouterr().err
