"""Which linears of a model get adapters, and how many parameters those have."""

from __future__ import annotations

from fitcalc.errors import RequestError
from fitcalc.formulas.training import adapter_params
from fitcalc.spec.model import ModelSpec, Tensor
from fitcalc.training.activations import GROUPS

ALL_LINEAR = "all-linear"
ATTENTION_ONLY = "attention"
_NEVER = ("lm_head", "router", "shared_router", "ssm_conv", "conv")


def module_name(tensor: Tensor) -> str:
    """'q_proj' of 'model.layers.{layer}.self_attn.q_proj.weight'."""
    parts = tensor.name.removesuffix(".weight").split(".")
    return parts[-1]


def adaptable(model: ModelSpec) -> tuple[Tensor, ...]:
    """The linears of the language model's layers. Experts are not modules of their own in Transformers, so that a
    list of modules does not reach them; heads and routers are left out."""
    return tuple(
        tensor
        for tensor in model.tensors
        if tensor.is_linear
        and tensor.part == "text"
        and tensor.layers
        and tensor.copies == 1
        and len(tensor.shape) == 2
        and tensor.role not in _NEVER
    )


def wrapped_tensors(model: ModelSpec, targets: tuple[str, ...]) -> tuple[Tensor, ...]:
    """The linears that get an adapter. `targets`: module names, 'all-linear', or 'attention' for the projections of
    attention. Raises RequestError for a name that the model has not."""
    linears = adaptable(model)
    if not linears:
        raise RequestError(f"{model.name} has no linears that adapters could be put on", hint="use --method full")
    if targets == (ALL_LINEAR,):
        return linears
    chosen: list[Tensor] = []
    for target in targets:
        found = [tensor for tensor in linears if _is_meant(tensor, target)]
        if not found:
            names = ", ".join(dict.fromkeys(module_name(tensor) for tensor in linears))
            raise RequestError(f"{model.name} has no module {target!r} to adapt", hint=f"it has {names}")
        chosen += [tensor for tensor in found if tensor not in chosen]
    return tuple(chosen)


def _is_meant(tensor: Tensor, target: str) -> bool:
    if target == ATTENTION_ONLY:
        return GROUPS.get(tensor.role) == "attention" or tensor.role in ("attn_o", "mla_q_b", "mla_kv_b")
    return module_name(tensor) == target


def lora_params(tensors: tuple[Tensor, ...], rank: int, *, magnitudes: bool = False) -> int:
    """Parameters of the adapters of these linears, DoRA's magnitudes (one per row) included where asked for."""
    total = 0
    for tensor in tensors:
        rows, cols = tensor.shape
        each: int = adapter_params(rank=rank, rows=rows, cols=cols)
        total += (each + (rows if magnitudes else 0)) * tensor.repeats
    return total
