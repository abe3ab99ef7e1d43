"""Every point of a sweep is what `fit` answers there: bytes exactly, speeds to rounding, refusals in the same words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fitcalc
from fitcalc import catalog
from fitcalc.api import settle
from fitcalc.errors import FitcalcError
from fitcalc.grids.limits import grows
from fitcalc.grids.points import TERM_COLUMNS, excess_bytes
from fitcalc.grids.watched import LARGEST, stays_within

MODELS = (
    "llama-3.1-8b", "gemma-3-27b", "deepseek-v3", "qwen3-30b-a3b", "mamba-2.8b", "mistral-7b-v0.1", "gpt-oss-20b",
    "jamba-v0.1", "llama-4-scout", "bert-base", "t5-base", "whisper-large-v3", "qwen3-next-80b-a3b", "llama-3.1-70b",
)  # fmt: skip
QUANTS = ("native", "bf16", "fp8", "awq", "gptq", "bnb-nf4", "q4_k_m", "q8_0", "iq4_xs", "mxfp4", "int8", "w4a16")
DEVICES: tuple[Any, ...] = (
    "a100-80", "rtx-4090", "rtx-4090:2", "h100-sxm:8", "rtx-3060", "raspberry-pi-5-8gb", "24GB", "rtx-3090 + rtx-3060",
    {"gpu": "rtx-4090", "ram": "64GB"}, {"gpu": "rtx-3060", "gpu_used": "1GiB"},
)  # fmt: skip
OF_EACH_KIND = (
    "smollm2-135m", "pythia-70m", "santacoder-1.1b", "gemma-2-2b", "gemma-3-1b", "phi-4-mini", "starcoder2-3b",
    "olmo3-7b", "phi-3-mini-4k", "phi-3-mini-128k", "llama-4-scout", "llama-3.2-11b-vision", "deepseek-coder-v2-lite",
    "deepseek-v3.2", "deepseek-v4-flash", "deepseek-v4-pro", "kimi-linear-48b-a3b", "qwen3.5-27b", "lfm2-1.2b",
    "granite-4.0-h-micro", "zamba-7b-v1", "yuan2-2b", "rwkv5-world-3b", "mamba-130m", "albert-base-v1", "whisper-tiny",
)  # fmt: skip
"""A model of every kind of attention and cache in the catalogue."""
ENGINES = tuple(name for name in catalog.ids("engines") if name != "diffusers")
"""Image generators are not swept: a context says nothing of them."""
SERVING: tuple[Any, ...] = ("h100-sxm:8", "a100-80", "rtx-4090:2", "mi300x", "dgx-h100:2", "b200")
LOCAL: tuple[Any, ...] = (
    "rtx-4090", {"gpu": "rtx-3060", "ram": "64GB"}, "rtx-3090 + rtx-3060", "raspberry-pi-5-8gb", "rtx-3090:2",
    {"gpu": "rtx-4070", "cpu": "ryzen-9-7950x", "ram": "96GB", "gpu_used": "1GiB"}, "apple-m4-max-40-128gb",
)  # fmt: skip
APPLE = ("apple-m4-max-40-128gb", "apple-m2-24gb")


def devices_of(engine: str) -> tuple[Any, ...]:
    """Devices that an engine is for."""
    profile = catalog.load_engine(engine)
    if "mlx" in profile.quant_kinds:
        return APPLE
    return LOCAL if "gguf" in profile.quant_kinds else SERVING


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
    model=st.sampled_from(MODELS),
    quant=st.sampled_from(QUANTS),
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


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    model=st.sampled_from(MODELS),
    quant=st.sampled_from(["q2_k", "q4_k_m", "q8_0", "iq4_xs"]),
    cards=st.lists(st.sampled_from(["rtx-3060", "rtx-4090", "a10", "h100-sxm"]), min_size=1, max_size=3),
    ram=st.sampled_from([None, "16GB", "64GB", "256GB"]),
    engine=st.sampled_from([None, *(name for name in catalog.ids("engines") if name.startswith(("llama", "ollama")))]),
    contexts=st.lists(st.integers(1, 200_000), min_size=2, max_size=3, unique=True),
    concurrencies=st.lists(st.integers(1, 300), min_size=2, max_size=3, unique=True),
)
def test_layers_move_in_a_sweep_as_in_an_answer(
    model: str, quant: str, cards: list[str], ram: str | None, engine: str | None, contexts: list[int],
    concurrencies: list[int],
) -> None:  # fmt: skip
    device = {"gpu": cards, **({"ram": ram} if ram else {})}
    found = fitcalc.sweep(
        model, devices=[device], quants=quant, engines=engine, contexts=contexts, concurrencies=concurrencies
    )
    for record in found.to_records():
        same_as_fit(record, device, quant, engine, None)


def test_the_models_are_of_every_kind_in_the_catalogue() -> None:
    def kind(name: str) -> tuple[str, frozenset[str]]:
        spec = fitcalc.load_model(name)
        return spec.attention, frozenset(layer.kind for layer in spec.cache_layers)

    swept = [name for name in catalog.ids("models") if not fitcalc.load_model(name).makes_images]
    assert set(map(kind, swept)) == set(map(kind, OF_EACH_KIND))


def same_at_two_points(model: str, quant: str, engine: str | None, device: Any, kv_dtype: str | None = None) -> bool:
    """Whether a block of four points has numbers, and two of them those of `fit`."""
    longest = fitcalc.load_model(model).max_context_tokens or 4096
    found = fitcalc.sweep(
        model, devices=[device], quants=quant, engines=engine, kv_dtypes=kv_dtype, contexts=[longest, 700],
        concurrencies=[1, 5],
    ).to_records()  # fmt: skip
    for record in found[1:3]:
        same_as_fit(record, device, quant, engine, kv_dtype)
    return not found[1]["refusal"]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_is_swept_as_it_is_asked_about_every_kind_of_attention(engine: str) -> None:
    profile, places = catalog.load_engine(engine), devices_of(engine)
    quants = ("q4_k_m", "bf16", "iq3_xs") if "gguf" in profile.quant_kinds else ("native", "bf16", "mlx-4bit")
    quants = quants if places != SERVING else ("native", "fp8", "awq")
    types = (None, *profile.kv_types)
    ran = [
        same_at_two_points(model, quants[i % 3], engine, places[i % len(places)], types[i % len(types)])
        for i, model in enumerate(OF_EACH_KIND)
    ]
    assert sum(ran) >= 5


@pytest.mark.parametrize("quant", catalog.ids("quants"))
def test_every_quantization_is_swept_as_it_is_asked(quant: str) -> None:
    scheme = catalog.load_scheme(quant)
    engine = next(name for name in scheme.engines if name in ENGINES)
    place = {"gguf": "rtx-4090", "mlx": APPLE[0]}.get(scheme.kind, "b200")
    assert same_at_two_points("qwen3-8b", quant, engine, place)


@pytest.mark.parametrize(
    ("model", "device", "quant"), [("llama-3.1-8b", "a100-80:2", "awq"), ("qwen3-30b-a3b", "h100-sxm", "fp8")]
)
def test_what_a_point_costs_is_what_cost_says_of_a_busy_machine(model: str, device: str, quant: str) -> None:
    found = fitcalc.sweep(model, devices=device, quants=quant, contexts=8192, concurrencies=[1, 16])
    for record in found.records():
        rent = fitcalc.cost(
            model, gpu=device, quant=quant, context=8192, concurrency=record["concurrency"], utilization=1.0
        ).rent
        assert rent is not None
        assert record["usd_per_h"] == rent.usd_per_h
        assert record["usd_per_million_tokens"] == pytest.approx(rent.usd_per_million_output.estimate, rel=1e-9)


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
        # A KV type that llama.cpp has and Ollama has not, once found out after the plan was made.
        ("llama-3.1-8b", "q4_k_m", "ollama", "rtx-4090", [512], [1], "q5_1"),
        # The words for a KV type that engines of other quantizations lack, for divisions, for accelerators.
        ("qwen3-8b", "awq", None, "v100-16-pcie:8", [512], [1], "nonsense"),
        ("mistral-small-3.2-24b", "q8_0", None, "dgx-h100:4", [512], [1], "nonsense"),
        ("llama-4-scout", "w4a16", "tgi", "gaudi3", [512], [1], None),
        # Memory shrinks in places as requests or contexts grow: a smaller batch of Ollama's, a micro-batch that is a
        # multiple of fewer streams, prompts in pieces. A limit then depends on the way it is sought.
        ("phi-4-mini", "q4_k_s", "ollama", "rtx-2000-ada", [513], [1, 96], None),
        ("gemma-3-1b", "q4_1", "ollama", "rtx-3060-8gb", [511], [255, 2], "fp16"),
        ("bge-large-en", "q3_k_l", "llama.cpp", {"gpu": "apple-m1-max-32gb", "gpu_used": 22632147292}, [381], [1],
         None),
        ("deepseek-v2", "q4_k_m", "llama.cpp", {"gpu": "b200", "gpu_used": 45982543248}, [1], [1], None),
        ("lfm2-1.2b", "fp16", "vllm-0.8", "rtx-2060", [2], [10], "fp8_e5m2"),
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


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_said_to_grow_never_shrinks(engine: str) -> None:
    """So that a limit is the same however it is sought; what may shrink is sought by the questions of `fit`."""
    quant = "mlx-4bit" if devices_of(engine) == APPLE else "bf16"
    for model in OF_EACH_KIND:
        try:
            case = settle(model, quant=quant, engine=engine, context=64, **asked(devices_of(engine)[0])).case
        except FitcalcError:
            continue
        if not grows(case):
            continue
        numbers = np.unique(np.concatenate([np.arange(1, 300), 2 ** np.arange(9, 17), 2 ** np.arange(9, 17) + 1]))
        for fixed in (1, 100, 700):
            known = np.full_like(numbers, fixed)
            for contexts, requests in ((numbers, known), (known, numbers)):
                grown = np.diff(excess_bytes(case, contexts[None, :], requests[None, :]).reshape(-1))
                assert (grown >= 0).all(), model


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


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", ["smollm2-135m", "mamba-130m", "deepseek-coder-v2-lite"])
def test_the_largest_numbers_are_those_of_fit_or_refused(model: str, engine: str) -> None:
    device = devices_of(engine)[0]
    found = fitcalc.sweep(
        model, devices=device, quants="bf16", engines=engine, contexts=[2**31, 3], concurrencies=[200, 2**20]
    )
    for record in found.records():
        if "64 bits" not in (record["refusal"] or ""):
            same_as_fit(record, device, "bf16", engine, None)


@pytest.mark.parametrize(
    ("model", "quant", "engine", "device", "contexts", "concurrencies"),
    [
        # The search for a limit goes far beyond the points asked for.
        ("gemma-2-27b", "w8a16", "vllm-0.19", "mi210", [10**9, 2**31 - 1, 2**20], [7, 255]),
        ("deepseek-v2-lite", "mlx-4bit", "mlx", "apple-m4-pro-48gb", [2**31 - 1, 1], [7, 1]),
        ("olmo3-7b", "bnb-nf4", "tgi", "rtx-5070-laptop", [2**30, 1], [255, 1]),
        # A number on the way is beyond 64 bits, the bytes are not.
        ("kimi-k3", "gptq-g32", "sglang-0.4.10", "hgx-a100-40", [512, 3_145_729], [4096, 1]),
    ],
)
def test_far_corners_and_limits_do_not_wrap(
    model: str, quant: str, engine: str, device: str, contexts: list[int], concurrencies: list[int]
) -> None:
    found = fitcalc.sweep(
        model, devices=device, quants=quant, engines=engine, contexts=contexts, concurrencies=concurrencies
    )
    for record in found.records():
        same_as_fit(record, device, quant, engine, None)
        assert not record["refusal"]


@given(st.integers(1, 2**40), st.integers(1, 2**40))
def test_the_watch_sees_every_number_on_the_way(first: int, second: int) -> None:
    peak = first * second * 3
    assert stays_within(lambda a, b: (a * b * 3) // (a * b) - b, first, second) == (peak < LARGEST)
