"""The small parts of the runtime, each on its own: alarms, clock, guard, threads, stores."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durableflow import UsageError
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.ownership import counted_us
from durableflow.backends.sqlite import SqliteBackend
from durableflow.backends.stores import open_backend
from durableflow.errors import TurnTooLong
from durableflow.runtime.alarms import Alarms
from durableflow.runtime.clock import SystemClock
from durableflow.runtime.guard import TurnGuard
from durableflow.runtime.threads import DaemonThreads

if TYPE_CHECKING:
    World = Any  # of conftest.py


class Moment:
    """A clock that shows one moment."""

    def __init__(self) -> None:
        self.now = 0

    def now_us(self) -> int:
        return self.now

    async def wait(self, changed: asyncio.Event, until_us: int | None) -> None:
        await changed.wait()

    def random_bits(self, count: int) -> int:
        return 0

    def draw(self) -> float:
        return 0.0


# -- alarms ----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=200))
def test_alarms_ring_in_order_never_early_and_never_once_cancelled(wanted: list[tuple[int, bool]]) -> None:
    clock = Moment()
    alarms = Alarms(clock)
    rung: list[tuple[int, int]] = []
    made = [alarms.at(due, lambda due=due, n=n: rung.append((due, n))) for n, (due, _) in enumerate(wanted)]
    for alarm, (_, cancelled) in zip(made, wanted, strict=True):
        if cancelled:
            alarm.cancel()
            alarm.cancel()
    for now in range(0, 52, 3):
        clock.now = now
        alarms.ring()
        assert all(due <= now for due, _ in rung)
        next_due = alarms.next_due_us()
        assert next_due is None or next_due > now
    assert rung == sorted((due, n) for n, (due, cancelled) in enumerate(wanted) if not cancelled)


def test_an_alarm_that_arms_itself_again_for_now_does_not_hold_up_the_others() -> None:
    clock = Moment()
    alarms = Alarms(clock)
    rung: list[str] = []

    def again() -> None:
        rung.append("again")
        alarms.at(0, again)

    alarms.at(0, again)
    alarms.at(0, lambda: rung.append("other"))
    assert alarms.ring()
    assert rung == ["again", "other"]
    assert alarms.ring()


def test_an_alarm_may_cancel_another_of_the_same_moment() -> None:
    alarms = Alarms(Moment())
    rung: list[str] = []
    alarms.at(0, lambda: second.cancel())  # noqa: PLW0108  # there is no second yet
    second = alarms.at(0, lambda: rung.append("second"))
    alarms.ring()
    assert rung == []


def test_cancelled_alarms_do_not_pile_up() -> None:
    """I48: a time-out of an hour for each of a million attempts that take a millisecond."""
    alarms = Alarms(Moment())
    kept = [alarms.at(n, lambda: None) for n in range(50)]
    for n in range(10_000):
        alarms.at(3_600_000_000 + n, lambda: None).cancel()
    assert len(alarms._heap) < 500
    assert alarms.next_due_us() == 0
    assert all(alarm.call is not None for alarm in kept)


async def test_an_earlier_alarm_shortens_the_wait() -> None:
    alarms = Alarms(SystemClock())
    clock = SystemClock()
    rung = asyncio.Event()
    running = asyncio.ensure_future(alarms.run())
    alarms.at(clock.now_us() + 60_000_000, lambda: None)
    await asyncio.sleep(0)
    alarms.at(clock.now_us() + 5_000, rung.set)
    async with asyncio.timeout(5):
        await rung.wait()
    running.cancel()


# -- the clock -------------------------------------------------------------------------------------------------


def test_the_clock_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([5_000_000, 9_000_000, 3_000_000, 10_000_000])
    monkeypatch.setattr(time, "time_ns", lambda: next(times))
    clock = SystemClock()
    assert [clock.now_us() for _ in range(4)] == [5_000, 9_000, 9_000, 10_000]


def test_the_clock_of_a_store_is_not_moved_by_whoever_sets_that_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    clock.skew_us = time.time_ns() // 1_000 - counted_us()
    before_us = clock.now_us()
    really_us = time.time_ns() // 1_000
    monkeypatch.setattr(time, "time_ns", lambda: (really_us + 3_600_000_000) * 1_000)
    assert before_us <= clock.now_us() < before_us + 1_000_000
    clock.skew_us += 10_000_000  # the store's own was set
    assert clock.now_us() >= before_us + 10_000_000


async def test_a_wait_ends_at_its_moment_or_when_it_is_called_off() -> None:
    clock = SystemClock()
    called_off = asyncio.Event()
    until_us = clock.now_us() + 5_000
    await clock.wait(called_off, until_us)
    assert clock.now_us() >= until_us - 1_000
    await clock.wait(called_off, clock.now_us() - 1)
    asyncio.get_running_loop().call_later(0.002, called_off.set)
    async with asyncio.timeout(5):
        await clock.wait(called_off, None)


async def test_a_long_wait_looks_at_the_time_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slept: the loop's clock stood still meanwhile, the calendar did not."""
    monkeypatch.setattr("durableflow.runtime.clock._LONGEST_WAIT_S", 0.005)
    clock = SystemClock()
    async with asyncio.timeout(5):
        await clock.wait(asyncio.Event(), clock.now_us() + 3_600_000_000)
        await clock.wait(asyncio.Event(), None)


def test_dice_have_as_many_sides_as_asked() -> None:
    clock = SystemClock()
    for bits in (1, 7, 8, 80, 128, 200):
        assert all(0 <= clock.random_bits(bits) < 1 << bits for _ in range(50))
    assert len({clock.random_bits(80) for _ in range(50)}) == 50
    assert all(0 <= clock.draw() < 1 for _ in range(50))
    assert len({clock.random_bits(128) for _ in range(2_000)}) == 2_000, "also where one block ends and another begins"


