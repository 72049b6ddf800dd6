"""Calls the checkers where they belong, and counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from durableflow.backends.base import Backend, HistoryRow, NewInstance, Rewrite
from durableflow.model import events as ev
from durableflow.testing.simulation import holdings
from durableflow.testing.simulation.invariants import INVARIANTS, Ack, Invariant, Moment, Violation
from durableflow.testing.simulation.ledger import Ledger, LedgerAttempt
from durableflow.testing.simulation.shadow import Judge, Shadow, Writer
from durableflow.testing.simulation.shadow_instance import ShadowInstance


class Checks(Judge):
    """Calls the checkers; the first objection ends the run.

    Args:
        store: that the shadow is of.

    Attributes:
        made: how often each was called.
    """

    def __init__(self, made: Counter[str], store: Backend) -> None:
        self.made = made
        self.ledger: Ledger
        self.shadow: Shadow
        self._store = store
        self._at: dict[str, list[Invariant]] = {}
        for each in (*INVARIANTS, *holdings.HOLDINGS):
            self._at.setdefault(each.place, []).append(each)
        self._of_kind: dict[type, list[Invariant]] = {}

    def call(self, each: Invariant, subject: str, *args: Any) -> None:
        """Call a checker; raises `Violation` when it objects."""
        self.made[each.name] += 1
        objection = each.check(*args)
        if objection is not None:
            raise Violation(each.name, f"{subject}: {objection}")

    def on_row(self, writer: Writer, instance: ShadowInstance, row: HistoryRow, events: Sequence[ev.Event]) -> None:
        """See `Judge.on_row`."""
        at = Moment(writer, instance, row, self.ledger, self.shadow)
        for each in self._at["row"]:
            self.call(each, instance.id, at, events)

    def on_event(self, writer: Writer, instance: ShadowInstance, row: HistoryRow, event: ev.Event) -> None:
        """See `Judge.on_event`."""
        kind = type(event)
        checkers = self._of_kind.get(kind)
        if checkers is None:
            checkers = [each for each in self._at["event"] if not each.kinds or kind in each.kinds]
            self._of_kind[kind] = checkers
        at = Moment(writer, instance, row, self.ledger, self.shadow)
        for each in checkers:
            self.call(each, instance.id, at, event)

    def on_commit(self, writer: Writer, touched: Sequence[ShadowInstance]) -> None:
        """See `Judge.on_commit`."""
        for instance in touched:
            for each in self._at["commit"]:
                self.call(each, instance.id, instance, writer)
        parents = {each.birth.parent: each for each in touched if each.end is not None}
        known = (self.shadow.instances.get(parent) for parent in parents if parent is not None)
        self._hold({each.id: each for each in (*touched, *(each for each in known if each is not None))}.values())

    def _hold(self, touched: Iterable[ShadowInstance]) -> None:
        """The store has what the histories of these say that it must have."""
        for instance in touched:
            for each in self._at["store"]:
                self.call(each, instance.id, instance, self._store)

    def on_birth(self, known: ShadowInstance | None, new: NewInstance) -> None:
        """See `Judge.on_birth`. What takes the place of another does anew what that has done."""
        self.made["one_id_is_one_instance"] += 1
        if known is None:
            return
        if not new.replace or known.end is None:
            raise Violation("one_id_is_one_instance", f"{new.id!r} is made though it is there")
        self.ledger.repeating.add(new.id)

    def on_rewind(self, instance: ShadowInstance, rewrite: Rewrite) -> None:
        """See `Judge.on_rewind`. What its activities do from here on may have been done before."""
        self.ledger.repeating.add(instance.id)
        for each in self._at["rewind"]:
            self.call(each, instance.id, instance, rewrite)

    def on_copy(self, rewrite: Rewrite) -> None:
        """See `Judge.on_copy`."""
        for each in self._at["copy"]:
            self.call(each, rewrite.instance.id, self.shadow, rewrite)

    def on_purge(self, asked: Sequence[str], purged: Sequence[ShadowInstance]) -> None:
        """See `Judge.on_purge`."""
        for instance in purged:
            self.ledger.repeating.add(instance.id)
            for each in self._at["purge"]:
                self.call(each, instance.id, instance, self._store)
        self._hold(self.shadow.instances[each] for each in asked if each in self.shadow.instances)

    def on_ack(self, ack: Ack) -> None:
        """Somebody is told what has become of what they said."""
        for each in self._at["ack"]:
            self.call(each, ack.instance_id, self.shadow, ack)

    def on_attempt(self, attempt: LedgerAttempt) -> None:
        """User code begins."""
        if self.ledger.made_twice:
            raise Violation("no_attempt_is_made_twice", f"{attempt!r} was made before")
        self.made["no_attempt_is_made_twice"] += 1
        # Who was frozen in between begins what was called by one that has been purged since.
        instance = next(reversed(self.shadow.lives(attempt.instance_id)), None)
        for each in self._at["attempt"]:
            self.call(each, attempt.instance_id, instance, attempt)
