"""Asking: start instances, look at them, talk to them, from any process that reaches the store.

A `Client` runs nothing. An `Engine` is a client that also works.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Generic, ParamSpec, Self, TypeVar, cast, overload

import msgspec

from durableflow.authoring.workflow import Workflow
from durableflow.backends.base import Backend, InstanceRecord, NewInstance, Outgoing, Query
from durableflow.core.view import HistoryEvent, InstanceView, fold, numbered
from durableflow.errors import (
    CorruptHistory,
    InstanceExists,
    InstanceNotActive,
    InstanceNotFound,
    InstanceStalled,
    PayloadError,
    PayloadTooLarge,
    UsageError,
    WorkflowCancelled,
    WorkflowTerminated,
)
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.duration import Duration, from_datetime, to_datetime, to_us
from durableflow.model.failure import Failure, workflow_failed
from durableflow.model.ids import RANDOM_BITS, check_name, fresh_id
from durableflow.model.queues import QueueStatus
from durableflow.model.status import TERMINAL, Status
from durableflow.runtime.clock import Clock, SystemClock
from durableflow.runtime.ends import End
from durableflow.runtime.messages import check_sent
from durableflow.runtime.queues import queue_status, set_limits, set_paused
from durableflow.runtime.stores import open_backend
from durableflow.runtime.tasks import new_start
from durableflow.runtime.tokens import Tokens, failure_of

P = ParamSpec("P")
R = TypeVar("R")

_POLL_S: Final = 0.25
_PAGE_ROWS: Final = 1_000


class InstanceStatus(msgspec.Struct, frozen=True):
    """What can be said of an instance at a glance.

    Attributes:
        custom_status: what the workflow last passed to `set_custom_status`, or None.
        wakes_at: when it next does something by itself; None when activities run or only a message can wake it.
        stall_reason: why it is STALLED.
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


class Page(msgspec.Struct, frozen=True):
    """Some instances, newest first; pass `cursor` on for those that follow, None at the end."""

    instances: Sequence[InstanceStatus]
    cursor: str | None


class Handle(Generic[R]):
    """One instance, to talk to. Making one asks nothing: the instance need not exist.

    Attributes:
        id: its instance id.
    """

    def __init__(self, client: Client, instance_id: str, workflow: Workflow[..., R] | None = None) -> None:
        self._client = client
        self._workflow = workflow
        self.id = instance_id

    def __repr__(self) -> str:
        return f"<handle of instance {self.id!r}>"

    async def result(self, *, timeout: Duration | None = None) -> R:
        """Wait for the end; what the workflow returned, of its annotated type. See `Client.result`."""
        return cast("R", await self._client.result(self.id, workflow=self._workflow, timeout=timeout))

    async def status(self) -> InstanceStatus:
        """See `Client.status`."""
        return await self._client.status(self.id)

    async def history(self) -> list[HistoryEvent]:
        """See `Client.history`."""
        return await self._client.history(self.id)

    async def view(self) -> InstanceView:
        """See `Client.view`."""
        return await self._client.view(self.id)

    async def raise_event(self, name: str, payload: object = None, *, event_id: str | None = None) -> None:
        """See `Client.raise_event`."""
        await self._client.raise_event(self.id, name, payload, event_id=event_id)

    async def suspend(self, reason: str = "") -> None:
        """See `Client.suspend`."""
        await self._client.suspend(self.id, reason)

    async def resume(self) -> None:
        """See `Client.resume`."""
        await self._client.resume(self.id)

    async def terminate(self, reason: str = "") -> None:
        """See `Client.terminate`."""
        await self._client.terminate(self.id, reason)

    async def cancel(self, reason: str = "") -> None:
        """See `Client.cancel`."""
        await self._client.cancel(self.id, reason)

    async def purge(self) -> None:
        """See `Client.purge`."""
        await self._client.purge(self.id)

    async def wait_for_status(self, *statuses: Status, timeout: Duration | None = None) -> InstanceStatus:
        """See `Client.wait_for_status`."""
        return await self._client.wait_for_status(self.id, *statuses, timeout=timeout)


