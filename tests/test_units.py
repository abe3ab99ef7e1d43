"""Sizes, rates and counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitcalc.errors import UnitError
from fitcalc.units import ceil_div, format_gib, least, most, parse_rate, parse_size, parse_tokens, round_up


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("81920 MiB", 81920 * 2**20), ("24GB", 24 * 10**9), ("1.5 GiB", 3 * 2**29), ("0.5 kB", 500), ("7 b", 7)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["24", "", "GB", "-3GB", "1e3 GB", "24 gigs", "nan GB"])
def test_a_size_needs_a_number_and_a_unit(text: str) -> None:
    with pytest.raises(UnitError):
        parse_size(text)


def test_rates() -> None:
    assert parse_rate("2039 GB/s", "B") == 2039e9
    assert parse_rate("312 TFLOP/s", "FLOP") == 312e12
    with pytest.raises(UnitError):
        parse_rate("312 TFLOP/s", "B")


@pytest.mark.parametrize(
    ("text", "tokens"), [("8192", 8192), ("128k", 131072), ("131,072", 131072), ("1M", 1048576), ("8_192", 8192)]
)
def test_tokens(text: str, tokens: int) -> None:
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize("text", ["-3", "", "k", "8.5k", "eight", "³"])
def test_tokens_are_whole_numbers(text: str) -> None:
    with pytest.raises(UnitError):
        parse_tokens(text)


@given(st.integers(0, 2**50), st.integers(1, 2**20))
def test_rounding_up_is_the_smallest_multiple_not_below(value: int, step: int) -> None:
    rounded = round_up(value, step)
    assert rounded % step == 0
    assert rounded - step < value <= rounded
    assert ceil_div(value, step) * step == rounded


@given(st.integers(-(2**60), 2**60), st.integers(-(2**60), 2**60))
def test_least_and_most_are_min_and_max(a: int, b: int) -> None:
    assert least(a, b) == min(a, b)
    assert most(a, b) == max(a, b)


@given(st.lists(st.integers(-(2**60), 2**60), min_size=1), st.integers(-(2**60), 2**60))
def test_least_and_most_take_arrays_on_either_side(numbers: list[int], other: int) -> None:
    array = np.array(numbers)
    for sides in ((array, other), (other, array), (array, np.array([other]))):
        assert least(*sides).tolist() == [min(number, other) for number in numbers]
        assert most(*sides).tolist() == [max(number, other) for number in numbers]


@given(st.integers(0, 2**44))
def test_a_size_formatted_in_mib_reads_back(mib: int) -> None:
    assert parse_size(f"{mib} MiB") == mib * 2**20


def test_small_sizes_do_not_read_as_zero() -> None:
    assert format_gib(512 * 1024) == "0.5 MiB"
    assert format_gib(0) == "0.00 GiB"
    assert format_gib(39_770_000_000) == "37.04 GiB"
