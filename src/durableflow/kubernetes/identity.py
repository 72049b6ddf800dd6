"""Who a Job is: the names and labels by which anybody finds it again, and knows whose it is."""

from __future__ import annotations

import base64
import re
from hashlib import blake2b
from typing import Final

import msgspec

from durableflow.kubernetes.documents import Job
from durableflow.kubernetes.spec import Rules

DOMAIN: Final = "durableflow.dev"
DEPLOYMENT: Final = f"{DOMAIN}/deployment"
"""The label by which Jobs and pods are listed."""
NAME_CHARS_MAX: Final = 52
"""Longer names leave no room for what controllers add to them."""
_INSTANCE: Final = f"{DOMAIN}/instance"
_TASK: Final = f"{DOMAIN}/task"
_NUMBER: Final = f"{DOMAIN}/number"
_SCHEDULED_AT: Final = f"{DOMAIN}/scheduled-at-us"
_ACTIVITY: Final = f"{DOMAIN}/activity"
_SPEC_HASH: Final = f"{DOMAIN}/spec-hash"
_RULES: Final = f"{DOMAIN}/rules"
_SLUG_CHARS: Final = 20
_DIGEST_BYTES: Final = 12


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Whose Job one is.

    Attributes:
        deployment: name of the store whose Jobs these are; a DNS label.
        instance_id: the instance that asked.
        task: the number of the activity there.
        scheduled_at_us: when it asked, because ids of instances that were purged can come again.
        number: which Job of this activity, from 1; moved on only by an attempt that had an answer.
        activity: its name.
    """

    deployment: str
    instance_id: str
    task: int
    scheduled_at_us: int
    number: int
    activity: str

    @property
    def name(self) -> str:
        """Of the Job: a DNS label, the same for the same identity, and no other's."""
        parts = (self.deployment, self.instance_id, self.task, self.scheduled_at_us, self.number)
        digest = blake2b(msgspec.json.encode(parts), digest_size=_DIGEST_BYTES).digest()
        code = base64.b32encode(digest).decode().rstrip("=").lower()
        slug = re.sub(r"[^a-z0-9]+", "-", self.activity.lower())[:_SLUG_CHARS].strip("-") or "job"
        name = f"df-{slug}-{code}-{self.number}"
        assert len(name) <= NAME_CHARS_MAX, name
        return name


def annotations_of(identity: Identity, spec_hash: str, rules: Rules) -> dict[str, str]:
    """What a Job carries of itself, so that any worker can judge it, also one that does not know its definition."""
    return {
        _INSTANCE: identity.instance_id,
        _TASK: str(identity.task),
        _NUMBER: str(identity.number),
        _SCHEDULED_AT: str(identity.scheduled_at_us),
        _ACTIVITY: identity.activity,
        _SPEC_HASH: spec_hash,
        _RULES: msgspec.json.encode(rules).decode(),
    }


def identity_of(job: Job) -> Identity | None:
    """Who a Job says that it is; None when its own name gives it the lie."""
    read = job.metadata.annotations
    try:
        identity = Identity(
            deployment=job.metadata.labels[DEPLOYMENT],
            instance_id=read[_INSTANCE],
            task=int(read[_TASK]),
            scheduled_at_us=int(read[_SCHEDULED_AT]),
            number=int(read[_NUMBER]),
            activity=read[_ACTIVITY],
        )
    except (KeyError, ValueError):
        return None
    return identity if identity.name == job.metadata.name else None


def spec_hash_of(job: Job) -> str:
    """The digest of the document that it was made from; empty when it says none."""
    return job.metadata.annotations.get(_SPEC_HASH, "")


def rules_in(job: Job) -> Rules:
    """The rules by which it is to be judged; those of nobody when it has none that can be read."""
    try:
        return msgspec.json.decode(job.metadata.annotations[_RULES], type=Rules)
    except (KeyError, msgspec.DecodeError):
        return Rules(job=job.metadata.name)
