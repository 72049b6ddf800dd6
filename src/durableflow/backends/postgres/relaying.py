"""Messages to and from other stores: the outbox, and what has been delivered, in their tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from durableflow.backends.base import Outgoing
from durableflow.backends.postgres.database import Connection
from durableflow.backends.postgres.store import Store
from durableflow.backends.relaying import (
    OutboxRow,
    Outcome,
    RelayHold,
    Settled,
    answer_of,
    dump_message,
    load_message,
)
from durableflow.errors import LeaseLost

_PUT_OUT: Final = "insert into {s}.outbox (message) values ($1)"
_ANSWER: Final = """
    insert into {s}.inbox (instance, data) select $1, $2 where exists (select 1 from {s}.instances where id = $1)
"""
_TAKE_UP: Final = """
    insert into {s}.relays as r (source, epoch) values ($1, 1)
    on conflict (source) do update set epoch = r.epoch + 1 returning epoch
"""


class Relaying(Store):
    """The part of the backend that talks to other stores."""

    async def _put_out(self, connection: Connection, messages: Sequence[Outgoing]) -> None:
        await connection.executemany(self._sql(_PUT_OUT), [(dump_message(message),) for message in messages])

    async def read_outbox(self, after: int, limit: int) -> list[OutboxRow]:
        """See `RelayStore.read_outbox`."""
        sql = "select number, message from {s}.outbox where number > $1 order by number limit $2"
        return [OutboxRow(number, load_message(data)) for number, data in await self._read(sql, after, limit)]

    async def settle(self, settled: Sequence[Settled]) -> None:
        """See `RelayStore.settle`."""

        async def work(connection: Connection) -> list[str]:
            told: list[str] = []
            for number, outcome in settled:
                data = await connection.fetchval(
                    self._sql("delete from {s}.outbox where number = $1 returning message"), number
                )
                message = None if data is None else load_message(data)
                answer = None if message is None else answer_of(message, outcome)
                if message is not None and answer is not None:
                    await connection.execute(self._sql(_ANSWER), message.sender, answer)
                    told.append(message.sender)
            return told

        await self._hint_owners(await self._transaction(work))

    async def take_up_relay(self, source: str) -> RelayHold:
        """See `RelayStore.take_up_relay`."""

        async def work(connection: Connection) -> RelayHold:
            epoch = await connection.fetchval(self._sql(_TAKE_UP), source)
            rows = await connection.fetch(
                self._sql("select number from {s}.delivered where source = $1 order by number"), source
            )
            return RelayHold(source, epoch, [number for (number,) in rows])

        return await self._transaction(work)

    async def _check_relay(self, connection: Connection, hold: RelayHold) -> None:
        epoch = await connection.fetchval(
            self._sql("select epoch from {s}.relays where source = $1 for update"), hold.source
        )
        if epoch != hold.epoch:
            raise LeaseLost(f"relay {hold.epoch} from {hold.source} was followed by another one; nothing was written")

    async def deliver(self, hold: RelayHold, rows: Sequence[OutboxRow]) -> list[Outcome]:
        """See `RelayStore.deliver`."""

        async def work(connection: Connection) -> list[Outcome]:
            await self._check_relay(connection, hold)
            found = await connection.fetch(
                self._sql("select number, outcome from {s}.delivered where source = $1 and number = any($2::bigint[])"),
                hold.source,
                [row.number for row in rows],
            )
            known: dict[int, Outcome] = dict(map(tuple, found))
            for number, message in rows:
                if number not in known:
                    (outcome,) = await self._send_in(connection, [message])
                    known[number] = cast("Outcome", outcome)
                    await connection.execute(
                        self._sql("insert into {s}.delivered (source, number, outcome) values ($1, $2, $3)"),
                        hold.source,
                        number,
                        outcome,
                    )
            return [known[row.number] for row in rows]

        outcomes = await self._transaction(work)
        await self._hint_owners([row.message.instance_id for row in rows])
        return outcomes

    async def forget_delivered(self, hold: RelayHold, numbers: Sequence[int]) -> None:
        """See `RelayStore.forget_delivered`."""

        async def work(connection: Connection) -> None:
            await self._check_relay(connection, hold)
            await connection.execute(
                self._sql("delete from {s}.delivered where source = $1 and number = any($2::bigint[])"),
                hold.source,
                list(numbers),
            )

        await self._transaction(work)

    async def count_relayed(self) -> int:
        """See `RelayStore.count_relayed`."""
        ((count,),) = await self._read(
            "select (select count(*) from {s}.outbox) + (select count(*) from {s}.delivered)"
        )
        return int(count)
