"""What an API server says of Jobs, Pods and events, as far as anybody here reads it.

Unknown fields are skipped while a document is read, so that a thousand Jobs in memory are small.
Source: Kubernetes API reference, v1.20 to v1.36.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec


class _Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class OwnerReference(_Document, frozen=True, kw_only=True):
    """Whose an object is."""

    kind: str
    name: str
    uid: str
    controller: bool = False


class Meta(_Document, frozen=True, kw_only=True):
    """What every object has."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[OwnerReference] = []


class Condition(_Document, frozen=True, kw_only=True):
    """What a controller has found out."""

    type: str
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class PolicyRule(_Document, frozen=True, kw_only=True):
    """A rule of a `podFailurePolicy`."""

    action: str = ""


class PodFailurePolicy(_Document, frozen=True, kw_only=True):
    """When a failed pod counts."""

    rules: list[PolicyRule] = []


class JobSpec(_Document, frozen=True, kw_only=True):
    """What was asked for, as the server has understood it."""

    suspend: bool = False
    backoff_limit: int = 6
    active_deadline_seconds: int | None = None
    pod_failure_policy: PodFailurePolicy | None = None


class JobStatus(_Document, frozen=True, kw_only=True):
    """What became of it. Its counters are not read: they are not proof of anything."""

    conditions: list[Condition] = []
    start_time: datetime | None = None


class Job(_Document, frozen=True, kw_only=True):
    """A Job."""

    metadata: Meta
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()


class Waiting(_Document, frozen=True, kw_only=True):
    """Why a container does not run yet."""

    reason: str = ""
    message: str = ""


class Running(_Document, frozen=True, kw_only=True):
    """Since when one runs."""

    started_at: datetime | None = None


class Terminated(_Document, frozen=True, kw_only=True):
    """How one ended."""

    exit_code: int = 0
    reason: str = ""
    message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None


class ContainerState(_Document, frozen=True, kw_only=True):
    """One of the three is there."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(_Document, frozen=True, kw_only=True):
    """Of one container of a pod."""

    name: str
    state: ContainerState = ContainerState()


class PodSpec(_Document, frozen=True, kw_only=True):
    """Where a pod is."""

    node_name: str = ""


class PodStatus(_Document, frozen=True, kw_only=True):
    """How a pod is."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: list[Condition] = []
    start_time: datetime | None = None
    container_statuses: list[ContainerStatus] = []
    init_container_statuses: list[ContainerStatus] = []


class Pod(_Document, frozen=True, kw_only=True):
    """A Pod."""

    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class InvolvedObject(_Document, frozen=True, kw_only=True):
    """Whom an event is about."""

    kind: str = ""
    name: str = ""
    uid: str = ""


class Series(_Document, frozen=True, kw_only=True):
    """How often an event was repeated."""

    count: int = 1
    last_observed_time: datetime | None = None


class Event(_Document, frozen=True, kw_only=True):
    """Something that a component wanted people to know."""

    metadata: Meta
    involved_object: InvolvedObject = InvolvedObject()
    reason: str = ""
    message: str = ""
    type: str = ""
    count: int | None = None
    first_timestamp: datetime | None = None
    last_timestamp: datetime | None = None
    event_time: datetime | None = None
    series: Series | None = None


class Status(_Document, frozen=True, kw_only=True):
    """What a server answers when it has nothing better."""

    reason: str = ""
    message: str = ""
    code: int = 0


_D = TypeVar("_D")
_JOB_NAME: Final = ("batch.kubernetes.io/job-name", "job-name")


def read(kind: type[_D], document: Any) -> _D:
    """The part of a document, as JSON values, that a class of this module reads."""
    return msgspec.convert(document, kind)


def us(moment: datetime | None) -> int:
    """Microseconds since 1970; 0 for none."""
    return 0 if moment is None else round(moment.timestamp() * 1_000_000)


def condition(of: Job | Pod, kind: str) -> Condition | None:
    """A condition that holds."""
    return next((each for each in of.status.conditions if each.type == kind and each.status == "True"), None)


def job_of(pod: Pod) -> tuple[str, str]:
    """Name and uid of the Job that a pod belongs to; empty when it belongs to none."""
    owner = next((each for each in pod.metadata.owner_references if each.kind == "Job"), None)
    if owner is not None:
        return owner.name, owner.uid
    return next((pod.metadata.labels[label] for label in _JOB_NAME if label in pod.metadata.labels), ""), ""
