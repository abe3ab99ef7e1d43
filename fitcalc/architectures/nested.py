"""The text model inside a multimodal config: where it lies, what it inherits, and the class defaults it leaves out.

A saved config drops the keys of a nested part that equal its class defaults, so a text_config may hold two keys;
a top-level config always states its sizes. The defaults are those of the parts' own configuration classes.
"""

from __future__ import annotations

from fitcalc.architectures import from_config
from fitcalc.architectures.config import Config, mapping
from fitcalc.architectures.families import class_defaults
from fitcalc.spec.model import ModelSpec

TEXT_KEYS = ("text_config", "llm_config", "language_config")
_INHERITED = ("tie_word_embeddings", "dtype", "torch_dtype")


def text_config(config: Config, default_type: str) -> Config:
    """The nested text part as a config of its own; `config` itself under `default_type` where none is nested.

    What the text part says of tied embeddings and dtype wins over the outer config, which wins over class defaults.
    """
    nested = next((mapping(config, key) for key in TEXT_KEYS if config.get(key) is not None), None)
    if nested is None:
        return {**config, "model_type": default_type}
    model_type = str(nested.get("model_type") or default_type)
    inherited = {key: config[key] for key in _INHERITED if key in config}
    if nested.get("dtype") or nested.get("torch_dtype"):
        inherited.pop("dtype", None)
        inherited.pop("torch_dtype", None)
    return {**class_defaults(model_type), **inherited, **nested, "model_type": model_type}


def text_model(config: Config, default_type: str) -> ModelSpec:
    """The ModelSpec of the text part, tensors named as if it stood alone.

    Raises UnsupportedModelError for a text model_type that no family builds.
    """
    return from_config(text_config(config, default_type))
