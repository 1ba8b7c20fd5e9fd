"""The README's Python runs as it stands, its commands exist, and its tree is the tree."""

import re
from pathlib import Path

import pytest

from photofound import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippets_run(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(SNIPPETS[number], f"README.md snippet {number}", "exec"), {})


def test_the_first_snippet_fits_on_a_screen():
    assert len(SNIPPETS) >= 2 and len(SNIPPETS[0].strip().splitlines()) <= 14


def test_commands_exist(capsys):
    commands = set(re.findall(r"^(?:photofound|\| \w+ \| `photofound) (\w+)", README, re.MULTILINE))
    assert {"outpaint", "inpaint", "expand", "erase", "upscale", "convert", "train"} <= commands
    for command in commands:
        try:
            status = cli.main([command, "--help"])
        except SystemExit as done:
            status = done.code
        assert status == 0 and command in capsys.readouterr().out
    targets = re.findall(r"^make (\w+)", README, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_the_tree_names_every_file_and_no_other():
    tree = README.split("## The tree")[1].split("```")[1]
    named = set(re.findall(r"\b(\w+)\.py\b", tree))
    library = {p.stem for p in (ROOT / "photofound").glob("*.py") if not p.stem.startswith("__")}
    scripts = {p.stem for folder in ("training", "demos", "benchmarks") for p in (ROOT / folder).glob("*.py")} - {
        "__init__"
    }
    assert named == library | scripts
    for task in (ROOT / "tasks").glob("[!_]*.py"):
        assert task.stem in tree


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
