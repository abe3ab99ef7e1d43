"""Pure state-space models: Mamba and FalconMamba (Mamba-1 mixers), Mamba-2 (Codestral Mamba). No attention, no MLP."""

from __future__ import annotations

from collections.abc import Sequence

from fitcalc.architectures import blocks
from fitcalc.architectures.common import decoder
from fitcalc.architectures.config import Config, flag, integer, integer_or, layer_count, size
from fitcalc.architectures.ssm_blocks import (
    dt_rank_of,
    mamba1,
    mamba2,
    mamba2_cache,
    recurrent_cache,
    state_dtype_of,
)
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

_MIXER = "backbone.layers.{layer}.mixer"


def inner_width(config: Config, hidden: int) -> int:
    """The mixer's inner width: intermediate_size rules; some published files carry an `expand` that is not used."""
    return integer_or(config, "intermediate_size", integer_or(config, "expand", 2) * hidden)


def build(config: Config) -> ModelSpec:
    """mamba, falcon_mamba. FalconMamba's norms on B, C and the time step have no weights."""
    hidden, layers = size(config, "hidden_size"), tuple(range(layer_count(config)))
    inner, state, kernel = inner_width(config, hidden), integer(config, "state_size"), integer(config, "conv_kernel")
    mixer = mamba1(
        _MIXER,
        hidden,
        inner,
        state,
        kernel,
        dt_rank_of(config, "time_step_rank", hidden),
        layers,
        bias=flag(config, "use_bias", False),
        conv_bias=flag(config, "use_conv_bias", True),
    )
    cache = recurrent_cache(layers, channels=inner, kernel=kernel, state_elems=inner * state)
    return _spec(config, mixer, cache, hidden, inner, layers, tied=flag(config, "tie_word_embeddings", True))


def build_mamba2(config: Config) -> ModelSpec:
    """mamba2: heads × head_dim is the inner width, B and C are shared by groups of heads."""
    hidden, layers = size(config, "hidden_size"), tuple(range(layer_count(config)))
    heads, head_dim = integer(config, "num_heads"), integer(config, "head_dim")
    groups, state, kernel = (integer(config, key) for key in ("n_groups", "state_size", "conv_kernel"))
    mixer = mamba2(
        _MIXER,
        hidden,
        heads,
        head_dim,
        groups,
        state,
        kernel,
        layers,
        bias=flag(config, "use_bias", False),
        conv_bias=flag(config, "use_conv_bias", True),
    )
    state_dtype = state_dtype_of(config, "mamba_ssm_cache_dtype")
    cache = mamba2_cache(layers, heads, head_dim, groups, state, kernel, state_dtype)
    tied = flag(config, "tie_word_embeddings", False)
    return _spec(config, mixer, cache, hidden, heads * head_dim, layers, tied=tied)


def _spec(
    config: Config,
    mixer: Sequence[Tensor],
    cache: Sequence[CacheLayer],
    hidden: int,
    inner: int,
    layers: tuple[int, ...],
    *,
    tied: bool,
) -> ModelSpec:
    """Embedding, one norm a layer, mixer, final norm, head. The inner width stands where an MLP's would."""
    vocab = size(config, "vocab_size")
    tensors = [
        blocks.embedding("backbone.embeddings", vocab, hidden),
        *blocks.norm("backbone.layers.{layer}.norm", hidden, layers),
        *mixer,
        *blocks.norm("backbone.norm_f", hidden),
        *blocks.lm_head(vocab, hidden, tied=tied),
    ]
    return decoder(
        config,
        tensors=tensors,
        cache=cache,
        layers=len(layers),
        hidden=hidden,
        heads=0,
        kv_heads=0,
        head_dim=0,
        intermediate=inner,
        vocab=vocab,
        tied=tied,
        attention="ssm",
    )
