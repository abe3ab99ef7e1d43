"""SGLang, TGI and TensorRT-LLM against start-up logs: weights per rank, KV tokens, CUDA graphs, the pool of a card.

Run: python benchmarks/accuracy/other_servers.py [-v]
Each record of records/other_servers.jsonl is one start; `leave_out` names the quantities that it does not decide and
`known` says what is known of an outlier. "settings known" takes the free memory before loading and the fraction from
the log and the weights from fitcalc; "card alone" takes the card's total only.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from fitcalc import catalog
from fitcalc.engines import served, sglang, tensorrt_llm
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB

RECORDS = Path(__file__).parent / "records" / "other_servers.jsonl"
NOTABLE_PERCENT = 1.0
"""Errors from here have a line that says what is known of them."""


class Error(NamedTuple):
    """An estimate held against the truth: in percent, or GiB for graphs."""

    error: float
    inside: bool
    estimate: float
    truth: float
    record: dict[str, Any]


Row = tuple[str, float, float, float, float]
"""(quantity, estimate, low, high, truth), in GiB or tokens."""


def records() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORDS.read_text(encoding="utf-8").splitlines()]


def prepared_of(record: dict[str, Any]) -> Any:
    """The engine's plan for the record's card, division and options."""
    total = round(record.get("gpu_total_gib", record.get("free_before_gib", 80.0) + 1) * GIB)
    card = Device("card", record.get("gpu", "card"), "nvidia", "gpu", "datacenter", total, total)
    ranks = record.get("tensor_parallel", 1)
    model, scheme = catalog.load_model(record["model"]), catalog.load_scheme(record["quant"])
    module, names = MODULES[record["engine"]]
    options = {name: record[name] for name in names if name in record}
    work = Workload(record.get("max_model_len", 8192), 1, "", ranks, 1, options)
    profile = catalog.load_engine(record["engine"])
    return module.prepare(model, scheme, Machine((card,) * ranks), work, profile)


MODULES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "sglang": (sglang, ("mem_fraction_static",)),
    "tensorrt-llm": (tensorrt_llm, ("free_gpu_memory_fraction", "max_num_tokens", "max_batch_size")),
}


def ends(plan: Any, names: tuple[str, ...]) -> tuple[int, int, int]:
    """(bytes, low, high) of the first card's fixed terms with these names."""
    held = [term for term in plan.cards[0].terms if term.name in names]
    return tuple(sum(getattr(term, end) for term in held) for end in ("bytes", "low_bytes", "high_bytes"))  # type: ignore[return-value]


def tokens_in(plan: Any, room_gib: float) -> int:
    """Tokens of an SGLang pool of so many GiB on the first rank."""
    return sglang.divided_pool(plan, plan.seats[0].cells, round(room_gib * GIB))[1]


def cell_of(plan: Any) -> int:
    return plan.seats[0].cells.full_bytes  # type: ignore[no-any-return]


