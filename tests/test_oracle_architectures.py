"""Inventories against the classes of transformers, built on the meta device: counts, names and shapes of parameters.

Every catalogue model whose model_type has a class is built at full size (no memory is taken); relatives that the
catalogue does not hold are built small.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from fitcalc.architectures import from_config
from fitcalc.catalog import ids, load_model, resolve
from fitcalc.catalog.building import config_of
from fitcalc.catalog.files import read_toml
from fitcalc.spec.model import ModelSpec, Tensor

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

Config = dict[str, Any]

OTHER_CLASS = {
    "blip2-flan-t5-xl": "the class ties T5 always, the checkpoint holds a head of its own",
    "flux1-dev-text-encoder-2": "an encoder alone, which its config does not say",
    "mpt-7b-storywriter": "the class wants clip_qkv to be written 6.0",
    **dict.fromkeys(
        ("flan-t5-small", "flan-t5-base", "flan-t5-large", "flan-t5-xl", "flan-t5-xxl"),
        "the class ties T5 always, the checkpoint holds a head of its own",
    ),
}
ELSEWHERE = {
    "clip": "the safety checker is a class of diffusers",
    "gemma3n": "the class keeps no K and V for layers that share a cache, and needs timm",
    "step3p7": "the class ignores the keys of a flat file",
}
"""Model types whose class is not what the checkpoint holds."""

SAME_NAMES = (
    "bloom", "cohere", "dbrx", "ernie4_5", "falcon", "gemma", "gemma2", "gemma3_text", "gemma4", "gpt2", "gpt_bigcode",
    "gpt_oss", "gptj", "granite", "llama", "ministral3", "mistral", "mpt", "nemotron", "olmo2", "olmo3", "opt",
    "persimmon", "phi", "phi3", "qwen2", "qwen3", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "seed_oss", "smollm3",
    "stablelm", "starcoder2",
)  # fmt: skip
"""Families whose class names its parameters as the checkpoints do (others are renamed or fused while they load)."""

SMALL = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128,
    "intermediate_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SMALL_GPT = {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 128, "bos_token_id": 1, "eos_token_id": 2}
SHARED = {"num_hidden_layers": 12, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 128}
RELATIVES: tuple[tuple[str, Config], ...] = (
    ("apertus", {}),
    ("arcee", {"attention_bias": True, "mlp_bias": True, "head_dim": None}),
    ("cohere", {"use_qk_norm": True, "attention_bias": True}),
    ("cohere2", {"attention_bias": True}),
    ("ernie4_5", {"use_bias": True, "tie_word_embeddings": False}),
    ("exaone4", {}),
    (
        "falcon",
        {"ffn_hidden_size": 96, "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    ),
    ("falcon", {"ffn_hidden_size": 96, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}),
    ("falcon", {"ffn_hidden_size": 96, "multi_query": False, "parallel_attn": False, "alibi": True}),
    ("gemma", {"attention_bias": True}),
    ("gemma2", {"attention_bias": True}),
    ("gemma3_text", {"attention_bias": True}),
    ("gemma4_text", {"head_dim": 16, "global_head_dim": 32, **SHARED}),
    ("gemma4_text", {"num_kv_shared_layers": 0, "attention_k_eq_v": True, "num_global_key_value_heads": 1, **SHARED}),
    ("gemma4_text", {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 8}),
    ("glm", {}),
    ("glm4", {"attention_bias": False}),
    ("gpt_neox", {"attention_bias": False}),
    ("helium", {"attention_bias": True, "hidden_size": 512}),
    ("hunyuan_v1_dense", {"head_dim": 16, "attention_bias": True}),
    ("internlm3", {"attention_bias": True, "mlp_bias": True}),
    ("jais2", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 8}),
    ("ministral", {"head_dim": 16}),
    ("ministral3", {}),
    ("mistral", {}),
    ("nemotron", {"attention_bias": True, "mlp_bias": True}),
    ("olmo", {"attention_bias": True}),
    ("olmo2", {"attention_bias": True}),
    ("opt", {"ffn_dim": 96, "word_embed_proj_dim": 32, "do_layer_norm_before": False}),
    ("opt", {"ffn_dim": 96, "word_embed_proj_dim": 64, "enable_bias": False}),
    ("persimmon", {"qk_layernorm": False}),
    ("phi", {"qk_layernorm": True}),
    ("qwen3", {"attention_bias": True}),
    ("seed_oss", {"attention_out_bias": True, "mlp_bias": True}),
    ("smollm3", {"attention_bias": True, "mlp_bias": True}),
    ("stablelm", {"use_qkv_bias": True, "qk_layernorm": True}),
    ("stablelm", {"use_parallel_residual": True}),
    ("starcoder2", {"use_bias": False}),
    ("codegen", SMALL_GPT),
    ("gpt2", {**SMALL_GPT, "n_inner": 80}),
    ("gpt_bigcode", {**SMALL_GPT, "multi_query": False}),
    ("gptj", {**SMALL_GPT, "rotary_dim": 8}),
)


@cache
def catalogue() -> dict[str, list[str]]:
    """model_type -> the ids of the catalogue that have tensors and a class."""
    by_type: dict[str, list[str]] = {}
    for model in ids("models"):
        spec = load_model(model)
        if model in OTHER_CLASS:
            continue
        if spec.tensors and spec.model_type in transformers.CONFIG_MAPPING and spec.model_type not in ELSEWHERE:
            by_type.setdefault(spec.model_type, []).append(model)
    return by_type


def config_of_model(model: str) -> Config:
    return dict(config_of(read_toml(resolve("models", model).path)))


def parameters(config: Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the class's parameters, tied ones once."""
    auto = transformers.models.auto.modeling_auto
    keys = {key: value for key, value in config.items() if key != "model_type"}
    settled = transformers.CONFIG_MAPPING[config["model_type"]](**keys)
    named = next(iter(config.get("architectures") or ()), "")
    mappings = (
        auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        auto.MODEL_MAPPING,
    )
    suited = (mapping[type(settled)] for mapping in mappings if type(settled) in mapping)
    kind = getattr(transformers, named, None) or next(suited)
    with torch.device("meta"):
        model = kind._from_config(settled)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def expanded(spec: ModelSpec) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of the inventory under its own name; experts one by one where the name counts them."""
    for tensor in spec.tensors:
        if tensor.is_buffer or tensor.part == "mtp":
            continue
        numbers = range(tensor.copies) if "{expert}" in tensor.name else (0,)
        for layer in tensor.layers or (0,):
            for number in numbers:
                yield tensor.name.replace("{layer}", str(layer)).replace("{expert}", str(number)), tensor


def assert_same_parameters(spec: ModelSpec, theirs: dict[str, tuple[int, ...]]) -> None:
    """The same names; the same shapes, but for transposed weights and experts stacked into one tensor."""
    ours = dict(expanded(spec))
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        stacked = (tensor.copies,) if tensor.copies > 1 and "{expert}" not in tensor.name else ()
        flat = torch.Size(theirs[name]).numel() == torch.Size((*stacked, *tensor.shape)).numel()
        assert sorted(theirs[name]) == sorted((*stacked, *tensor.shape)) or (stacked and flat), name


@pytest.mark.parametrize("model_type", sorted(catalogue()))
def test_catalogue_models_count_what_their_class_counts(model_type: str) -> None:
    for model in catalogue()[model_type]:
        counted = sum(torch.Size(shape).numel() for shape in parameters(config_of_model(model)).values())
        assert load_model(model).params_total == counted, model


@pytest.mark.parametrize("model_type", SAME_NAMES)
def test_names_and_shapes_are_those_of_the_class(model_type: str) -> None:
    model = min(catalogue()[model_type], key=lambda model: load_model(model).params_total)
    assert_same_parameters(load_model(model), parameters(config_of_model(model)))


@pytest.mark.parametrize(("model_type", "more"), RELATIVES, ids=[kind for kind, _ in RELATIVES])
def test_relatives_have_the_parameters_of_their_class(model_type: str, more: Config) -> None:
    config = {**({} if "n_embd" in more else SMALL), **more, "model_type": model_type}
    theirs = {name.replace("lm_head.", "embed_out.") if model_type == "gpt_neox" else name: shape
              for name, shape in parameters(config).items()}  # fmt: skip
    assert_same_parameters(from_config(config), theirs)


def test_gemma_3n_without_the_weights_that_nobody_reads() -> None:
    """The class drops K, V and their norm in the layers that share a cache; nothing else differs."""
    config = {**SMALL, "model_type": "gemma3n_text", "num_hidden_layers": 20, "head_dim": 16, "intermediate_size": 96}
    theirs = parameters(config | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 128})
    spec = from_config(config | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 128})
    missing = dict(expanded(spec)).keys() - theirs.keys()
    kept = [
        f"model.layers.{i}.self_attn.{name}.weight" for i in range(5, 20) for name in ("k_proj", "v_proj", "k_norm")
    ]
    assert sorted(missing) == sorted(kept)
