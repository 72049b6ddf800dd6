"""What a node says of its pods and of itself, as documents: no clock, no requests."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from planekit.api import Document

MESSAGE_BYTES: Final = 4_096
"""So much of a termination message is kept; the rest is cut off."""

GPU: Final = "nvidia.com/gpu"


def timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def waiting(reason: str, message: str = "") -> Document:
    """The state of a container that has not started."""
    return {"waiting": {"reason": reason} | ({"message": message} if message else {})}


def running(started: datetime) -> Document:
    return {"running": {"startedAt": timestamp(started)}}


def terminated(
    exit_code: int, reason: str, *, started: datetime, finished: datetime, message: str = "", identity: str = ""
) -> Document:
    """The state of a container that has ended; `message` is what it left in its termination log."""
    document = {"exitCode": exit_code, "reason": reason, "startedAt": timestamp(started)}
    document |= {"finishedAt": timestamp(finished), "containerID": identity}
    return {"terminated": document | ({"message": message} if message else {})}


def reason_of(exit_code: int) -> str:
    return "Completed" if exit_code == 0 else "Error"


def cut_message(data: bytes) -> str:
    return data[:MESSAGE_BYTES].decode(errors="replace")


def container_status(
    container: Document, state: Document, *, identity: str, restarts: int = 0, last_state: Document | None = None
) -> Document:
    """One entry of `containerStatuses`."""
    is_running = "running" in state
    return {
        "name": container["name"],
        "state": state,
        "lastState": last_state or {},
        "ready": is_running,
        "started": is_running,
        "restartCount": restarts,
        "image": container["image"],
        "imageID": f"stand-in://{container['image']}" if "waiting" not in state else "",
        "containerID": identity if "waiting" not in state else "",
    }


def pod_conditions(
    before: Sequence[Document],
    *,
    now: datetime,
    is_initialized: bool,
    is_ready: bool,
    extra: Mapping[str, tuple[str, str]] | None = None,
) -> list[Document]:
    """The conditions of a pod on a node; those that others have set are kept.

    Args:
        before: the ones that it has.
        extra: type → (reason, message) of conditions that are true besides.
    """
    wanted = {"Initialized": is_initialized, "Ready": is_ready, "ContainersReady": is_ready, "PodScheduled": True}
    made = [_condition(kind, is_true, before, now) for kind, is_true in wanted.items()]
    for kind, (reason, message) in (extra or {}).items():
        made.append(_condition(kind, True, before, now) | {"reason": reason, "message": message})
    known = {condition["type"] for condition in made}
    return made + [condition for condition in before if condition["type"] not in known]


def _condition(kind: str, is_true: bool, before: Sequence[Document], now: datetime) -> Document:
    status = "True" if is_true else "False"
    same = [c for c in before if c["type"] == kind and c["status"] == status]
    changed = same[0]["lastTransitionTime"] if same else timestamp(now)
    return {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": changed}


def phase_of(states: Sequence[Document], *, restarts: bool = False) -> str:
    """What a pod is called whose containers are in these states; one that restarts its containers never ends."""
    if states and all("terminated" in state for state in states):
        if restarts:
            return "Running"
        return "Failed" if any(state["terminated"]["exitCode"] for state in states) else "Succeeded"
    return "Running" if any("waiting" not in state for state in states) else "Pending"


def node_document(
    name: str, *, labels: Mapping[str, str], taints: Sequence[Document], capacity: Mapping[str, str]
) -> Document:
    """A node as it registers itself."""
    own = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": name, "labels": own | dict(labels)},
        "spec": {"taints": list(taints)},
        "status": {"capacity": dict(capacity), "allocatable": dict(capacity)},
    }


def node_status(
    before: Sequence[Document], *, now: datetime, port: int, capacity: Mapping[str, str], pressures: Sequence[str]
) -> Document:
    """What a node that lives says of itself.

    Args:
        before: its conditions when it last spoke.
        port: where it serves logs.
        pressures: what it is short of, as "MemoryPressure".
    """
    wrong = {kind: kind in pressures for kind in ("MemoryPressure", "DiskPressure", "PIDPressure")}
    conditions: list[Document] = [_node_condition(kind, is_true, before, now) for kind, is_true in wrong.items()]
    conditions.append(_node_condition("Ready", True, before, now))
    return {
        "capacity": dict(capacity),
        "allocatable": dict(capacity),
        "conditions": conditions,
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": _NODE_INFO,
    }


def _node_condition(kind: str, is_true: bool, before: Sequence[Document], now: datetime) -> Document:
    condition = _condition(kind, is_true, before, now)
    del condition["lastProbeTime"]
    return condition | {"lastHeartbeatTime": timestamp(now), "reason": f"Kubelet{kind}", "message": ""}


_NODE_INFO: Final[dict[str, Any]] = {
    "architecture": "amd64",
    "operatingSystem": "linux",
    "kubeletVersion": "v1.20.2-stand-in",
    "containerRuntimeVersion": "stand-in://1",
    "kernelVersion": "",
    "osImage": "",
    "bootID": "",
    "machineID": "",
    "systemUUID": "",
    "kubeProxyVersion": "",
}
