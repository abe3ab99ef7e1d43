"""Step-3.5 and Step-3.7 Flash: windowed layers with more query heads, a gate per head, a shared expert, dense MTP."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.blocks import Layers
from fitcalc.architectures.common import rope_of
from fitcalc.architectures.config import Config, flag, integer_or, mapping, size
from fitcalc.architectures.moe_blocks import (
    ATTENTION,
    LAYER,
    Experts,
    Frame,
    dense_mlp,
    ends,
    experts_of,
    frame_of,
    layer_norms,
    marked,
    moe_decoder,
    mtp,
    mtp_layers,
    router_bias,
    shared_expert,
    sparse_after_dense,
    stacked_experts,
    without,
)
from fitcalc.errors import ModelFileError
from fitcalc.frozen import replace
from fitcalc.spec.model import ModelSpec, Tensor

MLP = f"{LAYER}.mlp"
KINDS = ("full_attention", "sliding_attention")
TEXT_DEFAULTS = {"first_k_dense_replace": 3}
VISION_DEFAULTS = {
    "width": 1536,
    "layers": 47,
    "image_size": 728,
    "patch_size": 14,
    "num_channels": 3,
    "intermediate_size": 8960,
}
"""Defaults of the model class, for files that leave the tower out."""
_OTHER_NAMES = {
    "num_key_value_heads": ("num_attention_groups",),
    "n_routed_experts": ("moe_num_experts", "num_experts"),
    "num_experts_per_tok": ("moe_top_k",),
    "share_expert_dim": ("share_expert_dims",),
    "width": ("hidden_size",),
    "layers": ("num_hidden_layers",),
}


def build(config: Config) -> ModelSpec:
    """step3p7: the text model (under text_config, or flat) with its vision tower and projector."""
    nested = mapping(config, "text_config")
    spec = text({**nested, "model_type": config.get("model_type")} if nested else config)
    vision = _renamed({**VISION_DEFAULTS, **_renamed(mapping(config, "vision_config"), ("width", "layers"))}, ())
    projector = blocks.linear(
        "vit_large_projector", "projector", spec.hidden, 4 * size(vision, "width"), split="replicated",
        bias=flag(config, "projector_bias", False), part="projector",
    )  # fmt: skip
    return replace(spec, tensors=(*spec.tensors, *_vision(vision), *projector))


def text(config: Config) -> ModelSpec:
    """step3p5: the windowed layers have head counts of their own; MTP layers are windowed and dense."""
    config = {**TEXT_DEFAULTS, **_renamed(config, tuple(_OTHER_NAMES))}
    frame = frame_of(config)
    extra, width = mtp_layers(config, frame), size(config, "intermediate_size")
    experts = experts_of(
        config,
        _sparse(config, frame.layers),
        "n_routed_experts",
        shared_width=integer_or(config, "share_expert_dim", 0),
    )
    sliding = _sliding(config, (*frame.layers, *extra), frame.count)
    windowed = tuple(layer for layer in frame.layers if layer in sliding)
    tensors = [
        *ends(frame),
        *_layer(config, frame, frame.layers, sliding),
        *dense_mlp(MLP, frame.hidden, width, without(frame.layers, experts.layers)),
        *_moe(config, frame, experts),
        *mtp(
            frame,
            extra,
            [*_layer(config, frame, extra, sliding), *dense_mlp(MLP, frame.hidden, width, extra)],
            embedding="",
            head="transformer.shared_head.output",
            norm="transformer.shared_head.norm",
        ),
    ]
    window = size(config, "sliding_window") if windowed else 0
    return moe_decoder(
        config,
        frame,
        experts,
        tensors,
        cache=[
            *blocks.full_cache(without(frame.layers, windowed), frame.kv_heads, frame.head_dim),
            *blocks.window_cache(windowed, frame.kv_heads, frame.head_dim, window),
        ],
        attention=blocks.attention_label(frame.heads, frame.kv_heads) + ("+sliding" if windowed else ""),
        dense_width=width,
        rope=rope_of(config, frame.head_dim, tables=2 if windowed else 1),
    )


def _renamed(config: Config, keys: tuple[str, ...]) -> Config:
    """The config with `keys` filled from the other names that files use for them."""
    found = {
        key: config[other]
        for key in keys
        if config.get(key) is None
        for other in _OTHER_NAMES[key]
        if config.get(other) is not None
    }
    return {**config, **found}


def _sparse(config: Config, layers: Layers) -> Layers:
    """The sparse layers: numbered in moe_layers_enum ('3,4,5'), else as in DeepSeek-like configs."""
    numbered = config.get("moe_layers_enum")
    if not isinstance(numbered, str):
        return sparse_after_dense(config, layers)
    parts = [part.strip() for part in numbered.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ModelFileError("config: moe_layers_enum is not a list of numbers", hint="write layer numbers: '3,4,5'")
    named = set(parts)
    return tuple(layer for layer in layers if str(layer) in named)


def _sliding(config: Config, layers: Layers, own: int) -> frozenset[int]:
    """The windowed ones among the model's `own` layers and the MTP layers behind them (windowed unless listed)."""
    listed = config.get("layer_types")
    if not isinstance(listed, list | tuple):
        return frozenset()
    padded = {"layer_types": [*listed, *(KINDS[1] for _ in layers[own:])]} if len(listed) == own else config
    return frozenset(marked(padded, "layer_types", layers, KINDS[1:], KINDS[:1]) or ())


