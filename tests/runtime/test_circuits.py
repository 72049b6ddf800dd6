"""Circuit breakers at work: when attempts wait, when they go through, also over crashes and beside other workers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    ActivityFailed,
    CircuitBreaker,
    CircuitState,
    Client,
    Context,
    Flow,
    RetryPolicy,
    UsageError,
    activity,
    activity_context,
    workflow,
)
from durableflow.errors import StorageError
from durableflow.model.circuit import Circuit
from durableflow.observe import facts

if TYPE_CHECKING:
    World = Any  # of conftest.py


class Service:
    """What the activity calls; the test says whether it is well."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_well = False
        self.calls: list[tuple[float, str]] = []
        self.error: Exception = ConnectionError("down")

    async def call(self, who: str) -> str:
        self.calls.append((self.world.clock.since_start_s, who))
        if not self.is_well:
            raise self.error
        return f"paid {who}"


def payer(service: Service, breaker: CircuitBreaker, **options: Any) -> tuple[Any, Any]:
    """An activity behind `breaker`, and a workflow that calls it."""
    options.setdefault("retry", RetryPolicy(max_attempts=3, initial=1, backoff=1))

    @activity(name="pay", circuit=breaker, **options)
    async def pay(who: str) -> str:
        return await service.call(who)

    @workflow(name="payer")
    def pays(ctx: Context, who: str) -> Flow[Any]:
        try:
            return (yield from ctx.call_activity(pay, who))
        except ActivityFailed as error:
            return [error.type_name, error.attempts, error.message]

    return pays, pay


async def the_circuit(world: World, name: str = "pay") -> Circuit:
    async with Client(world.backend()) as client:
        (found,) = [circuit for circuit in await client._backend.circuits() if circuit.name == name]
        return found


async def test_an_open_circuit_holds_attempts_back_until_a_probe_succeeds(world: World) -> None:
    service = Service(world)
    pays, _ = payer(service, CircuitBreaker(3, reset=30))
    async with world.engine() as engine:
        handles = [await engine.start(pays.options(instance_id=f"i{n}"), f"i{n}") for n in range(3)]
        await world.settle()
        assert len(service.calls) == 3
        (status,) = await engine.circuits()
        assert (status.name, status.state, status.failures) == ("pay", CircuitState.OPEN, 3)
        assert status.opened_at is not None
        assert status.probe_at is not None
        assert (status.probe_at - status.opened_at).total_seconds() == 30
        late = await engine.start(pays.options(instance_id="late"), "late")
        await world.advance(29.9)
        assert len(service.calls) == 3, "neither a retry nor a first attempt is made"
        service.is_well = True
        await world.advance(0.1)
        assert service.calls[3][0] == 30
        await world.settle()
        results = [await handle.result() for handle in [*handles, late]]
        assert results == ["paid i0", "paid i1", "paid i2", "paid late"]
        assert (await engine.circuits())[0].state is CircuitState.CLOSED
        assert [fact.circuit for fact in world.told(facts.CircuitOpened)] == ["pay"]
        assert [fact.circuit for fact in world.told(facts.CircuitClosed)] == ["pay"]


async def test_a_wait_for_the_circuit_uses_up_no_attempt(world: World) -> None:
    service = Service(world)
    pays, _ = payer(service, CircuitBreaker(1, reset=30), retry=2)
    async with world.engine() as engine:
        first = await engine.start(pays, "first")
        await world.settle()
        second = await engine.start(pays, "second")
        await world.advance(100)
        # The first probe is one of the two, which has its second attempt; then the other.
        assert [at for at, _ in service.calls] == [0, 30, 60, 90]
        service.is_well = True
        await world.advance(30)
        told = [await first.result(), await second.result()]
        assert all(result[:2] == ["ConnectionError", 2] for result in told if isinstance(result, list))
        assert [len([who for _, who in service.calls if who == each]) for each in ("first", "second")] == [2, 2]


async def test_a_probe_that_fails_opens_it_for_another_while(world: World) -> None:
    service = Service(world)
    pays, _ = payer(service, CircuitBreaker(1, reset=30), retry=9)
    async with world.engine() as engine:
        for n in range(5):
            await engine.start(pays, f"i{n}")
        await world.advance(95)
        assert [at for at, _ in service.calls if at] == [30, 60, 90]
        assert len(world.told(facts.CircuitOpened)) == 4


