"""Mixtures of experts around plain attention: Mixtral, Phi, Granite, OLMoE, FlexOlmo, Qwen2 and 3, MiniMax-M2."""

from __future__ import annotations

from collections.abc import Sequence

from fitcalc.architectures import blocks
from fitcalc.architectures.blocks import Layers
from fitcalc.architectures.common import rope_of
from fitcalc.architectures.config import Config, flag, integer_or, layer_kinds, size
from fitcalc.architectures.moe_blocks import (
    LAYER,
    NORMS,
    W1_W3_W2,
    Experts,
    Frame,
    dense_mlp,
    ends,
    experts_of,
    frame_of,
    layer_norms,
    layer_numbers,
    moe_decoder,
    routed,
    self_attention,
    shared_expert,
    stacked_experts,
    windowed_cache,
    without,
)
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

MIXTRAL = f"{LAYER}.block_sparse_moe"
MLP = f"{LAYER}.mlp"


def _spec(
    config: Config,
    frame: Frame,
    experts: Experts,
    layer: Sequence[Tensor],
    *,
    norms: Sequence[str] = NORMS,
    norm_bias: bool = False,
    head_bias: bool = False,
    dense_width: int = 0,
    rotary_dim: int | None = None,
    cache: tuple[list[CacheLayer], str] | None = None,
) -> ModelSpec:
    """Embedding, norms and head around the `layer` tensors; the window of the config unless `cache` is given."""
    owned, label = cache or windowed_cache(config, frame)
    return moe_decoder(
        config,
        frame,
        experts,
        [
            *ends(frame, head_bias=head_bias, norm_bias=norm_bias),
            *layer_norms(frame, frame.layers, names=norms, bias=norm_bias),
            *layer,
        ],
        cache=owned,
        attention=label,
        dense_width=dense_width,
        rope=rope_of(config, frame.head_dim if rotary_dim is None else rotary_dim),
    )


def mixtral(config: Config) -> ModelSpec:
    """Mixtral: every layer sparse, experts named w1 (gate), w3 (up), w2 (down)."""
    frame = frame_of(config)
    experts = experts_of(config, frame.layers, "num_local_experts", "intermediate_size")
    layer = [*self_attention(frame, frame.layers), *routed(MIXTRAL, frame.hidden, experts, names=W1_W3_W2)]
    return _spec(config, frame, experts, layer)


def phimoe(config: Config) -> ModelSpec:
    """Phi-3.5-MoE: as Mixtral with biases on attention and head, and LayerNorm."""
    frame = frame_of(config)
    experts = experts_of(config, frame.layers, "num_local_experts", "intermediate_size")
    bias = flag(config, "attention_bias", False)
    layer = [
        *self_attention(frame, frame.layers, qkv_bias=bias, out_bias=bias),
        *routed(MIXTRAL, frame.hidden, experts, names=W1_W3_W2),
    ]
    return _spec(config, frame, experts, layer, norm_bias=True, head_bias=flag(config, "lm_head_bias", False))


def granitemoe(config: Config) -> ModelSpec:
    """Granite-MoE and its variant with a shared MLP: gate and up fused, all experts in one tensor."""
    frame = frame_of(config)
    hidden, shared = frame.hidden, integer_or(config, "shared_intermediate_size", 0)
    experts = experts_of(config, frame.layers, "num_local_experts", "intermediate_size", shared_width=shared)
    bias = flag(config, "attention_bias", False)
    stacked = {
        f"{MIXTRAL}.input_linear.weight": "expert_gate_up",
        f"{MIXTRAL}.output_linear.weight": "expert_down",
    }
    shared_mlp = [
        *blocks.linear(f"{LAYER}.shared_mlp.input_linear", "shared_gate_up", 2 * shared, hidden, frame.layers),
        *blocks.linear(f"{LAYER}.shared_mlp.output_linear", "shared_down", hidden, shared, frame.layers, split="rows"),
    ]
    layer = [
        *self_attention(frame, frame.layers, qkv_bias=bias, out_bias=bias),
        *blocks.router(f"{MIXTRAL}.router.layer", hidden, experts.count, frame.layers),
        *stacked_experts(stacked, hidden, experts),
        *(shared_mlp if shared else []),
    ]
    return _spec(config, frame, experts, layer)


def olmoe(config: Config) -> ModelSpec:
    """OLMoE: norms over the whole query and key widths."""
    return _olmo(config, NORMS)


def flex_olmo(config: Config) -> ModelSpec:
    """FlexOlmo: as OLMoE, with the norms behind attention and experts (OLMo 2)."""
    return _olmo(config, ("post_attention_layernorm", "post_feedforward_layernorm"))


def _olmo(config: Config, norms: Sequence[str]) -> ModelSpec:
    frame = frame_of(config)
    experts = experts_of(config, frame.layers, width="intermediate_size")
    bias = flag(config, "attention_bias", False)
    widths = frame.heads * frame.head_dim, frame.kv_heads * frame.head_dim
    layer = [
        *self_attention(frame, frame.layers, qkv_bias=bias, out_bias=bias, qk_norm=widths),
        *routed(MLP, frame.hidden, experts),
    ]
    return _spec(config, frame, experts, layer, norms=norms)


