"""Every model of the catalogue counts, to the parameter, what its class, its makers or the hub count.

golden/parameter_counts.csv: counts of other programs and of publishers, never of fitcalc; the source column says which.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from fitcalc.catalog import ids, load_model

_GOLDEN = Path(__file__).parent / "golden" / "parameter_counts.csv"
_ROWS = list(csv.DictReader(_GOLDEN.read_text(encoding="utf-8").splitlines()))
_COUNTED = [row for row in _ROWS if row["params_total"]]
_UNCOUNTED = [row for row in _ROWS if not row["params_total"]]


def _slug(row: dict[str, str]) -> str:
    return row["slug"]


def test_every_catalogue_model_has_a_row() -> None:
    assert {row["slug"] for row in _ROWS} == set(ids("models"))


def test_rows_without_a_count_say_why() -> None:
    assert all(row["note"] for row in _UNCOUNTED)
    assert all(row["source"] for row in _COUNTED)


@pytest.mark.parametrize("row", _COUNTED, ids=_slug)
def test_counts_are_exact(row: dict[str, str]) -> None:
    spec = load_model(row["slug"])
    counted = spec.params_total if spec.tensors else spec.published_params
    assert counted == int(row["params_total"])
    if row["params_active"] and spec.tensors:
        assert spec.params_active == int(row["params_active"])
    if not spec.tensors:
        assert spec.unknowns, "a model without tensors has to say so"


@pytest.mark.parametrize("row", _UNCOUNTED, ids=_slug)
def test_models_nobody_counted_still_build(row: dict[str, str]) -> None:
    spec = load_model(row["slug"])
    assert spec.params_total > 0
    assert spec.cache_layers
