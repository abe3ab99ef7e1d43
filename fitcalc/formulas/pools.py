"""KV pools of servers that claim a share of a card: what is left for the pool, and how two pools divide it."""

from __future__ import annotations

from typing import Any

from fitcalc.formulas import formula
from fitcalc.units import ceil_div, least, most


@formula("alone_bytes + ranks * rank_bytes")
def context_bytes(*, alone_bytes: Any, ranks: Any, rank_bytes: Any) -> Any:
    """What a process takes of a card before loading: the driver's context, and communicators with every rank."""
    return alone_bytes + ranks * rank_bytes


@formula("available_bytes * fraction_e4 // 10000")
def claimed_bytes(*, available_bytes: Any, fraction_e4: Any) -> Any:
    """The share of what is free that a server claims; the fraction in ten-thousandths."""
    return available_bytes * fraction_e4 // 10000


@formula("most(0, available_bytes - claimed_bytes - inside_bytes) + idle_bytes")
def kept_back(*, available_bytes: Any, claimed_bytes: Any, inside_bytes: Any, idle_bytes: Any) -> Any:
    """What a server keeps back of a card, less what runs inside it, and the part of its pool that it cannot use."""
    return most(0, available_bytes - claimed_bytes - inside_bytes) + idle_bytes


@formula("requests * (context_tokens + extra_tokens) * 4")
def slot_table_bytes(*, requests: Any, context_tokens: Any, extra_tokens: Any) -> Any:
    """The table from requests to cache slots: a 32-bit index for every token that any request may hold."""
    return requests * (context_tokens + extra_tokens) * 4


@formula("most(context_tokens, ceil_div(10000 * least(context_tokens, window_tokens + extra_tokens), ratio_e4))")
def windowed_tokens(*, context_tokens: Any, window_tokens: Any, extra_tokens: Any, ratio_e4: Any) -> Any:
    """Tokens of the full pool that one request needs, where the windowed layers' pool is a set share of it."""
    held = least(context_tokens, window_tokens + extra_tokens)
    return most(context_tokens, ceil_div(10000 * held, ratio_e4))


@formula("full_bytes + ratio_e4 * window_bytes // 10000")
def token_bytes(*, full_bytes: Any, window_bytes: Any, ratio_e4: Any) -> Any:
    """Bytes of one token of the pool: all full layers, and the windowed layers' share."""
    return full_bytes + ratio_e4 * window_bytes // 10000


@formula("requests * ceil_div(tokens, page_tokens) * page_tokens * cell_bytes")
def cell_pool_bytes(*, requests: Any, tokens: Any, page_tokens: Any, cell_bytes: Any) -> Any:
    """Bytes that requests take of a pool of cells, each in whole pages."""
    return requests * ceil_div(tokens, page_tokens) * page_tokens * cell_bytes


@formula("(requests * slots + 1) * state_bytes")
def state_pool_bytes(*, requests: Any, slots: Any, state_bytes: Any) -> Any:
    """Recurrent state: several slots per request, for the running state and for reuse of prefixes, and one spare."""
    return (requests * slots + 1) * state_bytes


@formula(
    "most(0, ceil_div(kv_bytes * ratio_e4, 10000) - state_bytes)"
    " + most(0, ceil_div(state_bytes * 10000, ratio_e4) - kv_bytes)"
)
def idle_share(*, kv_bytes: Any, state_bytes: Any, ratio_e4: Any) -> Any:
    """What stays idle when the state pool is a set share of the KV pool and one of the two is needed more."""
    short_state = most(0, ceil_div(kv_bytes * ratio_e4, 10000) - state_bytes)
    short_cache = most(0, ceil_div(state_bytes * 10000, ratio_e4) - kv_bytes)
    return short_state + short_cache


@formula("most(0, available_bytes - spent_bytes) * fraction_e4 // 10000")
def share_of_free(*, available_bytes: Any, spent_bytes: Any, fraction_e4: Any) -> Any:
    """The pool of a server that takes a share of what is free after loading and a trial run."""
    return most(0, available_bytes - spent_bytes) * fraction_e4 // 10000
