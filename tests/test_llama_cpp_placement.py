"""Where llama.cpp puts things: options under its own names, layers on each device, and how real runs ended."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import fitcalc
from fitcalc.engines.llama_cpp_placement import HOST, overridden, overrides_of
from fitcalc.errors import RequestError

ROOT = Path(__file__).parents[1]


def _outcomes() -> Any:
    spec = importlib.util.spec_from_file_location("llama_outcomes", ROOT / "benchmarks/accuracy/llama_outcomes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OUTCOMES = _outcomes()
PUBLISHED = list(OUTCOMES.published())


def _fit(model: str = "mixtral-8x7b", gpu: str = "rtx-4090", quant: str = "q3_k_m", **options: Any) -> Any:
    return fitcalc.fit(
        model, gpu=gpu, ram="128GB", quant=quant, context=4096, engine="llama.cpp", engine_options=options
    )


def _bytes(report: Any, rank: int, name: str) -> int:
    return sum(term.bytes for term in report.devices[rank].terms if term.name == name)


def test_runs_end_as_computed_and_no_failed_run_is_called_fits() -> None:
    rows = OUTCOMES.measure()
    assert not [record["id"] for record, _, found, _, _ in rows if record["happened"] == "failed" and found == "fits"]
    assert not [record["id"] for record, *_, hit in rows if not hit and "reason" not in record]
    assert sum(hit for *_, hit in rows) >= 0.89 * len(rows)


def test_an_older_ollama_places_the_layers_that_its_log_lists() -> None:
    # ollama/ollama#10615 (10 and 27 of 41 layers), ollama/ollama#5913 (43 of 81).
    counts = {record["id"]: layers for record, _, _, layers, _ in OUTCOMES.measure()}
    assert (counts["lo-056"], counts["lo-057"], counts["lo-058"]) == (0, 37, 43)


@pytest.mark.parametrize(("row", "size", "told"), PUBLISHED, ids=[row["id"] for row, *_ in PUBLISHED])
def test_published_figures_are_reproduced_and_wrong_ones_are_not(row: dict[str, str], size: int, told: float) -> None:
    if row["basis"] == "wrong":
        assert abs(size / told - 1) > 0.02
    else:
        assert size == pytest.approx(told, rel=float(row["allowance"]))


@pytest.mark.parametrize(
    ("given", "alike"),
    [
        ({"cpu_moe": True}, {"n_cpu_moe": 32}),
        ({"ot": r"\.ffn_(up|down|gate)_exps=CPU"}, {"n_cpu_moe": 32}),
        ({"override_tensor": r"blk\.[0-4]\.ffn_.*_exps=CPU"}, {"ncmoe": 5}),
        ({"cache_type_k": "q8_0", "cache_type_v": "q8_0"}, {"type_k": "q8_0", "type_v": "q8_0"}),
        ({"ngl": 20}, {"n_gpu_layers": 20}),
    ],
)
def test_spellings_of_one_thing_give_one_ledger(given: dict[str, Any], alike: dict[str, Any]) -> None:
    for rank in (0, 1):
        for name in ("weights", "kv_cache"):
            assert _bytes(_fit(**given), rank, name) == _bytes(_fit(**alike), rank, name)


def test_a_pattern_can_send_a_tensor_to_a_card() -> None:
    moved = _fit(quant="q3_k_m", gpu="rtx-4090:2", override_tensor=r"^output\.weight=CUDA0", tensor_split="1,1")
    plain = _fit(quant="q3_k_m", gpu="rtx-4090:2", tensor_split="1,1")
    head = 32000 * 4096 * 210 // 256
    assert _bytes(moved, 0, "weights") - _bytes(plain, 0, "weights") == head


@pytest.mark.parametrize("text", ["foo", "=CPU", "x=CUDA1", "x=", "(((=CPU", "a=CPU,b", "x" * 500 + "=CPU"])
def test_an_override_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        overrides_of(text, 1)


def test_first_pattern_wins() -> None:
    patterns = overrides_of("attn=CPU,blk=CUDA1", 2)
    assert overridden(patterns, "blk.{layer}.attn_q.weight", 3) == HOST
    assert overridden(patterns, "blk.{layer}.ffn_up.weight", 3) == 1
    assert overridden(patterns, "output.weight", None) is None


def test_rows_of_matrices_are_shared_and_the_cache_stays_on_the_main_card() -> None:
    rows = _fit("llama-3.1-8b", "rtx-4090:2", "q4_k_m", split_mode="row", tensor_split="3,1", main_gpu=1)
    whole = _fit("llama-3.1-8b", "rtx-4090", "q4_k_m")
    assert _bytes(rows, 0, "kv_cache") == 0
    assert _bytes(rows, 1, "kv_cache") == _bytes(whole, 0, "kv_cache")
    total = _bytes(rows, 0, "weights") + _bytes(rows, 1, "weights")
    assert total == pytest.approx(_bytes(whole, 0, "weights"), rel=1e-3)
    assert _bytes(rows, 0, "weights") / total == pytest.approx(0.75, abs=0.002)


def test_main_gpu_takes_all_where_nothing_is_split() -> None:
    report = _fit("llama-3.1-8b", "rtx-4090:2", "q4_k_m", split_mode="none", main_gpu=1)
    assert report.devices[0].total_bytes == 0
    assert report.devices[1].layers.repeating == 32


@pytest.mark.parametrize("options", [{}, {"n_gpu_layers": 10}, {"n_cpu_moe": 7}, {"cpu_moe": True}])
def test_every_layer_and_every_expert_is_on_one_device(options: dict[str, Any]) -> None:
    shares = [device.layers for device in _fit(gpu="rtx-4090:2", **options).devices]
    assert sum(share.repeating for share in shares) == 32
    assert sum(share.experts for share in shares) == 32
    assert sum(share.output for share in shares) == 1


def test_towers_go_where_mmproj_offload_says() -> None:
    on_card = _fit("gemma-3-12b", "rtx-4090", "q4_k_m", mmproj=True)
    in_ram = _fit("gemma-3-12b", "rtx-4090", "q4_k_m", mmproj=True, mmproj_offload=False)
    assert _bytes(on_card, 0, "vision") == _bytes(in_ram, 1, "vision") > 0
    assert _bytes(on_card, 1, "vision") == _bytes(in_ram, 0, "vision") == 0
    assert "--no-mmproj-offload" in in_ram.recommendation.command


def test_without_flash_attention_the_scores_stand_once_more_in_16_bit() -> None:
    # 32 heads, 4096 cells, 512 tokens: the failure of ggml-org/llama.cpp#8766 comes from this in a full cache.
    report = _fit("llama-3.1-8b", "rtx-4090", "q4_k_m", flash_attn="off")
    assert _bytes(report, 0, "activations") == 2 * 512 * 4096 * 32
    assert _bytes(_fit("llama-3.1-8b", "rtx-4090", "q4_k_m"), 0, "activations") == 0


def test_another_split_is_found_where_the_one_by_free_memory_overruns_a_card() -> None:
    asked = {"gpu": ["rtx-3060-12gb", "gtx-1070"], "quant": "q4_k_m", "context": 8192, "engine": "llama.cpp"}
    found = fitcalc.fit("gemma-3-27b", **asked)
    words = found.recommendation.command.split()
    counts = words[words.index("-ts") + 1]
    assert found.verdict in ("fits", "tight")
    stated = fitcalc.fit("gemma-3-27b", engine_options={"tensor_split": counts}, **asked)
    assert [device.total_bytes for device in stated.devices] == [device.total_bytes for device in found.devices]
    by_memory = fitcalc.fit("gemma-3-27b", engine_options={"tensor_split": "11931,8092"}, **asked)
    assert by_memory.verdict == "does_not_fit"


def test_a_split_that_fits_is_left_alone() -> None:
    command = fitcalc.fit("llama-3.1-70b", gpu="rtx-3090:2", quant="q4_k_m", engine="llama.cpp").recommendation.command
    assert "-ts" not in command
