"""Everything at once, by seeded dice: commits that fail in every way, evictions, crashes, and callers who insist.

Whatever happens, each instance ends with what its events say, each result was recorded once, no activity was
called with an input that no history holds, and what was acknowledged is there.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import Client, Context, RetryPolicy, Status, StorageError, activity, activity_context, workflow
from durableflow.errors import InstanceError
from durableflow.model import events as ev
from durableflow.runtime import commits

if TYPE_CHECKING:
    World = FaultyBackend = Any  # of conftest.py

CALLED: list[tuple[str, int, int]] = []
INSTANCES = 8
WORDS = 4


@activity(retry=RetryPolicy(max_attempts=50, initial=1, backoff=1), max_concurrency=3)
async def work(number: int) -> int:
    context = activity_context()
    CALLED.append((context.instance_id, number, context.attempt))
    context.heartbeat(number)
    await asyncio.sleep(0)
    if (number + context.attempt) % 5 == 0:
        raise ValueError("now and then")
    return number * 10


@workflow
async def storms(ctx: Context, number: int) -> list[Any]:
    done: list[Any] = []
    for _ in range(WORDS):
        word = await ctx.wait_for_event("word", int)
        part = await ctx.when_all([ctx.call_activity(work, number * 100 + word), ctx.call_activity(work, word)])
        await ctx.sleep(1 + word % 3)
        done.append([word, *part])
    return done


@workflow
async def keeps_count(ctx: Context, of: int) -> list[int]:
    """Told by all others, once a word."""
    told: list[int] = ctx.restore(list[int]) or []
    while len(told) < of:
        told.append(await ctx.wait_for_event("told", int))
        ctx.checkpoint(told)
    return told


@workflow
async def part(ctx: Context, number: int) -> int:
    return await ctx.call_activity(work, number)


@workflow
async def rounds(ctx: Context, number: int, done: list[Any]) -> list[Any]:
    """A word a round: a child, an activity, a message, and requests that are answered meanwhile."""
    current: list[int] = []

    @ctx.on_request("what")
    def what() -> list[int]:
        return [number, *current]

    word = await ctx.wait_for_event("word", int)
    current.append(word)
    child = ctx.call_workflow(part, number * 100 + word)
    both = await ctx.when_all([child, ctx.call_activity(work, word)])
    await ctx.raise_event("count", "told", number * 100 + word)
    if len(done) % 2:
        await ctx.sleep(1 + word % 3)
    done = [*done, [word, *both]]
    if len(done) < WORDS:
        ctx.continue_as_new(number, done)
    return done


async def insist(world: World, ask: Any) -> None:
    """Until it is acknowledged: the sender knows nothing but that."""
    for _ in range(200):
        try:
            await ask()
        except StorageError:
            await asyncio.sleep(0.001)
        else:
            return
    raise AssertionError("never acknowledged")


class Faults(list[Any]):
    """Endless faults by dice, as a plan that never runs out."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice
        self.on = True

    def __bool__(self) -> bool:
        return self.on

    def pop(self, _: Any = 0) -> str | None:
        return self._dice.choice(["refuse", "lose", "hide", "conflict", None, None, None, None, None, None])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
