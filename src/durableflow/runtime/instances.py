"""Which instances are in memory, which are wanted there, and which may not be loaded now."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from durableflow.core.turn import PendingActivity
from durableflow.errors import EngineClosed, TurnTooLong
from durableflow.runtime.agenda import Agenda
from durableflow.runtime.attempts import Attempts
from durableflow.runtime.guard import TurnGuard
from durableflow.runtime.live import Live, PutAway, Told, answer, look_away, reject
from durableflow.runtime.means import Means
from durableflow.runtime.messages import Word, interrupted, is_word

_LOAD_AGAIN_US: Final = 1_000_000


class InstanceElsewhere(Exception):
    """This worker does not own the instance, so it is not loaded here."""

    def __init__(self, instance_id: str) -> None:
        self.instance_id = instance_id
        super().__init__(f"instance {instance_id!r} is another worker's")


class Instances:
    """The table that all parts of a worker look into.

    Attributes:
        live: those in memory, the ones that were idle longest first.
        loading: those that somebody waits for; done when they are live, failed when they cannot be.
        to_load: those of `loading` that the loader has not begun with.
        load_wanted: set while there are some.
        stopping: no instance is started or loaded any more.
    """

    def __init__(self, means: Means, agenda: Agenda, attempts: Attempts, guard: TurnGuard) -> None:
        self._means = means
        self._agenda = agenda
        self._attempts = attempts
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self.live: OrderedDict[str, Live] = OrderedDict()
        self.loading: dict[str, asyncio.Future[Live]] = {}
        self.to_load: list[str] = []
        self.load_wanted = asyncio.Event()
        self.stopping = False
        self._held: set[str] = set()
        """Being stalled: they are not loaded before that is durable."""
        self._wanted_again: set[str] = set()
        self._retold: dict[str, list[Word]] = {}
        """What attempts had to say when the memory of their instance was dropped."""

    # -- bringing in ----------------------------------------------------------------------------------------

    async def load(self, instance_id: str) -> Live:
        """The instance, in memory.

        Raises:
            InstanceNotFound, InstanceNotActive, InstanceStalled: it cannot be.
        """
        live = self.live.get(instance_id)
        if live is not None:
            return live
        return await asyncio.shield(self.loading.get(instance_id) or self._want(instance_id))

    def want(self, instance_id: str) -> None:
        """Have it loaded; nobody waits for it."""
        self._want(instance_id).add_done_callback(look_away)

    def want_later(self, instance_id: str) -> None:
        """The same after a while: now it could not be done."""
        self._means.alarms.at(self._means.clock.now_us() + _LOAD_AGAIN_US, partial(self.want, instance_id))

    def wake(self, instance_id: str) -> None:
        """Bring it in; if a start that may yet be refused has its place, when that is decided."""
        live = self.live.get(instance_id)
        if live is None:
            self.want(instance_id)
        elif live.new is not None:
            self._wanted_again.add(instance_id)

    def _want(self, instance_id: str) -> asyncio.Future[Live]:
        if instance_id in self._held:
            self._wanted_again.add(instance_id)
        future = self.loading.get(instance_id)
        if future is None:
            future = self.loading[instance_id] = self._loop.create_future()
            self.line_up_again(instance_id)
        return future

    def line_up_again(self, instance_id: str) -> None:
        """Have one loaded that is wanted, as soon as what of it is being committed is known."""
        self._attempts.after_commits(instance_id, partial(self._line_up, instance_id))

    def _line_up(self, instance_id: str) -> None:
        if instance_id in self.loading:
            self.to_load.append(instance_id)
            self.load_wanted.set()

    def settling(self, instance_id: str) -> asyncio.Future[None] | asyncio.Future[Live] | None:
        """What to wait for before asking again for an id that was refused: its start, its load, its stall."""
        live = self.live.get(instance_id)
        if live is not None and live.new is not None:
            return live.started
        return self.loading.get(instance_id)

    def began(self, live: Live) -> None:
        """Its start is durable."""
        live.new = live.started = None
        self._wanted_again.discard(live.id)

    def was_wanted_again(self, instance_id: str) -> bool:
        """True, once, when somebody wanted it while it could not be loaded."""
        if instance_id in self._wanted_again:
            self._wanted_again.discard(instance_id)
            return True
        return False

    # -- holding back ---------------------------------------------------------------------------------------

    def hold(self, instance_id: str, future: asyncio.Future[Live] | None) -> None:
        """Whoever wants it waits until `release`."""
        self._held.add(instance_id)
        if future is None or future.done():
            future = self._loop.create_future()
        future.add_done_callback(look_away)
        self.loading[instance_id] = future

    def want_if_held(self, instance_id: str) -> None:
        """Something has come for it: if it is held, it is loaded when that is over, or nobody would look at it."""
        if instance_id in self._held:
            self._wanted_again.add(instance_id)

    def release(self, instance_id: str, error: Exception, *, again: bool) -> None:
        """Whoever waits for it gets `error`; it is loaded later if somebody came meanwhile, or `again`."""
        self._held.discard(instance_id)
        reject(self.loading.pop(instance_id, None), error)
        if self.was_wanted_again(instance_id) or again:
            self.want_later(instance_id)

    def note_ours(self, instance_id: str) -> None:
        """This worker owns it from now on. A load that began before may still say that it does not: then again."""
        loading = self.loading.get(instance_id)
        if loading is not None:
            loading.add_done_callback(partial(self._load_again, instance_id))

    def _load_again(self, instance_id: str, loading: asyncio.Future[Live]) -> None:
        if not loading.cancelled() and isinstance(loading.exception(), InstanceElsewhere):
            self.want(instance_id)

    def let_go(self, live: Live) -> bool:
        """Put one away that only waits; False when it does not."""
        if not live.is_idle or live.new is not None:
            return False
        self.forget(live, None)
        return True

    # -- putting away ---------------------------------------------------------------------------------------

    def forget(self, live: Live, error: Exception | None, told: Sequence[Told] = ()) -> None:
        """Drop an instance's memory; what it was being told fails with `error`."""
        live.gone = True
        for attempt in list(live.attempts.values()):
            self._attempts.cancel(attempt, "this worker no longer owns the instance")
        self.withdraw_all(live)
        if live.looks is not None:
            live.show(None)
        if self.live.get(live.id) is live:
            del self.live[live.id]
        with suppress(TurnTooLong):  # a `finally` block that never ended was stopped, and reported
            self._guard.run(live.id, live.execution.put_away)
        if error is not None:
            answer(told, error)
        answer(live.pending, error if isinstance(error, EngineClosed) else PutAway())

    def withdraw_all(self, live: Live) -> None:
        """Nothing is asked for, or rings, for it any more."""
        for number in list(live.requests):
            self._attempts.withdraw(live, number)
        if live.alarm is not None:
            live.alarm.cancel()

    def keep_answers(self, live: Live, told: Sequence[Told], began: Iterable[PendingActivity]) -> None:
        """Remember for the reload what attempts have said, and that those that go on were interrupted by us."""
        now_us = self._means.clock.now_us()
        kept = [event for event, _, number in [*told, *live.pending] if is_word(event) and not number]
        kept += interrupted(began, now_us)
        kept += interrupted([attempt.activity for attempt in live.attempts.values()], now_us)
        if kept:
            self._retold[live.id] = kept

    def take_answers(self, instance_id: str) -> list[Word]:
        """What `keep_answers` remembered."""
        return self._retold.pop(instance_id, [])

    def drop_all(self, error: EngineClosed) -> None:
        """Forget everything."""
        self.stopping = True
        for live in list(self.live.values()):
            self.forget(live, error)
        for loading in self.loading.values():
            reject(loading, error)
        self.loading.clear()
