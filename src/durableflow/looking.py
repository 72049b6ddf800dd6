"""Looking: what can be said of the instances of a store, without changing anything.

Comes in: ids and conditions. Goes out: what the store holds of them. Nothing is written from here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from durableflow.authoring.workflow import Workflow
from durableflow.backends.base import Backend, Ending, InstanceRecord
from durableflow.core.view import HistoryEvent, InstanceView, fold, numbered
from durableflow.errors import (
    CorruptHistory,
    InstanceNotActive,
    InstanceNotFound,
    InstanceStalled,
    PayloadError,
    UsageError,
    WorkflowCancelled,
    WorkflowTerminated,
)
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.cursors import dump_cursor, load_cursor
from durableflow.model.duration import Duration, to_datetime, to_us
from durableflow.model.failure import Failure, workflow_failed
from durableflow.model.ids import check_name, check_text
from durableflow.model.status import Status
from durableflow.repair import read_rows
from durableflow.runtime.awaited import POLL_S, Awaited, SealWatch
from durableflow.runtime.ends import End
from durableflow.runtime.filters import InstanceFilter, query_of


class InstanceStatus(msgspec.Struct, frozen=True):
    """What can be said of an instance at a glance.

    Attributes:
        custom_status: what the workflow last passed to `set_custom_status`, or None.
        wakes_at: when it next does something by itself; None when activities run or only a message can wake it.
        stall_reason: why it is STALLED.
        parent_instance_id: the instance whose child it is.
    """

    instance_id: str
    workflow: str
    version: int
    status: Status
    created_at: datetime
    finished_at: datetime | None
    wakes_at: datetime | None
    tags: Mapping[str, str]
    custom_status: Any
    stall_reason: str | None
    parent_instance_id: str | None = None


class Page(msgspec.Struct, frozen=True):
    """Some instances, newest first; pass `cursor` on for those that follow, None at the end."""

    instances: Sequence[InstanceStatus]
    cursor: str | None


class Looking:
    """The part of a `Client` that only looks."""

    _backend: Backend
    _waits: Awaited | None = None
    _seals: SealWatch | None = None

    async def result(
        self, instance_id: str, *, workflow: Workflow[..., Any] | None = None, timeout: Duration | None = None
    ) -> Any:
        """Wait for the end of an instance; what its workflow returned.

        Args:
            workflow: says which type the result is read back as; plain JSON values when left out.

        Raises:
            WorkflowFailed, WorkflowTerminated, WorkflowCancelled: it ended so.
            InstanceStalled: it will not go on until somebody acts.
            InstanceNotFound: there is none.
            StoreSealed: the store has been moved away.
            TimeoutError: it is not over after `timeout`; nothing happens to it.
        """
        if timeout is None:
            end = await self._wait_for_end(instance_id)
        else:
            try:
                async with asyncio.timeout(to_us(timeout, "timeout") / 1_000_000):
                    end = await self._wait_for_end(instance_id)
            except TimeoutError:
                raise TimeoutError(f"instance {instance_id!r} is not over after {timeout}; it goes on") from None
        return result_of(instance_id, end, workflow)

    async def _wait_for_end(self, instance_id: str) -> End:
        end = await self._look_for_end(instance_id)
        while end is None:
            end = await self._look_for_end(instance_id, await self._awaited().ending(instance_id))
        return end

    def _awaited(self) -> Awaited:
        """Asks the store for the ends that are waited for in this process, for all of them at once."""
        if self._waits is None:
            self._waits = Awaited(self._backend, self._seal_watch())
        return self._waits

    def _seal_watch(self) -> SealWatch:
        if self._seals is None:
            self._seals = SealWatch(self._backend)
        return self._seals

    async def _look_for_end(self, instance_id: str, ending: Ending | None = None) -> End | None:
        """How it ended, None while it goes on; raises when it is not there or stalled."""
        record = ending.record if ending is not None else await self._record(instance_id)
        if record is None:
            raise InstanceNotFound(instance_id)
        if record.status is Status.STALLED:
            raise InstanceStalled(instance_id, record.stall_reason or "no reason recorded")
        if not record.status.is_terminal:
            return None
        row = ending.last_row if ending is not None else await self._backend.last_row(instance_id)
        if row is None:
            await self._record(instance_id)  # raises when it was purged meanwhile
            raise CorruptHistory(f"instance {instance_id!r} is {record.status} but has no history")
        end = ev.end_of(ev.load_events(row.events))
        return None if end is None else End(record.status, end)  # None: it was replaced meanwhile

    async def _record(self, instance_id: str) -> InstanceRecord:
        record = await self._backend.record(check_name(instance_id, "the instance id"))
        if record is None:
            raise InstanceNotFound(instance_id)
        return record

    async def status(self, instance_id: str) -> InstanceStatus:
        """Where an instance stands.

        Raises:
            InstanceNotFound: there is none.
        """
        return _status(await self._record(instance_id))

    async def wait_for_status(
        self, instance_id: str, *statuses: Status, timeout: Duration | None = None
    ) -> InstanceStatus:
        """Wait until an instance has one of `statuses` (by default: until it is over).

        Raises:
            InstanceNotFound: there is none.
            InstanceNotActive: it is over, and can never have one of them.
            StoreSealed: the store has been moved away.
            TimeoutError: not so after `timeout`.
        """
        wanted = frozenset(statuses) or frozenset(status for status in Status if status.is_terminal)
        asked = " or ".join(sorted(wanted))
        try:
            async with asyncio.timeout(None if timeout is None else to_us(timeout, "timeout") / 1_000_000):
                while True:
                    change = self._status_change(instance_id)
                    try:
                        record = await self._record(instance_id)
                        if record.status in wanted:
                            return _status(record)
                        if record.status.is_terminal:
                            raise InstanceNotActive(instance_id, record.status, f"the wait for {asked}")
                        await self._seal_watch().look()
                        await change
                    finally:
                        change.cancel()
        except TimeoutError:
            raise TimeoutError(f"instance {instance_id!r} was not {asked} within {timeout}; it goes on") from None

    def _status_change(self, instance_id: str) -> asyncio.Future[Any]:  # noqa: ARG002  # the engine watches one
        """What to await until the status may have changed."""
        return asyncio.ensure_future(self._backend.wait_for_change(POLL_S))

    async def history(self, instance_id: str) -> list[HistoryEvent]:
        """All events of an instance so far, in order.

        Raises:
            InstanceNotFound: there is none.
        """
        await self._record(instance_id)
        return numbered(await read_rows(self._backend, instance_id, 1))

    async def view(self, instance_id: str) -> InstanceView:
        """The history of an instance, folded into what became of each task."""
        return fold(await self.history(instance_id))

    async def list(
        self,
        *,
        status: Status | Iterable[Status] | None = None,
        workflow: str | Workflow[..., Any] | None = None,
        tags: Mapping[str, str] | None = None,
        id_prefix: str | None = None,
        created_from: datetime | None = None,
        created_before: datetime | None = None,
        parent: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Instances that match all that is given, newest first.

        Args:
            tags: each must be there with this value.
            parent: only the children of this instance.
            limit: at most so many, 1 to 1,000.
            cursor: of the page before.

        Raises:
            UsageError: a limit or cursor that is none, or what no store can be asked for.
        """
        if not 1 <= limit <= 1_000:
            raise UsageError(f"limit is {limit!r}, but must be from 1 to 1,000")
        where = InstanceFilter(
            status=status,
            workflow=workflow,
            tags=tags,
            id_prefix=id_prefix,
            created_from=created_from,
            created_before=created_before,
        )
        query = msgspec.structs.replace(
            query_of(where),
            parent=None if parent is None else check_text(parent, "parent"),
            after=None if cursor is None else load_cursor(cursor, tuple[int, str]),
            limit=limit,
        )
        records = await self._backend.list_records(query)
        last = records[-1] if len(records) == limit else None
        next_cursor = None if last is None else dump_cursor((last.created_us, last.id))
        return Page([_status(record) for record in records], next_cursor)


