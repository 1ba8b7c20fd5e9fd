"""Settings that do nothing are refused; every other one is read by its stage."""

import ast
import dataclasses
import typing
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from stages import CONFIGS

from photofound import cli, config
from photofound.train import idle
from photofound.training import TRAININGS, stage_of


def of(stage):
    module = import_module(f"photofound.training.{stage}")
    return module.PrepareConfig if stage == "prepare" else module.Config


def parts(cls, where=""):
    """A configuration's dataclasses and the dotted names that they stand under."""
    yield cls, where
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from parts(hint, f"{where}{name}.")


def fields(cls):
    """Dotted name -> type of every setting."""
    found = {}
    for part, where in parts(cls):
        hints = typing.get_type_hints(part)
        found |= {where + f.name: hints[f.name] for f in dataclasses.fields(part)}
    return {name: hint for name, hint in found.items() if not dataclasses.is_dataclass(hint)}


def refusal(stage, **values):
    """What is said of the stage's defaults with these values (a__b for a.b), whatever else is wrong with them."""
    settings = of(stage)()
    for name, value in values.items():
        *path, last = name.split("__")
        part = settings
        for each in path:
            part = getattr(part, each)
        object.__setattr__(part, last, value)  # they are frozen
    with pytest.raises(ValueError) as error:
        idle.refuse(stage, settings, [])
    return str(error.value)


def word(name):
    return name.replace(".", "__")


IGNORED = [(stage, name) for stage in TRAININGS for name in fields(of(stage)) if idle.ignored(stage, name)]


@pytest.mark.parametrize(("stage", "name"), IGNORED)
def test_what_a_stage_never_reads_is_refused(stage, name):
    line = refusal(stage, **{word(name): "other"})
    assert line.startswith(f"{name}: 'other' does nothing in 'photofound train {stage}': ") and "\n" not in line


@pytest.mark.parametrize("stage", [*TRAININGS, "prepare"])
def test_what_counts_beside_another_setting_alone_is_refused_without_it(stage):
    for name in (name for name in fields(of(stage)) if not idle.ignored(stage, name)):
        needs, instead = idle._rule(idle.NEEDS, stage, name) or (), idle._rule(idle.REPLACED, stage, name)
        if needs and not any(idle._on(of(stage)(), switch) for switch in needs):
            assert f"{name}: 'other' does nothing without {needs[0]}" in refusal(stage, **{word(name): "other"})
        if instead:
            switch, _, value = instead.partition("=")
            on = {word(switch): value or "on"} | {word(each): "on" for each in needs if "=" not in each}
            assert f"{name}: 'other' does nothing beside {instead}" in refusal(stage, **on, **{word(name): "other"})


@pytest.mark.parametrize("stage", ["*", *TRAININGS, "prepare"])
def test_the_tables_name_settings_that_there_are(stage):
    known = {name for each in ([*TRAININGS, "prepare"] if stage == "*" else [stage]) for name in fields(of(each))}
    groups = {name.partition(".")[0] for name in known}
    never, needs, replaced = (table.get(stage, {}) for table in (idle.NEVER, idle.NEEDS, idle.REPLACED))
    switches = {switch for each in needs.values() for switch in each} | set(replaced.values())
    singles = {idle._name(each) for switch in switches for each in switch.split(" with ")}
    assert {*never, *needs, *replaced} <= known | groups and singles <= known


