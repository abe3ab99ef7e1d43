"""What a start costs: CPU time of fitcalc's commands as ratios to `python -c "import click"`, in one interleaved run.

    python benchmarks/speed/start_up.py [rounds]

Ratios, not milliseconds: both sides run on the same machine in the same minute.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys

SCRIPT = ["-c", "from fitcalc.__main__ import main; main()"]
"""What the installed console script runs; `python -m` would add the import of runpy."""
COMMANDS: dict[str, list[str]] = {
    "python -c pass": ["-c", "pass"],
    "python -c 'import click'": ["-c", "import click"],
    "fitcalc --help": [*SCRIPT, "--help"],
    "fitcalc llama-3.1-70b --gpu a100-80 --quant awq": [
        *SCRIPT, "llama-3.1-70b", "--gpu", "a100-80", "--quant", "awq",
    ],
    "the same with --json": [*SCRIPT, "llama-3.1-70b", "--gpu", "a100-80", "--quant", "awq", "--json"],
    "fitcalc deepseek-v3 --gpu h200:8 --quant fp8": [
        *SCRIPT, "deepseek-v3", "--gpu", "h200:8", "--quant", "fp8",
    ],
    "fitcalc llama-3.1-8b --gpu rtx-3060": [*SCRIPT, "llama-3.1-8b", "--gpu", "rtx-3060"],
}  # fmt: skip
BASE = "python -c 'import click'"


def cpu_seconds(arguments: list[str]) -> float:
    """User and system time of one process."""
    # An installed package has its bytecode; a checkout gets it with the first, uncounted round.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    quiet = subprocess.DEVNULL
    # os.times would count in steps of 10 ms.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=quiet, stderr=quiet, env=env, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the median CPU time of each command over the median of the base."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for arguments in COMMANDS.values():
        cpu_seconds(arguments)
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            times[name].append(cpu_seconds(arguments))
    base = statistics.median(times[BASE])
    print(f"CPU time, median of {rounds} interleaved rounds, as a ratio to {BASE} ({base * 1000:.0f} ms here)\n")
    for name, values in times.items():
        print(f"{statistics.median(values) / base:6.2f} x   {name}")


if __name__ == "__main__":
    main()
