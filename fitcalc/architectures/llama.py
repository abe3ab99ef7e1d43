"""Llama and the families built like it: pre-norm or post-norm, Q K V O, gated MLP, RMSNorm, rotary positions.

Each is a row of differences (`STYLES`); the class defaults are those of the family's own configuration class.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, flag, integer_or, layer_count
from fitcalc.architectures.style import Shape, Style, build_as, layer_tensors
from fitcalc.errors import UnsupportedModelError
from fitcalc.frozen import replace
from fitcalc.spec.model import ModelSpec, Tensor

_ATTENTION_BIAS = Style(qkv_bias="attention_bias", out_bias="attention_bias")
_LLAMA = replace(_ATTENTION_BIAS, mlp_bias="mlp_bias")
_TIED = {"tie_word_embeddings": True}
_FOUR_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
_POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
_GLM = Style(
    qkv_bias="attention_bias",
    mlp=("mlp.gate_up_proj", "mlp.down_proj"),
    fused_gate=True,
    rotary=0.5,
    defaults={"attention_bias": True, "head_dim": 128, "num_key_value_heads": 2},
)
_QWEN2 = Style(qkv_bias=True, window="above", defaults={"num_key_value_heads": 32, "max_window_layers": 28})
_QWEN3 = replace(_ATTENTION_BIAS, qk_norm="head", window="above", defaults={**_QWEN2.defaults, "head_dim": 128})
_MISTRAL = Style(window="all", defaults={"num_key_value_heads": 8, "sliding_window": 4096})
_OLMO2 = replace(_ATTENTION_BIAS, norms=_POST_NORMS, qk_norm="all_heads")
_GEMMA2 = replace(
    _ATTENTION_BIAS,
    norms=_FOUR_NORMS,
    window="pattern",
    pattern=2,
    defaults={**_TIED, "head_dim": 256, "num_key_value_heads": 4, "sliding_window": 4096},
)
_COHERE = replace(_ATTENTION_BIAS, norms=("input_layernorm",), defaults=_TIED)
_PHI3 = Style(
    projections=("qkv_proj", "o_proj"), mlp=("mlp.gate_up_proj", "mlp.down_proj"), fused_gate=True, window="all"
)

STYLES: Mapping[str, Style] = MappingProxyType(
    {
        **dict.fromkeys(("Yi", "aquila", "skywork", "xverse"), Style()),
        "apertus": replace(
            _ATTENTION_BIAS,
            norms=("attention_layernorm", "feedforward_layernorm"),
            mlp=("mlp.up_proj", "mlp.down_proj"),
            qk_norm="head",
        ),
        "arcee": replace(_LLAMA, mlp=("mlp.up_proj", "mlp.down_proj")),
        "baichuan": Style(multi_head=True, projections=("W_pack", "o_proj")),
        "cohere": replace(_COHERE, qk_norm="heads_by_dim", qk_norm_key="use_qk_norm"),
        "cohere2": replace(_COHERE, window="pattern", pattern=4, defaults={**_TIED, "sliding_window": 4096}),
        "ernie4_5": Style(
            qkv_bias="use_bias",
            out_bias="use_bias",
            mlp_bias="use_bias",
            defaults={**_TIED, "head_dim": 128, "num_key_value_heads": 2},
        ),
        "exaone": Style(
            keys={"num_hidden_layers": "num_layers"},
            block="transformer.h.{layer}",
            embedding="transformer.wte",
            final_norm="transformer.ln_f",
            attention="attn.attention",
            projections=("q_proj", "k_proj", "v_proj", "out_proj"),
            mlp=("mlp.c_fc_0", "mlp.c_fc_1", "mlp.c_proj"),
            norms=("ln_1", "ln_2"),
        ),
        "exaone4": Style(
            norms=_POST_NORMS,
            qk_norm="head",
            window="pattern",
            pattern=4,
            defaults={"num_key_value_heads": 32, "sliding_window": 4096},
        ),
        "gemma": replace(_ATTENTION_BIAS, defaults={**_TIED, "head_dim": 256, "num_key_value_heads": 16}),
        "gemma2": _GEMMA2,
        "gemma3_text": replace(_GEMMA2, qk_norm="head", pattern=6, rope_tables=2),
        "glm": replace(_GLM, norms=("input_layernorm", "post_attention_layernorm")),
        "glm4": replace(
            _GLM,
            norms=("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"),
        ),
        "granite": _LLAMA,
        "helium": replace(_LLAMA, out_bias=False, defaults={"head_dim": 128, "num_key_value_heads": 20}),
        "hunyuan_v1_dense": replace(
            _ATTENTION_BIAS, qk_norm="head", qk_norm_names=("query_layernorm", "key_layernorm")
        ),
        "internlm": Style(multi_head=True, qkv_bias="bias", out_bias="bias", defaults={"bias": True}),
        "internlm2": Style(
            embedding="model.tok_embeddings",
            head="output",
            attention="attention",
            projections=("wqkv", "wo"),
            qkv_bias="bias",
            out_bias="bias",
            mlp=("feed_forward.w1", "feed_forward.w3", "feed_forward.w2"),
            norms=("attention_norm", "ffn_norm"),
            defaults={"bias": True},
        ),
        "internlm3": replace(_LLAMA, defaults={"head_dim": 128, "num_key_value_heads": 2}),
        "jais2": replace(
            _LLAMA,
            mlp=("mlp.up_proj", "mlp.down_proj"),
            norm_bias=True,
            defaults={"attention_bias": True, "mlp_bias": True},
        ),
        "llama": _LLAMA,
        "mimo": _QWEN2,
        "minicpm": replace(_ATTENTION_BIAS, defaults=_TIED),
        "ministral": _MISTRAL,
        "ministral3": replace(_MISTRAL, defaults={"num_key_value_heads": 8, "head_dim": 128}),
        "mistral": _MISTRAL,
        "nemotron": replace(_LLAMA, mlp=("mlp.up_proj", "mlp.down_proj"), norm_bias=True, rotary=0.5),
        "olmo": replace(_ATTENTION_BIAS, norms=(), final_norm=""),
        "olmo2": _OLMO2,
        "olmo3": replace(_OLMO2, window="pattern", pattern=4, defaults={"sliding_window": 4096}),
        "orion": replace(_ATTENTION_BIAS, norm_bias=True),
        "phi3": _PHI3,
        "phi3_v": replace(_PHI3, window=""),
        "qwen2": _QWEN2,
        "qwen2_5_vl_text": _QWEN2,
        "qwen2_vl_text": _QWEN2,
        "qwen3": _QWEN3,
        "qwen3_vl_text": replace(_QWEN3, window=""),
        "seed_oss": Style(
            qkv_bias="attention_bias",
            out_bias="attention_out_bias",
            mlp_bias="mlp_bias",
            defaults={"attention_bias": True, "head_dim": 128, "num_key_value_heads": 8},
        ),
        "smollm3": replace(_LLAMA, window="above", defaults={**_TIED, "num_key_value_heads": 4}),
        "stablelm": Style(qkv_bias="use_qkv_bias", norm_bias=True, rotary=0.25, defaults={"num_key_value_heads": 32}),
        "stablelm_epoch": Style(qkv_bias="use_qkv_bias", norm_bias=True, rotary=0.25),
        "starcoder2": Style(
            qkv_bias="use_bias",
            out_bias="use_bias",
            mlp=("mlp.c_fc", "mlp.c_proj"),
            mlp_bias="use_bias",
            norm_bias=True,
            window="all",
            defaults={**_TIED, "use_bias": True, "num_key_value_heads": 2},
        ),
    }
)


def build(config: Config) -> ModelSpec:
    """Any model type of `STYLES`, by its row alone."""
    return build_as(config, STYLES[str(config["model_type"])])


def apertus(config: Config) -> ModelSpec:
    """Apertus: the activation has two learned scalars a layer."""

    def scalars(_: Config, shape: Shape) -> list[Tensor]:
        place = "model.layers.{layer}.mlp.act_fn"
        return [blocks.vector(f"{place}.{name}", "vector", 1, shape.layers) for name in ("alpha_p", "alpha_n")]

    return build_as(config, STYLES["apertus"], extra=scalars)


def baichuan(config: Config) -> ModelSpec:
    """Baichuan 1 and 2: the 7B models rotate positions, the 13B models, which bound none, use ALiBi."""
    style = STYLES["baichuan"]
    return build_as(config, style if "max_position_embeddings" in config else replace(style, rotary=None))


def mimo(config: Config) -> ModelSpec:
    """MiMo: Qwen2 with multi-token-prediction layers in the checkpoint."""
    style = replace(
        STYLES["mimo"],
        block="model.mtp_layers.{layer}",
        norms=("input_layernorm", "post_attention_layernorm", "token_layernorm", "hidden_layernorm", "final_layernorm"),
    )

    def prediction_layers(config: Config, shape: Shape) -> list[Tensor]:
        count = integer_or(config, "num_nextn_predict_layers", 0)
        if not count:
            return []
        shape = replace(shape, layers=tuple(range(layer_count(config, "num_nextn_predict_layers"))))
        joined = blocks.linear(
            f"{style.block}.input_proj", "other", shape.hidden, 2 * shape.hidden, shape.layers, split="replicated"
        )
        return [replace(tensor, part="mtp") for tensor in (*layer_tensors(config, style, shape), *joined)]

    return build_as(config, STYLES["mimo"], extra=prediction_layers)


def olmo3(config: Config) -> ModelSpec:
    """OLMo 3: only the full layers stretch their positions, so a scaled model has two tables."""
    scaled = isinstance(config.get("rope_scaling"), dict)
    return build_as(config, replace(STYLES["olmo3"], rope_tables=2 if scaled else 1))


def smollm3(config: Config) -> ModelSpec:
    """SmolLM3: where windows are on and no layer_types say which, the layers without rotary positions slide."""
    if flag(config, "use_sliding_window", False) and config.get("layer_types") is None:
        hint = "layer_types has to say which layers slide"
        raise UnsupportedModelError("config: use_sliding_window without layer_types", hint=hint)
    return build_as(config, STYLES["smollm3"])


def stablelm(config: Config) -> ModelSpec:
    """StableLM: one norm where the residuals are parallel, one norm per head where Q and K are normalised."""
    parallel, normed = flag(config, "use_parallel_residual", False), flag(config, "qk_layernorm", False)
    style = replace(STYLES["stablelm"], norms=("input_layernorm",)) if parallel else STYLES["stablelm"]

    def head_norms(_: Config, shape: Shape) -> list[Tensor]:
        counts = (("q_layernorm", shape.heads), ("k_layernorm", shape.kv_heads)) if normed else ()
        place = "model.layers.{layer}.self_attn"
        return [
            Tensor(f"{place}.{name}.norms.{{expert}}.weight", "norm", (shape.head_dim,), shape.layers, heads, heads)
            for name, heads in counts
        ]

    return build_as(config, style, extra=head_norms)
