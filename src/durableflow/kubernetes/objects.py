"""Where inputs and results are that are too large for what Kubernetes keeps: in a store of the user's.

A pod has no credentials for it and needs no library: it is given a URL to read its input from and one to write its
result to, which are good for one object, one method and some time. They are in the Secret of its Job.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Final, Literal, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from durableflow.kubernetes.envelope import Stored
from durableflow.kubernetes.outcome import Kind, Outcome
from durableflow.kubernetes.spec import JobSpec, seconds
from durableflow.kubernetes.transfers import write_file

Method = Literal["GET", "PUT"]
T = TypeVar("T")

_GOOD_FOR_MAX: Final = timedelta(days=7)
"""Longer ones S3 does not sign."""
_MARGIN: Final = timedelta(hours=1)
_TRIES_S: Final = 60.0
_BACKOFF_S: Final = 0.2
_BACKOFF_S_MAX: Final = 5.0


class ObjectStore(Protocol):
    """What keeps objects by name; any error that it raises means that it is to be asked again."""

    async def put(self, name: str, data: bytes) -> None:
        """Keep `data`, in place of what has that name; whole or not at all."""
        ...

    async def get(self, name: str) -> bytes:
        """What has that name.

        Raises:
            KeyError: nothing has.
        """
        ...

    async def delete(self, name: str) -> None:
        """Let nothing have that name."""
        ...

    async def url(self, name: str, method: Method, good_for: timedelta) -> str:
        """Where a pod reads or writes what has that name: a URL of `https`, `http` or `file` that needs no header."""
        ...


class FolderStore:
    """Files in a folder that pods have mounted too.

    Args:
        folder: where it is here.
        mounted_at: where it is in pods; by default at the same place.
    """

    def __init__(self, folder: str | Path, mounted_at: str | None = None) -> None:
        self._folder = Path(folder).absolute()
        self._mounted_at = PurePosixPath(mounted_at or self._folder)

    async def put(self, name: str, data: bytes) -> None:
        """See `ObjectStore.put`."""
        await asyncio.to_thread(write_file, self._folder / name, data)

    async def get(self, name: str) -> bytes:
        """See `ObjectStore.get`."""
        try:
            return await asyncio.to_thread((self._folder / name).read_bytes)
        except FileNotFoundError:
            raise KeyError(name) from None

    async def delete(self, name: str) -> None:
        """See `ObjectStore.delete`."""
        await asyncio.to_thread(self._remove, self._folder / name)

    async def url(self, name: str, method: Method, good_for: timedelta) -> str:  # noqa: ARG002  # who has the folder, has it
        """See `ObjectStore.url`."""
        return f"file://{quote(str(self._mounted_at / name))}"

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # something else is there
            while path.parent != self._folder:
                path = path.parent
                path.rmdir()


class ObjectsFailed(Exception):
    """The store has raised: nothing is known."""


class Objects:
    """The objects of Jobs: one that each reads, one that each writes.

    Args:
        result_bytes_max: larger results are not fetched.
    """

    def __init__(self, store: ObjectStore, deployment: str, result_bytes_max: int) -> None:
        self._store = store
        self._deployment = deployment
        self._result_bytes_max = result_bytes_max

    async def urls(self, job: str, spec: JobSpec) -> dict[str, str]:
        """Where the pod of a Job reads its input, and where it writes its result.

        Raises:
            ObjectsFailed: the store does not say.
        """
        good_for = good_for_of(spec)
        store = self._store
        read, written = self._name(job, "input"), self._name(job, "result")
        return {
            "input": await self._patiently(lambda: store.url(read, "GET", good_for)),
            "result": await self._patiently(lambda: store.url(written, "PUT", good_for)),
        }

    async def put_input(self, job: str, data: bytes) -> None:
        """Keep what the pod of a Job will read.

        Raises:
            ObjectsFailed: the store did not take it for a minute.
        """
        await self._patiently(lambda: self._store.put(self._name(job, "input"), data))

    async def fetch(self, job: str, outcome: Outcome, stored: Stored) -> Outcome:
        """The outcome with the result that the pod has written there; another one if that is not to be had.

        Raises:
            ObjectsFailed: nothing is known; ask again.
        """

        def otherwise(kind: Kind, reason: str, message: str) -> Outcome:
            return msgspec.structs.replace(outcome, kind=kind, reason=reason, message=message, value=None)

        if stored.size > self._result_bytes_max:
            text = f"the result has {stored.size} bytes, but a payload has at most {self._result_bytes_max}"
            return otherwise(Kind.FATAL, "ResultInvalid", f"{text}; return where it is kept")
        try:
            data = await self._store.get(self._name(job, "result"))
        except KeyError:
            text = "the pod says that its result was stored, but it is not there"
            return otherwise(Kind.INFRASTRUCTURE, "ResultLost", text)
        except Exception as error:
            raise ObjectsFailed(f"the object store failed: {type(error).__name__}: {error}") from error
        if len(data) != stored.size or sha256(data).hexdigest() != stored.sha256:
            text = "what is stored as its result is not what the pod has written"
            return otherwise(Kind.INFRASTRUCTURE, "ResultLost", text)
        try:
            return msgspec.structs.replace(outcome, value=msgspec.json.decode(data))
        except msgspec.DecodeError as error:
            return otherwise(Kind.FATAL, "ResultInvalid", f"the stored result is no JSON: {error}")

    async def forget(self, job: str) -> None:
        """Delete both; what cannot be deleted is left to the rules of the store."""
        for what in ("input", "result"):
            with suppress(Exception):
                await self._store.delete(self._name(job, what))

    def _name(self, job: str, what: str) -> str:
        return f"{self._deployment}/{job}/{what}.json"

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        until_s, backoff_s = loop.time() + _TRIES_S, _BACKOFF_S
        while True:
            try:
                return await ask()
            except Exception as error:
                if loop.time() >= until_s:
                    raise ObjectsFailed(f"the object store failed: {type(error).__name__}: {error}") from error
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.5))  # noqa: S311  # no secret
            backoff_s = min(2 * backoff_s, _BACKOFF_S_MAX)


def good_for_of(spec: JobSpec) -> timedelta:
    """How long the URLs of a Job must be good: until its pod must have ended, as far as that is known."""
    if spec.schedule_timeout is None or spec.active_deadline is None:
        return _GOOD_FOR_MAX
    lasts = timedelta(seconds=seconds(spec.schedule_timeout) + seconds(spec.active_deadline))
    return min(lasts + _MARGIN, _GOOD_FOR_MAX)
