"""Figures of other people's tables for serving and 16-bit formats, beside fitcalc's own answers.

Run: python benchmarks/accuracy/published.py
Rows of tests/golden/published_serving.csv: exact ones are reproduced (a test holds them); for nominal figures, rules of
thumb and figures that are wrong the answer stands beside them with what is known of the difference.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import fitcalc
from fitcalc import catalog, verdict
from fitcalc.engines import transformers
from fitcalc.quantization import weights_bytes
from fitcalc.spec.hardware import Machine
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB, KIB, MIB

ROWS = Path(__file__).parents[2] / "tests" / "golden" / "published_serving.csv"
UNITS = {"GB": 10**9, "MB": 10**6, "GiB": GIB, "MiB": MIB, "KiB": KIB, "tokens of 12 GiB": 1}
EXACT = "exact"


class Answer(NamedTuple):
    """A published figure and fitcalc's, in the unit of the table; a verdict is 1 where it fits."""

    row: dict[str, str]
    published: float
    own: float

    @property
    def agrees(self) -> bool:
        """Equal within the row's allowance, or on the right side of a bound."""
        if self.row["check"] == "upper":
            return self.own <= self.published
        if self.row["check"] == "lower":
            return self.own >= self.published
        return abs(self.own / self.published - 1) <= float(self.row["allowance"])


def rows() -> list[dict[str, str]]:
    lines = ROWS.read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def case_of(row: dict[str, str]) -> verdict.Case:
    """The row's model under Transformers: a cache that grows as it is needed."""
    work = Workload(int(row["context"] or 1), int(row["requests"] or 1))
    model, scheme = catalog.load_model(row["model"]), catalog.load_scheme(row["quant"])
    machine = Machine((catalog.load_device("a100-80-sxm"),))
    return verdict.case_of(model, scheme, catalog.load_engine("transformers"), machine, work)


def cache_bytes(row: dict[str, str]) -> float:
    case = case_of(row)
    size = transformers.kv_cache_bytes(case.prepared, case.workload.context_tokens, case.workload.concurrency)
    return float(size) / (2 if row["kv"] == "int8" else 1)


def peak_bytes(row: dict[str, str]) -> float:
    """What PyTorch counts at its peak: weights, cache, activations and library workspaces."""
    case = case_of(row)
    entry = case.ledgers(case.workload.context_tokens, case.workload.concurrency)[0]
    held = sum(term.bytes for term in entry.terms if term.name in ("weights", "kv_cache", "activations"))
    return float(held + case.profile.constants["library_workspace"])


def own_bytes(row: dict[str, str]) -> float:
    model, scheme = catalog.load_model(row["model"]), catalog.load_scheme(row["quant"])
    match row["what"]:
        case "params":
            return model.params_total * scheme.weight.block_bytes / scheme.weight.block_elems
        case "weights":
            return weights_bytes(model, scheme)
        case "kv":
            return cache_bytes(row)
        case "kv+weights":
            return weights_bytes(model, scheme) + cache_bytes(row)
        case "peak":
            return peak_bytes(row)
        case "pool":
            return 12 * GIB / (cache_bytes({**row, "context": "1", "requests": "1"}))
    raise ValueError(f"row {row['id']}: {row['what']!r} is not known")


def answer_of(row: dict[str, str]) -> Answer:
    if row["what"] == "fits":
        report = fitcalc.fit(row["model"], gpu=row["value"], quant=row["quant"], context=int(row["context"]))
        return Answer(row, 1.0, float(report.verdict in ("fits", "tight")))
    return Answer(row, float(row["value"]), own_bytes(row) / UNITS[row["unit"]])


def measure() -> list[Answer]:
    """Every row with fitcalc's answer."""
    return [answer_of(row) for row in rows()]


def main() -> None:
    print(f"{'row':8} {'basis':9} {'what':10} {'model':24} {'quant':9} {'published':>10} {'fitcalc':>10}  {'':8} note")
    for row, published, own in measure():
        apart = f"{100 * (own / published - 1):+7.1f}%"
        figures = f"{published:10,.4g} {own:10,.4g}  {apart:8}"
        where = f"{row['what']:10} {row['model'][:24]:24} {row['quant']:9}"
        print(f"{row['id']:8} {row['basis']:9} {where} {figures} {row['unit']}; {row['reason']}".rstrip("; "))


if __name__ == "__main__":
    main()