def sglang_rows(record: dict[str, Any]) -> Iterator[Row]:
    plan, left_out = prepared_of(record), record.get("leave_out", ())
    if "weights_gib" in record and "weights" not in left_out:
        yield "SGLang weights", *(size / GIB for size in ends(plan, ("weights", "runtime"))), record["weights_gib"]
    tokens, fraction = record.get("kv_tokens"), record.get("mem_fraction_static")
    before, after = record.get("free_before_gib"), record.get("free_after_gib")
    if tokens and record.get("kv_gib"):
        found = round(record["kv_gib"] * GIB) // cell_of(plan)
        # Logs print K and V with two digits each.
        room = round(0.01 * GIB) // cell_of(plan)
        yield "SGLang tokens from K+V bytes", found, found - room, found + room, tokens
    if "graphs_gib" in record:
        term = served.graphs_term(plan.model, plan.profile, plan.seats[0], disabled=False)
        sizes = (term.bytes / GIB, term.low_bytes / GIB, term.high_bytes / GIB)
        yield "SGLang graphs", *sizes, record["graphs_gib"]
    truth = tokens or (round(record["pool_gib"] * GIB) // cell_of(plan) if "pool_gib" in record else None)
    if not truth or not fraction or "pool" in left_out:
        return
    if before and after:
        room = after - before * (1 - fraction)
        # Logs print free memory with two digits.
        found, low, high = (tokens_in(plan, room + digits) for digits in (0, -0.01, 0.01))
        yield "SGLang tokens from free memory", found, low, high, truth
    spent = ends(plan, ("weights", "runtime"))
    if before:
        found, high, low = (tokens_in(plan, before * fraction - size / GIB) for size in spent)
        yield "SGLang tokens, settings known", found, low, high, truth
    if "gpu_total_gib" in record:
        context = ends(plan, ("cuda_context",))
        total = record["gpu_total_gib"]
        found, high, low = (
            tokens_in(plan, (total - held / GIB) * fraction - size / GIB)
            for held, size in zip(context, spent, strict=True)
        )
        yield "SGLang tokens, card alone", found, low, high, truth


def tensorrt_rows(record: dict[str, Any]) -> Iterator[Row]:
    if "model" not in record:
        return
    plan = prepared_of(record)
    tokens = record.get("kv_tokens") or record["gpu_blocks"] * record["block_size"]
    if "kv_gib" in record:
        found = round(record["kv_gib"] * GIB) // cell_of(plan)
        yield "TensorRT-LLM tokens from bytes", found, found, found, tokens
    if "free_gib" in record:
        found = round(record["free_gib"] * GIB * 0.9) // cell_of(plan)
        yield "TensorRT-LLM tokens from free memory", found, found, found, tokens
    if "gpu_total_gib" in record:
        share = plan.settings.fraction_e4 / 10000
        found, high, low = (
            int((record["gpu_total_gib"] * GIB - size) * share) // cell_of(plan)
            for size in ends(plan, ("weights", "activations", "cuda_context", "runtime"))
        )
        yield "TensorRT-LLM tokens, card alone", found, low, high, tokens


def rows_of(record: dict[str, Any]) -> Iterator[Row]:
    if record["engine"] == "sglang":
        yield from sglang_rows(record)
    elif record["engine"] == "tensorrt-llm":
        yield from tensorrt_rows(record)


def measure() -> dict[str, list[Error]]:
    """Quantity -> errors over all records that state it."""
    found: dict[str, list[Error]] = {}
    for record in records():
        for name, estimate, low, high, truth in rows_of(record):
            error = estimate - truth if name.endswith("graphs") else 100 * (estimate - truth) / truth
            # Logs print two decimals; half of the last one is no error.
            room = 0.005 if truth < 1000 else truth * 1e-4
            found.setdefault(name, []).append(Error(error, low - room <= truth <= high + room, estimate, truth, record))
    return found


def ninetieth(sizes: list[float]) -> float:
    return sorted(sizes)[min(len(sizes) - 1, math.ceil(0.9 * len(sizes)) - 1)]


def main() -> None:
    verbose = "-v" in sys.argv
    print(f"{'quantity':37} {'n':>3} {'median':>9} {'p90':>9} {'worst':>9} {'bias':>9} {'inside':>7}")
    for name, entries in sorted(measure().items()):
        sizes = [abs(entry.error) for entry in entries]
        unit = "GiB" if name.endswith("graphs") else "%"
        bias = sum(entry.error for entry in entries) / len(entries)
        inside = sum(entry.inside for entry in entries) / len(entries)
        figures = "".join(f" {value:6.2f} {unit:2}" for value in (median(sizes), ninetieth(sizes), max(sizes), bias))
        print(f"{name:37} {len(entries):3}{figures} {inside:6.0%}")
        for error, _, estimate, truth, record in sorted(entries, key=lambda entry: -abs(entry.error)):
            if abs(error) < NOTABLE_PERCENT and not verbose:
                break
            known = record.get("known") or record.get("note", "")
            print(f"    {error:+7.2f} {estimate:12.2f} {truth:12.2f}  {record['repo']} ({record['source']}): {known}")
    unused = [record for record in records() if not any(True for _ in rows_of(record))]
    for record in unused:
        print(f"not comparable: {record['engine']} {record['repo']} ({record['source']}): {record.get('note', '')}")


if __name__ == "__main__":
    main()
