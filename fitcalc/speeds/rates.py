"""How fast a device could be for one way of storing weights, and which class of devices it belongs to."""

from __future__ import annotations

from typing import Any

from fitcalc.spec.hardware import Device
from fitcalc.spec.quant import Scheme
from fitcalc.speeds.steps import Rates

HBM_BYTES_PER_S = 1.3e12
"""Data-centre memory from here on is stacked (A100 and later); kernels that suffice for GDDR leave part of it idle."""
_NVLINK_BYTES_PER_S = 1e11
"""Links from here on join all cards of a node (NVSwitch, Infinity Fabric); bridges join pairs."""
_UNKNOWN_PCIE_BYTES_PER_S = 16e9
_TENSOR_CORES = 7.0
"""Compute capability from which on NVIDIA's cards have them; older ones multiply and unpack in the same units."""
_SMALL_BOARDS = ("sbc", "mini")

LINEAR_RATES = {
    "plain": ("fp16_fast_flop_per_s", "fp16_flop_per_s", "bf16_flop_per_s", "fp32_flop_per_s"),
    "packed": ("fp16_fast_flop_per_s", "fp16_flop_per_s", "bf16_flop_per_s", "fp32_flop_per_s"),
    "eight": ("fp8_flop_per_s", "int8_op_per_s", "fp16_flop_per_s", "fp32_flop_per_s"),
    "float4": ("fp4_flop_per_s", "fp16_flop_per_s", "bf16_flop_per_s", "fp32_flop_per_s"),
}
"""Kind of storage -> the unit that multiplies it: the first that a device has."""


def device_class(device: Device) -> str:
    """The class whose parameters hold for a device: by maker, use and memory, never by product."""
    if device.kind == "cpu":
        return "board" if device.segment in _SMALL_BOARDS else "cpu"
    if device.kind == "unified":
        return f"{device.vendor}-unified"
    stacked = device.segment == "datacenter" and (device.bandwidth_bytes_per_s or 0) >= HBM_BYTES_PER_S
    if stacked:
        return f"{device.vendor}-hbm"
    if device.vendor == "nvidia" and float(device.compute_capability or 9) < _TENSOR_CORES:
        return "nvidia-old"
    if device.vendor == "nvidia":
        return "nvidia-workstation" if device.segment in ("datacenter", "workstation") else "nvidia-consumer"
    return device.vendor


def storage_kind(scheme: Scheme) -> str:
    """plain (16 and 32 bit), eight, float4 (formats that Blackwell multiplies as they are), or packed."""
    if scheme.kind == "float":
        return "plain"
    if scheme.kind == "linear" and scheme.bits == 8:
        return "eight"
    return "float4" if scheme.native_compute_capability == "10.0" else "packed"


def first_rate(device: Device, names: tuple[str, ...]) -> float | None:
    """The first of the named rates that is known of the device."""
    return next((rate for name in names if (rate := getattr(device, name))), None)


def rates_of(device: Device, storage: str, threads: int | None = None) -> Rates | None:
    """The device's peaks for a kind of storage; None where its bandwidth or its compute is not known."""
    bandwidth, single = device.bandwidth_bytes_per_s, device.fp32_flop_per_s
    linear = first_rate(device, LINEAR_RATES[storage])
    if not bandwidth or not linear:
        return None
    if device.kind == "cpu":
        cores = device.cores or threads or 1
        used = min(threads or cores, cores)
        rate = (single or linear) * used / cores
        return Rates(bandwidth, rate, rate, rate, threads=used)
    # Old cards have 16-bit units at a small fraction of the 32-bit rate, which kernels then use instead.
    attention = max(first_rate(device, LINEAR_RATES["plain"][1:]) or linear, single or 0)
    linear = max(linear, single or 0)
    return Rates(bandwidth, linear, attention, single or attention, link_bytes_per_s(device))


def link_bytes_per_s(device: Device) -> float:
    """What an all-reduce gets of the link: the switch's rate, or the bus through host memory."""
    nvlink: Any = device.nvlink_bytes_per_s or 0
    return (
        0.8 * nvlink if nvlink >= _NVLINK_BYTES_PER_S else 0.6 * (device.pcie_bytes_per_s or _UNKNOWN_PCIE_BYTES_PER_S)
    )
