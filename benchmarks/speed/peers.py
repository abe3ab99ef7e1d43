"""Points per second against the Python APIs of other calculators, over the same points in the same run.

    pip install ridgepoint servcalc vramcalc fitcheck-llm genz-llm
    python benchmarks/speed/peers.py

Llama-3.1-8B in 16 bit on an A100 with 80 GB: contexts × requests at once. Each peer gets the model read and is called
once a point through the function that its users call. What is not installed is left out with a line. Peers that answer
only through a hub, or from a command line, are not timed; llm-analysis 0.2.2 cannot express this model's feed-forward.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from itertools import islice
from typing import Any

import fitcalc
from fitcalc.catalog.building import config_of
from fitcalc.catalog.files import read_toml
from fitcalc.catalog.finding import resolve
from fitcalc.grids.chunks import COLUMNS
from fitcalc.grids.points import MEMORY_COLUMNS
from fitcalc.grids.sweep import Sweep

CONTEXTS, REQUESTS = range(512, 16_512, 16), range(1, 101)
ONE = (8192, 4)
"""The point whose numbers are shown."""
SECONDS = 2.0
GIB = 2**30
Point = Callable[[int, int], tuple[float | None, float | None]]
"""Context, requests at once -> bytes, seconds of a token; None where a peer has no such number."""


def ridgepoint(_config: dict[str, Any]) -> Point:
    """Weights, overhead and cache; it knows Llama 3, which has the same shapes, and answers each context for any
    number of requests."""
    from ridgepoint import fit

    def point(context: int, requests: int) -> tuple[float, float]:
        told = json.loads(fit("llama-3-8b", "a100-80gb", ctx=context, as_json=True))
        held, cache = told["memory"], told["capacity"]["bytes_per_seq"]
        size = held["weights_bytes"]["best"] + held["overhead_bytes"]["best"] + requests * cache
        return size, 1 / told["speed"]["decode_tok_s"]["best"]

    return point


def servcalc(config: dict[str, Any]) -> Point:
    """Serving on vLLM: weights and cache, and the time of a token."""
    from servcalc import Workload, estimate
    from vramcalc import Arch

    arch, answer = Arch.from_config(config), 128

    def point(context: int, requests: int) -> tuple[float, float | None]:
        told = estimate(arch, "A100 80GB", workload=Workload(context - answer, answer, (requests,)))
        gap = told.points[0].itl_ms
        size = told.weight_bytes + requests * context * told.kv_bytes_per_token
        return size, None if gap is None else gap.mid / 1e3

    return point


def vramcalc(config: dict[str, Any]) -> Point:
    """A run under Transformers: memory alone."""
    from vramcalc import Arch, estimate

    arch = Arch.from_config(config)
    return lambda context, requests: (estimate(arch, dtype="bf16", batch=requests, seq_len=context).total, None)


def fitcheck(config: dict[str, Any]) -> Point:
    """Weights and cache: memory alone."""
    from fitcheck import ModelConfig, ServingConfig, estimate_inference, get_gpu

    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    model = ModelConfig(
        name="llama-3.1-8b", num_params=fitcalc.load_model("llama-3.1-8b").params_total, hidden_size=hidden,
        num_layers=config["num_hidden_layers"], num_attention_heads=heads, num_kv_heads=config["num_key_value_heads"],
        intermediate_size=config["intermediate_size"], vocab_size=config["vocab_size"], head_dim=hidden // heads,
        tie_word_embeddings=False,
    )  # fmt: skip
    card = get_gpu(vram_mib=81920)

    def point(context: int, requests: int) -> tuple[float, None]:
        asked = ServingConfig("bf16", seq_len=context, num_concurrent=requests)
        return estimate_inference(model, asked, card).total_mib * 2**20, None

    return point


def genz(_config: dict[str, Any]) -> Point:
    """A roofline of one decoded token: time alone."""
    from GenZ import decode_moddeling

    card = {"Flops": 312, "Memory_size": 80, "Memory_BW": 2039, "ICN": 600, "real_values": True}

    def point(context: int, requests: int) -> tuple[None, float]:
        asked = {"model": "meta-llama/Meta-Llama-3.1-8B", "system_name": card, "bits": "bf16"}
        try:
            with redirect_stdout(StringIO()):
                told = decode_moddeling(batch_size=requests, input_tokens=context, **asked)
        except ValueError:  # its way to say that it does not fit
            return None, None
        return None, float(told["Latency"]) / 1e3

    return point


PEERS: dict[str, Callable[[dict[str, Any]], Point]] = {
    "ridgepoint": ridgepoint, "servcalc": servcalc, "vramcalc": vramcalc, "fitcheck-llm": fitcheck, "genz-llm": genz,
}  # fmt: skip


def own(columns: Iterable[str]) -> Sweep:
    return fitcalc.sweep(
        "llama-3.1-8b", devices="a100-80", quants="bf16", engines="vllm", contexts=CONTEXTS, concurrencies=REQUESTS,
        columns=list(columns),
    )  # fmt: skip


def own_points_per_s(columns: Iterable[str]) -> float:
    """Of a sweep from its arguments to full columns, after one that has read the profiles."""
    started = 0.0
    for _ in range(2):
        started = time.process_time()
        found = own(columns)
        for chunk, _ in found.chunks():
            for name in found.wanted:
                chunk.full(name).copy()
    return len(CONTEXTS) * len(REQUESTS) / (time.process_time() - started)


def points_per_s(point: Point) -> float:
    """Of calls over the grid, evenly spread, for SECONDS or to its end."""
    step = 7919
    whole = len(CONTEXTS) * len(REQUESTS)
    places = (divmod(number * step % whole, len(REQUESTS)) for number in range(whole))
    point(*ONE)
    started, count = time.process_time(), 0
    while taken := list(islice(places, 16)):
        for i, j in taken:
            point(CONTEXTS[i], REQUESTS[j])
        count += len(taken)
        if time.process_time() - started > SECONDS:
            break
    return count / (time.process_time() - started)


def line(name: str, rate: float, times: float, size: float | None, seconds: float | None) -> str:
    told = "" if size is None else f"{size / GIB:6.2f} GiB"
    speed = "" if seconds is None else f"{seconds * 1e3:6.2f} ms"
    return f"{name:<28} {rate:>12,.0f} points/s  {times:>9,.0f} x  {told:>10}  {speed:>9}"


def main() -> int:
    """Print a line for fitcalc and one for each peer."""
    config = config_of(read_toml(resolve("models", "llama-3.1-8b").path))
    one = fitcalc.fit("llama-3.1-8b", gpu="a100-80", quant="bf16", engine="vllm", context=ONE[0], concurrency=ONE[1])
    size: float | None = sum(term.bytes for term in one.devices[0].terms if term.name in ("weights", "kv_cache"))
    pace = one.speed.decode_tokens_per_s
    everything, memory = own_points_per_s(COLUMNS), own_points_per_s(MEMORY_COLUMNS)
    print(f"{len(CONTEXTS) * len(REQUESTS):,} points; times fitcalc's rate, of memory alone where a peer has no speed;")
    print(f"bytes and time of a token at {ONE[0]:,} tokens × {ONE[1]} requests, by what each counts")
    print(line("fitcalc, all columns", everything, 1, one.devices[0].total_bytes, pace and 1 / pace.estimate))
    print(line("fitcalc, memory columns", memory, 1, size, None) + "  weights and cache alone")
    for name, prepare in PEERS.items():
        try:
            point, label = prepare(config), f"{name} {version(name)}"
        except (ImportError, PackageNotFoundError):
            print(f"{name}: left out, it is not installed (pip install {name})")
            continue
        each, (size, seconds) = points_per_s(point), point(*ONE)
        print(line(label, each, (memory if seconds is None else everything) / each, size, seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
