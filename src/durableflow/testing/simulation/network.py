"""The way from simulated processes to their store, on which calls take time and go wrong.

A call is made in three steps: it travels, it is applied, its answer travels. It is applied whatever has become of
its caller, as a server would: a process that was killed or frozen meanwhile may have written something of which it
will never hear. The store itself is real; what it does in a call happens at one moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar, cast

from durableflow.backends.base import Backend, Topic
from durableflow.errors import CommitOutcomeUnknown, EngineClosed, StorageError
from durableflow.testing.simulation.fleet import MemoryFleet
from durableflow.testing.simulation.loop import Process, SimulatedLoop
from durableflow.testing.simulation.sqlite import InlineSqlite
from durableflow.testing.simulation.weather import Fate, Fault, Weather

T = TypeVar("T")

WRITES: Final = frozenset(
    {
        "acquire", "renew", "release", "commit", "transact", "send", "purge", "rewrite", "debounce", "close_window",
        "write_schedule", "swap_circuit", "discard", "take_in", "claim_instances", "hand_over", "share",
        "enlist_server", "renew_server", "retire_server", "claim", "overdue_tasks", "finish_tasks", "beat_tasks",
        "offer_task", "offer_claimed", "limit_queue", "pause_queue",
    }
)  # fmt: skip
"""The methods of a backend that write."""

_HINTS: Final[dict[str, frozenset[Topic]]] = {
    "commit": frozenset({"inbox", "ends", "tasks"}),
    "send": frozenset({"inbox", "orphans", "tasks"}),
    "finish_tasks": frozenset({"inbox", "tasks"}),
    "claim": frozenset({"inbox"}),
    "release": frozenset({"orphans"}),
    "hand_over": frozenset({"orphans"}),
    "retire_server": frozenset({"tasks", "inbox"}),
    "limit_queue": frozenset({"tasks"}),
    "pause_queue": frozenset({"tasks"}),
    "debounce": frozenset({"inbox", "orphans"}),
    "write_schedule": frozenset({"inbox"}),
    "rewrite": frozenset({"inbox", "orphans"}),
}
"""Who may hear of what was written; the others write nothing that anybody waits for."""

_HINT_US: Final = 2_000


class Applied(NamedTuple):
    """A call that the store has done."""

    process: Process
    method: str
    args: tuple[Any, ...]
    answer: Any
    at_us: int


class Listener(Protocol):
    """Told of each call that wrote, in the moment in which it did."""

    def __call__(self, applied: Applied) -> None:
        """`applied` is durable."""
        ...


class Network:
    """All ways to one store.

    Args:
        store: the real one. Its methods must not wait for anything but each other.
        trace: told what is done at the store, in order; two runs of one seed tell the same.
    """

    def __init__(
        self, store: Backend, loop: SimulatedLoop, weather: Weather, listener: Listener, trace: Callable[..., None]
    ) -> None:
        self.store = store
        self.weather = weather
        self.calls = 0
        self._loop = loop
        self._listener = listener
        self._trace = trace
        self._world = Context()
        self._waiting: list[tuple[Topic, asyncio.Future[bool]]] = []

    def ask(self, process: Process, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> asyncio.Future[Any]:
        """Send a call on its way; its answer comes with time."""
        fate = self.weather.fate(writes=method in WRITES)
        future: asyncio.Future[Any] = self._loop.create_future()
        arrive = partial(self._apply, process, method, args, kwargs, fate, future)
        self._later(fate.there_us, partial(self._open, arrive, fate.open_us) if fate.open_us else arrive)
        return future

    def _open(self, commit: Callable[..., None], open_us: int) -> None:
        """A transaction begins that commits later; where many write at once it has its message numbers from here on."""
        numbers = self.store.draw_numbers() if isinstance(self.store, MemoryFleet) else None
        self._later(open_us, partial(commit, numbers))

    def _later(self, delay_us: int, call: Callable[[], object]) -> None:
        self._loop.call_after_us(delay_us, call, self._world)

    def _apply(
        self,
        process: Process,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        fate: Fate,
        future: asyncio.Future[Any],
        numbers: list[int] | None = None,
    ) -> None:
        self.calls += 1
        answer: Any = None
        error: BaseException | None = None
        try:
            # User code that runs inside the store runs for its process.
            do = process.context.copy().run if method == "transact" else _call
            with self._numbered(numbers):
                answer = do(self._do, method, args, kwargs, fate.fault)
        except _Hidden as hidden:
            answer, error = hidden.answer, hidden
        except Exception as raised:
            error = raised
        self._trace(process.name, method, "" if fate.fault is None else fate.fault.value, repr(error or "done")[:60])
        if method in WRITES and (error is None or isinstance(error, _Hidden)):
            self._listener(Applied(process, method, args, answer, self._loop.now_us))
            if method in _HINTS:
                self._hint(_HINTS[method])
        self._later(fate.back_us, partial(_settle, future, answer, error))

    def _numbered(self, numbers: list[int] | None) -> AbstractContextManager[None]:
        if numbers is None:
            return nullcontext()
        return cast("MemoryFleet", self.store).commits_with(numbers)

    def _do(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], fault: Fault | None) -> Any:
        """Have the store do it, or what its fate says instead."""
        planted: StorageError | None = None
        if fault is Fault.REFUSED:
            planted = StorageError(f"planted: {method} is refused")
        elif fault is Fault.LOST:
            planted = CommitOutcomeUnknown(f"planted: {method} is lost")
        if planted is not None and not isinstance(self.store, InlineSqlite):
            raise planted
        answer = self._do_at_commit(method, args, kwargs, planted)
        if fault is Fault.HIDDEN:
            raise _Hidden(answer)
        return answer

    def _do_at_commit(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], planted: StorageError | None
    ) -> Any:
        """On SQLite what goes wrong does so at the COMMIT, when all has been written and nothing is."""
        if planted is None:
            return finish(getattr(self.store, method)(*args, **kwargs))
        store = cast("InlineSqlite", self.store)
        store.planted = planted
        try:
            return finish(getattr(store, method)(*args, **kwargs))
        finally:
            store.planted = None

    # -- hints ----------------------------------------------------------------------------------------------

    def _hint(self, topics: frozenset[Topic]) -> None:
        """Those who wait for something hear of it, or not."""
        waiting, self._waiting = self._waiting, []
        for topic, future in waiting:
            if future.done():
                continue
            is_told = topic == "anything" or topic in topics
            if not is_told or self.weather.strikes(self.weather.hints_lost):
                self._waiting.append((topic, future))
            else:
                self._later(_HINT_US, partial(_settle, future, True, None))

    async def wait(self, timeout_s: float, topic: Topic) -> bool:
        """See `Backend.wait_for_change`."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._waiting.append((topic, future))
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            return False


