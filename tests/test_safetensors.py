"""safetensors: exact bytes and parameters from headers, packed weights unpacked, a config held against the file."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors_files import BITS, Shapes, awq, data_bytes, gptq, names_of, shards, write

import fitcalc
from fitcalc import catalog
from fitcalc.architectures import from_config
from fitcalc.errors import ModelFileError
from fitcalc.quantization import assign, checkpoint_bytes, total_bytes, weights_bytes
from fitcalc.readers.safetensors_header import DTYPE_BITS, read_header
from fitcalc.readers.safetensors_names import meaning_of, place_of
from fitcalc.spec.model import ModelSpec

LAYERS, HIDDEN, WIDTH, HEADS, KV, VOCAB = 4, 512, 1024, 8, 2, 1000
DIM = HIDDEN // HEADS
LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": WIDTH, "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS, "num_key_value_heads": KV, "vocab_size": VOCAB, "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
LINEARS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV * DIM, HIDDEN),
    "self_attn.v_proj": (KV * DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (WIDTH, HIDDEN),
    "mlp.up_proj": (WIDTH, HIDDEN),
    "mlp.down_proj": (HIDDEN, WIDTH),
}
PARAMS = 2 * VOCAB * HIDDEN + HIDDEN + LAYERS * (sum(a * b for a, b in LINEARS.values()) + 2 * HIDDEN)


def checkpoint(packed: Any = None, dtype: str = "BF16") -> dict[str, tuple[str, tuple[int, ...]]]:
    """A small Llama whose linears `packed(name, out, in)` lays out; as they are by default."""
    found = {
        "model.embed_tokens.weight": (dtype, (VOCAB, HIDDEN)),
        "lm_head.weight": (dtype, (VOCAB, HIDDEN)),
        "model.norm.weight": (dtype, (HIDDEN,)),
    }
    for layer in range(LAYERS):
        base = f"model.layers.{layer}"
        found |= {
            f"{base}.{name}.weight": (dtype, (HIDDEN,)) for name in ("input_layernorm", "post_attention_layernorm")
        }
        for name, (out, inputs) in LINEARS.items():
            one = {f"{base}.{name}.weight": (dtype, (out, inputs))}
            found |= one if packed is None else packed(f"{base}.{name}", out, inputs)
    return found


def loaded(folder: Path, tensors: Shapes, config: dict[str, Any] | None = None) -> tuple[ModelSpec, int]:
    folder.mkdir(exist_ok=True)
    size = write(folder / "model.safetensors", tensors)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return fitcalc.load_model(str(folder)), size


def native(spec: ModelSpec) -> Any:
    return catalog.load_scheme(spec.quant.scheme if spec.quant else spec.dtype)


def file_weights(spec: ModelSpec) -> int:
    """Bytes of the tensors as the inventory has them in the file."""
    return total_bytes(assign(spec, native(spec)), file=True)


# --- what packed layouts look like: each exporter's own, with the quantization_config it writes -----------------------


def _compressed(base: str, out: int, inputs: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        f"{base}.weight_packed": ("I32", (out, inputs // 8)),
        f"{base}.weight_scale": ("BF16", (out, inputs // 128)),
        f"{base}.weight_shape": ("I64", (2,)),
    }


def _fp8_blocks(base: str, out: int, inputs: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        f"{base}.weight": ("F8_E4M3", (out, inputs)),
        f"{base}.weight_scale_inv": ("F32", (-(-out // 128), -(-inputs // 128))),
    }


def _fp8_channels(base: str, out: int, inputs: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {f"{base}.weight": ("F8_E4M3", (out, inputs)), f"{base}.weight_scale": ("BF16", (out, 1))}


def _fp8_tensor(base: str, out: int, inputs: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        f"{base}.weight": ("F8_E4M3", (out, inputs)),
        f"{base}.weight_scale": ("F32", ()),
        f"{base}.input_scale": ("F32", ()),
    }


def _nvfp4(base: str, out: int, inputs: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        f"{base}.weight": ("U8", (out, inputs // 2)),
        f"{base}.weight_scale": ("F8_E4M3", (out, inputs // 16)),
        f"{base}.weight_scale_2": ("F32", ()),
        f"{base}.input_scale": ("F32", ()),
    }


def _nf4(base: str, out: int, inputs: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        f"{base}.weight": ("U8", (out * inputs // 2, 1)),
        f"{base}.weight.absmax": ("F32", (out * inputs // 64,)),
        f"{base}.weight.quant_map": ("F32", (16,)),
        f"{base}.weight.quant_state.bitsandbytes__nf4": ("U8", (81,)),
    }


def _llm_int8(base: str, out: int, inputs: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        f"{base}.weight": ("I8", (out, inputs)),
        f"{base}.SCB": ("F32", (out,)),
        f"{base}.weight_format": ("U8", ()),
    }


def _mlx(base: str, out: int, inputs: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        f"{base}.weight": ("U32", (out, inputs // 8)),
        f"{base}.scales": ("BF16", (out, inputs // 64)),
        f"{base}.biases": ("BF16", (out, inputs // 64)),
    }


def _aqlm(base: str, out: int, inputs: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        f"{base}.codes": ("I8", (out, inputs // 8, 1)),
        f"{base}.codebooks": ("F16", (1, 256, 1, 8)),
        f"{base}.scales": ("F16", (out, 1, 1, 1)),
    }


_INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
PACKINGS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "gptq": (gptq, "gptq", {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}),
    "gptq 8 bit": (lambda *a: gptq(*a, bits=8), "gptq-8bit", {"quant_method": "gptq", "bits": 8, "group_size": 128}),
    "gptq 3 bit": (lambda *a: gptq(*a, bits=3), "gptq-3bit", {"quant_method": "gptq", "bits": 3, "group_size": 128}),
    "gptq g32": (lambda *a: gptq(*a, group=32), "gptq-g32", {"quant_method": "gptq", "bits": 4, "group_size": 32}),
    "awq": (awq, "awq", {"quant_method": "awq", "bits": 4, "group_size": 128}),
    "compressed": (_compressed, "w4a16", {"quant_method": "compressed-tensors", "ignore": ["lm_head"],
                   "config_groups": {"group_0": {"targets": ["Linear"], "weights": _INT4}}}),
    "fp8 blocks": (_fp8_blocks, "fp8-block", {"quant_method": "fp8", "weight_block_size": [128, 128]}),
    "fp8 channels": (_fp8_channels, "fp8", {"quant_method": "fbgemm_fp8"}),
    "fp8 tensor": (_fp8_tensor, "fp8-tensor", {"quant_method": "modelopt", "quant_algo": "FP8"}),
    "nvfp4": (_nvfp4, "nvfp4", {"quant_method": "modelopt", "quant_algo": "NVFP4"}),
    "nf4": (_nf4, "bnb-nf4", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "int8": (_llm_int8, "bnb-int8", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "mlx": (_mlx, "mlx-4bit", {"bits": 4, "group_size": 64}),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKINGS)
def test_packed_weights_count_unpacked_and_to_the_byte(name: str, tmp_path: Path) -> None:
    packed, scheme, section = PACKINGS[name]
    tensors = checkpoint(packed)
    bare, size = loaded(tmp_path / "bare", tensors)
    assert bare.params_total == PARAMS
    assert bare.quant is not None
    assert bare.quant.scheme == scheme
    assert (bare.file_bytes, file_weights(bare)) == (size, data_bytes(tensors.values()))
    config = LLAMA | {"quantization_config": section}
    held, size = loaded(tmp_path / "held", tensors, config)
    assert held.params_total == PARAMS
    assert held.quant is not None
    assert held.quant.scheme == scheme
    assert (held.file_bytes, file_weights(held)) == (size, data_bytes(tensors.values()))
    assert checkpoint_bytes(held, native(held)) == size
    assert held.notes == ()


def test_a_packing_without_a_scheme_here_still_counts_exactly(tmp_path: Path) -> None:
    tensors = checkpoint(_aqlm)
    spec, size = loaded(tmp_path, tensors)
    assert spec.params_total == PARAMS
    assert spec.file_bytes == size
    assert file_weights(spec) == data_bytes(tensors.values())


def test_stacked_mxfp4_experts(tmp_path: Path) -> None:
    experts, width = 8, 256
    blocks = {"gate_up_proj": (2 * width, HIDDEN), "down_proj": (HIDDEN, width)}
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {"model.embed_tokens.weight": ("BF16", (VOCAB, HIDDEN))}
    for layer in range(2):
        for name, (out, inputs) in blocks.items():
            base = f"model.layers.{layer}.mlp.experts.{name}"
            tensors[f"{base}_blocks"] = ("U8", (experts, out, inputs // 32, 16))
            tensors[f"{base}_scales"] = ("U8", (experts, out, inputs // 32))
            tensors[f"{base}_bias"] = ("BF16", (experts, out))
    spec, _ = loaded(tmp_path, tensors)
    one = sum(out * inputs + out for out, inputs in blocks.values())
    assert spec.params_total == VOCAB * HIDDEN + 2 * experts * one
    assert spec.experts == experts
    assert spec.quant is not None
    assert spec.quant.scheme == "mxfp4"
    assert file_weights(spec) == data_bytes(tensors.values())


def test_every_type_of_the_format_takes_its_own_bytes(tmp_path: Path) -> None:
    assert BITS.items() <= DTYPE_BITS.items()
    for dtype, bits in BITS.items():
        header = read_header(str(tmp_path / f"{dtype}.safetensors")) if write(
            tmp_path / f"{dtype}.safetensors", {"a": (dtype, (6, 4))}
        ) else None  # fmt: skip
        assert header is not None
        assert header.entries[0].bytes == 24 * bits // 8


# --- with a config.json -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "mixtral-8x7b", "qwen2.5-vl-7b", "gpt2", "mamba-2.8b", "gemma-3n-e4b"]
)
def test_a_full_size_checkpoint_gives_the_published_count_with_and_without_its_config(
    name: str, tmp_path: Path
) -> None:
    catalogued = catalog.load_model(name)
    stored = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}[catalogued.dtype]
    _, total = shards(tmp_path, names_of(catalogued, stored), 3)
    bare = fitcalc.load_model(str(tmp_path))
    assert (bare.params_total, bare.file_bytes) == (catalogued.params_total, total)
    (tmp_path / "config.json").write_text(json.dumps(_config_of(name)))
    held = fitcalc.load_model(str(tmp_path))
    assert (held.params_total, held.file_bytes) == (catalogued.params_total, total)
    assert (held.cache_layers, held.unknowns) == (catalogued.cache_layers, catalogued.unknowns)
    assert weights_bytes(held, native(held)) == weights_bytes(catalogued, native(catalogued))


def _config_of(name: str) -> dict[str, Any]:
    import tomllib

    profile = tomllib.loads((Path(__file__).parents[1] / "profiles" / "models" / f"{name}.toml").read_text())
    return {**profile["config"], **dict.fromkeys(profile.get("null_keys", []))}


def test_what_is_stored_decides_the_type(tmp_path: Path) -> None:
    spec, size = loaded(tmp_path, checkpoint(dtype="F32"), LLAMA)
    assert spec.dtype == "fp32"
    assert any("config.json says bf16" in note for note in spec.notes)
    assert checkpoint_bytes(spec, native(spec)) == size
    assert file_weights(spec) == 4 * PARAMS


def test_one_tensor_in_another_type_counts_as_it_is(tmp_path: Path) -> None:
    tensors = checkpoint() | {"model.norm.weight": ("F32", (HIDDEN,))}
    spec, _ = loaded(tmp_path, tensors, LLAMA)
    assert file_weights(spec) == 2 * PARAMS + 2 * HIDDEN
    assert weights_bytes(spec, catalog.load_scheme("fp16")) == 2 * PARAMS


def test_differences_between_config_and_file_are_said(tmp_path: Path) -> None:
    tensors = checkpoint() | {"model.layers.0.extra.weight": ("BF16", (HIDDEN, HIDDEN))}
    del tensors["model.layers.3.mlp.up_proj.weight"]
    spec, _ = loaded(tmp_path, tensors, LLAMA)
    notes = " ".join(spec.notes)
    assert "not in the file: 1 tensor (model.layers.N.mlp.up_proj.weight)" in notes
    assert "not in the inventory of llama: 1 tensor (model.layers.N.extra.weight)" in notes
    assert spec.params_total == PARAMS + HIDDEN * HIDDEN


def test_the_shape_in_the_file_decides(tmp_path: Path) -> None:
    longer = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), ("BF16", (VOCAB + 24, HIDDEN)))
    spec, _ = loaded(tmp_path, checkpoint() | longer, LLAMA)
    assert spec.params_total == PARAMS + 2 * 24 * HIDDEN
    assert any("1024 × 512 in the file" in note for note in spec.notes)


def test_a_config_that_claims_a_quantization_the_file_has_not(tmp_path: Path) -> None:
    spec, _ = loaded(tmp_path, checkpoint(), LLAMA | {"quantization_config": {"quant_method": "awq", "bits": 4}})
    assert spec.quant is None
    assert any("no tensor in the file is quantized" in note for note in spec.notes)


def test_a_tied_head_that_is_stored_is_no_parameter(tmp_path: Path) -> None:
    spec, size = loaded(tmp_path, checkpoint(), LLAMA | {"tie_word_embeddings": True})
    assert spec.params_total == PARAMS - VOCAB * HIDDEN
    assert spec.stores_tied_head
    assert checkpoint_bytes(spec, native(spec)) == size


# --- without one, or with one of an unknown family --------------------------------------------------------------------


def test_cache_bytes_follow_from_rows_whatever_the_head_size(tmp_path: Path) -> None:
    spec, _ = loaded(tmp_path, checkpoint())
    described = from_config(LLAMA)
    assert sum(len(c.layers) * c.elems_per_token for c in spec.cache_layers) == sum(
        len(c.layers) * c.elems_per_token for c in described.cache_layers
    )
    assert (spec.hidden, spec.vocab, spec.layers, spec.tied_embeddings) == (HIDDEN, VOCAB, LAYERS, False)
    assert spec.unknowns
    assert spec.at_least is not None


def test_an_unknown_family_is_derived_from_its_keys(tmp_path: Path) -> None:
    config = LLAMA | {"model_type": "newfamily", "layer_types": ["full_attention"] * LAYERS}
    spec, _ = loaded(tmp_path, checkpoint(), config)
    described = from_config(LLAMA)
    assert (spec.unknowns, spec.at_least) == ((), None)
    assert spec.cache_layers == described.cache_layers
    assert (spec.heads, spec.kv_heads, spec.head_dim) == (HEADS, KV, DIM)
    assert spec.max_context_tokens == 2048
    assert any("newfamily" in note for note in spec.notes)


def test_listed_windows_are_taken(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    config = LLAMA | {"model_type": "newfamily", "layer_types": kinds, "sliding_window": 64}
    spec, _ = loaded(tmp_path, checkpoint(), config)
    assert {(layer.kind, layer.layers, layer.window_tokens) for layer in spec.cache_layers} == {
        ("sliding", (0, 1, 3), 64), ("full", (2,), 0),
    }  # fmt: skip


def test_the_verdict_is_unknown_only_between_the_bounds(tmp_path: Path) -> None:
    spec, _ = loaded(tmp_path, checkpoint())
    card = {"gpu": "rtx-4090", "engine": "vllm", "quant": "bf16"}
    assert fitcalc.fit(spec, context=8192, **card).verdict == "fits"  # type: ignore[arg-type]
    # 2 KiB a token: 64 requests of 1M tokens need 128 GiB at the upper end, next to nothing at the lower one
    assert fitcalc.fit(spec, context=2**20, concurrency=64, **card).verdict == "unknown"  # type: ignore[arg-type]
    heavy = replace(spec, tensors=tuple(replace(t, shape=(t.shape[0] * 20_000, *t.shape[1:])) for t in spec.tensors))
    assert spec.at_least is not None
    heavy = replace(heavy, at_least=replace(spec.at_least, tensors=heavy.tensors))
    assert fitcalc.fit(heavy, context=8192, **card).verdict == "does_not_fit"  # type: ignore[arg-type]


def test_layers_of_prediction_heads_are_not_loaded(tmp_path: Path) -> None:
    head = {name.replace("layers.3.", "layers.4."): entry for name, entry in checkpoint().items() if ".3." in name}
    head["model.layers.4.eh_proj.weight"] = ("BF16", (HIDDEN, 2 * HIDDEN))
    spec, _ = loaded(tmp_path, checkpoint() | head)
    assert (spec.params_total, spec.layers) == (PARAMS, LAYERS)


@pytest.mark.parametrize(
    ("name", "template", "layer", "expert"),
    [
        ("model.layers.12.mlp.experts.7.w1.weight", "model.layers.{layer}.mlp.experts.{expert}.w1.weight", 12, 7),
        ("transformer.h.0.attn.c_attn.weight", "transformer.h.{layer}.attn.c_attn.weight", 0, None),
        ("visual.merger.mlp.0.weight", "visual.merger.mlp.0.weight", None, None),
        ("encoder.block.3.layer.0.SelfAttention.q", "encoder.block.{layer}.layer.0.SelfAttention.q", 3, None),
        ("lm_head.weight", "lm_head.weight", None, None),
    ],
)  # fmt: skip
def test_places(name: str, template: str, layer: int | None, expert: int | None) -> None:
    assert place_of(name) == (template, layer, expert)


def test_roles_agree_with_the_inventories_of_the_families() -> None:
    """Words of names mean what the builders say they mean, for the roles that decide sizes."""
    decisive = ("embedding", "lm_head", "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_o", "mla_kv_a", "expert_gate",
                "expert_up", "expert_down", "expert_gate_up", "mlp_down", "router")  # fmt: skip
    for name in ("llama-3.1-8b", "mixtral-8x7b", "gpt2", "falcon-7b", "deepseek-v3", "gpt-oss-20b", "phi-3.5-mini"):
        for tensor in catalog.load_model(name).tensors:
            if tensor.role in decisive and tensor.part == "text":
                assert meaning_of(tensor.name, len(tensor.shape)).role == tensor.role, tensor.name


# --- one file, sets of files, indexes ---------------------------------------------------------------------------------


def test_a_shard_an_index_and_the_folder_are_the_same_model(tmp_path: Path) -> None:
    paths, total = shards(tmp_path, checkpoint(), 4)
    found = [fitcalc.load_model(str(path)) for path in (tmp_path, paths[2], tmp_path / "model.safetensors.index.json")]
    assert [spec.file_bytes for spec in found] == [total] * 3
    assert found[0].tensors == found[1].tensors == found[2].tensors


def test_missing_shards_are_named(tmp_path: Path) -> None:
    paths, _ = shards(tmp_path, checkpoint(), 4)
    paths[1].unlink()
    for path in (tmp_path, paths[0], tmp_path / "model.safetensors.index.json"):
        with pytest.raises(ModelFileError, match=r"1 of 4 .*model-00002-of-00004\.safetensors"):
            fitcalc.load_model(str(path))


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({}, "weight_map"),
        ({"weight_map": {}}, "weight_map"),
        ({"weight_map": {"a": 3}}, "weight_map"),
        ({"weight_map": {"a": "../model.safetensors"}}, "outside"),
        ({"weight_map": {"a": "/etc/passwd"}}, "outside"),
        ({"weight_map": {"a": ".."}}, "outside"),
        ({"weight_map": {"a": "gone.safetensors"}}, "gone.safetensors"),
        ({"weight_map": {"nothing.weight": "model-00001-of-00002.safetensors"}}, "nothing.weight"),
    ],
)
def test_an_index_that_lies(index: dict[str, Any], words: str, tmp_path: Path) -> None:
    shards(tmp_path, checkpoint(), 2)
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match=words):
        fitcalc.load_model(str(path))


def test_an_index_with_another_total_is_said(tmp_path: Path) -> None:
    shards(tmp_path, checkpoint(), 2)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["metadata"]["total_size"] *= 2
    path.write_text(json.dumps(index))
    assert any("the files are counted" in note for note in fitcalc.load_model(str(tmp_path)).notes)


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / f"model-{number:05d}-of-00002.safetensors", checkpoint())
    with pytest.raises(ModelFileError, match="also in"):
        fitcalc.load_model(str(tmp_path))


# --- a second implementation ------------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_the_package_reads_the_same_names_types_and_shapes(tmp_path: Path) -> None:
    from safetensors import safe_open

    tensors = checkpoint(_nvfp4) | checkpoint(_fp8_blocks) | {f"t.{dtype}": (dtype, (2, 8)) for dtype in BITS}
    path = tmp_path / "model.safetensors"
    write(path, tensors)
    ours = {entry.name: (entry.dtype, list(entry.shape)) for entry in read_header(str(path)).entries}
    with safe_open(str(path), framework="np") as theirs:
        names = theirs.keys()
        assert set(names) == set(ours)
        for name in names:
            part = theirs.get_slice(name)
            assert (part.get_dtype(), part.get_shape()) == ours[name]


@pytest.mark.oracle
def test_what_the_package_refuses_is_refused(tmp_path: Path) -> None:
    from safetensors import SafetensorError, deserialize

    base = {"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}
    for change in ({"dtype": "U9"}, {"shape": [3]}, {"shape": [-2]}, {"data_offsets": [1, 3]}, {"data_offsets": [0, 1]},
                   {"data_offsets": [2, 0]}, {"dtype": "F4", "shape": [3]}, {"shape": "2"}):  # fmt: skip
        header = json.dumps({"a": base["a"] | change}).encode()
        raw = struct.pack("<Q", len(header)) + header + b"\0\0"
        (tmp_path / "x.safetensors").write_bytes(raw)
        with pytest.raises(SafetensorError):
            deserialize(raw)
        with pytest.raises(ModelFileError):
            read_header(str(tmp_path / "x.safetensors"))
