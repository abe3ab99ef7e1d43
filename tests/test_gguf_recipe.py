"""GGUF sizes: the recipe of llama-quantize against its own dry run, tensor type by tensor type, and published files."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitcalc import catalog
from fitcalc.errors import UnsupportedModelError
from fitcalc.quantization import assign, checkpoint_bytes, weights_bytes
from fitcalc.quantization.gguf_recipe import Recipe, more_bits, tensor_type
from fitcalc.quantization.gguf_tensors import assign_gguf, gguf_architecture, gguf_tensors
from fitcalc.quantization.stored import Stored, rows_and_cols, stored_bytes, total_bytes
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme, ggml_from_form

GOLDEN = Path(__file__).parent / "golden"
GGML = catalog.load_ggml()


def rows_of(name: str) -> list[dict[str, str]]:
    with open(GOLDEN / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


@cache
def model_of(profile: str, vocab: str) -> ModelSpec:
    """The catalogue's model, with the vocabulary rows of one file."""
    model = replace(catalog.load_model(profile), quant=None)
    if not vocab:
        return model
    rows = int(vocab)
    tensors = tuple(
        replace(t, shape=(rows, *t.shape[1:])) if t.role in ("embedding", "lm_head") else t for t in model.tensors
    )
    return replace(model, tensors=tensors, vocab=rows)


@cache
def scheme_of(quant: str) -> Scheme:
    return catalog.load_scheme({"F16": "fp16", "BF16": "bf16", "F32": "fp32"}.get(quant, quant.lower()))


def with_output_copy(scheme: Scheme, model: ModelSpec) -> Scheme:
    """An older converter wrote an output matrix for MPT too."""
    assert scheme.ggml is not None
    traits = replace(gguf_architecture(model, scheme), output_copy=True)
    known = MappingProxyType({**scheme.ggml.architectures, model.model_type: traits})
    return replace(scheme, ggml=replace(scheme.ggml, architectures=known))


def types_of(stored: tuple[Stored, ...]) -> dict[str, tuple[int, int]]:
    """Type -> (tensors, bytes)."""
    tensors: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for entry in stored:
        tensors[entry.format.id] += entry.repeats
        sizes[entry.format.id] += stored_bytes(entry)
    return {kind: (tensors[kind], sizes[kind]) for kind in tensors}


@pytest.mark.parametrize("name", sorted({row["model"] for row in rows_of("gguf_sizes.csv")}))
def test_every_file_type_against_the_quantizers_dry_run(name: str) -> None:
    rows = [row for row in rows_of("gguf_sizes.csv") if row["model"] == name]
    for row in rows:
        model, scheme = model_of(row["profile"], row["vocab"]), scheme_of(row["quant"])
        if name == "mpt-7b-dupout":
            scheme = with_output_copy(scheme, model)
        stored = assign_gguf(model, scheme, imatrix=row["imatrix"] == "yes", legacy=row["rules"] == "legacy")
        case = f"{name} {row['quant']} imatrix={row['imatrix']} {row['rules']}"
        assert total_bytes(stored) == int(row["tensor_bytes"]), case
        found = types_of(stored)
        for part in row["types"].split():
            kind, tensors, size = part.split(":")
            assert found[kind][1] == int(size), f"{case}: bytes in {kind}"
            if kind != "f32":  # expert biases are counted one by one here, stacked there
                assert found[kind][0] == int(tensors), f"{case}: tensors in {kind}"


def test_the_dry_runs_cover_every_file_type() -> None:
    covered = {row["quant"] for row in rows_of("gguf_sizes.csv")}
    recipes = {catalog.load_scheme(name).recipe for name in catalog.ids("quants")} - {"", "F32"}
    assert recipes == covered


@pytest.mark.parametrize("row", rows_of("gguf_published.csv"), ids=lambda row: f"{row['file']}-{row['quant']}")
def test_published_files(row: dict[str, str]) -> None:
    model, scheme = model_of(row["profile"], row["vocab"]), scheme_of(row["quant"])
    tensors = total_bytes(assign_gguf(model, scheme, legacy=row["rules"] == "legacy"))
    header = checkpoint_bytes(model, scheme) - weights_bytes(model, scheme)
    if row["unit"] == "GB":  # given to two digits
        published, slack = float(row["size"]) * 1e9, 0.005e9
    else:
        published, slack = float(row["size"]), 0.0
    allowed = float(row["allowance"] or 0.0002) * published + slack
    assert abs(tensors + header - published) <= allowed, row["reason"]
    if row["allowance"]:
        assert abs(tensors + header - published) > 0.0002 * published, "the allowance is not needed any more"


