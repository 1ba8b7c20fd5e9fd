"""CPU seconds of commands that need no model: a help text, a typo, a missing file. Prints Markdown.

    python benchmarks/startup.py
    python benchmarks/startup.py --repeats 9

Each command runs in processes of its own, in turn with the others, and a row gives the median of its CPU time (user and
system), which depends less than wall time on what else the machine does. Two rows are for comparison: an empty program,
and ``import torch``. The last column counts the modules that the command imported.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from statistics import median

PYTHON = {"python -c pass": ["-c", "pass"], "python -c 'import torch'": ["-c", "import torch"]}
COMMANDS = (
    "--help",
    "tasks",
    "outpaint --help",
    "outpant",
    "outpaint missing.png",
    "train finetune --help",
    "train finetune --config missing.yaml",
    "serve --help",
    "eval --help",
    "demo --help",
)


def cpu_seconds(arguments: list[str]) -> float:
    """User and system time of ``python ARGUMENTS``."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], capture_output=True)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def modules(arguments: list[str]) -> int:
    """How many modules ``photofound ARGUMENTS`` imports."""
    code = "import sys, atexit; atexit.register(lambda: print(len(sys.modules), file=sys.stderr))\n"
    code += "from photofound.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    return int(done.stderr.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="runs of each command; default: 5")
    args = parser.parse_args()
    commands = PYTHON | {f"photofound {line}": ["-m", "photofound", *line.split()] for line in COMMANDS}
    runs = [{name: cpu_seconds(arguments) for name, arguments in commands.items()} for _ in range(args.repeats)]
    print("| command | CPU seconds | modules |\n| --- | --- | --- |")
    for name, arguments in commands.items():
        count = modules(arguments[2:]) if name.startswith("photofound") else ""
        print(f"| `{name}` | {median(run[name] for run in runs):.2f} | {count} |")


if __name__ == "__main__":
    main()
