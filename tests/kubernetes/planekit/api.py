"""Asking an API server: one request at a time for tests that block, watches that never end for nodes."""

import asyncio
import http.client
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import aiohttp

Document = dict[str, Any]
"""A Kubernetes object, as JSON has it."""

MERGE = "application/merge-patch+json"


class ApiError(Exception):
    """The API server said no."""

    def __init__(self, status: int, told: str) -> None:
        super().__init__(f"{status}: {told}")
        self.status = status
        self.told = told


def _body_of(body: object, content_type: str) -> tuple[bytes | None, dict[str, str]]:
    if body is None:
        return None, {}
    return json.dumps(body).encode(), {"Content-Type": content_type}


def request(
    url: str,
    method: str,
    path: str,
    body: object = None,
    *,
    token: str,
    authority: Path,
    content_type: str = "application/json",
    timeout_s: float = 30.0,
) -> Any:
    """Ask once, and block until it is answered.

    Raises:
        ApiError: the answer is no.
        OSError: there was none.
    """
    server = urlsplit(url)
    context = ssl.create_default_context(cafile=str(authority))
    assert server.hostname is not None
    connection = http.client.HTTPSConnection(server.hostname, server.port, context=context, timeout=timeout_s)
    try:
        data, headers = _body_of(body, content_type)
        connection.request(method, path, data, headers | {"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        told = answer.read()
    finally:
        connection.close()
    if answer.status >= 400:
        raise ApiError(answer.status, told.decode(errors="replace"))
    return json.loads(told) if "json" in answer.headers.get("Content-Type", "") else told.decode()


class Api:
    """A client of one identity; use it as `async with Api(...) as api:`."""

    def __init__(self, url: str, context: ssl.SSLContext, *, token: str | None = None) -> None:
        self._url = url
        self._context = context
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._context, limit=0)
        self._session = aiohttp.ClientSession(self._url, connector=connector, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        timeout_s: float = 10.0,
        **parameters: str,
    ) -> Any:
        """Ask once.

        Raises:
            ApiError: the answer is no.
            aiohttp.ClientError, TimeoutError: there was none.
        """
        assert self._session is not None
        data, headers = _body_of(body, content_type)
        limit = aiohttp.ClientTimeout(total=timeout_s)
        asked = self._session.request(method, path, data=data, headers=headers, params=parameters, timeout=limit)
        async with asked as answer:
            if answer.status >= 400:
                raise ApiError(answer.status, await answer.text())
            return await answer.json() if answer.content_type == "application/json" else await answer.text()

    async def follow(self, path: str, **parameters: str) -> AsyncIterator[tuple[str, Any]]:
        """What is there, then what changes, for ever: ("LISTED", objects) at first and after each trouble.

        Args:
            path: of a collection.
            parameters: selectors.
        """
        while True:
            try:
                listed: Document = await self.request("GET", path, **parameters)
                yield "LISTED", listed["items"]
                version = listed["metadata"]["resourceVersion"]
                async for change in self._watch(path, resourceVersion=version, **parameters):
                    if change["type"] == "ERROR":
                        break
                    yield change["type"], change["object"]
            except (aiohttp.ClientError, ApiError, TimeoutError):
                await asyncio.sleep(0.2)

    async def _watch(self, path: str, **parameters: str) -> AsyncIterator[Document]:
        assert self._session is not None
        limit = aiohttp.ClientTimeout(total=None, sock_connect=5)
        query = parameters | {"watch": "1", "timeoutSeconds": "600"}
        async with self._session.get(path, params=query, timeout=limit) as answer:
            if answer.status >= 400:
                raise ApiError(answer.status, await answer.text())
            rest = b""
            async for data in answer.content.iter_any():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    yield json.loads(line)


def query(path: str, parameters: Mapping[str, str]) -> str:
    """The path with parameters, for `request`."""
    return f"{path}?{urlencode(parameters)}"
