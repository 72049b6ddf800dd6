"""The proxy before the API server does the harm that it is asked for, and only that."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from planekit.api import Api, ApiError
from planekit.faults import (
    GONE,
    HANG,
    HANG_AFTER,
    LOSE_ANSWER,
    LOSE_REQUEST,
    SERVER_ERROR,
    TOO_MANY_REQUESTS,
    ApiProxy,
    Fault,
)
from planekit.patience import eventually
from planekit.plane import ControlPlane

pytestmark = pytest.mark.slow  # asks a server

BROKEN = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


@pytest.fixture
async def proxy(plane: ControlPlane) -> AsyncIterator[ApiProxy]:
    async with ApiProxy(plane) as proxy:
        yield proxy


@pytest.fixture
async def api(plane: ControlPlane, proxy: ApiProxy) -> AsyncIterator[Api]:
    """A client that comes through the proxy."""
    context = ssl.create_default_context(cafile=str(plane.authority.certificate))
    async with Api(proxy.url, context, token=plane.admin_token) as api:
        yield api


@pytest.fixture
def maps(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps"


def config(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": {"a": "b"}}


def is_there(plane: ControlPlane, maps: str, name: str) -> bool:
    try:
        return bool(plane.request("GET", f"{maps}/{name}"))
    except ApiError as error:
        if error.status != 404:
            raise
        return False


async def test_it_passes_on_what_both_say(plane: ControlPlane, proxy: ApiProxy, api: Api, maps: str) -> None:
    large = config("c") | {"data": {"a": "x" * 300_000}}
    assert (await api.request("POST", maps, large))["data"] == large["data"]
    assert (await api.request("GET", f"{maps}/c"))["data"] == large["data"]
    with pytest.raises(ApiError) as refused:
        await api.request("POST", maps, large)
    assert refused.value.status == 409
    assert dict(proxy.harmed) == {}
    assert [(seen.method, seen.path) for seen in proxy.seen] == [("POST", maps), ("GET", f"{maps}/c"), ("POST", maps)]


async def test_kubectl_comes_through_it(plane: ControlPlane, namespace: str, proxy: ApiProxy) -> None:
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]
    file = plane.kubeconfig("reader", rules, namespace=namespace, url=proxy.url)
    listed = await asyncio.to_thread(plane.kubectl, "get", "configmaps", "-o", "name", kubeconfig=file)
    assert listed == "configmap/kube-root-ca.crt\n"
    assert proxy.seen


@pytest.mark.parametrize(("fault", "is_stored"), [(LOSE_REQUEST, False), (LOSE_ANSWER, True)])
async def test_a_request_or_its_answer_is_lost(
    plane: ControlPlane, proxy: ApiProxy, api: Api, maps: str, fault: Fault, *, is_stored: bool
) -> None:
    proxy.ambush(fault, method="POST", path="/configmaps$")
    with pytest.raises(BROKEN):
        await api.request("POST", maps, config("lost"))
    assert is_there(plane, maps, "lost") is is_stored
    assert proxy.harmed == {fault.kind: 1}
    await api.request("POST", maps, config("next"))
    assert is_there(plane, maps, "next"), "it was for one request"


@pytest.mark.parametrize(("fault", "is_stored"), [(HANG, False), (HANG_AFTER, True)])
async def test_a_request_hangs_until_its_client_gives_up(
    plane: ControlPlane, proxy: ApiProxy, api: Api, maps: str, fault: Fault, *, is_stored: bool
) -> None:
    proxy.ambush(fault, method="POST")
    with pytest.raises(TimeoutError):
        await api.request("POST", maps, config("late"), timeout_s=0.5)
    assert is_there(plane, maps, "late") is is_stored


async def test_what_hangs_is_broken_when_all_is_healed(proxy: ApiProxy, api: Api, maps: str) -> None:
    proxy.ambush(HANG)
    asked = asyncio.ensure_future(api.request("POST", maps, config("c")))
    await eventually(lambda: proxy.harmed)
    proxy.heal()
    with pytest.raises(BROKEN):
        await asked
    await api.request("GET", maps)


async def test_a_refusal_says_how_long_to_wait(plane: ControlPlane, proxy: ApiProxy, maps: str) -> None:
    proxy.ambush(TOO_MANY_REQUESTS)
    context = ssl.create_default_context(cafile=str(plane.authority.certificate))
    async with aiohttp.ClientSession() as session, session.get(proxy.url + maps, ssl=context) as answer:
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "1"
        assert (await answer.json())["reason"] == "TooManyRequests"


@asynccontextmanager
async def watching(plane: ControlPlane, proxy: ApiProxy, maps: str) -> AsyncIterator[aiohttp.StreamReader]:
    context = ssl.create_default_context(cafile=str(plane.authority.certificate))
    headers = {"Authorization": f"Bearer {plane.admin_token}"}
    url = f"{proxy.url}{maps}?watch=1&fieldSelector=metadata.name%3Dc"
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context, headers=headers) as answer:
        assert answer.status == 200
        yield answer.content


async def test_a_watch_is_told_that_its_version_has_gone(plane: ControlPlane, proxy: ApiProxy, maps: str) -> None:
    proxy.ambush(GONE, is_watch=True)
    async with watching(plane, proxy, maps) as stream:
        told = json.loads(await stream.readline())
        assert (told["type"], told["object"]["code"], told["object"]["reason"]) == ("ERROR", 410, "Expired")
        assert await stream.readline() == b""


@pytest.mark.parametrize("events", [0, 2])
async def test_a_watch_breaks_after_so_many_events(
    plane: ControlPlane, proxy: ApiProxy, maps: str, events: int
) -> None:
    proxy.ambush(Fault("cut", events=events), is_watch=True)
    with pytest.raises((*BROKEN, aiohttp.ClientPayloadError)):  # noqa: PT012  # all of it may break
        async with watching(plane, proxy, maps) as stream:
            for number in range(events):
                await asyncio.to_thread(put, plane, maps, number)
                assert json.loads(await stream.readline())["object"]["data"]["a"] == str(number)
            await asyncio.to_thread(put, plane, maps, events)
            assert await stream.readline() == b""
            raise aiohttp.ClientPayloadError  # it ended without a sign


async def test_a_watch_falls_silent_and_stays_open(plane: ControlPlane, proxy: ApiProxy, maps: str) -> None:
    proxy.ambush(Fault("stall", events=1), is_watch=True)
    async with watching(plane, proxy, maps) as stream:
        put(plane, maps, 0)
        await stream.readline()
        put(plane, maps, 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.readline(), 0.5)


def put(plane: ControlPlane, maps: str, number: int) -> None:
    document = config("c") | {"data": {"a": str(number)}}
    method, path = ("PUT", f"{maps}/c") if is_there(plane, maps, "c") else ("POST", maps)
    plane.request(method, path, document)


async def test_a_storm_is_the_same_for_the_same_seed(proxy: ApiProxy, api: Api, maps: str) -> None:
    async def befallen(seed: int) -> list[str]:
        proxy.seen.clear()
        proxy.storm(seed, {SERVER_ERROR: 0.3, LOSE_ANSWER: 0.2}, path="/configmaps")
        for _ in range(30):
            try:
                await api.request("GET", maps)
            except (ApiError, *BROKEN):
                pass
        proxy.heal()
        return [seen.fault.kind if seen.fault else "" for seen in proxy.seen]

    first = await befallen(7)
    assert await befallen(7) == first
    assert await befallen(8) != first
    assert set(first) == {"", "refuse", "lose answer"}
