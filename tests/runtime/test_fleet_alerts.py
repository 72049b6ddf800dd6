"""Alerts of a fleet: one worker looks at the store, each at itself, and each thing is told once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from durableflow import Alert, AlertPolicy, Context, Engine, RetryPolicy, activity, activity_context, workflow
from durableflow.observe import facts
from durableflow.runtime.worker import Worker

pytestmark = pytest.mark.slow  # several engines on a server, and their policies are about real time

POLICY = AlertPolicy(interval=0.05, commit_retries=2, window=3.0, no_progress=0.5, overdue=60)


class Told:
    """What the hook of a worker was told."""

    def __init__(self) -> None:
        self.alerts: list[tuple[str, str, str]] = []

    async def __call__(self, alert: Alert) -> None:
        self.alerts.append((alert.state, alert.kind.value, alert.subject))

    async def _hook(self, alert: Alert) -> None:
        await self(alert)

    def engine(self, url: str, name: str, **options: Any) -> Engine:
        options.setdefault("alerts", POLICY)
        return Engine(url, name=name, on_alert=[self._hook, *options.pop("sinks", [])], **options)


def worker_of(engine: Engine) -> Worker:
    assert engine._worker is not None
    return engine._worker


def blocks(engine: Engine, instance_id: str) -> None:
    """What the guard says when a turn of the instance has blocked the loop."""
    worker_of(engine)._tell(facts.TurnBlocked(instance_id, 2.5, "flow.py:3 in f"))


def is_refused(engine: Engine, times: int) -> None:
    for _ in range(times):
        worker_of(engine)._tell(facts.CommitRetried("the disk is full"))


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await look():  # noqa: ASYNC110  # what the store holds sets no event
            await asyncio.sleep(0.01)


@activity
async def at_length(seconds: float) -> str:
    """Says now and then that it goes on."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + seconds
    while loop.time() < until_s:
        activity_context().heartbeat()
        await asyncio.sleep(0.02)
    return "done"


@workflow
async def lengthy(ctx: Context, seconds: float) -> str:
    return await ctx.call_activity(at_length, seconds)


@workflow
async def waiting(ctx: Context) -> None:
    await ctx.wait_for_event("go")


@pytest.fixture
def url(store_url: Callable[[object], str], tmp_path: Path) -> str:
    return store_url(tmp_path)


async def test_each_worker_tells_once_what_only_it_can_see(url: str) -> None:
    one, two = Told(), Told()
    async with one.engine(url, "one") as first, two.engine(url, "two") as second:
        await second.start(waiting.options(instance_id="i"))
        is_refused(first, 2)
        is_refused(second, 3)
        blocks(second, "i")

        async def all_there() -> bool:
            return len(await first.alerts()) == 3

        await until(all_there)
        assert {(alert.kind.value, alert.subject) for alert in await first.alerts()} == {
            ("commit_retries", "one"), ("commit_retries", "two"), ("long_turn", "i"),
        }  # fmt: skip

        async def none_there() -> bool:
            return not await first.alerts()

        await until(none_there)
    assert one.alerts == [("raised", "commit_retries", "one"), ("resolved", "commit_retries", "one")]
    for subject in (("commit_retries", "two"), ("long_turn", "i")):
        assert [state for state, *about in two.alerts if tuple(about) == subject] == ["raised", "resolved"]
    assert len(two.alerts) == 4


async def test_what_a_worker_told_that_is_gone_is_taken_back_by_another(url: str) -> None:
    one, two = Told(), Told()
    async with one.engine(url, "one") as first:
        async with two.engine(url, "two") as second:
            await second.start(waiting.options(instance_id="i"))
            is_refused(second, 2)
            blocks(second, "i")

            async def both_there() -> bool:
                return len(await first.alerts()) == 2

            await until(both_there)
            assert one.alerts == []

        async def none_there() -> bool:
            return not await first.alerts()

        await until(none_there)
    assert sorted(one.alerts) == [("resolved", "commit_retries", "two"), ("resolved", "long_turn", "i")]
    assert sorted(two.alerts) == [("raised", "commit_retries", "two"), ("raised", "long_turn", "i")]


async def test_an_instance_that_blocks_two_workers_one_after_the_other_is_told_once(url: str) -> None:
    one, two = Told(), Told()
    async with one.engine(url, "one") as first, two.engine(url, "two") as second:
        await second.start(waiting.options(instance_id="i"))
        blocks(second, "i")

        async def is_there() -> bool:
            return bool(await first.alerts())

        await until(is_there)
        blocks(first, "i")

        async def none_there() -> bool:
            return not await first.alerts()

        await until(none_there)
    assert [state for state, _, _ in [*two.alerts, *one.alerts]] == ["raised", "resolved"]


async def test_an_attempt_that_beats_on_another_worker_is_progress(url: str) -> None:
    one, two = Told(), Told()
    patient = msgspec.structs.replace(POLICY, no_progress=2)
    async with one.engine(url, "one", alerts=patient), two.engine(url, "two", alerts=patient) as second:
        assert await (await second.start(lengthy, 4.0)).result(timeout=60) == "done"
    assert (one.alerts, two.alerts) == ([], [])


async def test_a_notice_of_any_worker_is_delivered(url: str) -> None:
    class Sink:
        name = "sink"
        retry = RetryPolicy(max_attempts=3)

        def __init__(self) -> None:
            self.got: list[tuple[str, str]] = []

        def send(self, _: int, body: bytes) -> None:
            notice = json.loads(body)
            self.got.append((notice["worker"], notice["state"]))

    sink, none = Sink(), Sink()
    async with Told().engine(url, "one", sinks=[sink]), Told().engine(url, "two", sinks=[none]) as second:
        is_refused(second, 2)

        async def both_got() -> bool:
            return len(sink.got) == 2

        await until(both_got)
    assert sink.got == [("two", "raised"), ("two", "resolved")]
    assert none.got == []
