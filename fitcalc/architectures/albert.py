"""ALBERT: one set of layer weights used at every depth, and a narrow embedding widened by a projection."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, layer_count, size
from fitcalc.architectures.encoder_blocks import (
    class_of,
    encoder,
    few,
    head_dim_of_tower,
    labels_of,
    norms,
    stored,
    with_defaults,
)
from fitcalc.errors import UnsupportedModelError
from fitcalc.spec.model import ModelSpec, Tensor

_DEFAULTS = {
    "type_vocab_size": 2,
    "max_position_embeddings": 512,
    "embedding_size": 128,
    "num_hidden_groups": 1,
    "inner_group_num": 1,
}
_HEADS = ("ForMaskedLM", "ForSequenceClassification", "Model")


def build(config: Config) -> ModelSpec:
    """albert: `num_hidden_groups` sets of weights serve `num_hidden_layers` layers."""
    config, made_by = with_defaults(config, _DEFAULTS), class_of(config, "AlbertModel")
    if not made_by.endswith(_HEADS):
        raise UnsupportedModelError(f"class {made_by!r:.60} is not known", hint=f"known endings: {', '.join(_HEADS)}")
    hidden, narrow = size(config, "hidden_size"), size(config, "embedding_size")
    heads, width, vocab = (size(config, key) for key in ("num_attention_heads", "intermediate_size", "vocab_size"))
    prefix = "" if made_by.endswith("Model") else "albert."
    return encoder(
        config,
        tensors=[
            blocks.embedding(f"{prefix}embeddings.word_embeddings", vocab, narrow),
            *_tables(config, f"{prefix}embeddings", narrow),
            *_dense(f"{prefix}encoder.embedding_hidden_mapping_in", hidden, narrow),
            *_groups(config, f"{prefix}encoder", hidden, heads, width),
            *_head(config, made_by, prefix, hidden, narrow, vocab),
        ],
        layers=layer_count(config),
        hidden=hidden,
        heads=heads,
        intermediate=width,
        vocab=vocab,
        tied=made_by.endswith("ForMaskedLM"),
        notes=("one set of layer weights serves all layers",),
    )


def _dense(name: str, outputs: int, inputs: int) -> list[Tensor]:
    return blocks.linear(name, "other", outputs, inputs, split="replicated", bias=True)


def _tables(config: Config, prefix: str, narrow: int) -> list[Tensor]:
    positions, kinds = size(config, "max_position_embeddings"), size(config, "type_vocab_size")
    return [
        stored(f"{prefix}.position_embeddings.weight", "position_embedding", (positions, narrow)),
        stored(f"{prefix}.token_type_embeddings.weight", "token_type_embedding", (kinds, narrow)),
        *blocks.norm(f"{prefix}.LayerNorm", narrow, bias=True),
    ]


def _groups(config: Config, prefix: str, hidden: int, heads: int, width: int) -> list[Tensor]:
    groups = tuple(range(layer_count(config, "num_hidden_groups")))
    tensors: list[Tensor] = []
    for inner in range(few(config, "inner_group_num")):
        block = f"{prefix}.albert_layer_groups.{{layer}}.albert_layers.{inner}"
        tensors += [
            *blocks.attention(
                f"{block}.attention", hidden, heads, heads, head_dim_of_tower(hidden, heads), groups, qkv_bias=True,
                out_bias=True, names=("query", "key", "value", "dense"),
            ),
            *blocks.plain_mlp(block, hidden, width, groups, names=("ffn", "ffn_output")),
            *norms((f"{block}.attention.LayerNorm", f"{block}.full_layer_layer_norm"), hidden, groups, bias=True),
        ]  # fmt: skip
    return tensors


def _head(config: Config, made_by: str, prefix: str, hidden: int, narrow: int, vocab: int) -> list[Tensor]:
    if made_by.endswith("ForMaskedLM"):
        bias = Tensor("predictions.bias", "bias", (vocab,), split="vocab")
        return [
            *_dense("predictions.dense", narrow, hidden),
            *blocks.norm("predictions.LayerNorm", narrow, bias=True),
            bias,
        ]
    pooler = _dense(f"{prefix}pooler", hidden, hidden)
    return pooler if made_by.endswith("Model") else [*pooler, *_dense("classifier", labels_of(config), hidden)]
