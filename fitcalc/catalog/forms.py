"""The forms in which profile files are written, and one function per form that turns it into its spec.

Sizes and rates are strings with a unit. Packaged files (held to these forms by the tests) are built directly; user
files go through pydantic first. The published JSON Schemas are generated from these classes. A form lives for one call,
so its classes have neither comparison nor repr: building those would cost every start a few milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from fitcalc.errors import FitcalcError, ProfileError
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, DeviceKind
from fitcalc.spec.pipeline import Component, Pipeline
from fitcalc.spec.quant import QuantForm
from fitcalc.units import parse_rate, parse_size

STRICT: dict[str, Any] = {"extra": "forbid", "strict": True, "use_attribute_docstrings": True}
"""What pydantic holds a form to: no unknown keys, no conversion of types."""


@dataclass(eq=False, repr=False)
class ModelForm:
    """profiles/models/<id>.toml: a model through the architectural keys of its config.json."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    name: str
    """As a person would write it."""
    config: dict[str, Any]
    """Architectural keys of the published config.json, verbatim; long module lists with * for layer numbers."""
    model_class: str = ""
    """The class that loads the model, where its config.json names none under `architectures`."""
    family: str = ""
    aliases: tuple[str, ...] = ()
    ambiguous: dict[str, str] = field(default_factory=dict)
    """Short names that could mean something else: name -> what to tell the user."""
    hf_repo: str = ""
    params: int | None = None
    """Exact count: a tied head once, buffers and multi-token-prediction layers not counted."""
    params_active: int | None = None
    """Parameters that one token uses, of a mixture of experts."""
    params_published: int | None = None
    """The maker's own count, where the exact one is not known."""
    license: str = ""
    """Only where checked."""
    released: str = ""
    """Only where checked."""
    quantized_repos: dict[str, str] = field(default_factory=dict)
    """Quantization id -> repository, only where known for certain."""
    stores_tied_head: bool = False
    """The checkpoint holds a copy of a tied output head."""
    null_keys: tuple[str, ...] = ()
    """Keys of `config` that are null in the file (TOML has no null); dots step into tables."""
    source: str = ""
    """Where config and count come from."""
    notes: tuple[str, ...] = ()
    """What a user of the result has to know."""


@dataclass(eq=False, repr=False)
class DeviceForm:
    """profiles/gpus/<id>.toml and profiles/cpus/<id>.toml: a device as its driver reports it. Rates are dense."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    name: str
    vendor: str
    kind: DeviceKind
    segment: str = "custom"
    """consumer, laptop, workstation, datacenter, unified, edge, sbc, mini, desktop, server, cloud …"""
    arch: str = ""
    compute_capability: str = ""
    """CUDA's, such as "8.9"."""
    isa: str = ""
    """Instruction set: gfx1100, metal3, AVX2 …"""
    memory: str | None = None
    """Total as the driver or the operating system reports it: "24564 MiB"."""
    memory_basis: str = ""
    """observed (in a log), stated (by makers or users, no log read), nominal or derived."""
    usable: str | None = None
    """What a process can get: CUDA's total, Metal's working-set limit, RAM that the system leaves."""
    usable_basis: Literal["observed", "derived", "nominal"] = "derived"
    bandwidth: str | None = None
    """Peak: "1008 GB/s"."""
    read_bandwidth: str | None = None
    """What a program was measured to read, where that is known."""
    fp32: str | None = None
    """"82.6 TFLOP/s"."""
    fp16: str | None = None
    """Tensor rate with fp32 accumulation."""
    fp16_fast: str | None = None
    """Tensor rate with fp16 accumulation, where it differs."""
    bf16: str | None = None
    fp8: str | None = None
    fp4: str | None = None
    int8: str | None = None
    """"660.6 TOP/s"."""
    nvlink: str | None = None
    """One direction, summed over the links."""
    pcie: str | None = None
    """One direction."""
    cores: int | None = None
    tdp_watt: int | float | None = None
    list_price_usd: int | float | None = None
    """Launch price where one existed."""
    context: str | None = None
    """The driver's per-process context, where measured."""
    aliases: tuple[str, ...] = ()
    ambiguous: dict[str, str] = field(default_factory=dict)
    """Short names that could mean something else: name -> what to tell the user."""
    source: str = ""
    notes: tuple[str, ...] = ()
    """What a user of the result has to know."""


@dataclass(eq=False, repr=False)
class EngineForm:
    """profiles/engines/<id>.toml: what one version of an engine reserves, rounds and supports."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    name: str
    module: str
    """The module of fitcalc.engines that turns this profile into terms."""
    version: str
    device_kinds: tuple[str, ...]
    vendors: tuple[str, ...]
    quant_kinds: tuple[str, ...]
    splits_tensors: bool = False
    """Divides the model over cards by tensor parallelism (false: by layers, or not at all)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Option -> default, under the engine's own names."""
    request_options: dict[str, str] = field(default_factory=dict)
    """Option of the engine -> field of the request that states it already."""
    constants: dict[str, Any] = field(default_factory=dict)
    """Measured or read constants; sizes as strings with units."""
    kv_types: dict[str, tuple[int, int]] = field(default_factory=dict)
    """KV cache type -> [block elements, block bytes]; the first is the default."""
    min_compute_capability: str = ""
    aliases: tuple[str, ...] = ()
    ambiguous: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    """Constant or option -> where its value comes from."""
    source: str = ""


