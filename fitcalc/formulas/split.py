"""What one rank holds: dimensions under tensor parallelism, experts under expert parallelism, layers under pipelines.

Every formula gives the whole dimension back for one rank, and `ranks` shares cover the whole: exactly where the
dimension divides (engines refuse most that do not), with padding or copies where it does not.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from fitcalc.formulas import formula
from fitcalc.units import ceil_div, least, most, round_up


@formula("ceil_div(elems, ranks)")
def share(*, elems: Any, ranks: Any) -> Any:
    """A dimension divided evenly: columns and rows of linears, an expert's width, state channels."""
    return ceil_div(elems, ranks)


@formula("ceil_div(round_up(vocab, step), ranks)")
def vocab_share(*, vocab: Any, step: Any, ranks: Any) -> Any:
    """Rows of the embedding or head on one rank: the vocabulary is padded to a multiple of `step` first."""
    return ceil_div(round_up(vocab, step), ranks)


@formula("most(1, kv_heads // ranks)")
def kv_heads_share(*, kv_heads: Any, ranks: Any) -> Any:
    """KV heads on one rank; with fewer heads than ranks each rank keeps a copy of one."""
    return most(1, kv_heads // ranks)


@formula("ceil_div(rows - kv_rows, ranks) + kv_rows // kv_heads * most(1, kv_heads // ranks)")
def head_rows_share(*, rows: Any, kv_rows: Any, kv_heads: Any, ranks: Any) -> Any:
    """Rows of a Q, K, V or fused matrix on one rank: query rows divided, `kv_rows` in whole heads."""
    return ceil_div(rows - kv_rows, ranks) + kv_rows // kv_heads * most(1, kv_heads // ranks)


@formula("ceil_div(experts, ranks)")
def experts_share(*, experts: Any, ranks: Any) -> Any:
    """Whole experts on one rank under expert parallelism."""
    return ceil_div(experts, ranks)


@formula("ceil_div(requests, ranks)")
def requests_share(*, requests: Any, ranks: Any) -> Any:
    """Requests that one data parallel rank serves at once."""
    return ceil_div(requests, ranks)


@formula(
    "layers // stages + least(1, most(0, stage + 2 - stages + layers - layers // stages * stages))"
    " * least(1, stages - 1 - stage)"
)
def stage_layers(*, layers: Any, stages: Any, stage: Any) -> Any:
    """Layers of a pipeline stage: the remainder goes one each to the stages before the last, counted backwards."""
    remainder = layers - layers // stages * stages
    takes_one = least(1, most(0, stage + 2 - stages + remainder)) * least(1, stages - 1 - stage)
    return layers // stages + takes_one


def stage_ranges(layers: int, stages: int) -> tuple[tuple[int, int], ...]:
    """(first layer, layer after the last) of every pipeline stage."""
    ends = [0]
    for stage in range(stages):
        ends.append(ends[-1] + stage_layers(layers=layers, stages=stages, stage=stage))
    return tuple(pairwise(ends))
