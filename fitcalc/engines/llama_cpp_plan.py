"""A plan of a llama.cpp run but for context and concurrency: options read, every tensor and cell on its device."""

from __future__ import annotations

from typing import Any

from fitcalc.engines.llama_cpp_graph import Graph, graph_of
from fitcalc.engines.llama_cpp_layout import Rules, Share, shares_of
from fitcalc.engines.llama_cpp_placement import overrides_of
from fitcalc.engines.llama_cpp_settings import Settings, Shape, settings_of, shape_of, window_tokens
from fitcalc.engines.options import settled
from fitcalc.frozen import dataclass, replace
from fitcalc.quantization import assign
from fitcalc.quantization.stored import Stored
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan but for context and concurrency: what every device holds, and the widths of the graph."""

    model: ModelSpec
    scheme: Scheme
    machine: Machine
    profile: EngineProfile
    workload: Workload
    settings: Settings
    graph: Graph
    stored: tuple[Stored, ...]
    rules: Rules
    cards: tuple[Share, ...]
    host: Share

    @property
    def is_shared_memory(self) -> bool:
        """One device whose memory the host uses too."""
        return len(self.machine.gpus) == 1 and self.machine.gpus[0].kind == "unified"

    @property
    def uses_host(self) -> bool:
        """Layers, experts or cache live on the host beside cards."""
        host = self.host
        cached = host.cell_bytes or host.window_cell_bytes or host.conv_elems or host.state_elems
        return bool(self.cards) and bool(host.layers or host.has_output or host.largest_weight_bytes or cached)


def prepare(model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile) -> Prepared:
    """Everything that is independent of context and concurrency.

    Raises RequestError and UnknownNameError for options and KV types that make no sense.
    """
    workload = settled(workload, profile)
    settings = settings_of(workload, profile)
    rules = _rules(model, scheme, machine, workload, settings, profile)
    stored = assign(model, scheme, gguf=True, imatrix=bool(workload.options["imatrix"]))
    shares = shares_of(model, stored, rules, (settings.block_k, settings.block_v))
    return Prepared(
        model=model,
        scheme=scheme,
        machine=machine,
        profile=profile,
        workload=workload,
        settings=settings,
        graph=graph_of(
            model,
            profile.constants["mlp_buffers"],
            windowed=rules.window_cache,
            latent_cache=rules.latent_cache,
            fused=any(e.tensor.role == "attn_qkv" and e.tensor.name.endswith("attn_qkv.weight") for e in stored),
        ),
        stored=stored,
        rules=rules,
        cards=shares[:-1],
        host=shares[-1],
    )


def _rules(
    model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, settings: Settings, profile: EngineProfile
) -> Rules:
    constants, cards = profile.constants, machine.gpus
    architecture = architecture_of(model, scheme)
    shares, row_shares = _shares(machine, workload)
    vendors = {card.vendor for card in cards}
    return Rules(
        gpu_layers=settings.gpu_layers,
        cpu_expert_layers=settings.cpu_expert_layers,
        shares=shares,
        cache_on_host=settings.cache_on_host,
        output_first=constants["output_first"],
        copies_tied_head=not (vendors <= set(constants["mapped_vendors"]) and settings.mapped),
        row_step=max((constants["row_step"].get(vendor, 0) for vendor in vendors), default=0),
        tensor_step=constants["tensor_step"],
        latent_cache=constants["latent_cache"],
        window_cache=constants["window_cache"] and architecture not in constants["windowless_architectures"],
        overrides=overrides_of(str(workload.options["override_tensor"]), len(cards)),
        row_shares=row_shares,
    )


def _shares(machine: Machine, workload: Workload) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(share of the layers, share of every matrix's rows or ()) of each card."""
    cards, options = machine.gpus, workload.options
    given = (*(float(part) for part in options["tensor_split"]), *(0.0 for _ in cards))[: len(cards)]
    if len(cards) == 1:
        given = (1.0,)
    elif not any(given):
        given = tuple(float(max((card.usable_bytes or 1) - machine.gpu_used_bytes, 1)) for card in cards)
    if options["split_mode"] == "layer":
        return given, ()
    main = tuple(float(rank == options["main_gpu"]) for rank in range(len(cards)))
    return main, given if options["split_mode"] == "row" and len(cards) > 1 else ()


def architecture_of(model: ModelSpec, scheme: Scheme) -> str:
    """llama.cpp's name of the model's family."""
    return scheme.ggml.architectures[model.model_type].name if scheme.ggml else model.model_type


def relaid(prepared: Prepared, gpu_layers: int, cpu_expert_layers: int, shares: tuple[float, ...] = ()) -> Prepared:
    """The plan with another number of layers on the cards and of layers whose experts stay on the host.

    `shares` replaces the cards' shares of the layers; () keeps them.
    """
    rules = replace(
        prepared.rules,
        gpu_layers=gpu_layers,
        cpu_expert_layers=cpu_expert_layers,
        shares=shares or prepared.rules.shares,
    )
    settings = prepared.settings
    laid = shares_of(prepared.model, prepared.stored, rules, (settings.block_k, settings.block_v))
    return replace(prepared, rules=rules, cards=laid[:-1], host=laid[-1])


def shape_at(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Shape:
    """Caches and batch at one context and concurrency."""
    window = window_tokens(prepared.model) if prepared.rules.window_cache else 0
    return shape_of(prepared.settings, prepared.profile.constants, window, context_tokens, concurrency)