def test_threads_that_draw_at_the_same_time_get_different_bits() -> None:
    clock = SystemClock()
    drawn: list[list[int]] = []

    def draw() -> None:
        drawn.append([clock.random_bits(128) for _ in range(2_000)])

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({bits for each in drawn for bits in each}) == 8_000


FORKS = """
import os
from durableflow.runtime.clock import SystemClock
clock = SystemClock()
clock.random_bits(80)
reading, writing = os.pipe()
if os.fork() == 0:
    os.write(writing, str(clock.random_bits(80)).encode())
    os._exit(0)
os.wait()
assert int(os.read(reading, 100)) != clock.random_bits(80)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_draws_other_bits_than_its_parent() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- the guard -------------------------------------------------------------------------------------------------


@pytest.fixture
def reports() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def guard(reports: list[tuple[str, str]]) -> Any:
    made = TurnGuard(0.05, 2.0, lambda instance_id, _, location: reports.append((instance_id, location)))
    made.start()
    yield made
    made.stop()


def busy(seconds: float) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return "done"


@pytest.mark.slow
def test_a_guarded_call_that_ends_in_time_gives_its_result(guard: TurnGuard, reports: list[tuple[str, str]]) -> None:
    assert guard.run("i", busy, 0.001) == "done"
    assert reports == []
    assert guard.run("i", busy, seconds=0.3) == "done"
    assert [(instance_id, " in busy" in location) for instance_id, location in reports] == [("i", True)]
    with pytest.raises(ZeroDivisionError):
        guard.run("i", lambda: 1 // 0)


@pytest.mark.slow
def test_a_guarded_call_that_does_not_end_is_stopped_at_its_line(guard: TurnGuard) -> None:
    with pytest.raises(TurnTooLong, match=r"test_parts\.py:\d+ in busy"):
        guard.run("i", busy, 30)

    def swallows() -> None:
        while True:
            try:
                busy(30)
            except Exception:
                continue

    with pytest.raises(TurnTooLong):
        guard.run("i", swallows)


@pytest.mark.slow
def test_a_blow_that_comes_at_the_last_moment_strikes_nobody_else() -> None:
    """The exception is sent from another thread: it must arrive in its turn or not at all."""
    guard = TurnGuard(0.001, 0.002, lambda *_: None)
    guard.start()
    outcomes: set[str] = set()
    try:
        until = time.monotonic() + 0.8
        while time.monotonic() < until:
            try:
                outcomes.add(guard.run("i", busy, 0.0019))
            except TurnTooLong:
                outcomes.add("stopped")
            sum(range(2_000))  # outside of a turn: nothing may arrive here
    finally:
        guard.stop()
    assert outcomes <= {"done", "stopped"}


TRACES = """
import sys
from durableflow.errors import TurnTooLong
from durableflow.runtime.guard import TurnGuard

def spins():
    while True:
        pass

guard = TurnGuard(0.001, 0.002, lambda *_: None)
guard.start()
try:
    guard.run("i", spins)
except TurnTooLong:
    pass
guard.stop()
seen = []
sys.settrace(lambda frame, event, argument: seen.append(frame.f_code.co_name))
(lambda: None)()
sys.settrace(None)
print(seen)
"""


@pytest.mark.slow
def test_a_debugger_can_still_follow_a_thread_in_which_a_turn_was_stopped() -> None:
    """An interpreter that is told to look for an exception that was taken back looks for ever, when it is traced."""
    done = subprocess.run([sys.executable, "-c", TRACES], capture_output=True, text=True, check=False, timeout=30)
    assert (done.stdout, done.stderr) == ("['<lambda>']\n", "")


def test_a_guard_without_a_limit_only_reports(reports: list[tuple[str, str]]) -> None:
    guard = TurnGuard(0.01, 0, lambda instance_id, _, location: reports.append((instance_id, location)))
    guard.start()
    assert guard.run("i", busy, 0.1) == "done"
    guard.stop()
    assert len(reports) == 1


# -- threads ---------------------------------------------------------------------------------------------------


def test_threads_are_made_when_needed_used_again_and_never_more_than_allowed() -> None:
    threads = DaemonThreads(3)
    lock = threading.Lock()
    names: set[str] = set()
    done = threading.Semaphore(0)
    inside = most = 0

    def work() -> None:
        nonlocal inside, most
        with lock:
            names.add(threading.current_thread().name)
            inside += 1
            most = max(most, inside)
        time.sleep(0.001)
        with lock:
            inside -= 1
        done.release()

    threads.submit(work)
    assert done.acquire(timeout=5)
    assert len(names) == 1
    for _ in range(30):
        threads.submit(work)
    for _ in range(30):
        assert done.acquire(timeout=5)
    assert most == len(names) == 3
    alive = [thread for thread in threading.enumerate() if thread.name in names]
    assert all(thread.daemon for thread in alive)
    threads.stop()
    for thread in alive:
        thread.join(5)
        assert not thread.is_alive()


# -- stores ----------------------------------------------------------------------------------------------------


def test_a_url_opens_its_backend() -> None:
    assert isinstance(open_backend("memory://"), MemoryBackend)
    made = open_backend("sqlite:///orders.db?power_loss_safe=false")
    assert isinstance(made, SqliteBackend)
    assert (made.path.name, made.power_loss_safe) == ("orders.db", False)


@pytest.mark.parametrize("url", ["", "orders.db", "mysql://x", "memory://x", "sqlite:orders.db", "sqlite://orders.db"])
def test_a_url_of_no_store_is_refused_with_what_to_write(url: str) -> None:
    with pytest.raises(UsageError, match=r"memory://|sqlite:///"):
        open_backend(url)
