"""Llama 4 with its image tower: patches unfolded into a linear, shuffled to fewer tokens by an adapter MLP."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, layer_count, mapping, size
from fitcalc.architectures.encoder_blocks import (
    head_dim_of_tower,
    norms,
    patches_of,
    side_of,
    stored,
    with_defaults,
)
from fitcalc.architectures.multimodal import NO_VISION, WRAPPED, compose, text_part, two_layer_projector
from fitcalc.spec.model import ModelSpec, Tensor

_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 34,
    "num_attention_heads": 16,
    "num_channels": 3,
    "intermediate_size": 5632,
    "vision_output_dim": 7680,
    "image_size": 448,
    "patch_size": 14,
    "projector_input_dim": 4096,
    "projector_output_dim": 4096,
}
"""Class defaults of Llama4VisionConfig."""


def build(config: Config) -> ModelSpec:
    """llama4: text part, image tower, one linear between them."""
    text = text_part(config, "llama4_text")
    if not mapping(config, "vision_config"):
        return compose(config, text, (), renames=WRAPPED, unknowns=(NO_VISION,))
    vision = with_defaults(mapping(config, "vision_config"), _DEFAULTS)
    projector = blocks.linear(
        "multi_modal_projector.linear_1", "projector", text.hidden, size(vision, "vision_output_dim"),
        part="projector",
    )  # fmt: skip
    return compose(config, text, [*_tower(vision, "vision_model"), *projector], renames=WRAPPED)


def _tower(config: Config, prefix: str) -> list[Tensor]:
    hidden, heads, width = (size(config, key) for key in ("hidden_size", "num_attention_heads", "intermediate_size"))
    layers, block = tuple(range(layer_count(config))), f"{prefix}.model.layers.{{layer}}"
    pixels = size(config, "num_channels") * side_of(config, "patch_size") ** 2
    positions = (patches_of(config) + 1, hidden)
    patches = f"{prefix}.patch_embedding.linear"
    return [
        stored(f"{prefix}.class_embedding", "vector", (hidden,), part="vision"),
        stored(f"{prefix}.positional_embedding_vlm", "position_embedding", positions, part="vision"),
        *blocks.linear(patches, "other", hidden, pixels, split="replicated", part="vision"),
        *norms((f"{prefix}.layernorm_pre", f"{prefix}.layernorm_post"), hidden, bias=True, part="vision"),
        *blocks.attention(
            f"{block}.self_attn", hidden, heads, heads, head_dim_of_tower(hidden, heads), layers, qkv_bias=True,
            out_bias=True, part="vision",
        ),
        *blocks.plain_mlp(f"{block}.mlp", hidden, width, layers, part="vision"),
        *norms(
            (f"{block}.input_layernorm", f"{block}.post_attention_layernorm"), hidden, layers, bias=True, part="vision"
        ),
        *_adapter(config, f"{prefix}.vision_adapter.mlp"),
    ]  # fmt: skip


def _adapter(config: Config, prefix: str) -> list[Tensor]:
    """Patches shuffled side by side fill the width of the MLP; two linears follow."""
    shuffled, width = size(config, "intermediate_size"), size(config, "projector_input_dim")
    out = size(config, "projector_output_dim")
    return two_layer_projector(prefix, out, shuffled, bias=False, middle=width, names=("fc1", "fc2"))
