"""Image towers that many models share: CLIP, SigLIP and Pixtral, as the tensors of their checkpoints.

A tower is `(config, prefix) -> list[Tensor]`; `prefix` is the path of the tower's own module. Linears are divided
like those of a decoder; patch convolutions, positions and norms are whole on every rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, flag, layer_count, size
from fitcalc.architectures.encoder_blocks import (
    convolution,
    head_dim_of_tower,
    norms,
    patches_of,
    side_of,
    stored,
    with_defaults,
)
from fitcalc.errors import UnsupportedModelError
from fitcalc.spec.model import Part, Tensor

_SQUARE = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768, "intermediate_size": 3072}
_CLIP_DEFAULTS = {**_SQUARE, "num_channels": 3, "image_size": 224, "patch_size": 32}
_SIGLIP_DEFAULTS = {**_SQUARE, "num_channels": 3, "image_size": 224, "patch_size": 16}
_PIXTRAL_DEFAULTS = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 1024,
    "patch_size": 16,
}
"""Class defaults of transformers: published configs leave keys out that equal them."""
_QKVO = ("q_proj", "k_proj", "v_proj", "out_proj")


def width_of(config: Config) -> int:
    """The width of a tower's output states."""
    return size(_filled(config), "hidden_size")


def is_known(config: Config) -> bool:
    """Whether `tower` can take apart the tower that this config describes."""
    return str(config.get("model_type", "")) in _TOWERS


def tower(config: Config, prefix: str) -> list[Tensor]:
    """The tower named by the config's model_type. Raises UnsupportedModelError for one that is not known."""
    kind = str(config.get("model_type", ""))
    if kind not in _TOWERS:
        hint = f"known towers: {', '.join(sorted(_TOWERS))}"
        raise UnsupportedModelError(f"vision tower {kind!r:.60} is not known", hint=hint)
    return _TOWERS[kind][0](config, prefix)


def clip_layers(config: Config, prefix: str, *, part: Part = "vision") -> list[Tensor]:
    """The layers of CLIP's and SigLIP's towers and of CLIP's text model: pre-norm, biases everywhere."""
    hidden, heads, width = (size(config, key) for key in ("hidden_size", "num_attention_heads", "intermediate_size"))
    layers, block = tuple(range(layer_count(config))), f"{prefix}.encoder.layers.{{layer}}"
    head_dim = head_dim_of_tower(hidden, heads)
    return [
        *blocks.attention(
            f"{block}.self_attn", hidden, heads, heads, head_dim, layers, qkv_bias=True, out_bias=True, names=_QKVO,
            part=part,
        ),
        *blocks.plain_mlp(f"{block}.mlp", hidden, width, layers, part=part),
        *norms((f"{block}.layer_norm1", f"{block}.layer_norm2"), hidden, layers, bias=True, part=part),
    ]  # fmt: skip


def _patch_shape(config: Config) -> tuple[int, int, int, int]:
    patch = side_of(config, "patch_size")
    return size(config, "hidden_size"), size(config, "num_channels"), patch, patch


def clip_tower(config: Config, prefix: str, *, part: Part = "vision") -> list[Tensor]:
    """CLIP ViT: class token, learned positions, norms before and after the layers."""
    config = with_defaults(config, _CLIP_DEFAULTS)
    hidden, tables = size(config, "hidden_size"), f"{prefix}.embeddings"
    positions = (patches_of(config) + 1, hidden)
    return [
        stored(f"{tables}.class_embedding", "vector", (hidden,), part=part),
        *convolution(f"{tables}.patch_embedding", _patch_shape(config), part=part),
        stored(f"{tables}.position_embedding.weight", "position_embedding", positions, part=part),
        *clip_layers(config, prefix, part=part),
        # the name is misspelt in every published checkpoint
        *norms((f"{prefix}.pre_layrnorm", f"{prefix}.post_layernorm"), hidden, bias=True, part=part),
    ]


def siglip_tower(config: Config, prefix: str, *, part: Part = "vision") -> list[Tensor]:
    """SigLIP ViT: no class token; an attention pool at the end unless `vision_use_head` is false."""
    config = with_defaults(config, _SIGLIP_DEFAULTS)
    hidden, tables = size(config, "hidden_size"), f"{prefix}.embeddings"
    positions = (patches_of(config), hidden)
    return [
        *convolution(f"{tables}.patch_embedding", _patch_shape(config), bias=True, part=part),
        stored(f"{tables}.position_embedding.weight", "position_embedding", positions, part=part),
        *clip_layers(config, prefix, part=part),
        *blocks.norm(f"{prefix}.post_layernorm", hidden, bias=True, part=part),
        *(_siglip_pool(config, f"{prefix}.head", hidden, part) if flag(config, "vision_use_head", True) else []),
    ]


def _siglip_pool(config: Config, prefix: str, hidden: int, part: Part) -> list[Tensor]:
    """One learned query attends to all patches; torch's attention module keeps Q, K and V in one parameter."""
    width = size(config, "intermediate_size")
    return [
        stored(f"{prefix}.probe", "vector", (1, 1, hidden), part=part),
        stored(f"{prefix}.attention.in_proj_weight", "other", (3 * hidden, hidden), part=part),
        blocks.vector(f"{prefix}.attention.in_proj_bias", "bias", 3 * hidden, part=part),
        *blocks.linear(
            f"{prefix}.attention.out_proj", "other", hidden, hidden, split="replicated", bias=True, part=part
        ),
        *blocks.norm(f"{prefix}.layernorm", hidden, bias=True, part=part),
        *blocks.plain_mlp(f"{prefix}.mlp", hidden, width, part=part, layers=()),
    ]


def pixtral_tower(config: Config, prefix: str) -> list[Tensor]:
    """Pixtral ViT: gated MLP, RMSNorm, rotary positions in two dimensions, no biases."""
    config = with_defaults(config, _PIXTRAL_DEFAULTS)
    hidden, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
    layers, block = tuple(range(layer_count(config))), f"{prefix}.transformer.layers.{{layer}}"
    width, head_dim = size(config, "intermediate_size"), head_dim_of_tower(hidden, heads)
    return [
        *convolution(f"{prefix}.patch_conv", _patch_shape(config), part="vision"),
        *blocks.norm(f"{prefix}.ln_pre", hidden, part="vision"),
        *blocks.attention(f"{block}.attention", hidden, heads, heads, head_dim, layers, part="vision"),
        *blocks.gated_mlp(f"{block}.feed_forward", hidden, width, layers, part="vision"),
        *norms((f"{block}.attention_norm", f"{block}.ffn_norm"), hidden, layers, bias=False, part="vision"),
    ]


_Tower = Callable[[Config, str], list[Tensor]]
_TOWERS: dict[str, tuple[_Tower, dict[str, Any]]] = {
    "clip_vision_model": (clip_tower, _CLIP_DEFAULTS),
    "pixtral": (pixtral_tower, _PIXTRAL_DEFAULTS),
    "siglip_vision_model": (siglip_tower, _SIGLIP_DEFAULTS),
}


def _filled(config: Config) -> dict[str, Any]:
    kind = _TOWERS.get(str(config.get("model_type", "")))
    return with_defaults(config, kind[1] if kind else {})
