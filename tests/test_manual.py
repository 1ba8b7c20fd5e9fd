"""Pages that are made from the code (docs/pages.py) say all of it. What the built site holds: tests/built_pages.py."""

from __future__ import annotations

import argparse
import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from photofound.cli.commands import COMMANDS, parsers, training_stages
from photofound.edits.task import task_names
from photofound.options import sections

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _options(parser: argparse.ArgumentParser) -> set[str]:
    """A parser's options, and those of the commands in it."""
    found = {each for action in parser._actions for each in action.option_strings}
    parts = (each for action in parser._actions if isinstance(action, argparse._SubParsersAction)
             for each in action.choices.values())  # fmt: skip
    return found.union(*map(_options, parts))


def test_every_command_has_a_parser():
    assert set(parsers()) == {*COMMANDS, *task_names()}


def test_the_page_of_the_command_line_has_every_command_and_option(pages):
    page = pages.commands()
    for name, parser in parsers().items():
        assert f"\n### {name}\n" in page
        options = _options(parser) - {"-h", "--help"}
        assert not [option for option in options if not re.search(rf"[`, ]{re.escape(option)}[`, ]", page)], name
    about = page[page.index("### inpaint") : page.index("### outpaint")]
    assert "| `MASK` | white = repaint, black = keep |" in about and "--seed" not in about, "said once, below"
    assert page[: page.index("## Other commands")].count("| `--seed N` |") == 1


@pytest.mark.slow  # imports the server
def test_the_page_of_the_server_has_every_address_and_field(pages):
    page, described = pages.http(), pages.openapi()
    assert {"/v1/inpaint", "/v1/edit", "/v1/jobs/{id}", "/v1/images/edits", "/healthz"} <= set(described["paths"])
    for name, ways in described["paths"].items():
        for method in ways:
            assert f"\n### {method.upper()} {name}\n" in page
    forms = [each for name, each in described["components"]["schemas"].items() if name.startswith("Body_")]
    for field in {field for form in forms for field in form["properties"]}:
        assert f"| `{field}` |" in page
    about = page[page.index("### POST /v1/inpaint") : page.index("### POST /v1/outpaint")]
    assert "| `mask` | file | **required** | white = repaint, black = keep |" in about and "`seed`" not in about
    assert "[POST /v1/inpaint](#post-v1inpaint)" in page


def test_the_page_of_the_settings_has_every_setting_of_every_stage(pages):
    page = pages.settings()
    for stage in set(training_stages()) - {"evaluate"}:
        assert f"\n## {stage}\n" in page
        name = "PrepareConfig" if stage == "prepare" else "Config"
        for section in sections(f"photofound.training.{stage}", name):
            assert not [option.name for option in section.options if f"| `{option.name}` |" not in page], stage


@pytest.mark.slow  # imports the server
def test_cells_hold_what_they_are_given(pages):
    assert pages.text("a|b <c>\n *d* e_f") == r"a\|b &lt;c&gt; \*d\* e\_f"
    lines = [line for page in (pages.commands(), pages.http()) for line in page.splitlines() if line.startswith("|")]
    assert len(lines) > 300 and all(line.endswith(" |") for line in lines)


def test_the_image_installs_extras_that_there_are():
    text = (ROOT / "Dockerfile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.search(r"^ARG EXTRAS=(\S+)$", text, re.M)[1].split(",")) <= set(extras)
    copied = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert {"photofound", "tasks", "training", "demos", "pyproject.toml", "constraints.txt"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    stated = set(re.findall(r"^\| `([\w`, ]+)` \|", (ROOT / "docs" / "install.md").read_text(), re.M))
    named = {name.strip("` ") for row in stated for name in row.split(",")}
    assert named <= set(extras) and named >= set(extras) - {"test", "dev", "docs", "bench", "browser", "package"}


def test_compose_serves_what_the_image_exposes():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    image = (ROOT / "Dockerfile").read_text()
    assert services["photofound"]["ports"] == ["127.0.0.1:8000:8000"] and "EXPOSE 8000" in image
    assert "/healthz" in image and "USER 10001" in image
    assert set(services["photofound-gpu"]["build"]["args"]) <= set(re.findall(r"^ARG (\w+)", image, re.M))
