"""What is written to start an instance, by whoever starts it, and what follows when its id is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from durableflow.authoring.workflow import Workflow
from durableflow.backends.base import InstanceRecord, NewInstance
from durableflow.errors import InstanceExists, PayloadTooLarge
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.ids import RANDOM_BITS, check_name, fresh_id
from durableflow.model.status import Status
from durableflow.runtime.clock import Clock
from durableflow.runtime.tasks import new_start as admission_of


def new_start(
    workflow: Workflow[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    clock: Clock,
    payload_limit_bytes: int,
) -> tuple[NewInstance, ev.InstanceStarted]:
    """The instance that is to be made, and its first event.

    Raises:
        PayloadError: an argument cannot be stored.
    """
    options = workflow.start_options
    what = f"the input of workflow {workflow.name!r}"
    data = workflow.arguments.dump(args, kwargs, what)
    check_size(what, data, payload_limit_bytes)
    now_us = clock.now_us()
    instance_id = options.instance_id or fresh_id(now_us, clock.random_bits(RANDOM_BITS))
    start_at_us = options.start_at_us
    if options.start_delay_us:
        start_at_us = max(start_at_us, now_us + options.start_delay_us)
    deadline_us = max(start_at_us, now_us) + options.timeout_us if options.timeout_us else 0
    started = ev.InstanceStarted(
        workflow.name,
        workflow.version,
        data,
        start_at_us=start_at_us,
        deadline_us=deadline_us,
        queue=options.queue,
    )
    new = NewInstance(
        instance_id,
        workflow.name,
        workflow.version,
        Status.PENDING,
        now_us,
        None if options.queue else 0,
        options.tags,
        replace=options.on_conflict == "replace",
        admission=admission_of(instance_id, workflow.name, options, start_at_us, now_us) if options.queue else None,
    )
    return new, started


def judge_conflict(workflow: Workflow[..., Any], existing: InstanceRecord) -> None:
    """Let the instance that has the id be shared, as the workflow's options say.

    Raises:
        InstanceExists: it may not be, or is another workflow's.
    """
    policy = workflow.start_options.on_conflict
    if policy == "return" and existing.workflow == workflow.name:
        return
    reason = {
        "return": f"it runs workflow {existing.workflow!r}, not {workflow.name!r}",
        "fail": "on_conflict='fail' does not allow to share it",
        "replace": f"it is {existing.status}, and only an instance that is over can be replaced",
    }[policy]
    raise InstanceExists(existing.id, f"instance {existing.id!r} exists: {reason}")


def new_event(name: str, payload: object, event_id: str | None, payload_limit_bytes: int) -> ev.EventReceived:
    """An external event.

    Raises:
        PayloadError: the payload cannot be stored.
    """
    check_name(name, "the name of an event")
    if event_id is not None:
        check_name(event_id, "the event id")
    what = f"the payload of event {name!r}"
    data = converter.dump(payload, what)
    check_size(what, data, payload_limit_bytes)
    return ev.EventReceived(name, data, event_id)


def check_size(what: str, data: bytes, limit_bytes: int) -> None:
    """Raises `PayloadTooLarge` when a value is over the limit."""
    if len(data) > limit_bytes:
        raise PayloadTooLarge(what, len(data), limit_bytes)
