"""Events in words, for errors and timelines."""

from __future__ import annotations

from durableflow.model import events as ev
from durableflow.model.duration import to_datetime


def describe(event: ev.Event) -> str:  # noqa: C901  # one case an event, each a line or two
    """A few words such as `activity 'charge' ([1])`, without payloads longer than 60 bytes."""
    match event:
        case ev.ActivityScheduled(name=name, input=data):
            return f"activity {name!r} {_short(data)}"
        case ev.TimerCreated(due_us=due_us):
            return f"timer due {to_datetime(due_us):%Y-%m-%d %H:%M:%S.%f}"
        case ev.EventAwaited(name=name, due_us=due_us):
            until = f" until {to_datetime(due_us):%Y-%m-%d %H:%M:%S.%f}" if due_us else ""
            return f"wait for event {name!r}{until}"
        case ev.ChildScheduled(workflow=workflow, child_id=child_id, input=data):
            return f"child workflow {workflow!r}{f' as {child_id!r}' if child_id else ''} {_short(data)}"
        case ev.MessageSent(instance_id=instance_id, message=message):
            return f"message to {instance_id!r}: {describe(ev.load_event(message))}"
        case ev.RequestAnswered(request_id=request_id, output=output, failure=failure):
            what = _short(output) if failure is None else f"{failure.type_name}: {failure.message}"
            return f"answer to request {request_id!r}: {what}"
        case ev.CheckpointTaken(state=state):
            return f"checkpoint with {_short(state)}"
        case ev.ContinuedAsNew(input=data):
            return f"beginning anew with {_short(data)}"
        case ev.RequestReceived(name=name, arguments=arguments):
            return f"request {name!r} {_short(arguments)}"
        case ev.ChildFailed(failure=failure):
            return f"child failed with {failure.type_name}: {failure.message}"
        case ev.MessageAnswered(task=task, outcome=outcome):
            return f"message of task {task} {outcome}"
        case ev.InstanceRewound(seq=seq):
            return f"rewound to before #{seq}"
        case ev.InstanceStarted(round=ev.Round(number=number)):
            return f"beginning of round {number}"
        case ev.TaskCancelled(task=task):
            return f"cancelling of task {task}"
        case ev.SideEffectRecorded():
            return "side effect"
        case ev.CustomStatusSet(value=value):
            return f"custom status {_short(value)}"
        case ev.PatchRecorded(name=name):
            return f"patch {name!r}"
        case ev.InstanceCompleted(output=output):
            return f"completion with {_short(output)}"
        case ev.InstanceFailed(failure=failure):
            return f"failure with {failure.type_name}: {failure.message}"
        case ev.InstanceCancelled():
            return "end by cancellation"
        case ev.EventReceived(name=name):
            return f"event {name!r}"
        case _:
            return ev.tag_of(event).replace("_", " ")


def _short(data: bytes) -> str:
    return data.decode("utf-8", "replace") if len(data) <= 60 else f"({len(data):,} bytes)"
