"""Decoders as data: a `Style` says how a family differs from Llama, `build_as` builds a config in that style.

What a style cannot say (norms that come and go by flag, extra tensors) is a small function beside its table: it puts
the config into the standard keys, or hands over the extra tensors, and calls `build_as`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from fitcalc.architectures import blocks
from fitcalc.architectures.common import decoder, max_context_of, rope_of, rotary_dim_of
from fitcalc.architectures.config import (
    Config,
    flag,
    head_dim_of,
    integer,
    integer_or,
    kv_heads_of,
    layer_count,
    layer_kinds,
    size,
)
from fitcalc.errors import ModelFileError
from fitcalc.frozen import dataclass, field
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, slots=True)
class Style:
    """How a decoder family differs from Llama. Names are relative to the block; a bias is a constant or a key."""

    keys: Mapping[str, str] = field(default_factory=dict)
    """Standard key -> the family's own spelling."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The class defaults of keys that a config may leave out (a null stays a null)."""
    block: str = "model.layers.{layer}"
    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    attention: str = "self_attn"
    projections: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Four names, or two where Q, K and V are one matrix."""
    multi_head: bool = False
    """K and V have as many heads as Q whatever the config says."""
    qkv_bias: bool | str = False
    out_bias: bool | str = False
    mlp: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    """Gate, up and down, or up and down."""
    fused_gate: bool = False
    """Of two MLP matrices, the first holds gate and up."""
    mlp_bias: bool | str = False
    width_per_hidden: int = 0
    """MLP width over hidden width where the config leaves it out; 0: it may not."""
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    norm_bias: bool | str = False
    qk_norm: Literal["", "head", "all_heads", "heads_by_dim"] = ""
    """Norms on Q and K: over one head, over all heads at once, or with a (heads, head_dim) weight."""
    qk_norm_key: str = ""
    """The key that switches them on; '' for always."""
    qk_norm_names: tuple[str, str] = ("q_norm", "k_norm")
    qk_norm_bias: bool = False
    head_bias: bool = False
    positions: str = ""
    """Name of a learned position table."""
    position_offset: int = 0
    embedding_norm: str = ""
    window: Literal["", "all", "above", "pattern"] = ""
    """Which layers slide when no layer_types say so: none, all, those from max_window_layers on, all but every nth."""
    pattern: int = 0
    rotary: float | None = 1.0
    """Share of a head that is rotated unless the config says; None: no rotary positions."""
    rope_tables: int = 1


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder, read and checked."""

    hidden: int
    layers: tuple[int, ...]
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    vocab: int
    tied: bool


ExtraTensors = Callable[[Config, Shape], list[Tensor]]


def build_as(config: Config, style: Style, *, extra: ExtraTensors | None = None, **more: Any) -> ModelSpec:
    """The ModelSpec of a decoder in this style; `more` are further ModelSpec fields (notes, unknowns …)."""
    config = standard(config, style)
    shape = shape_of(config, style)
    kinds = window_kinds(config, style, len(shape.layers))
    sliding = "+sliding" if SLIDING in kinds else ""
    rotary_dim = 0 if style.rotary is None else rotary_dim_of(config, shape.head_dim, style.rotary)
    return decoder(
        config,
        tensors=[*tensors_of(config, style, shape), *(extra(config, shape) if extra else ())],
        cache=attention_cache(config, kinds, shape.kv_heads, shape.head_dim),
        layers=len(shape.layers),
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate=shape.width,
        vocab=shape.vocab,
        tied=shape.tied,
        attention=blocks.attention_label(shape.heads, shape.kv_heads) + sliding,
        rope=rope_of(config, rotary_dim, tables=style.rope_tables),
        gated=len(style.mlp) == 3 or style.fused_gate,
        **more,
    )


def standard(config: Config, style: Style) -> Config:
    """The config with the family's own key spellings under their standard names and class defaults filled in."""
    own = {name: config[key] for name, key in style.keys.items() if key in config and config.get(name) is None}
    return {**style.defaults, **config, **own}


def shape_of(config: Config, style: Style) -> Shape:
    """The sizes in a config that has passed `standard`; errors name the family's own key beside the standard one."""

    def names(key: str) -> tuple[str, ...]:
        return (key, style.keys[key]) if key in style.keys else (key,)

    def stated(key: str) -> int:
        return size(config, *names(key))

    hidden, heads = stated("hidden_size"), stated("num_attention_heads")
    head_dim = head_dim_of(config, hidden, heads)
    if not head_dim:
        raise ModelFileError(f"config: {heads} heads in a width of {hidden}", hint="a head has at least one dimension")
    free_width = style.width_per_hidden and config.get("intermediate_size") is None
    return Shape(
        hidden=hidden,
        layers=tuple(range(layer_count(config, *names("num_hidden_layers")))),
        heads=heads,
        kv_heads=heads if style.multi_head else kv_heads_of(config, heads),
        head_dim=head_dim,
        width=hidden * style.width_per_hidden if free_width else stated("intermediate_size"),
        vocab=stated("vocab_size"),
        tied=flag(config, "tie_word_embeddings", False),
    )


