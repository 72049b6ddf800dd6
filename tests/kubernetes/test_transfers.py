"""A pod reads and writes objects by their URLs, again while it makes sense, and tells nobody what they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from apikit.bucket import Bucket

from durableflow.kubernetes import transfers as module
from durableflow.kubernetes.transfers import read_object, write_object

GIVEN = b"given " * 100_000
DIGEST = sha256(GIVEN).hexdigest()
DAY = timedelta(days=1)


@pytest.fixture
async def bucket(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bucket]:
    monkeypatch.setattr(module, "_PAUSE_S", 0.01)
    async with Bucket().running() as bucket:
        bucket.objects["o"] = GIVEN
        yield bucket


async def test_an_object_is_read_and_another_one_is_written(bucket: Bucket) -> None:
    url = await bucket.url("o", "GET", DAY)
    assert await asyncio.to_thread(read_object, url, DIGEST, 10.0) == GIVEN
    assert await asyncio.to_thread(write_object, await bucket.url("p", "PUT", DAY), b"made", 10.0)
    assert bucket.objects["p"] == b"made"


async def test_while_nobody_answers_it_is_tried_again(bucket: Bucket) -> None:
    bucket.answers = [503, 500, 429]
    url = await bucket.url("o", "GET", DAY)
    assert await asyncio.to_thread(read_object, url, DIGEST, 60.0) == GIVEN
    bucket.answers = [503, 500, 429]
    assert await asyncio.to_thread(write_object, await bucket.url("p", "PUT", DAY), b"made", 60.0)
    assert len(bucket.heard) == 8


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_what_would_be_refused_again_is_not_tried_again(bucket: Bucket, status: int) -> None:
    bucket.answers = [status, status]
    with pytest.raises(ConnectionError, match=f"HTTP {status}$"):
        await asyncio.to_thread(read_object, await bucket.url("o", "GET", DAY), DIGEST, 60.0)
    assert not await asyncio.to_thread(write_object, await bucket.url("p", "PUT", DAY), b"made", 60.0)
    assert len(bucket.heard) == 2


async def test_a_url_is_for_one_method_and_one_object(bucket: Bucket) -> None:
    url = await bucket.url("o", "GET", DAY)
    assert not await asyncio.to_thread(write_object, url, b"forged", 0.0)
    assert not await asyncio.to_thread(write_object, url.replace("/o?", "/q?"), b"forged", 0.0)
    assert bucket.objects == {"o": GIVEN}


async def test_something_else_than_was_put_there_is_not_taken(bucket: Bucket, tmp_path: Path) -> None:
    bucket.objects["o"] = GIVEN[:-1]
    with pytest.raises(ConnectionError, match="not what was put there"):
        await asyncio.to_thread(read_object, await bucket.url("o", "GET", DAY), DIGEST, 60.0)
    (tmp_path / "o").write_bytes(GIVEN[:-1])
    with pytest.raises(ConnectionError, match="not what was put there"):
        read_object((tmp_path / "o").as_uri(), DIGEST, 60.0)


@pytest.mark.parametrize("url", ["", "ftp://x/y", "/etc/passwd", "file://host/x", "data:,x"])
def test_nothing_but_http_and_files_is_opened(url: str) -> None:
    with pytest.raises(ConnectionError, match="there is no URL"):
        read_object(url, DIGEST, 60.0)
    assert not write_object(url, b"x", 60.0)


async def test_an_error_does_not_tell_the_url(bucket: Bucket, tmp_path: Path) -> None:
    bucket.answers = [403]
    url = await bucket.url("o", "GET", DAY)
    with pytest.raises(ConnectionError) as refused:
        await asyncio.to_thread(read_object, url, DIGEST, 60.0)
    closed = "http://127.0.0.1:9/o?sig=secret"
    with pytest.raises(ConnectionError) as silent:
        await asyncio.to_thread(read_object, closed, DIGEST, 0.0)
    missing = (tmp_path / "none").as_uri()
    with pytest.raises(ConnectionError, match="no such file") as gone:
        read_object(missing, DIGEST, 60.0)
    for error in (refused, silent, gone):
        assert not any(part in str(error.value) for part in ("sig", "127.0.0.1", "none"))
