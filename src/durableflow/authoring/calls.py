"""What a workflow may call, and the call of a child as the core takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

from durableflow.authoring.activity import Activity
from durableflow.core.others import ChildCall
from durableflow.errors import UsageError
from durableflow.model.events import ChildOptions

if TYPE_CHECKING:
    from durableflow.authoring.workflow import Workflow


def child_call(workflow: Workflow[..., Any], data: bytes, now_us: int) -> ChildCall:
    """The call of `workflow` with the arguments in `data`, as its options have it.

    Raises:
        UsageError: they are such as no child can have.
    """
    options = workflow.start_options
    if options.queue:
        raise UsageError(
            f"child {workflow.name!r} cannot be started through a queue ({options.queue!r}); give its activities "
            "that queue, or start it by a client"
        )
    if options.debounce_us:
        raise UsageError(f"child {workflow.name!r} cannot be debounced: there is one for each call; leave debounce out")
    start_delay_us = options.start_delay_us
    if options.start_at_us:
        start_delay_us = max(start_delay_us, options.start_at_us - now_us)
    made = ChildOptions(
        options.parent_close,
        options.timeout_us,
        start_delay_us,
        dict(options.tags),
        options.on_conflict == "replace",
    )
    return ChildCall(
        workflow.name,
        workflow.version,
        data,
        workflow.result_loader(),
        options.instance_id or "",
        None if made == ChildOptions() else made,
    )


def is_workflow(value: object) -> TypeGuard[Workflow[..., Any]]:
    """True of whatever has a workflow's options."""
    return hasattr(value, "start_options")  # its module knows this one, and cannot be imported here


def not_an_activity(value: object) -> UsageError:
    """What is said of something that `call_activity` was given instead of one."""
    if isinstance(value, str):
        return UsageError(
            f"call_activity takes an activity, not its name; write ctx.call_activity_by_name({value!r}, ...)"
        )
    if is_workflow(value):
        return UsageError(
            f"call_activity takes an activity, not {value!r}; write ctx.call_workflow(...) to call a child"
        )
    name = getattr(value, "__name__", None)
    hint = f"; decorate it: @activity def {name}(...)" if callable(value) and name else ""
    return UsageError(f"call_activity takes an activity, not {value!r:.60}{hint}")


def not_a_workflow(value: object) -> UsageError:
    """What is said of something that `call_workflow` was given instead of one."""
    if isinstance(value, str):
        hint = f"; write ctx.call_workflow_by_name({value!r}, ...)"
    elif isinstance(value, Activity):
        hint = "; write ctx.call_activity(...)"
    else:
        hint = "; decorate it with @workflow" if callable(value) else ""
    return UsageError(f"call_workflow takes a workflow, not {value!r:.60}{hint}")
