"""The mmproj file of a vision or audio model: towers and projector, as llama.cpp's converter writes them.

Matrices take the type asked for; vectors, norms, biases and position tables stay in 32 bit, and so do the patches'
convolution in families that the converter says so of, or where the file is neither F32 nor F16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from fitcalc.errors import UnsupportedModelError
from fitcalc.quantization.stored import Stored, total_bytes
from fitcalc.spec.model import ModelSpec, Tensor
from fitcalc.spec.quant import GgmlTable

TOWER_PARTS = ("vision", "audio", "projector")
"""Parts of a model that lie in its mmproj file."""
_FULL_PRECISION = ("norm", "bias", "vector", "position_embedding")
_PATCHES = "conv"
_FULL_PATCHES = ("gemma3",)
"""Families whose patch convolution stays in 32 bit whatever the file's type is."""
_HALF_PROJECTION = ("gemma3",)
"""Families whose projection stays in 16 bit: its columns run along the text model's width."""


def has_towers(model: ModelSpec) -> bool:
    """Has parts that lie in a separate mmproj file."""
    return any(tensor.part in TOWER_PARTS for tensor in model.tensors)


def mmproj_tensors(model: ModelSpec, table: GgmlTable, file_type: str = "f16") -> tuple[Stored, ...]:
    """The tensors of the file with their types; `file_type` is f32, f16, bf16 or q8_0.

    Raises UnsupportedModelError for another type.
    """
    if file_type not in ("f32", "f16", "bf16", "q8_0"):
        raise UnsupportedModelError(f"no mmproj file in {file_type}", hint="choose f32, f16, bf16 or q8_0")
    return tuple(_stored(model, table, file_type))


def _stored(model: ModelSpec, table: GgmlTable, file_type: str) -> Iterator[Stored]:
    for tensor in model.tensors:
        if tensor.part in TOWER_PARTS and not tensor.is_buffer:
            kind = table.types[_type_of(model, tensor, file_type, table)]
            yield Stored(tensor, tensor.layers, kind, kind)


def _type_of(model: ModelSpec, tensor: Tensor, file_type: str, table: GgmlTable) -> str:
    if len(tensor.shape) == 1 or tensor.role in _FULL_PRECISION or file_type == "f32":
        return "f32"
    if tensor.role == _PATCHES:
        return "f16" if file_type == "f16" and model.model_type not in _FULL_PATCHES else "f32"
    if tensor.part == "projector" and model.model_type in _HALF_PROJECTION:
        return "f16"
    fits = math.prod(tensor.shape[1:]) % table.types[file_type].block_elems == 0
    return file_type if fits else "f16"


def mmproj_bytes(model: ModelSpec, table: GgmlTable, file_type: str = "f16") -> int:
    """Bytes of the file's tensors; 0 for a model without towers. The header, some 25 kB, is not counted."""
    return total_bytes(mmproj_tensors(model, table, file_type))


def tower_widths(model: ModelSpec) -> dict[str, int]:
    """patches, mlp_width and hidden of the vision tower, for its compute buffer; empty where there is none.

    `patches` is the length of the position table, 0 where positions are computed.
    """
    tower = [tensor for tensor in model.tensors if tensor.part == "vision"]
    attended = [t for t in tower if t.role in ("attn_q", "attn_qkv") and len(t.shape) == 2]
    if not attended:
        return {}
    tables = [t.shape[0] for t in tower if t.role == "position_embedding" and len(t.shape) == 2]
    widths = [t.shape[0] for t in tower if t.role in ("mlp_up", "mlp_gate")]
    return {
        "patches": max(tables, default=0),
        "mlp_width": max(widths, default=0),
        "hidden": attended[0].shape[-1],
    }
