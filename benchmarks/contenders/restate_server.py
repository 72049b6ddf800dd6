# The peer is installed in its own environment only, so a type checker sees nothing of it.
# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator,misc,no-any-return"
"""Restate: the server's Linux binary from npm, our handlers behind its Python SDK, both on the loopback interface.

All server settings are its defaults (its log is synced), but for telemetry, which is off. Handlers are served by
granian, which was a fifth faster here than hypercorn; starts go straight to the ingress over kept-alive connections.
An event is an awakeable, the shortest way Restate has to wake an instance from outside.
"""

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import restate
from granian.constants import Interfaces
from granian.server.embed import Server

from benchmarks import work
from benchmarks.environments import restate_server

READY_TIMEOUT_S: Final = 60
STOP_TIMEOUT_S: Final = 10

bench = restate.Service("Bench")
awakeables: dict[str, str] = {}  # invocation id -> awakeable id


@bench.handler()
async def one(ctx: restate.Context, x: int) -> int:
    return await ctx.run_typed("add_one", work.add_one, x=x)


@bench.handler()
async def ten(ctx: restate.Context, x: int) -> int:
    for _ in range(work.SEQUENCE_LENGTH):
        x = await ctx.run_typed("add_one", work.add_one, x=x)
    return x


@bench.handler()
async def fan_out(ctx: restate.Context, width: int) -> int:
    futures = [ctx.run_typed("add_one", work.add_one, x=x) for x in range(width)]
    await restate.gather(*futures)
    return sum([await future for future in futures])


@bench.handler()
async def long(ctx: restate.Context, length: int) -> int:
    x = 0
    for _ in range(length):
        x = await ctx.run_typed("mark", work.mark, x=x)
    return x


@bench.handler()
async def wait(ctx: restate.Context, x: int) -> int:
    awakeable_id, event = ctx.awakeable(type_hint=int)
    awakeables[ctx.request().id] = awakeable_id
    work.note_wait()
    return x + await event


class Restate:
    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._endpoint: Any = None
        self._serving: asyncio.Task[None] | None = None
        self._http: aiohttp.ClientSession | None = None
        self._ingress = self._admin = ""
        self._known = Path()

    async def open(self, directory: Path) -> None:
        self._known = directory / "awakeables.json"
        if self._known.exists():
            awakeables.update(json.loads(self._known.read_text()))
        ports = self._ports(directory)
        self._ingress, self._admin = (f"http://127.0.0.1:{ports[name]}" for name in ("ingress", "admin"))
        app = restate.app([bench])
        self._endpoint = Server(
            app, address="127.0.0.1", port=ports["endpoint"], interface=Interfaces.ASGI, log_enabled=False
        )
        self._serving = asyncio.ensure_future(self._endpoint.serve())
        self._server = self._start_server(directory, ports)
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout())
        async with asyncio.timeout(READY_TIMEOUT_S):
            await self._wait_ready(self._admin + "/health")
            await self._wait_ready(self._ingress + "/restate/health")
            await self._post(self._admin + "/deployments", {"uri": f"http://127.0.0.1:{ports['endpoint']}"})

    @staticmethod
    def _ports(directory: Path) -> dict[str, int]:
        """Ports are kept beside the data: an instance that was begun before a restart calls the old endpoint."""
        file = directory / "ports.json"
        if not file.exists():
            sockets = {name: socket.socket() for name in ("ingress", "admin", "node", "endpoint")}
            for each in sockets.values():
                each.bind(("127.0.0.1", 0))
            file.write_text(json.dumps({name: each.getsockname()[1] for name, each in sockets.items()}))
            for each in sockets.values():
                each.close()
        ports: dict[str, int] = json.loads(file.read_text())
        return ports

    @staticmethod
    def _start_server(directory: Path, ports: Mapping[str, int]) -> subprocess.Popen[bytes]:
        node = f"127.0.0.1:{ports['node']}"
        command = [str(restate_server()), "--no-logo", "--listen-mode", "tcp", "--node-name", "benchmark"]
        command += ["--bind-address", node, "--advertised-address", f"http://{node}/"]
        command += ["--base-dir", str(directory / "restate-data")]
        settings = {
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ports['ingress']}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{ports['admin']}",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_LOG_FILTER": "error",
        }
        return subprocess.Popen(command, env={**os.environ, **settings})

    async def _wait_ready(self, url: str) -> None:
        assert self._http is not None
        while True:
            try:
                async with self._http.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        if self._server is None or self._http is None or self._serving is None:
            return
        self._known.write_text(json.dumps(awakeables))
        await self._http.close()
        self._server.terminate()
        try:
            await asyncio.to_thread(self._server.wait, STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._endpoint.stop()
        await asyncio.wait([self._serving], timeout=STOP_TIMEOUT_S)
        self._server = None

    async def call(self, workflow: str, argument: int) -> int:
        result: int = await self._post(f"{self._ingress}/Bench/{workflow}", argument)
        return result

    async def begin(self, workflow: str, argument: int) -> str:
        accepted = await self._post(f"{self._ingress}/Bench/{workflow}/send", argument)
        instance_id: str = accepted["invocationId"]
        return instance_id

    async def raise_event(self, instance_id: str, value: int) -> None:
        await self._post(f"{self._ingress}/restate/awakeables/{awakeables[instance_id]}/resolve", value)

    async def result(self, instance_id: str) -> int:
        assert self._http is not None
        async with self._http.get(f"{self._ingress}/restate/invocation/{instance_id}/attach") as response:
            result: int = await self._body(response)
            return result

    async def _post(self, url: str, body: Any) -> Any:
        assert self._http is not None
        async with self._http.post(url, json=body) as response:
            return await self._body(response)

    @staticmethod
    async def _body(response: aiohttp.ClientResponse) -> Any:
        text = await response.text()
        if response.status >= 300:
            message = f"{response.url.path} answered {response.status}: {text}"
            raise RuntimeError(message)
        return json.loads(text) if text else None

    def server_pids(self) -> Sequence[int]:
        return (self._server.pid,) if self._server else ()

    async def durability(self) -> Mapping[str, str]:
        """The settings of the log, as the server prints them; and the server's version, which is not a Python one."""
        binary = str(restate_server())
        printed = await asyncio.to_thread(_run, binary, "--dump-config")
        version = await asyncio.to_thread(_run, binary, "--version")
        wanted = ("rocksdb-disable-wal-fsync", "rocksdb-disable-wal", "default-provider", "default-replication")
        found = dict(line.split(" = ", 1) for line in printed.splitlines() if line.startswith(wanted))
        return {"server": version.strip(), **found}


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def make() -> Restate:
    return Restate()
