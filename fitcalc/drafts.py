"""The model that proposes tokens in speculative decoding, by the name that an engine's option gives it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fitcalc import catalog
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme

OPTION = "speculative_config"


def draft_of(options: Mapping[str, Any]) -> tuple[ModelSpec, Scheme] | None:
    """The draft model that the engine options name and the type it is stored in; None where they name none.

    Raises RequestError for an option that cannot be read, UnknownNameError for a model that is not in the catalogue.
    """
    value = next((given for name, given in options.items() if name.strip("-").replace("-", "_") == OPTION), None)
    if not value:
        return None
    from fitcalc.engines.vllm_draft import draft_name

    name = draft_name(value)
    if not name:
        return None
    if name.endswith((".json", ".safetensors")) or os.path.isdir(name):
        from fitcalc.readers.files import model_from_path

        model = model_from_path(os.path.expanduser(name))
    else:
        model = catalog.load_model(name)
    return model, catalog.load_scheme(model.quant.scheme if model.quant else model.dtype)
