"""An informer knows what the server has, whatever goes wrong between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from apikit.server import ApiServer, until

from durableflow.kubernetes import informer as module
from durableflow.kubernetes.connection import ApiClosed, ApiRefused, ApiSilent, Connection
from durableflow.kubernetes.documents import Job
from durableflow.kubernetes.informer import Informer, Times

pytestmark = pytest.mark.slow  # servers, and seconds as short as they can be

QUICK = Times(watch_s=30, silence_s=30, relist_s=60)


class Watched:
    """An informer, and what it has told."""

    def __init__(self, configure: Any, times: Times = QUICK) -> None:
        self.known: dict[str, str] = {}
        self.told: list[str] = []
        self.connection = Connection(configure, request_s=1.0)
        self.informer: Informer[Job] = Informer(
            self.connection,
            "/apis/batch/v1/namespaces/gpus/jobs",
            "durableflow.dev/deployment=d",
            Job,
            seen=self.see,
            lost=self.lose,
            times=times,
        )

    def see(self, job: Job) -> None:
        self.known[job.metadata.uid] = job.metadata.name
        self.told.append(f"+{job.metadata.name}")

    def lose(self, uid: str, job: Job | None) -> None:
        self.told.append(f"-{self.known.pop(uid)}")


@asynccontextmanager
async def watching(configure: Any, times: Times = QUICK) -> AsyncIterator[Watched]:
    watched = Watched(configure, times)
    await watched.connection.open()
    task = asyncio.create_task(watched.informer.run())
    try:
        await asyncio.wait_for(watched.informer.synced.wait(), 10)
        yield watched
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await watched.connection.close()


async def put(api: ApiServer, name: str, change: str = "ADDED", deployment: str = "d") -> None:
    meta = {"name": name, "uid": f"uid-{name}", "labels": {"durableflow.dev/deployment": deployment}}
    await api.put("jobs", change, {"metadata": meta, "spec": {}, "status": {}})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BACKOFF_S", 0.01)


async def test_it_lists_and_then_hears_of_each_change(api: ApiServer, configure: Any) -> None:
    await put(api, "a")
    await put(api, "other", deployment="e")
    async with watching(configure) as watched:
        assert watched.told == ["+a"]
        await put(api, "b")
        await put(api, "a", "MODIFIED")
        await put(api, "b", "DELETED")
        await until(lambda: watched.told == ["+a", "+b", "+a", "-b"])
        assert watched.informer.statistics().objects == 1
        assert watched.informer.statistics().lists == 1


async def test_a_long_list_comes_in_pages(api: ApiServer, configure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 3)
    for number in range(8):
        await put(api, f"j{number}")
    async with watching(configure) as watched:
        assert len(watched.known) == 8
        assert len(api.asked("GET", "limit=3")) == 3


async def test_what_happened_while_the_connection_was_lost_is_found_out(api: ApiServer, configure: Any) -> None:
    await put(api, "a")
    await put(api, "b")
    async with watching(configure, Times(watch_s=1, silence_s=30, relist_s=60)) as watched:
        api.fault("GET", "watch=1", 503, times=3)
        await put(api, "a", "DELETED")
        await put(api, "c")
        await until(lambda: set(watched.known.values()) == {"b", "c"})


async def test_a_watch_that_the_server_ends_goes_on_where_it_was(api: ApiServer, configure: Any) -> None:
    await put(api, "a")
    async with watching(configure, Times(watch_s=1, silence_s=30, relist_s=60)) as watched:
        await until(lambda: api.watches >= 2)
        await put(api, "b")
        await until(lambda: "+b" in watched.told)
        assert watched.told == ["+a", "+b"]
        assert watched.informer.statistics().lists == 1


async def test_an_expired_version_is_never_asked_for_again(api: ApiServer, configure: Any) -> None:
    await put(api, "a")
    async with watching(configure, Times(watch_s=1, silence_s=30, relist_s=60)) as watched:
        await put(api, "b")
        await until(lambda: "+b" in watched.told)
        api.compacted = api.version + 1
        await until(lambda: watched.informer.statistics().lists >= 2)
        api.compacted = 0
        await put(api, "c")
        await until(lambda: "+c" in watched.told)
        assert sorted(watched.known.values()) == ["a", "b", "c"]


async def test_a_server_that_falls_silent_is_left(api: ApiServer, configure: Any) -> None:
    async with watching(configure, Times(watch_s=30, silence_s=0.3, relist_s=60)) as watched:
        api.silent = True
        await put(api, "a")
        await until(lambda: "+a" in watched.told)  # by the list that follows
        assert watched.informer.statistics().lists >= 2
        assert watched.connection.errors


async def test_now_and_then_it_lists_without_a_reason(api: ApiServer, configure: Any) -> None:
    await put(api, "a")
    async with watching(configure, Times(watch_s=30, silence_s=30, relist_s=1)) as watched:
        api.objects["jobs"].clear()  # and nobody is told
        await until(lambda: watched.told == ["+a", "-a"])


async def test_a_server_that_asks_to_be_left_alone_is(api: ApiServer, configure: Any) -> None:
    api.fault("GET", "/jobs", 429, times=1, Retry_After="1")
    began = asyncio.get_running_loop().time()
    async with watching(configure):
        assert asyncio.get_running_loop().time() - began >= 1


@pytest.mark.parametrize("status", [403, 500, 502])
async def test_refusals_of_a_server_that_starts_pass(api: ApiServer, configure: Any, status: int) -> None:
    api.fault("GET", "/jobs", status, times=3)
    async with watching(configure) as watched:
        await put(api, "a")
        await until(lambda: watched.told == ["+a"])


async def test_a_server_that_does_not_know_us_is_asked_with_new_credentials(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubernetes_asyncio.client import Configuration

    monkeypatch.setattr("durableflow.kubernetes.connection._RENEW_S", 0.0)
    tokens = iter(["Bearer old", "Bearer new"])
    api.known_tokens = {"Bearer new"}

    async def configure() -> Any:
        return Configuration(host=api.url, api_key={"BearerToken": next(tokens)})

    async with watching(configure) as watched:
        await put(api, "a")
        await until(lambda: watched.told == ["+a"])
    assert {who for *_, who in api.requests} == {"Bearer old", "Bearer new"}


async def test_no_request_waits_for_ever(api: ApiServer, configure: Any) -> None:
    connection = Connection(configure, request_s=1)
    await connection.open()
    api.fault("GET", "/jobs", "hang")
    with pytest.raises(ApiSilent, match="TimeoutError"):
        await connection.ask("GET", "/apis/batch/v1/namespaces/gpus/jobs")
    api.fault("GET", "/jobs", "cut before", times=3)  # a GET is asked once more by the driver itself
    with pytest.raises(ApiSilent):
        await connection.ask("GET", "/apis/batch/v1/namespaces/gpus/jobs")
    api.faults.clear()
    with pytest.raises(ApiRefused, match="404 NotFound") as caught:
        await connection.ask("GET", "/apis/batch/v1/namespaces/gpus/jobs/none")
    assert caught.value.status == 404
    await connection.close()
    with pytest.raises(ApiClosed, match="closed"):
        await connection.ask("GET", "/apis/batch/v1/namespaces/gpus/jobs")
