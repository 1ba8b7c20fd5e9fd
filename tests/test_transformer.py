"""EditTransformer against diffusers' PRX transformer on the same weights, and what it adds to it."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from diffusers import PRXTransformer2DModel
from peft import LoraConfig
from torch import nn

from photofound.model import attention, layers
from photofound.model.cost import forward_cost
from photofound.model.prx import transformer_from_prx
from photofound.model.transformer import EditTransformer

TRUNK = {"context_in_dim": 24, "hidden_size": 32, "num_heads": 2, "depth": 3, "axes_dim": [8, 8]}
LATENT = {**TRUNK, "in_channels": 4, "patch_size": 2}
PIXEL = {**TRUNK, "in_channels": 3, "patch_size": 4, "bottleneck_size": 16, "resolution_embeds": True}
ODD = {**TRUNK, "in_channels": 4, "patch_size": 1, "mlp_ratio": 2.3, "axes_dim": [4, 12], "theta": 500,
       "time_factor": 10.0, "time_max_period": 77, "resolution_embeds": True}  # fmt: skip
TASKS = ("generate", "outpaint", "erase")


def scramble(model: nn.Module) -> nn.Module:
    """Give every parameter, zero-initialised ones too, a random value, so that nothing is compared at zero."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    return model.eval()


def latents(config: dict, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents that are not square, times, text."""
    time = torch.tensor([0.03, 0.5, 0.97])[:batch]
    return torch.randn(batch, config["in_channels"], 8, 12), time, torch.randn(batch, 7, config["context_in_dim"])


def edit_inputs(batch: int = 3) -> dict:
    return {
        "condition": torch.randn(batch, 5, 8, 12),
        "task": torch.tensor([2, 0, 1])[:batch],
        "strength": torch.tensor([0.0, 0.4, 1.0])[:batch],
        "guidance": torch.tensor([1.0, 4.5, 7.0])[:batch],
    }


def editor(**changes) -> EditTransformer:
    return EditTransformer(**{**LATENT, "condition_channels": 5, "tasks": TASKS, "guidance_embeds": True, **changes})


def from_prx(config: dict) -> tuple[PRXTransformer2DModel, EditTransformer]:
    prx = scramble(PRXTransformer2DModel(**config))
    return prx, transformer_from_prx(prx, condition_channels=5, tasks=TASKS, guidance_embeds=True).eval()


# ------------------------------------------------------------------------------------------- agreement with diffusers


@torch.no_grad()
@pytest.mark.parametrize("config", [LATENT, PIXEL, ODD], ids=["latent", "pixel", "odd"])
def test_agrees_with_prx(config):
    prx, ours = from_prx(config)
    x, time, text = latents(config)
    mask = torch.arange(7) < torch.tensor([[7], [3], [0]])
    calls = {
        "plain": (x, time, text),
        "one time for all": (x, time[:1], text),
        "mask": (x, time, text, mask),
        "mask of integers": (x, time, text, mask.long()),
        "attention_kwargs": (x, time, text, mask, {}),
        "tuple": (x, time, text, None, None, False),
    }
    assert prx(x, time, text).sample.std() > 0.1, "nothing to compare"
    for name, call in calls.items():
        torch.testing.assert_close(ours(*call)[0], prx(*call)[0], atol=1e-5, rtol=0, msg=name)
    named = {"hidden_states": x, "timestep": time, "encoder_hidden_states": text, "attention_mask": mask}
    torch.testing.assert_close(ours(**named).sample, prx(**named).sample, atol=1e-5, rtol=0)


def test_every_field_of_prx_is_ours_with_the_same_default():
    def defaults(model: type) -> dict:
        return {name: field.default for name, field in inspect.signature(model.__init__).parameters.items()}

    theirs, ours = defaults(PRXTransformer2DModel), defaults(EditTransformer)
    assert theirs == {name: ours[name] for name in theirs}


@torch.no_grad()
def test_edit_inputs_change_nothing_at_first():
    prx, ours = from_prx(LATENT)
    x, time, text = latents(LATENT)
    expected = prx(x, time, text).sample
    torch.testing.assert_close(ours(x, time, text, **edit_inputs()).sample, expected, atol=1e-5, rtol=0)
    for task in range(len(TASKS)):
        torch.testing.assert_close(ours(x, time, text, task=task).sample, expected, atol=1e-5, rtol=0)


def test_from_prx_keeps_dtype_and_does_not_share_memory():
    prx = scramble(PRXTransformer2DModel(**LATENT)).bfloat16()
    ours = transformer_from_prx(prx, tasks=TASKS)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
    x, time, text = latents(LATENT)
    x, text = x.bfloat16(), text.bfloat16()
    before = prx(x, time, text).sample
    torch.testing.assert_close(ours(x, time, text).sample, before, atol=0.15, rtol=0.1)
    scramble(ours)
    assert torch.equal(prx(x, time, text).sample, before)


def test_from_prx_refuses_another_model():
    prx = PRXTransformer2DModel(**LATENT)
    prx.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="extra"):
        transformer_from_prx(prx)


def test_gradients_are_prx_gradients():
    prx, ours = from_prx(LATENT)
    call = latents(LATENT)
    for model in (prx, ours):
        model(*call).sample.square().mean().backward()
    gradients = dict(ours.named_parameters())
    for name, parameter in prx.named_parameters():
        if not name.startswith("final_layer"):
            torch.testing.assert_close(gradients[name].grad, parameter.grad, atol=1e-5, rtol=1e-3, msg=name)


# ---------------------------------------------------------------------------------------------------------- edit inputs


@torch.no_grad()
@pytest.mark.parametrize("name", ["condition", "task", "strength", "guidance"])
def test_each_edit_input_counts_once_its_weights_do(name):
    model, call, edits = scramble(editor()), latents(LATENT), edit_inputs()
    without = model(*call, **{**edits, name: None}).sample
    assert (model(*call, **edits).sample - without).abs().amax((1, 2, 3))[[0, 2]].min() > 1e-3


@torch.no_grad()
def test_no_condition_is_a_zero_condition_and_no_task_is_the_first():
    model, call = scramble(editor()), latents(LATENT)
    plain = model(*call).sample
    torch.testing.assert_close(model(*call, condition=torch.zeros(3, 5, 8, 12)).sample, plain)
    torch.testing.assert_close(model(*call, task=torch.zeros(3, dtype=torch.long)).sample, plain)


def test_zero_initialised_inputs_have_gradients_in_the_first_step():
    model = scramble(editor())
    nn.init.zeros_(model.condition_in.weight)
    nn.init.zeros_(model.task_in)
    nn.init.zeros_(model.strength_in.out_layer.weight)
    model(*latents(LATENT), **edit_inputs()).sample.square().mean().backward()
    for parameter in (model.condition_in.weight, model.task_in, model.strength_in.out_layer.weight):
        assert parameter.grad.abs().sum() > 0


@torch.no_grad()
def test_a_mixed_batch_equals_its_samples_one_by_one():
    model, call, edits = scramble(editor()), latents(LATENT), edit_inputs()
    mixed = model(*call, **edits).sample
    for index in range(3):
        own = slice(index, index + 1)
        alone = {name: value[own] for name, value in edits.items()}
        alone["task"] = int(edits["task"][index])  # the path without a gather
        torch.testing.assert_close(mixed[own], model(*(t[own] for t in call), **alone).sample, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_one_time_serves_a_batch_of_tasks():
    model, (x, time, text), edits = scramble(editor()), latents(LATENT), edit_inputs()
    torch.testing.assert_close(model(x, time[:1], text, **edits).sample,
                               model(x, time[:1].expand(3), text, **edits).sample)  # fmt: skip


def test_from_scratch_starts_at_zero_output_and_identity_blocks():
    model = editor()
    assert model(*latents(LATENT), **edit_inputs()).sample.abs().max() == 0
    for block in model.blocks:
        assert block.modulation.lin.weight.abs().max() == 0
        assert block.attention.img_qkv_proj.weight.std() > 0


@torch.no_grad()
def test_add_task_copies_the_first_head_and_counts_in_the_config(tmp_path):
    model, call = scramble(editor()), latents(LATENT)
    assert model.add_task("relight") == 3 == model.task_index("relight")
    first = model(*call, task=0).sample
    assert torch.equal(model(*call, task=3).sample, first)
    model.heads.bias[3] += 1
    assert torch.equal(model(*call, task=0).sample, first)
    torch.testing.assert_close(model(*call, task=torch.full((3,), 3)).sample, first + 1)
    model.save_pretrained(tmp_path)
    loaded = EditTransformer.from_pretrained(tmp_path)
    assert list(loaded.config.tasks) == [*TASKS, "relight"]
    torch.testing.assert_close(loaded(*call, task=3).sample, first + 1)


@torch.no_grad()
def test_added_guidance_changes_nothing_at_first_and_is_the_same_for_everybody(tmp_path):
    call, scale = latents(LATENT), torch.tensor([1.5, 3.0, 6.0])
    models = [scramble(editor(guidance_embeds=False)) for _ in range(2)]
    before = models[0](*call).sample
    for model in models:
        model.add_guidance()
    assert torch.equal(models[0](*call, guidance=scale).sample, before)
    assert torch.equal(*(model.guidance_in.in_layer.weight for model in models)) and models[0].config.guidance_embeds
    scramble(models[0].guidance_in)
    with_guidance = models[0](*call, guidance=scale).sample
    assert not torch.allclose(with_guidance, before)
    models[0].add_guidance()  # it has one
    models[0].save_pretrained(tmp_path)
    torch.testing.assert_close(EditTransformer.from_pretrained(tmp_path)(*call, guidance=scale).sample, with_guidance)


# ---------------------------------------------------------------------------------------------------------- references


def reference_inputs(batch: int = 3) -> dict:
    """References of another shape than the latents; the middle sample has none."""
    return {"reference": torch.randn(batch, 4, 6, 4), "referenced": torch.tensor([True, False, True])[:batch]}


def referring(**changes) -> EditTransformer:
    """A model whose reference input counts."""
    return scramble(editor(reference_embeds=True, reference_size=48, **changes))


@torch.no_grad()
def test_an_added_reference_changes_nothing_at_first_bit_for_bit(tmp_path):
    model, call, edits = scramble(editor()), latents(LATENT), edit_inputs()
    before = model(*call, **edits).sample
    model.add_reference(48)
    assert (model.config.reference_embeds, model.config.reference_size) == (True, 48)
    assert torch.equal(model(*call, **edits).sample, before)
    assert torch.equal(model(*call, **edits, **reference_inputs()).sample, before)
    kv = model.encode_reference(reference_inputs()["reference"])
    assert torch.equal(model(*call, **edits, reference_kv=kv).sample, before)
    scramble(model)
    changed = model(*call, **edits, **reference_inputs(3)).sample
    model.add_reference(64)  # it has one
    assert model.config.reference_size == 48
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    loaded = EditTransformer.from_pretrained(tmp_path)
    torch.manual_seed(1)
    given = reference_inputs()
    assert torch.equal(loaded(*call, **edits, **given).sample, model(*call, **edits, **given).sample)
    assert changed.isfinite().all()


@torch.no_grad()
def test_a_converted_prx_with_a_reference_is_prx_at_first():
    prx = scramble(PRXTransformer2DModel(**LATENT))
    ours = transformer_from_prx(prx, tasks=TASKS, reference_embeds=True).eval()
    call = latents(LATENT)
    expected = prx(*call).sample
    torch.testing.assert_close(ours(*call).sample, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours(*call, **reference_inputs()).sample, expected, atol=1e-5, rtol=0)
    assert torch.equal(ours.reference_in.weight, ours.img_in.weight)
    assert ours.reference_in.weight is not ours.img_in.weight


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_references_gate_has_a_gradient_in_the_first_step(checkpointing):
    model = scramble(editor()).train()
    model.add_reference(48)
    if checkpointing:
        model.enable_gradient_checkpointing()
    model(*latents(LATENT), **reference_inputs()).sample.square().mean().backward()
    for block in model.blocks:
        assert block.attention.reference.out_proj.weight.grad.abs().sum() > 0
        assert block.attention.reference.kv_proj.weight.grad is not None
    assert model.reference_in.weight.grad is not None


@torch.no_grad()
def test_a_reference_counts_where_there_is_one_and_nowhere_else():
    model, call, given = referring(), latents(LATENT), reference_inputs()
    plain, out = model(*call).sample, model(*call, **given).sample
    assert torch.equal(out[1], plain[1])
    assert (out - plain).abs().amax((1, 2, 3))[[0, 2]].min() > 1e-3
    other = {**given, "reference": given["reference"].roll(1, 0)}
    assert (model(*call, **other).sample - out).abs().amax((1, 2, 3))[[0, 2]].min() > 1e-3
    for index in range(3):
        own = slice(index, index + 1)
        alone = {"reference": given["reference"][own]} if given["referenced"][index] else {}
        torch.testing.assert_close(out[own], model(*(t[own] for t in call), **alone).sample, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [[0, 2], [2]])
def test_references_may_come_alone_with_the_samples_that_they_belong_to(rows):
    model, call, given = referring(depth=6), latents(LATENT), reference_inputs()
    rows = torch.tensor(rows, dtype=torch.long)
    referenced = torch.zeros(3, dtype=torch.bool).index_fill(0, rows, True)
    calls = [{**given, "referenced": referenced}, {"reference": given["reference"][rows], "referenced": rows}]
    gradients = []
    for inputs in calls:
        model.zero_grad()
        out = model(*call, **inputs, route=a_route_of(7)).sample
        out.square().mean().backward()
        gradients.append([out.detach()] + [p.grad.clone() for n, p in model.named_parameters() if "reference" in n])
    assert len(gradients[0]) > 6
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def a_route_of(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(24, generator=generator)[:12] for _ in range(3)])


@torch.no_grad()
def test_a_surface_has_no_place():
    """Patches of the reference in another order are the same reference."""
    model, call, seen = referring(), latents(LATENT), reference_inputs()["reference"]
    shuffled = layers.unpatchify(layers.patchify(seen, 2)[:, torch.randperm(6)], 2, 6, 4)
    torch.testing.assert_close(
        model(*call, reference=shuffled).sample, model(*call, reference=seen).sample, atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
def test_a_reference_is_encoded_once_for_all_steps_and_one_serves_a_batch():
    model, call, given, calls = referring(), latents(LATENT), reference_inputs(), []
    for block in model.blocks:
        block.attention.reference.kv_proj.register_forward_hook(lambda *_: calls.append(1))
    kv = model.encode_reference(given["reference"])
    assert kv.shape == (3, 3, 2, 6, 2, 16)
    out = [model(*call, reference_kv=kv, referenced=given["referenced"]).sample for _ in range(3)][0]
    assert len(calls) == len(model.blocks)
    torch.testing.assert_close(out, model(*call, **given).sample)
    one = model(*call, reference_kv=kv[:1], referenced=torch.ones(1, dtype=torch.bool)).sample
    torch.testing.assert_close(one, model(*call, reference=given["reference"][:1].expand(3, -1, -1, -1)).sample)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["plain", "autocast", "checkpointing", "compiled"])
def test_references_work_with_routes_and_taps_in_every_mode_of_training(mode):
    model, call, given, route = referring(depth=6).train(), latents(LATENT), reference_inputs(), a_route()
    expected = model(*call, **given, route=route, tap=1)
    if mode == "checkpointing":
        model.enable_gradient_checkpointing()
    if mode == "compiled":
        for block in model.blocks:
            block.compile(backend="eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        out = model(*call, **given, route=route, tap=1)
    tolerance = {"atol": 0.3, "rtol": 0.1} if mode == "autocast" else {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(out.sample.float(), expected.sample, **tolerance)
    (out.sample.float().square().mean() + out.features.float().mean()).backward()
    grown = [p for n, p in model.named_parameters() if "reference" in n]
    assert grown and all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in grown)


@torch.no_grad()
def test_a_lora_reaches_the_reference():
    from photofound.train.settings import LINEAR

    model, call, given = referring(), latents(LATENT), reference_inputs()
    before = model(*call, **given).sample
    model.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=list(LINEAR), init_lora_weights=False))
    adapted = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert {"blocks.0.attention.reference.kv_proj", "blocks.2.attention.reference.out_proj"} <= adapted
    assert (model(*call, **given).sample - before).abs().max() > 1e-3


@pytest.mark.slow
def test_a_reference_costs_its_keys_values_and_output():
    with torch.device("meta"):
        plain = EditTransformer(condition_channels=80, depth=8, tasks=TASKS)
        model = EditTransformer(condition_channels=80, depth=8, tasks=TASKS, reference_embeds=True)
    c, tokens, seen = model.config, 512, 64
    wide = c.hidden_size
    added = c.depth * (4 * seen * wide**2 + 2 * tokens * wide**2 + 4 * tokens * seen * wide)
    added += 2 * seen * c.in_channels * c.patch_size**2 * wide
    cost = forward_cost(model, 64, 32, 100, reference=(16, 16))
    assert cost.flops - forward_cost(plain, 64, 32, 100).flops == added
    assert cost.flops - forward_cost(model, 64, 32, 100).flops == added


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"reference": torch.zeros(2, 4, 4, 4)}, "2 references for 3 latents"),
        ({"reference": torch.zeros(3, 5, 4, 4)}, r"\(3, 5, 4, 4\): give \(batch, 4, height, width\), multiples of 2"),
        ({"reference": torch.zeros(3, 4, 3, 4)}, "multiples of 2"),
        ({"reference_kv": torch.zeros(3, 2, 2, 6, 2, 16)}, "reference_kv has shape"),
        ({"reference": torch.zeros(3, 4, 4, 4), "reference_kv": torch.zeros(3, 3, 2, 6, 2, 16)}, "not both"),
        ({"reference": torch.zeros(3, 4, 4, 4), "referenced": torch.ones(2).bool()}, r"\(2,\): give \(3,\)"),
        ({"reference": torch.zeros(2, 4, 4, 4), "referenced": torch.zeros(3).long()}, r"\(3,\): give \(2,\)"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(inputs, said):
    with pytest.raises(ValueError, match=said):
        referring()(*latents(LATENT), **inputs)


def test_a_model_without_the_input_refuses_a_reference():
    with pytest.raises(ValueError, match="takes no reference image"):
        editor()(*latents(LATENT), **reference_inputs())
    with pytest.raises(ValueError, match="takes no reference image"):
        editor().encode_reference(torch.zeros(1, 4, 4, 4))


# ------------------------------------------------------------------------------------------- text keys and values, once


@torch.no_grad()
def test_text_kv_replaces_the_text():
    model, (x, time, text), edits = scramble(editor()), latents(LATENT), edit_inputs()
    mask = torch.arange(7) < torch.tensor([[7], [3], [1]])
    text_kv = model.encode_text(text)
    assert text_kv.shape == (3, 3, 2, 7, 2, 16)
    expected = model(x, time, text, mask, **edits).sample
    torch.testing.assert_close(model(x, time, None, mask, text_kv=text_kv, **edits).sample, expected)


@torch.no_grad()
def test_one_prompt_serves_a_batch():
    model, (x, time, text) = scramble(editor()), latents(LATENT)
    expected = model(x, time, text[:1].expand(3, -1, -1)).sample
    text_kv = model.encode_text(text[:1])
    torch.testing.assert_close(model(x, time, text_kv=text_kv).sample, expected)
    torch.testing.assert_close(model(x, time, text_kv=text_kv.repeat_interleave(3, 0)).sample, expected)
    torch.testing.assert_close(model(x, time, text[:1]).sample, expected)


@torch.no_grad()
def test_sampling_encodes_the_text_once():
    model, (x, time, text) = scramble(editor()), latents(LATENT)
    calls = []
    for block in model.blocks:
        block.attention.txt_kv_proj.register_forward_hook(lambda *_: calls.append(1))
    text_kv = model.encode_text(text)
    for _ in range(4):
        x = model(x, time, text_kv=text_kv).sample
    assert len(calls) == len(model.blocks)


# --------------------------------------------------------------------------------------------------- routes, taps, cost


def routed_by_hand(model: EditTransformer, x, time, text, mask, route) -> torch.Tensor:
    """The forward pass of TREAD's figure 2, sample by sample: blocks 2 to depth - 4 see the routed tokens only."""
    samples = []
    for index in range(len(x)):
        own, chosen = slice(index, index + 1), route[index]
        tokens, words = model.img_in(layers.patchify(x[own], 2)), model.txt_in(text[own])
        rope = attention.rope_table(4, 6, model.axes_dim, 10000, x.device)
        activated = F.silu(model.time_in(time[own]) + model.task_in[0])
        for number, block in enumerate(model.blocks):
            if 2 <= number <= len(model.blocks) - 4:
                seen = torch.cat((mask[own], torch.ones(1, len(chosen), dtype=torch.bool)), 1)[:, None, None]
                inner = block(tokens[:, chosen], activated, words, rope[chosen], seen)
                rows = [inner[0, chosen.tolist().index(t)] if t in chosen else tokens[0, t] for t in range(24)]
                tokens = torch.stack(rows)[None]
            else:
                seen = torch.cat((mask[own], torch.ones(1, 24, dtype=torch.bool)), 1)[:, None, None]
                tokens = block(tokens, activated, words, rope, seen)
        samples.append(layers.unpatchify(model.heads(tokens, activated, 0), 2, 8, 12))
    return torch.cat(samples)


def a_route(keep: int = 12) -> torch.Tensor:
    return torch.stack([torch.randperm(24)[:keep] for _ in range(3)])


def test_a_route_computes_treads_figure_and_its_gradient():
    model, (x, time, text), route = scramble(editor(depth=7)), latents(LATENT), a_route()
    mask = torch.arange(7) < torch.tensor([[7], [3], [1]])
    expected = routed_by_hand(model, x, time, text, mask, route)
    out = model(x, time, text, mask, route=route).sample
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
    weights = torch.randn_like(out)
    names, parameters = zip(
        *((n, p) for n, p in model.named_parameters() if "blocks" in n or "img_in" in n), strict=True
    )
    ours = torch.autograd.grad((out * weights).sum(), parameters)
    by_hand = torch.autograd.grad((expected * weights).sum(), parameters)
    for name, got, want in zip(names, ours, by_hand, strict=True):
        torch.testing.assert_close(got, want, atol=1e-3 * float(want.abs().max()), rtol=1e-3, msg=name)


@torch.no_grad()
def test_a_route_of_all_tokens_in_any_order_is_no_route():
    model, call, edits = scramble(editor(depth=7)), latents(LATENT), edit_inputs()
    plain = model(*call, **edits).sample
    torch.testing.assert_close(model(*call, **edits, route=a_route(24)).sample, plain, atol=1e-4, rtol=1e-4)
    assert (model(*call, **edits, route=a_route(12)).sample - plain).abs().max() > 1e-2


@torch.no_grad()
def test_skipped_tokens_come_back_as_they_were():
    model, call, route = scramble(editor(depth=8)), latents(LATENT), a_route()
    assert model.route_span == range(2, 5)
    before, after = (model(*call, route=route, tap=block).features for block in (1, 4))
    skipped = torch.ones(3, 24, dtype=torch.bool).scatter(1, route, False)
    assert torch.equal(after[skipped], before[skipped])
    assert (after[~skipped] != before[~skipped]).any(-1).all()


@torch.no_grad()
def test_a_tap_is_the_output_of_its_block():
    model, call, seen = scramble(editor(depth=7)), latents(LATENT), []
    model.blocks[2].register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    sample, features = model(*call, tap=2, return_dict=False)
    assert torch.equal(features, seen[0]) and features.shape == (3, 24, 32)
    assert torch.equal(sample, model(*call).sample) and model(*call).features is None
    assert model(*call, route=a_route(), tap=2).features.shape == (3, 12, 32)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["autocast", "checkpointing", "compiled"])
