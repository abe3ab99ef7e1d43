"""The widths of llama.cpp's compute graph: what one token of a micro-batch holds at its widest moments.

A width is a number of 32-bit values per token. The graph is reserved in three moments: the logits at its end, the MLP
or mixture of experts of a layer, and its attention. The widths follow from the tensors of a model; they were read off
the buffers that llama.cpp reserves for models of each kind (dense gated, plain, mixture of experts, latent attention).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from fitcalc.frozen import dataclass
from fitcalc.same import Same
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

TEXT_PARTS = ("text", "encoder", "other")
"""Parts whose tensors are in the model's file and are loaded; towers have a file of their own, MTP stays unused."""
_GATES = ("mlp_gate", "mlp_gate_up", "expert_gate", "expert_gate_up", "shared_gate", "shared_gate_up")
_WINDOWED = ("sliding", "chunked")


@dataclass(frozen=True, slots=True)
class Graph:
    """Widths per token, and what else of a model the buffers depend on."""

    hidden: int
    vocab: int
    heads: int
    mlp_width: int
    """Widest moment of a layer outside attention, without a query that is held beside it."""
    query_width: int
    """The query held through the layer where flash attention runs on 16-bit K; 0 where Q, K and V are one matrix."""
    attention_width: int
    latent: bool
    """Latent attention: scores stand beside the layer's own width, and V needs no indices."""
    key_width: int
    """K of one layer, elements per cell."""
    value_width: int
    caches: int
    """Kinds of KV cache: one for layers that keep everything, one more for layers with a window."""
    logits_kept_width: int
    """What still lives beside the logits at the end of the graph."""


def cache_widths(model: ModelSpec, layer: CacheLayer, *, latent_cache: bool) -> tuple[int, int]:
    """Elements of (K, V) of one cell in one layer; without a latent cache, latent attention keeps every head."""
    if layer.kind != "mla":
        return layer.kv_heads * layer.key_dim + layer.index_elems, layer.kv_heads * layer.value_dim
    if latent_cache:
        return layer.latent_elems + layer.index_elems, 0
    keys = _widest(model.tensors, ("mla_q_b", "attn_q"))
    return keys, max(tensor.shape[-1] for tensor in model.tensors if tensor.role == "attn_o")


def graph_of(model: ModelSpec, mlp_buffers: int, *, windowed: bool, latent_cache: bool, fused: bool) -> Graph:
    """The graph of a model.

    `mlp_buffers` is the number of MLP-wide tensors alive at once; `windowed` says that layers with a window have a
    cache of their own, `latent_cache` that latent attention runs on its latents, `fused` that the file holds Q, K and V
    as one matrix.
    """
    return _graph_of(Same(model), mlp_buffers, windowed, latent_cache, fused)


@lru_cache(maxsize=16)
def _graph_of(model_: Same[ModelSpec], mlp_buffers: int, windowed: bool, latent_cache: bool, fused: bool) -> Graph:
    model = model_.value
    tensors = [tensor for tensor in model.tensors if tensor.part in TEXT_PARTS]
    hidden = model.hidden
    attending = [layer for layer in model.cache_layers if layer.kind != "recurrent"]
    latent = latent_cache and any(layer.kind == "mla" for layer in attending)
    widths = [cache_widths(model, layer, latent_cache=latent_cache) for layer in attending]
    query = 0 if latent else max((layer.key_dim for layer in attending), default=0) * model.heads
    key, value = (max(column, default=0) for column in (zip(*widths, strict=True) if widths else ((), ())))
    kinds = {windowed and layer.kind in _WINDOWED for layer in attending}
    mlp = _mlp_width(model, tensors, mlp_buffers)
    return Graph(
        hidden=hidden,
        vocab=model.vocab,
        heads=model.heads,
        mlp_width=max(mlp, _latent_width(model, tensors), _recurrent_width(model, tensors)),
        query_width=0 if fused or latent or not model.gated_mlp else query,
        attention_width=_attention_width(model, query, value if fused else 0),
        latent=latent,
        key_width=key,
        value_width=0 if latent else value,
        caches=len(kinds),
        logits_kept_width=_kept_width(model, tensors, fused, latent),
    )


def _widest(tensors: Iterable[Tensor], roles: tuple[str, ...]) -> int:
    """Rows of the widest tensor with one of the roles, times the copies a token uses."""
    return max((tensor.shape[0] * tensor.active for tensor in tensors if tensor.role in roles), default=0)


def _up_width(tensors: list[Tensor], kind: str) -> int:
    """Width of the up projection: `kind` is mlp, expert or shared."""
    fused = _widest(tensors, (f"{kind}_gate_up",)) // 2
    return max(fused, _widest((t for t in tensors if t.is_linear), (f"{kind}_up", f"{kind}_gate")))


def _mlp_width(model: ModelSpec, tensors: list[Tensor], mlp_buffers: int) -> int:
    hidden = model.hidden
    dense, shared, routed = (_up_width(tensors, kind) for kind in ("mlp", "shared", "expert"))
    gated = any(tensor.role in _GATES for tensor in tensors)
    latent = any(layer.kind == "mla" for layer in model.cache_layers)
    width = mlp_buffers * dense + (3 if latent else 2) * hidden if gated else dense + 4 * hidden
    if routed:
        mixed = mlp_buffers * max(routed, shared) + 2 * hidden
        # The outputs of a token's experts stand side by side before they are summed.
        width = max(width, mixed, 2 * model.experts_per_token * hidden + 3 * hidden)
    return width


def _latent_width(model: ModelSpec, tensors: list[Tensor]) -> int:
    """Absorbed latent attention: the query in the latent space twice, once before it, beside three hidden states."""
    latent = next((layer.latent_elems for layer in model.cache_layers if layer.kind == "mla"), 0)
    if not latent:
        return 0
    query = _widest(tensors, ("mla_q_b", "attn_q"))
    return 2 * model.heads * latent + query + 3 * model.hidden


def _attention_width(model: ModelSpec, query: int, fused_value: int) -> int:
    """Attention beside its scores: hidden states and the query, twice; a fused Q, K, V matrix stays whole.

    Where a fused matrix is followed by rotation and a gated MLP, only the rotated query stays.
    """
    if fused_value and model.gated_mlp:
        return model.hidden + query
    return 2 * (model.hidden + query) + 2 * fused_value


def _recurrent_width(model: ModelSpec, tensors: list[Tensor]) -> int:
    """Recurrent layers: input projections before and after the convolution, and the output beside the hidden state."""
    inputs: dict[int, int] = {}
    for tensor in tensors:
        if tensor.is_linear and tensor.role in ("ssm_in", "linear_in"):
            for layer in tensor.layers:
                inputs[layer] = inputs.get(layer, 0) + tensor.shape[0]
    return 2 * max(inputs.values()) + 3 * model.hidden if inputs else 0


def _kept_width(model: ModelSpec, tensors: list[Tensor], fused: bool, latent: bool) -> int:
    hidden = model.hidden
    if latent and model.is_moe:
        return (model.experts_per_token + 1) * hidden
    recurrent = all(layer.kind == "recurrent" for layer in model.cache_layers)
    joined = fused and any(tensor.role == "mlp_gate_up" for tensor in tensors)
    return 2 * hidden if joined else hidden if model.is_moe or recurrent else 0
