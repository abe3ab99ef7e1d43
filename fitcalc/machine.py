"""From the words of --gpu, --cpu, --ram and --gpu-used to a Machine: counts, bare sizes, ambiguous names, RAM."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fitcalc import catalog
from fitcalc.errors import RequestError
from fitcalc.frozen import replace
from fitcalc.spec.hardware import Device, Machine, Node
from fitcalc.units import GIB, parse_size

_MOST_CARDS = 4096
_COUNTED = r"(?P<name>.+):(?P<count>-?\w*)|(?P<before>\d+)\s*[x×*]\s*(?P<behind>.+)"


def split_count(text: str) -> tuple[str, int]:
    """('a100-80', 2) from 'a100-80:2' or '2xa100-80'; a name alone counts once."""
    stripped = text.strip()
    # Most names have neither, and the expression takes longer than the rest.
    maybe = ":" in stripped or stripped[:1].isdecimal()
    match = re.fullmatch(_COUNTED, stripped, re.IGNORECASE) if maybe else None
    if match is None:
        return stripped, 1
    name, count = (match["name"] or match["behind"]).strip(), match["count" if match["name"] else "before"]
    if not count.isascii() or not count.isdigit() or not 1 <= int(count) <= _MOST_CARDS:
        hint = f"write the number of cards as {name}:2 (1 to {_MOST_CARDS})"
        raise RequestError(f"--gpu {text!r}: {count!r} is not a number of cards", hint=hint)
    return name, int(count)


def load_gpu(name: str) -> tuple[Device | Node, str]:
    """A card by id, alias or bare size ('24GB'), or a node; with the note its name needs ('' for none)."""
    if catalog.is_bare_size(name):
        return catalog.device_from_size(name), ""
    found = catalog.resolve("machine", name)
    if found.kind == "nodes":
        return catalog.load_node(name), found.note
    return catalog.load_device(name), found.note


def _cards(gpu: str | Sequence[str] | None) -> tuple[list[Device], list[str], Node | None]:
    """The cards in rank order, notes about their names, and the node they are in, where one was named."""
    cards: list[Device] = []
    notes: list[str] = []
    nodes: list[Node] = []
    for text in [gpu] if isinstance(gpu, str) else list(gpu or ()):
        name, count = split_count(text)
        found, note = load_gpu(name)
        if isinstance(found, Node):
            nodes.append(found)
            device, count = catalog.load_device(found.device), count * found.cards
        else:
            device = found
        if device.kind == "cpu":
            raise RequestError(f"{device.id} is a CPU, not a GPU", hint=f"use --cpu {device.id}")
        cards += [device] * count
        notes += [note] if note else []
    if len(cards) > _MOST_CARDS:
        raise RequestError(f"{len(cards):,} cards are too many", hint=f"give at most {_MOST_CARDS:,}")
    node = nodes[0] if nodes else None
    if node and (len({n.id for n in nodes}) > 1 or len(cards) % node.cards or any(c.id != node.device for c in cards)):
        hint = f"give {node.id}:2 for two of them, or the cards by themselves"
        raise RequestError(f"{node.name} is a whole node: it does not go together with other devices", hint=hint)
    return cards, notes, node


def cards_per_node(device: Device, count: int) -> int:
    """Cards in each of equal nodes that so many of a card are built into; 0 where they are in one host.

    Raises RequestError for a number that equal nodes of two and more cannot have.
    """
    most = device.node_cards
    if not most or count <= most:
        return 0
    each = next(cards for cards in range(most, 0, -1) if count % cards == 0)
    if each == 1:
        hint = f"give a multiple of {most}, such as {device.id}:{count - count % most}"
        raise RequestError(f"{count} × {device.name} do not fill equal nodes of up to {most} cards", hint=hint)
    return each


def with_cards(machine: Machine, device: Device, count: int) -> Machine:
    """The machine with so many of one card in place of its own."""
    return replace(machine, gpus=(device,) * count, node_cards=cards_per_node(device, count), node=None, notes=())


def _node_notes(machine: Machine) -> tuple[str, ...]:
    """How the cards are spread over nodes, and what joins them."""
    node, cards = machine.node, len(machine.gpus)
    if node is None:
        if machine.nodes == 1:
            return ()
        label = f"{cards} × {machine.gpus[0].name}"
        built = f"built into nodes of {machine.gpus[0].node_cards}"
        return (f"{label} are read as {machine.nodes} nodes of {machine.node_cards}: these cards are {built}",)
    return (node_words(node), *node.notes)


_LINKS = {
    "nvswitch": "NVLink through NVSwitch",
    "nvlink": "NVLink",
    "nvlink-bridge": "NVLink bridges between pairs",
    "infinity-fabric": "Infinity Fabric",
    "pcie": "PCIe",
}


def node_words(node: Node) -> str:
    """'DGX H100: 8 × h100-sxm, NVLink through NVSwitch 450 GB/s, 2,048 GiB of RAM, 400 GB/s to other nodes'."""
    link = _LINKS[node.interconnect] + (f" {node.link_bytes_per_s / 1e9:g} GB/s" if node.link_bytes_per_s else "")
    hosts = f" in {node.hosts} hosts" if node.hosts > 1 else ""
    parts = [f"{node.cards} × {node.device}{hosts}"] + ([link] if node.cards > 1 else [])
    parts += [node.cpu] if node.cpu else []
    parts += [f"{node.vcpus} threads"] if node.vcpus else []
    whose = " per host" if node.hosts > 1 else ""
    parts += [f"{node.ram_bytes / GIB:,.0f} GiB of RAM{whose}"] if node.ram_bytes else []
    parts += [f"{node.network_bytes_per_s / 1e9:g} GB/s to other nodes{whose}"] if node.network_bytes_per_s else []
    return f"{node.name}: {', '.join(parts)}"


def ram_size(text: str) -> int:
    """Bytes of memory as it is sold: '64GB' of RAM are 64 GiB."""
    return parse_size(re.sub(r"(?i)([kmgt])b$", r"\1iB", text.strip()))


def _host(cpu: str | None, ram: str | int | None) -> tuple[Device | None, int | None, list[str]]:
    ram_bytes = ram_size(ram) if isinstance(ram, str) else ram
    if ram_bytes is not None and ram_bytes <= 0:
        raise RequestError(f"--ram {ram!r} is not a size of memory", hint="give it as 32GB or 64GiB")
    if cpu is None:
        return None, ram_bytes, []
    device, found = catalog.load_device(cpu), catalog.resolve("device", cpu)
    if device.kind != "cpu":
        raise RequestError(f"{device.id} is not a CPU", hint=f"use --gpu {device.id}")
    notes = [found.note] if found.note else []
    if ram_bytes is None:
        return device, device.usable_bytes, notes
    # RAM given by hand is the machine's total: the system's share comes off as on the profiled sizes.
    kept = (device.memory_bytes or 0) - (device.usable_bytes or 0) if device.usable_bytes else 0
    usable = max(ram_bytes - kept, 0)
    return replace(device, memory_bytes=ram_bytes, usable_bytes=usable), usable, notes


def machine_of(
    gpu: str | Sequence[str] | None = None,
    cpu: str | None = None,
    ram: str | int | None = None,
    gpu_used: str | int | None = None,
) -> Machine:
    """The machine that the options describe; raises RequestError for a combination that names no device."""
    cards, notes, node = _cards(gpu)
    host, ram_bytes, host_notes = _host(cpu, ram)
    used = parse_size(gpu_used) if isinstance(gpu_used, str) else gpu_used or 0
    if used < 0:
        raise RequestError(f"--gpu-used {gpu_used!r} is negative", hint="give what others hold, such as 600MiB")
    if not cards and host is not None and ram_bytes is None:
        hint = f"say how much it has: --cpu {host.id} --ram 128GB"
        raise RequestError(f"{host.id} is sold with many sizes of RAM", hint=hint)
    if not cards and host is None:
        raise RequestError("no device given", hint="add --gpu rtx-3060, --cpu raspberry-pi-5-8gb or --gpu 24GB")
    alike = len({card.id for card in cards}) == 1
    per_node = node.cards // node.hosts if node else cards_per_node(cards[0], len(cards)) if alike else 0
    per_node = 0 if per_node >= len(cards) else per_node
    machine = Machine(tuple(cards), host, ram_bytes, used, (*notes, *host_notes), per_node, node)
    return replace(machine, notes=(*_node_notes(machine), *machine.notes))


def device_counts(machine: Machine) -> tuple[tuple[Device, int], ...]:
    """Distinct devices with their counts, GPUs in order, else the CPU."""
    devices = machine.gpus or ((machine.cpu,) if machine.cpu else ())
    counts: dict[str, tuple[Device, int]] = {}
    for device in devices:
        _, count = counts.get(device.id, (device, 0))
        counts[device.id] = (device, count + 1)
    return tuple(counts.values())


def machine_label(machine: Machine) -> str:
    """'2 × A100 SXM4 80GB', 'RTX 3090 + RTX 3060 12GB', '2 × DGX H100 (8 × H100 SXM5 80GB each)', 'Raspberry Pi 5'."""
    pairs = device_counts(machine)
    if not machine.gpus:
        return pairs[0][0].name
    if machine.node:
        each = f"{machine.node.cards} × {machine.gpus[0].name}"
        count = len(machine.gpus) // machine.node.cards
        return f"{count} × {machine.node.name} ({each}{' each' if count > 1 else ''})"
    label = " + ".join(f"{count} × {device.name}" for device, count in pairs)
    return f"{label} ({machine.nodes} nodes of {machine.node_cards})" if machine.nodes > 1 else label
