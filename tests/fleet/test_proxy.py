"""The proxy does the harm that it is asked for; a storm that harms nothing would prove nothing."""

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest
from fleetkit.processes import Fleet
from fleetkit.proxy import Harm, Proxy, Requests

pytestmark = pytest.mark.slow  # asks a server

COMMIT = "insert into public.kept select $1 /* commit_turns( */"


@pytest.fixture
async def proxy(fleet: Fleet) -> AsyncIterator[Proxy]:
    await fleet.run("create table public.kept (value int)")
    async with Proxy(fleet.server.port) as proxy:
        yield proxy


async def connect(fleet: Fleet, proxy: Proxy) -> asyncpg.Connection:
    connection: asyncpg.Connection = await asyncpg.connect(fleet.url_of(port=proxy.port), command_timeout=5)
    return connection


async def kept(fleet: Fleet) -> list[int]:
    return [value for (value,) in await fleet.sql("select value from public.kept order by value")]


async def test_it_passes_on_what_both_say(fleet: Fleet, proxy: Proxy) -> None:
    connection = await connect(fleet, proxy)
    text = "x" * 300_000
    assert await connection.fetchval("select $1::text", text) == text
    await connection.close()
    assert dict(proxy.harmed) == {}


@pytest.mark.parametrize(
    ("cut", "arrives"),
    [
        ({"answers": False}, False),
        ({"requests": False}, True),
        ({}, False),
    ],
    ids=["requests", "answers", "both"],
)
async def test_what_it_holds_back_arrives_when_it_is_healed(
    fleet: Fleet, proxy: Proxy, cut: dict[str, bool], arrives: bool
) -> None:
    connection = await connect(fleet, proxy)
    proxy.cut(**cut)
    asked = asyncio.ensure_future(connection.execute("insert into public.kept values (1)"))
    await asyncio.sleep(0.2)
    assert not asked.done()
    assert await kept(fleet) == ([1] if arrives else [])
    proxy.heal()
    await asked
    assert await kept(fleet) == [1]
    await connection.close()


async def test_what_it_swallows_is_gone_though_the_server_has_done_it(fleet: Fleet, proxy: Proxy) -> None:
    connection = await connect(fleet, proxy)
    proxy.swallow()
    with pytest.raises(TimeoutError):
        await connection.execute("insert into public.kept values (1)", timeout=0.3)
    proxy.heal()
    assert await kept(fleet) == [1]
    assert proxy.swallowed_bytes > 0
    connection.terminate()


async def test_connections_cannot_be_made_while_it_is_cut(fleet: Fleet, proxy: Proxy) -> None:
    proxy.cut()
    with pytest.raises(TimeoutError):
        await asyncpg.connect(fleet.url_of(port=proxy.port), timeout=0.3)


@pytest.mark.parametrize(("harm", "made"), [("lose request", False), ("lose answer", True), ("hang up", True)])
async def test_a_commit_is_harmed_and_nothing_else(fleet: Fleet, proxy: Proxy, harm: Harm, made: bool) -> None:
    connection = await connect(fleet, proxy)
    proxy.on_commit = lambda: harm
    assert await connection.fetchval("select 1") == 1
    begin_s = time.monotonic()
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
        await connection.execute(COMMIT, 1)
    assert time.monotonic() - begin_s < 2, "whoever is cut off is told at once"
    await asyncio.sleep(0.2)
    assert await kept(fleet) == ([1] if made else [])
    assert dict(proxy.harmed) == {harm: 1}
    connection.terminate()


async def test_the_end_of_a_transaction_is_a_commit_too(fleet: Fleet, proxy: Proxy) -> None:
    connection = await connect(fleet, proxy)
    proxy.on_commit = lambda: "lose answer"
    await connection.execute("begin; select 1")
    await connection.execute("insert into public.kept values (1)")
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
        await connection.execute("commit")
    assert await kept(fleet) == [1]


async def test_a_broken_connection_is_told_to_both(fleet: Fleet, proxy: Proxy) -> None:
    connection = await connect(fleet, proxy)
    assert proxy.connections == 1
    proxy.reset()
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("select 1")


def test_a_request_that_comes_in_pieces_is_known_when_it_is_whole() -> None:
    def message(kind: bytes, body: bytes) -> bytes:
        return kind + (len(body) + 4).to_bytes(4, "big") + body

    encrypt = message(b"", (80877103).to_bytes(4, "big"))
    begin = message(b"", (196608).to_bytes(4, "big") + b"user\0me\0\0")
    prepare = message(b"P", b"s1\0select commit_turns($1)\0\0\0") + message(b"P", b"s2\0select 1\0\0\0")
    asked = Requests()
    for stream in (encrypt, begin, prepare, message(b"B", b"\0s2\0rest"), message(b"Q", b"select 1\0")):
        assert not any(asked.feed(bytes([byte])) for byte in stream)
    told = [asked.feed(bytes([byte])) for byte in message(b"B", b"\0s1\0rest")]
    assert told == [False] * (len(told) - 1) + [True]
    assert asked.feed(message(b"Q", b"COMMIT;\0"))