def test_routing_and_tapping_work_in_every_mode_of_training(mode):
    model, call, route = scramble(editor(depth=6)).train(), latents(LATENT), a_route()
    expected = model(*call, route=route, tap=1)
    if mode == "checkpointing":
        model.enable_gradient_checkpointing()
    if mode == "compiled":  # block by block, as the trainer does
        for block in model.blocks:
            block.compile(backend="eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        out = model(*call, route=route, tap=1)
    tolerance = {"atol": 0.3, "rtol": 0.1} if mode == "autocast" else {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(out.sample.float(), expected.sample, **tolerance)
    (out.sample.float().mean() + out.features.float().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.blocks.parameters())


def flops_by_hand(model: EditTransformer, tokens: int, text: int, inner: int) -> int:
    """Matrix products and attention, two per multiply-add (the count of arXiv:2204.02311, appendix B)."""
    c = model.config
    wide, mlp = c.hidden_size, 3 * int(c.hidden_size * c.mlp_ratio)

    def block(n: int) -> int:
        return 2 * n * wide * (4 * wide + mlp) + 4 * text * wide**2 + 4 * n * (n + text) * wide + 12 * wide**2

    span = len(model.route_span)
    patch = c.in_channels * c.patch_size**2
    ends = 2 * tokens * wide * (2 * patch + c.condition_channels * c.patch_size**2) + 2 * text * c.context_in_dim * wide
    vectors = 2 * (2 * 256 * wide + 2 * wide**2) + 4 * wide**2  # time, strength, the head's modulation
    return (c.depth - span) * block(tokens) + span * block(inner) + ends + vectors


@pytest.mark.slow
@pytest.mark.parametrize("skip", [0.0, 0.5])
def test_the_cost_is_counted_not_computed(skip):
    with torch.device("meta"):
        model = EditTransformer(condition_channels=80, depth=8, tasks=TASKS)
    cost = forward_cost(model, 64, 32, text_tokens=100, skip=skip)
    assert cost.tokens == 512 and cost.parameters == sum(p.numel() for p in model.parameters())
    inner = 256 if skip else 512
    assert cost.flops == flops_by_hand(model, 512, 100, inner)
    real = editor(depth=6)
    assert forward_cost(real, 8, 12, 7).flops > 0 and {p.device.type for p in real.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    ("depth", "inputs", "said"),
    [
        (5, {"route": torch.zeros(3, 4, dtype=torch.long)}, "depth of at least 6.* is 5"),
        (7, {"route": torch.zeros(2, 4, dtype=torch.long)}, r"route has shape \(2, 4\): give \(3, 1 to 24\)"),
        (7, {"route": torch.zeros(3, 25, dtype=torch.long)}, r"give \(3, 1 to 24\)"),
        (7, {"tap": 7}, "tap=7: there are blocks 0 to 6"),
    ],
)
def test_a_route_or_tap_that_does_not_fit_is_refused(depth, inputs, said):
    with pytest.raises(ValueError, match=said):
        editor(depth=depth)(*latents(LATENT), **inputs)


# ----------------------------------------------------------------------------------------- diffusers' and PEFT's habits


@torch.no_grad()
def test_save_and_load_in_shards(tmp_path):
    model = scramble(editor(condition_space="latents", prediction_type="sample"))
    call, edits = latents(LATENT), edit_inputs()
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = EditTransformer.from_pretrained(tmp_path)
    assert torch.equal(loaded(*call, **edits).sample, model(*call, **edits).sample)
    assert (loaded.config.condition_space, loaded.config.prediction_type) == ("latents", "sample")
    assert loaded.task_index("erase") == 2

    half = EditTransformer.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    x, time, text = call  # time, strength and guidance stay float32
    edits_half = {**edits, "condition": edits["condition"].bfloat16()}
    out = half(x.bfloat16(), time, text.bfloat16(), **edits_half).sample
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), model(*call, **edits).sample, atol=0.15, rtol=0.1)


