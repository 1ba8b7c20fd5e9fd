"""Cards say what is known and what is not; contact sheets have every picture where it belongs, pixel for pixel."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import load_pipeline
from huggingface_hub import ModelCard
from PIL import Image

from photofound import InpaintPipeline, cli
from photofound.card import card, evaluation, facts, record
from photofound.card.record import Origin, Session, Training
from photofound.picture.sheet import save_sheet
from photofound.pipeline import EMBEDDED, EditPipeline

GPU = Session("NVIDIA H100 80GB HBM3", 8, "2.13.0", "0.1.0", "2026-01-03", 500, 16000, 1800.0)
CPU = Session("AMD EPYC, 2 threads", 1, "2.13.0", "0.1.0", "2026-01-02", 100, 3200, 3600.0)
DATA = (Origin("org/a", "CC0-1.0", 70), Origin("org/b", "", 30))
VAE = Training("v", "autoencoder", ("vae",), {"train": {"lr": 0.1}}, DATA[:1], ("sieved",), (CPU,))
MAIN = Training("m", "pretrain", ("transformer",), {"train": {"lr": 0.2}}, DATA, ("sieved",), (CPU, GPU), ("a note",))


def figure(value, spread=None):
    return {"value": value, "low": value - spread, "high": value + spread} if spread else {"value": value}


def report():
    """As photofound eval writes it: the model is ahead in one metric and behind in another."""
    metrics = {
        "psnr": {"title": "PSNR dB", "better": 1, "about": "in decibels", "style": ".2f"},
        "seam": {"title": "seam", "better": 0, "about": "a step"},
        "seconds": {"title": "seconds", "better": -1, "about": "each"},
    }
    ours = {"psnr": figure(24.5, 0.25), "seam": figure(-0.01, 0.005), "seconds": figure(2.0)}
    theirs = {"psnr": figure(25.75, 0.5), "seam": figure(0.5, 0.25), "seconds": figure(1.0)}
    rows = [("telea", theirs), ("mine, 2 steps", ours)]
    summary = [{"protocol": "strokes-20", "method": m, "pictures": 14, "figures": f} for m, f in rows]
    return {"about": {"photographs": "/srv/me/eval"}, "metrics": metrics, "summary": summary, "rows": [1]}


@pytest.fixture
def model(tiny_folder, tmp_path):
    """A copy of the tiny model without a card."""
    folder = tmp_path / "mine"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("README.md"))
    return folder


def parsed(path):
    return ModelCard(path.read_text())


# --------------------------------------------------------------------------------------------------------------- cards


def test_architecture_is_counted_from_the_headers_of_the_weights(tiny, tiny_folder):
    pipe = tiny(EditPipeline)
    found = {part.name: part for part in facts.components(tiny_folder)}
    assert set(found) == {"transformer", "vae", "text_encoder"}
    for name, part in found.items():
        weights = {id(p): p.numel() for p in getattr(pipe, name).parameters()}  # tied ones are stored once
        assert part.parameters == sum(weights.values()) and part.dtype == "F32"
        assert part.kind == type(getattr(pipe, name)).__name__
    assert "2 blocks; width 32; 2 heads" in found["transformer"].shape


def test_the_front_matter_is_the_hubs(model):
    (model / card.ABOUT).write_text("{licence: mit, base_model: [org/base], tags: [shoes], datasets: [org/a]}")
    made = parsed(card.write(model, [VAE, MAIN], report())).data
    assert (made.license, made.library_name, made.pipeline_tag) == ("mit", "diffusers", "image-to-image")
    assert made.base_model == ["org/base"] and made.datasets == ["org/a"] and {"photofound", "shoes"} <= set(made.tags)
    results = {(r.dataset_type, r.metric_type): r.metric_value for r in made.eval_results}
    assert results == {("strokes-20", "psnr"): 24.5, ("strokes-20", "seam"): -0.01} and made.model_name == "mine"


def test_hours_energy_and_cost_add_up_over_the_chain(model):
    text = card.write(model, [VAE, MAIN], price={"H100": 2.5, "": 0.5}, watts={"H100": 700, "EPYC": 20}).read_text()
    assert (
        "| autoencoder | vae | 100 | 3,200 | 1.00 h | 1.00 h of AMD EPYC, 2 threads | 0.02 kWh | 9.5 g | $0.50 |"
        in text
    )
    devices = "2.00 h of AMD EPYC, 2 threads; 4.00 h of NVIDIA H100 80GB HBM3"
    assert f"| 700 | 22,400 | 2.50 h | {devices} | 2.8 kWh | 1.3 kg | $11.00 |" in text
    assert "NVIDIA H100 80GB HBM3: 700 W)" in text and "NVIDIA H100 80GB HBM3: $2.5 an hour)" in text
    assert "- pretrain: a note." in text and "CO2 is at 473 g for a kilowatt-hour (the world's mean of 2024" in text
    assert "Energy was not measured, and no power was stated" in card.write(model, [VAE]).read_text()


def test_energy_that_was_measured_counts_before_what_is_stated(model):
    measured = replace(MAIN, sessions=(replace(CPU, joules=3.6e5), replace(GPU, joules=6.84e6)))
    text = card.write(model, [VAE, measured], watts={"": 1000}).read_text()
    assert "| 2 kWh | 0.95 kg |" in text and "Energy of pretrain was measured by the devices themselves." in text
    assert "That of autoencoder was not measured" in text
    half = replace(MAIN, sessions=(replace(CPU, joules=3.6e5), GPU))  # an earlier session could not measure
    assert "measured by the devices" not in card.write(model, [half], watts={"": 1000}).read_text()


def test_one_unknown_device_makes_the_sum_unknown(model):
    lost = replace(MAIN, sessions=(CPU, replace(GPU, device="")))
    text = card.write(model, [lost], price={"EPYC": 1.0}).read_text()
    assert "1.00 h of AMD EPYC, 2 threads; 4.00 h of unknown hardware | unknown | unknown | unknown |" in text


def test_data_are_told_by_source_and_licence_and_unknown_is_said(model):
    text = card.write(model, [VAE, MAIN]).read_text()
    assert "| org/a | 70 | CC0-1.0 | autoencoder, pretrain |" in text and "| org/b | 30 | unknown | pretrain |" in text
    assert "autoencoder: 70 photographs; pretrain: 100 photographs. The licence of 1 of the rows is unknown." in text
    assert text.count("sieved") == 1
    streamed = replace(MAIN, data=(Origin("shards"),))
    assert "| shards | not counted | unknown | pretrain |" in card.write(model, [streamed]).read_text()


def test_trainings_of_one_name_are_told_apart(model):
    again = replace(MAIN, id="again", data=(Origin("org/c", "MIT", 5),), notes=())
    text = card.write(model, [MAIN, again]).read_text()
    assert "| pretrain 2 | transformer |" in text and "| org/c | 5 | MIT | pretrain 2 |" in text
    assert "In all, pretrain: 100 photographs; pretrain 2: 5 photographs." in text
    assert [made.name for made in record.read(model / record.MODEL)] == ["pretrain", "pretrain"]


def test_the_card_has_the_main_settings_and_the_record_has_all(model):
    given = {"train": {"lr": 0.25, "batch_size": 32, "optimizer": "muon", "precision": "bf16"}, "data": {"crop": 128}}
    text = card.write(model, [VAE, replace(MAIN, settings=given)]).read_text().split("## Recipe")[1]
    assert "| autoencoder | 2026-01-02 | 100 | 1.00 h | 1 x AMD EPYC, 2 threads | 2.13.0 | - | rate 0.1 |" in text
    assert text.count("| rate 0.25, batch 32, muon, bf16 |") == 2 and "crop" not in text
    assert record.read(model / record.MODEL)[1].settings == given
    assert "| unknown |" in card.write(model, [replace(MAIN, settings={})]).read_text().split("## Recipe")[1]


def test_many_trainings_are_named_in_few_words():
    names = ["pretrain", "pretrain 2", "pretrain 3", "detail"]
    assert facts.names_text(names, 5) == "pretrain (3), detail" and facts.names_text(names, 4) == "all"
    assert facts.names_text(names[:3], 3) == "pretrain, pretrain 2, pretrain 3"


def test_a_model_without_a_record_claims_nothing(model):
    text = card.write(model, []).read_text()
    for words in ("nothing is known here of how these weights", "No record of the training data", "not been evaluated",
                  "Nobody has written down", "license: unknown"):  # fmt: skip
        assert words in text
    assert not (model / record.MODEL).exists()


def test_evaluation_tables_have_intervals_and_what_is_behind_is_a_limit(model):
    text = card.write(model, [MAIN], report()).read_text()
    assert "### strokes-20, 14 photographs" in text
    assert "| telea | **25.75** [25.25, 26.25] | 0.5 [0.25, 0.75] | **1** |" in text
    assert "| mine, 2 steps | 24.50 [24.25, 24.75] | **-0.01** [-0.015, -0.005] | 2 |" in text
    limits = text.split("## Limits")[1].split("## ")[0]
    assert "- strokes-20: PSNR dB 24.50 [24.25, 24.75], where telea has 25.75 [25.25, 26.25]." in limits
    assert "seam" not in limits and "seconds" not in limits  # ahead in one, and speed is no quality
    assert "/srv/me" not in text and "photographs: eval" in text


def rigged(patchmatch, ours=0.3, high=-0.01, models=("mine",)):
    """A report in which Telea is at 0.4 and PatchMatch at ``patchmatch``; ``high`` ends the paired intervals."""
    metrics = {"perceptual": {"title": "perceptual distance", "better": -1, "about": "far", "style": ".3f"}}
    values = {"Telea": 0.4, "PatchMatch": patchmatch, "untouched": 0.0, "mine": ours, "other model": 0.1}
    rows = [
        {"protocol": "box-centre", "method": m, "pictures": 9, "figures": {"perceptual": figure(v), "seam": figure(0)}}
        for m, v in values.items()
        if v is not None
    ]
    paired = [
        {
            "protocol": "box-centre",
            "method": "mine",
            "rival": m,
            "metric": "perceptual",
            "figure": {"low": -1, "high": h},
        }
        for m, h in (("Telea", -0.05), ("PatchMatch", high))
    ]
    return {"metrics": metrics, "models": [*models, "other model"], "summary": rows, "differences": paired}


CLAIM = "better than every method without a model (Telea, PatchMatch) by perceptual distance"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (rigged(0.35), f"- box-centre: {CLAIM}."),
        (rigged(0.25, high=0.2), "- box-centre: worse than PatchMatch: perceptual distance 0.300 against 0.250."),
        (rigged(0.31, high=0.01), "- box-centre: not surely better than PatchMatch: perceptual distance 0.300 against"),
        (rigged(None), "- box-centre: PatchMatch was not asked, so nothing is claimed."),
    ],
)
def test_better_than_every_classical_method_is_computed_with_patchmatch_in_the_table(model, made, said):
    text = card.write(model, [], made).read_text()
    beside = text.split("### Beside methods without a model")[1].split("\n\n")[1]
    assert beside.startswith(said) and beside.count("\n") == 0 and ("better than every" in text) == (CLAIM in said)
    again = card.write(model, [], json.loads((model / card.EVALUATION).read_text()))  # from what lies beside it
    assert again.read_text() == text


def test_without_paired_differences_the_means_decide(model):
    for patchmatch, claims in ((0.35, True), (0.25, False)):
        made = {key: value for key, value in rigged(patchmatch).items() if key not in ("differences", "models")}
        made["summary"] = [each for each in made["summary"] if each["method"] != "other model"]
        assert (CLAIM in card.write(model, [], made).read_text()) == claims


def test_the_card_knows_patchmatch_by_the_name_that_reports_give_it():
    from photofound.eval.methods import CLASSICAL

    assert CLASSICAL["patchmatch"].name == evaluation.STRONGEST


def test_nobody_wrote_such_a_claim_by_hand():
    root = Path(__file__).parent.parent
    pages = [root / "README.md", *(root / "docs").rglob("*.md"), EMBEDDED / card.ABOUT, root / "benchmarks/RESULTS.md"]
    claim = r"(better|nearer|sharper) than (every|all|any)\b.{0,40}\b(classical|method|opencv)"
    assert not [path for path in pages if re.search(claim, " ".join(path.read_text().lower().split()))]


def test_a_report_must_hold_the_model(model, tmp_path):
    with pytest.raises(ValueError, match="has no method 'other'; name one of telea, mine, 2 steps with --method"):
        card.write(model, [], report(), method="other")
    assert "mine, 2 steps" == evaluation.excerpt(report(), "mine")["method"]
    (tmp_path / "bad.json").write_text('{"summary": [1]}')
    with pytest.raises(ValueError, match="bad.json is no report of 'photofound eval'"):
        evaluation.read_report(tmp_path / "bad.json")


def test_words_of_ones_own_take_the_place_of_general_ones(model):
    about = "{summary: A test., limits: [{text: Hands are odd., picture: hands.png}], people: None seen.}"
    (model / card.ABOUT).write_text(about)
    with pytest.raises(ValueError, match="about.yaml names hands.png, which is not beside it"):
        card.write(model, [])
    Image.new("RGB", (4, 4)).save(model / "hands.png")
    text = card.write(model, []).read_text()
    assert "# mine\n\nA test." in text and "- Hands are odd.\n\n  ![hands.png](hands.png)" in text
    assert "Nobody has written" not in text and "**People.** None seen." in text
    (model / card.ABOUT).write_text("limits: [{text: x, picture: ../../secret.png}]")
    with pytest.raises(ValueError, match="which is a path; put the picture beside it"):
        card.write(model, [])
    (model / card.ABOUT).write_text("{licens: mit}")
    with pytest.raises(ValueError, match="unknown key 'licens'; did you mean 'licence'"):
        card.write(model, [])


def test_the_embedded_models_card_is_made_of_what_lies_beside_it(tmp_path):
    folder = tmp_path / "nano"
    shutil.copytree(EMBEDDED, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert cli.main(["card", str(folder)]) == 0
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert before == after, "write it anew with 'photofound card photofound/weights/nano'"
    made = parsed(folder / card.CARD)
    assert made.data.license == "apache-2.0" and made.data.eval_results
    assert "unknown" not in made.text


# --------------------------------------------------------------------------------------------------- the command line


def test_a_run_gets_its_card(model, tmp_path, capsys):
    run = tmp_path / "runs" / "shoes"
    run.mkdir(parents=True)
    shutil.copytree(model, run / "model")
    record.write(run / record.RUN, [VAE, MAIN])
    (tmp_path / "report.json").write_text(json.dumps(report()))
    arguments = ["--eval", str(tmp_path / "report.json"), "--method", "mine", "--price", "H100=2", "--watts", "20"]
    assert cli.main(["card", str(run), *arguments]) == 0
    assert capsys.readouterr().out.strip() == str(run / "model" / "README.md")
    text = (run / "model" / "README.md").read_text()
    assert "# shoes" in text and "autoencoder" in text and "strokes-20" in text
    assert record.read(run / "model" / record.MODEL) == [VAE, MAIN]
    assert cli.main(["card", str(run / "model")]) == 0  # again, from what lies beside it
    assert "strokes-20" in (run / "model" / "README.md").read_text()
    assert cli.main(["card", str(run)]) == 0  # the run's weights may be others than those of the report
    assert "strokes-20" not in (run / "model" / "README.md").read_text()


def test_several_runs_are_one_chain_in_another_folder(model, tmp_path):
    for name, trainings in (("vae", [VAE]), ("main", [VAE, MAIN])):
        record.write(tmp_path / name / record.RUN, trainings)
    assert cli.main(["card", str(tmp_path / "vae"), str(tmp_path / "main"), "-o", str(model)]) == 0
    assert record.read(model / record.MODEL) == [VAE, MAIN]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["nowhere"], "holds no model (no model_index.json); name its folder with -o"),
        (["{model}", "--price", "a=b"], "'b' is not a number"),
        (["{model}", "--watts", "-5"], "'-5' is below 0"),
        (["{model}", "--eval", "nowhere.json"], "nowhere.json does not exist; write it with 'photofound eval"),
        (["nowhere", "-o", "{model}"], "holds neither record.json nor config.yaml"),
    ],
)
def test_mistakes_are_one_line(model, capsys, arguments, said):
    assert cli.main(["card", *(argument.format(model=model) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


# ------------------------------------------------------------------------------------------------------------ pipelines


@pytest.mark.slow
def test_saving_carries_the_card_of_the_folder_that_was_loaded(model, tmp_path):
    (model / card.ABOUT).write_text("{name: mine, limits: [{text: Odd., picture: odd.png}]}")
    Image.new("RGB", (4, 4)).save(model / "odd.png")
    card.write(model, [VAE, MAIN], report())
    load_pipeline(EditPipeline, model).save_pretrained(tmp_path / "one")
    InpaintPipeline.from_pipe(load_pipeline(EditPipeline, model)).save_pretrained(tmp_path / "two")
    for name in ("README.md", "training.json", "evaluation.json", "about.yaml", "odd.png"):
        for copy in ("one", "two"):
            assert (tmp_path / copy / name).read_bytes() == (model / name).read_bytes()
    load_pipeline(EditPipeline, model).save_pretrained(model)  # onto itself
    assert "mine" in (model / "README.md").read_text()


def test_other_weights_do_not_get_that_card(model, tmp_path):
    from peft import LoraConfig

    card.write(model, [VAE, MAIN])
    pipe = load_pipeline(EditPipeline, model)
    EditPipeline.from_pipe(pipe, transformer=pipe.transformer).save_pretrained(tmp_path / "replaced")
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules="all-linear"))
    EditPipeline.from_pipe(pipe).save_pretrained(tmp_path / "adapted")
    load_with = {"torch_dtype": torch.float32, "transformer": pipe.transformer}
    EditPipeline.from_pretrained(model, **load_with).save_pretrained(tmp_path / "given")
    for name in ("replaced", "adapted", "given"):
        text = (tmp_path / name / "README.md").read_text()
        assert "nothing is known here of how these weights were made" in text
        assert not (tmp_path / name / record.MODEL).exists()


def test_the_card_of_a_model_of_the_hub_is_fetched_with_it(model, tmp_path, monkeypatch):
    import huggingface_hub

    def fetch(name, allow_patterns, **options):
        assert (name, options) == ("me/mine", {"revision": "v1"}) and "README.md" in allow_patterns
        card.write(model, [VAE])

    monkeypatch.setattr(EditPipeline, "download", lambda name, **options: str(model))
    load_pipeline(EditPipeline, "me/mine").save_pretrained(tmp_path / "offline")  # no card to be had, and no error
    assert "nothing is known here" in (tmp_path / "offline" / "README.md").read_text()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    EditPipeline.from_pretrained("me/mine", revision="v1", torch_dtype=torch.float32).save_pretrained(tmp_path / "copy")
    assert "| autoencoder | vae |" in (tmp_path / "copy" / "README.md").read_text()


def test_pushing_uploads_the_card(model, monkeypatch):
    import huggingface_hub

    class Repo:
        repo_id = "me/mine"

    asked, uploaded = [], []
    monkeypatch.setattr(huggingface_hub, "create_repo", lambda *a, **k: asked.append((a, k)) or Repo)

    def upload(self, folder, repo_id, **options):
        uploaded.append((repo_id, parsed(Path(folder) / "README.md").text, options["commit_message"]))
        return "url"

    monkeypatch.setattr(EditPipeline, "_upload_folder", upload)
    card.write(model, [VAE])
    assert load_pipeline(EditPipeline, model).push_to_hub("mine", commit_message="first", private=True) == "url"
    load_pipeline(EditPipeline, model).save_pretrained(
        model.parent / "copy", push_to_hub=True, repo_id="mine", token="t"
    )
    assert asked[0] == (("mine",), {"private": True, "token": None, "exist_ok": True}) and asked[1][1]["token"] == "t"
    assert [(repo, message) for repo, _, message in uploaded] == [("me/mine", "first"), ("me/mine", None)]
    assert all("| autoencoder | vae |" in text for _, text, _ in uploaded)


# -------------------------------------------------------------------------------------------------------------- sheets


def picture(height=5, width=7):
    return torch.randint(0, 256, (3, height, width)).float() / 127.5 - 1


def pixels(tensor):
    return ((tensor + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def test_every_picture_is_in_its_place_on_white(tmp_path):
    rows = [[picture(), picture(), picture()], [picture()]]
    save_sheet(rows, tmp_path / "sheet.png", gap=2)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 5 + 2, 3 * 7 + 2 * 2, 3)
    expected = np.full_like(sheet, 255)
    for r, row in enumerate(rows):
        for c, tensor in enumerate(row):
            expected[r * 7 : r * 7 + 5, c * 9 : c * 9 + 7] = pixels(tensor)
    assert np.array_equal(sheet, expected)


def test_values_are_clamped_and_any_precision_will_do(tmp_path):
    wild = torch.tensor([-3.0, -1.0, 0.0, 1.0, 5.0]).expand(3, 2, 5)
    save_sheet([[wild.bfloat16()]], tmp_path / "sheet.png")
    assert np.asarray(Image.open(tmp_path / "sheet.png"))[1, :, 2].tolist() == [0, 0, 128, 255, 255]


def test_a_strided_picture_is_drawn_too(tmp_path):
    tensor = picture(6, 6).flip(-1).transpose(1, 2)
    save_sheet([[tensor]], tmp_path / "sheet.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), pixels(tensor))


def test_a_thousand_images_have_their_price():
    figures = {"seconds": {"value": 1.8}}
    measured = {
        "method": "mine",
        "about": {"machine": "NVIDIA H200"},
        "summary": [
            {"protocol": "box", "method": "mine", "pictures": 1, "figures": figures},
            {"protocol": "box", "method": "other", "pictures": 1, "figures": {"seconds": {"value": 99.0}}},
        ],
    }
    text = evaluation.cost_of_thousand(measured, {"H200": 2.0}, "$")
    assert text == "0.5 hours, $1 at $2 an hour: 1.8 s each on NVIDIA H200"
    assert evaluation.cost_of_thousand(measured, {}, "$") == "0.5 hours: 1.8 s each on NVIDIA H200"
    assert evaluation.cost_of_thousand(None, {"": 2.0}, "$") == ""
