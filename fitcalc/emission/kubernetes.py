"""A plan on one node as manifests for `kubectl apply`: volume claim, Deployment, Service."""

from __future__ import annotations

from typing import Any

from fitcalc.emission import pods
from fitcalc.emission.service import Service
from fitcalc.emission.yaml_text import document


def text(service: Service) -> str:
    """The manifests, one YAML document each."""
    objects = [
        *pods.claims(service),
        *pods.files(service),
        _deployment(service),
        pods.front(service, pods.labels(service)),
    ]
    head = "".join(f"# {line}\n" for line in (*service.title, *pods.hints(service)))
    return head + "---\n".join(document(entry) for entry in objects)


def _deployment(service: Service) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": pods.metadata(service),
        "spec": {
            "replicas": 1,
            # A second pod would wait for the cards that the first one holds.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": pods.labels(service)},
            "template": {"metadata": {"labels": pods.labels(service)}, "spec": pods.pod(service)},
        },
    }
