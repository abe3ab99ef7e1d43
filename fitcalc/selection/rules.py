"""The conventions of profiles/selection.toml: counts, engines, uses."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from fitcalc.catalog.files import packaged_folder, read_toml


@lru_cache(maxsize=1)
def rules() -> dict[str, Any]:
    """The content of profiles/selection.toml."""
    return read_toml(os.path.join(packaged_folder(), "selection.toml"))
