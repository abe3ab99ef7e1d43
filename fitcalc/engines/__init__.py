"""Engines: the module of a profile, loaded when it is asked for, and whether it can run a combination at all."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from fitcalc.engines.base import capability
from fitcalc.engines.options import contradiction
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload

if TYPE_CHECKING:
    from fitcalc.engines.contract import Engine


def load(profile: EngineProfile) -> Engine:
    """The module that turns this profile into terms."""
    return cast("Engine", import_module(f"fitcalc.engines.{profile.module}"))


def refusal(
    profile: EngineProfile, scheme: Scheme, machine: Machine, workload: Workload, model: ModelSpec
) -> str | None:
    """Why the engine cannot run the combination, in one line; None when it can.

    Raises RequestError for an option's value that cannot be read, UnknownNameError for an option or KV type that
    the engine does not have.
    """
    return (
        contradiction(workload, profile)
        or _unread_file(profile, model)
        or _no_generator(profile, model)
        or _unsupported_quantization(profile, scheme)
        or _unsupported_device(profile, scheme, machine)
        or _undivided(profile, machine, workload)
        or load(profile).refusal(model, scheme, machine, workload, profile)
    )


def _unread_file(profile: EngineProfile, model: ModelSpec) -> str | None:
    if model.container and model.container not in profile.quant_kinds:
        return f"{profile.name} does not read {model.container.upper()} files: llama.cpp and Ollama run {model.name}"
    return None


def _no_generator(profile: EngineProfile, model: ModelSpec) -> str | None:
    if model.makes_images and not profile.constants.get("makes_images"):
        return f"{profile.name} does not run image generators such as {model.name}: Diffusers does"
    return None


def _unsupported_quantization(profile: EngineProfile, scheme: Scheme) -> str | None:
    names = {profile.id, profile.module, _line(profile.id)}
    listed = not names.isdisjoint(scheme.engines)
    if scheme.kind in profile.quant_kinds and (listed or not scheme.engines):
        return None
    return f"{profile.name} does not run {scheme.name}"


def _line(profile_id: str) -> str:
    """The engine of which a profile is a version: llama.cpp-2024 -> llama.cpp."""
    line, _, version = profile_id.rpartition("-")
    return line if version[:1].isdigit() else profile_id


def _unsupported_device(profile: EngineProfile, scheme: Scheme, machine: Machine) -> str | None:
    devices = machine.gpus or ((machine.cpu,) if machine.cpu else ())
    for device in devices:
        if device.kind not in profile.device_kinds or (device.kind != "cpu" and device.vendor not in profile.vendors):
            return f"{profile.name} does not run on {device.name}"
        reason = _too_old(profile.name, profile.min_compute_capability, device)
        reason = reason or _too_old(scheme.name, scheme.min_compute_capability, device)
        if reason:
            return reason
    return None if devices else f"{profile.name} needs a device"


def _undivided(profile: EngineProfile, machine: Machine, workload: Workload) -> str | None:
    """What only engines with ranks can do: several nodes, copies that share their experts, whole experts per rank."""
    if profile.splits_tensors:
        return None
    if machine.nodes > 1:
        return f"{profile.name} runs on one node, the {len(machine.gpus)} cards are in {machine.nodes}"
    if workload.data_parallel > 1:
        return f"{profile.name} has no data parallelism: start it {workload.data_parallel} times"
    return f"{profile.name} has no expert parallelism" if workload.expert_parallel else None


def _too_old(what: str, needed: str, device: Device) -> str | None:
    have = capability(device.compute_capability)
    if not needed or not have or have >= capability(needed):
        return None
    return f"{what} needs compute capability {needed}, {device.name} has {device.compute_capability}"
