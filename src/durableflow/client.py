"""Asking: start instances, look at them, talk to them, from any process that reaches the store.

A `Client` runs nothing. An `Engine` is a client that also works.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ParamSpec, Self, TypeVar, overload

from durableflow.asking import Asking
from durableflow.authoring.workflow import Workflow
from durableflow.backends.base import Backend, DebouncedStart, InstanceRecord, NewInstance, Outgoing
from durableflow.backends.stores import open_backend
from durableflow.dead_letters import DeadLetters
from durableflow.errors import InstanceExists, InstanceNotActive, InstancesExist, UsageError
from durableflow.handle import Handle
from durableflow.many import ManyInstances
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.duration import Duration, to_us
from durableflow.model.ids import RANDOM_BITS, check_name, fresh_id
from durableflow.model.status import Status
from durableflow.repair import Repair
from durableflow.runtime.clock import Clock, SystemClock
from durableflow.runtime.debouncing import debounced_start
from durableflow.runtime.starts import check_size, judge_conflict, new_event, new_start
from durableflow.schedules import Schedules
from durableflow.trouble import Trouble
from durableflow.work import Work

P = ParamSpec("P")
R = TypeVar("R")


class Client(Asking, ManyInstances, Work, Trouble):
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
        await self._open_store()
        return self

    async def _open_store(self) -> None:
        await self._backend.open()
        try:
            seal = await self._backend.read_seal()
            if seal is not None:
                raise seal.refusal()
        except BaseException:
            await self._backend.close()
            raise
        self._keep_time()

    def _keep_time(self) -> None:
        """Count by the clock of the store, if it has one of its own and the caller gave none."""
        if isinstance(self._clock, SystemClock):
            self._clock.skew_us = self._backend.clock_skew_us

    async def __aexit__(self, *exc_info: object) -> None:
        await self._backend.close()

    @property
    def dead_letters(self) -> DeadLetters:
        """What failed for good in this store: list, inspect, redrive, discard."""

        async def rewind(instance_id: str, force: bool) -> None:  # noqa: FBT001  # a seam, called in one place
            await self.rewind(instance_id, force=force, reason="redriven from the dead letters")

        return DeadLetters(self._backend, rewind, self.history, self._note_written)

    @property
    def schedules(self) -> Schedules:
        """Workflows that are started at moments: create, change, pause, trigger, backfill, look at."""
        return Schedules(self._backend, self._clock, self._payload_limit_bytes, self._note_written, self._learn)

    def _learn(self, workflow: Workflow[..., Any]) -> None:
        """A workflow was passed that others will start: an engine knows it from here on."""

    def _note_written(self) -> None:
        """Something was put into an inbox, or a schedule written, by other ways than `_send`."""

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
        if workflow.start_options.debounce_us:
            return await self._start_debounced(workflow, args, kwargs)
        new, started = new_start(workflow, args, kwargs, self._clock, self._payload_limit_bytes)
        existing = await self._send_start(workflow, new, started)
        if existing is not None:
            judge_conflict(workflow, existing)
        return Handle(self, new.id, workflow)

    async def _start_debounced(
        self, workflow: Workflow[..., R], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Handle[R]:
        if workflow.start_options.queue:
            raise UsageError(
                f"workflow {workflow.name!r} is to be debounced and started through a queue; leave out one of the two"
            )
        what = f"the input of workflow {workflow.name!r}"
        data = workflow.arguments.dump(args, kwargs, what)
        check_size(what, data, self._payload_limit_bytes)
        now_us = self._clock.now_us()
        own_id = fresh_id(now_us, self._clock.random_bits(RANDOM_BITS))
        start = debounced_start(workflow, data, now_us, own_id)
        return Handle(self, await self._send_debounced(workflow, start), workflow)

    async def _send_debounced(
        self,
        workflow: Workflow[..., Any],  # noqa: ARG002  # the engine, which runs it, needs it
        start: DebouncedStart,
    ) -> str:
        """Write the start; the id of the instance of the window that is open."""
        return await self._backend.debounce(start)

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
        event = new_event(name, payload, event_id, self._payload_limit_bytes)
        await self._send(instance_id, event, f"event {name!r}")

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
