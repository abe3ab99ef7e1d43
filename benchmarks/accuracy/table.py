"""The accuracy tables of the README: every kind of estimate against its measured records, as Markdown.

    python benchmarks/accuracy/table.py            print it
    python benchmarks/accuracy/table.py README.md  write it between the README's markers

`inside` is the share of records that fell within the printed interval. The other files of this folder print the same
comparisons with their outliers and what is known of each.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parent))

import engine_outcomes
import llama_cpp
import llama_outcomes
import other_servers
import serving
import speed

from fitcalc import catalog
from fitcalc.architectures.quant_config import checkpoint_quant
from fitcalc.quantization import checkpoint_bytes, weights_bytes
from fitcalc.units import GIB

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
BEGIN, END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"
HEADERS = ["what", "held against", "n", "median", "p90", "worst", "inside"]
Row = list[str]


def golden(name: str) -> list[dict[str, str]]:
    with open(GOLDEN / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def row(what: str, against: str, errors: Iterable[float], *, unit: str = "%", inside: float | None = None) -> Row:
    """One line from signed errors (fractions, or GiB)."""
    sizes = sorted(abs(error) * (100 if unit == "%" else 1) for error in errors)
    p90 = sizes[min(len(sizes) - 1, math.ceil(0.9 * len(sizes)) - 1)]
    figures = [f"{value:.2f} {unit}" for value in (median(sizes), p90, sizes[-1])]
    return [what, against, f"{len(sizes):,}", *figures, "" if inside is None else f"{inside:.0%}"]


def parameters() -> Iterator[Row]:
    """Counts of the inventories against counts that were not made by fitcalc."""
    counted = [entry for entry in golden("parameter_counts.csv") if entry["params_total"]]
    models = ((catalog.load_model(entry["slug"]), int(entry["params_total"])) for entry in counted)
    errors = [(model.params_total or model.published_params or 0) / truth - 1 for model, truth in models]
    yield row("parameters of a model", "classes on the meta device, published counts", errors)


def checkpoints() -> Iterator[Row]:
    """Sizes of published quantized checkpoints."""
    errors = []
    for entry in golden("checkpoint_sizes.csv"):
        model = catalog.load_model(entry["profile"])
        if entry["quantization_config"]:
            stated = {"quantization_config": json.loads(entry["quantization_config"])}
            model = replace(model, quant=checkpoint_quant(stated)[0])
        measure = checkpoint_bytes if entry["kind"] == "file" else weights_bytes
        errors.append(measure(model, catalog.load_scheme(entry["quant"])) / GIB / float(entry["gib"]) - 1)
    yield row("quantized safetensors checkpoints", "published file sizes", errors)
    count = len(golden("gguf_sizes.csv"))
    yield ["GGUF tensor bytes, by type", "llama-quantize's own dry run (a test, every row equal)", f"{count:,}",
           "0.00 %", "0.00 %", "0.00 %", ""]  # fmt: skip


def served() -> Iterator[Row]:
    """vLLM and Transformers against start-up logs and tables of runs."""
    found = serving.measure()
    names = (
        ("weights 16-bit", "vLLM, weights per GPU, 16 bit", "start-up logs"),
        ("weights quantized", "vLLM, weights per GPU, quantized", "start-up logs"),
        ("KV tokens from bytes", "vLLM, tokens in a KV pool of known bytes", "start-up logs"),
        ("activations vllm-0.19", "vLLM 0.17–0.19, activation peak", "start-up logs"),
        ("runtime vllm-0.19", "vLLM 0.17–0.19, memory outside torch", "start-up logs"),
        ("cuda_graphs vllm-0.19", "vLLM 0.17–0.19, CUDA graphs", "start-up logs"),
        ("end to end tokens", "vLLM, KV tokens from card and options alone", "start-up logs, all versions"),
        ("Transformers peak", "Transformers, peak of a run", "published tables"),
    )
    for key, what, against in names:
        entries = found[key]
        absolute = key.split()[0] in ("activations", "runtime", "cuda_graphs")
        scale = 1.0 if absolute else 0.01
        inside = sum(entry.inside for entry in entries) / len(entries)
        within = inside if absolute or key == "end to end tokens" else None
        errors = [entry.error * scale for entry in entries]
        yield row(what, against, errors, unit="GiB" if absolute else "%", inside=within)


def served_otherwise() -> Iterator[Row]:
    """SGLang against start-up logs."""
    found = other_servers.measure()
    names = (
        ("SGLang weights", "SGLang, weights per GPU"),
        ("SGLang tokens, settings known", "SGLang, KV tokens from card and options"),
    )
    for key, what in names:
        entries = found[key]
        inside = sum(entry.inside for entry in entries) / len(entries)
        yield row(what, "start-up logs", [entry.error / 100 for entry in entries], inside=inside)


def local() -> Iterator[Row]:
    """llama.cpp against its own projections and runs, and against users' logs."""
    exact, compute = llama_cpp.measure_buffers()
    for name, what in (("cache and state", "KV cache and state"), ("weights", "weights per device")):
        hits = exact[name]
        worst = "0.00 %" if all(hits) else f"{len(hits) - sum(hits)} differ"
        against = "its own buffers, byte by byte"
        yield [f"llama.cpp, {what}", against, f"{len(hits):,}", "0.00 %", "0.00 %", worst, ""]
    cards = compute["one card"] + compute["several cards"]
    cpu = compute["processor, real"] + compute["processor, sim_cpu"]
    part = compute["card, 10 layers"] + compute["card, 0 layers"]
    groups = ((cards, "compute buffer, GPU"), (cpu, "compute buffer, CPU"), (part, "compute buffer, layers in RAM"))
    for rows, what in groups:
        inside = sum(hit for _, hit, _ in rows) / len(rows)
        yield row(f"llama.cpp, {what}", "its own buffers", (error for error, _, _ in rows), inside=inside)
    logs = llama_cpp.measure_logs()
    for name in ("weights", "kv cache", "compute buffer"):
        yield row(f"llama.cpp, {name}", "users' start-up logs", (error for error, _ in logs[name]))


