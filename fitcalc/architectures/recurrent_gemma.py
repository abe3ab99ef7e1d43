"""RecurrentGemma (Griffin): gated linear recurrent units, and every third layer attending within a window.

Source: De and others 2024 (arXiv 2402.19427).
"""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.common import rope_of, rotary_dim_of
from fitcalc.architectures.config import Config, flag, integer_or, size
from fitcalc.architectures.hybrid_layers import FULL, RECURRENT, Layers, hybrid_decoder, kinds_of, where
from fitcalc.architectures.moe_blocks import frame_of, layer_norms
from fitcalc.architectures.ssm_blocks import convolution, recurrent_cache, sharded
from fitcalc.errors import ModelFileError
from fitcalc.spec.model import ModelSpec, Tensor

_BLOCK = "model.layers.{layer}"
_MIXER = f"{_BLOCK}.temporal_block"


def _kinds(config: Config, count: int) -> list[str]:
    """block_types, repeated over the layers."""
    pattern = kinds_of(
        config.get("block_types", ["recurrent", "recurrent", "attention"]), "block_types", (RECURRENT, FULL)
    )
    if not pattern:
        raise ModelFileError("config: block_types is empty", hint="it has to name at least one kind")
    return [pattern[layer % len(pattern)] for layer in range(count)]


def _recurrent(hidden: int, width: int, heads: int, kernel: int, layers: Layers) -> list[Tensor]:
    """Two input branches, a convolution, and a recurrent unit whose two gates are block-diagonal, a block a head."""
    block, unit = width // heads, f"{_MIXER}.rg_lru"
    return [
        *blocks.linear(f"{_MIXER}.linear_y", "linear_in", width, hidden, layers, bias=True),
        *blocks.linear(f"{_MIXER}.linear_x", "linear_in", width, hidden, layers, bias=True),
        *blocks.linear(f"{_MIXER}.linear_out", "linear_out", hidden, width, layers, split="rows", bias=True),
        *convolution(f"{_MIXER}.conv_1d", width, kernel, layers, bias=True),
        sharded(f"{unit}.recurrent_param", "vector", (width,), layers),
        *(
            sharded(f"{unit}.{gate}_gate_weight", "other", (heads, block, block), layers)
            for gate in ("input", "recurrent")
        ),
        *(sharded(f"{unit}.{gate}_gate_bias", "bias", (heads, block), layers) for gate in ("input", "recurrent")),
    ]


def build(config: Config) -> ModelSpec:
    """recurrent_gemma: intermediate_size counts gate and up together; a recurrent layer keeps lru_width elements.

    The output projection of attention always has a bias.
    """
    frame = frame_of(config, tied=True)
    hidden, width = frame.hidden, size(config, "intermediate_size") // 2
    lru, kernel = integer_or(config, "lru_width", hidden), integer_or(config, "conv1d_width", 4)
    window, bias = integer_or(config, "attention_window_size", 2048), flag(config, "attention_bias", False)
    kinds, heads = _kinds(config, frame.count), (frame.heads, frame.kv_heads, frame.head_dim)
    mixing, attending = where(kinds, RECURRENT), where(kinds, FULL)
    tensors = [
        blocks.embedding("model.embed_tokens", frame.vocab, hidden),
        *_recurrent(hidden, lru, frame.heads, kernel, mixing),
        *blocks.attention(_MIXER, hidden, *heads, attending, qkv_bias=bias, out_bias=True),
        *blocks.gated_mlp(f"{_BLOCK}.mlp_block", hidden, width, frame.layers, bias=True),
        *layer_norms(frame, frame.layers, names=("temporal_pre_norm", "channel_pre_norm")),
        *blocks.norm("model.final_norm", hidden),
        *blocks.lm_head(frame.vocab, hidden, tied=frame.tied),
    ]
    cache = [
        *blocks.window_cache(attending, frame.kv_heads, frame.head_dim, window),
        *recurrent_cache(mixing, channels=lru, kernel=kernel, state_elems=lru),
    ]
    rope = rope_of(config, rotary_dim_of(config, frame.head_dim, 0.5))
    return hybrid_decoder(config, frame, tensors, cache, mixer="sliding+linear", intermediate=width, rope=rope)