async def test_so_many_probes_go_through_and_all_must_succeed(world: World) -> None:
    gate = asyncio.Event()
    running: list[str] = []
    is_down = True

    @activity(name="pay", circuit=CircuitBreaker(1, reset=30, probes=2), retry=9)
    async def pay(who: str) -> str:
        if is_down:
            raise ConnectionError
        running.append(who)
        await gate.wait()
        return who

    @workflow(name="payer")
    def pays(ctx: Context, who: str) -> Flow[str]:
        return (yield from ctx.call_activity(pay, who))

    async with world.engine() as engine:
        first = await engine.start(pays, "0")
        await world.settle()
        handles = [first, *[await engine.start(pays, str(n)) for n in range(1, 6)]]
        is_down = False
        await world.advance(30)
        assert len(running) == 2
        assert (await engine.circuits())[0].probes_out == 2
        gate.set()
        await world.settle()
        assert sorted(await asyncio.gather(*(handle.result() for handle in handles))) == [str(n) for n in range(6)]


async def test_each_key_has_a_circuit_of_its_own(world: World) -> None:
    service = Service(world)

    def shop_of(who: str) -> str:
        return who.partition("-")[0]

    pays, _ = payer(service, CircuitBreaker(1, reset=30, key=shop_of))
    async with world.engine() as engine:
        await engine.start(pays, "north-1")
        await world.settle()
        service.is_well = True
        assert await (await engine.start(pays, "south-1")).result() == "paid south-1"
        waiting = await engine.start(pays, "north-2")
        await world.settle()
        assert [who for _, who in service.calls] == ["north-1", "south-1"]
        assert [status.name for status in await engine.circuits()] == ["pay/north"]
        await world.advance(31)
        assert await waiting.result() == "paid north-2"


async def test_a_key_that_raises_fails_the_attempt_and_says_why(world: World) -> None:
    service = Service(world)
    service.is_well = True
    pays, _ = payer(service, CircuitBreaker(1, key=lambda who: {"a": "x"}[who]), retry=2)
    async with world.engine() as engine:
        handle = await engine.start(pays, "b")
        await world.advance(5)
        assert (await handle.result())[:2] == ["KeyError", 2]
        assert await (await engine.start(pays, "a")).result() == "paid a"
        assert len(service.calls) == 1
        assert world.worker(engine).attempts.running == {}


async def test_an_activity_that_is_not_to_wait_fails_at_once_and_is_not_attempted(world: World) -> None:
    service = Service(world)
    pays, _ = payer(service, CircuitBreaker(2, reset=30, when_open="fail"), retry=5)
    async with world.engine() as engine:
        first = await engine.start(pays, "first")
        await world.advance(1)
        assert [at for at, _ in service.calls] == [0, 1]
        await world.advance(2)
        type_name, attempts, message = await first.result()
        assert (type_name, attempts) == ("CircuitOpen", 2)
        assert "circuit 'pay' is open after 2 failures in a row" in message
        second = await engine.start(pays, "second")
        await world.settle()
        assert (await second.result())[:2] == ["CircuitOpen", 0]
        service.is_well = True
        await world.advance(30)
        probe, other = await engine.start(pays, "probe"), await engine.start(pays, "other")
        await world.settle()
        assert await probe.result() == "paid probe"
        assert await other.result() in ("paid other", ["CircuitOpen", 0, (await other.result())[-1]])


async def test_failures_that_are_ignored_do_not_open_it(world: World) -> None:
    class Declined(Exception):
        pass

    service = Service(world)
    service.error = Declined("no money")
    pays, _ = payer(service, CircuitBreaker(2, ignore=[Declined]), retry=1)
    async with world.engine() as engine:
        for n in range(5):
            assert (await (await engine.start(pays, f"i{n}")).result())[1] == 1
        assert await engine.circuits() == []


async def test_an_ignored_failure_of_a_probe_lets_the_next_one_through(world: World) -> None:
    service = Service(world)
    pays, _ = payer(service, CircuitBreaker(1, reset=30, ignore=[ValueError]), retry=1)
    async with world.engine() as engine:
        await engine.start(pays, "0")
        await world.settle()
        handles = [await engine.start(pays, str(n)) for n in (1, 2, 3)]
        service.error = ValueError("nonsense")
        await world.advance(30)
        assert [at for at, _ in service.calls] == [0, 30, 30, 30]
        assert [(await handle.result())[0] for handle in handles] == ["ValueError"] * 3


