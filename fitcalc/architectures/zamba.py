"""Zamba and Zamba2: Mamba layers throughout, and a few attention blocks whose weights many layers share.

A shared block sees the layer's input beside the embedding, so it is twice as wide; each layer that calls it keeps
its own K/V, and a square matrix brings its output back. Sources: arXiv 2405.16712 and 2411.15242.
"""

from __future__ import annotations

from typing import Any

from fitcalc.architectures import blocks
from fitcalc.architectures.common import rope_of
from fitcalc.architectures.config import Config, flag, integer_or, layer_count, size
from fitcalc.architectures.hybrid_layers import HYBRID, RECURRENT, Layers, hybrid_decoder, listed_kinds, where
from fitcalc.architectures.moe_blocks import Frame, frame_of
from fitcalc.architectures.ssm_blocks import convolution, dt_rank_of, mamba2, mamba2_cache, recurrent_cache
from fitcalc.errors import ModelFileError
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

_BLOCK = "model.layers.{layer}"
_KINDS = (RECURRENT, HYBRID)


def _mamba1_sizes(config: Config, hidden: int) -> tuple[int, int, int]:
    """Inner width, state size and convolution width."""
    inner = integer_or(config, "mamba_expand", 2) * hidden
    return inner, integer_or(config, "mamba_d_state", 16), integer_or(config, "mamba_d_conv", 4)


def _head_mamba1(prefix: str, hidden: int, config: Config, layers: Layers) -> list[Tensor]:
    """Zamba's Mamba-1 mixer, whose small projections are split by head and are plain parameters."""
    inner, state, kernel = _mamba1_sizes(config, hidden)
    heads, rank = size(config, "n_mamba_heads"), dt_rank_of(config, "mamba_dt_rank", hidden)
    width, bias = inner // heads, flag(config, "mamba_proj_bias", False)
    return [
        *blocks.linear(f"{prefix}.in_proj", "ssm_in", 2 * inner, hidden, layers, bias=bias),
        *convolution(f"{prefix}.conv1d", inner, kernel, layers, bias=flag(config, "mamba_conv_bias", True)),
        Tensor(f"{prefix}.x_proj_weight", "ssm_x", (heads, rank + 2 * state, width), layers),
        Tensor(f"{prefix}.dt_proj_weight", "ssm_dt", (heads, width, rank), layers),
        Tensor(f"{prefix}.dt_proj_bias", "bias", (heads, width), layers),
        Tensor(f"{prefix}.A_log", "ssm_a", (heads, width, state), layers),
        Tensor(f"{prefix}.D", "ssm_d", (heads, width), layers),
        *blocks.linear(f"{prefix}.out_proj", "ssm_out", hidden, inner, layers, split="rows", bias=bias),
    ]


def _mamba2_sizes(config: Config, hidden: int) -> tuple[int, int, int, int, int]:
    heads = size(config, "n_mamba_heads")
    inner = integer_or(config, "mamba_expand", 2) * hidden
    groups, state = integer_or(config, "mamba_ngroups", 1), integer_or(config, "mamba_d_state", 64)
    return heads, inner // heads, groups, state, integer_or(config, "mamba_d_conv", 4)


def _shared_attention(prefix: str, frame: Frame, head_dim: int, layer: int) -> list[Tensor]:
    """Attention over twice the hidden width, stored under the first layer that calls it."""
    wide, owned, heads = 2 * frame.hidden, (layer,), frame.heads
    q, k, v = (f"{prefix}.self_attn.{name}_proj" for name in "qkv")
    kv: dict[str, Any] = {"split": "heads", "kv_heads": frame.kv_heads, "kv_rows": frame.kv_heads * head_dim}
    return [
        *blocks.linear(q, "attn_q", heads * head_dim, wide, owned, split="heads"),
        *blocks.linear(k, "attn_k", frame.kv_heads * head_dim, wide, owned, **kv),
        *blocks.linear(v, "attn_v", frame.kv_heads * head_dim, wide, owned, **kv),
        *blocks.linear(f"{prefix}.self_attn.o_proj", "attn_o", frame.hidden, heads * head_dim, owned, split="rows"),
        *blocks.norm(f"{prefix}.input_layernorm", wide, owned),
        *blocks.norm(f"{prefix}.pre_ff_layernorm", frame.hidden, owned),
    ]


def _adapters(config: Config, prefix: str, frame: Frame, width: int, called_by: Layers, block: int) -> list[Tensor]:
    """The low-rank matrices that each calling layer adds to the shared MLP, and if asked to shared Q, K and V."""
    rank, wide = integer_or(config, "adapter_rank", 128), 2 * frame.hidden
    step = integer_or(config, "num_mem_blocks", 1)
    lists = {"feed_forward.gate_up_proj_adapter_list": (frame.hidden, 2 * width)}
    if flag(config, "use_shared_attention_adapter", False):
        lists |= {f"self_attn.linear_{name}_adapter_list": (wide, wide) for name in "qkv"}
    tensors: list[Tensor] = []
    # The number in the list counts the calling layers; a tensor belongs to the one that uses it.
    for index in range(block, len(called_by), step):
        for name, (rows_in, rows_out) in lists.items():
            owned, place = called_by[index : index + 1], f"{prefix}.{name}.{index}"
            tensors += blocks.linear(f"{place}.0", "other", rank, rows_in, owned, split="replicated")
            tensors += blocks.linear(f"{place}.1", "other", rows_out, rank, owned, split="replicated")
    return tensors


