"""Formulas: every text says what its function computes; shares cover the whole; caches and booking obey their laws."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from formula_text import FUNCTIONS, evaluate
from hypothesis import given
from hypothesis import strategies as st

import fitcalc.formulas
from fitcalc.formulas import runtime, split, state
from fitcalc.units import GIB, MIB


def formulas() -> Iterator[Any]:
    for module in pkgutil.iter_modules(fitcalc.formulas.__path__):
        loaded = importlib.import_module(f"fitcalc.formulas.{module.name}")
        for name, member in sorted(vars(loaded).items()):
            if callable(member) and hasattr(member, "text") and member.__module__ == loaded.__name__:
                yield pytest.param(member, id=f"{module.name}.{name}")


@pytest.mark.parametrize("function", list(formulas()))
def test_text_and_function_agree(function: Any) -> None:
    rng = random.Random(function.text)
    names = list(inspect.signature(function).parameters)
    for largest in (3, 40, 5000, 10**6):
        for _ in range(8):
            numbers = {name: rng.randint(1, largest) for name in names}
            assert evaluate(function.text, numbers) == function(**numbers)


@pytest.mark.parametrize("function", list(formulas()))
def test_text_names_its_inputs_and_nothing_else(function: Any) -> None:
    named = {node.id for node in ast.walk(ast.parse(function.text, mode="eval")) if isinstance(node, ast.Name)}
    assert named - set(FUNCTIONS) == set(inspect.signature(function).parameters)


@pytest.mark.parametrize("function", list(formulas()))
def test_arrays_and_numbers_agree(function: Any) -> None:
    rng = np.random.default_rng(7)
    arrays = {name: rng.integers(1, 900, (3, 4)) for name in inspect.signature(function).parameters}
    result = np.broadcast_to(function(**arrays), (3, 4))
    for place in np.ndindex(3, 4):
        numbers = {name: int(values[place]) for name, values in arrays.items()}
        assert result[place] == function(**numbers)


def test_evaluator_refuses_what_is_no_formula() -> None:
    with pytest.raises(AssertionError):
        evaluate("__import__('os').name", {})
    with pytest.raises(KeyError):
        evaluate("a % b", {"a": 1, "b": 2})


# --- shares -----------------------------------------------------------------------------------------------------------

sizes = st.integers(1, 200_000)
degrees = st.integers(1, 16)


@given(sizes, degrees)
def test_shares_cover_the_whole(elems: int, ranks: int) -> None:
    part = split.share(elems=elems, ranks=ranks)
    assert elems <= part * ranks < elems + ranks
    assert split.share(elems=elems * ranks, ranks=ranks) * ranks == elems * ranks
    assert split.share(elems=elems, ranks=1) == elems


@given(sizes, st.sampled_from((1, 2, 4, 8, 16)))
def test_vocabulary_is_padded_once(vocab: int, ranks: int) -> None:
    rows = split.vocab_share(vocab=vocab, step=64, ranks=ranks) * ranks
    assert vocab <= rows < vocab + 64
    assert rows % 64 == 0


@given(st.integers(0, 7), st.integers(0, 7), st.integers(1, 256), st.integers(0, 64))
def test_head_rows_divide_or_copy(kv_power: int, rank_power: int, head_dim: int, query_heads: int) -> None:
    """Query rows are divided; KV heads too, until there are fewer of them than ranks: then each rank has one."""
    kv_heads, ranks = 2**kv_power, 2**rank_power
    query, kv = query_heads * ranks * head_dim, 2 * kv_heads * head_dim
    rows = split.head_rows_share(rows=query + kv, kv_rows=kv, kv_heads=kv_heads, ranks=ranks)
    assert rows == query // ranks + (kv // ranks if kv_heads >= ranks else 2 * head_dim)
    assert rows * ranks >= query + kv


@given(st.integers(1, 200), st.integers(1, 12))
def test_stages_hold_every_layer_once(layers: int, stages: int) -> None:
    ranges = split.stage_ranges(layers, stages)
    held = [layer for first, stop in ranges for layer in range(first, stop)]
    assert held == list(range(layers))
    counts = [stop - first for first, stop in ranges]
    assert max(counts) - min(counts) <= 1
    assert counts[-1] == layers // stages


def test_remainder_goes_before_the_last_stage() -> None:
    """vLLM's rule: one extra layer each, counted backwards from the second-last stage."""
    assert [stop - first for first, stop in split.stage_ranges(61, 4)] == [15, 15, 16, 15]
    assert [stop - first for first, stop in split.stage_ranges(62, 4)] == [15, 16, 16, 15]


# --- caches -----------------------------------------------------------------------------------------------------------