@dataclass(eq=False, repr=False)
class ComponentForm:
    """One model of a pipeline."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    role: str
    model: str
    """Model id."""
    count: int = 1
    params: int | None = None
    """Count of this part alone, where it is a part of its model."""


@dataclass(eq=False, repr=False)
class PipelineForm:
    """profiles/pipelines/<id>.toml: models that run together (Stable Diffusion, LLaVA …)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    name: str
    components: tuple[ComponentForm, ...]
    aliases: tuple[str, ...] = ()
    ambiguous: dict[str, str] = field(default_factory=dict)
    source: str = ""
    notes: tuple[str, ...] = ()


FORMS: dict[str, type[Any]] = {
    "models": ModelForm,
    "pipelines": PipelineForm,
    "gpus": DeviceForm,
    "cpus": DeviceForm,
    "quants": QuantForm,
    "engines": EngineForm,
}


def form_of(kind: str, content: dict[str, Any]) -> Any:
    """The form of a file that is known to be right (packaged profiles), without pydantic."""
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    if kind == "pipelines":
        fields["components"] = tuple(ComponentForm(**part) for part in fields["components"])
    return FORMS[kind](**fields)


def device_of(form: DeviceForm, profile_id: str) -> Device:
    """The Device of a profile; raises ProfileError with the field's name for a size or rate that cannot be read."""
    return Device(
        id=profile_id,
        name=form.name,
        vendor=form.vendor,
        kind=form.kind,
        segment=form.segment,
        memory_bytes=_size(form, "memory"),
        usable_bytes=_size(form, "usable"),
        arch=form.arch,
        compute_capability=form.compute_capability,
        bandwidth_bytes_per_s=_rate(form, "bandwidth", "B"),
        read_bandwidth_bytes_per_s=_rate(form, "read_bandwidth", "B"),
        fp32_flop_per_s=_rate(form, "fp32", "FLOP"),
        fp16_flop_per_s=_rate(form, "fp16", "FLOP"),
        fp16_fast_flop_per_s=_rate(form, "fp16_fast", "FLOP"),
        bf16_flop_per_s=_rate(form, "bf16", "FLOP"),
        fp8_flop_per_s=_rate(form, "fp8", "FLOP"),
        int8_op_per_s=_rate(form, "int8", "OP"),
        fp4_flop_per_s=_rate(form, "fp4", "FLOP"),
        nvlink_bytes_per_s=_rate(form, "nvlink", "B"),
        pcie_bytes_per_s=_rate(form, "pcie", "B"),
        cores=form.cores,
        tdp_watt=form.tdp_watt,
        list_price_usd=form.list_price_usd,
        context_bytes=_size(form, "context"),
        isa=form.isa,
        usable_basis=form.usable_basis,
        source=form.source,
        notes=tuple(form.notes),
    )


def engine_of(form: EngineForm, profile_id: str) -> EngineProfile:
    """The EngineProfile of a profile; constants that are sizes become bytes."""
    fields = {key: value for key, value in vars(form).items() if key != "ambiguous"}
    types = {name: (int(elems), int(size)) for name, (elems, size) in form.kv_types.items()}
    constants = {name: _constant(name, value) for name, value in form.constants.items()}
    return EngineProfile(id=profile_id, **{**fields, "kv_types": types, "constants": constants})


def pipeline_of(form: PipelineForm, profile_id: str) -> Pipeline:
    """The Pipeline of a profile."""
    parts = tuple(Component(part.role, part.model, part.count, part.params) for part in form.components)
    return Pipeline(profile_id, form.name, parts, form.source, tuple(form.notes))


def config_of(form: ModelForm) -> dict[str, Any]:
    """The config with its nulls put back."""
    config = dict(form.config)
    for path in form.null_keys:
        *tables, key = path.split(".")
        place = config
        for name in tables:
            inner = place.get(name)
            if not isinstance(inner, dict):
                raise ProfileError(f"null_keys: {path!r} leads to no table of config", hint="dots step into tables")
            # Copied on the way, so that the form itself stays as read.
            place[name] = dict(inner)
            place = place[name]
        place[key] = None
    return config


def _constant(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _constant(f"{name}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, str) and value[:1].isdigit() and not value.endswith("/s"):
        return _read(f"constants.{name}", value, parse_size)
    return value


def _read(name: str, text: Any, parse: Any) -> Any:
    try:
        return parse(text)
    except FitcalcError as error:
        raise ProfileError(f"{name}: {error}", hint=error.hint) from error


def _size(form: DeviceForm, name: str) -> int | None:
    text = getattr(form, name)
    return None if text is None else _read(name, text, parse_size)


def _rate(form: DeviceForm, name: str, unit: str) -> float | None:
    text = getattr(form, name)
    return None if text is None else _read(name, text, lambda value: parse_rate(value, unit))
