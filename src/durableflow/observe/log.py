"""Facts as lines of the standard `logging` module, logger `durableflow.engine`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from durableflow.model.alert import Severity
from durableflow.observe import facts

_LOGGER: Final = logging.getLogger("durableflow.engine")


def log_fact(fact: facts.Fact) -> None:
    """Write what somebody may have to act on; the rest at debug level."""
    write = _WRITERS.get(type(fact))
    if write is not None:
        write(fact)
    elif _LOGGER.isEnabledFor(logging.DEBUG):
        _LOGGER.debug("%r", fact)


def _log_stall(fact: facts.InstanceStalled) -> None:
    _LOGGER.error("instance %s is STALLED: %s", fact.instance_id, fact.reason)


def _log_attempt(fact: facts.AttemptEnded) -> None:
    _LOGGER.log(
        logging.WARNING if fact.final else logging.INFO,
        "activity %s of instance %s: attempt %d %s: %s: %s",
        fact.activity,
        fact.instance_id,
        fact.attempt,
        "failed for good" if fact.final else "failed and is retried",
        fact.type_name,
        fact.message,
    )


def _log_branch(fact: facts.BranchFailed) -> None:
    _LOGGER.warning(
        "branch %s of instance %s failed and nobody waited for it: %s: %s; wait for the task that ctx.spawn() gave",
        fact.branch,
        fact.instance_id,
        fact.type_name,
        fact.message,
    )


def _log_blocked(fact: facts.TurnBlocked) -> None:
    _LOGGER.warning(
        "a turn of instance %s has blocked the event loop for %.1f s at %s; move this work into an activity",
        fact.instance_id,
        fact.seconds,
        fact.location,
    )


def _log_long(fact: facts.HistoryLong) -> None:
    _LOGGER.warning("the history of instance %s has %d events, over the soft limit", fact.instance_id, fact.events)


def _log_lost(fact: facts.WorkerLost) -> None:
    _LOGGER.warning("worker %s was declared dead by another worker and has stopped", fact.worker)


def _log_retry(fact: facts.CommitRetried) -> None:
    _LOGGER.warning("a commit is tried again: %s", fact.reason)


def _log_unanswered(fact: facts.CommitUnanswered) -> None:
    _LOGGER.warning("whether a commit was written is not known, its instances are read again: %s", fact.reason)


def _log_missed(fact: facts.SlotsMissed) -> None:
    _LOGGER.warning(
        "schedule %s missed %d slots: no engine was there, and they are older than its catch-up window; "
        "backfill them if they are wanted",
        fact.schedule_id,
        fact.slots,
    )


def _log_skipped(fact: facts.SlotsSkipped) -> None:
    _LOGGER.info("schedule %s skipped %d slots: an instance of one before is not over", fact.schedule_id, fact.slots)


def _log_unreadable(fact: facts.ScheduleUnreadable) -> None:
    _LOGGER.error("schedule %s cannot be read and does not fire: %s", fact.schedule_id, fact.reason)


def _log_unreadable_task(fact: facts.TaskUnreadable) -> None:
    _LOGGER.error("a task of instance %s cannot be read and comes to nothing: %s", fact.instance_id, fact.reason)


def _log_unreadable_queue(fact: facts.QueueUnreadable) -> None:
    _LOGGER.error("the limits of queue %s cannot be read; nothing is taken from it until they are set anew", fact.queue)


def _log_lost_attempt(fact: facts.AttemptLost) -> None:
    text = "attempt %d of activity %s of instance %s was lost with its worker"
    _LOGGER.warning(text, fact.attempt, fact.activity, fact.instance_id)


def _log_healed(fact: facts.StallHealed) -> None:
    _LOGGER.warning("instance %s is not STALLED any more", fact.instance_id)


def _log_alert(fact: facts.AlertRaised) -> None:
    _LOGGER.log(
        logging.ERROR if fact.severity is Severity.ERROR else logging.WARNING,
        "alert %s of %s%s: %s",
        fact.kind.value,
        fact.subject,
        " lasts" if fact.repeated else "",
        fact.details,
    )


def _log_resolved(fact: facts.AlertResolved) -> None:
    _LOGGER.warning("alert %s of %s is resolved", fact.kind.value, fact.subject)


def _log_given_up(fact: facts.NoticeGivenUp) -> None:
    _LOGGER.error(
        "notice %d of an alert is given up after %d attempts to deliver it to %s: %s",
        fact.notice,
        fact.attempts,
        fact.sink,
        fact.reason,
    )


def _log_opened(fact: facts.CircuitOpened) -> None:
    _LOGGER.warning("circuit %s is open after %d failures in a row", fact.circuit, fact.failures)


def _log_closed(fact: facts.CircuitClosed) -> None:
    _LOGGER.warning("circuit %s is closed again", fact.circuit)


def _log_job(fact: facts.JobEnded) -> None:
    _LOGGER.log(
        _JOB_LEVELS.get(fact.outcome, logging.DEBUG),
        "Job %s of activity %s of instance %s: %s%s after %.1f s",
        fact.job,
        fact.activity,
        fact.instance_id,
        fact.outcome,
        f" ({fact.reason})" if fact.reason else "",
        fact.run_us / 1_000_000,
    )


_JOB_LEVELS: Final = {"fatal": logging.WARNING, "retryable": logging.WARNING, "infrastructure": logging.INFO}
_WRITERS: Final[dict[type, Callable[[Any], None]]] = {
    facts.InstanceStalled: _log_stall,
    facts.AttemptEnded: _log_attempt,
    facts.BranchFailed: _log_branch,
    facts.TurnBlocked: _log_blocked,
    facts.HistoryLong: _log_long,
    facts.WorkerLost: _log_lost,
    facts.CommitRetried: _log_retry,
    facts.CommitUnanswered: _log_unanswered,
    facts.SlotsMissed: _log_missed,
    facts.SlotsSkipped: _log_skipped,
    facts.ScheduleUnreadable: _log_unreadable,
    facts.TaskUnreadable: _log_unreadable_task,
    facts.QueueUnreadable: _log_unreadable_queue,
    facts.AttemptLost: _log_lost_attempt,
    facts.StallHealed: _log_healed,
    facts.AlertRaised: _log_alert,
    facts.AlertResolved: _log_resolved,
    facts.NoticeGivenUp: _log_given_up,
    facts.CircuitOpened: _log_opened,
    facts.CircuitClosed: _log_closed,
    facts.JobEnded: _log_job,
}
"""What is written of the facts that are more than debugging."""
