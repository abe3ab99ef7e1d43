"""Sweeps: every point equals what `fit` answers, files survive interruption, memory stays bounded, executors agree."""

from __future__ import annotations

import pickle
import tracemalloc
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fitcalc
from fitcalc import catalog
from fitcalc.cli import run
from fitcalc.errors import FitcalcError, RequestError, UnknownNameError
from fitcalc.grids.chunks import COLUMNS
from fitcalc.grids.points import MEMORY_COLUMNS, TERM_COLUMNS
from fitcalc.grids.sweep import Sweep
from fitcalc.grids.watched import LARGEST, stays_within

SMALL: dict[str, Any] = {
    "devices": ["a100-80", "rtx-3060"],
    "quants": ["native", "awq", "q4_k_m"],
    "contexts": [512, 4096, "32k"],
    "concurrencies": [1, 7, 64],
}
MODELS = (
    "llama-3.1-8b", "gemma-3-27b", "deepseek-v3", "qwen3-30b-a3b", "mamba-2.8b", "mistral-7b-v0.1", "gpt-oss-20b",
    "jamba-v0.1", "llama-4-scout", "bert-base", "t5-base", "whisper-large-v3", "qwen3-next-80b-a3b", "llama-3.1-70b",
)  # fmt: skip
QUANTS = ("native", "bf16", "fp8", "awq", "gptq", "bnb-nf4", "q4_k_m", "q8_0", "iq4_xs", "mxfp4", "int8", "w4a16")
DEVICES: tuple[Any, ...] = (
    "a100-80", "rtx-4090", "rtx-4090:2", "h100-sxm:8", "rtx-3060", "raspberry-pi-5-8gb", "24GB", "rtx-3090 + rtx-3060",
    {"gpu": "rtx-4090", "ram": "64GB"}, {"gpu": "rtx-3060", "gpu_used": "1GiB"},
)  # fmt: skip


def known(kind: str, names: tuple[str, ...]) -> list[str]:
    """Those that the catalogue has, as aliases too."""
    return [name for name in names if name == "native" or is_known(kind, name)]


def is_known(kind: str, name: str) -> bool:
    try:
        return bool(catalog.resolve(kind, name))
    except UnknownNameError:
        return False


@pytest.fixture(scope="module")
def small() -> Sweep:
    return fitcalc.sweep("llama-3.1-8b", **SMALL)


# --- one formula ------------------------------------------------------------------------------------------------------


def asked(device: Any) -> dict[str, Any]:
    if isinstance(device, dict):
        return dict(device)
    names = [name.strip() for name in device.split("+")]
    return {"cpu": device} if device.startswith("raspberry") else {"gpu": names}


def same_as_fit(record: dict[str, Any], device: Any, quant: str, engine: str | None, kv_dtype: str | None) -> None:
    spec, words = fitcalc.load_model(record["model"]), ""
    own = spec.quant.scheme if spec.quant else spec.dtype
    try:
        report = fitcalc.fit(
            spec, quant=own if quant == "native" else quant, engine=engine, context=record["context"],
            concurrency=record["concurrency"], kv_dtype=kv_dtype, **asked(device),
        )  # fmt: skip
    except FitcalcError as error:
        words = f"{error}; {error.hint}"
    if words:
        assert record["refusal"], record
        assert record["refusal"] in words
        assert record["total_bytes"] is None
        return
    assert not record["refusal"], record
    assert record["verdict"] == report.verdict
    assert record["fits"] == (report.verdict in ("fits", "tight"))
    assert record["engine"] == report.inputs["engine"]
    assert record["quant"] == report.inputs["quant"]
    assert record["tensor_parallel"] == report.inputs["tensor_parallel"]
    assert record["weights_bytes"] == report.weights_bytes
    assert record["kv_cache_bytes"] == report.kv_cache.bytes
    deciding = [entry for entry in report.devices if entry.decisive]
    if all(entry.headroom_bytes is not None for entry in deciding):
        tightest = min(deciding, key=lambda entry: entry.headroom_bytes)
        assert record["headroom_bytes"] == tightest.headroom_bytes
        for name, column in (("total_bytes",) * 2, ("high_bytes",) * 2, ("usable_bytes",) * 2):
            assert record[column] == getattr(tightest, name), column
        for name, column in TERM_COLUMNS.items():
            assert record[column] == sum(term.bytes for term in tightest.terms if term.name == name), column
    assert record["max_context_tokens"] == report.limits.max_context_tokens
    assert record["max_concurrency"] == report.limits.max_concurrency
    for name in ("decode_tokens_per_s", "total_tokens_per_s", "time_to_first_token_s"):
        figure = getattr(report.speed, name)
        for end, column in (("estimate", name), ("low", f"{name}_low"), ("high", f"{name}_high")):
            expected = None if figure is None else pytest.approx(getattr(figure, end), rel=1e-9)
            assert record[column] == expected, column


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    model=st.sampled_from(known("model", MODELS)),
    quant=st.sampled_from(known("quant", QUANTS)),
    device=st.sampled_from(DEVICES),
    engine=st.sampled_from([None, *catalog.ids("engines")]),
    kv_dtype=st.sampled_from([None, None, "fp8", "q8_0"]),
    contexts=st.lists(st.integers(1, 200_000), min_size=1, max_size=2, unique=True),
    concurrencies=st.lists(st.integers(1, 600), min_size=1, max_size=2, unique=True),
)
def test_every_point_is_what_fit_answers(
    model: str, quant: str, device: Any, engine: str | None, kv_dtype: str | None, contexts: list[int],
    concurrencies: list[int],
) -> None:  # fmt: skip
    found = fitcalc.sweep(
        model, devices=[device], quants=quant, engines=engine, kv_dtypes=kv_dtype, contexts=contexts,
        concurrencies=concurrencies,
    )  # fmt: skip
    points = found.to_records()
    assert len(points) == len(contexts) * len(concurrencies)
    for record in points:
        same_as_fit(record, device, quant, engine, kv_dtype)