def _status(record: InstanceRecord) -> InstanceStatus:
    return InstanceStatus(
        record.id,
        record.workflow,
        record.version,
        record.status,
        _moment(record.created_us) or to_datetime(0),
        _moment(record.finished_us),
        _moment(record.wake_us) if record.wake_us else None,
        record.tags,
        None if record.custom_status is None else _custom_status(record.custom_status),
        record.stall_reason,
        record.parent,
    )


# One value that is spoilt in the store must not hide a whole page of others.


def _moment(at_us: int | None) -> datetime | None:
    try:
        return None if at_us is None else to_datetime(at_us)
    except (OverflowError, TypeError):
        return None


def _custom_status(data: bytes) -> Any:
    try:
        return converter.loader(Any)(data)
    except (PayloadError, TypeError):  # TypeError: no bytes, in a file that somebody has spoiled
        return f"(cannot be read: {data!r:.80})"


def result_of(instance_id: str, end: End, workflow: Workflow[..., Any] | None) -> Any:
    """What an instance that is over returned; raises what its end was, see `Looking.result`."""
    match end.event:
        case ev.InstanceCompleted(output=output):
            return converter.loader(Any)(output) if workflow is None else workflow.load_result(output)
        case ev.InstanceFailed(failure=failure):
            raise workflow_failed(instance_id, failure)
        case ev.InstanceTimedOut():
            failure = Failure("TimeoutError", "the instance was not over before its timeout")
            raise workflow_failed(instance_id, failure)
        case ev.InstanceTerminated(reason=reason):
            raise WorkflowTerminated(instance_id, reason)
        case ev.InstanceCancelled(reason=reason):
            raise WorkflowCancelled(instance_id, reason)
        case other:
            raise CorruptHistory(f"instance {instance_id!r} ends with {ev.tag_of(other)}")
