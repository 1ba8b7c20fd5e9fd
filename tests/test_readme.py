"""What the README and the documentation show is so: their Python runs, their commands exist, the tree is the tree."""

import re
import shlex
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import yaml
from PIL import Image
from skimage import data

from photofound import cli
from photofound.cli.commands import COMMANDS
from photofound.cli.options import task_parser
from photofound.edits.task import get_task, task_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "docs").rglob("*.md")}
PAGES |= {name: (ROOT / name).read_text() for name in ("README.md", "demos/comfyui/README.md")}
RUN = (
    "README.md",
    "docs/index.md",
    "docs/serving.md",
    "docs/tasks/",
)  # others need your files, models, GPUs


def blocks(language: str) -> list[tuple[str, str]]:
    """(name for the test's report, text) of every block of code in that language."""
    found = []
    for page, text in sorted(PAGES.items()):
        texts = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        found += [(f"{page} {number}", block) for number, block in enumerate(texts)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name, code", [pytest.param(*each, id=each[0]) for each in blocks("python")])
def test_snippets_run(name, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compiled = compile(code, name, "exec")
    if name.startswith(RUN):
        with a_server(monkeypatch) if "localhost:8000" in code else nullcontext():
            exec(compiled, {})


@contextmanager
def a_server(monkeypatch):
    """What a client's snippet takes for granted: a photograph in its folder, and a server, here within the process."""
    from starlette.testclient import TestClient

    from photofound import OutpaintPipeline
    from photofound.serve import app as serve

    monkeypatch.setenv("PHOTOFOUND_MAX_PIXELS", "0")  # the application sets it: put back afterwards
    Image.fromarray(data.coffee()[::2, ::2]).save("cup.jpg")
    with TestClient(serve.create_app(OutpaintPipeline.from_pretrained()), "http://localhost:8000") as client:
        monkeypatch.setattr("httpx.post", lambda url, timeout, **form: client.post(url, **form))
        yield
    assert Image.open("out.jpg").size == Image.open("cup.jpg").size


def commands() -> list[str]:
    """Every call of ``photofound`` in a block of plain code, without its comment, continued lines joined."""
    lines = [line for _, text in blocks("") for line in text.replace("\\\n", " ").splitlines()]
    found = {
        re.sub(r"\s+#.*| \| .*|; do$", "", line.strip()) for line in lines if line.strip().startswith("photofound ")
    }
    return sorted(found)


@pytest.mark.parametrize("line", commands())
def test_command_lines_are_understood(line):
    name, *arguments = shlex.split(line)[1:]
    if name in task_names():
        task_parser(get_task(name)).parse_args(arguments)
    elif name == "train":
        assert arguments[0] == "STAGE" or (ROOT / "training" / f"{arguments[0]}.py").is_file()
        configs = [value for value in arguments if value.endswith(".yaml")]
        assert all((ROOT / value).is_file() for value in configs)
    else:
        assert name in COMMANDS


def test_every_page_has_its_place_in_the_documentation():
    """mkdocs.yml lists each page of docs/ once, and no other."""

    def pages(nav):
        for entry in nav:
            value = next(iter(entry.values()))
            yield from pages(value) if isinstance(value, list) else [value]

    listed = sorted(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    made = ["model-card.md", "reference/commands.md", "reference/http.md", "reference/settings.md"]  # docs/hooks.py
    assert sorted(set(listed) - set(made)) == sorted(
        page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")
    )


def test_pictures_of_the_documentation_are_small():
    pictures = list((ROOT / "docs" / "pictures").iterdir())
    assert max(path.stat().st_size for path in pictures) < 150_000
    assert sum(path.stat().st_size for path in pictures) < 1_500_000


def test_the_first_snippet_fits_on_a_screen():
    snippets = [code for name, code in blocks("python") if name.startswith("README.md")]
    assert snippets and len(snippets[0].strip().splitlines()) <= 8


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


def test_the_tree_names_every_folder_and_no_other():
    tree = README.split("## The tree")[1].split("```")[1]
    named = {re.split(r"\s", line)[0].rstrip("/") for line in tree.splitlines() if line[:1].isalpha()}
    assert named == {path.name for path in ROOT.iterdir() if path.is_dir() and is_ours(path)}
    for task in (ROOT / "tasks").glob("[!_]*.py"):
        assert task.stem in tree


def is_ours(folder: Path) -> bool:
    """Whether a folder of the tree holds files of the project, and is not something that was built or hidden."""
    hidden = folder.name.startswith((".", "_")) or folder.name.endswith(".egg-info")
    return not hidden and folder.name not in ("build", "dist", "out", "runs", "shared")


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
