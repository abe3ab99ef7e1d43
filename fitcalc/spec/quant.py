"""Quantization nouns: a storage format, a scheme (which tensors get which format), a checkpoint's own scheme."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SchemeKind = Literal["float", "linear", "gguf", "mlx"]
"""float: every tensor in one type; linear: linears in one format, the rest 16 bit; gguf: llama.cpp's recipe."""


@dataclass(frozen=True, slots=True)
class Format:
    """How the elements of one matrix of `rows` × `cols` (out × in) are stored. Every size is an integer.

    Bytes = blocks + group data + per-row + per-column + per-tile + per-tensor data; see formulas.weights.
    """

    id: str
    block_elems: int
    block_bytes: int
    group_elems: int = 0
    """Columns that share one scale (0: none)."""
    group_bits: int = 0
    """Bits of scale and zero point per row and group."""
    row_bytes: int = 0
    column_bytes: int = 0
    tile_rows: int = 0
    tile_cols: int = 0
    tile_bytes: int = 0
    tensor_bytes: int = 0
    flat: bool = False
    """Blocks run over the flattened tensor instead of along each row."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A quantization as people name it."""

    id: str
    name: str
    kind: SchemeKind
    weight: Format
    """Format of the quantized weights; the default type of a GGUF recipe."""
    bits: int
    """Nominal bits of a weight, for ranking and labels only."""
    quality_rank: int
    """Higher is better; from measured loss, see the profile's source."""
    engines: tuple[str, ...]
    method: str = ""
    """The exporter's word: gptq, awq, fp8, compressed-tensors, bitsandbytes …"""
    loaded: Format | None = None
    """As the engine keeps it after load, where that differs from the file (GPTQ under Marlin)."""
    kept_roles: tuple[str, ...] = ()
    """Roles that stay in the model's own type although they are linears."""
    recipe: str = ""
    """GGUF file type (Q4_K_M …)."""
    min_compute_capability: str = ""
    native_compute_capability: str = ""
    """Below this the weights are dequantized in the kernel: memory as usual, speed as 16 bit."""
    needs_imatrix: bool = False
    variant: bool = False
    """Exists by explicit request only; never chosen on its own."""
    source: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointQuant:
    """The scheme a checkpoint is stored in, as read from its quantization_config."""

    scheme: str
    """Quantization id."""
    group_size: int = 0
    bits: int = 0
    symmetric: bool = True
    desc_act: bool = False
    block: tuple[int, int] = (0, 0)
    ignored: tuple[str, ...] = ()
    """Module patterns that stay in the model's own type; `*` matches anything."""
    source: str = ""
