"""What a start costs: CPU time of fitcalc's commands as ratios to `python -c "import click"`, in one interleaved run,
the memory they take, and where the time of the main job goes.

    python benchmarks/speed/start_up.py [rounds]

Ratios, not milliseconds: both sides run on the same machine in the same minute.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

SCRIPT = ["-c", "from fitcalc.__main__ import main; main()"]
"""What the installed console script runs; `python -m` would add the import of runpy."""
MAIN_JOB = ["llama-3.1-70b", "--gpu", "a100-80", "--quant", "awq"]
COMMANDS: dict[str, list[str]] = {
    "python -c pass": ["-c", "pass"],
    "python -c 'import click'": ["-c", "import click"],
    "fitcalc --help": [*SCRIPT, "--help"],
    "fitcalc llama-3.1-70b --gpu a100-80 --quant awq": [*SCRIPT, *MAIN_JOB],
    "the same with --json": [*SCRIPT, *MAIN_JOB, "--json"],
    "fitcalc deepseek-v3 --gpu h200:8 --quant fp8": [
        *SCRIPT, "deepseek-v3", "--gpu", "h200:8", "--quant", "fp8",
    ],
    "fitcalc llama-3.1-8b --gpu rtx-3060": [*SCRIPT, "llama-3.1-8b", "--gpu", "rtx-3060"],
}  # fmt: skip
BASE = "python -c 'import click'"
PHASES = """
import gc, importlib, io, json, sys, time
gc.set_threshold(200_000)
marks = [("", time.process_time())]
def mark(name):
    marks.append((name, time.process_time()))
import click
mark("importing click")
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
mark("importing what the job needs of fitcalc and of the standard library")
import fitcalc
from fitcalc.cli.group import cli
from fitcalc.render.style import Style
from fitcalc.render.text import report_text
cli.get_command(None, "fit").make_context("fitcalc", ["llama-3.1-70b", "--gpu", "a100-80", "--quant", "awq"])
mark("reading the command line")
model = fitcalc.load_model("llama-3.1-70b")
mark("reading the model's profile and making its tensors")
found = fitcalc.fit(model, gpu="a100-80", quant="awq")
mark("the answer: card, plan, limits, speed, quality, alternatives")
report_text(found, Style())
mark("the text")
print(json.dumps([(name, after - before) for (_, before), (name, after) in zip(marks, marks[1:])]))
"""
"""The main job in steps, with all its modules imported beforehand."""


def environment() -> dict[str, str]:
    """An installed package has its bytecode; a checkout gets it with the first, uncounted round."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def cost_of(arguments: list[str]) -> tuple[float, float]:
    """User and system time of one process in seconds, and its largest resident memory in MiB."""
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=nowhere, stderr=nowhere, env=environment(), close_fds=True
        )
        # Of the one process: os.times would count in steps of 10 ms.
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def modules() -> list[str]:
    """What the main job imports beyond click, in its order."""
    code = (
        "import io, json, sys, click\nbefore = set(sys.modules)\nsys.stdout, shown = io.StringIO(), sys.stdout\n"
        f"from fitcalc.cli import run\nrun({MAIN_JOB!r})\nsys.stdout = shown\n"
        "print(json.dumps([name for name in sys.modules if name not in before]))"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    names: list[str] = json.loads(listed.stdout)
    return names


def phases(rounds: int) -> dict[str, float]:
    """Step of the main job -> median seconds of CPU time."""
    listed, times = json.dumps(modules()), dict[str, list[float]]()
    for _ in range(rounds):
        told = subprocess.run(
            [sys.executable, "-c", PHASES, listed], capture_output=True, text=True, env=environment(), check=True
        )
        for name, seconds in json.loads(told.stdout):
            times.setdefault(name, []).append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print the median CPU time of each command over the median of the base, and the phases of the main job."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for arguments in COMMANDS.values():
        cost_of(arguments)
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            costs[name].append(cost_of(arguments))
    base = statistics.median(seconds for seconds, _ in costs[BASE])
    print(f"CPU time, median of {rounds} interleaved rounds, as a ratio to {BASE} ({base * 1000:.0f} ms here)\n")
    for name, values in costs.items():
        ratio, memory = statistics.median(seconds for seconds, _ in values) / base, max(size for _, size in values)
        print(f"{ratio:6.2f} x {memory:6.1f} MiB   {name}")
    print("\nwhere the time of the main job goes, in the same unit\n")
    for name, seconds in phases(rounds).items():
        print(f"{seconds / base:6.2f} x   {name}")


if __name__ == "__main__":
    main()
