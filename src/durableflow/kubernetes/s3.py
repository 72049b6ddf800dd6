"""A bucket of S3, or of whatever else speaks its protocol, as an object store; without a library, by signed URLs.

Source: AWS documentation, "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)".
"""

from __future__ import annotations

import asyncio
import hmac
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec

from durableflow.kubernetes.objects import Method

_OWN_S: Final = 300
_REQUEST_S: Final = 60.0
_SIGNED_HEADERS: Final = "host"
_BODY: Final = "UNSIGNED-PAYLOAD"
"""Whoever signs does not know what a pod will write."""


class S3Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """By whom URLs are signed.

    Attributes:
        token: of a session; its URLs are worth nothing when the session is over, however long they were made for.
    """

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"S3Credentials(access_key={self.access_key!r}, ...)"


class S3Store:
    """Objects in a bucket.

    Args:
        bucket: its name.
        region: where it is.
        credentials: asked for each URL, because those of a session are renewed.
        endpoint: URL of another server than Amazon's, as `https://minio.example.com:9000`.
        prefix: of the names of all objects here, so that a rule of the bucket's may delete what is left over.
        now: the time in UTC.
    """

    def __init__(
        self,
        bucket: str,
        *,
        region: str,
        credentials: Callable[[], S3Credentials],
        endpoint: str | None = None,
        prefix: str = "",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        at_amazon = f"https://{bucket}.s3.{region}.amazonaws.com"
        self._root = at_amazon if endpoint is None else f"{endpoint.rstrip('/')}/{quote(bucket)}"
        if not self._root.startswith(("https://", "http://")):
            raise ValueError(f"endpoint is {endpoint!r}, but it must be a URL of HTTP")
        self._region = region
        self._credentials = credentials
        self._prefix = prefix
        self._now = now

    async def put(self, name: str, data: bytes) -> None:
        """See `ObjectStore.put`."""
        await self._ask("PUT", name, data)

    async def get(self, name: str) -> bytes:
        """See `ObjectStore.get`."""
        return await self._ask("GET", name)

    async def delete(self, name: str) -> None:
        """See `ObjectStore.delete`."""
        try:
            await self._ask("DELETE", name)
        except KeyError:
            return

    async def url(self, name: str, method: Method, good_for: timedelta) -> str:
        """See `ObjectStore.url`."""
        credentials = await asyncio.to_thread(self._credentials)  # it may ask somebody
        return self._signed(credentials, name, method, round(good_for.total_seconds()))

    async def _ask(self, method: str, name: str, data: bytes | None = None) -> bytes:
        return await asyncio.to_thread(self._ask_blocking, method, name, data)

    def _ask_blocking(self, method: str, name: str, data: bytes | None) -> bytes:
        url = self._signed(self._credentials(), name, method, _OWN_S)
        headers = {"Content-Type": "application/octet-stream"}
        request = urllib.request.Request(url, data=data, headers=headers, method=method)  # noqa: S310  # see __init__
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_S) as response:  # noqa: S310  # the same
                read: bytes = response.read()
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(500).decode(errors="replace")
            if error.code == 404 and "NoSuchBucket" not in said:
                raise KeyError(name) from None
            raise OSError(f"{method} of {name!r}: HTTP {error.code}: {said}") from None
        return read

    def _signed(self, credentials: S3Credentials, name: str, method: str, good_for_s: int) -> str:
        url = f"{self._root}/{quote(self._prefix + name, safe='/-_.~')}"
        return signed_url(url, method, credentials, self._region, self._now(), good_for_s)


def signed_url(url: str, method: str, credentials: S3Credentials, region: str, now: datetime, good_for_s: int) -> str:
    """The URL with the signature that lets anybody do this, and nothing else, for a while.

    Args:
        url: with a path that is quoted.
        good_for_s: at most seven days.
    """
    at = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{at[:8]}/{region}/s3/aws4_request"
    query = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{credentials.access_key}/{scope}",
        "X-Amz-Date": at,
        "X-Amz-Expires": str(good_for_s),
        "X-Amz-SignedHeaders": _SIGNED_HEADERS,
    }
    if credentials.token is not None:
        query["X-Amz-Security-Token"] = credentials.token
    asked = "&".join(f"{quote(key, safe='')}={quote(value, safe='-_.~')}" for key, value in sorted(query.items()))
    parts = urlsplit(url)
    request = "\n".join((method, parts.path, asked, f"host:{parts.netloc}", "", _SIGNED_HEADERS, _BODY))
    to_sign = "\n".join(("AWS4-HMAC-SHA256", at, scope, sha256(request.encode()).hexdigest()))
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (at[:8], region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return f"{url}?{asked}&X-Amz-Signature={hmac.new(key, to_sign.encode(), 'sha256').hexdigest()}"
