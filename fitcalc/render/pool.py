"""The KV pool in one line: tokens, what they take of each card, what one GiB more would add; the words for ranks."""

from __future__ import annotations

from collections.abc import Sequence

from fitcalc.spec.report import FitReport
from fitcalc.units import format_gib

_MOST_RUNS = 3


def pool_text(report: FitReport) -> str:
    """'216,576 tokens in 26.4 GiB; each GiB more holds 8,192'; '' where the engine keeps no pool, or has none left."""
    pool = report.pool
    if pool is None or not pool.tokens:
        return ""
    cards = sum(device.decisive and device.id != "host" for device in report.devices)
    copies = report.inputs.get("data_parallel", 1)
    over = f" over {copies} data parallel ranks" if copies > 1 else ""
    each = " of each card" if cards > 1 else ""
    more = " a card" if cards > 1 else ""
    return (
        f"{pool.tokens:,} tokens of KV cache{over} in {format_gib(pool.bytes_per_card, 1)}{each}"
        f" · every GiB{more} holds {pool.tokens_per_gib:,}"
    )


def rank_words(ranks: Sequence[int]) -> str:
    """'rank 3', 'ranks 0–7', 'ranks 0–3, 8–11 …': at most three runs of neighbours."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    words = [f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    more = " …" if len(words) > _MOST_RUNS else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(words[:_MOST_RUNS])}{more}"
