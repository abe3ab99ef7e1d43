"""Sweeps in files: the text is what the csv and json modules write, and an interrupted run loses nothing."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fitcalc
from fitcalc.cli import run
from fitcalc.errors import RequestError
from fitcalc.frozen import replace
from fitcalc.grids import writing
from fitcalc.grids.choosing import Summary
from fitcalc.grids.chunks import COLUMNS, Chunk, Part, missing_of, records, type_of
from fitcalc.grids.sweep import Sweep
from fitcalc.grids.text import lines_of
from fitcalc.grids.writing import write

AXES: dict[str, Any] = {
    "models": ["llama-3.1-8b", "whisper-large-v3"],
    "devices": ["rtx-3060", {"gpu": "rtx-3060", "ram": "64GB"}],
    "quants": ["awq", "q4_k_m"],
    "contexts": [512, "32k"],
    "concurrencies": [1, 300],
}
"""Some points fit, some go partly to RAM, some are refused, and llama.cpp takes only 256 requests at once."""


@pytest.fixture(scope="module")
def small() -> Sweep:
    return fitcalc.sweep(**AXES)


LINE = ["sweep", "--models", "llama-3.1-8b,llama-3.1-70b", "--gpus", "a100-80,rtx-3060", "--quants", "awq,q4_k_m"]


# --- the text ---------------------------------------------------------------------------------------------------------


def expected(told: list[dict[str, Any]], form: str) -> str:
    """Records as Python's own modules write them."""
    if form == ".jsonl":
        return "".join(json.dumps(record) + "\n" for record in told)
    found = io.StringIO()
    csv.writer(found, lineterminator="\n").writerows(record.values() for record in told)
    return found.getvalue()


@pytest.mark.parametrize("form", [".csv", ".jsonl"])
@pytest.mark.parametrize("columns", [None, ["total_bytes", "fits"], ["verdict"], ["decode_tokens_per_s"]])
@pytest.mark.parametrize("kept", [{}, {"fits": True}, {"concurrency": [300]}])
def test_lines_are_what_the_csv_and_json_modules_write(
    columns: list[str] | None, kept: dict[str, Any], form: str
) -> None:
    found = fitcalc.sweep(**AXES, columns=columns).where(**kept)
    for chunk, keep in found.chunks():
        told = list(records(chunk, found.grid, found.wanted, keep))
        assert lines_of(chunk, found.grid, found.wanted, keep, form) == expected(told, form)


@pytest.mark.parametrize("form", [".csv", ".jsonl"])
def test_words_are_quoted_and_odd_numbers_survive(form: str) -> None:
    """Commas, quotes, line ends and percent signs in words; missing, infinite and extreme numbers in columns."""
    grid = fitcalc.sweep("llama-3.1-8b", devices="a10", contexts=[1, 2], concurrencies=[1, 2, 3]).grid
    words = dict.fromkeys(("quant", "engine", "device"), 'a "b", 100 %s\n% é') | {
        "tensor_parallel": 2,
        "kv_dtype": None,
    }
    parts = (
        Part(0, 2, {"model": "50%", **words, "refusal": ""}),
        Part(2, 3, {"model": ",", **words, "refusal": "no, %d\r\nof it"}),
    )
    columns = {name: np.full((2, 3), 7).astype(type_of(name)) for name in COLUMNS}
    columns["total_bytes"] = np.array([[1, missing_of("total_bytes"), -5], [2**62, 0, 3]])
    columns["usd_per_h"] = np.array([[np.nan, np.inf, 1e300], [0.1, 1e16, -0.0]])
    columns["verdict"] = np.array([[0, 1, -1]], dtype=np.int8)
    columns["fits"] = np.array([[True], [False]])
    columns["max_context_tokens"] = np.array([[5, missing_of("max_context_tokens"), 6]])
    chunk = Chunk((0, 0, 2), (2, 3), columns, parts)
    for keep in (np.ones((2, 3), dtype=bool), np.array([[True, False, True], [False, False, True]])):
        told = list(records(chunk, grid, COLUMNS, keep))
        assert lines_of(chunk, grid, COLUMNS, keep, form) == expected(told, form)


# --- files ------------------------------------------------------------------------------------------------------------


class Stopped(BaseException):
    """An interruption in the midst of writing."""


@contextmanager
def stopping(after: int, error: type[BaseException], stretch_bytes: int = 1) -> Iterator[None]:
    """Pieces end with an interruption after so many; the file gets them in stretches of so many bytes."""
    original = writing._texts

    def some(*arguments: Any) -> Iterator[Any]:
        yield from islice(original(*arguments), after)
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_STRETCH_BYTES", stretch_bytes)
        patch.setattr(writing, "_texts", some)
        yield


def interrupted(sweep: Sweep, path: Path, after: int, stretch_bytes: int = 1) -> None:
    """Write until `after` pieces have been computed."""
    with stopping(after, Stopped, stretch_bytes), pytest.raises(Stopped):
        write(sweep, str(path), progress=False)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("damage", ["none", "torn", "tail", "journal", "flipped"])
