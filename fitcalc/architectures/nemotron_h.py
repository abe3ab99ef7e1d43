"""Nemotron-H and Nemotron 3: one mixer a layer, which is Mamba-2, attention, a plain MLP or a mixture of experts.

The experts are plain (no gate) and may work in a narrower latent width, between two projections that all share.
"""

from __future__ import annotations

from typing import Any

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, flag, integer, integer_or, layer_count, size
from fitcalc.architectures.hybrid_layers import (
    DENSE,
    EXPERTS,
    FULL,
    RECURRENT,
    hybrid_decoder,
    kinds_of,
    listed_kinds,
    present,
    where,
)
from fitcalc.architectures.moe_blocks import (
    Experts,
    Frame,
    as_mtp,
    experts_of,
    frame_of,
    layer_norms,
    mtp_layers,
    router_bias,
)
from fitcalc.architectures.ssm_blocks import mamba2, mamba2_cache, state_dtype_of
from fitcalc.errors import ModelFileError
from fitcalc.spec.model import ModelSpec, Tensor

_LETTERS = {"M": RECURRENT, "*": FULL, "-": DENSE, "E": EXPERTS}
_KINDS = (RECURRENT, FULL, DENSE, EXPERTS)
_MOST_LAYERS = 10_000


def _mamba_sizes(config: Config) -> tuple[int, int, int, int, int]:
    """Heads, head dimension, groups, state size and convolution width; older files spell two of them otherwise."""
    return (
        integer_or(config, "mamba_num_heads", 128),
        integer_or(config, "mamba_head_dim", 64),
        integer_or(config, "n_groups", integer_or(config, "mamba_n_groups", 8)),
        integer_or(config, "ssm_state_size", 128),
        integer_or(config, "conv_kernel", integer_or(config, "mamba_d_conv", 4)),
    )


def _pattern(config: Config, pattern_key: str, list_key: str) -> list[str] | None:
    """The kinds of layers from a list of words, else from a pattern of letters (M * - E); None without either."""
    if config.get(list_key) is not None:
        return kinds_of(config[list_key], list_key, _KINDS)
    if config.get(pattern_key) is not None:
        letters = config[pattern_key]
        return kinds_of(list(letters) if isinstance(letters, str) else letters, pattern_key, _KINDS, _LETTERS)
    return None


def _layer_kinds(config: Config) -> list[str]:
    if config.get("layers_block_type") is None and config.get("layer_types") is not None:
        listed = listed_kinds(config, ("layer_types",), layer_count(config), _KINDS) or []
    else:
        listed = _pattern(config, "hybrid_override_pattern", "layers_block_type") or []
    if not 1 <= len(listed) <= _MOST_LAYERS:
        hint = "layers_block_type or hybrid_override_pattern has to say what each layer is"
        raise ModelFileError(f"config: {len(listed)} layers are described", hint=hint)
    return listed


def _mixers(config: Config, frame: Frame, kinds: list[str], block: str, first: int = 0) -> list[Tensor]:
    """Norm and mixer of every layer; `first` is the number of the first one in the names."""
    mixer, hidden = f"{block}.mixer", frame.hidden
    at = {kind: tuple(first + layer for layer in where(kinds, kind)) for kind in _KINDS}
    mlp_bias = flag(config, "mlp_bias", False)
    biases = {"bias": flag(config, "use_bias", False), "conv_bias": flag(config, "use_conv_bias", True)}
    tensors = [
        *blocks.norm(f"{block}.norm", hidden, tuple(range(first, first + len(kinds)))),
        *mamba2(mixer, hidden, *_mamba_sizes(config), at[RECURRENT], **biases),
        *blocks.attention(mixer, hidden, frame.heads, frame.kv_heads, frame.head_dim, at[FULL]),
    ]
    if at[DENSE]:
        width, names = size(config, "intermediate_size"), ("up_proj", "down_proj")
        tensors += blocks.plain_mlp(mixer, hidden, width, at[DENSE], bias=mlp_bias, names=names)
    if at[EXPERTS]:
        tensors += _experts(config, mixer, hidden, at[EXPERTS], mlp_bias)
    return present(tensors)