@pytest.mark.parametrize("model", ["llama-2-7b", "llama-3.1-8b", "qwen2.5-7b", "falcon-7b", "gemma-2-9b"])
def test_header_estimate(model: str) -> None:
    row = next(r for r in rows_of("gguf_sizes.csv") if r["model"] == model and r["quant"] == "Q4_K_M")
    spec, scheme = model_of(row["profile"], row["vocab"]), scheme_of("Q4_K_M")
    header = checkpoint_bytes(spec, scheme) - weights_bytes(spec, scheme)
    assert header == pytest.approx(int(row["header_bytes"]), rel=0.05)


# --- types ------------------------------------------------------------------------------------------------------------

BITS_PER_WEIGHT = {
    "q4_0": 4.5, "q4_1": 5.0, "q5_0": 5.5, "q5_1": 6.0, "q8_0": 8.5, "q2_K": 2.625, "q3_K": 3.4375, "q4_K": 4.5,
    "q5_K": 5.5, "q6_K": 6.5625, "iq1_s": 1.5625, "iq1_m": 1.75, "iq2_xxs": 2.0625, "iq2_xs": 2.3125, "iq2_s": 2.5625,
    "iq3_xxs": 3.0625, "iq3_s": 3.4375, "iq4_nl": 4.5, "iq4_xs": 4.25, "tq1_0": 1.6875, "tq2_0": 2.0625, "mxfp4": 4.25,
    "nvfp4": 4.5, "f16": 16.0, "bf16": 16.0, "f32": 32.0,
}  # fmt: skip


def test_bits_per_weight_of_every_type() -> None:
    derived = {name: kind.block_bytes * 8 / kind.block_elems for name, kind in GGML.types.items()}
    assert {name: derived[name] for name in BITS_PER_WEIGHT} == BITS_PER_WEIGHT


def test_type_numbers_are_unique_and_known() -> None:
    assert len(GGML.type_ids) == len(GGML.types)
    assert (GGML.type_ids[0], GGML.type_ids[1], GGML.type_ids[12], GGML.type_ids[39]) == ("f32", "f16", "q4_K", "mxfp4")


def test_one_architecture_per_model_type() -> None:
    form = catalog.read_toml(str(Path(catalog.packaged_folder()) / "ggml.toml"))
    listed = [name for table in form["architectures"].values() for name in table["model_types"]]
    assert len(listed) == len(set(listed)) == len(ggml_from_form(form).architectures)


@pytest.mark.oracle
def test_types_against_the_gguf_package() -> None:
    gguf = pytest.importorskip("gguf")
    for kind, (elems, size) in gguf.GGML_QUANT_SIZES.items():
        name = GGML.type_ids[int(kind)]
        if name == "q8_1":  # never stored; the package still counts its older layout
            continue
        assert (GGML.types[name].block_elems, GGML.types[name].block_bytes) == (elems, size), name


# --- layout -----------------------------------------------------------------------------------------------------------


def decoders() -> Iterator[ModelSpec]:
    for name in catalog.ids("models"):
        model = catalog.load_model(name)
        if model.model_type in GGML.architectures and not model.unknowns:
            yield model


def test_no_element_is_lost_or_made_on_the_way_to_gguf() -> None:
    """Every text parameter arrives once; only copied outputs, router biases and rope factors come on top."""
    scheme = scheme_of("Q4_K_M")
    for model in decoders():
        traits = gguf_architecture(model, scheme)
        made = gguf_tensors(model, traits)
        parts = ("text", "encoder", "other")
        expected = sum(t.elems for t in model.tensors if t.part in parts and not t.is_buffer)
        expected += sum(t.elems for t in model.tensors if t.part in parts and t.is_buffer and t.role == "router_bias")
        expected += sum(e.tensor.elems for e in made if e.tensor.name.startswith("rope_f"))
        if traits.output_copy and not any(t.role == "lm_head" for t in model.tensors):
            expected += sum(t.elems for t in model.tensors if t.role == "embedding")
        assert sum(entry.tensor.elems for entry in made) == expected, model.id


