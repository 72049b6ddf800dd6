"""Rounds: an instance may begin anew, so that replay needs nothing from before.

`continue_as_new` ends the code and begins it again with other input. `checkpoint` lets the code go on, and declares
that it would do the same if it began again with the state given: a later replay does so. Either way the history goes on
in the same instance, with another row, whose first event says all that the next round needs to know.
"""

from __future__ import annotations

from typing import Final

from durableflow.core.requests import Answerer
from durableflow.core.turn import BeginAnew
from durableflow.errors import PayloadTooLarge, UsageError
from durableflow.model import events as ev

_IDS_MAX: Final = 1_000
"""So many of the latest event and request ids go on to the next round."""


class Rounds(Answerer):
    """The rounds of one instance.

    Attributes:
        started: the first event of this round.
        observed: how many observations this round has taken.
        cancel_requested: somebody asked for the instance to be cancelled.
    """

    __slots__ = ("cancel_requested", "observed", "restored", "started")

    started: ev.InstanceStarted | None
    observed: int
    cancel_requested: bool
    restored: bytes | None
    """The state that this round began with."""

    def begin_anew(self, data: bytes, version: int) -> BeginAnew:
        """What `continue_as_new` raises.

        Raises:
            UsageError: this round has waited for nothing, so that the next one would do the same, for ever.
        """
        self._check_usable()
        if len(data) > self.payload_limit_bytes:
            raise PayloadTooLarge(f"the input of workflow {self.program.name!r}", len(data), self.payload_limit_bytes)
        self._check_progress("continue_as_new")
        return BeginAnew(data, version)

    def checkpoint(self, state: bytes) -> None:
        """Later replays begin with `state` instead of the input alone.

        Raises:
            UsageError: something is still open here, which such a replay would not know of; or nothing has happened.
        """
        self._check_usable()
        if len(state) > self.payload_limit_bytes:
            raise PayloadTooLarge("the state of a checkpoint", len(state), self.payload_limit_bytes)
        self._check_progress("checkpoint")
        self._check_nothing_open()
        self._decide(ev.CheckpointTaken(state))
        if self.replaying:  # of a round that is over: the code goes on in the next one
            self.leave_replay()
        self.tell_held_again()
        started = self.next_round(state=state, data=None, version=0)
        self._close_row(started)
        self._adopt(started)

    def tell_held_again(self) -> None:
        """What came while it was suspended, and is not delivered yet, comes in the next round."""
        raise NotImplementedError

    def leave_replay(self) -> None:
        """The recorded round ends here, though the code would go on."""
        raise NotImplementedError

    def _check_progress(self, asked: str) -> None:
        if self.observed < 2 and not self._kept_taken:
            raise UsageError(
                f"{asked} was called, but nothing has happened to this instance since its round began, so this would "
                f"go on for ever; wait for something in each round (ctx.sleep, ctx.wait_for_event, ...)"
            )

    def _check_nothing_open(self) -> None:
        open_: list[str] = [repr(task) for task in self.tasks.values()]
        open_ += [repr(task) for task in self._branches or ()]
        if self.desk is not None and self.desk.open:
            open_ += [f"<request {request_id}>" for request_id in self.desk.open]
        if open_:
            raise UsageError(
                "checkpoint was called while this is open, of which a replay that begins there would not know: "
                f"{', '.join(open_[:5])}{' ...' if len(open_) > 5 else ''}; wait for it or cancel it first"
            )

    def next_round(self, *, state: bytes | None, data: bytes | None, version: int) -> ev.InstanceStarted:
        """The first event of the round that follows; with `data` the code begins anew, with `state` it goes on."""
        old, desk, mailbox = self.started, self.desk, self.mailbox
        assert old is not None
        patches = self._patches if state is not None else None
        known = patches or {}
        following = ev.Round(
            number=(old.round.number if old.round is not None else 0) + 1,
            tasks=self._last_number,
            kept=() if mailbox is None else mailbox.kept(),
            event_ids=() if mailbox is None else mailbox.latest_event_ids(_IDS_MAX),
            requests=() if desk is None else tuple(desk.kept),
            request_ids=() if desk is None else tuple(list(desk.seen)[-_IDS_MAX:]),
            state=state,
            patches=tuple(name for name, is_patched in known.items() if is_patched),
            unpatched=tuple(name for name, is_patched in known.items() if not is_patched),
            custom_status=self.custom_status,
            in_queue=self.elsewhere is not None,
            cancel_requested=state is not None and self.cancel_requested,
        )
        return ev.InstanceStarted(
            old.workflow,
            version or old.version,
            old.input if data is None else data,
            start_at_us=0,
            deadline_us=old.deadline_us,
            origin=old.origin,
            round=following,
        )

    def _close_row(self, started: ev.InstanceStarted) -> None:
        """What follows goes into a row of its own, which begins with `started`."""
        self.restored = started.round.state if started.round is not None else None
        turn, decisions = self._turn, self._decisions
        following: list[ev.Event] = [started]
        if decisions is turn.events:
            turn.close_row(following)
            self._decisions = following
        else:
            turn.events += decisions
            turn.close_row(following)
            self._decisions = list[ev.Event]()

    def begin_round(self, started: ev.InstanceStarted) -> None:
        """The first event of a history, or of a later round of it."""
        self.started = started
        if started.origin is None and started.round is None:
            return  # as most do
        self._adopt(started)
        if started.round is not None:
            self._carry_in(started.round)

    def _adopt(self, started: ev.InstanceStarted) -> None:
        """This round begins, of which `started` says all."""
        self.started = started
        self.observed = 1
        self._kept_taken = False
        origin, following = started.origin, started.round
        seed = origin.seed if origin is not None and origin.seed else self.instance_id
        if following is not None:
            self._last_number = following.tasks
            self._seed = f"{seed}#{following.number}"
            self.restored = following.state
            # Seeded again, not made again: the code may hold on to them, as it would if it had begun here.
            if self._random is not None:
                self._random.seed(f"random:{self._seed}")
            if self._uuid_random is not None:
                self._uuid_random.seed(f"uuid:{self._seed}")
        else:
            self._seed = seed

    def _carry_in(self, following: ev.Round) -> None:
        """Take over what an earlier round has left."""
        self.custom_status, self.cancel_requested = following.custom_status, following.cancel_requested
        if following.in_queue:
            self.elsewhere = {}
        if following.kept or following.event_ids:
            self.mailbox_made().carry_in(following.kept, following.event_ids)
        if following.requests or following.request_ids:
            desk = self._desk()
            desk.kept.extend(following.requests)
            desk.seen.update(dict.fromkeys(following.request_ids))
        if following.patches or following.unpatched:
            self._patches = {**dict.fromkeys(following.patches, True), **dict.fromkeys(following.unpatched, False)}
