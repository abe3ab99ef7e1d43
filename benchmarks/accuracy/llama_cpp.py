"""llama.cpp against its own buffers and against users' start-up logs.

Run: python benchmarks/accuracy/llama_cpp.py [-v]
records/llama_cpp_buffers.csv.gz holds buffers that llama.cpp 0c1e570 allocated or projected, device by device;
records/llama_cpp_logs.jsonl lines of logs with the settings that led to them (a truth key may name a sum, and
`note` says what is not known for certain). Estimates use the profile of the logged version.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from fitcalc import catalog
from fitcalc.architectures import from_config
from fitcalc.engines import llama_cpp
from fitcalc.engines.base import DeviceLedger
from fitcalc.engines.llama_cpp_ledgers import repacked_bytes
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB, MIB, round_up

HERE = Path(__file__).parent / "records"
SCHEMES = {"F16": "fp16", "Q4_0": "q4_0", "Q4_K_M": "q4_k_m", "Q8_0": "q8_0"}
NATIVE_EXPERTS = "gpt-oss-20b"
"""Its records keep the experts in MXFP4 beside F16: no quantization here has that mix, so weights are left out."""
SETTING_KEYS = ("n_batch", "n_ubatch", "flash_attn", "type_k", "type_v", "split_mode")


def card(vendor: str = "nvidia") -> Device:
    return Device("card", "card", vendor, "gpu", "custom", 192 * GIB, 192 * GIB)


def processor(isa: str) -> Device:
    return Device("cpu", "cpu", "x", "cpu", "custom", 2048 * GIB, 2048 * GIB, isa=isa)


@cache
def model_of(name: str) -> ModelSpec:
    shapes: dict[str, Any] = json.loads((HERE / "llama_cpp_shapes.json").read_text())
    return from_config(shapes[name]) if name in shapes else catalog.load_model(name)


@cache
def scheme_of(name: str) -> Any:
    return catalog.load_scheme(name)


def read(text: str) -> list[dict[str, str]]:
    """Records of a table whose first line says where it comes from."""
    return list(csv.DictReader(io.StringIO(text.partition("\n")[2])))


def buffer_records() -> list[dict[str, str]]:
    return read(gzip.decompress((HERE / "llama_cpp_buffers.csv.gz").read_bytes()).decode())


def plan_of(record: dict[str, str]) -> tuple[Any, str | None]:
    """(plan, refusal) of a record of llama_cpp_buffers."""
    options: dict[str, Any] = {key: record[key] for key in SETTING_KEYS}
    options |= {key: record[key] == "1" for key in ("kv_unified", "swa_full", "repack")}
    options["n_outputs_max"] = int(record["n_outputs_max"] or 0)
    if int(record["gpus"]):
        options["n_gpu_layers"] = record["n_gpu_layers"]
    machine = Machine((card(),) * int(record["gpus"]), processor("AVX2"), 2048 * GIB)
    model, scheme, profile = model_of(record["model"]), scheme_of(SCHEMES[record["weights"]]), engine("llama.cpp")
    workload = Workload(4096, options=options)
    reason = llama_cpp.refusal(model, scheme, machine, workload, profile)
    return (None if reason else llama_cpp.prepare(model, scheme, machine, workload, profile)), reason


@cache
def engine(name: str) -> Any:
    return catalog.load_engine(name)


def request_of(record: dict[str, str]) -> tuple[int, int]:
    """Context per request and requests: the context is padded first, then divided among separate caches."""
    cells, requests = round_up(int(record["n_ctx"]), 256), int(record["n_seq_max"])
    return (cells if record["kv_unified"] == "1" else cells // requests), requests


def truth_of(record: dict[str, str]) -> dict[str, list[int]]:
    """Buffer type -> [model, context, compute] bytes."""
    return {
        name: [int(part) for part in sizes.split("/")]
        for name, _, sizes in (entry.partition(":") for entry in record["buffers"].split())
    }


def total(entry: DeviceLedger, *names: str) -> int:
    return sum(term.bytes for term in entry.terms if term.name in names)


def kind_of(record: dict[str, str]) -> str:
    if record["gpus"] == "0":
        return f"processor, {record['mode']}"
    if record["n_gpu_layers"] != "all":
        return f"card, {record['n_gpu_layers']} layers"
    several = record["gpus"] != "1" and record["split_mode"] == "layer"
    return "several cards" if several else "one card"


def compare(record: dict[str, str], plan: Any) -> Iterator[tuple[str, DeviceLedger, int]]:
    """(quantity, ledger, truth) of every device of a record."""
    truth = truth_of(record)
    entries = llama_cpp.ledgers(plan, *request_of(record))
    if not plan.cards:
        for index, name in enumerate(("weights", "cache", "compute")):
            sizes = [part[index] for buffer, part in truth.items() if buffer != "CPU_REPACK"]
            yield name, entries[0], sum(sizes)
        return
    for index, entry in enumerate(entries):
        buffer = "CUDA_Host" if index == len(entries) - 1 else f"CUDA{index}"
        sizes = truth.get(buffer, [0, 0, 0])
        extra = truth.get("CPU", [0, 0, 0]) if buffer == "CUDA_Host" else [0, 0, 0]
        yield "weights", entry, sizes[0] + extra[0]
        yield "cache", entry, sizes[1] + extra[1]
        if sizes[2]:
            yield "host compute" if buffer == "CUDA_Host" else "compute", entry, sizes[2]


def measure_buffers() -> tuple[dict[str, list[bool]], dict[str, list[tuple[float, bool, str]]]]:
    """(quantity -> equal or not, kind of compute buffer -> (relative error, inside the interval, record))."""
    exact: dict[str, list[bool]] = defaultdict(list)
    compute: dict[str, list[tuple[float, bool, str]]] = defaultdict(list)
    for record in buffer_records():
        plan, reason = plan_of(record)
        refused = record["buffers"] == "refused"
        if refused or reason:
            exact["refusals"].append(refused == bool(reason))
            continue
        where = " ".join(f"{key}={record[key]}" for key in ("model", "n_ctx", *SETTING_KEYS, "n_seq_max"))
        for quantity, entry, truth in compare(record, plan):
            if quantity == "weights" and record["model"] != NATIVE_EXPERTS and record["mode"] != "real":
                exact["weights"].append(total(entry, "weights") == truth)
            elif quantity == "cache":
                exact["cache and state"].append(total(entry, "kv_cache", "state") == truth)
            elif quantity.endswith("compute"):
                name = "host beside cards" if quantity == "host compute" else kind_of(record)
                term = next(term for term in entry.terms if term.name == "compute_buffer")
                compute[name].append((term.bytes / truth - 1, term.low_bytes <= truth <= term.high_bytes, where))
        if "CPU_REPACK" in truth_of(record) and record["mode"] == "real":
            exact["repacked"].append(repacked_bytes(plan) == truth_of(record)["CPU_REPACK"][0])
        output = total(llama_cpp.ledgers(plan, *request_of(record))[-1], "runtime") / MIB
        if record["output_mib"] and record["model"] in ("llama-3.1-8b", "gemma-3-12b"):
            exact["output buffer"].append(abs(output - float(record["output_mib"])) < 0.02 + 0.01 * output)
    return exact, compute


def buffers(verbose: bool) -> None:
    exact, compute = measure_buffers()
    print("buffers of llama.cpp 0c1e570")
    for name, hits in exact.items():
        print(f"  {name:18} {sum(hits):5} of {len(hits)} exact")
    print(f"  {'compute buffer':24}{'n':>6}{'median':>9}{'p90':>8}{'worst':>8}{'inside':>9}")
    for name, rows in compute.items():
        errors = sorted(abs(error) for error, _, _ in rows)
        inside = sum(hit for _, hit, _ in rows) / len(rows)
        worst = max(rows, key=lambda row: abs(row[0]))
        print(
            f"  {name:24}{len(rows):6}{median(errors):9.2%}{errors[int(0.9 * len(errors))]:8.1%}"
            f"{worst[0]:+8.1%}{inside:9.1%}" + (f"  {worst[2]}" if verbose else "")
        )


def log_records() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HERE / "llama_cpp_logs.jsonl").read_text().splitlines()]


def log_rows(record: dict[str, Any]) -> Iterator[tuple[str, float, float]]:
    """(quantity, estimate, truth) in MiB."""
    cards = tuple(card(vendor) for vendor in record["cards"])
    isa = "NEON" if record.get("cpu") == "arm" else "AVX2"
    machine = Machine(cards, processor(isa), 2048 * GIB)
    workload = Workload(record["context"], record.get("requests", 1), options=record["options"])
    named = engine(record["profile"])
    profile = named.starts or named
    plan = llama_cpp.prepare(model_of(record["model"]), scheme_of(record["quant"]), machine, workload, profile)
    entries = llama_cpp.ledgers(plan, record["context"], record.get("requests", 1))
    names = [*(f"card{rank}" for rank in range(len(cards))), "host"] if cards else ["cpu"]
    places = dict(zip(names, entries, strict=True))
    for key, truth in record["truth_mib"].items():
        size = 0
        for part in key.split("+"):
            place, _, name = part.partition(".")
            size += repacked_bytes(plan) if name == "repacked" else total(places[place], name)
        yield key, size / MIB, truth


def measure_logs() -> dict[str, list[tuple[float, str]]]:
    """Quantity -> (relative error, what was compared) of the start-up logs of users."""
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for record in log_records():
        for key, estimate, truth in log_rows(record):
            name = ("host " if key.startswith("host.") else "") + key.rpartition(".")[2].replace("_", " ")
            what = (
                f"{record['model']} {record['quant']} at {record['context']}: {key} {estimate:.2f}, logged {truth:.2f}"
            )
            found[name].append((estimate / truth - 1, what + (f" ({record['note']})" if record.get("note") else "")))
    return found


def logs(verbose: bool) -> None:
    found = measure_logs()
    print("\nstart-up logs")
    print(f"  {'':24}{'n':>6}{'median':>9}{'p90':>8}{'worst':>8}")
    for name, rows in sorted(found.items()):
        errors = sorted(abs(error) for error, _ in rows)
        worst = max(rows, key=lambda row: abs(row[0]))
        print(f"  {name:24}{len(rows):6}{median(errors):9.2%}{errors[int(0.9 * len(errors))]:8.1%}{worst[0]:+8.1%}")
        for error, what in rows:
            if abs(error) > (0.0 if verbose else 0.03):
                print(f"      {error:+7.1%}  {what}")


if __name__ == "__main__":
    buffers("-v" in sys.argv)
    logs("-v" in sys.argv)
