"""Recorded streams of two servers come to the right end, and no prefix decides what a later one contradicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytest

from durableflow.kubernetes.envelope import RESULT, Envelope, seal
from durableflow.kubernetes.outcome import Kind, Outcome, Pending, decide
from durableflow.kubernetes.seen import Seen
from durableflow.kubernetes.spec import Rules

OLD, NEW = "v1.20.2", "v1.36.2"
SECOND = 1_000_000
SUCCESS, INFRASTRUCTURE, RETRYABLE, FATAL = Kind.SUCCESS, Kind.INFRASTRUCTURE, Kind.RETRYABLE, Kind.FATAL

# What each case comes to where a result is required and none is in the message: on the old server, and on the new one.
ENDS: dict[str, tuple[Any, Any]] = {
    "api_eviction_counted": ((INFRASTRUCTURE, "PodDeleted"), (INFRASTRUCTURE, "Evicted")),
    "api_eviction_ignored": ((INFRASTRUCTURE, "PodDeleted"), "running"),  # the old server drops the policy
    "backoff_limit_1": ((RETRYABLE, "ExitCode"), (RETRYABLE, "ExitCode")),
    "cancel_foreground": ((RETRYABLE, "JobDeleted"), (RETRYABLE, "JobDeleted")),
    "deadline": ((RETRYABLE, "DeadlineExceeded"), (RETRYABLE, "DeadlineExceeded")),
    "exit_code": ((RETRYABLE, "ExitCode"), (RETRYABLE, "ExitCode")),
    "exit_zero_on_sigterm": ((INFRASTRUCTURE, "PodDeleted"), (INFRASTRUCTURE, "Evicted")),
    "failjob_exit_42": ("starting", (RETRYABLE, "ExitCode")),  # again the policy: up to six more pods
    "image_pull": ("starting", "starting"),
    "missing_secret": ("starting", "starting"),
    "node_lost": ((INFRASTRUCTURE, "NodeLost"), (INFRASTRUCTURE, "NodeLost")),
    "node_pressure_eviction": ((INFRASTRUCTURE, "Evicted"), (INFRASTRUCTURE, "Evicted")),
    "oom": ((FATAL, "OutOfMemory"), (FATAL, "OutOfMemory")),
    "pod_deleted": ((INFRASTRUCTURE, "PodDeleted"), (INFRASTRUCTURE, "PodDeleted")),
    "preempted": ((INFRASTRUCTURE, "Preempted"), (INFRASTRUCTURE, "Preempted")),
    "success": ((FATAL, "ResultMissing"), (FATAL, "ResultMissing")),
    "suspend_while_running": ("running", "running"),  # the old server does not know `suspend`
    "suspended_then_run": ((FATAL, "ResultMissing"), (FATAL, "ResultMissing")),
    "ttl": ((FATAL, "ResultMissing"), (FATAL, "ResultMissing")),
    "unschedulable": ("unschedulable", "unschedulable"),
}
# What differs where none is required.
ENDS_WITHOUT_RESULT: dict[str, tuple[Any, Any]] = {
    **ENDS,
    **dict.fromkeys(("exit_zero_on_sigterm", "success", "suspended_then_run", "ttl"), ((SUCCESS, ""), (SUCCESS, ""))),
}
CASES = [pytest.param(version, case, id=f"{case}-{version}") for case in ENDS for version in (OLD, NEW)]
DELAYS = [
    pytest.param(delays, id="-".join(delays) or "as recorded")
    for delays in (
        {},
        {"Job": 2 * SECOND},
        {"Pod": 2 * SECOND},
        {"Event": 2 * SECOND},
        {"Job": SECOND, "Event": 30 * SECOND},
    )
]


def delayed(lines: Sequence[Any], delays: dict[str, int]) -> list[Any]:
    """The same news, where one watch is behind the others."""
    late = [line._replace(at_us=line.at_us + delays.get(line.kind, 0)) for line in lines]
    return sorted(late, key=lambda line: line.at_us)


def short(answer: Any) -> Any:
    return (answer.kind, answer.reason) if isinstance(answer, Outcome) else answer.phase


def answers(streams: Any, lines: Sequence[Any], rules: Rules, after_us: int = 0) -> list[Any]:
    """What is decided after each line; at moments named by an answer, too; and in the end, some time later."""
    told: list[Any] = []
    seen = Seen()
    next_us: int | None = None
    for line in lines:
        while next_us is not None and next_us < line.at_us:
            asked_us = next_us
            told.append(decide(seen, rules, asked_us))
            next_us = told[-1].next_us if isinstance(told[-1], Pending) else None
            assert next_us is None or next_us > asked_us, "it would be asked again at once, for ever"
        streams.tell(seen, line)
        told.append(decide(seen, rules, line.at_us))
        next_us = told[-1].next_us if isinstance(told[-1], Pending) else None
    if after_us:
        told.append(decide(seen, rules, lines[-1].at_us + after_us))
    return told


@pytest.mark.parametrize("result", ["required", "none"])
@pytest.mark.parametrize("delays", DELAYS)
@pytest.mark.parametrize(("version", "case"), CASES)
def test_no_prefix_decides_what_a_later_one_contradicts(
    streams: Any, version: str, case: str, delays: dict[str, int], result: Any
) -> None:
    lines = delayed(streams.lines_of(version, case), delays)
    rules = Rules(job="j", result=result, schedule_us=3_600 * SECOND)
    told = [short(answer) for answer in answers(streams, lines, rules, after_us=6 * SECOND)]
    ends = ENDS if result == "required" else ENDS_WITHOUT_RESULT
    expected = ends[case][version == NEW]
    decided = [answer for answer in told if isinstance(answer, tuple)]
    if delays and isinstance(expected, tuple):  # the reason may be less exact where the event that has it is late
        assert {kind for kind, _ in decided} == {expected[0]}
    else:
        assert set(decided) == ({expected} if isinstance(expected, tuple) else set())
    assert isinstance(told[-1], tuple) == isinstance(expected, tuple)
    if isinstance(expected, str):
        assert told[-1] == expected
    changes = [key for key, _ in groupby(told, key=lambda answer: isinstance(answer, str))]
    assert len(changes) <= 2, "what was decided became undecided again"


@pytest.mark.parametrize("version", [OLD, NEW])
@pytest.mark.parametrize(
    "case", ["success", "exit_zero_on_sigterm", "ttl", "deadline", "preempted", "cancel_foreground"]
)
def test_a_valid_result_in_the_message_wins_over_what_happened_to_its_job(
    streams: Any, version: str, case: str
) -> None:
    lines = streams.lines_of(version, case)
    line = seal(Envelope("j", RESULT, {"loss": 0.1}))
    for each in lines:
        for status in each.object.get("status", {}).get("containerStatuses", ()):
            if "terminated" in status["state"]:
                status["state"]["terminated"]["message"] = line
    told = answers(streams, lines, Rules(job="j"))
    outcomes = [answer for answer in told if isinstance(answer, Outcome)]
    assert {(each.kind, json.dumps(each.value)) for each in outcomes} == {(SUCCESS, '{"loss": 0.1}')}
    assert outcomes[0].exit_code in (0, 143)
    assert outcomes[0].node


@pytest.mark.parametrize("version", [OLD, NEW])
@pytest.mark.parametrize(
    ("case", "seconds", "rules", "reason"),
    [
        ("image_pull", 301, Rules(), (FATAL, "ImagePull")),
        ("missing_secret", 61, Rules(), (FATAL, "ConfigMissing")),
        ("unschedulable", 7_200, Rules(), "unschedulable"),
        ("unschedulable", 3_600, Rules(schedule_us=3_600 * SECOND), (RETRYABLE, "ScheduleTimeout")),
        ("image_pull", 31, Rules(schedule_us=30 * SECOND), (RETRYABLE, "ScheduleTimeout")),
        ("suspend_while_running", 61, Rules(heartbeat_us=60 * SECOND), (RETRYABLE, "HeartbeatTimeout")),
    ],
)
def test_what_no_job_ever_reports_is_ended_by_a_timer(
    streams: Any, version: str, case: str, seconds: int, rules: Rules, reason: Any
) -> None:
    lines = streams.lines_of(version, case)
    told = answers(streams, lines, rules, after_us=seconds * SECOND)
    assert [isinstance(answer, Outcome) for answer in told[:-1]] == [False] * (len(told) - 1)
    assert short(told[-1]) == reason


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_silent_node_is_given_up_before_anybody_deletes_its_pod(streams: Any, version: str) -> None:
    lines = streams.lines_of(version, "node_lost")
    silent = next(
        index for index, line in enumerate(lines) if line.kind == "Event" and line.object["reason"] == "NodeNotReady"
    )
    told = answers(streams, lines[: silent + 2], Rules(node_lost_us=30 * SECOND), after_us=31 * SECOND)
    assert short(told[-1]) == (INFRASTRUCTURE, "NodeLost")
    assert told[-1].node == "gpu-a"
    assert short(told[-2]) == "running"


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_pod_that_never_ends_on_a_lost_node_is_given_up(streams: Any, version: str) -> None:
    lines = [line for line in streams.lines_of(version, "node_lost") if line.type != "DELETED"]
    until = next(
        index
        for index, line in enumerate(lines)
        if line.kind == "Pod" and "deletionTimestamp" in line.object["metadata"]
    )
    told = answers(streams, lines[: until + 1], Rules(node_lost_us=30 * SECOND), after_us=33 * SECOND)
    assert short(told[-2]) == "stopping"
    assert short(told[-1]) == (INFRASTRUCTURE, "NodeLost")


def test_an_outcome_says_what_the_pod_said_and_where_it_was(streams: Any) -> None:
    told = answers(streams, streams.lines_of(NEW, "exit_code"), Rules())
    outcome = told[-1]
    assert outcome.message == "the container exited with 3: ValueError: bad shape"
    assert (outcome.exit_code, outcome.node, outcome.pod) == (3, "cpu-a", "j-smcwc")
    assert outcome.pod_uid
    mapped = answers(streams, streams.lines_of(NEW, "exit_code"), Rules(exit_codes={"3": "fatal"}))
    assert mapped[-1].kind is FATAL
