"""Where llama.cpp puts things: which layers, weights and cache cells go to which card and which stay on the host.

Layers are divided in order, by the share of memory that each card has free (or by tensor_split); the output matrix
counts as one more layer. What the cards do not take stays on the host, and with it the cache of those layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from math import prod

from fitcalc.engines.llama_cpp_graph import TEXT_PARTS, cache_widths
from fitcalc.engines.llama_cpp_placement import HOST, Overrides, overridden
from fitcalc.formulas import ggml
from fitcalc.formulas.weights import matrix_bytes
from fitcalc.frozen import dataclass, replace
from fitcalc.quantization.stored import Stored
from fitcalc.same import Same
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor
from fitcalc.spec.quant import Format
from fitcalc.units import round_up

_INPUT_ROLES = ("embedding", "position_embedding", "token_type_embedding", "per_layer_embedding")
_ROTARY_PREFIX = "rope_"
"""Frequency factors of rotary positions: every device with layers has a copy."""
_EXPERT_ROLES = ("expert_gate", "expert_up", "expert_gate_up", "expert_down")


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides the layout beside the model: counts, shares, and the rules that changed between versions."""

    gpu_layers: int
    """Layers on the cards, the output counted as one."""
    cpu_expert_layers: int
    """Layers, from the first, whose routed experts stay on the host."""
    shares: tuple[float, ...]
    """Share of each card, in any unit."""
    cache_on_host: bool
    output_first: bool
    """The output is the first to go to the cards; older versions sent it last."""
    copies_tied_head: bool
    """A tied output matrix takes memory of its own on the card."""
    row_step: int
    """Columns in which the cards read rows of quantized matrices; 0 where rows are not padded."""
    tensor_step: int
    """Bytes to which a card rounds tensors."""
    latent_cache: bool
    """Latent attention keeps its latents; older versions kept K and V of every head."""
    window_cache: bool
    """Layers with a window keep only that; older versions kept everything."""
    overrides: Overrides = ()
    """Tensors placed by hand."""
    row_shares: tuple[float, ...] = ()
    """Share of the rows of every matrix that each card holds, where matrices and not layers are divided."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one device holds, apart from buffers. Cell widths are bytes per cell over all layers on the device."""

    rank: int
    layers: int
    """Repeating layers."""
    expert_layers: int | None
    """Layers whose routed experts are here; None for a model without any."""
    has_output: bool
    weights_bytes: int
    largest_weight_bytes: int
    """The largest matrix of a repeating layer."""
    head_bytes: int
    """The output matrix as a tensor of its own, where it lives here."""
    fetched_head_bytes: int
    """The output matrix as a card has to fetch it from here, a tied one included."""
    cell_bytes: int
    window_cell_bytes: int
    largest_cell_bytes: int
    """Bytes per cell of the one layer with the widest cache."""
    padding_bytes: int
    conv_elems: int
    state_elems: int
    formats: tuple[tuple[str, int], ...]
    """(ggml type, bytes) of matrices in repeating layers and output, for the copy that CPUs repack."""


def ranks_of_layers(layers: int, rules: Rules) -> tuple[int, ...]:
    """Rank of every repeating layer and, last, of the output; HOST for those that stay behind."""
    cards = len(rules.shares)
    if not cards:
        return (HOST,) * (layers + 1)
    taken = min(rules.gpu_layers, layers + 1)
    first = layers + 1 - taken if rules.output_first else max(layers - taken, 0)
    output_stays = not rules.output_first and taken <= layers
    total, ends, running = sum(rules.shares), [], 0.0
    for share in rules.shares:
        running += share
        ends.append(running)
    ranks = []
    for index in range(layers + 1):
        if index < first or (index == layers and output_stays):
            ranks.append(HOST)
        else:
            position = (index - first) * total
            ranks.append(next((card for card, end in enumerate(ends) if end * taken > position), cards - 1))
    return tuple(ranks)


