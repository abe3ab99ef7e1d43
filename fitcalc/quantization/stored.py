"""Stored: a tensor, the layers of it that share a format, and that format. The inventory under a quantization."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fitcalc.formulas.weights import matrix_bytes
from fitcalc.frozen import dataclass
from fitcalc.spec.model import Tensor
from fitcalc.spec.quant import Format


@dataclass(frozen=True, slots=True)
class Stored:
    """`tensor` in `file_format` on disk and `format` in the engine, for `layers` (all of the tensor's unless split)."""

    tensor: Tensor
    layers: tuple[int, ...]
    format: Format
    file_format: Format

    @property
    def repeats(self) -> int:
        """Layers in this entry; 1 outside the layers."""
        return len(self.layers) or 1


def rows_and_cols(shape: tuple[int, ...]) -> tuple[int, int]:
    """A tensor as a matrix: one row for a vector, the first dimension × the rest for convolutions."""
    return (1, shape[0]) if len(shape) == 1 else (shape[0], math.prod(shape[1:]))


def shape_bytes(layout: Format, shape: tuple[int, ...]) -> int:
    """Bytes of one tensor of this shape in a format."""
    size: int = matrix_bytes(layout, *rows_and_cols(shape))
    return size


def stored_bytes(entry: Stored, *, file: bool = False) -> int:
    """Bytes of the entry's layers and copies as the engine keeps them, or as the file does."""
    layout = entry.file_format if file else entry.format
    rows, cols = rows_and_cols(entry.tensor.shape)
    each: int = matrix_bytes(layout, rows, cols)
    return each * entry.tensor.copies * entry.repeats


def total_bytes(stored: Iterable[Stored], *, file: bool = False) -> int:
    """Bytes of all entries, each tensor once: no rank copies, no padding."""
    return sum(stored_bytes(entry, file=file) for entry in stored)
