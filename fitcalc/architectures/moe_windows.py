"""Mixtures of experts whose layers differ in attention: MiniMax-M3 (block-sparse layers), MiMo-V2-Flash (windows)."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.blocks import Layers
from fitcalc.architectures.common import rope_of
from fitcalc.architectures.config import Config, flag, fraction, integer_or, layer_kinds, mapping, size
from fitcalc.architectures.moe_blocks import (
    ATTENTION,
    LAYER,
    W1_W3_W2,
    dense_mlp,
    ends,
    experts_of,
    frame_of,
    layer_norms,
    marked,
    moe_decoder,
    routed,
    self_attention,
    shared_expert,
    sparse_after_dense,
    without,
)
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

MLP = f"{LAYER}.mlp"
SPARSE_MLP = f"{LAYER}.block_sparse_moe"


def minimax_m3(config: Config) -> ModelSpec:
    """MiniMax-M3 (text): layers of block-sparse attention keep one index key per token beside K and V."""
    frame = frame_of(config)
    hidden, width = frame.hidden, size(config, "dense_intermediate_size")
    shared = integer_or(config, "shared_intermediate_size", 0)
    experts = experts_of(
        config, sparse_after_dense(config, frame.layers), "num_local_experts", "intermediate_size", shared_width=shared
    )
    sparse, indexed = experts.layers, _indexed(config, frame.layers)
    index = mapping(config, "sparse_attention_config")
    index_dim = size(index, "sparse_index_dim") if indexed else 0
    index_width = index_dim * size(index, "sparse_num_index_heads") if indexed else 0
    tensors = [
        *ends(frame),
        *self_attention(frame, frame.layers, qk_norm=(frame.head_dim, frame.head_dim)),
        *(_index_tensors(hidden, index_width, index_dim, indexed) if indexed else []),
        *layer_norms(frame, frame.layers),
        *dense_mlp(MLP, hidden, width, without(frame.layers, sparse)),
        *routed(SPARSE_MLP, hidden, experts, names=W1_W3_W2, score_bias="e_score_correction_bias"),
        *shared_expert(f"{SPARSE_MLP}.shared_experts", hidden, shared, sparse),
    ]
    plain, kv_heads, head_dim = without(frame.layers, indexed), frame.kv_heads, frame.head_dim
    cache = blocks.full_cache(plain, kv_heads, head_dim)
    if indexed:
        cache.append(CacheLayer("full", indexed, kv_heads, head_dim, head_dim, index_elems=index_dim))
    return moe_decoder(
        config,
        frame,
        experts,
        tensors,
        cache=cache,
        attention=blocks.attention_label(frame.heads, frame.kv_heads),
        dense_width=width,
        rope=rope_of(config, integer_or(config, "rotary_dim", frame.head_dim)),
    )


def _indexed(config: Config, layers: Layers) -> Layers:
    """The block-sparse layers: by sparse_attention_freq, else by layer_types."""
    listed = marked(mapping(config, "sparse_attention_config"), "sparse_attention_freq", layers)
    if listed is None:
        listed = marked(config, "layer_types", layers, ("minimax_m3_sparse",), ("full_attention",))
    return listed or ()


def _index_tensors(hidden: int, width: int, head_dim: int, layers: Layers) -> list[Tensor]:
    """Index queries of all index heads and one index key, each with a norm on the head."""
    return [
        *blocks.linear(f"{ATTENTION}.index_q_proj", "indexer", width, hidden, layers, split="replicated"),
        *blocks.linear(f"{ATTENTION}.index_k_proj", "indexer", head_dim, hidden, layers, split="replicated"),
        *blocks.norm(f"{ATTENTION}.index_q_norm", head_dim, layers),
        *blocks.norm(f"{ATTENTION}.index_k_norm", head_dim, layers),
    ]


def mimo_v2_flash(config: Config) -> ModelSpec:
    """MiMo-V2-Flash: windowed layers have KV heads of their own and sinks; values are narrower than keys."""
    frame = frame_of(config)
    hidden, width = frame.hidden, size(config, "intermediate_size")
    experts = experts_of(config, sparse_after_dense(config, frame.layers), "n_routed_experts")
    sliding = _mimo_sliding(config, frame.layers)
    full, value_dim = without(frame.layers, sliding), size(config, "v_head_dim")
    bias = flag(config, "attention_bias", False)
    window_kv = integer_or(config, "swa_num_key_value_heads", 2 * frame.kv_heads)
    sinks = Tensor(f"{ATTENTION}.attention_sink_bias", "vector", (frame.heads,), sliding, split="heads")
    tensors = [
        *ends(frame),
        *(
            tensor
            for layers, kv_heads in ((full, frame.kv_heads), (sliding, window_kv))
            if layers
            for tensor in blocks.attention(
                ATTENTION, hidden, frame.heads, kv_heads, frame.head_dim, layers, qkv_bias=bias, value_dim=value_dim
            )
        ),
        *([sinks] if sliding else []),
        *layer_norms(frame, frame.layers),
        *dense_mlp(MLP, hidden, width, without(frame.layers, experts.layers)),
        *routed(MLP, hidden, experts, score_bias="gate.e_score_correction_bias"),
    ]
    window = size(config, "sliding_window", "sliding_window_size") if sliding else 0
    return moe_decoder(
        config,
        frame,
        experts,
        tensors,
        cache=[
            *blocks.full_cache(full, frame.kv_heads, frame.head_dim, value_dim),
            *blocks.window_cache(sliding, window_kv, frame.head_dim, window, value_dim=value_dim),
        ],
        attention=blocks.attention_label(frame.heads, frame.kv_heads) + ("+sliding" if sliding else ""),
        dense_width=width,
        rope=rope_of(config, int(frame.head_dim * fraction(config, "partial_rotary_factor", 1.0)), tables=2),
    )


def _mimo_sliding(config: Config, layers: Layers) -> Layers:
    """The windowed layers: entry 1 of hybrid_layer_pattern, else layer_types."""
    listed = marked(config, "hybrid_layer_pattern", layers, (1,), (0,))
    if listed is not None:
        return listed
    kinds = layer_kinds(config, len(layers), (), ("full_attention", "sliding_attention"))
    return tuple(layer for layer in layers if kinds and kinds[layer] == "sliding_attention")
