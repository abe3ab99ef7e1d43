"""gpt-oss: every other layer windowed, attention sinks, experts with biases stored as one tensor per projection."""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.common import rope_of
from fitcalc.architectures.config import Config, flag, layer_kinds, size
from fitcalc.architectures.moe_blocks import (
    ATTENTION,
    LAYER,
    ends,
    experts_of,
    frame_of,
    layer_norms,
    moe_decoder,
    self_attention,
    stacked_bias,
    stacked_experts,
    without,
)
from fitcalc.spec.model import ModelSpec, Tensor

KINDS = ("sliding_attention", "full_attention")


def build(config: Config) -> ModelSpec:
    """The published file packs the experts as MXFP4 blocks and scales; the tensors here are the matrices they hold."""
    frame = frame_of(config)
    hidden, mlp = frame.hidden, f"{LAYER}.mlp"
    experts = experts_of(config, frame.layers, "num_local_experts", "intermediate_size")
    bias = flag(config, "attention_bias", True)
    gate_up, down = f"{mlp}.experts.gate_up_proj", f"{mlp}.experts.down_proj"
    tensors = [
        *ends(frame),
        *self_attention(frame, frame.layers, qkv_bias=bias, out_bias=bias),
        Tensor(f"{ATTENTION}.sinks", "vector", (frame.heads,), frame.layers, split="heads"),
        *layer_norms(frame, frame.layers),
        *blocks.router(f"{mlp}.router", hidden, experts.count, frame.layers, bias=True),
        *stacked_experts({gate_up: "expert_gate_up", down: "expert_down"}, hidden, experts),
        stacked_bias(f"{gate_up}_bias", 2 * experts.width, experts, split="experts"),
        stacked_bias(f"{down}_bias", hidden, experts, split="replicated"),
    ]
    kinds = layer_kinds(config, frame.count, [KINDS[layer % 2] for layer in frame.layers], KINDS)
    sliding = tuple(layer for layer in frame.layers if kinds[layer] == "sliding_attention")
    window = size(config, "sliding_window") if sliding else 0
    return moe_decoder(
        config,
        frame,
        experts,
        tensors,
        cache=[
            *blocks.full_cache(without(frame.layers, sliding), frame.kv_heads, frame.head_dim),
            *blocks.window_cache(sliding, frame.kv_heads, frame.head_dim, window),
        ],
        attention=blocks.attention_label(frame.heads, frame.kv_heads) + ("+sliding" if sliding else ""),
        rope=rope_of(config, frame.head_dim),
    )
