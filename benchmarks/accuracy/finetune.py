"""Fine-tuning memory against measurements: saved activations, the peak of a step, and published peaks of whole runs.

Run: python benchmarks/accuracy/finetune.py [-v] [RECORDS.jsonl]

records/activation_measured.csv: one training step each of Llama-shaped models under transformers 5.23 and torch 2.13 on
a CPU, tiny ones with real tensors (kind real), full-size ones with shapes alone (kind fake). records/finetune.jsonl:
published peaks; `apart` says why a record does not state what an estimate needs, such records are listed apart.
`metric`: allocated (torch's max_memory_allocated), reserved (what its allocator took), device (nvidia-smi).
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from fitcalc import catalog
from fitcalc.architectures import from_config
from fitcalc.machine import machine_of
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.training import Loss, Settings, Trainer
from fitcalc.training import activations, adapters, peak
from fitcalc.training.answer import settings_of
from fitcalc.training.plan import peak_of, plan_of
from fitcalc.training.profiles import load_optimizer
from fitcalc.training.states import states_of
from fitcalc.units import GIB

HERE = Path(__file__).parent / "records"
RECORDS = HERE / "finetune.jsonl"
NOT_IN = {
    "allocated": ("cuda_context", "communication", "allocator"),
    "reserved": ("cuda_context", "communication"),
    "device": (),
}
"""Terms that a counter does not see."""
_TARGETS = {"lora_qv": ("q_proj", "v_proj"), "lora_attn": ("q_proj", "k_proj", "v_proj", "o_proj")}


class Step(NamedTuple):
    """One measured step: errors in percent."""

    row: dict[str, str]
    saved_error: float
    peak_error: float


class Peak(NamedTuple):
    """One published run, in GiB."""

    record: dict[str, Any]
    estimate: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """In percent of the truth."""
        return (self.estimate / self.record["peak_gib"] - 1) * 100

    @property
    def inside(self) -> bool:
        """The truth lies within the interval."""
        return bool(self.low <= self.record["peak_gib"] <= self.high)


def shape_of(row: dict[str, str]) -> ModelSpec:
    """The Llama-shaped model of a row."""
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": int(row["h"]),
        "intermediate_size": int(row["f"]), "num_hidden_layers": int(row["L"]), "num_attention_heads": int(row["a"]),
        "num_key_value_heads": int(row["k"]), "vocab_size": int(row["V"]), "max_position_embeddings": 4096,
        "tie_word_embeddings": row["tie"] == "True", "torch_dtype": "bfloat16", "rms_norm_eps": 1e-6,
    }  # fmt: skip
    return from_config(config)


def settings_of_row(row: dict[str, str]) -> Settings:
    """The settings of a row; adapters of float32 models are float32 too."""
    lora = row["method"] != "full"
    own = 4 if row["adapter"] == "fp32" or row["dtype"] == "fp32" else 2
    trainer = Trainer("measured", "measured", "", own, (("standard", Loss(4, 8)),))
    return Settings(
        "lora" if lora else "full", int(row["b"]), int(row["s"]), int(row["r"]),
        _TARGETS.get(row["method"], (adapters.ALL_LINEAR,)), load_optimizer("adamw"), row["dtype"],
        row["gc"] == "True", "none", row["attn"], "standard", "", trainer,
        padded=row["explicit_mask"] == "True", dropout=float(row["drop"]) > 0,
    )  # fmt: skip


def steps() -> Iterator[Step]:
    """Every measured step (autocast rows apart) beside the formula."""
    with (HERE / "activation_measured.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["dtype"].endswith("amp")]
    for row in rows:
        model, settings = shape_of(row), settings_of_row(row)
        states = states_of(model, settings, None, 0)
        blocks = peak.blocks_of(model, settings, states)
        phases = peak.phases_of(model, settings, states, blocks)
        saved = phases[0].activations.bytes + 4 * model.vocab * settings.tokens + _cpu_masks(row, model, settings)
        top = max(phase.total for phase in phases if phase.name != peak.STEP)
        top += _cpu_masks(row, model, settings)
        yield Step(row, _percent(saved, int(row["saved_bytes"])), _percent(top, int(row["peak_fwd_bwd"])))


def _cpu_masks(row: dict[str, str], model: ModelSpec, settings: Settings) -> int:
    """On a CPU a mask has the adapter's type, on a GPU one byte per element."""
    if not settings.dropout or settings.checkpointing:
        return 0
    own = settings.trainer.adapter_bytes
    wrapped = adapters.wrapped_tensors(model, settings.targets)
    first = sum(t.shape[1] for t in wrapped if activations.GROUPS.get(t.role) == "attention")
    every = sum(t.shape[1] for t in wrapped) * int(row["L"])
    return (own - 1) * (every - first) * settings.tokens


