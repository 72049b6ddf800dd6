"""A store in Postgres is moved by processes that are killed at each of their writes, and its instances go on."""

import asyncio
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durableflow import (
    Client,
    Context,
    Engine,
    HandedOver,
    Interval,
    RetryPolicy,
    Schedule,
    Status,
    activity,
    activity_context,
    workflow,
)
from durableflow.backends.moving import Part
from durableflow.errors import StoreSealed
from durableflow.runtime.clock import SystemClock
from durableflow.runtime.moves import Move
from durableflow.runtime.stores import open_backend

pytestmark = pytest.mark.slow  # starts processes, and kills them

NAP_S = 3.0
"""Long enough that it is not over before the store is moved for the first time."""
tokens: list[str] = []
may_pass: list[bool] = []


@activity(queue="mail")
async def post(letter: int) -> str:
    return f"posted {letter}"


@activity
async def approve() -> str:
    tokens.append(await activity_context().hand_over())
    raise HandedOver


@activity(retry=RetryPolicy(max_attempts=1))
async def pass_on(item: str) -> str:
    if not may_pass:
        raise ValueError("not yet")
    return item


@workflow
async def paying(ctx: Context, item: str) -> str:
    return f"{item}: {await ctx.wait_for_event('paid', int)}"


@workflow
async def napping(ctx: Context) -> str:
    await ctx.sleep(timedelta(seconds=NAP_S))
    return "awake"


@workflow
async def mailing(ctx: Context) -> list[str]:
    return list(await ctx.when_all([ctx.call_activity(post, n) for n in range(3)]))


@workflow
async def approving(ctx: Context) -> str:
    return await ctx.call_activity(approve)


@workflow
async def passing(ctx: Context) -> str:
    return await ctx.call_activity(pass_on, "it")


@workflow
async def caring(ctx: Context) -> str:
    return f"my child is {await ctx.call_workflow(napping)}"


KNOWN: dict[str, Any] = {
    "workflows": [paying, napping, mailing, approving, passing, caring],
    "activities": [post, approve, pass_on],
}


async def fill(url: str) -> None:
    """Instances that wait: for an event, a message that is there, the clock, a queue, a token, a child, a person."""
    tokens.clear()
    may_pass.clear()
    async with Engine(url, **KNOWN, queues=[]) as engine:
        await engine.set_queue("mail", concurrency=2)
        for name in ("asked", "told", "held"):
            await engine.start(paying.options(instance_id=name, tags={"of": name}), name)
        for flow in (napping, mailing, approving, passing, caring):
            await engine.start(flow.options(instance_id=flow.name))
        assert await engine.result(await done(engine), timeout=20) == "over: 1"
        await engine.wait_for_status("passing", Status.FAILED, timeout=20)
        await engine.schedules.create("every", Schedule(Interval(timedelta(hours=6))), napping)
        await engine.suspend("held")
        await engine.wait_for_status("held", Status.SUSPENDED, timeout=20)
        while not tokens or (await engine.queue("mail")).waiting < 3:  # noqa: ASYNC110  # no event tells of both
            await asyncio.sleep(0.01)
    async with Client(url) as client:  # nobody takes these
        await client.raise_event("told", "paid", 2, event_id="once")
        await client.raise_event("held", "paid", 3)


async def done(engine: Engine) -> str:
    await engine.start(paying.options(instance_id="over"), "over")
    await engine.raise_event("over", "paid", 1)
    return "over"


async def go_on(url: str) -> None:
    """All come to the ends that they would have come to."""
    may_pass.append(True)
    messages = (await parts_of(url))[Part.INBOX]
    async with Client(url) as client:
        await client.raise_event("told", "paid", 9, event_id="once")  # it is there already
    assert (await parts_of(url))[Part.INBOX] == messages
    async with Engine(url, **KNOWN) as engine:
        await engine.raise_event("asked", "paid", 4)
        await engine.resume("held")
        await engine.complete(tokens[0], "yes")
        await engine.rewind("passing")
        ends = {
            name: await engine.result(name, timeout=20)
            for name in ("asked", "told", "held", "napping", "mailing", "approving", "passing", "caring")
        }
        assert ends == {
            "asked": "asked: 4",
            "told": "told: 2",
            "held": "held: 3",
            "napping": "awake",
            "mailing": ["posted 0", "posted 1", "posted 2"],
            "approving": "yes",
            "passing": "it",
            "caring": "my child is awake",
        }
        (every,) = (await engine.schedules.list()).schedules
        assert every.id == "every"
        assert (await engine.queue("mail")).concurrency == 2


