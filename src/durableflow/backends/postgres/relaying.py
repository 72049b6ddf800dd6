"""Messages to and from other stores: the outbox, and what has been delivered, in their tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final, cast

from durableflow.backends.base import Outgoing
from durableflow.backends.postgres.database import Connection
from durableflow.backends.postgres.store import Store
from durableflow.backends.relaying import (
    KeptMap,
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
    insert into {s}.inbox (instance, data)
    select sender, data from unnest($1::text[], $2::bytea[]) with ordinality as a (sender, data, place)
    where exists (select 1 from {s}.instances where id = sender) order by place
"""
_REMEMBER: Final = """
    insert into {s}.delivered (source, number, outcome) select $1, d.* from unnest($2::bigint[], $3::text[]) as d
"""
_TAKE_UP: Final = """
    insert into {s}.relays as r (source, epoch) values ($1, 1)
    on conflict (source) do update set epoch = r.epoch + 1 returning epoch
"""


_KEEP: Final = "insert into {s}.shard_map (shard, map) values ($1, $2) on conflict do nothing"
_KEEP_INSTEAD: Final = "update {s}.shard_map set shard = $1, map = $2 where shard = $3 and map = $4"


class Relaying(Store):
    """The part of the backend that talks to other stores."""

    async def _put_out(self, connection: Connection, messages: Sequence[Outgoing]) -> None:
        await connection.executemany(self._sql(_PUT_OUT), [(dump_message(message),) for message in messages])

    async def _go_on(self, connection: Connection, data: bytes) -> Outcome:
        """Write histories that come from another store."""
        raise NotImplementedError

    async def read_outbox(self, after: int, limit: int) -> list[OutboxRow]:
        """See `RelayStore.read_outbox`."""
        sql = "select number, message from {s}.outbox where number > $1 order by number limit $2"
        return [OutboxRow(number, load_message(data)) for number, data in await self._read(sql, after, limit)]

    async def settle(self, settled: Sequence[Settled]) -> None:
        """See `RelayStore.settle`."""

        async def work(connection: Connection) -> list[str]:
            gone = await connection.fetch(
                self._sql("delete from {s}.outbox where number = any($1::bigint[]) returning number, message"),
                [number for number, _ in settled],
            )
            messages = {number: load_message(data) for number, data in gone}
            answers = [
                (message.sender, answer)
                for number, outcome in settled
                if (message := messages.pop(number, None)) is not None
                and (answer := answer_of(message, outcome)) is not None
            ]
            senders = [sender for sender, _ in answers]
            if answers:
                await connection.execute(self._sql(_ANSWER), senders, [answer for _, answer in answers])
            return senders

        await self._hint_owners(await self._transaction(work))

    async def read_map(self) -> KeptMap | None:
        """See `RelayStore.read_map`."""
        rows = await self._read("select shard, map from {s}.shard_map")
        return KeptMap(*rows[0]) if rows else None

    async def keep_map(self, kept: KeptMap, before: KeptMap | None) -> KeptMap | None:
        """See `RelayStore.keep_map`."""

        async def work(connection: Connection) -> KeptMap | None:
            if before is None:
                await connection.execute(self._sql(_KEEP), *kept)
            else:
                await connection.execute(self._sql(_KEEP_INSTEAD), *kept, *before)
            row = await connection.fetchrow(self._sql("select shard, map from {s}.shard_map"))
            there = None if row is None else KeptMap(*row)
            return None if there == kept else there

        return await self._transaction(work)

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
            fresh = {row.number: row.message for row in rows if row.number not in known}
            for brings_history, group in groupby(fresh.items(), lambda each: bool(each[1].rewrites)):
                together = list(group)
                said: list[Outcome]
                if brings_history:
                    said = [await self._go_on(connection, message.rewrites) for _, message in together]
                else:
                    outcomes = await self._send_in(connection, [message for _, message in together])
                    said = [cast("Outcome", each) for each in outcomes]
                known.update(zip([number for number, _ in together], said, strict=True))
            if fresh:
                became = [known[number] for number in fresh]
                await connection.execute(self._sql(_REMEMBER), hold.source, list(fresh), became)
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
