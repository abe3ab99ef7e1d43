"""T5: encoder-decoder with relative positions and no biases; the encoder alone where the class named is one."""

from __future__ import annotations

from typing import Any

from fitcalc.architectures import blocks
from fitcalc.architectures.common import decoder
from fitcalc.architectures.config import Config, flag, layer_count, size
from fitcalc.architectures.encoder_blocks import class_of, cross_attention, encoder, norms, stored, with_defaults
from fitcalc.spec.model import CacheLayer, ModelSpec, Part, Tensor

_DEFAULTS = {"relative_attention_num_buckets": 32, "feed_forward_proj": "relu", "tie_word_embeddings": True}
_MT5_DEFAULTS = {**_DEFAULTS, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_QKVO = ("q", "k", "v", "o")


def build(config: Config) -> ModelSpec:
    """t5, mt5: T5ForConditionalGeneration, or T5EncoderModel by the config's `architectures`.

    The head of a gated model (v1.1, Flan, mT5) is a matrix of its own unless the config ties it.
    """
    defaults = _MT5_DEFAULTS if config["model_type"] == "mt5" else _DEFAULTS
    config, made_by = with_defaults(config, defaults), class_of(config)
    hidden, vocab = size(config, "d_model"), size(config, "vocab_size")
    tied = flag(config, "tie_word_embeddings", True)
    shared = blocks.embedding("shared", vocab, hidden)
    common: dict[str, Any] = {
        "layers": layer_count(config, "num_layers"),
        "hidden": hidden,
        "heads": size(config, "num_heads"),
        "intermediate": size(config, "d_ff"),
        "vocab": vocab,
        "head_dim": size(config, "d_kv"),
        "gated": _gated(config),
    }
    if made_by.endswith("EncoderModel"):
        return encoder(config, tensors=[shared, *_stack(config, "encoder", common["layers"])], **common)
    below = layer_count(config, "num_decoder_layers", "num_layers")
    common["layers"] = max(common["layers"], below)
    return decoder(
        config,
        tensors=[
            shared,
            *_stack(config, "encoder", layer_count(config, "num_layers")),
            *_stack(config, "decoder", below),
            *blocks.lm_head(vocab, hidden, tied=tied),
        ],
        cache=_cache(common["heads"], common["head_dim"], tuple(range(below))),
        kv_heads=common["heads"],
        tied=tied,
        attention="encdec(mha)",
        kind="encoder-decoder",
        notes=() if made_by else ("the config names no class: encoder and decoder are counted",),
        **common,
    )


def _gated(config: Config) -> bool:
    """Whether the MLP has a gate: stated, or the activation's name starts with 'gated-'."""
    return flag(config, "is_gated_act", str(config["feed_forward_proj"]).startswith("gated-"))


def _cache(heads: int, head_dim: int, layers: tuple[int, ...]) -> list[CacheLayer]:
    """Self-attention grows with the answer, cross-attention holds K and V of the prompt."""
    return [*blocks.full_cache(layers, heads, head_dim), CacheLayer("cross", layers, heads, head_dim, head_dim)]


def _stack(config: Config, name: str, count: int) -> list[Tensor]:
    """Encoder or decoder: sublayers 0 (self), 1 (cross, decoder only) and the MLP, one norm before each."""
    hidden, heads, head_dim = size(config, "d_model"), size(config, "num_heads"), size(config, "d_kv")
    part: Part = "encoder" if name == "encoder" else "text"
    layers, block = tuple(range(count)), f"{name}.block.{{layer}}.layer"
    last = 1 if name == "encoder" else 2
    buckets = size(config, "relative_attention_num_buckets")
    table = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    cross = [] if name == "encoder" else cross_attention(
        f"{block}.1.EncDecAttention", hidden, heads, heads, head_dim, layers, names=_QKVO, part=part
    )  # fmt: skip
    return [
        *blocks.attention(f"{block}.0.SelfAttention", hidden, heads, heads, head_dim, layers, names=_QKVO, part=part),
        stored(table, "position_embedding", (buckets, heads), part=part),
        *cross,
        *_mlp(config, f"{block}.{last}.DenseReluDense", hidden, layers, part),
        *norms([f"{block}.{index}.layer_norm" for index in range(last + 1)], hidden, layers, bias=False, part=part),
        *blocks.norm(f"{name}.final_layer_norm", hidden, part=part),
    ]


def _mlp(config: Config, prefix: str, hidden: int, layers: tuple[int, ...], part: Part) -> list[Tensor]:
    width = size(config, "d_ff")
    if _gated(config):
        return blocks.gated_mlp(prefix, hidden, width, layers, names=("wi_0", "wi_1", "wo"), part=part)
    return blocks.plain_mlp(prefix, hidden, width, layers, bias=False, names=("wi", "wo"), part=part)
