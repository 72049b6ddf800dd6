"""User code inside a transaction of the store: all or nothing with its message, and fenced as a commit is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from durableflow.backends.base import Backend, Commit, Message, Outgoing
from durableflow.errors import LeaseLost, TransactionMisused
from durableflow.model.status import Status
from durableflow.testing.contract.store import (
    LEASE_US,
    StoreContract,
    a_change,
    a_lease,
    an_instance,
    contract,
    refused,
)


class _Mistake(Exception):
    """What user code raises."""


def _write(value: str) -> Any:
    def work(connection: Any, _: Sequence[Message]) -> bytes:
        connection.execute("create table if not exists notes (text varchar(20) not null)")
        connection.execute(f"insert into notes values ('{value}')")  # noqa: S608  # of the tests below
        return value.encode()

    return work


def _fail(connection: Any, waiting: Sequence[Message]) -> bytes:
    _write("failed")(connection, waiting)
    raise _Mistake


async def _notes(backend: Backend, lease: Any) -> list[str]:
    """What is in the user's table; the message that asks is another one in the inbox of "a"."""
    found: list[str] = []

    def look(connection: Any, _: Sequence[Message]) -> bytes:
        connection.execute("create table if not exists notes (text varchar(20) not null)")
        found.extend(text for (text,) in connection.execute("select text from notes").fetchall())
        return b"looked"

    await backend.transact(lease, "a", look)
    return found


class TransactingContract(StoreContract):
    """See `BackendContract`."""

    @contract
    async def test_user_code_writes_together_with_its_message(self, backend: Backend) -> None:
        """It sees what waits for the instance, and the message comes behind that."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("b")]))
        await backend.send([Outgoing("b", b"other"), Outgoing("a", b"first")])
        if not backend.supports_transactions:
            with refused(TransactionMisused):
                await backend.transact(lease, "a", _write("one"))
            return
        seen: list[bytes] = []

        def work(connection: Any, waiting: Sequence[Message]) -> bytes:
            seen.extend(message.data for message in waiting)
            data: bytes = _write("one")(connection, waiting)
            return data

        assert (await backend.transact(lease, "a", work)).outcome == "delivered"
        assert seen == [b"first"]
        assert [message.data for message in await backend.inbox(0, 10)] == [b"other", b"first", b"one"]
        assert await _notes(backend, lease) == ["one"]

    @contract
    async def test_user_code_that_raises_writes_nothing(self, backend: Backend) -> None:
        """And its own exception comes back."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a")]))
        if not backend.supports_transactions:
            return
        with refused(_Mistake):
            await backend.transact(lease, "a", _fail)
        assert await backend.inbox(0, 10) == []
        assert await _notes(backend, lease) == []

    @contract
    async def test_user_code_is_not_called_for_who_may_not_write(self, backend: Backend) -> None:
        """A worker that was taken over, an instance that is missing or over."""
        stale = await a_lease(backend)
        lease = await backend.acquire("next", LEASE_US, LEASE_US + 1)
        assert lease is not None
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("over")]))
        await backend.commit(lease, Commit(changes=[a_change("over", Status.CANCELLED)]))
        if not backend.supports_transactions:
            return
        with refused(LeaseLost):
            await backend.transact(stale, "a", _write("stale"))
        assert (await backend.transact(lease, "nobody", _write("nobody"))).outcome == "missing"
        result = await backend.transact(lease, "over", _write("over"))
        assert (result.outcome, result.record) == ("over", await backend.record("over"))
        assert await backend.inbox(0, 10) == []
        assert await _notes(backend, lease) == []

    @contract
    async def test_a_cancelled_caller_does_not_cut_user_code_in_half(self, backend: Backend) -> None:
        """What it wrote and its message are both there, or neither."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a")]))
        if not backend.supports_transactions:
            return
        for n in range(20):
            task = asyncio.ensure_future(backend.transact(lease, "a", _write(f"{n}")))
            await asyncio.sleep(0.0005 * (n % 5))
            task.cancel()
            await asyncio.wait([task])
        notes = await _notes(backend, lease)
        assert [message.data.decode() for message in await backend.inbox(0, 100)][:-1] == notes
