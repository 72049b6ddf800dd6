"""A connection to an API server. The only module that knows kubernetes-asyncio, which finds servers, keys and tokens.

Every request has a time-out, and ends in an answer, in a refusal (`ApiRefused`) or in not knowing (`ApiSilent`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, Final

import msgspec

from durableflow.errors import UsageError
from durableflow.kubernetes.documents import Status

REQUEST_S: Final = 15.0
_CONNECT_S: Final = 5.0
_RENEW_S: Final = 5.0
"""Credentials are read again at most so often."""
_RETIRED_MAX: Final = 2
"""Of connections with old credentials, on which watches may go on for a while."""
_LINE_BYTES_MAX: Final = 8 * 1024 * 1024
_RETRY_AFTER_S_MAX: Final = 120.0
_INSTALL: Final = "Jobs on Kubernetes need kubernetes-asyncio; pip install 'durableflow[kubernetes]'"

Configuration = Any
"""Of `kubernetes_asyncio.client`."""
Configure = Callable[[], Awaitable[Configuration]]


class ApiRefused(Exception):
    """The server has answered, and the answer is no: nothing was done.

    Attributes:
        status: of HTTP.
        reason: one word of the server's, such as `AlreadyExists`; empty when it gives none.
        retry_after_s: how long the server asks to be left alone; 0 when it does not.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float = 0.0) -> None:
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s
        super().__init__(f"{status} {reason}: {message}" if reason else f"{status}: {message}")


class ApiSilent(Exception):
    """There was no answer: whatever was asked for may have been done."""


class ApiClosed(Exception):
    """This connection was closed, by us; likewise, nothing is known."""


def configured(context: str | None = None, file: str | None = None) -> Configure:
    """Where the server is: as the pod is told that this runs in, else as `kubectl` is.

    Args:
        context: of the kubeconfig; None for its current one.
        file: the kubeconfig; None for the usual one.
    """

    async def configure() -> Configuration:
        client: Any = await asyncio.to_thread(_load, "kubernetes_asyncio.client")  # half a second
        config: Any = import_module("kubernetes_asyncio.config")
        configuration = client.Configuration()
        if file is None and context is None:
            try:
                config.load_incluster_config(client_configuration=configuration)
            except config.ConfigException:
                pass
            else:
                return configuration
        await config.load_kube_config(config_file=file, context=context, client_configuration=configuration)
        return configuration

    return configure