async def test_the_limit_of_the_wait_for_a_start_holds_behind_a_circuit(world: World) -> None:
    service = Service(world)
    pays, _ = payer(service, CircuitBreaker(1, reset=30), retry=1, schedule_to_start=10)
    async with world.engine() as engine:
        await engine.start(pays, "first")
        await world.settle()
        second = await engine.start(pays, "second")
        await world.advance(9)
        assert not (await second.status()).status.is_terminal
        await world.advance(1)
        assert (await second.result())[:2] == ["TimeoutError", 0]
        await world.advance(60)
        assert len(service.calls) == 1, "who gave up is no probe"


async def test_a_probe_whose_instance_was_terminated_leaves_its_place(world: World) -> None:
    started: list[str] = []
    down = True

    @activity(name="pay", circuit=CircuitBreaker(1, reset=30), retry=1)
    async def pay(who: str) -> str:
        started.append(who)
        if down:
            raise ConnectionError
        if who == "hangs":
            await asyncio.Event().wait()
        return who

    @workflow(name="payer")
    def pays(ctx: Context, who: str) -> Flow[str]:
        return (yield from ctx.call_activity(pay, who))

    async with world.engine() as engine:
        await engine.start(pays, "first")
        await world.settle()
        down = False
        hangs = await engine.start(pays, "hangs")
        waits = await engine.start(pays, "waits")
        await world.advance(30)
        assert started == ["first", "hangs"]
        await hangs.terminate()
        await world.settle()
        assert await waits.result() == "waits"


async def test_a_circuit_stays_open_over_a_crash(world: World) -> None:
    service = Service(world)
    pays, pay = payer(service, CircuitBreaker(2, reset=30), retry=5)
    engine = await world.open()
    for n in range(2):
        await engine.start(pays.options(instance_id=f"i{n}"), f"i{n}")
    await world.settle()
    await world.crash(engine)
    service.is_well = True
    async with world.engine(workflows=[pays], activities=[pay]) as engine:
        await world.advance(29)
        assert len(service.calls) == 2
        await world.advance(2)
        assert [await engine.result(f"i{n}") for n in range(2)] == ["paid i0", "paid i1"]


async def test_a_probe_that_died_with_its_worker_is_replaced_after_a_while(world: World) -> None:
    at: list[float] = []
    hang = False

    @activity(name="pay", circuit=CircuitBreaker(1, reset=30), retry=5)
    async def pay() -> int:
        at.append(world.clock.since_start_s)
        if len(at) == 1:
            raise ConnectionError
        if hang:
            await asyncio.Event().wait()
        return activity_context().attempt

    @workflow(name="payer")
    def pays(ctx: Context) -> Flow[int]:
        return (yield from ctx.call_activity(pay))

    engine = await world.open()
    handle = await engine.start(pays)
    hang = True
    await world.advance(31)
    assert at == [0, 30]
    await world.crash(engine)
    hang = False
    async with world.engine(workflows=[pays], activities=[pay]) as engine:
        await world.advance(28)
        assert at == [0, 30]
        await world.advance(2)
        assert at == [0, 30, 60]
        assert await engine.result(handle.id) == 3
        assert (await engine.circuits())[0].state is CircuitState.CLOSED


async def test_a_reset_lets_everybody_go(world: World) -> None:
    service = Service(world)
    pays, _ = payer(service, CircuitBreaker(1, reset=3600), retry=3)
    async with world.engine() as engine:
        handles = [await engine.start(pays, f"i{n}") for n in range(3)]
        await world.settle()
        service.is_well = True
        status = await engine.reset_circuit("pay")
        assert (status.state, status.failures, status.probe_at) == (CircuitState.CLOSED, 0, None)
        await world.advance(1)
        assert [await handle.result() for handle in handles] == ["paid i0", "paid i1", "paid i2"]


