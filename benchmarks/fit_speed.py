"""Fit the parameters of profiles/speed to the published speeds: robust loss on log errors, shrunk towards the pool.

    python benchmarks/fit_speed.py          fit to all records and write profiles/speed/*.toml
    python benchmarks/accuracy/speed.py     how well a fit predicts records that it has not seen

Each family of engines and class of devices gets its own parameters as far as its records ask for them: a penalty on
the distance to the family's fit (and of that to all engines') keeps what few records cannot tell. Coordinate descent,
started anew a few times; nothing but numpy.
"""

from __future__ import annotations

import math
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "accuracy"))

from speed_records import Sample, finite_log, stacked, truths

from fitcalc.speeds.serving import Load, serve
from fitcalc.speeds.steps import Parameters, Rates, decode_parts, prompt_parts

Values = dict[str, float]
Key = tuple[str, ...]

BOUNDS: dict[str, tuple[float, float]] = {
    "bandwidth_share": (0.05, 0.97), "cache_share": (0.02, 1), "unpack_ops": (1e-3, 100), "plain_ops": (1e-3, 60),
    "layer_s": (1e-7, 4e-3), "expert_layer_s": (1e-8, 4e-3), "expert_s": (1e-10, 1e-3),
    "recurrent_layer_s": (1e-8, 1e-3), "latent_layer_s": (1e-8, 1e-3), "step_s": (1e-6, 0.05),
    "request_s": (1e-8, 2e-4), "stage_s": (1e-7, 5e-3), "compute_share": (0.005, 1.3), "expert_factor": (1, 12),
    "attention_share": (0.002, 1), "dequantized_bytes": (1e-3, 60), "activation_bytes": (0.1, 5000),
    "all_reduce_s": (1e-7, 3e-4), "core_bytes_per_s": (1e9, 8e10), "mixed_share": (0.02, 1.2),
    "queue_share": (0.02, 2.5), "wait_share": (0.01, 1), "first_s": (1e-4, 1), "client_s": (1e-4, 3),
    "host_bytes_per_s": (5e9, 3e11), "pcie_share": (0.05, 1),
    "pipeline_gain": (0.02, 1),
}  # fmt: skip
DECODE = (
    "bandwidth_share", "unpack_ops", "plain_ops", "layer_s", "cache_share", "expert_layer_s", "recurrent_layer_s",
    "latent_layer_s", "step_s",
)  # fmt: skip
PREFILL = (
    "compute_share", "attention_share", "dequantized_bytes", "activation_bytes", "expert_factor", "layer_s",
    "recurrent_layer_s", "expert_layer_s", "pipeline_gain",
)  # fmt: skip
SERVING = (
    "bandwidth_share", "cache_share", "layer_s", "expert_layer_s", "recurrent_layer_s", "latent_layer_s", "step_s",
    "request_s", "compute_share", "expert_factor", "attention_share", "all_reduce_s", "mixed_share", "queue_share",
    "wait_share", "first_s",
)  # fmt: skip
CPU_CLASSES = ("cpu", "board")
SERVED_PASS_TOKENS = 8192
START: dict[str, Values] = {
    "decode": {},
    "batch": {},
    "prefill": {"compute_share": 0.4, "layer_s": 5e-5, "step_s": 1e-6, "attention_share": 0.2},
    "loop": {"bandwidth_share": 0.75, "unpack_ops": 1e-3, "step_s": 1e-3, "compute_share": 0.6,
             "attention_share": 0.3, "dequantized_bytes": 1e-3, "activation_bytes": 0.1,
             "pass_tokens": SERVED_PASS_TOKENS, "expert_layer_s": 1e-5},
}  # fmt: skip
START["offline"] = START["loop"]
KINDS = {"decode": "decode", "batch": "decode", "prefill": "prefill", "loop": "loop", "offline": "offline"}
"""Kind of record -> set of parameters it is predicted with."""


