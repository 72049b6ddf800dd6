"""The recorded turn that a replay follows: what the code decided then, to be asked for again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from durableflow.model import events as ev
from durableflow.model.converter import digest


class Record:
    """The decisions of one recorded row, taken one by one.

    One object serves all rows of a replay: it points into the row instead of copying what it needs.
    """

    __slots__ = ("_at", "_first_seq", "_row")

    def __init__(self) -> None:
        self._row: Sequence[ev.Event] = ()
        self._first_seq = 1
        self._at = 0

    def follow(self, first_seq: int, row: Sequence[ev.Event]) -> None:
        """Go on with the row whose first event is `first_seq`."""
        self._row = row
        self._first_seq = first_seq
        self._at = 0

    def take(self) -> ev.Event | None:
        """The next decision; None when the row has no more. Patches are passed over: nobody need ask for them again."""
        row, at = self._row, self._at
        while at < len(row):
            event = row[at]
            at += 1
            if type(event) in ev.DECISIONS and type(event) is not ev.PatchRecorded:
                self._at = at
                return event
        self._at = at
        return None

    def has_patch(self, name: str) -> bool:
        """Whether patch `name` was recorded here, before the next decision of another kind."""
        for event in itertools.islice(self._row, self._at, None):
            if type(event) is ev.PatchRecorded:
                if event.name == name:
                    return True
            elif type(event) in ev.DECISIONS:
                return False
        return False

    @property
    def taken_seq(self) -> int:
        """The sequence number of the decision taken last."""
        return self._first_seq + self._at - 1


def same(recorded: ev.Event, asked: ev.Decision) -> bool:
    """Whether the code asks again for what was recorded."""
    if type(recorded) is not type(asked):
        return False
    if isinstance(recorded, ev.ActivityScheduled):
        assert isinstance(asked, ev.ActivityScheduled)
        return (recorded.name, recorded.digest, recorded.task) == (asked.name, asked.digest, asked.task)
    if isinstance(recorded, ev.ChildScheduled):
        assert isinstance(asked, ev.ChildScheduled)
        return (recorded.workflow, recorded.digest, recorded.task, recorded.child_id) == (
            asked.workflow,
            asked.digest,
            asked.task,
            asked.child_id,
        )
    if isinstance(recorded, ev.RequestAnswered):
        assert isinstance(asked, ev.RequestAnswered)
        return (recorded.request_id, _outcome(recorded)) == (asked.request_id, _outcome(asked))
    if isinstance(recorded, ev.SideEffectRecorded):
        assert isinstance(asked, ev.SideEffectRecorded)
        return recorded.task == asked.task
    if isinstance(recorded, ev.InstanceFailed):
        assert isinstance(asked, ev.InstanceFailed)
        # Not its message, which may hold the address of an object.
        return recorded.failure.type_name == asked.failure.type_name
    return recorded == asked


def _outcome(answer: ev.RequestAnswered) -> bytes | str:
    """What was answered; of a failure the type alone, for its message may hold the address of an object."""
    return answer.output if answer.failure is None else answer.failure.type_name


def same_activity(recorded: ev.ActivityScheduled, task: int, name: str, data: bytes) -> bool:
    """`same`, of the commonest decision, before it is made: equal inputs need no digest."""
    return (
        recorded.task == task and recorded.name == name and (recorded.input == data or recorded.digest == digest(data))
    )
