"""What a user says of a GPU job: frozen structs, checked when they are made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Literal

import msgspec

from durableflow.model.duration import Duration, to_us

_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_QUANTITY: Final = re.compile(r"[0-9]+(\.[0-9]+)?([eE][0-9]+|[kMGTPE]|[KMGTPE]i|m)?")
_ENV_NAME: Final = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
OWN_ENV: Final = "DURABLEFLOW_"
"""Variables that begin so are the adapter's."""

ResultMode = Literal["required", "optional", "none"]
Verdict = Literal["infrastructure", "retryable", "fatal"]


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which GPUs a pod gets.

    Attributes:
        count: how many, at least 1.
        type: value of the label `node_label` of the nodes that may be used; None for any.
        resource: the name under which a device plugin offers them.
        node_label: the label that says which GPUs a node has.
    """

    count: int = 1
    type: str | None = None
    resource: str = "nvidia.com/gpu"
    node_label: str = "nvidia.com/gpu.product"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"Gpu.count is {self.count!r}, but a GPU job needs at least 1; leave gpu out for none")
        if "/" not in self.resource:
            raise ValueError(f"Gpu.resource is {self.resource!r}, but extended resources are 'domain/name'")


class Toleration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A taint that a pod does not mind; an empty `key` means all, an empty `effect` every effect."""

    key: str = ""
    value: str | None = None
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    seconds: int | None = None


class SecretKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reference to one key of a Secret: the value itself is never here."""

    secret: str
    key: str


class Volume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that is mounted into the pod.

    Attributes:
        name: of the volume; a DNS label.
        mount: an absolute path in the container.
        source: as the pod template has it, without the name: `{"persistentVolumeClaim": {"claimName": "data"}}`.
    """

    name: str
    mount: str
    source: Mapping[str, Any]
    read_only: bool = False

    def __post_init__(self) -> None:
        check_label("Volume.name", self.name)
        if self.name.startswith("durableflow"):
            raise ValueError(f"Volume.name is {self.name!r}, but names that begin with 'durableflow' are the adapter's")
        if not self.mount.startswith("/"):
            raise ValueError(f"Volume.mount is {self.mount!r}, but it must be an absolute path")
        if len(self.source) != 1:
            raise ValueError(f"Volume.source has {len(self.source)} keys, but it names one kind of volume")


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that is the same for every Job of a `gpu_job`.

    Attributes:
        image: of the container.
        command, args: as in a pod; empty for the image's own.
        env: variables, in plain text in the Job.
        env_from_secrets: variables whose values the kubelet takes from Secrets.
        volumes: what is mounted.
        gpu: None for a Job without.
        cpu, memory: what is asked for; `memory` is the limit, too.
        node_selector: labels that a node must have, beside those of the GPU.
        tolerations: taints that the pod does not mind.
        service_account: of the pod.
        priority_class: of the pod.
        queue_name: of Kueue: the Job is created suspended, and begins when the queue lets it.
        active_deadline: how long it may run, by the Job's own deadline.
        schedule_timeout: how long it may take from the Job's creation until its container runs.
        image_pull_grace: how long an image may fail to be pulled.
        config_grace: how long a Secret, ConfigMap or service account may be missing.
        node_lost_timeout: how long a node may be silent, or a pod outstay its grace period.
        grace_period: between SIGTERM and SIGKILL.
        heartbeat_timeout: how long the pod may be without a heartbeat; None for ever.
        ttl: how long a Job that is over stays, if nobody deletes it before.
        exit_codes: what exit codes mean that are not 0; those that are not here are retryable.
        result: `"required"` makes an exit with 0 and without a result a failure.
        infrastructure_retries: so many attempts may fail by infrastructure before the activity does.
        template: merged over the pod template, containers by name; refused on what the adapter owns.
    """

    image: str
    command: Sequence[str] = ()
    args: Sequence[str] = ()
    env: Mapping[str, str] = {}
    env_from_secrets: Mapping[str, SecretKey] = {}
    volumes: Sequence[Volume] = ()
    gpu: Gpu | None = None
    cpu: str | None = None
    memory: str | None = None
    node_selector: Mapping[str, str] = {}
    tolerations: Sequence[Toleration] = ()
    service_account: str | None = None
    priority_class: str | None = None
    queue_name: str | None = None
    active_deadline: Duration | None = None
    schedule_timeout: Duration | None = None
    image_pull_grace: Duration = timedelta(minutes=5)
    config_grace: Duration = timedelta(minutes=1)
    node_lost_timeout: Duration = timedelta(minutes=2)
    grace_period: Duration = timedelta(seconds=30)
    heartbeat_timeout: Duration | None = None
    ttl: Duration = timedelta(days=7)
    exit_codes: Mapping[int, Verdict] = {}
    result: ResultMode = "required"
    infrastructure_retries: int = 10
    template: Mapping[str, Any] = {}

    def __post_init__(self) -> None:
        if not self.image.strip():
            raise ValueError("image is empty, but a container needs one")
        for name in (*self.env, *self.env_from_secrets):
            _check_env_name(name)
        twice = sorted(set(self.env) & set(self.env_from_secrets))
        if twice:
            raise ValueError(f"env and env_from_secrets both have {twice[0]!r}")
        for what, quantity in (("cpu", self.cpu), ("memory", self.memory)):
            if quantity is not None and not _QUANTITY.fullmatch(quantity):
                raise ValueError(f"{what} is {quantity!r}, but it must be a quantity such as '4', '500m' or '64Gi'")
        for field in _DURATIONS:
            value = getattr(self, field)
            if value is not None:
                to_us(value, field)
        if self.active_deadline is not None and seconds(self.active_deadline) < 1:
            raise ValueError(f"active_deadline is {self.active_deadline!r}, but Kubernetes counts it in whole seconds")
        for code in self.exit_codes:
            if not 1 <= code <= 255:
                raise ValueError(f"exit_codes has {code!r}, but an exit code that is a failure is from 1 to 255")
        if self.infrastructure_retries < 0:
            raise ValueError(f"infrastructure_retries is {self.infrastructure_retries!r}, but it is not negative")
        for what, label in (("queue_name", self.queue_name), ("service_account", self.service_account)):
            if label is not None:
                check_label(what, label, dots=True)
        names = [volume.name for volume in self.volumes]
        if len(set(names)) < len(names):
            raise ValueError(f"volumes has two of the name {next(n for n in names if names.count(n) > 1)!r}")


_DURATIONS: Final = (
    "active_deadline", "schedule_timeout", "image_pull_grace", "config_grace", "node_lost_timeout", "grace_period",
    "heartbeat_timeout", "ttl",
)  # fmt: skip


def seconds(value: Duration) -> int:
    """Whole seconds, as Kubernetes counts."""
    return to_us(value, "a duration") // 1_000_000


def check_label(what: str, value: str, *, dots: bool = False) -> None:
    """Raise `ValueError` for what is no DNS label, or no name made of labels."""
    labels = value.split(".") if dots else [value]
    if not all(_DNS_LABEL.fullmatch(label) for label in labels) or len(value) > 253:
        raise ValueError(f"{what} is {value!r}, but it must be a DNS name: lower case letters, digits and '-'")


def _check_env_name(name: str) -> None:
    if not _ENV_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of an environment variable")
    if name.startswith(OWN_ENV):
        raise ValueError(f"the variable {name!r} cannot be set: names that begin with {OWN_ENV} are the adapter's")


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What of a spec decides about an outcome; stored with the Job, so that any worker can judge it.

    Times are in microseconds; 0 for no limit, where there may be none.
    """

    job: str = ""
    result: ResultMode = "required"
    exit_codes: dict[str, Verdict] = {}
    schedule_us: int = 0
    image_us: int = 300_000_000
    config_us: int = 60_000_000
    node_lost_us: int = 120_000_000
    heartbeat_us: int = 0
    infrastructure_retries: int = 10
    gpus: int = 0


def rules_of(spec: JobSpec, job: str) -> Rules:
    """The rules by which a Job of that name is judged."""

    def microseconds(value: Duration | None) -> int:
        return 0 if value is None else to_us(value, "a duration")

    return Rules(
        job=job,
        result=spec.result,
        exit_codes={str(code): verdict for code, verdict in sorted(spec.exit_codes.items())},
        schedule_us=microseconds(spec.schedule_timeout),
        image_us=microseconds(spec.image_pull_grace),
        config_us=microseconds(spec.config_grace),
        node_lost_us=microseconds(spec.node_lost_timeout),
        heartbeat_us=microseconds(spec.heartbeat_timeout),
        infrastructure_retries=spec.infrastructure_retries,
        gpus=0 if spec.gpu is None else spec.gpu.count,
    )
