"""What Kubernetes needs of a service in either form of manifest: the pod, its volumes, its probes, the Service."""

from __future__ import annotations

from typing import Any

from fitcalc.emission.run import FILES
from fitcalc.emission.service import Service
from fitcalc.units import GIB, ceil_div

SECRET = "hf-token"
PERIOD_S = 10
_APP = "app.kubernetes.io/name"


def labels(service: Service) -> dict[str, str]:
    """What selects the pods."""
    return {_APP: service.name}


def metadata(service: Service, name: str = "") -> dict[str, Any]:
    """Name and labels of an object."""
    return {"name": name or service.name, "labels": labels(service)}


def pod(service: Service, *, worker: bool = False) -> dict[str, Any]:
    """The spec of a pod: of the server, or of a node that only computes."""
    return {
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "containers": [_container(service, worker=worker)],
        "volumes": _volumes(service),
    }


def _container(service: Service, *, worker: bool) -> dict[str, Any]:
    arguments = service.run.worker if worker else service.run.arguments
    found: dict[str, Any] = {
        "name": "worker" if worker else "server",
        "image": service.image,
        "command": [kept(word) for word in service.run.program],
        "args": [kept(word) for word in arguments],
    }
    if environment := _environment(service):
        found["env"] = environment
    if not worker:
        found["ports"] = [{"name": "http", "containerPort": service.port}]
    found["resources"] = _resources(service)
    found["volumeMounts"] = _mounts(service)
    return found if worker else found | _probes(service)


def kept(text: str) -> str:
    """The text as the container gets it: Kubernetes reads $(NAME) as a variable."""
    return text.replace("$(", "$$(")


def _environment(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"name": key, "value": kept(value)} for key, value in service.environment.items()]
    if service.downloads:
        token = {"secretKeyRef": {"name": SECRET, "key": "token", "optional": True}}
        found.append({"name": "HF_TOKEN", "valueFrom": token})
    return found


def _resources(service: Service) -> dict[str, Any]:
    asked: dict[str, Any] = {"cpu": str(service.cores), "memory": gibibytes(service.memory_bytes)}
    if not service.cards:
        return {"requests": asked}
    cards = {service.resource: str(service.cards)}
    return {"requests": asked | cards, "limits": cards}


def gibibytes(size_bytes: int) -> str:
    """'37Gi': the size in whole GiB, rounded up."""
    return f"{ceil_div(size_bytes, GIB)}Gi"


def _probes(service: Service) -> dict[str, Any]:
    asks: dict[str, Any] = {"httpGet": {"path": service.health, "port": "http"}}
    if service.asks_command:
        asks = {"exec": {"command": list(service.check)}}
    tries = int(ceil_div(service.startup_s, PERIOD_S))
    return {
        "startupProbe": asks | {"periodSeconds": PERIOD_S, "timeoutSeconds": 5, "failureThreshold": tries},
        "readinessProbe": asks | {"periodSeconds": 5, "timeoutSeconds": 5},
        "livenessProbe": asks | {"periodSeconds": PERIOD_S, "timeoutSeconds": 10, "failureThreshold": 6},
    }


def _mounts(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
    if service.downloads:
        found.append({"name": "model-cache", "mountPath": service.cache})
    if service.run.folder:
        found.append({"name": "models", "mountPath": service.run.mount, "readOnly": True})
    if service.run.files:
        found.append({"name": "files", "mountPath": FILES})
    return found


def _volumes(service: Service) -> list[dict[str, Any]]:
    size = gibibytes(service.shared_memory_bytes)
    found: list[dict[str, Any]] = [{"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": size}}]
    claimed = {name: {"claimName": f"{service.name}-{name}"} for name in volume_names(service)}
    found += [{"name": name, "persistentVolumeClaim": claim} for name, claim in claimed.items()]
    if service.run.files:
        found.append({"name": "files", "configMap": {"name": f"{service.name}-files"}})
    return found


def volume_names(service: Service) -> list[str]:
    """Volumes that outlive a pod."""
    return ["model-cache"] * service.downloads + ["models"] * bool(service.run.folder)


def claims(service: Service) -> list[dict[str, Any]]:
    """The claims of the volumes; pods on several nodes share them."""
    mode = "ReadWriteMany" if service.nodes > 1 else "ReadWriteOnce"
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": metadata(service, f"{service.name}-{name}"),
            "spec": {
                "accessModes": [mode],
                "resources": {"requests": {"storage": gibibytes(service.cache_bytes)}},
            },
        }
        for name in volume_names(service)
    ]


def files(service: Service) -> list[dict[str, Any]]:
    """The files that a start reads."""
    if not service.run.files:
        return []
    name = f"{service.name}-files"
    return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(service, name), "data": service.run.files}]


def front(service: Service, selector: dict[str, str]) -> dict[str, Any]:
    """The Service in front of the pods that answer."""
    port = {"name": "http", "port": service.port, "targetPort": "http"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(service),
        "spec": {"selector": selector, "ports": [port]},
    }


def hints(service: Service) -> list[str]:
    """Lines of a manifest's head: what the cluster has to have."""
    found = []
    if service.downloads:
        found.append(
            f"For repositories that ask for it: kubectl create secret generic {SECRET} --from-literal=token=<token>"
        )
    else:
        found.append(f"Put the model into the volume {service.name}-models; it is read from {service.run.mount}.")
    if service.nodes > 1:
        found.append("The volume is mounted on every node: its storage class must offer ReadWriteMany.")
    if service.cards:
        found.append("The plan holds for the card named above: add a nodeSelector where the cluster has others.")
    return found
