"""A proxy between a worker and its server, which cuts the network, swallows answers, and meddles with commits.

What it holds back while the network is cut goes on when it is healed, as TCP sends again what was lost. What it
swallows is gone for ever, as when a machine in between has forgotten the connection.
"""

import asyncio
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal, Self

Harm = Literal["", "lose request", "lose answer", "hang up"]
"""What befalls a commit: nothing; the server never hears of it; it is made and nobody hears of that; the client is
cut off while the server works on it."""

_SPECIAL: Final = {80877102, 80877103, 80877104}
"""Codes in the place of the protocol's version: cancel, encrypt (two ways). What follows has no type either."""


class Requests:
    """What a client asks the server: as much of the protocol (version 3) as tells a commit from all else."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._is_typed = False
        self._commits: set[bytes] = set()
        """Names of the prepared statements that commit."""

    def feed(self, data: bytes) -> bool:
        """Take in what the client has sent; True when that completes a request to commit."""
        self._buffer += data
        found = False
        while (message := self._next()) is not None:
            kind, body = message
            found |= self._is_commit(kind, body)
        return found

    def _next(self) -> tuple[bytes, bytes] | None:
        head = 1 if self._is_typed else 0
        if len(self._buffer) < head + 4:
            return None
        (length,) = struct.unpack_from("!i", self._buffer, head)
        if len(self._buffer) < head + length:
            return None
        kind, body = bytes(self._buffer[:head]), bytes(self._buffer[head + 4 : head + length])
        del self._buffer[: head + length]
        if not head and struct.unpack_from("!i", body)[0] not in _SPECIAL:
            self._is_typed = True
        return kind, body

    def _is_commit(self, kind: bytes, body: bytes) -> bool:
        match kind:
            case b"P":  # prepare: name, text
                name, text, _ = body.split(b"\0", 2)
                self._commits.discard(name)
                if b"commit_turns(" in text:
                    self._commits.add(name)
                return False
            case b"B":  # bind, before it is executed: portal, name
                return body.split(b"\0", 2)[1] in self._commits
            case b"Q":
                return body.rstrip(b"\0; \n").lower() == b"commit"
            case _:
                return False


class Proxy:
    """Use it as `async with Proxy(port) as proxy: ...`; its own port is `proxy.port`.

    Args:
        target_port: of the server, on this machine.

    Attributes:
        on_commit: says what befalls each commit.
        harmed: how many commits each harm has befallen.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.to_server, self.to_client = asyncio.Event(), asyncio.Event()
        self.to_server.set()
        self.to_client.set()
        self.swallows = False
        self.on_commit: Callable[[], Harm] = lambda: ""
        self.harmed: Counter[Harm] = Counter()
        self.swallowed_bytes = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.heal()
        self.reset()
        await asyncio.gather(*self._tasks)

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        return len(self._connections)

    # -- harm ---------------------------------------------------------------------------------------------------------

    def cut(self, *, requests: bool = True, answers: bool = True) -> None:
        """Nothing arrives any more, in one direction or both, and nobody is told."""
        if requests:
            self.to_server.clear()
        if answers:
            self.to_client.clear()

    def swallow(self) -> None:
        """Answers are gone for ever; requests arrive."""
        self.swallows = True

    def heal(self) -> None:
        """What was held back arrives, and all that follows."""
        self.swallows = False
        self.to_server.set()
        self.to_client.set()

    def reset(self) -> None:
        """All connections are broken, and both sides are told."""
        for connection in list(self._connections):
            connection.abort()

    # -- forwarding ---------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            await connection.run(self._target_port)
        except OSError:
            pass  # one of the two has gone
        finally:
            connection.abort()
            self._connections.discard(connection)
            self._tasks.discard(task)


class _Connection:
    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = (reader, writer)
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._requests = Requests()
        self._is_deaf = False
        """Answers are not for the client any more, who has been or is to be cut off."""

    async def run(self, port: int) -> None:
        await self._proxy.to_server.wait()  # while the network is cut, connections cannot be made either
        self._server = await asyncio.open_connection("127.0.0.1", port)
        directions = [asyncio.ensure_future(self._ask()), asyncio.ensure_future(self._answer())]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    async def _ask(self) -> None:
        assert self._server is not None
        proxy, server = self._proxy, self._server[1]
        while data := await self._client[0].read(65_536):
            harm: Harm = proxy.on_commit() if self._requests.feed(data) else ""
            await proxy.to_server.wait()
            if harm:
                proxy.harmed[harm] += 1
            if harm == "lose request":
                return
            self._is_deaf = self._is_deaf or harm in ("lose answer", "hang up")
            server.write(data)
            await server.drain()
            if harm == "hang up":
                self._client[1].transport.abort()
                await asyncio.Event().wait()  # until the answer has come

    async def _answer(self) -> None:
        assert self._server is not None
        proxy, client = self._proxy, self._client[1]
        while data := await self._server[0].read(65_536):
            await proxy.to_client.wait()
            if self._is_deaf:
                return
            if proxy.swallows:
                proxy.swallowed_bytes += len(data)
                continue
            client.write(data)
            await client.drain()

    def abort(self) -> None:
        for _, writer in filter(None, (self._client, self._server)):
            with suppress(RuntimeError):  # the loop is closed
                writer.transport.abort()
