"""Whisper: a convolutional audio front, an encoder over a fixed window of sound, and a text decoder."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.common import decoder
from fitcalc.architectures.config import Config, layer_count, size
from fitcalc.architectures.encoder_blocks import (
    convolution,
    cross_attention,
    head_dim_of_tower,
    norms,
    stored,
    with_defaults,
    without_key_bias,
)
from fitcalc.spec.model import CacheLayer, ModelSpec, Part, Tensor

_DEFAULTS = {"num_mel_bins": 80, "max_source_positions": 1500, "max_target_positions": 448}
_QKVO = ("q_proj", "k_proj", "v_proj", "out_proj")
_KERNEL = 3
"""Both convolutions of the audio front are three frames wide."""


def build(config: Config) -> ModelSpec:
    """whisper: the head is the token embedding; K projections have no bias; both position tables are stored."""
    config = with_defaults(config, _DEFAULTS)
    hidden, vocab = size(config, "d_model"), size(config, "vocab_size")
    above, below = layer_count(config, "encoder_layers"), layer_count(config, "decoder_layers")
    heads = size(config, "decoder_attention_heads")
    head_dim = head_dim_of_tower(hidden, heads)
    sound, answer = size(config, "max_source_positions"), size(config, "max_target_positions")
    own = tuple(range(below))
    return decoder(
        config,
        tensors=[
            *_front(config, hidden),
            stored("model.encoder.embed_positions.weight", "position_embedding", (sound, hidden), part="encoder"),
            *_stack(config, "encoder", hidden, tuple(range(above))),
            blocks.embedding("model.decoder.embed_tokens", vocab, hidden),
            stored("model.decoder.embed_positions.weight", "position_embedding", (answer, hidden)),
            *_stack(config, "decoder", hidden, own),
        ],
        cache=[
            *blocks.full_cache(own, heads, head_dim),
            CacheLayer("cross", own, heads, head_dim, head_dim, window_tokens=sound),
        ],
        layers=max(above, below),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        intermediate=size(config, "decoder_ffn_dim"),
        vocab=vocab,
        tied=True,
        attention="encdec(mha)",
        gated=False,
        kind="encoder-decoder",
        max_context_tokens=answer,
    )


def _front(config: Config, hidden: int) -> list[Tensor]:
    bins = size(config, "num_mel_bins")
    return [
        *convolution("model.encoder.conv1", (hidden, bins, _KERNEL), bias=True, part="encoder"),
        *convolution("model.encoder.conv2", (hidden, hidden, _KERNEL), bias=True, part="encoder"),
    ]


def _stack(config: Config, name: str, hidden: int, layers: tuple[int, ...]) -> list[Tensor]:
    part: Part = "encoder" if name == "encoder" else "text"
    block = f"model.{name}.layers.{{layer}}"
    heads, width = size(config, f"{name}_attention_heads"), size(config, f"{name}_ffn_dim")
    head_dim = head_dim_of_tower(hidden, heads)
    attention = blocks.attention(
        f"{block}.self_attn", hidden, heads, heads, head_dim, layers, qkv_bias=True, out_bias=True, names=_QKVO,
        part=part,
    )  # fmt: skip
    sublayers = ["self_attn_layer_norm", "final_layer_norm"]
    if name == "decoder":
        sublayers.append("encoder_attn_layer_norm")
        attention += cross_attention(
            f"{block}.encoder_attn", hidden, heads, heads, head_dim, layers, bias=True, names=_QKVO, part=part
        )
    return [
        *without_key_bias(attention),
        *blocks.plain_mlp(block, hidden, width, layers, part=part),
        *norms([f"{block}.{sublayer}" for sublayer in sublayers], hidden, layers, bias=True, part=part),
        *blocks.norm(f"model.{name}.layer_norm", hidden, bias=True, part=part),
    ]
