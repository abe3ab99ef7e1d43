"""The start command of llama-server, or Ollama's with its Modelfile, as the ledger assumes them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator

from fitcalc.engines.base import as_word, placeholder
from fitcalc.engines.llama_cpp_settings import KV_NAMES, Settings, Shape
from fitcalc.quantization.mmproj import has_towers
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload

_FLOAT_TYPES = {"fp16": "F16", "bf16": "BF16", "fp32": "F32"}
_SPELLED = {kv_id: name for name, kv_id in KV_NAMES.items()} | {"int8": "q8_0"}


def kv_name(kv_id: str) -> str:
    """llama.cpp's spelling of a KV type."""
    return _SPELLED.get(kv_id, kv_id)


def file_type(scheme: Scheme) -> str:
    """The file type in a GGUF's name: Q4_K_M, F16."""
    return scheme.recipe or _FLOAT_TYPES.get(scheme.id, scheme.id.upper())


def gguf_file(model: ModelSpec, scheme: Scheme, profile: EngineProfile) -> str:
    """'org/repo:Q4_K_M', as -hf takes it, where the repository surely holds the file; '' elsewhere.

    A repository that is named for a type outside the usual ones holds that one file, and needs no tag.
    """
    known = dict(model.quantized_repos)
    if file_type(scheme) in profile.constants["published_types"]:
        found = known.get(scheme.id) or known.get("gguf")
        return f"{found}:{file_type(scheme)}" if found else ""
    return known.get(scheme.id, "")


def file_name(model: ModelSpec, scheme: Scheme) -> str:
    """The file that was read, or a visible placeholder for one to put in."""
    if scheme.kind == "file":
        return model.source
    return placeholder(f"{model.hf_repo.rpartition('/')[2] or model.id}-{file_type(scheme)}.gguf")


def hub_file(model: ModelSpec, scheme: Scheme) -> str:
    """The place in its repository of the file that was read on the Hub; '' for every other model."""
    start = f"hf:{model.hf_repo}@"
    if scheme.kind != "file" or not model.source.startswith(start):
        return ""
    return model.source.removeprefix(start).partition("/")[2]


def start_command(
    model: ModelSpec,
    scheme: Scheme,
    profile: EngineProfile,
    workload: Workload,
    settings: Settings,
    shape: Shape,
    *,
    cards: int,
    gpu_layers: int,
    all_layers: int,
    cpu_expert_layers: int,
    split: tuple[float, ...] = (),
) -> str:
    """The words that start the engine; one shell line, or for Ollama a Modelfile between two."""
    if profile.constants["command"] == "ollama":
        layers = gpu_layers if gpu_layers < all_layers and cards else None
        return _ollama(model, scheme, profile, settings, shape, layers)
    published = gguf_file(model, scheme, profile)
    source = ["-hf", published] if published else ["-m", file_name(model, scheme)]
    if file := hub_file(model, scheme):
        source = ["-hf", model.hf_repo, "-hff", file]
    if published and profile.constants["finds_mmproj"] and has_towers(model) and not settings.towers:
        source.append("--no-mmproj")
    if not published and has_towers(model) and settings.towers:
        source += ["--mmproj", shlex.quote(f"<mmproj-{model.name.replace(' ', '-')}-F16.gguf>")]
    words = [
        "llama-server",
        *source,
        *("-c", str(shape.total_cells), "-np", str(shape.sequences)),
        *_layers(cards, gpu_layers, all_layers),
        *_experts(profile, min(cpu_expert_layers, all_layers - 1) if cards else 0),
        *("-b", str(settings.batch), "-ub", str(settings.ubatch)),
        *_attention(profile, settings),
        *_switches(profile, workload, settings, cards),
        *(("-ts", ",".join(f"{part:g}" for part in split)) if split else ()),
    ]
    absent = profile.constants.get("absent_flags", ())
    return " ".join(as_word(word) for word in words if word not in absent)