async def parts_of(url: str) -> dict[Part, list[Any]]:
    """All that a store holds; of messages not the ids of events, which not every store gives back."""
    backend = open_backend(url)
    await backend.open()
    try:
        parts = {part: await backend.read_part(part, None, 100_000_000) for part in Part}
    finally:
        await backend.close()
    return parts | {Part.INBOX: [row[:3] for row in parts[Part.INBOX]]}  # type: ignore[index]


async def move(source: str, target: str) -> None:
    stores = [open_backend(source), open_backend(target)]
    for store in stores:
        await store.open()
    try:
        await Move(*stores, SystemClock()).run()  # type: ignore[arg-type]
    finally:
        for store in stores:
            await store.close()


class Kept:
    """A store that is kept in a file, and put into a new schema as often as it is wanted."""

    def __init__(self, folder: Path, url_of: Callable[[object], str]) -> None:
        self.folder = folder
        self.url_of = url_of
        self.parts: dict[Part, list[Any]] = {}

    async def fill(self) -> None:
        url = self.url_of((self.folder, "first"))
        await fill(url)
        self.parts = await parts_of(url)
        assert [part for part, rows in self.parts.items() if not rows] == [Part.HEARTBEATS, Part.WINDOWS, Part.CIRCUITS]
        await move(url, f"sqlite:///{self.folder / 'kept.db'}")

    async def put(self, number: int) -> str:
        copy = self.folder / f"copy-{number}.db"
        shutil.copy(self.folder / "kept.db", copy)
        url = self.url_of((self.folder, "source", number))
        await move(f"sqlite:///{copy}", url)
        return url


@pytest.fixture
def target_url(request: pytest.FixtureRequest, tmp_path: Path, store_url: Callable[[object], str]) -> Any:
    """The URL of a store that is not there yet, one for each number."""
    if request.param == "sqlite":
        return lambda number: f"sqlite:///{tmp_path / f'target-{number}.db'}"
    return lambda number: store_url((tmp_path, "target", number))


async def run(stage: Any, source: str, target: str, write: int, *options: str) -> bool:
    """Whether a mover came to its end; else it was killed."""
    process = stage.run("mover", source, target, write, *options)
    code = await process.ends()
    assert code in (0, -9), process.said
    return bool(code == 0)


@pytest.mark.parametrize("target_url", ["sqlite", "postgres"], indirect=True)
async def test_a_mover_from_postgres_that_is_killed_at_any_write_is_followed_by_one_that_ends_the_move(
    stage: Any, store_url: Callable[[object], str], target_url: Callable[[int], str]
) -> None:
    kept = Kept(stage.folder, store_url)
    await kept.fill()
    write = 0
    was_killed = True
    while was_killed:
        write += 1
        source, target = await kept.put(write), target_url(write)
        was_killed = not await run(stage, source, target, write)
        if was_killed:
            assert await run(stage, source, target, 0)
        assert await parts_of(target) == kept.parts, f"killed at {write}"
        with pytest.raises(StoreSealed, match="has been moved"):
            async with Client(source):
                raise AssertionError
    assert write > 20
    await go_on(target)


@pytest.mark.parametrize("target_url", ["sqlite", "postgres"], indirect=True)
async def test_a_move_from_postgres_whose_movers_are_killed_is_aborted_by_ones_that_are_killed_too(
    stage: Any, store_url: Callable[[object], str], target_url: Callable[[int], str]
) -> None:
    kept = Kept(stage.folder, store_url)
    await kept.fill()
    source, target = await kept.put(1), target_url(1)
    assert not await run(stage, source, target, 11)
    for write in range(1, 6):
        assert not await run(stage, source, target, write, "--abort")
    assert await run(stage, source, target, 0, "--abort")
    assert not any((await parts_of(target)).values())
    assert await parts_of(source) == kept.parts
    await go_on(source)
