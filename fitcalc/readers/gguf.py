"""GGUF headers -> ModelSpec. (Being built.)"""

from __future__ import annotations

from fitcalc.errors import ModelFileError
from fitcalc.spec.model import ModelSpec


def model_from_gguf(path: str) -> ModelSpec:
    """The model in a GGUF file."""
    raise ModelFileError(f"{path}: GGUF headers are not read yet", hint="give its config.json")
