"""What one step has to read and compute on one device: sums over the inventory, before any device is known.

Bytes are those of the stored format. Tensors that a step only looks rows up in (input embeddings) are left out,
unless the output matrix is tied to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fitcalc.formulas.weights import matrix_bytes
from fitcalc.frozen import dataclass, replace
from fitcalc.quantization.stored import Stored, rows_and_cols
from fitcalc.spec.model import CacheLayer, ModelSpec

LOOKED_UP_ROLES = ("embedding", "position_embedding", "token_type_embedding", "per_layer_embedding")
"""Tensors of which a step reads only the rows of its tokens."""
TEXT_PARTS = ("text", "other")
HOST = -1
"""Rank of the host."""
_STATE_BYTES = 4
_SIZES = ("fixed_bytes", "head_bytes", "expert_bytes")
_WEIGHTS = (*_SIZES, "fixed_elems", "head_elems", "expert_elems", "unpacking", "expert_unpacking", "plain_elems")
_CACHES = ("cell_elems", "window_cell_elems", "pair_flop", "prompt_pair_flop", "window_pair_flop", "state_bytes")


@dataclass(frozen=True, slots=True)
class Work:
    """What a step costs on one device, before batch, context and rates are known. Numbers; arrays in a fit."""

    layers: Any = 0
    expert_layers: Any = 0
    recurrent_layers: Any = 0
    latent_layers: Any = 0
    fixed_bytes: Any = 0
    """Weights read in every step: all but experts and output matrix."""
    head_bytes: Any = 0
    expert_bytes: Any = 0
    """All routed experts."""
    fixed_elems: Any = 0
    head_elems: Any = 0
    expert_elems: Any = 0
    unpacking: Any = 0
    """Elements stored below 16 bit, times the cost of unpacking their format; experts apart."""
    expert_unpacking: Any = 0
    plain_elems: Any = 0
    """Elements in 16 or 32 bit; those of experts are not counted."""
    experts: Any = 1
    experts_per_token: Any = 1
    hidden: Any = 0
    kv_heads: Any = 1
    """Ranks over which tensor parallelism can divide the cache; 1 where every rank keeps all of it."""
    cell_elems: Any = 0
    """Elements of K and V per cached token over the layers that keep every token."""
    window_cell_elems: Any = 0
    window_tokens: Any = 0
    pair_flop: Any = 0
    """Operations per query and cached token over the layers that keep every token, in decode."""
    prompt_pair_flop: Any = 0
    """The same for prompts; latent attention then works on expanded heads."""
    window_pair_flop: Any = 0
    state_bytes: Any = 0
    """Recurrent state per sequence, read and written in every step."""


Here = Callable[[int, bool], bool]
"""(layer, is a routed expert) -> is it on this device; the output matrix counts as one more layer."""


def work_of(
    model: ModelSpec, stored: Iterable[Stored], unpacking: Mapping[str, float], here: Here, *, absorbs: bool = False
) -> Work:
    """The work of one device. `unpacking` is the cost of unpacking an element by format id ('' for others).

    `absorbs`: the engine attends to latents as they are in prompts too (llama.cpp), not to heads made of them.
    """
    entries = [entry for entry in stored if entry.tensor.part in TEXT_PARTS]
    held = [layer for layer in range(model.layers) if here(layer, False)]
    expert_layers = {layer for entry in entries if entry.tensor.copies > 1 for layer in entry.layers}
    has_latents = any(cache.kind == "mla" for cache in model.cache_layers)
    return Work(
        layers=len(held),
        expert_layers=sum(1 for layer in expert_layers if here(layer, True)),
        experts=model.experts or 1,
        experts_per_token=model.experts_per_token or 1,
        hidden=model.hidden,
        kv_heads=1 if has_latents else max(model.kv_heads, 1),
        **_weights(entries, unpacking, here, model.layers),
        **_caches(model, here, absorbs=absorbs),
    )


def everywhere(_layer: int, _is_expert: bool) -> bool:
    """All on one device."""
    return True


def placed(ranks: Sequence[int], rank: int, cpu_expert_layers: int = 0) -> Here:
    """Layers divided: `ranks` of every layer and, last, of the output; experts of the first layers on HOST."""

    def here(layer: int, is_expert: bool) -> bool:
        return (HOST if is_expert and layer < cpu_expert_layers else ranks[layer]) == rank

    return here


def _weights(entries: Sequence[Stored], unpacking: Mapping[str, float], here: Here, output: int) -> dict[str, float]:
    sums: dict[str, float] = dict.fromkeys(_WEIGHTS, 0)
    tied = not any(entry.tensor.role == "lm_head" for entry in entries)
    for entry in entries:
        tensor = entry.tensor
        part, count = _part(entry, tied, here, output)
        rows, cols = rows_and_cols(tensor.shape)
        count *= tensor.copies
        elems = rows * cols * count
        sums[f"{part}_bytes"] += matrix_bytes(entry.format, rows, cols) * count
        sums[f"{part}_elems"] += elems
        if entry.format.block_bytes < 2 * entry.format.block_elems:
            cost = unpacking.get(entry.format.id, unpacking.get("", 1.0))
            sums["expert_unpacking" if part == "expert" else "unpacking"] += elems * cost
        elif part != "expert":
            sums["plain_elems"] += elems
    return sums


def _part(entry: Stored, tied: bool, here: Here, output: int) -> tuple[str, int]:
    """What an entry counts as, and how many layers of it are here."""
    tensor = entry.tensor
    if tensor.role in LOOKED_UP_ROLES:
        return "head", int(tied and tensor.role == "embedding" and here(output, False))
    if not entry.layers:
        return "head" if tensor.role == "lm_head" else "fixed", int(here(output, False))
    is_expert = tensor.copies > 1
    return "expert" if is_expert else "fixed", sum(1 for layer in entry.layers if here(layer, is_expert))


def _caches(model: ModelSpec, here: Here, *, absorbs: bool) -> dict[str, Any]:
    sums = dict.fromkeys(_CACHES, 0)
    window = recurrent = latent = 0
    for cache in model.cache_layers:
        count = sum(1 for layer in cache.layers if layer < model.layers and here(layer, False))
        if cache.kind == "recurrent":
            sums["state_bytes"] += count * cache.state_elems * _STATE_BYTES
            recurrent += count
        elif cache.kind in ("sliding", "chunked"):
            sums["window_cell_elems"] += count * cache.elems_per_token
            sums["window_pair_flop"] += count * _pair_flop(model, cache)
            window = max(window, cache.window_tokens)
        else:
            sums["cell_elems"] += count * cache.elems_per_token // cache.compression
            sums["pair_flop"] += count * _pair_flop(model, cache, absorbed=True) // cache.compression
            sums["prompt_pair_flop"] += count * _pair_flop(model, cache, absorbed=absorbs) // cache.compression
            latent += count if cache.kind == "mla" else 0
    return sums | {"window_tokens": window, "recurrent_layers": recurrent, "latent_layers": latent}


def _pair_flop(model: ModelSpec, cache: CacheLayer, *, absorbed: bool = False) -> int:
    """Operations of a token against one cached token in one layer: 2 per element of K and of V, in every head.

    Latent attention multiplies with the latents themselves when `absorbed` (decode), else with heads made of them.
    """
    if cache.kind in ("mla", "compressed"):
        return 4 * model.heads * (cache.latent_elems if absorbed else max(model.head_dim, 1))
    return 2 * model.heads * (cache.key_dim + cache.value_dim)


def scaled(work: Work, factor: float) -> Work:
    """The same work with stored sizes times `factor`: for a file whose recipe differs a little from the one named."""
    return replace(work, **{name: getattr(work, name) * factor for name in _SIZES})
