"""The text model inside a multimodal config: where it lies, what it inherits, and the class defaults it leaves out.

A saved config drops the keys of a nested part that equal its class defaults, so a text_config may hold two keys;
a top-level config always states its sizes. The defaults are those of the parts' own configuration classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fitcalc.architectures import from_config
from fitcalc.architectures.config import Config, mapping
from fitcalc.spec.model import ModelSpec

TEXT_KEYS = ("text_config", "llm_config", "language_config")
_INHERITED = ("tie_word_embeddings", "dtype", "torch_dtype")


def _sizes(hidden: int, layers: int, heads: int, width: int, vocab: int, positions: int) -> Mapping[str, Any]:
    return MappingProxyType(
        {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": width,
            "vocab_size": vocab,
            "max_position_embeddings": positions,
        }
    )


CLASS_SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "gemma": _sizes(3072, 28, 16, 24576, 256000, 8192),
        "gemma2": _sizes(2304, 26, 8, 9216, 256000, 8192),
        "gemma3_text": _sizes(2304, 26, 8, 9216, 262208, 131072),
        "gemma3n_text": _sizes(2048, 35, 8, 16384, 262400, 32768),
        "gemma4_text": _sizes(2304, 30, 8, 9216, 262144, 131072),
        "llama": _sizes(4096, 32, 32, 11008, 32000, 2048),
        "ministral3": _sizes(4096, 34, 32, 14336, 131072, 262144),
        "mistral": _sizes(4096, 32, 32, 14336, 32000, 131072),
        "opt": MappingProxyType(
            {
                "hidden_size": 768,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "ffn_dim": 3072,
                "vocab_size": 50272,
                "max_position_embeddings": 2048,
            }
        ),
        "phi3": _sizes(3072, 32, 32, 8192, 32064, 4096),
        "qwen2": _sizes(4096, 32, 32, 22016, 151936, 32768),
        "qwen2_5_vl_text": _sizes(8192, 80, 64, 29568, 152064, 32768),
        "qwen2_vl_text": _sizes(8192, 80, 64, 29568, 152064, 32768),
        "qwen3": _sizes(4096, 32, 32, 22016, 151936, 32768),
        "qwen3_vl_text": _sizes(4096, 32, 32, 22016, 151936, 128000),
    }
)


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
    return {**CLASS_SIZES.get(model_type, {}), **inherited, **nested, "model_type": model_type}


def text_model(config: Config, default_type: str) -> ModelSpec:
    """The ModelSpec of the text part, tensors named as if it stood alone.

    Raises UnsupportedModelError for a text model_type that no family builds.
    """
    return from_config(text_config(config, default_type))