def test_a_command_line_may_switch_off_what_a_file_holds(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: {repa: 0.5, repa_teacher: a, repa_until: 0.3}\nmodel: {fusion: true}")
    assert config.load(of("pretrain"), path, ["--recipe.repa=0"]).recipe.repa_until == 0.3
    with pytest.raises(ValueError, match=r"recipe.repa_until: 0.3 does nothing without recipe.repa; .* default, 0.5"):
        config.load(of("pretrain"), None, ["--recipe.repa_until=0.3"])
    assert config.load(of("preference"), None, ["--mix.drop_text=0", "--data.limit=9"]).data.limit == 9
    saved = tmp_path / "config.yaml"  # all settings, by name
    config.save(config.load(of("pretrain"), path, ["--recipe.repa=0"]), saved)
    config.load(of("pretrain"), saved)


def test_a_command_line_may_replace_what_a_file_holds(tmp_path, recwarn):
    """The file's value is left out with a word, for good: the run's own configuration can be read again."""
    nano = CONFIGS / "nano-cpu.yaml"
    with pytest.warns(
        UserWarning, match="model.text_layers: 2 of the file does nothing beside model.text_encoder; .* 3"
    ):
        made = config.load(of("pretrain"), nano, ["--model.text_encoder=t5", "--model.train_text=false"])
    assert (made.model.text_layers, made.model.text_width) == (3, 128)
    with pytest.warns(UserWarning, match="data.weights: .* of the file does nothing beside data.sources"):
        streamed = config.load(of("pretrain"), nano, ["--data.sources=[{path: shards}]"])
    assert not streamed.data.weights and streamed.data.recolour == 0.5
    config.save(made, tmp_path / "config.yaml")
    recwarn.clear()
    assert config.load(of("pretrain"), tmp_path / "config.yaml") == made and not recwarn
    both = ["--model.text_encoder=t5", "--model.text_layers=2"]
    (tmp_path / "both.yaml").write_text("model: {text_encoder: t5, text_layers: 2}")
    for path, given in ((nano, both), (None, both), (tmp_path / "both.yaml", [])):
        with pytest.raises(ValueError, match="model.text_layers: 2 does nothing beside model.text_encoder"):
            config.load(of("pretrain"), path, given)


def test_the_network_of_a_critic_on_latents_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("distill: {adversarial: 0.5, lpips_net: a}")
    said = "distill.lpips_net: 'a' does nothing without distill.lpips or distill.adversarial with"
    with pytest.raises(ValueError, match=said):
        config.load(of("distill"), path, ["--distill.adversarial_on=latents"])
    for fits in (["--distill.adversarial_on=latents", "--distill.lpips=0.1"], [], ["--distill.adversarial=0"]):
        assert config.load(of("distill"), path, fits).distill.lpips_net == "a"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_configuration_holds_nothing_idle(path):
    """What has to be given beside it stands in its first line, as it is typed."""
    stage = stage_of(path)
    needs = stage in ("autoencoder", "detail")
    config.load(of(stage), path, ["--data.perceptual=squeezenet.safetensors"] * needs)
    first, *_ = path.read_text().splitlines()
    assert ("--data.perceptual=FILE" in first) == needs and ("--data.exemplars=" in first) == (stage == "detail")


def test_the_refusal_is_a_line_and_the_help_is_silent(capsys):
    assert cli.main(["train", "preference", "--recipe.tread=0.5"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "recipe.tread: 0.5 does nothing in 'photofound train preference'" in line
    with pytest.raises(SystemExit):
        cli.main(["train", "preference", "--help"])
    shown = capsys.readouterr().out
    assert "recipe." not in shown and "data.drawn" not in shown and "data.folder" in shown


# ------------------------------------------------------------------------------- what is not refused is read somewhere

ROOT = Path(idle.__file__).parents[2]
NO_READERS = ("idle", "plan", "estimate", "price", "memory")  # what lists settings, or foretells a run
CHECKS = ("__post_init__", "turns")  # of the settings themselves


@cache
def source(module):
    """A module's file in the repository, and what its source reads and imports: attributes and words, modules."""
    path = ROOT / f"{module.removeprefix('photofound.') if 'training' in module else module}".replace(".", "/")
    tree = ast.parse(path.with_suffix(".py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.body = [each for each in node.body if getattr(each, "name", "") not in CHECKS]
    nodes = list(ast.walk(tree))
    words = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    words |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    imported = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return words, imported


def reading(stage):
    """All words that a stage's file reads, and the files of training that it imports, and so on."""
    found, waiting, seen = (
        set(),
        [f"photofound.training.{stage}", "photofound.train.trainer", "photofound.train.hub"],
        set(),
    )
    while waiting:
        module = waiting.pop()
        if module in seen or not module.startswith(("photofound.train.", "photofound.training.")):
            continue
        seen.add(module)
        try:
            words, imported = source(module)
        except FileNotFoundError:  # a name in a module
            continue
        waiting += imported
        if module.rpartition(".")[2] not in NO_READERS:
            found |= words
    return found


FORETOLD = {"model.latent"}  # read by the plan alone, and compared with the start's


@pytest.mark.parametrize("stage", [*TRAININGS, "prepare"])
def test_a_stage_reads_what_it_does_not_refuse(stage):
    """A new setting must be read by each stage that has it, or stand in a table."""
    words = reading(stage)
    silent = {
        name for name in fields(of(stage)) if name.rpartition(".")[2] not in words and not idle.ignored(stage, name)
    }
    assert not silent - FORETOLD


def test_a_setting_that_nobody_reads_is_noticed():
    """The test above can fail: some of what preferences are refused for is read in other stages alone."""
    assert "perceptual_below" in reading("pretrain") and "perceptual_below" not in reading("preference")