@pytest.mark.filterwarnings("error:Mismatch dtype")
def test_autocast_runs_forward_and_backward_without_mixed_kernels():
    model, call, edits = scramble(editor()), latents(LATENT), edit_inputs()
    with torch.no_grad():
        expected = model(*call, **edits).sample
    with torch.autocast("cpu", torch.bfloat16):
        out = model(*call, **edits).sample
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.detach().float(), expected, atol=0.15, rtol=0.1)
    out.float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_gradient_checkpointing_gives_the_same_gradients():
    model, call, edits = scramble(editor()).train(), latents(LATENT), edit_inputs()

    def gradients():
        model.zero_grad()
        model(*call, **edits).sample.square().mean().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    expected, runs = gradients(), []
    model.blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))
    model.enable_gradient_checkpointing()
    for got, want in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(got, want)
    assert len(runs) == 2, "the block was not run again in the backward pass"


@torch.no_grad()
def test_lora_changes_the_output_scales_and_can_be_disabled():
    model, call = scramble(editor()), latents(LATENT)
    plain = model(*call).sample
    names = ["img_qkv_proj", "txt_kv_proj", "to_out.0", "gate_proj", "up_proj", "down_proj"]
    model.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=names, init_lora_weights=False))
    adapted = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert len(adapted) == len(names) * len(model.blocks)
    tuned = model(*call).sample
    assert (tuned - plain).abs().max() > 1e-3
    torch.testing.assert_close(model(*call, text_kv=None).sample, tuned)
    torch.testing.assert_close(model(*call, attention_kwargs={"scale": 0.0}).sample, plain)
    torch.testing.assert_close(model(call[0], call[1], text_kv=model.encode_text(call[2])).sample, tuned)
    model.disable_adapters()
    torch.testing.assert_close(model(*call).sample, plain)


