"""A sink of alerts that posts them as JSON to an address of yours. It blocks: the engine calls it in a thread."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from durableflow.model.duration import to_us
from durableflow.model.retry import RetryPolicy

SIGNATURE_HEADER: Final = "Durableflow-Signature"
DELIVERY_HEADER: Final = "Durableflow-Delivery"
DEFAULT_RETRY: Final = RetryPolicy(max_attempts=20, initial=1.0, backoff=2.0, max_delay=600.0, jitter=0.2)
_ANSWER_BYTES: Final = 200


class WebhookRefused(Exception):
    """The address answered, but not with a status of 200 to 299."""


class WebhookSink:
    """Posts alerts as JSON.

    The header `Durableflow-Delivery` is the number of the notice, the same in each attempt. With a `secret`,
    `Durableflow-Signature` is `sha256=` and the HMAC of the body in hexadecimal digits. Redirects are not followed.

    Args:
        url: where to, `http://` or `https://`.
        secret: known to the receiver, to check that a notice is from you; it is not stored.
        timeout: of one attempt to connect, and of the wait for an answer.
        retry: how often a delivery is attempted; by default 20 times, over about two hours.
        headers: sent with each, such as an authorization; not stored.

    Raises:
        ValueError: the address is of another kind, or has no host or a password in it.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        timeout: timedelta | float = 10.0,
        retry: RetryPolicy | int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"{url!r:.80} is no address of a webhook; it must begin with http:// or https://")
        if not parts.hostname:
            raise ValueError(f"{url!r:.80} names no host")
        if parts.username is not None or parts.password is not None:
            raise ValueError(f"the address at {parts.hostname} holds a password; pass headers={{'Authorization': ...}}")
        if secret is not None and not secret:
            raise ValueError("secret is empty, so anybody could sign; leave it out, or give one")
        self._is_secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if any(ord(character) <= 32 or ord(character) > 126 for character in self._path):
            raise ValueError(f"{url!r:.80} has characters that an address cannot have; quote them")
        self._secret = secret
        self._timeout_s = to_us(timeout, "timeout") / 1_000_000
        if not self._timeout_s:
            raise ValueError("timeout is 0, but an answer takes longer")
        self._headers = dict(headers or {})
        for key, value in self._headers.items():
            if any(character in key + value for character in "\r\n\0"):
                raise ValueError(f"header {key!r} has a line break")
        self.retry = RetryPolicy(max_attempts=retry) if isinstance(retry, int) else retry or DEFAULT_RETRY
        self.name = f"webhook {hashlib.sha256(url.encode()).hexdigest()[:16]}"

    def __repr__(self) -> str:
        return f"<webhook at {self._host}>"

    def send(self, number: int, body: bytes) -> None:
        """See `AlertSink.send`.

        Raises:
            WebhookRefused: the answer was not one of success.
            OSError, http.client.HTTPException: there was no answer.
        """
        import http.client  # loaded by the first notice: it brings much along

        kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "durableflow",
            DELIVERY_HEADER: str(number),
            **self._headers,
        }
        if self._secret is not None:
            headers[SIGNATURE_HEADER] = f"sha256={sign(self._secret, body)}"
        connection = kind(self._host, self._port, timeout=self._timeout_s)
        try:
            connection.request("POST", self._path, body, headers)
            answer = connection.getresponse()
            text = answer.read(_ANSWER_BYTES)
            if not 200 <= answer.status < 300:
                said = text.decode("utf-8", "replace").strip()
                raise WebhookRefused(f"{self._host} answered {answer.status} {answer.reason}: {said}".rstrip(": "))
        finally:
            connection.close()


def sign(secret: str, body: bytes) -> str:
    """What a receiver compares the signature with, by `hmac.compare_digest`."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
