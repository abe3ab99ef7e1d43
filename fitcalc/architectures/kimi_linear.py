"""Kimi Linear and the text model of Kimi K3: Kimi delta attention, with latent attention on every fourth layer.

Delta attention decays per channel; each head keeps a head_dim × head_dim matrix, and Q, K and V each pass a short
convolution. K3 adds an output gate to the latent attention, experts in a narrower latent width, and residual
attention: two scoring vectors a sublayer that mix the outputs of earlier blocks. Source: Kimi Linear (arXiv
2510.26692) and the headers of the released checkpoints.
"""

from __future__ import annotations

from typing import Any

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, flag, integer, integer_or, mapping, size
from fitcalc.architectures.gated_delta import input_projections
from fitcalc.architectures.hybrid_layers import FULL, RECURRENT, Layers, integers, listed_kinds, present, where
from fitcalc.architectures.moe_blocks import (
    W1_W3_W2,
    Experts,
    Frame,
    dense_mlp,
    ends,
    experts_of,
    frame_of,
    layer_norms,
    moe_decoder,
    router_bias,
    shared_expert,
    sparse_after_dense,
    without,
)
from fitcalc.architectures.ssm_blocks import convolution, recurrent_cache, sharded
from fitcalc.errors import ModelFileError
from fitcalc.frozen import replace
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

_BLOCK = "model.layers.{layer}"
_ATTENTION = f"{_BLOCK}.self_attn"


def _kinds(config: Config, count: int) -> list[str]:
    """layer_types, else linear_attn_config, which numbers its layers from 1."""
    listed = listed_kinds(config, ("layer_types",), count, (RECURRENT, FULL))
    if listed is not None:
        return listed
    nested = mapping(config, "linear_attn_config")
    full, delta = set(integers(nested, "full_attn_layers")), set(integers(nested, "kda_layers"))
    if full & delta or full | delta != set(range(1, count + 1)):
        hint = "full_attn_layers and kda_layers number every layer once, from 1"
        raise ModelFileError(f"config: linear_attn_config does not cover the {count} layers", hint=hint)
    return [FULL if layer + 1 in full else RECURRENT for layer in range(count)]


def _delta_heads(config: Config) -> tuple[int, int, int]:
    """Heads, head dimension and convolution width of the delta layers."""
    nested = mapping(config, "linear_attn_config")
    return (
        integer_or(nested, "num_heads", integer_or(config, "linear_num_heads", 32)),
        integer_or(nested, "head_dim", integer_or(config, "linear_head_dim", 128)),
        integer_or(nested, "short_conv_kernel_size", integer_or(config, "linear_conv_kernel_dim", 4)),
    )


def _delta(config: Config, hidden: int, layers: Layers) -> list[Tensor]:
    """Delta attention. The released files keep its small tensors in fp32; K3's A_log has one value a channel."""
    heads, head_dim, kernel = _delta_heads(config)
    width, name = heads * head_dim, _ATTENTION
    full_rank = flag(mapping(config, "linear_attn_config"), "use_full_rank_gate", False)
    rows = {"q_proj": width, "k_proj": width, "v_proj": width, "b_proj": heads}
    low_rank = ("f",) if full_rank else ("f", "g")
    decays = (head_dim,) if full_rank else (1, 1, heads, 1)
    return [
        *input_projections(name, rows, hidden, layers),
        *_each(convolution(f"{name}.{part}_conv1d", width, kernel, layers, bias=False, dtype="fp32") for part in "qkv"),
        *_each(_low_rank(f"{name}.{part}", width, head_dim, hidden, layers) for part in low_rank),
        *(blocks.linear(f"{name}.g_proj", "linear_in", width, hidden, layers) if full_rank else []),
        sharded(f"{name}.A_log", "vector", decays, layers, dtype="fp32", split="replicated"),
        sharded(f"{name}.dt_bias", "vector", (width,), layers, dtype="fp32"),
        blocks.vector(f"{name}.o_norm.weight", "norm", head_dim, layers, dtype="fp32"),
        *blocks.linear(f"{name}.o_proj", "linear_out", hidden, width, layers, split="rows"),
    ]


def _low_rank(name: str, width: int, rank: int, hidden: int, layers: Layers) -> list[Tensor]:
    """Two matrices in a row: the narrow one is whole on each rank."""
    return [
        *blocks.linear(f"{name}_a_proj", "linear_in", rank, hidden, layers, split="replicated"),
        *blocks.linear(f"{name}_b_proj", "linear_in", width, rank, layers),
    ]


def _each(parts: Any) -> list[Tensor]:
    return [tensor for part in parts for tensor in part]


