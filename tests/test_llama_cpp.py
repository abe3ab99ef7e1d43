"""llama.cpp: its own buffers byte by byte, start-up log lines, closed forms, and the laws of the ledgers."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitcalc import catalog, engines, ledger, units
from fitcalc.engines import llama_cpp
from fitcalc.engines.base import DeviceLedger, most_requests
from fitcalc.engines.llama_cpp_ledgers import repacked_bytes
from fitcalc.errors import FitcalcError, RequestError, UnknownNameError
from fitcalc.quantization import assign, total_bytes
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB, MIB

ROOT = Path(__file__).parents[1]
LAW = settings(max_examples=25, deadline=None)


def _benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("llama_cpp_bench", ROOT / "benchmarks/accuracy/llama_cpp.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BENCH = _benchmark()
RECORDS = BENCH.read((ROOT / "tests/golden/llama_cpp_buffers.csv").read_text())
PROCESSOR = Device("cpu", "cpu", "x", "cpu", "custom", 512 * GIB, 512 * GIB, isa="AVX2")


def card(gib: int = 80, vendor: str = "nvidia", kind: Any = "gpu") -> Device:
    return Device("card", "card", vendor, kind, "custom", gib * GIB, gib * GIB)


def plan(
    model: str,
    quant: str = "fp16",
    cards: int = 1,
    engine: str = "llama.cpp",
    machine: Machine | None = None,
    kv: str = "",
    **options: Any,
) -> Any:
    where = machine or Machine((card(),) * cards, PROCESSOR, 512 * GIB)
    workload = Workload(4096, kv_dtype=kv, options=options)
    parts = catalog.load_model(model), catalog.load_scheme(quant), where, workload, catalog.load_engine(engine)
    assert llama_cpp.refusal(*parts) is None
    return llama_cpp.prepare(*parts)


def size(entry: DeviceLedger, name: str) -> int:
    return sum(int(term.bytes) for term in entry.terms if term.name == name)


def mib(entry: DeviceLedger, name: str) -> float:
    return size(entry, name) / MIB


# --- llama.cpp's own buffers ---


@pytest.mark.parametrize("model", sorted({record["model"] for record in RECORDS}))
def test_recorded_buffers(model: str) -> None:
    """Caches, state and weights to the byte, compute buffers within what the widths leave open."""
    for record in (record for record in RECORDS if record["model"] == model):
        found, reason = BENCH.plan_of(record)
        assert (reason is not None) == (record["buffers"] == "refused"), record
        if found is None:
            continue
        for quantity, entry, truth in BENCH.compare(record, found):
            if quantity == "cache":
                assert size(entry, "kv_cache") + size(entry, "state") == truth, record
            elif quantity == "weights" and model != BENCH.NATIVE_EXPERTS and record["mode"] != "real":
                assert size(entry, "weights") == truth, record
            elif quantity.endswith("compute"):
                partial = record["n_gpu_layers"] != "all" and found.cards
                assert size(entry, "compute_buffer") == pytest.approx(truth, rel=0.45 if partial else 0.17), record


def test_recorded_compute_buffers_are_mostly_met_exactly() -> None:
    errors = []
    for record in RECORDS:
        found, _ = BENCH.plan_of(record)
        for quantity, entry, truth in BENCH.compare(record, found) if found else ():
            if quantity.endswith("compute") and (record["n_gpu_layers"] == "all" or not found.cards):
                errors.append(abs(size(entry, "compute_buffer") / truth - 1))
    errors.sort()
    assert median(errors) <= 0.001
    assert errors[int(0.9 * len(errors))] <= 0.06


def test_recorded_repacked_copies() -> None:
    found = {
        (record["model"], record["weights"]): (repacked_bytes(BENCH.plan_of(record)[0]), BENCH.truth_of(record))
        for record in RECORDS
        if record["mode"] == "real" and record["repack"] == "1"
    }
    for ours, truth in found.values():
        assert ours == truth.get("CPU_REPACK", [0])[0]
    assert any(ours for ours, _ in found.values())


# --- log lines ---


@pytest.mark.parametrize("record", BENCH.log_records(), ids=lambda record: f"{record['model']}-{record['context']}")
def test_start_up_logs(record: dict[str, Any]) -> None:
    """Caches and state as logged, weights within 1 %, compute buffers within 5 %, except where the record says why."""
    for key, estimate, truth in BENCH.log_rows(record):
        name = key.rpartition(".")[2]
        if name in ("kv_cache", "state", "repacked"):
            assert estimate == pytest.approx(truth, rel=0.002), key
        elif name == "weights" and not (key.startswith("host") and record.get("note")):
            assert estimate == pytest.approx(truth, rel=0.01), key
        elif name == "compute_buffer" and not record.get("note"):
            assert estimate == pytest.approx(truth, rel=0.05), key


@pytest.mark.parametrize(
    ("model", "context", "logged_mib"),
    [
        ("llama-2-7b", 512, 70.5),
        ("llama-2-7b", 2048, 164.0),
        ("llama-2-7b", 4096, 296.0),
        ("llama-3.1-8b", 2048, 258.5),
        ("llama-3.1-8b", 4096, 296.0),
        ("llama-3.1-8b", 8192, 560.0),
    ],
)
def test_compute_buffers_of_2024(model: str, context: int, logged_mib: float) -> None:
    first, _ = llama_cpp.ledgers(plan(model, engine="llama.cpp-2024"), context, 1)
    assert mib(first, "compute_buffer") == pytest.approx(logged_mib, rel=1e-4)


def test_fitted_outputs_are_the_low_end() -> None:
    """Llama 3.1 8B at 8192: 258.5 MiB with logits for a whole batch, 116 where a server asks for one row per slot."""
    first, _ = llama_cpp.ledgers(plan("llama-3.1-8b"), 8192, 1)
    term = next(term for term in first.terms if term.name == "compute_buffer")
    assert term.bytes / MIB == pytest.approx(258.5, abs=0.1)
    assert term.low_bytes / MIB == pytest.approx(116 * 0.95, abs=0.5)
    few, _ = llama_cpp.ledgers(plan("llama-3.1-8b", n_outputs_max=1), 8192, 1)
    assert mib(few, "compute_buffer") == pytest.approx(116, abs=0.1)


def test_gpt_oss_with_four_slots_keeps_four_windows() -> None:
    """Logged: 65536 cells × 18 layers = 2304 MiB and 4 × 128 + 512 = 1024 cells × 18 layers = 36 MiB."""
    first, _ = llama_cpp.ledgers(plan("gpt-oss-120b", "mxfp4_moe", kv_unified=True), 65536, 4)
    assert mib(first, "kv_cache") == 2304 + 36


def test_gemma_3_27b_caches() -> None:
    first, host = llama_cpp.ledgers(plan("gemma-3-27b", "bf16"), 32768, 1)
    row = 2 * 16 * 128 * 2
    assert size(first, "kv_cache") == row * (10 * 32768 + 52 * (1024 + 512))
    assert size(host, "weights") == 2 * 262208 * 5376


# --- layers on several cards and on the host ---


@pytest.mark.parametrize(("flash", "first_mib", "last_mib", "host_mib"), [("off", 656, 688, 120), ("on", 172, 355, 72)])
def test_several_cards(flash: str, first_mib: int, last_mib: int, host_mib: int) -> None:
    entries = llama_cpp.ledgers(plan("llama-3.1-8b", cards=2, flash_attn=flash), 8192, 1)
    buffers = [mib(entry, "compute_buffer") for entry in entries]
    assert buffers == pytest.approx([first_mib, last_mib, host_mib], rel=0.005)


def test_equal_cards_take_equal_layers() -> None:
    found = plan("llama-3.1-8b", cards=4)
    assert [share.layers + share.has_output for share in found.cards] == [9, 8, 8, 8]
    assert [share.has_output for share in found.cards] == [False, False, False, True]


def test_unequal_cards_and_explicit_shares() -> None:
    mixed = Machine((card(24), card(12)), PROCESSOR, 512 * GIB)
    by_memory = plan("llama-3.1-8b", machine=mixed)
    assert [share.layers + share.has_output for share in by_memory.cards] == [22, 11]
    by_hand = plan("llama-3.1-8b", machine=mixed, tensor_split="1,2")
    assert [share.layers + share.has_output for share in by_hand.cards] == [11, 22]
    alone = plan("llama-3.1-8b", machine=mixed, split_mode="none")
    assert [share.layers + share.has_output for share in alone.cards] == [33, 0]


@pytest.mark.parametrize(("engine", "layers", "output"), [("llama.cpp", 9, True), ("llama.cpp-2024", 10, False)])
def test_which_layers_go_first(engine: str, layers: int, output: bool) -> None:
    """ngl 10: 9 layers and the output since the rule changed, 10 layers before."""
    found = plan("llama-3.1-8b", engine=engine, n_gpu_layers="10")
    assert (found.cards[0].layers, found.cards[0].has_output) == (layers, output)
    assert found.host.layers == 32 - layers


def test_output_matrix_is_fetched_when_no_layer_is_on_the_card() -> None:
    """Logged with 0 layers: 1260.5 MiB = 1002 of output matrix + 258.5."""
    found = plan("llama-3.1-8b", n_gpu_layers="0", flash_attn="off")
    first, _ = llama_cpp.ledgers(found, 2048, 1)
    assert mib(first, "compute_buffer") == pytest.approx(1260.5, rel=0.001)


def test_experts_in_ram() -> None:
    model = catalog.load_model("qwen3-30b-a3b")
    experts = sum(t.elems for t in model.tensors if t.role.startswith("expert_"))
    inside, outside = plan("qwen3-30b-a3b"), plan("qwen3-30b-a3b", n_cpu_moe="all")
    assert inside.cards[0].weights_bytes - outside.cards[0].weights_bytes == 2 * experts
    assert outside.host.weights_bytes - inside.host.weights_bytes == 2 * experts
    assert llama_cpp.offload_summary(outside) == "experts of 48 of 48 layers in RAM, the rest on the card"
    assert llama_cpp.offload_summary(inside) == ""


def test_cache_in_ram() -> None:
    first, host = llama_cpp.ledgers(plan("llama-3.1-8b", no_kv_offload=True), 8192, 1)
    assert size(first, "kv_cache") == 0
    assert mib(host, "kv_cache") == 1024


@pytest.mark.parametrize(("model", "quant", "gib"), [("llama-3.1-70b", "q4_k_m", 24), ("qwen3-30b-a3b", "q4_k_m", 12)])
def test_what_does_not_fit_goes_to_ram(model: str, quant: str, gib: int) -> None:
    """As much as fits stays on the card: one layer more would not."""
    whole = plan(model, quant, machine=Machine((card(gib),), PROCESSOR, 64 * GIB))
    part = llama_cpp.offloaded(whole, 8192, 1)
    assert part is not None

    def high(gpu_layers: int, experts: int) -> int:
        other = plan(model, quant, machine=whole.machine, n_gpu_layers=str(gpu_layers), n_cpu_moe=str(experts))
        first = llama_cpp.ledgers(other, 8192, 1)[0]
        return int(ledger.high_bytes(first.terms))

    layers, experts = part.rules.gpu_layers, part.rules.cpu_expert_layers
    assert high(layers, experts) <= gib * GIB
    assert high(*((layers, experts - 1) if experts else (layers + 1, 0))) > gib * GIB
    first, host = llama_cpp.ledgers(part, 8192, 1)
    assert host.decisive
    stored = total_bytes(assign(whole.model, whole.scheme, gguf=True))
    assert size(first, "weights") + size(host, "weights") == pytest.approx(stored, rel=1e-6)
    assert "RAM" in llama_cpp.offload_summary(part)


def test_fit_moves_only_what_has_to_move() -> None:
    machine = Machine((card(24),), PROCESSOR, 64 * GIB)
    fit = plan("llama-3.1-70b", "q4_k_m", machine=machine, n_gpu_layers="fit")
    by_hand = llama_cpp.offloaded(plan("llama-3.1-70b", "q4_k_m", machine=machine), 8192, 1)
    assert by_hand is not None
    assert llama_cpp.ledgers(fit, 8192, 1) == llama_cpp.ledgers(by_hand, 8192, 1)
    layers = sum(share.layers + share.has_output for share in by_hand.cards)
    assert f"-ngl {layers} " in llama_cpp.command(fit, 8192, 1)
    small = plan("llama-3.1-8b", "q4_k_m", machine=machine, n_gpu_layers="fit")
    assert llama_cpp.ledgers(small, 8192, 1) == llama_cpp.ledgers(
        plan("llama-3.1-8b", "q4_k_m", machine=machine), 8192, 1
    )


def test_nothing_to_move() -> None:
    apple = Machine((card(16, "apple", "unified"),), None, None)
    assert llama_cpp.offloaded(plan("llama-3.1-70b", "q4_k_m", machine=apple), 8192, 1) is None
    assert llama_cpp.offloaded(plan("llama-3.1-70b", "q4_k_m", n_gpu_layers="40"), 8192, 1) is None
    tiny = Machine((card(1),), PROCESSOR, 512 * GIB)
    assert llama_cpp.offloaded(plan("llama-3.1-70b", "fp16", machine=tiny), 131072, 1) is None


# --- kinds of devices ---


def test_shared_memory_holds_mapped_weights_once() -> None:
    """Metal maps the file; CUDA on shared memory copies, and a tied output matrix a second time."""
    stored = total_bytes(assign(catalog.load_model("gemma-3-27b"), catalog.load_scheme("q4_k_m"), gguf=True))
    apple = plan("gemma-3-27b", "q4_k_m", machine=Machine((card(36, "apple", "unified"),), None, None))
    (mapped,) = llama_cpp.ledgers(apple, 8192, 1)
    spark = plan("gemma-3-27b", "q4_k_m", machine=Machine((card(120, "nvidia", "unified"),), None, None))
    (copied,) = llama_cpp.ledgers(spark, 8192, 1)
    text = [entry for entry in apple.stored if entry.tensor.part == "text"]
    assert size(mapped, "weights") == total_bytes(text) <= stored
    embedding = 262208 * 5376 // 256 * 210
    assert size(copied, "weights") >= size(mapped, "weights") + embedding
    assert size(mapped, "cuda_context") == 0 < size(copied, "cuda_context")


def test_processor_alone() -> None:
    machine = Machine(
        (), catalog.load_device("raspberry-pi-5-8gb"), catalog.load_device("raspberry-pi-5-8gb").usable_bytes
    )
    found = plan("llama-3.1-8b", "q4_0", machine=machine)
    (entry,) = llama_cpp.ledgers(found, 4096, 1)
    # Logged on Graviton: 4437.82 MiB mapped, 3744 of them repacked.
    assert mib(entry, "weights") == pytest.approx(4437.82, abs=0.05)
    assert repacked_bytes(found) / MIB == pytest.approx(3744, abs=0.01)
    assert entry.id == "raspberry-pi-5-8gb"
    assert ledger.high_bytes(entry.terms) < entry.usable_bytes
    assert any("twice" in note for note in llama_cpp.notes(found))


def test_host_without_known_ram_decides_only_when_it_is_used() -> None:
    unknown = Machine((card(24),), None, None)
    *_, host = llama_cpp.ledgers(plan("llama-3.1-8b", machine=unknown), 4096, 1)
    assert not host.decisive
    assert host.usable_bytes is None
    *_, host = llama_cpp.ledgers(plan("llama-3.1-8b", machine=unknown, n_gpu_layers="20"), 4096, 1)
    assert host.decisive


def test_desktop_and_towers_are_terms() -> None:
    machine = Machine((card(80),), PROCESSOR, 512 * GIB, gpu_used_bytes=600 * MIB)
    first, _ = llama_cpp.ledgers(plan("gemma-3-27b", "q4_0", machine=machine, mmproj=True), 4096, 1)
    assert mib(first, "desktop") == 600
    towers = sum(t.elems for t in catalog.load_model("gemma-3-27b").tensors if t.part in ("vision", "projector"))
    assert size(first, "vision") > 2 * towers > 0


# --- words ---


def test_command_states_what_the_ledger_assumes() -> None:
    found = plan("llama-3.1-8b", "q4_k_m", kv="q8_0")
    command = llama_cpp.command(found, 5000, 3)
    words = command.split()
    value = dict(pairwise(words))
    assert words[0] == "llama-server"
    assert value["-c"] == str(3 * 5120)
    assert value["-np"] == "3"
    assert value["-ub"] == "512"
    assert value["-ngl"] == "99"
    assert value["-fa"] == "on"
    assert value["-ctk"] == value["-ctv"] == "q8_0"
    assert "--no-kv-unified" in words
    assert size(llama_cpp.ledgers(found, 5000, 3)[0], "kv_cache") == 3 * 5120 * 32 * 2 * 1024 * 34 // 32


def test_command_without_a_known_repository_has_a_visible_placeholder() -> None:
    found = plan("mpt-7b", "q4_0", cards=2, tensor_split="3,1", n_gpu_layers="20", mmap=False, no_kv_offload=True)
    words = llama_cpp.command(found, 2048, 1).split()
    assert any(word.startswith("<") and word.endswith("Q4_0.gguf>") for word in words)
    value = dict(pairwise(words))
    assert value["-ngl"] == "20"
    assert value["-ts"] == "3,1"
    assert {"--load-mode", "none", "-nkvo"} <= set(words)


def test_start_commands_name_only_files_that_are_there() -> None:
    known = catalog.load_model("llama-3.1-8b")
    repository = dict(known.quantized_repos)["gguf"]
    assert f" -hf {repository}:Q4_K_M " in llama_cpp.command(plan("llama-3.1-8b", "q4_k_m"), 4096, 1)
    for quant in ("bf16", "fp16", "iq3_s"):
        command = llama_cpp.command(plan("llama-3.1-8b", quant), 4096, 1)
        assert repository not in command
        assert ".gguf>" in command
    native = llama_cpp.command(plan("gpt-oss-20b", "mxfp4_moe"), 4096, 1)
    assert " -hf ggml-org/gpt-oss-20b-GGUF -c " in native


def test_start_command_leaves_out_what_the_ledger_does_not_count() -> None:
    """Towers that -hf would load by itself, and prompts that the server would keep in RAM."""
    text = llama_cpp.command(plan("gemma-3-27b", "q4_k_m"), 4096, 1)
    assert "--no-mmproj" in text.split()
    assert "--no-mmproj" not in llama_cpp.command(plan("gemma-3-27b", "q4_k_m", mmproj=True), 4096, 1)
    assert "--no-mmproj" not in llama_cpp.command(plan("llama-3.1-8b", "q4_k_m"), 4096, 1)
    assert "--cache-ram 0" in text
    old = llama_cpp.command(plan("llama-3.1-8b", "q4_k_m", engine="llama.cpp-2024"), 4096, 1)
    assert "--cache-ram" not in old


@pytest.mark.parametrize("engine", ["llama.cpp", "llama.cpp-2024", "ollama"])
def test_every_version_runs_gguf_and_16_bit(engine: str) -> None:
    profile, where = catalog.load_engine(engine), Machine((card(),), PROCESSOR, 512 * GIB)
    model = catalog.load_model("llama-3.1-8b")
    for quant in ("q4_k_m", "bf16"):
        assert engines.refusal(profile, catalog.load_scheme(quant), where, Workload(4096), model) is None
    assert engines.refusal(profile, catalog.load_scheme("awq"), where, Workload(4096), model)


@pytest.mark.parametrize(("engine", "limit"), [("llama.cpp", 256), ("llama.cpp-2024", None)])
def test_one_context_runs_so_many_requests(engine: str, limit: int | None) -> None:
    """LLAMA_MAX_SEQ; builds before it had no limit."""
    profile, where = catalog.load_engine(engine), Machine((card(),), PROCESSOR, 512 * GIB)
    parts = catalog.load_model("llama-3.1-8b"), catalog.load_scheme("q4_k_m"), where
    assert most_requests(profile) == limit
    assert llama_cpp.refusal(*parts, Workload(4096, 256), profile) is None
    reason = llama_cpp.refusal(*parts, Workload(4096, 257), profile)
    assert reason is None if limit is None else "256 requests" in str(reason)


def test_shared_memory_says_how_its_limit_is_raised() -> None:
    for device, words in (("apple-m2-8gb", "iogpu.wired_limit_mb"), ("ryzen-ai-max-395-128", "GTT")):
        found = catalog.load_device(device)
        said = llama_cpp.notes(plan("llama-3.2-1b", "q4_k_m", machine=Machine((found,), PROCESSOR, 8 * GIB)))
        assert sum(words in note for note in said) == 1
        assert not any("\n" in note for note in said)


def test_context_of_other_vendors_is_said_to_be_the_drivers() -> None:
    def note(device: Device) -> str:
        first = llama_cpp.ledgers(plan("llama-3.2-1b", machine=Machine((device,), PROCESSOR, 8 * GIB)), 4096, 1)[0]
        return next(term.note for term in first.terms if term.name == "cuda_context")

    assert "driver context" in note(card(vendor="amd"))
    assert "driver context" not in note(replace(card(), compute_capability="8.6"))


@pytest.mark.parametrize(
    ("model", "quant", "workload", "words"),
    [
        ("llama-3.1-8b", "q4_0", Workload(4096, kv_dtype="fp8"), "q8_0"),
        ("llama-3.1-8b", "q4_0", Workload(4096, tensor_parallel=2), "layers"),
        ("llama-3.1-8b", "q4_0", Workload(4096, options={"flash_attn": "off", "type_v": "q8_0"}), "flash"),
        ("llama-3.1-8b", "q4_0", Workload(4096, options={"split_mode": "tensor"}), "split_mode"),
        ("llama-3.1-8b", "q4_0", Workload(4096, options={"tensor_split": "1,1"}), "1 cards"),
        ("phi-2", "q4_0", Workload(4096, kv_dtype="q8_0"), "KV head"),
        ("deepseek-v2-lite", "q4_0", Workload(4096, options={"type_k": "q8_0", "type_v": "f16"}), "alike"),
        ("t5-3b", "fp16", Workload(512), "decoders"),
    ],
)
def test_refusals(model: str, quant: str, workload: Workload, words: str) -> None:
    machine = Machine((card(),), PROCESSOR, 512 * GIB)
    parts = catalog.load_model(model), catalog.load_scheme(quant), machine, workload, catalog.load_engine("llama.cpp")
    reason = llama_cpp.refusal(*parts)
    assert reason is not None
    assert words in reason


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"n_ubatch": 0}, RequestError),
        ({"n_gpu_layers": "many"}, RequestError),
        ({"flash_attn": "perhaps"}, RequestError),
        ({"type_k": "q9_9"}, UnknownNameError),
        ({"ubatch": 512}, UnknownNameError),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[FitcalcError]) -> None:
    with pytest.raises(error) as caught:
        plan("llama-3.1-8b", **options)
    assert caught.value.hint


# --- laws ---

MODELS = ("llama-3.1-8b", "gemma-2-9b", "mixtral-8x7b", "deepseek-v2-lite", "gpt-oss-20b", "mamba-130m", "falcon-7b")


@LAW
@given(
    model=st.sampled_from(MODELS),
    context=st.integers(1, 200_000),
    more=st.integers(0, 50_000),
    requests=st.integers(1, 16),
    cards=st.integers(0, 4),
    flash=st.sampled_from(["on", "off"]),
    unified=st.booleans(),
)
def test_more_never_takes_less(
    model: str, context: int, more: int, requests: int, cards: int, flash: str, unified: bool
) -> None:
    found = plan(model, cards=cards, flash_attn=flash, kv_unified=unified)
    here = llama_cpp.ledgers(found, context, requests)
    for small, large in zip(here, llama_cpp.ledgers(found, context + more, requests), strict=True):
        assert ledger.total_bytes(small.terms) <= ledger.total_bytes(large.terms)
    for small, large in zip(here, llama_cpp.ledgers(found, context, requests + 1), strict=True):
        # The micro-batch is rounded up to a multiple of the separate caches: 513 tokens for 3, 512 for 4.
        rounding = size(small, "compute_buffer") * requests // 512 + 1024 * requests
        assert ledger.total_bytes(small.terms) <= ledger.total_bytes(large.terms) + rounding
    for entry in here:
        assert all(0 <= term.low_bytes <= term.bytes <= term.high_bytes for term in entry.terms)


@LAW
@given(
    model=st.sampled_from(MODELS),
    quant=st.sampled_from(["fp16", "q8_0"]),
    cards=st.integers(1, 5),
    layers=st.integers(0, 60),
    experts=st.integers(0, 40),
)
def test_devices_share_the_whole(model: str, quant: str, cards: int, layers: int, experts: int) -> None:
    """Weights and cells over all devices are those of one, but for padded rows and copies of a tied matrix."""
    found = plan(model, quant, cards=cards, n_gpu_layers=str(layers), n_cpu_moe=str(experts))
    alone = plan(model, quant, cards=0)
    whole = total_bytes([entry for entry in found.stored if entry.tensor.part != "vision"])
    held = sum(share.weights_bytes for share in (*found.cards, found.host))
    tied = sum(share.head_bytes for share in found.cards) * found.model.tied_embeddings
    assert alone.host.weights_bytes == whole
    assert whole <= held <= whole * 1.02 + tied + 4096
    for name in ("layers", "cell_bytes", "window_cell_bytes", "conv_elems", "state_elems"):
        assert sum(getattr(s, name) for s in (*found.cards, found.host)) == getattr(alone.host, name)


@LAW
@given(context=st.integers(1, 3000), requests=st.integers(1, 8), unified=st.booleans())
def test_a_window_beyond_the_context_saves_nothing(context: int, requests: int, unified: bool) -> None:
    sizes = [
        llama_cpp.kv_cache_bytes(plan("gemma-2-9b", kv_unified=unified, swa_full=full), context, requests)
        for full in (True, False)
    ]
    assert sizes[0] == sizes[1]


@LAW
@given(
    model=st.sampled_from(MODELS),
    cards=st.integers(0, 3),
    layers=st.sampled_from(["", "0", "10"]),
    flash=st.sampled_from(["on", "off"]),
    contexts=st.lists(st.integers(1, 140_000), min_size=1, max_size=4),
    requests=st.lists(st.integers(1, 64), min_size=1, max_size=3),
)
def test_arrays_give_what_numbers_give(
    model: str, cards: int, layers: str, flash: str, contexts: list[int], requests: list[int]
) -> None:
    # Shares are stated: a number alone may be given another split where the one by free memory overruns a card.
    found = plan(model, cards=cards, n_gpu_layers=layers, flash_attn=flash, tensor_split=(1,) * cards)
    grid = np.array(contexts, dtype=np.int64)[:, None], np.array(requests, dtype=np.int64)[None, :]
    many = llama_cpp.ledgers(found, *grid)
    shape = (len(contexts), len(requests))
    for i, context in enumerate(contexts):
        for j, count in enumerate(requests):
            one = llama_cpp.ledgers(found, context, count)
            for single, array in zip(one, many, strict=True):
                for left, right in zip(single.terms, array.terms, strict=True):
                    for field in ("bytes", "low_bytes", "high_bytes"):
                        values = np.broadcast_to(np.asarray(getattr(right, field)), shape)
                        assert getattr(left, field) == values[i, j]


@LAW
@given(
    model=st.sampled_from(MODELS), cards=st.integers(0, 2), context=st.integers(1, 100_000), requests=st.integers(1, 9)
)
def test_formulas_say_what_was_computed(model: str, cards: int, context: int, requests: int) -> None:
    names = {name: getattr(units, name) for name in ("ceil_div", "least", "most", "round_up")}
    for entry in llama_cpp.ledgers(plan(model, "q4_0", cards=cards), context, requests):
        for term in entry.terms:
            inputs = {given_.name: given_.value for given_ in term.inputs}
            assert eval(term.formula, {"__builtins__": {}}, names | inputs) == term.bytes


@pytest.mark.parametrize("kv", ["fp16", "fp32", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"])
def test_cache_types(kv: str) -> None:
    """32 layers of 2 × 1024 elements, blocks of 32 in 34, 24, 22, 20 and 18 bytes."""
    block = {"fp16": 64, "fp32": 128, "q8_0": 34, "q5_1": 24, "q5_0": 22, "q4_1": 20, "q4_0": 18, "iq4_nl": 18}
    first, _ = llama_cpp.ledgers(plan("llama-3.1-8b", kv=kv), 4096, 1)
    assert size(first, "kv_cache") == 4096 * 32 * 2 * 1024 // 32 * block[kv]


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-next-80b-a3b", "deepseek-v3", "gemma-3-27b", "phi-3-mini-4k"])
def test_every_engine_profile_sizes_every_kind(model: str) -> None:
    for engine in ("llama.cpp", "llama.cpp-2024"):
        found = plan(model, "q4_0", engine=engine)
        first, _ = llama_cpp.ledgers(found, 4096, 2)
        assert size(first, "weights") > 0
        assert size(first, "kv_cache") > 0
        assert llama_cpp.pool(found, 4096, 2) is None
        assert llama_cpp.kv_cache_bytes(found, 4096, 2) == size(first, "kv_cache")


def test_latent_cache_of_2024_kept_every_head() -> None:
    """DeepSeek-V3 without latents: 128 heads × (192 + 128) elements per token and layer."""
    found = plan("deepseek-v3", "q4_0", engine="llama.cpp-2024")
    assert llama_cpp.kv_cache_bytes(found, 4096, 1) == 4096 * 61 * 128 * (192 + 128) * 2
