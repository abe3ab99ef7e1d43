"""The mmproj file: sizes that logs and libraries state, and the buffer of an image."""

from __future__ import annotations

import pytest

from fitcalc import catalog, fit
from fitcalc.errors import UnsupportedModelError
from fitcalc.formulas.mmproj import vision_buffer_bytes
from fitcalc.quantization import assign, total_bytes
from fitcalc.quantization.mmproj import has_towers, mmproj_bytes, mmproj_tensors, tower_widths
from fitcalc.units import GIB, MIB

TABLE = catalog.load_ggml()


def test_logged_model_buffer() -> None:
    """887.99 MiB: the BF16 projector of Qwen3.6-27B, whose tower and width Qwen3.5-27B shares."""
    assert round(mmproj_bytes(catalog.load_model("qwen3.5-27b"), TABLE, "bf16") / MIB, 2) == 887.99


def test_logged_tower() -> None:
    """769.3 MiB: the tower of Mistral Small 3.1 without its projector (ollama/ollama#10615)."""
    stored = mmproj_tensors(catalog.load_model("mistral-small-3.1-24b"), TABLE)
    tower = [entry for entry in stored if entry.tensor.part == "vision"]
    assert round(total_bytes(tower) / MIB, 1) == 769.3


@pytest.mark.parametrize(
    ("model", "published_gb", "digits"), [("gemma-3-4b", 3.3, 1), ("gemma-3-12b", 8.1, 1), ("gemma-3-27b", 17, 0)]
)
def test_published_sizes_with_the_projector(model: str, published_gb: float, digits: int) -> None:
    """Ollama's library: Gemma 3 in Q4_K_M with its projector in one file."""
    spec = catalog.load_model(model)
    whole = total_bytes(assign(spec, catalog.load_scheme("q4_k_m"))) + mmproj_bytes(spec, TABLE)
    assert whole / 1e9 == pytest.approx(published_gb, abs=0.06 if digits else 0.5)


def test_types() -> None:
    """Vectors and position tables in 32 bit; a convolution in 16 bit in an F16 file alone; rows of whole blocks."""
    for model in ("qwen2.5-vl-7b", "qwen3-vl-8b", "mistral-small-3.1-24b", "gemma-3-4b", "llava-1.5-7b"):
        spec = catalog.load_model(model)
        for file_type in ("f32", "f16", "bf16", "q8_0"):
            for entry in mmproj_tensors(spec, TABLE, file_type):
                kind, tensor = entry.format.id, entry.tensor
                if len(tensor.shape) == 1 or tensor.role == "position_embedding":
                    assert kind == "f32"
                elif tensor.role == "conv":
                    assert kind == ("f16" if file_type == "f16" and spec.model_type != "gemma3" else "f32")
                assert tensor.shape[-1] % entry.format.block_elems == 0 or tensor.role == "conv"
        assert mmproj_bytes(spec, TABLE, "f32") == 4 * sum(e.tensor.elems for e in mmproj_tensors(spec, TABLE))
        assert mmproj_bytes(spec, TABLE, "q8_0") < mmproj_bytes(spec, TABLE) < mmproj_bytes(spec, TABLE, "f32")


def test_a_type_that_is_none() -> None:
    with pytest.raises(UnsupportedModelError):
        mmproj_tensors(catalog.load_model("gemma-3-4b"), TABLE, "q4_k_m")


def test_models_without_towers() -> None:
    text = catalog.load_model("llama-3.1-8b")
    assert not has_towers(text)
    assert mmproj_bytes(text, TABLE) == 0
    assert tower_widths(text) == {}


def test_buffer_of_an_image() -> None:
    """248.1 MiB logged for Qwen3.6-27B with flash attention; 8.8 GiB for 110 × 110 patches of Pixtral without."""
    width = tower_widths(catalog.load_model("qwen3.5-27b")) | {"patches": 4096}
    assert vision_buffer_bytes(score_heads=0, **width) / MIB == pytest.approx(248.1, rel=0.03)
    width = tower_widths(catalog.load_model("mistral-small-3.1-24b")) | {"patches": 110 * 110}
    assert vision_buffer_bytes(score_heads=16, **width) / GIB == pytest.approx(8.8, rel=0.03)


def test_the_term_is_on_the_card() -> None:
    report = fit("gemma-3-4b", gpu="24GB", quant="q4_k_m", engine="llama.cpp", engine_options={"mmproj": True})
    term = next(term for term in report.devices[0].terms if term.name == "vision")
    size = mmproj_bytes(catalog.load_model("gemma-3-4b"), TABLE)
    assert size < term.low_bytes < term.bytes < term.high_bytes
    assert {item.name: item.value for item in term.inputs}["tensor_bytes"] == size
