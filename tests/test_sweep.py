"""Sweeps: files survive interruption, memory stays bounded, executors and the command line agree."""

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

import fitcalc
from fitcalc import catalog
from fitcalc.cli import run
from fitcalc.errors import FitcalcError, RequestError, UnknownNameError
from fitcalc.frozen import replace
from fitcalc.grids import running
from fitcalc.grids.chunks import COLUMNS
from fitcalc.grids.points import MEMORY_COLUMNS, TERM_COLUMNS
from fitcalc.grids.sweep import Sweep

SMALL: dict[str, Any] = {
    "devices": ["a100-80", "rtx-3060"],
    "quants": ["native", "awq", "q4_k_m"],
    "contexts": [512, 4096, "32k"],
    "concurrencies": [1, 7, 64],
}


@pytest.fixture(scope="module")
def small() -> Sweep:
    return fitcalc.sweep("llama-3.1-8b", **SMALL)


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
    score = {"a100-80": 1, "rtx-3060": -1}
    by = small.best(lambda at: score[at["device"]] * at["total_bytes"] - at["context"], per=["device", "quant"])
    for found in by:
        group = [r for r in small.records() if not r["refusal"] and r["device"] == found["device"]]
        group = [r for r in group if r["quant"] == found["quant"]]
        worth = [score[r["device"]] * r["total_bytes"] - r["context"] for r in group]
        assert found == group[worth.index(min(worth))]
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


def test_tasks_under_way_are_bounded_and_cancelled_when_nobody_reads_on() -> None:
    class Counting:
        """Every task is done at once, and so waits to be taken."""

        def __init__(self) -> None:
            self.futures: list[Future[Any]] = []

        def submit(self, function: Any, *arguments: Any) -> Future[Any]:
            future: Future[Any] = Future()
            if len(self.futures) < 30:
                future.set_result(function(*arguments))
            self.futures.append(future)
            return future

    executor: Any = Counting()
    axes = {"contexts": range(1, 101), "concurrencies": range(1, 101), "columns": ["total_bytes"]}
    found = fitcalc.sweep("llama-3.1-8b", devices="a10", quants="awq", **axes, executor=executor)
    chunks = replace(found, chunk_points=100).chunks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "_TASK_PIECES", 1)
        next(chunks)
        assert len(executor.futures) == 16
        for _ in range(9):
            next(chunks)
        assert len(executor.futures) <= 26
        chunks.close()
    assert all(future.done() for future in executor.futures)


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


def test_options_repeat_and_refusals_have_their_reason(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["sweep", "--models", "llama-3.1-8b", "--models", "sdxl", "--gpus", "a100-80", "--quants", "q4_k_m"]
    assert run([*line, "--engines", "vllm", "--engines", "llama.cpp", "--contexts", "4k", "--contexts", "8k"]) == 0
    shown = capsys.readouterr().out
    assert "8 points in 4 plans: 2 fit, 6 refused" in shown
    assert "No point that fits: sdxl" in shown
    assert "vLLM does not run" in shown
    assert "makes pictures: contexts say nothing of it (4 points)" in " ".join(shown.split())
    assert run(["sweep", "--models", "llama-3.1-8b", "--gpus", "rtx-3060", "--quants", "bf16"]) == 1
    assert "1 point in 1 plan: 1 does not fit\n\nNo point that fits: llama-3.1-8b\n" in capsys.readouterr().out


@pytest.mark.parametrize("columns", ["40", "60"])
def test_the_summary_keeps_to_a_narrow_terminal(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert run([*LINE, "--engines", "vllm", "--contexts", "8k,16k"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= int(columns)


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
