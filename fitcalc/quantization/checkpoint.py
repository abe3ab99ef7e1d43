"""Size of the file or files on disk: stored tensors, what is stored but not loaded, and the header."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fitcalc.quantization.as_stored import is_native
from fitcalc.quantization.linear_layers import assign_linear
from fitcalc.quantization.stored import Stored, total_bytes
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import PLAIN_TYPES, Format, Scheme
from fitcalc.units import round_up

_SAFETENSORS_ENTRY_BYTES = 80
"""One tensor in a safetensors header besides its name: dtype, shape, offsets and JSON around them."""
_GGUF_ENTRY_BYTES = 24
"""One tensor in a GGUF header besides its name and dimensions (8 bytes each): lengths, count, type, offset."""
_GGUF_FIXED_BYTES = 2048
"""Key-value pairs of a GGUF header other than the vocabulary."""


def checkpoint_bytes(model: ModelSpec, scheme: Scheme, *, gguf: bool = False, imatrix: bool = False) -> int:
    """Bytes on disk: tensors exactly, the header estimated (well under 1 % of any file).

    Files that were read have the size they have. A safetensors checkpoint also holds multi-token-prediction layers and,
    for some models, a copy of a tied head.
    """
    if scheme.kind == "file" and model.file_bytes is not None:
        return model.file_bytes
    if model.makes_images and scheme.kind == "gguf":
        from fitcalc.quantization.one_type import assign_one_type

        return total_bytes(assign_one_type(model, scheme), file=True)
    if gguf or scheme.kind == "gguf":
        from fitcalc.quantization.gguf_tensors import assign_gguf

        stored = assign_gguf(model, scheme, imatrix=imatrix, mtp=True)
        header: int = round_up(gguf_header_bytes(model, scheme, stored), 32)
        return header + total_bytes(stored, file=True)
    if model.file_bytes is not None and is_native(model, scheme):
        return model.file_bytes
    stored = assign_linear(model, scheme, model.tensors)
    return total_bytes(stored, file=True) + _head_copy_bytes(model, scheme) + safetensors_header_bytes(stored)


def _head_copy_bytes(model: ModelSpec, scheme: Scheme) -> int:
    if not model.stores_tied_head or scheme.kind == "mlx":
        return 0
    layout = scheme.weight if scheme.kind == "float" else PLAIN_TYPES[model.dtype]
    return sum(math.prod(t.shape) for t in model.tensors if t.role == "embedding") * layout.block_bytes


def safetensors_header_bytes(stored: Iterable[Stored]) -> int:
    """Estimate of the JSON header: one entry per tensor, and one more per kind of scale or zero point."""
    return sum(
        (len(entry.tensor.name) + _SAFETENSORS_ENTRY_BYTES)
        * (1 + _companions(entry.file_format))
        * entry.tensor.copies
        * entry.repeats
        for entry in stored
    )


def _companions(layout: Format) -> int:
    parts = (layout.group_bits, layout.row_bytes, layout.column_bytes, layout.tile_bytes, layout.tensor_bytes)
    return sum(1 for part in parts if part)


def gguf_header_bytes(model: ModelSpec, scheme: Scheme, stored: Iterable[Stored]) -> int:
    """Estimate of a GGUF header: the tensors' entries and the vocabulary, by its size."""
    assert scheme.ggml is not None
    entries: dict[str, int] = {}
    for entry in stored:
        dimensions = len(entry.tensor.shape) + (entry.tensor.copies > 1)
        entries[entry.tensor.name] = entries.get(entry.tensor.name, 0) + entry.repeats * (
            _GGUF_ENTRY_BYTES + 8 * dimensions + len(entry.tensor.name)
        )
    per_token = next(size for upper, size in scheme.ggml.token_bytes if model.vocab <= upper)
    return _GGUF_FIXED_BYTES + sum(entries.values()) + model.vocab * per_token
