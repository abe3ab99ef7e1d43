"""DeepSeek-V4: one shared key-value head, a window on every layer, and compressed entries of the tokens before it.

Layers with ratio 4 (CSA) pick compressed entries with an indexer of their own, layers with ratio 128 (HCA) see all of
theirs, layers with ratio 0 have only the window. The residual runs in several streams that hyper-connections mix. The
first layers route by token id: a table of experts per token instead of a score bias.
"""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.blocks import Layers
from fitcalc.architectures.common import rope_of
from fitcalc.architectures.config import Config, integer_or, size
from fitcalc.architectures.moe_blocks import (
    W1_W3_W2,
    Experts,
    Frame,
    as_mtp,
    experts_of,
    frame_of,
    kept_linear,
    layer_norms,
    moe_decoder,
    mtp_layers,
    routed,
    shared_expert,
    without,
)
from fitcalc.errors import ModelFileError, UnsupportedModelError
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

LAYER = "layers.{layer}"
CSA, HCA = 4, 128
"""Tokens per compressed entry of the two compressed kinds of layer."""
_KIND_RATIOS = {"sliding_attention": 0, "compressed_sparse_attention": CSA, "heavily_compressed_attention": HCA}


def build(config: Config) -> ModelSpec:
    """deepseek_v4 under the checkpoint's own names (no 'model.' in front)."""
    frame = frame_of(config)
    shared = integer_or(config, "n_shared_experts", 0) * size(config, "moe_intermediate_size")
    experts = experts_of(config, frame.layers, "n_routed_experts", shared_width=shared)
    ratios = _ratios(config, frame)
    csa, hca = (tuple(n for n in frame.layers if ratios[n] == ratio) for ratio in (CSA, HCA))
    hashed = frame.layers[: integer_or(config, "num_hash_layers", 0)]
    tensors = [
        blocks.embedding("embed", frame.vocab, frame.hidden),
        *blocks.norm("norm", frame.hidden),
        *blocks.lm_head(frame.vocab, frame.hidden, tied=frame.tied, name="head"),
        *_hyper("hc_head", config, frame, ()),
        *_layer(config, frame, experts, LAYER, frame.layers, hashed),
        *_compressor(f"{LAYER}.attn.compressor", frame.hidden, 2 * frame.head_dim, CSA, csa, frame.head_dim),
        *_compressor(f"{LAYER}.attn.compressor", frame.hidden, frame.head_dim, HCA, hca, frame.head_dim),
        *_index(config, frame, csa),
        *_mtp(config, frame, experts),
    ]
    return moe_decoder(
        config,
        frame,
        experts,
        tensors,
        cache=_cache(config, frame, csa, hca),
        attention="mqa-shared-kv + csa/hca compressed" + ("+sliding" if 0 in ratios else ""),
        rope=rope_of(config, size(config, "qk_rope_head_dim"), tables=2),
    )


def _ratios(config: Config, frame: Frame) -> tuple[int, ...]:
    """Tokens per compressed entry of each layer: 0, 4 or 128, from compress_ratios or layer_types."""
    listed = config.get("compress_ratios")
    if listed is None:
        kinds = config.get("layer_types")
        listed = [_KIND_RATIOS.get(str(kind), -1) for kind in kinds] if isinstance(kinds, list | tuple) else None
    if not isinstance(listed, list | tuple) or len(listed) < frame.count:
        raise ModelFileError("config: compress_ratios is missing or too short", hint="one entry per layer: 0, 4 or 128")
    ratios = tuple(listed[: frame.count])
    strange = [ratio for ratio in ratios if ratio not in (0, CSA, HCA)]
    if strange:
        hint = "this family knows the ratios 0, 4 and 128"
        raise UnsupportedModelError(f"config: compress_ratios holds {strange[0]!r:.40}", hint=hint)
    return ratios


def _layer(
    config: Config, frame: Frame, experts: Experts, prefix: str, layers: Layers, hashed: Layers = ()
) -> list[Tensor]:
    """Attention, experts, norms and hyper-connections of a set of layers, without their compressors."""
    hidden, ffn, scored = frame.hidden, f"{prefix}.ffn", without(layers, hashed)
    table = Tensor(
        f"{ffn}.gate.tid2eid", "other", (frame.vocab, experts.used), hashed, dtype="int64", is_buffer=True
    )  # fmt: skip
    bias = Tensor(f"{ffn}.gate.bias", "router_bias", (experts.count,), scored, dtype="fp32", is_buffer=True)
    return [
        *_attention(config, frame, f"{prefix}.attn", layers),
        *routed(ffn, hidden, experts, layers=layers, names=W1_W3_W2),
        *([bias] if scored else []),
        *([table] if hashed else []),
        *shared_expert(f"{ffn}.shared_experts", hidden, experts.shared_width, layers, names=W1_W3_W2),
        *layer_norms(frame, layers, names=("attn_norm", "ffn_norm"), prefix=prefix),
        *_hyper(f"{prefix}.hc_attn", config, frame, layers),
        *_hyper(f"{prefix}.hc_ffn", config, frame, layers),
    ]


