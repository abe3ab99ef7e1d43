"""Grouped-query mixtures of experts with shared experts: GLM-4.5, Solar Open, dots.llm1, Hunyuan, ERNIE 4.5, Ling.

Dense layers come first; sparse ones add one shared gated MLP to the routed experts.
"""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.blocks import Layers
from fitcalc.architectures.config import Config, flag, fraction, integer_or, size
from fitcalc.architectures.moe_blocks import (
    LAYER,
    Experts,
    Frame,
    as_mtp,
    deepseek_experts,
    dense_mlp,
    ends,
    experts_of,
    frame_of,
    full_moe,
    layer_norms,
    mtp,
    mtp_layers,
    routed,
    self_attention,
    shared_expert,
    sparse_after_dense,
    uniform,
    without,
)
from fitcalc.spec.model import ModelSpec, Tensor

MLP = f"{LAYER}.mlp"
BIAS = "gate.e_score_correction_bias"


def _sparse_mlp(frame: Frame, experts: Experts, layers: Layers) -> list[Tensor]:
    """Router with its score bias, routed and shared experts, named as in DeepSeek-V3."""
    return [
        *routed(MLP, frame.hidden, experts, layers=layers, score_bias=BIAS),
        *shared_expert(f"{MLP}.shared_experts", frame.hidden, experts.shared_width, layers),
    ]


def glm4_moe(config: Config) -> ModelSpec:
    """GLM-4.5 to 4.7: biases on Q, K and V, optional norms on query and key heads, MTP layers with their own ends."""
    frame = frame_of(config)
    experts = deepseek_experts(config, frame.layers)
    width = integer_or(config, "intermediate_size", 0)
    bias, normed = flag(config, "attention_bias", False), flag(config, "use_qk_norm", False)
    qk_norm = (frame.head_dim, frame.head_dim) if normed else (0, 0)

    def layer(layers: Layers, sparse: Layers) -> list[Tensor]:
        return [
            *self_attention(frame, layers, qkv_bias=bias, qk_norm=qk_norm),
            *layer_norms(frame, layers),
            *_sparse_mlp(frame, experts, sparse),
        ]

    extra = mtp_layers(config, frame)
    tensors = [
        *ends(frame),
        *layer(frame.layers, experts.layers),
        *dense_mlp(MLP, frame.hidden, width, without(frame.layers, experts.layers)),
        *mtp(frame, extra, layer(extra, extra)),
    ]
    return full_moe(
        config, frame, experts, tensors, dense_width=width, rotary=fraction(config, "partial_rotary_factor", 0.5)
    )


def solar_open(config: Config) -> ModelSpec:
    """Solar Open: as GLM-4.5, every layer sparse unless first_k_dense_replace says otherwise, all of a head rotated."""
    usual = {"first_k_dense_replace": 0, "partial_rotary_factor": 1.0}
    return glm4_moe({**usual, **config})


def dots1(config: Config) -> ModelSpec:
    """dots.llm1: norms on query and key heads."""
    frame = frame_of(config)
    experts = deepseek_experts(config, frame.layers)
    width = size(config, "intermediate_size")
    bias = flag(config, "attention_bias", False)
    tensors = [
        *ends(frame),
        *self_attention(
            frame, frame.layers, qkv_bias=bias, out_bias=bias, qk_norm=(frame.head_dim, frame.head_dim)
        ),
        *layer_norms(frame, frame.layers),
        *dense_mlp(MLP, frame.hidden, width, without(frame.layers, experts.layers)),
        *_sparse_mlp(frame, experts, experts.layers),
    ]  # fmt: skip
    return full_moe(config, frame, experts, tensors, dense_width=width)


def hunyuan_v1_moe(config: Config) -> ModelSpec:
    """Hunyuan-A13B: every layer sparse, a shared MLP beside the experts; widths may be listed once per layer."""
    frame = frame_of(config)
    width = size(config, "intermediate_size")
    shared = width * uniform({"num_shared_expert": 1, **config}, "num_shared_expert")
    expert_width = "moe_intermediate_size" if config.get("moe_intermediate_size") is not None else "intermediate_size"
    experts = experts_of(config, frame.layers, "num_experts", expert_width, "moe_topk", shared)
    bias = flag(config, "attention_bias", False)
    normed = (frame.head_dim, frame.head_dim) if flag(config, "use_qk_norm", True) else (0, 0)
    tensors = [
        *ends(frame),
        *self_attention(
            frame, frame.layers, qkv_bias=bias, out_bias=bias, qk_norm=normed,
            norm_names=("query_layernorm", "key_layernorm"),
        ),
        *layer_norms(frame, frame.layers),
        *routed(MLP, frame.hidden, experts, gate="gate.wg"),
        *shared_expert(f"{MLP}.shared_mlp", frame.hidden, shared, frame.layers),
    ]  # fmt: skip
    return full_moe(config, frame, experts, tensors)


