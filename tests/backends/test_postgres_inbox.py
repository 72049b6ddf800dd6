"""What a reader of the inbox takes for settled stays so, whatever becomes of the server."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from durableflow.backends.base import Commit, Outgoing
from durableflow.backends.postgres import PostgresBackend
from durableflow.backends.postgres import backend as room
from durableflow.backends.postgres.database import Connection
from durableflow.backends.postgres.inbox import Horizon
from durableflow.testing.contract.store import an_instance
from durableflow.testing.postgres import PostgresServer

DRAWN = 100
"""More numbers than a sequence draws ahead, on its disk."""


class Given(Exception):
    """Up."""


async def draw_and_give_up(connection: Connection) -> None:
    """What a sender does whose transaction fails: it has drawn numbers, and wrote nothing that the disk must have."""
    await connection.execute(f"select nextval('durableflow.inbox_number_seq') from generate_series(1, {DRAWN})")
    raise Given


@pytest.mark.slow  # a server that crashes
async def test_a_message_whose_number_was_drawn_before_a_crash_is_read_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server writes late, so that its disk does not know of the numbers unless somebody has seen to it."""
    seconds = count(1)
    monkeypatch.setattr(room, "counted_us", lambda: next(seconds) * 1_000_000)
    with PostgresServer(fsync=False, settings={"wal_writer_delay": "10s"}) as server:
        backend = PostgresBackend(server.url())
        await backend.open()
        try:
            lease = await backend.acquire("one", 3_600_000_000, 0)
            assert lease is not None
            await backend.commit(lease, Commit(new=[an_instance("a")]))
            await backend.send([Outgoing("a", b"before")])
            with pytest.raises(Given):
                await backend._transaction(draw_and_give_up)
            ((is_on_disk,),) = await backend._read("select pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()")
            assert not is_on_disk
            settled = 0
            for _ in range(5):
                settled = (await backend.read_inbox(lease, settled, 10)).settled
            assert settled > DRAWN
            await asyncio.to_thread(server.restart, "immediate")
            await backend.send([Outgoing("a", b"after")])
            page = await backend.read_inbox(lease, settled, 10)
            assert [message.data for message in page.messages] == [b"after"]
        finally:
            await backend.close()


def test_a_reader_has_the_server_write_now_and_then_and_only_when_numbers_were_drawn() -> None:
    horizon = Horizon()
    assert not horizon.is_behind(0)
    horizon.look(oldest_open=10, own=None, drawn=5)
    assert horizon.is_behind(1_000)
    horizon.look(oldest_open=10, own=11, drawn=6)
    assert not horizon.is_behind(10_000_000)  # 6 is taken care of
    horizon.look(oldest_open=11, own=None, drawn=7)
    assert horizon.is_behind(20_000_000)
    assert not horizon.is_behind(20_100_000)
    assert horizon.is_behind(20_200_000)


def test_a_number_is_settled_when_those_who_may_have_drawn_it_are_over() -> None:
    horizon = Horizon()
    assert horizon.look(oldest_open=10, own=12, drawn=5) == 0
    assert horizon.look(oldest_open=11, own=14, drawn=8) == 0
    assert horizon.look(oldest_open=12, own=None, drawn=9) == 5
    assert horizon.look(oldest_open=14, own=None, drawn=9) == 8
