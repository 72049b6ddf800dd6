"""Errors of one schedule: look at it."""

from __future__ import annotations

from durableflow.errors.root import DurableflowError


class ScheduleError(DurableflowError):
    """Something about one schedule; `schedule_id` says which."""

    code = "DF7000"

    def __init__(self, schedule_id: str, message: str) -> None:
        self.schedule_id = schedule_id
        super().__init__(message)


class ScheduleNotFound(ScheduleError):
    """No schedule has this id."""

    code = "DF7001"

    def __init__(self, schedule_id: str) -> None:
        super().__init__(schedule_id, f"there is no schedule {schedule_id!r} in this store")


class ScheduleExists(ScheduleError):
    """The id is taken by another schedule."""

    code = "DF7002"

    def __init__(self, schedule_id: str) -> None:
        super().__init__(
            schedule_id,
            f"schedule {schedule_id!r} exists; write put(...) to make it as you want it to be, or not at all",
        )


class CorruptSchedule(ScheduleError):
    """What the store keeps of the schedule cannot be read; it does not fire. `reason` says why."""

    code = "DF7003"

    def __init__(self, schedule_id: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            schedule_id,
            f"schedule {schedule_id!r} cannot be read: {reason}; mend that, or delete it and create it again",
        )
