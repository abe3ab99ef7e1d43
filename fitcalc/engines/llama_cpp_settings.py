"""How llama.cpp is started: options read into settings, and the shape of its caches at a context and concurrency.

Options carry llama.cpp's own names. What follows from the engine's version comes from the profile's constants.
"""

from __future__ import annotations

from typing import Any

from fitcalc.engines.base import kv_block
from fitcalc.errors import RequestError
from fitcalc.formulas import ggml
from fitcalc.frozen import dataclass
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.workload import Workload
from fitcalc.units import least, round_up

KV_NAMES = {"f16": "fp16", "f32": "fp32"}
"""llama.cpp's spelling of a cache type -> the id; other types are spelled alike."""
_ON, _OFF, _AUTO = ("on", "1", "true", "enabled"), ("off", "0", "false", "disabled"), ("", "auto", "-1")
_ALL_LAYERS = 10**6
_FIT = "fit"
"""n_gpu_layers: as many as fit, the rest in RAM."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Options as the ledger needs them. KV types are ids with their (elements, bytes) blocks."""

    batch: int
    ubatch: int
    flash: bool
    unified: bool
    swa_full: bool
    type_k: str
    type_v: str
    block_k: tuple[int, int]
    block_v: tuple[int, int]
    gpu_layers: int
    gpu_layers_given: bool
    """Layers or experts were placed by hand."""
    moves_what_does_not_fit: bool
    """Layers that do not fit on the cards go to the host."""
    cpu_expert_layers: int
    cache_on_host: bool
    outputs: int
    """Tokens of a batch whose logits are wanted; 0: all of them."""
    offloads_batches: bool
    """Prompt batches run on the card even where a layer's weights are on the host."""
    mapped: bool
    repacked: bool
    towers: bool
    towers_on_card: bool
    tower_buffer_bytes: int
    """Compute buffer of the towers where it is known; 0: one that was measured."""


def kv_id(name: str) -> str:
    """The id of a KV type from llama.cpp's spelling ('f16' -> 'fp16')."""
    return KV_NAMES.get(name.lower(), name.lower())


def switch(name: str, value: Any, automatic: bool) -> bool:
    """An option that is on, off or automatic."""
    word = str(value).strip().lower()
    if word in _ON or word in _OFF or word in _AUTO:
        return automatic if word in _AUTO else word in _ON
    raise RequestError(f"option {name}: {value!r} is not on, off or auto", hint=f"give {name} as on, off or auto")


def layer_count(name: str, value: Any) -> int | None:
    """A number of layers; None for '', auto and -1, a number beyond every model for all."""
    word = str(value).strip().lower()
    if word in ("", "auto", "-1"):
        return None
    if word == "all":
        return _ALL_LAYERS
    if not (word.isascii() and word.isdigit()):
        hint = f"give {name} as a number of layers, all or fit"
        raise RequestError(f"option {name}: {value!r} is not a number of layers", hint=hint)
    return int(word)


def settings_of(workload: Workload, profile: EngineProfile) -> Settings:
    """The settings of a workload whose options are settled.

    Raises RequestError for a value that makes no sense, UnknownNameError for a KV type that llama.cpp does not have.
    """
    options, rules = workload.options, profile.constants
    types = [kv_id(options[key] or workload.kv_dtype or next(iter(profile.kv_types))) for key in ("type_k", "type_v")]
    for key in ("n_batch", "n_ubatch"):
        if options[key] < 1:
            raise RequestError(f"option {key}: {options[key]} is not a batch size", hint=f"give {key} as 1 or more")
    moves = str(options["n_gpu_layers"]).strip().lower() == _FIT
    given = None if moves else layer_count("n_gpu_layers", options["n_gpu_layers"])
    experts = _ALL_LAYERS if options["cpu_moe"] else layer_count("n_cpu_moe", options["n_cpu_moe"])
    return Settings(
        batch=options["n_batch"],
        ubatch=options["n_ubatch"],
        flash=switch("flash_attn", options["flash_attn"], bool(rules["flash_auto"])),
        unified=options["kv_unified"],
        swa_full=options["swa_full"],
        type_k=types[0],
        type_v=types[1],
        block_k=kv_block(profile, types[0]),
        block_v=kv_block(profile, types[1]),
        gpu_layers=_ALL_LAYERS if given is None else given,
        gpu_layers_given=given is not None or bool(experts) or bool(options["override_tensor"]),
        moves_what_does_not_fit=moves,
        cpu_expert_layers=experts or 0,
        cache_on_host=options["no_kv_offload"],
        outputs=max(options["n_outputs_max"], 0),
        offloads_batches=options["op_offload"],
        mapped=options["mmap"],
        repacked=options["repack"],
        towers=options["mmproj"],
        towers_on_card=options["mmproj_offload"],
        tower_buffer_bytes=max(options["mmproj_buffer_bytes"], 0),
    )


@dataclass(frozen=True, slots=True)
class Shape:
    """The caches and the batch at one context and concurrency; arrays in a sweep."""

    total_cells: Any
    """n_ctx."""
    cells: Any
    """Cells that one sequence sees."""
    window_cells: Any
    """Cells of a layer with a window; 0 where no layer has a cache of its own size."""
    streams: Any
    """Separate caches."""
    sequences: Any
    tokens: Any
    """Tokens of the micro-batch that buffers are reserved for."""
    outputs: Any
    fewest_outputs: Any
    """Logits that a server needs which asks for one row per slot."""


def window_tokens(model: ModelSpec) -> int:
    """The widest window of the model's layers; 0 where every layer keeps everything."""
    return max((c.window_tokens for c in model.cache_layers if c.kind in ("sliding", "chunked")), default=0)


def shape_of(settings: Settings, rules: dict[str, Any], window: int, context_tokens: Any, concurrency: Any) -> Shape:
    """Cells and tokens for `concurrency` requests of `context_tokens` each; `window` 0: no layer has a cache for one.

    A unified cache is one pool that all requests share; else every request has a stream of its own. Older versions
    kept all requests in one stream.
    """
    step = rules["cell_step"] if settings.flash else rules["dense_cell_step"]
    per_request = ggml.padded_cells(context_tokens=context_tokens, step=step)
    pooled = settings.unified or not rules["separate_streams"]
    requests = 1 if settings.unified else concurrency
    total = per_request * requests
    streams = 1 if pooled else concurrency
    cells = total if pooled else per_request
    tokens = least(settings.ubatch, least(settings.batch, total))
    windowed = 0
    if window:
        windowed = cells
        if not settings.swa_full:
            sharing = concurrency if pooled else 1
            windowed = ggml.window_cells(
                cells=cells, window_tokens=window, sharing=sharing, ubatch=tokens, step=rules["cell_step"]
            )
    return Shape(
        total_cells=total,
        cells=cells,
        window_cells=windowed,
        streams=streams,
        sequences=concurrency,
        tokens=round_up(tokens, streams),
        outputs=least(tokens, settings.outputs) if settings.outputs else tokens,
        fewest_outputs=least(tokens, concurrency) if not settings.outputs and rules["server_outputs"] else None,
    )