@pytest.mark.parametrize("engine", [name for name in catalog.ids("engines") if name != "diffusers"])
def test_every_engine_is_swept_as_it_is_asked(engine: str) -> None:
    quant = "q4_k_m" if "gguf" in catalog.load_engine(engine).quant_kinds else "bf16"
    apple = next(name for name in catalog.ids("gpus") if name.startswith("apple"))
    device = apple if "mlx" in engine else "a100-80"
    found = fitcalc.sweep(
        "llama-3.1-8b", devices=device, quants=quant, engines=engine, contexts=[8192, 100], concurrencies=[3, 1]
    )
    for record in found.records():
        same_as_fit(record, device, quant, engine, None)
    assert any(not record["refusal"] for record in found.records())


@pytest.mark.parametrize(
    ("model", "quant", "engine", "device", "contexts", "concurrencies", "kv_dtype"),
    [
        # Which memory decides changes along the contexts: an end where it has no size says nothing of the others.
        ("qwen2.5-14b", "iq4_nl", "ollama-2025", "rtx-3090 + rtx-3060", [160_000, 68_000, 1000], [1], None),
        ("deepseek-coder-v2-lite", "q2_k", "ollama-2025", {"gpu": "rtx-3080-10gb:2", "gpu_used": "1GiB"},
         [80_848, 2], [4, 256], None),
        # Refused for different reasons, and more requests than another number of them.
        ("starcoderbase-1b", "iq2_xs", "ollama-2025", "rtx-4090", [8191], [300, 257, 255], "int8"),
        ("mpt-30b", "q2_k_s", None, "a100-80", [511], [4096, 255, 300, 2], "q8_0"),
        # The words for a KV type that engines of other quantizations lack, for divisions, for accelerators.
        ("qwen3-8b", "awq", None, "v100-16-pcie:8", [512], [1], "nonsense"),
        ("mistral-small-3.2-24b", "q8_0", None, "dgx-h100:4", [512], [1], "nonsense"),
        ("llama-4-scout", "w4a16", "tgi", "gaudi3", [512], [1], None),
    ],
)  # fmt: skip
def test_points_that_once_differed(
    model: str, quant: str, engine: str | None, device: Any, contexts: list[int], concurrencies: list[int],
    kv_dtype: str | None,
) -> None:  # fmt: skip
    found = fitcalc.sweep(
        model, devices=[device], quants=quant, engines=engine, contexts=contexts, concurrencies=concurrencies,
        kv_dtypes=kv_dtype,
    )  # fmt: skip
    for record in found.records():
        same_as_fit(record, device, quant, engine, kv_dtype)


def test_more_requests_than_an_engine_takes_are_masked_beside_those_it_takes() -> None:
    found = fitcalc.sweep(
        "llama-3.1-8b", devices="rtx-4090", quants="q4_k_m", contexts=256, concurrencies=[300, 1, 256, 257]
    )
    assert found.columns["total_bytes"].mask.ravel().tolist() == [True, False, False, True]
    assert found.columns["reason"].ravel().tolist() == [1, 0, 0, 1]
    assert [bool(record["refusal"]) for record in found.records()] == [True, False, False, True]


