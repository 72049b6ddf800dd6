"""Groups of messages are written in one of two ways, which give the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from durableflow.backends.base import Commit, Outgoing
from durableflow.backends.postgres import PostgresBackend, commit, sending
from durableflow.model.status import Status
from durableflow.testing.contract.store import a_lease, an_instance

pytestmark = pytest.mark.slow  # a server, and connections to it


def a_start(instance_id: str) -> Outgoing:
    return Outgoing(instance_id, b"start", an_instance(instance_id, Status.PENDING))


def an_event(instance_id: str, data: bytes, event_id: str | None = None) -> Outgoing:
    return Outgoing(instance_id, data, None, event_id)


GROUP = [
    an_event("there", b"1"),
    a_start("new"),
    an_event("there", b"2", "key"),
    an_event("missing", b"3"),
    an_event("there", b"4", "key"),
    an_event("over", b"5"),
    an_event("there", b"6"),
]


@pytest.fixture
async def backend(store_url: Callable[[object], str], request: pytest.FixtureRequest) -> AsyncIterator[PostgresBackend]:
    backend = PostgresBackend(store_url(request.node.nodeid))
    await backend.open()
    lease = await a_lease(backend)
    over = an_instance("over", Status.COMPLETED, finished_us=5)
    await backend.commit(lease, Commit(new=[an_instance("there"), over]))
    yield backend
    await backend.close()


@pytest.mark.parametrize("is_apart", [True, False], ids=["in one statement", "one by one"])
async def test_outcomes_and_order_do_not_depend_on_how_a_group_is_written(
    backend: PostgresBackend, is_apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "are_apart", lambda _: is_apart)
    results = await backend.send(GROUP)
    assert [result.outcome for result in results] == [
        "delivered",
        "delivered",
        "delivered",
        "missing",
        "delivered",
        "over",
        "delivered",
    ]
    new, there = await backend.load(["new", "there"])
    assert [message.data for message in new.messages] == [b"start"]
    assert [message.data for message in there.messages] == [b"1", b"2", b"6"]


async def test_a_start_that_finds_its_instance_there_says_so_in_one_statement_too(backend: PostgresBackend) -> None:
    group = [a_start("there"), a_start("new"), a_start("over")]
    assert commit.are_apart(group)
    results = await backend.send(group)
    assert [result.outcome for result in results] == ["exists", "delivered", "exists"]
    assert [result.record and result.record.status for result in results] == [Status.RUNNING, None, Status.COMPLETED]


@pytest.mark.parametrize(
    "group",
    [
        pytest.param([a_start("a"), a_start("a")], id="two starts of one instance"),
        pytest.param([a_start("a"), an_event("a", b"")], id="a start, and an event for it"),
        pytest.param(
            [Outgoing("a", b"", an_instance("a", Status.PENDING, replace=True))], id="a start that may replace"
        ),
    ],
)
def test_messages_that_are_about_each_other_are_written_one_by_one(group: list[Outgoing]) -> None:
    assert not commit.are_apart(group)


def test_messages_for_instances_that_are_there_are_apart_from_each_other() -> None:
    assert commit.are_apart([an_event("a", b"1"), a_start("b"), an_event("a", b"2", "key")])
