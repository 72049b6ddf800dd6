"""Alerts: each is raised for its condition, once, told again after a while, and resolved; notices survive crashes."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from durableflow import (
    Alert,
    AlertKind,
    AlertPolicy,
    CircuitBreaker,
    Client,
    Context,
    Engine,
    Flow,
    RetryPolicy,
    Severity,
    UsageError,
    activity,
    activity_context,
    workflow,
)
from durableflow.errors import StorageError
from durableflow.model.alert import AlertChanges, AlertRecord
from durableflow.model.status import Status
from durableflow.observe import facts
from durableflow.runtime.conditions import UnservedQueue
from durableflow.runtime.worker import Recovered

if TYPE_CHECKING:
    World = Any  # of conftest.py

POLICY = AlertPolicy(interval=10, repeat=100, overdue=30, no_progress=60, takeovers=3, commit_retries=2, window=50)


class Sink:
    """Takes notices, after so many refusals."""

    def __init__(self, name: str = "sink", *, refusals: int = 0, retry: int = 20) -> None:
        self.name = name
        self.retry = RetryPolicy(max_attempts=retry, initial=1, backoff=2, max_delay=60)
        self.refusals = refusals
        self.tried: list[int] = []
        self.got: list[dict[str, Any]] = []

    def send(self, number: int, body: bytes) -> None:
        self.tried.append(number)
        if self.refusals:
            self.refusals -= 1
            raise ConnectionError("not now")
        self.got.append(json.loads(body))


def engine_of(
    world: World, *, backend: Any = None, policy: AlertPolicy = POLICY, on_alert: Any = (), **known: Any
) -> Engine:
    engine: Engine = world.new_engine(backend, **known)
    from durableflow.runtime.alerting import alerting

    engine._alerting = alerting(alerts=policy, on_alert=list(on_alert), worker=engine.name, has_clock=True)
    return engine


class Opened:
    """An engine with a watch, known to the world so that time can be moved."""

    def __init__(self, world: World, **options: Any) -> None:
        self.world, self.engine = world, engine_of(world, **options)

    async def __aenter__(self) -> Engine:
        await self.engine.__aenter__()
        self.world._open.append(self.engine)
        return self.engine

    async def __aexit__(self, *exc: object) -> None:
        if self.engine in self.world._open:
            self.world._open.remove(self.engine)
            await self.engine.__aexit__(*exc)


def told(world: World) -> list[tuple[str, str]]:
    """What was said of alerts, in order."""
    said: list[tuple[str, str]] = []
    for fact in world.facts:
        if isinstance(fact, facts.AlertRaised):
            said.append(("repeated" if fact.repeated else "raised", fact.kind.value))
        elif isinstance(fact, facts.AlertResolved):
            said.append(("resolved", fact.kind.value))
    return said


async def kept(world: World) -> list[Alert]:
    async with Client(world.backend()) as client:
        return list(await client.alerts())


@workflow(name="needs code")
def needs_code(ctx: Context) -> Flow[None]:
    yield from ctx.call_activity_by_name("unknown here", None)


async def test_a_stalled_instance_is_told_once_again_and_resolved_when_it_goes_on(world: World) -> None:
    async with Opened(world, workflows=[needs_code]) as engine:
        handle = await engine.start(needs_code.options(instance_id="i"))
        await world.advance(9)
        assert told(world) == []
        await world.advance(21)
        assert told(world) == [("raised", "stalled")]
        (alert,) = await kept(world)
        assert (alert.kind, alert.subject, alert.severity) == (AlertKind.STALLED, "i", Severity.ERROR)
        assert "activity 'unknown here' is not registered" in alert.details
        await world.advance(100)
        assert told(world) == [("raised", "stalled"), ("repeated", "stalled")]

        @activity(name="unknown here")
        async def known(_: None) -> None:
            """Now it is."""

        engine.register(known)
        await world.advance(11)
        assert (await handle.status()).status is Status.COMPLETED
        assert told(world)[2:] == [("resolved", "stalled")]
        assert await kept(world) == []
        assert engine.statistics().recovered == Recovered(stalls=1)
        assert [fact.instance_id for fact in world.told(facts.StallHealed)] == ["i"]


async def test_an_alert_outlives_its_worker_and_is_not_raised_anew_by_the_next(world: World) -> None:
    async with Opened(world, workflows=[needs_code]) as engine:
        await engine.start(needs_code.options(instance_id="i"))
        await world.advance(11)
        await world.crash(engine)
    async with Opened(world, workflows=[needs_code]):
        await world.advance(30)
        assert told(world) == [("raised", "stalled")]
        async with Client(world.backend()) as client:
            await client.terminate("i")
        await world.until(lambda: world.told(facts.InstanceEnded))
        await world.advance(10)
        assert told(world) == [("raised", "stalled"), ("resolved", "stalled")]


async def test_attempts_that_run_for_long_are_no_progress_unless_they_beat(world: World) -> None:
    beats = asyncio.Event()

    @activity
    async def hangs() -> None:
        await asyncio.Event().wait()

    @activity(heartbeat_timeout=1000)
    async def beating() -> None:
        here = activity_context()
        while True:
            await beats.wait()
            beats.clear()
            here.heartbeat()

    @workflow
    def waits(ctx: Context, beat: bool) -> Flow[None]:
        yield from ctx.call_activity(beating if beat else hangs)

    async with Opened(world) as engine:
        await engine.start(waits.options(instance_id="hangs"), beat=False)
        await engine.start(waits.options(instance_id="beats"), beat=True)
        await world.advance(50)
        beats.set()
        await world.advance(20)
        (alert,) = await kept(world)
        assert (alert.kind, alert.subject, alert.severity) == (AlertKind.NO_PROGRESS, "hangs", Severity.WARNING)
        assert "nothing was recorded for" in alert.details
        await engine.terminate("hangs")
        await world.advance(10)
        assert ("resolved", "no_progress") in told(world)


async def test_who_waits_for_a_timer_or_an_event_is_not_stuck(world: World) -> None:
    @workflow
    def patient(ctx: Context) -> Flow[None]:
        yield from ctx.sleep(100_000)

    @workflow
    def listens(ctx: Context) -> Flow[None]:
        yield from ctx.wait_for_event("never")

    async with Opened(world) as engine:
        await engine.start(patient)
        await engine.start(listens)
        await world.advance(200)
        assert told(world) == []


async def test_what_is_due_and_not_done_is_overdue(world: World) -> None:
    """As after a defect: the row says that it is due, and no worker acts."""

    @workflow
    def patient(ctx: Context) -> Flow[None]:
        yield from ctx.sleep(20)

    async with Opened(world) as engine:
        await engine.start(patient.options(instance_id="late"))
        await world.settle()
        live = world.worker(engine).instances.live["late"]
        live.alarm.cancel()
        await world.advance(100)
        (alert,) = await kept(world)
        assert (alert.kind, alert.subject, alert.severity) == (AlertKind.OVERDUE, "late", Severity.ERROR)
        assert (alert.since.timestamp() * 1e6 - 1_900_000_000_000_000) / 1e6 == 20


async def test_a_suspended_instance_is_nobodys_concern(world: World) -> None:
    @activity
    async def hangs() -> None:
        await asyncio.Event().wait()

    @workflow
    def waits(ctx: Context) -> Flow[None]:
        yield from ctx.call_activity(hangs)

    async with Opened(world) as engine:
        handle = await engine.start(waits)
        await handle.suspend()
        await world.advance(200)
        assert told(world) == []


async def test_an_open_circuit_is_told_and_its_end(world: World) -> None:
    is_down = True

    @activity(circuit=CircuitBreaker(1, reset=25, name="bank"), retry=9)
    async def pay() -> None:
        if is_down:
            raise ConnectionError

    @workflow
    def pays(ctx: Context) -> Flow[None]:
        yield from ctx.call_activity(pay)

    async with Opened(world) as engine:
        await engine.start(pays)
        await world.advance(11)
        (alert,) = await kept(world)
        assert (alert.kind, alert.subject) == (AlertKind.CIRCUIT_OPEN, "bank")
        is_down = False
        await world.advance(30)
        assert told(world) == [("raised", "circuit_open"), ("resolved", "circuit_open")]


async def test_a_lease_that_changes_hands_too_often_is_told(world: World) -> None:
    for _ in range(3):
        await world.crash(await world.open())
    async with Opened(world):
        await world.advance(10)
        (alert,) = await kept(world)
        assert (alert.kind, alert.subject) == (AlertKind.LEASE_CHURN, "store")
        assert "changed 4 times within 50 s" in alert.details
        await world.advance(50)
        assert told(world) == [("raised", "lease_churn"), ("resolved", "lease_churn")]


@pytest.mark.parametrize("fault", ["refuse", "hide"])
async def test_commits_that_are_refused_or_not_answered_again_and_again_are_told(
    world: World, faulty: Any, fault: str
) -> None:
    @workflow
    def quick(ctx: Context) -> int:
        return 1

    async with Opened(world, backend=faulty) as engine:
        for _ in range(2):
            faulty.faults = [fault]
            await engine.start(quick)
        await world.advance(10)
        (alert,) = await kept(world)
        assert (alert.kind, alert.subject) == (AlertKind.COMMIT_RETRIES, engine.name)
        assert "refused or did not answer 2 commits, the last because: planted" in alert.details
        await world.advance(60)
        assert told(world)[-1] == ("resolved", "commit_retries")


async def test_a_turn_that_blocked_is_told_for_a_while(world: World) -> None:
    async with Opened(world) as engine:
        blocked = facts.TurnBlocked("i", 2.5, "flow.py:3 in f")
        thread = threading.Thread(target=world.worker(engine)._tell, args=(blocked,))
        thread.start()
        thread.join()
        await world.advance(10)
        (alert,) = await kept(world)
        assert (alert.kind, alert.subject) == (AlertKind.LONG_TURN, "i")
        assert alert.details == "a turn blocked the event loop for 2.5 s at flow.py:3 in f"
        await world.advance(60)
        assert told(world) == [("raised", "long_turn"), ("resolved", "long_turn")]


async def test_queues_that_nobody_serves_are_told_by_whoever_knows_them(world: World) -> None:
    async with Opened(world) as engine:
        conditions = world.worker(engine)._conditions
        asked: list[int] = []

        async def unserved(before_us: int) -> list[UnservedQueue]:
            asked.append(before_us)
            return [UnservedQueue("mail", before_us - 5, 1_200)] if len(asked) < 3 else []

        conditions.unserved_queues = unserved
        await world.advance(10)
        (alert,) = await kept(world)
        assert (alert.kind, alert.subject) == (AlertKind.QUEUE_UNSERVED, "mail")
        assert alert.details == "1,200 wait in it, and no worker serves it"
        assert asked == [world.clock.now - 60_000_000]
        await world.advance(20)
        assert told(world) == [("raised", "queue_unserved"), ("resolved", "queue_unserved")]


async def test_a_queue_that_no_engine_serves_is_told_until_one_does_or_it_is_paused(world: World) -> None:
    @activity(queue="letters", retry=1)
    async def deliver(number: int) -> int:
        return number

    @workflow
    async def letter(ctx: Context, number: int) -> int:
        return await ctx.call_activity(deliver, number)

    known = {"workflows": [letter], "activities": [deliver]}
    async with Opened(world, queues=[], **known) as engine:
        handle = await engine.start(letter, 5)
        await world.advance(60)
        assert await kept(world) == []
        await world.advance(20)
        (alert,) = await kept(world)
        assert (alert.kind, alert.subject) == (AlertKind.QUEUE_UNSERVED, "letters")
        await engine.pause_queue("letters")
        await world.advance(10)
        assert await kept(world) == [], "somebody wants it so"
    async with Opened(world, **known) as engine:
        await engine.resume_queue("letters")
        assert await engine.result(handle.id, timeout=5) == 5


async def test_so_many_alerts_of_a_kind_are_kept_and_no_more(world: World) -> None:
    async with Opened(world, policy=msgspec.structs.replace(POLICY, most=3)) as engine:
        for n in range(6):
            await engine.start(needs_code.options(instance_id=f"i{n}"))
        await world.advance(11)
        assert len(await kept(world)) == 3


async def test_the_watch_survives_a_store_that_cannot_answer(world: World, faulty: Any) -> None:
    faults = ["one", "two"]
    real = faulty._real.change_alerts

    async def change_alerts(lease: Any, changes: AlertChanges) -> None:
        if faults:
            faults.pop()
            raise StorageError("planted")
        await real(lease, changes)

    faulty.change_alerts = change_alerts
    async with Opened(world, backend=faulty, workflows=[needs_code]) as engine:
        await engine.start(needs_code)
        await world.advance(10)
        await world.until(lambda: told(world))
        assert told(world)[0] == ("raised", "stalled")
        assert ("raised", "stalled") not in told(world)[1:]


async def test_a_defect_of_the_watch_does_not_stop_the_engine(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with Opened(world) as engine:

        async def unserved(_: int) -> list[UnservedQueue]:
            raise ZeroDivisionError

        world.worker(engine)._conditions.unserved_queues = unserved
        await world.advance(25)
        assert "the watch of the worker failed" in caplog.text

        @workflow
        def quick(ctx: Context) -> int:
            return 1

        assert await (await engine.start(quick)).result() == 1


# -- hooks and sinks ------------------------------------------------------------------------------------------------


async def test_hooks_are_called_with_each_alert_and_their_failures_harm_nobody(world: World) -> None:
    plain: list[Alert] = []
    waited: list[Alert] = []

    def hook(alert: Alert) -> None:
        assert threading.current_thread() is not threading.main_thread()
        plain.append(alert)

    def broken(_: Alert) -> None:
        raise ValueError

    async def async_hook(alert: Alert) -> None:
        waited.append(alert)

    async with Opened(world, workflows=[needs_code], on_alert=[broken, hook, async_hook]) as engine:
        await engine.start(needs_code.options(instance_id="i"))
        await world.advance(11)
        await engine.terminate("i")
        await world.advance(11)
        await world.until(lambda: len(plain) == 2)
    assert plain == waited
    assert [(alert.state, alert.subject) for alert in plain] == [("raised", "i"), ("resolved", "i")]
    assert (plain[1].at - plain[0].at).total_seconds() == 10


async def test_a_hook_that_never_returns_does_not_hold_up_the_engine(world: World) -> None:
    forever = threading.Event()

    async def never(_: Alert) -> None:
        await asyncio.Event().wait()

    async with Opened(world, workflows=[needs_code], on_alert=[lambda _: forever.wait(20), never]) as engine:
        await engine.start(needs_code.options(instance_id="i"))
        await world.advance(11)
        assert told(world) == [("raised", "stalled")]
    forever.set()


async def test_a_notice_is_tried_until_it_is_taken_and_those_behind_it_wait(world: World) -> None:
    sink = Sink(refusals=3)
    async with Opened(world, workflows=[needs_code], on_alert=[sink]) as engine:
        await engine.start(needs_code.options(instance_id="i"))
        await world.advance(10)
        await world.until(lambda: sink.tried == [1])
        await engine.terminate("i")
        for n in range(2, 5):
            await world.until(lambda: world.clock.next_due_us() is not None)
            await world.advance(5)
            await world.until(lambda n=n: len(sink.tried) >= n)
        await world.until(lambda: len(sink.got) == 2)
        assert sink.tried == [1, 1, 1, 1, 2]
        assert [(notice["state"], notice["subject"], notice["kind"]) for notice in sink.got] == [
            ("raised", "i", "stalled"),
            ("resolved", "i", "stalled"),
        ]
        assert sink.got[0]["worker"] == engine.name
        await world.settle()
        await world.until(lambda: True)
        assert await _waiting(world, sink) == []


async def _waiting(world: World, sink: Sink) -> list[Any]:
    async with Client(world.backend()) as client:
        async with asyncio.timeout(5):
            while found := list(await client._backend.notices(sink.name, 10)):  # noqa: ASYNC110  # sets no event
                await asyncio.sleep(0.01)
        return found


async def test_a_notice_that_was_not_taken_is_delivered_after_a_crash(world: World) -> None:
    sink = Sink(refusals=1)
    async with Opened(world, workflows=[needs_code], on_alert=[sink]) as engine:
        await engine.start(needs_code.options(instance_id="i"))
        await world.advance(10)
        await world.until(lambda: sink.tried == [1])
        await world.settle()
        await world.crash(engine)
    again = Sink()
    async with Opened(world, workflows=[needs_code], on_alert=[again]):
        await world.advance(5)
        await world.until(lambda: again.got)
        assert [(notice["state"], notice["subject"]) for notice in again.got] == [("raised", "i")]


async def test_a_notice_that_nobody_ever_takes_is_given_up_and_the_next_one_tried(world: World) -> None:
    sink = Sink(refusals=2, retry=2)
    async with Opened(world, workflows=[needs_code], on_alert=[sink]) as engine:
        await engine.start(needs_code.options(instance_id="i"))
        await world.advance(10)
        await world.until(lambda: sink.tried == [1])
        await engine.terminate("i")
        await world.until(lambda: world.clock.next_due_us() is not None)
        await world.advance(10)
        await world.until(lambda: sink.got)
        assert sink.tried == [1, 1, 2]
        (given_up,) = world.told(facts.NoticeGivenUp)
        assert (given_up.sink, given_up.notice, given_up.attempts) == ("sink", 1, 2)
        assert "not now" in given_up.reason
        assert [notice["state"] for notice in sink.got] == ["resolved"]


async def test_one_sink_that_does_not_answer_does_not_hold_up_another(world: World) -> None:
    stop = threading.Event()

    class Hangs(Sink):
        def send(self, number: int, body: bytes) -> None:
            stop.wait(20)

    good = Sink("good")
    async with Opened(world, workflows=[needs_code], on_alert=[Hangs("hangs"), good]) as engine:
        await engine.start(needs_code.options(instance_id="i"))
        await world.advance(11)
        await world.until(lambda: good.got)
    stop.set()


# -- what went on by itself -----------------------------------------------------------------------------------------


async def test_what_was_recovered_is_counted(world: World) -> None:
    hang = True

    @activity
    async def work() -> int:
        if hang:
            await asyncio.Event().wait()
        return activity_context().attempt

    @workflow
    def flow(ctx: Context) -> Flow[int]:
        return (yield from ctx.call_activity(work))

    @workflow
    def patient(ctx: Context) -> Flow[None]:
        yield from ctx.sleep(100)

    engine = await world.open()
    for n in range(3):
        await engine.start(flow.options(instance_id=f"i{n}"))
    await engine.start(patient)
    await world.settle()
    await world.crash(engine)
    hang = False
    async with world.engine(workflows=[flow, patient], activities=[work]) as engine:
        await world.settle()
        assert [await engine.result(f"i{n}") for n in range(3)] == [2, 2, 2]
        assert engine.statistics().recovered == Recovered(instances=3, attempts=3)
        lost = world.told(facts.AttemptLost)
        assert sorted((fact.instance_id, fact.activity, fact.attempt) for fact in lost) == [
            (f"i{n}", "work", 1) for n in range(3)
        ]


# -- what users write -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interval": 0}, "interval is 0"),
        ({"repeat": -1}, "repeat is -1"),
        ({"no_progress": "1h"}, "no_progress is '1h'"),
        ({"takeovers": 0}, "takeovers is 0"),
        ({"most": 0}, "most is 0"),
    ],
)
def test_a_policy_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlertPolicy(**changes)


def test_what_is_neither_a_function_nor_a_sink_is_refused() -> None:
    with pytest.raises(UsageError, match="neither a function nor a sink"):
        Engine("memory://", on_alert=["https://example.com"])  # type: ignore[list-item]  # users pass anything
    with pytest.raises(UsageError, match="the same sink twice"):
        Engine("memory://", on_alert=[Sink(), Sink()])
    with pytest.raises(UsageError, match="alerts=False raises none"):
        Engine("memory://", alerts=False, on_alert=[Sink()])


def test_an_engine_with_a_clock_of_its_own_watches_only_when_asked(world: World) -> None:
    assert Engine("memory://")._alerting is not None
    assert Engine("memory://", alerts=False)._alerting is None
    assert Engine("memory://", clock=world.clock)._alerting is None
    assert Engine("memory://", clock=world.clock, alerts=True)._alerting is not None
    assert Engine("memory://", clock=world.clock, on_alert=[Sink()])._alerting is not None


def test_an_alert_has_a_key() -> None:
    record = AlertRecord(AlertKind.STALLED, "i", Severity.ERROR, 1, 2, "x")
    assert record.key == (AlertKind.STALLED, "i")
