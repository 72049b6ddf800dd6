"""From an activity and its input to documents for an API server. Pure: no clock, no network, no dice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeGuard, cast

import msgspec

from durableflow.kubernetes.identity import DEPLOYMENT, DOMAIN, Identity, annotations_of
from durableflow.kubernetes.spec import OWN_ENV, JobSpec, rules_of, seconds

MAIN: Final = "main"
"""The container whose end is the attempt's."""
AUDIENCE: Final = "durableflow"
"""For whom the pod's token is good."""
INPUT_KEY: Final = "input.json"
OBJECTS_KEY: Final = "objects.json"
INPUT_BYTES_MAX: Final = 1_000_000
"""Larger ones do not fit into a ConfigMap, which holds 1 MiB with all that is around them."""
TOKEN_KEY: Final = "token"  # noqa: S105  # a file's name
_INPUT_FOLDER: Final = "/var/run/durableflow/input"
_TOKEN_FOLDER: Final = "/var/run/secrets/durableflow"  # noqa: S105  # a folder
_SECRET_FOLDER: Final = "/var/run/secrets/durableflow-job"  # noqa: S105  # a folder
_SECRET_VOLUME: Final = "durableflow-secret"  # noqa: S105  # a name
_MESSAGE_PATH: Final = "/dev/termination-log"
_TOKEN_SECONDS: Final = 3_600
_QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"

Document = dict[str, Any]


class InputTooLarge(Exception):
    """It fits nowhere."""


class Documents(NamedTuple):
    """A Job, the digest by which it is known again, and what its pod reads.

    Attributes:
        input: what is in its ConfigMap.
        object: what is in the object store, if the ConfigMap has only a digest of that.
    """

    job: Document
    spec_hash: str
    input: str
    object: bytes | None = None


class Doors(msgspec.Struct, frozen=True, kw_only=True):
    """How a pod reaches those who wait for it: a matter of the worker that sends the Job, and not of its definition.

    Attributes:
        callback: URL of durableflow's HTTP endpoint; None without one.
        has_own_token: whether the pod's token is in a Secret of its Job's, and not made by its kubelet.
        has_objects: whether there is an object store for what is large.
    """

    callback: str | None = None
    has_own_token: bool = False
    has_objects: bool = False

    @property
    def needs_secret(self) -> bool:
        """Whether the Job has a Secret."""
        return self.has_objects or self.keeps_token

    @property
    def keeps_token(self) -> bool:
        """Whether the pod's token is in it."""
        return self.callback is not None and self.has_own_token


NO_DOORS: Final = Doors()


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What the pod is given to read: one line of JSON.

    Attributes:
        arguments: of the call: `[positional, by_name]` or a list of positional ones, as `msgspec` writes them.
        attempt: which attempt, from 1, as Jobs count.
        details: what the last attempt said in its last heartbeat; None without.
    """

    input: msgspec.Raw
    attempt: int
    details: Any = None


def documents(
    spec: JobSpec, identity: Identity, namespace: str, input: bytes, *, details: Any = None, doors: Doors = NO_DOORS
) -> Documents:
    """What is sent for one attempt.

    Args:
        input: the input as JSON.
        details: what the last attempt said in its last heartbeat.

    Raises:
        ValueError: the template touches what the adapter owns.
        InputTooLarge: no ConfigMap can hold it, and there is no object store.
    """
    given = Given(input=msgspec.Raw(input), attempt=identity.number, details=details)
    text = msgspec.json.encode(given).decode()
    # Without the doors: a Job is adopted by workers that have moved.
    spec_hash = _digest([_job(spec, identity, namespace, NO_DOORS), text])
    job = _job(spec, identity, namespace, doors)
    job["metadata"]["annotations"] = annotations_of(identity, spec_hash, rules_of(spec, identity.name))
    data = text.encode()
    if len(data) <= INPUT_BYTES_MAX:
        return Documents(job, spec_hash, text)
    if not doors.has_objects:
        said = f"the input has {len(data)} bytes, but a ConfigMap holds {INPUT_BYTES_MAX}"
        raise InputTooLarge(f"{said}; pass where it is kept, or give KubernetesJobs an object store")
    return Documents(job, spec_hash, msgspec.json.encode({"sha256": sha256(data).hexdigest()}).decode(), data)


def _job(spec: JobSpec, identity: Identity, namespace: str, doors: Doors) -> Document:
    labels = {DEPLOYMENT: identity.deployment}
    template = _merged({"metadata": {"labels": dict(labels)}, "spec": _pod(spec, identity, doors)}, spec.template)
    if spec.queue_name is not None:
        labels[_QUEUE_LABEL] = spec.queue_name
    body: Document = {
        "parallelism": 1,
        "completions": 1,
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": seconds(spec.ttl),
        "template": template,
    }
    if spec.active_deadline is not None:
        body["activeDeadlineSeconds"] = seconds(spec.active_deadline)
    if spec.queue_name is not None:
        body["suspend"] = True
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": identity.name, "namespace": namespace, "labels": labels},
        "spec": body,
    }


def config_map(name: str, uid: str, namespace: str, deployment: str, text: str) -> Document:
    """The input of a Job, which goes when the Job goes."""
    return _owned_by_job("ConfigMap", name, uid, namespace, deployment) | {"data": {INPUT_KEY: text}}


def secret(name: str, uid: str, namespace: str, deployment: str, files: Mapping[str, str]) -> Document:
    """What of a Job only its pod may read, which goes when the Job goes."""
    return _owned_by_job("Secret", name, uid, namespace, deployment) | {"stringData": dict(files)}


def _owned_by_job(kind: str, name: str, uid: str, namespace: str, deployment: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {DEPLOYMENT: deployment},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}],
        },
        "immutable": True,
    }


def needs_secret(job: Document) -> bool:
    """Whether the pod of a Job waits for a Secret of the Job's own."""
    volumes = job["spec"]["template"]["spec"].get("volumes") or ()
    return any(each["name"] == _SECRET_VOLUME for each in volumes)


