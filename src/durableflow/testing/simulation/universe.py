"""One universe: a plan is carried out, and judged."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import Any, Final

import msgspec

from durableflow.backends.base import Backend, InstanceRecord, Query, ScheduleRow
from durableflow.errors import DurableflowError, InstanceNotActive
from durableflow.model import events as ev
from durableflow.model.status import Status
from durableflow.runtime.settings import Settings
from durableflow.testing.simulation.activities import ON_THE_LOOP
from durableflow.testing.simulation.checks import Checks
from durableflow.testing.simulation.circuit_book import CircuitBook
from durableflow.testing.simulation.clocks import DriftingClock
from durableflow.testing.simulation.couriers import Couriers
from durableflow.testing.simulation.invariants import Ack, Violation
from durableflow.testing.simulation.ledger import Ledger, LedgerAttempt, open_ledger
from durableflow.testing.simulation.loop import Process, SimulatedLoop
from durableflow.testing.simulation.network import Applied, Network, finish
from durableflow.testing.simulation.nodes import NoAnswer, Node
from durableflow.testing.simulation.onlookers import Onlookers
from durableflow.testing.simulation.plan import Blow, Plan, Spoken
from durableflow.testing.simulation.poison import POISON
from durableflow.testing.simulation.shadow import Shadow
from durableflow.testing.simulation.shadow_instance import ShadowInstance
from durableflow.testing.simulation.speakers import Speakers
from durableflow.testing.simulation.weather import Weather

_HEAL_ROUNDS: Final = 16
_EVENTS_ROUNDS: Final = 9
_MENDING_ROUNDS: Final = 2
"""So often each instance gets all that it may wait for; what waits then does so for itself, and is terminated."""
_OVERDUE_US: Final = 20_000_000
_LATE_US: Final = 6_000_000
"""So late may a timer fire that nothing keeps: what owned its instance may have to be declared dead first."""
_HEAL_ROUND_S: Final = 8.0
_SETTLE_S: Final = 12.0
_LOOK_S: Final = 1.0
_STORM_MAX_S: Final = 2_000.0
"""Longer than those who speak insist on an answer, and than any process takes to close."""
_CALLS_IDLE: Final = 20
"""So many calls a second a process makes at the most that has nothing to do."""
_EVENTS_CLOSING: Final = ("a", "b")


class Outcome(msgspec.Struct):
    """What came of a universe.

    Attributes:
        violation: the name of the invariant that does not hold; None when all do.
        story: what was wrong.
        trace: a digest of all that happened, in order: two runs of one plan have the same.
        checks: how often each invariant was checked.
        faults: how many there were of each kind.
        fallen: the numbers of the faults of the network.
        virtual_s: how long it lasted, by its own time.
    """

    violation: str | None = None
    story: str = ""
    trace: str = ""
    instances: int = 0
    attempts: int = 0
    commits: int = 0
    calls: int = 0
    acks: int = 0
    virtual_s: float = 0.0
    checks: dict[str, int] = {}
    faults: dict[str, int] = {}
    fallen: list[int] = []
    statuses: dict[str, int] = {}


class Universe:
    """A store, processes and speakers, in one thread and one seed.

    Args:
        store: the real one, new and empty.
        keeps_trace: whether `events` has all that happened, to be read, and not only its digest.
    """

    def __init__(self, plan: Plan, store: Backend, loop: SimulatedLoop, *, keeps_trace: bool = False) -> None:
        self.plan = plan
        self.store = store
        self.loop = loop
        self.events: list[str] = []
        self._keeps_trace = keeps_trace
        self._digest = hashlib.blake2b(digest_size=16)
        self.made: Counter[str] = Counter()
        self.blows: Counter[str] = Counter()
        self.weather = Weather(plan.climate, str(plan.seed), plan.only)
        self.checks = Checks(self.made, store)
        self.ledger = self.checks.ledger = Ledger(
            str(plan.seed), self._note_attempt, self._note_hand_over, self._clock_us
        )
        self.shadow = self.checks.shadow = Shadow(self.checks, self._clock_us, is_fleet=store.is_fleet)
        self.circuits = CircuitBook(self.checks, self.ledger, self._clock_us)
        self.network = Network(store, loop, self.weather, self._note, self.trace)
        self.nodes: list[Node] = []
        self.asker: Node
        self.speakers: Speakers
        self.couriers: Couriers
        self.onlookers: Onlookers
        self._graves: list[Node] = []
        self._node_numbers = 0
        self._objection: Violation | None = None
        self._is_over = False
        loop.set_exception_handler(self._note_stray)
        self._luck = random.Random(f"{plan.seed} luck")  # noqa: S311  # repeatable on purpose
        self._settings = Settings(**plan.settings)

    def trace(self, *what: object) -> None:
        """Note what has happened."""
        line = f"{self.loop.now_us} {' '.join(map(str, what))}"
        self._digest.update(line.encode())
        if self._keeps_trace:
            self.events.append(line)

    def _note(self, applied: Applied) -> None:
        try:
            self.shadow.note(applied)
            self.circuits.note(applied)
        except Violation as violation:
            self.object_to(violation)
        if applied.method == "commit":
            for row in applied.args[1].rows:
                self._digest.update(row.events)

    def _note_attempt(self, attempt: LedgerAttempt) -> None:
        """User code begins, which must not be told what is thought of it."""
        try:
            self.checks.on_attempt(attempt)
            self.circuits.note_attempt(self.shadow.instances.get(attempt.instance_id), attempt)
        except Violation as violation:
            self.object_to(violation)

    def _note_hand_over(self, attempt: LedgerAttempt, token: str) -> None:
        self.couriers.take(attempt, token)

    def _received(self) -> set[bytes]:
        rows = (row for instance in self.shadow.everybody() for _, _, row in instance.rows)
        return {event.payload for row in rows for event in row if isinstance(event, ev.EventReceived)}

    def _note_ack(self, ack: Ack) -> None:
        self.trace("ack", ack.kind, ack.instance_id, ack.outcome, ack.tries)
        try:
            self.checks.on_ack(ack)
        except Violation as violation:
            self.object_to(violation)

    def _note_stray(self, _: object, context: dict[str, Any]) -> None:
        """An exception that nobody has caught."""
        if not self._is_over:
            self.object_to(Violation("no_exception_goes_astray", f"{context['message']}: {context.get('exception')!r}"))

    def object_to(self, violation: Violation) -> None:
        """The first objection counts."""
        self._objection = self._objection or violation

    def _clock_us(self, process: Process) -> int:
        assert isinstance(process, Node)
        return process.clock.now_us()

    # -- its course -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Let it happen.

        Raises:
            Violation: an invariant does not hold.
        """
        open_ledger(self.ledger)
        try:
            await self._live()
            await self._heal()
        except Violation as violation:
            self.object_to(violation)
        finally:
            await self._bury()
        if self._objection is not None:
            raise self._objection

    async def _live(self) -> None:
        plan = self.plan
        self.nodes += [self._new_node(number) for number in range(len(plan.rates))]
        self.asker = self._new_process("asker", 1.0)
        self.asker.boot(None)
        for node in self.nodes:
            node.boot(self._settings)
        self.speakers = Speakers(str(plan.seed), self.nodes, self.asker, self._note_ack, is_fleet=self.store.is_fleet)
        self.couriers = Couriers(str(plan.seed), self.nodes, self.asker)
        self.onlookers = Onlookers(str(plan.seed), self.nodes, self._received)
        by_speaker: dict[int, list[Spoken]] = {}
        for said in plan.spoken:
            by_speaker.setdefault(said.by, []).append(said)
        speaking = [asyncio.create_task(self.speakers.start(birth)) for birth in plan.births]
        speaking += [asyncio.create_task(self.speakers.speak(each)) for each in by_speaker.values()]
        speaking += [asyncio.create_task(self.onlookers.watch(birth, plan.lasts_s)) for birth in plan.births]
        speaking += [asyncio.create_task(self.speakers.schedule(each)) for each in plan.schedules]
        speaking += [asyncio.create_task(self.speakers.poison(number)) for number in range(plan.poison)]
        blows = [asyncio.create_task(self._befall(blow)) for blow in plan.blows]
        while any(not task.done() for task in (*speaking, *blows)) or self.loop.time() < plan.lasts_s:
            await asyncio.sleep(_LOOK_S)
            self._look_after()
            if self.loop.time() > _STORM_MAX_S:
                raise Violation("all_that_was_begun_ends", f"after {self.loop.time():.0f} s, some speak or close still")
            failed = next((t for t in speaking if t.done() and t.exception() is not None), None)
            if failed is not None:
                failed.result()
        for task in (*speaking, *blows):
            task.result()

    def _look_after(self) -> None:
        if self._objection is not None:
            raise self._objection
        for task in self.couriers.tasks:
            if task.done():
                task.result()
        for node in self.nodes:
            failure = node.failure()
            if failure is not None:
                raise Violation("no_engine_dies_of_itself", f"{node.name}: {failure!r}") from failure
        for instance in self.shadow.instances.values():
            if instance.status == "STALLED" and instance.birth.workflow != POISON.name:
                raise Violation("no_instance_stalls", f"{instance.id}: {self._stall_reason(instance.id)}")

    def _stall_reason(self, instance_id: str) -> str | None:
        record: InstanceRecord | None = finish(self.store.record(instance_id))
        return None if record is None else record.stall_reason

    def _new_node(self, number: int) -> Node:
        self._node_numbers += 1
        return self._new_process(f"node {number}.{self._node_numbers}", self.plan.rates[number])

    def _new_process(self, name: str, rate: float) -> Node:
        clock = DriftingClock(self.loop, f"{self.plan.seed} clock of {name}", rate)
        return Node(name, self.network, clock)

    async def _befall(self, blow: Blow) -> None:
        await asyncio.sleep(blow.at_s)
        node = self.nodes[blow.process % len(self.nodes)]
        if node.gone.done() or not node.is_running:
            return
        self.blows[blow.kind] += 1
        self.trace(blow.kind, node.name, blow.seconds)
        if blow.kind == "jump":
            node.clock.jump(round(blow.seconds * 1_000_000))
        elif blow.kind == "freeze":
            node.freeze()
            await asyncio.sleep(blow.seconds)
            if not node.gone.done():
                node.thaw()
        else:
            if blow.kind == "kill":
                node.kill()
            else:
                await node.close()
            await asyncio.sleep(blow.seconds)
            self._replace(node)

    def _replace(self, node: Node) -> None:
        if node not in self.nodes:
            return  # it was killed while it was being closed
        self._graves.append(node)
        number = self.nodes.index(node)
        self.nodes[number] = self._new_node(number)
        self.nodes[number].boot(self._settings)

    # -- its end --------------------------------------------------------------------------------------------

    async def _heal(self) -> None:
        """Nothing goes wrong any more: all that was begun must end."""
        self.trace("clears up")
        self.weather.clear_up()
        for number in range(self.plan.poison):
            await self._terminate(f"poison {number}")
        for rounds in range(_HEAL_ROUNDS):
            await asyncio.sleep(_HEAL_ROUND_S if rounds else _SETTLE_S)
            self._look_after()
            if not rounds:
                self._check_that_timers_have_fired()
            await self._mend(rounds)
            active = [each for each in self.records() if not each.status.is_terminal]
            if not active and all(row.due_us is None for row in self.schedules()):
                break
            for record in active:
                await self._urge(record.id, rounds)
                if rounds >= _EVENTS_ROUNDS:
                    self._check_that_it_only_waits(record.id)
                    await self._terminate(record.id)
        else:
            told = ", ".join(f"{each.id} is {each.status}" for each in self.records() if not each.status.is_terminal)
            raise Violation("all_that_was_begun_ends", f"after {self.loop.time():.0f} s, {told}")
        self.made["all_that_was_begun_ends"] += 1
        before = self.network.calls
        await asyncio.sleep(_SETTLE_S)
        self._look_after()
        asked = self.network.calls - before
        if asked > _SETTLE_S * _CALLS_IDLE * (len(self.nodes) + 1):
            raise Violation("an_idle_fleet_asks_little", f"{asked} calls in {_SETTLE_S:g} s, though all is over")
        self.made["an_idle_fleet_asks_little"] += 1

    async def _mend(self, rounds: int) -> None:
        """Somebody lets go on what has failed: each once, half of them now and the others in the next round."""
        failed = [each.id for each in self.records() if each.status is Status.FAILED]
        for instance_id in failed:
            if (
                rounds < _MENDING_ROUNDS
                and not self.shadow.instances[instance_id].rewinds
                and self._luck.random() < 0.5
            ):
                with suppress(DurableflowError):  # its child has failed otherwise, or it was rewound with its parent
                    await self.asker.ask(partial(_rewind, instance_id))

    def _check_that_timers_have_fired(self) -> None:
        """Before anybody says anything to their instances, which would bring them in."""
        if self.blows["jump"]:
            return  # whoever sleeps hears of a jump only after a while
        now_us = min(node.clock.now_us() for node in self.nodes)
        for instance in self.shadow.instances.values():
            overdue = instance.overdue(now_us - _LATE_US)
            if overdue:
                raise Violation("what_is_due_happens", f"{instance.id}: {overdue}, and nothing goes wrong any more")
            self.made["what_is_due_happens"] += 1

    def _check_that_it_only_waits(self, instance_id: str) -> None:
        """What has been given all that comes from outside, and goes on waiting, must have nothing open."""
        instance = self.shadow.instances[instance_id]
        process = self.shadow.process_of(instance) or self.asker  # whose clock may be far behind that of the others
        before_us = min(self._clock_us(process), self._clock_us(self.asker)) - _OVERDUE_US
        known = self.shadow.instances.values()
        over = {each.id for each in known if each.end is not None and each.last_us < before_us}
        open_ = instance.what_is_open(before_us, over, has_places=self._has_places(instance))
        if open_:
            raise Violation("what_is_due_happens", f"{instance_id} has waited for {self.loop.time():.0f} s: {open_}")
        self.made["what_is_due_happens"] += 1

    def _has_places(self, instance: ShadowInstance) -> bool:
        """Whether the worker that runs it had a place for another attempt: who waits in line is served in turn."""
        process, places = self.shadow.process_of(instance), self._settings.activity_concurrency
        since_us = self.loop.now_us - _OVERDUE_US
        return process is None or self.ledger.had_room(process, ON_THE_LOOP, places, since_us)

    async def _terminate(self, instance_id: str) -> None:
        with suppress(InstanceNotActive):
            await self.asker.ask(lambda client: client.terminate(instance_id))

    async def _urge(self, instance_id: str, rounds: int) -> None:
        """Give an instance all that it may wait for."""
        try:
            await self.asker.ask(lambda client: client.resume(instance_id))
            for name in _EVENTS_CLOSING:
                event_id = f"closing {name} {rounds}"
                await self.asker.ask(partial(_raise_event, instance_id, name, event_id))
        except NoAnswer as error:
            raise Violation("whoever_asks_is_answered", f"{error}, though nothing goes wrong") from error
        except Exception as error:  # it is over meanwhile
            self.trace("urged", instance_id, type(error).__name__)

    def records(self) -> list[InstanceRecord]:
        """All instances of the store."""
        return finish(self.store.list_records(Query(limit=100_000)))

    def schedules(self) -> list[ScheduleRow]:
        """All schedules of the store."""
        return finish(self.store.list_schedules("", 1_000))

    async def _bury(self) -> None:
        self._is_over = True
        for node in (*self._graves, *self.nodes, self.asker):
            node.cut()
        for node in (*self._graves, *self.nodes, self.asker):
            await node.bury()
        me = asyncio.current_task()
        left = [task for task in asyncio.all_tasks() if task is not me]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=60)

    def outcome(self) -> Outcome:
        """What came of it so far."""
        return Outcome(
            trace=self._digest.hexdigest(),
            instances=len(self.shadow.instances),
            attempts=len(self.ledger.attempts),
            commits=self.shadow.commits,
            calls=self.network.calls,
            acks=len(self.speakers.acks),
            virtual_s=self.loop.time(),
            checks=dict(self.made),
            faults={**{str(k): n for k, n in self.weather.faults.items()}, **self.blows},
            fallen=self.weather.fallen,
            statuses=dict(Counter(str(each.status) for each in self.shadow.instances.values())),
        )


async def _rewind(instance_id: str, client: Any) -> None:
    await client.rewind(instance_id, force=True)


async def _raise_event(instance_id: str, name: str, event_id: str, client: Any) -> None:
    await client.raise_event(instance_id, name, event_id, event_id=event_id)
