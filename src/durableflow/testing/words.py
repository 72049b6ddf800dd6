"""The words of a story: functions that make the events of a history, as a test would tell them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from durableflow.authoring.registry import AnyActivity, AnyWorkflow
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.duration import Duration, to_us
from durableflow.model.failure import record

Timed: TypeAlias = Callable[[int], ev.Event]
"""An event that needs to know the time of its turn."""


def started(workflow: AnyWorkflow, *args: object, **kwargs: object) -> ev.InstanceStarted:
    """An instance of `workflow` was started with these arguments."""
    data = workflow.arguments.dump(args, kwargs, f"the input of workflow {workflow.name!r}")
    return ev.InstanceStarted(workflow.name, workflow.version, data)


def start_changed(workflow: AnyWorkflow, *args: object, **kwargs: object) -> ev.StartChanged:
    """A debounced instance, whose code has not begun, was started again with these arguments."""
    return ev.StartChanged(workflow.arguments.dump(args, kwargs, f"the input of workflow {workflow.name!r}"))


def scheduled(task: int, activity: AnyActivity | str, *args: object, **kwargs: object) -> ev.ActivityScheduled:
    """The workflow called an activity."""
    if isinstance(activity, str):
        name, options = activity, None
        data = converter.dump(args, "the arguments") if args else converter.EMPTY_ARGUMENTS
    else:
        name, options = activity.name, activity.stored_options
        data = activity.arguments.dump(args, kwargs, "the arguments")
    return ev.ActivityScheduled(task, name, data, converter.digest(data), options)


def queued(task: int) -> ev.ActivityQueued:
    """There was no place yet for the activity."""
    return ev.ActivityQueued(task)


def attempt_started(task: int, attempt: int) -> ev.ActivityStarted:
    """An attempt after the first began."""
    return ev.ActivityStarted(task, attempt)


def handed_over(task: int, *, attempt: int = 1) -> ev.ActivityHandedOver:
    """An attempt left its worker: whoever holds its token says what comes of it."""
    return ev.ActivityHandedOver(task, attempt)


def attempt_failed(task: int, error: BaseException, *, attempt: int = 1, retry_after: Duration = 1) -> Timed:
    """An attempt failed, and another follows."""
    delay_us = to_us(retry_after, "retry_after")
    return lambda at_us: ev.AttemptFailed(task, attempt, record(error), at_us + delay_us)


def completed(task: int, value: object = None, *, attempt: int = 1) -> ev.ActivityCompleted:
    """The activity returned `value`."""
    return ev.ActivityCompleted(task, converter.dump(value), attempt)


def failed(task: int, error: BaseException, *, attempts: int = 1) -> ev.ActivityFailed:
    """The last attempt of the activity failed."""
    return ev.ActivityFailed(task, record(error), attempts, attempts)


def timer_created(task: int, delay: Duration) -> Timed:
    """The workflow asked to be woken."""
    delay_us = to_us(delay, "delay")
    return lambda at_us: ev.TimerCreated(task, at_us + delay_us)


def timer_fired(task: int) -> ev.TimerFired:
    """The due time of a timer, or of a wait, has passed."""
    return ev.TimerFired(task)


def event_awaited(task: int, name: str, *, timeout: Duration | None = None) -> Timed:
    """The workflow waits for an external event."""
    timeout_us = None if timeout is None else to_us(timeout, "timeout")
    return lambda at_us: ev.EventAwaited(task, name.casefold(), 0 if timeout_us is None else at_us + timeout_us)


def event_received(name: str, payload: object = None, *, event_id: str | None = None) -> ev.EventReceived:
    """An external event came."""
    return ev.EventReceived(name, converter.dump(payload), event_id)


def side_effect(task: int, value: object) -> ev.SideEffectRecorded:
    """A side effect gave `value`."""
    return ev.SideEffectRecorded(task, converter.dump(value))


def custom_status(value: object) -> ev.CustomStatusSet:
    """The workflow showed `value` as its status."""
    return ev.CustomStatusSet(converter.dump(value))


def patch(name: str) -> ev.PatchRecorded:
    """The workflow asked whether it is patched, and it was."""
    return ev.PatchRecorded(name)


def task_cancelled(task: int) -> ev.TaskCancelled:
    """The workflow gave a task up."""
    return ev.TaskCancelled(task)


def cancel_requested(reason: str = "") -> ev.CancelRequested:
    """Somebody asked for the instance to be cancelled."""
    return ev.CancelRequested(reason)


def suspended(reason: str = "") -> ev.InstanceSuspended:
    """The instance was suspended."""
    return ev.InstanceSuspended(reason)


def resumed() -> ev.InstanceResumed:
    """The instance was resumed."""
    return ev.InstanceResumed()


def terminated(reason: str = "") -> ev.InstanceTerminated:
    """The instance was terminated."""
    return ev.InstanceTerminated(reason)


def instance_completed(value: object = None) -> ev.InstanceCompleted:
    """The workflow returned `value`."""
    return ev.InstanceCompleted(converter.dump(value))


def instance_failed(error: BaseException) -> ev.InstanceFailed:
    """The workflow raised `error`."""
    return ev.InstanceFailed(record(error))


def instance_cancelled(reason: str = "") -> ev.InstanceCancelled:
    """The workflow let the cancellation through."""
    return ev.InstanceCancelled(reason)


def activity_retried(task: int, attempt: int) -> ev.ActivityRetried:
    """Somebody wanted further attempts of an activity."""
    return ev.ActivityRetried(task, attempt)


def child_called(task: int, workflow: AnyWorkflow, *args: object, **kwargs: object) -> ev.ChildScheduled:
    """The workflow called another; of the options, its `instance_id` and `parent_close` are taken over."""
    data = workflow.arguments.dump(args, kwargs, "the arguments")
    options = workflow.start_options
    stored = None if options.parent_close == "terminate" else ev.ChildOptions(options.parent_close)
    return ev.ChildScheduled(
        task, workflow.name, workflow.version, data, converter.digest(data), options.instance_id or "", stored
    )


def child_completed(task: int, value: object = None) -> ev.ChildCompleted:
    """The child returned `value`."""
    return ev.ChildCompleted(task, converter.dump(value))


def child_failed(task: int, error: BaseException, *, status: str = "FAILED") -> ev.ChildFailed:
    """The child ended otherwise, or could not be started (`""`)."""
    return ev.ChildFailed(task, record(error), status)


def message_sent(task: int, instance_id: str, message: ev.Observation) -> ev.MessageSent:
    """The workflow sent something to another instance, such as an `event_received(...)`."""
    return ev.MessageSent(task, instance_id, ev.dump_event(message))


def message_answered(task: int, outcome: str = "delivered") -> ev.MessageAnswered:
    """What became of a message: `"delivered"`, `"missing"` or `"over"`."""
    return ev.MessageAnswered(task, outcome)


def request_received(request_id: str, name: str, *args: object) -> ev.RequestReceived:
    """A request came."""
    return ev.RequestReceived(request_id, name, converter.dump(args) if args else converter.EMPTY_ARGUMENTS)


def request_answered(
    request_id: str, value: object = None, *, error: BaseException | None = None
) -> ev.RequestAnswered:
    """Its handler returned `value`, or raised `error`."""
    failure = None if error is None else record(error)
    return ev.RequestAnswered(request_id, converter.NULL if failure else converter.dump(value), failure)


def checkpoint_taken(state: object) -> ev.CheckpointTaken:
    """The workflow declared that it can begin again with `state`; `History.next_round` follows."""
    return ev.CheckpointTaken(converter.dump(state))


def continued_as_new(workflow: AnyWorkflow, *args: object, **kwargs: object) -> ev.ContinuedAsNew:
    """The workflow begins anew with these arguments, in the same version; `History.next_round` follows."""
    return ev.ContinuedAsNew(workflow.arguments.dump(args, kwargs, "the arguments"))


def rewound(seq: int, reason: str = "") -> ev.InstanceRewound:
    """The end before this does not count; the turns before `seq` follow again."""
    return ev.InstanceRewound(seq, reason)
