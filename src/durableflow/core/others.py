"""What an instance has to do with others: the children that it starts, the messages that it sends.

What is sent leaves in the commit of the turn that asked for it, so that there is exactly one child, and one message,
across any crash. What becomes of it comes back as an observation.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from functools import partial
from random import Random
from typing import Any, NamedTuple

from durableflow.core.decisions import Decider
from durableflow.core.task import ChildTask, Task
from durableflow.core.turn import Send
from durableflow.errors import Cancelled, ChildFailed, MessageFailed, PayloadTooLarge
from durableflow.model import events as ev
from durableflow.model.converter import Loader, digest
from durableflow.model.failure import Failure, child_failed
from durableflow.model.retry import StoredRetry
from durableflow.model.status import Status


class ChildCall(NamedTuple):
    """What a workflow asks for when it calls another."""

    workflow: str
    version: int
    input: bytes
    load: Loader
    child_id: str = ""
    options: ev.ChildOptions | None = None


class OpenChild(NamedTuple):
    """A child that is not over, as far as its parent knows; `is_heard` when its answer is held back for now."""

    child_id: str
    parent_close: str
    is_heard: bool = False


class OpenMessage(NamedTuple):
    """A message of whose delivery nothing is known; `is_heard` as of `OpenChild`."""

    instance_id: str
    is_heard: bool = False


class Correspondent(Decider):
    """Children and messages of one instance."""

    __slots__ = ("children", "messages")

    children: dict[int, OpenChild] | None
    """By task number; made when it is needed."""
    messages: dict[int, OpenMessage] | None
    """Whom those without an answer are for, by task number; made when it is needed."""

    # -- children -------------------------------------------------------------------------------------------

    def call_child(self, call: ChildCall, retry: StoredRetry | None) -> ChildTask[Any]:
        """Start a child; with `retry`, another one when it fails."""
        first = self._start_child(call, "")
        if retry is None or retry.max_attempts < 2:
            return first
        task = ChildTask[Any](self, 0, call.workflow, None, first.child_id)
        self._drive_branch(self._retried(call, first, retry), task)
        return task

    def _start_child(self, call: ChildCall, suffix: str) -> ChildTask[Any]:
        if len(call.input) > self.payload_limit_bytes:
            raise PayloadTooLarge(f"the input of workflow {call.workflow!r}", len(call.input), self.payload_limit_bytes)
        self._check_usable()
        self._last_number = number = self._last_number + 1
        child_id = call.child_id and call.child_id + suffix
        scheduled = ev.ChildScheduled(
            number, call.workflow, call.version, call.input, digest(call.input), child_id, call.options
        )
        self._decide(scheduled)
        known_id = child_id or derived_id(self.instance_id, number)
        task = ChildTask[Any](self, number, call.workflow, call.load, known_id)
        self.tasks[number] = task
        options = call.options or ev.ChildOptions()
        if self.children is None:
            self.children = {}
        self.children[number] = OpenChild(known_id, options.parent_close)
        if not self.replaying:
            self._turn.send(birth(self.instance_id, known_id, scheduled, self.now_us))
        return task

    def _retried(self, call: ChildCall, child: ChildTask[Any], retry: StoredRetry) -> Generator[Task[Any], Any, Any]:
        made = 1
        while True:
            try:
                return (yield from child)
            except Cancelled:
                child.cancel()
                raise
            except ChildFailed as error:
                if error.status is None or retry.gives_up_after(made, (error.type_name,)):
                    raise
            # dice of its own: reproducible on purpose
            draw = Random(f"retry:{self._seed}/{child.number}").random()  # noqa: S311
            yield from self.create_timer(retry.delay_us(made, draw))
            made += 1
            child = self._start_child(call, f"#{made}")

    def child_heard(self, number: int, child: OpenChild) -> None:
        """The answer of child `number` is recorded, and held: none that comes later counts."""
        assert self.children is not None
        self.children[number] = child._replace(is_heard=True)

    def child_completed(self, number: int, output: bytes) -> None:
        """Child `number` returned `output`."""
        assert self.children is not None
        del self.children[number]
        self.resolve(number, output)

    def child_ended(self, number: int, failure: Failure, status: str) -> None:
        """Child `number` ended otherwise, or was never born."""
        assert self.children is not None
        child = self.children.pop(number)
        task = self.tasks.get(number)
        if task is not None:
            self.fail(task, partial(child_failed, task.label, child.child_id, failure, status))

    def _give_up_other(self, number: int) -> None:
        if self.messages is not None:
            self.messages.pop(number, None)
        child = None if self.children is None else self.children.pop(number, None)
        if child is not None and not self.replaying:
            self._turn.send(Send(child.child_id, ev.CancelRequested("its parent no longer wants the result")))

    def _part_with_children(self, reason: str) -> None:
        """The parent is over: its children are told, each as its call said."""
        for child in (self.children or {}).values():
            message = close_message(child.parent_close, reason)
            if message is not None:
                self._turn.send(Send(child.child_id, message))

    # -- messages -------------------------------------------------------------------------------------------

    def send_message(self, instance_id: str, message: ev.Observation, what: str) -> Task[None]:
        """Tell another instance something; the task is done when its inbox holds it."""
        data = ev.dump_event(message)
        if len(data) > self.payload_limit_bytes:
            raise PayloadTooLarge(what, len(data), self.payload_limit_bytes)
        task = self._new_task(what, None)
        self._decide(ev.MessageSent(task.number, instance_id, data))
        if not self.replaying:
            self._turn.send(Send(instance_id, message, task.number))
        if self.messages is None:
            self.messages = {}
        self.messages[task.number] = OpenMessage(instance_id)
        return task

    def message_heard(self, number: int, message: OpenMessage) -> None:
        """What became of message `number` is recorded, and held: nothing that comes later counts."""
        assert self.messages is not None
        self.messages[number] = message._replace(is_heard=True)

    def message_answered(self, number: int, outcome: str) -> None:
        """What became of message `number`."""
        assert self.messages is not None
        instance_id = self.messages.pop(number).instance_id
        task = self.tasks.get(number)
        if task is None:
            return
        if outcome == "delivered":
            del self.tasks[number]
            task.settle(None, None)
            self.wake_waiters(task)
        else:
            self.fail(task, partial(MessageFailed, instance_id, outcome))


def derived_id(parent_id: str, number: int) -> str:
    """The id of a child that was given none: the same after any crash, and for each call another."""
    return f"{parent_id}/{number}"


def birth(parent_id: str, child_id: str, call: ev.ChildScheduled, now_us: int) -> Send:
    """The start of a child."""
    options = call.options or ev.ChildOptions()
    start_at_us = now_us + options.start_delay_us if options.start_delay_us else 0
    started = ev.InstanceStarted(
        call.workflow,
        call.version,
        call.input,
        start_at_us=start_at_us,
        deadline_us=max(start_at_us, now_us) + options.timeout_us if options.timeout_us else 0,
        origin=ev.Origin(parent_id, call.task),
    )
    return Send(child_id, started, call.task, call)


def last_words(instance_id: str, round_events: Iterable[ev.Event], end: ev.Event, reason: str) -> list[Send]:
    """What an instance that ends without its code running sends: to the children that it has, and to its parent."""
    origin: ev.Origin | None = None
    open_: dict[int, OpenChild] = {}
    for event in round_events:
        match event:
            case ev.InstanceStarted():
                origin = event.origin
            case ev.ChildScheduled(task=task, child_id=child_id, options=options):
                parent_close = (options or ev.ChildOptions()).parent_close
                open_[task] = OpenChild(child_id or derived_id(instance_id, task), parent_close)
            case ev.ChildCompleted(task=task) | ev.ChildFailed(task=task) | ev.TaskCancelled(task=task):
                open_.pop(task, None)
            case _:
                pass
    said = [(child.child_id, close_message(child.parent_close, reason)) for child in open_.values()]
    sends = [Send(child_id, message) for child_id, message in said if message is not None]
    result = None if origin is None else result_message(origin, end)
    return sends if result is None else [*sends, result]


def close_message(parent_close: str, reason: str) -> ev.Observation | None:
    """What a child is told when its parent is over."""
    if parent_close == "abandon":
        return None
    return ev.CancelRequested(reason) if parent_close == "cancel" else ev.InstanceTerminated(reason)


def result_message(origin: ev.Origin, end: ev.Event) -> Send | None:
    """What a child's end says to its parent; None of one that has none."""
    if not origin.parent_id:
        return None
    number = origin.parent_task
    message: ev.Observation
    match end:
        case ev.InstanceCompleted(output=output):
            message = ev.ChildCompleted(number, output)
        case ev.InstanceFailed(failure=failure):
            message = ev.ChildFailed(number, failure, Status.FAILED)
        case ev.InstanceTimedOut():
            failure = Failure("TimeoutError", "it was not over before its timeout")
            message = ev.ChildFailed(number, failure, Status.FAILED)
        case ev.InstanceCancelled(reason=reason):
            message = ev.ChildFailed(number, Failure("Cancelled", reason), Status.CANCELLED)
        case ev.InstanceTerminated(reason=reason):
            message = ev.ChildFailed(number, Failure("Terminated", reason), Status.TERMINATED)
        case _:
            return None
    return Send(origin.parent_id, message)