async def test_a_storm_over_families_and_rounds_leaves_one_child_and_one_message_a_word(
    world: World, faulty_class: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(commits, "_AHEAD_MIN", dice.choice([1, 4, 16]))
    CALLED.clear()
    known = {
        "workflows": [rounds, part, keeps_count],
        "activities": [work],
        "cached_instances": dice.choice([0, 2, 100]),
        "commit_retries": dice.choice([0, 1, 6]),
        "turns_per_commit": dice.choice([1, 3, 100]),
    }
    faults = Faults(dice)

    def weather() -> Any:
        made = faulty_class(world.backend())
        made.faults = faults
        return made

    engine = await world.open(weather(), **known)
    count = 5
    requests: list[tuple[int, asyncio.Task[Any]]] = []
    async with Client(world.backend(), clock=world.clock) as client:
        await insist(world, lambda: engine.start(keeps_count.options(instance_id="count"), count * WORDS))
        for n in range(count):
            await insist(world, lambda n=n: engine.start(rounds.options(instance_id=f"i{n}"), n, []))
        for word in range(WORDS):
            for n in range(count):
                asker = dice.choice([engine, client])
                for _ in range(dice.choice([1, 1, 2])):
                    await insist(
                        world,
                        lambda n=n, word=word, asker=asker: asker.raise_event(
                            f"i{n}", "word", word, event_id=f"e{word}"
                        ),
                    )
                asking = client.request(f"i{n}", "what", request_id=f"r{word}", result_type=list[int])
                requests.append((n, asyncio.ensure_future(asking)))
            await world.advance(dice.choice([0, 1, 5]))
            if dice.random() < 0.6:
                await world.crash(engine)
                engine = await world.open(weather(), **known)
        for _ in range(3):
            await world.advance(60)
        faults.on = False
        for _ in range(200):
            await world.advance(2)
            await asyncio.sleep(0.005)
            records = (await client.list(limit=200)).instances
            if all(record.status.is_terminal for record in records):
                break
        statuses = Counter(record.status for record in records)
        assert statuses == {Status.COMPLETED: 1 + count + count * WORDS}, "one child a word"
        told = sorted(n * 100 + word for n in range(count) for word in range(WORDS))
        assert sorted(await client.result("count")) == told, "one message a word"
        for n in range(count):
            expected = [[word, (n * 100 + word) * 10, word * 10] for word in range(WORDS)]
            assert sorted(await client.result(f"i{n}")) == expected
            history = await client.history(f"i{n}")
            assert [each.seq for each in history] == list(range(1, len(history) + 1))
            kinds = Counter(each.kind for each in history)
            assert kinds["child_scheduled"] == kinds["child_completed"] == WORDS
            assert kinds["message_sent"] == kinds["message_answered"] == kinds["event_received"] == WORDS
            assert kinds["continued_as_new"] == WORDS - 1
            answered = Counter(each.event.request_id for each in history if each.kind == "request_answered")
            assert set(answered.values()) <= {1}
        for n, asking in requests:
            try:
                answer = await asyncio.wait_for(asking, 5)
            except InstanceError:
                continue  # it was over, or began anew
            assert answer[0] == n
        assert engine.statistics().running_attempts == 0
    await world.crash(engine)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
async def test_a_storm_leaves_everything_as_it_must_be(
    world: World, faulty_class: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(commits, "_AHEAD_MIN", dice.choice([1, 4, 16]))
    CALLED.clear()
    known = {
        "workflows": [storms],
        "activities": [work],
        "cached_instances": dice.choice([0, 2, 100]),
        "commit_retries": dice.choice([0, 1, 6]),
        "turns_per_commit": dice.choice([1, 3, 100]),
    }
    faults = Faults(dice)

    def weather() -> Any:
        made = faulty_class(world.backend())
        made.faults = faults
        return made

    engine = await world.open(weather(), **known)
    async with Client(world.backend(), clock=world.clock) as client:
        for n in range(INSTANCES):
            await insist(world, lambda n=n: engine.start(storms.options(instance_id=f"i{n}"), n))
        for word in range(WORDS):
            for n in range(INSTANCES):
                asker = dice.choice([engine, client])
                for _ in range(dice.choice([1, 1, 2])):
                    await insist(
                        world,
                        lambda n=n, word=word, asker=asker: asker.raise_event(
                            f"i{n}", "word", word, event_id=f"e{word}"
                        ),
                    )
            await world.advance(dice.choice([0, 1, 5]))
            if dice.random() < 0.6:
                await world.crash(engine)
                engine = await world.open(weather(), **known)
        for _ in range(3):
            await world.advance(60)
        faults.on = False
        for _ in range(100):
            await world.advance(2)
            await asyncio.sleep(0.005)
            statuses = Counter([(await client.status(f"i{n}")).status for n in range(INSTANCES)])
            if statuses == {Status.COMPLETED: INSTANCES}:
                break
        assert statuses == {Status.COMPLETED: INSTANCES}
        for n in range(INSTANCES):
            expected = [[word, (n * 100 + word) * 10, word * 10] for word in range(WORDS)]
            assert sorted(await client.result(f"i{n}")) == expected  # senders of two processes may overtake each other
            check_history(f"i{n}", await client.history(f"i{n}"))
        assert engine.statistics().running_attempts == 0
        assert world.worker(engine).attempts._by_name["work"] == 0
    with pytest.raises(InstanceError):
        await engine.raise_event("i0", "word", 1)
    await world.crash(engine)


def check_history(instance_id: str, history: list[Any]) -> None:
    """I1 to I5, I9, and no phantoms."""
    assert [each.seq for each in history] == list(range(1, len(history) + 1))
    assert [each.kind for each in history].count("instance_started") == 1
    assert [type(each.event) in ev.ENDS for each in history] == [False] * (len(history) - 1) + [True]
    times = [each.at_us for each in history]
    assert times == sorted(times)
    scheduled = {each.event.task: each for each in history if each.kind == "activity_scheduled"}
    completed = Counter(each.event.task for each in history if each.kind == "activity_completed")
    assert completed == dict.fromkeys(scheduled, 1)
    inputs = Counter(each.event.input for each in scheduled.values())
    called = {b"[%d]" % number for who, number, _ in CALLED if who == instance_id}
    assert called == set(inputs)
    received = [each.event.event_id for each in history if each.kind == "event_received"]
    assert len(received) == len(set(received)) == WORDS
