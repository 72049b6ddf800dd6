"""Circuit breakers: when a service that keeps failing is tried, and when it is left alone. The caller owns the clock.

A circuit is closed while all is well. So many failures in a row open it: nobody tries. After a while it lets a
few probes through (half-open); when they succeed it closes, when one fails it opens again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, Literal, TypeAlias

import msgspec

from durableflow.errors import matches_type_name
from durableflow.model.duration import to_us
from durableflow.model.ids import check_name

WhenOpen: TypeAlias = Literal["wait", "fail"]

CIRCUIT_OPEN: Final = "CircuitOpen"
"""Type name of the failure of an activity that was not attempted, because its circuit is open."""


class _Threshold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    failures: int = 5


class CircuitBreaker(_Threshold, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When attempts of an activity are held back, because those before them failed.

    Attributes:
        failures: so many failed attempts in a row open the circuit.
        reset: how long it stays open before it lets probes through (seconds or timedelta).
        probes: how many attempts go through then; it closes when so many have succeeded.
        key: called with the arguments of the activity, says in a text which circuit counts: one for each shop,
            say. By default one for all calls.
        name: of the circuit, if several activities are to share it; by default the activity's.
        ignore: exception classes (or their names) that say nothing about the service, such as a refused card.
        when_open: attempts `"wait"` until the circuit lets them through, or the activity `"fail"`s at once.
    """

    reset: timedelta | float = 30.0
    probes: int = 1
    key: Callable[..., str] | None = None
    name: str | None = None
    ignore: Sequence[type[BaseException] | str] = ()
    when_open: WhenOpen = "wait"

    def __post_init__(self) -> None:
        if self.failures < 1:
            raise ValueError(f"failures is {self.failures!r}, but at least 1 failure must open a circuit")
        if self.probes < 1:
            raise ValueError(f"probes is {self.probes!r}, but without at least 1 a circuit would stay open for ever")
        if to_us(self.reset, "reset") < 1:
            raise ValueError(f"reset is {self.reset!r}, but an open circuit must stay so for a while: above 0")
        if self.key is not None and not callable(self.key):
            raise ValueError(f"key is {self.key!r}, but must be a function of the activity's arguments")
        if self.name is not None:
            check_name(self.name, "the name of a circuit")
        if self.when_open not in ("wait", "fail"):
            raise ValueError(f"when_open is {self.when_open!r}, but must be 'wait' or 'fail'")

    @property
    def reset_us(self) -> int:
        """`reset` in microseconds."""
        return to_us(self.reset, "reset")

    def ignores(self, type_names: Sequence[str]) -> bool:
        """Whether a failure by an exception of these types says nothing about the service.

        Args:
            type_names: qualified names of the exception's class and of its bases.
        """
        return any(matches_type_name(name, self.ignore) for name in type_names)

    def circuit_of(self, activity: str, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
        """The name of the circuit that counts for these arguments.

        Raises:
            Exception: whatever `key` raises, or that it gives no name.
        """
        name = self.name or activity
        return name if self.key is None else check_name(f"{name}/{self.key(*args, **kwargs)}", "the name of a circuit")


class CircuitState(StrEnum):
    """Where a circuit stands."""

    CLOSED = "closed"
    """Attempts go through."""
    OPEN = "open"
    """None does."""
    HALF_OPEN = "half-open"
    """Probes do, to find out."""


class CircuitMove(StrEnum):
    """What may move a circuit."""

    SUCCEED = "succeed"
    FAIL = "fail"
    PROBE = "probe"
    """An attempt is let through to find out; see `may_probe`."""
    PROBE_SUCCEED = "probe succeed"
    PROBE_FAIL = "probe fail"
    PROBE_GIVE_BACK = "probe give back"
    """The attempt that was let through was not made, or says nothing."""
    RESET = "reset"
    """Somebody knows that the service is well."""


class Circuit(msgspec.Struct, frozen=True):
    """Where a circuit stands, as stores hold it.

    Attributes:
        failures: in a row, while it is closed; those that opened it, after that.
        successes: of probes, since it last opened.
        probes_out: how many probes have no answer yet.
        opened_us: when it last opened; 0 for never. Tells the answers of probes apart: an older one counts nothing.
        probe_at_us: not before this moment does it let the first probe through, or another one in the place of
            those that gave no answer.
        revision: how often it has changed.
    """

    name: str
    state: CircuitState = CircuitState.CLOSED
    failures: int = 0
    successes: int = 0
    probes_out: int = 0
    opened_us: int = 0
    probe_at_us: int = 0
    revision: int = 0


class CircuitRule(msgspec.Struct, frozen=True):
    """What of a `CircuitBreaker` moves a circuit."""

    failures: int
    reset_us: int
    probes: int

    @classmethod
    def of(cls, breaker: CircuitBreaker) -> CircuitRule:
        """In microseconds."""
        return cls(breaker.failures, breaker.reset_us, breaker.probes)


def may_probe(circuit: Circuit, rule: CircuitRule, now_us: int) -> bool:
    """Whether an attempt may go through now although the circuit is not closed."""
    if circuit.state is CircuitState.HALF_OPEN and circuit.probes_out + circuit.successes < rule.probes:
        return True
    return circuit.state is not CircuitState.CLOSED and circuit.probe_at_us <= now_us


def moved(circuit: Circuit, rule: CircuitRule, move: CircuitMove, now_us: int) -> Circuit:
    """The circuit after `move`; the same object when that changes nothing. `revision` is left to who stores it."""
    return MOVES[circuit.state][move](circuit, rule, now_us)


def _stay(circuit: Circuit, _rule: CircuitRule, _now_us: int) -> Circuit:
    return circuit


def _forget(circuit: Circuit, _rule: CircuitRule, _now_us: int) -> Circuit:
    return msgspec.structs.replace(circuit, failures=0) if circuit.failures else circuit


def _count(circuit: Circuit, rule: CircuitRule, now_us: int) -> Circuit:
    counted = msgspec.structs.replace(circuit, failures=circuit.failures + 1)
    return _open(counted, rule, now_us) if counted.failures >= rule.failures else counted


def _open(circuit: Circuit, rule: CircuitRule, now_us: int) -> Circuit:
    return msgspec.structs.replace(
        circuit,
        state=CircuitState.OPEN,
        successes=0,
        probes_out=0,
        opened_us=max(now_us, circuit.opened_us + 1),
        probe_at_us=now_us + rule.reset_us,
    )


def _close(circuit: Circuit, _rule: CircuitRule, _now_us: int) -> Circuit:
    return Circuit(circuit.name, opened_us=circuit.opened_us, revision=circuit.revision)


def _let_through(circuit: Circuit, rule: CircuitRule, now_us: int) -> Circuit:
    if not may_probe(circuit, rule, now_us):
        return circuit
    lost = circuit.probes_out + circuit.successes >= rule.probes
    return msgspec.structs.replace(
        circuit,
        state=CircuitState.HALF_OPEN,
        probes_out=1 if lost else circuit.probes_out + 1,
        probe_at_us=now_us + rule.reset_us,
    )


def _prove(circuit: Circuit, rule: CircuitRule, now_us: int) -> Circuit:
    if circuit.successes + 1 >= rule.probes:
        return _close(circuit, rule, now_us)
    return msgspec.structs.replace(circuit, successes=circuit.successes + 1, probes_out=max(0, circuit.probes_out - 1))


def _take_back(circuit: Circuit, _rule: CircuitRule, _now_us: int) -> Circuit:
    return msgspec.structs.replace(circuit, probes_out=circuit.probes_out - 1) if circuit.probes_out else circuit


_Change: TypeAlias = Callable[[Circuit, CircuitRule, int], Circuit]

MOVES: Final[dict[CircuitState, dict[CircuitMove, _Change]]] = {
    CircuitState.CLOSED: {
        CircuitMove.SUCCEED: _forget,
        CircuitMove.FAIL: _count,
        CircuitMove.PROBE: _stay,
        CircuitMove.PROBE_SUCCEED: _forget,
        CircuitMove.PROBE_FAIL: _count,
        CircuitMove.PROBE_GIVE_BACK: _stay,
        CircuitMove.RESET: _forget,
    },
    # What began before it opened comes too late to say anything.
    CircuitState.OPEN: {
        CircuitMove.SUCCEED: _stay,
        CircuitMove.FAIL: _stay,
        CircuitMove.PROBE: _let_through,
        CircuitMove.PROBE_SUCCEED: _stay,
        CircuitMove.PROBE_FAIL: _stay,
        CircuitMove.PROBE_GIVE_BACK: _stay,
        CircuitMove.RESET: _close,
    },
    CircuitState.HALF_OPEN: {
        CircuitMove.SUCCEED: _stay,
        CircuitMove.FAIL: _stay,
        CircuitMove.PROBE: _let_through,
        CircuitMove.PROBE_SUCCEED: _prove,
        CircuitMove.PROBE_FAIL: _open,
        CircuitMove.PROBE_GIVE_BACK: _take_back,
        CircuitMove.RESET: _close,
    },
}
"""What each move does in each state; what is not answered there would be a mistake of ours, so all are."""

ANY_RULE: Final = CircuitRule(1, 1, 1)
"""For moves that no rule has a say in: `RESET`."""
