"""Published speeds as the model sees them: work, rates, division and load of each record, and what cannot be used.

records/throughput.jsonl.gz holds the rows (numbers, each with its source; `model`, `quant` and `devices` are ids of
the catalogue), records/speed_models.json the shapes of models that rows name and the catalogue does not hold.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fitcalc import catalog
from fitcalc.architectures import from_config
from fitcalc.errors import FitcalcError
from fitcalc.quantization import assign, total_bytes
from fitcalc.spec.hardware import Device
from fitcalc.spec.model import ModelSpec
from fitcalc.speeds.rates import device_class, rates_of, storage_kind
from fitcalc.speeds.steps import Division, Rates
from fitcalc.speeds.work import HOST, Work, everywhere, placed, scaled, work_of

RECORDS = Path(__file__).parent / "records" / "throughput.jsonl.gz"
MODELS = Path(__file__).parent / "records" / "speed_models.json"
FAMILIES = {
    "ctransformers": "llama_cpp", "llama.cpp": "llama_cpp", "ik_llama.cpp": "tuned_cpu", "t-mac": "tuned_cpu",
    "ipex": "tuned_cpu", "exllama": "torch_4bit", "autoawq": "torch_4bit", "mlc": "fused", "lmdeploy": "fused",
    "deepspeed-mii": "fused", "ctranslate2": "transformers", "onnxruntime": "transformers",
    "autogptq": "transformers", "tensorrt-llm": "tensorrt_llm",
}  # fmt: skip
"""Engine of a row -> family whose parameters hold for it; others are families themselves."""
GGUF_ENGINES = ("llama.cpp", "ik_llama.cpp", "t-mac", "ctransformers")
UNPACKING = {
    "q8_0": 0.6, "q6_k": 1.5, "q5_k": 1.5, "q5_0": 1.5, "iq4_xs": 1.3, "iq4_nl": 1.3, "q3_k": 1.5, "q2_k": 1.4,
    "iq3_s": 3.0, "iq3_xxs": 3.0, "iq2_xs": 3.0, "iq2_s": 3.0, "iq2_xxs": 3.0, "": 1.0,
}  # fmt: skip
MLPERF_PROMPT_TOKENS = {"llama-2-70b": 420, "mixtral-8x7b": 300}
"""Mean prompt lengths of the data sets; the logs do not hold them."""
OFFLINE_REQUESTS = 2048
"""Requests in flight where all are queued at once: the engine's own limit."""
SERVED_QUANTS_8BIT_CACHE = ("fp8", "nvfp4", "mxfp4")


class Sample(NamedTuple):
    """One record and what the model needs of it."""

    record: dict[str, Any]
    kind: str
    """decode, prefill, loop (closed-loop serving), offline (everything queued) or offload."""
    family: str
    device: Device
    device_class: str
    work: Work
    host_work: Work | None
    rates: Rates
    division: Division
    requests: float
    prompt: float
    generated: float
    depth: float
    replicas: float
    room_tokens: float
    cache_elem_bytes: float
    file_bytes: float
    active_params: float
    group: tuple[str, ...]

    @property
    def variant(self) -> str:
        """What else has its own parameters: kernels and backends, and what selects kernels.

        Servers multiply 4-bit, 8-bit and 16-bit weights in kernels of their own. GeForce cards differ by generation
        in the share of their memory's peak that a token reaches (Ada's cache is twelve times Ampere's).
        """
        record = self.record
        if self.kind in ("loop", "offline") or (self.family in ("transformers", "sglang") and self.kind == "decode"):
            return storage_kind(catalog.load_scheme(record["quant"]))
        if self.family == "llama_cpp" and self.kind == "decode" and self.device_class == "nvidia-consumer":
            return self.device.arch.lower()
        if self.family == "tuned_cpu":
            return str(record["engine"])
        if self.device_class.startswith("amd") and self.kind == "prefill":
            return str(record.get("backend", ""))
        return str(record.get("kernel", ""))


