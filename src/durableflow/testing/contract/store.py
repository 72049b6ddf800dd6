"""The store under test: how it is opened, what is put into it, and how a test is made of a claim."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from durableflow.backends.base import (
    Backend,
    Commit,
    Heartbeat,
    HistoryRow,
    InstanceChange,
    Lease,
    NewInstance,
    Outgoing,
    Query,
)
from durableflow.model.status import Status

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

E = TypeVar("E", bound=Exception)
S = TypeVar("S", bound="StoreContract")

ODD_IDS: Final = (
    "plain",
    "Plain",
    "with space",
    " leading",
    "quote'\"`",
    "'; drop table instances; --",
    "100%_*?[a]",
    "a/b\\c",
    "line\nbreak\ttab",
    "ünïcödé",
    "é",
    "e\u0301",
    "日本語",
    "🚀",
    "\U0010ffff",
    "x" * 500,
)
"""Ids that are alike only to those who do not look closely: all are allowed, and all are different."""

LEASE_US: Final = 60_000_000


def an_instance(instance_id: str, status: Status = Status.RUNNING, **changes: Any) -> NewInstance:
    """A new instance, with what a test does not care about filled in."""
    finished_us = 2_000 if status.is_terminal else None
    made = NewInstance(instance_id, "order", 1, status, 1_000, None, {}, finished_us=finished_us)
    return made._replace(**changes)


def a_row(instance_id: str, first_seq: int = 1, events: bytes = b"events") -> HistoryRow:
    """A history row; a backend does not look into its events."""
    return HistoryRow(instance_id, first_seq, 1_000 + first_seq, events)


def a_change(instance_id: str, status: Status = Status.RUNNING, **changes: Any) -> InstanceChange:
    """The new values of an instance's row."""
    change = InstanceChange(instance_id, status, None, 2_000 if status.is_terminal else None, None)
    return change._replace(**changes)


class Refusal(Generic[E]):
    """The error that a call was refused with."""

    error: E


@contextmanager
def refused(kind: type[E]) -> Generator[Refusal[E]]:
    """What is called inside must raise a `kind`."""
    refusal: Refusal[E] = Refusal()
    try:
        yield refusal
    except kind as error:
        refusal.error = error
    else:
        raise AssertionError(f"the call was not refused with {kind.__name__}")


def contract(body: Callable[[S, Backend], Awaitable[None]]) -> Callable[[S, Path], None]:
    """Make a test of what is written as `async def test_...(self, backend)`: opened, in a loop of its own, closed."""

    def test(self: S, tmp_path: Path) -> None:
        async def run() -> None:
            self.folder = tmp_path
            async with self.opened() as backend:
                await body(self, backend)

        asyncio.run(run())

    named = cast("Any", body)
    test.__name__, test.__qualname__, test.__doc__ = named.__name__, named.__qualname__, named.__doc__
    return test


class StoreContract:
    """How a test gets at the store; the themes are its subclasses."""

    folder: Path

    def backend(self, folder: Path) -> Backend:
        """A backend, not yet opened, whose store is in `folder`.

        It is called more than once in a test, to see what a restart or a second process would see:
        in the same folder it must reach the same store.
        """
        raise NotImplementedError("say in backend(self, folder) how to make the backend under test")

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Backend]:
        """A further connection to the store of this test."""
        backend = self.backend(self.folder)
        await backend.open()
        try:
            yield backend
        finally:
            await backend.close()

    # -- what the tests share -------------------------------------------------------------------------------

    async def _with_something(self, backend: Backend) -> Lease:
        """A store with two instances that go on and one that is over, each with some of everything."""
        lease = await a_lease(backend)
        ids = ("a", "b", "over")
        await backend.commit(
            lease,
            Commit(
                new=[an_instance(each, wake_us=n, tags={"of": each}) for n, each in enumerate(ids)],
                rows=[a_row(each) for each in ids],
                heartbeats=[Heartbeat(each, 1, 1, b"1") for each in ids],
            ),
        )
        await backend.send([Outgoing(each, b"message", event_id="e") for each in ids])
        await backend.commit(lease, Commit(changes=[a_change("over", Status.COMPLETED)]))
        late = Heartbeat("over", 1, 1, b"late")  # of an attempt that has not heard of it
        await backend.commit(lease, Commit(heartbeats=[late]))
        return lease

    async def _parts(self, backend: Backend) -> dict[str, Any]:
        """What a commit may hold beside new instances; all of it can be written."""
        messages = await backend.inbox(0, 100)
        return {
            "rows": [a_row("a", 2)],
            "changes": [a_change("a", Status.FAILED), a_change("b", wake_us=99)],
            "consumed": [message.number for message in messages],
            "heartbeats": [Heartbeat("a", 1, 2, b"2"), Heartbeat("b", 2, 1, b"2")],
        }

    async def _everything(self, backend: Backend) -> object:
        """All that can be asked of a store, to be compared."""
        records = await backend.list_records(Query(limit=1_000))
        ids = sorted(record.id for record in records)
        return (
            records,
            sorted(await backend.load(ids), key=lambda item: item.record.id),
            await backend.inbox(0, 1_000),
            await backend.due((-1, ""), 1_000_000, 1_000),
            [[r.id for r in await backend.list_records(Query(tags={"of": each}))] for each in ids],
            [await backend.last_row(each) for each in ids],
        )


async def a_lease(backend: Backend, ttl_us: int = LEASE_US) -> Lease:
    """The lease of a store that nobody works for."""
    lease = await backend.acquire("worker", ttl_us, 0)
    assert lease is not None
    return lease