def ernie4_5_moe(config: Config) -> ModelSpec:
    """ERNIE 4.5: sparse layers between two bounds; the score bias is a parameter; MTP layers are dense."""
    frame = frame_of(config, tied=True)
    hidden, width = frame.hidden, size(config, "intermediate_size")
    first, step = integer_or(config, "moe_layer_start_index", 1), max(integer_or(config, "moe_layer_interval", 1), 1)
    last = frame.count - 1 if config.get("moe_layer_end_index") in (None, -1) else size(config, "moe_layer_end_index")
    sparse = tuple(n for n in frame.layers if first <= n <= last and (n + 1) % step == 0)
    shared = integer_or(config, "moe_num_shared_experts", 0) * size(config, "moe_intermediate_size")
    experts = experts_of(config, sparse, "moe_num_experts", used="moe_k", shared_width=shared)
    bias = flag(config, "use_bias", False)
    score = Tensor(
        f"{MLP}.moe_statics.e_score_correction_bias", "router_bias", (1, experts.count), sparse, dtype="fp32"
    )
    tensors = [
        *ends(frame),
        *self_attention(frame, frame.layers, qkv_bias=bias, out_bias=bias),
        *layer_norms(frame, frame.layers),
        *dense_mlp(MLP, hidden, width, without(frame.layers, sparse), bias=bias),
        *routed(MLP, hidden, experts, bias=bias),
        *([score] if sparse else []),
        *shared_expert(f"{MLP}.shared_experts", hidden, shared, sparse, bias=bias),
        *_ernie_mtp(frame, mtp_layers(config, frame), width, bias),
    ]
    return full_moe(config, frame, experts, tensors, dense_width=width)


def _ernie_mtp(frame: Frame, extra: Layers, width: int, bias: bool) -> list[Tensor]:
    """One dense decoder layer, the projection of both inputs and two norms, numbered from 0."""
    if not extra:
        return []
    numbers, hidden, block = tuple(range(len(extra))), frame.hidden, "model.mtp_block.{layer}"
    return as_mtp(
        [
            *blocks.attention(
                f"{block}.self_attn", hidden, frame.heads, frame.kv_heads, frame.head_dim, numbers,
                qkv_bias=bias, out_bias=bias,
            ),
            *dense_mlp(f"{block}.mlp", hidden, width, numbers, bias=bias),
            *layer_norms(frame, numbers, prefix=block),
            *blocks.linear(
                "model.mtp_linear_proj.{layer}", "other", hidden, 2 * hidden, numbers, split="replicated", bias=bias
            ),
            *blocks.norm("model.mtp_emb_norm.{layer}", hidden, numbers),
            *blocks.norm("model.mtp_hidden_norm.{layer}", hidden, numbers),
        ]
    )  # fmt: skip


def bailing_moe(config: Config) -> ModelSpec:
    """Ling and Ring 1 and 2: fused Q, K and V; version 2 adds norms on the heads and a bias on the router's scores."""
    frame = frame_of(config)
    hidden, width, head_dim = frame.hidden, size(config, "intermediate_size"), frame.head_dim
    sparse = sparse_after_dense({"first_k_dense_replace": 0, **config}, frame.layers)
    shared = integer_or(config, "num_shared_experts", 0) * size(config, "moe_intermediate_size")
    experts = experts_of(config, sparse, shared_width=shared)
    qkv_bias, bias = flag(config, "use_qkv_bias", False), flag(config, "use_bias", False)
    score_bias = "gate.expert_bias" if flag(config, "moe_router_enable_expert_bias", False) else ""
    heads = ("query_layernorm", "key_layernorm") if flag(config, "use_qk_norm", False) else ()
    attention = f"{LAYER}.attention"
    tensors = [
        blocks.embedding("model.word_embeddings", frame.vocab, hidden),
        *blocks.norm("model.norm", hidden),
        *blocks.lm_head(frame.vocab, hidden, tied=frame.tied),
        *blocks.fused_attention(
            attention, hidden, frame.heads, frame.kv_heads, head_dim, frame.layers,
            qkv_bias=qkv_bias, out_bias=bias, names=("query_key_value", "dense"),
        ),
        *(t for name in heads for t in blocks.norm(f"{attention}.{name}", head_dim, frame.layers)),
        *layer_norms(frame, frame.layers),
        *dense_mlp(MLP, hidden, width, without(frame.layers, sparse), bias=bias),
        *routed(MLP, hidden, experts, score_bias=score_bias),
        *shared_expert(f"{MLP}.shared_experts", hidden, shared, sparse),
    ]  # fmt: skip
    return full_moe(
        config, frame, experts, tensors, dense_width=width, rotary=fraction(config, "partial_rotary_factor", 1.0)
    )
