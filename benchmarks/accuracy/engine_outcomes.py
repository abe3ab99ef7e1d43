"""Verdicts against starts and failed starts of server engines on many cards.

Run: python benchmarks/accuracy/engine_outcomes.py [-v]
Each record of records/engine_outcomes.jsonl is one start with its settings and what came of it. Records with `apart`
(a draft model, a forked engine, a card that is not named, memory that ran out later …) are counted by that reason and
not scored. `version_judged` is the version that the log's format or date speaks for; without any, the newest profile
holds. `total_gib` replaces the card's own total where the log states it or a slice of the card was used.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fitcalc import catalog, engines, verdict
from fitcalc.spec.hardware import Machine
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB

sys.path.insert(0, str(Path(__file__).parent))
import serving

RECORDS = Path(__file__).parent / "records" / "engine_outcomes.jsonl"
WORKED = "started"
OPTIONS = (*serving.OPTIONS, "language_model_only")


class Outcome(NamedTuple):
    """One start: the verdict on it, and the length that would still start beside the one the engine named."""

    record: dict[str, Any]
    verdict: str
    started: bool
    longest_tokens: int | None
    stated_tokens: int | None


def records() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORDS.read_text().splitlines()]


def case_of(record: dict[str, Any]) -> verdict.Case:
    """The start as fitcalc sees it."""
    version = record.get("version") or record.get("version_judged")
    profile = catalog.load_engine(serving.engine_id({"version": version}) if version else "vllm")
    card = catalog.load_device(record["card"])
    total = round(record.get("gpu_total_gib", 0) * GIB)
    if total:
        card = replace(card, memory_bytes=total, usable_bytes=total)
    ranks, stages = record.get("tensor_parallel") or 1, record.get("pipeline_parallel") or 1
    options = {name: record[name] for name in OPTIONS if record.get(name) is not None}
    kv_dtype = serving.KV_TYPES.get(record.get("kv_dtype", "auto"), "")
    model, scheme = catalog.load_model(record["model"]), catalog.load_scheme(record["quant"])
    work = Workload(record.get("max_model_len") or model.max_context_tokens, 1, kv_dtype, ranks, stages, options)
    machine = Machine((card,) * (ranks * stages))
    reason = engines.refusal(profile, scheme, machine, work, model)
    assert reason is None, f"{record['repo']}: {reason}"
    return verdict.case_of(model, scheme, profile, machine, work)


def outcome_of(record: dict[str, Any]) -> Outcome:
    case = case_of(record)
    answer = verdict.verdict_of(case, case.workload.context_tokens, 1)
    stated = record.get("kv_tokens_possible")
    longest = verdict.max_context_tokens(case, 1) if stated else None
    return Outcome(record, answer, record["outcome"] == WORKED, longest, stated)


def measure() -> tuple[Outcome, ...]:
    """Every record that states its model, card and settings."""
    return tuple(outcome_of(record) for record in records() if "apart" not in record)


def apart() -> Counter[str]:
    """Why the other records are not scored -> how many."""
    return Counter(record["apart"] for record in records() if "apart" in record)


def lines(found: tuple[Outcome, ...]) -> Iterator[str]:
    for started, name in ((False, "failed starts"), (True, "starts that worked")):
        answers = Counter(entry.verdict for entry in found if entry.started == started)
        total = sum(answers.values())
        shares = ", ".join(f"{word} {count} ({count / total:.0%})" for word, count in answers.most_common())
        yield f"{name:20} {total:3}  {shares}"
    for entry in found:
        if entry.stated_tokens and entry.longest_tokens is not None:
            error = 100 * (entry.longest_tokens / entry.stated_tokens - 1)
            stated = f"{entry.stated_tokens:,} stated, {entry.longest_tokens:,} estimated ({error:+.1f} %)"
            yield f"longest that starts      {entry.record['repo']}: {stated}"


def main() -> None:
    found = measure()
    print("\n".join(lines(found)))
    print(f"{'reported apart':20} {sum(apart().values()):3}")
    for reason, count in apart().most_common():
        print(f"    {count:3}  {reason}")
    for entry in found if "-v" in sys.argv else ():
        record = entry.record
        settings = f"{record.get('version', '')} {record['card']} tp{record.get('tensor_parallel', 1)}"
        length = record.get("max_model_len", "default length")
        print(f"    {entry.verdict:13} {record['outcome']:16} {record['repo'][:50]} {settings} {length}")


if __name__ == "__main__":
    main()
