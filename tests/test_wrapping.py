"""fitcalc.render.wrapping against textwrap, which it stands in for."""

from __future__ import annotations

import textwrap

from hypothesis import given
from hypothesis import strategies as st

from fitcalc.render.wrapping import shorten, wrap

WORDS = st.lists(st.text("ab·1,", min_size=1, max_size=8), max_size=12).map(" ".join)


@given(WORDS, st.integers(10, 40), st.sampled_from(["", " "]), st.sampled_from(["", "  "]))
def test_words_are_wrapped_as_the_standard_library_does(text: str, width: int, first: str, others: str) -> None:
    wanted = textwrap.wrap(text, width, initial_indent=first, subsequent_indent=others)
    assert wrap(text, width, initial_indent=first, subsequent_indent=others) == wanted


@given(WORDS, st.integers(10, 40))
def test_words_are_left_out_as_the_standard_library_does(text: str, width: int) -> None:
    assert shorten(text, width) == textwrap.shorten(text, width, placeholder=" …")


@given(st.text("ab ", max_size=60), st.integers(4, 12))
def test_no_line_is_wider_and_no_letter_is_lost(text: str, width: int) -> None:
    lines = wrap(text, width, initial_indent=" ", subsequent_indent="  ")
    assert all(len(line) <= width and line == line.rstrip() for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