class Client:
    """Talks to the instances of a store, whichever process runs them.

    Use it as `async with Client("sqlite:///orders.db") as client: ...`.

    Args:
        store: `"sqlite:///file.db"`, `"memory://"`, or a backend object.
        payload_limit_bytes: no stored value may be larger.
    """

    def __init__(
        self,
        store: str | Backend,
        *,
        clock: Clock | None = None,
        payload_limit_bytes: int = converter.PAYLOAD_LIMIT_BYTES,
    ) -> None:
        self._backend = open_backend(store) if isinstance(store, str) else store
        self._clock = clock or SystemClock()
        self._payload_limit_bytes = payload_limit_bytes

    async def __aenter__(self) -> Self:
        await self._backend.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._backend.close()

    # -- starting -------------------------------------------------------------------------------------------

    async def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Start an instance; returns when it is durable.

        With an `instance_id` that is taken, `on_conflict` of the workflow's options decides;
        by default the handle of the instance that is there is returned.

        Raises:
            InstanceExists: the id is taken and may not be shared or replaced, or is another workflow's.
            PayloadError: an argument cannot be stored.
        """
        options = workflow.start_options
        data = workflow.arguments.dump(args, kwargs, f"the input of workflow {workflow.name!r}")
        self._check_size(f"the input of workflow {workflow.name!r}", data)
        now_us = self._clock.now_us()
        instance_id = options.instance_id or fresh_id(now_us, self._clock.random_bits(RANDOM_BITS))
        start_at_us = options.start_at_us
        if options.start_delay_us:
            start_at_us = max(start_at_us, now_us + options.start_delay_us)
        deadline_us = max(start_at_us, now_us) + options.timeout_us if options.timeout_us else 0
        started = ev.InstanceStarted(
            workflow.name,
            workflow.version,
            data,
            start_at_us=start_at_us,
            deadline_us=deadline_us,
            queue=options.queue,
        )
        new = NewInstance(
            instance_id,
            workflow.name,
            workflow.version,
            Status.PENDING,
            now_us,
            None if options.queue else 0,
            options.tags,
            replace=options.on_conflict == "replace",
            admission=new_start(instance_id, workflow.name, options, start_at_us, now_us) if options.queue else None,
        )
        existing = await self._send_start(workflow, new, started)
        if existing is not None:
            self._judge_conflict(workflow, existing)
        return Handle(self, instance_id, workflow)

    def _judge_conflict(self, workflow: Workflow[..., Any], existing: InstanceRecord) -> None:
        policy = workflow.start_options.on_conflict
        if policy == "return" and existing.workflow == workflow.name:
            return
        reason = {
            "return": f"it runs workflow {existing.workflow!r}, not {workflow.name!r}",
            "fail": "on_conflict='fail' does not allow to share it",
            "replace": f"it is {existing.status}, and only an instance that is over can be replaced",
        }[policy]
        raise InstanceExists(existing.id, f"instance {existing.id!r} exists: {reason}")

    async def _send_start(
        self,
        workflow: Workflow[..., Any],  # noqa: ARG002  # the engine, which runs it, needs it
        new: NewInstance,
        started: ev.InstanceStarted,
    ) -> InstanceRecord | None:
        """Write the start; the record of the instance that has the id already, if any."""
        (result,) = await self._backend.send([Outgoing(new.id, ev.dump_event(started), new)])
        return result.record if result.outcome == "exists" else None

    @overload
    def handle(self, instance_id: str, workflow: Workflow[..., R]) -> Handle[R]: ...
    @overload
    def handle(self, instance_id: str, workflow: None = None) -> Handle[Any]: ...
    def handle(self, instance_id: str, workflow: Workflow[..., Any] | None = None) -> Handle[Any]:
        """A handle of an instance; with its workflow, results are of the annotated type."""
        return Handle(self, check_name(instance_id, "the instance id"), workflow)

    # -- looking --------------------------------------------------------------------------------------------

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
        return _outcome(instance_id, end, workflow)

    async def _wait_for_end(self, instance_id: str) -> End:
        while True:
            change = asyncio.ensure_future(self._backend.wait_for_change(_POLL_S))
            try:
                end = await self._look_for_end(instance_id)
                if end is not None:
                    return end
                await change
            finally:
                change.cancel()

    async def _look_for_end(self, instance_id: str) -> End | None:
        """How it ended, None while it goes on; raises when it is not there or stalled."""
        record = await self._record(instance_id)
        if record.status is Status.STALLED:
            raise InstanceStalled(instance_id, record.stall_reason or "no reason recorded")
        if not record.status.is_terminal:
            return None
        row = await self._backend.last_row(instance_id)
        if row is None:
            await self._record(instance_id)  # raises when it was purged meanwhile
            raise CorruptHistory(f"instance {instance_id!r} is {record.status} but has no history")
        last = ev.load_events(row.events)[-1]
        return End(record.status, last) if type(last) in ev.ENDS else None  # None: it was replaced meanwhile

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
                        await change
                    finally:
                        change.cancel()
        except TimeoutError:
            raise TimeoutError(f"instance {instance_id!r} was not {asked} within {timeout}; it goes on") from None

    def _status_change(self, instance_id: str) -> asyncio.Future[Any]:  # noqa: ARG002  # the engine watches one
        """What to await until the status may have changed."""
        return asyncio.ensure_future(self._backend.wait_for_change(_POLL_S))

    async def history(self, instance_id: str) -> list[HistoryEvent]:
        """All events of an instance so far, in order.

        Raises:
            InstanceNotFound: there is none.
        """
        await self._record(instance_id)
        rows: list[tuple[int, int, list[ev.Event]]] = []
        next_seq = 1
        while page := await self._backend.history(instance_id, next_seq, _PAGE_ROWS):
            if page[0].first_seq < next_seq:
                break  # the last row again: nothing follows it
            rows += [(row.first_seq, row.at_us, ev.load_events(row.events)) for row in page]
            next_seq = rows[-1][0] + len(rows[-1][2])
            if len(page) < _PAGE_ROWS:
                break
        return numbered(rows)

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
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Instances that match all that is given, newest first.

        Args:
            tags: each must be there with this value.
            limit: at most so many, 1 to 1,000.
            cursor: of the page before.

        Raises:
            UsageError: a limit or cursor that is none.
        """
        if not 1 <= limit <= 1_000:
            raise UsageError(f"limit is {limit!r}, but must be from 1 to 1,000")
        statuses = frozenset([status]) if isinstance(status, Status) else frozenset(status or ())
        query = Query(
            statuses=statuses,
            workflow=workflow.name if isinstance(workflow, Workflow) else workflow,
            tags=tags or {},
            id_prefix=id_prefix,
            created_from_us=None if created_from is None else from_datetime(created_from, "created_from"),
            created_before_us=None if created_before is None else from_datetime(created_before, "created_before"),
            after=None if cursor is None else _load_cursor(cursor),
            limit=limit,
        )
        records = await self._backend.list_records(query)
        last = records[-1] if len(records) == limit else None
        next_cursor = None if last is None else msgspec.json.encode((last.created_us, last.id)).decode()
        return Page([_status(record) for record in records], next_cursor)

    # -- talking --------------------------------------------------------------------------------------------

    async def raise_event(
        self, instance_id: str, name: str, payload: object = None, *, event_id: str | None = None
    ) -> None:
        """Send an external event; returns when it is durable. It is kept until the workflow waits for it.

        Args:
            name: any case; the workflow waits for it by the same name.
            event_id: an event sent twice with the same id is delivered once.

        Raises:
            InstanceNotFound, InstanceNotActive: nothing was written.
            PayloadError: the payload cannot be stored.
        """
        check_name(name, "the name of an event")
        if event_id is not None:
            check_name(event_id, "the event id")
        data = converter.dump(payload, f"the payload of event {name!r}")
        self._check_size(f"the payload of event {name!r}", data)
        await self._send(instance_id, ev.EventReceived(name, data, event_id), f"event {name!r}")

    async def suspend(self, instance_id: str, reason: str = "") -> None:
        """Deliver nothing to the workflow until it is resumed; what comes meanwhile is kept in order."""
        await self._send(instance_id, ev.InstanceSuspended(reason), "suspend")

    async def resume(self, instance_id: str) -> None:
        """Let a suspended instance go on; of any other, nothing changes."""
        await self._send(instance_id, ev.InstanceResumed(), "resume")

    async def terminate(self, instance_id: str, reason: str = "") -> None:
        """End an instance at once: none of its code runs any more, its activities are told to stop."""
        await self._send(instance_id, ev.InstanceTerminated(reason), "terminate")

    async def cancel(self, instance_id: str, reason: str = "") -> None:
        """Raise `Cancelled` once at the workflow's current wait; it may clean up before it ends."""
        await self._send(instance_id, ev.CancelRequested(reason), "cancel")

    async def purge(self, instance_id: str) -> None:
        """Remove an instance that is over, with its history.

        Raises:
            InstanceNotFound: there is none.
            InstanceNotActive: it is not over; nothing was removed.
        """
        if not await self.purge_many([instance_id]):
            record = await self._record(instance_id)
            raise InstanceNotActive(instance_id, record.status, "purge: terminate it first, or wait for its end")

    async def purge_many(self, instance_ids: Iterable[str]) -> Sequence[str]:
        """Remove those that are over, in one transaction; returns the ids of those that were removed."""
        return await self._backend.purge([check_name(each, "the instance id") for each in instance_ids])

    async def purge_finished(
        self,
        *,
        older_than: Duration,
        status: Status | Iterable[Status] | None = None,
        batch: int = 500,
    ) -> int:
        """Remove all instances that ended longer ago than `older_than`, oldest first.

        It may be cancelled, and called again: what was removed is removed.

        Args:
            status: only those that ended so; by default however they ended.
            batch: how many go in one transaction, 1 to 1,000; others may write between two of them.

        Returns:
            How many were removed.

        Raises:
            UsageError: a status that is no end, or a batch out of range.
        """
        if not 1 <= batch <= 1_000:
            raise UsageError(f"batch is {batch!r}, but must be from 1 to 1,000")
        statuses = TERMINAL if status is None else frozenset([status] if isinstance(status, Status) else status)
        if not statuses <= TERMINAL:
            raise UsageError(
                f"instances that are {', '.join(sorted(statuses - TERMINAL))} are not over and cannot be purged; "
                f"ends are {', '.join(sorted(TERMINAL))}"
            )
        before_us = self._clock.now_us() - to_us(older_than, "older_than")
        removed = 0
        after = (-1, "")
        while found := await self._backend.finished(statuses, before_us, after, batch):
            removed += len(await self.purge_many([instance_id for _, instance_id in found]))
            after = found[-1]
        return removed

    # -- activities that were handed over -------------------------------------------------------------------

    async def complete(self, token: str, value: object = None) -> None:
        """Bring the result of an activity that was handed over; returns when it is durable.

        Args:
            token: what `hand_over()` gave in the activity.
            value: what the activity is to return; it must fit the type that it is annotated with.

        Raises:
            TokenRefused: it is no token, or none any more: used, expired, cancelled; nothing was written.
            PayloadError: the value cannot be stored.
        """
        what = "the result of an activity that was handed over"
        data = converter.dump(value, what)
        self._check_size(what, data)
        await Tokens(self._backend, self._clock).complete(token, data)
        self._note_written()

    async def fail(self, token: str, error: BaseException | str, message: str = "", *, retryable: bool = True) -> bool:
        """Say that the attempt has failed; True when the retry policy allows another, which will ask anew.

        Args:
            token: what `hand_over()` gave in the activity.
            error: an exception, or the name of a type for which `message` says more.
            retryable: False to let no attempt follow, whatever the policy says.

        Raises:
            TokenRefused: as `complete` does.
        """
        failure, type_names = failure_of(error, message, retryable=retryable)
        is_retried = await Tokens(self._backend, self._clock).fail(token, failure, type_names)
        self._note_written()
        return is_retried

    async def heartbeat(self, token: str, details: object = None) -> bool:
        """Say that somebody is at it; False when the result is no longer wanted, and the work may stop.

        Args:
            token: what `hand_over()` gave in the activity.
            details: plain JSON values; the next attempt, if there is one, can read them.

        Raises:
            TokenRefused: it is no token, or not the one that was given out.
            PayloadError: the details cannot be stored.
        """
        data = converter.dump(details, "the heartbeat details")
        self._check_size("the heartbeat details", data)
        return await Tokens(self._backend, self._clock).heartbeat(token, data)

    # -- queues ---------------------------------------------------------------------------------------------

    async def queues(self) -> Sequence[QueueStatus]:
        """How all queues stand that were ever used or given limits, by name."""
        return [queue_status(record) for record in await self._backend.queues()]

    async def queue(self, name: str) -> QueueStatus:
        """How a queue stands; one that was never used is empty."""
        found = await self._backend.queues(check_name(name, "the name of a queue"))
        return queue_status(found[0]) if found else QueueStatus(name)

    async def set_queue(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        rate: str | tuple[int, timedelta] | None = None,
        burst: int | None = None,
    ) -> None:
        """Set the limits of a queue, over all processes; what is left out has none. They hold from the next task on.

        Args:
            concurrency: how many of its tasks may run at once.
            rate: so many may begin in a period, on average: `"100/min"`, `"5/s"`, or `(100, timedelta(minutes=1))`.
            burst: so many may begin at once, within the rate; by default as many as the rate's count.

        Raises:
            ValueError: a limit is out of range.
        """
        await set_limits(self._backend, name, concurrency, rate, burst)
        self._note_written()

    async def pause_queue(self, name: str) -> None:
        """Have nothing taken from a queue until it is resumed; what runs goes on."""
        await set_paused(self._backend, name, is_paused=True)

    async def resume_queue(self, name: str) -> None:
        """Go on with a queue that was paused."""
        await set_paused(self._backend, name, is_paused=False)
        self._note_written()

    def _note_written(self) -> None:
        """Something was written that an engine in this process does not hear of by itself."""

    async def _send(self, instance_id: str, event: ev.Observation, asked: str) -> None:
        check_name(instance_id, "the instance id")
        event_id = event.event_id if isinstance(event, ev.EventReceived) else None
        (result,) = await self._backend.send([Outgoing(instance_id, ev.dump_event(event), event_id=event_id)])
        check_sent(instance_id, result, asked)

    def _check_size(self, what: str, data: bytes) -> None:
        if len(data) > self._payload_limit_bytes:
            raise PayloadTooLarge(what, len(data), self._payload_limit_bytes)


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
    except PayloadError:
        return f"(cannot be read: {data[:80]!r})"


def _load_cursor(cursor: str) -> tuple[int, str]:
    try:
        return msgspec.json.decode(cursor, type=tuple[int, str])
    except msgspec.DecodeError as error:
        raise UsageError(f"{cursor!r:.80} is not the cursor of a page; pass page.cursor on as it is") from error


def _outcome(instance_id: str, end: End, workflow: Workflow[..., Any] | None) -> Any:
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
