"""Builders of state-space layers: Mamba-1 and Mamba-2 mixers, and the fixed state that a sequence keeps in them.

Widths: `inner` is the mixer's inner width, `state` the size of the state per channel (Mamba-1) or per head row
(Mamba-2), `kernel` the width of the causal convolution. Sources: Gu and Dao 2023 (Mamba), Dao and Gu 2024 (Mamba-2).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fitcalc.architectures.blocks import Layers, linear, norm
from fitcalc.architectures.config import Config
from fitcalc.errors import ModelFileError
from fitcalc.spec.model import CacheLayer, Tensor
from fitcalc.units import ceil_div

_STATE_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def sharded(name: str, role: str, shape: tuple[int, ...], layers: Layers, **fields: Any) -> Tensor:
    """A parameter that is no linear layer and whose first dimension tensor parallelism divides."""
    return Tensor(name, role, shape, layers, split=fields.pop("split", "columns"), **fields)


def convolution(name: str, channels: int, kernel: int, layers: Layers, *, bias: bool, **fields: Any) -> list[Tensor]:
    """A depthwise causal convolution: one row of `kernel` weights a channel."""
    weight = sharded(f"{name}.weight", "ssm_conv", (channels, 1, kernel), layers, **fields)
    return [weight, sharded(f"{name}.bias", "bias", (channels,), layers, **fields)] if bias else [weight]


def dt_rank_of(config: Config, key: str, hidden: int) -> int:
    """The rank of the time-step projection: its own key, 'auto' or nothing means hidden / 16 rounded up."""
    value = config.get(key)
    if value is None or value == "auto":
        return int(ceil_div(hidden, 16))
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise ModelFileError(f"config: {key} is {value!r}", hint=f"{key} has to be a whole number or 'auto'")
    return value


def mamba1(
    prefix: str,
    hidden: int,
    inner: int,
    state: int,
    kernel: int,
    dt_rank: int,
    layers: Layers,
    *,
    bias: bool = False,
    conv_bias: bool = True,
    norms: bool = False,
) -> list[Tensor]:
    """A Mamba-1 mixer; `norms` adds RMSNorms on the time step and on B and C (Jamba)."""
    tensors = [
        *linear(f"{prefix}.in_proj", "ssm_in", 2 * inner, hidden, layers, bias=bias),
        *convolution(f"{prefix}.conv1d", inner, kernel, layers, bias=conv_bias),
        *linear(f"{prefix}.x_proj", "ssm_x", dt_rank + 2 * state, inner, layers, split="rows"),
        *linear(f"{prefix}.dt_proj", "ssm_dt", inner, dt_rank, layers, bias=True),
        sharded(f"{prefix}.A_log", "ssm_a", (inner, state), layers),
        sharded(f"{prefix}.D", "ssm_d", (inner,), layers),
        *linear(f"{prefix}.out_proj", "ssm_out", hidden, inner, layers, split="rows", bias=bias),
    ]
    if norms:
        widths = (("dt_layernorm", dt_rank), ("b_layernorm", state), ("c_layernorm", state))
        tensors += [t for name, width in widths for t in norm(f"{prefix}.{name}", width, layers)]
    return tensors


def mamba2(
    prefix: str,
    hidden: int,
    heads: int,
    head_dim: int,
    groups: int,
    state: int,
    kernel: int,
    layers: Layers,
    *,
    bias: bool = False,
    out_bias: bool | None = None,
    conv_bias: bool = True,
    gated_norm: bool = True,
) -> list[Tensor]:
    """A Mamba-2 mixer; one input projection holds the gate, x, B, C and the time step of each head.

    B and C of a group serve many heads, as K and V do in attention, so under tensor parallelism they are divided by
    whole groups and copied when there are fewer groups than ranks. `out_bias` is the output projection's, where it
    differs from the input's.
    """
    inner, shared = heads * head_dim, 2 * groups * state
    out_bias = bias if out_bias is None else out_bias
    by_group: dict[str, Any] = {"split": "heads", "kv_heads": groups, "kv_rows": shared}
    return [
        *linear(f"{prefix}.in_proj", "ssm_in", 2 * inner + shared + heads, hidden, layers, bias=bias, **by_group),
        *convolution(f"{prefix}.conv1d", inner + shared, kernel, layers, bias=conv_bias, **by_group),
        sharded(f"{prefix}.dt_bias", "vector", (heads,), layers),
        sharded(f"{prefix}.A_log", "ssm_a", (heads,), layers),
        sharded(f"{prefix}.D", "ssm_d", (heads,), layers),
        *([sharded(f"{prefix}.norm.weight", "norm", (inner,), layers)] if gated_norm else []),
        *linear(f"{prefix}.out_proj", "ssm_out", hidden, inner, layers, split="rows", bias=out_bias),
    ]


def state_dtype_of(config: Config, *keys: str) -> str:
    """The type of the recurrent state: the config's own word (mamba_ssm_cache_dtype …), else fp32."""
    for key in keys:
        if config.get(key) is not None:
            return _STATE_DTYPES.get(str(config[key]).removeprefix("torch."), "fp32")
    return "fp32"


def recurrent_cache(
    layers: Iterable[int], *, channels: int = 0, kernel: int = 0, state_elems: int = 0, state_dtype: str = "fp32"
) -> list[CacheLayer]:
    """Layers that keep a fixed state per sequence: the last columns of a convolution and the recurrent state.

    `kernel` is the convolution's width k; engines keep k or k - 1 columns of `channels`.
    """
    owned = tuple(layers)
    if not owned:
        return []
    return [
        CacheLayer(
            "recurrent",
            owned,
            conv_channels=channels,
            conv_kernel=kernel,
            state_elems=state_elems,
            state_dtype=state_dtype,
        )
    ]


def mamba2_cache(
    layers: Iterable[int], heads: int, head_dim: int, groups: int, state: int, kernel: int, state_dtype: str = "fp32"
) -> list[CacheLayer]:
    """The state of Mamba-2 layers: x, B and C pass the convolution, each head keeps head_dim × state."""
    channels, state_elems = heads * head_dim + 2 * groups * state, heads * head_dim * state
    return recurrent_cache(layers, channels=channels, kernel=kernel, state_elems=state_elems, state_dtype=state_dtype)