def rows() -> list[dict[str, Any]]:
    with gzip.open(RECORDS, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@lru_cache
def model_of(name: str) -> ModelSpec:
    extra = json.loads(MODELS.read_text(encoding="utf-8"))["models"]
    return replace(from_config(extra[name]), id=name, name=name) if name in extra else catalog.load_model(name)


@lru_cache
def stored_of(name: str, quant: str, gguf: bool) -> Any:
    return assign(model_of(name), catalog.load_scheme(quant), gguf=gguf)


def kind_of(record: dict[str, Any]) -> str:
    if "offload" in record:
        return "offload" if record["kind"] == "decode1" else "offload_prefill"
    if record["kind"] == "prefill":
        return "prefill"
    if record["kind"] == "decode1":
        return "decode"
    if record.get("static"):
        return "batch"
    return "offline" if record["counted"] in ("max_load", "offline", "server") else "loop"


def samples() -> tuple[list[Sample], Counter[str]]:
    """The records that can be compared, and why the others cannot."""
    found: list[Sample] = []
    left: Counter[str] = Counter()
    for record in rows():
        made = sample_of(record)
        if isinstance(made, str):
            left[made] += 1
        else:
            found.append(made)
    return found, left


def sample_of(record: dict[str, Any]) -> Sample | str:
    model, gguf = model_of(record["model"]), record["engine"] in GGUF_ENGINES
    try:
        stored = stored_of(record["model"], record["quant"], gguf)
    except FitcalcError:
        return "format without a layout"
    scheme = catalog.load_scheme(record["quant"])
    cards = [catalog.load_device(name) for name, count in record["devices"] for _ in range(count)]
    device = cards[0]
    rates = rates_of(device, storage_kind(scheme), record.get("threads"))
    if rates is None:
        return "rates of the device not known"
    kind = kind_of(record)
    size = total_bytes(stored)
    factor = _file_factor(record, size, model.params_total)
    works = _works(record, model, stored, kind)
    if works is None:
        return "what is on the card is not stated"
    division = _division(record, model, device, size * factor, len(cards))
    if isinstance(division, str):
        return division
    capacity = (device.memory_bytes if device.kind == "unified" else device.usable_bytes) or 1 << 60
    if not kind.startswith("offload") and size * factor > capacity * len(cards) * (0.93 if device.kind == "gpu" else 1):
        return "does not fit the device (moved to RAM without saying how much)"
    served = kind in ("loop", "offline")
    eight_bit_cache = record["engine"] == "tensorrt-llm" and record["quant"] in SERVED_QUANTS_8BIT_CACHE
    prompt = record.get("prompt") or (MLPERF_PROMPT_TOKENS.get(record["model"], 400) if kind == "offline" else 0)
    if served and not (prompt and record.get("generated")):
        return "lengths not stated"
    work, host_work = works
    if host_work is not None and not (host_work.layers or host_work.expert_bytes):
        kind, host_work = kind.replace("offload_prefill", "prefill").replace("offload", "decode"), None
    sample = Sample(
        record=record, kind=kind, family=FAMILIES.get(record["engine"], record["engine"]), device=device,
        device_class=device_class(device), work=scaled(work, factor),
        host_work=scaled(host_work, factor) if host_work else None, rates=rates, division=division,
        requests=record.get("requests") or (OFFLINE_REQUESTS if kind == "offline" else 1), prompt=prompt,
        generated=record.get("generated") or 256, depth=record.get("depth", 0), replicas=1, room_tokens=1e12,
        cache_elem_bytes=1 if eight_bit_cache else 2, file_bytes=size * factor, active_params=model.params_active,
        group=(_source(record["source"]), device.id, record["stated_model"]),
    )  # fmt: skip
    return _served(sample, len(cards)) if served else sample


def _source(source: str) -> str:
    return re.sub(r"(/17\d.*| id=.*| closed.*)$", "", source)


def _file_factor(record: dict[str, Any], size: int, params: int) -> float:
    """How much the row's own file differs from the recipe: by its stated size, or its stated bits per weight."""
    if "weights_gib" in record:
        return float(record["weights_gib"]) * 2**30 / size
    if "bits" in record:
        return (float(record["bits"]) + 0.15) * params / 8 / size
    return 1.0


def _works(record: dict[str, Any], model: ModelSpec, stored: Any, kind: str) -> tuple[Work, Work | None] | None:
    if not kind.startswith("offload"):
        return work_of(model, stored, UNPACKING, everywhere, absorbs=record["engine"] in GGUF_ENGINES), None
    stated = str(record["offload"])
    experts = record.get("cpu_experts", 0)
    layers = record.get("gpu_layers", 999)
    whole = stated.startswith(("all on", "100% GPU", "GPU", "UMA", "33/33", "36/36"))
    if not (whole or experts or layers < model.layers or "--n-cpu-moe 0" in stated):
        return None
    first = max(model.layers + 1 - layers, 0)
    ranks = [HOST if layer < first else 0 for layer in range(model.layers + 1)]
    return (
        work_of(model, stored, UNPACKING, placed(ranks, 0, experts), absorbs=True),
        work_of(model, stored, UNPACKING, placed(ranks, HOST, experts), absorbs=True),
    )


def _division(record: dict[str, Any], model: ModelSpec, device: Device, size: float, cards: int) -> Division | str:
    ranks, stages = record.get("tp") or 1, record.get("pp") or 1
    kind = kind_of(record)
    if kind == "loop" and model.heads % ranks:
        return "stated tensor parallel degree does not divide the heads (another kind of parallelism)"
    if kind == "offline" and not record.get("tp") and cards > 1 and stages == 1:
        room = 0.55 * (device.usable_bytes or 1)
        ranks = next((count for count in (1, 2, 4, 8) if size < count * room), 8)
    apart = (record.get("adp") or 1) > 1 or (record["counted"] == "max_load" and model.is_moe and ranks > 1)
    return Division(ranks, stages, int(apart))


def _served(sample: Sample, cards: int) -> Sample:
    """With replicas and the room of one replica's cache."""
    ranks, stages, work = sample.division.ranks, sample.division.stages, sample.work
    replicas = max(1, cards // (ranks * stages))
    free = ranks * stages * ((sample.device.usable_bytes or 0) * 0.92 - 1.5 * 2**30) - sample.file_bytes
    held = ranks if sample.division.attends_apart else min(ranks, work.kv_heads)
    per_request = sample.prompt + sample.generated / 2
    window = min(per_request, work.window_tokens) / per_request
    per_token = (work.cell_elems + work.window_cell_elems * window) * sample.cache_elem_bytes
    per_token = max(per_token + work.state_bytes / per_request, 1) * ranks / held
    return sample._replace(
        replicas=replicas, requests=sample.requests / replicas if sample.kind == "loop" else sample.requests,
        room_tokens=max(free, 1) / per_token,
    )  # fmt: skip


def stacked(chosen: list[Any]) -> Any:
    """Dataclasses of numbers -> one dataclass of arrays."""
    cls = type(chosen[0])
    names = cls.__match_args__
    return cls(**{name: np.array([getattr(one, name) for one in chosen], float) for name in names})


def truths(sample: Sample) -> dict[str, float]:
    """What was measured: tokens_per_s, or token_s, first_s and tokens_per_s of a closed loop."""
    record = sample.record
    rate, token, first = (record.get(name) for name in ("tokens_per_s", "tpot_s", "ttft_s"))
    if sample.kind != "loop":
        return {"tokens_per_s": float(rate)} if rate else {}
    found = {"token_s": token, "first_s": first, "tokens_per_s": rate}
    if not rate and token and first:
        # Throughput of a closed loop follows from its times.
        time = first + token * (sample.generated - 1)
        found["tokens_per_s"] = record["requests"] * sample.generated / time
    return {name: float(value) for name, value in found.items() if value}


def finite_log(values: Any) -> Any:
    return np.log(np.maximum(values, math.exp(-60)))
