"""Gated delta networks: Qwen3-Next and Qwen3.5 (dense and experts). Every fourth layer attends, with gated output.

A delta layer keeps, per value head, a key_dim × value_dim matrix, and the last columns of a convolution over Q, K, V.
Source: Yang, Kautz and Hatamizadeh 2024 (gated delta networks).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fitcalc.architectures import blocks
from fitcalc.architectures.common import rope_of, rotary_dim_of
from fitcalc.architectures.config import Config, flag, integer_or, layer_count, size
from fitcalc.architectures.hybrid_layers import FULL, RECURRENT, Layers, hybrid_decoder, integers, listed_kinds, where
from fitcalc.architectures.moe_blocks import (
    Experts,
    Frame,
    as_mtp,
    dense_mlp,
    experts_of,
    frame_of,
    layer_norms,
    shared_expert,
    stacked_experts,
    without,
)
from fitcalc.architectures.ssm_blocks import convolution, recurrent_cache, sharded, state_dtype_of
from fitcalc.errors import ModelFileError
from fitcalc.frozen import dataclass, replace
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

_BLOCK, _MTP_BLOCK = "model.layers.{layer}", "mtp.layers.{layer}"
_MOST_MTP_LAYERS = 100
_HEAD_DIM = 256
_PER_HEAD = ("in_proj_ba", "in_proj_b", "in_proj_a", "a_proj", "b_proj")


@dataclass(frozen=True, slots=True)
class Layout:
    """How a family's checkpoint stores what is the same computation."""

    fused_inputs: bool
    """One matrix for Q, K, V, z and one for b, a; otherwise four."""
    stacked_experts: bool
    """All experts of a layer in two tensors; otherwise three tensors for each."""


NEXT = Layout(fused_inputs=True, stacked_experts=False)
LATER = Layout(fused_inputs=False, stacked_experts=True)


@dataclass(frozen=True, slots=True)
class Delta:
    """The heads of a gated delta layer."""

    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int
    kernel: int

    @property
    def keys(self) -> int:
        """Width of Q, and of K."""
        return self.key_heads * self.key_dim

    @property
    def values(self) -> int:
        """Width of V, and of the output gate z."""
        return self.value_heads * self.value_dim

    @property
    def channels(self) -> int:
        """Width of Q, K and V, which all pass the convolution."""
        return 2 * self.keys + self.values


def delta_of(config: Config) -> Delta:
    """The linear_* keys; class defaults where a file leaves them out."""
    return Delta(
        integer_or(config, "linear_num_key_heads", 16),
        integer_or(config, "linear_key_head_dim", 128),
        integer_or(config, "linear_num_value_heads", 32),
        integer_or(config, "linear_value_head_dim", 128),
        integer_or(config, "linear_conv_kernel_dim", 4),
    )


def delta_cache(layers: Layers, delta: Delta, state_dtype: str = "fp32") -> list[CacheLayer]:
    """The convolution's columns and the state: a key_dim × value_dim matrix for each value head."""
    state_elems = delta.values * delta.key_dim
    return recurrent_cache(
        layers, channels=delta.channels, kernel=delta.kernel, state_elems=state_elems, state_dtype=state_dtype
    )


def input_projections(name: str, rows: Mapping[str, int], hidden: int, layers: Layers) -> list[Tensor]:
    """The input projections of a delta layer: name -> rows.

    Those of a few rows a head (decay and step) stay in 16 bit in the quantized files of every maker.
    """
    parts = {part: blocks.linear(f"{name}.{part}", "linear_in", width, hidden, layers) for part, width in rows.items()}
    return [replace(tensor, is_linear=part not in _PER_HEAD) for part, tensors in parts.items() for tensor in tensors]


def _delta_layers(hidden: int, delta: Delta, layers: Layers, layout: Layout) -> list[Tensor]:
    name, keys, values, heads = f"{_BLOCK}.linear_attn", delta.keys, delta.values, delta.value_heads
    if layout.fused_inputs:
        rows = {"in_proj_qkvz": 2 * keys + 2 * values, "in_proj_ba": 2 * heads}
    else:
        rows = {"in_proj_qkv": 2 * keys + values, "in_proj_z": values, "in_proj_b": heads, "in_proj_a": heads}
    return [
        *input_projections(name, rows, hidden, layers),
        *convolution(f"{name}.conv1d", delta.channels, delta.kernel, layers, bias=False),
        sharded(f"{name}.dt_bias", "vector", (heads,), layers),
        sharded(f"{name}.A_log", "vector", (heads,), layers),
        *blocks.norm(f"{name}.norm", delta.value_dim, layers),
        *blocks.linear(f"{name}.out_proj", "linear_out", hidden, values, layers, split="rows"),
    ]


def _kinds(config: Config) -> list[str]:
    count = layer_count(config)
    listed = listed_kinds(config, ("layer_types",), count, (RECURRENT, FULL))
    if listed is not None:
        return listed
    step = integer_or(config, "full_attention_interval", 4)
    if not step:
        raise ModelFileError("config: full_attention_interval is 0", hint="it has to be at least 1")
    return [RECURRENT if (layer + 1) % step else FULL for layer in range(count)]


def _attention(config: Config, block: str, frame: Frame, layers: Layers) -> list[Tensor]:
    """Attention whose query projection also makes the output gate, with a norm on each head of Q and K."""
    bias, gated = flag(config, "attention_bias", False), flag(config, "attn_output_gate", True)
    return blocks.attention(
        f"{block}.self_attn", frame.hidden, frame.heads, frame.kv_heads, frame.head_dim, layers,
        qkv_bias=bias, out_bias=bias, qk_norm=(frame.head_dim, frame.head_dim), gated_query=gated,
    )  # fmt: skip


