"""One attempt of an activity that is under way."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from durableflow.authoring.activity import ActivityContext, current_activity
from durableflow.core.turn import PendingActivity
from durableflow.errors import HandedOver, PayloadTooLarge, qualified_name
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.duration import Duration
from durableflow.model.failure import Failure, record
from durableflow.runtime.attempt import TIMEOUT_NAMES, failed_attempt, limits_of, timed_out
from durableflow.runtime.clock import Moment
from durableflow.testing.exploring.casting import CannotBeExplored, Cast, Part
from durableflow.testing.stand_ins import InjectedFailure

if TYPE_CHECKING:
    from durableflow.testing.exploring.actor import Actor


class Flight:
    """An attempt between the commit that allows it and the one that records what came of it.

    Attributes:
        has_worked: its function was called, and its answer is on the way.
        due_us, due_text: when it is timed out, 0 for never, and why.
        begins_us: of one that waits in a queue for its next attempt, when that begins; else 0.
        is_wanted: False once the workflow has given it up, or it has timed out.
        is_fresh: that happened in the move before.
        looked: its function has asked whether it is still wanted.
    """

    __slots__ = (
        "activity", "actor", "attempt", "begins_us", "due_text", "due_us", "failure", "has_worked", "is_fresh",
        "is_wanted", "looked", "names", "output", "part", "refusal", "task",
    )  # fmt: skip

    def __init__(self, actor: Actor, activity: PendingActivity, part: Part, now_us: int, begins_us: int = 0) -> None:
        self.actor = actor
        self.activity = activity
        self.task = activity.task
        self.attempt = activity.attempt
        self.part = part
        self.begins_us = begins_us
        self.due_us, self.due_text = 0, ""
        self.has_worked = False
        self.output: bytes | None = None
        self.failure: Failure | None = None
        self.names: tuple[str, ...] = ()
        self.is_wanted = True
        self.is_fresh = False
        self.looked = False
        self.refusal: CannotBeExplored | None = None
        if activity.options is not None and not begins_us:
            self.begin(now_us)

    def begin(self, now_us: int) -> None:
        """Its time counts from now."""
        self.begins_us = 0
        options = self.activity.options
        limits = () if options is None else limits_of(self.activity, options, now_us)
        self.due_us, self.due_text = min(limits, default=(0, ""))

    @property
    def name(self) -> str:
        """Task and attempt, as moves are called by."""
        return f"{self.actor.prefix}{self.part.name}#{self.task}.{self.attempt}"

    @property
    def mark(self) -> tuple[object, ...]:
        """All of it that matters for what can follow."""
        return (
            self.actor.id, self.task, self.attempt, self.has_worked, self.output, self.names, self.due_us,
            self.begins_us, self.is_wanted, self.is_fresh, self.activity.details,
        )  # fmt: skip

    # -- its function -----------------------------------------------------------------------------------------------

    def work(self, cast: Cast, world: Any) -> None:
        """Call its function.

        Raises:
            CannotBeExplored: it does what no story can tell.
        """
        part, activity = self.part, self.activity
        self.has_worked = True
        context = _WatchedContext(self.actor.id, self.task, part.name, self.attempt, activity.details, self)
        if not self.is_wanted and not self.is_fresh:
            context.mark_cancelled("the workflow no longer wants the result")
        own = copy_context()  # what it sets there is its own, as in an engine
        own.run(current_activity.set, context)
        try:
            args, kwargs = part.arguments.load(activity.input)
            if part.takes_world:
                args = (world, *args)
            value = own.run(part.function, *args, **kwargs)
            if type(value) is CoroutineType or hasattr(value, "__await__"):
                value = own.run(cast.finish, value)
            self.output = self._dumped(value)
        except CannotBeExplored as error:
            self.refusal = error
        except HandedOver:
            self.refusal = _hands_over(part.name)
        except (Exception, asyncio.CancelledError, SystemExit) as error:
            self.failure = record(error, skip_frames=1)
            self.names = tuple(qualified_name(kind) for kind in type(error).__mro__)
        if self.refusal is not None:
            raise self.refusal

    def _dumped(self, value: object) -> bytes:
        if value is None:
            return converter.NULL
        what = f"the result of activity {self.part.name!r}"
        output = converter.dump(value, what)
        if len(output) > converter.PAYLOAD_LIMIT_BYTES:
            raise PayloadTooLarge(what, len(output), converter.PAYLOAD_LIMIT_BYTES)
        return output

    # By these its context reaches it.

    def beat(self, details: bytes) -> None:
        """Its function says how far it is; durable at once."""
        self.looked = True
        self.activity.details = details

    async def offer(self) -> str:
        """Its function asks for a token."""
        self.refusal = _hands_over(self.part.name)
        raise self.refusal

    # -- what comes of it -------------------------------------------------------------------------------------------

    def answer(self, clock: Moment) -> ev.Observation:
        """What is recorded of it, now that it has worked."""
        if self.output is not None:
            return ev.ActivityCompleted(self.task, self.output, self.attempt)
        assert self.failure is not None
        return failed_attempt(self.activity, self.failure, self.names, clock)

    def injected(self, clock: Moment, text: str) -> ev.Observation:
        """What is recorded when the test lets it fail."""
        names = tuple(qualified_name(kind) for kind in InjectedFailure.__mro__)
        return failed_attempt(self.activity, Failure(names[0], text), names, clock)

    def timed_out(self, clock: Moment) -> ev.Observation:
        """What is recorded when its time is over."""
        failure = timed_out(self.part.name, self.attempt, self.due_text)
        return failed_attempt(self.activity, failure, TIMEOUT_NAMES, clock)


class _WatchedContext(ActivityContext):
    """Notes whether the function asks if it is still wanted: only then does it matter."""

    __slots__ = ("_flight",)

    def __init__(
        self, instance_id: str, task: int, activity_name: str, attempt: int, details: bytes | None, flight: Flight
    ) -> None:
        super().__init__(instance_id, task, activity_name, attempt, details, flight)
        self._flight = flight

    @property
    def is_cancelled(self) -> bool:
        self._flight.looked = True
        return self._is_cancelled

    def wait_cancelled(self, timeout: Duration | None = None) -> bool:
        """Nobody else acts meanwhile, so it does not wait."""
        del timeout
        return self.is_cancelled

    def heartbeat(self, details: object = None) -> None:
        """See `ActivityContext.heartbeat`."""
        self._flight.looked = True
        super().heartbeat(details)


def _hands_over(name: str) -> CannotBeExplored:
    return CannotBeExplored(
        f"activity {name!r} hands its attempt over to whoever has a token, which explore() cannot follow; say what is "
        f"called instead: explore(..., activities={{{name}: function}})"
    )