def _load(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(_INSTALL) from error


class Connection:
    """Asks an API server.

    Args:
        configure: says where it is and who asks; asked again when the server does not know us any more.
    """

    def __init__(self, configure: Configure, request_s: float = REQUEST_S) -> None:
        self._configure = configure
        self._request_s = request_s
        self._client: Any = None
        self._aiohttp: Any = None
        self._renewed_s = 0.0
        self._renewing = asyncio.Lock()
        self._retired: list[Any] = []
        self.errors = 0

    async def open(self) -> None:
        """Read the configuration; raises what is wrong with it."""
        configuration = await self._configure()
        self._aiohttp = _load("aiohttp")
        self._client = import_module("kubernetes_asyncio.client").ApiClient(configuration)
        self._renewed_s = time.monotonic()

    async def close(self) -> None:
        """Let it go."""
        clients, self._retired = [*self._retired, self._client], []
        self._client = None
        for client in clients:
            if client is not None:
                await client.close()

    async def ask(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None, **times: float
    ) -> bytes:
        """The body of the server's answer.

        Raises:
            ApiRefused: it says no.
            ApiSilent, ApiClosed: nothing is known.
        """
        try:
            async with asyncio.timeout(times.get("within_s", self._request_s)):
                response = await self._send(method, path, query, body, self._timeout(self._request_s))
                async with response:
                    data: bytes = await response.read()
        except Exception as error:
            self._explain(error, f"{method} {path}")
            raise
        await self._judge(response, data)
        return data

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], silence_s: float
    ) -> AsyncGenerator[AsyncGenerator[bytes]]:
        """The lines of an answer that goes on, until the server ends it.

        Args:
            silence_s: after so long without a byte the server is taken for dead.

        Raises:
            ApiRefused, ApiSilent: as `ask` does, also while lines are read.
        """
        try:
            async with asyncio.timeout(self._request_s):
                response = await self._send("GET", path, query, None, self._timeout(None, silence_s))
        except Exception as error:
            self._explain(error, f"GET {path}")
            raise
        try:
            if response.status != 200:
                async with asyncio.timeout(self._request_s):
                    data = await response.read()
                await self._judge(response, data)
            lines = self._lines(response, path)
            try:
                yield lines
            finally:
                await lines.aclose()
        except (TimeoutError, self._aiohttp.ClientError) as error:
            self._explain(error, f"GET {path}")
            raise
        finally:
            response.close()

    async def _lines(self, response: Any, path: str) -> AsyncGenerator[bytes]:
        rest = b""
        try:
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line
                if len(rest) > _LINE_BYTES_MAX:
                    raise ApiSilent(f"GET {path}: a line of more than {_LINE_BYTES_MAX} bytes")
        except (TimeoutError, self._aiohttp.ClientError, OSError) as error:
            self._explain(error, f"GET {path}")
            raise
        if rest:  # it was cut within a line
            raise ApiSilent(f"GET {path}: the answer ended within a line")

    def _explain(self, error: Exception, what: str) -> None:
        """Raise what an error of the driver means; return if it is none of the driver's."""
        if self._client is None:  # then it can be anything, an assertion of the driver's too
            raise ApiClosed(f"{what}: this connection is closed") from error
        if isinstance(error, (TimeoutError, OSError, self._aiohttp.ClientError)):
            self.errors += 1
            raise ApiSilent(f"{what}: {type(error).__name__} {error}".rstrip()) from error

    async def _send(self, method: str, path: str, query: Mapping[str, str] | None, body: object, timeout: Any) -> Any:
        client = self._client
        if client is None:
            raise ApiClosed
        headers = {"Accept": "application/json", "User-Agent": "durableflow", "Content-Type": "application/json"}
        await client.update_params_for_auth(headers, [], ["BearerToken"])
        return await client.rest_client.request(
            method,
            f"{client.configuration.host}{path}",
            query_params=dict(query or {}),
            headers=headers,
            body=body,
            _preload_content=False,
            _request_timeout=timeout,
        )

    def _timeout(self, total_s: float | None, read_s: float | None = None) -> Any:
        return self._aiohttp.ClientTimeout(total=total_s, sock_connect=_CONNECT_S, sock_read=read_s)

    async def _judge(self, response: Any, data: bytes) -> None:
        """Raise `ApiRefused` for what is no success."""
        if 200 <= response.status < 300:
            return
        self.errors += response.status not in (404, 409)
        try:
            status = msgspec.json.decode(data, type=Status)
        except msgspec.DecodeError:
            status = Status(message=data[:300].decode(errors="replace"))
        if response.status == 401:
            await self._renew()
        raise ApiRefused(response.status, status.reason, status.message, _retry_after_s(response))

    async def _renew(self) -> None:
        """The server does not know us: read anew who we are. What is under way goes on with the old connection."""
        async with self._renewing:
            if self._client is None or time.monotonic() - self._renewed_s < _RENEW_S:
                return
            self._renewed_s = time.monotonic()
            configuration = await self._configure()
            self._retired.append(self._client)
            self._client = import_module("kubernetes_asyncio.client").ApiClient(configuration)
            if len(self._retired) > _RETIRED_MAX:
                await self._retired.pop(0).close()


def _retry_after_s(response: Any) -> float:
    try:
        return min(max(0.0, float(response.headers.get("Retry-After", 0))), _RETRY_AFTER_S_MAX)
    except ValueError:  # a date
        return 0.0