def arrays(samples: list[Sample]) -> dict[str, Any]:
    """The samples as arrays, with the logarithms of what was measured (nan where it was not)."""
    found: dict[str, Any] = {
        "work": stacked([s.work for s in samples]),
        "rates": stacked([s.rates for s in samples]),
        "division": stacked([s.division for s in samples]),
    }
    for name in ("requests", "prompt", "generated", "depth", "replicas", "room_tokens", "cache_elem_bytes"):
        found[name] = np.array([getattr(s, name) for s in samples], float)
    # Many rows of one table on one device tell less than their number. Serving tables differ within a device.
    blocks = [s.group[:2] if s.kind in ("decode", "batch") else s.record["id"] for s in samples]
    found["weight"] = np.array([1 / math.sqrt(blocks.count(block)) for block in blocks])
    for name in ("client", "total"):
        found[name] = np.array([s.record["counted"] == name for s in samples], float)
    measured = [truths(s) for s in samples]
    for name in ("tokens_per_s", "token_s", "first_s"):
        found[name] = np.log(np.array([one.get(name, math.nan) for one in measured], float))
    return found


def predicted(kind: str, a: dict[str, Any], p: Parameters) -> dict[str, Any]:
    """Quantity -> predictions, for records of one kind."""
    if kind == "prefill":
        return {"tokens_per_s": prompt_rate(a, p)}
    if kind in ("decode", "batch"):
        return {"tokens_per_s": decode_rate(a, p)}
    load = Load(a["requests"], a["prompt"], a["generated"], a["room_tokens"], a["cache_elem_bytes"])
    served = serve(a["work"], a["rates"], p, a["division"], load)
    rate = served.total_tokens_per_s * a["replicas"]
    return {"tokens_per_s": rate, "token_s": served.token_s, "first_s": served.first_s}


def prompt_rate(a: dict[str, Any], p: Parameters) -> Any:
    tokens = a["prompt"] * a["requests"]
    passes = np.ceil(tokens / p.pass_tokens)
    parts = prompt_parts(a["work"], a["rates"], p, a["division"], tokens, a["depth"], passes)
    return tokens / parts.total_s


def decode_rate(a: dict[str, Any], p: Parameters) -> Any:
    """Tokens per second; rows that count prompt tokens or a client's overhead are predicted as they count."""
    start = np.where(a["depth"] > 0, a["depth"], a["prompt"])
    context = start + a["generated"] / 2
    step = decode_parts(a["work"], a["rates"], p, a["division"], a["requests"], context, a["cache_elem_bytes"]).total_s
    step = step + a["client"] * p.client_s / a["generated"]
    if not a["total"].any():
        return a["requests"] / step
    prompt = np.maximum(a["prompt"], 1)
    passes = np.ceil(prompt / SERVED_PASS_TOKENS)
    filling = prompt_parts(a["work"], a["rates"], p, a["division"], prompt, 0, passes).total_s
    whole = (prompt + a["generated"]) / (filling + a["generated"] * step)
    return np.where(a["total"] > 0, whole, a["requests"] / step)


def names_of(kind: str, samples: list[Sample]) -> tuple[str, ...]:
    """The parameters that these records can tell something of."""
    if kind == "prefill":
        return PREFILL
    if kind in ("loop", "offline"):
        return SERVING
    names = list(DECODE)
    counted = {s.record["counted"] for s in samples}
    if "total" in counted or any(s.requests > 1 for s in samples):
        names += ["compute_share", "attention_share", "expert_factor"]
    if "client" in counted:
        names.append("client_s")
    if any(s.division.ranks > 1 for s in samples):
        names.append("all_reduce_s")
    if any(s.division.stages > 1 for s in samples):
        names.append("stage_s")
    if any(s.family == "transformers" for s in samples):
        names.append("expert_s")
    if any(s.device_class in CPU_CLASSES for s in samples):
        names.append("core_bytes_per_s")
    return tuple(names)


