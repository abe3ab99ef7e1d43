"""vLLM's terms that depend on the rank but not on the requests: weights, CUDA graphs, memory outside PyTorch; and the
peak of its profiling run, of which an encoder of images or sound is a part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fitcalc.engines import shards
from fitcalc.engines.base import spread
from fitcalc.engines.shards import Rank, RankWeights
from fitcalc.formulas import runtime, split
from fitcalc.ledger import Term, computed, fixed
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload
from fitcalc.units import least, most


def has_tower(model: ModelSpec) -> bool:
    """An encoder of images or sound is loaded beside the text model."""
    return any(tensor.part in shards.TOWER_PARTS for tensor in model.tensors)


def weights_term(scheme: Scheme, profile: EngineProfile, held: RankWeights) -> Term:
    """Weights, with room above for kernels that repack a format into a larger one."""
    term = computed(
        "weights", runtime.rank_weights, "derived", tensor_bytes=held.tensor_bytes, absorbed_bytes=held.absorbed_bytes,
        rotary_bytes=held.rotary_bytes, booking_bytes=held.booking_bytes,
        note="tensors of this rank as the engine keeps them, rotary table, allocator's rounding",
    )  # fmt: skip
    repacked = profile.constants["repacked_permille"]
    permille = repacked.get(scheme.weight.id, repacked.get(scheme.method, 0))
    if not permille:
        return term
    high = term.bytes + held.quantized_bytes * permille // 1000
    note = "kernels repack this format; the high end is the largest seen"
    return Term(term.name, term.bytes, term.bytes, high, "estimated", term.formula, term.inputs, note)


def graphs_term(model: ModelSpec, profile: EngineProfile, options: Mapping[str, Any], rank: Rank) -> Term:
    """Captured CUDA graphs of one rank; none when the engine runs eagerly."""
    known = profile.constants
    if options["enforce_eager"]:
        return fixed("cuda_graphs", 0, "exact", note="enforce_eager")
    base = known["graphs_base"] + (known["graphs_experts"] if model.is_moe else 0)
    term = computed(
        "cuda_graphs", runtime.graphs_bytes, "estimated", base_bytes=base, layers=rank.stop - rank.first,
        layer_bytes=known["graphs_per_layer"], sources={"base_bytes": profile.sources.get("graphs_base", "")},
    )  # fmt: skip
    room = known["graphs_spread_experts" if model.is_moe else "graphs_spread"]
    low, high = max(term.bytes - room["under"], 0), term.bytes + room["over"]
    high += (rank.stop - rank.first) * room["over_per_layer"]
    return Term(term.name, term.bytes, low, high, "estimated", term.formula, term.inputs)


def absorbed(graphs: Term, room_bytes: int) -> Term:
    """Graphs captured into the reserve: their spread counts only as far as it leaves the reserve."""
    excess = [max(size - room_bytes, 0) for size in (graphs.low_bytes, graphs.bytes, graphs.high_bytes)]
    low, high = graphs.bytes - (excess[1] - excess[0]), graphs.bytes + excess[2] - excess[1]
    return Term(graphs.name, graphs.bytes, low, high, graphs.basis, graphs.formula, graphs.inputs, graphs.note)


def runtime_term(model: ModelSpec, profile: EngineProfile, asked: Workload, devices: Sequence[Device]) -> Term:
    """Memory outside PyTorch: libraries, communicators and their buffers, which are small without fast links."""
    # Copies of a dense model do not talk to each other.
    together = asked.tensor_parallel * (asked.data_parallel if model.is_moe else 1)
    linked = all(device.nvlink_bytes_per_s and device.segment == "datacenter" for device in devices)
    single = "runtime_pipeline" if asked.pipeline_parallel > 1 else "runtime_single"
    parallel = "runtime_parallel" if linked else "runtime_unlinked"
    constant = parallel if together > 1 else single
    return spread(profile, "runtime", constant, "memory of libraries and communicators outside PyTorch")


def activations(
    model: ModelSpec, scheme: Scheme, profile: EngineProfile, rank: Rank, elem_bytes: int, requests: Any, tokens: Any
) -> Term:
    """Peak of the profiling run on a rank: `requests` rows of logits, `tokens` in the forward pass."""
    known = profile.constants
    half = "half_bytes_per_logit_fp32" if elem_bytes == 4 else "half_bytes_per_logit"
    workspace = model.is_moe and scheme.weight.id not in known["formats_without_workspace"]
    if known["items_limit_requests"] and has_tower(model):
        # V0 fills the batch with items of the largest size, one for a request.
        requests = most(1, least(requests, tokens // known["tower_tokens"][int(_is_dynamic(model))]))
    term = computed(
        "activations",
        runtime.profile_peak,
        "estimated",
        sources={**profile.sources, "base_bytes": profile.sources.get("activation_base", "")},
        note="profiling run: forward pass or sampler, whichever is larger",
        base_bytes=known["activation_base"],
        tokens=tokens,
        elem_bytes=elem_bytes,
        matrices=3 if model.gated_mlp else 2,
        width=split.share(elems=model.intermediate or model.shared_intermediate, ranks=rank.ranks),
        hidden=model.hidden,
        half_bytes_per_logit=known[half],
        requests=requests if rank.is_last else 0,
        vocab=model.vocab,
        experts_per_token=model.experts_per_token if workspace else 0,
        expert_width=split.share(elems=model.moe_intermediate, ranks=rank.width_ranks),
    )
    low = most(0, term.bytes - known["activation_under"])
    high = term.bytes + known["activation_over" if rank.is_last else "activation_over_stage"]
    return Term(term.name, term.bytes, low, high, "estimated", term.formula, term.inputs, term.note)


def _is_dynamic(model: ModelSpec) -> bool:
    """The tower takes images of any size (positions have sections for time, height and width)."""
    return model.rope is not None and model.rope.sectioned


def vision_term(
    model: ModelSpec, profile: EngineProfile, options: Mapping[str, Any], elem_bytes: int, context: Any, text: Any
) -> tuple[Term, ...]:
    """What profiling the encoder of images or sound at its largest item adds to the text model's peak `text`.

    Towers of one image size add a constant. Those of any size take the longest video that the context holds, up to a
    number of frames: its patches pass through the encoder before the text model runs, its outputs stay meanwhile.
    """
    known = profile.constants
    if not has_tower(model) or options["skip_mm_profiling"]:
        return ()
    if not _is_dynamic(model):
        return (spread(profile, "vision", "vision_peak", "encoder at its largest item"),)
    width = max(t.shape[0] for t in model.tensors if t.part == "vision" and len(t.shape) > 2)
    items = most(known["tower_least_items"], least(known["tower_most_items"], context // known["tower_item_tokens"]))
    term = computed(
        "vision", runtime.encoder_peak, "estimated", items=items, item_tokens=known["tower_item_tokens"],
        patches_per_token=known["tower_patches_per_token"], patch_widths=known["tower_patch_widths"], width=width,
        hidden=model.hidden, elem_bytes=elem_bytes, text_bytes=text,
        sources={"patch_widths": profile.sources.get("tower_patch_widths", "")},
        note="encoder at its largest item, as far as it exceeds the text model's peak",
    )  # fmt: skip
    high = most(2 * term.bytes, known["vision_peak_dynamic"])
    return (Term(term.name, term.bytes, 0 * term.bytes, high, "estimated", term.formula, term.inputs, term.note),)
