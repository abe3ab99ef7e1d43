"""Early mixtures of experts with names of their own: DBRX, Arctic (a dense MLP beside the experts), Grok-1."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, flag, integer_or, kv_heads_of, layer_count, mapping, size
from fitcalc.architectures.moe_blocks import (
    LAYER,
    W1_W3_W2,
    Frame,
    dense_mlp,
    ends,
    experts_of,
    frame_of,
    full_moe,
    layer_norms,
    routed,
    self_attention,
    stacked_experts,
    without,
)
from fitcalc.frozen import replace
from fitcalc.spec.model import ModelSpec


def dbrx(config: Config) -> ModelSpec:
    """DBRX: fused Q, K and V, LayerNorm without bias, all experts of a layer in one matrix per projection."""
    attention, ffn = mapping(config, "attn_config"), mapping(config, "ffn_config")
    hidden, heads = size(config, "d_model"), size(config, "n_heads")
    layers = tuple(range(layer_count(config, "n_layers")))
    kv_heads = kv_heads_of({"kv_n_heads": 1, **attention}, heads, "kv_n_heads")
    tied = flag(config, "tie_word_embeddings", False)
    frame = Frame(layers, hidden, heads, kv_heads, hidden // heads, size(config, "vocab_size"), tied)
    experts = experts_of(ffn, layers, "moe_num_experts", "ffn_hidden_size", "moe_top_k")
    block = "transformer.blocks.{layer}"
    mlp, norms = f"{block}.ffn.experts.mlp", f"{block}.norm_attn_norm"
    tensors = [
        blocks.embedding("transformer.wte", frame.vocab, hidden),
        *blocks.norm("transformer.norm_f", hidden),
        *blocks.lm_head(frame.vocab, hidden, tied=tied),
        *blocks.fused_attention(
            f"{norms}.attn", hidden, heads, kv_heads, frame.head_dim, layers, names=("Wqkv", "out_proj")
        ),
        *layer_norms(frame, layers, names=("norm_1", "norm_2"), prefix=norms),
        *blocks.router(f"{block}.ffn.router.layer", hidden, experts.count, layers),
        *stacked_experts(
            {f"{mlp}.w1": "expert_gate", f"{mlp}.v1": "expert_up", f"{mlp}.w2": "expert_down"}, hidden, experts
        ),
    ]
    return full_moe(config, frame, experts, tensors)


def arctic(config: Config) -> ModelSpec:
    """Arctic: every layer a dense MLP of the hidden width with a residual path of experts beside it."""
    frame = frame_of(config)
    hidden, width = frame.hidden, size(config, "intermediate_size")
    step, residual = max(integer_or(config, "moe_layer_frequency", 1), 1), flag(config, "use_residual", True)
    sparse = tuple(layer for layer in frame.layers if (layer + 1) % step == 0)
    beside = sparse if residual and flag(config, "parallel_attn_mlp_res", True) else ()
    experts = experts_of(config, sparse, "num_local_experts", "intermediate_size")
    mlp = f"{LAYER}.block_sparse_moe"
    tensors = [
        *ends(frame),
        *self_attention(frame, frame.layers),
        *layer_norms(frame, frame.layers),
        *(layer_norms(frame, beside, names=("residual_layernorm",)) if beside else []),
        *dense_mlp(f"{LAYER}.residual_mlp", hidden, hidden, beside, names=W1_W3_W2),
        *dense_mlp(f"{mlp}.mlp", hidden, width, without(frame.layers, sparse), names=W1_W3_W2),
        *routed(mlp, hidden, experts, names=W1_W3_W2),
    ]
    spec = full_moe(config, frame, experts, tensors, dense_width=width)
    return replace(spec, intermediate=max(spec.intermediate, hidden)) if beside else spec


def grok1(config: Config) -> ModelSpec:
    """Grok-1: four norms a layer, tied embedding."""
    frame = frame_of(config, tied=True)
    experts = experts_of(config, frame.layers, width="intermediate_size")
    block, hidden = f"{LAYER}.moe_block", frame.hidden
    norms = ("pre_attn_norm", "post_attn_norm", "pre_moe_norm", "post_moe_norm")
    tensors = [
        *ends(frame),
        *blocks.attention(f"{LAYER}.attn", hidden, frame.heads, frame.kv_heads, frame.head_dim, frame.layers),
        *layer_norms(frame, frame.layers, names=norms),
        *routed(block, hidden, experts, names=("linear_v", "linear", "linear_1")),
    ]
    return full_moe(config, frame, experts, tensors)
