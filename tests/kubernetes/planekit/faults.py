"""A proxy before the API server that does harm to single requests, as networks and servers in trouble do.

Clients come with tokens; it forwards HTTP/1.1 and the streams of watches, but no upgraded connections (`kubectl exec`).
"""

import asyncio
import json
import random
import re
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from planekit.plane import ControlPlane

Kind = Literal["lose request", "lose answer", "hang", "hang after", "refuse", "gone", "cut", "stall"]

_REASONS: Final = {
    401: "Unauthorized",
    403: "Forbidden",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
_OF_ONE_CONNECTION: Final = {"connection", "host", "keep-alive", "transfer-encoding", "te", "upgrade", "trailer"}


@dataclass(frozen=True)
class Fault:
    """What befalls a request.

    Args:
        kind: "lose request": the connection breaks before the server has heard of it;
            "lose answer": the server has done it, and the connection breaks;
            "hang": nothing happens until `heal`;
            "hang after": the server has done it, and nobody says so until `heal`;
            "refuse": answered by the proxy, with `status`;
            "gone": a watch is told that its version has expired, in the stream, as a server does;
            "cut": a watch breaks after `events`;
            "stall": a watch is silent after `events`, and open.
        status: HTTP's.
        retry_after_s: told with it.
        events: of a watch, that still arrive.
    """

    kind: Kind
    status: int = 500
    retry_after_s: int | None = None
    events: int = 0


LOSE_REQUEST: Final = Fault("lose request")
LOSE_ANSWER: Final = Fault("lose answer")
HANG: Final = Fault("hang")
HANG_AFTER: Final = Fault("hang after")
GONE: Final = Fault("gone")
SERVER_ERROR: Final = Fault("refuse", 500)
TOO_MANY_REQUESTS: Final = Fault("refuse", 429, retry_after_s=1)


@dataclass(frozen=True)
class Seen:
    """A request that came by.

    Args:
        at_s: by the clock of the loop.
    """

    method: str
    path: str
    is_watch: bool
    fault: Fault | None
    at_s: float


@dataclass
class _Ambush:
    fault: Fault
    method: str | None
    path: re.Pattern[str]
    is_watch: bool | None
    times: int


class ApiProxy:
    """Use it as `async with ApiProxy(plane) as proxy:`, and tell clients `plane.kubeconfig(..., url=proxy.url)`.

    Attributes:
        seen: all requests, in the order in which they came.
        harmed: how often each kind of fault has befallen one.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        certificate = plane.authority.issue("proxy", user="proxy")
        self._serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._serving.load_cert_chain(*certificate)
        self._asking = ssl.create_default_context(cafile=str(plane.authority.certificate))
        self._ambushes: list[_Ambush] = []
        self._storm: Callable[[web.Request], Fault | None] = lambda _: None
        self._healed = asyncio.Event()
        self._port = 0
        self.seen: list[Seen] = []
        self.harmed: Counter[Kind] = Counter()

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._asking, limit=0)
        self._session = aiohttp.ClientSession(self._plane.url, connector=connector, auto_decompress=False)
        application = web.Application(client_max_size=16 * 2**20)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._serving).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.heal()
        await self._session.close()
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    # -- harm ----------------------------------------------------------------------------------------------------------

    def ambush(
        self,
        fault: Fault,
        *,
        method: str | None = None,
        path: str = "",
        is_watch: bool | None = None,
        times: int = 1,
    ) -> None:
        """Let it befall the next requests that are like this, each of them once.

        Args:
            method: as "POST"; by default any.
            path: a pattern that is found in it, as "/jobs$".
            is_watch: only watches, only others, or any.
            times: so many requests.
        """
        self._ambushes.append(_Ambush(fault, method, re.compile(path), is_watch, times))

    def storm(self, seed: int, rates: Mapping[Fault, float], *, path: str = "") -> None:
        """Let faults befall requests at random, each with its probability, until `heal`; the seed gives the order."""
        dice, pattern = random.Random(seed), re.compile(path)

        def draw(request: web.Request) -> Fault | None:
            if not pattern.search(request.path):
                return None
            lot = dice.random()
            for fault, rate in rates.items():
                if (lot := lot - rate) < 0:
                    return fault if fault.kind not in ("gone", "cut", "stall") or _is_watch(request) else None
            return None

        self._storm = draw

    def heal(self) -> None:
        """No more harm; connections that hang are broken."""
        self._ambushes.clear()
        self._storm = lambda _: None
        self._healed.set()
        self._healed = asyncio.Event()

    # -- forwarding ----------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        fault = self._fault_of(request)
        now_s = asyncio.get_running_loop().time()
        self.seen.append(Seen(request.method, request.path, _is_watch(request), fault, now_s))
        if fault is None:
            return await self._forward(request, None)
        self.harmed[fault.kind] += 1
        match fault.kind:
            case "lose request":
                return self._break(request)
            case "hang":
                await self._healed.wait()
                return self._break(request)
            case "refuse":
                headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
                return web.json_response(_failure(fault.status), status=fault.status, headers=headers)
            case "gone":
                expired = {"type": "ERROR", "object": _failure(410)}
                return web.Response(body=json.dumps(expired).encode() + b"\n", content_type="application/json")
            case _:
                return await self._forward(request, fault)

    def _fault_of(self, request: web.Request) -> Fault | None:
        for ambush in self._ambushes:
            if (
                ambush.times
                and ambush.method in (None, request.method)
                and ambush.is_watch in (None, _is_watch(request))
                and ambush.path.search(request.path)
            ):
                ambush.times -= 1
                return ambush.fault
        return self._storm(request)

    async def _forward(self, request: web.Request, fault: Fault | None) -> web.StreamResponse:
        headers = _end_to_end(request.headers)
        limit = aiohttp.ClientTimeout(total=None)
        body = await request.read() or None  # one that is empty would be given a type, and refused for it
        try:
            asked = self._session.request(
                request.method, request.rel_url, headers=headers, data=body, timeout=limit, allow_redirects=False
            )
            async with asked as answer:
                return await self._pass_on(request, answer, fault)
        except aiohttp.ClientError:
            return self._break(request)

    async def _pass_on(
        self, request: web.Request, answer: aiohttp.ClientResponse, fault: Fault | None
    ) -> web.StreamResponse:
        if fault is not None and fault.kind in ("lose answer", "hang after"):
            await answer.read()
            if fault.kind == "hang after":
                await self._healed.wait()
            return self._break(request)
        passed = web.StreamResponse(status=answer.status, headers=_end_to_end(answer.headers))
        await passed.prepare(request)
        if fault is None:
            async for data in answer.content.iter_any():
                await passed.write(data)
            return passed
        await self._pass_events(answer, passed, fault.events)
        if fault.kind == "stall":
            await self._healed.wait()
        return self._break(request)

    async def _pass_events(self, answer: aiohttp.ClientResponse, passed: web.StreamResponse, events_left: int) -> None:
        rest = b""
        while events_left:
            *lines, rest = (rest + await answer.content.readany()).split(b"\n")
            for line in lines[:events_left]:
                await passed.write(line + b"\n")
                events_left -= 1
            if answer.content.at_eof():
                return

    def _break(self, request: web.Request) -> web.Response:
        """As when a cable is pulled: the client is told nothing."""
        if request.transport is not None:
            request.transport.abort()
        return web.Response()


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """All but those that are about one connection; several of one name stay several."""
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _OF_ONE_CONNECTION)


def _is_watch(request: web.Request) -> bool:
    return request.query.get("watch") in ("1", "true", "True")


def _failure(status: int) -> dict[str, object]:
    """What an API server says with such a status."""
    reason = _REASONS.get(status, "Unknown")
    told = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return told | {"reason": reason, "message": f"{reason}, says the proxy", "code": status}
