"""What each kind of observation means to an instance.

Two functions for each. The first *notes* it at once, also while the instance is suspended: it does
the book-keeping, and says False when the observation is refused and changes nothing. The second, if
there is one, *delivers* it to the code, and is held back while the instance is suspended.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from durableflow.core.turn import WORKER_LOST
from durableflow.errors import CorruptHistory, EventTimeout
from durableflow.model import events as ev
from durableflow.model.failure import activity_failed
from durableflow.model.status import Status

if TYPE_CHECKING:
    from durableflow.core.execution import Execution


# -- begin --------------------------------------------------------------------------------------------------


def _note_instance_started(execution: Execution, event: ev.InstanceStarted) -> bool:
    if execution.started is not None:
        return False
    if event.format > ev.FORMAT:
        raise CorruptHistory(
            f"instance {execution.instance_id!r} was written in format {event.format}, "
            f"but this version of durableflow reads up to {ev.FORMAT}; upgrade it"
        )
    execution.begin_round(event)
    if event.queue:
        execution.elsewhere = {}
    return True


def _deliver_instance_started(execution: Execution, event: ev.InstanceStarted) -> None:
    if event.start_at_us <= execution.now_us and not event.queue and not event.debounced:
        execution.begin_noted = True
        execution.begin()


def _note_instance_began(execution: Execution, _: ev.InstanceBegan) -> bool:
    if execution.begin_noted or execution.started is None or execution.started.start_at_us > execution.now_us:
        return False
    execution.begin_noted = True
    return True


def _deliver_instance_began(execution: Execution, _: ev.InstanceBegan) -> None:
    execution.begin()


def _note_start_changed(execution: Execution, event: ev.StartChanged) -> bool:
    started = execution.started
    if started is None or not started.debounced or execution.begin_noted:
        return False
    execution.started = msgspec.structs.replace(started, input=event.input, deadline_us=event.deadline_us)
    return True


# -- activities ---------------------------------------------------------------------------------------------


def _note_activity_started(execution: Execution, event: ev.ActivityStarted) -> bool:
    activity = execution.activities.get(event.task)
    if activity is None or activity.started or event.attempt != activity.attempt:
        return False
    execution.start_attempt(activity)
    return True


def _note_attempt_failed(execution: Execution, event: ev.AttemptFailed) -> bool:
    activity = execution.activities.get(event.task)
    if activity is None or event.attempt != activity.attempt or not activity.started:
        return False
    activity.attempt += 1
    activity.uncounted += not event.counts
    if not execution.elsewhere or event.task not in execution.elsewhere:
        execution.set_unstarted(activity)
    elif activity.options is None or not activity.options.queue:  # handed over: the next attempt is made here again
        del execution.elsewhere[event.task]
        execution.set_unstarted(activity)
    activity.retry_at_us = event.retry_at_us
    activity.losses = activity.losses + 1 if event.failure.type_name == WORKER_LOST else 0
    if event.details is not None:
        activity.details = event.details
    return True


def _note_activity_handed_over(execution: Execution, event: ev.ActivityHandedOver) -> bool:
    activity = execution.activities.get(event.task)
    if activity is None or event.attempt != activity.attempt or not activity.started:
        return False
    execution.set_elsewhere(activity)
    return True


def _note_activity_result(execution: Execution, event: ev.ActivityCompleted | ev.ActivityFailed) -> bool:
    activity = execution.activities.get(event.task)
    if activity is None:
        return False
    if event.attempt != activity.attempt and not (
        type(event) is ev.ActivityFailed and event.attempt == ev.WHATEVER_ATTEMPT
    ):
        return False
    if not activity.started and type(event) is ev.ActivityCompleted:
        return False  # no attempt was allowed to run; giving it up needs none
    execution.drop_activity(event.task)
    if type(event) is ev.ActivityFailed:
        execution.note_exhausted(activity, event)
    return True


def _deliver_activity_completed(execution: Execution, event: ev.ActivityCompleted) -> None:
    execution.resolve(event.task, event.output)


def _deliver_activity_failed(execution: Execution, event: ev.ActivityFailed) -> None:
    task = execution.tasks.get(event.task)
    if task is not None:
        execution.fail(task, partial(activity_failed, task.label, event.failure, event.attempts))


def _note_activity_retried(execution: Execution, event: ev.ActivityRetried) -> bool:
    activity = execution.activities.get(event.task)
    if activity is None or event.attempt != activity.attempt:
        return False
    activity.losses = 0
    activity.scheduled_at_us = execution.now_us
    if activity.options is not None and activity.options.queue:
        activity.attempt, activity.uncounted = 1, 0  # as its new task in the queue counts them
        execution.reschedule(activity)
        return True
    activity.uncounted = activity.attempt
    activity.attempt += 1
    activity.retry_at_us = execution.now_us
    if execution.elsewhere:
        execution.elsewhere.pop(activity.task, None)  # it was handed over; the next attempt is made here again
    execution.set_unstarted(activity)
    return True


# -- others -------------------------------------------------------------------------------------------------


def _note_child_answer(execution: Execution, event: ev.ChildCompleted | ev.ChildFailed) -> bool:
    child = None if execution.children is None else execution.children.get(event.task)
    if child is None or child.is_heard:
        return False  # it was rewound, and has ended again
    if execution.status is Status.SUSPENDED:
        execution.child_heard(event.task, child)
    return True


def _deliver_child_completed(execution: Execution, event: ev.ChildCompleted) -> None:
    if execution.children is not None and event.task in execution.children:
        execution.child_completed(event.task, event.output)


def _deliver_child_failed(execution: Execution, event: ev.ChildFailed) -> None:
    if execution.children is not None and event.task in execution.children:
        execution.child_ended(event.task, event.failure, event.status)


def _note_message_answered(execution: Execution, event: ev.MessageAnswered) -> bool:
    message = None if execution.messages is None else execution.messages.get(event.task)
    if message is None or message.is_heard:
        return False  # its sender was rewound, and is told again
    if execution.status is Status.SUSPENDED:
        execution.message_heard(event.task, message)
    return True


def _deliver_message_answered(execution: Execution, event: ev.MessageAnswered) -> None:
    if execution.messages is not None and event.task in execution.messages:  # else it was given up meanwhile
        execution.message_answered(event.task, event.outcome)


def _note_request_received(execution: Execution, event: ev.RequestReceived) -> bool:
    return execution.note_request(event.request_id)


def _deliver_request_received(execution: Execution, event: ev.RequestReceived) -> None:
    execution.serve(ev.KeptRequest(event.request_id, event.name, event.arguments))


# -- timers and external events -----------------------------------------------------------------------------


def _note_timer_fired(execution: Execution, event: ev.TimerFired) -> bool:
    return execution.timers is not None and execution.timers.fire(event.task, execution.now_us)


def _deliver_timer_fired(execution: Execution, event: ev.TimerFired) -> None:
    task = execution.tasks.get(event.task)
    if task is None:
        return
    if task.load is None:
        del execution.tasks[event.task]
        task.settle(None, None)
        execution.wake_waiters(task)
    else:
        execution.fail(task, partial(EventTimeout, task.label))


def _note_event_received(execution: Execution, event: ev.EventReceived) -> bool:
    return event.event_id is None or execution.mailbox_made().is_new(event.event_id)


def _deliver_event_received(execution: Execution, event: ev.EventReceived) -> None:
    name = event.name.casefold()
    mailbox = execution.mailbox_made()
    number = mailbox.next_waiter(name)
    while number is not None and number not in execution.tasks:
        number = mailbox.next_waiter(name)
    if number is None:
        mailbox.keep(name, event.payload)
    else:
        execution.disarm(number)
        execution.resolve(number, event.payload)


# -- what is asked from outside -----------------------------------------------------------------------------


def _note_cancel_requested(execution: Execution, _: ev.CancelRequested) -> bool:
    if execution.cancel_requested:
        return False
    execution.cancel_requested = True
    return True


def _deliver_cancel_requested(execution: Execution, event: ev.CancelRequested) -> None:
    execution.cancel(event.reason)


def _note_instance_suspended(execution: Execution, _: ev.InstanceSuspended) -> bool:
    if execution.status is Status.SUSPENDED:
        return False
    execution.status = Status.SUSPENDED
    return True


def _note_instance_resumed(execution: Execution, _: ev.InstanceResumed) -> bool:
    if execution.status is not Status.SUSPENDED:
        return False
    execution.resume()
    return True


def _note_instance_terminated(execution: Execution, event: ev.InstanceTerminated) -> bool:
    execution.end(Status.TERMINATED, event)
    return True


def _note_instance_timed_out(execution: Execution, event: ev.InstanceTimedOut) -> bool:
    if execution.started is None or not 0 < execution.started.deadline_us <= execution.now_us:
        return False
    execution.end(Status.FAILED, event)
    return True


Note = Callable[["Execution", Any], bool]
Deliver = Callable[["Execution", Any], None]

HANDLERS: Final[dict[type, tuple[Note, Deliver | None]]] = {
    ev.InstanceStarted: (_note_instance_started, _deliver_instance_started),
    ev.InstanceBegan: (_note_instance_began, _deliver_instance_began),
    ev.ActivityStarted: (_note_activity_started, None),
    ev.ActivityHandedOver: (_note_activity_handed_over, None),
    ev.AttemptFailed: (_note_attempt_failed, None),
    ev.ActivityCompleted: (_note_activity_result, _deliver_activity_completed),
    ev.ActivityFailed: (_note_activity_result, _deliver_activity_failed),
    ev.ActivityRetried: (_note_activity_retried, None),
    ev.ChildCompleted: (_note_child_answer, _deliver_child_completed),
    ev.ChildFailed: (_note_child_answer, _deliver_child_failed),
    ev.MessageAnswered: (_note_message_answered, _deliver_message_answered),
    ev.TimerFired: (_note_timer_fired, _deliver_timer_fired),
    ev.EventReceived: (_note_event_received, _deliver_event_received),
    ev.RequestReceived: (_note_request_received, _deliver_request_received),
    ev.CancelRequested: (_note_cancel_requested, _deliver_cancel_requested),
    ev.InstanceSuspended: (_note_instance_suspended, None),
    ev.InstanceResumed: (_note_instance_resumed, None),
    ev.InstanceTerminated: (_note_instance_terminated, None),
    ev.InstanceTimedOut: (_note_instance_timed_out, None),
    ev.StartChanged: (_note_start_changed, None),
}
"""For each observation: what is noted at once (may refuse it), and how it is delivered (held while suspended)."""
