"""A server that says nothing any more is left as soon as whoever waits for it has no more time."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest

from durableflow.backends.base import Commit
from durableflow.backends.postgres import PostgresBackend
from durableflow.backends.postgres import database as room
from durableflow.backends.postgres.database import Database
from durableflow.errors import CommitOutcomeUnknown, StorageError
from durableflow.testing.postgres import PostgresServer

FOR_EVER_S = 3_600.0


class Silent:
    """Takes connections, and never answers."""

    def __init__(self) -> None:
        self.url = ""
        self.came = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came.set()
        while await reader.read(1_000):
            pass
        writer.close()


@pytest.fixture
async def silent(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Silent]:
    monkeypatch.setattr(room, "_CONNECT_TIMEOUT_S", FOR_EVER_S)
    silent = Silent()
    server = await asyncio.start_server(silent.serve, "127.0.0.1", 0)
    silent.url = f"postgresql://nobody:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}/none?sslmode=disable"
    yield silent
    server.close()


def database(url: str) -> Database:
    return Database(url, settings={}, statement_cache_size=100, command_timeout_s=FOR_EVER_S)


async def test_an_attempt_to_connect_is_given_up_when_others_are_hung_up(silent: Silent) -> None:
    asked = database(silent.url)
    connecting = asyncio.ensure_future(asked.connect())
    await silent.came.wait()
    asked.hang_up(FOR_EVER_S)
    await asyncio.sleep(0)
    assert not connecting.done()
    asked.hang_up(0.0)
    with pytest.raises(StorageError, match="it does not answer"):
        await connecting


async def test_whoever_leaves_while_a_connection_is_made_leaves_nothing_behind(silent: Silent) -> None:
    asked = database(silent.url)
    connecting = asyncio.ensure_future(asked.connect())
    await silent.came.wait()
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert not asked._attempts
    assert [task for task in asyncio.all_tasks() if "connect" in str(task.get_coro())] == []


@pytest.mark.slow  # a server
async def test_a_lost_session_is_ended_when_the_server_speaks_again(
    silent: Silent, postgres: PostgresServer, store_url: Callable[[object], str]
) -> None:
    """And not when all patience with its silence is over."""
    url = store_url("silence").partition("?")[0]
    asked = database(url)
    await asked.open()
    try:
        writing = asyncio.ensure_future(asked.write("select pg_sleep(600) /* of the silence */"))
        end = (
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            "where query like '%of the silence%' and pid <> pg_backend_pid()"
        )
        asked._url = silent.url
        while (await asyncio.to_thread(postgres.execute, end)).strip() != "1":  # noqa: ASYNC110  # it is the server's
            await asyncio.sleep(0.01)
        await silent.came.wait()
        asked._url = url
        asked.hang_up(0.0)
        with pytest.raises(CommitOutcomeUnknown):
            async with asyncio.timeout(30):
                await writing
    finally:
        await asked.close()


async def test_a_silence_is_told_in_words() -> None:
    """The library's own error for it has none."""
    with pytest.raises(room._Lost) as lost:
        async with room.answers(0.001):
            await asyncio.Event().wait()
    assert "the server has not answered for 0.001 s" in str(lost.value.__cause__)


@pytest.mark.slow  # a server
async def test_a_lease_is_renewed_however_many_others_wait_for_the_server(
    store_url: Callable[[object], str],
) -> None:
    backend = PostgresBackend(store_url("busy"))
    await backend.open()
    try:
        lease = await backend.acquire("worker", 60_000_000, 0)
        assert lease is not None
        waiting = [asyncio.ensure_future(backend._read("select pg_sleep(3)")) for _ in range(8)]
        await asyncio.sleep(0)
        async with asyncio.timeout(2):
            await backend.renew(lease, 60_000_000, 0)
        assert not any(each.done() for each in waiting)
    finally:
        backend._database.hang_up(0.0)
        await asyncio.gather(*waiting, return_exceptions=True)
        await backend.close()


@pytest.mark.slow  # a server, and a lease in real time
async def test_a_renewal_that_is_not_answered_is_made_again_by_another_connection() -> None:
    """While there is time for it."""
    with PostgresServer(fsync=False) as server:
        backend = PostgresBackend(server.url())
        await backend.open()
        stopped: list[int] = []
        try:
            lease = await backend.acquire("worker", 6_000_000, 0)
            assert lease is not None
            stopped += [connection.get_server_pid() for connection in backend._database._idle]
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            async with asyncio.timeout(5.4):
                with pytest.raises(StorageError, match="did not answer in time"):
                    await backend.renew(lease, 6_000_000, 0)
                lease = await backend.renew(lease, 6_000_000, 0)
            await backend.commit(lease, Commit())
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
            await backend.close()
