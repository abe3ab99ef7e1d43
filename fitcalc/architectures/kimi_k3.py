"""Kimi K3: the text model of kimi_linear behind a vision tower (MoonViT) and a two-matrix patch merger."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, integer_or, layer_count, mapping, size
from fitcalc.architectures.kimi_linear import build as build_text
from fitcalc.errors import ModelFileError
from fitcalc.frozen import replace
from fitcalc.spec.model import ModelSpec, Tensor

_TOWER = "vision_tower"
_BLOCK = f"{_TOWER}.encoder.blocks.{{layer}}"


def _merged(vision: Config) -> int:
    """Patches that the projector merges into one."""
    kernel = vision.get("merge_kernel_size", [2, 2])
    if not isinstance(kernel, list | tuple) or len(kernel) != 2:
        raise ModelFileError(f"config: merge_kernel_size is {kernel!r:.40}", hint="it has to hold two whole numbers")
    high, wide = (size({"merge_kernel_size": side}, "merge_kernel_size") for side in kernel)
    return high * wide


def _vision(vision: Config) -> list[Tensor]:
    """The tower without biases: fused Q, K, V of their own width, two-matrix MLPs, a learned grid of positions."""
    hidden, width = size(vision, "vt_hidden_size"), size(vision, "vt_intermediate_size")
    inner, layers = (
        integer_or(vision, "qkv_hidden_size", hidden),
        tuple(range(layer_count(vision, "vt_num_hidden_layers"))),
    )
    patch, grid = size(vision, "patch_size"), (size(vision, "init_pos_emb_height"), size(vision, "init_pos_emb_width"))
    heads = size(vision, "vt_num_attention_heads")
    qkv = blocks.linear(
        f"{_BLOCK}.wqkv", "attn_qkv", 3 * inner, hidden, layers, split="heads", part="vision",
        kv_heads=heads, kv_rows=2 * inner,
    )  # fmt: skip
    return [
        Tensor(f"{_TOWER}.patch_embed.proj.weight", "conv", (hidden, 3, patch, patch), part="vision"),
        Tensor(f"{_TOWER}.patch_embed.pos_emb.weight", "position_embedding", (*grid, hidden), part="vision"),
        *qkv,
        *blocks.linear(f"{_BLOCK}.wo", "attn_o", hidden, inner, layers, split="rows", part="vision"),
        *blocks.plain_mlp(f"{_BLOCK}.mlp", hidden, width, layers, bias=False, names=("fc0", "fc1"), part="vision"),
        *blocks.norm(f"{_BLOCK}.norm0", hidden, layers, part="vision"),
        *blocks.norm(f"{_BLOCK}.norm1", hidden, layers, part="vision"),
        *blocks.norm(f"{_TOWER}.encoder.final_layernorm", hidden, part="vision"),
    ]


def _projector(vision: Config, hidden: int) -> list[Tensor]:
    merged = _merged(vision) * size(vision, "vt_hidden_size")
    return [
        *blocks.linear("mm_projector.proj.0", "projector", merged, merged, part="projector"),
        *blocks.linear("mm_projector.proj.2", "projector", hidden, merged, split="rows", part="projector"),
        *blocks.norm("mm_projector.post_norm", hidden, part="projector"),
    ]


def build(config: Config) -> ModelSpec:
    """kimi_k3: text_config (kimi_linear) and vision_config; checkpoint names carry language_model before the text."""
    vision = mapping(config, "vision_config")
    inherited = {key: config[key] for key in ("dtype", "tie_word_embeddings") if key in config}
    text = build_text({**inherited, **mapping(config, "text_config")})
    tensors = [replace(tensor, name=f"language_model.{tensor.name}") for tensor in text.tensors]
    if vision:
        tensors += [*_vision(vision), *_projector(vision, text.hidden)]
    model_type = str(config.get("model_type", ""))
    return replace(
        text, id=model_type, name=model_type, family=model_type, model_type=model_type, tensors=tuple(tensors)
    )
