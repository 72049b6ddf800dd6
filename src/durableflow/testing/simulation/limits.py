"""Promises about limits, each with its checker: times, places, retries, and what attempts are told of each other.

They are called as those of `invariants` are.
"""

from __future__ import annotations

from collections.abc import Sequence

from durableflow.model import events as ev
from durableflow.model.circuit import CIRCUIT_OPEN
from durableflow.runtime.attempt import TIMEOUT
from durableflow.testing.simulation.activities import CURT, LONE, Hopeless, Picky
from durableflow.testing.simulation.invariants import Moment, invariant
from durableflow.testing.simulation.ledger import LedgerAttempt
from durableflow.testing.simulation.shadow_instance import ShadowInstance


@invariant("I29", "row")
def an_instance_begins_at_its_time(at: Moment, events: Sequence[ev.Event]) -> str | None:
    """No code runs before the start time that was asked for."""
    started = at.instance.first or events[0]
    if not isinstance(started, ev.InstanceStarted) or at.row.at_us >= started.start_at_us:
        return None
    early = [ev.tag_of(event) for event in events if type(event) in ev.DECISIONS and type(event) not in ev.ENDS]
    early_us = started.start_at_us - at.row.at_us
    return f"{early[0]} is decided {early_us / 1e6:g} s before it begins" if early else None


@invariant("I29", "event", ev.InstanceTimedOut)
def a_deadline_is_never_early(at: Moment, _: ev.InstanceTimedOut) -> str | None:
    """By the time of the turn."""
    started = at.instance.first
    if started is None or not started.deadline_us or at.row.at_us < started.deadline_us:
        return f"it times out at {at.row.at_us}, but the deadline is {started and started.deadline_us}"
    return None


@invariant("I29", "event", ev.AttemptFailed, ev.ActivityFailed)
def a_time_out_is_never_early(at: Moment, event: ev.AttemptFailed | ev.ActivityFailed) -> str | None:
    """No attempt fails by the clock before its time is over, nor while it still gives heartbeats.

    By the clock of the process that makes it. Attempts elsewhere, in a queue or handed over, go by others.
    """
    instance, asked = at.instance, at.instance.asked.get(event.task)
    if event.failure.type_name != TIMEOUT or not isinstance(asked, ev.ActivityScheduled) or asked.options is None:
        return None
    attempt = at.ledger.attempts.get((instance.id, event.task, event.attempt))
    if asked.options.queue or attempt is None or attempt.has_token or attempt.process is not at.writer.process:
        return None
    # A turn that is no later than the one before says nothing of the clock: that may be behind the instance's time.
    now_us = at.row.at_us if at.row.at_us > instance.last_us else at.writer.now_us
    began_us, beat_us = instance.begun_us[event.task], max((us for us, _ in attempt.beats), default=0)
    message = event.failure.message
    if "did not end within" in message and now_us < began_us + asked.options.start_to_close_us:
        return f"{message}, but it began {(now_us - began_us) / 1e6:g} s ago"
    if "gave no heartbeat" in message and now_us < max(began_us, beat_us) + asked.options.heartbeat_us:
        return f"{message}, but the last was {(now_us - beat_us) / 1e6:g} s ago"
    return None


@invariant("I25", "event", ev.AttemptFailed)
def what_must_not_be_retried_is_not(_: Moment, event: ev.AttemptFailed) -> str | None:
    """Neither what its policy names, nor what says so of itself."""
    name = event.failure.type_name.rpartition(".")[2]
    return f"{event!r:.200}" if event.counts and name in (Hopeless.__name__, Picky.__name__) else None


@invariant("I-circuit", "event", ev.ActivityFailed)
def only_an_open_circuit_refuses(at: Moment, event: ev.ActivityFailed) -> str | None:
    """And only activities that were not to wait for it."""
    asked = at.instance.asked.get(event.task)
    if event.failure.type_name != CIRCUIT_OPEN or (isinstance(asked, ev.ActivityScheduled) and asked.name == CURT.name):
        return None
    return f"{event!r:.200} of {asked!r:.100}"


# -- when an attempt begins ---------------------------------------------------------------------------------------


@invariant("I-places", "attempt")
def no_more_run_at_once_than_allowed(_: ShadowInstance | None, attempt: LedgerAttempt) -> str | None:
    """Of an activity that says how many attempts of it a process may make at once."""
    if attempt.activity != LONE.name:
        return None
    beside = [
        each
        for each in attempt.ledger.made
        if each is not attempt
        and each.activity == attempt.activity
        and each.process is attempt.process
        and each.ended_us is None
    ]
    return f"{attempt!r} begins beside {beside[0]!r}" if beside else None


@invariant("I-beats", "attempt")
def an_attempt_is_told_what_one_before_it_has_said(
    instance: ShadowInstance | None, attempt: LedgerAttempt
) -> str | None:
    """The details of a heartbeat are those of an earlier attempt of the same activity."""
    if attempt.details is None or (instance is not None and instance.is_copy):
        return None  # the attempt before may be one of whatever was copied
    before = attempt.ledger.attempts_of(attempt.instance_id, attempt.task)
    said = [details for each in before if each is not attempt for _, details in each.beats]
    return None if attempt.details in said else f"{attempt!r} is told {attempt.details!r}, which nobody has said"
