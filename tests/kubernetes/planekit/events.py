"""Events that a node tells of its pods, counted when they repeat, as `kubectl describe` shows them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import aiohttp

from planekit.api import MERGE, ApiError, Document
from planekit.status import timestamp

Ask = Callable[..., Awaitable[Any]]


class Recorder:
    """Tells events in the order in which they happened, and nobody waits for it.

    Args:
        ask: makes a request.
        component: in whose name.
        host: the node's name, if it is one.
    """

    def __init__(self, ask: Ask, component: str, host: str = "") -> None:
        self._ask = ask
        self._source = {"component": component} | ({"host": host} if host else {})
        self._told = dict[tuple[str, ...], tuple[str, int]]()
        self._queue: asyncio.Queue[tuple[Document, str, str, str]] = asyncio.Queue()

    def tell(self, pod: Document, kind: str, reason: str, message: str) -> None:
        self._queue.put_nowait((pod, kind, reason, message))

    async def run(self) -> None:
        """Tell them; never ends."""
        while True:
            pod, kind, reason, message = await self._queue.get()
            # Events are best effort: the namespace may be gone, and the pod with it.
            with suppress(ApiError, aiohttp.ClientError, TimeoutError):
                await self._tell_one(pod, kind, reason, message)

    async def _tell_one(self, pod: Document, kind: str, reason: str, message: str) -> None:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/events"
        key = (metadata["uid"], reason, message)
        now = timestamp(datetime.now(UTC))
        if key in self._told:
            name, count = self._told[key]
            self._told[key] = name, count + 1
            again = {"count": count + 1, "lastTimestamp": now}
            await self._ask("PATCH", f"{path}/{name}", again, content_type=MERGE)
            return
        name = f"{metadata['name']}.{len(self._told):x}.{abs(hash(key)):x}"
        self._told[key] = name, 1
        about = {"kind": "Pod", "apiVersion": "v1", "namespace": metadata["namespace"], "name": metadata["name"]}
        event = {
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "involvedObject": about | {"uid": metadata["uid"], "resourceVersion": metadata.get("resourceVersion", "")},
            "type": kind,
            "reason": reason,
            "message": message,
            "source": self._source,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        await self._ask("POST", path, event)
