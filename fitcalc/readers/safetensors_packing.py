"""Stored tensors -> weights: a packed matrix and the scales, zero points and indexes beside it are one weight.

What is packed and how follows from names, types and shapes alone: every exporter keeps (out, in) readable in one of its
parts. A weight's Format gives back exactly the bytes of its parts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from fitcalc.frozen import replace
from fitcalc.quantization.stored import shape_bytes
from fitcalc.readers.safetensors_header import DTYPE_BITS, Entry
from fitcalc.spec.quant import PLAIN_TYPES, Format

FLOAT_IDS = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp64"}
"""Types of weights that are not quantized -> the name of their Format."""
_PARTS = (
    "scales|qzeros|g_idx|weight_scale|weight_scale_inv|weight_scale_2|input_scale|weight_shape|weight_zero_point|"
    "weight_g_idx|weight_global_scale|input_global_scale|input_zero_point|activation_scale|SCB|weight_format|absmax|"
    "quant_map|nested_absmax|nested_quant_map|quant_state\\.[\\w.]+|biases|scale|scale_inv|codebooks|q_invperm|q_scale|"
    "q_scale_max|q_groups|q_group_map|q_perm"
)
_COMPANION = re.compile(rf"(?:\.weight)?[._](?P<part>{_PARTS})$")
_LONGEST_PART = 80
"""Characters at the end of a name that are looked at: names may be as long as the file."""
_PACKED = (".qweight", ".weight_packed", ".codes", ".q_weight", "_blocks")
_BY_COLUMN = ("g_idx", "weight_g_idx", "q_invperm", "q_perm")
_WORD_BITS = 32
_BNB_BLOCK = 64


class Weight(NamedTuple):
    """A parameter as the model knows it: `copies` matrices of `shape` (out, in), each stored in `format`."""

    name: str
    shape: tuple[int, ...]
    copies: int
    format: Format
    bytes: int
    """In the file, companions included."""
    quantized: bool = False
    flattened: bool = False
    """The file does not say how the elements are arranged: `shape` is a vector of all of them."""


class _Packed(NamedTuple):
    """What the main part of a quantized weight says: id, matrix, copies, bits of one element."""

    id: str
    rows: int
    cols: int
    copies: int
    bits: int
    flattened: bool = False


Parts = dict[str, Entry]


def weights_of(entries: Iterable[Entry], bits_hint: int = 0) -> list[Weight]:
    """The weights of a checkpoint; `bits_hint` are its config's bits, for packings that do not show their own.

    Tensors that only look like a part of a quantized weight come back as weights of their own.
    """
    mains, companions = _sorted_out(entries)
    bits_hint = bits_hint or _likely_bits(mains, companions)
    found: list[Weight] = []
    for base, main in mains.items():
        parts = companions.get(base, {})
        packed = _packed(main, parts, bits_hint)
        if packed is None:
            found += [plain_weight(main), *(plain_weight(part) for part in parts.values())]
        else:
            found += _joined(base, main, parts, packed)
    found += [plain_weight(part) for base, parts in companions.items() if base not in mains for part in parts.values()]
    return found


def plain_weight(entry: Entry) -> Weight:
    """A tensor that is stored element by element."""
    bits = DTYPE_BITS[entry.dtype]
    name = FLOAT_IDS.get(entry.dtype, entry.dtype.lower())
    unit = math.gcd(bits, 8)
    layout = PLAIN_TYPES.get(name) or Format(name, 8 // unit, bits // unit, flat=True)
    return Weight(entry.name, entry.shape, 1, layout, entry.bytes)


def _sorted_out(entries: Iterable[Entry]) -> tuple[dict[str, Entry], dict[str, Parts]]:
    """Main tensors by the module (or parameter) that they belong to, and what may be their companions."""
    mains: dict[str, Entry] = {}
    companions: dict[str, Parts] = {}
    for entry in entries:
        match = _COMPANION.search(entry.name, max(len(entry.name) - _LONGEST_PART, 1))
        if match:
            companions.setdefault(entry.name[: match.start()], {})[match["part"]] = entry
            continue
        base = entry.name.removesuffix(_packing(entry.name) or ".weight")
        # Two tensors of one module keep their own names: 'x' and 'x.weight' are different parameters.
        mains[base if base not in mains else entry.name] = entry
    return mains, companions


def _packing(name: str) -> str:
    """The suffix that marks a packed tensor; '' for another name."""
    return next((suffix for suffix in _PACKED if name.endswith(suffix)), "")


# --- what a packed tensor holds ---------------------------------------------------------------------------------------


def _packed(main: Entry, parts: Parts, bits_hint: int) -> _Packed | None:
    """The matrix behind a packed or scaled tensor; None for a tensor that is stored as it is."""
    kind = _packing(main.name)
    if kind == "_blocks":
        return _blocks(main, parts)
    if kind == ".qweight":
        return _qweight(main, parts, bits_hint)
    if kind == ".codes":
        return _codes(main, parts)
    if kind == ".q_weight":
        inputs = parts.get("q_invperm") or parts.get("q_perm")
        rows = main.shape[-1] if len(main.shape) == 2 else 0
        return _Packed("exl2", rows, inputs.shape[0], 1, 0) if rows and inputs and inputs.shape else None
    if main.dtype in FLOAT_IDS or len(main.shape) < 2:
        return None
    return _scaled(main, parts, bits_hint, words=kind == ".weight_packed")


def _blocks(main: Entry, parts: Parts) -> _Packed | None:
    """MXFP4 of stacked experts: (experts, out, in / 32, 16) bytes beside one scale per block."""
    if len(main.shape) != 4 or "scales" not in parts or main.dtype != "U8":
        return None
    copies, rows, blocks, size = main.shape
    return _Packed("mxfp4", rows, blocks * size * 2, copies, 4)


def _qweight(main: Entry, parts: Parts, bits_hint: int) -> _Packed | None:
    """GPTQ packs inputs (in × bits / 32, out), AWQ outputs (in, out × bits / 32); the scales hold (groups, out)."""
    scales, zeros = parts.get("scales"), parts.get("qzeros")
    if len(main.shape) != 2 or scales is None or len(scales.shape) != 2 or not all((*main.shape, *scales.shape)):
        return None
    first, second = main.shape
    out = scales.shape[1]
    if second != out:
        return _Packed("awq", out, first, 1, _WORD_BITS * second // out)
    bits = _WORD_BITS * zeros.shape[-1] // out if zeros is not None and zeros.shape else bits_hint
    index = parts.get("g_idx")
    if index is not None and index.shape and index.shape[0]:
        bits = bits or _WORD_BITS * first // index.shape[0]
    if not 1 <= bits <= _WORD_BITS:
        return None
    return _Packed("gptq" if bits == 4 else f"gptq-{bits}bit", out, first * _WORD_BITS // bits, 1, bits)


def _codes(main: Entry, parts: Parts) -> _Packed | None:
    """AQLM: codes (out / m, in / n, books) into codebooks (books, entries, m, n)."""
    books = parts.get("codebooks")
    if len(main.shape) != 3 or books is None or len(books.shape) != 4:
        return None
    return _Packed("aqlm", main.shape[0] * books.shape[2], main.shape[1] * books.shape[3], 1, 0)


def _scaled(main: Entry, parts: Parts, bits_hint: int, *, words: bool) -> _Packed | None:
    """A matrix of integers or small floats with its scales; experts may be stacked in a first dimension."""
    copies = main.shape[0] if len(main.shape) == 3 else 1
    rows, cols = main.shape[-2:]
    if "absmax" in parts and main.dtype == "U8":
        elements = math.prod(main.shape) * 2
        return _Packed("bnb-nf4-dq" if "nested_absmax" in parts else "bnb-nf4", 1, elements, 1, 4, True)
    if main.dtype == "I8" and not words:
        name = "bnb-int8" if "SCB" in parts else "int8"
        return _Packed(name, rows, cols, copies, 8) if parts else None
    if main.dtype in ("I32", "U32"):
        bits = _word_bits(parts, bits_hint)
        if not bits or not parts:
            return None
        name = "w4a16" if words and bits == 4 else "w8a16" if words and bits == 8 else f"mlx-{bits}bit"
        return _Packed(name, rows, cols * _WORD_BITS // bits, copies, bits)
    return _small_float(main, parts, rows, cols, copies)


def _small_float(main: Entry, parts: Parts, rows: int, cols: int, copies: int) -> _Packed | None:
    scale = _scale_of(parts)
    if main.dtype in ("U8", "F4", "I8") and scale is not None:
        cols = cols * (1 if main.dtype == "F4" else 2)
        group = rows * copies * cols // (math.prod(scale.shape) or 1)
        return _Packed("nvfp4" if group <= 16 else "mxfp4", rows, cols, copies, 4)
    if main.dtype.startswith("F8"):
        return _Packed(_fp8_id(scale, rows), rows, cols, copies, 8)
    return None


def _fp8_id(scale: Entry | None, rows: int) -> str:
    if scale is None or math.prod(scale.shape) <= 1:
        return "fp8-tensor"
    per_row = len(scale.shape) == 1 or scale.shape[-1] == 1
    return "fp8" if per_row and rows in scale.shape else "fp8-block"


def _scale_of(parts: Parts) -> Entry | None:
    names = ("weight_scale", "weight_scale_inv", "scale", "scale_inv", "scales")
    return next((parts[name] for name in names if name in parts), None)


def _word_bits(parts: Parts, bits_hint: int) -> int:
    """Bits of an element packed into 32-bit words: as zero points show them, else those of the checkpoint."""
    zeros = parts.get("weight_zero_point")
    scale = parts.get("weight_scale")
    count: int = math.prod(scale.shape) if scale is not None else 0
    return zeros.bytes * 8 // count if zeros is not None and zeros.dtype == "I32" and count else bits_hint


def _likely_bits(mains: dict[str, Entry], companions: dict[str, Parts]) -> int:
    """Bits with which most word-packed matrices have a width that a vector of the checkpoint has too."""
    widths = {entry.shape[0] for entry in mains.values() if len(entry.shape) == 1}
    words = [
        entry.shape[1]
        for base, entry in mains.items()
        if entry.dtype in ("I32", "U32") and len(entry.shape) == 2 and base in companions
    ]
    counts = {bits: sum(word * _WORD_BITS // bits in widths for word in words) for bits in (4, 8, 6, 3, 2, 5)}
    best = max(counts, key=lambda bits: counts[bits])
    return best if counts[best] else 0


# --- one weight of it and its companions ------------------------------------------------------------------------------


def _joined(base: str, main: Entry, parts: Parts, packed: _Packed) -> list[Weight]:
    """The weight with the companions that every copy has its share of; others stand beside it."""
    copies = packed.copies
    if not copies:
        return [plain_weight(part) for part in (main, *parts.values())]
    shared = [part for part in parts.values() if copies == 1 or (part.shape and part.shape[0] == copies)]
    beside = [plain_weight(part) for part in parts.values() if part not in shared]
    each, values = sum(part.bytes for part in (main, *shared)) // copies, main.bytes // copies
    keyed = {name: part for name, part in parts.items() if part in shared}
    layout = _layout(packed, values, keyed) if packed.rows and packed.cols else Format(packed.id, 1, 0)
    name = base if main.name in (base, f"{base}_blocks") else f"{base}.weight"
    shape = (packed.cols,) if packed.flattened else (packed.rows, packed.cols)
    if shape_bytes(layout, shape) != each:
        layout = _whole(packed.id, shape, each)
    return [Weight(name, shape, copies, layout, each * copies, True, packed.flattened), *beside]


def _whole(name: str, shape: tuple[int, ...], size: int) -> Format:
    """Exactly `size` bytes for a matrix: what does not divide evenly over its elements counts once."""
    elements = math.prod(shape)
    bits = size * 8 // elements if elements else 0
    unit = math.gcd(bits, 8) or 8
    layout = Format(name, 8 // unit, bits // unit, flat=True)
    return replace(layout, tensor_bytes=size - shape_bytes(layout, shape))


def _layout(packed: _Packed, values: int, parts: Parts) -> Format:
    """Blocks of the packed values; scales per group, row, column or tile as their shapes tell."""
    rows, cols = packed.rows, packed.cols
    if packed.flattened:
        size = values + sum(part.bytes for part in parts.values())
        return _whole(packed.id, (cols,), size)
    if not packed.bits:
        return _whole(packed.id, (rows, cols), values + sum(part.bytes for part in parts.values()))
    unit = math.gcd(_WORD_BITS, packed.bits)
    block = (8 // packed.bits, 1) if 8 % packed.bits == 0 else (_WORD_BITS // unit, 4 * packed.bits // unit)
    layout = Format(packed.id, *block)
    for name, part in sorted(parts.items(), key=lambda item: item[1].bytes, reverse=True):
        layout = _with_part(layout, name, part, rows, cols, packed.copies)
    return layout


def _with_part(layout: Format, name: str, part: Entry, rows: int, cols: int, copies: int) -> Format:
    """The format with one companion's bytes where they belong."""
    size, shape = part.bytes // copies, part.shape[1:] if copies > 1 else part.shape
    count = math.prod(shape)
    if count == 1 or not count:
        return replace(layout, tensor_bytes=layout.tensor_bytes + size)
    if name in _BY_COLUMN and count == cols:
        return replace(layout, column_bytes=layout.column_bytes + size // cols)
    if count == rows and 1 in (len(shape), *shape[1:]):
        return replace(layout, row_bytes=layout.row_bytes + size // rows)
    groups = -(-cols // layout.group_elems) if layout.group_elems else count // rows if count % rows == 0 else 0
    if groups and rows in shape and not layout.group_elems and cols % groups == 0:
        return replace(layout, group_elems=cols // groups, group_bits=size * 8 // (rows * groups))
    if layout.group_elems and size * 8 % (rows * groups) == 0:
        return replace(layout, group_bits=layout.group_bits + size * 8 // (rows * groups))
    if len(shape) == 2 and not layout.tile_bytes and shape[0] <= rows and shape[1] <= cols:
        rows_each, cols_each = _side(rows, shape[0]), _side(cols, shape[1])
        return replace(layout, tile_rows=rows_each, tile_cols=cols_each, tile_bytes=size // count)
    return replace(layout, tensor_bytes=layout.tensor_bytes + size)


def _side(whole: int, parts: int) -> int:
    """The side of a tile of which `parts` cover `whole`: a power of two where one does."""
    least = -(-whole // parts)
    power = 1 << (least - 1).bit_length()
    return power if -(-whole // power) == parts else least