@pytest.mark.slow
def test_forward_traces_as_one_graph():
    model, call, edits = scramble(editor(depth=1)), latents(LATENT), edit_inputs()
    with torch.no_grad():
        expected = model(*call, **edits).sample
        attention._cached_rope_table.cache_clear()  # a table wrongly made inside the trace would be kept, and seen
        exported = torch.export.export(model, call, {**edits, "return_dict": False}).module()
        torch.testing.assert_close(exported(*call, **edits, return_dict=False)[0], expected)
        torch.testing.assert_close(model(*call, **edits).sample, expected)  # tracing left nothing behind
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(*call, **edits).sample, expected)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 33}, "hidden_size=33"),
        ({"axes_dim": [8, 4]}, r"axes_dim=\[8, 4\].*16"),
        ({"axes_dim": [7, 9]}, r"axes_dim=\[7, 9\].*even"),
        ({"condition_channels": -1}, "condition_channels=-1"),
        ({"condition_space": "rgb"}, "condition_space='rgb'.*pixels, latents"),
        ({"prediction_type": "epsilon"}, "prediction_type='epsilon'.*velocity, sample"),
        ({"tasks": ()}, "tasks="),
        ({"tasks": "erase"}, "tasks='erase'.*list"),
        ({"tasks": ["erase", "erase"]}, "twice"),
        ({"depth": 10**6}, "depth=1000000: give a whole number from 1 to 1000"),
        ({"depth": 2.0}, "depth=2.0"),
        ({"num_heads": 0}, "num_heads=0"),
        ({"hidden_size": 10**9}, "hidden_size=1000000000"),
        ({"hidden_size": "x"}, "hidden_size='x'"),
        ({"patch_size": 0}, "patch_size=0"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        editor(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_states": torch.zeros(3, 9, 8, 12)}, r"\(3, 9, 8, 12\).*\(batch, 4,"),
        ({"hidden_states": torch.zeros(3, 4, 7, 12)}, "7 x 12.*multiples of 2"),
        ({"hidden_states": torch.zeros(4, 8, 12)}, r"\(4, 8, 12\)"),
        ({"encoder_hidden_states": torch.zeros(3, 7, 25)}, r"\(3, 7, 25\).*24"),
        ({"encoder_hidden_states": torch.zeros(2, 7, 24)}, "2 texts for 3 latents"),
        ({"encoder_hidden_states": None}, "either encoder_hidden_states or text_kv"),
        ({"text_kv": torch.zeros(3, 3, 2, 7, 2, 16)}, "one of the two"),
        ({"encoder_hidden_states": None, "text_kv": torch.zeros(3, 2, 2, 7, 2, 16)}, "text_kv has shape"),
        ({"attention_mask": torch.ones(3, 6)}, r"\(3, 6\): give \(3, 7\)"),
        ({"condition": torch.zeros(3, 5, 4, 6)}, r"\(3, 5, 4, 6\): give \(3, 5, 8, 12\)"),
        ({"condition": torch.zeros(3, 4, 8, 12)}, r"give \(3, 5, 8, 12\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(changes, said):
    names = ("hidden_states", "timestep", "encoder_hidden_states")
    with pytest.raises(ValueError, match=said):
        editor()(**{**dict(zip(names, latents(LATENT), strict=True)), **changes})


def test_missing_inputs_are_named():
    bare, call = EditTransformer(**LATENT), latents(LATENT)
    with pytest.raises(ValueError, match="condition_channels > 0"):
        bare(*call, condition=torch.zeros(3, 5, 8, 12))
    with pytest.raises(ValueError, match="guidance_embeds=True"):
        bare(*call, guidance=torch.ones(3))


def test_unknown_and_double_tasks():
    model = editor()
    assert [model.task_index(name) for name in TASKS] == [0, 1, 2]
    with pytest.raises(ValueError, match="'paint'.*generate, outpaint, erase"):
        model.task_index("paint")
    with pytest.raises(ValueError, match="twice"):
        model.add_task("erase")


@torch.no_grad()
def test_a_dropped_path_is_that_of_the_outer_blocks():
    """Of some samples of a batch, or of all at half the work; refused where there is one path."""
    model = scramble(editor(depth=6, token_fusion=True)).eval()
    x, t, text = latents(LATENT)
    dropped = torch.tensor([True, False, True])
    plain, some = model(x, t, text).sample, model(x, t, text, path_drop=dropped).sample
    outer = model(x, t, text, path_drop=True).sample
    torch.testing.assert_close(some, torch.where(dropped[:, None, None, None], outer, plain))
    assert (outer - plain).abs().amax((1, 2, 3)).min() > 1e-3
    inner = [model.blocks[index] for index in model.route_span]
    for block in inner:
        block.forward = None  # not computed
    torch.testing.assert_close(model(x, t, text, path_drop=True).sample, outer)
    with pytest.raises(ValueError, match="one path, without a fusion"):
        editor()(x, t, text, path_drop=True)
    with pytest.raises(ValueError, match=r"path_drop has shape \(2,\): give \(3,\)"):
        model(x, t, text, path_drop=dropped[:2])
