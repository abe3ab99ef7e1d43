"""How a paged server engine lays out its cache: kinds of layers in groups that draw blocks of one size from one pool.

All kinds of layers get pages of equal size (smaller ones take longer blocks or padding), kinds are cut into groups of
equally many layers, and one block of the pool holds one page for every layer of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fitcalc.formulas import state
from fitcalc.formulas.split import kv_heads_share, share
from fitcalc.frozen import dataclass, replace
from fitcalc.spec.model import CacheLayer
from fitcalc.units import KIB, ceil_div

_CROWDED_NUMERATOR, _CROWDED_DENOMINATOR = 3, 2
"""Kinds whose layer counts differ by less than 3/2 share groups of the larger count."""
_ELEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True, slots=True)
class Group:
    """Groups of one kind of layer: how many, and what a request takes of each. `window_tokens` 0 means none."""

    kind: str
    count: int
    layers: int
    block_tokens: int
    page_bytes: int
    window_tokens: int = 0
    state_blocks: int = 1


@dataclass(frozen=True, slots=True)
class Layout:
    """The pool of one rank: bytes of a block, the groups that draw blocks, and the attention block in tokens."""

    block_bytes: int
    block_tokens: int
    groups: tuple[Group, ...]

    @property
    def label(self) -> str:
        """The pool in words: '320 KiB per token, blocks of 16', or the groups of a hybrid model."""
        if len(self.groups) == 1 and self.groups[0].kind == "full":
            per_token = self.block_bytes / self.block_tokens / KIB
            return f"{per_token:,.5g} KiB per token, blocks of {self.block_tokens} tokens"
        kinds = ", ".join(f"{group.count} {group.kind}" for group in self.groups)
        return f"blocks of {self.block_bytes / KIB:,.5g} KiB; groups of layers: {kinds}"

    @property
    def has_attention(self) -> bool:
        """Some layers keep tokens."""
        return any(group.kind != "state" for group in self.groups)

    @property
    def has_state(self) -> bool:
        """Some layers keep a fixed state."""
        return any(group.kind == "state" for group in self.groups)


@dataclass(frozen=True, slots=True)
class CacheTypes:
    """Types and rules of the cache: the KV type as (elements, bytes), bytes of a convolution column's element, the
    engine's block, and whether it keeps less than the full context for layers with a window."""

    kv_elems: int
    kv_bytes: int
    conv_bytes: int
    block_tokens: int
    keeps_windows: bool = True
    index_scale_elems: int = 0
    """Elements of an indexer's keys per 4-byte scale, where the engine keeps them in 8 bit; 0: in the KV type."""
    state_blocks: int = 1
    """Blocks of recurrent state per request: one, and one for each token that is proposed ahead."""


def _kinds(layer: CacheLayer, layers: int, ranks: int, types: CacheTypes) -> list[Group]:
    """One layer kind on one rank, before pages are made equal (`count` is 1, `layers` those of this stage)."""
    block, heads = types.block_tokens, kv_heads_share(kv_heads=layer.kv_heads, ranks=ranks)

    def page(elems: int, compression: int = 1) -> int:
        size: int = state.page_bytes(
            block_tokens=block, elems_per_token=elems, block_bytes=types.kv_bytes, block_elems=types.kv_elems
        )
        return ceil_div(size, compression)  # type: ignore[no-any-return]

    if layer.kind == "recurrent":
        size = state.recurrent_bytes(
            layers=1,
            channels=share(elems=layer.conv_channels, ranks=ranks),
            kernel=max(layer.conv_kernel - 1, 0),
            conv_bytes=types.conv_bytes,
            state_elems=share(elems=layer.state_elems, ranks=ranks),
            state_bytes=_ELEM_BYTES.get(layer.state_dtype, 4),
            requests=1,
        )
        return [Group("state", 1, layers, block, size, state_blocks=types.state_blocks)]
    latent = layer.latent_elems
    if layer.kind == "compressed":
        window = [Group("sliding", 1, layers, block, page(latent), layer.window_tokens)] if layer.window_tokens else []
        # Latents and index keys lie in caches of their own, so that pages divide each other.
        full = [
            Group("full", 1, layers, block, page(elems, layer.compression)) for elems in (latent, layer.index_elems)
        ]
        return [*window, *_waiting(layer, layers, page(latent)), *full]
    if layer.kind == "mla":
        if types.index_scale_elems:
            keys = state.index_key_bytes(index_elems=layer.index_elems, scale_elems=types.index_scale_elems)
            return [Group("full", 1, layers, block, page(latent) + block * keys)]
        return [Group("full", 1, layers, block, page(latent + layer.index_elems))]
    size = page(heads * (layer.key_dim + layer.value_dim) + layer.index_elems)
    windowed = layer.kind in ("sliding", "chunked")
    if windowed and not types.keeps_windows:
        return [Group("full", 1, layers, block, size)]
    return [Group(layer.kind, 1, layers, block, size, layer.window_tokens)]


