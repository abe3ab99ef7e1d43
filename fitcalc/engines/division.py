"""Can a model be divided so: degrees against cards, layers, heads, experts, and the blocks of a quantization.

For every server engine; what differs between engines stands in their profiles. A refusal is one line that names the
dimension, so that a reader sees which degree would work.
"""

from __future__ import annotations

from fitcalc.engines.shards import Rank, rank_shape
from fitcalc.quantization import assign
from fitcalc.quantization.stored import Stored
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Machine
from fitcalc.spec.model import ModelSpec, Tensor
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload


def expert_ranks(workload: Workload) -> int:
    """Ranks that whole experts are divided over: tensor × data parallel under expert parallelism, else 1."""
    return workload.tensor_parallel * workload.data_parallel if workload.expert_parallel else 1


def refusal(
    model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile
) -> str | None:
    """Why the model cannot be divided in this way; None when it can."""
    ranks, stages, copies = workload.tensor_parallel, workload.pipeline_parallel, workload.data_parallel
    if ranks < 1 or stages < 1 or copies < 1:
        return "tensor, pipeline and data parallel degrees start at 1"
    if workload.ranks > len(machine.gpus):
        return f"{division_words(workload)} needs {workload.ranks} GPUs"
    if stages > max(model.layers, 1):
        return f"{model.name} has {model.layers} layers, too few for {stages} stages"
    if workload.expert_parallel and not model.is_moe:
        return f"{model.name} has no routed experts to divide (expert parallel)"
    if ranks * copies == 1:
        return None
    return (
        _undivided_heads(model, ranks)
        or _undivided_experts(model, workload, profile)
        or _undivided_tensor(model, scheme, workload, profile)
    )


def division_words(workload: Workload) -> str:
    """'tensor parallel 8 × pipeline parallel 2'."""
    named = (("tensor", workload.tensor_parallel), ("pipeline", workload.pipeline_parallel))
    words = [f"{kind} parallel {degree}" for kind, degree in named]
    words += [f"data parallel {workload.data_parallel}"] if workload.data_parallel > 1 else []
    return " × ".join(words)


def _undivided_heads(model: ModelSpec, ranks: int) -> str | None:
    if model.heads and model.heads % ranks:
        return f"tensor parallel {ranks} does not divide the {model.heads} attention heads of {model.name}"
    for tensor in model.tensors:
        heads = tensor.kv_heads
        if heads and tensor.part == "text" and heads % ranks and ranks % heads:
            return f"tensor parallel {ranks} and {heads} KV heads of {model.name} do not divide each other"
    return None


def _undivided_experts(model: ModelSpec, workload: Workload, profile: EngineProfile) -> str | None:
    """More ranks than experts; or, where the engine wants equal shares, a remainder."""
    ranks = expert_ranks(workload)
    if ranks > max(model.experts, 1):
        return f"{model.name} has {model.experts} experts, too few for {ranks} expert parallel ranks"
    if profile.constants.get("even_experts") and model.experts % ranks:
        return f"expert parallel {ranks} does not divide the {model.experts} experts of {model.name}"
    return None


def _undivided_tensor(model: ModelSpec, scheme: Scheme, workload: Workload, profile: EngineProfile) -> str | None:
    """A dimension that does not divide, or whose share is no whole number of quantization blocks."""
    whole_experts = workload.expert_parallel
    rank = Rank(
        ranks=workload.tensor_parallel,
        expert_ranks=expert_ranks(workload),
        stop=model.layers,
        data_ranks=workload.data_parallel,
    )
    padded = profile.constants.get("padded_expert_formats", ())
    for entry in assign(model, scheme):
        tensor = entry.tensor
        if tensor.part != "text" or len(tensor.shape) != 2 or tensor.split in ("replicated", "vocab"):
            continue
        if tensor.split == "experts" and (whole_experts or entry.format.id in padded):
            continue
        reason = _cut(entry, rank, model.name)
        if reason:
            return reason
    return None


def _divided_dimension(tensor: Tensor) -> int:
    """Index of the dimension that is divided: 0 for rows, 1 for columns."""
    return int(tensor.split == "rows" or (tensor.split == "experts" and tensor.role == "expert_down"))


def _cut(entry: Stored, rank: Rank, model_name: str) -> str | None:
    tensor, fmt = entry.tensor, entry.format
    ranks = rank.width_ranks if tensor.split == "experts" else rank.ranks
    side = _divided_dimension(tensor)
    whole, part = tensor.shape[side], rank_shape(tensor, fmt, rank)[side]
    if tensor.role.endswith("gate_up"):
        # Two matrices in one: each is divided by itself.
        whole, part = whole // 2, part // 2
    what = tensor.role.replace("_", " ")
    over = f"tensor parallel {ranks}" if ranks == rank.ranks else f"tensor × data parallel {ranks}"
    if whole % ranks and not tensor.kv_heads:
        return f"{over} does not divide the {what} width {whole} of {model_name}"
    step = (fmt.tile_cols or fmt.group_elems) if side else fmt.tile_rows
    if step > 1 and part < whole and part % step:
        share = f"{whole} / {ranks} = {part}"
        return f"{what} width {share} is no multiple of the {step}-wide blocks of this quantization"
    return None
