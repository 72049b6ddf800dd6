"""What the log says of each fact, and how loud."""

from __future__ import annotations

import logging
from typing import get_args

import pytest

from durableflow import Status
from durableflow.model.alert import AlertKind, Severity
from durableflow.observe import facts
from durableflow.observe.log import log_fact

LINES = [
    (facts.WorkerLeads("w"), "DEBUG", "WorkerLeads(worker='w')"),
    (facts.WorkerLost("w"), "WARNING", "worker w was declared dead by another worker and has stopped"),
    (facts.InstancesClaimed(3), "DEBUG", "InstancesClaimed(count=3)"),
    (facts.InstancesHandedOver(3), "DEBUG", "InstancesHandedOver(count=3)"),
    (facts.ActivityDropped("i", 3), "DEBUG", "ActivityDropped(instance_id='i', task=3)"),
    (facts.InstanceRecovered("i", 3), "DEBUG", "InstanceRecovered(instance_id='i', events=3)"),
    (facts.InstanceEnded("i", "flow", Status.FAILED), "DEBUG", "InstanceEnded(instance_id='i', workflow='flow'"),
    (facts.InstanceStalled("i", "no code"), "ERROR", "instance i is STALLED: no code"),
    (facts.HistoryLong("i", 7), "WARNING", "the history of instance i has 7 events, over the soft limit"),
    (
        facts.AttemptEnded("i", "charge", 1, "ValueError", "no", final=False),
        "INFO",
        "activity charge of instance i: attempt 1 failed and is retried: ValueError: no",
    ),
    (
        facts.AttemptEnded("i", "charge", 3, "ValueError", "no", final=True),
        "WARNING",
        "activity charge of instance i: attempt 3 failed for good: ValueError: no",
    ),
    (
        facts.BranchFailed("i", "notify", "ValueError", "no"),
        "WARNING",
        "branch notify of instance i failed and nobody waited for it: ValueError: no; wait for the task that",
    ),
    (
        facts.TurnBlocked("i", 1.5, "flow.py:3 in f"),
        "WARNING",
        "a turn of instance i has blocked the event loop for 1.5 s at flow.py:3 in f; move this work into an activity",
    ),
    (facts.CommitRetried("disk full"), "WARNING", "a commit is tried again: disk full"),
    (
        facts.CommitUnanswered("disk I/O error"),
        "WARNING",
        "whether a commit was written is not known, its instances are read again: disk I/O error",
    ),
    (
        facts.AttemptLost("i", "charge", 2),
        "WARNING",
        "attempt 2 of activity charge of instance i was lost with its worker",
    ),
    (facts.StallHealed("i"), "WARNING", "instance i is not STALLED any more"),
    (
        facts.AlertRaised(AlertKind.STALLED, "i", Severity.ERROR, "no code", repeated=False),
        "ERROR",
        "alert stalled of i: no code",
    ),
    (
        facts.AlertRaised(AlertKind.LONG_TURN, "i", Severity.WARNING, "2 s", repeated=True),
        "WARNING",
        "alert long_turn of i lasts: 2 s",
    ),
    (facts.AlertResolved(AlertKind.STALLED, "i"), "WARNING", "alert stalled of i is resolved"),
    (
        facts.NoticeGivenUp("webhook 1", 7, 20, "down"),
        "ERROR",
        "notice 7 of an alert is given up after 20 attempts to deliver it to webhook 1: down",
    ),
    (facts.CircuitOpened("pay", 5), "WARNING", "circuit pay is open after 5 failures in a row"),
    (facts.CircuitClosed("pay"), "WARNING", "circuit pay is closed again"),
    (facts.TurnsCommitted(2, 5), "DEBUG", "TurnsCommitted(instances=2, events=5)"),
    (facts.ScheduleFired("s", "s/1", 5, 0), "DEBUG", "ScheduleFired(schedule_id='s', instance_id='s/1', slot_us=5"),
    (facts.SlotsMissed("s", 3), "WARNING", "schedule s missed 3 slots: no engine was there, and they are older than"),
    (facts.SlotsSkipped("s", 2), "INFO", "schedule s skipped 2 slots: an instance of one before is not over"),
    (facts.ScheduleUnreadable("s", "no"), "ERROR", "schedule s cannot be read and does not fire: no"),
    (facts.TaskUnreadable("i", "no"), "ERROR", "a task of instance i cannot be read and comes to nothing: no"),
    (facts.JobSent("df-1", "i", "train", is_adopted=False), "DEBUG", "JobSent(job='df-1', instance_id='i'"),
    (
        facts.JobEnded("df-1", "i", "tune", "train", "success", "", 2, 1_500_000, 3_000_000),
        "DEBUG",
        "Job df-1 of activity train of instance i: success after 1.5 s",
    ),
    (
        facts.JobEnded("df-1", "i", "tune", "train", "infrastructure", "Evicted", 2, 0, 0),
        "INFO",
        "Job df-1 of activity train of instance i: infrastructure (Evicted) after 0.0 s",
    ),
    (facts.JobEnded("df-1", "i", "tune", "train", "fatal", "OutOfMemory", 2, 0, 0), "WARNING", "Job df-1 of activity"),
    (
        facts.WatchBroken("/api/v1/pods", "410 Expired"),
        "DEBUG",
        "WatchBroken(path='/api/v1/pods', reason='410 Expired')",
    ),
    (facts.QueueUnreadable("q"), "ERROR", "the limits of queue q cannot be read; nothing is taken from it until they"),
]


@pytest.mark.parametrize(("fact", "level", "line"), LINES, ids=[f"{type(f).__name__}-{level}" for f, level, _ in LINES])
def test_each_fact_is_one_line_as_loud_as_it_asks_for_action(
    fact: facts.Fact, level: str, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "durableflow.engine")
    log_fact(fact)
    (record,) = caplog.records
    assert (record.levelname, record.name) == (level, "durableflow.engine")
    assert record.getMessage().startswith(line)


def test_no_fact_is_without_a_test() -> None:
    assert {type(fact) for fact, _, _ in LINES} == set(get_args(facts.Fact))
