"""Gemma 3n's text model: per-layer embeddings, alternating updates of four streams, and layers that share a cache.

The last `num_kv_shared_layers` layers read the cache of an earlier layer; the checkpoint still holds their K and V
projections, and the published count includes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fitcalc.architectures import blocks
from fitcalc.architectures.common import decoder, rope_of, rotary_dim_of
from fitcalc.architectures.config import Config, flag, integer_or, layer_kinds, size
from fitcalc.architectures.style import FULL, SLIDING, Shape, Style, attention_cache, shape_of, standard
from fitcalc.errors import ModelFileError
from fitcalc.frozen import replace
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

_STYLE = Style(
    defaults={
        "attention_bias": False,
        "altup_num_inputs": 4,
        "head_dim": 256,
        "hidden_size_per_layer_input": 256,
        "intermediate_size": 16384,
        "laurel_rank": 64,
        "num_key_value_heads": 2,
        "num_kv_shared_layers": 15,
        "sliding_window": 512,
        "tie_word_embeddings": True,
        "vocab_size_per_layer_input": 262144,
    }
)
_BLOCK = "model.layers.{layer}"
_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
    "post_per_layer_input_norm",
    "altup.router_norm",
    "laurel.post_laurel_norm",
)


def build(config: Config) -> ModelSpec:
    """gemma3n_text: intermediate_size is one width, or one a layer."""
    config = standard(config, _STYLE)
    widths = _widths(config)
    shape = shape_of({**config, "intermediate_size": max(widths) if widths else config["intermediate_size"]}, _STYLE)
    count = len(shape.layers)
    if widths and len(widths) != count:
        raise ModelFileError(f"config: {len(widths)} widths for {count} layers", hint="intermediate_size: one a layer")
    kinds = layer_kinds(config, count, [SLIDING if (i + 1) % 5 else FULL for i in range(count)], (FULL, SLIDING))
    owners = owning_layers(config, kinds)
    cache = attention_cache(config, kinds, shape.kv_heads, shape.head_dim)
    return decoder(
        config,
        tensors=[
            blocks.embedding("model.embed_tokens", shape.vocab, shape.hidden),
            *_attention(config, shape),
            *_mlps(shape, widths or [shape.width] * count),
            *_streams(config, shape),
            *(tensor for name in _NORMS for tensor in blocks.norm(f"{_BLOCK}.{name}", shape.hidden, shape.layers)),
            *per_layer_embeddings(config, shape, size(config, "hidden_size_per_layer_input")),
            *blocks.norm("model.norm", shape.hidden),
            *blocks.lm_head(shape.vocab, shape.hidden, tied=shape.tied),
        ],
        cache=owned_by(cache, owners),
        layers=count,
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate=shape.width,
        vocab=shape.vocab,
        tied=shape.tied,
        attention=blocks.attention_label(shape.heads, shape.kv_heads) + ("+sliding" if SLIDING in kinds else ""),
        rope=rope_of(config, rotary_dim_of(config, shape.head_dim), tables=2),
    )


def _widths(config: Config) -> list[int]:
    """The MLP width of each layer where the config lists them; empty where one width serves all."""
    listed = config["intermediate_size"]
    return [size({"intermediate_size": w}, "intermediate_size") for w in listed] if isinstance(listed, list) else []


def owning_layers(config: Config, kinds: Sequence[str]) -> range:
    """The layers that own a cache. Raises ModelFileError where a sharing layer has no earlier layer of its kind."""
    shared = integer_or(config, "num_kv_shared_layers", 0)
    first = len(kinds) - shared
    if shared and (first < 1 or set(kinds[:first]) != set(kinds)):
        hint = "each kind of layer needs one that owns its cache"
        raise ModelFileError(f"config: num_kv_shared_layers is {shared} of {len(kinds)} layers", hint=hint)
    return range(first)


def owned_by(cache: Iterable[CacheLayer], owners: range) -> list[CacheLayer]:
    """The cache layers of the owners alone."""
    kept = (replace(entry, layers=tuple(i for i in entry.layers if i in owners)) for entry in cache)
    return [entry for entry in kept if entry.layers]


def _attention(config: Config, shape: Shape) -> list[Tensor]:
    bias = flag(config, "attention_bias", False)
    return blocks.attention(
        f"{_BLOCK}.self_attn", shape.hidden, shape.heads, shape.kv_heads, shape.head_dim, shape.layers,
        qkv_bias=bias, out_bias=bias, qk_norm=(shape.head_dim, shape.head_dim),
    )  # fmt: skip


def _mlps(shape: Shape, widths: Sequence[int]) -> list[Tensor]:
    alike = {width: tuple(i for i in shape.layers if widths[i] == width) for width in dict.fromkeys(widths)}
    return [
        tensor
        for width, layers in alike.items()
        for tensor in blocks.gated_mlp(f"{_BLOCK}.mlp", shape.hidden, width, layers)
    ]


def _streams(config: Config, shape: Shape) -> list[Tensor]:
    """AltUp's coefficients and the low-rank residual; the projections between streams stand outside the layers."""
    hidden, layers = shape.hidden, shape.layers
    inputs, rank = size(config, "altup_num_inputs"), size(config, "laurel_rank")
    small = (
        ("altup.correction_coefs", inputs, inputs),
        ("altup.prediction_coefs", inputs * inputs, inputs),
        ("altup.modality_router", inputs, hidden),
        ("laurel.linear_left", rank, hidden),
        ("laurel.linear_right", hidden, rank),
    )
    between = [
        Tensor(f"model.{name}.{{expert}}.weight", "other", (hidden, hidden), (), inputs - 1, inputs - 1, is_linear=True)
        for name in ("altup_projections", "altup_unembed_projections")
    ]
    return [
        blocks.vector(f"{_BLOCK}.altup.correct_output_scale", "vector", hidden, layers),
        *(
            tensor
            for name, rows, columns in small
            for tensor in blocks.linear(f"{_BLOCK}.{name}", "other", rows, columns, layers, split="replicated")
        ),
        *(between if inputs > 1 else ()),
    ]


def per_layer_embeddings(config: Config, shape: Shape, width: int) -> list[Tensor]:
    """One table that holds an embedding of `width` for every layer, and what mixes it into the layers."""
    rows, hidden, layers = size(config, "vocab_size_per_layer_input"), shape.hidden, shape.layers
    every = len(layers) * width
    return [
        blocks.embedding("model.embed_tokens_per_layer", rows, every, role="per_layer_embedding"),
        *blocks.linear("model.per_layer_model_projection", "other", every, hidden, split="replicated"),
        *blocks.norm("model.per_layer_projection_norm", width),
        *blocks.linear(f"{_BLOCK}.per_layer_input_gate", "other", width, hidden, layers, split="replicated"),
        *blocks.linear(f"{_BLOCK}.per_layer_projection", "other", hidden, width, layers, split="replicated"),
    ]