def _waiting(layer: CacheLayer, layers: int, page: int) -> list[Group]:
    """32-bit states of tokens that wait to be compressed, as a window of their own whose block fills a page."""
    if not layer.state_elems:
        return []
    # Layers with an index compress overlapping stretches: two of them wait.
    tokens = layer.compression * (2 if layer.index_elems else 1)
    each = ceil_div(layer.state_elems, tokens) * _ELEM_BYTES["fp32"]
    block = max(page // each, 1)
    return [Group("sliding", 1, layers, block, max(page, each), tokens)]


def _merged(groups: Sequence[Group]) -> list[Group]:
    """Groups that are alike but for their layers become one."""
    seen: dict[tuple[Any, ...], Group] = {}
    for group in groups:
        key = (group.kind, group.window_tokens, group.page_bytes, group.block_tokens)
        known = seen.get(key)
        seen[key] = group if known is None else replace(known, layers=known.layers + group.layers)
    return list(seen.values())


def _beside_state(groups: Sequence[Group], types: CacheTypes) -> list[Group]:
    """Attention blocks long enough to cover a state page; state pages padded up to the attention page."""
    states = [group for group in groups if group.kind == "state"]
    others = [group for group in groups if group.kind != "state"]
    if not states:
        return others
    page = max(group.page_bytes for group in states)
    if not others:
        return [replace(group, page_bytes=page) for group in states]
    per_token = ceil_div(max(group.page_bytes for group in others), types.block_tokens)
    block = max(
        types.block_tokens,
        state.covering_block_tokens(step_tokens=types.block_tokens, state_page_bytes=page, token_bytes=per_token),
    )
    longer = [
        replace(group, block_tokens=block, page_bytes=group.page_bytes * block // types.block_tokens)
        for group in others
    ]
    return [*longer, *(replace(group, page_bytes=max(g.page_bytes for g in longer)) for group in states)]


def _equal_pages(groups: Sequence[Group]) -> list[Group]:
    """Pages of equal size: a longer block by a whole ratio where it divides, padding where it does not."""
    page = max(group.page_bytes for group in groups)
    return [
        replace(
            group,
            page_bytes=page,
            block_tokens=group.block_tokens * (page // group.page_bytes if page % group.page_bytes == 0 else 1),
        )
        for group in groups
    ]


def group_layers(counts: Sequence[int]) -> int:
    """Layers in a group: the fewest of any kind, or the most where the kinds are about equally many."""
    fewest, most = min(counts), max(counts)
    return most if most * _CROWDED_DENOMINATOR < fewest * _CROWDED_NUMERATOR else fewest


def layout(cache_layers: Sequence[CacheLayer], counts: Sequence[int], ranks: int, types: CacheTypes) -> Layout | None:
    """The pool of a rank that holds `counts[i]` layers of `cache_layers[i]`; None when nothing is kept."""
    found = [
        group
        for layer, count in zip(cache_layers, counts, strict=True)
        if count
        for group in _kinds(layer, count, ranks, types)
        if group.page_bytes
    ]
    groups = _beside_state(_merged(found), types)
    if not groups:
        return None
    if len({(group.kind, group.window_tokens) for group in groups}) == 1:
        # Layers of one kind share every block, whatever their widths: one group that holds them all.
        first = groups[0]
        block_bytes = sum(group.page_bytes * group.layers for group in groups)
        layers = sum(group.layers for group in groups)
        return Layout(block_bytes, first.block_tokens, (replace(first, layers=layers),))
    groups = _equal_pages(groups)
    size = group_layers([group.layers for group in groups])
    cut = tuple(replace(group, count=ceil_div(group.layers, size)) for group in groups)
    attention = next((group.block_tokens for group in cut if group.kind != "state"), types.block_tokens)
    return Layout(size * groups[0].page_bytes, attention, cut)


def blocks_of(group: Group, context_tokens: Any, batch_tokens: Any) -> Any:
    """Blocks that one request of `context_tokens` takes of every group of this kind; arrays broadcast."""
    block = group.block_tokens
    if group.kind == "state":
        return group.state_blocks
    if group.kind == "cross":
        return ceil_div(group.window_tokens or context_tokens, block)
    if group.kind == "sliding":
        return state.sliding_blocks(
            window_tokens=group.window_tokens,
            batch_tokens=batch_tokens,
            context_tokens=context_tokens,
            block_tokens=block,
        )
    if group.kind == "chunked":
        return state.chunked_blocks(
            window_tokens=group.window_tokens,
            batch_tokens=batch_tokens,
            context_tokens=context_tokens,
            block_tokens=block,
        )
    return state.full_blocks(context_tokens=context_tokens, block_tokens=block)


def request_blocks(found: Layout, context_tokens: Any, batch_tokens: Any, *, state_groups: bool) -> Any:
    """Blocks that one request takes of the pool, over the groups that keep tokens (or over those that keep state)."""
    wanted = [group for group in found.groups if (group.kind == "state") == state_groups]
    return sum(group.count * blocks_of(group, context_tokens, batch_tokens) for group in wanted)