def _experts(config: Config, mixer: str, hidden: int, layers: tuple[int, ...], bias: bool) -> list[Tensor]:
    experts, latent = _routed(config, layers), integer_or(config, "moe_latent_size", 0)
    count, shared = experts.count, experts.shared_width
    tensors = [
        *blocks.router(f"{mixer}.gate", hidden, count, layers),
        router_bias(f"{mixer}.gate.e_score_correction_bias", count, layers),
        *blocks.experts(
            f"{mixer}.experts", latent or hidden, experts.width, count, experts.used, layers, gated=False, bias=bias
        ),
        *blocks.linear(f"{mixer}.shared_experts.up_proj", "shared_up", shared, hidden, layers, bias=bias),
        *blocks.linear(
            f"{mixer}.shared_experts.down_proj", "shared_down", hidden, shared, layers, split="rows", bias=bias
        ),
    ]
    if latent:
        whole: dict[str, Any] = {"split": "replicated", "bias": bias}
        tensors += blocks.linear(f"{mixer}.fc1_latent_proj", "other", latent, hidden, layers, **whole)
        tensors += blocks.linear(f"{mixer}.fc2_latent_proj", "other", hidden, latent, layers, **whole)
    return tensors


def _routed(config: Config, layers: tuple[int, ...]) -> Experts:
    shared = integer(config, "moe_shared_expert_intermediate_size")
    return experts_of(config, layers, "n_routed_experts", shared_width=shared)


def _mtp(config: Config, frame: Frame) -> list[Tensor]:
    """The multi-token-prediction layers: each predicts one token ahead with its own run of the MTP pattern."""
    kinds = _pattern(config, "mtp_hybrid_override_pattern", "mtp_layers_block_type") or [FULL, EXPERTS]
    hidden, block, count = frame.hidden, "mtp.layers.{layer}", len(mtp_layers(config, frame))
    if count * len(kinds) > _MOST_LAYERS or not kinds:
        hint = f"between 1 and {_MOST_LAYERS:,} are possible"
        raise ModelFileError(f"config: {count * len(kinds)} layers of multi-token prediction", hint=hint)
    tensors: list[Tensor] = []
    for step in range(count):
        first = step * len(kinds)
        tensors += [
            *blocks.linear(f"{block}.eh_proj", "other", hidden, 2 * hidden, (first,), split="replicated"),
            *layer_norms(frame, (first,), names=("enorm", "hnorm"), prefix=block),
            *_mixers(config, frame, kinds, block, first),
            *blocks.norm(f"{block}.final_layernorm", hidden, (first + len(kinds) - 1,)),
        ]
    return as_mtp(tensors)


def build(config: Config) -> ModelSpec:
    """nemotron_h: hybrid_override_pattern or layers_block_type; attention has no rotary positions."""
    kinds = _layer_kinds(config)
    frame = frame_of({**config, "num_hidden_layers": len(kinds)})
    tensors = [
        blocks.embedding("backbone.embeddings", frame.vocab, frame.hidden),
        *_mixers(config, frame, kinds, "backbone.layers.{layer}"),
        *blocks.norm("backbone.norm_f", frame.hidden),
        *blocks.lm_head(frame.vocab, frame.hidden, tied=frame.tied),
        *_mtp(config, frame),
    ]
    state_dtype = state_dtype_of(config, "mamba_ssm_cache_dtype")
    cache = [
        *blocks.full_cache(where(kinds, FULL), frame.kv_heads, frame.head_dim),
        *mamba2_cache(where(kinds, RECURRENT), *_mamba_sizes(config), state_dtype),
    ]
    sparse, dense = where(kinds, EXPERTS), where(kinds, DENSE)
    return hybrid_decoder(
        config,
        frame,
        tensors,
        cache,
        mixer="ssm",
        intermediate=size(config, "intermediate_size") if dense else 0,
        experts=_routed(config, sparse) if sparse else None,
        gated=False,
    )