async def test_a_reset_by_another_process_is_heard_of(world: World) -> None:
    service = Service(world)
    pays, _ = payer(service, CircuitBreaker(1, reset=3600), retry=3)
    async with world.engine() as engine:
        handle = await engine.start(pays, "i")
        await world.advance(2)
        service.is_well = True
        async with Client(world.backend()) as client:
            await client.reset_circuit("pay")
            await world.until(lambda: world.told(facts.CircuitClosed))
        assert await handle.result() == "paid i"


async def test_a_reset_of_an_unknown_circuit_names_those_that_are_known(world: World) -> None:
    async with world.engine() as engine:
        with pytest.raises(UsageError, match=r"no circuit 'pya' in this store; .*: none at all"):
            await engine.reset_circuit("pya")
        await engine._backend.swap_circuit(Circuit("pay", failures=2, revision=1))
        with pytest.raises(UsageError, match="'pay'"):
            await engine.reset_circuit("pya")
        assert (await engine.reset_circuit("pay")).failures == 0


async def test_what_another_worker_wrote_meanwhile_is_taken_into_account(world: World) -> None:
    """This worker counts one failure, the other had counted two: together they are enough."""
    service = Service(world)
    pays, _ = payer(service, CircuitBreaker(3, reset=30), retry=1)
    async with world.engine() as engine:
        await engine.start(pays, "one")
        await world.settle()
        (mine,) = await engine._backend.circuits()
        assert mine.failures == 1
        async with Client(world.backend()) as other:
            assert await other._backend.swap_circuit(Circuit("pay", failures=2, revision=2)) is None
        await engine.start(pays, "two")
        await world.settle()
        await engine.start(pays, "three")
        await world.settle()
        assert (await the_circuit(world)).state is CircuitState.OPEN
        assert len(service.calls) == 2


async def test_a_write_whose_outcome_is_unknown_is_counted_once(world: World, faulty: Any) -> None:
    service = Service(world)
    pays, _ = payer(service, CircuitBreaker(2, reset=30), retry=1)
    real = faulty._real.swap_circuit
    faults = ["hide"]

    async def swap(circuit: Circuit) -> Circuit | None:
        answer: Circuit | None = await real(circuit)
        if faults:
            faults.pop()
            raise StorageError("planted")
        return answer

    faulty.swap_circuit = swap
    async with world.engine(faulty) as engine:
        await engine.start(pays, "one")
        await world.until(lambda: not faults and world.worker(engine).waits_for_attempts)
        assert (await the_circuit(world)).failures == 1


async def test_two_activities_can_share_a_circuit(world: World) -> None:
    service = Service(world)
    bank = CircuitBreaker(1, reset=30, name="bank")
    pays, _ = payer(service, bank, retry=1)

    @activity(circuit=bank)
    async def refund() -> str:
        return "refunded"

    @workflow
    def refunds(ctx: Context) -> Flow[str]:
        return (yield from ctx.call_activity(refund))

    async with world.engine() as engine:
        await engine.start(pays, "i")
        await world.settle()
        waits = await engine.start(refunds)
        await world.advance(29)
        assert not (await waits.status()).status.is_terminal
        await world.advance(1)
        assert await waits.result() == "refunded"


async def test_those_behind_a_circuit_do_not_hold_up_others(world: World) -> None:
    service = Service(world)
    pays, _ = payer(service, CircuitBreaker(1, reset=3600), retry=3)

    @activity
    async def other(n: int) -> int:
        return n

    @workflow
    def others(ctx: Context, n: int) -> Flow[int]:
        return (yield from ctx.call_activity(other, n))

    async with world.engine(activity_concurrency=1) as engine:
        for n in range(5):
            await engine.start(pays, f"i{n}")
        await world.settle()
        handles = [await engine.start(others, n) for n in range(5)]
        await world.settle()
        assert [await handle.result() for handle in handles] == list(range(5))


async def test_plain_functions_in_threads_have_circuits_too(world: World) -> None:
    calls: list[int] = []

    @activity(name="pay", circuit=CircuitBreaker(1, reset=30), retry=2)
    def pay() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError
        return "paid"

    @workflow(name="payer")
    def pays(ctx: Context) -> Flow[str]:
        return (yield from ctx.call_activity(pay))

    async with world.engine() as engine:
        handle = await engine.start(pays)
        await world.until(lambda: calls and not world.worker(engine).attempts.running)
        await world.advance(29)
        assert len(calls) == 1
        await world.advance(2)
        assert await handle.result() == "paid"
