"""Nodes: profiles against the cards they are built of, names on the command line, cards spread over equal nodes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import fitcalc
from fitcalc import catalog
from fitcalc.cli.lists import devices
from fitcalc.errors import RequestError, UnknownNameError
from fitcalc.machine import cards_per_node, machine_label, machine_of, node_words

NODES = catalog.ids("nodes")


@pytest.mark.parametrize("name", NODES)
def test_a_node_agrees_with_its_cards(name: str) -> None:
    node = catalog.load_node(name)
    card = catalog.load_device(node.device)
    assert card.kind == "gpu"
    assert node.source
    assert (node.link_bytes_per_s is None) == (node.cards == 1)
    if node.link_bytes_per_s and node.interconnect == "pcie":
        assert node.link_bytes_per_s == card.pcie_bytes_per_s
    elif node.link_bytes_per_s:
        assert node.link_bytes_per_s == card.nvlink_bytes_per_s
    if card.node_cards and node.hosts == 1 and node.cards != 16:
        assert node.cards <= card.node_cards
    if node.hosts > 1:
        assert node.cards // node.hosts == card.node_cards
    if node.vcpus and node.ram_bytes:
        # One thread has between half a GiB and 64 GiB: a slip of a digit would show.
        assert 2**29 <= node.ram_bytes / node.vcpus <= 2**36


@pytest.mark.parametrize(
    ("name", "expected", "per_node"),
    [
        ("dgx-h100", ("h100-sxm", 8), 0),
        ("dgx-h100:2", ("h100-sxm", 16), 8),
        ("p5.48xlarge", ("h100-sxm", 8), 0),
        ("2 x p5.48xlarge", ("h100-sxm", 16), 8),
        ("Standard_ND96isr_H100_v5:4", ("h100-sxm", 32), 8),
        ("a2-megagpu-16g", ("a100-40-sxm", 16), 0),
        ("gpu_8x_b200_sxm6", ("b200-sxm", 8), 0),
        ("pcie-4x-rtx-4090", ("rtx-4090", 4), 0),
        ("gb200-nvl72", ("gb200", 72), 4),
        ("h100-sxm:16", ("h100-sxm", 16), 8),
        ("h100-sxm:8", ("h100-sxm", 8), 0),
        ("h100-sxm:12", ("h100-sxm", 12), 6),
        ("rtx-4090:16", ("rtx-4090", 16), 0),
    ],
)
def test_names_become_cards_in_nodes(name: str, expected: tuple[str, int], per_node: int) -> None:
    machine = machine_of(name)
    assert (machine.gpus[0].id, len(machine.gpus)) == expected
    assert machine.node_cards == per_node
    assert machine.nodes == (len(machine.gpus) // per_node if per_node else 1)


@given(count=st.integers(1, 600), most=st.sampled_from([4, 8, 16]))
def test_equal_nodes_hold_all_cards(count: int, most: int) -> None:
    import dataclasses

    card = dataclasses.replace(catalog.load_device("h100-sxm"), node_cards=most)
    if count > most and not any(count % each == 0 for each in range(2, most + 1)):
        with pytest.raises(RequestError, match="equal nodes"):
            cards_per_node(card, count)
        return
    each = cards_per_node(card, count)
    assert (each == 0) == (count <= most)
    if each:
        assert each <= most
        assert count % each == 0
        assert not any(count % more == 0 for more in range(each + 1, most + 1))


def test_a_node_is_its_cards() -> None:
    """The same ledgers, whichever way the eight cards are named."""
    named = fitcalc.fit("llama-3.1-70b", gpu="dgx-h100", quant="fp8")
    counted = fitcalc.fit("llama-3.1-70b", gpu="h100-sxm:8", quant="fp8")
    assert named.devices == counted.devices
    assert named.inputs["node"] == "dgx-h100"
    assert counted.inputs["node"] is None
    assert any(note.startswith("DGX H100: 8 × h100-sxm, NVLink") for note in named.notes)


def test_cards_that_are_built_into_nodes_are_read_so_and_it_is_said() -> None:
    report = fitcalc.fit("llama-3.1-405b", gpu="h100-sxm:16", quant="bf16")
    assert report.inputs["nodes"] == 2
    assert "16 × H100 SXM5 80GB (2 nodes of 8)" in report.inputs["devices_name"]
    assert any("read as 2 nodes of 8" in note for note in report.notes)
    assert not any("nodes" in note for note in fitcalc.fit("llama-3.1-70b", gpu="h100-sxm:8", quant="bf16").notes)


def test_a_rack_joins_its_hosts() -> None:
    rack = machine_of("gb200-nvl72")
    assert rack.fabric_cards == 72
    assert rack.nodes == 18
    assert machine_of("gb200:72").fabric_cards == 4
    assert "18 hosts" in node_words(catalog.load_node("gb200-nvl72"))


def test_labels() -> None:
    assert machine_label(machine_of("dgx-h100:2")) == "2 × DGX H100 (8 × H100 SXM5 80GB each)"
    assert machine_label(machine_of("dgx-h100")) == "1 × DGX H100 (8 × H100 SXM5 80GB)"
    assert machine_label(machine_of("a100-80:2")) == "2 × A100 SXM4 80GB"


@pytest.mark.parametrize("gpus", [["dgx-h100", "rtx-4090"], ["dgx-h100", "dgx-h200"], ["dgx-h100", "h100-sxm"]])
def test_a_node_does_not_mix(gpus: list[str]) -> None:
    with pytest.raises(RequestError, match="whole node"):
        machine_of(gpus)


def test_the_same_node_twice_is_two_of_it() -> None:
    assert machine_of(["dgx-h100", "dgx-h100"]) == machine_of("dgx-h100:2")


def test_what_names_no_device_is_answered_with_nodes_too() -> None:
    with pytest.raises(UnknownNameError) as caught:
        machine_of("p5.48xlarg")
    assert "p5.48xlarge" in caught.value.suggestions


def test_too_many_cards() -> None:
    with pytest.raises(RequestError, match="too many"):
        machine_of("gb200-nvl72:4000")


def test_an_engine_of_one_host_does_not_cross_nodes() -> None:
    with pytest.raises(RequestError, match="one node"):
        fitcalc.fit("llama-3.1-405b", gpu="h100-sxm:16", quant="q4_k_m", engine="llama.cpp")


def test_nodes_are_listed_with_the_devices() -> None:
    done = CliRunner().invoke(devices, ["nvl72"], standalone_mode=False)
    assert "gb200-nvl72" in done.output
    rows = json.loads(CliRunner().invoke(devices, ["--json"], standalone_mode=False).output)["devices"]
    assert set(NODES) <= {row["id"] for row in rows}
