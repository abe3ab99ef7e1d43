"""Jamba: Mamba-1 layers with an attention layer every few, dense and mixture-of-experts MLPs alternating."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, flag, integer_or, size
from fitcalc.architectures.hybrid_layers import Layers, hybrid_decoder
from fitcalc.architectures.moe_blocks import (
    dense_mlp,
    experts_of,
    frame_of,
    layer_norms,
    routed,
    self_attention,
    without,
)
from fitcalc.architectures.ssm_blocks import dt_rank_of, mamba1, recurrent_cache
from fitcalc.errors import ModelFileError
from fitcalc.spec.model import ModelSpec

_BLOCK = "model.layers.{layer}"
_MLP = f"{_BLOCK}.feed_forward"


def _every(config: Config, count: int, which: str, period: int, offset: int) -> Layers:
    """Layers i with i mod period = offset, from `<which>_period` and `<which>_offset`."""
    step = integer_or(config, f"{which}_period", period)
    first = integer_or(config, f"{which}_offset", offset)
    if not step:
        raise ModelFileError(f"config: {which}_period is 0", hint=f"{which}_period has to be at least 1")
    return tuple(layer for layer in range(count) if layer % step == first)


def build(config: Config) -> ModelSpec:
    """jamba: attention on layers i mod attn_layer_period = attn_layer_offset, without rotary positions."""
    frame, width = frame_of(config), size(config, "intermediate_size")
    hidden, count = frame.hidden, frame.count
    attending = _every(config, count, "attn_layer", 8, 4)
    sparse = _every(config, count, "expert_layer", 2, 1) if config.get("num_experts") != 1 else ()
    mixing, dense = without(frame.layers, attending), without(frame.layers, sparse)
    experts = experts_of(config, sparse, width="intermediate_size") if sparse else None
    inner = integer_or(config, "mamba_expand", 2) * hidden
    state, kernel = integer_or(config, "mamba_d_state", 16), integer_or(config, "mamba_d_conv", 4)
    mamba = mamba1(
        f"{_BLOCK}.mamba",
        hidden,
        inner,
        state,
        kernel,
        dt_rank_of(config, "mamba_dt_rank", hidden),
        mixing,
        bias=flag(config, "mamba_proj_bias", False),
        conv_bias=flag(config, "mamba_conv_bias", True),
        norms=True,
    )
    tensors = [
        blocks.embedding("model.embed_tokens", frame.vocab, hidden),
        *mamba,
        *self_attention(frame, attending),
        *dense_mlp(_MLP, hidden, width, dense),
        *(routed(_MLP, hidden, experts, gate="router") if experts else []),
        *layer_norms(frame, frame.layers, names=("input_layernorm", "pre_ff_layernorm")),
        *blocks.norm("model.final_layernorm", hidden),
        *blocks.lm_head(frame.vocab, hidden, tied=frame.tied),
    ]
    cache = [
        *blocks.full_cache(attending, frame.kv_heads, frame.head_dim),
        *recurrent_cache(mixing, channels=inner, kernel=kernel, state_elems=inner * state),
    ]
    return hybrid_decoder(
        config, frame, tensors, cache, mixer="ssm", intermediate=width if dense else 0, experts=experts
    )
