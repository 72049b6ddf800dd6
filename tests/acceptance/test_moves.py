"""A store is moved by processes that are killed, and its instances are run by one worker after the other."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durableflow import Client, Context, Engine, activity, workflow
from durableflow.backends.moving import Part
from durableflow.backends.stores import open_backend
from durableflow.errors import StoreSealed

pytestmark = pytest.mark.slow  # starts processes, and kills them

WAITING, OVER = 12, 12


@activity
async def double(n: int) -> int:
    return 2 * n


@workflow
async def waiting(ctx: Context, n: int) -> int:
    twice = await ctx.call_activity(double, n)
    return twice + await ctx.wait_for_event("more", int)


async def parts_of(url: str) -> dict[Part, list[Any]]:
    """All that a store holds; of messages not the ids of events, which not every store gives back."""
    backend = open_backend(url)
    await backend.open()
    try:
        parts = {part: await backend.read_part(part, None, 100_000_000) for part in Part}
    finally:
        await backend.close()
    return parts | {Part.INBOX: [row[:3] for row in parts[Part.INBOX]]}  # type: ignore[index]


async def fill(store: Path) -> None:
    async with Engine(f"sqlite:///{store}", workflows=[waiting], activities=[double]) as engine:
        for n in range(WAITING + OVER):
            await engine.start(waiting.options(instance_id=f"i-{n:02}", tags={"n": str(n)}), n)
        for n in range(OVER):
            await engine.raise_event(f"i-{n:02}", "more", 1)
            assert await engine.result(f"i-{n:02}") == 2 * n + 1
        await engine.set_queue("mail", concurrency=3)
        while [s for s in (await engine.list(limit=100)).instances if s.status == "PENDING"]:
            pass
    async with Client(f"sqlite:///{store}") as client:
        for n in range(OVER, OVER + 5):
            await client.raise_event(f"i-{n:02}", "more", 7, event_id="once")


async def go_on(target: str) -> None:
    async with Engine(target, workflows=[waiting], activities=[double]) as engine:
        for n in range(OVER + 5, OVER + WAITING):
            await engine.raise_event(f"i-{n:02}", "more", 7)
        for n in range(WAITING + OVER):
            assert await engine.result(f"i-{n:02}", timeout=20) == 2 * n + (1 if n < OVER else 7)


async def is_refused(store: Path, other: str) -> None:
    with pytest.raises(StoreSealed, match="has been moved") as told:
        async with Engine(f"sqlite:///{store}", workflows=[], activities=[]):
            raise AssertionError
    assert told.value.other.split("@")[-1] == other.rsplit("@", maxsplit=1)[-1]


class Moving:
    """Movers between two stores."""

    def __init__(self, stage: Any, target: str) -> None:
        self.stage = stage
        self.source = f"sqlite:///{stage.store}"
        self.target = target

    async def run(self, write: int, *options: str) -> bool:
        """Whether it came to its end; else it was killed."""
        process = self.stage.run("mover", self.source, self.target, write, *options)
        code = await process.ends()
        assert code in (0, -9), process.said
        return code == 0


@pytest.fixture(params=["sqlite", "postgres"])
def target_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[int], str]:
    """The URL of a store that is not there yet, one for each number."""
    if request.param == "sqlite":
        return lambda number: f"sqlite:///{tmp_path / f'target-{number}.db'}"
    url_of = request.getfixturevalue("store_url")
    return lambda number: url_of((tmp_path, number))


async def test_a_mover_that_is_killed_at_any_commit_is_followed_by_one_that_ends_the_move(
    stage: Any, target_url: Callable[[int], str]
) -> None:
    await fill(stage.store)
    before = await parts_of(f"sqlite:///{stage.store}")
    kept = stage.folder / "kept.db"
    shutil.copy(stage.store, kept)
    write = 0
    was_killed = True
    while was_killed:
        write += 1
        target = target_url(write)
        shutil.copy(kept, stage.store)
        moving = Moving(stage, target)
        was_killed = not await moving.run(write)
        if was_killed:
            assert await moving.run(0)
        assert await parts_of(target) == before, f"killed at {write}"
        await is_refused(stage.store, target)
    assert write > 20
    await go_on(target)


async def test_movers_that_are_killed_again_and_again_come_to_the_end(
    stage: Any, target_url: Callable[[int], str]
) -> None:
    await fill(stage.store)
    before = await parts_of(f"sqlite:///{stage.store}")
    moving = Moving(stage, target_url(0))
    kills = 0
    while not await moving.run(6):
        kills += 1
    assert kills > 5
    assert await parts_of(moving.target) == before
    await go_on(moving.target)


async def test_a_move_whose_movers_are_killed_can_be_aborted_by_one_that_is_killed_too(
    stage: Any, target_url: Callable[[int], str]
) -> None:
    await fill(stage.store)
    before = await parts_of(f"sqlite:///{stage.store}")
    moving = Moving(stage, target_url(0))
    assert not await moving.run(11)
    for write in range(1, 6):
        assert not await moving.run(write, "--abort")
    assert await moving.run(0, "--abort")
    assert not any((await parts_of(moving.target)).values())
    assert await parts_of(moving.source) == before
    await go_on(moving.source)


async def test_a_worker_is_moved_under_its_clients(stage: Any) -> None:
    @workflow
    async def working(ctx: Context, label: str, seconds: float) -> str: ...

    target = stage.folder / "target.db"
    worker = await stage.leading_worker("shop")
    async with stage.client() as client:
        await client.start(working.options(instance_id="w"), "job", 1.5)
        await stage.begun(process=worker.pid)
        moving = stage.run_module("durableflow", "move", f"sqlite:///{stage.store}", f"sqlite:///{target}")
        assert await moving.ends() == 1
        assert "stop them" in moving.said[-1]
        worker.kill()
        moving = stage.run_module("durableflow", "move", f"sqlite:///{stage.store}", f"sqlite:///{target}")
        assert await moving.ends() == 0, moving.said
        with pytest.raises(StoreSealed):
            await client.raise_event("w", "late")
    stage.store = target
    worker = await stage.leading_worker("shop")
    async with stage.client() as client:
        assert await client.result("w", timeout=10) == "job is done"
    await worker.close()
