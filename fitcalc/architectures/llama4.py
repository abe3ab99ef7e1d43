"""Llama 4 (text): chunked attention with a full layer in between, experts on every or every other layer."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.blocks import Layers
from fitcalc.architectures.common import rope_of
from fitcalc.architectures.config import Config, flag, integer_or, layer_kinds, size
from fitcalc.architectures.moe_blocks import (
    LAYER,
    Experts,
    Frame,
    dense_mlp,
    ends,
    experts_of,
    frame_of,
    layer_norms,
    layer_numbers,
    marked,
    moe_decoder,
    self_attention,
    shared_expert,
    stacked_experts,
    without,
)
from fitcalc.spec.model import CacheLayer, ModelSpec

KINDS = ("chunked_attention", "full_attention")
CHUNK_TOKENS = 8192
"""Default of attention_chunk_size in the model class."""
FULL_LAYER_STEP = 4
"""Default of no_rope_layer_interval in the model class."""


def build(config: Config) -> ModelSpec:
    """llama4_text: the rotary layers see one chunk, the layers without positions see everything."""
    frame = frame_of(config)
    hidden, width, dense_width = frame.hidden, size(config, "intermediate_size"), size(config, "intermediate_size_mlp")
    sparse, mlp = _sparse(config, frame.layers), f"{LAYER}.feed_forward"
    experts = Experts((), 0, 0, 0)
    if sparse:
        experts = experts_of(config, sparse, "num_local_experts", "intermediate_size", shared_width=width)
    bias = flag(config, "attention_bias", False)
    stacked = {f"{mlp}.experts.gate_up_proj": "expert_gate_up", f"{mlp}.experts.down_proj": "expert_down"}
    tensors = [
        *ends(frame),
        *self_attention(frame, frame.layers, qkv_bias=bias, out_bias=bias),
        *layer_norms(frame, frame.layers),
        *dense_mlp(mlp, hidden, dense_width, without(frame.layers, sparse)),
        *(blocks.router(f"{mlp}.router", hidden, experts.count, sparse) if sparse else []),
        *stacked_experts(stacked, hidden, experts),
        *shared_expert(f"{mlp}.shared_expert", hidden, width, sparse),
    ]
    cache, chunked = _cache(config, frame)
    return moe_decoder(
        config,
        frame,
        experts,
        tensors,
        cache=cache,
        attention=blocks.attention_label(frame.heads, frame.kv_heads) + ("+sliding" if chunked else ""),
        dense_width=dense_width,
        rope=rope_of(config, frame.head_dim),
    )


def _sparse(config: Config, layers: Layers) -> Layers:
    """The layers that moe_layers names, else every interleave_moe_layer_step-th."""
    named = layer_numbers(config, "moe_layers", layers)
    if named is not None:
        return named
    step = size({"interleave_moe_layer_step": 1, **config}, "interleave_moe_layer_step")
    return tuple(layer for layer in layers if (layer + 1) % step == 0)


def _cache(config: Config, frame: Frame) -> tuple[list[CacheLayer], Layers]:
    """Chunked layers keep at most one chunk; a chunk size of null leaves every layer full."""
    step = size({"no_rope_layer_interval": FULL_LAYER_STEP, **config}, "no_rope_layer_interval")
    rotary = marked(config, "no_rope_layers", frame.layers, (1,), (0,)) if config.get("no_rope_layers") else None
    if rotary is None:
        rotary = tuple(layer for layer in frame.layers if (layer + 1) % step)
    usual = [KINDS[0] if layer in frozenset(rotary) else KINDS[1] for layer in frame.layers]
    kinds = layer_kinds(config, frame.count, usual, KINDS)
    chunk = integer_or({"attention_chunk_size": CHUNK_TOKENS, **config}, "attention_chunk_size", 0)
    chunked = tuple(layer for layer in frame.layers if chunk and kinds[layer] == KINDS[0])
    kv_heads, head_dim = frame.kv_heads, frame.head_dim
    cache = [
        *blocks.full_cache(without(frame.layers, chunked), kv_heads, head_dim),
        *blocks.window_cache(chunked, kv_heads, head_dim, chunk, chunked=True),
    ]
    return cache, chunked
