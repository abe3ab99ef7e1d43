"""Hardware nouns: a device and a machine. Capacities are what a process can get, not the number on the box."""

from __future__ import annotations

from typing import Literal

from fitcalc.frozen import dataclass

DeviceKind = Literal["gpu", "unified", "cpu", "accelerator"]
"""gpu: own memory; unified: shares the system's memory (Apple, GB10, Strix Halo, Jetson); cpu: host memory;
accelerator: TPU, Gaudi, Trainium … without a modelled engine."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device as a driver sees it. Rates are per second, dense; None where not known."""

    id: str
    name: str
    vendor: str
    kind: DeviceKind
    segment: str
    """consumer, laptop, workstation, datacenter, unified, sbc, mini, desktop, server, cloud, custom …"""
    memory_bytes: int | None
    """What the driver reports as total."""
    usable_bytes: int | None
    """What a process can get: CUDA's total, Metal's working-set limit, RAM the system leaves."""
    arch: str = ""
    compute_capability: str = ""
    bandwidth_bytes_per_s: float | None = None
    """Peak of the memory."""
    read_bandwidth_bytes_per_s: float | None = None
    """What a program was measured to read, where that is known."""
    fp32_flop_per_s: float | None = None
    fp16_flop_per_s: float | None = None
    """Tensor rate with fp32 accumulation."""
    fp16_fast_flop_per_s: float | None = None
    """Tensor rate with fp16 accumulation, where it differs."""
    bf16_flop_per_s: float | None = None
    fp8_flop_per_s: float | None = None
    int8_op_per_s: float | None = None
    fp4_flop_per_s: float | None = None
    nvlink_bytes_per_s: float | None = None
    """One direction."""
    pcie_bytes_per_s: float | None = None
    """One direction."""
    cores: int | None = None
    tdp_watt: float | None = None
    list_price_usd: float | None = None
    context_bytes: int | None = None
    """Per-process context of the driver, where measured."""
    isa: str = ""
    usable_basis: Literal["observed", "derived", "nominal"] = "derived"
    source: str = ""
    notes: tuple[str, ...] = ()
    node_cards: int = 0
    """Cards of the node that this one is built into; 0 for cards that are sold alone."""


Interconnect = Literal["nvswitch", "nvlink", "nvlink-bridge", "infinity-fabric", "pcie"]
"""What joins the cards of a node: switched or direct links, bridges between pairs, or the host's PCIe alone."""


@dataclass(frozen=True, slots=True)
class Node:
    """A server, or a rack of them on one fabric, as it is sold or rented. Rates are per second in one direction; None
    where not known."""

    id: str
    name: str
    device: str
    """Id of its cards."""
    cards: int
    """All of them, joined by the interconnect."""
    interconnect: Interconnect
    link_bytes_per_s: float | None = None
    """Per card, to the other cards."""
    hosts: int = 1
    """Computers that it is made of: the trays of a rack."""
    ram_bytes: int | None = None
    """Of each host."""
    cpu: str = ""
    """In words."""
    vcpus: int | None = None
    """Threads that the host has or that are rented."""
    network_bytes_per_s: float | None = None
    """Of each host, to others."""
    provider: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """Devices of one host, or of several equal nodes: equal or mixed GPUs, a CPU, its RAM. Other holders' memory is
    already known here."""

    gpus: tuple[Device, ...]
    """One entry per card, in rank order."""
    cpu: Device | None = None
    ram_bytes: int | None = None
    gpu_used_bytes: int = 0
    """Memory on each card that others hold (desktop, other processes)."""
    notes: tuple[str, ...] = ()
    node_cards: int = 0
    """Cards per node, in rank order; 0: all cards are in one host."""
    node: Node | None = None
    """The profile of each node, where one was named."""

    @property
    def nodes(self) -> int:
        """Hosts that the cards are in."""
        return -(-len(self.gpus) // self.node_cards) if self.node_cards else 1

    @property
    def fabric_cards(self) -> int:
        """Cards that are joined by more than a network: those of a node, or of a rack-wide fabric."""
        own = self.node.cards if self.node else self.node_cards
        return min(own or len(self.gpus), len(self.gpus))
