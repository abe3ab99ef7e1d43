"""Fleets: laws of queues in formulas and simulation, sizing, traces, and the command line."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fitcalc
from fitcalc.errors import RequestError, UnknownNameError, UnsupportedModelError
from fitcalc.fleets.lengths import constant, mixed
from fitcalc.fleets.queueing import flight, loop_rates, response
from fitcalc.fleets.server import Server
from fitcalc.fleets.simulation import arrivals_at, run, simulate
from fitcalc.fleets.trace import read_trace
from fitcalc.render.capacity_text import capacity_text
from fitcalc.render.style import Style
from fitcalc.spec.capacity_report import CapacityReport, Fleet

ROOT = Path(__file__).parents[1]


def server(most: int = 64, *, prompt_s: float = 0.02, prompt: int = 1024, output: int = 128) -> Server:
    """A server whose steps take 8 ms and 0.1 ms for each request."""
    steps = (0.0, *(0.008 + 1e-4 * count for count in range(1, most + 1)))
    return Server(steps, prompt_s, prompt_s, 0.03, prompt, output, 8192)


def capacity(**given: Any) -> CapacityReport:
    asked: dict[str, Any] = {"gpu": "h100:1", "quant": "fp8", "max_ttft": "1s", "max_tpot": "30ms"}
    return fitcalc.capacity("llama-3.1-8b", **{**asked, **given})


def fleet(**given: Any) -> Fleet:
    found = capacity(**given).fleet
    assert found
    return found


# Formulas


def test_flight_with_one_place_is_the_queue_of_one_server() -> None:
    # M/M/1: at load r, 1 - r of arrivals find nobody, r / (1 - r) are there on average.
    for load in (0.1, 0.5, 0.9):
        found = flight([2.0], 2 * load)
        assert found.idle_share == pytest.approx(1 - load)
        assert found.running + found.waiting == pytest.approx(load / (1 - load))
        assert found.wait_share == pytest.approx(load)


def test_flight_with_free_places_is_poisson() -> None:
    # Requests that do not slow each other: mean and variance are rate × time (M/G/infinity).
    found = flight([0.5 * count for count in range(1, 200)], 10.0)
    assert found.running == pytest.approx(20)
    assert found.spread**2 == pytest.approx(20)
    assert found.idle_share == pytest.approx(math.exp(-20))
    assert found.waiting < 1e-9


def test_flight_with_some_places_is_erlang_c() -> None:
    # Erlang's formula for c = 4 servers and an offered load of 3: P(wait) = 0.5094, the textbook value.
    found = flight([1.0, 2.0, 3.0, 4.0], 3.0)
    assert found.wait_share == pytest.approx(0.5094, abs=1e-4)
    assert found.waiting == pytest.approx(0.5094 * 3, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    share=st.floats(0.01, 0.9), more=st.floats(1.01, 1.1), prompt=st.integers(16, 20000), output=st.integers(1, 2000),
    most=st.integers(1, 256),
)  # fmt: skip
def test_times_grow_with_the_rate_and_keep_littles_law(
    share: float, more: float, prompt: int, output: int, most: int
) -> None:
    engine = server(most, prompt_s=prompt / 50_000, prompt=prompt, output=output)
    rates = loop_rates(engine)
    assert list(rates) == sorted(rates)
    one, other = (response(engine, rates, share * factor * rates[-1], 95) for factor in (1, more))
    if one is None or other is None:
        assert other is None
        return
    assert one.in_flight == pytest.approx(share * rates[-1] * (one.request_s - engine.arrival_s))
    assert one.ttft_s <= one.ttft_percentile_s
    assert one.tpot_s <= one.tpot_percentile_s
    assert one.tpot_s <= other.tpot_s * 1.0001
    assert one.ttft_s <= other.ttft_s * 1.0001


def test_without_a_load_a_request_is_alone() -> None:
    engine = server()
    found = response(engine, loop_rates(engine), 1e-6, 95)
    assert found
    assert found.tpot_s == pytest.approx(engine.step_s[1], rel=0.02)
    assert found.ttft_s == pytest.approx(0.03 + engine.alone_s + engine.step_s[1], rel=1e-3)


# Simulation


@settings(max_examples=15, deadline=None)
@given(share=st.floats(0.05, 1.5), most=st.integers(1, 64), seed=st.integers(0, 9), long=st.integers(1, 20000))
def test_the_simulation_keeps_littles_law(share: float, most: int, seed: int, long: int) -> None:
    engine = server(most)
    arrivals = arrivals_at(share * loop_rates(engine)[-1], 300, [(1024, 128), (long, 16), (5, 1)], seed)
    done, busy = run(engine, arrivals)
    assert len(done) == 300
    # The number in the server over time, from the moments of coming and going alone, against the times in it.
    events = sorted([(one.arrival_s, 1) for one in done] + [(one.end_s, -1) for one in done])
    area, number, before = 0.0, 0, 0.0
    for moment, change in events:
        area, number, before = area + number * (moment - before), number + change, moment
    assert area == pytest.approx(sum(one.end_s - one.arrival_s for one in done))
    assert all(one.arrival_s < one.first_s < one.end_s for one in done)
    assert max(_overlap(done)) <= 300
    assert busy <= max(one.end_s for one in done) + 1e-9


def _overlap(done: Any) -> list[int]:
    return [sum(other.first_s <= one.first_s < other.end_s for other in done) for one in done[::50]]


def test_one_request_in_the_simulation_takes_its_steps() -> None:
    engine = server()
    done, busy = run(engine, [(1.0, 1024, 100)])
    step = engine.step_s[1]
    assert done[0].first_s == pytest.approx(1.0 + engine.alone_s + step)
    assert done[0].end_s == pytest.approx(1.0 + engine.alone_s + 101 * step)
    assert busy == pytest.approx(done[0].end_s - 1.0)


def test_places_bound_what_runs() -> None:
    engine = server(3)
    done, _ = run(engine, [(0.0, 100, 50)] * 12)
    for one in done:
        assert sum(other.first_s <= one.first_s < other.end_s for other in done) <= 3


def test_the_simulation_saturates_at_the_rate_of_the_closed_loop() -> None:
    for prompt_s, prompt, output in ((0.02, 1024, 128), (0.2, 8000, 32), (0.002, 100, 500)):
        engine = server(32, prompt_s=prompt_s, prompt=prompt, output=output)
        done, _ = run(engine, arrivals_at(50 * loop_rates(engine)[-1], 1500, [(prompt, output)]))
        ends = sorted(one.end_s for one in done)
        assert 1000 / (ends[1200] - ends[200]) == pytest.approx(loop_rates(engine)[-1], rel=0.1)


def test_the_simulation_is_the_same_each_time_and_quick() -> None:
    engine, start = server(), time.perf_counter()
    arrivals = arrivals_at(5.0, 4000, [(1024, 128)])
    assert arrivals == arrivals_at(5.0, 4000, [(1024, 128)])
    assert simulate(engine, arrivals, 95) == simulate(engine, arrivals, 95)
    assert time.perf_counter() - start < 4


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize(("prompt_s", "prompt", "output"), [(0.02, 1024, 256), (0.005, 256, 512), (0.1, 4096, 256)])
def test_formulas_agree_with_the_simulation(share: float, prompt_s: float, prompt: int, output: int) -> None:
    engine = server(128, prompt_s=prompt_s, prompt=prompt, output=output)
    rates = loop_rates(engine)
    found = response(engine, rates, share * rates[-1], 95)
    seen = simulate(engine, arrivals_at(share * rates[-1], 4000, [(prompt, output)]), 95)
    assert found
    assert found.tpot_s == pytest.approx(seen.tpot_s, rel=0.1)
    assert found.ttft_s == pytest.approx(seen.ttft_s, rel=0.1)
    assert found.tpot_percentile_s == pytest.approx(seen.tpot_percentile_s, rel=0.2)
    assert found.ttft_percentile_s == pytest.approx(seen.ttft_percentile_s, rel=0.25)
    assert found.in_flight == pytest.approx(seen.in_flight, rel=0.12)


# Sizing


def test_replicas_never_fall_with_the_load() -> None:
    sizes = [fleet(rps=rate).replicas for rate in (0.01, 1, 5, 10, 20, 40, 80, 160, 1000)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    users = [fleet(users=count, think_time=20).replicas for count in (1, 100, 500, 1000, 5000)]
    assert users == sorted(users)
    assert users[0] == 1


@pytest.mark.parametrize(
    ("name", "limits"),
    [("max_ttft", (0.11, 0.13, 0.2, 0.5, 2, None)), ("max_tpot", (0.006, 0.01, 0.02, 0.035, 0.08, None))],
)
def test_replicas_never_rise_with_looser_limits(name: str, limits: tuple[float | None, ...]) -> None:
    sizes = [fleet(rps=300, **{name: limit}).replicas for limit in limits]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_one_replica_does_if_and_only_if_it_carries_the_rate() -> None:
    carried = fleet(rps=1).carried_per_s
    for head_room in (0.0, 0.2, 0.5):
        able = carried * (1 - head_room)
        assert fleet(rps=able * 0.999, head_room=head_room).replicas == 1
        assert fleet(rps=able * 1.001, head_room=head_room).replicas == 2
        assert fleet(rps=able * 3.001, head_room=head_room).replicas == 4


def test_the_fleet_is_within_its_limits_and_adds_up() -> None:
    report = capacity(rps=100)
    found, rent = report.fleet, report.offers[0]
    assert found
    assert found.ttft_s.percentile.estimate <= 1
    assert found.tpot_s.percentile.estimate <= 0.03
    assert found.head_room >= 0.2 - 1e-9
    assert found.replicas * found.rate_per_s == pytest.approx(100)
    assert found.devices == found.replicas * found.devices_per_replica
    assert found.in_flight == pytest.approx(found.rate_per_s * found.request_s, rel=0.1)
    assert found.utilization == pytest.approx(found.rate_per_s / found.saturation_per_s)
    assert found.usd_per_h == rent.usd_per_h
    assert found.usd_per_month == pytest.approx(rent.usd_per_h * 730.5)
    assert rent.date
    assert rent.cards >= found.devices
    assert found.replicas_low <= found.replicas <= found.replicas_high
    assert f"--max-num-seqs {found.concurrency}" in found.command


def test_saturation_is_that_of_the_closed_loop() -> None:
    found = fleet(rps=1, prompt=2048, output=256, max_ttft=None, max_tpot=None)
    loop = fitcalc.curve("llama-3.1-8b", gpu="h100:1", quant="fp8", context=2304, prompt_tokens=2048,
                         generated_tokens=256, concurrency=found.concurrency)  # fmt: skip
    near = loop.points[-1]
    assert near.concurrency == pytest.approx(found.concurrency, rel=0.05)
    assert found.saturation_per_s == pytest.approx(near.total_tokens_per_s.estimate / 256, rel=0.03)


@pytest.mark.parametrize(
    ("model", "gpu", "quant"),
    [("llama-3.1-8b", "h100", "fp8"), ("llama-3.1-70b", "a100-80", "awq"), ("llama-3.1-8b", "rtx-4090:1", "q4_k_m")],
)
def test_the_plan_of_a_fleet_fits(model: str, gpu: str, quant: str) -> None:
    report = fitcalc.capacity(model, rps=2, gpu=gpu, quant=quant)
    found, asked = report.fleet, report.inputs
    assert found
    again = fitcalc.fit(
        model, gpu=[f"{entry['id']}:{entry['count']}" for entry in asked["devices"]], quant=found.quant,
        engine=found.engine, context=found.context_tokens, concurrency=found.concurrency,
    )  # fmt: skip
    assert again.verdict == "fits"


def test_users_are_littles_law() -> None:
    found = fleet(users=2000, think_time="10s")
    assert pytest.approx(found.replicas * found.rate_per_s * (10 + found.request_s), rel=1e-3) == 2000


def test_the_cheapest_number_of_devices_is_taken() -> None:
    report = capacity(rps=50, gpu="h100")
    priced = [choice for choice in report.choices if choice.usd_per_h is not None]
    assert [choice.devices_per_replica for choice in report.choices] == [1, 2, 4, 8]
    assert report.fleet
    assert report.fleet.usd_per_h == min(choice.usd_per_h or 0 for choice in priced)
    large = fitcalc.capacity("llama-3.1-70b", rps=1, gpu="a100-80", quant="fp16")
    assert large.choices[0].reason == "does not fit"
    assert large.fleet
    assert large.fleet.devices_per_replica >= 2


# Traces


def write_trace(path: Path, rows: int, rate: float, lengths: Any, head: str = "arrival,prompt,output") -> Path:
    source, moment, lines = random.Random(1), 0.0, [head]
    for _ in range(rows):
        prompt, output = lengths(source)
        lines.append(f"{moment:.4f},{prompt},{output}")
        moment += 1 / rate
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_trace_of_equal_lengths_is_the_same_as_the_lengths(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "even.csv", 1000, 20, lambda _: (2048, 256))
    traced, told = fleet(trace=path, rps=30), fleet(rps=30, prompt=2048, output=256)
    assert traced == told
    assert mixed([(2048, 256)] * 7) == constant(2048, 256)


def test_a_trace_is_sized_for_its_busiest_minute(tmp_path: Path) -> None:
    moments = [second * 1.0 for second in range(600)] + [300 + part / 20 for part in range(1000)]
    path = tmp_path / "burst.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(f"{m},500,100" for m in moments))
    trace = read_trace(path)
    assert trace.peak_rate == pytest.approx((1000 + 60) / 60, rel=0.01)
    assert trace.rate == pytest.approx(1599 / 599)
    report = capacity(trace=path, simulate=True)
    assert report.load.requests_per_s == pytest.approx(trace.peak_rate)
    assert report.load.trace_requests == 1600
    assert report.simulation
    assert report.simulation.arrivals == "trace"


def test_dates_zero_answers_and_order(tmp_path: Path) -> None:
    path = tmp_path / "dates.csv"
    path.write_text(
        "\ufeffTimestamp,Model,Request tokens,Response tokens\n2023-11-16 18:17:05.9799600,a,10,5\n"
        "2023-11-16 18:17:03.9799600,b,20,6\n2023-11-16 18:17:04,c,20,0\n",
        encoding="utf-8",
    )
    trace = read_trace(path)
    assert trace.arrivals == ((0.0, 20, 6), (2.0, 10, 5))
    assert trace.skipped == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column 'arrival'"), ("a,b\n1,2\n", "no column 'arrival'"), ("arrival,prompt\n1,2\n", "'output'"),
        ("arrival,prompt,output\n", "no two requests"), ("arrival,prompt,output\n1,5,5\n1,5,5\n", "no two requests"),
        ("arrival,prompt,output\n1,5\n", "line 2"), ("arrival,prompt,output\nsoon,5,5\n", "not a time"),
        ("arrival,prompt,output\nnan,5,5\n", "not a time"), ("arrival,prompt,output\n1,-5,5\n", "number of tokens"),
        ("arrival,prompt,output\n1,1e9,5\n", "number of tokens"), ("arrival,prompt,output\n1,5.5,5\n", "tokens"),
        ("arrival,prompt,output\n1,999999999999,5\n", "out of range"), ('arrival,prompt,output\n1,"5', "line 2"),
        ("arrival,prompt,output\n1," + "9" * 200_000 + ",5\n", "line 2"), ("arrival,prompt,output\n\0", "line"),
    ],
)  # fmt: skip
def test_a_bad_trace_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match=words) as caught:
        read_trace(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_trace_that_is_no_text_file(tmp_path: Path) -> None:
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"arrival,prompt,output\n\xff\xfe1,2,3\n")
    for path in (binary, tmp_path, tmp_path / "missing.csv", Path("/dev/zero")):
        with pytest.raises(RequestError):
            read_trace(path)


# Answers


def test_limits_that_nothing_meets_are_no_fleet() -> None:
    for limit, words in (({"max_tpot": "1ms"}, "per token"), ({"max_ttft": "1ms"}, "first token")):
        report = capacity(rps=1, **limit)
        assert report.verdict == "does_not_fit"
        assert report.fleet is None
        assert words in report.reason


@pytest.mark.parametrize(
    "asked",
    [{}, {"rps": 1, "users": 5}, {"users": 5}, {"rps": 1, "think_time": 3}, {"rps": 0}, {"rps": -1},
     {"rps": math.nan}, {"rps": 1, "percentile": 100}, {"rps": 1, "head_room": 1}, {"rps": 1, "prompt": 0},
     {"rps": 1, "context": 100}, {"rps": 1, "prompt": 10**8}, {"rps": 1, "max_ttft": "fast"}, {"users": 0},
     {"rps": 1, "trace": "missing.csv"}, {"rps": 1, "concurrency": 0}],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        capacity(**asked)


def test_what_has_no_speed_cannot_be_decided() -> None:
    with pytest.raises(UnsupportedModelError):
        fitcalc.capacity("llama-3.1-8b", rps=1, gpu="80GB")
    with pytest.raises(UnknownNameError):
        fitcalc.capacity("llama-3.1-8b", rps=1, gpu="h1000")


@pytest.mark.parametrize("width", [60, 80, 110])
def test_text_stays_within_its_width(width: int) -> None:
    for report in (capacity(rps=400, gpu="h100", simulate=True), capacity(rps=1, max_tpot="1ms")):
        text = capacity_text(report, Style(width=width))
        assert max(map(len, text.splitlines())) <= max(width, 78)
    assert "NONE" in text


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "fitcalc", "capacity", "llama-3.1-8b", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)


def test_the_command_line() -> None:
    done = run_cli("--rps", "40", "--gpu", "h100:1", "-q", "fp8", "--max-ttft", "500ms", "--simulate", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    schema = json.loads((ROOT / "profiles" / "schema" / "capacity.json").read_text(encoding="utf-8"))
    jsonschema.validate(report, schema)
    assert report["simulation"]["within_limits"]
    text = run_cli("--users", "300", "--think-time", "30s", "--gpu", "h100", "-q", "fp8")
    for words in ("REPLICAS", "head-room", "TTFT", "RENT", "vllm serve", "300 users"):
        assert words in text.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--rps", "5", "--gpu", "rtx-3060:1", "-q", "fp16"], 1),
        (["--rps", "5", "--gpu", "h100", "--max-tpot", "1ms"], 1),
        (["--gpu", "h100"], 2),
        (["--rps", "many", "--gpu", "h100"], 2),
        (["--rps", "5", "--gpu", "h100", "--trace", "missing.csv", "--prompt", "5"], 2),
        (["--rps", "5", "--gpu", "80GB"], 3),
    ],
)
def test_exit_codes(arguments: list[str], code: int) -> None:
    done = run_cli(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
