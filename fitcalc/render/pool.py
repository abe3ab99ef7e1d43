"""The KV pool in one line: tokens, what they take of each card, and what one GiB more would add."""

from __future__ import annotations

from fitcalc.spec.report import FitReport
from fitcalc.units import format_gib


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
