"""What the API server told of a namespace, in the order in which it did, and the story that this is."""

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

from planekit.api import Api, Document
from planekit.plane import ControlPlane

COLLECTIONS = {"Job": "/apis/batch/v1/namespaces/{}/jobs", "Pod": "/api/v1/namespaces/{}/pods"}
EVENTS = "/api/v1/namespaces/{}/events"
PATIENCE_S = 30.0

Line = Document
"""As in a recorded stream: kind, type and object."""


class Story(NamedTuple):
    """What a stream tells, without names, times and what depends on who was quicker.

    Attributes:
        job: the conditions that the Job had, in order; "DELETED" when it went.
        pods: for each pod, in the order in which they came, what was seen of it.
        events: (kind of object, reason) of what scheduler and controllers told.
    """

    job: list[str]
    pods: list[list[str]]
    events: set[tuple[str, str]]


def story_of(lines: Iterable[Line], *, job: str = "j") -> Story:
    """The story of one Job."""
    told: list[str] = []
    pods = dict[str, list[str]]()
    events = set[tuple[str, str]]()
    for line in lines:
        found: Any = line.get("object")
        match line["kind"]:
            case "Job" if found["metadata"]["name"] == job:
                for condition in found["status"].get("conditions") or ():
                    _append(told, f"{condition['type']} {condition.get('reason', '')}".strip())
                if line["type"] == "DELETED":
                    _append(told, "DELETED")
            case "Pod" if found["metadata"]["labels"].get("job-name") == job:
                seen = pods.setdefault(found["metadata"]["name"], [])
                _append(seen, "DELETED" if line["type"] == "DELETED" else _pod_seen(found))
            case "Event" if found.get("source", {}).get("component") != "kubelet":
                events.add((found["involvedObject"]["kind"], found["reason"]))
    return Story(told, list(pods.values()), events)


def _append(told: list[str], word: str) -> None:
    if told[-1:] != [word]:
        told.append(word)


def _pod_seen(pod: Document) -> str:
    status = pod["status"]
    words = [status.get("phase", ""), status.get("reason", "")]
    words += [condition.get("reason", "") for condition in status.get("conditions") or ()]
    for container in status.get("containerStatuses") or ():
        for kind, state in container["state"].items():
            words += [kind, str(state.get("exitCode", "")), state.get("reason", "")]
    words.append("ending" if pod["metadata"].get("deletionTimestamp") else "")
    return " ".join(filter(None, words))


class Recording:
    """Use it as `async with Recording(plane, namespace) as recording:`; it begins with what is there.

    Attributes:
        lines: all that came so far.
    """

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        context = ssl.create_default_context(cafile=str(plane.authority.certificate))
        self._api = Api(plane.url, context, token=plane.admin_token)
        self._namespace = namespace
        self._tasks: list[asyncio.Task[None]] = []
        self._grown = asyncio.Event()
        self.lines: list[Line] = []

    async def __aenter__(self) -> Self:
        await self._api.__aenter__()
        collections = {**COLLECTIONS, "Event": EVENTS}
        began = [asyncio.Event() for _ in collections]
        self._tasks = [
            asyncio.ensure_future(self._follow(kind, path, has_begun))
            for (kind, path), has_begun in zip(collections.items(), began, strict=True)
        ]
        for has_begun in began:
            await has_begun.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._api.__aexit__()

    def story(self, *, job: str = "j") -> Story:
        return story_of(self.lines, job=job)

    async def until(self, is_so: Callable[[Story], bool], *, job: str = "j") -> Story:
        """Wait for a story that is so.

        Raises:
            AssertionError: it does not become so; the message is the story.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not is_so(self.story(job=job)):
                    await self._grown.wait()
                    self._grown.clear()
        except TimeoutError:
            raise AssertionError(f"after {PATIENCE_S} s it is only {self.story(job=job)}") from None
        return self.story(job=job)

    async def _follow(self, kind: str, path: str, has_begun: asyncio.Event) -> None:
        async for change, found in self._api.follow(path.format(self._namespace)):
            is_list = change == "LISTED"
            objects, told = (found, "ADDED") if is_list else ([found], change)
            self.lines += [{"kind": kind, "type": told, "object": each} for each in objects]
            self._grown.set()
            has_begun.set()
