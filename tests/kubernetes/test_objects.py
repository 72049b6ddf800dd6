"""What is too large for Kubernetes is in a store: what is put there is what is read, or it is said that it is not."""

from __future__ import annotations

import json
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from apikit.bucket import Bucket

from durableflow.kubernetes import objects as module
from durableflow.kubernetes.account import redact
from durableflow.kubernetes.envelope import Stored
from durableflow.kubernetes.objects import FolderStore, Objects, ObjectsFailed, ObjectStore, good_for_of
from durableflow.kubernetes.outcome import Kind, Outcome
from durableflow.kubernetes.spec import JobSpec
from durableflow.kubernetes.transfers import read_object, write_object

DAY = timedelta(days=1)
DONE = Outcome(Kind.SUCCESS, node="n-1", pod="p", pod_uid="u")


def stored(data: bytes) -> Stored:
    return Stored(sha256(data).hexdigest(), len(data))


# -- a folder ---------------------------------------------------------------------------------------------------------


async def test_what_is_put_into_a_folder_is_what_is_got_until_it_is_deleted(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "objects")
    await store.put("d/j/input.json", b"1")
    await store.put("d/j/input.json", b"22")
    assert await store.get("d/j/input.json") == b"22"
    await store.delete("d/j/input.json")
    await store.delete("d/j/input.json")
    with pytest.raises(KeyError):
        await store.get("d/j/input.json")


async def test_a_folder_is_empty_when_all_is_deleted(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for name in ("d/j/input.json", "d/j/result.json", "d/k/input.json"):
        await store.put(name, b"1")
    assert files_in(tmp_path) == ["d", "d/j", "d/j/input.json", "d/j/result.json", "d/k", "d/k/input.json"]
    for name in ("d/j/input.json", "d/j/result.json"):
        await store.delete(name)
    assert files_in(tmp_path) == ["d", "d/k", "d/k/input.json"]
    await store.delete("d/k/input.json")
    assert files_in(tmp_path) == []


def files_in(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))


async def test_a_pod_reads_and_writes_where_it_has_the_folder(tmp_path: Path) -> None:
    here = FolderStore(tmp_path)
    await here.put("d/j/input.json", b"given")
    url = await here.url("d/j/input.json", "GET", DAY)
    assert read_object(url, sha256(b"given").hexdigest(), 0.0) == b"given"
    assert write_object(await here.url("d/j/result.json", "PUT", DAY), b"made", 0.0)
    assert await here.get("d/j/result.json") == b"made"
    elsewhere = FolderStore(tmp_path, mounted_at="/mnt/all of it")
    assert await elsewhere.url("d/j", "GET", DAY) == "file:///mnt/all%20of%20it/d/j"


# -- results ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def objects(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Objects:
    monkeypatch.setattr(module, "_BACKOFF_S", 0.001)
    monkeypatch.setattr(module, "_TRIES_S", 0.05)
    return Objects(bucket, "d", 1_000)


def test_a_bucket_is_an_object_store(bucket: Bucket) -> None:
    store: ObjectStore = bucket
    assert store is bucket


async def test_a_stored_result_is_the_result(bucket: Bucket, objects: Objects) -> None:
    data = json.dumps({"loss": [1, 2]}).encode()
    bucket.objects["d/j/result.json"] = data
    outcome = await objects.fetch("j", DONE, stored(data))
    assert (outcome.kind, outcome.value, outcome.pod) == (Kind.SUCCESS, {"loss": [1, 2]}, "p")


@pytest.mark.parametrize(
    ("kept", "said", "kind", "reason"),
    [
        (None, stored(b"1"), Kind.INFRASTRUCTURE, "ResultLost"),
        (b"12", stored(b"1"), Kind.INFRASTRUCTURE, "ResultLost"),
        (b"2", stored(b"1"), Kind.INFRASTRUCTURE, "ResultLost"),
        (b"no json", stored(b"no json"), Kind.FATAL, "ResultInvalid"),
        (b"1" * 1_001, stored(b"1" * 1_001), Kind.FATAL, "ResultInvalid"),
    ],
)
async def test_anything_else_is_a_failure(
    bucket: Bucket, objects: Objects, kept: Any, said: Stored, kind: Kind, reason: str
) -> None:
    if kept is not None:
        bucket.objects["d/j/result.json"] = kept
    outcome = await objects.fetch("j", DONE, said)
    assert (outcome.kind, outcome.reason, outcome.value, outcome.node) == (kind, reason, None, "n-1")


async def test_what_is_too_large_is_not_even_fetched(bucket: Bucket, objects: Objects) -> None:
    bucket.failures = 1_000
    assert (await objects.fetch("j", DONE, Stored("0" * 64, 10**12))).reason == "ResultInvalid"


async def test_a_store_that_fails_says_nothing_of_the_result(bucket: Bucket, objects: Objects) -> None:
    bucket.failures = 1
    with pytest.raises(ObjectsFailed, match="OSError: the bucket is not there"):
        await objects.fetch("j", DONE, stored(b"1"))


async def test_an_input_is_put_again_until_it_is_there_or_a_minute_is_over(bucket: Bucket, objects: Objects) -> None:
    bucket.failures = 2
    await objects.put_input("j", b"given")
    assert bucket.objects == {"d/j/input.json": b"given"}
    bucket.failures = 10_000
    with pytest.raises(ObjectsFailed):
        await objects.put_input("j", b"given")


async def test_what_is_forgotten_is_deleted_and_what_cannot_be_is_no_error(bucket: Bucket, objects: Objects) -> None:
    bucket.objects = {"d/j/input.json": b"1", "d/j/result.json": b"1", "d/k/input.json": b"1"}
    await objects.forget("j")
    assert bucket.objects == {"d/k/input.json": b"1"}
    bucket.failures = 2
    await objects.forget("k")
    assert bucket.failures == 0


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, timedelta(days=7)),
        ({"schedule_timeout": 3_600}, timedelta(days=7)),
        ({"schedule_timeout": 3_600, "active_deadline": 7_200}, timedelta(hours=4)),
        ({"schedule_timeout": timedelta(days=6), "active_deadline": DAY}, timedelta(days=7)),
    ],
)
def test_a_url_is_good_for_as_long_as_a_pod_may_need_it(spec: Any, expected: timedelta) -> None:
    assert good_for_of(JobSpec(image="i", **spec)) == expected


@pytest.mark.parametrize(
    "said",
    [
        "PUT https://b.example.com/d/j/result.json?X-Amz-Credential=AKIA%2F1&X-Amz-Signature=0af3&x=1 failed",
        "GET https://b.example.com/d/j?sig=abc%2Bdef&x=1",
        "https://storage.example.com/o?X-Goog-Signature=77ab",
    ],
)
def test_a_url_that_a_program_prints_is_worth_nothing(said: str) -> None:
    left = redact(said)
    assert not any(secret in left for secret in ("0af3", "abc%2B", "77ab", "AKIA"))
    assert left.count("[redacted]") >= 1
