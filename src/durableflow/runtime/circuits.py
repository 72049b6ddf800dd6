"""Circuits of a worker: who may try now, and who waits until the service is well.

The store has the truth, which all workers share; here is what is known of it, so that asking costs nothing.
What an attempt has to say is applied here at once, and written soon: a change is decided on the circuit that is
in the store, and decided again when another worker was faster. Only a probe is not let through before its being
let through is durable, so that many workers do not send more of them than the breaker allows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from durableflow.authoring.activity import Activity
from durableflow.core.turn import PendingActivity
from durableflow.errors import EngineClosed, LeaseLost
from durableflow.model.circuit import ANY_RULE, Circuit, CircuitMove, CircuitRule, CircuitState, may_probe, moved
from durableflow.model.duration import to_datetime
from durableflow.observe import facts
from durableflow.runtime.alarms import Alarm
from durableflow.runtime.means import Means

if TYPE_CHECKING:
    from durableflow.runtime.attempt import Request

_LOOK_S: Final = 5.0
_PAUSE_S: Final = 0.1
_ANSWERS: Final = {CircuitMove.PROBE_SUCCEED: CircuitMove.SUCCEED, CircuitMove.PROBE_FAIL: CircuitMove.FAIL}


class _Said(NamedTuple):
    """A move that is not in the store yet; `opened_us` tells for which opening a probe was let through."""

    move: CircuitMove
    at_us: int
    opened_us: int | None = None


class _Known:
    """What is known of one circuit, and who waits for it."""

    __slots__ = ("alarm", "claims", "pending", "room", "rule", "seen", "stored", "writing")

    def __init__(self, stored: Circuit) -> None:
        self.stored = stored
        self.seen = stored
        """`stored` after what is `pending`."""
        self.rule = ANY_RULE
        self.pending: list[_Said] = []
        self.claims = 0
        """How many of those ask for a probe."""
        self.writing = False
        self.room: deque[Request] = deque()
        self.alarm: Alarm | None = None

    @property
    def is_as_new(self) -> bool:
        """True when there is nothing worth knowing."""
        return self.seen.state is CircuitState.CLOSED and not (
            self.seen.failures or self.pending or self.room or self.writing
        )


class Circuits:
    """Holds back attempts of activities whose circuit is not closed.

    Attributes:
        admit: called with a request that need not wait for its circuit any more.
        refuse: called with a request that is not to wait, and why.
    """

    def __init__(self, means: Means) -> None:
        self._means = means
        self.admit: Callable[[Request], None] = _nobody
        self.refuse: Callable[[Request, str], None] = _nobody
        self._circuits: dict[str, _Known] = {}
        self._names: dict[tuple[str, int], str] = {}
        self._broken_keys: dict[tuple[str, int], Exception] = {}
        self._tickets: dict[tuple[str, int], tuple[str, int]] = {}
        """Attempts that are let through as probes: of which circuit, and of which opening."""
        self._unknown: list[Request] = []
        """Who asked before the store was read for the first time."""
        self._is_read = False
        self._used = asyncio.Event()

    # -- asking ---------------------------------------------------------------------------------------------

    def admits(self, owner_id: str, activity: PendingActivity, definition: Activity[..., Any]) -> bool:
        """Whether the next attempt may be made now, as far as its circuit is concerned."""
        name = self._name_of(owner_id, activity, definition)
        if name is None:
            return True
        if not self._is_read:
            self._begin_to_read()
            return False
        known = self._circuits.get(name)
        return known is None or known.seen.state is CircuitState.CLOSED or (owner_id, activity.task) in self._tickets

    def broken_key(self, owner_id: str, task: int) -> Exception | None:
        """What the breaker's `key` raised for this attempt, which cannot be made."""
        return self._broken_keys.pop((owner_id, task), None)

    def hold(self, request: Request) -> None:
        """Have a request that is not admitted wait; it is admitted later, or refused."""
        if not self._is_read:
            self._unknown.append(request)
            return
        name = self._name_of(request.owner.id, request.activity, request.definition)
        assert name is not None, "what has no circuit is admitted"
        known = self._known(name, request.definition)
        known.room.append(request)
        self._serve(known)

    def _name_of(self, owner_id: str, activity: PendingActivity, definition: Activity[..., Any]) -> str | None:
        """The circuit that counts for this activity; None when it cannot be told."""
        breaker = definition.circuit
        assert breaker is not None
        if breaker.key is None:
            return breaker.name or definition.name
        place = (owner_id, activity.task)
        name = self._names.get(place)
        if name is None:
            try:
                args, kwargs = definition.arguments.load(activity.input)
                name = breaker.circuit_of(definition.name, args, dict(kwargs))
            except Exception as error:  # it is the user's code
                self._broken_keys[place] = error
                return None
            self._names[place] = name
        return name

    def _known(self, name: str, definition: Activity[..., Any]) -> _Known:
        known = self._circuits.get(name)
        if known is None:
            known = self._circuits[name] = _Known(Circuit(name))
        if known.rule is ANY_RULE:
            assert definition.circuit is not None
            known.rule = CircuitRule.of(definition.circuit)
        return known

    # -- what attempts have to say --------------------------------------------------------------------------

    def succeeded(self, owner_id: str, activity: PendingActivity, definition: Activity[..., Any]) -> None:
        """An attempt has a result."""
        self._answer(owner_id, activity, definition, CircuitMove.SUCCEED, CircuitMove.PROBE_SUCCEED)

    def failed(
        self,
        owner_id: str,
        activity: PendingActivity,
        definition: Activity[..., Any],
        type_names: tuple[str, ...],
    ) -> None:
        """An attempt failed by an exception of these types."""
        breaker = definition.circuit
        if breaker is None or (breaker.ignore and breaker.ignores(type_names)):
            self.give_back(owner_id, activity.task)
        else:
            self._answer(owner_id, activity, definition, CircuitMove.FAIL, CircuitMove.PROBE_FAIL)

    def give_back(self, owner_id: str, task: int) -> None:
        """An attempt was not made, or says nothing of the service; if it was a probe, another may be."""
        place = (owner_id, task)
        self._names.pop(place, None)
        self._broken_keys.pop(place, None)
        name, opened_us = self._tickets.pop(place, (None, 0))
        if name is not None and name in self._circuits:
            self._say(self._circuits[name], CircuitMove.PROBE_GIVE_BACK, opened_us)

    def _answer(
        self,
        owner_id: str,
        activity: PendingActivity,
        definition: Activity[..., Any],
        move: CircuitMove,
        of_probe: CircuitMove,
    ) -> None:
        place = (owner_id, activity.task)
        ticket = self._tickets.pop(place, None)
        name = self._name_of(owner_id, activity, definition) if ticket is None else ticket[0]
        if name is None or not self._is_read:
            return
        if move is CircuitMove.SUCCEED and name not in self._circuits:
            return  # as nearly always: it is closed, and nothing failed
        known = self._known(name, definition)
        self._say(known, move if ticket is None else of_probe, None if ticket is None else ticket[1])

    def _say(self, known: _Known, move: CircuitMove, opened_us: int | None = None) -> None:
        said = _Said(move, self._means.clock.now_us(), opened_us)
        seen = _after(known.seen, known.rule, said)
        if seen is not known.seen:
            known.seen = seen
            known.pending.append(said)
            self._write_soon(known)
        self._serve(known)

    # -- letting through ------------------------------------------------------------------------------------

    def _serve(self, known: _Known) -> None:
        """Let those go who need not wait; see to it that one of the others is let through in time."""
        room = known.room
        while room and not room[0].is_waiting:
            room.popleft()
        if known.alarm is not None:
            known.alarm.cancel()
            known.alarm = None
        if known.seen.state is CircuitState.CLOSED:
            waiting, known.room = list(room), deque()
            for request in waiting:
                if request.is_waiting:
                    self.admit(request)
            self._forget_if_new(known)
        elif room and not known.claims:
            now_us = self._means.clock.now_us()
            if may_probe(known.seen, known.rule, now_us):
                known.claims = min(len(room), known.rule.probes)
                known.pending += [_Said(CircuitMove.PROBE, now_us)] * known.claims
                self._write_soon(known)
            else:
                self._refuse_impatient(known)
                if known.room:
                    known.alarm = self._means.alarms.at(known.seen.probe_at_us, partial(self._serve, known))

    def _refuse_impatient(self, known: _Known) -> None:
        waiting, known.room = known.room, deque()
        text = (
            f"circuit {known.seen.name!r} is {known.seen.state.value} after {known.seen.failures} failures in a row, "
            f"the last at {to_datetime(known.seen.opened_us):%Y-%m-%d %H:%M:%S} UTC"
        )
        for request in waiting:
            assert request.definition.circuit is not None
            if request.definition.circuit.when_open == "wait":
                known.room.append(request)
            elif request.is_waiting:
                self.refuse(request, text)

    def _let_probes_through(self, known: _Known, granted: int) -> None:
        opened_us = known.stored.opened_us
        while granted and known.room:
            request = known.room.popleft()
            if request.is_waiting:
                granted -= 1
                self._tickets[request.owner.id, request.activity.task] = (known.stored.name, opened_us)
                self.admit(request)
        for _ in range(granted):  # nobody waits any more
            self._say(known, CircuitMove.PROBE_GIVE_BACK, opened_us)

    def _forget_if_new(self, known: _Known) -> None:
        if known.is_as_new and self._circuits.get(known.seen.name) is known:
            del self._circuits[known.seen.name]

    # -- the store ------------------------------------------------------------------------------------------

    def _write_soon(self, known: _Known) -> None:
        if not known.writing:
            known.writing = True
            self._means.in_background(self._write(known))

    async def _write(self, known: _Known) -> None:
        """Write what is pending, as one change."""
        try:
            while known.pending:
                taken = list(known.pending)
                wanted, granted = _fold(known.stored, known.rule, taken)
                if wanted is not known.stored:
                    wanted = msgspec.structs.replace(wanted, revision=known.stored.revision + 1)
                    other = await self._swap(wanted)
                    if other is not None:
                        self._learn(known, other)
                        continue
                del known.pending[: len(taken)]
                self._learn(known, wanted)
                if any(said.move is CircuitMove.PROBE for said in taken):
                    known.claims = 0
                    self._let_probes_through(known, granted)
        except (EngineClosed, LeaseLost):
            return  # what was not written is forgotten with this worker
        finally:
            known.writing = False
        self._serve(known)

    async def _swap(self, wanted: Circuit) -> Circuit | None:
        """Write it, however long that takes; the one that is there when somebody else was faster."""
        tries = 0

        async def swap() -> Circuit | None:
            nonlocal tries
            tries += 1
            return await self._means.home.swap_circuit(wanted)

        other = await self._means.patiently(swap)
        return None if tries > 1 and other == wanted else other  # an earlier try was written after all

    def _learn(self, known: _Known, stored: Circuit) -> None:
        """This is in the store now."""
        before, known.stored = known.stored, stored
        known.seen, _ = _fold(
            stored, known.rule, [said for said in known.pending if said.move is not CircuitMove.PROBE]
        )
        if stored.state is CircuitState.OPEN and stored.opened_us != before.opened_us:
            self._means.tell(facts.CircuitOpened(stored.name, stored.failures))
        elif stored.state is CircuitState.CLOSED and before.state is not CircuitState.CLOSED:
            self._means.tell(facts.CircuitClosed(stored.name))

    def _begin_to_read(self) -> None:
        if not self._used.is_set():
            self._used.set()
            self._means.in_background(self._read_first())

    async def _read_first(self) -> None:
        try:
            circuits = await self._means.patiently(self._means.home.circuits)
        except (EngineClosed, LeaseLost):
            return
        for circuit in circuits:
            known = _Known(circuit)
            if not known.is_as_new:
                self._circuits[circuit.name] = known
        self._is_read = True
        waiting, self._unknown = self._unknown, []
        for request in waiting:
            if request.is_waiting:
                self.admit(request)

    async def look(self) -> None:
        """Learn what others have written."""
        if not self._is_read:
            return
        for circuit in await self._means.patiently(self._means.home.circuits):
            known = self._circuits.get(circuit.name)
            if known is None:
                known = _Known(Circuit(circuit.name))
                if circuit.state is CircuitState.CLOSED:
                    continue
                self._circuits[circuit.name] = known
            if not known.writing and circuit.revision > known.stored.revision:
                self._learn(known, circuit)
                self._serve(known)

    async def run(self) -> None:
        """Look for what others write, for ever; from the first attempt on that has a circuit."""
        await self._used.wait()
        hint = partial(self._means.home.wait_for_change, _LOOK_S)
        while True:
            change = asyncio.ensure_future(self._means.patiently(hint))
            try:
                await asyncio.sleep(0)  # it waits: what is written from here on is not missed
                await self.look()
                await change
            finally:
                change.cancel()
            await asyncio.sleep(_PAUSE_S)

    def open_names(self) -> list[str]:
        """Circuits that are known here to hold attempts back."""
        return [name for name, known in self._circuits.items() if known.seen.state is not CircuitState.CLOSED]

    def clear(self) -> None:
        """Forget who waits."""
        for known in self._circuits.values():
            known.room.clear()
        self._unknown.clear()
        self._tickets.clear()


def _after(circuit: Circuit, rule: CircuitRule, said: _Said) -> Circuit:
    move = said.move
    if said.opened_us is not None and said.opened_us != circuit.opened_us:
        if move not in _ANSWERS:
            return circuit
        move = _ANSWERS[move]  # of a probe whose opening is over: an attempt like others
    return moved(circuit, rule, move, said.at_us)


def _fold(circuit: Circuit, rule: CircuitRule, all_said: list[_Said]) -> tuple[Circuit, int]:
    """The circuit after all that was said, and how many probes it lets through."""
    granted = 0
    before = circuit
    for said in all_said:
        after = _after(circuit, rule, said)
        granted += said.move is CircuitMove.PROBE and after is not circuit
        circuit = after
    return (before, granted) if circuit == before else (circuit, granted)


def _nobody(*_: object) -> None:
    raise AssertionError("nobody runs attempts here")
