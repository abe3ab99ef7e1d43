"""What pydantic holds the forms of profile files to."""

from __future__ import annotations

from typing import Any

STRICT: dict[str, Any] = {"extra": "forbid", "strict": True, "use_attribute_docstrings": True}
"""No unknown keys, no conversion of types; docstrings of attributes become the schema's descriptions."""
