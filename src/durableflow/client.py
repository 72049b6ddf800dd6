"""Asking: start instances, look at them, talk to them, from any process that reaches the store.

A `Client` runs nothing. An `Engine` is a client that also works.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import UnionType
from typing import Any, Final, Generic, ParamSpec, Self, TypeVar, cast, overload

import msgspec

from durableflow.authoring.registry import DEFAULT
from durableflow.authoring.workflow import Workflow
from durableflow.backends.base import Backend, DebouncedStart, InstanceRecord, NewInstance, Outgoing, Query
from durableflow.core.execution import Execution, replay_rows
from durableflow.core.view import HistoryEvent, InstanceView, fold, numbered
from durableflow.dead_letters import DeadLetters
from durableflow.errors import (
    CorruptHistory,
    InstanceExists,
    InstanceNotActive,
    InstanceNotFound,
    InstancesExist,
    InstanceStalled,
    PayloadError,
    PayloadTooLarge,
    UsageError,
    WorkflowCancelled,
    WorkflowTerminated,
)
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.alert import Alert
from durableflow.model.duration import Duration, from_datetime, to_datetime, to_us
from durableflow.model.failure import Failure, request_failed, workflow_failed
from durableflow.model.ids import RANDOM_BITS, check_name, fresh_id
from durableflow.model.status import TERMINAL, Status
from durableflow.repair import Repair, read_rows
from durableflow.runtime.circuit_reports import CircuitStatus, circuit_status, reset_circuit
from durableflow.runtime.clock import Clock, SystemClock
from durableflow.runtime.debouncing import debounced_start
from durableflow.runtime.ends import End
from durableflow.runtime.messages import check_sent
from durableflow.runtime.stores import open_backend

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_POLL_S: Final = 0.25


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

    @overload
    async def request(
        self,
        name: str,
        /,
        *args: object,
        result_type: type[T],
        request_id: str | None = None,
        timeout: Duration | None = None,
    ) -> T: ...
    @overload
    async def request(
        self,
        name: str,
        /,
        *args: object,
        result_type: UnionType | None = None,
        request_id: str | None = None,
        timeout: Duration | None = None,
    ) -> Any: ...
    async def request(
        self,
        name: str,
        /,
        *args: object,
        result_type: Any = None,
        request_id: str | None = None,
        timeout: Duration | None = None,
    ) -> Any:
        """See `Client.request`."""
        return await self._client.request(
            self.id, name, *args, result_type=result_type, request_id=request_id, timeout=timeout
        )

    @overload
    async def query(self, name: str, /, *args: object, result_type: type[T]) -> T: ...
    @overload
    async def query(self, name: str, /, *args: object, result_type: UnionType | None = None) -> Any: ...
    async def query(self, name: str, /, *args: object, result_type: Any = None) -> Any:
        """See `Client.query`."""
        return await self._client.query(self.id, name, *args, result_type=result_type, workflow=self._workflow)

    async def rewind(
        self,
        *,
        before: int | None = None,
        force: bool = False,
        timeout: Duration | None = None,
        reason: str = "",
    ) -> None:
        """See `Client.rewind`."""
        await self._client.rewind(self.id, before=before, force=force, timeout=timeout, reason=reason)

    async def fork(self, *, at: int | None = None, new_id: str | None = None, version: int | None = None) -> Handle[R]:
        """See `Client.fork`."""
        return await self._client.fork(self.id, at=at, new_id=new_id, version=version)

    async def restart(self, *, new_id: str | None = None) -> Handle[R]:
        """See `Client.restart`."""
        return await self._client.restart(self.id, new_id=new_id)

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

    @property
    def dead_letters(self) -> DeadLetters:
        """What failed for good in this store: list, inspect, redrive, discard."""

        async def rewind(instance_id: str, force: bool) -> None:  # noqa: FBT001  # a seam, called in one place
            await self.rewind(instance_id, force=force, reason="redriven from the dead letters")

        return DeadLetters(self._backend, rewind, self.history, self._note_written)

    def _note_written(self) -> None:
        """Something was put into an inbox by other ways than `_send`."""

    # -- starting -------------------------------------------------------------------------------------------

    async def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Start an instance; returns when it is durable.

        With an `instance_id` that is taken, `on_conflict` of the workflow's options decides;
        by default the handle of the instance that is there is returned. With `debounce`, the handle is that
        of the instance that waits for further starts.

        Raises:
            InstanceExists: the id is taken and may not be shared or replaced, or is another workflow's.
            PayloadError: an argument cannot be stored.
        """
        options = workflow.start_options
        data = workflow.arguments.dump(args, kwargs, f"the input of workflow {workflow.name!r}")
        self._check_size(f"the input of workflow {workflow.name!r}", data)
        now_us = self._clock.now_us()
        if options.debounce_us:
            own_id = fresh_id(now_us, self._clock.random_bits(RANDOM_BITS))
            debounced = debounced_start(workflow, data, now_us, own_id)
            return Handle(self, await self._send_debounced(workflow, debounced), workflow)
        instance_id = options.instance_id or fresh_id(now_us, self._clock.random_bits(RANDOM_BITS))
        start_at_us = options.start_at_us
        if options.start_delay_us:
            start_at_us = max(start_at_us, now_us + options.start_delay_us)
        deadline_us = max(start_at_us, now_us) + options.timeout_us if options.timeout_us else 0
        started = ev.InstanceStarted(
            workflow.name, workflow.version, data, start_at_us=start_at_us, deadline_us=deadline_us
        )
        new = NewInstance(
            instance_id,
            workflow.name,
            workflow.version,
            Status.PENDING,
            now_us,
            0,
            options.tags,
            replace=options.on_conflict == "replace",
        )
        existing = await self._send_start(workflow, new, started)
        if existing is not None:
            self._judge_conflict(workflow, existing)
        return Handle(self, instance_id, workflow)

    async def _send_debounced(
        self,
        workflow: Workflow[..., Any],  # noqa: ARG002  # the engine, which runs it, needs it
        start: DebouncedStart,
    ) -> str:
        """Write the start; the id of the instance of the window that is open."""
        return await self._backend.debounce(start)

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
        workflow: Workflow[..., Any] | None,  # noqa: ARG002  # the engine, which runs it, needs it
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
            parent=parent,
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

    @overload
    async def request(
        self,
        instance_id: str,
        name: str,
        /,
        *args: object,
        result_type: type[T],
        request_id: str | None = None,
        timeout: Duration | None = None,
    ) -> T: ...
    @overload
    async def request(
        self,
        instance_id: str,
        name: str,
        /,
        *args: object,
        result_type: UnionType | None = None,
        request_id: str | None = None,
        timeout: Duration | None = None,
    ) -> Any: ...
    async def request(
        self,
        instance_id: str,
        name: str,
        /,
        *args: object,
        result_type: Any = None,
        request_id: str | None = None,
        timeout: Duration | None = None,
    ) -> Any:
        """Ask a workflow for something, and wait for its recorded answer. See `Context.on_request`.

        The request is durable, and kept until the workflow has a handler for it.

        Args:
            result_type: what the answer is read back as; plain JSON values when left out.
            request_id: a request sent twice with the same id is answered once, and both get that answer.
            timeout: of the wait; the request stays, and may be waited for again with the same `request_id`.

        Raises:
            RequestFailed: the handler refused it, or raised.
            InstanceNotFound, InstanceNotActive: nothing was written, or the instance ended before it had answered.
            TimeoutError: no answer came within `timeout`.
        """
        check_name(name, "the name of a request")
        if request_id is None:
            request_id = fresh_id(self._clock.now_us(), self._clock.random_bits(RANDOM_BITS))
        check_name(request_id, "the request id")
        what = f"the arguments of request {name!r}"
        data = converter.dump(args, what)
        self._check_size(what, data)
        load = converter.loader(result_type or Any)
        try:
            async with asyncio.timeout(None if timeout is None else to_us(timeout, "timeout") / 1_000_000):
                answer = await self._ask(instance_id, ev.RequestReceived(request_id, name, data))
        except TimeoutError:
            raise TimeoutError(
                f"request {request_id!r} to instance {instance_id!r} has no answer after {timeout}; it stays there"
            ) from None
        if answer.failure is not None:
            raise request_failed(instance_id, name, answer.failure)
        return load(answer.output)

    async def _ask(self, instance_id: str, request: ev.RequestReceived) -> ev.RequestAnswered:
        await self._send(instance_id, request, f"request {request.name!r}")
        return await self._look_for_answer(instance_id, request.request_id)

    async def _look_for_answer(self, instance_id: str, request_id: str) -> ev.RequestAnswered:
        while True:
            change = asyncio.ensure_future(self._backend.wait_for_change(_POLL_S))
            try:
                answer = await self._find_answer(instance_id, request_id)
                if answer is not None:
                    return answer
                await change
            finally:
                change.cancel()

    async def _find_answer(self, instance_id: str, request_id: str) -> ev.RequestAnswered | None:
        """The answer to a request, if it has one; raises `InstanceNotActive` when it will have none."""
        record = await self._record(instance_id)
        for _, _, events in await read_rows(self._backend, instance_id, 1):
            for event in events:
                if type(event) is ev.RequestAnswered and event.request_id == request_id:
                    return event
        if record.status.is_terminal:
            raise InstanceNotActive(instance_id, record.status, "the answer to a request")
        return None

    @overload
    async def query(
        self,
        instance_id: str,
        name: str,
        /,
        *args: object,
        result_type: type[T],
        workflow: Workflow[..., Any] | None = None,
    ) -> T: ...
    @overload
    async def query(
        self,
        instance_id: str,
        name: str,
        /,
        *args: object,
        result_type: UnionType | None = None,
        workflow: Workflow[..., Any] | None = None,
    ) -> Any: ...
    async def query(
        self,
        instance_id: str,
        name: str,
        /,
        *args: object,
        result_type: Any = None,
        workflow: Workflow[..., Any] | None = None,
    ) -> Any:
        """Look into a workflow by a handler of its own. See `Context.on_query`.

        Nothing is added to the history. The instance may be over. Where it is not in memory, its history is replayed
        for this, so the workflow's code must be known here.

        Args:
            result_type: what the answer is read back as; plain JSON values when left out.
            workflow: the code, when no engine in this process knows it.

        Raises:
            UsageError: the workflow has no such query, or its code is not known here.
            InstanceNotFound: there is none.
            NondeterminismError, CorruptHistory: the code cannot follow the history.
        """
        check_name(name, "the name of a query")
        data = converter.dump(args, f"the arguments of query {name!r}")
        answer = await self._query(check_name(instance_id, "the instance id"), name, data, workflow)
        return converter.loader(result_type or Any)(answer)

    async def _query(self, instance_id: str, name: str, data: bytes, workflow: Workflow[..., Any] | None) -> bytes:
        record = await self._record(instance_id)
        program = workflow or self._program_of(record)
        if program is None:
            raise UsageError(
                f"the code of workflow {record.workflow!r} version {record.version} is not known here; "
                "pass it: query(..., workflow=...)"
            )
        execution = Execution(instance_id, program, payload_limit_bytes=self._payload_limit_bytes)
        execution.next_seq = record.base_seq
        try:
            replay_rows(execution, await read_rows(self._backend, instance_id, record.base_seq))
            return execution.query(name, data)
        finally:
            execution.put_away()

    def _program_of(self, record: InstanceRecord) -> Workflow[..., Any] | None:
        """The code of an instance, if it is known in this process."""
        return DEFAULT.workflows.get((record.workflow, record.version))

    # -- again ----------------------------------------------------------------------------------------------

    async def rewind(
        self,
        instance_id: str,
        *,
        before: int | None = None,
        force: bool = False,
        timeout: Duration | None = None,
        reason: str = "",
    ) -> None:
        """Let a FAILED instance go on from before its failure: results that are good are kept, what failed runs again.

        Activities that failed get all their attempts anew, children that failed are rewound too. If it was the
        workflow's own code that raised, it is called again with what it was told last. The history before stays
        readable. Returns when it is durable.

        Args:
            before: go on from before the turn that holds this event, instead of before the failure that ended it.
            force: also when the workflow did more after the failure, which is then forgotten, not undone.
            timeout: the instance fails when it is not over so long from now; needed when its timeout made it fail.
            reason: recorded.

        Raises:
            InstanceNotFound: there is none.
            InstanceNotActive: it is not FAILED; nothing was written.
            UsageError: it cannot be rewound to there; the message says why, and what to do instead.
        """
        record = await self._record(instance_id)
        timeout_us = None if timeout is None else to_us(timeout, "timeout")
        repair = Repair(self._backend, self._clock.now_us())
        await repair.rewind(record, before, force=force, timeout_us=timeout_us, reason=reason)
        self._note_written()

    async def fork(
        self, instance_id: str, *, at: int | None = None, new_id: str | None = None, version: int | None = None
    ) -> Handle[Any]:
        """Make a copy of an instance up to an event, which goes on by itself under another id.

        Activities that were under way there run again, for the copy; timers that have fallen due fire; children that
        were open are started anew. The original does not change.

        Args:
            at: the copy knows the turns that end with or before this event; by default all, but for the one that
                ended the instance.
            new_id: by default a fresh one.
            version: of the workflow that the copy goes on with; it must ask for the same up to there.

        Raises:
            InstanceNotFound: there is none.
            InstanceExists: `new_id` is taken.
            UsageError: there is no such event, or no turn before it.
        """
        record = await self._record(instance_id)
        now_us = self._clock.now_us()
        new_id = check_name(
            new_id if new_id is not None else fresh_id(now_us, self._clock.random_bits(RANDOM_BITS)), "the instance id"
        )
        try:
            await Repair(self._backend, now_us).fork(record, new_id, at, version)
        except InstancesExist:
            raise InstanceExists(new_id, f"instance {new_id!r} exists; fork under another id") from None
        self._note_written()
        return Handle(self, new_id)

    async def restart(self, instance_id: str, *, new_id: str | None = None) -> Handle[Any]:
        """Start another instance with the input that this one was started with.

        Args:
            new_id: by default a fresh one; the id of the old one replaces it, if it is over.

        Raises:
            InstanceNotFound: there is none.
            InstanceExists: `new_id` is taken.
            UsageError: the workflow in that version is not known here.
        """
        record = await self._record(instance_id)
        now_us = self._clock.now_us()
        program = self._program_of(record)
        started = await Repair(self._backend, now_us).first_event(record)
        timeout_us = started.deadline_us - max(started.start_at_us, record.created_us) if started.deadline_us else 0
        again = ev.InstanceStarted(
            started.workflow,
            program.version if program is not None else started.version,
            started.input,
            deadline_us=now_us + timeout_us if timeout_us else 0,
        )
        new_id = check_name(
            new_id if new_id is not None else fresh_id(now_us, self._clock.random_bits(RANDOM_BITS)), "the instance id"
        )
        new = NewInstance(
            new_id, again.workflow, again.version, Status.PENDING, now_us, 0, record.tags, replace=new_id == record.id
        )
        existing = await self._send_start(program, new, again)
        if existing is not None:
            raise InstanceExists(
                new_id, f"instance {new_id!r} exists and is {existing.status}; restart under another id"
            )
        return Handle(self, new_id, program)

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

    # -- alerts ---------------------------------------------------------------------------------------------

    async def alerts(self) -> Sequence[Alert]:
        """What needs a person now, says the engine that leads; by kind and subject."""
        return [Alert.of(record, "raised", record.told_us) for record in await self._backend.alerts()]

    # -- circuits -------------------------------------------------------------------------------------------

    async def circuits(self) -> Sequence[CircuitStatus]:
        """All circuits that ever counted a failure, by name."""
        return [circuit_status(circuit) for circuit in await self._backend.circuits()]

    async def reset_circuit(self, name: str) -> CircuitStatus:
        """Close a circuit at once: the service is known to be well. What waits for it is attempted.

        Raises:
            UsageError: no circuit of this name ever counted a failure.
        """
        return await reset_circuit(self._backend, check_name(name, "the name of a circuit"), self._clock.now_us())

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
