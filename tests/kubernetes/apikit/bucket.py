"""An object store that is asked over HTTP by URLs which it has signed, each for one object, method and time."""

from __future__ import annotations

import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha256
from typing import Any

from aiohttp import web

SECRET = b"of the bucket"


@asynccontextmanager
async def serving(answer: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """A server that gives every request to `answer`; its address."""
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{name:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Bucket:
    """See the module; `answers` are statuses of the next requests that fail, `failures` of the next calls."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.ever: list[str] = []
        self.heard: list[tuple[str, str]] = []
        self.answers: list[int] = []
        self.failures = 0
        self.address = ""
        self.good_for = timedelta()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Bucket]:
        async with serving(self._serve) as self.address:
            yield self

    # -- what `ObjectStore` says ----------------------------------------------------------------------------

    async def put(self, name: str, data: bytes) -> None:
        self._fail()
        self.objects[name] = data
        self.ever.append(name)

    async def get(self, name: str) -> bytes:
        self._fail()
        return self.objects[name]

    async def delete(self, name: str) -> None:
        self._fail()
        self.objects.pop(name, None)

    async def url(self, name: str, method: str, good_for: timedelta) -> str:
        self._fail()
        self.good_for = good_for
        expires = int(time.time() + good_for.total_seconds())
        return f"{self.address}/{name}?expires={expires}&sig={self._sign(name, method, expires)}"

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("the bucket is not there")

    # -- what pods ask --------------------------------------------------------------------------------------

    @staticmethod
    def _sign(name: str, method: str, expires: int) -> str:
        return hmac.new(SECRET, f"{method} {name} {expires}".encode(), sha256).hexdigest()

    async def _serve(self, request: web.Request) -> web.Response:
        name, expires = request.match_info["name"], int(request.query["expires"])
        self.heard.append((request.method, name))
        if self.answers:
            return web.Response(status=self.answers.pop(0))
        signature: Any = request.query["sig"]
        if expires < time.time() or not hmac.compare_digest(signature, self._sign(name, request.method, expires)):
            return web.Response(status=403)
        if request.method == "PUT":
            await self.put(name, await request.read())
            return web.Response()
        return web.Response(body=self.objects[name]) if name in self.objects else web.Response(status=404)
