"""A folder with a model's files -> ModelSpec. (Being built.)"""

from __future__ import annotations

import os

from fitcalc.errors import ModelFileError
from fitcalc.readers.hf_config import model_from_config
from fitcalc.spec.model import ModelSpec


def model_from_folder(path: str) -> ModelSpec:
    """The model in a folder."""
    config = os.path.join(path, "config.json")
    if not os.path.exists(config):
        raise ModelFileError(f"{path}: a folder without a config.json", hint="give the folder that holds it")
    return model_from_config(config)


def model_from_index(path: str) -> ModelSpec:
    """The model whose shards a model.safetensors.index.json lists."""
    raise ModelFileError(f"{path}: safetensors indexes are not read yet", hint="give its config.json")