def minimax_m2(config: Config) -> ModelSpec:
    """MiniMax-M2: norms over the whole query and key widths, a bias on the router's scores, half of a head rotated."""
    frame = frame_of(config)
    experts = experts_of(config, frame.layers, "num_local_experts", "intermediate_size")
    widths = frame.heads * frame.head_dim, frame.kv_heads * frame.head_dim
    layer = [
        *self_attention(frame, frame.layers, qk_norm=widths if flag(config, "use_qk_norm", True) else (0, 0)),
        *routed(MIXTRAL, frame.hidden, experts, names=W1_W3_W2, score_bias="e_score_correction_bias"),
    ]
    return _spec(config, frame, experts, layer, rotary_dim=integer_or(config, "rotary_dim", frame.head_dim))


def _qwen_sparse(config: Config, layers: Layers) -> Layers:
    """Every decoder_sparse_step-th layer is sparse, except those that mlp_only_layers names."""
    step = max(integer_or(config, "decoder_sparse_step", 1), 1)
    dense = layer_numbers(config, "mlp_only_layers", layers) or ()
    return without(tuple(layer for layer in layers if (layer + 1) % step == 0), dense)


def _qwen2_cache(config: Config, frame: Frame) -> tuple[list[CacheLayer], str]:
    """Sliding layers only where use_sliding_window is on: the even ones below max_window_layers, or as listed."""
    label = blocks.attention_label(frame.heads, frame.kv_heads)
    window = integer_or(config, "sliding_window", 0) if flag(config, "use_sliding_window", False) else 0
    top = integer_or(config, "max_window_layers", frame.count)
    usual = ["sliding_attention" if window and n % 2 == 0 and n < top else "full_attention" for n in frame.layers]
    kinds = layer_kinds(config, frame.count, usual, ("full_attention", "sliding_attention"))
    sliding = tuple(n for n in frame.layers if window and kinds[n] == "sliding_attention")
    full = without(frame.layers, sliding)
    cache = [
        *blocks.full_cache(full, frame.kv_heads, frame.head_dim),
        *blocks.window_cache(sliding, frame.kv_heads, frame.head_dim, window),
    ]
    return cache, f"{label}+sliding" if sliding else label


def _qwen_experts(config: Config, frame: Frame, shared_width: int = 0) -> Experts:
    return experts_of(config, _qwen_sparse(config, frame.layers), shared_width=shared_width)


def qwen2_moe(config: Config) -> ModelSpec:
    """Qwen1.5-MoE and Qwen2-MoE: a shared expert with its own gate, biases on Q, K and V."""
    frame = frame_of(config)
    hidden, width = frame.hidden, size(config, "intermediate_size")
    experts = _qwen_experts(config, frame, integer_or(config, "shared_expert_intermediate_size", 0))
    sparse = experts.layers
    shared_gate = blocks.linear(f"{MLP}.shared_expert_gate", "shared_router", 1, hidden, sparse, split="replicated")
    layer = [
        *self_attention(frame, frame.layers, qkv_bias=flag(config, "qkv_bias", True)),
        *dense_mlp(MLP, hidden, width, without(frame.layers, sparse)),
        *routed(MLP, hidden, experts),
        *shared_expert(f"{MLP}.shared_expert", hidden, experts.shared_width, sparse),
        *(shared_gate if sparse and experts.shared_width else []),
    ]
    return _spec(config, frame, experts, layer, dense_width=width, cache=_qwen2_cache(config, frame))


def qwen3_moe(config: Config) -> ModelSpec:
    """Qwen3-MoE: norms on each query and key head, no shared expert."""
    frame = frame_of(config)
    experts = _qwen_experts(config, frame)
    return _qwen3(config, frame, experts, routed(MLP, frame.hidden, experts))


def qwen3_vl_moe_text(config: Config) -> ModelSpec:
    """The text model of Qwen3-VL-MoE: as Qwen3-MoE, with all experts of a layer in one tensor."""
    frame = frame_of(config)
    experts = _qwen_experts(config, frame)
    stacked = {f"{MLP}.experts.gate_up_proj": "expert_gate_up", f"{MLP}.experts.down_proj": "expert_down"}
    gate = blocks.router(f"{MLP}.gate", frame.hidden, experts.count, experts.layers) if experts.layers else []
    return _qwen3(config, frame, experts, [*gate, *stacked_experts(stacked, frame.hidden, experts)])


def _qwen3(config: Config, frame: Frame, experts: Experts, sparse: Sequence[Tensor]) -> ModelSpec:
    bias, width = flag(config, "attention_bias", False), size(config, "intermediate_size")
    layer = [
        *self_attention(
            frame, frame.layers, qkv_bias=bias, out_bias=bias, qk_norm=(frame.head_dim, frame.head_dim)
        ),
        *dense_mlp(MLP, frame.hidden, width, without(frame.layers, experts.layers)),
        *sparse,
    ]  # fmt: skip
    windowed = flag(config, "use_sliding_window", False)
    full = blocks.full_cache(frame.layers, frame.kv_heads, frame.head_dim)
    label = blocks.attention_label(frame.heads, frame.kv_heads)
    cache = windowed_cache(config, frame) if windowed else (full, label)
    return _spec(config, frame, experts, layer, dense_width=width, cache=cache)
