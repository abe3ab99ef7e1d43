"""Sweeps with the optional packages: Arrow files and streams, pandas, polars, xarray, a cluster of Dask's."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fitcalc
from fitcalc.grids import tables
from fitcalc.grids.sweep import Sweep

pytestmark = pytest.mark.extras

AXES: dict[str, Any] = {
    "models": ["llama-3.1-8b", "qwen3-30b-a3b"],
    "devices": ["a100-80", "rtx-3060"],
    "quants": ["native", "awq", "q4_k_m"],
    "engines": [None, "vllm"],
    "contexts": [512, 4096, "32k"],
    "concurrencies": [1, 7, 300],
}
"""vLLM refuses GGUF, llama.cpp 300 requests, and both axes with a choice of `fit` bring words that no axis has."""


@pytest.fixture(scope="module")
def small() -> Sweep:
    return fitcalc.sweep(**AXES)


@pytest.fixture(scope="module")
def told(small: Sweep) -> list[dict[str, Any]]:
    return small.to_records()


# --- tables -----------------------------------------------------------------------------------------------------------


def read(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    return parquet.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_all()


@pytest.mark.parametrize("batch_bytes", [1, 2**25])
@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_tables_hold_the_records(
    small: Sweep, told: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str,
    batch_bytes: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(tables, "_BATCH_BYTES", batch_bytes)
    path = tmp_path / f"a.{ending}"
    assert small.write(path) == small.points
    assert read(path).to_pylist() == told
    assert len(list(small.to_arrow())) == (small.grid.blocks if batch_bytes == 1 else 1)


@pytest.mark.parametrize("condition", [{"fits": True}, {"verdict": []}, lambda columns: columns["headroom_bytes"] > 0])
def test_tables_hold_what_is_kept(small: Sweep, tmp_path: Path, condition: Any) -> None:
    some = small.where(condition) if callable(condition) else small.where(**condition)
    kept = some.to_records()
    for ending in ("parquet", "arrow"):
        path = tmp_path / f"a.{ending}"
        assert some.write(path) == len(kept)
        assert read(path).to_pylist() == kept


@pytest.mark.parametrize("batch_bytes", [1, 2**25])
def test_dataframes_read_a_sweep(
    small: Sweep, told: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_bytes: int
) -> None:
    import pandas
    import polars
    import pyarrow as pa

    monkeypatch.setattr(tables, "_BATCH_BYTES", batch_bytes)
    assert pa.table(small).to_pylist() == told
    assert polars.DataFrame(small).to_dicts() == told
    for ending, reads in (("parquet", polars.read_parquet), ("arrow", polars.read_ipc)):
        path = tmp_path / f"a.{ending}"
        small.write(path)
        assert reads(path).to_dicts() == told
    frame = (
        pandas.DataFrame.from_arrow(small)
        if hasattr(pandas.DataFrame, "from_arrow")
        else small.to_arrow().read_pandas()
    )
    assert frame["fits"].dtype == bool
    largest = frame[frame["fits"]].groupby(["model", "device"], observed=True)["total_bytes"].max()
    for (model, device), size in largest.items():
        same = [one for one in told if one["fits"] and (one["model"], one["device"]) == (model, device)]
        assert size == max(one["total_bytes"] for one in same)


# --- arrays with names ------------------------------------------------------------------------------------------------


def test_xarray_takes_variables_and_coordinates(small: Sweep) -> None:
    import xarray

    found = xarray.Dataset(small.variables(), small.coords)
    assert found.sizes == dict(zip(small.axes, small.shape, strict=True))
    assert found["fits"].dtype == bool
    assert found["total_bytes"].attrs == {"units": "B"}
    assert found["time_to_first_token_s"].attrs == {"units": "s"}
    there = {"quant": "awq", "engine": "auto", "tensor_parallel": 0, "context": 4096, "concurrency": 7}
    one = found.sel(model="llama-3.1-8b", device="rtx-3060", **there).squeeze()
    (record,) = [
        record
        for record in small.where(quant="awq", engine=None, device="rtx-3060", model="llama-3.1-8b").records()
        if (record["context"], record["concurrency"]) == (4096, 7)
    ]
    assert int(one["total_bytes"]) == record["total_bytes"]
    assert found["verdict"].attrs["flag_meanings"].split()[int(one["verdict"])] == record["verdict"]
    refused = found.sel(quant="q4_k_m", engine="vllm")
    assert refused["total_bytes"].isnull().all()
    assert not refused["fits"].any()
    assert (refused["verdict"] == -1).all()
    assert set(np.unique(refused["reason"])) == {1}


# --- a cluster --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_loses_a_worker_gives_the_same_points(tmp_path: Path) -> None:
    import distributed

    axes = {
        "devices": ["a100-80", "rtx-3060", "rtx-4090", "h100-sxm", "a10"], "quants": ["native", "awq", "q4_k_m"],
        "contexts": range(1000, 41_000, 1000), "concurrencies": range(1, 65), "columns": ["total_bytes", "verdict"],
    }  # fmt: skip
    models = ["llama-3.1-8b", "llama-3.1-70b", "gemma-3-27b", "qwen3-30b-a3b"]
    alone = fitcalc.sweep(models, **axes)
    spread, victims = [], set()
    two = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**two) as cluster, distributed.Client(cluster) as client:
        found = fitcalc.sweep(models, **axes, executor=client.get_executor())
        for chunk, _ in found.chunks():
            spread.append((chunk.piece, chunk.full("total_bytes").sum()))
            if not victims:
                victims = set(client.run(os.getpid).values())
                os.kill(min(victims), signal.SIGKILL)
        assert found.write(tmp_path / "spread.csv") == alone.write(tmp_path / "alone.csv")
    assert spread == [(chunk.piece, chunk.full("total_bytes").sum()) for chunk, _ in alone.chunks()]
    assert (tmp_path / "spread.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()
