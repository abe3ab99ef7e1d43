"""A plan over several nodes as a LeaderWorkerSet: a group of pods, one per node, whose leader answers."""

from __future__ import annotations

from typing import Any

from fitcalc.emission import pods
from fitcalc.emission.service import Service
from fitcalc.emission.yaml_text import document
from fitcalc.frozen import replace

_ROLE = "role"
_NODE = "FIRST_NODE=$LWS_LEADER_ADDRESS NODE_RANK=$LWS_WORKER_INDEX\n"
"""What the scripts of nodes read, by the names that the controller gives."""


def text(service: Service) -> str:
    """The manifests, one YAML document each."""
    if service.nodes > 1:
        scripts = (tuple(_NODE + script for script in part) for part in (service.run.arguments, service.run.worker))
        arguments, worker = scripts
        service = replace(service, run=replace(service.run, arguments=arguments, worker=worker))
    answers = pods.labels(service) | {_ROLE: "leader"}
    objects = [*pods.claims(service), *pods.files(service), _group(service), pods.front(service, answers)]
    needs = "Needs the controller of LeaderWorkerSet (leaderworkerset.x-k8s.io/v1) in the cluster."
    head = "".join(f"# {line}\n" for line in (*service.title, needs, *pods.hints(service)))
    return head + "---\n".join(document(entry) for entry in objects)


def _group(service: Service) -> dict[str, Any]:
    leader = _template(service, "leader")
    templates = {"workerTemplate": leader}
    if service.nodes > 1:
        templates = {"leaderTemplate": leader, "workerTemplate": _template(service, "worker")}
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": pods.metadata(service),
        "spec": {
            "replicas": 1,
            "startupPolicy": "LeaderCreated",
            "leaderWorkerTemplate": {"size": service.nodes, "restartPolicy": "RecreateGroupOnPodRestart", **templates},
        },
    }


def _template(service: Service, role: str) -> dict[str, Any]:
    return {
        "metadata": {"labels": pods.labels(service) | {_ROLE: role}},
        "spec": pods.pod(service, worker=role == "worker"),
    }