def _square(frame: Frame, layers: Layers) -> list[Tensor]:
    return blocks.linear(f"{_BLOCK}.linear", "other", frame.hidden, frame.hidden, layers, split="replicated")


def build(config: Config) -> ModelSpec:
    """zamba: one shared block, Mamba-1 layers."""
    frame, count = frame_of(config, tied=True), layer_count(config)
    hidden, width = frame.hidden, size(config, "intermediate_size")
    step, offset = integer_or(config, "attn_layer_period", 6), integer_or(config, "attn_layer_offset", 4)
    if not step:
        raise ModelFileError("config: attn_layer_period is 0", hint="it has to be at least 1")
    pattern = [
        HYBRID if layer == 2 or (layer > 2 and (layer - 3) % step == offset) else RECURRENT for layer in range(count)
    ]
    kinds = listed_kinds(config, ("layers_block_type", "layer_types"), count, _KINDS) or pattern
    plain, calling = where(kinds, RECURRENT), where(kinds, HYBRID)
    head_dim = integer_or(config, "attention_head_dim", 2 * hidden // frame.heads)
    shared = f"{_BLOCK}.shared_transf"
    tensors = [
        *_head_mamba1(f"{_BLOCK}.mamba", hidden, config, plain),
        *_head_mamba1(f"{_BLOCK}.mamba_decoder.mamba", hidden, config, calling),
        *(_shared_attention(shared, frame, head_dim, calling[0]) if calling else []),
        *(blocks.gated_mlp(f"{shared}.feed_forward", hidden, width, calling[:1]) if calling else []),
    ]
    inner, state, kernel = _mamba1_sizes(config, hidden)
    cache = recurrent_cache(frame.layers, channels=inner, kernel=kernel, state_elems=inner * state)
    return _zamba(config, frame, kinds, tensors, cache, head_dim, width, "linear")


def build_zamba2(config: Config) -> ModelSpec:
    """zamba2: num_mem_blocks shared blocks in turn, an adapter for each call, Mamba-2 layers."""
    frame, count = frame_of(config, tied=True), layer_count(config)
    hidden, width = frame.hidden, integer_or(config, "intermediate_size", 4 * frame.hidden)
    kinds = listed_kinds(config, ("layers_block_type", "layer_types"), count, _KINDS)
    if kinds is None:
        raise ModelFileError("config: layers_block_type is missing", hint="zamba2 cannot be sized without it")
    plain, calling = where(kinds, RECURRENT), where(kinds, HYBRID)
    mamba, head_dim = _mamba2_sizes(config, hidden), 2 * hidden // frame.heads
    bias, conv_bias = flag(config, "add_bias_linear", False), flag(config, "use_conv_bias", True)
    mixers = {f"{_BLOCK}.mamba": plain, f"{_BLOCK}.mamba_decoder.mamba": calling}
    tensors = [
        tensor
        for name, layers in mixers.items()
        for tensor in mamba2(name, hidden, *mamba, layers, bias=bias, conv_bias=conv_bias)
    ]
    shared = f"{_BLOCK}.shared_transformer"
    for block, layer in enumerate(calling[: integer_or(config, "num_mem_blocks", 1)]):
        names = ("gate_up_proj", "down_proj")
        tensors += _shared_attention(shared, frame, head_dim, layer)
        tensors += blocks.fused_gated_mlp(f"{shared}.feed_forward", hidden, width, (layer,), bias=bias, names=names)
        own = f"model.layers.{layer}.shared_transformer"
        tensors += _adapters(config, own, frame, width, calling, block)
    cache = mamba2_cache(frame.layers, *mamba)
    rope = rope_of(config, head_dim) if flag(config, "use_mem_rope", False) else None
    return _zamba(config, frame, kinds, tensors, cache, head_dim, width, "ssm", rope=rope)


def _zamba(
    config: Config,
    frame: Frame,
    kinds: list[str],
    tensors: list[Tensor],
    state: list[CacheLayer],
    head_dim: int,
    width: int,
    label: str,
    **more: Any,
) -> ModelSpec:
    plain, calling = where(kinds, RECURRENT), where(kinds, HYBRID)
    tensors = [
        blocks.embedding("model.embed_tokens", frame.vocab, frame.hidden),
        *tensors,
        *_square(frame, calling),
        *blocks.norm(f"{_BLOCK}.input_layernorm", frame.hidden, plain),
        *blocks.norm(f"{_BLOCK}.mamba_decoder.input_layernorm", frame.hidden, calling),
        *blocks.norm("model.final_layernorm", frame.hidden),
        *blocks.lm_head(frame.vocab, frame.hidden, tied=frame.tied),
    ]
    cache = [*blocks.full_cache(calling, frame.kv_heads, head_dim), *state]
    return hybrid_decoder(config, frame, tensors, cache, mixer=label, intermediate=width, head_dim=head_dim, **more)
