"""Ollama: batch and card by its own rules, what it keeps free, layers in RAM, options by name, start commands."""

from __future__ import annotations

import subprocess
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitcalc import catalog, engines, fit, ledger
from fitcalc.engines import llama_cpp, ollama
from fitcalc.engines.llama_cpp_estimated import filled
from fitcalc.errors import RequestError, UnknownNameError
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.workload import Workload
from fitcalc.units import GIB, MIB

PROCESSOR = Device("cpu", "Processor", "intel", "cpu", "desktop", 128 * GIB, 120 * GIB, isa="AVX2")


def card(size_gib: float = 24, capability: str = "8.9", name: str = "card") -> Device:
    size = int(size_gib * GIB)
    return Device(name, "Card", "nvidia", "gpu", "consumer", size, size, compute_capability=capability)


def plan(
    model: str = "llama-3.1-8b", quant: str = "q4_k_m", *, engine: str = "ollama", cards: Any = None, **options: Any
) -> Any:
    machine = Machine((card(),) if cards is None else cards, PROCESSOR, 120 * GIB)
    spec, scheme, profile = catalog.load_model(model), catalog.load_scheme(quant), catalog.load_engine(engine)
    workload = Workload(8192, options=options)
    assert engines.refusal(profile, scheme, machine, workload, spec) is None
    return ollama.prepare(spec, scheme, machine, workload, profile)


def terms(prepared: Any, context: int = 8192, requests: int = 1, rank: int = 0) -> dict[str, int]:
    return {term.name: term.bytes for term in ollama.ledgers(prepared, context, requests)[rank].terms}


@pytest.mark.parametrize(
    ("context", "requests", "size_gib", "batch"),
    [
        # 4096 tokens and less: 512. Up to 32768: 1024. Above: 2048.
        (4096, 1, 24, 512),
        (4097, 1, 24, 1024),
        (4096, 2, 24, 1024),
        (32768, 1, 24, 1024),
        (32769, 1, 24, 2048),
        # Forecast of 4.6 GiB of file and 1 GiB of cache: over 75 % of 7 GiB, over 80 % of 8 with the surcharge.
        (8192, 1, 7, 512),
        (8192, 1, 7.9, 512),
        (8192, 1, 8.1, 1024),
        # 4.6 + 6 GiB: within 60 % of 18 GiB, not of 17; then 1024, which needs 75 %.
        (49152, 1, 18, 2048),
        (49152, 1, 17, 1024),
    ],
)
def test_batch_follows_context_and_memory(context: int, requests: int, size_gib: float, batch: int) -> None:
    assert ollama.batch_tokens(plan(cards=(card(size_gib),)), context, requests) == batch


def test_batch_without_flash_attention() -> None:
    """Cards without it: 512, on 8 GiB or less above 4096 tokens 256; a Tesla V100 (7.0) has it, a Jetson Xavier not."""
    assert ollama.batch_tokens(plan(cards=(card(8, "5.2"),)), 8192, 1) == 256
    assert ollama.batch_tokens(plan(cards=(card(8, "5.2"),)), 4096, 1) == 512
    assert ollama.batch_tokens(plan(cards=(card(12, "7.2"),)), 8192, 1) == 512
    assert ollama.batch_tokens(plan(cards=(card(24, "7.0"),)), 8192, 1) == 1024
    assert ollama.batch_tokens(plan(num_batch=128), 8192, 1) == 128
    assert ollama.batch_tokens(plan(engine="ollama-0.15"), 65536, 1) == 512


def test_the_rest_is_llama_cpp() -> None:
    """The same options by hand give the same terms, but for what Ollama keeps free."""
    prepared = plan()
    engine = catalog.load_engine("llama.cpp")
    same = Workload(8192, options={"n_batch": 1024, "n_ubatch": 1024})
    model, scheme = prepared.model, prepared.scheme
    by_hand = llama_cpp.prepare(model, scheme, prepared.machine, same, engine)
    expected = {term.name: term.bytes for term in llama_cpp.ledgers(by_hand, 8192, 1)[0].terms}
    assert terms(prepared) == expected | {"reserve": 1024 * MIB}
    assert ollama.kv_cache_bytes(prepared, 8192, 3) == 3 * 8192 * 131072


