"""What came of a story, for whoever checks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from durableflow.core.view import HistoryEvent, InstanceView, fold, numbered
from durableflow.errors import InstanceError, PayloadError
from durableflow.looking import result_of
from durableflow.model.duration import to_datetime
from durableflow.model.status import Status
from durableflow.runtime.ends import End
from durableflow.testing.exploring.actor import Actor
from durableflow.testing.histories import History
from durableflow.testing.stand_ins import ActivityCall

if TYPE_CHECKING:
    from durableflow.testing.exploring.story import Story

R = TypeVar("R")


class Outcome(Generic[R]):
    """One instance at the end of a story.

    Attributes:
        instance_id: its id.
        status: where it stands; not the end of one that waits for what never comes.
        crashes: how many crashes the story had.
    """

    def __init__(self, story: Story, actor: Actor) -> None:
        self._story = story
        self._actor = actor
        self.instance_id = actor.id
        self.status: Status = actor.execution.status
        self.crashes = story.crashes

    def __repr__(self) -> str:
        return f"<outcome of {self.instance_id!r}: {self.status}>"

    @property
    def result(self) -> R | None:
        """What the workflow returned, of its annotated type; None when it did not return."""
        return None if self.status is not Status.COMPLETED else self._ending()

    @property
    def error(self) -> InstanceError | None:
        """What `handle.result()` would raise; None of one that has returned, or is not over."""
        if not self._actor.is_over or self.status is Status.COMPLETED:
            return None
        try:
            self._ending()
        except InstanceError as error:
            return error
        raise AssertionError(f"{self!r} ended without an error")

    def _ending(self) -> Any:
        ended = self._actor.execution.ended
        assert ended is not None
        return result_of(self.instance_id, End(self.status, ended), self._actor.program)

    @property
    def history(self) -> History:
        """Its history, to look at, to save or to replay."""
        return History(self.instance_id, self._actor.rows)

    @property
    def events(self) -> list[HistoryEvent]:
        """The events of its history."""
        return numbered(self._actor.rows)

    @property
    def view(self) -> InstanceView:
        """Its history, folded, as `client.view` gives it."""
        return fold(self.events)

    @property
    def calls(self) -> list[ActivityCall]:
        """The calls of activities' functions, in order, of all instances of the story: one for each attempt.

        Those whose answer was lost in a crash, or came when nobody waited for it any more, are among them.
        """
        return [_call(self._story, index) for index in range(len(self._story.worked))]

    @property
    def children(self) -> dict[str, Outcome[Any]]:
        """The other instances of the story, by id: children, and children of those."""
        actors = self._story.actors.values()
        return {actor.id: Outcome(self._story, actor) for actor in actors if actor is not self._story.root}


def _call(story: Story, index: int) -> ActivityCall:
    flight = story.worked[index]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    with suppress(PayloadError):  # then its function was not called with them either
        args, kwargs = flight.part.arguments.load(flight.activity.input)
    return ActivityCall(
        flight.part.name,
        tuple(args),
        kwargs,
        flight.attempt,
        flight.actor.id,
        f"{flight.actor.id}/{flight.task}",
        to_datetime(story.worked_us[index]),
    )
