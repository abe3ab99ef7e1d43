"""The weights of one rank of a server engine: shares of tensors, fused and booked as engines and allocator do it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from fitcalc.formulas import runtime, split
from fitcalc.formulas.weights import matrix_bytes
from fitcalc.frozen import dataclass
from fitcalc.quantization.stored import Stored
from fitcalc.same import Same
from fitcalc.spec.model import ModelSpec, Rope, Tensor
from fitcalc.spec.quant import Format
from fitcalc.units import ceil_div, round_up

FUSED = {
    "attn_q": "attn_qkv",
    "attn_k": "attn_qkv",
    "attn_v": "attn_qkv",
    "mlp_gate": "mlp_gate_up",
    "mlp_up": "mlp_gate_up",
    "shared_gate": "shared_gate_up",
    "shared_up": "shared_gate_up",
    "expert_gate": "expert_gate_up",
    "expert_up": "expert_gate_up",
}
"""Role -> the one parameter that engines load it into."""
FIRST_STAGE_ROLES = ("embedding", "position_embedding", "token_type_embedding", "per_layer_embedding")
"""Tensors outside the layers that the first pipeline stage holds; the last one holds the others."""
SECTIONED_TABLE = 4
"""vLLM makes the table of sectioned positions this many times longer (MRotaryEmbedding)."""
TOWER_PARTS = ("vision", "audio")


@dataclass(frozen=True, slots=True)
class Rank:
    """Which share a rank holds: tensor parallel degree, expert parallel degree, and its layers [first, stop)."""

    ranks: int = 1
    expert_ranks: int = 1
    """Above 1: whole experts are divided over this many ranks; else each expert's width is divided."""
    first: int = 0
    stop: int = 0
    is_first: bool = True
    is_last: bool = True
    vocab_step: int = 64
    padded_formats: tuple[str, ...] = ()
    """Formats whose expert kernels want padded shapes."""
    width_step: int = 1
    hidden_step: int = 1
    keeps_segments: bool = False
    """The allocator splits no block from 20 MiB on while weights load."""
    whole_towers: bool = False
    """Encoders of images and sound are whole on every rank."""
    data_ranks: int = 1
    """Data parallel ranks, which hold everything but the experts; an expert's width is divided over them too."""

    @property
    def width_ranks(self) -> int:
        """Ranks over which each expert's width is divided."""
        return self.ranks * self.data_ranks if self.expert_ranks == 1 else 1


@dataclass(frozen=True, slots=True)
class RankWeights:
    """Bytes of a rank's weights: tensors, 16-bit copies of absorbed MLA matrices, rotary tables, allocator booking."""

    tensor_bytes: int
    absorbed_bytes: int
    rotary_bytes: int
    booking_bytes: int
    quantized_bytes: int
    """The part of `tensor_bytes` that is stored below 16 bit."""

    @property
    def total_bytes(self) -> int:
        """What the engine reports as the size of the model."""
        return self.tensor_bytes + self.absorbed_bytes + self.rotary_bytes + self.booking_bytes


def layers_held(layers: Sequence[int], rank: Rank) -> int:
    """How many of a tensor's (or cache kind's) layers lie in the rank's stage; `layers` ascend."""
    if not layers or (rank.first <= layers[0] and layers[-1] < rank.stop):
        return len(layers)
    from bisect import bisect_left

    return bisect_left(layers, rank.stop) - bisect_left(layers, rank.first)


def repeats_of(tensor: Tensor, layers: Sequence[int], rank: Rank, *, tied: bool = False) -> int:
    """How often a rank holds the tensor: its layers of this stage; ends of the model on the first or last stage."""
    if tensor.part == "mtp":
        return 0
    if tensor.part != "text":
        return len(layers) or 1
    if tensor.layers:
        return layers_held(layers, rank)
    if tensor.role in FIRST_STAGE_ROLES:
        # A tied head on another stage than the embedding is a copy of it.
        return int(rank.is_first or (rank.is_last and tied and tensor.role == "embedding"))
    return int(rank.is_last)


def _expert_shape(tensor: Tensor, rows: int, cols: int, fmt: Format, rank: Rank) -> tuple[int, int]:
    """An expert's matrix on one rank: its width divided (rows of gate and up, columns of down) and padded."""
    down = tensor.role == "expert_down"
    width, other = (cols, rows) if down else (rows, cols)
    halves = 2 if tensor.role == "expert_gate_up" or (tensor.role == "bias" and len(tensor.shape) == 1) else 1
    width = split.share(elems=width, ranks=rank.width_ranks)
    if fmt.id in rank.padded_formats:
        width = round_up(ceil_div(width, halves), rank.width_step) * halves
        other = round_up(other, rank.hidden_step) if len(tensor.shape) > 1 else other
    return (other, width) if down else (width, other)


