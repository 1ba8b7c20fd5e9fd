"""Configurations: defaults, files, overrides, and errors that name the key and the remedy."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

import pytest

from photofound import config


@dataclass(frozen=True)
class Model:
    width: int = 64
    name: str = "nano"


@dataclass(frozen=True)
class Train:
    lr: float = 1e-3
    minutes: float | None = None
    scales: tuple[float, ...] = (0.5, 1.0)
    mixture: dict[str, float] = field(default_factory=dict)
    compile: bool = False


@dataclass(frozen=True)
class Run:
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)


@dataclass(frozen=True)
class Needs:
    folder: str
    size: int = 1


def test_the_defaults_are_those_of_the_dataclasses():
    assert config.load(Run) == Run()


def test_a_file_says_only_what_differs_and_overrides_win(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("train: {lr: 1e-4, minutes: 5}\nmodel: {width: 32}\n")
    loaded = config.load(Run, path, ["--train.minutes=0.5", "model.name=micro"])
    assert loaded == Run(Model(32, "micro"), Train(lr=1e-4, minutes=0.5))


def test_an_override_below_a_mapping_keeps_the_other_entries(tmp_path):
    @dataclass(frozen=True)
    class Mix:
        tasks: dict[str, float] = field(default_factory=lambda: {"inpaint": 0.4, "erase": 0.1})

    Stage = dataclasses.make_dataclass("Stage", [("mix", Mix, field(default_factory=Mix))], frozen=True)
    assert config.load(Stage, overrides=["--mix.tasks.erase=0.3"]).mix.tasks == {"inpaint": 0.4, "erase": 0.3}
    (tmp_path / "run.yaml").write_text("mix: {tasks: {expand: 1.0}}")  # a file replaces the mapping as a whole
    loaded = config.load(Stage, tmp_path / "run.yaml", ["--mix.tasks.erase=0.3"])
    assert loaded.mix.tasks == {"expand": 1.0, "erase": 0.3} and Mix().tasks["erase"] == 0.1


def test_json_is_read_and_an_empty_file_is_all_defaults(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"train": {"scales": [0.1, 0.2]}}))
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert config.load(Run, tmp_path / "run.json").train.scales == (0.1, 0.2)
    assert config.load(Run, tmp_path / "empty.yaml") == Run()


def test_what_is_saved_is_loaded_back_equal(tmp_path):
    run = Run(Model(8, "x"), Train(lr=3e-5, minutes=1.5, scales=(0.25,), mixture={"erase": 2.0}, compile=True))
    config.save(run, tmp_path / "run.yaml")
    assert config.load(Run, tmp_path / "run.yaml") == run


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("--train.lr=1e-4", 1e-4),  # YAML reads this as text
        ("--train.lr=1", 1.0),
        ("--train.minutes=null", None),
        ("--train.minutes=3", 3.0),
        ("--train.scales=[0.3, 1]", (0.3, 1.0)),
        ("--train.mixture={erase: 1}", {"erase": 1.0}),
        ("--train.compile=true", True),
    ],
)
def test_overrides_are_converted_to_the_declared_type(override, value):
    name = override.lstrip("-").partition("=")[0].split(".")[1]
    converted = getattr(config.load(Run, overrides=[override]).train, name)
    assert converted == value and type(converted) is type(value)


def laughs():
    """Ten aliases in each line, of the line before."""
    return [f"&a0 [{', '.join('l' * 10)}]", *(f"&a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10))]


BOMBS = {
    "laughs": "train: {scales: [" + ", ".join(laughs()) + "]}",
    "laughs as keys": "".join(f"a{i}: {line}\n" for i, line in enumerate(laughs())),
    "laughs in mappings": "\n".join(
        ["a0: &a0 {x: 1, y: 1}", *(f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}" for i in range(1, 60))]
    ),
    "laughs that are merged": "a0: &a0 {x: 1}\n"
    + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 10)),
    "one that holds itself": "train: &t {scales: [*t]}",
    "a list that holds itself": "train: &t [*t]",
    "deep": "train: " + "[" * 20_000 + "]" * 20_000,
    "deep mappings": "train: " + "{a: " * 20_000 + "1" + "}" * 20_000,
    "deep blocks": "\n".join(" " * i + f"a{i}:" for i in range(1000)),
    "a large number": "train: {minutes: " + "9" * 5000 + "}",
    "an object": "train: !!python/object/apply:os.system ['true']",
    "two documents": "train: {}\n---\nmodel: {}",
    "a NUL": "train:\0x",
    "large": "# " + "x" * 2**20,
    "no number": "train: {lr: .nan}",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", BOMBS)
def test_what_would_take_long_or_build_objects_is_refused(tmp_path, what):
    """In no time, and in one line that can be read."""
    import time

    path = tmp_path / "c.yaml"
    path.write_text(BOMBS[what])
    start = time.process_time()
    with pytest.raises(ValueError) as caught:
        config.load(Run, path)
    assert time.process_time() - start < 5
    message = str(caught.value)
    assert message.startswith("config:") and "\n" not in message and len(message) < 500
    with pytest.raises(ValueError):
        config.load(Run, overrides=[f"--train={BOMBS[what].removeprefix('train: ')}", "--train.never=1"])


@pytest.mark.parametrize("text", ["[" * 10**5, '{"train": {"lr": NaN}}', '{"a":' * 5000, "[]", "\ufffe"])
def test_odd_json_is_refused(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match="^config:"):
        config.load(Run, tmp_path / "c.json")


def test_aliases_and_merges_of_a_common_size_work(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("train: {scales: &s [0.5, 2.0], mixture: {<<: &m {a: 1, b: 2}, b: 3}}\nmodel: {name: x}\n")
    assert config.load(Run, path).train == Train(scales=(0.5, 2.0), mixture={"a": 1.0, "b": 3.0})


def test_a_dash_in_a_key_is_an_underscore():
    @dataclass(frozen=True)
    class Flat:
        batch_size: int = 1

    assert config.load(Flat, overrides=["--batch-size=3"]).batch_size == 3


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["--train.lrr=1"], ["'train.lrr'", "did you mean 'lr'?"]),
        (["--trian.lr=1"], ["'trian'", "did you mean 'train'?"]),
        (["--train.zzz=1"], ["'train.zzz'", "known: lr, minutes"]),
        (["--model.width=wide"], ["'model.width'", "int", "'wide'"]),
        (["--model.width=1.5"], ["'model.width'", "int"]),
        (["--model.width=true"], ["'model.width'", "int"]),
        (["--train.compile=1"], ["'train.compile'", "bool"]),
        (["--train.lr=fast"], ["'train.lr'", "float", "'fast'"]),
        (["--train.scales=0.5"], ["'train.scales'", "list"]),
        (["--train.mixture=3"], ["'train.mixture'", "mapping"]),
        (["--train.mixture={erase: much}"], ["'train.mixture.erase'", "float"]),
        (["--model=3"], ["'model'", "section"]),
        (["--model.width"], ["'--model.width'", "--a.b=value"]),
        (["--=3"], ["--a.b=value"]),
        (["--model.width=[1"], ["quote"]),
        (["--model.width.x=1"], ["'model.width.x'", "plain value"]),
    ],
)
def test_errors_name_the_key_and_the_remedy(overrides, named):
    with pytest.raises(ValueError) as caught:
        config.load(Run, overrides=["--model.width=1", *overrides] if "width.x" in overrides[0] else overrides)
    for text in named:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("list.yaml", "- 1\n", "mapping"),
        ("bad.yaml", "a: [1", "cannot be read"),
        ("bad.json", "{", "cannot be read"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(tmp_path, name, content, named):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=named) as caught:
        config.load(Run, tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        config.load(Run, tmp_path / "nowhere.yaml")


def test_a_value_without_default_must_be_set():
    assert config.load(Needs, overrides=["--folder=x"]) == Needs("x")
    with pytest.raises(ValueError, match="'folder' is missing"):
        config.load(Needs)


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.load(Run).model.width = 3


def test_an_old_name_of_a_key_is_read_with_a_line_that_says_the_new_one():
    from photofound.training import distill, pretrain

    for stage in (pretrain, distill):
        with pytest.warns(UserWarning, match="config: mix.given_weight is now called mix.known_weight"):
            assert config.load(stage.Config, None, ["--mix.given_weight=0.3"]).mix.known_weight == 0.3
        with pytest.raises(ValueError, match="the old name of 'mix.known_weight'; give one of them"):
            config.load(stage.Config, None, ["--mix.given_weight=0.3", "--mix.known_weight=0.2"])


def test_a_key_that_is_no_longer_an_option_is_read_where_its_value_is_the_built_in_one():
    from photofound.training import autoencoder, pretrain

    assert config.load(pretrain.Config, None, ["--mix.drop_condition=0.02"]) == pretrain.Config()
    old = ["--model.encoder_layers=[1, 1, 2]", "--loss.latent_noise=0.03"]
    assert config.load(autoencoder.Config, None, old) == autoencoder.Config()
    with pytest.raises(ValueError, match="'mix.drop_condition' is no longer an option, its value is 0.02; leave"):
        config.load(pretrain.Config, None, ["--mix.drop_condition=0.1"])