def descend(cost: Callable[[Values], float], start: Values, names: Iterable[str]) -> tuple[Values, float]:
    """Coordinate descent with factors that shrink."""
    best, least = dict(start), cost(start)
    for factor in (2.0, 1.5, 1.2, 1.08, 1.03):
        for _ in range(6):
            improved = False
            for name in names:
                low, high = BOUNDS[name]
                for trial in (best[name] * factor, best[name] / factor):
                    tried = best | {name: min(high, max(low, trial))}
                    value = cost(tried)
                    if value < least - 1e-6:
                        best, least, improved = tried, value, True
            if not improved:
                break
    return best, least


def fitted(kind: str, samples: list[Sample], start: Values, pull: float, starts: int = 1) -> Values:
    """Parameters for the samples, pulled towards `start` with the weight of `pull` records per e-fold."""
    names, a, count = names_of(kind, samples), arrays(samples), len(samples)
    weights = {"tokens_per_s": 1.0, "token_s": 1.0, "first_s": 0.5}

    def cost(values: Values) -> float:
        total = seen = 0.0
        for name, value in predicted(kind, a, Parameters(**values)).items():
            errors = finite_log(value) - a[name]
            told = ~np.isnan(errors)
            errors, weight = errors[told], weights[name] * a["weight"][told]
            total += float((weight * np.sqrt(errors * errors + 9e-4)).sum())
            seen += float(weight.sum())
        distance = sum(abs(math.log(values[name] / start[name])) for name in names)
        return total / max(seen, 1) + pull / count * distance

    best, least = descend(cost, start, names)
    dice = random.Random(0)
    for _ in range(starts):
        moved = dict(best)
        for name in names:
            low, high = BOUNDS[name]
            moved[name] = min(high, max(low, moved[name] * math.exp(dice.gauss(0, 0.7))))
        found, value = descend(cost, moved, names)
        if value < least - 1e-5:
            best, least = found, value
    return best


PULL = 0.1
FEWEST = 3
"""Fewer records get the parameters of the level above."""


def fit(samples: list[Sample]) -> dict[Key, Values]:
    """(kind,), (kind, family), (kind, family, class) and, where there is one, (…, variant) -> parameters."""
    found: dict[Key, Values] = {}
    by_kind: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.kind in KINDS:
            by_kind[KINDS[sample.kind]].append(sample)
    for kind, chosen in sorted(by_kind.items()):
        for side in ("gpu", "cpu"):
            mine = [s for s in chosen if (s.device_class in CPU_CLASSES) == (side == "cpu")]
            start = asdict(Parameters()) | START[kind]
            if side == "cpu":
                start |= {"unpack_ops": 2.0, "step_s": 1e-3, "bandwidth_share": 0.75}
            found[(kind, side)] = fitted(kind, mine, start, 10 * PULL) if len(mine) >= FEWEST else start
            _fit_families(kind, side, mine, found)
    found[HOST_KEY] = host_values(samples, found)
    return found


HOST_KEY = ("decode", "llama_cpp", "host")
HOST_START = {
    "bandwidth_share": 1.0, "unpack_ops": 1e-3, "plain_ops": 1e-3, "layer_s": 3e-5, "expert_layer_s": 3e-5,
    "step_s": 0.0, "request_s": 0.0, "stage_s": 0.0, "host_bytes_per_s": 3e10,
}  # fmt: skip


def host_values(samples: list[Sample], found: dict[Key, Values]) -> Values:
    """RAM behind a card, of hosts whose CPU is not stated: bytes per second and the time of a layer's hand-over."""
    mine = [s for s in samples if s.kind == "offload" and s.host_work and s.host_work.layers + s.host_work.expert_bytes]
    start = asdict(Parameters()) | HOST_START
    if len(mine) < FEWEST:
        return start
    cards = [offload_parts(s, found, start)[0] for s in mine]
    blocks = [s.group[0] for s in mine]

    def cost(values: Values) -> float:
        errors = [
            abs(math.log((card + offload_parts(s, found, values)[1]) * truths(s)["tokens_per_s"]))
            / math.sqrt(blocks.count(s.group[0]))
            for s, card in zip(mine, cards, strict=True)
        ]
        return sum(errors)

    return descend(cost, start, ("host_bytes_per_s", "layer_s", "expert_layer_s"))[0]


