"""Where pods of Jobs bring their answers: `Mount("/jobs", routes=callback_routes(jobs.callbacks))`.

Two routes, `POST /{job}/answer` and `POST /{job}/heartbeat`, with the pod's token as `Authorization: Bearer ...`. The
answer is JSON and has `wanted`: whether the pod may go on. 409 and 404 mean that it may not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

BODY_BYTES_MAX: Final = 4 * 1_024 * 1_024
_BEARER: Final = "bearer "


class Reply(NamedTuple):
    """What is answered.

    Attributes:
        retry_after_s: after how long the same may be asked again; 0 for no such hint.
    """

    status: int
    wanted: bool
    reason: str = ""
    retry_after_s: int = 0


class Callbacks(Protocol):
    """Who is behind the routes."""

    async def answer(self, job: str, token: str, body: bytes) -> Reply:
        """A pod says what came of its attempt."""
        ...

    async def heartbeat(self, job: str, token: str, body: bytes) -> Reply:
        """A pod says that it is at work."""
        ...


def callback_routes(callbacks: Callbacks) -> list[Route]:
    """The routes, without a prefix."""
    return [
        Route("/{job}/answer", _endpoint(callbacks.answer), methods=["POST"]),
        Route("/{job}/heartbeat", _endpoint(callbacks.heartbeat), methods=["POST"]),
    ]


def _endpoint(act: Callable[[str, str, bytes], Awaitable[object]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        header = request.headers.get("authorization", "")
        if header[: len(_BEARER)].lower() != _BEARER or not header[len(_BEARER) :].strip():
            return _response(Reply(401, wanted=True, reason="no token"))
        try:
            body = await _body(request)
        except ClientDisconnect:
            return Response(status_code=400)
        if body is None:
            return _response(Reply(413, wanted=True, reason=f"more than {BODY_BYTES_MAX} bytes"))
        reply = await act(request.path_params["job"], header[len(_BEARER) :].strip(), body)
        assert isinstance(reply, tuple)
        return _response(Reply(*reply))

    return endpoint


async def _body(request: Request) -> bytes | None:
    """The body, None for one that is too large; no more of it is read than that."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            return None
    return bytes(body)


def _response(reply: Reply) -> Response:
    headers = {"Retry-After": str(reply.retry_after_s)} if reply.retry_after_s else None
    return JSONResponse({"wanted": reply.wanted, "reason": reply.reason}, status_code=reply.status, headers=headers)
