"""Debounced starts, as clients write them."""

from __future__ import annotations

from typing import Any

from durableflow.authoring.workflow import Workflow
from durableflow.backends.base import DebouncedStart, NewInstance
from durableflow.errors import UsageError
from durableflow.model import events as ev
from durableflow.model.ids import check_name
from durableflow.model.status import Status


def debounced_start(workflow: Workflow[..., Any], data: bytes, now_us: int, fresh_id: str) -> DebouncedStart:
    """A start of `workflow` that waits for others; `fresh_id` makes the id of its instance a new one.

    Raises:
        UsageError: it has no instance id, which would say which starts belong together; or one that is too long.
    """
    options = workflow.start_options
    key = options.instance_id
    if key is None:
        raise UsageError(
            f"workflow {workflow.name!r} is debounced but has no instance_id; starts with the same one belong together"
        )
    start_at_us = now_us + options.debounce_us
    deadline_us = start_at_us + options.timeout_us if options.timeout_us else 0
    started = ev.InstanceStarted(workflow.name, workflow.version, data, start_at_us=start_at_us, debounced=True)
    instance_id = check_name(f"{key}/debounced/{fresh_id}", "the id of a debounced instance")
    new = NewInstance(instance_id, workflow.name, workflow.version, Status.PENDING, now_us, 0, options.tags)
    return DebouncedStart(
        key,
        new,
        ev.dump_event(started),
        ev.dump_event(ev.StartChanged(data, deadline_us)),
        start_at_us,
        now_us + options.debounce_limit_us if options.debounce_limit_us else None,
    )
