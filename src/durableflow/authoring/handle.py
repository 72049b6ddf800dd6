"""Another instance, as a workflow talks to it."""

from __future__ import annotations

from durableflow.core.execution import Execution
from durableflow.core.task import Task
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.ids import check_name


class OtherInstance:
    """Another instance, to be told something; what `ctx.handle` returns.

    Each method schedules a message and gives a task, which is done when the inbox of the other instance holds it.
    Waiting for it raises `MessageFailed` when there is no such instance, or it is over. The message leaves in the
    commit of the turn, so that it is sent exactly once across any crash.

    Attributes:
        id: its instance id.
    """

    __slots__ = ("_execution", "id")

    def __init__(self, execution: Execution, instance_id: str) -> None:
        self._execution = execution
        self.id = instance_id

    def __repr__(self) -> str:
        return f"<other instance {self.id!r}>"

    def raise_event(self, name: str, payload: object = None, *, event_id: str | None = None) -> Task[None]:
        """Send it an external event. Its `event_id`, if any, makes the other instance take it once only."""
        check_name(name, "the name of an event")
        if event_id is not None:
            check_name(event_id, "the event id")
        what = f"event {name!r} to {self.id!r}"
        data = converter.dump(payload, f"the payload of event {name!r}")
        return self._execution.send_message(self.id, ev.EventReceived(name, data, event_id), what)

    def cancel(self, reason: str = "") -> Task[None]:
        """Ask for its cancellation: `Cancelled` is raised at its wait."""
        return self._execution.send_message(self.id, ev.CancelRequested(reason), f"cancel {self.id!r}")

    def terminate(self, reason: str = "") -> Task[None]:
        """End it at once."""
        return self._execution.send_message(self.id, ev.InstanceTerminated(reason), f"terminate {self.id!r}")

    def suspend(self, reason: str = "") -> Task[None]:
        """Have nothing delivered to it until it is resumed."""
        return self._execution.send_message(self.id, ev.InstanceSuspended(reason), f"suspend {self.id!r}")

    def resume(self) -> Task[None]:
        """Let it go on."""
        return self._execution.send_message(self.id, ev.InstanceResumed(), f"resume {self.id!r}")
