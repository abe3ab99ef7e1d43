"""BERT and its kin (RoBERTa, XLM-R, MPNet, DistilBERT): post-norm encoders; the class named decides pooler and head."""

from __future__ import annotations

from collections.abc import Sequence

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, layer_count, size
from fitcalc.architectures.encoder_blocks import (
    class_of,
    encoder,
    head_dim_of_tower,
    labels_of,
    norms,
    stored,
    with_defaults,
)
from fitcalc.errors import UnsupportedModelError
from fitcalc.frozen import dataclass
from fitcalc.spec.model import ModelSpec, Tensor


@dataclass(frozen=True, slots=True)
class _Layout:
    """What differs inside the family: names of modules, and what it has."""

    prefix: str
    block: str = "encoder.layer.{layer}"
    qkvo: tuple[str, str, str, str] = ("self.query", "self.key", "self.value", "output.dense")
    attention_norm: str = "attention.output.LayerNorm"
    up_down: tuple[str, str] = ("intermediate.dense", "output.dense")
    output_norm: str = "output.LayerNorm"
    masked: tuple[str, str, str] = ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
    dense: str = "classifier.dense"
    labels: str = "classifier.out_proj"
    token_types: bool = True
    pooler: bool = True
    classifies_pooled: bool = False
    """A sequence classifier reads the pooler (BERT) instead of a dense layer of its own."""


_ROBERTA = _Layout("roberta")
_LAYOUTS = {
    "bert": _Layout(
        "bert",
        masked=("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
        classifies_pooled=True,
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": _Layout(
        "mpnet", qkvo=("attn.q", "attn.k", "attn.v", "attn.o"), attention_norm="attention.LayerNorm", token_types=False
    ),
    "distilbert": _Layout(
        "distilbert", "transformer.layer.{layer}", ("q_lin", "k_lin", "v_lin", "out_lin"), "sa_layer_norm",
        ("ffn.lin1", "ffn.lin2"), "output_layer_norm", ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
        "pre_classifier", "classifier", token_types=False, pooler=False,
    ),
}  # fmt: skip
_DEFAULTS = {"type_vocab_size": 2, "max_position_embeddings": 512, "relative_attention_num_buckets": 32}
_HEADS = {
    "LMHeadModel": ("masked",),
    "Model": ("pooler",),
    "ForMaskedLM": ("masked",),
    "ForPreTraining": ("pooler", "masked", "pair"),
    "ForNextSentencePrediction": ("pooler", "pair"),
    "ForSequenceClassification": ("dense", "labels"),
    "ForTokenClassification": ("labels",),
    "ForQuestionAnswering": ("spans",),
}


def _parts(made_by: str, layout: _Layout) -> tuple[str, ...]:
    """The parts of the head that the class in `architectures` owns; UnsupportedModelError for a class not known."""
    ending = next((ending for ending in _HEADS if made_by.endswith(ending)), None)
    if ending is None:
        raise UnsupportedModelError(f"class {made_by!r:.60} is not known", hint=f"known endings: {', '.join(_HEADS)}")
    return ("pooler", "labels") if layout.classifies_pooled and "dense" in _HEADS[ending] else _HEADS[ending]


def build(config: Config) -> ModelSpec:
    """bert, roberta, xlm-roberta, mpnet, distilbert: embeddings, post-norm layers, pooler or head."""
    layout = _LAYOUTS[str(config["model_type"])]
    config = with_defaults(config, _DEFAULTS)
    hidden, count = size(config, "hidden_size", "dim"), layer_count(config, "num_hidden_layers", "n_layers")
    heads, width = size(config, "num_attention_heads", "n_heads"), size(config, "intermediate_size", "hidden_dim")
    vocab, parts = size(config, "vocab_size"), _parts(class_of(config, "Model"), layout)
    prefix = "" if parts == ("pooler",) else f"{layout.prefix}."
    layers = tuple(range(count))
    return encoder(
        config,
        tensors=[
            *_embeddings(config, f"{prefix}embeddings", vocab, hidden, layout),
            *_layers(f"{prefix}{layout.block}", layout, hidden, heads, width, layers),
            *_relative_bias(config, prefix, heads, layout),
            *_head(config, layout, prefix, hidden, vocab, parts),
        ],
        layers=count,
        hidden=hidden,
        heads=heads,
        intermediate=width,
        vocab=vocab,
        tied="masked" in parts,
    )


def _embeddings(config: Config, prefix: str, vocab: int, hidden: int, layout: _Layout) -> list[Tensor]:
    positions = size(config, "max_position_embeddings")
    tables = [
        blocks.embedding(f"{prefix}.word_embeddings", vocab, hidden),
        stored(f"{prefix}.position_embeddings.weight", "position_embedding", (positions, hidden)),
    ]
    if layout.token_types:
        kinds = size(config, "type_vocab_size")
        tables.append(stored(f"{prefix}.token_type_embeddings.weight", "token_type_embedding", (kinds, hidden)))
    return [*tables, *blocks.norm(f"{prefix}.LayerNorm", hidden, bias=True)]


def _layers(block: str, layout: _Layout, hidden: int, heads: int, width: int, layers: tuple[int, ...]) -> list[Tensor]:
    head_dim = head_dim_of_tower(hidden, heads)
    return [
        *blocks.attention(
            f"{block}.attention", hidden, heads, heads, head_dim, layers, qkv_bias=True, out_bias=True,
            names=layout.qkvo,
        ),
        *blocks.plain_mlp(block, hidden, width, layers, names=layout.up_down),
        *norms((f"{block}.{layout.attention_norm}", f"{block}.{layout.output_norm}"), hidden, layers, bias=True),
    ]  # fmt: skip


def _relative_bias(config: Config, prefix: str, heads: int, layout: _Layout) -> list[Tensor]:
    """MPNet adds one learned bias per distance bucket and head, shared by all layers."""
    if layout.prefix != "mpnet":
        return []
    buckets = size(config, "relative_attention_num_buckets")
    return [stored(f"{prefix}encoder.relative_attention_bias.weight", "position_embedding", (buckets, heads))]


def _head(config: Config, layout: _Layout, prefix: str, hidden: int, vocab: int, parts: Sequence[str]) -> list[Tensor]:
    """What stands on the encoder, part by part: pooler, masked-language head, sentence pair, labels, answer spans."""
    tensors: list[Tensor] = []
    for part in parts:
        if part == "masked":
            tensors += _masked_lm(layout, hidden, vocab)
        elif part == "dense":
            tensors += _linear(layout.dense, hidden, hidden)
        elif part == "pooler":
            tensors += _linear(f"{prefix}pooler.dense", hidden, hidden) if layout.pooler else []
        elif part == "pair":
            tensors += _linear("cls.seq_relationship", 2, hidden)
        elif part == "spans":
            tensors += _linear("qa_outputs", 2, hidden)
        else:
            name = layout.labels if "dense" in parts else "classifier"
            tensors += _linear(name, labels_of(config), hidden)
    return tensors


def _linear(name: str, outputs: int, hidden: int) -> list[Tensor]:
    return blocks.linear(name, "other", outputs, hidden, split="replicated", bias=True)


def _masked_lm(layout: _Layout, hidden: int, vocab: int) -> list[Tensor]:
    """A square transform and a bias per token; the output matrix is the word embedding."""
    dense, norm, bias = layout.masked
    return [
        *_linear(dense, hidden, hidden),
        *blocks.norm(norm, hidden, bias=True),
        Tensor(bias, "bias", (vocab,), split="vocab"),
    ]
