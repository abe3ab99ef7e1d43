"""What a choice among quantizations needs to know of each, without opening their files."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from fitcalc.catalog.files import read_toml, stems, user_folders
from fitcalc.catalog.generated import indexed
from fitcalc.errors import FitcalcError
from fitcalc.frozen import dataclass


@dataclass(frozen=True, slots=True)
class QuantRow:
    """The fields of a Scheme by which quantizations are told apart and ranked."""

    id: str
    kind: str
    bits: int
    quality_rank: int
    variant: bool
    needs_imatrix: bool
    method: str


def quant_rows() -> dict[str, QuantRow]:
    """Quantization id -> row, sorted by id; the user's own profiles win over the packaged ones."""
    packaged = {name: QuantRow(name, *row) for name, row in indexed("sizes/quants").items()}
    return dict(sorted((packaged | _user_rows(user_folders())).items()))


def row_of(content: dict[str, Any]) -> list[Any]:
    """The row of a profile's content, but for its id."""
    ranked = (content["kind"], content["bits"], content["quality_rank"])
    return [*ranked, content.get("variant", False), content.get("needs_imatrix", False), content.get("method", "")]


@cache
def _user_rows(folders: tuple[str, ...]) -> dict[str, QuantRow]:
    """Rows of the user's own quantizations; a broken file is left out here, and reported when it is named."""
    rows: dict[str, QuantRow] = {}
    if not folders:
        return rows
    from fitcalc.catalog.validation import hold_to_form

    for place in (os.path.join(folder, "quants") for folder in folders):
        for name in stems(place):
            try:
                content = read_toml(os.path.join(place, f"{name}.toml"))
                hold_to_form("quants", content, place)
            except FitcalcError:
                continue
            rows[name] = QuantRow(name, *row_of(content))
    return rows
