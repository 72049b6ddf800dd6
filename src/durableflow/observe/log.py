"""Facts as lines of the standard `logging` module, logger `durableflow.engine`."""

from __future__ import annotations

import logging
from typing import Final

from durableflow.observe import facts

_LOGGER: Final = logging.getLogger("durableflow.engine")


def log_fact(fact: facts.Fact) -> None:
    """Write what somebody may have to act on; the rest at debug level."""
    match fact:
        case facts.InstanceStalled(instance_id=instance_id, reason=reason):
            _LOGGER.error("instance %s is STALLED: %s", instance_id, reason)
        case facts.AttemptEnded(final=final):
            level = logging.WARNING if final else logging.INFO
            what = "failed for good" if final else "failed and is retried"
            _LOGGER.log(
                level,
                "activity %s of instance %s: attempt %d %s: %s: %s",
                fact.activity,
                fact.instance_id,
                fact.attempt,
                what,
                fact.type_name,
                fact.message,
            )
        case facts.TurnBlocked(instance_id=instance_id, seconds=seconds, location=location):
            _LOGGER.warning(
                "a turn of instance %s has blocked the event loop for %.1f s at %s; move this work into an activity",
                instance_id,
                seconds,
                location,
            )
        case facts.HistoryLong(instance_id=instance_id, events=events):
            _LOGGER.warning("the history of instance %s has %d events, over the soft limit", instance_id, events)
        case facts.WorkerLost(worker=worker):
            _LOGGER.warning("worker %s was declared dead by another worker and has stopped", worker)
        case facts.CommitRetried(reason=reason):
            _LOGGER.warning("a commit is tried again: %s", reason)
        case _:
            _LOGGER.debug("%r", fact)
