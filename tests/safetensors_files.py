"""safetensors files written by hand: full-size checkpoints as sparse files, so that only their headers take space."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from fitcalc.spec.model import ModelSpec

BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "U8": 8,
        "I8": 8, "I32": 32, "U32": 32, "I64": 64, "BOOL": 8}  # fmt: skip

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name -> (dtype, shape)."""


def header_of(tensors: Shapes) -> tuple[bytes, int]:
    """(length and JSON, bytes of data) of a well-formed file."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * BITS[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, end


def write(path: Path, tensors: Shapes) -> int:
    """Write a file whose data is a hole; its size in bytes."""
    start, data_bytes = header_of(tensors)
    path.write_bytes(start)
    with path.open("r+b") as file:
        file.truncate(len(start) + data_bytes)
    return len(start) + data_bytes


def write_raw(path: Path, header: bytes, data: bytes = b"") -> str:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return str(path)


def names_of(spec: ModelSpec, dtype: str = "BF16") -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every tensor of an inventory under its own name, experts one by one where the name numbers them."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for tensor in spec.tensors:
        stored = {"fp32": "F32", "int64": "I64"}.get(tensor.dtype, dtype)
        for layer in tensor.layers or (-1,):
            numbered = "{expert}" in tensor.name
            for expert in range(tensor.copies if numbered else 1):
                name = tensor.name.replace("{layer}", str(layer)).replace("{expert}", str(expert))
                shape = tensor.shape if numbered or tensor.copies == 1 else (tensor.copies, *tensor.shape)
                found[name] = (stored, shape)
    return found


def shards(folder: Path, tensors: Shapes, count: int) -> tuple[list[Path], int]:
    """A set of `count` files and its index; (paths, bytes of the files)."""
    places: dict[str, str] = {}
    paths: list[Path] = []
    total = 0
    for number, part in enumerate(_parts(tensors, count), 1):
        name = f"model-{number:05d}-of-{count:05d}.safetensors"
        total += write(folder / name, part)
        paths.append(folder / name)
        places |= dict.fromkeys(part, name)
    size = sum(math.prod(shape) * BITS[dtype] // 8 for dtype, shape in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return paths, total


def _parts(tensors: Shapes, count: int) -> Iterator[Shapes]:
    names = list(tensors)
    step = math.ceil(len(names) / count)
    for first in range(0, len(names), step):
        yield {name: tensors[name] for name in names[first : first + step]}


def gptq(base: str, out: int, inputs: int, bits: int = 4, group: int = 128) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The parts of one GPTQ matrix as its exporters lay them out."""
    groups = math.ceil(inputs / group)
    return {
        f"{base}.qweight": ("I32", (inputs * bits // 32, out)),
        f"{base}.qzeros": ("I32", (groups, out * bits // 32)),
        f"{base}.scales": ("F16", (groups, out)),
        f"{base}.g_idx": ("I32", (inputs,)),
    }


def awq(base: str, out: int, inputs: int, group: int = 128) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The parts of one AWQ matrix."""
    return {
        f"{base}.qweight": ("I32", (inputs, out // 8)),
        f"{base}.qzeros": ("I32", (inputs // group, out // 8)),
        f"{base}.scales": ("F16", (inputs // group, out)),
    }


def data_bytes(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> int:
    return sum(math.prod(shape) * BITS[dtype] // 8 for dtype, shape in tensors)
