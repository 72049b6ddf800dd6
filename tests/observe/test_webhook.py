"""The webhook sink against a real server: what it sends, what it takes for success, and what it refuses."""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from durableflow import RetryPolicy, WebhookSink
from durableflow.observe.webhook import WebhookRefused, sign


class Receiver:
    """A server that answers with the statuses it is given, then with 204, and keeps what it got."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.hold = threading.Event()
        self.hold.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, dict(self.headers), body))
                receiver.hold.wait(5)
                status = receiver.answers.pop(0) if receiver.answers else 204
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                text = b"" if status == 204 else b"not now"
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                """Not on stderr."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.hold.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.stop()


def test_a_notice_is_posted_with_its_number_and_signature(receiver: Receiver) -> None:
    sink = WebhookSink(f"{receiver.url}/alerts?team=a", secret="s3cret", headers={"Authorization": "Bearer x"})
    sink.send(7, b'{"kind":"stalled"}')
    ((path, headers, body),) = receiver.got
    assert (path, body) == ("/alerts?team=a", b'{"kind":"stalled"}')
    assert (headers["Content-Type"], headers["Durableflow-Delivery"]) == ("application/json", "7")
    assert headers["Authorization"] == "Bearer x"
    expected = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    assert headers["Durableflow-Signature"] == f"sha256={expected}" == f"sha256={sign('s3cret', body)}"


def test_without_a_secret_nothing_is_signed(receiver: Receiver) -> None:
    WebhookSink(receiver.url).send(1, b"{}")
    assert "Durableflow-Signature" not in receiver.got[0][1]
    assert receiver.got[0][0] == "/"


@pytest.mark.parametrize("status", [302, 400, 404, 429, 500, 503])
def test_only_a_status_of_success_is_one(receiver: Receiver, status: int) -> None:
    receiver.answers = [status]
    with pytest.raises(WebhookRefused, match=f"answered {status} .*: not now"):
        WebhookSink(receiver.url).send(1, b"{}")
    assert len(receiver.got) == 1, "a redirect is not followed"


def test_a_server_that_does_not_answer_in_time_has_not_taken_it(receiver: Receiver) -> None:
    receiver.hold.clear()
    with pytest.raises(TimeoutError):
        WebhookSink(receiver.url, timeout=0.05).send(1, b"{}")


def test_nobody_there_is_an_error(receiver: Receiver) -> None:
    receiver.stop()
    with pytest.raises(OSError, match="refused"):
        WebhookSink(receiver.url).send(1, b"{}")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("file:///etc/passwd", "must begin with http:// or https://"),
        ("ftp://example.com/x", "must begin with http"),
        ("example.com/hook", "must begin with http"),
        ("http:///hook", "names no host"),
        ("https://user:password@example.com/hook", "holds a password"),
        ("https://example.com/a b", "quote them"),
        ("https://example.com/a\r\nX: y", "characters|quote"),
    ],
)
def test_an_address_that_is_no_webhook_is_refused(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) if "\r" not in url else pytest.raises(ValueError) as refused:  # noqa: PT011
        made = WebhookSink(url)
        assert "\r" not in made._path  # the address was cleaned by the parser
        raise ValueError("cleaned")
    assert "password@" not in str(refused.value)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="secret is empty"):
        WebhookSink("https://example.com", secret="")
    with pytest.raises(ValueError, match="timeout is 0"):
        WebhookSink("https://example.com", timeout=0)
    with pytest.raises(ValueError, match="line break"):
        WebhookSink("https://example.com", headers={"X": "a\r\nY: b"})


def test_its_name_is_the_same_after_a_restart_and_tells_nothing_of_the_address() -> None:
    one, same, other = (WebhookSink(f"https://example.com/{path}") for path in ("token", "token", "other"))
    assert one.name == same.name != other.name
    assert "token" not in one.name
    assert "token" not in repr(one)
    assert WebhookSink("https://example.com", retry=3).retry == RetryPolicy(max_attempts=3)
