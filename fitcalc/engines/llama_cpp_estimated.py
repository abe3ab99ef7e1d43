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
    fixed = (whole.layers, whole.head_bytes, free_bytes, tower_bytes, rules["card_minimum"])
    if isinstance(layer, int):
        return _filled(layer, graph, *fixed)
    # Layers go round the cards one after another: of many points, each by itself.
    sizes = zip(layer.ravel().tolist(), (graph + 0 * layer).ravel().tolist(), strict=True)
    return tuple(zip(*(_filled(layer, graph, *fixed) for layer, graph in sizes), strict=True))


def _filled(
    layer: int, graph: int, layers: int, head_bytes: int, free_bytes: tuple[int, ...], tower_bytes: int, minimum: int
) -> tuple[int, ...]:
    """Layers on each card, where one takes `layer` bytes and the graph `graph`."""
    used: dict[int, int] = {}
    open_cards: list[int] = []
    for rank, free in enumerate(free_bytes):
        towers = 0 if open_cards else tower_bytes
        if free >= towers + graph + minimum + 2 * layer:
            open_cards.append(rank)
            used[rank] = towers + graph + minimum + layer
    counts = [0] * len(free_bytes)
    for number, size in enumerate([layer] * layers + [head_bytes]):
        while open_cards:
            rank = open_cards[number % len(open_cards)]
            if free_bytes[rank] > used[rank] + size:
                used[rank] += size
                counts[rank] += 1
                break
            open_cards.remove(rank)
    return tuple(counts)


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
