"""From a request to plans: which engines and quantizations come into question, and the case of each.

The rules of choice are kinds, not products: data-centre and workstation GPUs serve safetensors formats with vLLM,
everything else runs GGUF with llama.cpp, encoders and encoder-decoders run in Transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from fitcalc import catalog, engines, verdict
from fitcalc.catalog import QuantRow
from fitcalc.engines.options import has_options, settled
from fitcalc.errors import FitcalcError, RequestError, UnknownNameError, UnsupportedModelError
from fitcalc.frozen import dataclass, field, replace
from fitcalc.machine import machine_label
from fitcalc.quantization import file_scheme, weights_bytes
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import NO_MEDIA, Media, Workload

SERVING_SEGMENTS = ("datacenter", "workstation")
_SERVING, _LOCAL = ("vllm", "linear"), ("llama.cpp", "gguf")
"""The engine and the kind of quantization for serving GPUs and for everything else."""
IMAGES = "diffusers"
"""The engine of image generators."""
AT_LOAD = "bitsandbytes"
"""The method that quantizes any 16-bit checkpoint while loading it, so that no quantized repository is needed."""
LEAST_BITS = 3
"""Below this a quantization is chosen only when nothing else fits."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, with names resolved: the fixed part of every plan that is looked at."""

    model: ModelSpec
    machine: Machine
    context_tokens: int
    concurrency: int = 1
    kv_dtype: str = ""
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    engine: EngineProfile | None = None
    data_parallel: int | None = None
    expert_parallel: bool | None = None
    auto: Literal["", "context", "concurrency"] = ""
    """Which of the two is solved for: the largest that fits."""
    media: Media = NO_MEDIA

    @property
    def picture_px(self) -> tuple[int, int] | None:
        """Size of the pictures that are made; None for a model that makes none."""
        return self.media.picture_px if self.model.makes_images else None


def serves_safetensors(machine: Machine) -> bool:
    """Equal data-centre or workstation GPUs of a vendor that vLLM runs on."""
    cards = machine.gpus
    return (
        bool(cards)
        and len({card.id for card in cards}) == 1
        and cards[0].segment in SERVING_SEGMENTS
        and cards[0].kind == "gpu"
        and cards[0].vendor in ("nvidia", "amd")
    )


def engine_ids(model: ModelSpec, scheme: Scheme, machine: Machine) -> tuple[str, ...]:
    """Engines for a scheme in the order of preference; the scheme's own list bounds it."""
    if model.makes_images:
        order: tuple[str, ...] = (IMAGES,)
    elif model.kind != "decoder":
        order = ("transformers", "llama.cpp")
    elif scheme.method == "gguf":
        order = ("llama.cpp",)
    elif scheme.kind == "float":
        order = ("vllm", "llama.cpp") if serves_safetensors(machine) else ("llama.cpp", "vllm")
        order = (*order, "transformers")
    else:
        order = ("vllm", "transformers", "mlx")
    return tuple(engine for engine in order if engine in scheme.engines)


def _draft(request: Request) -> tuple[ModelSpec, Scheme] | None:
    """The model that proposes tokens, where options name one."""
    if not request.options:
        return None
    from fitcalc.drafts import draft_of

    return draft_of(request.options)


