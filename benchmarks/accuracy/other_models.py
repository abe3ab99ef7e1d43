"""Models that are no decoders: parameters, live tensors of a pass, and published memory, against fitcalc's figures.

Run: python benchmarks/accuracy/other_models.py [-v]
tests/golden/other_models.csv holds one figure a line. `ask`: the arguments of fitcalc.fit (a model id with #part for
the parameters of a part); `counted`: activations, weights, allocated (PyTorch's own count: no driver context, no
library workspaces) or total; `bound`: lower where fitcalc says that its figure is one, upper where the published
statement is one; `apart` says why a line is not scored.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import fitcalc
from fitcalc import catalog

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "other_models.csv"
UNITS = {"GiB": 2**30, "MB (MiB)": 2**20, "MB": 10**6, "GB": 10**9}
BINARY = ("GB as printed",)
"""Units printed as GB whose figures are computed with 2^30."""
ALLOCATED = ("weights", "kv_cache", "activations", "vision")


def rows() -> list[dict[str, str]]:
    with open(GOLDEN, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def truth(row: dict[str, str]) -> float:
    """The published figure, in bytes or parameters."""
    unit = row["unit"]
    factor = (
        1 if unit == "parameters" else UNITS["GiB"] if unit.startswith(BINARY) else UNITS[unit.partition(" (upper")[0]]
    )
    return float(row["value"]) * factor


def estimate(row: dict[str, str]) -> float:
    """fitcalc's figure for a line with an `ask`."""
    ask: dict[str, Any] = json.loads(row["ask"])
    if row["kind"] == "params":
        name, _, part = ask["model"].partition("#")
        return _params(name, part)
    report = fitcalc.fit(ask.pop("model"), **ask)
    terms = {term.name: term.bytes for term in report.devices[0].terms}
    if row["counted"] == "total":
        return sum(terms.values())
    if row["counted"] == "weights":
        return report.weights_bytes
    if row["counted"] == "activations":
        return terms["activations"]
    return sum(size for name, size in terms.items() if name in ALLOCATED)


def _params(name: str, part: str) -> int:
    """Parameters of a model, or of a part: by part of the inventory, by the start of their names, or the text model."""
    spec = catalog.load_model(name)
    tensors = [tensor for tensor in spec.tensors if not tensor.is_buffer]
    if not part:
        return spec.params_total
    if part == "language":
        return sum(t.elems for t in tensors if t.part in ("text", "encoder"))
    if part.endswith("."):
        return sum(t.elems for t in tensors if t.name.startswith(part))
    return sum(t.elems for t in tensors if t.part == part)


def scored() -> Iterator[tuple[dict[str, str], float]]:
    """Every line that has an answer, with its error as a fraction."""
    for row in rows():
        if row["ask"]:
            yield row, estimate(row) / truth(row) - 1


def is_scored(row: dict[str, str]) -> bool:
    return bool(row["ask"]) and not row["apart"] and not row["bound"]


def errors(kind: str) -> list[float]:
    """Errors of the lines of a kind that are scored."""
    return [error for row, error in scored() if row["kind"] == kind and is_scored(row)]


def main() -> None:
    for row in rows():
        figure = "" if not row["ask"] else f"{100 * (estimate(row) / truth(row) - 1):+8.2f} %"
        why = row["apart"] or {"lower": "a lower bound", "upper": "stated as an upper bound"}.get(row["bound"], "")
        if "-v" in sys.argv or row["kind"] == "published":
            name = f"{row['model']}, {row['item']}"
            print(f"{figure:>11}  {name[:56]:<56} {row['value']:>14} {row['unit'].split(' ')[0]:<11} {why}")
    for kind in ("params", "activation", "published"):
        sizes = sorted(abs(error) for error in errors(kind))
        print(f"{kind}: {len(sizes)} lines, median {100 * median(sizes):.2f} %, worst {100 * sizes[-1]:.2f} %")


if __name__ == "__main__":
    main()
