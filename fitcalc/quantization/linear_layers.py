"""Formats for safetensors schemes: linears in the scheme's format, what exporters leave alone in the model's type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fitcalc.errors import UnsupportedModelError
from fitcalc.frozen import replace
from fitcalc.quantization.patterns import Patterns, compiled, matching_layers
from fitcalc.quantization.stored import Stored
from fitcalc.spec.model import ModelSpec, Tensor
from fitcalc.spec.quant import PLAIN_TYPES, CheckpointQuant, Format, Scheme, split_group, with_group

_SCALE_BITS = 16
"""Group data of this size is a scale alone; asymmetric checkpoints add a zero point of as many bits as a weight."""

Formats = tuple[Format, Format]
"""In the file, in the engine."""


def is_own(scheme: Scheme, quant: CheckpointQuant | None) -> bool:
    """Is this the scheme that the checkpoint is stored in, whatever its group size?"""
    return quant is not None and split_group(scheme.id)[0] == split_group(quant.scheme)[0]


def obeyed(scheme: Scheme, quant: CheckpointQuant) -> Scheme:
    """The scheme with one checkpoint's own group size, block, exceptions and mixed formats."""
    if quant.group_size and scheme.weight.group_elems and quant.group_size != scheme.weight.group_elems:
        scheme = with_group(scheme, quant.group_size)
    weight, loaded = scheme.weight, scheme.loaded
    if all(quant.block) and weight.tile_bytes:
        weight = replace(weight, tile_rows=quant.block[0], tile_cols=quant.block[1])
    if loaded and not quant.symmetric:
        loaded = None
    elif loaded and quant.desc_act:
        # Activation order keeps the group index and the order that sorts it.
        loaded = replace(loaded, column_bytes=2 * weight.column_bytes)
    if not quant.symmetric and 0 < weight.group_bits <= _SCALE_BITS:
        weight = replace(weight, group_bits=weight.group_bits + scheme.bits)
    kept = tuple(role for role in scheme.kept_roles if role != "lm_head" or not quant.lm_head)
    return replace(
        scheme,
        weight=weight,
        loaded=loaded,
        kept_roles=kept,
        ignored=(*scheme.ignored, *quant.ignored),
        targets=quant.targets,
        overrides=quant.overrides,
    )


def assign_linear(model: ModelSpec, scheme: Scheme, tensors: Iterable[Tensor]) -> tuple[Stored, ...]:
    """The tensors with their formats. Raises UnsupportedModelError for a mixed checkpoint of unknown formats."""
    if model.quant is not None and is_own(scheme, model.quant):
        scheme = obeyed(scheme, model.quant)
        exceptions = scheme.ignored
    else:
        exceptions = (*scheme.ignored, *scheme.family_ignored.get(model.model_type, ()))
        scheme = replace(scheme, overrides=scheme.family_overrides.get(model.model_type, scheme.overrides))
    ignored, targets = compiled(exceptions), compiled(scheme.targets)
    overrides = _overrides(scheme)
    entries: list[Stored] = []
    for tensor in tensors:
        formats = _formats_by_layer(model, scheme, tensor, ignored, targets, overrides)
        entries += _entries(tensor, formats)
    return tuple(entries)


def _overrides(scheme: Scheme) -> list[tuple[Patterns, Formats]]:
    patterns_of: dict[str, list[str]] = {}
    for pattern, name in scheme.overrides:
        patterns_of.setdefault(name, []).append(pattern)
    return [(compiled(patterns), _beside(scheme, name)) for name, patterns in patterns_of.items()]


def _beside(scheme: Scheme, name: str) -> Formats:
    base, group = split_group(name)
    layout = scheme.weight if base == split_group(scheme.id)[0] else scheme.beside.get(base)
    if layout is None:
        hint = f"it mixes {scheme.id} with {name}, a combination whose layout is not modelled"
        raise UnsupportedModelError(f"a checkpoint of {scheme.id} with modules in {name}", hint=hint)
    layout = replace(layout, group_elems=group) if group else layout
    return layout, layout


def _formats_by_layer(
    model: ModelSpec,
    scheme: Scheme,
    tensor: Tensor,
    ignored: Patterns,
    targets: Patterns,
    overrides: list[tuple[Patterns, Formats]],
) -> dict[int, Formats]:
    own = _own_type(model, scheme, tensor)
    quantized = (scheme.weight, scheme.loaded or scheme.weight)
    layers = tensor.layers or (0,)
    named = _is_matrix(tensor, scheme)
    if targets:
        # A list of modules says all there is to say; kept roles are for configs that name classes of layers.
        chosen = matching_layers(targets, tensor) if named else frozenset()
    else:
        chosen = frozenset(layers if named and _is_wanted(scheme, tensor) else ())
    chosen -= matching_layers(ignored, tensor) if chosen else frozenset()
    formats = {layer: quantized if layer in chosen else own for layer in layers}
    for patterns, layout in overrides if named else ():
        formats |= dict.fromkeys(matching_layers(patterns, tensor), layout)
    return formats


def _is_matrix(tensor: Tensor, scheme: Scheme) -> bool:
    """A weight that a quantizer can work on: a linear's, or another role that the scheme includes."""
    if len(tensor.shape) < 2 or tensor.is_buffer or not (tensor.is_linear or tensor.role in scheme.also_roles):
        return False
    whole_groups = scheme.kind != "mlx" or tensor.shape[-1] % scheme.weight.group_elems == 0
    return whole_groups and not tensor.dtype


def _is_wanted(scheme: Scheme, tensor: Tensor) -> bool:
    return (
        tensor.role not in scheme.kept_roles
        and tensor.part not in scheme.kept_parts
        and (not scheme.only_roles or tensor.role in scheme.only_roles)
    )


def _own_type(model: ModelSpec, scheme: Scheme, tensor: Tensor) -> Formats:
    """The type of a tensor that is not quantized: fixed by the checkpoint, the scheme's float, or 16 bit."""
    if tensor.dtype:
        layout = PLAIN_TYPES[tensor.dtype]
    elif scheme.kind == "float":
        layout = scheme.weight
    else:
        # Exporters save what they leave alone in 16 bit, also of a model published in 32 bit.
        layout = PLAIN_TYPES[model.dtype if model.dtype in ("fp16", "bf16") else "fp16"]
    return layout, layout


def _entries(tensor: Tensor, formats: dict[int, Formats]) -> Iterator[Stored]:
    """One entry per format that the tensor takes over its layers."""
    first = next(iter(formats.values()))
    if all(pair is first for pair in formats.values()):
        yield Stored(tensor, tensor.layers, first[1], first[0])
        return
    layers_of: dict[Formats, list[int]] = {}
    for layer, pair in formats.items():
        layers_of.setdefault(pair, []).append(layer)
    for (file_format, loaded), layers in layers_of.items():
        yield Stored(tensor, tuple(layers) if tensor.layers else (), loaded, file_format)
