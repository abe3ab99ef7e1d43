"""Models of several parts: the text part built by its own family, towers and projectors added, names as stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fitcalc.architectures import blocks
from fitcalc.architectures.common import dtype_of
from fitcalc.architectures.config import Config, mapping
from fitcalc.architectures.nested import TEXT_KEYS, text_model
from fitcalc.errors import ModelFileError
from fitcalc.frozen import replace
from fitcalc.spec.model import ModelSpec, Tensor

Renames = Mapping[str, str]
"""Start of a text tensor's own name -> start of the name in the checkpoint; the first that fits is used."""

WRAPPED: Renames = {"": "language_model."}
NESTED: Renames = {"model.": "model.language_model."}
NO_VISION = "the config has no vision_config: the vision tower and projector are not counted"


def text_part(config: Config, default_type: str) -> ModelSpec:
    """The text model of a multimodal config; `default_type` is the model_type of a nested config that names none."""
    nested = next((mapping(config, key) for key in TEXT_KEYS if config.get(key) is not None), {})
    if any(isinstance(nested.get(key), Mapping) for key in TEXT_KEYS):
        raise ModelFileError("config: text_config holds another text_config", hint="one level of nesting is known")
    return text_model(config, default_type)


def compose(
    config: Config,
    text: ModelSpec,
    towers: Iterable[Tensor],
    *,
    renames: Renames | None = None,
    unknowns: tuple[str, ...] = (),
    **changes: Any,
) -> ModelSpec:
    """The text part with towers and projectors added, under the outer model_type."""
    kind = str(config["model_type"])
    named = any(config.get(key) for key in ("torch_dtype", "dtype"))
    return replace(
        text,
        id=kind,
        name=kind,
        family=kind,
        model_type=kind,
        tensors=(*renamed(text.tensors, renames or {}), *towers),
        dtype=dtype_of(config) if named else text.dtype,
        unknowns=(*text.unknowns, *unknowns),
        **changes,
    )


def renamed(tensors: Iterable[Tensor], renames: Renames) -> list[Tensor]:
    """The tensors under the names of the checkpoint."""
    return [replace(tensor, name=_new_name(tensor.name, renames)) for tensor in tensors]


def _new_name(name: str, renames: Renames) -> str:
    old = next((start for start in renames if name.startswith(start)), None)
    return name if old is None else renames[old] + name.removeprefix(old)


def two_layer_projector(
    prefix: str,
    hidden: int,
    inputs: int,
    *,
    bias: bool = True,
    middle: int = 0,
    names: tuple[str, str] = ("linear_1", "linear_2"),
) -> list[Tensor]:
    """Two linears from the tower's width to the text's, divided as an MLP is."""
    width = middle or hidden
    first, second = (f"{prefix}.{name}" for name in names)
    return [
        *blocks.linear(first, "projector", width, inputs, bias=bias, part="projector"),
        *blocks.linear(second, "projector", hidden, width, split="rows", bias=bias, part="projector"),
    ]