def offload_parts(sample: Sample, found: dict[Key, Values], host: Values) -> tuple[float, float]:
    """Seconds of a token on the card and on the host."""
    p = Parameters(**parameters_for(found, sample._replace(kind="decode")))
    context = sample.depth + sample.generated / 2
    card = decode_parts(sample.work, sample.rates, p, sample.division, 1, context, 2).total_s
    rate = host["host_bytes_per_s"]
    if sample.host_work is None:
        return float(card), 0.0
    rates = Rates(rate, 1e15, 1e15, 1e15)
    there = decode_parts(sample.host_work, rates, Parameters(**host), sample.division, 1, context, 2).total_s
    return float(card), float(there)


def _fit_families(kind: str, side: str, samples: list[Sample], found: dict[Key, Values]) -> None:
    for family, mine in _parted(samples, lambda s: s.family).items():
        found[(kind, side, family)] = _level(kind, mine, found[(kind, side)], 2 * PULL)
        for device_class, same in _parted(mine, lambda s: s.device_class).items():
            found[(kind, family, device_class)] = _level(kind, same, found[(kind, side, family)], PULL)
            for variant, few in _parted(same, lambda s: s.variant).items():
                if variant:
                    key = (kind, family, device_class, variant)
                    found[key] = _level(kind, few, found[(kind, family, device_class)], PULL)


def _level(kind: str, samples: list[Sample], start: Values, pull: float) -> Values:
    return fitted(kind, samples, start, pull) if len(samples) >= FEWEST else start


def _parted(samples: list[Sample], of: Callable[[Sample], str]) -> dict[str, list[Sample]]:
    parts: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        parts[of(sample)].append(sample)
    return parts


def parameters_for(found: dict[Key, Values], sample: Sample) -> Values:
    """The most specific parameters that were fitted."""
    kind, family, device_class = KINDS[sample.kind], sample.family, sample.device_class
    side = "cpu" if device_class in CPU_CLASSES else "gpu"
    keys: tuple[Key, ...] = (
        (kind, family, device_class, sample.variant), (kind, family, device_class), (kind, side, family), (kind, side),
    )  # fmt: skip
    if key := next((key for key in keys if key in found), None):
        return found[key]
    return asdict(Parameters()) | START[kind]


HEADER = """\
# Fitted by benchmarks/fit_speed.py to the published speeds in benchmarks/accuracy/records. What a parameter means
# stands in fitcalc/speeds/steps.py. records: how many a table rests on. interval: factors that 80 % of held-out
# measurements were within, by class of device; unseen: of devices that no record names.
"""
PROFILES = Path(__file__).parents[1] / "profiles" / "speed"
SHIPPED = {
    "llama_cpp": ("llama.cpp", "decode", "prefill"),
    "mlx": ("MLX", "decode"),
    "sglang": ("SGLang", "decode", "loop"),
    "tensorrt_llm": ("TensorRT-LLM", "loop", "offline"),
    "transformers": ("Transformers", "decode"),
    "vllm": ("vLLM", "loop", "offline"),
}
"""Family -> its name and the kinds of parameters it has."""
UNMODELLED = {
    "transformers": {"experts_unmodelled": "not modelled for experts, which run one after the other in Python here"},
}
"""Family -> why something of it has no estimate: held-out errors there are a factor of ten and more."""
LINKS = {"ollama": "llama_cpp", "tgi": "vllm"}


def toml_value(value: Any) -> str:
    return (
        str(value) if isinstance(value, int) else f"{float(f'{value:.3g}'):g}".replace("e-0", "e-").replace("e+", "e")
    )


