"""Inputs and results that Kubernetes cannot hold go by an object store, and nothing of them is left."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from apikit.bucket import Bucket
from apikit.server import ApiServer, until
from apikit.shop import Shop, hurry

from durableflow import Settings
from durableflow.kubernetes import manifest
from durableflow.kubernetes.envelope import STORED, Envelope, seal

pytestmark = pytest.mark.slow  # servers


@pytest.fixture
async def bucket() -> AsyncIterator[Bucket]:
    async with Bucket().running() as bucket:
        yield bucket


@pytest.fixture
def shop(api: ApiServer, configure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    hurry(monkeypatch)
    monkeypatch.setattr(manifest, "INPUT_BYTES_MAX", 200)
    monkeypatch.setattr("durableflow.kubernetes.objects._TRIES_S", 0.1)
    monkeypatch.setattr("durableflow.kubernetes.objects._BACKOFF_S", 0.01)
    return Shop(api, configure, tmp_path)


def urls_in(shop: Shop, name: str) -> dict[str, str]:
    read: dict[str, str] = json.loads(shop.api.objects["secrets"][name]["stringData"]["objects.json"])
    return read


async def say_stored(shop: Shop, name: str, data: bytes) -> None:
    """What a pod says after it has written its result."""
    value = {"sha256": sha256(data).hexdigest(), "size": len(data)}
    pod = await shop.api.start_pod(name)
    await shop.api.end_pod(pod, message=seal(Envelope(name, STORED, value)))


LARGE = 10**220
RESULT = json.dumps({"loss": 0.25}).encode()


async def test_a_large_input_is_in_the_store_before_its_job_is_there_and_gone_when_that_is(
    shop: Shop, bucket: Bucket
) -> None:
    shop.define(schedule_timeout=3_600, active_deadline=3_600)
    async with shop.open(objects=bucket) as engine:
        shop.api.fault("POST", "/jobs", 503, times=1)
        handle = await engine.start(shop.training, LARGE)
        await until(lambda: shop.api.asked("POST", "/jobs$"))
        assert len(bucket.objects) == 1
        name = await shop.job()
        await until(lambda: name in shop.api.objects["secrets"])
        given = bucket.objects[f"shop/{name}/input.json"]
        assert json.loads(given) == {"input": {"size": LARGE}, "attempt": 1, "details": None}
        held = json.loads(shop.api.objects["configmaps"][name]["data"]["input.json"])
        assert held == {"sha256": sha256(given).hexdigest()}
        assert bucket.good_for == timedelta(hours=3)
        await shop.succeed(name)
        assert await handle.result(timeout=60) == 0.5
        await shop.empty()
        await until(lambda: not bucket.objects)


async def test_where_things_are_is_in_the_secret_and_nowhere_else(shop: Shop, bucket: Bucket) -> None:
    async with shop.open(objects=bucket) as engine:
        await engine.start(shop.training.options(instance_id="t"), 1)
        name = await shop.job()
        await until(lambda: name in shop.api.objects["secrets"])
        signatures = [url.rpartition("sig=")[2] for url in urls_in(shop, name).values()]
        said = [(path, json.dumps(body)) for _, path, body, _ in shop.api.requests if not path.endswith("/secrets")]
        assert [path for path, body in said if any(each in body for each in signatures)] == []
        folder = Path(shop.url.removeprefix("sqlite:///")).parent
        stored = b"".join(each.read_bytes() for each in folder.iterdir() if each.is_file())
        assert not any(each.encode() in stored for each in signatures)


async def test_a_stored_result_comes_back_as_the_type_that_was_asked_for(shop: Shop, bucket: Bucket) -> None:
    async with shop.open(objects=bucket) as engine:
        handle = await engine.start(shop.training, 1)
        name = await shop.job()
        bucket.objects[f"shop/{name}/result.json"] = RESULT
        await say_stored(shop, name, RESULT)
        assert await handle.result(timeout=60) == 0.25
        await shop.empty()
        await until(lambda: not bucket.objects)


async def test_a_store_that_fails_for_a_while_delays_a_result_and_loses_nothing(shop: Shop, bucket: Bucket) -> None:
    async with shop.open(objects=bucket) as engine:
        handle = await engine.start(shop.training, 1)
        name = await shop.job()
        await until(lambda: engine.statistics().running_attempts == 0)
        bucket.objects[f"shop/{name}/result.json"] = RESULT
        bucket.failures = 3
        await say_stored(shop, name, RESULT)
        assert await handle.result(timeout=60) == 0.25
        assert bucket.failures == 0
    assert len(shop.api.created) == 1


async def test_a_result_that_is_not_where_it_should_be_is_nobodys_fault_and_made_again(
    shop: Shop, bucket: Bucket
) -> None:
    async with shop.open(objects=bucket) as engine:
        handle = await engine.start(shop.training, 1)
        await say_stored(shop, await shop.job(), RESULT)
        second = await shop.job(2)
        bucket.objects[f"shop/{second}/result.json"] = RESULT
        await say_stored(shop, second, RESULT)
        assert await handle.result(timeout=60) == 0.25
        assert shop.jobs.statistics().outcomes == {"infrastructure": 1, "success": 1}
        assert shop.jobs.statistics().reasons == {"ResultLost": 1}


async def test_an_attempt_does_not_read_what_the_one_before_has_written(shop: Shop, bucket: Bucket) -> None:
    async with shop.open(objects=bucket) as engine:
        await engine.start(shop.training, 1)
        first = await shop.job()
        bucket.objects[f"shop/{first}/result.json"] = RESULT
        pod = await shop.api.start_pod(first)
        await shop.api.end_pod(pod, 3)
        second = await shop.job(2)
        await until(lambda: second in shop.api.objects["secrets"])
        assert urls_in(shop, second)["result"].partition("?")[0].endswith(f"/shop/{second}/result.json")


async def test_a_store_that_is_down_when_the_job_is_to_be_sent_is_nobodys_fault(shop: Shop, bucket: Bucket) -> None:
    shop.define(infrastructure_retries=1)
    bucket.failures = 1_000_000
    async with shop.open(objects=bucket) as engine:
        kind, _, message, _ = await (await engine.start(shop.training, 1)).result(timeout=60)
        assert kind == "ObjectStoreFailed"
        assert "given up after 2 attempts" in message
    assert shop.api.created == []


async def test_without_a_store_a_large_input_is_refused_before_there_is_a_job(shop: Shop) -> None:
    async with shop.open() as engine:
        kind, attempts, message, _ = await (await engine.start(shop.training, LARGE)).result(timeout=60)
        assert (kind, attempts) == ("InputTooLarge", 1)
        assert "give KubernetesJobs an object store" in message
    assert shop.api.created == []


async def test_a_worker_without_the_store_leaves_the_result_to_one_that_has_it(
    shop: Shop, bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    async with shop.open(objects=bucket) as engine:
        await engine.start(shop.training.options(instance_id="t"), 1)
        name = await shop.job()
        await until(lambda: engine.statistics().running_attempts == 0)
    bucket.objects[f"shop/{name}/result.json"] = RESULT
    async with shop.open() as engine:
        await say_stored(shop, name, RESULT)
        await until(lambda: "give these KubernetesJobs the one of its sender" in caplog.text)
        assert len(await engine.open_attempts()) == 1
    async with shop.open(objects=bucket) as engine:
        assert await engine.result("t", timeout=60) == 0.25


async def test_a_stored_result_over_the_limit_of_payloads_is_not_fetched(shop: Shop, bucket: Bucket) -> None:
    async with shop.open(objects=bucket) as engine:
        handle = await engine.start(shop.training, 1)
        name = await shop.job()
        size = Settings().payload_limit_bytes + 1
        value = {"sha256": "0" * 64, "size": size}
        pod = await shop.api.start_pod(name)
        await shop.api.end_pod(pod, message=seal(Envelope(name, STORED, value)))
        kind, _, message, _ = await handle.result(timeout=60)
        assert kind == "ResultInvalid"
        assert f"{size} bytes" in message