def _size(stored: Format, shape: tuple[int, ...], copies: int, row_step: int, tensor_step: int) -> int:
    """Bytes of one layer's tensor: experts are one tensor, so that its tail is padded once."""
    cols = shape[-1]
    size: int = matrix_bytes(stored, prod(shape[:-1]) * copies, cols)
    if row_step and stored.block_elems > 1:
        block = {"block_elems": stored.block_elems, "block_bytes": stored.block_bytes}
        size += ggml.tail_bytes(cols=cols, step=row_step, **block)
    return int(round_up(size, tensor_step))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Equal tensors on one device: their number, the bytes of one, and what they count as."""

    rank: int
    count: int
    size_bytes: int
    type: str
    """ggml type of a matrix, '' for vectors."""
    role: str
    name: str
    part: str
    """layer, head, embedding (a token embedding that is the output matrix too) or other."""


def _pieces(stored: Sequence[Stored], ranks: tuple[int, ...], rules: Rules) -> Iterator[_Piece]:
    output = ranks[-1]
    tied = not any(entry.tensor.role == "lm_head" for entry in stored)
    for entry in (entry for entry in stored if entry.tensor.part in TEXT_PARTS):
        tensor = entry.tensor
        if entry.layers:
            held = Counter(_rank_of(tensor, layer, ranks, rules) for layer in entry.layers)
            yield from (_piece(entry, rank, count, "layer", rules) for rank, count in held.items())
            continue
        by_hand = overridden(rules.overrides, tensor.name, None)
        if tensor.role in _INPUT_ROLES:
            doubles = tied and tensor.role == "embedding"
            place = HOST if by_hand is None else by_hand
            yield _piece(entry, place, 1, "embedding" if doubles else "other", rules)
            if doubles and rules.copies_tied_head and output != HOST:
                yield _piece(entry, output, 1, "head", rules)
        elif tensor.name.startswith(_ROTARY_PREFIX):
            yield from (_piece(entry, rank, 1, "other", rules) for rank in sorted(set(ranks[:-1])))
        else:
            place = output if by_hand is None else by_hand
            yield _piece(entry, place, 1, "head" if tensor.role == "lm_head" else "other", rules)


def _rank_of(tensor: Tensor, layer: int, ranks: tuple[int, ...], rules: Rules) -> int:
    """Where a tensor of one layer lies: by hand, its experts on the host, or with its layer."""
    if rules.overrides and (by_hand := overridden(rules.overrides, tensor.name, layer)) is not None:
        return by_hand
    return HOST if tensor.role in _EXPERT_ROLES and layer < rules.cpu_expert_layers else ranks[layer]


def _divided(pieces: Iterable[_Piece], shares: tuple[float, ...]) -> Iterator[_Piece]:
    """Matrices on cards cut by rows into the cards' shares; experts and vectors stay whole."""
    total = sum(shares)
    for piece in pieces:
        whole = not piece.type or piece.rank == HOST or piece.role in _EXPERT_ROLES
        if whole or piece.part not in ("layer", "head"):
            yield piece
            continue
        for rank, share in enumerate(shares):
            if share:
                yield replace(piece, rank=rank, size_bytes=int(piece.size_bytes * share / total))


def _piece(entry: Stored, rank: int, count: int, part: str, rules: Rules) -> _Piece:
    steps = (0, 1) if rank == HOST else (rules.row_step, rules.tensor_step)
    size = _size(entry.format, entry.tensor.shape, entry.tensor.copies, *steps)
    kind = entry.format.id if len(entry.tensor.shape) > 1 else ""
    return _Piece(rank, count, size, kind, entry.tensor.role, entry.tensor.name, part)


Types = tuple[tuple[int, int], tuple[int, int]]
"""(elements, bytes) of a block of K and of V."""


def _cell_bytes(model: ModelSpec, layer: CacheLayer, types: Types, rules: Rules) -> int:
    """Bytes of K and V of one cell in one layer."""
    widths = cache_widths(model, layer, latent_cache=rules.latent_cache)
    return sum(
        int(ggml.row_bytes(elems=elems, block_elems=block[0], block_bytes=block[1]))
        for elems, block in zip(widths, types, strict=True)
    )