def test_reserve_goes_when_the_layers_are_placed_by_hand() -> None:
    assert terms(plan())["reserve"] == 1024 * MIB
    assert terms(plan(LLAMA_ARG_FIT_TARGET=256))["reserve"] == 256 * MIB
    assert "reserve" not in terms(plan(num_gpu="33"))
    old = plan(engine="ollama-0.15", OLLAMA_GPU_OVERHEAD=100 * MIB)
    # 457 MiB with the driver's context (256 MiB, typically) within.
    assert terms(old)["reserve"] == (457 - 256 + 100) * MIB


def test_one_card_where_the_forecast_fits() -> None:
    """80 % of a card's free memory; spread over all with OLLAMA_SCHED_SPREAD."""
    two = (card(24, name="first"), card(24, name="second"))
    assert "weights" not in terms(plan(cards=two), rank=1)
    assert "weights" in terms(plan(cards=two, OLLAMA_SCHED_SPREAD=True), rank=1)
    larger = (card(8, name="small"), card(24, name="large"))
    assert "weights" not in terms(plan(cards=larger), rank=0)
    # 4.6 + 16 GiB of forecast are more than 19.2.
    assert "weights" in terms(plan(cards=two), context=131072, rank=1)


def test_layers_that_do_not_fit_go_to_ram() -> None:
    prepared = plan(cards=(card(8),), num_gpu="fit")
    on_card, host = ollama.ledgers(prepared, 65536, 1)
    assert ledger.total_bytes(on_card.terms) <= 8 * GIB
    assert any(term.name == "kv_cache" for term in host.terms)
    written = ollama.command(prepared, 65536, 1)
    layers = int(written.split("PARAMETER num_gpu ")[1].split("'")[0])
    assert 0 < layers < 33


def test_older_versions_move_whole_layers() -> None:
    small = (card(16),)
    new = ollama.offload_summary(ollama.offloaded(plan("qwen3-30b-a3b", cards=small), 8192, 1))
    old_plan = plan("qwen3-30b-a3b", cards=small, engine="ollama-0.15")
    old = ollama.offload_summary(ollama.offloaded(old_plan, 8192, 1))
    assert "experts" in new
    assert "experts" not in old


def test_arrays_give_what_numbers_give() -> None:
    prepared = plan()
    contexts = np.array([1000, 8192, 40000], dtype=np.int64)
    whole = ollama.ledgers(prepared, contexts, 2)[0].terms
    for place, context in enumerate(contexts):
        for array, number in zip(whole, ollama.ledgers(prepared, int(context), 2)[0].terms, strict=True):
            assert int(np.broadcast_to(array.bytes, contexts.shape)[place]) == number.bytes, array.name


def test_a_family_that_runs_one_request() -> None:
    machine = Machine((card(80),), PROCESSOR, 120 * GIB)
    parts = catalog.load_scheme("q4_k_m"), machine
    model = catalog.load_model("qwen3-next-80b-a3b")
    reason = engines.refusal(catalog.load_engine("ollama"), *parts, Workload(4096, 2), model)
    assert "one request at a time" in str(reason)
    assert engines.refusal(catalog.load_engine("ollama"), *parts, Workload(4096, 1), model) is None


@pytest.mark.parametrize("given", ["num_gpu", "n_gpu_layers", "ngl"])
def test_options_by_either_name(given: str) -> None:
    assert "PARAMETER num_gpu 20" in ollama.command(plan(**{given: "20"}), 8192, 1)


def test_options_that_make_no_sense() -> None:
    with pytest.raises(UnknownNameError):
        plan(nonsense=1)
    with pytest.raises(RequestError):
        fit("llama-3.1-8b", gpu="24GB", quant="q4_k_m", engine="ollama", engine_options={"num_ctx": 4096}, context=8192)


@pytest.mark.parametrize(
    ("options", "kv", "size"), [({}, "f16", 2), ({"OLLAMA_KV_CACHE_TYPE": "q8_0"}, "q8_0", 34 / 32)]
)
def test_cache_type(options: dict[str, str], kv: str, size: float) -> None:
    prepared = plan(**options)
    assert terms(prepared)["kv_cache"] == 8192 * 32 * 2 * 1024 * size
    assert f"OLLAMA_KV_CACHE_TYPE={kv}" in ollama.command(prepared, 8192, 1)


def test_library_tag() -> None:
    """A tag of the library is run as it is; what it cannot say goes into a Modelfile."""
    lines = ollama.command(plan(), 8192, 2).splitlines()
    assert "OLLAMA_CONTEXT_LENGTH=8192" in lines[0]
    assert "OLLAMA_NUM_PARALLEL=2" in lines[0]
    assert lines[-1] == "ollama run llama3.1:8b-instruct-q4_K_M"
    assert "'FROM llama3.1:8b-instruct-q4_K_M'" in ollama.command(plan(num_batch=256), 8192, 1)


