"""Which layers of a hybrid model are of which kind (layer_types and its older spellings), and the spec they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fitcalc.architectures.blocks import attention_label
from fitcalc.architectures.common import decoder
from fitcalc.architectures.config import Config
from fitcalc.architectures.moe_blocks import Experts, Frame
from fitcalc.errors import ModelFileError, UnsupportedModelError
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

Layers = tuple[int, ...]

RECURRENT, FULL, DENSE, EXPERTS, HYBRID = "recurrent", "full", "dense", "experts", "hybrid"
SPELLINGS = {
    "mamba": RECURRENT,
    "linear_attention": RECURRENT,
    "conv": RECURRENT,
    "recurrent": RECURRENT,
    "attention": FULL,
    "full_attention": FULL,
    "mlp": DENSE,
    "moe": EXPERTS,
    "hybrid": HYBRID,
}
"""The words of published configs, old and new, for the few kinds that have different tensors."""


def kinds_of(values: Any, key: str, allowed: Sequence[str], spellings: Mapping[str, str] = SPELLINGS) -> list[str]:
    """The kind of every layer from a config's list of words.

    Raises ModelFileError when it is no list, UnsupportedModelError for a kind the family does not have.
    """
    if not isinstance(values, list | tuple):
        raise ModelFileError(f"config: {key} is {values!r:.40}", hint=f"{key} has to list one kind a layer")
    kinds = [spellings.get(value, "") if isinstance(value, str) else "" for value in values]
    for value, kind in zip(values, kinds, strict=True):
        if kind not in allowed:
            hint = f"layers of this family are {', '.join(allowed)}"
            raise UnsupportedModelError(f"config: {key} holds the layer kind {value!r:.40}", hint=hint)
    return kinds


def listed_kinds(config: Config, keys: Sequence[str], count: int, allowed: Sequence[str]) -> list[str] | None:
    """The kinds under the first of `keys` that is present, checked against the layer count; None when none is."""
    for key in keys:
        if config.get(key) is not None:
            kinds = kinds_of(config[key], key, allowed)
            if len(kinds) != count:
                hint = "the two have to agree"
                raise ModelFileError(
                    f"config: {key} lists {len(kinds)} layers, num_hidden_layers is {count}", hint=hint
                )
            return kinds
    return None


def where(kinds: Sequence[str], *wanted: str) -> Layers:
    """The indices of the layers of the wanted kinds."""
    return tuple(index for index, kind in enumerate(kinds) if kind in wanted)


def integers(config: Config, key: str) -> list[int]:
    """A list of layer numbers; empty when the key is missing or null."""
    values = config.get(key)
    if values is None:
        return []
    if not isinstance(values, list | tuple) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise ModelFileError(f"config: {key} is {values!r:.40}", hint=f"{key} has to be a list of whole numbers")
    return list(values)


def present(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors without those of layer kinds that the model lacks (for a Tensor, no layers means outside them)."""
    return [tensor for tensor in tensors if tensor.layers or "{layer}" not in tensor.name]


def hybrid_decoder(
    config: Config,
    frame: Frame,
    tensors: Iterable[Tensor],
    cache: Iterable[CacheLayer],
    *,
    mixer: str,
    intermediate: int,
    experts: Experts | None = None,
    **more: Any,
) -> ModelSpec:
    """The ModelSpec of a hybrid: `mixer` names what stands beside attention in the label (ssm, linear, conv)."""
    if experts is not None and experts.layers:
        more |= {
            "experts": experts.count,
            "experts_per_token": experts.used,
            "moe_intermediate": experts.width,
            "shared_intermediate": experts.shared_width,
        }
    return decoder(
        config,
        tensors=present(tensors),
        cache=tuple(cache),
        layers=frame.count,
        hidden=frame.hidden,
        heads=frame.heads,
        kv_heads=frame.kv_heads,
        intermediate=intermediate,
        vocab=frame.vocab,
        tied=frame.tied,
        **{
            "head_dim": frame.head_dim,
            "attention": f"hybrid({attention_label(frame.heads, frame.kv_heads)}+{mixer})",
            **more,
        },
    )
