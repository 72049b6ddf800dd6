"""Errors of one instance, and of histories that cannot be followed: look at the instance."""

from __future__ import annotations

from durableflow.errors.root import DurableflowError, RecordedFailure


class InstanceError(DurableflowError):
    """Something about one instance; `instance_id` says which."""

    code = "DF2000"

    def __init__(self, instance_id: str, message: str) -> None:
        self.instance_id = instance_id
        super().__init__(message)


class InstanceNotFound(InstanceError):
    """No instance has this id."""

    code = "DF2001"

    def __init__(self, instance_id: str) -> None:
        super().__init__(instance_id, f"there is no instance {instance_id!r} in this store")


class InstanceExists(InstanceError):
    """The id is taken and the id policy does not allow to share or replace it."""

    code = "DF2002"


class InstanceNotActive(InstanceError):
    """The instance is over, or is not in a status that allows the call; nothing was written."""

    code = "DF2003"

    def __init__(self, instance_id: str, status: str, asked: str) -> None:
        self.status = status
        super().__init__(instance_id, f"instance {instance_id!r} is {status}, so it cannot take {asked}")


class InstanceStalled(InstanceError):
    """The engine will not go on with the instance; it does by itself once the cause is gone."""

    code = "DF2004"

    def __init__(self, instance_id: str, reason: str) -> None:
        self.reason = reason
        super().__init__(instance_id, f"instance {instance_id!r} is STALLED: {reason}")


class WorkflowFailed(InstanceError, RecordedFailure):
    """The workflow raised; the record of what it raised is in the attributes and in `__cause__`."""

    code = "DF2005"

    def __init__(self, instance_id: str, type_name: str, message: str, traceback_text: str) -> None:
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text
        super().__init__(instance_id, f"instance {instance_id!r} failed: {type_name}: {message}")


class WorkflowTerminated(InstanceError):
    """The instance was terminated."""

    code = "DF2006"

    def __init__(self, instance_id: str, reason: str) -> None:
        self.reason = reason
        super().__init__(instance_id, f"instance {instance_id!r} was terminated: {reason or 'no reason given'}")


class WorkflowCancelled(InstanceError):
    """The instance was cancelled and its workflow let the cancellation through."""

    code = "DF2007"

    def __init__(self, instance_id: str, reason: str) -> None:
        self.reason = reason
        super().__init__(instance_id, f"instance {instance_id!r} was cancelled: {reason or 'no reason given'}")


class RequestFailed(InstanceError, RecordedFailure):
    """A workflow's handler refused a request, or raised; the instance goes on.

    Attributes:
        request: name of the request.
        type_name: qualified name of the exception.
        message: its text.
        traceback_text: its traceback, as text.
    """

    code = "DF2008"

    def __init__(self, instance_id: str, request: str, type_name: str, message: str, traceback_text: str) -> None:
        self.request = request
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text
        super().__init__(instance_id, f"request {request!r} to instance {instance_id!r} failed: {type_name}: {message}")


class ReplayError(DurableflowError):
    """A history cannot be followed with the code at hand; the instance stalls, unharmed."""

    code = "DF3000"


class CorruptHistory(ReplayError):
    """What is stored is not a history that this version can read."""

    code = "DF3002"


class TurnTooLong(ReplayError):
    """A turn was stopped because its workflow did not come to a wait in time."""

    code = "DF3003"


class NotRegistered(ReplayError):
    """The code that an instance needs is not registered in this engine; where it is, the instance goes on."""

    code = "DF3004"


class HistoryTooLong(ReplayError):
    """A history holds more events than `Settings.history_hard_limit` allows."""

    code = "DF3005"


class NondeterminismError(ReplayError):
    """The workflow's code does not ask for what its history records.

    Attributes:
        instance_id: whose history it is.
        seq: sequence number of the recorded decision, or of the place where the history ends.
        recorded: what the history holds there.
        asked: what the code asked for instead.
        location: `file:line` of the user code that asked; empty when it asked for nothing.
    """

    code = "DF3001"

    def __init__(self, instance_id: str, workflow: str, seq: int, recorded: str, asked: str, location: str) -> None:
        self.instance_id = instance_id
        self.workflow = workflow
        self.seq = seq
        self.recorded = recorded
        self.asked = asked
        self.location = location
        where = f" at {location}" if location else ""
        super().__init__(
            f"history #{seq} of instance {instance_id!r} recorded {recorded} but workflow {workflow!r} "
            f"now asks for {asked}{where}; did its code change while this instance was open? "
            "Nothing is lost: with the recorded code back, the instance goes on"
        )