def _tail(model: ModelSpec, layer: CacheLayer, types: Types, rules: Rules) -> int:
    """Bytes beyond the last row of K and V in one layer on a card that pads rows."""
    widths = cache_widths(model, layer, latent_cache=rules.latent_cache)
    tails = (
        ggml.tail_bytes(cols=elems, step=rules.row_step, block_elems=block[0], block_bytes=block[1])
        for elems, block in zip(widths, types, strict=True)
        if rules.row_step and block[0] > 1
    )
    return sum(int(round_up(tail, rules.tensor_step)) for tail in tails)


def shares_of(model: ModelSpec, stored: tuple[Stored, ...], rules: Rules, types: Types) -> tuple[Share, ...]:
    """The share of every card in rank order and, last, of the host."""
    return _shares_of(Same(model), Same(stored), rules, types)


@lru_cache(maxsize=256)
def _shares_of(
    model_: Same[ModelSpec], stored: Same[tuple[Stored, ...]], rules: Rules, types: Types
) -> tuple[Share, ...]:
    model = model_.value
    ranks = ranks_of_layers(model.layers, rules)
    pieces = list(_pieces(stored.value, ranks, rules))
    if rules.row_shares:
        pieces = list(_divided(pieces, rules.row_shares))
    return tuple(_share(rank, model, pieces, ranks, rules, types) for rank in (*range(len(rules.shares)), HOST))


def _expert_layers(rank: int, pieces: list[_Piece]) -> int:
    counts: Counter[str] = Counter()
    for piece in pieces:
        if piece.rank == rank and piece.role in _EXPERT_ROLES and piece.type:
            counts[piece.name] += piece.count
    return max(counts.values(), default=0)


def _share(
    rank: int,
    model: ModelSpec,
    pieces: list[_Piece],
    ranks: tuple[int, ...],
    rules: Rules,
    types: Types,
) -> Share:
    mine = [piece for piece in pieces if piece.rank == rank]
    cells = {True: 0, False: 0}
    largest = padding = conv = state = 0
    for layer in model.cache_layers:
        held = ranks if not rules.cache_on_host else (HOST,) * len(ranks)
        count = sum(1 for index in layer.layers if held[index] == rank)
        if not count:
            continue
        if layer.kind == "recurrent":
            conv += count * layer.conv_channels * max(layer.conv_kernel - 1, 0)
            state += count * layer.state_elems
            continue
        width = _cell_bytes(model, layer, types, rules)
        cells[rules.window_cache and layer.kind in ("sliding", "chunked")] += count * width
        largest = max(largest, width)
        padding += count * _tail(model, layer, types, rules) if rank != HOST else 0
    sizes: dict[str, int] = {}
    for piece in mine:
        if piece.type and piece.part in ("layer", "head"):
            sizes[piece.type] = sizes.get(piece.type, 0) + piece.size_bytes * piece.count
    heads = [piece.size_bytes for piece in mine if piece.part == "head"]
    return Share(
        rank=rank,
        layers=sum(1 for index in ranks[:-1] if index == rank),
        expert_layers=_expert_layers(rank, pieces) if model.is_moe else None,
        has_output=ranks[-1] == rank,
        weights_bytes=sum(piece.size_bytes * piece.count for piece in mine),
        largest_weight_bytes=max((piece.size_bytes for piece in mine if piece.part == "layer"), default=0),
        head_bytes=sum(heads),
        fetched_head_bytes=max((p.size_bytes for p in mine if p.part in ("head", "embedding")), default=0),
        cell_bytes=cells[False],
        window_cell_bytes=cells[True],
        largest_cell_bytes=largest,
        padding_bytes=padding,
        conv_elems=conv,
        state_elems=state,
        formats=tuple(sorted(sizes.items())),
    )
