"""What each noun of the backend works with: the database, its schema, and messages in a transaction of the caller's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from durableflow.backends.base import InstanceRecord, Lease, Outgoing
from durableflow.backends.postgres.commit import SEND_ARRAYS, brings_tasks, places, send_arrays
from durableflow.backends.postgres.database import Connection, Database, Refused
from durableflow.backends.postgres.functions import FENCED
from durableflow.backends.postgres.records import as_record
from durableflow.backends.rows import RECORD_COLUMNS
from durableflow.errors import LeaseLost, StorageError

T = TypeVar("T")

_SEND: Final = f"select {{s}}.send({places(SEND_ARRAYS, 2)}, $1::bigint)"
_FENCE: Final = "select 1 from {s}.workers where id = $1 for key share"


class Store:
    """The database of a store, and the schema in it that is the store's own."""

    _database: Database
    _schema: str
    """Quoted."""

    def _sql(self, template: str) -> str:
        return template.format(s=self._schema)

    async def _read(self, template: str, *parameters: object) -> Sequence[Any]:
        return await self._database.read(self._sql(template), *parameters)

    async def _write(self, template: str, *parameters: object) -> Sequence[Any]:
        return await self._database.write(self._sql(template), *parameters)

    async def _transaction(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        return await self._database.transaction(work)

    def _hint(self, words: Sequence[str]) -> None:
        """Have others told, soon."""
        raise NotImplementedError

    # -- in a transaction of the caller's -------------------------------------------------------------------

    async def _fence(self, connection: Connection, lease: Lease) -> None:
        """Raises `LeaseLost` for a worker that was declared dead; until the end of the transaction it is not."""
        if await connection.fetchval(self._sql(_FENCE), lease.worker_id) is None:
            raise lease_lost(lease)

    async def _send_in(self, connection: Connection, messages: Sequence[Outgoing]) -> list[str]:
        """Write messages, each or its refusal; what became of them."""
        if not messages:
            return []
        outcomes: list[str] = await connection.fetchval(self._sql(_SEND), None, *send_arrays(messages))
        return outcomes

    async def _record_in(self, connection: Connection, instance_id: str, lock: str = "") -> InstanceRecord | None:
        row = await connection.fetchrow(
            self._sql(f"select {RECORD_COLUMNS} from {{s}}.instances where id = $1 {lock}"), instance_id
        )
        return None if row is None else as_record(row)

    async def _hint_owners(self, instance_ids: Sequence[str]) -> None:
        """Tell the owners of these that there is something for them."""
        try:
            rows = await self._read("select distinct owner from {s}.instances where id = any($1::text[])", instance_ids)
        except StorageError:
            return  # they look now and then all the same
        self._hint(owner_words([owner for (owner,) in rows]))

    def _hint_tasks(self, messages: Sequence[Outgoing]) -> None:
        """Tell those who admit instances, if one of those that these make waits for that."""
        if brings_tasks(messages):
            self._hint(["t"])


def owner_words(owners: Iterable[int | None]) -> list[str]:
    """How a hint tells the owners of instances that there are messages; None is nobody."""
    return ["o" if owner is None else f"w{owner}" for owner in owners]


def lease_lost(lease: Lease) -> LeaseLost:
    """What a worker is told whose row is gone."""
    return LeaseLost(f"worker {lease.worker_id} was declared dead: its instances are others' now, nothing was written")


def is_fenced(error: Refused) -> bool:
    """Whether the server refused because the worker was declared dead."""
    return error.state == FENCED
