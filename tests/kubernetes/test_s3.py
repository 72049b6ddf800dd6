"""URLs are signed as S3 wants it, and a bucket that is asked by them is an object store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from aiohttp import web
from apikit.bucket import serving

from durableflow.kubernetes.objects import ObjectStore
from durableflow.kubernetes.s3 import S3Credentials, S3Store, signed_url
from durableflow.kubernetes.transfers import read_object, write_object

HOUR = timedelta(hours=1)
ACCESS, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # those of Amazon's examples


@pytest.mark.parametrize(
    ("method", "url", "region", "at", "good_for_s", "token", "signature"),
    [
        (  # the example of Amazon's documentation
            "GET", "https://examplebucket.s3.amazonaws.com/test.txt", "us-east-1", datetime(2013, 5, 24, tzinfo=UTC),
            86_400, None, "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404",
        ),
        (  # as botocore 1.44 signs it
            "PUT", "https://minio.example.com:9000/b/pre%20fix/d/%C3%A9.json", "eu-west-1",
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), 604_800, "a/b+c=d",
            "d1b2b022053f4f688591441dea18cdb819c07d3efcd6a486b2b650028b9974e2",
        ),
    ],
)  # fmt: skip
def test_a_url_has_the_signature_that_others_give_it(
    method: str, url: str, region: str, at: datetime, good_for_s: int, token: str | None, signature: str
) -> None:
    credentials = S3Credentials(access_key=ACCESS, secret_key=SECRET, token=token)
    signed = signed_url(url, method, credentials, region, at, good_for_s)
    assert signed.startswith(f"{url}?X-Amz-Algorithm=AWS4-HMAC-SHA256&")
    assert signed.endswith(f"&X-Amz-Signature={signature}")


def test_what_is_shown_of_credentials_is_no_secret() -> None:
    shown = repr(S3Credentials(access_key=ACCESS, secret_key=SECRET, token="of the session"))
    assert SECRET not in shown
    assert "session" not in shown


async def test_at_amazon_the_bucket_is_in_the_hosts_name_and_elsewhere_in_the_path() -> None:
    def credentials() -> S3Credentials:
        return S3Credentials(access_key=ACCESS, secret_key=SECRET)

    at_amazon = S3Store("models", region="eu-west-1", credentials=credentials)
    url = await at_amazon.url("d/j/input.json", "GET", HOUR)
    assert url.startswith("https://models.s3.eu-west-1.amazonaws.com/d/j/input.json?")
    assert "&X-Amz-Expires=3600&" in url
    own = S3Store("models", region="x", credentials=credentials, endpoint="https://minio:9000/", prefix="jobs/")
    assert (await own.url("d/j", "PUT", HOUR)).startswith("https://minio:9000/models/jobs/d/j?")
    with pytest.raises(ValueError, match="endpoint is 'minio:9000'"):
        S3Store("models", region="x", credentials=credentials, endpoint="minio:9000")


class Server:
    """Keeps objects, for requests whose signature is right and young."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.answers: list[tuple[int, str]] = []
        self.asked = 0
        self.address = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        async with serving(self.serve) as self.address:
            yield self

    def credentials(self) -> S3Credentials:
        self.asked += 1
        return S3Credentials(access_key=ACCESS, secret_key=SECRET, token=f"session {self.asked}")

    def store(self, **options: Any) -> S3Store:
        return S3Store("b", region="r", credentials=self.credentials, endpoint=self.address, **options)

    async def serve(self, request: web.Request) -> web.Response:
        if self.answers:
            status, said = self.answers.pop(0)
            return web.Response(status=status, text=said)
        path, _, asked = request.raw_path.partition("?")
        query = request.query
        at = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        good_for_s = int(query["X-Amz-Expires"])
        credentials = S3Credentials(access_key=ACCESS, secret_key=SECRET, token=query["X-Amz-Security-Token"])
        expected = signed_url(f"{self.address}{path}", request.method, credentials, "r", at, good_for_s)
        if asked != expected.partition("?")[2] or datetime.now(UTC) > at + timedelta(seconds=good_for_s):
            return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
        name = request.match_info["name"]
        if request.method == "PUT":
            self.objects[name] = await request.read()
            return web.Response()
        if request.method == "DELETE":
            self.objects.pop(name, None)
            return web.Response(status=204)
        if name not in self.objects:
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
        return web.Response(body=self.objects[name])


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server().running() as server:
        yield server


async def test_what_is_put_is_what_is_got_until_it_is_deleted(server: Server) -> None:
    store: ObjectStore = server.store(prefix="of jobs/")
    await store.put("d/j/input.json", b"1")
    await store.put("d/j/input.json", b"22" * 100_000)
    assert await store.get("d/j/input.json") == b"22" * 100_000
    assert list(server.objects) == ["b/of jobs/d/j/input.json"]
    await store.delete("d/j/input.json")
    await store.delete("d/j/input.json")
    with pytest.raises(KeyError):
        await store.get("d/j/input.json")
    assert server.asked == 6  # anew each time, for those of a session are renewed


async def test_a_pod_reads_and_writes_by_the_urls_and_does_nothing_else(server: Server) -> None:
    store = server.store()
    await store.put("d/j/input.json", b"given")
    read, write = (
        await store.url("d/j/input.json", "GET", HOUR),
        await store.url("d/j/result.json", "PUT", HOUR),
    )
    digest = sha256(b"given").hexdigest()
    assert await asyncio.to_thread(read_object, read, digest, 10.0) == b"given"
    assert await asyncio.to_thread(write_object, write, b"made", 10.0)
    assert await store.get("d/j/result.json") == b"made"
    assert not await asyncio.to_thread(write_object, read, b"forged", 10.0)
    assert not await asyncio.to_thread(write_object, write.replace("/j/", "/k/"), b"forged", 10.0)
    late = server.store(now=lambda: datetime.now(UTC) - 2 * HOUR)
    assert not await asyncio.to_thread(write_object, await late.url("d/j/result.json", "PUT", HOUR), b"late", 10.0)
    assert server.objects == {"b/d/j/input.json": b"given", "b/d/j/result.json": b"made"}


@pytest.mark.parametrize(
    ("status", "said"),
    [(503, "SlowDown"), (403, "AccessDenied"), (404, "<Code>NoSuchBucket</Code>")],
)
async def test_what_is_no_answer_about_the_object_is_an_error_without_the_signature(
    server: Server, status: int, said: str
) -> None:
    store = server.store()
    for act in (store.get("x"), store.put("x", b"1"), store.delete("x")):
        server.answers = [(status, said)]
        with pytest.raises(OSError, match=f"'x': HTTP {status}: .*{said}") as caught:
            await act
        assert "Signature" not in str(caught.value)