def _layers(cards: int, gpu_layers: int, all_layers: int) -> Iterator[str]:
    if cards:
        yield from ("-ngl", str(gpu_layers if gpu_layers < all_layers else 99 if all_layers <= 99 else all_layers))


def _experts(profile: EngineProfile, layers: int) -> Iterator[str]:
    """The experts of the first layers in RAM: by their number, or in versions before that by their tensors."""
    if not layers:
        return
    if profile.constants.get("names_expert_tensors"):
        numbers = "|".join(str(layer) for layer in range(layers))
        yield from ("-ot", rf"blk\.({numbers})\.ffn_.*_exps.*=CPU")
    else:
        yield from ("--n-cpu-moe", str(layers))


def _attention(profile: EngineProfile, settings: Settings) -> Iterator[str]:
    if profile.constants["flash_takes_value"]:
        yield from ("-fa", "on" if settings.flash else "off")
    elif settings.flash:
        yield "-fa"
    default = next(iter(profile.kv_types))
    if settings.type_k != default or settings.type_v != default:
        yield from ("-ctk", kv_name(settings.type_k), "-ctv", kv_name(settings.type_v))


def _switches(profile: EngineProfile, workload: Workload, settings: Settings, cards: int) -> Iterator[str]:
    options, defaults = workload.options, profile.options
    if profile.constants["separate_streams"]:
        yield "--kv-unified" if settings.unified else "--no-kv-unified"
    if settings.swa_full:
        yield "--swa-full"
    if settings.cache_on_host:
        yield "-nkvo"
    if not settings.mapped:
        yield from profile.constants["unmapped_words"]
    if not settings.repacked:
        yield "--no-repack"
    if profile.constants["keeps_prompts"]:
        # Prompts of the past are kept in RAM beside the cache, which no ledger counts.
        yield from ("--cache-ram", "0")
    if cards > 1 and options["split_mode"] != defaults["split_mode"]:
        yield from ("-sm", str(options["split_mode"]))
    if settings.towers and not settings.towers_on_card:
        yield "--no-mmproj-offload"
    if options["override_tensor"]:
        yield from ("-ot", str(options["override_tensor"]))
    if cards > 1 and options["main_gpu"] != defaults["main_gpu"]:
        yield from ("-mg", str(options["main_gpu"]))
    if cards > 1 and tuple(options["tensor_split"]) != tuple(defaults["tensor_split"]):
        yield from ("-ts", ",".join(f"{part:g}" for part in options["tensor_split"]))


def _ollama(
    model: ModelSpec,
    scheme: Scheme,
    profile: EngineProfile,
    settings: Settings,
    shape: Shape,
    gpu_layers: int | None,
) -> str:
    published = gguf_file(model, scheme, profile)
    source = f"hf.co/{published}" if published else file_name(model, scheme)
    if not published and not os.path.isabs(source) and not source.startswith("."):
        source = f"./{source}"
    per_request = shape.total_cells // (1 if settings.unified else shape.sequences)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model.id if scheme.kind == "file" else f"{model.id}-{scheme.id}")
    lines = [f"FROM {source}", f"PARAMETER num_ctx {per_request}", f"PARAMETER num_batch {settings.batch}"]
    if gpu_layers is not None:
        lines.append(f"PARAMETER num_gpu {gpu_layers}")
    environment = [
        f"OLLAMA_NUM_PARALLEL={shape.sequences}",
        f"OLLAMA_FLASH_ATTENTION={1 if settings.flash else 0}",
        f"OLLAMA_KV_CACHE_TYPE={kv_name(settings.type_k)}",
    ]
    start = f"{' '.join(environment)} ollama serve &"
    # Not a here-document: its end is not found where a report indents the lines.
    written = " \\\n".join(("printf '%s\\n' > Modelfile", *(f"  {shlex.quote(line)}" for line in lines)))
    return f"{start}\n{written}\nollama create {name} && ollama run {name}"
