"""The engine: a client of a store that also runs its instances."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, ParamSpec, Self, TypeVar

from durableflow.authoring.registry import DEFAULT, AnyActivity, AnyWorkflow, Registry
from durableflow.authoring.workflow import Workflow
from durableflow.backends.base import Backend, DebouncedStart, InstanceRecord, NewInstance
from durableflow.client import Client
from durableflow.errors import (
    EngineClosed,
    InstanceError,
    InstanceNotActive,
    InstancesExist,
    InstanceStalled,
    LeaseLost,
    StorageError,
    StoreSealed,
    UsageError,
)
from durableflow.model import events as ev
from durableflow.model.ids import check_name
from durableflow.observe import facts
from durableflow.observe.listeners import Listeners
from durableflow.observe.log import log_fact
from durableflow.observe.sinks import AlertSink
from durableflow.runtime.alert_policy import AlertPolicy
from durableflow.runtime.alerting import alerting
from durableflow.runtime.circuit_reports import CircuitStatus
from durableflow.runtime.clock import Clock
from durableflow.runtime.ends import End
from durableflow.runtime.health import AlertHook
from durableflow.runtime.instances import InstanceElsewhere
from durableflow.runtime.serving import QueueServer, read_queues
from durableflow.runtime.settings import Settings
from durableflow.runtime.worker import Worker, WorkerStatistics

P = ParamSpec("P")
R = TypeVar("R")

_STANDBY_S: Final = 0.2
_LOOK_FOR_ANSWER_S: Final = 2.0
STORE_VARIABLE: Final = "DURABLEFLOW_STORE"


class Engine(Client):
    """Runs workflows in this process, and talks to them.

    Use it as `async with Engine("sqlite:///orders.db") as engine: ...`. On a store that another process is working on,
    it is a client that takes over when that process is gone.

    Args:
        store: `"sqlite:///file.db"`, `"memory://"` or a backend object; by default the
            environment's `DURABLEFLOW_STORE`, else `sqlite:///durableflow.db`.
        workflows: what this engine runs; by default all that modules define which were imported before it is opened.
        activities: likewise.
        queues: which queues this engine takes tasks from, or how many of each at once: `{"mail": 10}`. By default
            all, as far as it knows their activities; `[]` for none.
        name: of the worker, for people.
        settings: bounds and times; see `Settings`.
        clock: where time comes from; tests pass a virtual one.
        listeners: called with each fact of `durableflow.observe.facts`.
        alerts: what to look for while this engine leads; False for nothing. By default `AlertPolicy()`, unless
            there is a `clock`: looking at regular times, by a clock of tests, would never let it stand still.
        on_alert: functions that are called with each alert, and sinks such as `WebhookSink`.
    """

    def __init__(
        self,
        store: str | Backend | None = None,
        *,
        workflows: Iterable[AnyWorkflow] | None = None,
        activities: Iterable[AnyActivity] | None = None,
        queues: Collection[str] | Mapping[str, int] | None = None,
        name: str | None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Callable[[facts.Fact], None]] = (),
        alerts: AlertPolicy | bool | None = None,
        on_alert: Iterable[AlertHook | AlertSink] = (),
    ) -> None:
        self.settings = settings or Settings()
        super().__init__(
            store if store is not None else os.environ.get(STORE_VARIABLE) or "sqlite:///durableflow.db",
            clock=clock,
            payload_limit_bytes=self.settings.payload_limit_bytes,
        )
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._registry = Registry(workflows or (), activities or ())
        self._takes_all = (workflows is None, activities is None)
        self._listeners = Listeners(log_fact, *listeners)
        self._queues = read_queues(queues, self.settings.queue_concurrency)
        self._server: QueueServer | None = None
        self._serving: asyncio.Task[None] | None = None
        hooks = list(on_alert)
        self._alerting = alerting(alerts=alerts, on_alert=hooks, worker=self.name, has_clock=clock is not None)
        self._worker: Worker | None = None
        self._task: asyncio.Task[None] | None = None
        self._led = asyncio.Event()
        self._closing = False
        self._sharing: tuple[Callable[[str], bool], Callable[[], object], Backend] | None = None

    def __repr__(self) -> str:
        return f"<engine {self.name} on {self._backend!r}>"

    # -- life cycle -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise UsageError(f"{self!r} is open already; make another Engine to open the store twice")
        self._registry.include(DEFAULT, workflows=self._takes_all[0], activities=self._takes_all[1])
        await self._open_store()
        self._closing = False
        self._led = asyncio.Event()
        self._server = QueueServer(
            self._backend, self._clock, self._registry, self.settings, self._tell, self.name, self._queues
        )
        try:
            worker = await self._try_to_lead()
        except BaseException:
            await self._backend.close()
            raise
        self._task = asyncio.create_task(self._work(worker), name="durableflow engine")
        self._serving = asyncio.create_task(self._server.run(), name="durableflow server")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Give running attempts the grace time, record what was interrupted, let the store go."""
        self._closing = True
        task, self._task = self._task, None
        serving, self._serving = self._serving, None
        worker, server = self._worker, self._server
        try:
            try:
                if server is not None and serving is not None and not serving.done():
                    await server.stop()
            finally:
                await _end(serving)
            if worker is not None and task is not None and not task.done():
                await worker.stop()
        finally:
            try:
                await _end(task)
            finally:
                self._worker = None
                if worker is not None:
                    with suppress(StorageError):
                        await self._backend.release(worker.lease)
                await self._backend.close()

    async def _try_to_lead(self) -> Worker | None:
        ttl_us = round(self.settings.lease_s * 1_000_000)
        lease = await self._backend.acquire(self.name, ttl_us, self._clock.now_us())
        if lease is None:
            return None
        worker = Worker(self._backend, self._clock, self._registry, self.settings, self._tell, lease, self._alerting)
        server = self._server
        assert server is not None
        self._worker = worker
        worker.on_tasks(server.note_commit)
        if self._sharing is not None:
            worker.share(*self._sharing)
        worker.on_offered = server.look
        server.on_written, server.admits = worker.look_into_inbox, True
        server.look()
        self._led.set()
        self._tell(facts.WorkerLeads(self.name))
        return worker

    async def _work(self, worker: Worker | None) -> None:
        """Lead, or stand by until the leader is gone."""
        while True:
            if worker is not None:
                try:
                    # In a task of its own, whose groups may cancel it: this one is cancelled from outside only.
                    await asyncio.create_task(worker.run(), name="durableflow worker")
                except LeaseLost:
                    self._tell(facts.WorkerLost(self.name))
                finally:
                    self._worker = None
                    self._led.clear()
                    if self._server is not None:
                        self._server.admits = False
                task = asyncio.current_task()
                if self._closing or (task is not None and task.cancelling()):
                    return  # it came in the moment in which the lease was lost, and was swallowed
            worker = None
            await asyncio.sleep(_STANDBY_S)
            try:
                worker = await self._try_to_lead()
            except StoreSealed as sealed:
                if sealed.is_gone:
                    raise
            except StorageError:
                pass

    @property
    def is_leading(self) -> bool:
        """True while this engine runs the store's instances; False while another process does."""
        return self._worker is not None

    async def wait_until_leading(self) -> None:
        """Return when this engine runs the store's instances."""
        await self._led.wait()

    def statistics(self) -> WorkerStatistics:
        """What the worker is doing.

        Raises:
            EngineClosed: this engine is not leading.
        """
        if self._worker is None:
            raise EngineClosed(f"{self!r} is not leading, so there is nothing to count")
        return self._worker.statistics()

    def register(self, *definitions: AnyWorkflow | AnyActivity) -> None:
        """Know more workflows and activities; instances that stalled for want of them go on."""
        for definition in definitions:
            if isinstance(definition, Workflow):
                if self._worker is not None:
                    self._worker.learn(definition)
                else:
                    self._registry.add_workflow(definition)
            else:
                self._registry.add_activity(definition)
                if self._worker is not None:
                    self._worker.retry_stalled()
                if self._server is not None:
                    self._server.look()

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncGenerator[None]:
        """For web frameworks: `FastAPI(lifespan=engine.lifespan)`, `Starlette(lifespan=engine.lifespan)`."""
        async with self:
            yield

    def run(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Start an instance, wait for its end and give its result; for scripts, outside of any event loop.

        Raises:
            UsageError: an event loop runs here; use `await engine.start(...)`.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise UsageError("engine.run() blocks, but an event loop runs here; write await engine.start(...) instead")

        async def start_and_wait() -> R:
            async with self:
                handle = await self.start(workflow, *args, **kwargs)
                return await handle.result()

        return asyncio.run(start_and_wait())

    def listen(self, listener: Callable[[facts.Fact], None]) -> Callable[[], None]:
        """Tell one more listener of each fact; calling what is returned ends that."""
        self._listeners.add(listener)
        return lambda: self._listeners.remove(listener)

    def tell(self, fact: facts.Fact) -> None:
        """Tell all listeners a fact of something that works beside this engine, on its event loop."""
        self._listeners.tell(fact)

    def _tell(self, fact: facts.Fact) -> None:
        self._listeners.tell(fact)

    # -- the short ways, when the instance is run here ------------------------------------------------------

    def _check_open(self) -> None:
        if self._task is None or self._closing:
            raise EngineClosed(f"{self!r} is not open; use it inside: async with engine")
        if self._task.done() and not self._task.cancelled():
            error = self._task.exception()
            raise EngineClosed(f"{self!r} has stopped: {error!r}") from error

    async def _send_start(
        self, workflow: Workflow[..., Any] | None, new: NewInstance, started: ev.InstanceStarted
    ) -> InstanceRecord | None:
        self._check_open()
        worker = self._worker
        if worker is None or workflow is None:
            return await super()._send_start(workflow, new, started)
        worker.learn(workflow)
        if new.admission is not None:
            existing = await super()._send_start(workflow, new, started)
            if existing is None:
                worker.ends.forget((new.id,))
                self._note_written()
            return existing
        while True:
            try:
                await worker.start(workflow, new, started)
            except InstancesExist:
                settling = worker.instances.settling(new.id)
                if settling is not None:
                    await asyncio.wait([settling])
                    continue
                record = await self._backend.record(new.id)
                if record is not None and not (new.replace and record.status.is_terminal):
                    return record
                await asyncio.sleep(0)
            else:
                return None

    async def _send_debounced(self, workflow: Workflow[..., Any], start: DebouncedStart) -> str:
        self._check_open()
        if self._worker is not None:
            self._worker.learn(workflow)
        instance_id = await super()._send_debounced(workflow, start)
        self._note_written()
        return instance_id

    async def _send(self, instance_id: str, event: ev.Observation, asked: str) -> None:
        self._check_open()
        check_name(instance_id, "the instance id")
        worker = self._worker
        if worker is not None:
            await worker.message(instance_id, event, asked)
            return
        await super()._send(instance_id, event, asked)
        begun = self._worker
        if begun is not None:  # meanwhile: what is sent next must not overtake this
            await begun.read_inbox()

    def _learn(self, workflow: Workflow[..., Any]) -> None:
        self.register(workflow)

    def _note_written(self) -> None:
        if self._server is not None:
            self._server.look()
        if self._worker is not None:
            self._worker.look_into_inbox()
            self._worker.schedules.look()

    async def _ask(self, instance_id: str, request: ev.RequestReceived) -> ev.RequestAnswered:
        self._check_open()
        worker = self._worker
        if worker is None or not self._runs(worker, instance_id):
            return await super()._ask(instance_id, request)
        future = worker.answers.answer(instance_id, request.request_id)
        try:
            try:
                await self._send(instance_id, request, f"request {request.name!r}")
            except InstanceNotActive as over:
                return await self._answer_before_end(request, over)
            pause_s = 0.0  # of a request that was there before, the answer may be in the history already
            while True:
                await asyncio.wait([future], timeout=pause_s)
                if future.done():
                    return future.result()
                answer = await self._find_answer(instance_id, request.request_id)
                if answer is not None:
                    return answer
                pause_s = _LOOK_FOR_ANSWER_S  # by then, this worker's memory of it may have been dropped
        finally:
            if future.cancelled() or not future.done():
                worker.answers.stop_waiting(instance_id, request.request_id, future)

    async def _query(self, instance_id: str, name: str, data: bytes, workflow: Workflow[..., Any] | None) -> bytes:
        self._check_open()
        if self._worker is not None and self._runs(self._worker, instance_id):
            with suppress(InstanceNotActive, InstanceStalled, InstanceElsewhere):  # its history tells all the same
                return await self._worker.query(instance_id, name, data)
        return await super()._query(instance_id, name, data, workflow)

    def _program_of(self, record: InstanceRecord) -> Workflow[..., Any] | None:
        return self._registry.workflows.get((record.workflow, record.version)) or super()._program_of(record)

    async def _send_all(
        self, instance_ids: Sequence[str], event: ev.Observation, asked: str
    ) -> Sequence[Exception | None]:
        if self._worker is None:
            return await super()._send_all(instance_ids, event, asked)

        async def send(instance_id: str) -> Exception | None:
            try:
                await self._send(instance_id, event, asked)
            except InstanceError as error:
                return error
            return None

        return await asyncio.gather(*map(send, instance_ids))  # the worker makes few commits of them

    async def _wait_for_end(self, instance_id: str) -> End:
        self._check_open()
        if self._backend.is_fleet:
            return await self._wait_for_end_in_fleet(instance_id)
        worker = self._worker
        if worker is None:
            return await self._wait_for_end_elsewhere(instance_id)
        future = worker.ends.end(instance_id)
        if future.done() and future.exception() is None:
            # It may have been replaced or rewound since, and be over again, which this worker has yet to hear.
            with suppress(InstanceStalled):
                end = await self._look_for_end(instance_id)
                if end is not None:
                    return end
            worker.ends.forget([instance_id])
            future = worker.ends.end(instance_id)
        try:
            if not worker.knows_end_of(instance_id):
                try:
                    end = await self._look_for_end(instance_id)
                except InstanceStalled:
                    end = None
                    with suppress(InstanceNotActive):  # it ended meanwhile: the future knows
                        await worker.instances.load(instance_id)  # raises the same, unless the cause is gone
                if end is not None:
                    return end
            return await future
        finally:
            if future.cancelled() or not future.done():
                worker.ends.stop_waiting(instance_id, future)

    def _runs(self, worker: Worker, instance_id: str) -> bool:
        """Whether this process is the one to ask about an instance."""
        return not self._backend.is_fleet or instance_id in worker.instances.live

    async def _wait_for_end_in_fleet(self, instance_id: str) -> End:
        """It may go to another worker at any time, and come back."""
        while True:
            worker = self._worker
            if worker is None or not self._runs(worker, instance_id):
                try:
                    return await super()._wait_for_end(instance_id)
                except InstanceStalled:  # the cause may be gone
                    if worker is None or not await self._is_tried_again(worker, instance_id):
                        raise
                continue
            future = worker.ends.end(instance_id)
            try:
                return await future
            except (InstanceElsewhere, EngineClosed):
                self._check_open()
                await asyncio.sleep(0)
            finally:
                if future.cancelled() or not future.done():
                    worker.ends.stop_waiting(instance_id, future)

    async def _is_tried_again(self, worker: Worker, instance_id: str) -> bool:
        """Have one that stalled go on, here or where it is going; False if it stalled where it is.

        Raises:
            InstanceStalled: here, too.
        """
        mine = worker.lease.worker_id
        while not await worker.tries_again(instance_id):
            if (await self._backend.owners([instance_id])).get(instance_id, mine) != mine:
                return False
            self._check_open()  # nobody's: its worker is dead, and whoever takes it over tries it again
            await self._backend.wait_for_change(_STANDBY_S)
        return True

    async def _wait_for_end_elsewhere(self, instance_id: str) -> End:
        while self._worker is None:
            self._check_open()
            end = await self._look_for_end(instance_id)
            if end is not None:
                return end
            await self._backend.wait_for_change(_STANDBY_S)
        return await self._wait_for_end(instance_id)

    def _status_change(self, instance_id: str) -> asyncio.Future[Any]:
        if self._worker is None or not self._runs(self._worker, instance_id):
            return super()._status_change(instance_id)
        return self._worker.ends.status_change(instance_id)

    async def reset_circuit(self, name: str) -> CircuitStatus:
        """See `Client.reset_circuit`."""
        self._check_open()
        status = await super().reset_circuit(name)
        if self._worker is not None:
            await self._worker.circuits.look()
        return status

    async def purge_many(self, instance_ids: Iterable[str]) -> Sequence[str]:
        """See `Client.purge_many`."""
        purged = await super().purge_many(instance_ids)
        if self._worker is not None:
            self._worker.ends.forget(purged)
        return purged


async def _end(task: asyncio.Task[None] | None) -> None:
    """Cancel the engine's task; a failure that had ended it before is raised."""
    if task is not None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