def test_every_recipe_runs_on_every_family_and_keeps_all_layers() -> None:
    schemes = [scheme_of(recipe) for recipe in ("Q2_K", "IQ3_XS", "Q4_K_M", "MXFP4_MOE", "BF16")]
    seen: set[str] = set()
    for model in decoders():
        if model.model_type in seen:
            continue
        seen.add(model.model_type)
        elements = set()
        for scheme in schemes:
            stored = assign(model, scheme, gguf=True)
            elements.add(sum(s.tensor.elems // s.tensor.repeats * s.repeats for s in stored))
            for entry in stored:
                cols = rows_and_cols(entry.tensor.shape)[1]
                assert cols % entry.format.block_elems == 0, f"{model.id}: {entry.tensor.name} in {entry.format.id}"
        assert len(elements) == 1, model.id
    assert len(seen) > 50


def test_a_family_that_llama_cpp_cannot_convert_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="converter does not know 'opt'") as caught:
        assign(catalog.load_model("opt-1.3b"), scheme_of("Q4_K_M"))
    assert caught.value.hint


def test_vision_towers_are_not_in_the_text_file() -> None:
    model = catalog.load_model("gemma-3-12b")
    assert not any(entry.tensor.part == "vision" for entry in assign(model, scheme_of("Q4_K_M")))


def test_prediction_layers_are_in_the_file_but_not_loaded() -> None:
    model = replace(catalog.load_model("glm-4.5-air"), quant=None)
    scheme = scheme_of("Q4_K_M")
    extra = checkpoint_bytes(model, scheme) - weights_bytes(model, scheme)
    mtp = sum(t.elems for t in model.tensors if t.part == "mtp")
    assert mtp * 4.5 / 8 < extra < mtp * 6.6 / 8 + 12_000_000


# --- rules ------------------------------------------------------------------------------------------------------------


@given(st.integers(8, 200))
def test_more_bits_takes_the_ends_and_a_third_of_the_middle(count: int) -> None:
    chosen = [index for index in range(count) if more_bits(index, count)]
    eighth = count // 8
    assert set(range(eighth)) <= set(chosen)
    assert set(range(7 * count // 8, count)) <= set(chosen)
    middle = [index for index in chosen if eighth <= index < 7 * count // 8]
    assert middle == list(range(eighth + 2, 7 * count // 8, 3))


FILE_TYPES = sorted({catalog.load_scheme(name).recipe for name in catalog.ids("quants")} - {"", "F32", "F16", "BF16"})
CATEGORIES = st.sampled_from(
    ["output", "embedding", "value", "qkv", "kv_b", "key", "query", "attention_output", "down", "gate_up", "other"]
)


@given(
    st.sampled_from(FILE_TYPES), CATEGORIES, st.integers(1, 40000), st.integers(0, 99), st.integers(0, 99),
    st.sampled_from(["llama", "falcon", "qwen2", "gemma3"]), st.sampled_from([0, 8, 128]), st.sampled_from([1, 4, 8]),
    st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_the_chosen_type_always_divides_the_row(
    file_type: str, category: str, cols: int, index: int, layer: int, arch: str, experts: int, shared: int,
    tied: bool, imatrix: bool, legacy: bool,
) -> None:  # fmt: skip
    default = scheme_of(file_type).weight.id
    recipe = Recipe(file_type, default, arch, 80, shared, experts, 80, tied, GGML.types, "", imatrix, legacy)
    chosen = tensor_type(recipe, category, cols, index, layer, stacked=experts > 0)  # type: ignore[arg-type]
    assert cols % GGML.types[chosen].block_elems == 0
    if cols % 32:
        assert chosen == "f16"


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [("q2_k", "q3_k_s"), ("q3_k_s", "q3_k_m"), ("q3_k_m", "q3_k_l"), ("q4_k_s", "q4_k_m"), ("q5_k_s", "q5_k_m"),
     ("q4_k_m", "q5_k_s"), ("q5_k_m", "q6_k"), ("q6_k", "q8_0"), ("q8_0", "bf16"), ("bf16", "fp32"),
     ("q4_k_m", "q4_k_l"), ("q6_k", "q6_k_l"), ("iq1_s", "iq1_m"), ("iq2_xxs", "iq2_xs"), ("iq3_xxs", "iq3_xs")],
)  # fmt: skip
def test_file_types_are_ordered_by_size(smaller: str, larger: str) -> None:
    for name in ("llama-3.1-8b", "mixtral-8x7b", "qwen3-8b"):
        model = catalog.load_model(name)
        low, high = (weights_bytes(model, catalog.load_scheme(quant), gguf=True) for quant in (smaller, larger))
        assert low < high, name
