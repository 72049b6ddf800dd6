"""Tasks of queues in memory and on SQLite: who is next, what is given back, which tokens are none."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from durableflow import TokenRefused
from durableflow.backends.base import Commit, Lease, NewInstance
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.sqlite import SqliteBackend
from durableflow.backends.tasks import ClaimRequest, NewTask, QueueLimits, StoredTask, TaskEnd
from durableflow.model.status import Status
from durableflow.model.tokens import new_token, read_token

WORK = ("mail",)
END = b"\x93\xb2activity_completed"


class Desk:
    """A store with one server, and tasks that are written by one worker."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.lease = Lease(0, 0)
        self.server = 0
        self.made = 0

    async def open(self) -> None:
        await self.backend.open()
        self.lease = await self.backend.acquire("w", 10**12, 0)
        self.server = await self.backend.enlist_server("s", 10**12, 0)
        await self.backend.commit(self.lease, Commit(new=[NewInstance("i", "w", 1, Status.RUNNING, 0, None, {})]))

    async def write(self, *keys: str, priority: int = 0, not_before_us: int = 0, expires_us: int | None = None) -> None:
        tasks: list[NewTask] = []
        for key in keys:
            self.made += 1
            tasks.append(NewTask("i", self.made, "q", "mail", b"[]", b"", priority, key, not_before_us, expires_us, 0))
        await self.backend.commit(self.lease, Commit(tasks=tasks))

    async def claim(self, most: int, now_us: int = 0) -> list[StoredTask]:
        request = ClaimRequest(self.server, WORK, {"q": most}, 0, True, None)
        return list((await self.backend.claim(request, now_us)).tasks)

    async def finish(self, task: StoredTask) -> bool:
        end = TaskEnd((task.number, task.attempt, task.state, task.claimed_by), END, None)
        (is_written,) = await self.backend.finish_tasks([end], self.server)
        return bool(is_written)


@pytest.fixture(params=["memory", "sqlite"])
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    backend: Any = MemoryBackend() if request.param == "memory" else SqliteBackend(tmp_path / "store.db")
    desk = Desk(backend)
    await desk.open()
    yield desk
    await backend.close()


async def test_a_key_whose_tasks_are_done_at_once_does_not_go_before_the_others_for_ever(desk: Desk) -> None:
    await desk.write(*["heavy"] * 5)
    await desk.write("light")
    order = ""
    for _ in range(10):
        (task,) = await desk.claim(1)
        order += task.fairness_key[0]
        assert await desk.finish(task)
        if task.fairness_key == "light":
            await desk.write("light")
    assert order.count("h") == 5, order
    assert "lll" not in order[:8]


async def test_keys_take_turns_however_many_tasks_of_one_there_are(desk: Desk) -> None:
    await desk.write(*["a"] * 6, *["b"] * 2, "c")
    assert "".join([task.fairness_key for task in await desk.claim(9)]) == "abcab" + "a" * 4


async def test_the_highest_priority_goes_first_whatever_its_key(desk: Desk) -> None:
    await desk.write("a", "a")
    await desk.write("a", "b", priority=5)
    await desk.write("c", priority=-5)
    assert [task.priority for task in await desk.claim(9)] == [5, 5, 0, 0, -5]


async def test_what_is_given_back_by_a_server_that_stops_keeps_the_time_by_which_it_must_be_begun(desk: Desk) -> None:
    await desk.write("a", expires_us=5)
    (task,) = await desk.claim(1, now_us=1)
    assert await desk.backend.overdue_tasks(desk.server, 10, 9) == [], "it was begun in time"
    await desk.backend.retire_server(desk.server)
    desk.server = await desk.backend.enlist_server("s", 10**12, 0)
    (overdue,) = await desk.backend.overdue_tasks(desk.server, 10, 9)
    assert overdue.number == task.number


async def test_what_may_not_begin_yet_is_not_claimed(desk: Desk) -> None:
    await desk.write("a", not_before_us=50)
    assert await desk.claim(1, now_us=49) == []
    assert len(await desk.claim(1, now_us=50)) == 1


async def test_limits_hold_over_all_servers_and_a_paused_queue_gives_nothing(desk: Desk) -> None:
    await desk.write(*["a"] * 9)
    await desk.backend.limit_queue("q", QueueLimits(concurrency=2))
    first = await desk.claim(9)
    assert len(first) == 2
    other = await desk.backend.enlist_server("other", 10**12, 0)
    request = ClaimRequest(other, WORK, {"q": 9}, 0, True, None)
    assert list((await desk.backend.claim(request, 0)).tasks) == []
    assert await desk.finish(first[0])
    assert not await desk.finish(first[0]), "the second time it is nobody's"
    assert len(await desk.claim(9)) == 1
    await desk.backend.limit_queue("q", QueueLimits(is_paused=True))
    assert await desk.claim(9) == []


async def test_a_rate_lets_so_many_begin_in_a_period(desk: Desk) -> None:
    await desk.write(*["a"] * 9)
    await desk.backend.limit_queue("q", QueueLimits(rate_count=2, rate_period_us=100, rate_burst=2))
    assert [len(await desk.claim(9, now_us=at)) for at in (1_000, 1_010, 1_050, 1_100, 1_101)] == [2, 0, 1, 1, 0]


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (-1, 1), (2**63, 1), (1, 2**80 % 2**64)])
def test_a_token_with_numbers_that_none_can_have_is_refused(numbers: tuple[int, int]) -> None:
    token, _ = new_token("i", *numbers, 7)
    with pytest.raises(TokenRefused) as caught:
        read_token(token)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("token", [b"df1.x", None, 5, "", "df1.", "df1.\ud800", "x" * 10_000, "df1." + "A" * 40])
def test_what_is_no_token_is_refused_as_malformed(token: Any) -> None:
    with pytest.raises(TokenRefused) as caught:
        read_token(token)
    assert caught.value.reason == "malformed"
