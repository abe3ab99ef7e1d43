"""Nemotron-NAS (DeciLM): Llama blocks thinned by search, so each layer has its own MLP width, K/V heads, or neither."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from fitcalc.architectures import blocks
from fitcalc.architectures.common import decoder, rope_of
from fitcalc.architectures.config import Config, flag, head_dim_of, integer_or, layer_count, mapping, size
from fitcalc.errors import ModelFileError
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor
from fitcalc.units import round_up

_BLOCK = "model.layers.{layer}"
LINEAR = "linear"
Groups = Mapping[Any, tuple[int, ...]]


def ffn_width(multiplier: float, hidden: int) -> int:
    """The MLP width of a multiplier: two thirds of multiplier × hidden, rounded up to 256."""
    return int(round_up(int(2 * multiplier * hidden / 3), 256))


def _width(ffn: Config, hidden: int) -> int | str:
    """Width of a block's MLP, 0 for none, LINEAR where one matrix replaces it."""
    if flag(ffn, "no_op", False):
        return 0
    if flag(ffn, "replace_with_linear", False):
        return LINEAR
    multiplier = ffn.get("ffn_mult")
    if multiplier is None:
        return size(ffn, "intermediate_size")
    if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not 0 < multiplier < 1000:
        raise ModelFileError(f"config: ffn_mult is {multiplier!r:.40}", hint="ffn_mult has to be a positive number")
    return ffn_width(multiplier, hidden)


def _kv(attention: Config, heads: int) -> tuple[int, int] | str:
    """K/V heads and window of a block's attention, (0, 0) for none, LINEAR where one matrix replaces it."""
    if flag(attention, "no_op", False):
        return 0, 0
    if flag(attention, "replace_with_linear", False):
        return LINEAR
    group = size(attention, "n_heads_in_group")
    if heads % group:
        raise ModelFileError(f"config: n_heads_in_group is {group}", hint=f"it has to divide the {heads} heads")
    return heads // group, integer_or(attention, "window_length", 0)


def _grouped(config: Config, heads: int, hidden: int) -> tuple[Groups, Groups]:
    """Layers by kind of attention and by kind of MLP."""
    configs, count = config.get("block_configs"), layer_count(config)
    if not isinstance(configs, list) or len(configs) != count or not all(isinstance(c, Mapping) for c in configs):
        raise ModelFileError("config: block_configs has to hold one object a layer", hint=f"there are {count} layers")
    attention: dict[Any, tuple[int, ...]] = defaultdict(tuple)
    mlps: dict[Any, tuple[int, ...]] = defaultdict(tuple)
    for layer, block in enumerate(configs):
        attention[_kv(mapping(block, "attention"), heads)] += (layer,)
        mlps[_width(mapping(block, "ffn"), hidden)] += (layer,)
    attention.pop((0, 0), None)
    mlps.pop(0, None)
    return attention, mlps


def _square(name: str, hidden: int, layers: tuple[int, ...]) -> list[Tensor]:
    """The matrix that stands in for a whole attention or MLP."""
    return blocks.linear(name, "other", hidden, hidden, layers, split="replicated")


def _attentions(config: Config, groups: Groups, heads: int, head_dim: int) -> tuple[list[Tensor], list[CacheLayer]]:
    name, hidden, bias = f"{_BLOCK}.self_attn", size(config, "hidden_size"), flag(config, "attention_bias", False)
    tensors: list[Tensor] = []
    cache: list[CacheLayer] = []
    for kind, layers in groups.items():
        if kind == LINEAR:
            tensors += _square(f"{name}.linear_attn", hidden, layers)
            continue
        kv_heads, window = kind
        tensors += blocks.attention(name, hidden, heads, kv_heads, head_dim, layers, qkv_bias=bias, out_bias=bias)
        full = blocks.full_cache(layers, kv_heads, head_dim)
        cache += blocks.window_cache(layers, kv_heads, head_dim, window) if window else full
    return [*tensors, *_norms("input_layernorm", hidden, groups)], cache


def _mlps(hidden: int, groups: Groups) -> list[Tensor]:
    tensors = _norms("post_attention_layernorm", hidden, groups)
    for width, layers in groups.items():
        if width == LINEAR:
            tensors += _square(f"{_BLOCK}.mlp.linear_mlp", hidden, layers)
        else:
            tensors += blocks.gated_mlp(f"{_BLOCK}.mlp", hidden, width, layers)
    return tensors


def _norms(name: str, hidden: int, groups: Groups) -> list[Tensor]:
    """The norm before an attention or MLP, on the layers that have one."""
    layers = tuple(sorted(layer for group in groups.values() for layer in group))
    return blocks.norm(f"{_BLOCK}.{name}", hidden, layers) if layers else []


def build(config: Config) -> ModelSpec:
    """nemotron-nas: block_configs says per layer what attention and MLP it has; a block without one has no norm."""
    hidden, heads, vocab = (size(config, key) for key in ("hidden_size", "num_attention_heads", "vocab_size"))
    head_dim, tied = head_dim_of(config, hidden, heads), flag(config, "tie_word_embeddings", False)
    attention, mlps = _grouped(config, heads, hidden)
    attention_tensors, cache = _attentions(config, attention, heads, head_dim)
    tensors = [
        blocks.embedding("model.embed_tokens", vocab, hidden),
        *attention_tensors,
        *_mlps(hidden, mlps),
        *blocks.norm("model.norm", hidden),
        *blocks.lm_head(vocab, hidden, tied=tied),
    ]
    most_kv_heads = max((entry.kv_heads for entry in cache), default=heads)
    return decoder(
        config,
        tensors=tensors,
        cache=cache,
        layers=layer_count(config),
        hidden=hidden,
        heads=heads,
        kv_heads=most_kv_heads,
        head_dim=head_dim,
        intermediate=max((width for width in mlps if width != LINEAR), default=0),
        vocab=vocab,
        tied=tied,
        attention=blocks.attention_label(heads, most_kv_heads),
        rope=rope_of(config, head_dim),
    )
