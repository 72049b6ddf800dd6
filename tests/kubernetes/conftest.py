"""Recorded streams, and small documents to tell stories with."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

# Test folders are no packages; this one has helpers of its own.
sys.path.insert(0, str(Path(__file__).parent))

from apikit.server import ApiServer

from durableflow.kubernetes.documents import Event, Job, Pod, job_of, read
from durableflow.kubernetes.seen import Seen

STREAMS = Path(__file__).parent / "streams"
VERSIONS = ("v1.20.2", "v1.36.2")
JOB = "j"


class Line(NamedTuple):
    """Something that a server said of one Job."""

    at_us: int
    kind: str
    type: str
    object: Any


def lines_of(version: str, case: str) -> list[Line]:
    """All that was said of the Job `j` of a case, in the order in which it came."""
    raw = [json.loads(line) for line in (STREAMS / version / f"{case}.jsonl").read_text().splitlines()]
    said = [each for each in raw if each["kind"] in ("Job", "Pod", "Event")]
    first = next(each for each in said if each["kind"] == "Job")
    begin = read(Job, first["object"]).metadata.creation_timestamp
    assert begin is not None
    begin_us = round((begin.timestamp() - first["t"]) * 1_000_000)
    return [
        Line(begin_us + round(each["t"] * 1_000_000), each["kind"], each["type"], each["object"])
        for each in said
        if _is_of_the_job(each["kind"], each["object"])
    ]


def _is_of_the_job(kind: str, thing: Any) -> bool:
    if kind == "Pod":
        return job_of(read(Pod, thing))[0] == JOB
    if kind == "Event":
        name = read(Event, thing).involved_object.name
        return name == JOB or name.startswith(f"{JOB}-")
    return bool(thing["metadata"]["name"] == JOB)


def tell(seen: Seen, line: Line) -> None:
    """As an informer does."""
    match line.kind, line.type:
        case "Job", "DELETED":
            seen.lose_job(read(Job, line.object), line.at_us)
        case "Job", _:
            seen.see_job(read(Job, line.object), line.at_us)
        case "Pod", "DELETED":
            pod = read(Pod, line.object)
            seen.lose_pod(pod.metadata.uid, pod, line.at_us)
        case "Pod", _:
            seen.see_pod(read(Pod, line.object), line.at_us)
        case _:
            seen.see_event(read(Event, line.object), line.at_us)


def prefixes(lines: Sequence[Line]) -> Iterator[tuple[Seen, int]]:
    """What was seen after each line, and when."""
    seen = Seen()
    for line in lines:
        tell(seen, line)
        yield seen, line.at_us


@pytest.fixture(scope="session")
def streams() -> Any:
    return SimpleNamespace(lines_of=lines_of, prefixes=prefixes, tell=tell, Line=Line)


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer().running() as server:
        yield server


async def configuration_of(server: ApiServer) -> Any:
    from kubernetes_asyncio.client import Configuration

    return Configuration(host=server.url)


@pytest.fixture
def configure(api: ApiServer) -> Callable[[], Awaitable[Any]]:
    """Where the server is."""
    return lambda: configuration_of(api)
