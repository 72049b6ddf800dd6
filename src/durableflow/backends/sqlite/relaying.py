"""Messages to and from other stores: the outbox, and what has been delivered, in their tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from durableflow.backends.relaying import (
    KeptMap,
    OutboxRow,
    Outcome,
    RelayHold,
    Settled,
    answer_of,
    load_message,
)
from durableflow.backends.sqlite.inbox import send_one
from durableflow.backends.sqlite.rewriting import go_on
from durableflow.backends.sqlite.thread import ConnectionThread
from durableflow.errors import LeaseLost

T = TypeVar("T")


class RelayTables:
    """What `SqliteBackend` is besides: a store that talks to others."""

    async def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        raise NotImplementedError

    def _connection(self) -> ConnectionThread:
        raise NotImplementedError

    async def read_outbox(self, after: int, limit: int) -> list[OutboxRow]:
        """See `RelayStore.read_outbox`."""
        return await self._connection().call(_read_outbox, after, limit)

    async def settle(self, settled: Sequence[Settled]) -> None:
        """See `RelayStore.settle`."""
        await self._write(partial(_settle, settled=settled))

    async def count_relayed(self) -> int:
        """See `RelayStore.count_relayed`."""
        return await self._connection().call(_count_relayed)

    async def read_map(self) -> KeptMap | None:
        """See `RelayStore.read_map`."""
        return await self._connection().call(_read_map)

    async def keep_map(self, kept: KeptMap, before: KeptMap | None) -> KeptMap | None:
        """See `RelayStore.keep_map`."""
        return await self._write(partial(_keep_map, kept=kept, before=before))

    async def take_up_relay(self, source: str) -> RelayHold:
        """See `RelayStore.take_up_relay`."""
        return await self._write(partial(_take_up, source=source))

    async def deliver(self, hold: RelayHold, rows: Sequence[OutboxRow]) -> list[Outcome]:
        """See `RelayStore.deliver`."""
        return await self._write(partial(_deliver, hold=hold, rows=rows))

    async def forget_delivered(self, hold: RelayHold, numbers: Sequence[int]) -> None:
        """See `RelayStore.forget_delivered`."""
        await self._write(partial(_forget, hold=hold, numbers=numbers))


def _read_outbox(connection: sqlite3.Connection, after: int, limit: int) -> list[OutboxRow]:
    rows = connection.execute(
        "select number, message from outbox where number > ? order by number limit ?", (after, limit)
    )
    return [OutboxRow(number, load_message(data)) for number, data in rows]


def _settle(connection: sqlite3.Connection, settled: Sequence[Settled]) -> None:
    for number, outcome in settled:
        row = connection.execute("select message from outbox where number = ?", (number,)).fetchone()
        if row is None:
            continue
        connection.execute("delete from outbox where number = ?", (number,))
        message = load_message(row[0])
        answer = answer_of(message, outcome)
        if answer is not None:
            connection.execute(
                "insert into inbox (instance, data) select ?1, ?2 where exists (select 1 from instances where id = ?1)",
                (message.sender, answer),
            )


def _count_relayed(connection: sqlite3.Connection) -> int:
    sql = "select (select count(*) from outbox) + (select count(*) from delivered)"
    count: int = connection.execute(sql).fetchone()[0]
    return count


def _read_map(connection: sqlite3.Connection) -> KeptMap | None:
    row = connection.execute("select shard, map from shard_map").fetchone()
    return None if row is None else KeptMap(*row)


def _keep_map(connection: sqlite3.Connection, kept: KeptMap, before: KeptMap | None) -> KeptMap | None:
    there = _read_map(connection)
    if there == before:
        connection.execute("delete from shard_map")
        connection.execute("insert into shard_map (shard, map) values (?, ?)", kept)
        return None
    return None if there == kept else there


def _take_up(connection: sqlite3.Connection, source: str) -> RelayHold:
    connection.execute("insert or ignore into relays (source, epoch) values (?, 0)", (source,))
    connection.execute("update relays set epoch = epoch + 1 where source = ?", (source,))
    (epoch,) = connection.execute("select epoch from relays where source = ?", (source,)).fetchone()
    rows = connection.execute("select number from delivered where source = ? order by number", (source,))
    return RelayHold(source, epoch, [number for (number,) in rows])


def _check_relay(connection: sqlite3.Connection, hold: RelayHold) -> None:
    row = connection.execute("select epoch from relays where source = ?", (hold.source,)).fetchone()
    if row is None or row[0] != hold.epoch:
        raise LeaseLost(f"relay {hold.epoch} from {hold.source} was followed by another one; nothing was written")


def _deliver(connection: sqlite3.Connection, hold: RelayHold, rows: Sequence[OutboxRow]) -> list[Outcome]:
    _check_relay(connection, hold)
    outcomes: list[Outcome] = []
    for number, message in rows:
        key = (hold.source, number)
        known = connection.execute("select outcome from delivered where source = ? and number = ?", key).fetchone()
        if known is None:
            is_history = bool(message.rewrites)
            outcomes.append(
                go_on(connection, message.rewrites) if is_history else send_one(connection, message).outcome
            )
            connection.execute("insert into delivered (source, number, outcome) values (?, ?, ?)", (*key, outcomes[-1]))
        else:
            outcomes.append(known[0])
    return outcomes


def _forget(connection: sqlite3.Connection, hold: RelayHold, numbers: Sequence[int]) -> None:
    _check_relay(connection, hold)
    connection.executemany(
        "delete from delivered where source = ? and number = ?", [(hold.source, number) for number in numbers]
    )
