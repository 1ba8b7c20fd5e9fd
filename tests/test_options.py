"""The help of a training stage: every option with its type, default and comment, read without importing anything."""

from __future__ import annotations

import dataclasses
import json
import typing
from importlib import import_module

import pytest

from photofound import cli, options

STAGES = ("pretrain", "finetune", "preference", "distill", "detail", "superresolution", "autoencoder", "prepare")


def name_of(stage):
    return "PrepareConfig" if stage == "prepare" else "Config"


def fields(cls, prefix=""):
    """Dotted name -> default, by looking at the dataclasses themselves."""
    hints, found = typing.get_type_hints(cls), {}
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            found |= fields(hints[field.name], f"{prefix}{field.name}.")
        else:
            factory = field.default_factory
            found[prefix + field.name] = field.default if factory is dataclasses.MISSING else factory()
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_is_listed_with_its_default_and_a_comment(stage):
    config = getattr(import_module(f"photofound.training.{stage}"), name_of(stage))
    listed = {o.name: o for s in options.sections(config.__module__, config.__name__) for o in s.options}
    wanted = fields(config)
    assert list(listed) != [] and set(listed) == set(wanted)
    for name, default in wanted.items():
        written = default if isinstance(default, str) and default else json.dumps(default, ensure_ascii=False)
        assert listed[name].default == written, name
        assert listed[name].help and listed[name].type and "None" not in listed[name].help, name


def former(cls, prefix=""):
    """Dotted names that the dataclasses read though they have no such field."""
    hints = typing.get_type_hints(cls)
    found = {prefix + name for table in ("RENAMED", "RETIRED") for name in getattr(cls, table, {})}
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            found |= former(hints[field.name], f"{prefix}{field.name}.")
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_former_names_are_those_that_the_configuration_reads(stage):
    config = getattr(import_module(f"photofound.training.{stage}"), name_of(stage))
    listed = {name for part in options.sections(config.__module__, config.__name__) for name in part.former}
    assert listed == former(config)
    assert stage != "finetune" or listed == {"mix.given_weight", "mix.drop_condition"}


@pytest.mark.parametrize("stage", STAGES)
def test_help_lists_the_options(stage, capsys):
    """That it imports no torch is seen in test_startup.py."""
    with pytest.raises(SystemExit) as left:
        cli.main(["train", stage, "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    for word in ("--config", "workers=2" if stage == "prepare" else "train.steps="):
        assert word in said


def test_a_missing_configuration_is_said_before_torch_is_imported(capsys):
    assert cli.main(["train", "pretrain", "--config", "nothing.yaml"]) == 2
    assert capsys.readouterr().err == "photofound: config: nothing.yaml does not exist; pass a .yaml or .json file\n"