def test_what_is_resumed_equals_what_was_never_stopped(small: Sweep, tmp_path: Path, ending: str, damage: str) -> None:
    whole, stopped = tmp_path / f"whole.{ending}", tmp_path / f"stopped.{ending}"
    assert write(small, str(whole), progress=False) == small.points
    interrupted(small, stopped, 4)
    part, journal = Path(f"{stopped}.part"), Path(f"{stopped}.part.journal")
    assert not stopped.exists()
    if damage == "torn":
        part.write_bytes(part.read_bytes()[:-7])
    elif damage == "tail":
        part.write_bytes(part.read_bytes() + b"half a li")
    elif damage == "journal":
        journal.write_bytes(journal.read_bytes()[:-5])
    elif damage == "flipped":
        data = bytearray(part.read_bytes())
        data[-3] ^= 1
        part.write_bytes(data)
    computed = []
    with pytest.MonkeyPatch.context() as patch:
        compute = writing.compute
        patch.setattr(writing, "compute", lambda *arguments: computed.append(0) or compute(*arguments))
        assert write(small, str(stopped), resume=True, progress=False) == small.points
    assert stopped.read_bytes() == whole.read_bytes()
    assert len(computed) == small.grid.blocks - (4 if damage in ("none", "tail") else 3)
    assert not part.exists()
    assert not journal.exists()


def test_what_is_computed_is_kept_though_its_stretch_is_not_full(small: Sweep, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    interrupted(small, path, 3, stretch_bytes=2**30)
    lines = Path(f"{path}.part").read_text().splitlines()
    assert len(lines) == 1 + 3 * small.points // small.grid.blocks


def test_a_line_that_was_noted_twice_counts_once(small: Sweep, tmp_path: Path) -> None:
    path, whole, again = tmp_path / "a.csv", Summary(small.grid, "total_bytes"), Summary(small.grid, "total_bytes")
    write(small, str(tmp_path / "b.csv"), summary=whole)
    with stopping(4, Stopped), pytest.raises(Stopped):
        write(small, str(path), progress=False, summary=Summary(small.grid, "total_bytes"))
    journal = Path(f"{path}.part.journal")
    journal.write_text(journal.read_text() + journal.read_text().splitlines(keepends=True)[-1])
    write(small, str(path), resume=True, summary=again)
    assert again.counts == whole.counts
    assert again.best.records() == whole.best.records()


def test_conditions_that_are_functions_cannot_be_resumed(small: Sweep, tmp_path: Path) -> None:
    path, roomy = tmp_path / "a.csv", small.where(lambda columns: columns["headroom_bytes"] > 2**33)
    assert roomy.write(path, resume=True) == len(roomy.to_records())
    interrupted(roomy, path, 2)
    with pytest.raises(RequestError, match="functions"):
        roomy.write(path, resume=True)


KILLED = """
import fitcalc, os, signal, sys
from fitcalc.grids import writing
from fitcalc.grids.choosing import Summary
original, stretches = writing._put_stretch, []
def put(*arguments):
    done = original(*arguments)
    stretches.append(done)
    if len(stretches) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
writing._put_stretch = put
writing.write({sweep}, sys.argv[1], progress=False)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_run_is_resumed(tmp_path: Path) -> None:
    text = (
        "fitcalc.sweep('llama-3.1-8b', devices='a100-80', quants='awq', contexts=range(1, 81),"
        " concurrencies=range(1, 1001), columns=['total_bytes', 'fits'])"
    )
    found, path = eval(text), tmp_path / "a.csv"
    died = subprocess.run([sys.executable, "-c", KILLED.format(sweep=text), str(path)], check=False)
    assert died.returncode == -signal.SIGKILL
    size = Path(f"{path}.part").stat().st_size
    assert size > 2 * 2**20
    found.write(tmp_path / "b.csv")
    assert found.write(path, resume=True) == 80_000
    assert path.read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize("condition", [{}, {"fits": True}, lambda columns: columns["fits"]])
def test_workers_write_the_same_file(small: Sweep, tmp_path: Path, condition: Any) -> None:
    alone = small.where(condition) if callable(condition) else small.where(**condition)
    with ThreadPoolExecutor(2) as pool:
        assert replace(alone, executor=pool).write(tmp_path / "a.csv") == alone.write(tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_the_file_of_another_sweep_is_not_continued(small: Sweep, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    interrupted(small, path, 2)
    other = fitcalc.sweep(**(AXES | {"contexts": 1024}))
    with pytest.raises(RequestError, match="another sweep"):
        other.write(path, resume=True)


def test_files_hold_the_records(small: Sweep, tmp_path: Path) -> None:
    small.write(tmp_path / "a.csv")
    small.write(tmp_path / "a.jsonl")
    every = small.to_records()
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert lines == every
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    told = [{name: "" if value is None else str(value) for name, value in record.items()} for record in every]
    assert rows == told


@pytest.mark.parametrize("name", ["a.xlsx", "a", "missing/a.csv"])
def test_files_that_cannot_be_written_are_refused(small: Sweep, tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError):
        small.write(tmp_path / name)


def test_the_summary_of_a_resumed_run_covers_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [*LINE, "-o", str(tmp_path / "a.csv")]
    assert run(line) == 0
    whole = capsys.readouterr().out
    with stopping(3, KeyboardInterrupt):
        assert run(line) == 130
    assert "--resume" in capsys.readouterr().err
    assert run([*line, "--resume"]) == 0
    assert capsys.readouterr().out == whole


def test_without_pyarrow_the_extra_is_named(small: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(RequestError) as caught:
        small.write(tmp_path / "a.parquet")
    assert "fitcalc[arrow]" in caught.value.hint
