"""One kind of object in one namespace, as the server has it: listed, then watched, and listed again when in doubt.

Rule 1. A list begins it. What was known and is not in the list is gone.
Rule 2. A watch goes on from where the last answer was; bookmarks move that on.
Rule 3. An expired version, an error in the stream, a refusal or silence begin anew with a list.
Rule 4. Now and then it lists without a reason, because a server can be wrong.

kubernetes-asyncio's own `Watch` is not used: it has no time-out, and after an expired version asks for the same again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from durableflow.kubernetes.connection import ApiRefused, ApiSilent, Connection
from durableflow.kubernetes.documents import Meta, read

_LOGGER: Final = logging.getLogger("durableflow.kubernetes")
_PAGE: Final = 500
_BACKOFF_S: Final = 0.2
_BACKOFF_S_MAX: Final = 15.0


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """How long an informer waits for what, in seconds.

    Attributes:
        watch_s: the server is asked to end a watch after so long.
        silence_s: without a byte for so long the server is taken for dead; it sends a bookmark every minute.
        relist_s: it lists again after so long.
    """

    watch_s: float = 240.0
    silence_s: float = 100.0
    relist_s: float = 300.0


class _HasMeta(Protocol):
    @property
    def metadata(self) -> Meta: ...


D = TypeVar("D", bound=_HasMeta)


class InformerStatistics(msgspec.Struct, frozen=True):
    """How an informer is.

    Attributes:
        objects: how many it knows.
        lists: how often it has listed.
        relists: how often because the watch had broken.
        silent_s: since when the server has said nothing; the age of what is known.
    """

    objects: int
    lists: int
    relists: int
    silent_s: float


class Informer(Generic[D]):
    """Knows all objects of one kind that a selector selects.

    Args:
        path: of the collection: `/api/v1/namespaces/gpus/pods`.
        selector: of labels.
        kind: what they are read as.
        seen: called with each object that is new or has changed.
        lost: called with uid and, if the server told, the last state of each that is gone.
        broken: called with the reason when a watch has ended as it should not.
        draw: uniform in [0, 1).
    """

    def __init__(
        self,
        connection: Connection,
        path: str,
        selector: str,
        kind: type[D],
        seen: Callable[[D], None],
        lost: Callable[[str, D | None], None],
        times: Times,
        *,
        broken: Callable[[str], object] = str,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._connection = connection
        self._path = path
        self._selector = selector
        self._kind = kind
        self._seen = seen
        self._lost = lost
        self._times = times
        self._broken = broken
        self._draw = draw
        self._versions: dict[str, str] = {}
        """Of each object, by uid."""
        self._version = ""
        self._list_again_s = 0.0
        self._heard_s = time.monotonic()
        self._lists = 0
        self._relists = 0
        self.synced = asyncio.Event()
        """Set after the first list."""

    def statistics(self) -> InformerStatistics:
        """How it is."""
        return InformerStatistics(len(self._versions), self._lists, self._relists, time.monotonic() - self._heard_s)

    async def run(self) -> None:
        """Never returns."""
        backoff_s = _BACKOFF_S
        while True:
            begun_s = time.monotonic()
            try:
                if time.monotonic() >= self._list_again_s:
                    await self._list()
                await self._watch()
            except (ApiRefused, ApiSilent) as error:
                if isinstance(error, ApiRefused) and error.status not in (410, 504):
                    _LOGGER.warning("the watch of %s is begun again: %s", self._path, error)
                self._doubt(str(error))
                if time.monotonic() - begun_s > _BACKOFF_S_MAX:
                    backoff_s = _BACKOFF_S
                asked_s = error.retry_after_s if isinstance(error, ApiRefused) else 0.0
                await asyncio.sleep(max(asked_s, backoff_s * (0.5 + self._draw())))
                backoff_s = min(2 * backoff_s, _BACKOFF_S_MAX)
            except Exception as error:  # an answer that cannot be read: it must not end the watch for good
                _LOGGER.exception("the watch of %s is begun again", self._path)
                self._doubt(repr(error))
                await asyncio.sleep(_BACKOFF_S_MAX * self._draw())
            else:
                backoff_s = _BACKOFF_S

    def _doubt(self, reason: str) -> None:
        if self._list_again_s:  # else it is a list that has failed once more
            self._relists += 1
            self._broken(reason)
        self._list_again_s = 0.0

    # -- a list ---------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        found: dict[str, str] = {}
        follow = ""
        while True:
            query = {"labelSelector": self._selector, "limit": str(_PAGE)}
            if follow:
                query["continue"] = follow
            page = msgspec.json.decode(await self._connection.ask("GET", self._path, query))
            self._heard_s = time.monotonic()
            for item in page.get("items") or ():
                thing = read(self._kind, item)
                meta = thing.metadata
                found[meta.uid] = meta.resource_version
                if self._versions.get(meta.uid) != meta.resource_version:
                    self._versions[meta.uid] = meta.resource_version
                    self._seen(thing)
            follow = page["metadata"].get("continue") or ""
            if not follow:
                break
        for uid in set(self._versions) - set(found):
            del self._versions[uid]
            self._lost(uid, None)
        self._version = page["metadata"]["resourceVersion"]
        self._list_again_s = time.monotonic() + self._times.relist_s * (0.8 + 0.4 * self._draw())
        self._lists += 1
        self.synced.set()

    # -- a watch --------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Until the server ends it, or it is time to list again."""
        left_s = self._list_again_s - time.monotonic()
        watch_s = max(1.0, min(self._times.watch_s * (0.8 + 0.4 * self._draw()), left_s))
        query = {
            "watch": "1",
            "labelSelector": self._selector,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(round(watch_s)),
        }
        try:
            async with (
                asyncio.timeout(watch_s + self._times.silence_s),  # a server that forgets its own time-out
                self._connection.stream(self._path, query, self._times.silence_s) as lines,
            ):
                async for line in lines:
                    self._heard_s = time.monotonic()
                    if line.strip():
                        self._take(line)
        except TimeoutError as error:
            raise ApiSilent(f"the watch of {self._path} did not end when it was asked to") from error

    def _take(self, line: bytes) -> None:
        try:
            said = msgspec.json.decode(line)
            kind, thing = said["type"], said["object"]
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise ApiSilent(f"the watch of {self._path} said {line[:100]!r}") from error
        if kind == "ERROR":
            raise ApiRefused(thing.get("code", 500), thing.get("reason", ""), thing.get("message", ""))
        if kind == "BOOKMARK":
            self._version = thing["metadata"]["resourceVersion"]
            return
        known = read(self._kind, thing)
        meta = known.metadata
        self._version = meta.resource_version
        if kind == "DELETED":
            self._versions.pop(meta.uid, None)
            self._lost(meta.uid, known)
        elif self._versions.get(meta.uid) != meta.resource_version:
            self._versions[meta.uid] = meta.resource_version
            self._seen(known)
