"""Another division of the layers over several cards, where the one by free memory overruns a card."""

from __future__ import annotations

from functools import partial, reduce
from typing import Any

from fitcalc import ledger
from fitcalc.engines.base import Ask, DeviceLedger
from fitcalc.engines.llama_cpp_ledgers import on_cards
from fitcalc.engines.llama_cpp_plan import Prepared, relaid
from fitcalc.units import least, most

_PER_LAYER = ("weights", "kv_cache", "state")
_TRIES = 6
"""Single layers moved after the first division: layers of one model differ in size."""


def rebalanced(prepared: Prepared, ask: Ask) -> Prepared:
    """The plan with other shares where only those let it fit; the plan itself where they do not help.

    llama.cpp divides layers by free memory, and what a card holds beside layers (context, compute buffer, the output
    matrix) is not in that share.
    """
    if not _may_change(prepared):
        return prepared
    counts = list(ask(partial(_wanted_counts, prepared)))
    for _ in range(_TRIES if any(counts) else 0):
        found = _with_counts(prepared, counts)
        holds, has_room, tightest, roomiest = ask(partial(_extremes, found))
        if holds:
            return found
        if not has_room or counts[tightest] <= 1:
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


def _room(entry: DeviceLedger) -> Any:
    """What is left on a card."""
    return (entry.usable_bytes or 0) - ledger.total_bytes(entry.terms)


def _extremes(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[Any, Any, Any, Any]:
    """(whether no card is overrun, whether one has room, the card with the least room, the one with the most).

    The first of equal cards; the rest is 0 where none is overrun.
    """
    first, *others = (_room(entry) for entry in on_cards(prepared, context_tokens, concurrency))
    tightest, roomiest, low, high = 0, 0, first, first
    for card, room in enumerate(others, 1):
        tightest, low = tightest + (card - tightest) * (room < low), least(low, room)
        roomiest, high = roomiest + (card - roomiest) * (room > high), most(high, room)
    is_overrun = low < 0
    return low >= 0, (high > 0) * is_overrun, tightest * is_overrun, roomiest * is_overrun


def _wanted_counts(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[Any, ...]:
    """Layers for every card in proportion to its room for them.

    None where the plan overruns no card, or where all together have too little room.
    """
    layers = prepared.model.layers
    entries = on_cards(prepared, context_tokens, concurrency)
    variable = [
        sum(term.bytes for term in entry.terms if term.name in _PER_LAYER) - share.head_bytes
        for entry, share in zip(entries, prepared.cards, strict=True)
    ]
    left = [_room(entry) for entry in entries]
    rooms = [most(room + size, 0) for room, size in zip(left, variable, strict=True)]
    is_wanted = (reduce(least, left) < 0) * (sum(rooms) >= sum(variable))
    whole = most(sum(rooms), 1)
    rests = [layers * room % whole for room in rooms]
    over = layers - sum(layers * room // whole for room in rooms)
    # What rounding down leaves goes to the cards with the largest remainders, to the first of equals.
    places = [
        sum((other > rest) | ((other == rest) & (rank < card)) for rank, other in enumerate(rests))
        for card, rest in enumerate(rests)
    ]
    return tuple(
        (layers * room // whole + (place < over)) * is_wanted for room, place in zip(rooms, places, strict=True)
    )


def _with_counts(prepared: Prepared, counts: list[int]) -> Prepared:
    """The output goes behind the last layers."""
    last = max(rank for rank, count in enumerate(counts) if count)
    shares = tuple(float(count + (rank == last)) for rank, count in enumerate(counts))
    return relaid(prepared, prepared.model.layers + 1, prepared.rules.cpu_expert_layers, shares)
