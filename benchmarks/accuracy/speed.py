"""Speeds on records that the fit has not seen: errors beside simple rules, and how often the truth was in the interval.

Run: python benchmarks/accuracy/speed.py [-v | --markdown]
--markdown prints the figures that the last fit has stored, at once; otherwise all is fitted and predicted anew.
All rows of a source, device and model are on one side of a split; 60 % of these groups fit, the others are predicted;
five seeds, pooled. Intervals are earned on other groups than the one they are tried on.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import fit_speed
from speed_records import Sample, finite_log, samples, truths

from fitcalc.speeds.steps import Parameters

SEEDS = (11, 12, 13, 14, 15)
TRAINED = 0.6
QUANTITIES = {"token_s": "TPOT", "first_s": "TTFT"}


FAMILIES = ("llama_cpp", "mlx", "sglang", "tensorrt_llm", "transformers", "vllm")
INTERVALS = {"decode": "decode", "prefill": "prefill", "TPOT": "token", "TTFT": "first", "throughput": "total"}
ENOUGH = 20
ENOUGH_GROUPS = 8
"""Held-out predictions from which on a class has an interval of its own."""
COVERED = 0.86
"""Asked of the groups that are known, so that 80 % of those that are not are covered."""


class Miss(NamedTuple):
    """One prediction: log(predicted / measured)."""

    sample: Sample
    quantity: str
    error: float
    naive: float | None


def split(chosen: list[Sample], seed: int, group: Callable[[Sample], Any]) -> tuple[list[Sample], list[Sample]]:
    dice = random.Random(seed)
    side = {key: dice.random() < TRAINED for key in sorted({group(sample) for sample in chosen})}
    return [s for s in chosen if side[group(s)]], [s for s in chosen if not side[group(s)]]


def quantity_of(sample: Sample, name: str) -> str:
    if name in QUANTITIES:
        return QUANTITIES[name]
    return {"decode": "decode", "prefill": "prefill"}.get(sample.kind, "throughput")


def naive(sample: Sample, name: str) -> float | None:
    """What simple rules give: bandwidth / file bytes, FP16 peak / 2 parameters, requests × bandwidth / file bytes."""
    bandwidth = sample.device.bandwidth_bytes_per_s or 0
    if name != "tokens_per_s":
        return None
    if sample.kind == "prefill":
        return float(sample.rates.attention_flop_per_s / (2 * sample.work.fixed_elems or 1))
    rate = bandwidth * sample.division.ranks / sample.file_bytes
    return float(rate * min(sample.requests, 256) * sample.replicas) if sample.kind != "decode" else float(rate)


def predict(found: dict[Any, Any], tested: list[Sample]) -> Iterator[Miss]:
    parts: dict[Any, list[Sample]] = defaultdict(list)
    for sample in tested:
        if sample.kind in fit_speed.KINDS:
            parts[(sample.kind, sample.family, sample.device_class, sample.variant)].append(sample)
    for (kind, *_), same in sorted(parts.items(), key=lambda item: str(item[0])):
        values = fit_speed.parameters_for(found, same[0])
        a = fit_speed.arrays(same)
        for name, value in fit_speed.predicted(kind, a, Parameters(**values)).items():
            errors = finite_log(value) - a[name]
            for sample, error in zip(same, errors, strict=True):
                if not np.isnan(error):
                    rule = naive(sample, name)
                    truth = truths(sample)[name]
                    off = None if rule is None else float(np.log(max(rule, 1e-12) / truth))
                    yield Miss(sample, quantity_of(sample, name), float(error), off)


def offloaded(chosen: list[Sample]) -> Iterator[Miss]:
    """Plans partly in RAM: too few sources to split by dice, so each is predicted from all the others."""
    cards = fit_speed.fit([s for s in chosen if s.kind == "decode"])
    mine = [s for s in chosen if s.kind == "offload"]
    for source in sorted({s.group[0] for s in mine}):
        host = fit_speed.host_values([s for s in mine if s.group[0] != source], cards)
        for sample in (s for s in mine if s.group[0] == source):
            seconds = sum(fit_speed.offload_parts(sample, cards, host))
            truth = truths(sample)["tokens_per_s"]
            rule = (sample.device.bandwidth_bytes_per_s or 1) / sample.file_bytes
            yield Miss(sample, "offload", -float(np.log(seconds * truth)), float(np.log(rule / truth)))


def held_out(group: Callable[[Sample], Any], seeds: tuple[int, ...] = SEEDS) -> list[Miss]:
    chosen, _ = samples()
    misses: list[Miss] = []
    for seed in seeds:
        trained, tested = split(chosen, seed, group)
        misses += predict(fit_speed.fit(trained), tested)
    return [*misses, *offloaded(chosen)]


def percent(errors: list[float]) -> tuple[float, float]:
    sizes = np.sort(np.abs(np.expm1(errors))) * 100
    return float(np.median(sizes)), float(sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))])


def line(name: str, misses: list[Miss], target: str) -> list[str]:
    median, p90 = percent([miss.error for miss in misses])
    rules = [miss.naive for miss in misses if miss.naive is not None]
    beside = "{:.0f} / {:.0f}".format(*percent(rules)) if rules else "–"
    return [name, f"{len(misses):,}", f"{median:.1f} / {p90:.0f}", target, beside]


def coverage(misses: list[Miss]) -> list[list[str]]:
    """How often the truth was in a range earned on other groups, in every class of 50 predictions or more."""
    parts: dict[tuple[str, str], list[Miss]] = defaultdict(list)
    for miss in misses:
        parts[(miss.quantity, miss.sample.device_class)].append(miss)
    rows = []
    for (quantity, device_class), same in sorted(parts.items()):
        if len(same) < 50:
            continue
        inside = 0
        for group in {miss.sample.group for miss in same}:
            others = [miss for miss in same if miss.sample.group != group]
            if len({miss.sample.group for miss in others}) < ENOUGH_GROUPS:
                others = [miss for miss in misses if miss.quantity == quantity and miss.sample.group != group]
            low, high = factors([miss.error for miss in others])
            inside += sum(low <= np.exp(-m.error) <= high for m in same if m.sample.group == group)
        rows.append([f"{quantity}, {device_class}", f"{len(same):,}", f"{inside / len(same):.0%}"])
    return rows


def summary(misses: list[Miss]) -> list[list[str]]:
    """One row per quantity: name, n, median / p90 in percent, what to reach, a simple rule's."""

    def of(quantity: str, keep: Callable[[Sample], bool] = lambda _: True) -> list[Miss]:
        return [miss for miss in misses if miss.quantity == quantity and keep(miss.sample)]

    def local(s: Sample) -> bool:
        return s.family == "llama_cpp" and s.device_class == "nvidia-consumer" and s.record["counted"] != "client"

    return [
        line("decode, one request", of("decode"), "10 / 35"),
        line("  llama.cpp on GeForce", of("decode", local), "6 / 15"),
        line("prefill", of("prefill"), "20 / 70"),
        line("TPOT", of("TPOT"), "16 / 50"),
        line("TTFT", of("TTFT"), "35 / 80"),
        line("serving throughput", of("throughput"), "16 / 50"),
        line("decode, partly in RAM", of("offload"), "20 / 60"),
    ]


