"""Olmo Hybrid: gated delta layers with separate projections, every fourth layer attending with its norms behind."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.common import rope_of
from fitcalc.architectures.config import Config, flag, integer_or, size
from fitcalc.architectures.gated_delta import Delta, delta_cache, input_projections
from fitcalc.architectures.hybrid_layers import FULL, RECURRENT, Layers, hybrid_decoder, listed_kinds, where
from fitcalc.architectures.moe_blocks import Frame, frame_of, layer_norms, self_attention
from fitcalc.architectures.ssm_blocks import convolution, sharded
from fitcalc.errors import ModelFileError
from fitcalc.spec.model import ModelSpec, Tensor

_BLOCK = "model.layers.{layer}"


def _delta_of(config: Config, hidden: int, heads: int) -> Delta:
    key_heads = integer_or(config, "linear_num_key_heads", heads)
    if not key_heads:
        raise ModelFileError("config: linear_num_key_heads is 0", hint="a delta layer needs at least one head")
    key_dim = integer_or(config, "linear_key_head_dim", 3 * hidden // (4 * key_heads))
    return Delta(
        key_heads,
        key_dim,
        integer_or(config, "linear_num_value_heads", heads),
        integer_or(config, "linear_value_head_dim", 2 * key_dim),
        integer_or(config, "linear_conv_kernel_dim", 4),
    )


def _delta_layers(hidden: int, delta: Delta, layers: Layers) -> list[Tensor]:
    name, heads = f"{_BLOCK}.linear_attn", delta.value_heads
    rows = {"q": delta.keys, "k": delta.keys, "v": delta.values, "g": delta.values, "a": heads, "b": heads}
    inputs = input_projections(name, {f"{part}_proj": width for part, width in rows.items()}, hidden, layers)
    convolutions = [
        convolution(f"{name}.{part}_conv1d", rows[part], delta.kernel, layers, bias=False) for part in ("q", "k", "v")
    ]
    return [
        *inputs,
        *(tensor for part in convolutions for tensor in part),
        sharded(f"{name}.A_log", "vector", (heads,), layers),
        sharded(f"{name}.dt_bias", "vector", (heads,), layers),
        *blocks.norm(f"{name}.o_norm", delta.value_dim, layers),
        *blocks.linear(f"{name}.o_proj", "linear_out", hidden, delta.values, layers, split="rows"),
        *blocks.norm(f"{_BLOCK}.attention_layer_norm", hidden, layers),
        *blocks.norm(f"{_BLOCK}.feedforward_layer_norm", hidden, layers),
    ]


def _attending_layers(config: Config, frame: Frame, layers: Layers) -> list[Tensor]:
    bias, norms = flag(config, "attention_bias", False), ("post_attention_layernorm", "post_feedforward_layernorm")
    widths = (frame.heads * frame.head_dim, frame.kv_heads * frame.head_dim)
    return [
        *self_attention(frame, layers, qkv_bias=bias, out_bias=bias, qk_norm=widths),
        *layer_norms(frame, layers, names=norms),
    ]


def build(config: Config) -> ModelSpec:
    """olmo_hybrid: norms before the delta layers and their MLPs, after attention and its MLPs; norms on all of Q, K."""
    frame = frame_of(config)
    hidden, width, vocab = frame.hidden, size(config, "intermediate_size"), frame.vocab
    fallback = [FULL if layer % 4 == 3 else RECURRENT for layer in frame.layers]
    kinds = listed_kinds(config, ("layer_types",), frame.count, (RECURRENT, FULL)) or fallback
    mixing, attending = where(kinds, RECURRENT), where(kinds, FULL)
    delta = _delta_of(config, hidden, frame.heads)
    tensors = [
        blocks.embedding("model.embed_tokens", vocab, hidden),
        *_delta_layers(hidden, delta, mixing),
        *_attending_layers(config, frame, attending),
        *blocks.gated_mlp(f"{_BLOCK}.mlp", hidden, width, frame.layers),
        *blocks.norm("model.norm", hidden),
        *blocks.lm_head(vocab, hidden, tied=frame.tied),
    ]
    cache = [*blocks.full_cache(attending, frame.kv_heads, frame.head_dim), *delta_cache(mixing, delta)]
    rope = rope_of(config, frame.head_dim)
    return hybrid_decoder(config, frame, tensors, cache, mixer="linear", intermediate=width, rope=rope)
