"""Engines on several stores that are one, and what an application says to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final, Self, TypedDict, Unpack

from durableflow.authoring.registry import AnyActivity, AnyWorkflow
from durableflow.authoring.workflow import Workflow
from durableflow.backends.base import Backend, DebouncedStart, InstanceRecord, NewInstance
from durableflow.backends.sharded import ShardedBackend, ShardMap, agree
from durableflow.backends.sharded.agreeing import check_name, check_strays, kept_map, known_map
from durableflow.client import Client
from durableflow.engine import Engine
from durableflow.errors import EngineClosed, LeaseLost, UsageError
from durableflow.model import events as ev
from durableflow.observe import facts
from durableflow.observe.sinks import AlertSink
from durableflow.runtime.alert_policy import AlertPolicy
from durableflow.runtime.circuit_reports import CircuitStatus
from durableflow.runtime.clock import Clock, SystemClock
from durableflow.runtime.ends import End
from durableflow.runtime.health import AlertHook
from durableflow.runtime.relays import Relay
from durableflow.runtime.settings import Settings

_LOOK_S: Final = 0.2
"""So often an engine looks whether it is the one that carries for its shard."""


class EngineOptions(TypedDict, total=False):
    """What each `Engine` of `Shards` is given; see there."""

    workflows: Sequence[AnyWorkflow] | None
    activities: Sequence[AnyActivity] | None
    queues: Collection[str] | Mapping[str, int] | None
    name: str | None
    settings: Settings | None
    clock: Clock | None
    listeners: Sequence[Callable[[facts.Fact], None]]
    alerts: AlertPolicy | bool | None
    on_alert: Sequence[AlertHook | AlertSink]


class Shards(Client):
    """Runs an engine on each of several stores that are one, and talks to them; messages between them are carried.

    Use it as `async with Shards({"north": "postgresql://...", "south": "postgresql://..."}) as shards: ...`. It is a
    client with all that a `Client` has: each instance is in the store that its id says, whole. Children, their results
    and messages between instances go from store to store exactly once, in the order of their sender. On Postgres any
    number of processes may run `Shards` on the same stores; a process that only asks opens a `Client` on a
    `ShardedBackend` of them.

    Args:
        stores: by name, as URLs or backends. A name is for ever: it is in the map, and in what the stores know of
            each other.
        shard_map: by default all slots are spread over `stores` evenly, in the order given. It must be the same in all
            processes.
        options: of each `Engine`.

    Attributes:
        map: whose each slot is.
        engines: by the names of their stores, for a look at what they do. Talk to instances by `Shards` itself.
    """

    def __init__(
        self,
        stores: Mapping[str, str | Backend],
        *,
        shard_map: ShardMap | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        backend = ShardedBackend(stores, shard_map)
        settings = options.get("settings") or Settings()
        super().__init__(backend, clock=options.get("clock"), payload_limit_bytes=settings.payload_limit_bytes)
        self.map = backend.map
        self._engines = {name: _ShardEngine(store, **options) for name, store in backend.stores.items()}
        self._relays: dict[str, Relay] = {}
        self._opened: list[_ShardEngine] = []
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"<shards {', '.join(self.map.shards)}>"

    @property
    def engines(self) -> Mapping[str, Engine]:
        """By the names of their stores, for a look at what they do. Talk to instances by `Shards` itself."""
        return self._engines

    # -- life cycle -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._tasks:
            raise UsageError(f"{self!r} are open already; make other Shards to open the stores twice")
        try:
            stores = {name: engine.store for name, engine in self._engines.items()}
            for name, engine in self._engines.items():
                relay = Relay(name, engine.store, stores, self.map.shard_of, engine.tell, self._note_carried)
                engine.join(name, self.map, relay.look, stores[self.map.home])
                self._relays[name] = relay
                await engine.__aenter__()
                self._opened.append(engine)
            self._backend.clock_skew_us = stores[self.map.home].clock_skew_us
            self._keep_time()
            for name, engine in self._engines.items():
                carrying = asyncio.create_task(_carry(engine, self._relays[name]), name=f"durableflow relay {name}")
                self._tasks.append(carrying)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """As each engine closes: running attempts get the grace time."""
        await self._close()

    async def _close(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, EngineClosed):
                await task
        self._relays.clear()
        opened, self._opened = self._opened, []
        # All at once, for each may take its grace time; but the home shard last, where the others write their circuits.
        outcomes = await asyncio.gather(*(engine.__aexit__() for engine in opened[1:]), return_exceptions=True)
        for home in opened[:1]:
            await home.__aexit__()
        for error in outcomes:
            if error is not None:
                raise error

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncGenerator[None]:
        """For web frameworks, as `Engine.lifespan`."""
        async with self:
            yield

    @property
    def is_leading(self) -> bool:
        """True while the instances of all stores are run by these engines, or they have their shares of them."""
        return all(engine.is_leading for engine in self._engines.values())

    async def wait_until_leading(self) -> None:
        """Return when each engine runs instances of its store."""
        for engine in self._engines.values():
            await engine.wait_until_leading()

    def register(self, *definitions: AnyWorkflow | AnyActivity) -> None:
        """Know more workflows and activities, in all engines; instances that stalled for want of them go on."""
        for engine in self._engines.values():
            engine.register(*definitions)

    # -- the short ways, by the engine that an instance belongs to ------------------------------------------

    def _near(self, instance_id: str) -> Client:
        return self._engines[self.map.shard_of(instance_id)]

    def _note_carried(self, name: str) -> None:
        self._engines[name].note_written()

    def _note_written(self) -> None:
        for engine in self._engines.values():
            engine.note_written()
        for relay in self._relays.values():
            relay.look()

    def _learn(self, workflow: Workflow[..., Any]) -> None:
        self.register(workflow)

    def _program_of(self, record: InstanceRecord) -> Workflow[..., Any] | None:
        return self._near(record.id)._program_of(record)

    async def _send_start(
        self, workflow: Workflow[..., Any] | None, new: NewInstance, started: ev.InstanceStarted
    ) -> InstanceRecord | None:
        return await self._near(new.id)._send_start(workflow, new, started)

    async def _send_debounced(self, workflow: Workflow[..., Any], start: DebouncedStart) -> str:
        return await self._near(start.new.id)._send_debounced(workflow, start)

    async def _send(self, instance_id: str, event: ev.Observation, asked: str) -> None:
        await self._near(instance_id)._send(instance_id, event, asked)

    async def _send_all(
        self, instance_ids: Sequence[str], event: ev.Observation, asked: str
    ) -> Sequence[Exception | None]:
        shards: dict[str, list[str]] = {}
        for each in instance_ids:
            shards.setdefault(self.map.shard_of(each), []).append(each)
        told = await asyncio.gather(*(self._near(ids[0])._send_all(ids, event, asked) for ids in shards.values()))
        outcomes = {name: iter(each) for name, each in zip(shards, told, strict=True)}
        return [next(outcomes[self.map.shard_of(each)]) for each in instance_ids]

    async def _ask(self, instance_id: str, request: ev.RequestReceived) -> ev.RequestAnswered:
        return await self._near(instance_id)._ask(instance_id, request)

    async def _query(self, instance_id: str, name: str, data: bytes, workflow: Workflow[..., Any] | None) -> bytes:
        return await self._near(instance_id)._query(instance_id, name, data, workflow)

    async def _wait_for_end(self, instance_id: str) -> End:
        return await self._near(instance_id)._wait_for_end(instance_id)

    def _status_change(self, instance_id: str) -> asyncio.Future[Any]:
        return self._near(instance_id)._status_change(instance_id)

    async def reset_circuit(self, name: str) -> CircuitStatus:
        """See `Client.reset_circuit`."""
        status = await super().reset_circuit(name)
        for engine in self._engines.values():
            await engine.look_at_circuits()
        return status

    async def purge_many(self, instance_ids: Iterable[str]) -> Sequence[str]:
        """See `Client.purge_many`; in one transaction in each shard."""
        purged = await super().purge_many(instance_ids)
        for engine in self._engines.values():
            engine.forget(purged)
        return purged


class _ShardEngine(Engine):
    """The engine of one shard."""

    _shard: str
    _map: ShardMap

    @property
    def store(self) -> Backend:
        """What it works on."""
        return self._backend

    @property
    def carries(self) -> bool:
        """Whether it is the one of its fleet that carries for the shard; two may believe so for a moment."""
        return self._worker is not None and self._worker.lease.is_first

    def join(self, shard: str, shard_map: ShardMap, on_outbox: Callable[[], object], home: Backend) -> None:
        """Be the engine of one store among several, from when it is opened."""
        self._shard, self._map = shard, shard_map
        self._sharing = (self._is_here, on_outbox, home)

    def _is_here(self, instance_id: str) -> bool:
        return self._map.shard_of(instance_id) == self._shard

    async def _open_store(self) -> None:
        await super()._open_store()
        try:
            await agree(self._backend, self._shard, self._map)
        except BaseException:
            await self._backend.close()
            raise

    def tell(self, fact: facts.Fact) -> None:
        """Tell the listeners."""
        self._tell(fact)

    def note_written(self) -> None:
        """Something was put into the inbox of its store."""
        self._note_written()

    def forget(self, purged: Iterable[str]) -> None:
        """These are purged."""
        if self._worker is not None:
            self._worker.ends.forget(purged)

    async def look_at_circuits(self) -> None:
        """Somebody has changed one."""
        if self._worker is not None:
            await self._worker.circuits.look()

    async def _send_start(
        self, workflow: Workflow[..., Any] | None, new: NewInstance, started: ev.InstanceStarted
    ) -> InstanceRecord | None:
        self._check_place(new.id)
        return await super()._send_start(workflow, new, started)

    async def _send_debounced(self, workflow: Workflow[..., Any], start: DebouncedStart) -> str:
        self._check_place(start.new.id)
        return await super()._send_debounced(workflow, start)

    def _check_place(self, instance_id: str) -> None:
        if not self._is_here(instance_id):
            raise UsageError(f"instance {instance_id!r} belongs to another shard than {self!r}; start it by Shards")


async def _carry(engine: _ShardEngine, relay: Relay) -> None:
    """While the engine is the first of its shard: two relays would only follow each other, back and forth."""
    while True:
        await engine.wait_until_leading()
        if engine.carries:
            with suppress(LeaseLost):
                await relay.run()
        await asyncio.sleep(_LOOK_S)


async def adopt_map(stores: Mapping[str, str | Backend], shard_map: ShardMap) -> None:
    """Have stores keep another map than before, such as one with a further shard, while nobody works on them.

    Whoever has them open with the map before must have closed them. After a crash, call it again.

    Args:
        stores: of all shards of the new map.

    Raises:
        UsageError: somebody works on a store; one is another shard; the map is not a later one; or a store holds
            instances or schedules that by the new map belong to another: move them, or let them end and purge them.
    """
    backend = ShardedBackend(stores, shard_map)
    async with AsyncExitStack() as stack:
        for name, store in backend.stores.items():
            await store.open()
            stack.push_async_callback(store.close)
            for each in await store.living(SystemClock().now_us()):
                raise UsageError(f"{each.kind} {each.name!r} works on {store!r}; stop it before another map is adopted")
            there = await store.read_map()
            if there is not None and there != kept_map(name, shard_map):
                check_name(store, name, there)
                if known_map(there).version >= shard_map.version:
                    raise UsageError(
                        f"{store!r} keeps version {known_map(there).version} of the map; the one given here has "
                        f"version {shard_map.version}, but must have a later one, as with_shard() makes it"
                    )
            await check_strays(store, name, shard_map)
        for name, store in backend.stores.items():
            other = await store.keep_map(kept_map(name, shard_map), await store.read_map())
            if other is not None:
                raise UsageError(f"{store!r} was changed meanwhile; look who works on it, and call this again")
