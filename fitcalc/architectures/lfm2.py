"""LFM2: gated short convolutions with attention on some layers; dense, or experts after the first layers."""

from __future__ import annotations

from typing import Any

from fitcalc.architectures import blocks
from fitcalc.architectures.common import rope_of
from fitcalc.architectures.config import Config, flag, integer, integer_or, size
from fitcalc.architectures.hybrid_layers import FULL, RECURRENT, hybrid_decoder, integers, listed_kinds, where
from fitcalc.architectures.moe_blocks import (
    W1_W3_W2,
    Experts,
    Frame,
    dense_mlp,
    experts_of,
    frame_of,
    layer_norms,
    routed,
)
from fitcalc.architectures.ssm_blocks import convolution, recurrent_cache
from fitcalc.errors import ModelFileError
from fitcalc.spec.model import ModelSpec, Tensor
from fitcalc.units import round_up

_BLOCK = "model.layers.{layer}"


def mlp_width(config: Config) -> int:
    """The MLP's width: two thirds of block_ff_dim, times a factor, rounded up, unless the config switches that off."""
    width = integer(config, "block_ff_dim", "intermediate_size")
    if not flag(config, "block_auto_adjust_ff_dim", True):
        return width
    width = 2 * width // 3
    factor: Any = config.get("block_ffn_dim_multiplier", 1.0)
    if factor is None:
        return width
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < 1000:
        hint = "the factor has to be a positive number"
        raise ModelFileError(f"config: block_ffn_dim_multiplier is {factor!r:.40}", hint=hint)
    return int(round_up(int(factor * width), integer_or(config, "block_multiple_of", 256) or 1))


def _kinds(config: Config, count: int) -> list[str]:
    listed = listed_kinds(config, ("layer_types",), count, (RECURRENT, FULL))
    if listed is not None:
        return listed
    given = config.get("full_attn_idxs") is not None
    attending = set(integers(config, "full_attn_idxs") if given else range(count))
    return [FULL if layer in attending else RECURRENT for layer in range(count)]


def _frame(config: Config) -> Frame:
    tied = flag(config, "tie_embedding", flag(config, "tie_word_embeddings", True))
    return frame_of({**config, "tie_word_embeddings": tied})


def build(config: Config) -> ModelSpec:
    """lfm2: a dense gated MLP on every layer."""
    frame, width = _frame(config), mlp_width(config)
    mlps = dense_mlp(f"{_BLOCK}.feed_forward", frame.hidden, width, frame.layers, names=W1_W3_W2)
    return _lfm2(config, frame, mlps, width)


def build_moe(config: Config) -> ModelSpec:
    """lfm2_moe: experts on all layers after the first num_dense_layers."""
    frame, width = _frame(config), size(config, "intermediate_size")
    first = integer_or(config, "num_dense_layers", 2)
    experts = experts_of(config, frame.layers[first:])
    score_bias = "expert_bias" if flag(config, "use_expert_bias", True) else ""
    mlp = f"{_BLOCK}.feed_forward"
    mlps = [
        *dense_mlp(mlp, frame.hidden, width, frame.layers[:first], names=W1_W3_W2),
        *routed(mlp, frame.hidden, experts, names=W1_W3_W2, score_bias=score_bias),
    ]
    return _lfm2(config, frame, mlps, width if first else 0, experts)


def _lfm2(config: Config, frame: Frame, mlps: list[Tensor], width: int, experts: Experts | None = None) -> ModelSpec:
    kinds, hidden = _kinds(config, frame.count), frame.hidden
    mixing, attending = where(kinds, RECURRENT), where(kinds, FULL)
    kernel, bias = integer_or(config, "conv_L_cache", 3), flag(config, "conv_bias", False)
    attention = blocks.attention(
        f"{_BLOCK}.self_attn",
        hidden,
        frame.heads,
        frame.kv_heads,
        frame.head_dim,
        attending,
        qk_norm=(frame.head_dim, frame.head_dim),
        names=("q_proj", "k_proj", "v_proj", "out_proj"),
        norm_names=("q_layernorm", "k_layernorm"),
    )
    tensors = [
        blocks.embedding("model.embed_tokens", frame.vocab, hidden),
        *blocks.linear(f"{_BLOCK}.conv.in_proj", "ssm_in", 3 * hidden, hidden, mixing, bias=bias),
        *convolution(f"{_BLOCK}.conv.conv", hidden, kernel, mixing, bias=bias),
        *blocks.linear(f"{_BLOCK}.conv.out_proj", "ssm_out", hidden, hidden, mixing, split="rows", bias=bias),
        *attention,
        *mlps,
        *layer_norms(frame, frame.layers, names=("operator_norm", "ffn_norm")),
        *blocks.norm("model.embedding_norm", hidden),
        *blocks.lm_head(frame.vocab, hidden, tied=frame.tied),
    ]
    cache = [
        *blocks.full_cache(attending, frame.kv_heads, frame.head_dim),
        *recurrent_cache(mixing, channels=hidden, kernel=kernel),
    ]
    rope = rope_of(config, frame.head_dim)
    return hybrid_decoder(config, frame, tensors, cache, mixer="conv", intermediate=width, experts=experts, rope=rope)