STORED = Path(__file__).parent / "records" / "speed_evaluation.json"
FITTED = Path(__file__).parents[2] / "profiles" / "speed"
HEADERS = ("quantity", "n", "median / p90 %", "to reach", "simple rule")


def digest() -> str:
    """Of the fitted parameters: tells whether a stored evaluation is of these."""
    text = b"".join(path.read_bytes() for path in sorted(FITTED.glob("*.toml")))
    return hashlib.sha256(text).hexdigest()


def store(misses: list[Miss]) -> None:
    """Keep the evaluation of a fit beside the records, because it takes minutes."""
    content = {"profiles": digest(), "errors": summary(misses), "coverage": coverage(misses)}
    STORED.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def markdown_rows() -> list[str]:
    """The stored errors on held-out records as rows of a Markdown table with the columns of HEADERS."""
    content = json.loads(STORED.read_text(encoding="utf-8"))
    return [f"| {' | '.join(cell.strip() for cell in row)} |" for row in content["errors"]]


def report(misses: list[Miss], verbose: bool) -> None:
    table = summary(misses)
    print(tabulate(coverage(misses), ["range of 80 %", "n", "inside"], disable_numparse=True), end="\n\n")
    headers = list(HEADERS)
    print(tabulate(table, headers, disable_numparse=True))
    if verbose:
        keys = sorted(
            {(m.quantity, m.sample.kind, m.sample.family, m.sample.device_class, m.sample.variant) for m in misses}
        )
        rows = []
        for key in keys:
            same = [
                m
                for m in misses
                if (m.quantity, m.sample.kind, m.sample.family, m.sample.device_class, m.sample.variant) == key
            ]
            rows.append([*line(" / ".join(key), same, ""), f"{np.median([m.error for m in same]):+.2f}"])
        print(tabulate(rows, [*headers, "bias"], disable_numparse=True))


def factors(errors: list[float]) -> tuple[float, float]:
    """(low, high) of measured / predicted that hold 80 % of the errors, with the correction for few of them."""
    ratios = np.sort(np.exp(-np.array(errors)))
    rest = (1 - COVERED) / 2 * (1 - 1 / max(len(ratios), 2))
    low, high = np.quantile(ratios, rest), np.quantile(ratios, 1 - rest)
    return min(float(low), 1.0), max(float(high), 1.0)


def intervals(seen: list[Miss], unseen: list[Miss]) -> dict[tuple[str, ...], tuple[float, float, int]]:
    """(quantity, family, class) -> (low, high, records): from groups, and for `unseen` from devices, held out."""
    found: dict[tuple[str, ...], tuple[float, float, int]] = {}
    for quantity, key in INTERVALS.items():
        mine = [m for m in seen if m.quantity == quantity]
        other = [m for m in unseen if m.quantity == quantity]
        pooled = factors([m.error for m in mine])
        far = factors([m.error for m in other])
        far = (min(far[0], pooled[0]), max(far[1], pooled[1]))
        for family in (*FAMILIES, "default"):
            found[(key, family, "unseen")] = (*far, len(other))
            own = [m for m in mine if m.sample.family == family]
            found[(key, family, "any")] = (
                *(factors([m.error for m in own]) if len(own) >= ENOUGH else pooled),
                len(own),
            )
            for device_class in sorted({m.sample.device_class for m in own}):
                same = [m for m in own if m.sample.device_class == device_class]
                if len(same) >= ENOUGH and len({m.sample.group for m in same}) >= ENOUGH_GROUPS:
                    found[(key, family, device_class)] = (*factors([m.error for m in same]), len(same))
    return found


if __name__ == "__main__":
    if "--markdown" in sys.argv:
        print("| " + " | ".join(HEADERS) + " |\n" + "| --- " * len(HEADERS) + "|")
        print("\n".join(markdown_rows()))
        sys.exit()
    report(held_out(lambda sample: sample.group), "-v" in sys.argv)
