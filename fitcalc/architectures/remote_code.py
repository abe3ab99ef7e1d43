"""Dense decoders that bring their own code in their repositories: Qwen (first), ChatGLM, Phi-3 small, Yuan 2."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, flag, integer, size
from fitcalc.architectures.style import Shape, Style, build_as
from fitcalc.errors import ModelFileError
from fitcalc.frozen import replace
from fitcalc.spec.model import CacheLayer, ModelSpec, Tensor

STYLES: Mapping[str, Style] = MappingProxyType({
    "chatglm": Style(
        keys={
            "num_hidden_layers": "num_layers",
            "intermediate_size": "ffn_hidden_size",
            "vocab_size": "padded_vocab_size",
            "head_dim": "kv_channels",
        },
        block="transformer.encoder.layers.{layer}",
        embedding="transformer.embedding.word_embeddings",
        final_norm="transformer.encoder.final_layernorm",
        head="transformer.output_layer",
        attention="self_attention",
        projections=("query_key_value", "dense"),
        out_bias="add_bias_linear",
        mlp=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        fused_gate=True,
        mlp_bias="add_bias_linear",
        rotary=0.5,
    ),
    "phi3small": Style(
        keys={"intermediate_size": "ff_intermediate_size"},
        defaults={"tie_word_embeddings": True},
        final_norm="model.final_layernorm",
        projections=("query_key_value", "dense"),
        qkv_bias=True,
        out_bias=True,
        mlp=("mlp.up_proj", "mlp.down_proj"),
        fused_gate=True,
        mlp_bias=True,
        norm_bias=True,
    ),
    "qwen": Style(
        multi_head=True,
        keys={"head_dim": "kv_channels"},
        defaults={"no_bias": True},
        block="transformer.h.{layer}",
        embedding="transformer.wte",
        final_norm="transformer.ln_f",
        attention="attn",
        projections=("c_attn", "c_proj"),
        qkv_bias=True,
        mlp=("mlp.w2", "mlp.w1", "mlp.c_proj"),
        norms=("ln_1", "ln_2"),
    ),
    "yuan": Style(defaults={"tie_word_embeddings": True}),
})  # fmt: skip


def chatglm(config: Config) -> ModelSpec:
    """ChatGLM 2 and 3, GLM-4-9B: grouped K and V heads, gate and up in one matrix."""
    all_bias = flag(config, "add_bias_linear", True)
    qkv_bias = all_bias or flag(config, "add_qkv_bias", False)
    grouped = flag(config, "multi_query_attention", False)
    kv_heads = size(config, "multi_query_group_num") if grouped else None
    rms = flag(config, "rmsnorm", True)
    style = replace(STYLES["chatglm"], qkv_bias=qkv_bias, out_bias=all_bias, mlp_bias=all_bias, norm_bias=not rms)
    return build_as({**config, "num_key_value_heads": kv_heads}, style)


def phi3small(config: Config) -> ModelSpec:
    """Phi-3 small: its block-sparse layers compute less but cache every token."""
    note = "block-sparse layers are counted as if dense: the pattern saves computation, not memory"
    return build_as(config, STYLES["phi3small"], notes=(note,))


def qwen(config: Config) -> ModelSpec:
    """Qwen 1: intermediate_size is twice the width of its gated MLP."""
    doubled = integer(config, "intermediate_size")
    if doubled < 2 or doubled % 2:
        raise ModelFileError(f"config: intermediate_size is {doubled}", hint="Qwen writes twice the width of its MLP")
    bias = not flag(config, "no_bias", True)
    style = replace(STYLES["qwen"], out_bias=bias, mlp_bias=bias)
    return build_as({**config, "intermediate_size": doubled // 2}, style)


def yuan(config: Config) -> ModelSpec:
    """Yuan 2: each attention filters its input with two short convolutions and keeps two tokens of it."""

    def filters(_: Config, shape: Shape) -> list[Tensor]:
        place, hidden, layers = "model.layers.{layer}.self_attn.lf_gate", shape.hidden, shape.layers
        half = hidden // 2
        return [
            Tensor(f"{place}.conv1.weight", "conv", (half, hidden, 2, 1), layers),
            blocks.vector(f"{place}.conv1.bias", "bias", half, layers),
            Tensor(f"{place}.conv2.weight", "conv", (hidden, half, 2, 1), layers),
            blocks.vector(f"{place}.conv2.bias", "bias", hidden, layers),
            *blocks.norm(f"{place}.output_layernorm", hidden, layers),
        ]

    spec = build_as(config, STYLES["yuan"], extra=filters)
    kept = CacheLayer(
        "recurrent", tuple(range(spec.layers)), conv_channels=spec.hidden, conv_kernel=2, state_dtype=spec.dtype
    )
    return replace(spec, cache_layers=(*spec.cache_layers, kept))
