"""User code inside a transaction of the store, several of them at once, each on a connection that it is lent.

1. One BEGIN and one COMMIT, both ours. What user code is lent refuses every other (see `lent.py`).
2. The fence is taken at the end, in one message with the COMMIT: to declare a worker dead never waits for user code,
   and a commit that got through was before that. Whoever takes the instance over afterwards reads its message.
3. The instance must still be the worker's then, and its row is locked like the fence: handing it over waits, too.
4. A transaction whose COMMIT was not answered has a number, and the server knows what became of it. Until it says so,
   nobody may take it for undone: its attempt would be made again, and then both be committed.
5. Isolation is "read committed": the fence is a row that changes with each sign of life.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from durableflow.backends.base import Lease, Message, SendResult, UserWork
from durableflow.backends.postgres.database import Connection
from durableflow.backends.postgres.functions import FENCED
from durableflow.backends.postgres.lanes import DRIVER_ERRORS, Lanes, Verdict, is_gone, verdict
from durableflow.backends.postgres.lent import LentConnection
from durableflow.backends.postgres.store import Store, lease_lost
from durableflow.backends.postgres.user_functions import BEGIN, ELSEWHERE, FATE, TRESPASSED
from durableflow.errors import CommitOutcomeUnknown, EngineClosed, StorageError, TransactionMisused

_IDLE_MIN_MS: Final = 1_000
"""A lease that is nearly over does not make the server end what has just begun."""
_ANSWER_S: Final = 20.0
_ROLLBACK_S: Final = 5.0
_ASK_AGAIN_S: Final = 0.2


class _Begun(NamedTuple):
    """What is known when user code begins."""

    session: int
    number: int
    touched: int
    is_alive: bool
    idle: str
    idle_ms: int
    numbers: Sequence[int] | None
    bodies: Sequence[bytes] | None

    def waiting(self, instance_id: str) -> list[Message]:
        """The messages of the instance that no turn has taken."""
        pairs = zip(self.numbers or (), self.bodies or (), strict=True)
        return [Message(number, instance_id, data) for number, data in pairs]


class UserTransactions(Store):
    """The part of the backend that runs user code."""

    _lanes: Lanes
    _is_open: bool

    def _hint_soon(self, instance_ids: Sequence[str]) -> None:
        raise NotImplementedError

    async def transact(self, lease: Lease, instance_id: str, work: UserWork) -> SendResult:
        """See `Backend.transact`."""
        return await self._database.to_its_end(self._transact(lease, instance_id, work))

    async def _transact(self, lease: Lease, instance_id: str, work: UserWork) -> SendResult:
        connection = await self._lanes.borrow()
        transaction = connection.transaction(isolation="read_committed")
        lent = LentConnection(connection, self._schema)
        try:
            begun, result = await self._begin(connection, transaction, lease, instance_id)
            if result.outcome != "delivered":
                return result
            data = await self._call(connection, lent, work, begun, instance_id)
            if not await self._conclude(connection, transaction, lease, instance_id, data, begun, lent):
                return await self._why_not(instance_id)
        finally:
            await self._end(connection, transaction)
        self._hint_soon([instance_id, *lent.told])
        return result

    async def _begin(
        self, connection: Connection, transaction: Connection, lease: Lease, instance_id: str
    ) -> tuple[_Begun, SendResult]:
        """The result is that of a success, if user code may be called."""
        facts = (lease.worker_id, instance_id, lease.expires_us, _IDLE_MIN_MS)
        try:
            async with asyncio.timeout(_ANSWER_S):
                await transaction.start()
                begun = _Begun(*await connection.fetchrow(self._sql(BEGIN), *facts))
                record = await self._record_in(connection, instance_id)
        except DRIVER_ERRORS as error:
            told = str(error) or type(error).__name__
            raise StorageError(f"{self._database}: {told}; nothing was written") from error
        if not begun.is_alive:
            raise lease_lost(lease)
        if record is None or record.status.is_terminal:
            return begun, SendResult("missing" if record is None else "over", record)
        if self._database.hook is not None:
            self._database.hook("begin")
        return begun, SendResult("delivered", record)

    async def _call(
        self, connection: Connection, lent: LentConnection, work: UserWork, begun: _Begun, instance_id: str
    ) -> bytes:
        """User code, and what its errors mean."""
        try:
            answer = work(lent, begun.waiting(instance_id))
            if not inspect.isawaitable(answer):
                raise TransactionMisused("user code that writes to a store in Postgres is awaited: write async def")
            data = await answer
        except DRIVER_ERRORS as error:
            if is_gone(connection):
                raise self._loss(lent, begun) from error
            if verdict(error, connection) is Verdict.AGAIN:
                raise StorageError(f"{self._database}: {error}; nothing was written") from error
            raise
        finally:
            lent.take_back()
        if is_gone(connection):
            raise self._loss(lent, begun)
        return data

    def _loss(self, lent: LentConnection, begun: _Begun) -> Exception:
        """Why the connection is lost: an attempt that brings that about itself has failed, any other has not."""
        silent_s = asyncio.get_running_loop().time() - lent.asked_s
        if silent_s * 1_000 < begun.idle_ms:
            return StorageError(f"{self._database}: the connection was lost; nothing was written")
        return TimeoutError(
            f"a transactional activity asked nothing of its connection for {silent_s:.1f} s, and the server ended its "
            f"transaction after {begun.idle_ms / 1_000:.1f} s, the rest of its worker's lease: do what takes long in "
            "another activity"
        )

    async def _conclude(
        self,
        connection: Connection,
        transaction: Connection,
        lease: Lease,
        instance_id: str,
        data: bytes,
        begun: _Begun,
        lent: LentConnection,
    ) -> bool:
        """Commit, with the message; False when the instance is not to be told."""
        hook = self._database.hook
        if hook is not None:
            hook("before commit")
        # Texts are spelled in hexadecimal: they are the same whatever user code has set.
        connection.put_before_commit(
            self._sql(
                f"select {{s}}.conclude({int(lease.worker_id)}, "
                f"convert_from(decode('{instance_id.encode().hex()}', 'hex'), 'UTF8'), "
                f"decode('{data.hex()}', 'hex'), {begun.touched}, {lent.written})"
            )
        )
        try:
            async with asyncio.timeout(_ANSWER_S):
                await transaction.commit()
            if hook is not None:
                hook("after commit")
        except Exception as error:
            kind = verdict(error, connection)
            if kind.is_refusal:
                return self._judge(error, kind, lease)
            if not is_gone(connection):
                connection.terminate()
            if not await self._is_committed(begun):
                raise StorageError(f"{self._database}: the commit did not arrive; nothing was written") from error
        return True

    def _judge(self, error: Exception, kind: Verdict, lease: Lease) -> bool:
        """What it means that the server refused to commit; False when that is no error."""
        state = getattr(error, "sqlstate", None)
        if state == ELSEWHERE:
            return False
        if state == FENCED:
            raise lease_lost(lease) from error
        if state == TRESPASSED:
            tables = getattr(error, "detail", None) or "a table"
            raise TransactionMisused(
                f"a transactional activity wrote to {tables} of durableflow's own, or locked it: to start instances "
                "and raise events in its transaction use durableflow.AsyncOutbox(connection)"
            ) from error
        if kind is Verdict.UNFIT:
            raise TransactionMisused(
                f"a transactional activity left a transaction that cannot be committed ({error}): let errors through, "
                "or do what may fail inside 'async with db.transaction()'"
            ) from error
        if kind is Verdict.BUSY:
            raise TransactionMisused(
                "a transactional activity ended while its connection was at work: await all that it begins"
            ) from error
        if kind is Verdict.USERS:  # a deferred constraint: the user's rows do not fit
            raise error
        raise StorageError(f"{self._database}: {error}; nothing was written") from error

    async def _is_committed(self, begun: _Begun) -> bool:
        """What became of a transaction whose COMMIT was not answered, asked until the server knows.

        Raises:
            CommitOutcomeUnknown: this store was closed before that.
        """
        while self._is_open:
            try:
                ((status, _),) = await self._read(FATE, begun.number, begun.session)
            except EngineClosed:
                break
            except StorageError:
                status = "in progress"
            if status != "in progress":
                return bool(status == "committed")
            await asyncio.sleep(_ASK_AGAIN_S)
        raise CommitOutcomeUnknown(f"{self._database}: the commit did not answer before the store was closed")

    async def _why_not(self, instance_id: str) -> SendResult:
        rows = await self._database.moment(lambda connection: self._record_in(connection, instance_id))
        return SendResult("over" if rows is not None and rows.status.is_terminal else "missing", rows)

    async def _end(self, connection: Connection, transaction: Connection) -> None:
        """Nothing is under way, nothing is locked, when this returns."""
        if not is_gone(connection):
            with suppress(*DRIVER_ERRORS):
                async with asyncio.timeout(_ROLLBACK_S):
                    with suppress(*DRIVER_ERRORS):  # it is none any more for the driver, when its COMMIT was refused
                        await transaction.rollback()
                    if connection.is_in_transaction():
                        await connection.execute("rollback")
        self._lanes.give_back(connection)
