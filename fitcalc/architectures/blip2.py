"""BLIP-2: an image tower, a Q-Former that reads it through learned queries, and OPT or T5 behind a projection."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, layer_count, mapping, size
from fitcalc.architectures.encoder_blocks import (
    convolution,
    cross_attention,
    fused_heads,
    head_dim_of_tower,
    norms,
    patches_of,
    side_of,
    stored,
    whole,
    with_defaults,
)
from fitcalc.architectures.multimodal import WRAPPED, compose, text_part
from fitcalc.spec.model import ModelSpec, Tensor

_VISION_DEFAULTS = {
    "hidden_size": 1408,
    "intermediate_size": 6144,
    "num_hidden_layers": 39,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
_QFORMER_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "cross_attention_frequency": 2,
    "encoder_hidden_size": 1408,
}
_QUERIES = {"num_query_tokens": 32}
"""Class defaults of the three configs."""
_QKVO = ("attention.query", "attention.key", "attention.value", "output.dense")


def build(config: Config) -> ModelSpec:
    """blip-2: the text part keeps its own kind (decoder with OPT, encoder-decoder with T5)."""
    text = text_part(config, "opt")
    qformer = with_defaults(mapping(config, "qformer_config"), _QFORMER_DEFAULTS)
    queries, narrow = size(with_defaults(config, _QUERIES), "num_query_tokens"), size(qformer, "hidden_size")
    projection = blocks.linear(
        "language_projection", "projector", text.hidden, narrow, split="replicated", bias=True, part="projector"
    )
    towers = [
        *_tower(with_defaults(mapping(config, "vision_config"), _VISION_DEFAULTS), "vision_model"),
        stored("query_tokens", "vector", (1, queries, narrow), part="projector"),
        *whole(_qformer(qformer, "qformer")),
        *projection,
    ]
    return compose(config, text, towers, renames=WRAPPED)


def _tower(config: Config, prefix: str) -> list[Tensor]:
    """EVA-CLIP ViT-g without its last layer: class token, learned positions, fused Q K V."""
    hidden, heads, width = (size(config, key) for key in ("hidden_size", "num_attention_heads", "intermediate_size"))
    layers, block = tuple(range(layer_count(config))), f"{prefix}.encoder.layers.{{layer}}"
    patch, tables = side_of(config, "patch_size"), f"{prefix}.embeddings"
    positions = (1, patches_of(config) + 1, hidden)
    return [
        stored(f"{tables}.class_embedding", "vector", (1, 1, hidden), part="vision"),
        stored(f"{tables}.position_embedding", "position_embedding", positions, part="vision"),
        *convolution(f"{tables}.patch_embedding", (hidden, 3, patch, patch), bias=True, part="vision"),
        *fused_heads(
            f"{block}.self_attn", hidden, heads, layers, bias=True, names=("qkv", "projection"), part="vision"
        ),
        *blocks.plain_mlp(f"{block}.mlp", hidden, width, layers, part="vision"),
        *norms((f"{block}.layer_norm1", f"{block}.layer_norm2"), hidden, layers, bias=True, part="vision"),
        *blocks.norm(f"{prefix}.post_layernorm", hidden, bias=True, part="vision"),
    ]


def _qformer(config: Config, prefix: str) -> list[Tensor]:
    """BERT layers over the queries; every `cross_attention_frequency`-th one also reads the image."""
    hidden, heads, width = (size(config, key) for key in ("hidden_size", "num_attention_heads", "intermediate_size"))
    layers, block = tuple(range(layer_count(config))), f"{prefix}.encoder.layer.{{layer}}"
    reading = layers[:: size(config, "cross_attention_frequency")]
    head_dim, memory = head_dim_of_tower(hidden, heads), size(config, "encoder_hidden_size")
    own = blocks.attention(
        f"{block}.attention", hidden, heads, heads, head_dim, layers, qkv_bias=True, out_bias=True, names=_QKVO,
        part="projector",
    )  # fmt: skip
    image = cross_attention(
        f"{block}.crossattention", hidden, heads, heads, head_dim, reading, memory=memory, bias=True, names=_QKVO,
        part="projector",
    )  # fmt: skip
    mlp = ("intermediate_query.dense", "output_query.dense")
    return [
        *own,
        *image,
        *blocks.plain_mlp(block, hidden, width, layers, names=mlp, part="projector"),
        *norms(
            (f"{block}.attention.output.LayerNorm", f"{block}.output_query.LayerNorm"), hidden, layers, bias=True,
            part="projector",
        ),
        *blocks.norm(f"{block}.crossattention.output.LayerNorm", hidden, reading, bias=True, part="projector"),
        *blocks.norm(f"{prefix}.layernorm", hidden, bias=True, part="projector"),
    ]  # fmt: skip
