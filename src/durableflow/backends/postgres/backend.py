"""The backend for a fleet: histories in Postgres, each instance with one worker of many."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from durableflow.backends.base import (
    ClaimedInstance,
    Commit,
    Lease,
    LoadedInstance,
    Message,
    MessagePage,
    Share,
    Topic,
    UserWorkForm,
)
from durableflow.backends.ownership import counted_us
from durableflow.backends.postgres.alerts import Alerts
from durableflow.backends.postgres.commit import (
    COMMIT_ARRAYS,
    RARE_ARRAYS,
    Array,
    has_rare,
    places,
    rare_arrays,
    touches_tasks,
    turn_arrays,
)
from durableflow.backends.postgres.database import Connection, Database, Refused, safe_url
from durableflow.backends.postgres.hints import Hints
from durableflow.backends.postgres.inbox import Horizon
from durableflow.backends.postgres.keeping import Keeping
from durableflow.backends.postgres.lanes import Lanes
from durableflow.backends.postgres.leases import (
    ACQUIRE,
    BURY,
    COUNT_OWNED,
    FORGET_TAKEOVERS,
    HAND_OVER,
    NOTE_SHARE,
    OWNED,
    OWNERS,
    RELEASE,
    RENEW,
    SHARES,
    SWEEP,
)
from durableflow.backends.postgres.loading import load
from durableflow.backends.postgres.looking import Looking
from durableflow.backends.postgres.migrating import check, migrate, no_rights, version_of
from durableflow.backends.postgres.moving import Moving
from durableflow.backends.postgres.naming import channel_of, quoted
from durableflow.backends.postgres.relaying import Relaying
from durableflow.backends.postgres.sending import Sending
from durableflow.backends.postgres.store import is_fenced, lease_lost, owner_words
from durableflow.backends.postgres.tasks import Tasks
from durableflow.backends.postgres.transact import UserTransactions
from durableflow.backends.postgres.transfers import Transfers
from durableflow.backends.postgres.windows import Windows
from durableflow.errors import AppendConflict, EngineClosed, InstancesExist, StorageError, UsageError

_SETTINGS: Final = {
    "application_name": "durableflow",
    "jit": "off",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "default_transaction_isolation": "read committed",
    "client_min_messages": "warning",
}
"""Plans of tables that have just been made are bad ones, and are kept."""

_UNIQUE: Final = "23505"
_TRIES: Final = 10
_IN_THE_WAY: Final = "select taken, written from {s}.in_the_way($1::text[], $2::text[], $3::text[], $4::bigint[])"
_COMMIT: Final = f"select {{s}}.commit_turns($1::bigint, {places(COMMIT_ARRAYS, 2)})"
_COMMIT_ALL: Final = (
    f"with turns as materialized (select {{s}}.commit_turns($1::bigint, {places(COMMIT_ARRAYS, 2)})) "
    f"select {{s}}.commit_rare($1::bigint, {places(RARE_ARRAYS, 2 + len(COMMIT_ARRAYS))}) from turns"
)
_INBOX: Final = """
    with learnt as materialized (
        select case when d.is_called then d.last_value else 0 end as drawn from {s}.inbox_number_seq as d
    )
    select l.drawn, txid_snapshot_xmin(txid_current_snapshot())::text,
            case when $4::boolean and set_config('synchronous_commit', 'on', true) = 'on'
                and pg_logical_emit_message(true, 'durableflow', '') is not null
                then convert_to(txid_current()::text, 'UTF8') end
        from learnt as l
    union all select * from {s}.read_inbox($1::bigint, $2::bigint, $3::int)
