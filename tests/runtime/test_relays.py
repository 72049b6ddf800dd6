"""The relay: each message once, in order, and each answer once, whatever is cut off, lost, repeated or overtaken."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from durableflow.backends.base import Commit, Lease, NewInstance, Outgoing
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.relaying import RelayHold
from durableflow.backends.sqlite import SqliteBackend
from durableflow.errors import CommitOutcomeUnknown, LeaseLost, StorageError
from durableflow.model.status import Status
from durableflow.runtime.relays import Relay

SENDERS = ("a", "b")
RECEIVERS = {"x": "east", "y": "east", "z": "west", "nobody": "west"}
LEASE_US = 10**15


def instance(instance_id: str) -> NewInstance:
    return NewInstance(instance_id, "w", 1, Status.RUNNING, 0, None, {})


async def furnish(source: Any, targets: dict[str, Any]) -> Lease:
    lease = await source.acquire("worker", LEASE_US, 0)
    await source.commit(lease, Commit(new=[instance(each) for each in SENDERS]))
    for name, store in targets.items():
        held = await store.acquire("worker", LEASE_US, 0)
        ids = [each for each, shard in RECEIVERS.items() if shard == name and each != "nobody"]
        await store.commit(held, Commit(new=[instance(each) for each in ids]))
    return lease


def a_message(sender: str, to: str, number: int) -> Outgoing:
    said = f"{sender}>{to} {number}"
    return Outgoing(
        to, said.encode(), None, None, sender, {each: f"{said} {each}".encode() for each in ("delivered", "missing")}
    )


class Gate:
    """A store whose operations wait to be let through one by one, and some of whose answers are lost."""

    def __init__(self, real: Any, turns: asyncio.Semaphore, fates: list[str]) -> None:
        self._real = real
        self._turns = turns
        self._fates = fates

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)

        async def ask(*arguments: Any) -> Any:
            await self._turns.acquire()
            fate = self._fates.pop() if self._fates else "well"
            if fate == "refused":
                raise StorageError("planted")
            answer = await real(*arguments)
            if fate == "unknown":
                raise CommitOutcomeUnknown("planted")
            return answer

        return ask


class Runner:
    """A relay that goes on by single operations, until it is gone."""

    def __init__(self, source: Any, targets: dict[str, Any]) -> None:
        self.turns = asyncio.Semaphore(0)
        self.fates: list[str] = []
        gated = {name: Gate(store, self.turns, self.fates) for name, store in targets.items()}
        relay = Relay("home", Gate(source, self.turns, self.fates), gated, RECEIVERS.__getitem__)  # type: ignore[arg-type]
        self.task = asyncio.ensure_future(self._run(relay))

    async def _run(self, relay: Relay) -> None:
        while True:
            try:
                await relay.carry()
            except LeaseLost:
                return
            except StorageError:
                pass

    async def step(self, fate: str) -> None:
        self.fates[:] = [fate]
        self.turns.release()
        for _ in range(12):
            await asyncio.sleep(0)


class Relays(RuleBasedStateMachine):
    """Senders send; relays go on step by step, are cut off, and overtake each other."""

    def __init__(self) -> None:
        super().__init__()
        self.loops = asyncio.Runner()
        self.source = MemoryBackend()
        self.targets: dict[str, Any] = {"east": MemoryBackend(), "west": MemoryBackend()}
        self.lease = self.loops.run(furnish(self.source, self.targets))
        self.sent: Counter[tuple[str, str]] = Counter()
        self.runners: list[Runner] = []

    def teardown(self) -> None:
        try:
            self.loops.run(self._drain())
            for pair, count in self.sent.items():
                assert self.came(*pair) == ([] if pair[1] == "nobody" else list(range(count)))
                assert sorted(self.answers(*pair)) == list(range(count)), "each answer once"
            assert self.loops.run(self.source.read_outbox(0, 10)) == []
            for store in self.targets.values():
                assert list(self.loops.run(store.take_up_relay("home")).delivered) == []
        finally:
            for runner in self.runners:
                runner.task.cancel()
            self.loops.close()

    async def _drain(self) -> None:
        relay = Relay("home", self.source, self.targets, RECEIVERS.__getitem__)
        while await relay.carry():
            pass

    def came(self, sender: str, to: str) -> list[int]:
        """What the receiver was told by the sender, in its order."""
        messages = self.loops.run(self.targets[RECEIVERS[to]].inbox(0, 10_000))
        said = [message.data.decode().split() for message in messages if message.instance_id == to]
        return [int(number) for pair, number in said if pair == f"{sender}>{to}"]

    def answers(self, sender: str, to: str) -> list[int]:
        messages = self.loops.run(self.source.inbox(0, 10_000))
        said = [message.data.decode().split() for message in messages if message.instance_id == sender]
        wanted = "missing" if to == "nobody" else "delivered"
        found = [(int(number), outcome) for pair, number, outcome in said if pair == f"{sender}>{to}"]
        assert {outcome for _, outcome in found} <= {wanted}
        return [number for number, _ in found]

    @rule(sender=st.sampled_from(SENDERS), to=st.sampled_from(sorted(RECEIVERS)), count=st.integers(1, 3))
    def send(self, sender: str, to: str, count: int) -> None:
        first = self.sent[sender, to]
        messages = [a_message(sender, to, number) for number in range(first, first + count)]
        self.loops.run(self.source.commit(self.lease, Commit(outbox=messages)))
        self.sent[sender, to] += count

    @precondition(lambda self: len(self.runners) < 3)
    @rule()
    def begin(self) -> None:
        async def begin() -> None:
            self.runners.append(Runner(self.source, self.targets))

        self.loops.run(begin())

    @precondition(lambda self: self.runners)
    @rule(data=st.data(), fates=st.lists(st.sampled_from(["well", "well", "well", "refused", "unknown"]), min_size=1))
    def go_on(self, data: st.DataObject, fates: list[str]) -> None:
        runner = data.draw(st.sampled_from(self.runners))
        for fate in fates:
            self.loops.run(runner.step(fate))

    @precondition(lambda self: self.runners)
    @rule(data=st.data())
    def cut_off(self, data: st.DataObject) -> None:
        runner = self.runners.pop(data.draw(st.integers(0, len(self.runners) - 1)))

        async def cut() -> None:
            runner.task.cancel()
            await asyncio.wait([runner.task])

        self.loops.run(cut())

    @invariant()
    def what_came_is_what_was_sent_in_order_without_a_gap(self) -> None:
        for pair, count in self.sent.items():
            came = self.came(*pair)
            assert came == list(range(len(came)))
            assert len(came) <= count
            answered = self.answers(*pair)
            assert len(set(answered)) == len(answered)
            if pair[1] != "nobody":
                assert set(answered) <= set(came), "no answer before its message"


Relays.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestRelays = pytest.mark.slow(Relays.TestCase)


class Crash(Exception):
    """The relay is gone."""


class Fragile:
    """A store whose relay goes before or after its nth operation."""

    def __init__(self, real: Any, fuse: list[int]) -> None:
        self._real = real
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)

        async def ask(*arguments: Any) -> Any:
            self._fuse[0] -= 1
            if self._fuse[0] == 0:
                raise Crash
            answer = await real(*arguments)
            self._fuse[0] -= 1
            if self._fuse[0] == 0:
                raise Crash
            return answer

        return ask


@pytest.mark.slow
async def test_a_relay_that_is_cut_off_at_any_operation_is_followed_by_one_that_carries_the_rest(
    tmp_path: Path,
) -> None:
    source = SqliteBackend(tmp_path / "home.db", power_loss_safe=False)
    targets = {name: SqliteBackend(tmp_path / f"{name}.db", power_loss_safe=False) for name in ("east", "west")}
    for store in (source, *targets.values()):
        await store.open()
    lease = await furnish(source, targets)
    sent = 0
    for cut in range(1, 40):
        messages = [a_message(sender, to, sent) for sender in SENDERS for to in RECEIVERS]
        await source.commit(lease, Commit(outbox=messages))
        sent += 1
        fuse = [cut]
        fragile = {name: Fragile(store, fuse) for name, store in targets.items()}
        relay = Relay("home", Fragile(source, fuse), fragile, RECEIVERS.__getitem__)  # type: ignore[arg-type]
        try:
            while await relay.carry():
                pass
        except Crash:
            continue
        break
    assert cut > 15
    rest = Relay("home", source, targets, RECEIVERS.__getitem__)  # type: ignore[arg-type]
    while await rest.carry():
        pass
    for to, name in RECEIVERS.items():
        messages = [m.data.decode() for m in await targets[name].inbox(0, 10_000) if m.instance_id == to]
        for sender in SENDERS:
            mine = [said for said in messages if said.startswith(f"{sender}>")]
            assert mine == ([] if to == "nobody" else [f"{sender}>{to} {number}" for number in range(sent)])
    answers = [message.data for message in await source.inbox(0, 10_000)]
    assert len(answers) == len(set(answers)) == sent * len(SENDERS) * len(RECEIVERS)
    for store in (source, *targets.values()):
        await store.close()


async def test_a_target_that_is_away_holds_up_no_other_one() -> None:
    class Away(MemoryBackend):
        async def deliver(self, *_: Any) -> Any:
            raise StorageError("away")

    source, east, west = MemoryBackend(), Away(), MemoryBackend()
    lease = await furnish(source, {"east": east, "west": west})
    messages = [a_message("a", "x", number) for number in range(1_200)] + [a_message("a", "z", 0)]
    await source.commit(lease, Commit(outbox=messages))
    relay = Relay("home", source, {"east": east, "west": west}, RECEIVERS.__getitem__)
    with pytest.raises(StorageError, match="away"):
        await relay.carry()
    assert [message.data for message in await west.inbox(0, 10)] == [b"a>z 0"]
    assert await east.inbox(0, 10) == []
    assert len(await source.read_outbox(0, 2_000)) == 1_200


async def test_what_waits_for_a_target_that_was_away_for_a_moment_is_not_overtaken() -> None:
    class Once(MemoryBackend):
        is_away = True

        async def deliver(self, *arguments: Any) -> Any:
            if self.is_away:
                self.is_away = False
                raise StorageError("away")
            return await super().deliver(*arguments)

    source, east, west = MemoryBackend(), Once(), MemoryBackend()
    lease = await furnish(source, {"east": east, "west": west})
    await source.commit(lease, Commit(outbox=[a_message("a", "x", number) for number in range(1_200)]))
    relay = Relay("home", source, {"east": east, "west": west}, RECEIVERS.__getitem__)
    with pytest.raises(StorageError, match="away"):
        await relay.carry()
    await relay.carry()
    came = [message.data.decode() for message in await east.inbox(0, 2_000)]
    assert came == [f"a>x {number}" for number in range(1_200)]


async def test_a_relay_that_takes_up_remembers_what_the_one_before_delivered_meanwhile() -> None:
    class Slow(MemoryBackend):
        """Between a look into the outbox and the take-up, a message is sent and the relay before delivers it."""

        async def take_up_relay(self, source_name: str) -> Any:
            if self._relays.get("home") == 1:
                await source.commit(lease, Commit(outbox=[a_message("a", "x", 1)]))
                hold = RelayHold("home", 1)
                await self.deliver(hold, await source.read_outbox(0, 10))
            return await super().take_up_relay(source_name)

    source, east = MemoryBackend(), Slow()
    lease = await furnish(source, {"east": east})
    await source.commit(lease, Commit(outbox=[a_message("a", "x", 0)]))
    before = await east.take_up_relay("home")
    await east.deliver(before, await source.read_outbox(0, 10))
    relay = Relay("home", source, {"east": east}, RECEIVERS.__getitem__)
    await relay.carry()
    assert [message.data.decode() for message in await east.inbox(0, 10)] == ["a>x 0", "a>x 1"]
    assert list((await east.take_up_relay("home")).delivered) == []
