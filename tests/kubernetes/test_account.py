"""A failure's account says where and why, and nothing that looks like a secret."""

from __future__ import annotations

from typing import Any

import pytest
from apikit.server import ApiServer

from durableflow.kubernetes.account import LOG_BYTES, LOG_LINES, Archive, describe, redact
from durableflow.kubernetes.connection import Connection
from durableflow.kubernetes.documents import Event, read
from durableflow.kubernetes.outcome import Kind, Outcome


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("epoch 3: loss 0.25", "epoch 3: loss 0.25"),
        ("PASSWORD=hunter2 ok", "PASSWORD=[redacted] ok"),
        ('{"db_password": "a b c", "x": 1}', '{"db_password": [redacted], "x": 1}'),
        ("api-key: 'k' next", "api-key: [redacted] next"),
        ("aws_secret_access_key = abc/def+1", "aws_secret_access_key = [redacted]"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer [redacted]"),
        ("postgres://me:hunter2@db/x", "postgres://me:[redacted]@db/x"),
        ("jwt eyJhbGciOiJI.eyJzdWIiOiIx.c2ln end", "jwt [redacted] end"),
        ("key AKIAABCDEFGHIJKLMNOP", "key [redacted]"),
        ("hf_abcdefghijklmnopqrstuvwx", "[redacted]"),
        ("ghp_abcdefghijklmnopqrstuvwx", "[redacted]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nafter", "[redacted]\nafter"),
        ("-----BEGIN PRIVATE KEY-----\nabc", "[redacted]"),
        ("tokens per second: 900", "tokens per second: 900"),
        ("tokenizer: fast", "tokenizer: fast"),
    ],
)
def test_what_looks_like_a_secret_is_not_kept(said: str, left: str) -> None:
    assert redact(said) == left


def test_the_message_has_where_it_was_and_the_last_events() -> None:
    outcome = Outcome(Kind.RETRYABLE, "ExitCode", "exited with 3", exit_code=3, node="n-1", pod="p", pod_uid="u")
    events = [
        read(
            Event, {"metadata": {"name": f"e{n}"}, "involvedObject": {"kind": "Pod"}, "reason": f"R{n}", "message": "m"}
        )
        for n in range(7)
    ]
    assert describe(outcome, "df-1", events).splitlines() == [
        "exited with 3 [retryable; job df-1, pod p, pod uid u, node n-1, exit code 3]",
        *(f"Pod R{n}: m" for n in range(2, 7)),
    ]


async def asking(api: ApiServer, configure: Any) -> tuple[Connection, Archive]:
    connection = Connection(configure)
    await connection.open()
    return connection, Archive(connection, "n")


@pytest.mark.slow
async def test_the_log_is_its_end_by_lines_and_bytes(api: ApiServer, configure: Any) -> None:
    connection, archive = await asking(api, configure)
    api.logs = {"many": "".join(f"line {n}\n" for n in range(200)), "long": "x" * 50_000 + "\nend\0\n"}
    assert (await archive.log_tail("many")).splitlines() == [f"line {n}" for n in range(200 - LOG_LINES, 200)]
    tail = await archive.log_tail("long")
    assert len(tail) <= LOG_BYTES
    assert tail.endswith("x\nend")
    assert await archive.log_tail("none") == ""
    await connection.close()


@pytest.mark.slow
async def test_what_may_not_be_read_is_left_out(api: ApiServer, configure: Any) -> None:
    connection, archive = await asking(api, configure)
    api.fault("GET", "/events", 403)
    api.fault("GET", "/log", 403)
    assert await archive.events("u") == []
    assert await archive.log_tail("p") == ""
    await api.tell("Pod", "p", "u", "Scheduled", "on n-1")
    assert [event.reason for event in await archive.events("u")] == ["Scheduled"]
    await connection.close()
