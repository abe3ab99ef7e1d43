"""MiniMax-Text-01 and M1: lightning attention with full attention every eighth layer, experts on every layer."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.common import rope_of, rotary_dim_of
from fitcalc.architectures.config import Config, integer_or
from fitcalc.architectures.hybrid_layers import FULL, RECURRENT, Layers, hybrid_decoder, integers, listed_kinds, where
from fitcalc.architectures.moe_blocks import (
    W1_W3_W2,
    Frame,
    ends,
    experts_of,
    frame_of,
    layer_norms,
    routed,
    self_attention,
)
from fitcalc.architectures.ssm_blocks import recurrent_cache, sharded
from fitcalc.errors import ModelFileError, UnsupportedModelError
from fitcalc.spec.model import ModelSpec, Tensor

_BLOCK = "model.layers.{layer}"


def _kinds(config: Config, count: int) -> list[str]:
    """attn_type_list (0 lightning, 1 full) or layer_types; without either every second layer is full."""
    listed = listed_kinds(config, ("layer_types",), count, (RECURRENT, FULL))
    if listed is not None:
        return listed
    codes = integers(config, "attn_type_list")
    if not codes:
        return [RECURRENT if layer % 2 else FULL for layer in range(count)]
    if len(codes) != count:
        raise ModelFileError(f"config: attn_type_list has {len(codes)} entries for {count} layers", hint="one a layer")
    if not set(codes) <= {0, 1}:
        hint = "0 is lightning attention, 1 full attention"
        raise UnsupportedModelError("config: attn_type_list holds a kind that is not known", hint=hint)
    return [FULL if code else RECURRENT for code in codes]


def _lightning(frame: Frame, layers: Layers) -> list[Tensor]:
    """Linear attention without K/V grouping: fused Q, K, V, a gate, a norm over all heads, an output projection."""
    name, hidden, width = f"{_BLOCK}.self_attn", frame.hidden, frame.heads * frame.head_dim
    return [
        *blocks.linear(f"{name}.qkv_proj", "linear_in", 3 * width, hidden, layers),
        *blocks.linear(f"{name}.output_gate", "linear_in", width, hidden, layers),
        sharded(f"{name}.norm.weight", "norm", (width,), layers),
        *blocks.linear(f"{name}.out_proj", "linear_out", hidden, width, layers, split="rows"),
    ]


def build(config: Config) -> ModelSpec:
    """minimax, minimax_text_01, minimax_m1: a lightning layer keeps a head_dim × head_dim matrix for each head."""
    if integer_or(config, "shared_intermediate_size", 0):
        hint = "no published model of this family has shared experts"
        raise UnsupportedModelError("config: shared_intermediate_size is not 0", hint=hint)
    frame = frame_of(config)
    kinds = _kinds(config, frame.count)
    mixing, attending = where(kinds, RECURRENT), where(kinds, FULL)
    experts = experts_of(config, frame.layers, "num_local_experts", "intermediate_size")
    tensors = [
        *ends(frame),
        *_lightning(frame, mixing),
        *self_attention(frame, attending),
        *routed(f"{_BLOCK}.block_sparse_moe", frame.hidden, experts, names=W1_W3_W2),
        *layer_norms(frame, frame.layers),
    ]
    cache = [
        *blocks.full_cache(attending, frame.kv_heads, frame.head_dim),
        *recurrent_cache(mixing, state_elems=frame.heads * frame.head_dim * frame.head_dim),
    ]
    rope = rope_of(config, rotary_dim_of(config, frame.head_dim))
    return hybrid_decoder(config, frame, tensors, cache, mixer="linear", intermediate=0, experts=experts, rope=rope)
