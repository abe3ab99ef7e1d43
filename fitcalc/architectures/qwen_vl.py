"""Qwen-VL (2, 2.5, 3, 3.5): a tower over pairs of frames that takes any image size, and mergers into the text width."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, layer_count, mapping, size
from fitcalc.architectures.encoder_blocks import convolution, fused_heads, norms, side_of, stored, with_defaults
from fitcalc.architectures.multimodal import NESTED, NO_VISION, Renames, compose, text_part, two_layer_projector
from fitcalc.spec.model import ModelSpec, Tensor

_SHARED = {"depth": 32, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
_QWEN2 = {**_SHARED, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4}
_QWEN25 = {**_SHARED, "hidden_size": 3584, "intermediate_size": 3420, "out_hidden_size": 3584}
_QWEN3 = {
    **_SHARED,
    "depth": 27,
    "patch_size": 16,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "out_hidden_size": 3584,
    "num_position_embeddings": 2304,
}
"""Class defaults of the three vision configs."""
_TEXT_TYPES = {
    "qwen2_vl": "qwen2_vl_text",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen3_vl": "qwen3_vl_text",
    "qwen3_vl_moe": "qwen3_vl_moe_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
}


def build_2(config: Config) -> ModelSpec:
    """qwen2_vl: LayerNorm and a plain MLP; the tower's own width is `embed_dim`, `hidden_size` is the text's."""
    vision = with_defaults(mapping(config, "vision_config"), _QWEN2)
    hidden, block = size(vision, "embed_dim"), "visual.blocks.{layer}"
    layers, width = _layers(vision), hidden * size(vision, "mlp_ratio")
    return _joined(
        config,
        [
            *_patches(vision, "visual", hidden, bias=False),
            *_attention(vision, block, hidden),
            *blocks.plain_mlp(f"{block}.mlp", hidden, width, layers, part="vision"),
            *norms((f"{block}.norm1", f"{block}.norm2"), hidden, layers, bias=True, part="vision"),
            *blocks.norm("visual.merger.ln_q", hidden, bias=True, part="projector"),
            *_merger(vision, "visual.merger.mlp", hidden, size(vision, "hidden_size"), ("0", "2")),
        ],
        {},
    )


def build_25(config: Config) -> ModelSpec:
    """qwen2_5_vl: RMSNorm and a gated MLP with biases."""
    vision = with_defaults(mapping(config, "vision_config"), _QWEN25)
    hidden, width, block = size(vision, "hidden_size"), size(vision, "intermediate_size"), "visual.blocks.{layer}"
    layers = _layers(vision)
    return _joined(
        config,
        [
            *_patches(vision, "visual", hidden, bias=False),
            *_attention(vision, block, hidden),
            *blocks.gated_mlp(f"{block}.mlp", hidden, width, layers, bias=True, part="vision"),
            *norms((f"{block}.norm1", f"{block}.norm2"), hidden, layers, bias=False, part="vision"),
            *blocks.norm("visual.merger.ln_q", hidden, part="projector"),
            *_merger(vision, "visual.merger.mlp", hidden, size(vision, "out_hidden_size"), ("0", "2")),
        ],
        {},
    )


def build_3(config: Config) -> ModelSpec:
    """qwen3_vl, qwen3_5 and their mixtures: learned positions, and one more merger per layer of `deepstack`."""
    vision = with_defaults(mapping(config, "vision_config"), _QWEN3)
    hidden, width = size(vision, "hidden_size"), size(vision, "intermediate_size")
    prefix, layers = "model.visual", _layers(vision)
    block, positions = f"{prefix}.blocks.{{layer}}", size(vision, "num_position_embeddings")
    return _joined(
        config,
        [
            *_patches(vision, prefix, hidden, bias=True),
            stored(f"{prefix}.pos_embed.weight", "position_embedding", (positions, hidden), part="vision"),
            *_attention(vision, block, hidden),
            *blocks.plain_mlp(f"{block}.mlp", hidden, width, layers, names=("linear_fc1", "linear_fc2"), part="vision"),
            *norms((f"{block}.norm1", f"{block}.norm2"), hidden, layers, bias=True, part="vision"),
            *blocks.norm(f"{prefix}.merger.norm", hidden, bias=True, part="projector"),
            *_merger(vision, f"{prefix}.merger", hidden, size(vision, "out_hidden_size"), _FC),
            *_deepstack(vision, prefix, hidden),
        ],
        NESTED,
    )


_FC = ("linear_fc1", "linear_fc2")


def _joined(config: Config, towers: list[Tensor], renames: Renames) -> ModelSpec:
    text = text_part(config, _TEXT_TYPES[str(config["model_type"])])
    if not mapping(config, "vision_config"):
        return compose(config, text, (), renames=renames, unknowns=(NO_VISION,))
    return compose(config, text, towers, renames=renames)


def _layers(vision: Config) -> tuple[int, ...]:
    return tuple(range(layer_count(vision, "depth")))


def _patches(vision: Config, prefix: str, hidden: int, *, bias: bool) -> list[Tensor]:
    channels = size({"in_channels": 3, "in_chans": vision.get("in_chans"), **vision}, "in_chans", "in_channels")
    patch, frames = side_of(vision, "patch_size"), side_of(vision, "temporal_patch_size")
    shape = (hidden, channels, frames, patch, patch)
    return convolution(f"{prefix}.patch_embed.proj", shape, bias=bias, part="vision")


def _attention(vision: Config, block: str, hidden: int) -> list[Tensor]:
    heads = size(vision, "num_heads")
    return fused_heads(f"{block}.attn", hidden, heads, _layers(vision), bias=True, names=("qkv", "proj"), part="vision")


def _merger(vision: Config, prefix: str, hidden: int, out: int, names: tuple[str, str]) -> list[Tensor]:
    """A square of patches becomes one token: their states side by side through two linears."""
    merged = hidden * size(vision, "spatial_merge_size") ** 2
    return two_layer_projector(prefix, out, merged, middle=merged, names=names)


def _deepstack(vision: Config, prefix: str, hidden: int) -> list[Tensor]:
    """Mergers that feed states of middle layers into the first text layers; their norm sees the merged width."""
    tapped = vision.get("deepstack_visual_indexes")
    count = len(tapped) if isinstance(tapped, list) else 0
    merged, out = hidden * size(vision, "spatial_merge_size") ** 2, size(vision, "out_hidden_size")
    return [
        tensor
        for index in range(count)
        for tensor in (
            *blocks.norm(f"{prefix}.deepstack_merger_list.{index}.norm", merged, bias=True, part="projector"),
            *_merger(vision, f"{prefix}.deepstack_merger_list.{index}", hidden, out, _FC),
        )
    ]
