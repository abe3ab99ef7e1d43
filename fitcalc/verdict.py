"""One question, one answer: the ledgers of a plan held against capacity, and how far it could be stretched.

A Case is everything that is fixed once model, scheme, engine, machine and options are chosen; context and
concurrency are put in afterwards, so that limits are sought with the engine's own formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fitcalc import engines, ledger
from fitcalc.engines.base import DeviceLedger, kv_block, most_requests
from fitcalc.frozen import dataclass
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Machine
from fitcalc.spec.model import CacheLayer, ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.report import DeviceReport, KvPool, Limits, Verdict
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB, least

if TYPE_CHECKING:
    from fitcalc.engines.contract import Engine

CONTEXT_CEILING_TOKENS = 2**20
"""Where the search for the largest context stops for models without a limit of their own."""
CONCURRENCY_CEILING = 2**16
_ORDER: tuple[Verdict, ...] = ("does_not_fit", "unknown", "tight", "fits")


@dataclass(frozen=True, slots=True)
class Case:
    """A plan that is settled but for context and concurrency. `prepared` belongs to the engine's module."""

    model: ModelSpec
    scheme: Scheme
    profile: EngineProfile
    machine: Machine
    workload: Workload
    engine: Engine
    prepared: Any

    def ledgers(self, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
        """The terms of every device at this context and concurrency."""
        result: tuple[DeviceLedger, ...] = self.engine.ledgers(self.prepared, context_tokens, concurrency)
        return result

    def deciding(self, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
        """Those on which the answer depends; an engine may leave the others uncomputed."""
        found = getattr(self.engine, "deciding", self.engine.ledgers)
        return tuple(entry for entry in found(self.prepared, context_tokens, concurrency) if entry.decisive)


def case_of(model: ModelSpec, scheme: Scheme, profile: EngineProfile, machine: Machine, workload: Workload) -> Case:
    """Prepare a plan with the engine's module; the engine must have accepted the combination (engines.refusal)."""
    module = engines.load(profile)
    prepared = module.prepare(model, scheme, machine, workload, profile)
    return Case(model, scheme, profile, machine, workload, module, prepared)


def device_verdict(entry: DeviceLedger) -> Verdict:
    """The answer of one device: high end within what a process can get, estimate within, or not."""
    if not entry.decisive:
        return "fits"
    usable = entry.usable_bytes
    if usable is None:
        return "unknown"
    if ledger.high_bytes(entry.terms) <= usable:
        return "fits"
    undecided = any(term.basis == "unknown" for term in entry.terms)
    if (ledger.low_bytes if undecided else ledger.total_bytes)(entry.terms) > usable:
        return "does_not_fit"
    return "unknown" if undecided else "tight"


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of the whole: the worst of its devices."""
    return min(verdicts, key=_ORDER.index)


def verdict_of(case: Case, context_tokens: int, concurrency: int) -> Verdict:
    """The answer for the whole plan: 'unknown' where what the model leaves open has no bound, or where the two ends of
    its range answer differently; an upper end that fits, fits.
    """
    found = worst([device_verdict(entry) for entry in case.deciding(context_tokens, concurrency)])
    least = case.model.at_least
    if least is None:
        return "unknown" if case.model.unknowns and found != "does_not_fit" else found
    if found != "does_not_fit":
        return found
    # The upper bound does not fit: it is decided only where the lower one does not fit either.
    smallest = case_of(least, case.scheme, case.profile, case.machine, case.workload)
    return found if verdict_of(smallest, context_tokens, concurrency) == "does_not_fit" else "unknown"


def excess_bytes(case: Case, context_tokens: int, concurrency: int) -> int:
    """By how much the estimate exceeds the device that runs out first; 0 or less where it stays within all that decide
    (verdict fits or tight). A device of unknown size holds nothing.
    """
    found = [
        ledger.total_bytes(entry.terms) - (entry.usable_bytes or 0)
        for entry in case.deciding(context_tokens, concurrency)
    ]
    return max(found, default=0)


def largest(accepts: Callable[[int], bool], ceiling: int) -> int:
    """Largest number from 0 to `ceiling` that a monotone test accepts; 0 when it refuses 1."""
    if accepts(ceiling):
        return ceiling
    low, high = 0, ceiling
    while high - low > 1:
        middle = (low + high) // 2
        if accepts(middle):
            low = middle
        else:
            high = middle
    return low


def crossing(excess: Callable[[int], int], ceiling: int) -> int:
    """`largest` for a test that a growing number stays at 0 or below, in fewer questions: most of these numbers grow
    along a line, so that the next question is asked where the line would cross, and in the middle where that did not
    halve what is left.
    """
    above = excess(ceiling)
    if above <= 0:
        return ceiling
    below = excess(1) if ceiling > 1 else above
    if below > 0:
        return 0
    low, high, halved = 1, ceiling, True
    while high - low > 1:
        along = low + (high - low) * -below // (above - below)
        asked = min(max(along, low + 1), high - 1) if halved else (low + high) // 2
        width, found = high - low, excess(asked)
        if found <= 0:
            low, below = asked, found
        else:
            high, above = asked, found
        halved = 2 * (high - low) <= width
    return low


def max_context_tokens(case: Case, concurrency: int) -> int:
    """Largest context per request that fits at this concurrency, within the model's own limit; 0 for none."""
    ceiling = case.model.max_context_tokens or CONTEXT_CEILING_TOKENS
    return crossing(lambda tokens: excess_bytes(case, tokens, concurrency), ceiling)


def max_concurrency(case: Case, context_tokens: int) -> int:
    """Largest number of requests at this context that fits together; 0 for none."""
    ceiling = most_requests(case.profile) or CONCURRENCY_CEILING
    return crossing(lambda requests: excess_bytes(case, context_tokens, requests), ceiling)


def limits_of(case: Case, context_tokens: int, concurrency: int) -> Limits:
    """How far the plan could be stretched; None where a decisive capacity is unknown."""
    entries = case.ledgers(context_tokens, concurrency)
    if case.model.is_unbounded or any(entry.decisive and entry.usable_bytes is None for entry in entries):
        return Limits(None, None, None)
    pool = case.engine.pool(case.prepared, context_tokens, concurrency)
    return Limits(
        max_context_tokens=max_context_tokens(case, concurrency) if case.model.cache_layers else None,
        max_concurrency=max_concurrency(case, context_tokens),
        kv_cache_tokens=None if pool is None else int(pool.tokens),
    )


def pool_of(case: Case, context_tokens: int, concurrency: int) -> KvPool | None:
    """The pool that is left when all else is paid, and what a GiB of it holds; None where there is none."""
    found = case.engine.pool(case.prepared, context_tokens, concurrency)
    if found is None:
        return None
    size, tokens = int(found.kv_bytes), int(found.tokens)
    return KvPool(size, tokens, found.block_tokens, tokens * GIB // size if size else 0)


def growing_elems(layer: CacheLayer, context_tokens: int) -> int:
    """Elements that one more token of context adds over the layers of one kind; 0 once a window is full."""
    if layer.kind in ("recurrent", "cross"):
        return 0
    if layer.kind in ("sliding", "chunked") and context_tokens >= layer.window_tokens:
        return 0
    return layer.elems_per_token * len(layer.layers) // layer.compression


def kv_bytes_per_token(case: Case, context_tokens: int) -> int:
    """Bytes that one more token of context costs, one logical copy, in the plan's KV type."""
    block_elems, block_bytes = kv_block(case.profile, case.workload.kv_dtype)
    elems = sum(growing_elems(layer, context_tokens) for layer in case.model.cache_layers)
    return elems * block_bytes // block_elems


def device_report(entry: DeviceLedger) -> DeviceReport:
    """The ledger of a device in the shape of the contract."""
    total = ledger.total_bytes(entry.terms)
    return DeviceReport(
        id=entry.id,
        name=entry.name,
        rank=entry.rank,
        capacity_bytes=entry.capacity_bytes,
        usable_bytes=entry.usable_bytes,
        total_bytes=total,
        low_bytes=ledger.low_bytes(entry.terms),
        high_bytes=ledger.high_bytes(entry.terms),
        headroom_bytes=None if entry.usable_bytes is None else entry.usable_bytes - total,
        decisive=entry.decisive,
        terms=entry.terms,
        layers=entry.layers,
    )


def tightest_headroom(entries: Sequence[DeviceLedger]) -> int | None:
    """Headroom of the device that runs out first; None when a decisive capacity is unknown."""
    rooms = [
        None if entry.usable_bytes is None else entry.usable_bytes - ledger.total_bytes(entry.terms)
        for entry in entries
        if entry.decisive
    ]
    known = [room for room in rooms if room is not None]
    return min(known) if known and len(known) == len(rooms) else None


def default_context(model: ModelSpec, asked: int | None) -> int:
    """The context asked for, else 8192 or the model's own limit if that is smaller."""
    if asked is not None:
        return asked
    return int(least(8192, model.max_context_tokens or 8192))