tokens = st.integers(1, 2**20)
block = st.sampled_from(((1, 2), (1, 1), (1, 4), (32, 34)))


@given(st.integers(1, 128), st.integers(1, 64), st.sampled_from((64, 128, 256)), tokens, tokens, block)
def test_cache_laws(layers: int, heads: int, dim: int, context: int, window: int, kv: tuple[int, int]) -> None:
    block_elems, block_bytes = kv
    common = {"layers": layers, "elems_per_token": 2 * heads * dim, "block_elems": block_elems}
    common["block_bytes"] = block_bytes
    full = state.full_bytes(context_tokens=context, requests=3, **common)
    one = state.full_bytes(context_tokens=context, requests=1, **common)
    windowed = state.window_bytes(context_tokens=context, window_tokens=window, requests=3, **common)
    assert full == 3 * one
    assert windowed <= full
    assert (windowed == full) == (window >= context)
    longer = state.window_bytes(context_tokens=context + 1, window_tokens=window, requests=3, **common)
    assert longer >= windowed
    entry = {"elems_per_entry": 2 * heads * dim, "compression": 1}
    rest = {key: value for key, value in common.items() if key != "elems_per_token"}
    assert state.compressed_bytes(context_tokens=context, requests=3, **entry, **rest) == full


@given(tokens, st.integers(1, 4096), st.sampled_from((16, 32, 64, 784)), st.integers(1, 16384))
def test_paged_windows(context: int, window: int, block_tokens: int, batch: int) -> None:
    """A window takes its tokens, one batch and a boundary block; never more than the full context and that block."""
    kept = {"window_tokens": window, "batch_tokens": batch, "context_tokens": context, "block_tokens": block_tokens}
    full = state.full_blocks(context_tokens=context, block_tokens=block_tokens)
    assert state.sliding_blocks(**kept) <= full + 1
    assert state.chunked_blocks(**kept) <= full
    if window + batch > context:
        assert state.sliding_blocks(**kept) == full + 1
        assert state.chunked_blocks(**kept) == full
    assert full * block_tokens >= context > (full - 1) * block_tokens


def test_hybrid_block_covers_the_state_page() -> None:
    """Block lengths in logs of the Qwen3.5 27B shape: 784 with a 16-bit cache, 1568 with an 8-bit one.

    State of a layer: 48 value heads of 128 × 128 in fp32 and 3 columns of 10,240 channels in 16 bit.
    """
    page = state.recurrent_bytes(
        layers=1, channels=10240, kernel=3, conv_bytes=2, state_elems=48 * 128 * 128, state_bytes=4, requests=1
    )
    for token_bytes, block_tokens in ((2 * 4 * 256 * 2, 784), (2 * 4 * 256, 1568)):
        found = state.covering_block_tokens(step_tokens=16, state_page_bytes=page, token_bytes=token_bytes)
        assert found == block_tokens


# --- run time ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 2**36))
def test_booking_adds_less_than_its_step(size: int) -> None:
    booked = runtime.booked_bytes(size_bytes=size)
    assert size <= booked <= size + MIB + 511
    if size < 10 * MIB - 512:
        assert booked < size + 512


def test_booking_cases() -> None:
    """Tails up to 1 MiB of a 2 MiB segment stay with the tensor, longer ones are split off."""
    assert runtime.booked_bytes(size_bytes=1) == 512
    assert runtime.booked_bytes(size_bytes=9 * MIB + 1) == 9 * MIB + 512
    assert runtime.booked_bytes(size_bytes=11 * MIB) == 12 * MIB
    assert runtime.booked_bytes(size_bytes=11 * MIB - 512) == 11 * MIB - 512
    assert runtime.booked_bytes(size_bytes=12 * MIB) == 12 * MIB


def test_profile_peak_of_a_logged_run() -> None:
    """Llama-3.1-8B on H100 with vLLM 0.19: 8192 tokens, 1024 requests; the log says 1.89 GiB."""
    peak = runtime.profile_peak(
        base_bytes=round(0.05 * GIB), tokens=8192, elem_bytes=2, matrices=3, width=14336, hidden=4096,
        half_bytes_per_logit=29, requests=1024, vocab=128256, experts_per_token=0, expert_width=0,
    )  # fmt: skip
    assert peak / GIB == pytest.approx(1.89, abs=0.005)


@given(st.integers(0, 2**38), st.integers(1, 10000), st.integers(0, 2**37))
def test_reserve_never_negative_and_complete(total: int, share: int, outside: int) -> None:
    requested = runtime.requested_bytes(total_bytes=total, utilization_e4=share)
    kept = runtime.kept_free(total_bytes=total, requested_bytes=requested, outside_bytes=outside)
    assert 0 <= requested <= total
    assert kept == max(0, total - requested - outside)
