"""Gemma 4's text model: full layers with wider and fewer heads, V that is K, shared caches, optional experts."""

from __future__ import annotations

from collections.abc import Sequence

from fitcalc.architectures import blocks
from fitcalc.architectures.common import decoder, rope_of, rotary_dim_of
from fitcalc.architectures.config import Config, flag, integer_or, layer_kinds, size
from fitcalc.architectures.gemma3n import owned_by, owning_layers, per_layer_embeddings
from fitcalc.architectures.style import FULL, SLIDING, Shape, Style, attention_cache, shape_of, standard
from fitcalc.errors import UnsupportedModelError
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

_STYLE = Style(
    defaults={
        "global_head_dim": 512,
        "head_dim": 256,
        "hidden_size_per_layer_input": 256,
        "num_key_value_heads": 4,
        "sliding_window": 512,
        "tie_word_embeddings": True,
        "vocab_size_per_layer_input": 262144,
    }
)
_BLOCK = "model.layers.{layer}"
_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
_EXPERT_NORMS = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2")


def build(config: Config) -> ModelSpec:
    """gemma4_text."""
    config = standard(config, _STYLE)
    if "per_layer_config" in config:
        hint = "give global_head_dim and num_global_key_value_heads instead"
        raise UnsupportedModelError("config: per_layer_config is not known", hint=hint)
    shape = shape_of(config, _STYLE)
    kinds = _kinds(config, len(shape.layers))
    owners = owning_layers(config, kinds)
    narrow = integer_or(config, "hidden_size_per_layer_input", 0)
    experts = integer_or(config, "num_experts", 0) if flag(config, "enable_moe_block", False) else 0
    tensors = [
        blocks.embedding("model.embed_tokens", shape.vocab, shape.hidden),
        *(tensor for kind in (SLIDING, FULL) for tensor in _attention(config, shape, kinds, kind)),
        *_mlp(config, shape, owners),
        *(tensor for name in _NORMS for tensor in blocks.norm(f"{_BLOCK}.{name}", shape.hidden, shape.layers)),
        Tensor(f"{_BLOCK}.layer_scalar", "vector", (1,), shape.layers, is_buffer=True),
        *(_experts(config, shape, experts) if experts else ()),
        *(_per_layer(config, shape, narrow) if narrow else ()),
        *blocks.norm("model.norm", shape.hidden),
        *blocks.lm_head(shape.vocab, shape.hidden, tied=shape.tied),
    ]
    return decoder(
        config,
        tensors=tensors,
        cache=owned_by(_cache(config, shape, kinds), owners),
        layers=len(shape.layers),
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate=shape.width,
        vocab=shape.vocab,
        tied=shape.tied,
        attention=blocks.attention_label(shape.heads, shape.kv_heads) + ("+sliding" if SLIDING in kinds else ""),
        rope=rope_of(config, rotary_dim_of(config, shape.head_dim), tables=2),
        experts=experts,
        experts_per_token=size(config, "top_k_experts") if experts else 0,
        moe_intermediate=size(config, "moe_intermediate_size") if experts else 0,
    )


def _kinds(config: Config, count: int) -> tuple[str, ...]:
    """Every sixth layer full unless listed; the last one always is."""
    listed = layer_kinds(config, count, [SLIDING if (i + 1) % 6 else FULL for i in range(count)], (FULL, SLIDING))
    return (*listed[:-1], FULL)


def _heads(config: Config, shape: Shape, kind: str) -> tuple[int, int]:
    """KV heads and head dimension of a kind of layer."""
    if kind == SLIDING:
        return shape.kv_heads, shape.head_dim
    shared = flag(config, "attention_k_eq_v", False)
    kv_heads = integer_or(config, "num_global_key_value_heads", shape.kv_heads) if shared else shape.kv_heads
    return kv_heads, integer_or(config, "global_head_dim", shape.head_dim)


def _attention(config: Config, shape: Shape, kinds: Sequence[str], kind: str) -> list[Tensor]:
    """Q, K, V and output of one kind of layer; where V is K, the full layers hold no V."""
    layers = tuple(i for i in shape.layers if kinds[i] == kind)
    kv_heads, head_dim = _heads(config, shape, kind)
    bias = flag(config, "attention_bias", False)
    tensors = blocks.attention(
        f"{_BLOCK}.self_attn", shape.hidden, shape.heads, kv_heads, head_dim, layers,
        qkv_bias=bias, out_bias=bias, qk_norm=(head_dim, head_dim),
    )  # fmt: skip
    one = kind == FULL and flag(config, "attention_k_eq_v", False)
    return [tensor for tensor in tensors if layers and not (one and ".v_proj." in tensor.name)]


def _mlp(config: Config, shape: Shape, owners: range) -> list[Tensor]:
    """The dense MLP of every layer; layers that share a cache may have one of twice the width."""
    wide = flag(config, "use_double_wide_mlp", False)
    sharing = tuple(i for i in shape.layers if wide and i not in owners)
    plain = tuple(i for i in shape.layers if i not in sharing)
    return [
        tensor
        for layers, width in ((plain, shape.width), (sharing, 2 * shape.width))
        if layers
        for tensor in blocks.gated_mlp(f"{_BLOCK}.mlp", shape.hidden, width, layers)
    ]


def _experts(config: Config, shape: Shape, count: int) -> list[Tensor]:
    """Routed experts beside the dense MLP, gate and up in one matrix, with their router and three norms."""
    hidden, layers = shape.hidden, shape.layers
    width, used = size(config, "moe_intermediate_size"), size(config, "top_k_experts")
    place = f"{_BLOCK}.experts"
    return [
        Tensor(f"{place}.gate_up_proj", "expert_gate_up", (2 * width, hidden), layers, count, used, "experts",
               is_linear=True),
        Tensor(f"{place}.down_proj", "expert_down", (hidden, width), layers, count, used, "experts", is_linear=True),
        *blocks.router(f"{_BLOCK}.router.proj", hidden, count, layers),
        blocks.vector(f"{_BLOCK}.router.scale", "vector", hidden, layers),
        blocks.vector(f"{_BLOCK}.router.per_expert_scale", "vector", count, layers),
        *(tensor for name in _EXPERT_NORMS for tensor in blocks.norm(f"{_BLOCK}.{name}", hidden, layers)),
    ]  # fmt: skip


def _per_layer(config: Config, shape: Shape, width: int) -> list[Tensor]:
    norm = blocks.norm(f"{_BLOCK}.post_per_layer_input_norm", shape.hidden, shape.layers)
    return [*per_layer_embeddings(config, shape, width), *norm]


def _cache(config: Config, shape: Shape, kinds: Sequence[str]) -> list[CacheLayer]:
    """Sliding layers by their heads, full layers by theirs (K and V are both kept even where V is K)."""
    by_kind = ((kind, attention_cache(config, kinds, *_heads(config, shape, kind))) for kind in (SLIDING, FULL))
    wanted = {SLIDING: "sliding", FULL: "full"}
    return [entry for kind, entries in by_kind for entry in entries if entry.kind == wanted[kind]]