def _percent(estimate: float, truth: float) -> float:
    return (estimate / truth - 1) * 100


def records(path: Path = RECORDS) -> list[dict[str, Any]]:
    """The published runs."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def model_of(record: dict[str, Any]) -> ModelSpec:
    """By catalogue id, or by a config beside the records."""
    configs = json.loads((HERE / "finetune_models.json").read_text(encoding="utf-8"))
    name = record["model"]
    return from_config(configs[name]) if name in configs else catalog.load_model(name)


def _targets(record: dict[str, Any], model: ModelSpec) -> Any:
    named = record.get("target_modules") or adapters.ALL_LINEAR
    if named != "query-value":
        return named
    roles = ("attn_q", "attn_v", "attn_qkv", "mla_q_b", "mla_kv_b")
    return [adapters.module_name(tensor) for tensor in adapters.adaptable(model) if tensor.role in roles]


def peak_of_record(record: dict[str, Any]) -> Peak:
    """A published run beside the estimate, in the sense of its counter."""
    model = model_of(record)
    settings = settings_of(
        method=record["method"], micro_batch=record["micro_batch"], seq_len=record["seq_len"],
        rank=record.get("rank") or 8, target_modules=_targets(record, model), optimizer=record["optimizer"],
        precision=record.get("precision", "bf16"), gradient_checkpointing=bool(record["gradient_checkpointing"]),
        sharding=record["sharding"], attention=record.get("attention", "sdpa"), loss=record.get("loss", "standard"),
        offload=record.get("offload"), trainer=record["trainer"], compiled=record.get("compiled", False),
        step_in_backward=record.get("step_in_backward", False),
    )  # fmt: skip
    trainer = replace(settings.trainer, double_quant=record.get("double_quant", settings.trainer.double_quant))
    plan = plan_of(model, machine_of(f"80GB:{record['cards']}"), replace(settings, trainer=trainer), 2)
    terms = [term for term in peak_of(plan)[0] if term.name not in NOT_IN[record["metric"]]]
    sizes = (sum(getattr(term, name) for term in terms) / GIB for name in ("bytes", "low_bytes", "high_bytes"))
    return Peak(record, *sizes)


def peaks(path: Path = RECORDS) -> list[Peak]:
    """Every run that states what an estimate needs."""
    return [peak_of_record(record) for record in records(path) if "apart" not in record]


def summary(found: list[Peak]) -> dict[str, float]:
    """Median and 90th percentile of the absolute error [%], coverage and median width of the interval [%]."""
    errors = sorted(abs(entry.error) for entry in found)
    return {
        "runs": len(found),
        "median": median(errors),
        "p90": errors[min(int(0.9 * len(errors)), len(errors) - 1)],
        "inside": 100 * sum(entry.inside for entry in found) / len(found),
        "width": median(100 * (entry.high - entry.low) / entry.estimate for entry in found),
    }


def _steps_table() -> Iterator[str]:
    found = list(steps())
    yield f"{len(found)} steps; saved bytes off by at most {max(abs(step.saved_error) for step in found):.4f} %"
    for kind, words in (("fake", "full size"), ("real", "tiny")):
        for checkpointed in ("False", "True"):
            some = [abs(s.peak_error) for s in found if s.row["kind"] == kind and s.row["gc"] == checkpointed]
            how = "with checkpointing" if checkpointed == "True" else "without"
            average = sum(some) / len(some)
            yield f"  peak, {words}, {how}: {len(some)} steps, mean {average:.2f} %, worst {max(some):.2f} %"


def main(arguments: list[str]) -> None:
    """Print the tables; -v every run."""
    paths = [Path(text) for text in arguments if not text.startswith("-")]
    path = paths[0] if paths else RECORDS
    print("\n".join(_steps_table()))
    found = peaks(path)
    for entry in found if "-v" in arguments else ():
        record = entry.record
        mark = "" if entry.inside else "  outside"
        print(f"  {record['id']} {record['model']:<24} {record['method']:<6} {record['trainer']:<9}", end="")
        span = f"({entry.low:.2f}–{entry.high:.2f})"
        print(f"{record['peak_gib']:7.2f} GiB, {entry.estimate:7.2f} {span:<16} {entry.error:+6.1f} %{mark}")
    totals = summary(found)
    print(f"{totals['runs']:.0f} published peaks: median error {totals['median']:.1f} %, 90th percentile "
          f"{totals['p90']:.1f} %, {totals['inside']:.0f} % inside, width {totals['width']:.0f} %")  # fmt: skip
    print("not compared:")
    reasons: dict[str, int] = {}
    for record in records(path):
        if "apart" in record:
            reasons[record["apart"]] = reasons.get(record["apart"], 0) + 1
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
        print(f"  {count:3d}  {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
