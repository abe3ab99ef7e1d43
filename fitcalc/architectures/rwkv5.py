"""RWKV-5.2 (Eagle): a recurrent network with one head_size × head_size matrix a head and one shifted token a sublayer.

Source: Peng and others 2024 (arXiv 2404.05892), whose count is 13·D²·L + 14·D·L + 4·D + 2·D·V for width D.
"""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.common import decoder
from fitcalc.architectures.config import Config, integer_or, layer_count, size
from fitcalc.architectures.ssm_blocks import recurrent_cache, sharded
from fitcalc.errors import ModelFileError, UnsupportedModelError
from fitcalc.spec.model import ModelSpec, Tensor

_BLOCK = "rwkv.blocks.{layer}"


def _time_mixing(hidden: int, inner: int, head_size: int, layers: tuple[int, ...]) -> list[Tensor]:
    name = f"{_BLOCK}.attention"
    mixes = [Tensor(f"{name}.time_mix_{part}", "vector", (1, 1, hidden), layers) for part in ("key", "value")]
    mixes += [Tensor(f"{name}.time_mix_{part}", "vector", (1, 1, hidden), layers) for part in ("receptance", "gate")]
    inputs = [
        blocks.linear(f"{name}.{part}", "linear_in", inner, hidden, layers)
        for part in ("receptance", "key", "value", "gate")
    ]
    return [
        *mixes,
        *(
            sharded(f"{name}.time_{part}", "vector", (inner // head_size, head_size), layers)
            for part in ("decay", "faaaa")
        ),
        *(tensor for part in inputs for tensor in part),
        *blocks.linear(f"{name}.output", "linear_out", hidden, inner, layers, split="rows"),
        *blocks.norm(f"{name}.ln_x", inner, layers, bias=True),
    ]


def _channel_mixing(hidden: int, width: int, layers: tuple[int, ...]) -> list[Tensor]:
    name = f"{_BLOCK}.feed_forward"
    return [
        *(Tensor(f"{name}.time_mix_{part}", "vector", (1, 1, hidden), layers) for part in ("key", "receptance")),
        *blocks.linear(f"{name}.key", "mlp_up", width, hidden, layers),
        *blocks.linear(f"{name}.receptance", "mlp_gate", hidden, hidden, layers),
        *blocks.linear(f"{name}.value", "mlp_down", hidden, width, layers, split="rows"),
    ]


def build(config: Config) -> ModelSpec:
    """rwkv5: the head is its own matrix in every released checkpoint, whatever tie_word_embeddings says."""
    version = str(config.get("model_version", "5_2"))
    if version != "5_2":
        raise UnsupportedModelError(f"config: model_version is {version!r:.40}", hint="RWKV 5_2 is known")
    hidden, vocab, layers = size(config, "hidden_size"), size(config, "vocab_size"), tuple(range(layer_count(config)))
    inner, head_size = integer_or(config, "attention_hidden_size", hidden), integer_or(config, "head_size", 64)
    if not head_size or inner % head_size:
        hint = "head_size has to divide attention_hidden_size"
        raise ModelFileError(f"config: head_size is {head_size}, attention_hidden_size {inner}", hint=hint)
    width = integer_or(config, "intermediate_size", 7 * hidden // 64 * 32)
    tensors = [
        blocks.embedding("rwkv.embeddings", vocab, hidden),
        *blocks.norm(f"{_BLOCK}.pre_ln", hidden, (0,), bias=True),
        *blocks.norm(f"{_BLOCK}.ln1", hidden, layers, bias=True),
        *blocks.norm(f"{_BLOCK}.ln2", hidden, layers, bias=True),
        *_time_mixing(hidden, inner, head_size, layers),
        *_channel_mixing(hidden, width, layers),
        *blocks.norm("rwkv.ln_out", hidden, bias=True),
        *blocks.lm_head(vocab, hidden, tied=False, name="head"),
    ]
    return decoder(
        config,
        tensors=tensors,
        # The shifted token of both sublayers is a convolution of width 2 over 2 × hidden channels.
        cache=recurrent_cache(layers, channels=2 * hidden, kernel=2, state_elems=inner * head_size),
        layers=len(layers),
        hidden=hidden,
        heads=inner // head_size,
        kv_heads=0,
        head_dim=head_size,
        intermediate=width,
        vocab=vocab,
        tied=False,
        attention="linear-rnn",
        gated=False,
    )
