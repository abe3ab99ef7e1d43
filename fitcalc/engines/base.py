"""What every engine module hands over: a prepared plan (what does not depend on context and concurrency) and ledgers.

An engine module defines
    prepare(model, scheme, machine, workload, profile) -> its own frozen Prepared
    ledgers(prepared, context_tokens, concurrency) -> tuple[DeviceLedger, ...]
    kv_cache_bytes(prepared, context_tokens, concurrency) -> int, one logical copy
    command(prepared, context_tokens, concurrency) -> the start command
`context_tokens` and `concurrency` may be integer arrays in the middle two: operators, least, most and ceil_div only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fitcalc.ledger import Term


@dataclass(frozen=True, slots=True)
class DeviceLedger:
    """The terms on one device. `capacity_bytes` is the driver's total, `usable_bytes` what a process can get."""

    id: str
    name: str
    rank: int
    capacity_bytes: int | None
    usable_bytes: int | None
    terms: tuple[Term, ...]
    decisive: bool = True
    """False where running out is not an answer: host RAM of unknown size that only carries overhead."""


@dataclass(frozen=True, slots=True)
class Pool:
    """How a paged engine counts its cache: bytes it has for KV on the tightest rank, and how many tokens that is."""

    kv_bytes: Any
    tokens: Any
    block_tokens: int