def _digest(value: object) -> str:
    return sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()


# -- the pod ------------------------------------------------------------------------------------------------


def _pod(spec: JobSpec, identity: Identity, doors: Doors) -> Document:
    pod: Document = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": seconds(spec.grace_period),
        "containers": [_container(spec, identity, doors)],
        "volumes": _volumes(spec, identity.name, doors),
    }
    selector = dict(spec.node_selector)
    if spec.gpu is not None and spec.gpu.type is not None:
        selector[spec.gpu.node_label] = spec.gpu.type
    optional = {
        "nodeSelector": selector,
        "tolerations": [_toleration(each) for each in spec.tolerations],
        "serviceAccountName": spec.service_account,
        "priorityClassName": spec.priority_class,
    }
    return pod | {key: value for key, value in optional.items() if value}


def _toleration(toleration: Any) -> Document:
    made: Document = {"operator": "Exists" if toleration.value is None else "Equal"}
    optional = {
        "key": toleration.key or None,
        "value": toleration.value,
        "effect": toleration.effect or None,
        "tolerationSeconds": toleration.seconds,
    }
    return made | {key: value for key, value in optional.items() if value is not None}


def _container(spec: JobSpec, identity: Identity, doors: Doors) -> Document:
    own: dict[str, str] = {
        f"{OWN_ENV}JOB": identity.name,
        f"{OWN_ENV}INPUT": f"{_INPUT_FOLDER}/{INPUT_KEY}",
        f"{OWN_ENV}TERMINATION_LOG": _MESSAGE_PATH,
    }
    if doors.callback is not None:
        own[f"{OWN_ENV}CALLBACK"] = doors.callback
        own[f"{OWN_ENV}TOKEN_FILE"] = f"{_SECRET_FOLDER if doors.has_own_token else _TOKEN_FOLDER}/{TOKEN_KEY}"
    if doors.has_objects:
        own[f"{OWN_ENV}OBJECTS_FILE"] = f"{_SECRET_FOLDER}/{OBJECTS_KEY}"
    env: list[Document] = [{"name": name, "value": value} for name, value in {**spec.env, **own}.items()]
    env += [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": ref.secret, "key": ref.key}}}
        for name, ref in spec.env_from_secrets.items()
    ]
    mounts: list[Document] = [{"name": "durableflow-input", "mountPath": _INPUT_FOLDER, "readOnly": True}]
    if doors.needs_secret:
        mounts.append({"name": _SECRET_VOLUME, "mountPath": _SECRET_FOLDER, "readOnly": True})
    if doors.callback is not None and not doors.has_own_token:
        mounts.append({"name": "durableflow-token", "mountPath": _TOKEN_FOLDER, "readOnly": True})
    mounts += [
        {"name": each.name, "mountPath": each.mount, **({"readOnly": True} if each.read_only else {})}
        for each in spec.volumes
    ]
    made: Document = {
        "name": MAIN,
        "image": spec.image,
        "env": env,
        "volumeMounts": mounts,
        "terminationMessagePath": _MESSAGE_PATH,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    optional = {"command": list(spec.command), "args": list(spec.args), "resources": _resources(spec)}
    return made | {key: value for key, value in optional.items() if value}


def _resources(spec: JobSpec) -> Document:
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    if spec.cpu is not None:
        requests["cpu"] = spec.cpu
    if spec.memory is not None:
        requests["memory"] = limits["memory"] = spec.memory
    if spec.gpu is not None:
        limits[spec.gpu.resource] = str(spec.gpu.count)  # the request of an extended resource is its limit
    return {key: value for key, value in (("requests", requests), ("limits", limits)) if value}


def _volumes(spec: JobSpec, name: str, doors: Doors) -> list[Document]:
    volumes: list[Document] = [{"name": "durableflow-input", "configMap": {"name": name}}]
    if doors.needs_secret:
        volumes.append({"name": _SECRET_VOLUME, "secret": {"secretName": name}})
    if doors.callback is not None and not doors.has_own_token:
        token = {"audience": AUDIENCE, "expirationSeconds": _TOKEN_SECONDS, "path": TOKEN_KEY}
        volumes.append({"name": "durableflow-token", "projected": {"sources": [{"serviceAccountToken": token}]}})
    return [*volumes, *({"name": each.name, **each.source} for each in spec.volumes)]


# -- the template of the user's own -------------------------------------------------------------------------

_KEYS: Final = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
}
"""Lists whose items have a key are merged by it; other lists are put behind one another."""
_OWNED_POD: Final = ("restartPolicy", "terminationGracePeriodSeconds", "activeDeadlineSeconds", "ephemeralContainers")
_OWNED_MAIN: Final = ("image", "command", "args", "terminationMessagePath", "terminationMessagePolicy")


