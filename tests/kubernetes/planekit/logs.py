"""The door of a node at which the API server asks for logs, on behalf of whoever may read them."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import web

from planekit.credentials import Certificate

CLIENT: Final = "kube-apiserver-kubelet-client"
LOOK_S: Final = 0.1


class Log(NamedTuple):
    """One container's, which grows as long as that runs."""

    file: Path
    is_running: Callable[[], bool]


class LogServer:
    """Serves logs over HTTPS to the API server of its plane, and to nobody else.

    Args:
        find: the log of (namespace, pod, container), or None.
    """

    def __init__(self, certificate: Certificate, authority: Path, find: Callable[[str, str, str], Log | None]) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority))
        self._context.load_cert_chain(*certificate)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._find = find
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._context)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Nobody is there any more; a later start has the same port."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        subject = request.transport.get_extra_info("peercert")["subject"]
        if (("commonName", CLIENT),) not in subject:
            raise web.HTTPForbidden
        place = request.match_info
        found = self._find(place["namespace"], place["pod"], place["container"])
        if found is None or not found.file.exists():
            raise web.HTTPNotFound(text=f"container {place['container']!r} has no log on this node")
        answer = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await answer.prepare(request)
        text = found.file.read_bytes()
        await answer.write(selected(text, request.query, now=datetime.now(UTC)))
        sent = len(text)
        while request.query.get("follow") == "true":
            is_last = not found.is_running()
            text = found.file.read_bytes()
            if len(text) > sent:
                await answer.write(_shown(text[sent:].splitlines(keepends=True), request.query))
                sent = len(text)
            if is_last:
                break
            await asyncio.sleep(LOOK_S)
        return answer


def selected(text: bytes, options: Mapping[str, str], *, now: datetime) -> bytes:
    """What of a log is asked for by `tailLines`, `sinceSeconds`, `limitBytes` and `timestamps`."""
    lines = text.splitlines(keepends=True)
    if seconds := options.get("sinceSeconds"):
        since = (now - timedelta(seconds=int(seconds))).strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()
        lines = [line for line in lines if line.partition(b" ")[0] >= since]
    if (tail := options.get("tailLines")) is not None:
        lines = lines[-int(tail) :] if int(tail) else []
    shown = _shown(lines, options)
    limit = options.get("limitBytes")
    return shown[: int(limit)] if limit else shown


def _shown(lines: list[bytes], options: Mapping[str, str]) -> bytes:
    if options.get("timestamps") == "true":
        return b"".join(lines)
    return b"".join(line.partition(b" ")[2] for line in lines)
