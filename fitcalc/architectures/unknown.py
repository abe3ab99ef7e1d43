"""A config of a family that nobody here knows: what its common keys state, and everything else as unknown.

Nothing is assumed of the layers' weights: the token embedding is counted, K and V heads give the cache where the keys
name them, and `unknowns` says that the rest is open, so that no verdict rests on it.
"""

from __future__ import annotations

from typing import Any

from fitcalc.architectures import blocks
from fitcalc.architectures.common import decoder
from fitcalc.architectures.config import Config, MissingKeyError, head_dim_of, kv_heads_of, layer_count, size
from fitcalc.architectures.nested import TEXT_KEYS
from fitcalc.errors import UnsupportedModelError
from fitcalc.spec.model import CacheLayer, ModelSpec

_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads", "multi_query_group_num")
_LATENT = ("kv_lora_rank", "qk_rope_head_dim")
_OTHER_STATE = ("mamba", "ssm", "linear_attn", "rwkv", "lightning", "recurrent", "attn_type_list", "hybrid")


def build(config: Config, why: UnsupportedModelError) -> ModelSpec:
    """What the keys of a model say that no family builds, for the reason `why`.

    Raises `why` again where the keys do not even state its sizes.
    """
    text = next((config[key] for key in TEXT_KEYS if isinstance(config.get(key), dict)), config)
    kind = str(config.get("model_type") or "")
    try:
        hidden, vocab, heads = size(text, *_HIDDEN), size(text, "vocab_size"), size(text, *_HEADS)
        layers = layer_count(text, *_LAYERS)
    except MissingKeyError:
        raise why from None
    kv_heads, head_dim = kv_heads_of(text, heads, *_KV_HEADS), head_dim_of(text, hidden, heads)
    cache, words = _cache(text, tuple(range(layers)), kv_heads, head_dim)
    return decoder(
        {**text, "model_type": kind},
        tensors=[blocks.embedding("model.embed_tokens", vocab, hidden)],
        cache=cache,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=0,
        vocab=vocab,
        tied=False,
        attention="mla" if cache[0].kind == "mla" else blocks.attention_label(heads, kv_heads),
        unknowns=(
            f"{why}: of its weights only the token embedding is counted, at least {vocab * hidden:,} "
            "parameters; its safetensors files would tell them exactly",
            *words,
        ),
        notes=_code_note(config),
    )


def _cache(
    text: Config, layers: tuple[int, ...], kv_heads: int, head_dim: int
) -> tuple[list[CacheLayer], tuple[str, ...]]:
    """The cache that the keys describe, every layer in full, and what may be otherwise."""
    if all(text.get(key) is not None for key in _LATENT):
        entry = CacheLayer("mla", layers, latent_elems=sum(size(text, key) for key in _LATENT))
    else:
        entry = CacheLayer("full", layers, kv_heads, head_dim, head_dim)
    others = any(word in key for key in text for word in _OTHER_STATE)
    return [entry], (f"which of the {len(layers)} layers keep K and V in full: all are counted",) if others else ()


def _code_note(config: Config) -> tuple[Any, ...]:
    if not config.get("auto_map"):
        return ()
    return ("auto_map names code beside the checkpoint: it is never run",)