def check_template(template: Mapping[str, Any]) -> None:
    """Raise `ValueError` when a template touches what the adapter owns; the message names the field."""
    unknown = sorted(set(template) - {"metadata", "spec"})
    if unknown:
        raise ValueError(f"template has {unknown[0]!r}, but a pod template has 'metadata' and 'spec'")
    for kind in ("labels", "annotations"):
        for name in template.get("metadata", {}).get(kind, {}):
            if name.partition("/")[0] == DOMAIN:
                raise _owned(f"metadata.{kind}[{name!r}]")
    pod = template.get("spec", {})
    for field in _OWNED_POD:
        if field in pod:
            raise _owned(f"spec.{field}")
    for volume in pod.get("volumes", ()):
        if str(volume.get("name", "")).startswith("durableflow"):
            raise _owned(f"spec.volumes[{volume['name']!r}]")
    for kind in ("containers", "initContainers"):
        for container in pod.get(kind, ()):
            _check_container(kind, container)


def _check_container(kind: str, container: Mapping[str, Any]) -> None:
    name = container.get("name")
    if not name:
        raise ValueError(f"template: a container in spec.{kind} has no name, by which it is merged")
    if kind == "containers" and name == MAIN:
        for field in _OWNED_MAIN:
            if field in container:
                raise _owned(f"spec.containers['main'].{field}")
    for variable in container.get("env", ()):
        if str(variable.get("name", "")).startswith(OWN_ENV):
            raise _owned(f"spec.{kind}[{name!r}].env[{variable['name']!r}]")
    for mount in container.get("volumeMounts", ()):
        if name == MAIN and mount.get("mountPath") in (_INPUT_FOLDER, _TOKEN_FOLDER, _SECRET_FOLDER):
            raise _owned(f"spec.{kind}['main'].volumeMounts[{mount['mountPath']!r}]")


def _owned(field: str) -> ValueError:
    return ValueError(f"template: {field} is the adapter's; leave it out, or use the option of gpu_job for it")


def _merged(base: Document, over: Mapping[str, Any]) -> Document:
    check_template(over)
    return cast("Document", _merge(base, over, ""))


def _merge(base: object, over: object, field: str) -> object:
    if _is_mapping(base) and _is_mapping(over):
        made = dict(base)
        for key, value in over.items():
            made[key] = _merge(made[key], value, key) if key in made else value
        return made
    if _is_list(base) and _is_list(over):
        return _merge_lists(base, over, _KEYS.get(field))
    return over


def _is_mapping(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, Mapping)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _merge_lists(base: Sequence[Any], over: Sequence[Any], key: str | None) -> list[Any]:
    if key is None:
        return [*base, *over]
    made = list(base)
    places = {item.get(key): index for index, item in enumerate(made)}
    for item in over:
        place = places.get(item.get(key))
        if place is None:
            made.append(item)
        else:
            made[place] = _merge(made[place], item, "")
    return made
