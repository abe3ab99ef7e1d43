"""What a file that was read stores wins over what its scheme says: formats of tensors as their headers show them."""

from __future__ import annotations

from collections.abc import Iterable

from fitcalc.frozen import replace
from fitcalc.quantization.linear_layers import is_own
from fitcalc.quantization.stored import Stored, shape_bytes
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme


def is_native(model: ModelSpec, scheme: Scheme) -> bool:
    """Is this how the checkpoint itself is stored: its own quantization, or its own float type where it has none?"""
    if model.quant is not None:
        return is_own(scheme, model.quant)
    return scheme.kind == "float" and scheme.id == model.dtype


def as_stored(model: ModelSpec, scheme: Scheme, entries: Iterable[Stored]) -> tuple[Stored, ...]:
    """The entries of a native scheme with the formats that headers show; those of equal size keep their names."""
    if not is_native(model, scheme):
        return tuple(entries)
    return tuple(_stored_so(entry) for entry in entries)


def _stored_so(entry: Stored) -> Stored:
    own, shape = entry.tensor.stored, entry.tensor.shape
    if own is None or shape_bytes(own, shape) == shape_bytes(entry.file_format, shape):
        return entry
    # A format that the engine repacks on load keeps its packed form; what only the file adds is left there.
    repacked = entry.format != entry.file_format and own.id.partition("-g")[0] == entry.format.id.partition("-g")[0]
    return replace(entry, file_format=own, format=entry.format if repacked else own)