@pytest.mark.parametrize(
    ("model", "quant", "first"),
    [
        ("llama-3.1-8b", "q5_k_m", "FROM hf.co/"),
        ("llama-3.1-8b", "iq3_s", "FROM ./<"),
        ("gemma-3-4b", "bf16", "FROM ./<"),
    ],
)
def test_modelfile_is_written_by_a_shell(model: str, quant: str, first: str, tmp_path: Path) -> None:
    lines = ollama.command(plan(model, quant), 8192, 1).splitlines()
    assert all(len(line) <= 80 for line in lines)
    start = next(number for number, line in enumerate(lines) if line.startswith("printf"))
    # Indented as a report shows them.
    subprocess.run(["sh", "-c", indent("\n".join(lines[start:-2]), "    ")], cwd=tmp_path, check=True)
    written = (tmp_path / "Modelfile").read_text().splitlines()
    assert written[0].startswith(first)
    assert written[-1] == "PARAMETER num_ctx 8192"
    assert [line.split()[:2] for line in lines[-2:]] == [["ollama", "create"], ["ollama", "run"]]


def test_a_projector_comes_with_the_model() -> None:
    assert "vision" in terms(plan("gemma-3-4b"))
    assert "vision" not in terms(plan("gemma-3-4b", mmproj="off"))
    assert "FROM ./<mmproj-" in ollama.command(plan("gemma-3-4b", "bf16"), 8192, 1)


def test_every_tag_of_the_library_names_a_model_and_a_type() -> None:
    for engine in ("ollama", "ollama-0.15"):
        for model, tags in catalog.load_engine(engine).constants["library"].items():
            assert catalog.load_model(model).kind == "decoder"
            for quant, tag in tags.items():
                recipe = catalog.load_scheme(quant).recipe or quant
                assert recipe.lower().replace("f16", "fp16") in tag.lower().replace("fp16", "f16").replace(
                    "f16", "fp16"
                )


def test_reports_read_the_default_context() -> None:
    notes = fit("llama-3.1-8b", gpu="rtx-3060-12gb", quant="q4_k_m", engine="ollama").notes
    assert any("default here is a context of 4,096 tokens" in note for note in notes)
    notes = fit("llama-3.1-8b", gpu="rtx-4090", quant="q4_k_m", engine="ollama").notes
    assert any("32,768" in note for note in notes)


# --- layers by estimate -----------------------------------------------------------------------------------------------


def dealt(
    layer: int, graph: int, layers: int, head: int, free_bytes: tuple[int, ...], towers: int, least: int
) -> tuple[int, ...]:
    """The engine's own loop: cards in a list, from which those leave that are full."""
    used: dict[int, int] = {}
    cards: list[int] = []
    for rank, free in enumerate(free_bytes):
        own = 0 if cards else towers
        if free >= own + graph + least + 2 * layer:
            cards.append(rank)
            used[rank] = own + graph + least + layer
    counts = [0] * len(free_bytes)
    for number, size in enumerate([layer] * layers + [head]):
        while cards:
            rank = cards[number % len(cards)]
            if free_bytes[rank] > used[rank] + size:
                used[rank] += size
                counts[rank] += 1
                break
            cards.remove(rank)
    return tuple(counts)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 30)), min_size=1, max_size=6),
    layers=st.integers(1, 30),
    head=st.integers(0, 40),
    free_bytes=st.lists(st.integers(0, 200), min_size=1, max_size=5).map(tuple),
    towers=st.integers(0, 30),
    least=st.integers(0, 20),
)
def test_layers_go_round_the_cards_for_many_points_as_for_one(
    sizes: list[tuple[int, int]], layers: int, head: int, free_bytes: tuple[int, ...], towers: int, least: int
) -> None:
    fixed = (layers, head, free_bytes, towers, least)
    wanted = [dealt(layer, graph, *fixed) for layer, graph in sizes]
    assert [filled(layer, graph, *fixed) for layer, graph in sizes] == wanted
    together = filled(*(np.array(column) for column in zip(*sizes, strict=True)), *fixed)
    assert [tuple(counts) for counts in zip(*(column.tolist() for column in together), strict=True)] == wanted
