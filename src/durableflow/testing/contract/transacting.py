"""User code inside a transaction of the store: all or nothing with its message, and fenced as a commit is.

What user code does here is a script that yields statements and is sent rows. On a store whose user code is plain they
are executed by `connection.execute(sql).fetchall()`, where it is async by `await connection.fetch(sql)`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from hashlib import blake2b
from typing import Any, TypeAlias, cast

from durableflow.backends.base import Backend, Commit, Lease, Message, Outgoing, UserWork
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

Script: TypeAlias = Callable[[Sequence[Message]], Generator[str, list[Sequence[Any]], bytes]]


class _Mistake(Exception):
    """What user code raises."""


def _as_work(backend: Backend, script: Script) -> UserWork:
    """The script, in the form that the store calls."""

    def plain(connection: Any, waiting: Sequence[Message]) -> bytes:
        steps = script(waiting)
        rows: list[Sequence[Any]] | None = None
        while True:
            try:
                sql = steps.send(cast("list[Sequence[Any]]", rows))
            except StopIteration as end:
                return cast("bytes", end.value)
            rows = [tuple(row) for row in connection.execute(sql).fetchall()]

    async def awaited(connection: Any, waiting: Sequence[Message]) -> bytes:
        steps = script(waiting)
        rows: list[Sequence[Any]] | None = None
        while True:
            try:
                sql = steps.send(cast("list[Sequence[Any]]", rows))
            except StopIteration as end:
                return cast("bytes", end.value)
            rows = [tuple(row) for row in await connection.fetch(sql)]

    return awaited if backend.user_work == "async" else plain


class TransactingContract(StoreContract):
    """See `BackendContract`."""

    def _notes(self) -> str:
        """A table of the user's; several stores may share a database."""
        return f"notes_{blake2b(str(self.folder).encode(), digest_size=8).hexdigest()}"

    def _write(self, value: str) -> Script:
        def script(_: Sequence[Message]) -> Generator[str, list[Sequence[Any]], bytes]:
            yield f"insert into {self._notes()} values ('{value}')"  # noqa: S608  # of the tests below
            return value.encode()

        return script

    async def _transact(self, backend: Backend, lease: Lease, instance_id: str, script: Script) -> str:
        return (await backend.transact(lease, instance_id, _as_work(backend, script))).outcome

    async def _with_notes(self, backend: Backend, *ids: str) -> Lease | None:
        """A worker with these instances and one for the notes; None where user code has no database."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance(each) for each in (*ids, "notes")]))
        if backend.user_work is None:
            with refused(TransactionMisused):
                await self._transact(backend, lease, "notes", self._write("one"))
            return None

        def make(_: Sequence[Message]) -> Generator[str, list[Sequence[Any]], bytes]:
            yield f"create table {self._notes()} (text varchar(20) not null)"
            return b"made"

        assert await self._transact(backend, lease, "notes", make) == "delivered"
        return lease

    async def _read_notes(self, backend: Backend, lease: Lease) -> list[str]:
        """What is in the user's table."""
        found: list[str] = []

        def look(_: Sequence[Message]) -> Generator[str, list[Sequence[Any]], bytes]:
            rows = yield f"select text from {self._notes()} order by text"  # noqa: S608  # of this file
            found.extend(text for (text,) in rows)
            return b"looked"

        await self._transact(backend, lease, "notes", look)
        return found

    async def _told(self, backend: Backend) -> list[bytes]:
        """What instances other than that of the notes are told, in order."""
        return [each.data for each in await backend.inbox(0, 100) if each.instance_id != "notes"]

    @contract
    async def test_user_code_writes_together_with_its_message(self, backend: Backend) -> None:
        """It sees what waits for the instance, and the message comes behind that."""
        lease = await self._with_notes(backend, "a", "b")
        if lease is None:
            return
        await backend.send([Outgoing("b", b"other"), Outgoing("a", b"first")])
        seen: list[bytes] = []

        def script(waiting: Sequence[Message]) -> Generator[str, list[Sequence[Any]], bytes]:
            seen.extend(message.data for message in waiting)
            return (yield from self._write("one")(waiting))

        assert await self._transact(backend, lease, "a", script) == "delivered"
        assert seen == [b"first"]
        assert await self._told(backend) == [b"other", b"first", b"one"]
        assert await self._read_notes(backend, lease) == ["one"]

    @contract
    async def test_user_code_that_raises_writes_nothing(self, backend: Backend) -> None:
        """And its own exception comes back."""
        lease = await self._with_notes(backend, "a")
        if lease is None:
            return

        def fail(waiting: Sequence[Message]) -> Generator[str, list[Sequence[Any]], bytes]:
            yield from self._write("failed")(waiting)
            raise _Mistake

        with refused(_Mistake):
            await self._transact(backend, lease, "a", fail)
        assert await self._told(backend) == []
        assert await self._read_notes(backend, lease) == []

    @contract
    async def test_user_code_of_another_form_writes_nothing(self, backend: Backend) -> None:
        """A plain function where the store awaits, or the other way round, is refused."""
        lease = await self._with_notes(backend, "a")
        if lease is None:
            return

        def plain(_: Any, __: Sequence[Message]) -> bytes:
            return b"plain"

        async def awaited(_: Any, __: Sequence[Message]) -> bytes:
            return b"awaited"

        with refused(TransactionMisused):
            await backend.transact(lease, "a", plain if backend.user_work == "async" else awaited)
        assert await self._told(backend) == []

    @contract
    async def test_user_code_is_not_called_for_who_may_not_write(self, backend: Backend) -> None:
        """A worker that was declared dead, an instance that is missing or over."""
        stale = await a_lease(backend, 1)
        lease = await backend.acquire("next", LEASE_US, 2)
        assert lease is not None
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("over")]))
        await backend.commit(lease, Commit(changes=[a_change("over", Status.CANCELLED)]))
        if backend.user_work is None:
            return
        called: list[str] = []

        def script(_: Sequence[Message]) -> Generator[str, list[Sequence[Any]], bytes]:
            called.append("called")
            yield "select 1"
            return b"message"

        with refused(LeaseLost):
            await self._transact(backend, stale, "a", script)
        assert await self._transact(backend, lease, "nobody", script) == "missing"
        result = await backend.transact(lease, "over", _as_work(backend, script))
        assert (result.outcome, result.record) == ("over", await backend.record("over"))
        assert (called, await backend.inbox(0, 10)) == ([], [])

    @contract
    async def test_a_cancelled_caller_does_not_cut_user_code_in_half(self, backend: Backend) -> None:
        """What it wrote and its message are both there, or neither."""
        lease = await self._with_notes(backend, "a")
        if lease is None:
            return
        for n in range(20):
            task = asyncio.ensure_future(self._transact(backend, lease, "a", self._write(f"{n:02}")))
            await asyncio.sleep(0.0005 * (n % 5))
            task.cancel()
            await asyncio.wait([task])
        assert await self._transact(backend, lease, "a", self._write("the last")) == "delivered"
        await asyncio.sleep(0.05)  # those that nobody waits for any more
        notes = await self._read_notes(backend, lease)
        assert notes[-1] == "the last"
        assert sorted(data.decode() for data in await self._told(backend)) == notes
