"""DeepSeek MoE, V2, V3, V3.2 and models of the same build: Kimi K2, GLM-4.7 Flash, GLM-5, Mistral Large 3, Small 4.

From V2 on attention keeps one latent per token and layer, shared by all heads; V3.2 and GLM-5 add an indexer that
picks the tokens to attend to and keeps one more key per token.
"""

from __future__ import annotations

from fitcalc.architectures import blocks
from fitcalc.architectures.blocks import Layers
from fitcalc.architectures.common import rope_of
from fitcalc.architectures.config import Config, flag, integer_or, size
from fitcalc.architectures.moe_blocks import (
    ATTENTION,
    LAYER,
    Experts,
    Frame,
    deepseek_experts,
    dense_mlp,
    ends,
    frame_of,
    full_moe,
    indexer,
    layer_norms,
    marked,
    moe_decoder,
    mtp,
    mtp_layers,
    routed,
    self_attention,
    shared_expert,
    without,
)
from fitcalc.frozen import dataclass, replace
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

MLP = f"{LAYER}.mlp"


@dataclass(frozen=True, slots=True)
class _Build:
    """What sets the generations apart: the latent cache, the bias on the router's scores, copies in MTP layers."""

    latent: bool
    corrected: bool
    own_ends: bool = True


def deepseek(config: Config) -> ModelSpec:
    """The first DeepSeek-MoE: plain multi-head attention, one dense layer, shared experts."""
    return _build(config, _Build(latent=False, corrected=False))


def deepseek_v2(config: Config) -> ModelSpec:
    """DeepSeek-V2, Mistral Small 4, the language model of DeepSeek-VL2 (the smallest one without latent: use_mla)."""
    corrected = config.get("topk_method") == "noaux_tc"
    return _build(config, _Build(latent=flag(config, "use_mla", True), corrected=corrected))


def deepseek_v3(config: Config) -> ModelSpec:
    """DeepSeek-V3, V3.2, Kimi K2, GLM-4.7 Flash: sigmoid scores corrected by a bias, unless the config says softmax."""
    corrected = config.get("topk_method", "noaux_tc") == "noaux_tc" and config.get("scoring_func") != "softmax"
    return _build(config, _Build(latent=True, corrected=corrected))


def glm_moe_dsa(config: Config) -> ModelSpec:
    """GLM-5: as DeepSeek-V3.2, the MTP layer without copies of embedding and head."""
    return _build(config, _Build(latent=True, corrected=True, own_ends=False))


def _build(config: Config, build: _Build) -> ModelSpec:
    frame = frame_of(config)
    if build.latent:
        frame = replace(frame, head_dim=size(config, "qk_nope_head_dim") + size(config, "qk_rope_head_dim"))
    experts = deepseek_experts(config, frame.layers)
    width, extra = size(config, "intermediate_size"), mtp_layers(config, frame)
    indexed = _indexed(config, frame)
    copies = {} if build.own_ends else {"embedding": "", "head": ""}
    tensors = [
        *ends(frame),
        *_layer(config, frame, build, experts, frame.layers, experts.layers, indexed),
        *dense_mlp(MLP, frame.hidden, width, without(frame.layers, experts.layers)),
        *mtp(frame, extra, _layer(config, frame, build, experts, extra, extra, extra if indexed else ()), **copies),
    ]
    if not build.latent:
        return full_moe(config, frame, experts, tensors, dense_width=width)
    return moe_decoder(
        config,
        frame,
        experts,
        tensors,
        cache=_latent_cache(config, frame, indexed),
        attention="mla+dsa" if indexed else "mla",
        dense_width=width,
        rope=rope_of(config, size(config, "qk_rope_head_dim")),
    )


def _indexed(config: Config, frame: Frame) -> Layers:
    """The layers with an indexer of their own; where indexer_types says 'shared' they reuse an earlier selection."""
    if config.get("index_head_dim") is None:
        return ()
    listed = marked(config, "indexer_types", frame.layers, ("full",), ("shared",))
    if listed is not None:
        return listed
    pattern = config.get("index_topk_pattern")
    if isinstance(pattern, str):
        pattern = {"index_topk_pattern": list(pattern)}
        return marked(pattern, "index_topk_pattern", frame.layers, ("F",), ("S",)) or ()
    step, offset = max(integer_or(config, "index_topk_freq", 1), 1), integer_or(config, "index_skip_topk_offset", 2)
    return tuple(layer for layer in frame.layers if max(layer - offset + 1, 0) % step == 0)


def _layer(
    config: Config, frame: Frame, build: _Build, experts: Experts, layers: Layers, sparse: Layers, indexed: Layers
) -> list[Tensor]:
    """Attention, indexer, norms and sparse MLP of a set of layers."""
    if not layers:
        return []
    score_bias = "gate.e_score_correction_bias" if build.corrected else ""
    return [
        *_attention(config, frame, build, layers),
        *_indexer(config, frame, indexed),
        *layer_norms(frame, layers),
        *routed(MLP, frame.hidden, experts, layers=sparse, score_bias=score_bias),
        *shared_expert(f"{MLP}.shared_experts", frame.hidden, experts.shared_width, sparse),
    ]


def _attention(config: Config, frame: Frame, build: _Build, layers: Layers) -> list[Tensor]:
    bias = flag(config, "attention_bias", False)
    if not build.latent:
        return self_attention(frame, layers, qkv_bias=bias, out_bias=bias)
    return blocks.mla(
        ATTENTION,
        frame.hidden,
        frame.heads,
        layers,
        q_lora=integer_or(config, "q_lora_rank", 0),
        kv_lora=size(config, "kv_lora_rank"),
        nope_dim=size(config, "qk_nope_head_dim"),
        rope_dim=size(config, "qk_rope_head_dim"),
        value_dim=size(config, "v_head_dim"),
        bias=bias,
    )


def _indexer(config: Config, frame: Frame, layers: Layers) -> list[Tensor]:
    if not layers:
        return []
    heads, head_dim = size(config, "index_n_heads"), size(config, "index_head_dim")
    return indexer(f"{ATTENTION}.indexer", frame.hidden, size(config, "q_lora_rank"), heads, head_dim, layers)


def _latent_cache(config: Config, frame: Frame, indexed: Layers) -> list[CacheLayer]:
    """One latent and one rotated key per token and layer, with the indexer's key where the layer has one."""
    latent, plain = size(config, "kv_lora_rank") + size(config, "qk_rope_head_dim"), without(frame.layers, indexed)
    cache = [CacheLayer("mla", plain, latent_elems=latent)] if plain else []
    if indexed:
        cache.append(CacheLayer("mla", indexed, latent_elems=latent, index_elems=size(config, "index_head_dim")))
    return cache
