"""What is installed is what is in the tree: every package, module and data file, and it runs from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # whole runs, in processes of their own

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"photofound": "photofound", "tasks": "photofound/tasks"}
FOLDERS |= {"training": "photofound/training", "demos": "photofound/demos"}
JUNK = ("__pycache__", ".DS_Store")


def contents(pattern: str) -> set[str]:
    """Files of the four folders, by the names that they have once installed."""
    found = set()
    for folder, installed in FOLDERS.items():
        for path in (ROOT / folder).rglob(pattern):
            if path.is_file() and not set(path.parts) & set(JUNK):
                found.add(f"{installed}/{path.relative_to(ROOT / folder).as_posix()}")
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel, built offline from a copy of the tree."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns(*JUNK))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*command, "-w", str(built), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = built.glob("*.whl")
    return path


def test_every_package_folder_is_listed():
    listed = set(PYPROJECT["tool"]["setuptools"]["packages"])
    there = {name.removesuffix("/__init__.py").replace("/", ".") for name in contents("__init__.py")}
    assert there == listed


def test_the_wheel_holds_every_file_and_nothing_else(wheel):
    wanted = contents("*.py") | contents("py.typed")
    wanted |= {
        name
        for name in contents("*")
        if name.startswith(("photofound/weights/", "photofound/presets/", "photofound/training/configs/"))
    }
    wanted |= {name for name in contents("*") if name.startswith("photofound/training/slurm/")}
    wanted |= {name for name in contents("*") if name.startswith("photofound/demos/web/")}
    wanted |= {name for name in contents("*") if name.endswith((".html", ".css", "card/card.md"))}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == wanted


def test_the_wheel_runs_from_elsewhere(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = f"""if True:
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import photofound, photofound.tasks, photofound.training, photofound.demos
        from photofound import cli
        from photofound.model import autoencoder
        assert (autoencoder.EMBEDDED / "vae" / "config.json").is_file()
        assert all(p.startswith({str(tmp_path)!r}) for p in [*photofound.__path__, *photofound.tasks.__path__])
        raise SystemExit(cli.main(["--version"]))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("photofound "), done.stderr


def test_the_wheel_says_what_it_is(wheel):
    archive = zipfile.ZipFile(wheel)
    (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    entry_points = archive.read(f"{folder}/entry_points.txt").decode()
    metadata = archive.read(f"{folder}/METADATA").decode()
    assert "photofound = photofound.cli:main" in entry_points
    assert "License-Expression: Apache-2.0" in metadata and "Requires-Python: >=3.11" in metadata
    assert f"{folder}/licenses/LICENSE" in archive.namelist()
    assert not [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "torchvision" in line]


def test_constraints_are_plain_pins():
    """No local version: torch==2.13.0 takes the build that a machine offers, torch==2.13.0+cpu only that one."""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.]+", line), line


# The last version with a known vulnerability that strangers' input can reach.
VULNERABLE = {
    "pillow": "12.2.0",
    "pillow-heif": "1.6.0",
    "starlette": "1.3.0",
    "fastapi": "0.132.0",  # holds starlette below 1
    "python-multipart": "0.0.30",
    "datasets": "5.0.0",
    "fsspec": "2026.5.0",
    "pyarrow": "23.0.0",
    "torch": "2.9.1",
    "transformers": "5.2.0",
    "ray": "2.54.0",
}


def test_lower_bounds_leave_out_vulnerable_versions_and_the_pins_keep_them():
    from packaging.requirements import Requirement

    project = PYPROJECT["project"]
    declared = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    bounds = {requirement.name: requirement.specifier for requirement in map(Requirement, declared)}
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#")
    for name, version in VULNERABLE.items():
        assert version not in bounds[name], f"{name} {version} is vulnerable"
    for name, bound in bounds.items():
        assert name.lower() not in pins or pins[name.lower()] in bound, f"{name} is pinned below its bound"


def test_every_dependency_is_pinned():
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = [
        *PYPROJECT["project"]["dependencies"],
        *(each for name in extras if name != "wandb" for each in extras[name]),
    ]
    pinned = {re.split("==", line)[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    missing = {re.split(r"[<>=\[ ]", each)[0].lower() for each in wanted} - pinned
    assert missing == {"photofound"}  # an extra that names others


# ----------------------------------------------------------------------------------------- the other ways to a package

CONDA = {"torch": "pytorch", "opencv-python-headless": "py-opencv"}  # what conda-forge calls it


def test_the_conda_recipe_asks_for_what_the_package_asks_for():
    import yaml

    from photofound import __version__

    recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
    assert recipe["context"]["version"] == __version__
    assert PYPROJECT["project"]["requires-python"] == f">={recipe['context']['python_min']}"
    wanted = [re.split(r"(?=[<>=])", each, maxsplit=1) for each in PYPROJECT["project"]["dependencies"]]
    assert sorted(recipe["requirements"]["run"][1:]) == sorted(
        f"{CONDA.get(name, name.lower())} {bound}" for name, bound in wanted
    )
    (command,) = recipe["build"]["python"]["entry_points"]
    assert dict([command.split(" = ")]) == PYPROJECT["project"]["scripts"]


def test_the_workflows_run_targets_that_there_are_on_pythons_that_are_named():
    import yaml

    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {each.rpartition(" ")[2] for each in PYPROJECT["project"]["classifiers"] if "Python :: 3." in each}
    folder = ROOT / ".github" / "workflows"
    for path in sorted(folder.glob("*.yml")):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            assert set(job.get("strategy", {}).get("matrix", {}).get("python", ())) <= named
            for line in (line for step in job["steps"] for line in step.get("run", "").splitlines()):
                words = line.split()
                if words[:1] == ["make"]:
                    given = [w for w in words[1:] if re.fullmatch("[a-z-]+", w) and w != "source" and w[0] != "-"]
                    assert given and set(given) <= targets, line


def test_the_source_distribution_holds_every_folder():
    """check-manifest (make package) compares file by file; this needs no build and no git."""
    text = (ROOT / "MANIFEST.in").read_text()
    grafted = set(re.findall(r"^graft (\S+)$", text, re.M))
    tree = (ROOT / "README.md").read_text().split("## The tree")[1].split("```")[1]
    assert {re.split(r"\s", line)[0].rstrip("/") for line in tree.splitlines() if line[:1].isalpha()} <= grafted
    assert all((ROOT / name).exists() for name in grafted)
