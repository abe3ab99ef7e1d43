"""What fitted, partly fitted or failed for people at home, against fitcalc's answer to the same run.

Run: python benchmarks/accuracy/llama_outcomes.py [-v]
records/llama_outcomes.jsonl holds one run a line. `happened` is full (all on the cards), partial (a part in RAM) or
failed (out of memory, or spilled and slowed down); `layers` counts what the engine put on the cards by itself, the
output as one. `usable_mib` is what the record itself says a process can get. `apart` says why a run is not scored,
`reason` why a scored one is answered otherwise.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fitcalc import catalog, engines, verdict
from fitcalc.engines import llama_cpp
from fitcalc.machine import machine_of
from fitcalc.quantization import checkpoint_bytes
from fitcalc.spec.hardware import Machine
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB, MIB

RECORDS = Path(__file__).parent / "records" / "llama_outcomes.jsonl"
PUBLISHED = Path(__file__).parents[2] / "tests" / "golden" / "published_gguf.csv"
AMPLE_RAM = "256GB"
"""Host memory where a record does not state it."""
LAYERS_OFF = 1
"""Layers by which an engine's own choice may be missed."""


def records() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORDS.read_text().splitlines()]


def machine_for(record: dict[str, Any]) -> Machine:
    machine = machine_of(record["gpu"], None, record.get("ram", AMPLE_RAM), record.get("gpu_used"))
    if "usable_mib" not in record:
        return machine
    return replace(machine, gpus=tuple(replace(card, usable_bytes=record["usable_mib"] * MIB) for card in machine.gpus))


def answer(record: dict[str, Any]) -> tuple[str, str, int]:
    """(full, partial or failed; the verdict; layers on the cards, the output counted as one).

    Where the run left the layers to its engine, so does the plan; Macs and APUs have one memory for all.
    """
    profile = catalog.load_engine(record.get("engine", "llama.cpp"))
    model, scheme, machine = (
        catalog.load_model(record["model"]), catalog.load_scheme(record["quant"]), machine_for(record),
    )  # fmt: skip
    options = dict(record["options"])
    chosen = not options.keys() & {"n_gpu_layers", "n_cpu_moe", "cpu_moe", "override_tensor"}
    if chosen and machine.gpus[0].kind == "gpu":
        options["n_gpu_layers"] = "fit"
    context, requests = record["context"], record.get("requests", 1)
    workload = Workload(context, requests, options=options)
    refused = engines.refusal(profile, scheme, machine, workload, model)
    if refused:
        raise ValueError(f"{record['id']}: {refused}")
    case = verdict.case_of(model, scheme, profile, machine, workload)
    found = verdict.verdict_of(case, context, requests)
    entries = case.ledgers(context, requests)
    shares = [entry.layers for entry in entries if entry.id != "host" and entry.layers is not None]
    on_cards = sum(share.repeating + share.output for share in shares)
    experts = sum(share.experts or 0 for share in shares) if model.is_moe else model.layers
    all_there = on_cards == model.layers + 1 and experts == model.layers and not options.get("no_kv_offload")
    if found not in ("fits", "tight"):
        return "failed", found, on_cards
    return ("full" if all_there else "partial"), found, on_cards


def measure() -> list[tuple[dict[str, Any], str, str, int, bool]]:
    """(record, answer, verdict, layers, whether the answer is what happened) of every scored run."""
    rows = []
    for record in records():
        if "apart" in record:
            continue
        said, found, layers = answer(record)
        hit = said == record["happened"]
        if hit and said == "partial" and "layers" in record:
            hit = abs(layers - record["layers"]) <= LAYERS_OFF
        rows.append((record, said, found, layers, hit))
    return rows


def published() -> Iterator[tuple[dict[str, str], int, float]]:
    """(row, fitcalc's bytes, the published figure in bytes) of other people's tables."""
    lines = (line for line in PUBLISHED.read_text().splitlines(keepends=True) if not line.startswith("#"))
    for row in csv.DictReader(lines):
        model, scheme = catalog.load_model(row["model"]), catalog.load_scheme(row["quant"])
        if row["what"] == "file":
            size = checkpoint_bytes(model, scheme, gguf=True, imatrix=scheme.needs_imatrix)
        else:
            kinds = row["kv"].split("/")
            workload = Workload(int(row["context"]), options={"type_k": kinds[0], "type_v": kinds[1]})
            machine = machine_of(["80GB"], None, AMPLE_RAM, None)
            plan = llama_cpp.prepare(model, scheme, machine, workload, catalog.load_engine("llama.cpp"))
            size = llama_cpp.kv_cache_bytes(plan, int(row["context"]), 1)
        yield row, size, float(row["value"]) * {"GB": 10**9, "GiB": GIB}[row["unit"]]


def tables() -> None:
    print("\npublished figures beside fitcalc's own")
    for row, size, told in published():
        unit = {"GB": 10**9, "GiB": GIB}[row["unit"]]
        print(
            f"  {row['basis']:8}{row['model']:17}{row['quant']:10}{row['what']:5}{row['kv']:10}"
            f"{row['value']:>6} {row['unit']:4} fitcalc {size / unit:8.3f}  {size / told - 1:+7.1%}  {row['reason']}"
        )


def main(verbose: bool) -> None:
    rows = measure()
    hits = sum(hit for *_, hit in rows)
    wrong = [record["id"] for record, _, found, _, _ in rows if record["happened"] == "failed" and found == "fits"]
    print(f"{hits} of {len(rows)} runs end as computed ({hits / len(rows):.1%}); failed runs called fits: {len(wrong)}")
    undecided = sum(not hit and found == "tight" for *_, found, _, hit in rows)
    print(f"of the misses, {undecided} were called tight: the estimate fits, its high end does not")
    for record, said, found, layers, hit in rows:
        if verbose or not hit:
            stated = f" {record['layers']} layers" if "layers" in record else ""
            print(f"  {'hit ' if hit else 'miss'} {record['id']}  {record['run']}")
            print(f"       {record['happened']}{stated}; computed {said} ({found}), {layers} layers on the cards")
            if not hit:
                print(f"       {record.get('reason', 'not explained')}")
    apart: dict[str, int] = {}
    for record in records():
        if "apart" in record:
            apart[record["apart"]] = apart.get(record["apart"], 0) + 1
    print("\nnot scored")
    for reason, count in sorted(apart.items(), key=lambda entry: -entry[1]):
        print(f"  {count:4}  {reason}")


if __name__ == "__main__":
    main("-v" in sys.argv)
    tables()
