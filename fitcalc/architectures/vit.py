"""ViT: an image cut into patches and read by a pre-norm encoder; the class named decides pooler or classifier."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, flag, layer_count, size
from fitcalc.architectures.encoder_blocks import (
    class_of,
    convolution,
    encoder,
    head_dim_of_tower,
    labels_of,
    norms,
    patches_of,
    side_of,
    stored,
    with_defaults,
)
from fitcalc.errors import UnsupportedModelError
from fitcalc.spec.model import ModelSpec, Tensor

_DEFAULTS = {"image_size": 224, "patch_size": 16, "num_channels": 3}
_HEADS = ("ForImageClassification", "Model")


def build(config: Config) -> ModelSpec:
    """vit: patch embedding, class token, learned positions, encoder layers, pooler or classifier."""
    config, made_by = with_defaults(config, _DEFAULTS), class_of(config, "ViTModel")
    if not made_by.endswith(_HEADS):
        raise UnsupportedModelError(f"class {made_by!r:.60} is not known", hint=f"known endings: {', '.join(_HEADS)}")
    hidden, count = size(config, "hidden_size"), layer_count(config)
    heads, width = size(config, "num_attention_heads"), size(config, "intermediate_size")
    classifies = made_by.endswith("ForImageClassification")
    prefix = "vit." if classifies else ""
    last = ("classifier", labels_of(config)) if classifies else ("pooler.dense", hidden)
    return encoder(
        config,
        tensors=[
            *_embeddings(config, f"{prefix}embeddings", hidden),
            *_layers(config, f"{prefix}encoder.layer.{{layer}}", hidden, heads, width, tuple(range(count))),
            *blocks.norm(f"{prefix}layernorm", hidden, bias=True, part="encoder"),
            *blocks.linear(*_dense(last, hidden), split="replicated", bias=True, part="encoder"),
        ],
        layers=count,
        hidden=hidden,
        heads=heads,
        intermediate=width,
    )


def _dense(last: tuple[str, int], hidden: int) -> tuple[str, str, int, int]:
    name, outputs = last
    return name, "other", outputs, hidden


def _embeddings(config: Config, prefix: str, hidden: int) -> list[Tensor]:
    patch, channels = side_of(config, "patch_size"), size(config, "num_channels")
    projection = f"{prefix}.patch_embeddings.projection"
    return [
        stored(f"{prefix}.cls_token", "vector", (1, 1, hidden), part="encoder"),
        stored(
            f"{prefix}.position_embeddings", "position_embedding", (1, patches_of(config) + 1, hidden), part="encoder"
        ),
        *convolution(projection, (hidden, channels, patch, patch), bias=True, part="encoder"),
    ]


def _layers(config: Config, block: str, hidden: int, heads: int, width: int, layers: tuple[int, ...]) -> list[Tensor]:
    names = ("attention.query", "attention.key", "attention.value", "output.dense")
    return [
        *blocks.attention(
            f"{block}.attention", hidden, heads, heads, head_dim_of_tower(hidden, heads), layers,
            qkv_bias=flag(config, "qkv_bias", True), out_bias=True, names=names, part="encoder",
        ),
        *blocks.plain_mlp(
            block, hidden, width, layers, names=("intermediate.dense", "output.dense"), part="encoder"
        ),
        *norms(
            (f"{block}.layernorm_before", f"{block}.layernorm_after"), hidden, layers, bias=True, part="encoder"
        ),
    ]  # fmt: skip
