"""Server engines against start-up logs: weights per rank, KV tokens, activations, graphs, end to end.

Run: python benchmarks/accuracy/serving.py [-v]
Each record of records/serving.jsonl is one start (vLLM) or one row of a published table (Transformers); `leave_out`
names the quantities that its note makes incomparable, `known` says what is known of a quantity that lies off.
Estimates use the profile of the logged version.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from fitcalc import catalog
from fitcalc.engines import transformers, vllm, vllm_terms
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB

RECORDS = Path(__file__).parent / "records" / "serving.jsonl"
VERSIONS = ((0.21, "vllm"), (0.17, "vllm-0.19"), (0.09, "vllm-0.11"), (0.0, "vllm-0.8"))
OPTIONS = ("gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "enforce_eager")
KV_TYPES = {"auto": "", "fp8": "fp8", "fp8_e5m2": "fp8", "fp8_e4m3": "fp8", "int8": "int8"}
LINKED = re.compile(r"\b(A100|H100|H200|H20|B200|V100)\b(?!.*PCIe)")
"""Cards that servers join by NVLink."""
OUTLIER = {"%": 0.5, "GiB": 0.1}
"""Errors above this are listed with what is known of them."""
Row = tuple[str, float, float, float, float]
"""(quantity, estimate, low, high, truth), in GiB or tokens."""


class Error(NamedTuple):
    """An estimate held against the truth: in percent, or GiB for the small terms."""

    error: float
    inside: bool
    estimate: float
    truth: float
    record: dict[str, Any]
    width: float
    """Of the interval, as a share of the estimate."""


def records() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORDS.read_text().splitlines()]


def version_of(record: dict[str, Any]) -> float | None:
    """0.19 from '0.19.0' or from a note 'version about 0.19'; minor versions as hundredths."""
    text = record.get("version") or ""
    found = re.match(r"0\.(\d+)", text) or re.search(r"version about 0\.(\d+)", record.get("note", ""))
    return int(found[1]) / 100 if found else None


def engine_id(record: dict[str, Any]) -> str:
    version = version_of(record)
    return next(name for least, name in VERSIONS if (0.19 if version is None else version) >= least)


def prepared_of(record: dict[str, Any]) -> Any:
    """vLLM's plan for the record's card, division and options."""
    profile = catalog.load_engine(engine_id(record))
    total = round(record.get("gpu_total_gib", 80.0) * GIB)
    name = record.get("gpu", "card")
    linked = 1.0 if LINKED.search(name) else None
    card = Device("card", name, "nvidia", "gpu", "datacenter", total, total, nvlink_bytes_per_s=linked)
    ranks, stages = record.get("tensor_parallel") or 1, record.get("pipeline_parallel") or 1
    options = {name: record[name] for name in OPTIONS if record.get(name) is not None}
    if "block_size" in record and engine_id(record) != "vllm":
        options["block_size"] = record["block_size"]
    kv_dtype = KV_TYPES.get(record.get("kv_dtype", "auto"), "")
    work = Workload(record.get("max_model_len", 8192), 1, kv_dtype, ranks, stages, options)
    model, scheme = catalog.load_model(record["model"]), catalog.load_scheme(record["quant"])
    return vllm.prepare(model, scheme, Machine((card,) * (ranks * stages)), work, profile)


def logged_tokens(record: dict[str, Any], plain: bool) -> int | None:
    if record.get("kv_tokens"):
        return int(record["kv_tokens"])
    blocks = record.get("gpu_blocks") or 0
    return blocks * record.get("block_size", 16) if blocks and plain else None


def vllm_rows(record: dict[str, Any]) -> Iterator[Row]:
    plan, left_out = prepared_of(record), record.get("leave_out", ())
    context = plan.workload.context_tokens
    entry = vllm.ledgers(plan, context, 1)[0]
    terms = {term.name: term for term in entry.terms}
    if "weights_gib" in record and "weights" not in left_out and "tensor_parallel" in record:
        kind = "weights 16-bit" if plan.scheme.kind == "float" else "weights quantized"
        term = terms["weights"]
        yield kind, term.bytes / GIB, term.low_bytes / GIB, term.high_bytes / GIB, record["weights_gib"]
    layout = plan.stages[0].layout
    tokens = logged_tokens(record, layout is not None and len(layout.groups) == 1)
    batch = vllm.batch_of(plan, context, 1)[1]
    if tokens and layout and "kv_gib" in record and "kv_tokens" not in left_out:
        found = vllm.reported_tokens(plan.profile, layout, round(record["kv_gib"] * GIB), context, batch)
        yield "KV tokens from bytes", found, found, found, tokens
    if version_of(record) is None or "gpu_total_gib" not in record:
        return
    parts = {"activation_gib": ("activations", "vision"), "runtime_gib": ("runtime",), "graphs_gib": ("cuda_graphs",)}
    for field, names in parts.items():
        if field not in record or record[field] < 0 or (field == "activation_gib" and not settings_known(record)):
            continue
        held = [terms[name] for name in names if name in terms]
        if field == "graphs_gib":
            # In the ledger the spread of graphs counts only as far as it leaves the reserve.
            held = [vllm_terms.graphs_term(plan.model, plan.profile, plan.options, plan.stages[0].rank)]
        yield (
            f"{names[0]} {plan.profile.id}",
            sum(term.bytes for term in held) / GIB,
            sum(term.low_bytes for term in held) / GIB,
            sum(term.high_bytes for term in held) / GIB,
            record[field],
        )
    stated = settings_known(record) and "gpu_memory_utilization" in record
    if tokens and layout and "end_to_end" not in left_out and stated:
        yield "end to end tokens", *end_to_end(plan, entry, layout, context, batch), tokens


def settings_known(record: dict[str, Any]) -> bool:
    """The batch limits are in the record, or the defaults of the logged card apply."""
    return "max_num_seqs" in record or "gpu" in record


def end_to_end(plan: Any, entry: Any, layout: Any, context: int, batch: int) -> tuple[float, float, float]:
    """Tokens of the pool: estimate, low, high."""
    card = plan.cards[0]
    inside = ["weights", "lora", "draft_model", "activations", "vision", "runtime"]
    inside += ["cuda_graphs"] if plan.profile.constants["graphs_in_budget"] else []
    spent = [term for term in entry.terms if term.name in inside]
    rooms = (
        card.requested_bytes - sum(getattr(term, end) for term in spent) for end in ("bytes", "high_bytes", "low_bytes")
    )
    found = [vllm.reported_tokens(plan.profile, layout, max(room, 0), context, batch) for room in rooms]
    return found[0], found[1], found[2]


def transformers_rows(record: dict[str, Any]) -> Iterator[Row]:
    """Peaks (table of Qwen2.5) and end states (table of Qwen3, without the prefill's activations)."""
    if record.get("tensor_parallel", 1) != 1 or "used_gib" not in record:
        return
    model, scheme = catalog.load_model(record["model"]), catalog.load_scheme(record["quant"])
    card, profile = catalog.load_device("a100-80-sxm"), catalog.load_engine("transformers")
    plan = transformers.prepare(model, scheme, Machine((card,)), Workload(8192), profile)
    held = record["prompt_tokens"] + record["answer_tokens"]
    wanted = [term for term in transformers.ledgers(plan, held, 1)[0].terms if term.name in ("weights", "kv_cache")]
    peak = "Qwen2.5" in record["repo"]
    if peak:
        wanted.append(transformers.activations(plan, record["prompt_tokens"], 1))
    ends = ("bytes", "low_bytes", "high_bytes")
    # The table of Qwen2.5 was measured on an A100, that of Qwen3 on an H20.
    kept = profile.constants["library_workspace" if peak else "library_workspace_hopper"]
    sums = [(sum(getattr(term, end) for term in wanted) + kept) / GIB for end in ends]
    sums[2] += (profile.constants["runtime_gpu"]["high"] - kept) / GIB
    yield "Transformers peak" if peak else "Transformers end state", *sums, record["used_gib"]


def rows_of(record: dict[str, Any]) -> Iterator[Row]:
    yield from vllm_rows(record) if record["engine"] == "vllm" else transformers_rows(record)


def measure() -> dict[str, list[Error]]:
    """Quantity -> errors over all records that state it."""
    found: dict[str, list[Error]] = {}
    for record in records():
        for name, estimate, low, high, truth in rows_of(record):
            in_gib = name.split()[0] in ("activations", "runtime", "cuda_graphs")
            error = estimate - truth if in_gib else 100 * (estimate - truth) / truth
            # Logs print two decimals; half of the last one is no error.
            room = 0.005 if truth < 1000 else truth * 1e-4
            inside = low - room <= truth <= high + room
            found.setdefault(name, []).append(
                Error(error, inside, estimate, truth, record, (high - low) / max(estimate, 1e-9))
            )
    return found


def main() -> None:
    verbose = "-v" in sys.argv
    print(f"{'quantity':28} {'n':>4} {'median':>9} {'p90':>9} {'worst':>9} {'bias':>9} {'inside':>7} {'width':>6}")
    for name, entries in sorted(measure().items()):
        errors = sorted(abs(entry.error) for entry in entries)
        unit = "GiB" if name.split()[0] in ("activations", "runtime", "cuda_graphs") else "%"
        p90 = errors[min(len(errors) - 1, math.ceil(0.9 * len(errors)) - 1)]
        bias = sum(entry.error for entry in entries) / len(entries)
        inside = sum(entry.inside for entry in entries) / len(entries)
        figures = "".join(f" {value:6.2f} {unit:2}" for value in (median(errors), p90, errors[-1], bias))
        width = median(entry.width for entry in entries)
        shown = f" {width:6.1%}" if unit == "%" else ""
        print(f"{name:28} {len(entries):4}{figures} {inside:6.0%}{shown}")
        for entry in sorted(entries, key=lambda entry: -abs(entry.error)):
            known = entry.record.get("known", {}).get(name.split()[0], "")
            if verbose or (known and abs(entry.error) > OUTLIER[unit]):
                print(f"    {line_of(entry)}{'; ' + known if known else ''}")


def line_of(entry: Error) -> str:
    record = entry.record
    where = f"{record.get('version', '?')} {record['repo']} tp{record.get('tensor_parallel', '?')}"
    return f"{entry.error:+8.2f} {entry.estimate:12.2f} {entry.truth:12.2f}  {where}"


if __name__ == "__main__":
    main()
