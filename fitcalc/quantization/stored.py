"""Stored: a tensor, the layers of it that share a format, and that format. The inventory under a quantization."""

from __future__ import annotations

from dataclasses import dataclass

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
