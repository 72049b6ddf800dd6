"""Engines on several stores that are one, and what an application says to them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar

from durableflow.authoring.workflow import Workflow
from durableflow.backends.base import Backend
from durableflow.backends.sharded import ShardMap
from durableflow.engine import Engine
from durableflow.errors import EngineClosed, LeaseLost, UsageError
from durableflow.handle import Handle
from durableflow.looking import InstanceStatus
from durableflow.model.ids import RANDOM_BITS, fresh_id
from durableflow.runtime.clock import SystemClock
from durableflow.runtime.relays import Relay

P = ParamSpec("P")
R = TypeVar("R")


class Shards:
    """Runs an engine on each of several stores, and carries messages between them.

    Each instance is in the store that its id says, whole. Children, their results and messages between instances go
    from store to store exactly once, in the order of their sender.

    Args:
        stores: by name. A name is for ever: it is in the map, and in what the stores know of each other.
        shard_map: by default all slots are spread over `stores` evenly, in the order given. Keep it where
            every process finds the same one.
        options: of each `Engine`.
    """

    def __init__(
        self, stores: Mapping[str, str | Backend], *, shard_map: ShardMap | None = None, **options: Any
    ) -> None:
        self.map = shard_map or ShardMap.over(list(stores))
        if set(self.map.shards) != set(stores):
            raise UsageError(f"the map is of shards {sorted(self.map.shards)}, but the stores are {sorted(stores)}")
        self.engines = {name: Engine(store, **options) for name, store in stores.items()}
        self._clock = SystemClock()
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        try:
            backends = {name: engine._backend for name, engine in self.engines.items()}  # pyright: ignore[reportPrivateUsage]  # its own engines
            relays = {
                name: Relay(name, backend, backends, self.map.shard_of, told=self._note_written)
                for name, backend in backends.items()
            }
            for name, engine in self.engines.items():
                engine._sharing = (partial(self._is_in, name), relays[name].look)  # pyright: ignore[reportPrivateUsage]  # the same
                await self._stack.enter_async_context(engine)
            for name, engine in self.engines.items():
                carrying = asyncio.create_task(_carry(engine, relays[name]), name=f"durableflow relay {name}")
                self._tasks.append(carrying)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._close()

    async def _close(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, EngineClosed):
                await task
        await self._stack.aclose()

    def _is_in(self, name: str, instance_id: str) -> bool:
        return self.map.shard_of(instance_id) == name

    def _note_written(self, name: str) -> None:
        self.engines[name]._note_written()  # pyright: ignore[reportPrivateUsage]  # the same

    def of(self, instance_id: str) -> Engine:
        """The engine of the shard that an instance is in: for all that is said to it or asked of it."""
        return self.engines[self.map.shard_of(instance_id)]

    @property
    def home(self) -> Engine:
        """The engine for what belongs to no instance: schedules and circuits."""
        return self.engines[self.map.home]

    async def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """See `Client.start`; in the shard that the id says.

        Raises:
            UsageError: the start is debounced: the id of its instance is not known before it is made.
        """
        if workflow.start_options.debounce_us:
            raise UsageError(f"workflow {workflow.name!r} is debounced, which is not possible over several shards yet")
        if workflow.start_options.instance_id is None:
            fresh = fresh_id(self._clock.now_us(), self._clock.random_bits(RANDOM_BITS))
            workflow = workflow.options(instance_id=fresh)
        instance_id = workflow.start_options.instance_id
        assert instance_id is not None
        return await self.of(instance_id).start(workflow, *args, **kwargs)

    async def list(self, *, limit: int = 100, **where: Any) -> Iterable[InstanceStatus]:
        """The newest instances of all shards that match, as of `Client.list`."""
        pages = await asyncio.gather(*(engine.list(limit=limit, **where) for engine in self.engines.values()))
        found = [each for page in pages for each in page.instances]
        found.sort(key=lambda each: (each.created_at, each.instance_id), reverse=True)
        return found[:limit]


async def _carry(engine: Engine, relay: Relay) -> None:
    """While the engine leads: of two relays the earlier one would only be followed by the later, and back."""
    while True:
        await engine.wait_until_leading()
        with suppress(LeaseLost):
            await relay.run()
        await asyncio.sleep(1.0)