def toml_table(name: str, values: dict[str, Any]) -> list[str]:
    standard = asdict(Parameters())
    lines = [f"[{name}]"]
    for key, value in values.items():
        if key == "records" or abs(value - standard[key]) > 1e-9 * abs(standard[key]):
            lines.append(f"{key} = {toml_value(value)}")
    return [*lines, ""]


def family_tables(found: dict[Key, Values], family: str, counts: dict[Key, int]) -> list[str]:
    """The tables of one family, most general first."""
    lines: list[str] = []
    for kind in ("decode", "prefill", "loop", "offline"):
        for key, values in sorted(found.items()):
            if key[0] != kind or family not in key:
                continue
            if key[1] in ("gpu", "cpu"):
                name = "any" if key[1] == "gpu" else "any-cpu"
                if key[1] == "cpu" and (kind, "gpu", family) not in found:
                    name = "any"
            else:
                name = ":".join(key[2:])
            lines += toml_table(f'{kind}."{name}"', {"records": counts.get(key, 0)} | values)
    return lines


def default_tables(found: dict[Key, Values], kinds: tuple[str, ...] = ("decode", "prefill")) -> list[str]:
    lines: list[str] = []
    for kind in kinds:
        for side, name in (("gpu", "any"), ("cpu", "any-cpu")):
            lines += toml_table(f'{kind}."{name}"', found[(kind, side)])
    return lines


def interval_tables(earned: dict[Key, tuple[float, float, int]], family: str) -> list[str]:
    """[low, high] by quantity and class."""
    by_quantity: dict[str, list[str]] = defaultdict(list)
    for (quantity, owner, device_class), (low, high, count) in sorted(earned.items()):
        if owner == family:
            by_quantity[quantity].append(f'"{device_class}" = [{low:.3g}, {high:.3g}]  # {count} records')
    return [line for quantity, rows in by_quantity.items() for line in (f"[interval.{quantity}]", *rows, "")]


def main() -> None:
    import speed
    from speed_records import UNPACKING, samples

    chosen, _ = samples()
    found = fit(chosen)
    counts: dict[Key, int] = defaultdict(int)
    for sample in chosen:
        if sample.kind in KINDS:
            kind = KINDS[sample.kind]
            for key in (
                (kind, "cpu" if sample.device_class in CPU_CLASSES else "gpu", sample.family),
                (kind, sample.family, sample.device_class),
                (kind, sample.family, sample.device_class, sample.variant),
            ):
                counts[key] += 1
    seen, unseen = speed.held_out(lambda s: s.group), speed.held_out(lambda s: s.device.id)
    earned = speed.intervals(seen, unseen)
    PROFILES.mkdir(exist_ok=True)
    for family, (title, *_) in SHIPPED.items():
        head = [HEADER, f'name = "{title}"', f'fitted = "{FITTED}"', f'source = "{SOURCE}"']
        head += [*(f'{key} = "{text}"' for key, text in UNMODELLED.get(family, {}).items()), ""]
        costs = UNPACKING if family == "llama_cpp" else {}
        unpacking = ["[unpacking]", *(f'"{name}" = {cost}' for name, cost in costs.items()), ""] if costs else []
        tables = family_tables(found, family, counts)
        if not any(key[0] in ("prefill", "loop") and family in key for key in found):
            tables += default_tables(found, ("prefill",))
        write(family, [*head, *unpacking, *tables, *interval_tables(earned, family)])
    head = [HEADER, 'name = "all engines"', f'fitted = "{FITTED}"', f'source = "{SOURCE}"', ""]
    write("default", [*head, *default_tables(found), *interval_tables(earned, "default")])
    for name, other in LINKS.items():
        write(name, [f'same_as = "{other}"', ""])
    speed.store(seen)


FITTED = "2026-11-21"
SOURCE = "benchmarks/accuracy/records/throughput.jsonl.gz, where every row has its own source"


def write(name: str, lines: list[str]) -> None:
    (PROFILES / f"{name}.toml").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
