"""Quantized sizes: layouts against closed forms, schemes against published checkpoints, configs of every exporter."""

from __future__ import annotations

import csv
import json
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitcalc import catalog
from fitcalc.architectures import from_config
from fitcalc.architectures.quant_config import checkpoint_quant
from fitcalc.errors import FitcalcError, ModelFileError, ProfileError, RequestError, UnsupportedModelError
from fitcalc.formulas.weights import matrix_bytes, packed_bytes
from fitcalc.quantization import assign, checkpoint_bytes, stored_bytes, weights_bytes
from fitcalc.quantization.patterns import compiled, matching_layers
from fitcalc.spec.model import ModelSpec, Tensor
from fitcalc.spec.quant import CheckpointQuant, Format, Scheme, scheme_from_form, split_group, with_group
from fitcalc.units import GIB

GOLDEN = Path(__file__).parent / "golden"
FP16 = Format("fp16", 1, 2)


def scheme(name: str) -> Scheme:
    return catalog.load_scheme(name)


def ceil(a: int, b: int) -> int:
    return -(-a // b)


# --- one matrix -------------------------------------------------------------------------------------------------------

K, N = 4096, 14336
"""Input and output width of a linear: MLP up of Llama 3.1 8B."""

CLOSED_FORMS = {
    # id: (bytes in the file, bytes after loading), written with the exporters' own tensors
    "fp32": (4 * K * N, None),
    "bf16": (2 * K * N, None),
    "fp8": (K * N + 4 * N, None),
    "fp8-tensor": (K * N + 4 + 4, None),
    "fp8-block": (K * N + 4 * (K // 128) * (N // 128), None),
    "int8": (K * N + 4 * N, None),
    "bnb-int8": (K * N + 4 * N, None),
    "w8a16": (K * N + 2 * N * K // 128 + 16, None),
    "w4a16": (K * N // 2 + 2 * N * K // 128 + 16, None),
    # qweight, scales, qzeros, g_idx; Marlin keeps the first two
    "gptq": (K * N // 2 + 2 * N * K // 128 + N * K // 128 // 2 + 4 * K, K * N // 2 + 2 * N * K // 128),
    "gptq-8bit": (K * N + 2 * N * K // 128 + N * K // 128 + 4 * K, K * N + 2 * N * K // 128),
    "gptq-3bit": (K * N * 3 // 8 + 2 * N * K // 128 + N * K // 128 * 3 // 8 + 4 * K, None),
    "gptq-2bit": (K * N // 4 + 2 * N * K // 128 + N * K // 128 // 4 + 4 * K, None),
    "gptq-g32": (K * N // 2 + 2 * N * K // 32 + N * K // 32 // 2 + 4 * K, K * N // 2 + 2 * N * K // 32),
    "awq": (K * N // 2 + 2 * N * K // 128 + N * K // 128 // 2, None),
    # 64 weights and a float32 maximum; with double quantization one byte per 64 and a float32 per 256 of those
    "bnb-nf4": (K * N // 2 + 4 * K * N // 64 + 4 * 16, None),
    "bnb-nf4-dq": (K * N // 2 + K * N // 64 + 4 * (K * N // 64 // 256) + 4 * 16 + 4 * 256 + 4, None),
    "mxfp4": (K * N // 2 + K * N // 32, None),
    "nvfp4": (K * N // 2 + K * N // 16 + 4 + 4, None),
    "mlx-4bit": (K * N // 2 + 4 * N * K // 64, None),
    "mlx-6bit": (K * N * 6 // 8 + 4 * N * K // 64, None),
    "mlx-8bit": (K * N + 4 * N * K // 64, None),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_one_linear_against_its_closed_form(name: str) -> None:
    in_file, loaded = CLOSED_FORMS[name]
    stored = scheme(name)
    assert matrix_bytes(stored.weight, N, K) == in_file
    assert matrix_bytes(stored.loaded or stored.weight, N, K) == (loaded or in_file)


@pytest.mark.parametrize(
    ("name", "bits"),
    [("bnb-nf4", 4.5), ("bnb-nf4-dq", 4.127), ("mxfp4", 4.25), ("nvfp4", 4.5), ("awq", 4.15625), ("mlx-6bit", 6.5)],
)
def test_bits_per_weight(name: str, bits: float) -> None:
    assert matrix_bytes(scheme(name).weight, 8192, 8192) * 8 / 8192**2 == pytest.approx(bits, abs=0.0005)


FORMATS = [load.weight for load in map(catalog.load_scheme, catalog.ids("quants"))]
WIDTHS = st.integers(1, 20000)


@given(st.sampled_from(FORMATS), WIDTHS, WIDTHS)
def test_padding_only_adds_and_more_never_takes_less(layout: Format, rows: int, cols: int) -> None:
    size = matrix_bytes(layout, rows, cols)
    assert size * 8 * layout.block_elems >= rows * cols * layout.block_bytes * 8
    assert matrix_bytes(layout, rows + 1, cols) >= size
    assert matrix_bytes(layout, rows, cols + 1) >= size
    assert matrix_bytes(layout, 2 * rows, cols) <= 2 * size


@given(WIDTHS, WIDTHS)
def test_sixteen_bit_is_two_bytes_per_element(rows: int, cols: int) -> None:
    assert matrix_bytes(FP16, rows, cols) == 2 * rows * cols


@given(st.sampled_from(FORMATS), WIDTHS, WIDTHS, st.integers(2, 8))
def test_arrays_give_what_integers_give(layout: Format, rows: int, cols: int, count: int) -> None:
    many = matrix_bytes(layout, np.arange(rows, rows + count), cols)
    assert [int(size) for size in many] == [matrix_bytes(layout, rows + i, cols) for i in range(count)]


@given(WIDTHS, WIDTHS, st.integers(1, 512), st.integers(1, 64), st.integers(1, 512), st.integers(0, 64))
def test_groups_and_blocks_are_counted_per_row(
    rows: int, cols: int, block_elems: int, block_bytes: int, group_elems: int, group_bits: int
) -> None:
    size = packed_bytes(
        rows=rows, cols=cols, block_elems=block_elems, block_bytes=block_bytes, group_elems=group_elems,
        group_bits=group_bits,
    )  # fmt: skip
    per_row = ceil(cols, block_elems) * block_bytes
    assert size == rows * per_row + ceil(rows * ceil(cols, group_elems) * group_bits, 8)


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "quant", "ranks", "gib"),
    [
        ("llama-3.1-70b", "awq", 1, 37.04),  # 39.77 GB
        ("llama-3.1-70b", "fp16", 1, 131.42),
        ("llama-3.1-405b", "fp8", 8, 47.75),
        ("llama-3.1-405b", "awq", 8, 25.27),
    ],
)
def test_weights_of_large_models(model: str, quant: str, ranks: int, gib: float) -> None:
    assert weights_bytes(catalog.load_model(model), scheme(quant)) / ranks / GIB == pytest.approx(gib, abs=0.005)


def test_awq_of_llama_70b_by_hand() -> None:
    """80 layers of 8192 × (64 + 8 + 8 + 64 heads of 128) and 3 × 8192 × 28672, 4.15625 bit each; the rest 16 bit."""
    linears = 80 * (8192 * (8192 + 2 * 1024 + 8192) + 3 * 8192 * 28672)
    rest = 2 * 128256 * 8192 + (2 * 80 + 1) * 8192
    assert weights_bytes(catalog.load_model("llama-3.1-70b"), scheme("awq")) == linears * 133 // 256 + 2 * rest


def golden(name: str) -> list[dict[str, str]]:
    with open(GOLDEN / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


@pytest.mark.parametrize("row", golden("checkpoint_sizes.csv"), ids=lambda row: row["repository"])
def test_published_checkpoints(row: dict[str, str]) -> None:
    model = catalog.load_model(row["profile"])
    if row["quantization_config"]:
        quant, unknown = checkpoint_quant({"quantization_config": json.loads(row["quantization_config"])})
        assert not unknown
        model = replace(model, quant=quant)
    measure = checkpoint_bytes if row["kind"] == "file" else weights_bytes
    assert measure(model, scheme(row["quant"])) / GIB == pytest.approx(float(row["gib"]), rel=float(row["tolerance"]))
    assert float(row["tolerance"]) <= 0.005 or row["explanation"]


def formats(model: ModelSpec, quant: str, **options: Any) -> dict[str, str]:
    """Role (part:role outside the text model) -> format ids, joined where a role has several."""
    found: dict[str, set[str]] = {}
    for entry in assign(model, scheme(quant), **options):
        role = entry.tensor.role if entry.tensor.part == "text" else f"{entry.tensor.part}:{entry.tensor.role}"
        found.setdefault(role, set()).add(entry.format.id)
    return {role: "+".join(sorted(ids)) for role, ids in found.items()}


def test_exporters_leave_the_head_embeddings_norms_and_routers_alone() -> None:
    found = formats(replace(catalog.load_model("mixtral-8x7b"), quant=None), "awq")
    assert found["embedding"] == found["lm_head"] == found["norm"] == found["router"] == "bf16"
    assert found["attn_q"] == found["expert_up"] == found["expert_down"] == "awq"


def test_towers_and_projectors_stay_in_sixteen_bit() -> None:
    found = formats(catalog.load_model("gemma-3-27b"), "gptq")
    assert {kind for role, kind in found.items() if role.startswith(("vision:", "projector:"))} == {"bf16"}
    assert formats(catalog.load_model("gemma-3-27b"), "bnb-nf4")["vision:attn_q"] == "bnb-nf4"


def test_mlx_quantizes_embeddings_too() -> None:
    found = formats(catalog.load_model("llama-3.1-8b"), "mlx-4bit")
    assert found["embedding"] == found["lm_head"] == "mlx-4bit"
    assert found["norm"] == "bf16"


def test_a_type_fixed_by_the_checkpoint_stays() -> None:
    model = replace(catalog.load_model("deepseek-v3"), quant=None)
    assert formats(model, "bf16")["router_bias"] == "fp32"


def test_a_32_bit_model_keeps_the_rest_in_16_bit_when_quantized() -> None:
    model = replace(catalog.load_model("llama-3.1-8b"), dtype="fp32")
    assert formats(model, "awq")["embedding"] == "fp16"
    assert formats(model, "fp32")["embedding"] == "fp32"


def test_gguf_of_a_float_type_keeps_norms_in_32_bit() -> None:
    found = formats(catalog.load_model("llama-3.1-8b"), "bf16", gguf=True)
    assert (found["norm"], found["attn_q"], found["vector"]) == ("f32", "bf16", "f32")


def test_every_entry_covers_its_layers_once() -> None:
    for name in ("llama-3.1-8b", "deepseek-v3", "qwen3.5-35b-a3b", "gemma-4-31b-it-nvfp4"):
        model = catalog.load_model(name)
        for quant in ("bf16", "fp8-block", "awq", "nvfp4"):
            stored = assign(model, scheme(quant))
            covered: dict[Tensor, list[int]] = {}
            for entry in stored:
                covered.setdefault(entry.tensor, []).extend(entry.layers)
            assert all(tuple(sorted(layers)) == tensor.layers for tensor, layers in covered.items())
            assert list(covered) == [tensor for tensor in model.tensors if tensor.part != "mtp"]


def test_prediction_layers_are_on_disk_only() -> None:
    model = catalog.load_model("deepseek-r1")
    mtp = sum(t.elems for t in model.tensors if t.part == "mtp")
    assert not any(entry.tensor.part == "mtp" for entry in assign(model, scheme("fp8-block")))
    on_disk = checkpoint_bytes(model, scheme("bf16")) - weights_bytes(model, scheme("bf16"))
    assert on_disk == pytest.approx(2 * mtp, rel=0.001)


def test_a_stored_copy_of_a_tied_head_is_on_disk_only() -> None:
    model = replace(catalog.load_model("qwen3-0.6b"), stores_tied_head=False)
    copy = replace(model, stores_tied_head=True)
    for quant in ("bf16", "fp8"):
        assert checkpoint_bytes(copy, scheme(quant)) - checkpoint_bytes(model, scheme(quant)) == 2 * 151936 * 1024
        assert weights_bytes(copy, scheme(quant)) == weights_bytes(model, scheme(quant))


@pytest.mark.parametrize("quant", ["fp32", "bf16", "fp8", "awq", "bnb-nf4", "mlx-4bit", "nvfp4"])
def test_no_scheme_loses_an_element(quant: str) -> None:
    for name in ("llama-3.2-1b", "qwen3-30b-a3b", "gemma-3-4b", "mamba-130m", "t5-small", "bert-base"):
        model = catalog.load_model(name)
        stored = assign(model, scheme(quant))
        elems = sum(e.tensor.elems // e.tensor.repeats * e.repeats for e in stored if not e.tensor.is_buffer)
        assert elems == model.params_total, name
        assert sum(stored_bytes(entry) for entry in stored) == weights_bytes(model, scheme(quant))


# --- group sizes ------------------------------------------------------------------------------------------------------


def test_group_size_as_a_suffix() -> None:
    assert split_group("gptq-g32") == ("gptq", 32)
    assert split_group("gptq") == ("gptq", 0)
    small = scheme("awq-g64")
    assert (small.id, small.weight.group_elems, small.name, small.variant) == (
        "awq-g64", 64, "AWQ 4 bit, group 64", True,
    )  # fmt: skip
    assert scheme("awq-g128") == scheme("awq")
    assert scheme("gptq-4bit-g32") == scheme("gptq-g32")


def test_one_scale_per_row() -> None:
    whole = with_group(scheme("w4a16"), -1).weight
    assert matrix_bytes(whole, N, K) == K * N // 2 + 2 * N + 16


@pytest.mark.parametrize(("name", "group"), [("fp8", 64), ("bnb-nf4", 32), ("gptq", 3), ("gptq", -2), ("gptq", 10**9)])
def test_group_sizes_that_make_no_sense(name: str, group: int) -> None:
    with pytest.raises(RequestError) as caught:
        with_group(scheme(name), group)
    assert caught.value.hint


# --- a checkpoint's own quantization ----------------------------------------------------------------------------------


def quant_of(section: dict[str, Any]) -> CheckpointQuant:
    quant, unknown = checkpoint_quant({"quantization_config": section})
    assert not unknown
    assert quant is not None
    return quant


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
FP4 = {"num_bits": 4, "type": "float", "group_size": 16}
FP8 = {"num_bits": 8, "type": "float"}
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel"}


def group(weights: dict[str, Any], activations: Any = None, targets: tuple[str, ...] = ("Linear",)) -> dict[str, Any]:
    return {"weights": weights, "input_activations": activations, "targets": list(targets)}


def tensors_config(*groups: dict[str, Any], **more: Any) -> dict[str, Any]:
    listed = {f"group_{i}": entry for i, entry in enumerate(groups)}
    return {"quant_method": "compressed-tensors", "config_groups": listed, **more}


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "gptq-g32"),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "gptq"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "gptq-8bit"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, "awq"),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "awq-g64"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8-block"),
        ({"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}, "fp8-tensor"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        (tensors_config(group(INT4)), "w4a16"),
        (tensors_config(group({**INT4, "group_size": 32})), "w4a16-g32"),
        (tensors_config(group(INT8, INT8)), "int8"),
        (tensors_config(group(INT8)), "w8a16"),
        (tensors_config(group({**FP8, "strategy": "channel"}, FP8)), "fp8"),
        (tensors_config(group({**FP8, "strategy": "tensor"}, FP8)), "fp8-tensor"),
        (tensors_config(group({**FP8, "strategy": "block", "block_structure": [128, 128]}, FP8)), "fp8-block"),
        (tensors_config(group(FP4, FP4)), "nvfp4"),
        (tensors_config(group({**FP4, "group_size": 32})), "mxfp4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bnb-int8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bnb-nf4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, "bnb-nf4-dq"),
        ({"quant_method": "mxfp4", "modules_to_not_convert": []}, "mxfp4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}, "nvfp4"),
        ({"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}, "fp8-tensor"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4", "group_size": 32}}}, "mxfp4"),
        (
            {"quant_method": "auto-round", "bits": 4, "group_size": 128, "packing_format": "auto_round:auto_gptq"},
            "gptq",
        ),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128, "packing_format": "auto_round:auto_awq"}, "awq"),
        ({"quant_method": "auto-round", "bits": 4, "data_type": "mx_fp"}, "mxfp4"),
        ({"bits": 4, "group_size": 64}, "mlx-4bit"),
    ],
)
def test_every_exporters_words(section: dict[str, Any], expected: str) -> None:
    quant = quant_of(section)
    assert quant.scheme == expected
    assert scheme(quant.scheme).weight.block_bytes


@pytest.mark.parametrize(
    "section",
    [
        {"quant_method": "aqlm", "num_codebooks": 1},
        {"quant_method": "exl3", "bits": 3.0},
        {"quant_method": "gptq", "bits": 5},
        {"quant_method": "gptq", "bits": "8"},
        {"quant_method": "gptq", "bits": 4, "group_size": "128"},
        {**tensors_config(group(INT4)), "format": "marlin-24"},
        {**tensors_config(group(INT4)), "format": "int-quantized"},
        {**tensors_config(group(FP8)), "sparsity_config": {"format": "sparse-24-bitmask"}},
        {"quant_method": "awq", "bits": 8},
        {"quant_method": "compressed-tensors", "config_groups": {"g": group({"num_bits": 3, "type": "int"})}},
        {"quant_method": "compressed-tensors", "config_groups": {}},
        {"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"},
        {"quant_method": 7},
        {"bits": 4},
    ],
)
def test_what_is_not_known_makes_the_model_unknown_not_16_bit(section: dict[str, Any]) -> None:
    quant, unknown = checkpoint_quant({"quantization_config": section})
    assert quant is None
    assert "not modelled" in unknown


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["bits", "group_size", "weight_block_size", "config_groups", "ignore", "dynamic", "quant_algo", "extra_config",
     "modules_to_not_convert", "global_quant_config", "layer_quant_config", "exclude", "packing_format", "data_type",
     "llm_int8_skip_modules", "sym", "desc_act", "lm_head", "quantization", "w_bit"]
)  # fmt: skip
METHODS = st.sampled_from(
    ["gptq", "awq", "fp8", "compressed-tensors", "bitsandbytes", "mxfp4", "modelopt", "quark", "auto-round", "mlx"]
)


@given(METHODS, st.dictionaries(KEYS, JSON, max_size=6))
def test_any_section_ends_in_an_answer_or_a_named_error(method: str, section: dict[str, Any]) -> None:
    quant, unknown = checkpoint_quant({"quantization_config": {"quant_method": method, **section}})
    assert (quant is None) == bool(unknown)
    if quant is not None:
        model = llama({"quant_method": method, **section})
        with suppress(FitcalcError):
            half = weights_bytes(model, scheme("bf16"))
            assert 0 < weights_bytes(model, scheme(quant.scheme)) < 2 * half


def test_a_cache_scheme_alone_leaves_the_weights_as_they_are() -> None:
    section = {"quant_method": "compressed-tensors", "config_groups": {}, "kv_cache_scheme": {"num_bits": 8}}
    assert checkpoint_quant({"quantization_config": section}) == (None, "")


def test_schemes_named_module_by_module() -> None:
    layers = {f"model.layers.{i}.mlp.up_proj": {"quant_algo": "NVFP4" if i else "FP8"} for i in range(3)}
    quant = quant_of({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers})
    assert quant.scheme == "nvfp4"
    assert quant.targets == ("model.layers.1.mlp.up_proj", "model.layers.2.mlp.up_proj")
    assert quant.overrides == (("model.layers.0.mlp.up_proj", "fp8-tensor"),)


def test_gptq_of_listed_modules_only() -> None:
    section = {"quant_method": "gptq", "bits": 4, "modules_in_block_to_quantize": [["self_attn.q_proj"], ["mlp"]]}
    assert quant_of(section).targets == ("self_attn.q_proj", "mlp")


def test_a_section_that_is_no_object_is_an_error() -> None:
    with pytest.raises(ModelFileError, match="quantization_config"):
        checkpoint_quant({"quantization_config": [1]})


LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 512, "vocab_size": 1000, "max_position_embeddings": 2048,
    "dtype": "bfloat16",
}  # fmt: skip


def llama(section: dict[str, Any]) -> ModelSpec:
    return from_config({**LLAMA, "quantization_config": section})


def by_layer(model: ModelSpec, quant: str, role: str) -> dict[int, str]:
    return {
        layer: entry.file_format.id
        for entry in assign(model, scheme(quant))
        if entry.tensor.role == role
        for layer in entry.layers or (0,)
    }


def test_ignored_modules_stay_in_sixteen_bit() -> None:
    section = {
        "quant_method": "fp8",
        "modules_to_not_convert": ["model.layers.1.self_attn", "mlp.down_proj", "lm_head"],
    }
    model = llama({**section, "weight_block_size": [128, 128]})
    assert by_layer(model, "fp8-block", "attn_q") == {0: "fp8-block", 1: "bf16", 2: "fp8-block", 3: "fp8-block"}
    assert set(by_layer(model, "fp8-block", "mlp_down").values()) == {"bf16"}
    assert set(by_layer(model, "fp8-block", "mlp_up").values()) == {"fp8-block"}


def test_the_checkpoints_own_exceptions_do_not_touch_another_scheme() -> None:
    model = llama({"quant_method": "gptq", "bits": 4, "group_size": 32, "dynamic": {"-:.*down_proj": {}}})
    assert set(by_layer(model, "gptq", "mlp_down").values()) == {"bf16"}
    assert set(by_layer(model, "awq", "mlp_down").values()) == {"awq"}
    assert weights_bytes(model, scheme("gptq")) == weights_bytes(model, scheme("gptq-g32"))


def test_modules_in_another_format() -> None:
    model = llama({"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"+:.*v_proj": {"bits": 8}}})
    assert set(by_layer(model, "gptq", "attn_v").values()) == {"gptq-8bit"}
    mixed = tensors_config(
        group(FP4, FP4, ("model.layers.0.mlp", "lm_head")), group(FP8, FP8, ("re:.*self_attn.*",)), ignore=["mtp*"]
    )
    model = llama(mixed)
    assert by_layer(model, "nvfp4", "mlp_up") == {0: "nvfp4", 1: "bf16", 2: "bf16", 3: "bf16"}
    assert set(by_layer(model, "nvfp4", "attn_o").values()) == {"fp8-tensor"}
    assert set(by_layer(model, "nvfp4", "lm_head").values()) == {"nvfp4"}


def test_a_mix_that_is_not_modelled_is_refused() -> None:
    model = llama({"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"+:.*v_proj": {"bits": 2}}})
    with pytest.raises(UnsupportedModelError, match="gptq-2bit"):
        assign(model, scheme("gptq"))


def test_activation_order_keeps_the_group_index() -> None:
    plain, ordered = (
        llama({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": order}) for order in (False, True)
    )
    columns = 4 * (256 * 6 + 512)
    assert weights_bytes(ordered, scheme("gptq")) - weights_bytes(plain, scheme("gptq")) == 2 * 4 * columns
    assert checkpoint_bytes(ordered, scheme("gptq")) == checkpoint_bytes(plain, scheme("gptq"))


def test_zero_points_of_asymmetric_checkpoints() -> None:
    plain, asymmetric = (llama(tensors_config(group({**INT4, "symmetric": kind}))) for kind in (True, False))
    linears = sum(t.elems for t in plain.tensors if t.is_linear and t.role != "lm_head")
    added = weights_bytes(asymmetric, scheme("w4a16")) - weights_bytes(plain, scheme("w4a16"))
    assert added == linears // 128 * 4 // 8


def test_a_quantized_head() -> None:
    section = {"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": True}
    assert set(by_layer(llama(section), "gptq", "lm_head").values()) == {"gptq"}


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("lm_head", "lm_head.weight", True),
        ("lm_head", "language_model.lm_head.weight", True),
        ("mlp.gate", "model.layers.{layer}.mlp.gate.weight", True),
        ("mlp.gate", "model.layers.{layer}.mlp.gate_proj.weight", False),
        ("gate", "model.layers.{layer}.block_sparse_moe.gate.weight", True),
        ("visual", "model.visual.blocks.{layer}.attn.qkv.weight", True),
        ("model.layers.*.self_attn", "model.layers.{layer}.self_attn.q_proj.weight", True),
        ("model.layers.*.self_attn", "model.layers.{layer}.mlp.up_proj.weight", False),
        ("model.layers.*.mlp.gate", "model.layers.{layer}.mlp.gate.weight", True),
        ("model.layers.*.mlp.gate", "model.layers.{layer}.mlp.gate_proj.weight", False),
        ("model.layers.*.mlp.gate*", "model.layers.{layer}.mlp.gate_proj.weight", True),
        ("model.language_model.layers.2.self_attn*", "model.layers.{layer}.self_attn.q_proj.weight", True),
        ("model.layers.2", "model.language_model.layers.{layer}.mlp.up_proj.weight", True),
        ("model.layers.9", "model.layers.{layer}.mlp.up_proj.weight", False),
        ("re:.*self_attn.*", "model.layers.{layer}.self_attn.q_proj.weight", True),
        (r"re:.*mlp\.(gate|up)_proj.*", "model.layers.{layer}.mlp.up_proj.weight", True),
        ("mlp.experts", "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight", True),
        ("", "model.layers.{layer}.mlp.up_proj.weight", False),
    ],
)
def test_module_patterns(pattern: str, name: str, matches: bool) -> None:
    tensor = Tensor(name, "other", (8, 8), (0, 1, 2) if "{layer}" in name else ())
    found = matching_layers(compiled([pattern]), tensor)
    numbered = any(part.isdigit() for part in pattern.replace("*", "").split("."))
    assert found == (frozenset({2} if numbered else tensor.layers or (0,)) if matches else frozenset())


def test_long_lists_of_modules_stay_cheap() -> None:
    names = [f"model.layers.{i}.{part}" for i in range(400) for part in ("input_layernorm", "mlp.gate", "self_attn.x*")]
    patterns = compiled([*names, "lm_head"])
    assert patterns.wild is None
    assert len(patterns.numbered) == 1200


@pytest.mark.parametrize(
    "pattern",
    ["re:(a+)+$", "re:(?:.*a){9}$", "re:" + ".*" * 50 + "x", "a*b*c*d*e*f*g", "re:" + "x" * 1000, "re:(", "re:[z-a]"],
)
def test_expressions_that_could_run_for_ever_are_not_run(pattern: str) -> None:
    section = {"quant_method": "compressed-tensors", "config_groups": {"g": group(INT4)}, "ignore": [pattern]}
    quant, unknown = checkpoint_quant({"quantization_config": section})
    assert quant is None
    assert "cannot be read" in unknown
    tensor = Tensor("a" * 60 + ".weight", "other", (8, 8))
    assert matching_layers(compiled([pattern]), tensor) == frozenset()


# --- profiles ---------------------------------------------------------------------------------------------------------


def test_formats_beside_a_scheme_are_those_of_their_own_profiles() -> None:
    for name in catalog.ids("quants"):
        for other, layout in scheme(name).beside.items():
            assert layout == scheme(other).weight, f"{name} has {other} otherwise"


def test_every_linear_scheme_takes_less_than_sixteen_bit_and_more_than_its_bits() -> None:
    model = catalog.load_model("llama-3.1-70b")
    half = weights_bytes(model, scheme("bf16"))
    for name in catalog.ids("quants"):
        entry = scheme(name)
        if entry.kind in ("linear", "mlx"):
            assert half * entry.bits / 16 < weights_bytes(model, entry) < half, name


def test_quality_falls_with_the_bits_of_one_method() -> None:
    families = [
        ["fp32", "fp16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q4_0", "q3_k_l", "q3_k_m", "q3_k_s"],
        ["iq4_xs", "iq3_m", "iq3_s", "iq3_xs", "iq3_xxs", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s"],
        ["fp16", "gptq-8bit", "gptq", "gptq-3bit", "gptq-2bit"],
        ["fp16", "mlx-8bit", "mlx-6bit", "mlx-4bit"],
        ["bf16", "fp8", "awq"],
    ]
    for names in families:
        ranks = [scheme(name).quality_rank for name in names]
        assert ranks == sorted(ranks, reverse=True), names


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("Q4_K_M", "q4_k_m"), ("q4km", "q4_k_m"), ("AWQ", "awq"), ("int4-awq", "awq"), ("gptq-int4", "gptq"),
     ("gptq-4bit", "gptq"), ("nf4", "bnb-nf4"), ("fp8-dynamic", "fp8"), ("w8a8", "int8"), ("BF16", "bf16"),
     ("half", "fp16"), ("iq4xs", "iq4_xs"), ("float32", "fp32"), ("4bit", "int4"), ("8-bit", "int8")],
)  # fmt: skip
def test_names_as_people_type_them(typed: str, meant: str) -> None:
    assert scheme(typed).id == meant


def test_a_profile_without_a_format_is_an_error() -> None:
    with pytest.raises(ProfileError, match="no format"):
        scheme_from_form({"name": "x", "kind": "gguf", "type": "q9_K"}, "x", catalog.load_ggml())


def test_native_below_which_weights_are_unpacked() -> None:
    for name in ("fp8", "fp8-block", "nvfp4", "mxfp4"):
        entry = scheme(name)
        assert float(entry.min_compute_capability) < float(entry.native_compute_capability)


def test_sizes_are_integers() -> None:
    for name in catalog.ids("quants"):
        size = weights_bytes(catalog.load_model("llama-3.2-1b"), scheme(name))
        assert isinstance(size, int)
        assert size > 0
        assert not math.isnan(size)
