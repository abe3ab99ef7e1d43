"""Transformers: peaks and end states of published tables, closed forms of the cache, devices and the host, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitcalc import catalog, engines, ledger
from fitcalc.engines import transformers
from fitcalc.quantization import assign
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB

SIZE = 80 * GIB
CARD = Device("card", "Card 80GB", "nvidia", "gpu", "datacenter", SIZE, SIZE, compute_capability="8.0")
HOST = Device("host", "Some CPU", "amd", "cpu", "server", 64 * GIB, 62 * GIB)


def plan(model: str | ModelSpec, scheme: str, machine: Machine | None = None) -> Any:
    spec = catalog.load_model(model) if isinstance(model, str) else model
    profile = catalog.load_engine("transformers")
    return transformers.prepare(spec, catalog.load_scheme(scheme), machine or Machine((CARD,)), Workload(8192), profile)


def terms(prepared: Any, context: int = 8192, requests: int = 1, place: int = 0) -> dict[str, ledger.Term]:
    return {term.name: term for term in transformers.ledgers(prepared, context, requests)[place].terms}


@pytest.mark.parametrize(
    ("model", "scheme", "prompt", "peak_gib"),
    [
        # QwenLM/Qwen3 docs, speed benchmark of Qwen2.5: batch 1, 2048 tokens generated, flash attention, A100 80GB
        ("qwen2.5-0.5b", "bf16", 30720, 2.34),
        ("qwen2.5-7b", "bf16", 1, 14.38),
        ("qwen2.5-7b", "bf16", 14336, 16.91),
        ("qwen2.5-7b", "gptq", 1, 5.52),
        ("qwen2.5-7b", "awq", 6144, 6.39),
        ("qwen2.5-14b", "gptq-8bit", 6144, 17.61),
        ("qwen2.5-32b", "bf16", 30720, 74.47),
        ("qwen2.5-32b", "awq", 1, 18.67),
        ("qwen2.5-72b", "gptq", 14336, 46.86),
    ],
)
def test_published_peaks(model: str, scheme: str, prompt: int, peak_gib: float) -> None:
    prepared = plan(model, scheme)
    held = terms(prepared, prompt + 2048)
    peak = held["weights"].bytes + held["kv_cache"].bytes + transformers.activations(prepared, prompt, 1).bytes
    assert peak / GIB == pytest.approx(peak_gib, rel=0.02)


def test_16_bit_weights_are_the_parameters() -> None:
    """Two bytes for every parameter, a tied head once."""
    for model in ("llama-3.1-8b", "llama-3.2-1b", "qwen2.5-7b"):
        assert terms(plan(model, "bf16"))["weights"].bytes == 2 * catalog.load_model(model).params_total


def test_fp8_exports_of_tied_models_hold_the_head_again() -> None:
    """Qwen3-0.6B-FP8 uses 1.188 GiB where 0.6 B parameters in 8 bit with a tied head would take 0.9."""
    held = terms(plan("qwen3-0.6b", "fp8-block"), 2049)
    assert (held["weights"].bytes + held["kv_cache"].bytes) / GIB == pytest.approx(1.188, rel=0.03)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200_000), st.integers(1, 64))
def test_cache_of_plain_and_windowed_layers(context: int, requests: int) -> None:
    """Llama-3.1-8B: 128 KiB per token; Gemma-3-27B: 10 full layers and 52 with a window of 1024, 16 heads of 128."""
    assert transformers.kv_cache_bytes(plan("llama-3.1-8b", "bf16"), context, requests) == 131072 * context * requests
    per_layer = 2 * 16 * 128 * 2
    expected = per_layer * (10 * context + 52 * min(context, 1024)) * requests
    assert transformers.kv_cache_bytes(plan("gemma-3-27b", "bf16"), context, requests) == expected


def test_latent_state_and_cross_caches() -> None:
    assert transformers.kv_cache_bytes(plan("deepseek-v3", "fp8-block"), 8192, 1) == 61 * 576 * 2 * 8192
    mamba = plan("mamba-2.8b", "fp16")
    assert transformers.kv_cache_bytes(mamba, 8192, 1) == 0
    assert terms(mamba, 8192)["state"].bytes == terms(mamba, 16)["state"].bytes > 0
    whisper = plan("whisper-large-v3", "fp16")
    assert transformers.kv_cache_bytes(whisper, 448, 1) == 32 * 2 * 1280 * 2 * (448 + 1500)


@pytest.mark.parametrize("cards", [2, 3, 8])
def test_cards_share_the_layers(cards: int) -> None:
    model = catalog.load_model("llama-3.1-70b")
    prepared = plan(model, "bf16", Machine((CARD,) * cards))
    entries = transformers.ledgers(prepared, 8192, 2)
    weights = [next(term for term in entry.terms if term.name == "weights") for entry in entries]
    assert sum(term.bytes for term in weights) == 2 * model.params_total
    assert all(term.low_bytes < term.bytes < term.high_bytes for term in weights)
    cached = sum(term.bytes for entry in entries for term in entry.terms if term.name == "kv_cache")
    assert cached == transformers.kv_cache_bytes(prepared, 8192, 2)


def test_without_a_gpu_all_lies_in_ram() -> None:
    prepared = plan("llama-3.2-1b", "bf16", Machine((), HOST, 62 * GIB))
    entry = transformers.ledgers(prepared, 4096, 1)[0]
    assert (entry.id, entry.usable_bytes, entry.capacity_bytes) == ("host", 62 * GIB, 64 * GIB)
    assert {term.name for term in entry.terms} == {"weights", "kv_cache", "activations", "runtime"}
    assert transformers.pool(prepared, 4096, 1) is None


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(("llama-3.1-8b", "gemma-3-27b", "qwen3-next-80b-a3b", "t5-base")), st.data())
def test_arrays_and_numbers_agree_and_grow(model: str, data: st.DataObject) -> None:
    prepared = plan(model, "bf16", Machine((CARD, CARD)))
    contexts = np.array(sorted(data.draw(st.sets(st.integers(1, 200_000), min_size=3, max_size=3))))[:, None]
    requests = np.array([1, 2, 9])[None, :]
    for many, place in zip(transformers.ledgers(prepared, contexts, requests), (0, 1), strict=True):
        total = np.broadcast_to(ledger.total_bytes(many.terms), (3, 3))
        assert (np.diff(total, axis=0) >= 0).all()
        assert (np.diff(total, axis=1) > 0).all()
        for row, column in np.ndindex(3, 3):
            one = transformers.ledgers(prepared, int(contexts[row, 0]), int(requests[0, column]))[place]
            assert ledger.total_bytes(one.terms) == total[row, column]
            assert all(term.low_bytes <= term.bytes <= term.high_bytes for term in one.terms)


def test_formula_texts_of_terms_evaluate_to_their_bytes() -> None:
    from test_formulas import evaluate

    for term in terms(plan("gemma-3-27b", "awq"), 8192, 3).values():
        if term.formula:
            assert evaluate(term.formula, {item.name: item.value for item in term.inputs}) == term.bytes, term.name


def test_measured_context_of_a_card_is_used() -> None:
    known = replace(CARD, context_bytes=256 * 2**20)
    assert terms(plan("llama-3.2-1b", "bf16", Machine((known,))))["cuda_context"].bytes == 256 * 2**20
    spread = terms(plan("llama-3.2-1b", "bf16"))["cuda_context"]
    assert spread.low_bytes < spread.bytes < spread.high_bytes
    others = terms(plan("llama-3.2-1b", "bf16", Machine((CARD,), gpu_used_bytes=GIB)))
    assert others["desktop"].bytes == GIB


def test_refusals() -> None:
    profile, model = catalog.load_engine("transformers"), catalog.load_model("llama-3.2-1b")

    def reason(scheme: str, machine: Machine, **more: Any) -> str:
        work = Workload(8192, **more)
        return engines.refusal(profile, catalog.load_scheme(scheme), machine, work, model) or ""

    two = Machine((CARD, CARD))
    assert reason("bf16", two) == ""
    assert "tensor parallelism" in reason("bf16", two, tensor_parallel=2)
    assert "leave the pipeline degree out" in reason("bf16", two, pipeline_parallel=3)
    assert reason("bf16", two, pipeline_parallel=2) == ""
    assert "needs a GPU" in reason("awq", Machine((), HOST, 62 * GIB))
    assert "fewer layers" in reason("bf16", Machine((CARD,) * 17))
    assert "does not run" in reason("q4_k_m", two)
    # It has no kernels for weights in 8 bit and compute in 16: it would widen them.
    assert "to 16 bit below compute capability 8.9" in reason("fp8", two)
    assert reason("fp8", Machine((replace(CARD, compute_capability="8.9"),))) == ""
    assert reason("awq", two) == ""


def test_commands() -> None:
    base = replace(catalog.load_model("llama-3.1-8b"), quantized_repos=())
    plain = transformers.command(plan(base, "bf16"), 4096, 1)
    assert f'AutoModelForCausalLM.from_pretrained("{base.hf_repo}", device_map="auto", dtype=torch.bfloat16)' in plain
    assert "max_length = 4096" in plain
    compiled = compile(plain.split("'", 1)[1].rsplit("'", 1)[0], "command", "exec")
    assert "model" in compiled.co_names
    assert "<a-GPTQ-repository-of-Llama-3.1-8B>" in transformers.command(plan(base, "gptq"), 4096, 1)
    four_bit = transformers.command(plan(base, "bnb-nf4"), 4096, 1)
    assert "BitsAndBytesConfig(load_in_4bit=True" in four_bit
    assert base.hf_repo in four_bit
    cpu = transformers.command(plan(base, "bf16", Machine((), HOST, 62 * GIB)), 4096, 1)
    assert 'device_map="cpu"' in cpu
    assert len(transformers.notes(plan(base, "bf16", Machine((CARD, CARD))))) == 2


@pytest.mark.parametrize(
    ("model", "name", "generates"),
    [
        ("whisper-tiny", "AutoModelForSpeechSeq2Seq", True),
        ("t5-small", "AutoModelForSeq2SeqLM", True),
        ("bert-base", "AutoModel", False),
        ("llama-3.2-1b", "AutoModelForCausalLM", True),
    ],
)
def test_classes_of_kinds(model: str, name: str, generates: bool) -> None:
    command = transformers.command(plan(model, "fp32"), 448, 1)
    assert f" {name}.from_pretrained(" in command
    assert ("generation_config" in command) == generates
    compile(command.split("'", 1)[1].rsplit("'", 1)[0], "command", "exec")


def test_file_format_counts() -> None:
    """Transformers keeps what the file holds: GPTQ's zero points and group index are not dropped."""
    model, scheme = catalog.load_model("llama-3.1-8b"), catalog.load_scheme("gptq")
    dropped = sum(entry.file_format != entry.format for entry in assign(model, scheme))
    assert dropped
    from fitcalc.engines import vllm

    served = vllm.prepare(model, scheme, Machine((CARD,)), Workload(8192), catalog.load_engine("vllm"))
    assert terms(plan(model, "gptq"))["weights"].bytes > served.stages[0].weights.tensor_bytes
