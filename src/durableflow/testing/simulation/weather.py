"""What befalls the calls between processes and their store, by seed: how long they take, and what goes wrong."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec


class Fault(StrEnum):
    """What goes wrong with a call."""

    REFUSED = "refused"
    """Nothing is written, and the caller is told so."""
    LOST = "lost"
    """Nothing is written, and the caller does not know."""
    HIDDEN = "hidden"
    """It is written, and the caller does not know."""
    SLOW_THERE = "slow there"
    """It comes to the store late."""
    SLOW_BACK = "slow back"
    """It is written, and the caller is told late."""
    LATE = "late"
    """It draws the numbers of its messages, and commits later: others commit first that have higher ones."""


class Climate(msgspec.Struct, frozen=True):
    """How likely each fault is, for each call that writes; calls that only read are refused half as often.

    Attributes:
        hints_lost: how many of the hints that something was written come to nobody.
        quick_us: calls take up to so long, each way.
        slow_us: slow ones up to so long.
        late: as the faults; its transactions are open for up to half of `slow_us`.
    """

    refused: float = 0.0
    lost: float = 0.0
    hidden: float = 0.0
    slow: float = 0.0
    hints_lost: float = 0.0
    quick_us: int = 3_000
    slow_us: int = 4_000_000
    late: float = 0.0


CALM: Final = Climate()


class Fate(NamedTuple):
    """What befalls one call; `open_us` is how long its transaction takes."""

    there_us: int
    back_us: int
    fault: Fault | None
    open_us: int = 0


class Weather:
    """Deals out fates, each call the same number of dice.

    Args:
        only: numbers of the faults that are to happen, counted as they fall; None for all.

    Attributes:
        faults: how many there were, by kind.
        fallen: the numbers of those that happened.
    """

    def __init__(self, climate: Climate, seed: str, only: Collection[int] | None = None) -> None:
        self._climate = climate
        self._dice = random.Random(f"{seed} weather")  # noqa: S311  # repeatable on purpose
        self._only = None if only is None else frozenset(only)
        self._last_number = 0
        self.faults: Counter[Fault] = Counter()
        self.fallen: list[int] = []

    def clear_up(self) -> None:
        """Nothing goes wrong from here on."""
        self._climate = msgspec.structs.replace(CALM, quick_us=self._climate.quick_us)

    def fate(self, *, writes: bool) -> Fate:
        """What befalls the next call."""
        climate, dice = self._climate, self._dice
        kind, there, back = dice.random(), dice.random(), dice.random()
        fault = self._fault(kind, writes=writes)
        there_us, back_us = int(there * climate.quick_us), int(back * climate.quick_us)
        if fault is Fault.SLOW_THERE:
            there_us = int(there * climate.slow_us)
        elif fault is Fault.SLOW_BACK:
            back_us = int(back * climate.slow_us)
        open_us = int(back * climate.slow_us / 2) if fault is Fault.LATE else 0
        return Fate(there_us, back_us, fault, open_us)

    def _fault(self, kind: float, *, writes: bool) -> Fault | None:
        climate = self._climate
        table = (
            (climate.refused if writes else climate.refused / 2, Fault.REFUSED),
            (climate.lost if writes else 0.0, Fault.LOST),
            (climate.hidden if writes else 0.0, Fault.HIDDEN),
            (climate.slow / 2, Fault.SLOW_THERE),
            (climate.slow / 2, Fault.SLOW_BACK),
            (climate.late if writes else 0.0, Fault.LATE),
        )
        for share, fault in table:
            if kind < share:
                return fault if self._happens(fault) else None
            kind -= share
        return None

    def _happens(self, fault: Fault) -> bool:
        self._last_number += 1
        if self._only is not None and self._last_number not in self._only:
            return False
        self.fallen.append(self._last_number)
        self.faults[fault] += 1
        return True

    def strikes(self, share: float) -> bool:
        """Whether something that is so likely happens; when it is fine, nothing does."""
        return self._dice.random() < share

    @property
    def hints_lost(self) -> float:
        """See `Climate`."""
        return self._climate.hints_lost
