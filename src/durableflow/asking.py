"""Asking: messages to an instance, and the answers it gives itself.

Comes in: a name and arguments. Goes out: a message to its inbox, and what a handler of the workflow answered.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import UnionType
from typing import Any, TypeVar, overload

from durableflow.authoring.registry import DEFAULT
from durableflow.authoring.workflow import Workflow
from durableflow.backends.base import InstanceRecord, Outgoing
from durableflow.core.execution import Execution, replay_rows
from durableflow.errors import InstanceNotActive, PayloadTooLarge, UsageError
from durableflow.looking import Looking
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.duration import Duration, to_us
from durableflow.model.failure import request_failed
from durableflow.model.ids import RANDOM_BITS, check_name, fresh_id
from durableflow.repair import latest_round, read_rows
from durableflow.runtime.answers import UNANSWERED
from durableflow.runtime.awaited import POLL_S
from durableflow.runtime.clock import Clock
from durableflow.runtime.messages import check_sent

T = TypeVar("T")


class Asking(Looking):
    """The part of a `Client` that talks to the workflow itself: messages, requests and queries."""

    _clock: Clock
    _payload_limit_bytes: int

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
        try:
            await self._send(instance_id, request, f"request {request.name!r}")
        except InstanceNotActive as over:
            return await self._answer_before_end(request, over)
        return await self._look_for_answer(instance_id, request.request_id)

    async def _answer_before_end(self, request: ev.RequestReceived, over: InstanceNotActive) -> ev.RequestAnswered:
        """What was answered while it was not over yet, to one who asks again with the same id."""
        with suppress(InstanceNotActive):
            answer = await self._find_answer(over.instance_id, request.request_id)
            if answer is not None:
                return answer
        raise over

    async def _look_for_answer(self, instance_id: str, request_id: str) -> ev.RequestAnswered:
        while True:
            change = asyncio.ensure_future(self._backend.wait_for_change(POLL_S, "ends"))
            try:
                answer = await self._find_answer(instance_id, request_id)
                if answer is not None:
                    return answer
                await self._seal_watch().look()
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
            raise InstanceNotActive(instance_id, record.status, UNANSWERED)
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
        if workflow is not None and workflow.name != record.workflow:
            raise UsageError(
                f"instance {instance_id!r} is of workflow {record.workflow!r}, not of {workflow.name!r}; pass that one"
            )
        program = workflow or self._program_of(record)
        if program is None:
            raise UsageError(
                f"the code of workflow {record.workflow!r} version {record.version} is not known here; "
                "pass it: query(..., workflow=...)"
            )
        execution = Execution(instance_id, program, payload_limit_bytes=self._payload_limit_bytes)
        rows = latest_round(await read_rows(self._backend, instance_id, record.base_seq))
        execution.next_seq = rows[0][0] if rows else record.base_seq
        try:
            replay_rows(execution, rows)
            return execution.query(name, data)
        finally:
            execution.put_away()

    def _program_of(self, record: InstanceRecord) -> Workflow[..., Any] | None:
        """The code of an instance, if it is known in this process."""
        return DEFAULT.workflows.get((record.workflow, record.version))

    async def _send(self, instance_id: str, event: ev.Observation, asked: str) -> None:
        check_name(instance_id, "the instance id")
        event_id = event.event_id if isinstance(event, ev.EventReceived) else None
        (result,) = await self._backend.send([Outgoing(instance_id, ev.dump_event(event), event_id=event_id)])
        check_sent(instance_id, result, asked)

    def _check_size(self, what: str, data: bytes) -> None:
        if len(data) > self._payload_limit_bytes:
            raise PayloadTooLarge(what, len(data), self._payload_limit_bytes)