def _attention(config: Config, frame: Frame, prefix: str, layers: Layers) -> list[Tensor]:
    """Low-rank queries, one key that is also the value, and an output projection in groups of heads."""
    hidden, head_dim, queries = frame.hidden, frame.head_dim, frame.heads * frame.head_dim
    rank, groups, group_rank = (size(config, key) for key in ("q_lora_rank", "o_groups", "o_lora_rank"))
    return [
        *blocks.linear(f"{prefix}.wq_a", "mla_q_a", rank, hidden, layers, split="replicated"),
        *blocks.norm(f"{prefix}.q_norm", rank, layers),
        *blocks.linear(f"{prefix}.wq_b", "mla_q_b", queries, rank, layers),
        *blocks.linear(f"{prefix}.wkv", "mla_kv_a", head_dim, hidden, layers, split="replicated"),
        *blocks.norm(f"{prefix}.kv_norm", head_dim, layers),
        *blocks.linear(f"{prefix}.wo_a", "attn_o", groups * group_rank, queries // groups, layers),
        *blocks.linear(f"{prefix}.wo_b", "attn_o", hidden, groups * group_rank, layers, split="rows"),
        Tensor(f"{prefix}.attn_sink", "vector", (frame.heads,), layers, split="heads", dtype="fp32"),
    ]


def _compressor(prefix: str, hidden: int, width: int, ratio: int, layers: Layers, out: int) -> list[Tensor]:
    """What turns `ratio` tokens into one entry: values, gates, a bias per position, a norm. Never quantized."""
    if not layers:
        return []
    return [
        kept_linear(f"{prefix}.wkv", "other", width, hidden, layers),
        kept_linear(f"{prefix}.wgate", "other", width, hidden, layers),
        Tensor(f"{prefix}.ape", "other", (ratio, width), layers, dtype="fp32"),
        *blocks.norm(f"{prefix}.norm", out, layers),
    ]


def _index(config: Config, frame: Frame, layers: Layers) -> list[Tensor]:
    """The indexer of CSA layers: its own queries, and keys from a compressor of its own."""
    if not layers:
        return []
    heads, head_dim, prefix = size(config, "index_n_heads"), size(config, "index_head_dim"), f"{LAYER}.attn.indexer"
    queries, rank = heads * head_dim, size(config, "q_lora_rank")
    return [
        *blocks.linear(f"{prefix}.wq_b", "indexer", queries, rank, layers, split="replicated"),
        kept_linear(f"{prefix}.weights_proj", "indexer", heads, frame.hidden, layers),
        *_compressor(f"{prefix}.compressor", frame.hidden, 2 * head_dim, CSA, layers, head_dim),
    ]


def _hyper(name: str, config: Config, frame: Frame, layers: Layers) -> list[Tensor]:
    """A hyper-connection between n streams: (2 + n)·n mixing weights inside a layer, n at the head; all fp32."""
    streams = size(config, "hc_mult")
    out, scales = (streams, 1) if name.endswith("head") else ((2 + streams) * streams, 3)
    shapes = {"fn": (out, streams * frame.hidden), "base": (out,), "scale": (scales,)}
    return [Tensor(f"{name}_{key}", "other", shape, layers, dtype="fp32") for key, shape in shapes.items()]


def _mtp(config: Config, frame: Frame, experts: Experts) -> list[Tensor]:
    """One window-only layer per prediction step, with a projection for each of its inputs and its own stream head."""
    numbers, hidden, prefix = tuple(range(len(mtp_layers(config, frame)))), frame.hidden, "mtp.{layer}"
    if not numbers:
        return []
    return as_mtp(
        [
            *_layer(config, frame, experts, prefix, numbers),
            *blocks.linear(f"{prefix}.e_proj", "other", hidden, hidden, numbers, split="replicated"),
            *blocks.linear(f"{prefix}.h_proj", "other", hidden, hidden, numbers, split="replicated"),
            *layer_norms(frame, numbers, names=("enorm", "hnorm", "norm"), prefix=prefix),
            *_hyper(f"{prefix}.hc_head", config, frame, numbers),
        ]
    )


def _cache(config: Config, frame: Frame, csa: Layers, hca: Layers) -> list[CacheLayer]:
    """The window holds one vector per token (keys are values); compressed layers add entries and a small state.

    The state is what waits to be compressed: values and gates of up to `ratio` tokens, and for CSA, whose entries
    overlap, those of one half of the window before.
    """
    head_dim, index_dim, window = frame.head_dim, size(config, "index_head_dim"), size(config, "sliding_window")
    plain, index_state = without(frame.layers, (*csa, *hca)), 2 * CSA * (2 + 1) * (head_dim + index_dim)
    kept = [
        CacheLayer("sliding", plain, 1, head_dim, 0, window),
        CacheLayer("compressed", csa, 1, head_dim, 0, window, head_dim, index_dim, CSA, state_elems=index_state),
        CacheLayer("compressed", hca, 1, head_dim, 0, window, head_dim, 0, HCA, state_elems=2 * HCA * head_dim),
    ]
    return [layer for layer in kept if layer.layers]