def memory_table() -> str:
    """Errors of counts, sizes and memory terms."""
    rows = [*parameters(), *checkpoints(), *served(), *served_otherwise(), *local()]
    align = ["left", "left", *["right"] * 5]
    return tabulate(rows, HEADERS, tablefmt="github", disable_numparse=True, colalign=align)


def outcomes() -> str:
    """Verdicts against what happened: how many runs, how many ended as computed, how many failures were called fits."""
    servers, runs = engine_outcomes.measure(), llama_outcomes.measure()
    failed = [entry for entry in servers if not entry.started]
    started = [entry for entry in servers if entry.started]
    kept = sum(entry.verdict in ("fits", "tight") for entry in started)
    refused = sum(entry.verdict == "does_not_fit" for entry in failed)
    promised = sum(entry.verdict == "fits" for entry in failed)
    hits = sum(hit for *_, hit in runs)
    broken = sum(record["happened"] == "failed" and found == "fits" for record, _, found, _, _ in runs)
    return (
        f"Verdicts: of {len(started)} starts of vLLM that worked, {kept} are called fits or tight; of {len(failed)} "
        f"that failed, {refused} do not fit and {promised or 'none'} is called fits. Of {len(runs)} runs of llama.cpp "
        f"and Ollama at home {hits} end as computed, and {broken or 'none'} that failed is called fits."
    )


def speed_table() -> str:
    """Errors of the speed model on records that its fit had not seen, beside a rule of thumb."""
    content = json.loads(speed.STORED.read_text(encoding="utf-8"))
    rows = [[name.strip(), count, error, rule] for name, count, error, _, rule in content["errors"]]
    headers = ["speed, on records not fitted", "n", "median / p90 %", "a rule of thumb"]
    align = ["left", *["right"] * 3]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=align)


def table() -> str:
    """All of it in Markdown."""
    return "\n\n".join((memory_table(), outcomes(), speed_table()))


def written(text: str) -> str:
    """A README with the table between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        readme = Path(sys.argv[1])
        readme.write_text(written(readme.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())
