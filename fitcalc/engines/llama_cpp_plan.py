"""A plan of a llama.cpp run but for context and concurrency: options read, every tensor and cell on its device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fitcalc.engines.llama_cpp_graph import Graph, graph_of
from fitcalc.engines.llama_cpp_layout import Rules, Share, shares_of
from fitcalc.engines.llama_cpp_settings import Settings, Shape, settings_of, shape_of, window_tokens
from fitcalc.engines.options import settled
from fitcalc.frozen import dataclass
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
            model, profile.constants["mlp_buffers"], windowed=rules.window_cache, latent_cache=rules.latent_cache
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
    architecture = scheme.ggml.architectures[model.model_type].name if scheme.ggml else model.model_type
    shares = tuple(float(part) for part in workload.options["tensor_split"])
    if workload.options["split_mode"] == "none":
        shares = (1.0,) + (0.0,) * (len(cards) - 1)
    if not any(shares[: len(cards)]):
        shares = tuple(float(max((card.usable_bytes or 1) - machine.gpu_used_bytes, 1)) for card in cards)
    shares = (*shares, *(0.0 for _ in cards))[: len(cards)]
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
    )


def relaid(prepared: Prepared, gpu_layers: int, cpu_expert_layers: int) -> Prepared:
    """The plan with another number of layers on the cards and of layers whose experts stay on the host."""
    rules = replace(prepared.rules, gpu_layers=gpu_layers, cpu_expert_layers=cpu_expert_layers)
    settings = prepared.settings
    shares = shares_of(prepared.model, prepared.stored, rules, (settings.block_k, settings.block_v))
    return replace(prepared, rules=rules, cards=shares[:-1], host=shares[-1])


def shape_at(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Shape:
    """Caches and batch at one context and concurrency."""
    window = window_tokens(prepared.model) if prepared.rules.window_cache else 0
    return shape_of(prepared.settings, prepared.profile.constants, window, context_tokens, concurrency)
