"""What does not fit on the cards goes to RAM: routed experts first, then whole layers.

Where things go depends on the context and the requests at hand, which are asked about and never taken by themselves, so
that a single answer and a sweep's many points go the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fitcalc import ledger
from fitcalc.engines.base import Ask, at
from fitcalc.engines.llama_cpp_ledgers import on_cards, tower_bytes
from fitcalc.engines.llama_cpp_plan import Prepared, architecture_of, relaid, shape_at
from fitcalc.engines.llama_cpp_split import rebalanced


def offloaded(prepared: Prepared, context_tokens: int, concurrency: int) -> Prepared | None:
    """The plan with as much on the cards as fits, the rest on the host; None where there is none."""
    return moved(prepared, at(context_tokens, concurrency))


def moved(prepared: Prepared, ask: Ask) -> Prepared | None:
    """The plan with as much on the cards as fits, the rest on the host; None where there is none."""
    if not prepared.cards or prepared.is_shared_memory or prepared.settings.gpu_layers_given:
        return None
    layers = prepared.model.layers
    if prepared.model.is_moe:
        experts = _fewest(lambda count: relaid(prepared, layers + 1, count), layers, ask)
        if experts is not None:
            return experts
    kept = layers if prepared.model.is_moe else 0
    return _fewest(lambda count: relaid(prepared, layers + 1 - count, kept), layers + 1, ask)


def _fits(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Any:
    """Even the high end is within every card."""
    found: Any = True
    for entry in on_cards(prepared, context_tokens, concurrency):
        found = found & (ledger.high_bytes(entry.terms) <= (-1 if entry.usable_bytes is None else entry.usable_bytes))
    return found


def _fewest(plan: Callable[[int], Prepared], most_moved: int, ask: Ask) -> Prepared | None:
    """The plan that moves the fewest layers, from 1 to `most_moved`, and fits on every card; None when none does."""

    def fits(count: int) -> bool:
        return bool(ask(partial(_fits, plan(count))))

    low, high = 0, most_moved
    if not fits(most_moved):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return plan(high)


def resolved(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Prepared:
    """The plan at one context and concurrency. Arrays are given plans whose layers are placed already."""
    return placed(prepared, at(context_tokens, concurrency)) if isinstance(context_tokens, int) else prepared


def placed(prepared: Prepared, ask: Ask) -> Prepared:
    """The plan with every layer in its place: with n_gpu_layers = fit, what does not fit on the cards is in RAM.

    Where the split by free memory overruns a card, another one is looked for first.
    """
    if prepared.profile.constants.get("estimates_layers"):
        return _as_estimated(prepared, ask)
    prepared = rebalanced(prepared, ask)
    if not prepared.settings.moves_what_does_not_fit:
        return prepared
    if ask(partial(_fits, prepared)):
        return prepared
    return moved(prepared, ask) or prepared


def _as_estimated(prepared: Prepared, ask: Ask) -> Prepared:
    """The plan of an engine that places layers by an estimate of its own; nothing changes where a number is given."""
    if prepared.settings.gpu_layers_given or not prepared.cards or prepared.is_shared_memory:
        return prepared
    counts = ask(partial(_estimated_counts, prepared))
    return relaid(prepared, sum(counts), 0, shares=tuple(float(count) for count in counts) if any(counts) else ())


def _estimated_counts(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[Any, ...]:
    """Layers on each card by the engine's estimate."""
    from fitcalc.engines.llama_cpp_estimated import layers_per_card

    model, rules = prepared.model, prepared.profile.constants["estimates_layers"]
    used = prepared.machine.gpu_used_bytes
    return layers_per_card(
        relaid(prepared, model.layers + 1, 0, shares=(1.0,) + (0.0,) * (len(prepared.cards) - 1)).cards[0],
        tuple((card.usable_bytes or 0) - used for card in prepared.machine.gpus),
        shape_at(prepared, context_tokens, concurrency),
        prepared.settings,
        {
            "hidden": model.hidden,
            "vocab": model.vocab,
            "heads": model.heads,
            "kv_heads": model.kv_heads,
            "known": architecture_of(model, prepared.scheme) in rules["known_architectures"],
        },
        tower_bytes(prepared),
        rules,
    )


def offload_summary(prepared: Prepared) -> str:
    """What is on the cards and what in RAM, in words; '' where everything is on the cards."""
    layers, cards = prepared.model.layers, prepared.cards
    if not prepared.uses_host:
        return ""
    on_cards = sum(share.layers + share.has_output for share in cards)
    place = "the card" if len(cards) == 1 else "the cards"
    if prepared.rules.cpu_expert_layers and on_cards == layers + 1:
        return (
            f"experts of {min(prepared.rules.cpu_expert_layers, layers)} of {layers} layers in RAM, the rest on {place}"
        )
    if prepared.rules.overrides:
        return f"{on_cards} of {layers + 1} layers on {place}, what override_tensor names elsewhere"
    if on_cards == layers + 1:
        return f"the KV cache in RAM, the rest on {place}"
    return f"{on_cards} of {layers + 1} layers on {place}, the rest in RAM"
