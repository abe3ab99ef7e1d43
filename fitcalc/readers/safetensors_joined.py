"""A config's inventory held against the headers beside it: what is stored decides, and every difference is said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from fitcalc.frozen import dataclass, replace
from fitcalc.readers.safetensors_names import bare, place_of
from fitcalc.readers.safetensors_quant import bytes_of, dtype_of, is_quantized, quant_of
from fitcalc.spec.model import ModelSpec, Tensor
from fitcalc.spec.quant import CheckpointQuant
from fitcalc.units import format_gib

_ALIKE_FRACTION = 0.5
"""With fewer of its parameters found by name, a checkpoint uses names of its own."""
_MOST_NAMED = 2
_NOT_MODELLED = "the checkpoint is quantized in a way that is not modelled"


@dataclass(frozen=True, slots=True)
class _Held:
    """The inventory after the comparison, and what was found on one side only."""

    tensors: tuple[Tensor, ...]
    absent: tuple[Tensor, ...]
    """In the inventory, not in the file."""
    extra: tuple[Tensor, ...]
    """In the file, not in the inventory."""
    reshaped: tuple[tuple[Tensor, Tensor], ...]
    """(as the config says, as the file has it)."""


def joined(spec: ModelSpec, tensors: Sequence[Tensor], file_bytes: int) -> ModelSpec:
    """The config's model with the formats and shapes of the file, its size, and a note for every difference."""
    held = _hold(spec.tensors, tensors)
    found = sum(tensor.elems for tensor in held.tensors if tensor.stored is not None)
    params = sum(tensor.elems for tensor in tensors if not tensor.is_buffer)
    notes = list(spec.notes)
    if found < _ALIKE_FRACTION * sum(tensor.elems for tensor in spec.tensors):
        notes.append(
            f"the file names its tensors in a way of its own: {params:,} parameters in it, "
            f"{spec.params_total:,} by its config.json"
        )
        return replace(spec, file_bytes=file_bytes, notes=tuple(notes))
    copies = tuple(t for t in held.extra if t.role == "lm_head" and t.part == "text" and spec.tied_embeddings)
    extra = tuple(t for t in held.extra if t not in copies and not t.is_buffer)
    notes += _difference_notes(held, extra, spec)
    quant, unknowns, quant_notes = _quantization(spec, tensors)
    dtype = dtype_of(tensors)
    if dtype != spec.dtype:
        notes.append(f"stored in {dtype}, though its config.json says {spec.dtype}")
    return replace(
        spec,
        tensors=(*held.tensors, *extra),
        dtype=dtype,
        quant=quant,
        unknowns=unknowns,
        stores_tied_head=spec.stores_tied_head or bool(copies),
        notes=(*notes, *quant_notes),
        file_bytes=file_bytes,
    )


def _quantization(
    spec: ModelSpec, tensors: Sequence[Tensor]
) -> tuple[CheckpointQuant | None, tuple[str, ...], list[str]]:
    """(quant, unknowns, notes): the config's own words, unless the tensors say otherwise."""
    packed, own = any(is_quantized(tensor.stored) for tensor in tensors), quant_of(tensors)
    if spec.quant is not None:
        if packed:
            return spec.quant, spec.unknowns, []
        said = f"its config.json names {spec.quant.scheme}, but no tensor in the file is quantized"
        return None, spec.unknowns, [said]
    if own is None:
        return None, spec.unknowns, []
    unknowns = tuple(text for text in spec.unknowns if not text.startswith(_NOT_MODELLED))
    return own, unknowns, [f"stored in {own.scheme}, as the tensors show"]


def _hold(inventory: Sequence[Tensor], stored: Sequence[Tensor]) -> _Held:
    by_name: dict[str, list[Tensor]] = {}
    for tensor in stored:
        by_name.setdefault(bare(tensor.name), []).append(tensor)
    left = {id(tensor): set(tensor.layers) or {-1} for tensor in stored}
    kept: list[Tensor] = []
    absent: list[Tensor] = []
    reshaped: list[tuple[Tensor, Tensor]] = []
    for tensor in inventory:
        place = place_of(tensor.name)
        layers = set(tensor.layers) if place.layer is None else {place.layer}
        missing = layers or {-1}
        for other in by_name.get(bare(place.template), ()):
            common = missing & left[id(other)]
            if not common:
                continue
            missing, left[id(other)] = missing - common, left[id(other)] - common
            piece = _piece(tensor, other, tuple(sorted(common - {-1})) if tensor.layers else ())
            kept.append(piece)
            if piece.elems != replace(tensor, layers=piece.layers).elems:
                reshaped.append((tensor, other))
        if missing:
            rest = replace(tensor, layers=tuple(sorted(missing - {-1}))) if tensor.layers else tensor
            kept.append(rest)
            absent.append(rest)
    extra = tuple(_rest(tensor, left[id(tensor)]) for tensor in stored if left[id(tensor)])
    return _Held(tuple(kept), tuple(absent), extra, tuple(reshaped))


def _piece(tensor: Tensor, other: Tensor, layers: tuple[int, ...]) -> Tensor:
    """The inventory's tensor for the layers that the file has, in the file's format; its shape where that differs."""
    each = replace(tensor, layers=()).elems
    if each == replace(other, layers=()).elems and tensor.copies == other.copies:
        return replace(tensor, layers=layers, stored=other.stored)
    active = min(tensor.active, other.copies)
    return replace(
        tensor, layers=layers, shape=other.shape, copies=other.copies, active=active, stored=other.stored,
        kv_heads=0 if tensor.kv_rows > other.shape[0] else tensor.kv_heads,
        kv_rows=0 if tensor.kv_rows > other.shape[0] else tensor.kv_rows,
    )  # fmt: skip


def _rest(tensor: Tensor, layers: set[int]) -> Tensor:
    return replace(tensor, layers=tuple(sorted(layers - {-1})))


def _difference_notes(held: _Held, extra: Sequence[Tensor], spec: ModelSpec) -> Iterator[str]:
    expected = [tensor for tensor in held.absent if tensor.part != "mtp" and not tensor.is_buffer]
    if expected:
        yield f"in its config.json but not in the file: {_named(expected)}; counted all the same"
    extra = [tensor for tensor in extra if tensor.part != "mtp"]
    if extra:
        size = format_gib(sum(bytes_of(tensor) for tensor in extra))
        yield f"in the file but not in the inventory of {spec.model_type}: {_named(extra)} ({size}, counted)"
    for tensor, other in held.reshaped[:_MOST_NAMED]:
        yield f"{other.name} is {_shape(other)} in the file, {_shape(tensor)} by its config.json: the file decides"


def _shape(tensor: Tensor) -> str:
    sides = " × ".join(str(side) for side in tensor.shape)
    return f"{tensor.copies} × ({sides})" if tensor.copies > 1 else sides


def _named(tensors: Iterable[Tensor]) -> str:
    listed = list(tensors)
    count = sum(tensor.copies * tensor.repeats for tensor in listed)
    names = ", ".join(tensor.name.replace("{layer}", "N").replace("{expert}", "N") for tensor in listed[:_MOST_NAMED])
    more = f" and {len(listed) - _MOST_NAMED} more kinds" if len(listed) > _MOST_NAMED else ""
    return f"{count:,} tensor{'s' if count > 1 else ''} ({names}{more})"
