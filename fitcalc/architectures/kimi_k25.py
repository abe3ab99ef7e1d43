"""Kimi K2.5: the DeepSeek-V3 text model behind MoonViT, whose states are merged two by two and projected."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, layer_count, mapping, size
from fitcalc.architectures.encoder_blocks import convolution, fused_heads, norms, stored, with_defaults
from fitcalc.architectures.multimodal import NO_VISION, WRAPPED, compose, text_part, two_layer_projector
from fitcalc.spec.model import ModelSpec, Tensor

_DEFAULTS = {
    "patch_size": 14,
    "init_pos_emb_height": 64,
    "init_pos_emb_width": 64,
    "vt_num_attention_heads": 16,
    "vt_num_hidden_layers": 27,
    "vt_hidden_size": 1152,
    "vt_intermediate_size": 4304,
}
"""Class defaults of the vision config."""
_RENAMED = {
    "pos_emb_height": "init_pos_emb_height",
    "pos_emb_width": "init_pos_emb_width",
    "num_attention_heads": "vt_num_attention_heads",
    "num_hidden_layers": "vt_num_hidden_layers",
    "hidden_size": "vt_hidden_size",
    "intermediate_size": "vt_intermediate_size",
}
"""Key in files saved by transformers -> key in the maker's own file."""
_MERGED = 4
"""Patches that one token stands for: a square of two by two."""


def build(config: Config) -> ModelSpec:
    """kimi_k25: text part, tower, projector."""
    text, stated = text_part(config, "deepseek_v3"), mapping(config, "vision_config")
    if not stated:
        return compose(config, text, (), renames=WRAPPED, unknowns=(NO_VISION,))
    vision = with_defaults({_RENAMED.get(key, key): value for key, value in stated.items()}, _DEFAULTS)
    return compose(config, text, [*_tower(vision, "vision_tower"), *_projector(vision, text.hidden)], renames=WRAPPED)


def _tower(config: Config, prefix: str) -> list[Tensor]:
    hidden, heads = size(config, "vt_hidden_size"), size(config, "vt_num_attention_heads")
    layers, block = tuple(range(layer_count(config, "vt_num_hidden_layers"))), f"{prefix}.encoder.blocks.{{layer}}"
    grid, patch = (size(config, "init_pos_emb_height"), size(config, "init_pos_emb_width")), size(config, "patch_size")
    width = size(config, "vt_intermediate_size")
    return [
        *convolution(f"{prefix}.patch_embed.proj", (hidden, 3, patch, patch), bias=True, part="vision"),
        stored(f"{prefix}.patch_embed.pos_emb.weight", "position_embedding", (*grid, hidden), part="vision"),
        *fused_heads(block, hidden, heads, layers, bias=True, names=("wqkv", "wo"), part="vision"),
        *blocks.plain_mlp(f"{block}.mlp", hidden, width, layers, names=("fc0", "fc1"), part="vision"),
        *norms((f"{block}.norm0", f"{block}.norm1"), hidden, layers, bias=True, part="vision"),
        *blocks.norm(f"{prefix}.encoder.final_layernorm", hidden, bias=True, part="vision"),
    ]


def _projector(config: Config, hidden: int) -> list[Tensor]:
    width = size(config, "vt_hidden_size")
    merged = _MERGED * width
    return [
        *blocks.norm("mm_projector.pre_norm", width, bias=True, part="projector"),
        *two_layer_projector("mm_projector.proj", hidden, merged, middle=merged, names=("0", "2")),
    ]
