"""Layers placed by an estimate made before loading, as Ollama did until its engine measured: how many go to each card.

Every card sets aside a minimum, one layer as a margin and an estimated graph; layers go round the cards until they are
full. The estimate is not what is allocated afterwards, so a plan made with it may leave room or run out of memory.
Source: llm/memory.go of ollama/ollama, versions of July 2024 and May 2025.
"""

from __future__ import annotations

from typing import Any

from fitcalc.engines.llama_cpp_layout import Share
from fitcalc.engines.llama_cpp_settings import Settings, Shape
from fitcalc.units import least, most

_Q6_K_BYTES = (105, 128)
"""Bytes per element of the output matrix, taken as Q6_K."""


def layers_per_card(
    whole: Share,
    free_bytes: tuple[int, ...],
    shape: Shape,
    settings: Settings,
    facts: dict[str, int],
    tower_bytes: int,
    rules: dict[str, Any],
) -> tuple[Any, ...]:
    """Layers on each card, the output counted as one. `whole` is the model on one device, `facts` its widths."""
    cache = shape.streams * (shape.cells * whole.cell_bytes + shape.window_cells * whole.window_cell_bytes)
    weights = (whole.weights_bytes - whole.head_bytes) // whole.layers
    layer = weights + cache // whole.layers
    partial, full = graph_bytes(facts, cache, shape, settings, known=bool(facts["known"]))
    graph = partial if len(free_bytes) > 1 else most(partial, full)
    return filled(layer, graph, whole.layers, whole.head_bytes, free_bytes, tower_bytes, rules["card_minimum"])


def filled(
    layer: Any, graph: Any, layers: int, head_bytes: int, free_bytes: tuple[int, ...], tower_bytes: int, minimum: int
) -> tuple[Any, ...]:
    """Layers on each card, where one takes `layer` bytes and the graph `graph`; numbers and arrays alike.

    Layers and, last, the output go round the cards that are open; a card that has no room for one leaves the round.
    """
    is_open, used, counts = [], [], [0 * layer for _ in free_bytes]
    towers: Any = tower_bytes
    for free in free_bytes:
        taken = towers + graph + minimum + layer
        is_open.append(free >= taken + layer)
        used.append(taken)
        towers = towers * (1 - is_open[-1])  # they lie on the first card that opens
    for number in range(layers + 1):
        size, waiting = layer if number < layers else head_bytes, True
        for _ in free_bytes:
            place, before = number % most(sum(is_open), 1), 0
            for card, free in enumerate(free_bytes):
                turn = waiting & is_open[card] & (before == place)
                before = before + is_open[card]
                fits = turn & (free > used[card] + size)
                used[card], counts[card] = used[card] + fits * size, counts[card] + fits
                # `>` of truths: the first without the second.
                is_open[card], waiting = is_open[card] > (turn > fits), waiting > fits
            if not _is_any(waiting):
                break
        if not any(map(_is_any, is_open)):
            break
    return tuple(counts)


def _is_any(truths: Any) -> bool:
    return bool(truths.any() if hasattr(truths, "any") else truths)


def graph_bytes(
    facts: dict[str, int], cache_bytes: Any, shape: Shape, settings: Settings, *, known: bool
) -> tuple[Any, Any]:
    """(partly, fully on cards) the estimated graph; without a formula a sixth of the cache per query group."""
    batch, context = least(settings.batch, shape.cells), shape.cells
    hidden, vocab, heads = facts["hidden"], facts["vocab"], facts["heads"]
    if not known:
        shared = heads // max(facts["kv_heads"], 1) * cache_bytes // 6
        return shared, shared
    attention = 4 * batch * (1 + 2 * hidden + context * (1 + heads))
    numerator, denominator = _Q6_K_BYTES
    head = hidden * vocab * numerator // denominator
    logits = 4 * batch * (hidden + vocab)
    return most(logits + head, attention + 4 * hidden * context), most(logits, attention + 8 * batch * hidden)