def _layer(config: Config, frame: Frame, layers: Layers, sliding: frozenset[int]) -> list[Tensor]:
    """Attention of both kinds, with norms on query and key heads and one gate per head, and the layer's norms."""
    other = mapping(config, "attention_other_setting")
    more_heads = integer_or({**other, **config}, "num_sliding_attention_heads", 0) or integer_or(
        other, "num_attention_heads", frame.heads
    )
    windowed = tuple(layer for layer in layers if layer in sliding)
    bias, qk_norm = flag(config, "attention_bias", False), (frame.head_dim, frame.head_dim)
    return [
        tensor
        for owned, heads in ((without(layers, windowed), frame.heads), (windowed, more_heads))
        if owned
        for tensor in (
            *blocks.attention(
                ATTENTION, frame.hidden, heads, frame.kv_heads, frame.head_dim, owned,
                qkv_bias=bias, out_bias=bias, qk_norm=qk_norm,
            ),
            *blocks.linear(f"{ATTENTION}.g_proj", "attn_gate", heads, frame.hidden, owned),
            *layer_norms(frame, owned),
        )
    ]  # fmt: skip


def _moe(config: Config, frame: Frame, experts: Experts) -> list[Tensor]:
    """Router, experts stored as one tensor per projection, shared expert."""
    moe, hidden = f"{LAYER}.moe", frame.hidden
    if not experts.layers:
        return []
    stacked = {f"{moe}.{name}_proj.weight": f"expert_{name}" for name in ("gate", "up", "down")}
    score_bias = [router_bias(f"{moe}.router_bias", experts.count, experts.layers)]
    return [
        *blocks.router(f"{moe}.gate", hidden, experts.count, experts.layers),
        *(score_bias if flag(config, "use_moe_router_bias", True) else []),
        *stacked_experts(stacked, hidden, experts),
        *shared_expert(f"{LAYER}.share_expert", hidden, experts.shared_width, experts.layers),
    ]


def _vision(config: Config) -> list[Tensor]:
    """The tower: patches, learned positions, layers with scaled branches, two convolutions that halve the grid."""
    width, count, patch = size(config, "width"), size(config, "layers"), size(config, "patch_size")
    inner, channels = size(config, "intermediate_size"), size(config, "num_channels")
    layers, block = tuple(range(count)), "vision_model.transformer.resblocks.{layer}"
    positions = (size(config, "image_size") // patch) ** 2
    convolutions = {
        "vision_model.conv1.weight": (width, channels, patch, patch),
        "vision_model.vit_downsampler1.weight": (2 * width, width, 3, 3),
        "vision_model.vit_downsampler1.bias": (2 * width,),
        "vision_model.vit_downsampler2.weight": (4 * width, 2 * width, 3, 3),
        "vision_model.vit_downsampler2.bias": (4 * width,),
    }
    return [
        *(Tensor(name, "conv", shape, part="vision") for name, shape in convolutions.items()),
        Tensor("vision_model.positional_embedding", "position_embedding", (positions, width), part="vision"),
        *blocks.norm("vision_model.ln_pre", width, bias=True, part="vision"),
        *blocks.linear(f"{block}.attn.in_proj", "attn_qkv", 3 * width, width, layers, bias=True, part="vision"),
        *blocks.linear(
            f"{block}.attn.out_proj", "attn_o", width, width, layers, split="rows", bias=True, part="vision"
        ),
        *blocks.plain_mlp(f"{block}.mlp", width, inner, layers, names=("c_fc", "c_proj"), part="vision"),
        *(t for n in ("ln_1", "ln_2") for t in blocks.norm(f"{block}.{n}", width, layers, bias=True, part="vision")),
        *(blocks.vector(f"{block}.{n}.gamma", "vector", width, layers, part="vision") for n in ("ls_1", "ls_2")),
    ]
