"""A simulated process that runs an engine, and what befalls it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

from durableflow.client import Client
from durableflow.engine import Engine
from durableflow.errors import StorageError
from durableflow.runtime.settings import Settings
from durableflow.testing.simulation.activities import ACTIVITIES
from durableflow.testing.simulation.clocks import DriftingClock
from durableflow.testing.simulation.interpreter import VERSIONS
from durableflow.testing.simulation.loop import Process
from durableflow.testing.simulation.network import Network, Wire, backend_of
from durableflow.testing.simulation.poison import POISON

T = TypeVar("T")

_BOOT_AGAIN_S: Final = 0.3
_ANSWER_S: Final = 20.0


class NoAnswer(Exception):
    """The process is gone, or says nothing: whoever asked does not know what has become of it."""


class Node(Process):
    """A process with a client or an engine in it.

    Attributes:
        gone: done when it is killed or closed.
        client: what others in this process call; None before it is up.
    """

    def __init__(self, name: str, network: Network, clock: DriftingClock) -> None:
        super().__init__(name)
        self.clock = clock
        self.client: Client | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._network = network
        self._backend = backend_of(network, self)
        self._tasks: list[asyncio.Task[Any]] = []

    # -- life -----------------------------------------------------------------------------------------------

    def boot(self, settings: Settings | None) -> None:
        """Open an engine with these settings, or a client without."""
        self._spawn(self._boot(settings))

    async def _boot(self, settings: Settings | None) -> None:
        while True:
            client = Client(self._backend, clock=self.clock) if settings is None else self._engine(settings)
            try:
                await client.__aenter__()
            except StorageError:
                await asyncio.sleep(_BOOT_AGAIN_S)
            else:
                self.client = client
                return

    def _engine(self, settings: Settings) -> Engine:
        return Engine(
            self._backend,
            workflows=[*VERSIONS.values(), POISON],
            activities=ACTIVITIES,
            name=self.name,
            settings=settings,
            clock=self.clock,
        )

    @property
    def engine(self) -> Engine | None:
        """What runs in it."""
        return self.client if isinstance(self.client, Engine) else None

    def kill(self) -> None:
        """Nothing of it is called any more; what it has sent on its way arrives."""
        self.freeze()
        self._note_gone()

    def _note_gone(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)

    async def close(self) -> None:
        """End it in order, as a process that is told to stop does."""
        closing = self._spawn(self._close())
        await asyncio.wait([closing, self.gone], return_when=asyncio.FIRST_COMPLETED)
        if closing.done():
            closing.result()

    async def _close(self) -> None:
        if self.client is not None:
            await self.client.__aexit__(None, None, None)
        self._note_gone()

    def failure(self) -> BaseException | None:
        """What an engine of it has died of, if that was neither a blow nor its end."""
        engine = self.engine
        if engine is None or self.gone.done():
            return None
        tasks = cast("list[asyncio.Task[None] | None]", [getattr(engine, name) for name in ("_task", "_serving")])
        for task in tasks:
            if task is not None and task.done() and not task.cancelled():
                return task.exception() or AssertionError("a loop has ended")
        return None

    # -- asking ---------------------------------------------------------------------------------------------

    async def ask(self, question: Callable[[Client], Awaitable[T]], timeout_s: float = _ANSWER_S) -> T:
        """Call what runs in this process, as code beside it would.

        Raises:
            NoAnswer: whether anything came of it is not known.
        """
        client = self.client
        if client is None or self.gone.done():
            raise NoAnswer(f"{self.name} is not up")
        asking = self._spawn(_answer(question, client))
        try:
            await asyncio.wait([asking, self.gone], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return cast("T", asking.result())
            raise NoAnswer(f"{self.name} does not answer")
        finally:
            asking.cancel()
            self._tasks.remove(asking) if asking.done() else None

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine, context=self.context.copy())
        self._tasks.append(task)
        return task

    # -- after the end of the world -------------------------------------------------------------------------

    def cut(self) -> None:
        """Nothing of it reaches the store any more."""
        cast("Wire", cast("object", self._backend)).is_cut = True

    async def bury(self) -> None:
        """Let its tasks end, unheard, so that none is left."""
        self.cut()
        engine = self.engine
        if engine is not None:
            for name in ("_serving", "_task"):
                task = cast("asyncio.Task[None] | None", getattr(engine, name))
                if task is not None:
                    task.cancel()
                    self._tasks.append(task)
        for task in self._tasks:
            task.cancel()
        self.thaw()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=60)


async def _answer(question: Callable[[Client], Awaitable[T]], client: Client) -> T:
    return await question(client)
