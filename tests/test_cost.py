"""Prices as they were seen, and what is made of them: closed forms, laws, and the rows the profiles were taken from."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fitcalc
from fitcalc import catalog
from fitcalc.catalog.prices import load_prices
from fitcalc.errors import ProfileError, RequestError, UnknownNameError
from fitcalc.formulas import cost as formulas
from fitcalc.prices import apis_of, electricity_of, hourly_price, hourly_prices, provider_id, providers, purchase_of
from fitcalc.render.cost_text import cost_text, count, usd
from fitcalc.render.style import Style
from fitcalc.spec.cost_report import CostReport

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"


def rows(name: str) -> list[dict[str, str]]:
    with (GOLDEN / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(text: str) -> float | None:
    return float(text) if text else None


def test_every_offer_equals_its_dated_row() -> None:
    offers = [offer for found in load_prices().offers.values() for offer in found]
    mine = Counter(
        (o.provider, o.instance, o.device, float(o.count), o.usd_per_h, o.spot_usd_per_h, o.region, o.date)
        for o in offers
    )
    assert mine == Counter(
        (
            row["provider"], row["instance"], row["device"], float(row["count"]), number(row["usd_per_h"]),
            number(row["spot_usd_per_h"]), row["region"], row["seen"],
        )
        for row in rows("cloud_prices.csv")
    )  # fmt: skip
    assert all(offer.source for offer in offers)


def test_every_api_price_equals_its_dated_row() -> None:
    apis = {api for found in load_prices().apis.values() for api in found}
    mine = Counter((a.provider, a.name, a.input_usd_per_million, a.output_usd_per_million, a.date) for a in apis)
    assert mine == Counter(
        (
            row["provider"], row["name"], float(row["input_usd_per_million"]), float(row["output_usd_per_million"]),
            row["seen"],
        )
        for row in rows("api_prices.csv")
    )  # fmt: skip


def test_prices_name_devices_models_and_dates_that_exist() -> None:
    prices = load_prices()
    devices, models = set(catalog.ids("device")), set(catalog.ids("models"))
    assert set(prices.offers) | set(prices.purchases) <= devices
    assert set(prices.apis) <= models
    dated = [
        entry for table in (prices.offers, prices.apis, prices.purchases) for row in table.values() for entry in row
    ]
    assert all(re.fullmatch(r"20\d\d(-\d\d(-\d\d|\d\d)?)?", entry.date) for entry in [*dated, *prices.electricity])


def test_the_cheapest_offer_of_a_card_is_the_minimum_of_its_rows() -> None:
    for device in ("h100-sxm", "a100-80-sxm", "l40s", "rtx-4090"):
        for cards in (1, 2, 4, 8):
            fitting = [
                float(row["usd_per_h"])
                for row in rows("cloud_prices.csv")
                if row["device"] == device and row["usd_per_h"] and float(row["count"]) >= cards
                and "GPU only" not in row["instance"] and "2026-08-01" not in row["seen"]
            ]  # fmt: skip
            found = hourly_price(device, cards)
            assert found is not None
            assert found.usd_per_h == min(fitting)
            assert found.cards >= cards
            assert found.instances == 1


def test_several_nodes_are_several_instances_of_eight_cards() -> None:
    one, two = hourly_price("h100-sxm", 8, provider="nebius"), hourly_price("h100-sxm", 16, provider="nebius")
    assert one
    assert two
    assert (two.instances, two.cards, two.usd_per_h) == (2, 16, 2 * one.usd_per_h)
    # Sixteen machines of one card are no plan, however cheap.
    assert all(price.offer.count >= 8 for price in hourly_prices("h100-sxm", 16))


def test_replicas_share_an_instance_that_holds_several() -> None:
    # Two cards each on instances of eight: four replicas in one, five in two.
    prices = [hourly_price("h100-sxm", 2, provider="oci", replicas=number) for number in (1, 4, 5)]
    assert [(price.instances, price.usd_per_h) for price in prices if price] == [(1, 80), (1, 80), (2, 160)]
    # Sixteen cards are two nodes, for each replica.
    large = hourly_price("h100-sxm", 16, provider="oci", replicas=3)
    assert large is not None
    assert (large.instances, large.cards) == (6, 48)


def test_what_is_reserved_is_taken_only_where_nothing_else_is_offered() -> None:
    gb200 = hourly_price("gb200", 4)
    assert gb200 is not None
    assert (gb200.offer.terms, gb200.usd_per_h, gb200.offer.date) == ("reserved", 761.904, "2026-08-01")
    assert all(price.offer.terms != "reserved" for price in hourly_prices("h200-sxm", 8))


def test_slices_and_parts_are_no_whole_machines() -> None:
    assert all(price.offer.count >= 1 and price.offer.terms != "part" for price in hourly_prices("l4"))
    assert hourly_price("l4", provider="gcp").usd_per_h == 0.708


def test_spot_node_and_provider_narrow_the_choice() -> None:
    spot = hourly_price("h100-sxm", 8, spot=True)
    assert spot is not None
    assert (spot.offer.provider, spot.usd_per_h, spot.is_spot) == ("nebius", 10.0, True)
    node = hourly_price("h100-sxm", 8, node="p5.48xlarge")
    assert node is not None
    assert node.usd_per_h == 55.04
    assert "2026-09-06" in node.label
    assert hourly_price("h100-sxm", 1, provider="Google Cloud").offer.provider == "gcp"
    assert hourly_price("raspberry-pi-5-8gb") is None
    assert hourly_price("rtx-3090", spot=True, provider="vast") is None
    assert provider_id("AWS") == "aws"
    assert set(providers()) == {row["provider"] for row in rows("cloud_prices.csv")}
    with pytest.raises(UnknownNameError) as caught:
        hourly_price("h100-sxm", provider="hetzner")
    assert "aws" in caught.value.hint


@given(cards=st.integers(1, 64), more=st.integers(0, 64))
@settings(max_examples=60)
def test_more_cards_never_cost_less(cards: int, more: int) -> None:
    for device in ("h100-sxm", "a100-80-sxm"):
        few, many = hourly_price(device, cards), hourly_price(device, cards + more)
        assert few
        assert many
        assert few.usd_per_h <= many.usd_per_h


def test_purchases() -> None:
    new = purchase_of(catalog.load_device("rtx-4090"))
    assert new
    assert (new.low_usd, new.high_usd, new.condition, new.date) == (1800, 2000, "new", "2026-06")
    used = purchase_of(catalog.load_device("rtx-3090"))
    assert used
    assert (used.condition, used.low_usd, used.high_usd) == ("used", 500, 1000)
    launch = purchase_of(catalog.load_device("rtx-3060"))
    assert launch
    assert (launch.condition, launch.low_usd) == ("launch price", 329)
    assert purchase_of(catalog.load_device("24GB")) is None
    electricity = electricity_of()
    assert electricity
    assert (electricity.usd_per_kwh, electricity.date) == (0.1872, "2026-04-26")


def test_apis_of_a_tuned_model_are_those_of_its_shapes() -> None:
    base, tuned = (apis_of(catalog.load_model(name)) for name in ("llama-3.1-8b", "llama-3.1-8b-instruct"))
    assert base == tuned
    assert {api.provider for api in base} >= {"together", "groq", "deepinfra"}
    assert not apis_of(catalog.load_model("gpt2"))
    # A placeholder and what is retired are kept, and not compared with.
    assert all(api.provider != "hyperbolic" for api in apis_of(catalog.load_model("llama-3.1-405b")))


@given(
    usd_per_h=st.floats(0.01, 1000), tokens_per_s=st.floats(1, 1e6), utilization=st.floats(0.01, 1),
    api_usd=st.floats(0.01, 100),
)  # fmt: skip
def test_at_the_break_even_both_cost_the_same(
    usd_per_h: float, tokens_per_s: float, utilization: float, api_usd: float
) -> None:
    tokens = formulas.break_even_tokens_per_day(usd_per_day=24 * usd_per_h, saved_usd_per_million=api_usd)
    share = tokens / (86400 * tokens_per_s)
    own = formulas.usd_per_million(usd_per_h=usd_per_h, tokens_per_s=tokens_per_s, utilization=share)
    assert own == pytest.approx(api_usd)
    half = formulas.usd_per_million(usd_per_h=usd_per_h, tokens_per_s=tokens_per_s, utilization=utilization / 2)
    full = formulas.usd_per_million(usd_per_h=usd_per_h, tokens_per_s=tokens_per_s, utilization=utilization)
    assert half == pytest.approx(2 * full)


@given(
    usual_in=st.integers(1, 4096), usual_out=st.integers(1, 1024), prefill_s=st.floats(0.001, 10),
    request_s=st.floats(0.001, 100), times=st.integers(1, 9),
)  # fmt: skip
def test_the_machine_time_of_a_usual_request_is_its_own(
    usual_in: int, usual_out: int, prefill_s: float, request_s: float, times: int
) -> None:
    def seconds(prompt: int, output: int) -> float:
        return float(
            formulas.machine_s_per_request(
                prompt_tokens=prompt, output_tokens=output, usual_prompt_tokens=usual_in, usual_output_tokens=usual_out,
                prefill_s=prefill_s, request_s=request_s, most_prefill_share=0.9,
            )
        )  # fmt: skip

    assert seconds(usual_in, usual_out) == pytest.approx(request_s)
    assert seconds(times * usual_in, times * usual_out) == pytest.approx(times * request_s)
    assert seconds(usual_in + 1, usual_out) > seconds(usual_in, usual_out)
    assert seconds(usual_in, usual_out + 1) > seconds(usual_in, usual_out)


def test_closed_forms() -> None:
    # 2.95 USD/h at 1000 tokens/s, half of the time: 1.8 million tokens an hour.
    assert formulas.usd_per_million(usd_per_h=2.95, tokens_per_s=1000, utilization=0.5) == pytest.approx(2.95 / 1.8)
    # 450 W all month are 328.7 kWh.
    assert formulas.full_power_usd_per_month(watt=450, usd_per_kwh=0.15) == pytest.approx(328.725 * 0.15)
    assert formulas.purchase_usd_per_month(purchase_usd=3600, years=3) == 100
    assert formulas.mixed_usd_per_million(prompt_tokens=900, output_tokens=100, input_usd=1, output_usd=11) == 2
    assert formulas.replicas(tokens_per_day=100_000_000, tokens_per_s=1000, utilization=0.5) == 3


def cost(*gpu: str, **given: Any) -> CostReport:
    return fitcalc.cost("llama-3.1-8b", gpu=list(gpu), quant="fp8", concurrency=32, **given)


def test_a_report_adds_up() -> None:
    report, plan = cost("h100"), fitcalc.fit("llama-3.1-8b", gpu="h100", quant="fp8", concurrency=32)
    total, load, rent = plan.speed.total_tokens_per_s, report.load, report.rent
    assert total
    assert rent
    assert rent.usd_per_million
    assert rent.usd_per_million_output
    assert (load.prompt_tokens, load.output_tokens) == (plan.speed.prompt_tokens, plan.speed.generated_tokens)
    assert rent.usd_per_h == report.offers[0].usd_per_h == min(offer.usd_per_h for offer in report.offers)
    # All that an hour costs, over the answers made in half of it.
    answers = total.estimate * 3600 * 0.5
    assert rent.usd_per_million_output.estimate == pytest.approx(rent.usd_per_h * 1e6 / answers)
    assert rent.usd_per_million_output.low == pytest.approx(rent.usd_per_h * 1e6 / (total.high * 1800))
    prompts = load.prompt_tokens / load.output_tokens
    assert rent.usd_per_million_output.estimate == pytest.approx(rent.usd_per_million.estimate * (1 + prompts))
    assert load.tokens_per_day == pytest.approx(answers * 24 * (1 + prompts))


def test_what_is_owned_adds_up() -> None:
    own = cost("h100", years=2, electricity=0.1, utilization=1.0).own
    assert own
    assert own.usd_per_month
    assert own.electricity_usd_per_month == pytest.approx(0.7 * 730.5 * 0.1)
    assert own.usd_per_month.estimate == pytest.approx(27500 / 24 + 0.7 * 730.5 * 0.1)
    assert own.usd_per_month.low < own.usd_per_month.estimate < own.usd_per_month.high
    assert own.electricity_date == ""


def test_break_evens_are_where_the_money_is_equal() -> None:
    report = cost("h100")
    assert report.rent
    rate = report.load.tokens_per_s
    assert rate
    for api in report.apis:
        assert api.rent_from
        assert api.rent_from.tokens_per_day * api.usd_per_million / 1e6 == pytest.approx(
            24 * report.offers[0].usd_per_h
        )
        assert api.rent_from.utilization == pytest.approx(api.rent_from.tokens_per_day / (86400 * rate.estimate))
        assert api.rent_from.pays == (api.rent_from.utilization <= 1)
        if api.own_from and report.own and report.own.electricity_usd_per_month:
            busy = report.own.electricity_usd_per_month / report.load.utilization * api.own_from.utilization
            month = report.own.purchase_usd_per_month.estimate + busy
            assert api.own_from.tokens_per_day * 730.5 / 24 * api.usd_per_million / 1e6 == pytest.approx(month)
    assert [api.usd_per_million for api in report.apis] == sorted(api.usd_per_million for api in report.apis)


def test_a_load_takes_as_many_replicas_as_carry_it() -> None:
    one = cost("h100")
    assert one.load.tokens_per_s
    assert one.rent
    per_day = one.load.tokens_per_s.estimate * 86400
    many = cost("h100", tokens_per_day=2.4 * per_day, utilization=0.8)
    assert many.load.replicas == 3
    assert many.load.utilization == pytest.approx(0.8)
    assert many.rent
    assert many.rent.usd_per_h == pytest.approx(3 * one.rent.usd_per_h)
    assert many.own
    assert many.own.cards == 3
    little = cost("h100", tokens_per_day=0.01 * per_day)
    assert little.load.replicas == 1
    assert little.load.utilization == pytest.approx(0.01)
    assert little.rent
    assert little.rent.usd_per_million
    assert little.rent.usd_per_million.estimate == pytest.approx(24e6 * one.rent.usd_per_h / (0.01 * per_day))


def test_longer_answers_make_tokens_dearer() -> None:
    prices = []
    for output in (64, 256, 1024):
        rent = cost("h100", prompt=1024, output=output).rent
        assert rent
        assert rent.usd_per_million
        prices.append(rent.usd_per_million.estimate)
    assert prices == sorted(prices)


OWN = """
name = "Own machines"
provider = "own"
[sources.bill]
date = "2026-11-01"
text = "the bill of October"
[[offers]]
instance = "rack"
device = "h100-sxm"
count = 1
usd_per_h = 9.5
source = "bill"
[[electricity]]
region = "here"
usd_per_kwh = 0.3
source = "bill"
"""


def test_a_price_file_wins_for_the_cards_it_names(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN, encoding="utf-8")
    report = cost("h100", prices=path)
    assert [(offer.provider, offer.usd_per_h, offer.date) for offer in report.offers] == [("own", 9.5, "2026-11-01")]
    assert report.own
    assert report.own.usd_per_kwh == 0.3
    assert cost("a100-80", prices=[str(path)]).offers == cost("a100-80").offers


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('source = "bill"', 'source = "letter"', "letter"),
        ("usd_per_h = 9.5", "usd_per_h = -9.5", "no price"),
        ("usd_per_h = 9.5\n", "", "rack"),
        ("count = 1", 'count = "one"', "count"),
        ("usd_per_h = 9.5", "usd_per_hour = 9.5", "usd_per_hour"),
        ("[[offers]]", "[[offers]", "own.toml"),
    ],
)
def test_a_wrong_price_file_is_one_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ProfileError) as caught:
        cost("h100", prices=path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [{"utilization": 0}, {"utilization": 1.5}, {"years": 0}, {"tokens_per_day": -1}, {"prompt": 0},
     {"electricity": -0.1}, {"prompt": 9000, "context": 8192}],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        cost("h100", **given)


def test_what_is_not_known_is_none_with_a_note() -> None:
    report = fitcalc.cost("llama-3.1-70b", gpu="rtx-3090", quant="fp16")
    assert report.verdict == "does_not_fit"
    assert report.rent
    assert report.rent.usd_per_million is None
    assert all(api.rent_from is None for api in report.apis)
    assert any("does not fit" in note for note in report.notes)
    bare = fitcalc.cost("gpt2", gpu="24GB")
    assert (bare.rent, bare.own, bare.apis) == (None, None, ())
    assert len(bare.notes) >= 3
    mixed = fitcalc.cost("llama-3.1-8b", gpu=["rtx-3090", "rtx-3060"], quant="q4_k_m")
    assert mixed.rent is None
    assert any("different cards" in note for note in mixed.notes)


@pytest.mark.parametrize("width", [60, 80, 110])
def test_text_stays_within_its_width(width: int) -> None:
    text = cost_text(cost("h100", tokens_per_day=5e9), Style(width=width))
    assert max(map(len, text.splitlines())) <= max(width, 77)
    for words in ("RENT", "BUY", "2026-06", "together (2026-11)", "replicas"):
        assert words in text


def test_money_and_counts() -> None:
    assert [usd(value) for value in (0.0213, 0.04, 0.5, 1.8, 152791.4)] == [
        "$0.021", "$0.040", "$0.50", "$1.80", "$152,791",
    ]  # fmt: skip
    assert [count(value) for value in (4.13, 950, 33_400, 1.44e9, 999_600)] == ["4.1", "950", "33 k", "1.4 B", "1.0 M"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "fitcalc", "cost", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)


def test_the_command_line() -> None:
    done = run("llama-3.1-8b", "--gpu", "h100", "--quant", "fp8", "--tokens-per-day", "2.5B", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, json.loads((ROOT / "profiles" / "schema" / "cost.json").read_text(encoding="utf-8")))
    assert report["load"]["tokens_per_day"] == 2.5e9
    assert report["inputs"]["concurrency"] > 1
    text = run("llama-3.1-8b", "--gpu", "h100", "--quant", "fp8", "-n", "8", "--provider", "nebius")
    assert "$2.95 an hour" in text.stdout
    assert "8 requests at once" in text.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["llama-3.1-70b", "--gpu", "rtx-3090", "-q", "fp16"], 1),
        (["llama-3.1-8b", "--gpu", "h100", "--provider", "hetzner"], 2),
        (["llama-3.1-8b", "--gpu", "h100", "--tokens-per-day", "many"], 2),
        (["llama-3.1-8b", "--gpu", "h100", "--utilization", "2"], 2),
        (["llama-3.1-8b", "--gpu", "h100", "--prices", "missing.toml"], 2),
    ],
)
def test_exit_codes(arguments: list[str], code: int) -> None:
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
