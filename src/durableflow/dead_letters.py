"""Dead letters: what failed for good, to be looked at, tried again, or put away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from durableflow.backends.base import Backend, DeadLetterQuery
from durableflow.backends.base import DeadLetter as StoredLetter
from durableflow.core.view import HistoryEvent
from durableflow.errors import DurableflowError, UsageError
from durableflow.model import events as ev
from durableflow.model.cursors import dump_cursor, load_cursor
from durableflow.model.duration import to_datetime
from durableflow.model.failure import Failure
from durableflow.model.ids import check_name, check_text
from durableflow.model.status import Status
from durableflow.runtime.messages import LOOK_AGAIN, outgoing

Kind: TypeAlias = Literal["activity", "failed", "stalled"]

_PAGE: Final = 500
_REPORTED_MAX: Final = 100


class DeadLetter(msgspec.Struct, frozen=True):
    """Something that failed for good.

    Attributes:
        kind: `"activity"`: one that is exhausted; `"failed"` or `"stalled"`: the instance itself.
        name: of the activity or the workflow.
        task: number of the activity in its instance; 0 for the instance itself.
        attempts: how many were made of the activity; 0 for an instance.
        type_name, message: of the last failure; of a stalled one, its reason.
    """

    instance_id: str
    kind: str
    name: str
    at: datetime
    task: int
    attempts: int
    type_name: str
    message: str


class DeadLetterPage(msgspec.Struct, frozen=True):
    """Some dead letters, the latest first; pass `cursor` on for those that follow, None at the end."""

    letters: Sequence[DeadLetter]
    cursor: str | None


class FailedAttempt(NamedTuple):
    """One attempt of an activity, and what it raised."""

    attempt: int
    at: datetime
    failure: Failure


class DeadLetterDetails(msgspec.Struct, frozen=True):
    """A dead letter with all that the history knows of it.

    Attributes:
        input: of the activity or the workflow, as JSON.
        attempts: of an activity, each with what it raised; of an instance that failed, one with that.
        history: of the instance.
    """

    letter: DeadLetter
    input: bytes
    attempts: Sequence[FailedAttempt]
    history: Sequence[HistoryEvent]


class RedriveReport(msgspec.Struct, frozen=True):
    """What became of many.

    Attributes:
        matched: instances with letters that matched.
        redriven: how many of them go on; in a dry run, would be tried.
        refused: why others do not, by instance; the first hundred.
        refused_count: how many do not.
    """

    matched: int
    redriven: int
    refused_count: int
    refused: dict[str, str]


Rewind: TypeAlias = Callable[[str, bool], Awaitable[None]]


class DeadLetters:
    """The dead letters of a store; got as `client.dead_letters`.

    Args:
        rewind: makes a failed instance go on; `(instance_id, force)`.
        wrote: called when something was put into an inbox.
    """

    def __init__(
        self,
        backend: Backend,
        rewind: Rewind,
        history: Callable[[str], Awaitable[list[HistoryEvent]]],
        wrote: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._wrote = wrote
        self._rewind = rewind
        self._history = history

    async def list(
        self,
        *,
        kind: Kind | None = None,
        name: str | None = None,
        type_name: str | None = None,
        instance_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> DeadLetterPage:
        """Letters that match all that is given, the latest first.

        Args:
            kind: `"activity"`, `"failed"` or `"stalled"`.
            name: of the activity or workflow.
            type_name: qualified name of the exception.
            limit: at most so many, 1 to 1,000.
            cursor: of the page before.

        Raises:
            UsageError: a limit or cursor that is none.
        """
        if not 1 <= limit <= 1_000:
            raise UsageError(f"limit is {limit!r}, but must be from 1 to 1,000")
        after = None if cursor is None else load_cursor(cursor, tuple[int, str, int])
        query = _query(kind=kind, name=name, type_name=type_name, instance_id=instance_id)
        found = await self._backend.dead_letters(msgspec.structs.replace(query, after=after, limit=limit))
        last = found[-1] if len(found) == limit else None
        following = None if last is None else dump_cursor((last.at_us, last.instance_id, last.task))
        return DeadLetterPage([_letter(each) for each in found], following)

    async def get(self, instance_id: str, task: int = 0) -> DeadLetterDetails:
        """One letter, with its input, its attempts and errors, and the history of its instance.

        Raises:
            UsageError: there is no such letter.
        """
        found = await self._backend.dead_letters(msgspec.structs.replace(_query(instance_id=instance_id), limit=1_000))
        letter = next((each for each in found if each.task == task), None)
        if letter is None:
            what = f"activity {task} of instance" if task else "instance"
            raise UsageError(
                f"there is no dead letter of {what} {instance_id!r}; it may have been redriven or discarded"
            )
        history = await self._history(instance_id)
        data, attempts = _of_activity(history, task) if task else _of_instance(history)
        return DeadLetterDetails(_letter(letter), data, attempts, history)

    async def redrive(self, instance_id: str, *, force: bool = False) -> None:
        """Have an instance try again: a failed one is rewound, a stalled one is looked at anew.

        Its letters are gone when it goes on; a stalled one whose cause is still there stays.

        Args:
            force: as in `Client.rewind`.

        Raises:
            UsageError: it has dealt with the failure itself, and waits for nobody; or as `Client.rewind` does.
            InstanceNotFound: there is none.
        """
        record = await self._backend.record(check_name(instance_id, "the instance id"))
        status = None if record is None else record.status
        if status is Status.STALLED:
            await self._backend.send([outgoing(instance_id, LOOK_AGAIN)])
            self._wrote()
        elif status is Status.FAILED or status is None:
            await self._rewind(instance_id, force)
        else:
            raise UsageError(
                f"instance {instance_id!r} is {status}: its workflow has dealt with the failure itself, so there is "
                "nothing to redrive; discard the letter, or fork the instance from before the failure"
            )

    async def redrive_all(
        self,
        *,
        kind: Kind | None = None,
        name: str | None = None,
        type_name: str | None = None,
        force: bool = False,
        dry_run: bool = False,
    ) -> RedriveReport:
        """Redrive each instance with a letter that matches; one that refuses hurts no other.

        Args:
            dry_run: change nothing, and say how many there are.
        """
        matched = redriven = refused_count = 0
        refused: dict[str, str] = {}
        seen: set[str] = set()
        async for found in self._pages(_query(kind=kind, name=name, type_name=type_name)):
            for instance_id in dict.fromkeys(letter.instance_id for letter in found if letter.instance_id not in seen):
                seen.add(instance_id)
                matched += 1
                try:
                    if not dry_run:
                        await self.redrive(instance_id, force=force)
                    redriven += 1
                except DurableflowError as error:
                    refused_count += 1
                    if len(refused) < _REPORTED_MAX:
                        refused[instance_id] = str(error)
        return RedriveReport(matched, redriven, refused_count, refused)

    async def discard(self, instance_id: str, task: int | None = None) -> int:
        """Put letters of an instance away; it stays as it is.

        Args:
            task: only that of this activity, or 0 for that of the instance itself; by default all.

        Returns:
            How many there were.
        """
        if task is not None:
            return await self._backend.discard([(check_text(instance_id, "instance_id"), task)])
        removed = 0
        while found := await self._backend.dead_letters(_query(instance_id=instance_id)):
            removed += await self._backend.discard([(each.instance_id, each.task) for each in found])
        return removed

    async def discard_all(
        self,
        *,
        kind: Kind | None = None,
        name: str | None = None,
        type_name: str | None = None,
        dry_run: bool = False,
    ) -> int:
        """Put all letters away that match; how many there were, or would be."""
        count = 0
        async for found in self._pages(_query(kind=kind, name=name, type_name=type_name)):
            keys = [(each.instance_id, each.task) for each in found]
            count += len(keys) if dry_run else await self._backend.discard(keys)
        return count

    async def _pages(self, query: DeadLetterQuery) -> AsyncIterator[Sequence[StoredLetter]]:
        """All that match, in pages, also when those that were given before go meanwhile."""
        while found := await self._backend.dead_letters(query):
            yield found
            last = found[-1]
            query = msgspec.structs.replace(query, after=(last.at_us, last.instance_id, last.task))


def _query(
    *,
    kind: Kind | None = None,
    name: str | None = None,
    type_name: str | None = None,
    instance_id: str | None = None,
) -> DeadLetterQuery:
    """The question for a page; raises `UsageError` when no store can be asked it."""
    given = {"kind": kind, "name": name, "type_name": type_name, "instance_id": instance_id}
    for what, text in given.items():
        if text is not None:
            check_text(text, what)
    return DeadLetterQuery(kind=kind, name=name, type_name=type_name, instance_id=instance_id, limit=_PAGE)


def _letter(stored: StoredLetter) -> DeadLetter:
    return DeadLetter(
        stored.instance_id,
        stored.kind,
        stored.name,
        to_datetime(stored.at_us),
        stored.task,
        stored.attempts,
        stored.type_name,
        stored.message,
    )


def _of_activity(history: Iterable[HistoryEvent], task: int) -> tuple[bytes, list[FailedAttempt]]:
    """The input of an activity, and its attempts in the latest round that knows it."""
    data, attempts = b"[]", list[FailedAttempt]()
    for entry in history:
        event = entry.event
        if isinstance(event, ev.ActivityScheduled) and event.task == task:
            data, attempts = event.input, []
        elif isinstance(event, (ev.AttemptFailed, ev.ActivityFailed)) and event.task == task:
            attempts.append(FailedAttempt(event.attempt, to_datetime(entry.at_us), event.failure))
    return data, attempts


def _of_instance(history: Iterable[HistoryEvent]) -> tuple[bytes, list[FailedAttempt]]:
    data, attempts = b"[]", list[FailedAttempt]()
    for entry in history:
        event = entry.event
        if isinstance(event, ev.InstanceStarted):
            data, attempts = event.input, []
        elif isinstance(event, ev.StartChanged):
            data = event.input
        elif isinstance(event, ev.InstanceFailed):
            attempts.append(FailedAttempt(1, to_datetime(entry.at_us), event.failure))
    return data, attempts