def _mlps(
    block: str, frame: Frame, width: int, layers: Layers, experts: Experts | None, layout: Layout
) -> list[Tensor]:
    """The MLP of each of `layers`: router, experts and a gated shared expert where `experts` says, else a dense one."""
    name, hidden = f"{block}.mlp", frame.hidden
    if experts is None or not experts.layers:
        return dense_mlp(name, hidden, width, layers)
    sparse = experts.layers
    roles = {f"{name}.experts.gate_up_proj": "expert_gate_up", f"{name}.experts.down_proj": "expert_down"}
    single = blocks.experts(f"{name}.experts", hidden, experts.width, experts.count, experts.used, sparse)
    return [
        *dense_mlp(name, hidden, width, without(layers, sparse)),
        *blocks.router(f"{name}.gate", hidden, experts.count, sparse),
        *(stacked_experts(roles, hidden, experts) if layout.stacked_experts else single),
        *shared_expert(f"{name}.shared_expert", hidden, experts.shared_width, sparse),
        *blocks.linear(f"{name}.shared_expert_gate", "shared_router", 1, hidden, sparse, split="replicated"),
    ]


def _mtp(config: Config, frame: Frame, width: int, experts: Experts | None, layout: Layout) -> list[Tensor]:
    """The multi-token-prediction layers: attending decoder layers behind one projection of both inputs."""
    count = integer_or(config, "mtp_num_hidden_layers", integer_or(config, "num_nextn_predict_layers", 0))
    if not count:
        return []
    if count > _MOST_MTP_LAYERS:
        raise ModelFileError(f"config: {count} MTP layers", hint=f"at most {_MOST_MTP_LAYERS} are possible")
    layers, hidden = tuple(range(count)), frame.hidden
    own = [blocks.embedding("mtp.embed_tokens", frame.vocab, hidden)]
    names = ("mtp.pre_fc_norm_embedding", "mtp.pre_fc_norm_hidden", "mtp.norm")
    return as_mtp(
        [
            *(own if flag(config, "mtp_use_dedicated_embeddings", False) else []),
            # Kept in 16 bit by the FP8 files.
            Tensor("mtp.fc.weight", "other", (hidden, 2 * hidden)),
            *(tensor for name in names for tensor in blocks.norm(name, hidden)),
            *_attention(config, _MTP_BLOCK, frame, layers),
            *_mlps(_MTP_BLOCK, frame, width, layers, replace(experts, layers=layers) if experts else None, layout),
            *layer_norms(frame, layers, prefix=_MTP_BLOCK),
        ]
    )


def build(config: Config) -> ModelSpec:
    """qwen3_next: experts on all layers but mlp_only_layers, every decoder_sparse_step-th."""
    step, only = integer_or(config, "decoder_sparse_step", 1), set(integers(config, "mlp_only_layers"))
    sparse = tuple(
        layer for layer in range(layer_count(config)) if step and (layer + 1) % step == 0 and layer not in only
    )
    notes: tuple[str, ...] = ()
    if "mtp_num_hidden_layers" not in config and "num_nextn_predict_layers" not in config:
        notes = ("some checkpoints of this family also hold a multi-token-prediction layer that the config leaves out",)
    return _gated_delta(config, sparse, NEXT, notes=notes)


def build_dense(config: Config) -> ModelSpec:
    """qwen3_5_text: a dense MLP on every layer."""
    return _gated_delta(config, (), LATER)


def build_moe(config: Config) -> ModelSpec:
    """qwen3_5_moe_text: experts on every layer."""
    return _gated_delta(config, tuple(range(layer_count(config))), LATER)


def _gated_delta(config: Config, sparse: Layers, layout: Layout, **more: Any) -> ModelSpec:
    config = {"head_dim": _HEAD_DIM, **config}
    frame, kinds, delta = frame_of(config), _kinds(config), delta_of(config)
    mixing, attending = where(kinds, RECURRENT), where(kinds, FULL)
    shared = integer_or(config, "shared_expert_intermediate_size", 512)
    experts = experts_of(config, sparse, shared_width=shared) if sparse else None
    width = size(config, "intermediate_size") if len(sparse) < frame.count else 0
    tensors = [
        blocks.embedding("model.embed_tokens", frame.vocab, frame.hidden),
        *_delta_layers(frame.hidden, delta, mixing, layout),
        *_attention(config, _BLOCK, frame, attending),
        *_mlps(_BLOCK, frame, width, frame.layers, experts, layout),
        *layer_norms(frame, frame.layers),
        *blocks.norm("model.norm", frame.hidden),
        *blocks.lm_head(frame.vocab, frame.hidden, tied=frame.tied),
        *_mtp(config, frame, width, experts, layout),
    ]
    state_dtype = state_dtype_of(config, "mamba_ssm_dtype", "mamba_ssm_cache_dtype")
    cache = [
        *blocks.full_cache(attending, frame.kv_heads, frame.head_dim),
        *delta_cache(mixing, delta, state_dtype),
    ]
    rope = rope_of(config, rotary_dim_of(config, frame.head_dim, 0.25))
    return hybrid_decoder(
        config, frame, tensors, cache, mixer="linear", intermediate=width, experts=experts, rope=rope, **more
    )