class _Hidden(CommitOutcomeUnknown):
    """What a caller is told of a call that was done; the world knows the answer."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        super().__init__("planted: the answer is lost")


def _settle(future: asyncio.Future[Any], answer: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(answer)
    else:
        future.set_exception(error)
        future.exception()  # its caller may be gone


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast("T", stop.value)
    coroutine.close()
    raise AssertionError(f"{coroutine!r} waits, but a simulated store must do a call in one moment")


class Wire:
    """A backend as one process has it: each of its methods goes over the network.

    Attributes:
        is_cut: the process is gone; nothing more goes over it.
    """

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self._process = process
        self.is_cut = False
        store = network.store
        self.shared = True
        self.is_fleet = store.is_fleet
        self.user_work = store.user_work
        self.clock_skew_us = store.clock_skew_us

    def __repr__(self) -> str:
        return f"<wire of {self._process.name}>"

    def __getattr__(self, method: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        if method.startswith("_"):
            raise AttributeError(method)
        asking = partial(self._ask, method)
        self.__dict__[method] = asking
        return asking

    async def _ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if self.is_cut:
            raise EngineClosed(f"{self!r} is cut")
        return await self._network.ask(self._process, method, args, kwargs)

    async def open(self) -> None:
        """See `Backend.open`: the store is open all the time."""

    async def close(self) -> None:
        """See `Backend.close`."""

    async def wait_for_change(self, timeout_s: float, topic: Topic = "anything") -> bool:
        """See `Backend.wait_for_change`."""
        if self.is_cut:
            raise EngineClosed(f"{self!r} is cut")
        return await self._network.wait(timeout_s, topic)


def backend_of(network: Network, process: Process) -> Backend:
    """The store, as this process reaches it."""
    return cast("Backend", Wire(network, process))