# --- overflow ---------------------------------------------------------------------------------------------------------


def test_numbers_beyond_64_bits_are_refused_before_they_are_computed() -> None:
    found = fitcalc.sweep("llama-3.1-70b", devices="a100-80", quants="awq", contexts=2**31, concurrencies=2**20)
    (record,) = found.records()
    assert record["total_bytes"] is None
    assert "64 bits" in record["refusal"]
    assert found.reasons[int(found.columns["reason"].ravel()[0])] == "too_large"


@given(st.integers(1, 2**40), st.integers(1, 2**40))
def test_the_watch_sees_every_number_on_the_way(first: int, second: int) -> None:
    peak = first * second * 3
    assert stays_within(lambda a, b: (a * b * 3) // (a * b) - b, first, second) == (peak < LARGEST)


# --- the object -------------------------------------------------------------------------------------------------------


def test_axes_name_the_shape_and_refusals_are_masked(small: Sweep) -> None:
    assert list(small.axes) == [
        "model", "quant", "engine", "device", "tensor_parallel", "kv_dtype", "context", "concurrency",
    ]  # fmt: skip
    assert small.shape == tuple(len(values) for values in small.axes.values())
    total = small.columns["total_bytes"]
    assert total.shape == small.shape
    # GGUF is nothing that vLLM runs, but llama.cpp runs it on both; nothing is refused but what has no engine.
    assert int(total.mask.sum()) == sum(bool(record["refusal"]) for record in small.records())
    assert set(small.columns) == set(COLUMNS)


def test_terms_add_up_and_headroom_is_what_is_left(small: Sweep) -> None:
    columns = {name: small.columns[name] for name in MEMORY_COLUMNS}
    assert (sum(columns[name] for name in TERM_COLUMNS.values()) == columns["total_bytes"]).all()
    assert (columns["usable_bytes"] - columns["total_bytes"] == columns["headroom_bytes"]).all()
    assert ((columns["headroom_bytes"] >= 0) == columns["fits"]).all()


def test_where_keeps_what_meets_it(small: Sweep) -> None:
    every = small.to_records()
    fitting = small.where(verdict=["fits", "tight"], context=4096)
    wanted = [record for record in every if record["fits"] and record["context"] == 4096]
    assert fitting.to_records() == wanted
    roomy = small.where(lambda columns: columns["headroom_bytes"] > 2**33)
    assert roomy.to_records() == [record for record in every if (record["headroom_bytes"] or 0) > 2**33]
    with pytest.raises(RequestError, match="no column or axis"):
        small.where(colour="red")


def test_best_is_the_smallest_or_largest_of_every_group(small: Sweep) -> None:
    every = [record for record in small.records() if record["fits"]]
    (fastest,) = small.best("-total_tokens_per_s", subject_to={"fits": True})
    assert fastest["total_tokens_per_s"] == max(record["total_tokens_per_s"] for record in every)
    cheapest = small.best("total_bytes", subject_to=lambda columns: columns["fits"], per=["device", "concurrency"])
    for found in cheapest:
        group = [r for r in every if (r["device"], r["concurrency"]) == (found["device"], found["concurrency"])]
        assert found["total_bytes"] == min(record["total_bytes"] for record in group)
    assert len(cheapest) == len({(record["device"], record["concurrency"]) for record in every})
    for by, per in (("verdict", ()), ("total_bytes", ("colour",))):
        with pytest.raises(RequestError):
            small.best(by, per=per)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"contexts": []}, RequestError), ({"contexts": [0]}, RequestError), ({"contexts": [8, 8]}, RequestError),
        ({"concurrencies": "many"}, FitcalcError), ({"devices": "no-such-card"}, UnknownNameError),
        ({"quants": "q99"}, UnknownNameError), ({"engines": "no-engine"}, UnknownNameError),
        ({"columns": ["colour"]}, UnknownNameError), ({"executor": 3}, RequestError), ({"contexts": 1.5}, RequestError),
        ({"devices": {"gpu": "a10", "size": 3}}, RequestError), ({"tensor_parallel": [0]}, RequestError),
    ],
)  # fmt: skip
def test_bad_axes_are_refused_before_anything_is_computed(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        fitcalc.sweep("llama-3.1-8b", **(SMALL | change))


def test_a_grid_may_be_far_larger_than_memory() -> None:
    found = fitcalc.sweep("llama-3.1-8b", devices="a100-80", quants="awq", contexts=range(1, 100_001),
                          concurrencies=range(1, 10_001), columns=["total_bytes"])  # fmt: skip
    assert found.points == 10**9
    with pytest.raises(RequestError, match="too many"):
        fitcalc.sweep("llama-3.1-8b", devices="a100-80", quants="awq", contexts=range(1, 300_001),
                      concurrencies=range(1, 10_001)).columns["total_bytes"]  # fmt: skip


def test_memory_is_bounded_by_the_piece() -> None:
    def peak(contexts: int) -> int:
        found = fitcalc.sweep("llama-3.1-8b", devices="a100-80", quants="awq", contexts=range(1, contexts),
                              concurrencies=range(1, 1001), columns=list(MEMORY_COLUMNS))  # fmt: skip
        tracemalloc.start()
        points = sum(chunk.size for chunk, _ in found.chunks())
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert points == found.points
        return size

    peak(20)
    assert peak(2000) < 2 * peak(200) + 2**20


# --- executors --------------------------------------------------------------------------------------------------------


def test_a_process_pool_gives_the_same_points(small: Sweep) -> None:
    assert pickle.loads(pickle.dumps(small.grid)) == small.grid
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = fitcalc.sweep("llama-3.1-8b", **SMALL, executor=pool)
        assert found.to_records() == small.to_records()


class Breaking:
    """An executor whose workers die after the first task."""

    def __init__(self) -> None:
        self.tasks = 0

    def submit(self, function: Any, *arguments: Any) -> Future[Any]:
        self.tasks += 1
        future: Future[Any] = Future()
        if self.tasks == 1:
            future.set_result(function(*arguments))
        else:
            future.set_exception(BrokenProcessPool("a worker died"))
        return future


def test_what_a_broken_pool_leaves_is_computed_here() -> None:
    executor: Any = Breaking()
    models = ["llama-3.1-8b", "qwen3-8b"] if "qwen3-8b" in catalog.ids("models") else ["llama-3.1-8b"]
    devices = ["a100-80", "rtx-3060", "rtx-4090", "h100-sxm", "a10", "24GB"]
    axes = {"devices": devices, "quants": ["awq", "q4_k_m", "bf16"], "contexts": [100], "concurrencies": [1, 2]}
    alone, shared = fitcalc.sweep(models, **axes), fitcalc.sweep(models, **axes, executor=executor)
    assert shared.to_records() == alone.to_records()
    assert executor.tasks > 1


# --- the command line -------------------------------------------------------------------------------------------------

LINE = ["sweep", "--models", "llama-3.1-8b,llama-3.1-70b", "--gpus", "a100-80,rtx-3060", "--quants", "awq,q4_k_m"]


def test_the_command_writes_and_sums_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.csv"
    assert run([*LINE, "--contexts", "1k:3k:1k", "--concurrencies", "1,8", "-o", str(path)]) == 0
    shown = capsys.readouterr()
    assert "48 points" in shown.out
    assert "llama-3.1-70b" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    assert len(path.read_text().splitlines()) == 49


def test_a_grid_file_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text(
        'models = ["llama-3.1-8b", "llama-3.1-70b"]\ngpus = ["a100-80", "rtx-3060"]\nquants = ["awq", "q4_k_m"]\n'
        'contexts = ["1k:3k:1k"]\nconcurrencies = [1, 8]\n'
    )
    assert run(["sweep", str(grid)]) == 0
    from_file = capsys.readouterr().out
    assert run([*LINE, "--contexts", "1k:3k:1k", "--concurrencies", "1,8"]) == 0
    assert capsys.readouterr().out == from_file


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep"], ["sweep", "--models", "llama-3.1-8b"], [*LINE, "--resume"], ["sweep", "missing.toml"],
        [*LINE, "--contexts", "8:4"], [*LINE, "--best", "verdict"], [*LINE, "-o", "a.txt"], [*LINE, "--tp", "x"],
        [*LINE, "--columns", "colour"], [*LINE, "--concurrencies", "0"],
    ],
)  # fmt: skip
def test_bad_lines_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert "error" in capsys.readouterr().err


def test_numbers_of_numpy_count_as_numbers() -> None:
    found = fitcalc.sweep("llama-3.1-8b", devices="a10", quants="awq", contexts=np.array([512, 1024]))
    assert found.axes["context"] == (512, 1024)
