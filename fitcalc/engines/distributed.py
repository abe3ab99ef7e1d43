"""A server over several nodes: the commands that each node runs, on the engines' own distributed back ends.

One line per command; a comment above says where it runs. `<first-node>` stands for the address of the first node.
"""

from __future__ import annotations

from collections.abc import Callable

from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Machine
from fitcalc.spec.workload import Workload
from fitcalc.units import ceil_div

HEAD = "<first-node>"
_RAY_PORT = 6379
_COPIES_PORT = 13345


def nodes_used(machine: Machine, workload: Workload) -> int:
    """Nodes that have a rank."""
    return int(ceil_div(workload.ranks, machine.node_cards)) if machine.node_cards else 1


def vllm_commands(serve: str, machine: Machine, workload: Workload, profile: EngineProfile) -> str:
    """`vllm serve` on every node. `serve` has all options but those of data parallelism and of the nodes."""
    nodes, copies = nodes_used(machine, workload), workload.data_parallel
    if copies > 1:
        serve += f" --data-parallel-size {copies}"
    if nodes < 2:
        return serve
    if copies > 1 and copies % nodes == 0:
        return _vllm_copies(serve, nodes, copies)
    if profile.constants.get("multi_node") == "ranks":
        return _vllm_ranks(serve, nodes)
    return _vllm_ray(serve, nodes, machine, workload)


def _vllm_ranks(serve: str, nodes: int) -> str:
    shared = f"{serve} --nnodes {nodes} --master-addr {HEAD}"
    lines = ["# on the first node", f"{shared} --node-rank 0"]
    return "\n".join([*lines, *_others(nodes, lambda node: f"{shared} --node-rank {node} --headless")])


def _vllm_copies(serve: str, nodes: int, copies: int) -> str:
    each = copies // nodes
    shared = f"{serve} --data-parallel-size-local {each} --data-parallel-address {HEAD}"
    shared += f" --data-parallel-rpc-port {_COPIES_PORT}"
    others = _others(nodes, lambda node: f"{shared} --data-parallel-start-rank {_times(node, each)} --headless")
    return "\n".join(["# on the first node", shared, *others])


def _vllm_ray(serve: str, nodes: int, machine: Machine, workload: Workload) -> str:
    backend = "--data-parallel-backend ray" if workload.data_parallel > 1 else "--distributed-executor-backend ray"
    return "\n".join(
        [
            "# on the first node",
            f"ray start --head --port={_RAY_PORT}",
            f"# on {_the_others(nodes)}",
            f"ray start --address={HEAD}:{_RAY_PORT}",
            f"# on the first node, once `ray status` shows {nodes * machine.node_cards} GPUs",
            f"{serve} {backend}",
        ]
    )


def sglang_commands(serve: str, machine: Machine, workload: Workload) -> str:
    """`python -m sglang.launch_server …` on every node."""
    nodes = nodes_used(machine, workload)
    if nodes < 2:
        return serve
    shared = f"{serve} --nnodes {nodes} --dist-init-addr {HEAD}:5000"
    return "\n".join(
        ["# on the first node", f"{shared} --node-rank 0", *_others(nodes, lambda node: f"{shared} --node-rank {node}")]
    )


def _others(nodes: int, command: Callable[[str], str]) -> list[str]:
    """The second node's command; with more nodes, the same with a placeholder for the node's number."""
    if nodes == 2:
        return ["# on the second node", command("1")]
    return [f"# on {_the_others(nodes)}, N = 1 to {nodes - 1}", command("$N")]


def _the_others(nodes: int) -> str:
    return "the second node" if nodes == 2 else f"each of the other {nodes - 1} nodes"


def _times(node: str, each: int) -> str:
    return str(int(node) * each) if node.isdigit() else f"$(({node[1:]} * {each}))"