def _latent_attention(config: Config, frame: Frame, layers: Layers) -> list[Tensor]:
    hidden, heads, value_dim = frame.hidden, frame.heads, size(config, "v_head_dim")
    gate = blocks.linear(f"{_ATTENTION}.g_proj", "attn_gate", heads * value_dim, hidden, layers)
    tensors = blocks.mla(
        _ATTENTION,
        hidden,
        heads,
        layers,
        q_lora=integer_or(config, "q_lora_rank", 0),
        kv_lora=integer(config, "kv_lora_rank"),
        nope_dim=integer(config, "qk_nope_head_dim"),
        rope_dim=integer(config, "qk_rope_head_dim"),
        value_dim=value_dim,
    )
    return [*tensors, *(gate if flag(config, "mla_use_output_gate", False) else [])]


def _sparse(config: Config, hidden: int, experts: Experts) -> list[Tensor]:
    """Router, routed experts (in the latent width where there is one) and the shared expert."""
    name, layers, latent = (
        f"{_BLOCK}.block_sparse_moe",
        experts.layers,
        integer_or(config, "routed_expert_hidden_size", 0),
    )
    tensors = [
        *blocks.router(f"{name}.gate", hidden, experts.count, layers),
        router_bias(f"{name}.gate.e_score_correction_bias", experts.count, layers),
        *blocks.experts(
            f"{name}.experts", latent or hidden, experts.width, experts.count, experts.used, layers, names=W1_W3_W2
        ),
        *shared_expert(f"{name}.shared_experts", hidden, experts.shared_width, layers),
    ]
    if latent:
        # The released file keeps the two projections in 16 bit although its quantization targets every linear layer.
        down = blocks.linear(f"{name}.routed_expert_down_proj", "other", latent, hidden, layers, split="replicated")
        up = blocks.linear(f"{name}.routed_expert_up_proj", "other", hidden, latent, layers, split="replicated")
        tensors += [replace(tensor, dtype="bf16") for tensor in (*down, *up)]
        if flag(config, "latent_moe_use_norm", False):
            tensors += blocks.norm(f"{name}.routed_expert_norm", latent, layers)
    return tensors


def _residual_attention(hidden: int, layers: Layers) -> list[Tensor]:
    """The scoring vectors of residual attention: a norm and a one-row projection before each sublayer and the end."""
    places = (
        (f"{_BLOCK}.self_attention_res", layers),
        (f"{_BLOCK}.mlp_res", layers),
        ("model.output_attn_res", ()),
    )
    return [
        tensor
        for name, owned in places
        for tensor in (
            *blocks.norm(f"{name}_norm", hidden, owned),
            Tensor(f"{name}_proj.weight", "vector", (1, hidden), owned),
        )
    ]


def _cache(config: Config, kinds: list[str]) -> list[CacheLayer]:
    heads, head_dim, kernel = _delta_heads(config)
    width, full = heads * head_dim, where(kinds, FULL)
    latent = integer(config, "kv_lora_rank") + integer(config, "qk_rope_head_dim")
    return [
        *([CacheLayer("mla", full, latent_elems=latent)] if full else []),
        *recurrent_cache(where(kinds, RECURRENT), channels=3 * width, kernel=kernel, state_elems=width * head_dim),
    ]


def build(config: Config) -> ModelSpec:
    """kimi_linear: no rotary positions; the first first_k_dense_replace layers have a dense MLP."""
    frame = frame_of(config)
    kinds = _kinds(config, frame.count)
    frame = replace(frame, head_dim=integer(config, "qk_nope_head_dim") + integer(config, "qk_rope_head_dim"))
    sparse = sparse_after_dense({"first_k_dense_replace": 1, **config}, frame.layers)
    width, shared = integer(config, "moe_intermediate_size"), integer_or(config, "num_shared_experts", 0)
    experts = experts_of(config, sparse, used="num_experts_per_token", shared_width=shared * width)
    dense_width = size(config, "intermediate_size")
    tensors = [
        *ends(frame),
        *_delta(config, frame.hidden, where(kinds, RECURRENT)),
        *_latent_attention(config, frame, where(kinds, FULL)),
        *dense_mlp(f"{_BLOCK}.mlp", frame.hidden, dense_width, without(frame.layers, sparse)),
        *_sparse(config, frame.hidden, experts),
        *layer_norms(frame, frame.layers),
        *(_residual_attention(frame.hidden, frame.layers) if integer_or(config, "attn_res_block_size", 0) else []),
    ]
    return moe_decoder(
        config,
        frame,
        experts,
        present(tensors),
        cache=_cache(config, kinds),
        attention="hybrid(mla+linear)",
        dense_width=dense_width,
    )
