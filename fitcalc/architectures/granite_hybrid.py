"""Attention among Mamba-2 layers with an MLP after each: Granite 4 (dense or experts with a shared MLP) and Bamba."""

from __future__ import annotations

from typing import Any

from fitcalc.architectures import blocks
from fitcalc.architectures.common import rope_of
from fitcalc.architectures.config import Config, flag, integer, integer_or, size
from fitcalc.architectures.hybrid_layers import FULL, RECURRENT, Layers, hybrid_decoder, integers, listed_kinds, where
from fitcalc.architectures.moe_blocks import Frame, experts_of, frame_of, layer_norms, self_attention, stacked_experts
from fitcalc.architectures.ssm_blocks import mamba2, mamba2_cache, state_dtype_of
from fitcalc.errors import ModelFileError
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

_BLOCK = "model.layers.{layer}"


def mamba_head_dim(config: Config, heads: int, inner: int) -> int:
    """mamba_d_head; 'auto' or nothing divides the inner width among the heads."""
    value = config.get("mamba_d_head")
    if value not in (None, "auto"):
        return integer(config, "mamba_d_head")
    if not heads:
        raise ModelFileError("config: mamba_n_heads is 0", hint="a Mamba-2 layer needs at least one head")
    return inner // heads


def mamba_part(
    config: Config,
    hidden: int,
    layers: Layers,
    *,
    inner: int = 0,
    gated_norm: bool = True,
    out_bias: bool | None = None,
) -> tuple[list[Tensor], list[CacheLayer]]:
    """The Mamba-2 mixers `mamba` of `layers` and their state, from the mamba_* keys these families share."""
    heads, groups = integer(config, "mamba_n_heads"), integer_or(config, "mamba_n_groups", 1)
    head_dim = mamba_head_dim(config, heads, inner or integer_or(config, "mamba_expand", 2) * hidden)
    state, kernel = integer_or(config, "mamba_d_state", 256), integer_or(config, "mamba_d_conv", 4)
    mixers = mamba2(
        f"{_BLOCK}.mamba",
        hidden,
        heads,
        head_dim,
        groups,
        state,
        kernel,
        layers,
        bias=flag(config, "mamba_proj_bias", False),
        out_bias=out_bias,
        conv_bias=flag(config, "mamba_conv_bias", True),
        gated_norm=gated_norm,
    )
    state_dtype = state_dtype_of(config, "mamba_ssm_cache_dtype")
    return mixers, mamba2_cache(layers, heads, head_dim, groups, state, kernel, state_dtype)


def build(config: Config) -> ModelSpec:
    """granitemoehybrid. Without experts the shared MLP is the MLP; experts are stacked in the checkpoint."""
    frame, moe = frame_of(config), f"{_BLOCK}.block_sparse_moe"
    keys, hidden, layers = ("layer_types", "layers_block_type"), frame.hidden, frame.layers
    kinds = listed_kinds(config, keys, frame.count, (RECURRENT, FULL)) or [RECURRENT] * frame.count
    shared, sparse = integer_or(config, "shared_intermediate_size", 1024), config.get("num_local_experts") != 0
    roles = ("shared_gate_up", "shared_down") if sparse else ("mlp_gate_up", "mlp_down")
    mlps = [
        *blocks.linear(f"{_BLOCK}.shared_mlp.input_linear", roles[0], 2 * shared, hidden, layers),
        *blocks.linear(f"{_BLOCK}.shared_mlp.output_linear", roles[1], hidden, shared, layers, split="rows"),
    ]
    experts = None
    if sparse:
        experts = experts_of(config, layers, "num_local_experts", "intermediate_size", shared_width=shared)
        stacked = {f"{moe}.input_linear.weight": "expert_gate_up", f"{moe}.output_linear.weight": "expert_down"}
        mlps += blocks.router(f"{moe}.router.layer", hidden, experts.count, layers)
        mlps += stacked_experts(stacked, hidden, experts)
    rotary = frame.head_dim if config.get("position_embedding_type") == "rope" else 0
    norms = ("input_layernorm", "post_attention_layernorm", "model.norm")
    more = {"rope": rope_of(config, rotary), "experts": experts, "intermediate": 0 if sparse else shared}
    return _hybrid(config, frame, kinds, mlps, norms, more)


def build_bamba(config: Config) -> ModelSpec:
    """bamba: attention on attn_layer_indices, half of each head rotated, dense gated MLPs."""
    frame, width = frame_of(config), size(config, "intermediate_size")
    attending = set(integers(config, "attn_layer_indices"))
    kinds = [FULL if layer in attending else RECURRENT for layer in frame.layers]
    bias = flag(config, "mlp_bias", False)
    mlps = blocks.gated_mlp(f"{_BLOCK}.feed_forward", frame.hidden, width, frame.layers, bias=bias)
    norms = ("input_layernorm", "pre_ff_layernorm", "model.final_layernorm")
    more = {"rope": rope_of(config, frame.head_dim // 2), "intermediate": width}
    return _hybrid(config, frame, kinds, mlps, norms, more)


def _hybrid(
    config: Config,
    frame: Frame,
    kinds: list[str],
    mlps: list[Tensor],
    norms: tuple[str, str, str],
    more: dict[str, Any],
) -> ModelSpec:
    mixing, attending = where(kinds, RECURRENT), where(kinds, FULL)
    mixers, state = mamba_part(config, frame.hidden, mixing) if mixing else ([], [])
    bias = flag(config, "attention_bias", False)
    tensors = [
        blocks.embedding("model.embed_tokens", frame.vocab, frame.hidden),
        *mixers,
        *self_attention(frame, attending, qkv_bias=bias, out_bias=bias),
        *mlps,
        *layer_norms(frame, frame.layers, names=norms[:2]),
        *blocks.norm(norms[2], frame.hidden),
        *blocks.lm_head(frame.vocab, frame.hidden, tied=frame.tied),
    ]
    if not mixing:
        more["attention"] = blocks.attention_label(frame.heads, frame.kv_heads)
    cache = [*blocks.full_cache(attending, frame.kv_heads, frame.head_dim), *state]
    return hybrid_decoder(config, frame, tensors, cache, mixer="ssm", **more)
