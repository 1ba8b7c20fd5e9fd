"""The rules of the house that no single test would notice being broken."""

from __future__ import annotations

import ast
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("photofound", "tasks", "training", "demos", "tests", "benchmarks")
APPLICATIONS = ("tasks", "training", "demos")


def modules() -> list[str]:
    """Every module of photofound/ in the order of imports, dotted: the top of the tree in the README, and for a folder
    the list in its ``__init__``. Each may import those before it. ``photofound/__init__`` names everything, lazily."""
    tree = (ROOT / "README.md").read_text().partition("## The tree")[2].partition("\nphotofound/ ")[2]
    order: list[str] = []
    for line in itertools.takewhile(lambda line: line.startswith("  "), tree.splitlines()[1:]):
        for name in re.split(r"\s{2,}", line.strip())[0].split():
            if name.endswith(".py"):
                order.append(name.removesuffix(".py"))
            elif (listed := ROOT / "photofound" / name / "__init__.py").is_file():
                words = re.findall(r"^ {4}(\w+)  ", str(ast.get_docstring(ast.parse(listed.read_text()))), re.M)
                order += [f"{name.rstrip('/')}.{word}" for word in words]
    return [*order, "__main__"]


ORDER = modules()


def sources(*folders: str) -> list[Path]:
    """Every Python file of ours."""
    return sorted(path for folder in folders or FOLDERS for path in (ROOT / folder).rglob("*.py"))


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that are imported anywhere below ``tree``; ``from a import b`` gives ``a`` and ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write it out"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level(tree: ast.Module) -> ast.Module:
    """The tree without what runs only when a function is called."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)

    class Strip(ast.NodeTransformer):
        def visit(self, node):
            return None if isinstance(node, functions) else self.generic_visit(node)

    return Strip().visit(tree)


def modules_of(tree: ast.AST) -> set[str]:
    """Which modules of photofound/ are imported, dotted, and which of its folders."""
    parts = [name.split(".")[1:] for name in imports(tree) if name.startswith("photofound.")]
    return {".".join(part[:count]) for part in parts for count in (1, 2) if part}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "photofound").with_suffix("").parts)


LIBRARY = [path for path in sources("photofound") if path.stem != "__init__"]


def test_every_library_file_has_its_place_in_the_order():
    assert sorted(ORDER) == sorted(map(dotted, LIBRARY)), "name it in its folder's __init__, below what it imports"


@pytest.mark.parametrize("path", LIBRARY, ids=dotted)
def test_a_library_file_imports_only_files_above_it(path):
    below = modules_of(ast.parse(path.read_text())) & set(ORDER[ORDER.index(dotted(path)) :])
    assert not below, f"{dotted(path)} imports {sorted(below)}, which come after it in the order"


@pytest.mark.parametrize("path", sources("photofound"), ids=lambda path: path.stem)
def test_the_library_does_not_import_what_is_built_on_it(path):
    tree = ast.parse(path.read_text())
    if path.stem == "__init__":  # names the pipelines for type checkers only
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        ]
    upwards = modules_of(top_level(tree)) & set(APPLICATIONS)
    assert not upwards, f"{path.name} imports {upwards} at its top level; do it by name, when it is needed"


@pytest.mark.parametrize("path", sources("tasks"), ids=lambda path: path.stem)
def test_a_task_does_not_import_another_task_or_what_trains_it(path):
    tree = ast.parse(path.read_text())
    assert not modules_of(tree) & set(APPLICATIONS)
    assert not {name.split(".")[0] for name in imports(tree)} & set(APPLICATIONS)


FORBIDDEN = {
    "torchvision": r"^\s*(import|from)\s+torchvision\b",  # breaks a CPU-only torch
    "unpickling": r"\btorch\.load\(|\b(import|from)\s+(pickle|dill|joblib)\b|pickle\.loads?\(|allow_pickle\s*=\s*True",
    "trust in foreign code": r"trust_remote_code\s*=\s*True",
    "paths of one machine": r"[\"'](/home|/Users|/root|/work|/mnt|/data|[A-Z]:\\\\)[/\\\\]",
}


@pytest.mark.parametrize("rule", FORBIDDEN)
def test_no_file_holds_what_is_forbidden(rule):
    pattern = re.compile(FORBIDDEN[rule], re.MULTILINE)
    guilty = [path for path in sources() if path != Path(__file__) and pattern.search(path.read_text())]
    assert not guilty, f"{rule}: {names(guilty)}"


def test_no_dependency_is_torchvision():
    for name in ("pyproject.toml", "constraints.txt", "Makefile"):
        lines = [line.partition("#")[0] for line in (ROOT / name).read_text().splitlines()]
        assert not any("torchvision" in line for line in lines), name


@pytest.mark.slow
def test_every_module_says_what_it_is_for():
    silent = [path for path in sources() if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent, names(silent)


def run(code: str, **settings) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **settings)


def test_importing_the_package_is_instant():
    heavy = {"torch", "diffusers", "transformers", "numpy", "PIL", "cv2", "yaml"}
    done = run(f"import photofound, sys; print({heavy} & set(sys.modules))")
    assert done.returncode == 0 and done.stdout.strip() == "set()", done.stdout + done.stderr


def test_the_public_names_exist():
    import photofound

    for name in photofound.__all__:
        assert getattr(photofound, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        photofound.nothing  # noqa: B018


@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_folder_is_not_imported_under_its_bare_name(name):
    """Else it would be a second copy of the package, and nothing that one knows would be known to the other."""
    done = run(f"import {name}", cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode != 0 and f"import photofound.{name}, not {name}" in done.stderr
    assert run(f"import photofound.{name}").returncode == 0


@pytest.mark.parametrize("path", sources(*APPLICATIONS), ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_applications_import_each_other_by_their_full_names(path):
    bare = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))} & set(APPLICATIONS)
    assert not bare, f"import photofound.{sorted(bare)[0]} instead"


# ------------------------------------------------------------------------------------------------- what Windows lacks

UNIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix"}
UNIX |= {f"signal.{name}" for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL", "SIGALRM", "SIGCHLD", "SIGPIPE")}
UNIX |= {f"os.{name}" for name in ("fork", "getuid", "geteuid", "chown", "killpg", "setsid", "mkfifo", "uname")}
UNIX |= {f"os.{name}" for name in ("sched_getaffinity", "getloadavg", "nice", "sysconf", "O_NONBLOCK")}


@pytest.mark.parametrize(
    "path", sources("photofound", *APPLICATIONS), ids=lambda path: f"{path.parent.name}.{path.stem}"
)
def test_nothing_that_is_imported_or_opened_asks_for_unix(path):
    """Modules of Unix are imported where they are used; files are text in UTF-8, whatever the system's own encoding."""
    tree = ast.parse(path.read_text())
    names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    guilty = ({name.split(".")[0] for name in imports(top_level(tree))} | names) & UNIX
    assert not guilty, f"{sorted(guilty)}: Windows has none; import it where it is used, or ask with hasattr"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name, given = ast.unparse(node.func).split(".")[-1], {each.arg for each in node.keywords}
            mode = ast.unparse(node.args[1]) if len(node.args) > 1 else "''"
            opens = ast.unparse(node.func) == "open" and "b" not in mode
            reads = name == "read_text" and not node.args or name == "write_text" and len(node.args) < 2
            assert "encoding" in given or not (opens or reads), f"line {node.lineno}: say encoding='utf-8'"
