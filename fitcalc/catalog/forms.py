"""The forms in which profile files are written: what pydantic holds users' files to, and the JSON Schemas come from.

Sizes and rates are strings with a unit. Packaged files are held to these forms by the tests, so that a plain run needs
none of these classes; catalog.building makes specs of what the files hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from fitcalc.catalog.price_forms import PriceForm
from fitcalc.catalog.strict import STRICT
from fitcalc.spec.hardware import DeviceKind, Interconnect
from fitcalc.spec.quant import SchemeKind


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
    node_cards: int = 0
    """Cards of the node that this one is built into (SXM, OAM modules); 0 for cards that are sold alone."""
    context: str | None = None
    """The driver's per-process context, where measured."""
    aliases: tuple[str, ...] = ()
    ambiguous: dict[str, str] = field(default_factory=dict)
    """Short names that could mean something else: name -> what to tell the user."""
    source: str = ""
    notes: tuple[str, ...] = ()
    """What a user of the result has to know."""


@dataclass(eq=False, repr=False)
class NodeForm:
    """profiles/nodes/<id>.toml: a server (or a rack of them on one fabric) with equal cards. Rates: one direction."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    name: str
    device: str
    """Id of its cards."""
    cards: int
    """All of them, joined by the interconnect."""
    interconnect: Interconnect
    link: str | None = None
    """Per card, to the other cards: "450 GB/s"."""
    hosts: int = 1
    """Computers that it is made of: the trays of a rack."""
    ram: str | None = None
    """Memory of each host: "2048 GiB"."""
    cpu: str = ""
    vcpus: int | None = None
    """Threads that the host has or that are rented."""
    network: str | None = None
    """Of each host, to others: "400 GB/s"."""
    provider: str = ""
    """Who rents it out, or builds it."""
    aliases: tuple[str, ...] = ()
    ambiguous: dict[str, str] = field(default_factory=dict)
    """Short names that could mean something else: name -> what to tell the user."""
    source: str = ""
    notes: tuple[str, ...] = ()


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
    starts: str = ""
    """Id of the engine that this one starts, whose rules then hold."""
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
    upcast: bool = False
    """Runs in 32 bit when it is loaded in fp16."""
    on_device: bool = False
    """Stays on the card when the other components are offloaded."""
    quantized: bool = False
    """A quantization takes its linear layers, unless others are named."""


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
    dtype: Literal["fp16", "bf16"] = "fp16"
    """Type that its documentation loads it in."""
    side_px: int = 0
    """Side of the picture it makes by default [pixels]."""
    samples: int = 2
    """Samples that the denoiser runs per picture: 2 with classifier-free guidance."""
    prompt_tokens: int = 77
    """Length that a prompt is filled up to."""


@dataclass(eq=False, repr=False)
class FormatForm:
    """A [weight], [loaded] or [beside.<id>] table: the fields of Format, which is named after its scheme."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    block_elems: int
    block_bytes: int
    group_elems: int = 0
    group_bits: int = 0
    row_bytes: int = 0
    column_bytes: int = 0
    tile_rows: int = 0
    tile_cols: int = 0
    tile_bytes: int = 0
    tensor_bytes: int = 0
    flat: bool = False


@dataclass(eq=False, repr=False)
class QuantForm:
    """The file form of profiles/quants/<id>.toml: [weight], or `type` for a GGUF recipe."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    name: str
    kind: SchemeKind
    bits: int
    quality_rank: int
    source: str
    engines: tuple[str, ...]
    weight: FormatForm | None = None
    type: str = ""
    """ggml type that the recipe gives to tensors without a rule of their own."""
    loaded: FormatForm | None = None
    beside: dict[str, FormatForm] = field(default_factory=dict)
    method: str = ""
    recipe: str = ""
    head_type: str = ""
    kept_roles: tuple[str, ...] = ()
    kept_parts: tuple[str, ...] = ()
    only_roles: tuple[str, ...] = ()
    also_roles: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    """Module patterns that every exporter leaves in the model's own type."""
    family_ignored: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """model_type -> module patterns that the makers' own exports leave alone, where that is known."""
    family_overrides: dict[str, dict[str, str]] = field(default_factory=dict)
    """model_type -> module pattern -> quantization id of what exports of a family hold in another format."""
    min_compute_capability: str = ""
    native_compute_capability: str = ""
    needs_imatrix: bool = False
    variant: bool = False
    aliases: tuple[str, ...] = ()
    ambiguous: dict[str, str] = field(default_factory=dict)
    """Short names that could mean something else: name -> what to tell the user."""


@dataclass(eq=False, repr=False)
class GgufArchitectureForm:
    """One [architectures.<name>] table: the model_types that become this architecture, and its traits."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    model_types: tuple[str, ...]
    output_copy: bool = False
    splits_qkv: bool = False
    keeps_mtp: bool = False
    layerwise_kv_heads: bool = False
    checked: bool = False
    window_period: int = 0
    window_first_full: bool = False
    chunk_tokens: int = 0
    cached_layers: int = 0
    cache_unknown: bool = False


@dataclass(eq=False, repr=False)
class GgmlForm:
    """The file form of profiles/ggml.toml."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    source: str
    token_bytes: tuple[tuple[int, int], ...]
    """(vocabulary up to, bytes of header per token), smallest first."""
    types: dict[str, tuple[int, int, int]]
    """Type name -> number in a GGUF header, elements per block, bytes per block."""
    file_types: dict[str, int]
    """Quantization id -> general.file_type in a GGUF header."""
    architectures: dict[str, GgufArchitectureForm]


FORMS: dict[str, type[Any]] = {
    "models": ModelForm,
    "pipelines": PipelineForm,
    "gpus": DeviceForm,
    "cpus": DeviceForm,
    "nodes": NodeForm,
    "quants": QuantForm,
    "engines": EngineForm,
    "prices": PriceForm,
}
