"""Llama 3.2 Vision: a text model with cross-attention layers between the others, and a two-stage image tower."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.common import decoder, rope_of
from fitcalc.architectures.config import Config, flag, head_dim_of, kv_heads_of, layer_count, mapping, size
from fitcalc.architectures.encoder_blocks import (
    convolution,
    cross_attention,
    head_dim_of_tower,
    norms,
    patches_of,
    side_of,
    stored,
    with_defaults,
)
from fitcalc.architectures.multimodal import NO_VISION, WRAPPED, compose, text_part
from fitcalc.errors import ModelFileError
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

_TEXT_DEFAULTS = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
    "vision_positions": 0,
}
_VISION_DEFAULTS = {
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "num_global_layers": 8,
    "attention_heads": 16,
    "num_channels": 3,
    "intermediate_size": 5120,
    "vision_output_dim": 7680,
    "image_size": 448,
    "patch_size": 14,
    "max_num_tiles": 4,
    "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
}
"""Class defaults of MllamaTextConfig and MllamaVisionConfig."""
_IMAGE_TOKENS = 8
"""Rows of the embedding beyond the vocabulary (the model class adds them)."""


def build(config: Config) -> ModelSpec:
    """mllama: cross-attention layers hold K and V of one image, every tile padded; the others grow with the text."""
    vision = with_defaults(mapping(config, "vision_config"), _VISION_DEFAULTS)
    tokens = size(vision, "max_num_tiles") * (patches_of(vision) + 1)
    nested = {**mapping(config, "text_config"), "vision_positions": tokens}
    text = text_part({**config, "text_config": nested}, "mllama_text_model")
    if not mapping(config, "vision_config"):
        return compose(config, text, (), renames=WRAPPED, unknowns=(NO_VISION,))
    projector = blocks.linear(
        "multi_modal_projector", "projector", text.hidden, size(vision, "vision_output_dim"), bias=True,
        part="projector",
    )  # fmt: skip
    return compose(config, text, [*_tower(vision), *projector], renames=WRAPPED)


def build_text(config: Config) -> ModelSpec:
    """mllama_text_model: Llama layers, of which `cross_attention_layers` read image states instead of the text."""
    config = with_defaults(config, _TEXT_DEFAULTS)
    hidden, count = size(config, "hidden_size"), layer_count(config)
    heads = size(config, "num_attention_heads")
    kv_heads, head_dim = kv_heads_of(config, heads), head_dim_of(config, hidden, heads)
    vocab, width = size(config, "vocab_size"), size(config, "intermediate_size")
    tied, layers = flag(config, "tie_word_embeddings", False), tuple(range(count))
    cross = _cross_layers(config, count)
    own = tuple(layer for layer in layers if layer not in frozenset(cross))
    block = "model.layers.{layer}"
    shape = (hidden, heads, kv_heads, head_dim)
    return decoder(
        config,
        tensors=[
            blocks.embedding("model.embed_tokens", vocab + _IMAGE_TOKENS, hidden),
            *blocks.attention(f"{block}.self_attn", *shape, own),
            *(cross_attention(f"{block}.cross_attn", *shape, cross, qk_norm=(head_dim, head_dim)) if cross else []),
            *(stored(f"{block}.cross_attn_{name}_gate", "vector", (1,), cross) for name in ("attn", "mlp") if cross),
            *blocks.gated_mlp(f"{block}.mlp", hidden, width, layers),
            *norms((f"{block}.input_layernorm", f"{block}.post_attention_layernorm"), hidden, layers, bias=False),
            *blocks.norm("model.norm", hidden),
            *blocks.lm_head(vocab, hidden, tied=tied),
        ],
        cache=[*blocks.full_cache(own, kv_heads, head_dim), *_image_cache(config, cross, kv_heads, head_dim)],
        layers=count,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=width,
        vocab=vocab,
        tied=tied,
        attention=blocks.attention_label(heads, kv_heads),
        rope=rope_of(config, head_dim),
    )


def _cross_layers(config: Config, count: int) -> tuple[int, ...]:
    listed = config["cross_attention_layers"]
    fits = isinstance(listed, list) and all(type(layer) is int and 0 <= layer < count for layer in listed)
    if not fits or len(set(listed)) < len(listed):
        hint = f"it has to list layers between 0 and {count - 1}, each once"
        raise ModelFileError(f"config: cross_attention_layers is {listed!r:.40}", hint=hint)
    return tuple(sorted(listed))


def _image_cache(config: Config, layers: tuple[int, ...], kv_heads: int, head_dim: int) -> list[CacheLayer]:
    positions = config["vision_positions"]
    kept = CacheLayer("cross", layers, kv_heads, head_dim, head_dim, window_tokens=positions)
    return [kept] if layers else []


def _tower(config: Config) -> list[Tensor]:
    """Tiles of one image: convolution, gated position tables, local layers, then gated global layers."""
    hidden, prefix = size(config, "hidden_size"), "vision_model"
    channels, patch = size(config, "num_channels"), side_of(config, "patch_size")
    return [
        stored(f"{prefix}.class_embedding", "vector", (hidden,), part="vision"),
        *convolution(f"{prefix}.patch_embedding", (hidden, channels, patch, patch), part="vision"),
        *_positions(config, prefix, hidden),
        *norms((f"{prefix}.layernorm_pre", f"{prefix}.layernorm_post"), hidden, bias=True, part="vision"),
        *_layers(config, f"{prefix}.transformer", "num_hidden_layers", gated=False),
        *_layers(config, f"{prefix}.global_transformer", "num_global_layers", gated=True),
    ]


def _positions(config: Config, prefix: str, hidden: int) -> list[Tensor]:
    """Tables for patches and for tiles; row 0 of the tile tables stands for padding."""
    tiles, patches = size(config, "max_num_tiles"), patches_of(config) + 1
    ratios = config["supported_aspect_ratios"]
    rows = len(ratios) + 1 if isinstance(ratios, list) else 1
    gated = f"{prefix}.gated_positional_embedding"
    tables = [
        (f"{gated}.embedding", (patches, hidden)),
        (f"{gated}.tile_embedding.weight", (rows, tiles * patches * hidden)),
        (f"{prefix}.pre_tile_positional_embedding.embedding.weight", (rows, tiles * hidden)),
        (f"{prefix}.post_tile_positional_embedding.embedding.weight", (rows, tiles * hidden)),
    ]
    gates = (gated, f"{prefix}.pre_tile_positional_embedding", f"{prefix}.post_tile_positional_embedding")
    return [
        *(stored(name, "position_embedding", shape, part="vision") for name, shape in tables),
        *(stored(f"{gate}.gate", "vector", (1,), part="vision") for gate in gates),
    ]


def _layers(config: Config, prefix: str, count_key: str, *, gated: bool) -> list[Tensor]:
    hidden, heads, width = (size(config, key) for key in ("hidden_size", "attention_heads", "intermediate_size"))
    layers, block = tuple(range(layer_count(config, count_key))), f"{prefix}.layers.{{layer}}"
    head_dim = head_dim_of_tower(hidden, heads)
    gates = [stored(f"{block}.gate_{name}", "vector", (1,), layers, part="vision") for name in ("attn", "ffn")]
    return [
        *blocks.attention(f"{block}.self_attn", hidden, heads, heads, head_dim, layers, part="vision"),
        *blocks.plain_mlp(f"{block}.mlp", hidden, width, layers, part="vision"),
        *norms(
            (f"{block}.input_layernorm", f"{block}.post_attention_layernorm"), hidden, layers, bias=True, part="vision"
        ),
        *(gates if gated else []),
    ]
