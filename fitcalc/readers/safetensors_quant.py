"""The type and the quantization that a checkpoint's own tensors show."""

from __future__ import annotations

from collections.abc import Iterable

from fitcalc.quantization.stored import shape_bytes
from fitcalc.spec.model import Tensor
from fitcalc.spec.quant import PLAIN_TYPES, CheckpointQuant, Format

MODELLED = (
    "awq", "gptq", "gptq-2bit", "gptq-3bit", "gptq-8bit", "w4a16", "w8a16", "int8", "fp8", "fp8-tensor", "fp8-block",
    "mxfp4", "nvfp4", "bnb-int8", "bnb-nf4", "bnb-nf4-dq", "mlx-4bit", "mlx-6bit", "mlx-8bit",
)  # fmt: skip
"""Formats of packed tensors that are also quantizations by name."""
_USUAL_GROUP = {"mlx": 64}
_GROUPED = ("awq", "gptq", "w4a16", "w8a16", "mlx")


def bytes_of(tensor: Tensor) -> int:
    """Bytes of all layers and copies as the file stores them."""
    assert tensor.stored is not None
    return shape_bytes(tensor.stored, tensor.shape) * tensor.copies * tensor.repeats


def is_quantized(layout: Format | None) -> bool:
    """Stored in a format of packed or scaled values."""
    return layout is not None and layout.id not in PLAIN_TYPES and layout.id in (*MODELLED, "aqlm", "exl2")


def sizes_by_format(tensors: Iterable[Tensor]) -> dict[str, int]:
    """Format id -> bytes in the file."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        if tensor.stored is not None:
            sizes[tensor.stored.id] = sizes.get(tensor.stored.id, 0) + bytes_of(tensor)
    return sizes


def dtype_of(tensors: Iterable[Tensor]) -> str:
    """The float type that most of the bytes outside quantized tensors have; bf16 where there are none."""
    sizes = {name: size for name, size in sizes_by_format(tensors).items() if name in ("bf16", "fp16", "fp32")}
    return max(sizes, key=lambda name: sizes[name], default="bf16")


def quant_of(tensors: Iterable[Tensor]) -> CheckpointQuant | None:
    """The scheme that most quantized bytes are stored in; None for a checkpoint without, or with one not modelled."""
    packed = [tensor for tensor in tensors if tensor.stored is not None and tensor.stored.id in MODELLED]
    sizes = sizes_by_format(packed)
    if not sizes:
        return None
    name = max(sizes, key=lambda name: sizes[name])
    largest = max((t for t in packed if t.stored is not None and t.stored.id == name), key=bytes_of)
    base = name.partition("-")[0]
    layout = largest.stored
    if base not in _GROUPED or layout is None:
        block = (layout.tile_rows, layout.tile_cols) if layout is not None else (0, 0)
        return CheckpointQuant(name, block=block, source="safetensors header")
    group = layout.group_elems
    usual = group in (0, _USUAL_GROUP.get(base, 128), largest.shape[-1])
    suffix = "" if usual else f"-g{group}"
    size = -1 if group == largest.shape[-1] else group
    return CheckpointQuant(f"{name}{suffix}", size, source="safetensors header")