def workloads(request: Request, engine: EngineProfile) -> Iterator[Workload]:
    """The ways to divide the model over the cards, the engine's natural one first.

    Tensor parallel over all cards that a node's links (or a rack's) join, pipeline stages across nodes; where that is
    refused, whole experts on each rank; then fewer ranks and more stages.
    """
    base = Workload(
        request.context_tokens, request.concurrency, request.kv_dtype, request.tensor_parallel or 1,
        request.pipeline_parallel or 1, _options(request, engine), request.data_parallel or 1,
        bool(request.expert_parallel), _draft(request), request.media,
    )  # fmt: skip
    cards = len(request.machine.gpus) // base.data_parallel
    if not engine.splits_tensors or cards < 2:
        yield base
    elif request.tensor_parallel or request.pipeline_parallel:
        yield _completed(base, request, cards)
    else:
        for ranks in _tensor_degrees(request.machine, cards):
            plain = replace(base, tensor_parallel=ranks, pipeline_parallel=cards // ranks)
            yield plain
            if request.model.is_moe and request.expert_parallel is None and ranks * base.data_parallel > 1:
                yield replace(plain, expert_parallel=True)


def _options(request: Request, engine: EngineProfile) -> dict[str, Any]:
    """The options asked for, and those that loading the encoders of images and sound takes."""
    reads = request.media.images or request.media.audio_seconds
    needed: dict[str, Any] = engine.constants.get("with_media", {}) if reads else {}
    return {**needed, **request.options}


def _tensor_degrees(machine: Machine, cards: int) -> list[int]:
    """Divisors of the number of cards, largest first, that leave no tensor parallel group on two sides of a network."""
    fabric = machine.fabric_cards
    inside = fabric >= len(machine.gpus)
    return [n for n in range(cards, 0, -1) if cards % n == 0 and (inside or fabric % n == 0)]


def _completed(base: Workload, request: Request, cards: int) -> Workload:
    """Fill in the degree that was not given, so that every card has work."""
    if request.tensor_parallel is None:
        return replace(base, tensor_parallel=max(cards // base.pipeline_parallel, 1))
    if request.pipeline_parallel is None:
        return replace(base, pipeline_parallel=max(cards // base.tensor_parallel, 1))
    return base


def division_flags(workload: Workload) -> str:
    """'--tp 8 --pp 2 --ep', as the command line takes it."""
    flags = [f"--tp {workload.tensor_parallel}"]
    flags += [f"--pp {workload.pipeline_parallel}"] if workload.pipeline_parallel > 1 else []
    flags += [f"--dp {workload.data_parallel}"] if workload.data_parallel > 1 else []
    return " ".join([*flags, "--ep"] if workload.expert_parallel else flags)


def divisions_that_work(request: Request, scheme: Scheme, engine: EngineProfile) -> tuple[str, ...]:
    """What the cards allow in place of a division that was refused: those asked for first, each as flags."""
    asked = [replace(first, expert_parallel=True) for first in workloads(request, engine) if request.model.is_moe]
    freed = replace(request, tensor_parallel=None, pipeline_parallel=None, expert_parallel=None)
    ways = {division_flags(way): way for way in (*asked, *workloads(freed, engine))}
    works = [
        flags
        for flags, way in ways.items()
        if engines.refusal(engine, scheme, request.machine, way, request.model) is None
    ]
    # Where the plain division works, the one with whole experts need not be named.
    return tuple(flags for flags in works if flags.removesuffix(" --ep") == flags or flags[:-5] not in works)


def division_notes(case: verdict.Case, request: Request) -> Iterator[str]:
    """How the model is divided, where that is not what a reader would take for granted."""
    taken, machine = case.workload, case.machine
    first = next(workloads(request, case.profile))
    if division_flags(first) != division_flags(taken):
        reason = engines.refusal(case.profile, case.scheme, machine, first, case.model)
        whole = " (whole experts on each rank)" if taken.expert_parallel else ""
        yield f"{division_flags(first)} is refused: {reason}; divided by {division_flags(taken)}{whole} instead"
    if taken.tensor_parallel > max(machine.fabric_cards, 1):
        yield f"tensor parallel {taken.tensor_parallel} spans nodes: every layer waits for the network between them"
    if taken.data_parallel > 1:
        shared = ", the experts once over all of them" if case.model.is_moe else ""
        yield (
            f"{taken.data_parallel} data parallel ranks: each has its own cache and a share of the requests, and holds "
            f"all weights{shared}"
        )
    if taken.ranks > machine.node_cards > 0 and case.profile.splits_tensors:
        nodes = -(-taken.ranks // machine.node_cards)
        yield (
            f"on Kubernetes a LeaderWorkerSet group of {nodes} pods runs these commands: its leader the first node's, "
            "its workers the others'"
        )


def accepted(request: Request, scheme: Scheme, engine: EngineProfile) -> Workload | str:
    """The first way to divide the model that the engine accepts, or the reason why it refuses the natural one."""
    reasons: list[str] = []
    for workload in workloads(request, engine):
        reason = engines.refusal(engine, scheme, request.machine, workload, request.model)
        if reason is None:
            return workload
        reasons.append(reason)
    return reasons[0]


def case_with(request: Request, scheme: Scheme, engine: EngineProfile) -> verdict.Case | str:
    """The case of a scheme under an engine, or the reason why the engine refuses it."""
    found = accepted(request, scheme, engine)
    return found if isinstance(found, str) else verdict.case_of(request.model, scheme, engine, request.machine, found)


def case_for(request: Request, scheme: Scheme) -> verdict.Case | str:
    """The case of a scheme under the engine asked for, else under the first that accepts it; or why none does.

    An option or KV type that only another engine has speaks against an engine; when none has it, the error is raised.
    """
    if request.engine is not None:
        return case_with(request, scheme, request.engine)
    reasons: list[str | UnknownNameError] = []
    for name in engine_ids(request.model, scheme, request.machine):
        try:
            found = case_with(request, scheme, catalog.load_engine(name))
        except UnknownNameError as error:
            reasons.append(error)
            continue
        if not isinstance(found, str):
            return found
        reasons.append(found)
    if reasons and all(isinstance(reason, UnknownNameError) for reason in reasons):
        raise next(reason for reason in reasons if isinstance(reason, UnknownNameError))
    words = (reason for reason in reasons if isinstance(reason, str))
    return next(words, f"no engine modelled here runs {scheme.name} for {request.model.name}")


def required_case(request: Request, scheme: Scheme) -> verdict.Case:
    """The case of a scheme that was asked for by name; an error with what to try where no engine runs it."""
    found = case_for(request, scheme)
    if not isinstance(found, str):
        return found
    offered = (scheme_of(request.model, row.id) for row in candidates(request))
    runs = [other.id for other in offered if _is_run(request, other)]
    ways = _other_divisions(request, scheme)
    if ways:
        raise RequestError(found, hint=f"what works with {scheme.name} here: {' or '.join(ways[:3])}")
    if not runs:
        raise nothing_runs(request, found)
    raise RequestError(found, hint=f"what runs there: --quant {', '.join(runs[:6])}")


def _is_run(request: Request, scheme: Scheme) -> bool:
    try:
        return not isinstance(case_for(request, scheme), str)
    except UnknownNameError:
        # An option or KV type that no engine of this quantization has.
        return False


def _other_divisions(request: Request, scheme: Scheme) -> tuple[str, ...]:
    """Flags that would work where the division asked for is what speaks against the plan."""
    stated = request.tensor_parallel or request.pipeline_parallel or request.data_parallel or request.expert_parallel
    names = (request.engine.id,) if request.engine else engine_ids(request.model, scheme, request.machine)
    able = (engine for engine in map(catalog.load_engine, names) if engine.splits_tensors)
    engine = next((engine for engine in able if has_options(engine, request.kv_dtype, request.options)), None)
    return divisions_that_work(request, scheme, engine) if stated and engine else ()


def nothing_runs(request: Request, reason: str = "") -> FitcalcError:
    """Why there is no plan at all: the user's own options speak against it, or no engine is modelled for the device."""
    if not reason:
        reasons = (case_for(request, scheme_of(request.model, row.id)) for row in candidates(request))
        reason = next((found for found in reasons if isinstance(found, str)), "")
    degrees = (request.tensor_parallel, request.pipeline_parallel, request.data_parallel, request.expert_parallel)
    stated = request.engine or any(degrees) or request.kv_dtype
    accelerated = any(card.kind == "accelerator" for card in request.machine.gpus)
    if (stated or request.options) and not accelerated:
        return RequestError(reason, hint="leave that option out to let fitcalc choose")
    names = machine_label(request.machine)
    hint = reason or "fitcalc engines lists what each engine runs on"
    if accelerated:
        said = "TPU, Gaudi, Trainium and the like have a profile, but no engine for them is modelled yet"
        hint = f"{reason}: {said}" if reason else said
    return UnsupportedModelError(f"no engine modelled here runs {request.model.name} on {names}", hint=hint)


def runs_gguf(engine: EngineProfile) -> bool:
    """Float types mean GGUF F16 and BF16 under an engine that reads GGUF files."""
    return "gguf" in engine.quant_kinds and "linear" not in engine.quant_kinds


def has_imatrix(case: verdict.Case) -> bool:
    """The plan is of a GGUF file made with an importance matrix, on which some recipes depend."""
    return bool(settled(case.workload, case.profile).options.get("imatrix"))


def weights_of(case: verdict.Case) -> int:
    """Bytes of the model's tensors under the plan's quantization, each once."""
    return weights_bytes(case.model, case.scheme, gguf=runs_gguf(case.profile), imatrix=has_imatrix(case))


def native_scheme_id(model: ModelSpec) -> str:
    """The quantization a checkpoint comes in: its own scheme, else its 16- or 32-bit type."""
    return model.quant.scheme if model.quant else model.dtype


def scheme_of(model: ModelSpec, scheme_id: str) -> Scheme:
    """The scheme of an id; the one that a GGUF file is in means its own types, tensor by tensor."""
    own = file_scheme(model)
    return own if own is not None and own.id == scheme_id else catalog.load_scheme(scheme_id)


def named_scheme(model: ModelSpec, name: str) -> Scheme:
    """The scheme of a name; a name that covers the checkpoint's own (fp8 for fp8-block) means that one."""
    own, stored = model.quant.scheme if model.quant else "", file_scheme(model)
    if stored is not None and name.strip().lower() == own:
        return stored
    scheme = catalog.load_scheme(name)
    if stored is not None and scheme.id == own:
        return stored
    return catalog.load_scheme(own) if stored is None and own.startswith(f"{scheme.id}-") else scheme


def candidates(request: Request) -> tuple[QuantRow, ...]:
    """Quantizations to choose from without --quant, best quality first; those kept for explicit requests left out.

    One 16-bit entry (the model's own type), the checkpoint's own scheme, and those of the engine that the machine is
    for: safetensors formats on serving GPUs, GGUF elsewhere, what quantizes at load for encoders. Below 4 bits serving
    GPUs get GGUF too. A GGUF file is what it is.
    """
    model = request.model
    stored = file_scheme(model)
    if stored is not None:
        return (QuantRow(stored.id, stored.kind, stored.bits, stored.quality_rank, False, False, stored.method),)
    native, sixteen = native_scheme_id(model), _half_type(model, request.machine)
    wanted = _wanted_kinds(request)
    below = "gguf" if "linear" in wanted and request.engine is None and model.kind == "decoder" else ""
    chosen = [
        scheme
        for scheme in catalog.quant_rows().values()
        if scheme.id in (sixteen, native)
        or (scheme.kind in wanted and (_usual(scheme) or _is_twin(scheme, native)) and model.kind == "decoder")
        or (model.kind != "decoder" and scheme.method == AT_LOAD)
        or (model.makes_images and scheme.id in catalog.load_engine(IMAGES).constants["offered"])
        or (scheme.kind == below and ((scheme.bits < 4 and _usual(scheme)) or _is_twin(scheme, native)))
    ]
    if model.quant:
        chosen = _not_widened(chosen, native)
    first = {native, *(scheme.id for scheme in chosen if _is_twin(scheme, native))}
    # Of the checkpoint's own scheme and its twin, the one of the engine that the machine is for.
    chosen.sort(key=lambda row: (row.id not in first, row.id in first and row.kind not in wanted, *preference(row)))
    return tuple(chosen)


def smaller_rows(request: Request, scheme: Scheme) -> list[QuantRow]:
    """Quantizations below a scheme; below a GGUF file's own those of other files that may be had of the model."""
    others = (row for row in catalog.quant_rows().values() if row.method == "gguf" and _usual(row))
    rows = sorted(others, key=preference) if file_scheme(request.model) else candidates(request)
    return [row for row in rows if preference(row) > preference(scheme)]


def _wanted_kinds(request: Request) -> tuple[str, ...]:
    """Kinds of the engine asked for, else of the one that the machine is for, or of the one that knows the options."""
    if request.engine is not None:
        return tuple(kind for kind in request.engine.quant_kinds if kind != "float")
    order = [_SERVING, _LOCAL] if serves_safetensors(request.machine) else [_LOCAL, _SERVING]
    if request.kv_dtype or request.options:
        known = [pair for pair in order if has_options(catalog.load_engine(pair[0]), request.kv_dtype, request.options)]
        order = [*known, *order]
    return (order[0][1],)


def _not_widened(schemes: list[QuantRow], native: str) -> list[QuantRow]:
    """A checkpoint that comes quantized gains nothing from more bits than it has."""
    own = catalog.load_scheme(native)
    twins = [scheme for scheme in schemes if _is_twin(scheme, native)]
    return [
        scheme
        for scheme in schemes
        if scheme.id == native
        or scheme in twins
        or scheme.bits < own.bits
        or (scheme.kind == "gguf" and (not twins or scheme.bits <= twins[0].bits))
    ]


def _is_twin(scheme: QuantRow, native: str) -> bool:
    """The GGUF file type that keeps a checkpoint's own format (mxfp4_moe for mxfp4)."""
    return scheme.kind == "gguf" and scheme.id.startswith(f"{native}_")


def preference(scheme: Scheme | QuantRow) -> tuple[int, int]:
    """Sorts quantizations best first: more bits, then the smaller measured loss."""
    return -scheme.bits, -scheme.quality_rank


def _usual(scheme: QuantRow) -> bool:
    """Offered without being named: no special spelling, no importance matrix needed."""
    return not scheme.variant and not scheme.needs_imatrix


def _half_type(model: ModelSpec, machine: Machine) -> str:
    """fp16 where the model is stored so or a card lacks bfloat16 (compute capability below 8.0), else bf16."""
    old = any(float(card.compute_capability or 8) < 8 for card in machine.gpus if card.vendor == "nvidia")
    return "fp16" if model.dtype == "fp16" or old else "bf16"
