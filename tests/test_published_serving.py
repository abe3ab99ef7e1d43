"""Figures of other people's tables: exact sums are reproduced, a figure that is wrong is told from them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "accuracy" / "published.py"


def _module() -> Any:
    spec = importlib.util.spec_from_file_location("published_benchmark", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PUBLISHED = _module()


@pytest.mark.parametrize("row", PUBLISHED.rows(), ids=lambda row: row["id"])
def test_published_figures(row: dict[str, str]) -> None:
    answer = PUBLISHED.answer_of(row)
    assert row["source"]
    if row["basis"] == PUBLISHED.EXACT:
        assert answer.agrees, f"{answer.published} published, {answer.own} here"
    elif row["basis"] == "wrong":
        assert not answer.agrees, "marked as wrong, but the same"


def test_every_wrong_figure_says_what_is_known() -> None:
    assert all(row["reason"] for row in PUBLISHED.rows() if row["basis"] == "wrong")