"""
"""First the moment of the reading (see `inbox.Horizon`), then the messages."""
_WAITING: Final = "select distinct instance from {s}.inbox where instance = any($1::text[])"
_NO_RIGHTS: Final = "42501"
_CLOCK_READINGS: Final = 5
_SKEW_MAX_US: Final = 20_000
_COMMAND_TIMEOUT_S: Final = 20.0
_HINT_TIMEOUT_S: Final = 5.0
_PATIENCE_S: Final = 2.0
_RENEWAL_MIN_S: Final = 1.0
_SILENT_PART: Final = 0.9


class PostgresBackend(Sending, Keeping, Alerts, Windows, Transfers, Tasks, UserTransactions, Looking, Moving, Relaying):
    """Histories in a schema of a Postgres database.

    Args:
        url: `postgresql://user:password@host/database`, as libpq and asyncpg take it; `postgres://` too. It may have
            options of ours: `schema=durableflow`, `pooler=transaction` behind pgbouncer, and `listen=` with the
            address of the server itself, by which hints are heard when the pooler does not pass them on.

    Raises:
        UsageError: the URL says something that it cannot.
    """

    shared = True
    is_fleet = True
    user_work: UserWorkForm = "async"

    def __init__(self, url: str) -> None:
        address, options = _options(url)
        schema = options.get("schema", "durableflow")
        self._schema_name = schema
        self._schema = quoted(schema)
        self._has_pooler = options.get("pooler") == "transaction"
        self._address = address
        settings = {} if self._has_pooler else _SETTINGS
        self._database = Database(
            address,
            settings=settings,
            statement_cache_size=0 if self._has_pooler else 200,
            command_timeout_s=_COMMAND_TIMEOUT_S,
        )
        listen = options.get("listen", address)
        self._listener = Database(listen, settings={}, statement_cache_size=0, command_timeout_s=_HINT_TIMEOUT_S)
        self._hints = Hints(self._database, self._listener, channel_of(schema))
        self._lanes = Lanes(address, safe_url(address), is_pooled=self._has_pooler)
        self._waiting = []
        self._flight = None
        self._horizons: dict[int, Horizon] = {}
        self._hinted: set[asyncio.Task[None]] = set()
        self._is_open = False
        self.clock_skew_us: int | None = None

    def __repr__(self) -> str:
        return f"PostgresBackend({safe_url(self._address)!r})"

    # -- life cycle -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See `Backend.open`."""
        if self._is_open:
            raise UsageError(f"{self!r} is open already; make another backend to open the store twice")
        await self._database.open()
        try:
            connection = await self._database.connect()
            try:
                is_ready = check(await version_of(connection, self._schema), self._schema, self._database)
            finally:
                await connection.close()
            if not is_ready:
                await self._migrate()
        except BaseException:
            await self._database.close()
            raise
        await self._lanes.open()
        self._is_open = True
        await self._read_clock()
        self._hints.open()

    async def _read_clock(self) -> None:
        """Of a few readings the quickest is the nearest to the truth."""
        readings: list[tuple[int, int]] = []
        for _ in range(_CLOCK_READINGS):
            before_us = counted_us()
            ((store_us,),) = await self._read("select (extract(epoch from clock_timestamp()) * 1000000)::bigint")
            after_us = counted_us()
            readings.append((after_us - before_us, store_us - (before_us + after_us) // 2))
        self.clock_skew_us = min(readings)[1]

    async def _migrate(self) -> None:
        try:
            await self._transaction(lambda connection: migrate(connection, self._schema, self._database))
        except Refused as error:
            if error.state == _NO_RIGHTS:
                raise no_rights(self._schema, self._database, error) from error
            raise

    async def close(self) -> None:
        """See `Backend.close`."""
        if not self._is_open:
            return
        self._is_open = False
        for task in list(self._hinted):
            await asyncio.wait([task])
        await self._hints.close()
        await self._database.close()
        await self._lanes.close()
        self._horizons.clear()

    # -- who works here -------------------------------------------------------------------------------------

    async def acquire(self, name: str, ttl_us: int, now_us: int) -> Lease | None:  # noqa: ARG002  # the server's time counts
        """See `Backend.acquire`; here there is always room for one more."""
        # A worker that comes back after its lease was lost may have left calls behind that will never be answered.
        patience_s = max(_PATIENCE_S, ttl_us / 1_000_000)
        self._database.hang_up(patience_s / 2)
        try:
            async with asyncio.timeout(patience_s):
                await self.bury()
                ((worker_id,),) = await self._write(ACQUIRE, name, ttl_us)
                lease = await self.renew(Lease(worker_id, 0), ttl_us, 0)
        except TimeoutError:
            raise StorageError(f"{self._database} did not answer within the time of a lease") from None
        self._horizons[worker_id] = Horizon()
        return lease

    async def renew(self, lease: Lease, ttl_us: int, now_us: int) -> Lease:  # the server's time counts
        """See `Backend.renew`."""
        patience_s = max(_RENEWAL_MIN_S, ttl_us / 3_000_000)
        try:
            async with asyncio.timeout(patience_s):
                rows = await self._database.write_at_once(self._sql(RENEW), lease.worker_id, ttl_us)
        except TimeoutError:  # there is time for another one, by a connection that is not silent
            self._database.hang_up(_SILENT_PART * patience_s)
            raise StorageError(f"{self._database} did not answer in time to renew a lease") from None
        if not rows:
            raise lease_lost(lease)
        now_us, is_first = rows[0]
        skew_us = now_us - counted_us()
        # A little is the way of the answer that took its time.
        if self.clock_skew_us is None or abs(skew_us - self.clock_skew_us) > _SKEW_MAX_US:
            await self._read_clock()
        return Lease(lease.worker_id, now_us + ttl_us, is_first)

    async def bury(self) -> bool:
        """Declare workers dead whose lease is over; whether there were any."""
        dead = await self._write(BURY)
        if dead:
            await self._write(FORGET_TAKEOVERS)
            await self._write(SWEEP)
            self._hint(["o"])
        return bool(dead)

    async def release(self, lease: Lease) -> None:
        """See `Backend.release`."""
        await self._write(RELEASE, lease.worker_id)
        await self._write(SWEEP)
        self._horizons.pop(lease.worker_id, None)
        self._hint(["o"])

    async def claim_instances(self, lease: Lease, limit: int) -> list[ClaimedInstance]:
        """See `Backend.claim_instances`."""
        await self.bury()
        try:
            rows = await self._write("select * from {s}.claim_instances($1::bigint, $2::int)", lease.worker_id, limit)
        except Refused as error:
            raise (lease_lost(lease) if is_fenced(error) else error) from error
        # Asked when they are ours, durably: whatever appears from now on is read as ours.
        waiting = await self._read(_WAITING, [instance_id for instance_id, _ in rows]) if rows else ()
        with_messages = {instance_id for (instance_id,) in waiting}
        return [ClaimedInstance(instance_id, wake_us, instance_id in with_messages) for instance_id, wake_us in rows]

    async def hand_over(self, lease: Lease, instance_ids: Sequence[str]) -> None:
        """See `Backend.hand_over`."""
        await self._write(HAND_OVER, lease.worker_id, instance_ids)
        self._hint(["o"])

    async def share(self, lease: Lease, *, accepts: bool) -> Share:
        """See `Backend.share`."""
        ((owned,),) = await self._read(COUNT_OWNED, lease.worker_id)
        await self._write(NOTE_SHARE, lease.worker_id, owned, accepts)
        ((total, workers),) = await self._read(SHARES)
        return Share(owned, -(-total // max(1, workers)))

    async def owned(self, lease: Lease, limit: int) -> list[str]:
        """See `Backend.owned`."""
        return [instance_id for (instance_id,) in await self._read(OWNED, lease.worker_id, limit)]

    async def owners(self, instance_ids: Sequence[str]) -> dict[str, int]:
        """See `Backend.owners`."""
        return dict(await self._read(OWNERS, instance_ids))

    # -- the worker's side ----------------------------------------------------------------------------------

    async def commit(self, lease: Lease, commit: Commit) -> None:
        """See `Backend.commit`. One statement, which is its own transaction."""
        if len({new.id for new in commit.new}) != len(commit.new):
            raise InstancesExist(_doubles([new.id for new in commit.new]))
        if len({row[:2] for row in commit.rows}) != len(commit.rows):
            raise AppendConflict({instance_id for instance_id, _ in _doubles([row[:2] for row in commit.rows])})
        for tried in range(1, _TRIES + 1):
            try:
                await self._write_turns(lease, commit)
                break
            except Refused as error:
                if is_fenced(error):
                    raise lease_lost(lease) from error
                if error.state != _UNIQUE:
                    raise
                await self._raise_in_the_way(commit)
                if tried == _TRIES:
                    raise
        if commit.has_answers or commit.finished_ids() or any(c.stall_reason is not None for c in commit.changes):
            self._hints.send_end()

    async def _write_turns(self, lease: Lease, commit: Commit) -> None:
        turns = turn_arrays(commit)
        if commit.outbox:
            await self._commit_and_put_out(lease, commit, turns)
        elif has_rare(commit):
            rows = await self._database.write_in_turn(
                self._sql(_COMMIT_ALL), lease.worker_id, *turns, *rare_arrays(commit)
            )
            self._hint([*owner_words(rows[0][0]), *(["t"] if touches_tasks(commit) else [])])
        else:
            await self._database.write_in_turn(self._sql(_COMMIT), lease.worker_id, *turns)

    async def _raise_in_the_way(self, commit: Commit) -> None:
        """Raise what a commit met; return if it is gone again."""
        replaced = [new.id for new in commit.new if new.replace]
        rows = [row[:2] for row in commit.rows]
        ((taken, written),) = await self._read(
            _IN_THE_WAY, [new.id for new in commit.new], replaced, [row[0] for row in rows], [row[1] for row in rows]
        )
        if taken:
            raise InstancesExist(set(taken))
        if written:
            raise AppendConflict(set(written))

    async def _commit_and_put_out(self, lease: Lease, commit: Commit, turns: Sequence[Array]) -> None:
        async def work(connection: Connection) -> Sequence[int | None]:
            owners: Sequence[int | None] = await connection.fetchval(
                self._sql(_COMMIT_ALL), lease.worker_id, *turns, *rare_arrays(commit)
            )
            await self._put_out(connection, commit.outbox)
            return owners

        owners = await self._transaction(work)
        self._hint([*owner_words(owners), *(["t"] if touches_tasks(commit) else [])])

    async def load(self, instance_ids: Sequence[str], lease: Lease | None = None) -> list[LoadedInstance]:
        """See `Backend.load`."""
        owner = None if lease is None else lease.worker_id
        return await self._database.moment(lambda connection: load(connection, self._schema, instance_ids, owner))

    async def due(
        self, after: tuple[int, str], until_us: int, limit: int, lease: Lease | None = None
    ) -> list[tuple[int, str]]:
        """See `Backend.due`."""
        rows = await self._read(
            f"select wake_us, id from {{s}}.instances where {_whose(lease)} and finished_us is null "
            "and (wake_us, id) > ($1, $2) and wake_us < $3 order by wake_us, id limit $4",
            *after,
            until_us,
            limit,
        )
        return [(wake_us, instance_id) for wake_us, instance_id in rows]

    async def next_wake(self, from_us: int, lease: Lease | None = None) -> int | None:
        """See `Backend.next_wake`."""
        rows = await self._read(
            f"select min(wake_us) from {{s}}.instances where {_whose(lease)} and finished_us is null and wake_us >= $1",
            from_us,
        )
        found: int | None = rows[0][0]
        return found

    async def inbox(self, after: int, limit: int) -> list[Message]:
        """See `Backend.inbox`."""
        sql = "select number, instance, data from {s}.inbox where number > $1 order by number limit $2"
        return [Message(*row) for row in await self._read(sql, after, limit)]

    async def read_inbox(self, lease: Lease, after: int, limit: int) -> MessagePage:
        """See `Backend.read_inbox`."""
        horizon = self._horizons.setdefault(lease.worker_id, Horizon())
        head, *rows = await self._read(_INBOX, lease.worker_id, after, limit, horizon.is_behind(counted_us()))
        settled = horizon.look(int(head[1]), None if head[2] is None else int(head[2]), head[0])
        messages = [Message(*row) for row in rows]
        if len(messages) == limit:
            settled = min(settled, messages[-1].number)
        return MessagePage(messages, max(after, settled))

    async def wait_for_change(self, timeout_s: float, topic: Topic = "anything") -> bool:
        """See `Backend.wait_for_change`."""
        if not self._is_open:
            raise EngineClosed(f"{self!r} is not open")
        words = _WORDS[topic]
        if topic == "inbox":
            words = frozenset({"s", *(f"w{number}" for number in self._horizons)})
        return await self._hints.wait(words, timeout_s)

    # -- hints ----------------------------------------------------------------------------------------------

    def _hint(self, words: Collection[str]) -> None:
        """Tell others, and this process at once."""
        if words:
            self._hints.tell(words)
            self._hints.send(words)

    def _hint_soon(self, instance_ids: Sequence[str]) -> None:
        task = asyncio.ensure_future(self._hint_owners(instance_ids))
        self._hinted.add(task)
        task.add_done_callback(self._hinted.discard)


def _whose(lease: Lease | None) -> str:
    return "true" if lease is None else f"owner = {int(lease.worker_id)}"


def _doubles(keys: Sequence[Any]) -> set[Any]:
    return {key for key, count in Counter(keys).items() if count > 1}


def _options(url: str) -> tuple[str, dict[str, str]]:
    """The address for the driver, and what is ours of the options."""
    address, _, query = url.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    ours = {key: value for key, value in pairs if key in _OPTIONS}
    for key, allowed in _OPTIONS.items():
        if allowed and ours.get(key, allowed[0]) not in allowed:
            raise UsageError(f"{key}={ours[key]!r} in {safe_url(url)!r} is none of {', '.join(allowed)}")
    theirs = urlencode([(key, value) for key, value in pairs if key not in _OPTIONS])
    return f"{address}?{theirs}" if theirs else address, ours


_WORDS: Final[dict[Topic, frozenset[str] | None]] = {
    "anything": None,
    "inbox": frozenset(),
    "orphans": frozenset({"o"}),
    "ends": frozenset({"e"}),
    "tasks": frozenset({"t"}),
}
"""What is heard on each topic, beside what is said to one's own workers; None for all."""
_OPTIONS: Final[dict[str, tuple[str, ...]]] = {"schema": (), "pooler": ("transaction",), "listen": ()}
"""Our own options of a URL, and what they may be; empty for anything."""