def tensors_of(config: Config, style: Style, shape: Shape) -> list[Tensor]:
    """Every tensor of the model; `config` has passed `standard`."""
    norm_bias = _says(config, style.norm_bias)
    outside = [name for name in (style.embedding_norm, style.final_norm) if name]
    return [
        blocks.embedding(style.embedding, shape.vocab, shape.hidden),
        *_positions(config, style, shape),
        *layer_tensors(config, style, shape),
        *(tensor for name in outside for tensor in blocks.norm(name, shape.hidden, bias=norm_bias)),
        *blocks.lm_head(shape.vocab, shape.hidden, tied=shape.tied, bias=style.head_bias, name=style.head),
    ]


def layer_tensors(config: Config, style: Style, shape: Shape) -> list[Tensor]:
    """The tensors of the layers alone."""
    norm_bias = _says(config, style.norm_bias)
    places = [f"{style.block}.{name}" for name in style.norms]
    return [
        *_attention(config, style, shape),
        *_qk_norms(config, style, shape),
        *_mlp(config, style, shape),
        *(tensor for place in places for tensor in blocks.norm(place, shape.hidden, shape.layers, bias=norm_bias)),
    ]


def _says(config: Config, bias: bool | str) -> bool:
    return flag(config, bias, False) if isinstance(bias, str) else bias


def _positions(config: Config, style: Style, shape: Shape) -> list[Tensor]:
    if not style.positions:
        return []
    rows = integer(config, "max_position_embeddings") + style.position_offset
    return [blocks.embedding(style.positions, rows, shape.hidden, role="position_embedding", split="replicated")]


def _attention(config: Config, style: Style, shape: Shape) -> list[Tensor]:
    prefix, names = f"{style.block}.{style.attention}", style.projections
    sizes = (shape.hidden, shape.heads, shape.kv_heads, shape.head_dim, shape.layers)
    qkv_bias, out_bias = _says(config, style.qkv_bias), _says(config, style.out_bias)
    if len(names) == 2:
        two = (names[0], names[1])
        return blocks.fused_attention(prefix, *sizes, qkv_bias=qkv_bias, out_bias=out_bias, names=two)
    four = (names[0], names[1], names[2], names[3])
    return blocks.attention(prefix, *sizes, qkv_bias=qkv_bias, out_bias=out_bias, names=four)


def _qk_norms(config: Config, style: Style, shape: Shape) -> list[Tensor]:
    if not style.qk_norm or (style.qk_norm_key and not flag(config, style.qk_norm_key, False)):
        return []
    tensors: list[Tensor] = []
    for name, heads in zip(style.qk_norm_names, (shape.heads, shape.kv_heads), strict=True):
        place = f"{style.block}.{style.attention}.{name}"
        if style.qk_norm == "heads_by_dim":
            tensors.append(Tensor(f"{place}.weight", "norm", (heads, shape.head_dim), shape.layers))
        else:
            width = shape.head_dim * (heads if style.qk_norm == "all_heads" else 1)
            tensors += blocks.norm(place, width, shape.layers, bias=style.qk_norm_bias)
    return tensors


def _mlp(config: Config, style: Style, shape: Shape) -> list[Tensor]:
    names, bias = style.mlp, _says(config, style.mlp_bias)
    sizes = (shape.hidden, shape.width, shape.layers)
    if len(names) == 3:
        return blocks.gated_mlp(style.block, *sizes, bias=bias, names=(names[0], names[1], names[2]))
    build = blocks.fused_gated_mlp if style.fused_gate else blocks.plain_mlp
    return build(style.block, *sizes, bias=bias, names=(names[0], names[1]))


def window_kinds(config: Config, style: Style, count: int) -> tuple[str, ...]:
    """full_attention or sliding_attention for each layer; a window that reaches the longest context still slides."""
    window = integer_or(config, "sliding_window", 0)
    if style.window == "above" and not flag(config, "use_sliding_window", False):
        window = 0
    fallback = [FULL] * count
    if style.window == "all":
        fallback = [SLIDING] * count
    elif style.window == "above":
        first = integer_or(config, "max_window_layers", count)
        fallback = [SLIDING if i >= first else FULL for i in range(count)]
    elif style.window == "pattern" and window:
        fallback = pattern_kinds(config, style.pattern, count)
    kinds = layer_kinds(config, count, fallback, (FULL, SLIDING))
    return kinds if window else (FULL,) * count


def pattern_kinds(config: Config, default: int, count: int) -> list[str]:
    """Every nth layer full and the others sliding; a pattern in letters repeats (L local, G global)."""
    keys = ("sliding_window_pattern", "_sliding_window_pattern")
    stated = next((config[key] for key in keys if config.get(key) is not None), default)
    if isinstance(stated, str):
        if not stated or set(stated) - {"L", "G"}:
            raise ModelFileError(f"config: sliding_window_pattern is {stated!r:.40}", hint="a string of L and G")
        return [SLIDING if stated[i % len(stated)] == "L" else FULL for i in range(count)]
    every = size({keys[0]: stated}, keys[0])
    return [SLIDING if (i + 1) % every else FULL for i in range(count)]


def attention_cache(config: Config, kinds: Sequence[str], kv_heads: int, head_dim: int) -> list[CacheLayer]:
    """Full and sliding cache layers; a window that reaches the model's longest context keeps every token."""
    window, longest = integer_or(config, "sliding_window", 0), max_context_of(config)
    sliding = [i for i, kind in enumerate(kinds) if kind == SLIDING]
    if longest and window >= longest:
        sliding = []
    full = sorted(set(range(len(kinds))) - set(sliding))
    return [
        *blocks.full_cache(full, kv_heads, head_dim),
        *blocks.window_cache(sliding, kv_heads, head_dim, window),
    ]
