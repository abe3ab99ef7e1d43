"""Bytes of one stored matrix: the one formula for every storage format, from bf16 to block quantization."""

from __future__ import annotations

from typing import Any

from fitcalc.formulas import formula
from fitcalc.units import ceil_div


@formula(
    "rows * ceil_div(cols, block_elems) * block_bytes"
    " + ceil_div(rows * ceil_div(cols, group_elems) * group_bits, 8)"
    " + rows * row_bytes + cols * column_bytes"
    " + ceil_div(rows, tile_rows) * ceil_div(cols, tile_cols) * tile_bytes + tensor_bytes"
)
def packed_bytes(
    *,
    rows: Any,
    cols: Any,
    block_elems: Any,
    block_bytes: Any,
    group_elems: Any = 1,
    group_bits: Any = 0,
    row_bytes: Any = 0,
    column_bytes: Any = 0,
    tile_rows: Any = 1,
    tile_cols: Any = 1,
    tile_bytes: Any = 0,
    tensor_bytes: Any = 0,
) -> Any:
    """Bytes of a matrix of `rows` × `cols` elements.

    Each row is cut into blocks of `block_elems` columns [elements] that take `block_bytes` [bytes]; scales and zero
    points come per row and group of `group_elems` columns [bits], per row, per column, per tile and per tensor [bytes].
    """
    blocks = rows * ceil_div(cols, block_elems) * block_bytes
    groups = ceil_div(rows * ceil_div(cols, group_elems) * group_bits, 8)
    tiles = ceil_div(rows, tile_rows) * ceil_div(cols, tile_cols) * tile_bytes
    return blocks + groups + rows * row_bytes + cols * column_bytes + tiles + tensor_bytes


def matrix_bytes(layout: Any, rows: Any, cols: Any) -> Any:
    """Bytes of a `rows` × `cols` (out × in) matrix in a storage format (a spec.quant.Format); ints and arrays alike.

    The blocks of a flat format run over all elements; it has no per-row or per-column data.
    """
    if layout.flat:
        rows, cols = 1, rows * cols
    return packed_bytes(
        rows=rows,
        cols=cols,
        block_elems=layout.block_elems,
        block_bytes=layout.block_bytes,
        group_elems=layout.group_elems or 1,
        group_bits=layout.group_bits,
        row_bytes=layout.row_bytes,
        column_bytes=layout.column_bytes,
        tile_rows=layout.tile_rows or 1,
        tile_cols=layout.tile_cols or 1,
        tile_bytes=layout.tile_bytes,
        tensor_bytes=layout.tensor_bytes,
    )