def rank_shape(tensor: Tensor, fmt: Format, rank: Rank) -> tuple[int, int, int]:
    """(rows, columns, copies) of a tensor on one rank; vectors have one column, convolutions are flattened."""
    rows, cols, copies = tensor.shape[0], math.prod(tensor.shape[1:]), tensor.copies
    ranks = rank.ranks
    if tensor.copies > 1 and rank.expert_ranks > 1 and tensor.role != "router":
        copies = split.experts_share(experts=copies, ranks=rank.expert_ranks)
    if tensor.split == "experts":
        return (*_expert_shape(tensor, rows, cols, fmt, rank), copies)
    if ranks == 1 and tensor.split != "vocab":
        return rows, cols, copies
    if tensor.part in TOWER_PARTS:
        divided = tensor.is_linear and rows % ranks == 0 and not rank.whole_towers
        return (rows // ranks if divided else rows), cols, copies
    if tensor.split == "vocab":
        rows = split.vocab_share(vocab=rows, step=rank.vocab_step, ranks=ranks)
    elif tensor.split == "heads" and tensor.kv_rows:
        rows = split.head_rows_share(rows=rows, kv_rows=tensor.kv_rows, kv_heads=tensor.kv_heads, ranks=ranks)
    elif tensor.split in ("columns", "heads"):
        rows = split.share(elems=rows, ranks=ranks)
    elif tensor.split == "rows":
        cols = split.share(elems=cols, ranks=ranks)
    return rows, cols, copies


def payload_bytes(fmt: Format, rows: int, cols: int) -> tuple[int, int]:
    """(packed values, scales and all else) of a matrix: engines keep them as separate tensors."""
    total = int(matrix_bytes(fmt, rows, cols))
    if fmt.flat:
        values = ceil_div(rows * cols, fmt.block_elems) * fmt.block_bytes
    else:
        values = rows * ceil_div(cols, fmt.block_elems) * fmt.block_bytes
    return int(values), total - int(values)


def rotary_positions(rope: Rope) -> int:
    """Rows of the cos/sin tables: longer under linear scaling and YaRN, both lengths under long factors."""
    positions = rope.positions
    if rope.scaling in ("linear", "dynamic", "ntk"):
        scaled = round(positions * rope.factor)
    elif rope.scaling == "yarn" and rope.original_positions:
        scaled = round(rope.original_positions * rope.factor)
    elif rope.scaling in ("longrope", "su") and rope.original_positions:
        scaled = positions + rope.original_positions
    elif rope.sectioned:
        scaled = positions * SECTIONED_TABLE
    else:
        scaled = positions
    return scaled + (rope.tables - 1) * positions


def rank_weights(model: ModelSpec, stored: tuple[Stored, ...], rank: Rank, float_bytes: int) -> RankWeights:
    """The weights of one rank. `float_bytes` is an element of the model's compute type (2, or 4 in fp32)."""
    return _rank_weights(Same(model), Same(stored), rank, float_bytes)


@lru_cache(maxsize=64)
def _rank_weights(
    model_: Same[ModelSpec], stored: Same[tuple[Stored, ...]], rank: Rank, float_bytes: int
) -> RankWeights:
    model = model_.value
    booked_of = runtime.segment_bytes if rank.keeps_segments else runtime.booked_bytes
    parts: dict[tuple[object, ...], list[int]] = {}
    absorbed = absorbed_booked = quantized = 0
    for entry in stored.value:
        tensor, fmt = entry.tensor, entry.format
        count = repeats_of(tensor, entry.layers, rank, tied=model.tied_embeddings)
        if not count:
            continue
        rows, cols, copies = rank_shape(tensor, fmt, rank)
        values, scales = (copies * size for size in payload_bytes(fmt, rows, cols))
        key = (FUSED.get(tensor.role, tensor.name), tensor.part, fmt.id, entry.layers)
        held = parts.setdefault(key, [0, 0, count])
        held[0] += values
        held[1] += scales
        if fmt.block_bytes < 2 * fmt.block_elems:
            quantized += (values + scales) * count
        if tensor.role == "mla_kv_b":
            half = rows * cols * float_bytes // 2
            absorbed += 2 * half * count
            absorbed_booked += 2 * booked_of(size_bytes=half) * count
    tensors = sum((values + scales) * count for values, scales, count in parts.values())
    booked = sum(
        (booked_of(size_bytes=values) + booked_of(size_bytes=scales)) * count
        for values, scales, count in parts.values()
    )
    rotary = 0
    if model.rope is not None:
        rotary = runtime.rotary_bytes(
            positions=rotary_positions(model.rope), rotary_dim=model.rope.rotary_dim, elem_bytes=float_bytes
        )
    return RankWeights(tensors, absorbed, rotary, booked - tensors + absorbed_booked - absorbed, quantized)
