"""How a checker of a universe that is over is made: a function that yields objections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from durableflow.testing.simulation.invariants import Ack, Invariant

if TYPE_CHECKING:
    from durableflow.testing.simulation.universe import Universe

Verdict: TypeAlias = Callable[["Universe"], "Iterator[str]"]


def entering(into: list[Invariant]) -> Callable[[str], Callable[[Verdict], Verdict]]:
    """A decorator that enters checkers into this list, each with the number of its promise."""

    def verdict(number: str) -> Callable[[Verdict], Verdict]:
        def enter(check: Verdict) -> Verdict:
            def first(universe: Universe) -> str | None:
                return next(check(universe), None)

            into.append(Invariant(number, check.__name__, "end", first))
            first.__doc__ = check.__doc__
            return check

        return enter

    return verdict


def acks(universe: Universe, *kinds: str) -> Iterator[Ack]:
    """What was told to those who had said something of these kinds."""
    return (ack for ack in universe.speakers.acks if ack.kind in kinds)
