"""The GPT line: LayerNorm with bias, two-matrix MLPs, fused QKV, learned, rotary or ALiBi positions.

GPT-2, GPT-J, GPT-NeoX, CodeGen, GPT-BigCode, BLOOM, MPT, OPT, Falcon, Persimmon and Phi, as rows of differences;
families whose shapes turn on a flag have a function that settles it before the row is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fitcalc.architectures import blocks
from fitcalc.architectures.config import Config, flag, integer_or, mapping, size
from fitcalc.architectures.style import Style, build_as, standard
from fitcalc.errors import ModelFileError, UnsupportedModelError
from fitcalc.frozen import replace
from fitcalc.spec.model import ModelSpec

_TIED = {"tie_word_embeddings": True}
_GPT_KEYS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}
_ALL_BIASES = Style(
    multi_head=True,
    projections=("query_key_value", "dense"),
    qkv_bias=True,
    out_bias=True,
    mlp=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    mlp_bias=True,
    norm_bias=True,
)
_GPT2 = replace(
    _ALL_BIASES,
    keys=_GPT_KEYS,
    defaults={**_TIED, "max_position_embeddings": 1024},
    block="transformer.h.{layer}",
    embedding="transformer.wte",
    final_norm="transformer.ln_f",
    attention="attn",
    projections=("c_attn", "c_proj"),
    mlp=("mlp.c_fc", "mlp.c_proj"),
    width_per_hidden=4,
    norms=("ln_1", "ln_2"),
    positions="transformer.wpe",
    rotary=None,
)
_GPTJ = replace(
    _GPT2,
    defaults={"rotary_dim": 64, "max_position_embeddings": 2048},
    projections=("q_proj", "k_proj", "v_proj", "out_proj"),
    qkv_bias=False,
    out_bias=False,
    mlp=("mlp.fc_in", "mlp.fc_out"),
    norms=("ln_1",),
    positions="",
    head_bias=True,
    rotary=1.0,
)
_PHI = Style(
    projections=("q_proj", "k_proj", "v_proj", "dense"),
    qkv_bias=True,
    out_bias=True,
    mlp=("mlp.fc1", "mlp.fc2"),
    mlp_bias=True,
    norms=("input_layernorm",),
    norm_bias=True,
    final_norm="model.final_layernorm",
    qk_norm="head",
    qk_norm_key="qk_layernorm",
    qk_norm_names=("q_layernorm", "k_layernorm"),
    qk_norm_bias=True,
    head_bias=True,
    rotary=0.5,
)

STYLES: Mapping[str, Style] = MappingProxyType({
    "codegen": replace(_GPTJ, projections=("qkv_proj", "out_proj")),
    "gpt2": _GPT2,
    "gpt_neox": replace(
        _ALL_BIASES,
        block="gpt_neox.layers.{layer}",
        embedding="gpt_neox.embed_in",
        final_norm="gpt_neox.final_layer_norm",
        head="embed_out",
        attention="attention",
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        defaults={"attention_bias": True},
        rotary=0.25,
    ),
    "gptj": _GPTJ,
    "persimmon": replace(
        _ALL_BIASES,
        final_norm="model.final_layernorm",
        defaults={"qk_layernorm": True},
        qk_norm="head",
        qk_norm_key="qk_layernorm",
        qk_norm_names=("q_layernorm", "k_layernorm"),
        qk_norm_bias=True,
        rotary=0.5,
    ),
    "phi": _PHI,
    "phi-msft": replace(
        _PHI,
        keys=_GPT_KEYS | {"num_key_value_heads": "n_head_kv"},
        block="transformer.h.{layer}",
        embedding="transformer.embd.wte",
        final_norm="lm_head.ln",
        head="lm_head.linear",
        attention="mixer",
        projections=("Wqkv", "out_proj"),
        width_per_hidden=4,
        norms=("ln",),
        qk_norm="",
    ),
})  # fmt: skip

_BIGCODE = replace(_GPT2, multi_head=False)
_BLOOM = replace(
    _ALL_BIASES,
    keys={
        "hidden_size": "n_embed",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "seq_length",
    },
    defaults=_TIED,
    block="transformer.h.{layer}",
    embedding="transformer.word_embeddings",
    embedding_norm="transformer.word_embeddings_layernorm",
    final_norm="transformer.ln_f",
    attention="self_attention",
    width_per_hidden=4,
    rotary=None,
)
_FALCON = replace(
    _BLOOM,
    multi_head=False,
    keys={
        "hidden_size": "n_embed",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "ffn_hidden_size",
    },
    defaults={**_TIED, "max_position_embeddings": 2048},
    embedding_norm="",
    qkv_bias="bias",
    out_bias="bias",
    mlp_bias="bias",
    rotary=1.0,
)
_MPT = Style(
    keys={"hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"},
    defaults=_TIED,
    block="transformer.blocks.{layer}",
    embedding="transformer.wte",
    final_norm="transformer.norm_f",
    attention="attn",
    projections=("Wqkv", "out_proj"),
    mlp=("ffn.up_proj", "ffn.down_proj"),
    norms=("norm_1", "norm_2"),
    rotary=None,
)
_OPT = Style(
    multi_head=True,
    keys={"intermediate_size": "ffn_dim"},
    defaults={
        **_TIED,
        "enable_bias": True,
        "do_layer_norm_before": True,
        "layer_norm_elementwise_affine": True,
        "max_position_embeddings": 2048,
    },
    block="model.decoder.layers.{layer}",
    embedding="model.decoder.embed_tokens",
    final_norm="model.decoder.final_layer_norm",
    projections=("q_proj", "k_proj", "v_proj", "out_proj"),
    qkv_bias="enable_bias",
    out_bias="enable_bias",
    mlp=("fc1", "fc2"),
    mlp_bias="enable_bias",
    norms=("self_attn_layer_norm", "final_layer_norm"),
    norm_bias=True,
    positions="model.decoder.embed_positions",
    position_offset=2,
    rotary=None,
)


def build(config: Config) -> ModelSpec:
    """Any model type of `STYLES`, by its row alone."""
    return build_as(config, STYLES[str(config["model_type"])])


def gpt_bigcode(config: Config) -> ModelSpec:
    """SantaCoder, StarCoder: one shared K and V head unless multi_query is switched off."""
    heads = {"num_key_value_heads": 1} if flag(config, "multi_query", True) else {}
    return build_as({**config, "num_key_value_heads": None, **heads}, _BIGCODE)


def bloom(config: Config) -> ModelSpec:
    """BLOOM: ALiBi, a norm on the embedding."""
    return build_as(config, _BLOOM)


def falcon(config: Config) -> ModelSpec:
    """Falcon and its first spelling RefinedWeb: KV heads, norms and positions turn on four flags."""
    old = str(config.get("model_type", "")).startswith("RefinedWeb")
    config = {**config, "num_kv_heads": config.get("num_kv_heads", config.get("n_head_kv"))}
    # the first files had no flag for the new architecture: it is the one that names its KV heads
    new = flag(config, "new_decoder_architecture", old and config["num_kv_heads"] is not None)
    kv_heads = config["num_kv_heads"] if new else 1 if flag(config, "multi_query", True) else None
    if not flag(config, "parallel_attn", True):
        norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    elif integer_or(config, "num_ln_in_parallel_attn", 2 if new else 1) == 2:
        norms = ("ln_attn", "ln_mlp")
    else:
        norms = ("input_layernorm",)
    style = replace(_FALCON, norms=norms, rotary=None if flag(config, "alibi", False) else 1.0)
    spec = build_as({**config, "num_key_value_heads": kv_heads}, style)
    if not new:
        return spec
    # the class of Transformers broadcasts K and V to every query head before it caches them
    return replace(spec, cache_layers=tuple(replace(entry, repeated_heads=spec.heads) for entry in spec.cache_layers))


def mpt(config: Config) -> ModelSpec:
    """MPT with ALiBi and no biases; attn_config says how many KV heads there are."""
    attention = mapping(config, "attn_config")
    if not flag(config, "no_bias", True) or flag(attention, "qk_ln", False) or not flag(attention, "alibi", True):
        hint = "known are models with alibi, no_bias and without qk_ln"
        raise UnsupportedModelError("config: this variant of MPT is not known", hint=hint)
    ratio = config.get("expansion_ratio", 4)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1024:
        raise ModelFileError(f"config: expansion_ratio is {ratio!r:.40}", hint="it has to be a positive number")
    kinds = {
        "multihead_attention": None,
        "multiquery_attention": 1,
        "grouped_query_attention": attention.get("kv_n_heads"),
    }
    kind = attention.get("attn_type", "multihead_attention")
    if kind not in kinds:
        raise UnsupportedModelError(f"config: attn_type {kind!r:.40} is not known", hint=f"known: {', '.join(kinds)}")
    width = int(size(config, "hidden_size", "d_model") * ratio)
    return build_as({**config, "num_key_value_heads": kinds[kind], "intermediate_size": width}, _MPT)


def opt(config: Config) -> ModelSpec:
    """OPT; the 350m model embeds into a narrower space and normalises after its blocks, so it has no final norm."""
    config = standard(config, _OPT)
    if not flag(config, "layer_norm_elementwise_affine", True):
        raise UnsupportedModelError("config: layer norms without weights are not known for OPT")
    final = flag(config, "do_layer_norm_before", True) and not flag(config, "_remove_final_layer_norm", False)
    spec = build_as(config, _OPT if final else replace(_OPT, final_norm=""))
    narrow = integer_or(config, "word_embed_proj_dim", spec.hidden)
    if narrow == spec.hidden:
        return spec
    tied = spec.tied_embeddings
    inside = [t for t in spec.tensors if t.role not in ("embedding", "lm_head")]
    outside = [
        blocks.embedding(_OPT.embedding, spec.vocab, narrow),
        *blocks.linear("model.decoder.project_in", "other", spec.hidden, narrow, split="replicated"),
        *blocks.linear("model.decoder.project_out", "other", narrow, spec.hidden, split="replicated"),
        *blocks.lm_head(spec.vocab, narrow, tied=tied),
    ]
    return replace(spec, tensors=(*outside, *inside))
