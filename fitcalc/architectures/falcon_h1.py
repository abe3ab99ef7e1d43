"""Falcon-H1: every layer holds attention and a Mamba-2 mixer side by side, so each keeps both K/V and a state."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.common import rope_of
from fitcalc.architectures.config import Config, flag, integer_or, size
from fitcalc.architectures.granite_hybrid import mamba_part
from fitcalc.architectures.hybrid_layers import hybrid_decoder
from fitcalc.architectures.moe_blocks import frame_of, layer_norms, self_attention
from fitcalc.spec.model import ModelSpec

_BLOCK = "model.layers.{layer}"


def build(config: Config) -> ModelSpec:
    """falcon_h1: the mixer's inner width is mamba_d_ssm (null: mamba_expand × hidden); its gated norm is optional."""
    frame, width = frame_of(config), size(config, "intermediate_size")
    hidden, layers = frame.hidden, frame.layers
    expanded = integer_or(config, "mamba_expand", 2) * hidden
    inner = integer_or(config, "mamba_d_ssm", expanded if "mamba_d_ssm" in config else 1024)
    out_bias, gated_norm = flag(config, "projectors_bias", False), flag(config, "mamba_rms_norm", False)
    mixers, state = mamba_part(config, hidden, layers, inner=inner, gated_norm=gated_norm, out_bias=out_bias)
    bias, mlp_bias = flag(config, "attention_bias", False), flag(config, "mlp_bias", False)
    tensors = [
        blocks.embedding("model.embed_tokens", frame.vocab, hidden),
        *mixers,
        *self_attention(frame, layers, qkv_bias=bias, out_bias=bias),
        *blocks.gated_mlp(f"{_BLOCK}.feed_forward", hidden, width, layers, bias=mlp_bias),
        *layer_norms(frame, layers, names=("input_layernorm", "pre_ff_layernorm")),
        *blocks.norm("model.final_layernorm", hidden),
        *blocks.lm_head(frame.vocab, hidden, tied=frame.tied),
    ]
    cache = [*blocks.full_cache(layers, frame.kv_heads, frame.head_dim), *state]
    rope = rope_of(config, frame.head_dim)
    return hybrid_decoder(config, frame, tensors, cache, mixer="ssm", intermediate=width, rope=rope)
