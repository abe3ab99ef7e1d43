"""Another division of the layers over several cards, where the one by free memory overruns a card."""

from __future__ import annotations

from fitcalc import ledger
from fitcalc.engines.base import DeviceLedger
from fitcalc.engines.llama_cpp_ledgers import ledgers
from fitcalc.engines.llama_cpp_plan import Prepared, relaid

_PER_LAYER = ("weights", "kv_cache", "state")
_TRIES = 6
"""Single layers moved after the first division: layers of one model differ in size."""


def rebalanced(prepared: Prepared, context_tokens: int, concurrency: int) -> Prepared:
    """The plan with other shares where only those let it fit; the plan itself where they do not help.

    llama.cpp divides layers by free memory, and what a card holds beside layers (context, compute buffer, the output
    matrix) is not in that share.
    """
    if not _may_change(prepared):
        return prepared
    entries = _cards(prepared, context_tokens, concurrency)
    if _holds(entries):
        return prepared
    counts = _counts(prepared, entries)
    for _ in range(_TRIES if counts else 0):
        found = _with_counts(prepared, counts)
        entries = _cards(found, context_tokens, concurrency)
        if _holds(entries):
            return found
        rooms = [_room(entry) for entry in entries]
        tightest, roomiest = rooms.index(min(rooms)), rooms.index(max(rooms))
        if rooms[roomiest] <= 0 or counts[tightest] <= 1:
            break
        counts[tightest] -= 1
        counts[roomiest] += 1
    return prepared


def _may_change(prepared: Prepared) -> bool:
    """Layers go to several cards and nobody said in which shares."""
    options, names = prepared.workload.options, prepared.profile.constants
    return (
        len(prepared.cards) > 1
        and names["command"] == "llama-server"
        and not any(options["tensor_split"])
        and options["split_mode"] == "layer"
        and not prepared.uses_host
        and all(card.usable_bytes for card in prepared.machine.gpus)
    )


def _cards(prepared: Prepared, context_tokens: int, concurrency: int) -> tuple[DeviceLedger, ...]:
    return ledgers(prepared, context_tokens, concurrency)[: len(prepared.cards)]


def _room(entry: DeviceLedger) -> int:
    total: int = ledger.total_bytes(entry.terms)
    return (entry.usable_bytes or 0) - total


def _holds(entries: tuple[DeviceLedger, ...]) -> bool:
    return all(_room(entry) >= 0 for entry in entries)


def _counts(prepared: Prepared, entries: tuple[DeviceLedger, ...]) -> list[int]:
    """Layers for every card in proportion to its room for them; [] where all together have too little."""
    layers = prepared.model.layers
    variable = [
        sum(term.bytes for term in entry.terms if term.name in _PER_LAYER) - share.head_bytes
        for entry, share in zip(entries, prepared.cards, strict=True)
    ]
    rooms = [max(_room(entry) + size, 0) for entry, size in zip(entries, variable, strict=True)]
    if sum(rooms) < sum(variable):
        return []
    counts = [layers * room // sum(rooms) for room in rooms]
    for index in sorted(range(len(rooms)), key=lambda card: layers * rooms[card] % sum(rooms), reverse=True):
        if sum(counts) < layers:
            counts[index] += 1
    return counts


def _with_counts(prepared: Prepared, counts: list[int]) -> Prepared:
    """The output goes behind the last layers."""
    last = max(rank for rank, count in enumerate(counts) if count)
    shares = tuple(float(count + (rank == last)) for rank, count in enumerate(counts))
    return relaid(prepared, prepared.model.layers + 1, prepared.rules.cpu_expert_layers, shares)
