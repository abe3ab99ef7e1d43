"""Sweeps against a loop of single answers, against the machine's memory, and over many small blocks.

    python benchmarks/speed/sweep.py [points]

Prints points per second on one core, the ratio to `fitcalc.fit` in a loop, and the time in terms of what copying the
columns' bytes takes on this machine; then other calculators over the same points (peers.py).
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from math import isqrt
from typing import Any

import numpy as np
import peers

import fitcalc
from fitcalc.grids.points import COST_COLUMNS, LIMIT_COLUMNS, MEMORY_COLUMNS, SPEED_COLUMNS
from fitcalc.grids.sweep import Sweep

PLANS = (("awq", "a100-80", "vllm"), ("q4_k_m", "rtx-4090", "llama.cpp"))
MEMORY = (*MEMORY_COLUMNS, *LIMIT_COLUMNS)
ALL = (*MEMORY, *SPEED_COLUMNS, *COST_COLUMNS)


def copy_bytes_per_s() -> float:
    """Bytes that a copy of an array larger than any cache writes in a second; best of five."""
    source = np.ones(2**22, dtype=np.int64)
    target = np.empty_like(source)
    best = min(timed(lambda: np.copyto(target, source)) for _ in range(5))
    return source.nbytes / best


def timed(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def one_plan(points: int, quant: str, device: str, engine: str, columns: tuple[str, ...]) -> Sweep:
    """A square of contexts and requests, within what the engine takes at once."""
    requests = 250 if engine == "llama.cpp" else min(isqrt(points), 2**16)
    return fitcalc.sweep(
        "llama-3.1-8b", devices=device, quants=quant, engines=engine, contexts=range(64, 64 + points // requests),
        concurrencies=range(1, requests + 1), columns=columns,
    )  # fmt: skip


def written(found: Sweep) -> int:
    """Compute every column in full, one piece after another, and return the bytes of them."""
    size = 0
    for chunk, _ in found.chunks():
        for name in found.wanted:
            size += np.ascontiguousarray(chunk.full(name)).nbytes
    return size


def scalar_points_per_s(quant: str, device: str, engine: str) -> float:
    model, count = fitcalc.load_model("llama-3.1-8b"), 40
    axes = [(64 + 97 * step, 1 + step) for step in range(count)]
    seconds = timed(
        lambda: [
            fitcalc.fit(model, gpu=device, quant=quant, engine=engine, context=context, concurrency=requests)
            for context, requests in axes
        ]
    )
    return count / seconds


def main() -> None:
    """Print one line for each measurement."""
    points = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10**7
    copied = copy_bytes_per_s()
    print(f"copying: {copied / 1e9:.1f} GB/s")
    for plan in PLANS:
        scalar = scalar_points_per_s(*plan)
        for word, columns in (("memory", MEMORY), ("all", ALL)):
            found = one_plan(points, *plan, columns)
            started = time.process_time()
            size = written(found)
            seconds = time.process_time() - started
            lean = timed(lambda sweep=found: sum(chunk.size for chunk, _ in sweep.chunks()))
            rate = found.points / seconds
            head = f"{plan[2]:<10} {word:<7} {len(columns):>2} columns, {found.points:,} points"
            print(
                f"{head}: {rate / 1e6:6.2f} M points/s"
                f" · {rate / scalar:,.0f} x a loop of fit · {seconds / (size / copied):.1f} x copying"
                f" · {found.points / lean / 1e6:.2f} M points/s as views"
            )
    blocks = fitcalc.sweep(
        ["llama-3.1-8b", "llama-3.1-70b", "gemma-3-27b", "qwen3-30b-a3b"],
        devices=["a100-80", "h100-sxm", "a10", "l40s", "rtx-4090", "rtx-3060"],
        quants=["bf16", "awq", "fp8", "q4_k_m", "q8_0"],
        contexts=[2**exponent for exponent in range(9, 18)] + [3 * 2**exponent for exponent in range(8, 17)],
        concurrencies=[1, 2, 4, 8, 16, 32, 64, 128, 192, 256],
    )
    seconds = timed(lambda: written(blocks))
    print(f"{blocks.grid.blocks:,} blocks of {blocks.points // blocks.grid.blocks} points, all columns:", end=" ")
    print(f"{blocks.points / seconds:,.0f} points/s, {seconds / blocks.grid.blocks * 1000:.1f} ms a block")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    peers.main()


if __name__ == "__main__":
    main()
