"""What every decoder family hands over: the ModelSpec from its parts, its rotary set-up, its context limit and type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fitcalc.architectures.config import Config, fraction, integer, integer_or
from fitcalc.errors import ModelFileError
from fitcalc.spec.model import CacheLayer, ModelSpec, Rope, Tensor

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "half": "fp16", "float": "fp32"}
_CONTEXT_KEYS = (
    "max_position_embeddings", "max_seq_len", "n_positions", "n_ctx", "seq_length", "max_sequence_length",
    "model_max_length",
)  # fmt: skip
_LARGEST_FACTOR = 2**20


def dtype_of(config: Config) -> str:
    """The type the checkpoint is stored in: bf16, fp16 or fp32; bf16 when the config does not say."""
    named = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    return _DTYPES.get(str(named).removeprefix("torch."), "bf16")


def max_context_of(config: Config) -> int | None:
    """The longest context the model was made for, None where positions are unbounded or not stated."""
    for key in _CONTEXT_KEYS:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def rotary_dim_of(config: Config, head_dim: int, share: float = 1.0) -> int:
    """Elements of a head that are rotated: rotary_dim, else partial_rotary_factor (rotary_pct), else `share` of it."""
    if config.get("rotary_dim") is not None:
        return min(integer(config, "rotary_dim"), head_dim)
    parameters = config.get("rope_parameters")
    places = (config, parameters if isinstance(parameters, dict) else {})
    for place in places:
        for key in ("partial_rotary_factor", "rotary_pct"):
            share = fraction(place, key, share)
    return int(head_dim * share)


def rope_of(config: Config, rotary_dim: int, *, tables: int = 1) -> Rope | None:
    """The rotary set-up from rope_scaling / rope_parameters; `rotary_dim` elements of each head are rotated."""
    positions = max_context_of(config)
    if not positions or not rotary_dim:
        return None
    scaling: Any = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if isinstance(scaling, dict) and isinstance(scaling.get("full_attention"), dict):
        scaling = scaling["full_attention"]
    if not isinstance(scaling, dict) or any(isinstance(value, dict) for value in scaling.values()):
        scaling = {}
    kind = str(scaling.get("rope_type") or scaling.get("type") or "")
    return Rope(
        rotary_dim=rotary_dim,
        positions=positions,
        scaling="" if kind == "default" else kind,
        factor=_factor_of(scaling),
        original_positions=integer_or({**config, **scaling}, "original_max_position_embeddings", 0),
        tables=tables,
        sectioned="mrope_section" in scaling,
    )


def _factor_of(scaling: Config) -> float:
    """The factor that positions are stretched by; 1 where the scaling has none."""
    factor = scaling.get("factor")
    if factor is None:
        return 1.0
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= _LARGEST_FACTOR:
        raise ModelFileError(f"config: rope factor is {factor!r:.40}", hint="the factor has to be a positive number")
    return float(factor)


def decoder(
    config: Config,
    *,
    tensors: Sequence[Tensor],
    cache: Sequence[CacheLayer],
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    intermediate: int,
    vocab: int,
    tied: bool,
    attention: str,
    rope: Rope | None = None,
    gated: bool = True,
    **more: Any,
) -> ModelSpec:
    """A decoder's ModelSpec; `more` are further ModelSpec fields (experts, kind, notes, unknowns …)."""
    model_type = str(config.get("model_type", ""))
    return ModelSpec(
        **{
            "id": model_type,
            "name": model_type,
            "family": model_type,
            "model_type": model_type,
            "kind": "decoder",
            "tensors": tuple(tensors),
            "cache_layers": tuple(cache),
            "layers": layers,
            "hidden": hidden,
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "intermediate": intermediate,
            "vocab": vocab,
            "max_context_tokens": max_context_of(config),
            "attention": attention,
            "tied_embeddings": tied,
            "gated_mlp": gated,
            "dtype": dtype_of(config),
            "rope": rope,
            **more,
        }
    )
