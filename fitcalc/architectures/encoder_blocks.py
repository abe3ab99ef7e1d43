"""Builders that encoders, towers and encoder-decoders share: cross-attention, convolutions, stored parameters, specs.

The linears themselves come from `blocks`; what stands here is what only models without a plain decoder need.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fitcalc.architectures import blocks
from fitcalc.architectures.common import decoder
from fitcalc.architectures.config import Config, integer_or, size
from fitcalc.errors import ModelFileError
from fitcalc.frozen import replace
from fitcalc.spec.model import ModelSpec, Part, Tensor

Layers = tuple[int, ...]
_MOST_STAGES = 64
"""Bound on what multiplies a file's inventory: stages, blocks in a stage, sets of shared weights."""


def with_defaults(config: Config, defaults: Config) -> dict[str, Any]:
    """The config with the class defaults of its architecture in place of keys that are missing or null."""
    return {**defaults, **{key: value for key, value in config.items() if value is not None}}


def side_of(config: Config, key: str) -> int:
    """A square's side in pixels: `image_size` and `patch_size` are numbers, or pairs of equal numbers."""
    value = config.get(key)
    if isinstance(value, list) and value:
        if any(side != value[0] for side in value):
            raise ModelFileError(f"config: {key} is {value!r:.40}", hint=f"{key} has to be a square")
        return size({key: value[0]}, key)
    return size(config, key)


def sizes_of(config: Config, key: str) -> tuple[int, ...]:
    """A list of widths or counts, one a stage."""
    listed = config.get(key)
    if not isinstance(listed, list | tuple) or not 1 <= len(listed) <= _MOST_STAGES:
        raise ModelFileError(f"config: {key} is {listed!r:.40}", hint=f"{key} has to be a list of numbers")
    return tuple(size({key: value}, key) for value in listed)


def listed_names(config: Config, key: str) -> tuple[str, ...]:
    """A list of names; empty when the key holds anything else."""
    listed = config.get(key)
    return tuple(str(name) for name in listed) if isinstance(listed, list | tuple) else ()


def few(config: Config, key: str) -> int:
    """A number of blocks that each become entries of their own: at most 64."""
    value = size(config, key)
    if value > _MOST_STAGES:
        raise ModelFileError(f"config: {key} is {value}", hint=f"{key} has to lie between 1 and {_MOST_STAGES}")
    return value


def patches_of(config: Config) -> int:
    """Patches of one square image of `image_size`."""
    return (side_of(config, "image_size") // side_of(config, "patch_size")) ** 2


def head_dim_of_tower(hidden: int, heads: int) -> int:
    """Hidden / heads; an error when the heads do not divide the width."""
    if hidden % heads:
        raise ModelFileError(f"config: {heads} heads do not divide a width of {hidden}", hint="check hidden_size")
    return hidden // heads


def labels_of(config: Config) -> int:
    """Outputs of a classification head: `num_labels`, else the entries of `id2label`, else 2."""
    names = config.get("id2label")
    return integer_or(config, "num_labels", len(names) if isinstance(names, dict) else 2)


def class_of(config: Config, default: str = "") -> str:
    """The class that wrote the checkpoint: the first of `architectures`."""
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else default


def stored(name: str, role: str, shape: tuple[int, ...], layers: Layers = (), *, part: Part = "text") -> Tensor:
    """A parameter that no layer class owns (class tokens, position tables, gates), whole on every rank."""
    return Tensor(name, role, shape, layers, part=part)


def convolution(
    name: str, shape: tuple[int, ...], layers: Layers = (), *, bias: bool = False, part: Part = "text"
) -> list[Tensor]:
    """A convolution of weight `shape` (out, in / groups, kernel …), whole on every rank."""
    weight = stored(f"{name}.weight", "conv", shape, layers, part=part)
    return [weight, blocks.vector(f"{name}.bias", "bias", shape[0], layers, part=part)] if bias else [weight]


def norms(names: Iterable[str], width: int, layers: Layers = (), *, bias: bool, part: Part = "text") -> list[Tensor]:
    """Several norms of one width."""
    return [tensor for name in names for tensor in blocks.norm(name, width, layers, bias=bias, part=part)]


def cross_attention(
    prefix: str,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    layers: Layers,
    *,
    memory: int = 0,
    bias: bool = False,
    qk_norm: tuple[int, int] = (0, 0),
    names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
    part: Part = "text",
) -> list[Tensor]:
    """Attention from `hidden` to states of width `memory` (0: the same); K and V are made once per prompt or image."""
    own = blocks.attention(
        prefix, hidden, heads, kv_heads, head_dim, layers, qkv_bias=bias, out_bias=bias, qk_norm=qk_norm, names=names,
        part=part,
    )  # fmt: skip
    return [_crossed(tensor, memory or hidden) for tensor in own]


def _crossed(tensor: Tensor, memory: int) -> Tensor:
    role = tensor.role.replace("attn_", "cross_")
    shape = (tensor.shape[0], memory) if role in ("cross_k", "cross_v") else tensor.shape
    return replace(tensor, role=role, shape=shape)


def without_key_bias(tensors: Sequence[Tensor], name: str = "k_proj") -> list[Tensor]:
    """Attention whose key projection alone has no bias (Whisper)."""
    return [tensor for tensor in tensors if not tensor.name.endswith(f".{name}.bias")]


def whole(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The same tensors, whole on every rank: towers that engines do not divide."""
    return [replace(tensor, split="replicated") for tensor in tensors]


def fused_heads(
    prefix: str, hidden: int, heads: int, layers: Layers, *, bias: bool, names: tuple[str, str], part: Part
) -> list[Tensor]:
    """Multi-head attention of a tower with one matrix for Q, K and V."""
    head_dim = head_dim_of_tower(hidden, heads)
    return blocks.fused_attention(
        prefix, hidden, heads, heads, head_dim, layers, qkv_bias=bias, out_bias=bias, names=names, part=part
    )


def encoder(
    config: Config,
    *,
    tensors: Sequence[Tensor],
    layers: int,
    hidden: int,
    heads: int,
    intermediate: int,
    vocab: int = 0,
    tied: bool = False,
    **more: Any,
) -> ModelSpec:
    """The ModelSpec of a bidirectional encoder: every head has its own K and V, and nothing is cached."""
    return decoder(
        config,
        tensors=tensors,
        cache=(),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        intermediate=intermediate,
        vocab=vocab,
        tied=tied,
        **{
            "head_dim": more.get("head_dim") or head_dim_of_tower(hidden, heads),
            "attention": "encoder(mha)",
            "gated": False,
            "kind": "encoder",
            **more,
        },
    )
