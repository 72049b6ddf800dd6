"""What becomes of an attempt, as tables: what no recorded stream shows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from durableflow.kubernetes.activity import gpu_job
from durableflow.kubernetes.documents import Event, Job, Pod, read
from durableflow.kubernetes.envelope import DELIVERED, FAILURE, RESULT, Envelope, seal
from durableflow.kubernetes.outcome import Kind, Outcome, decide
from durableflow.kubernetes.seen import EVENTS_MAX, Seen
from durableflow.kubernetes.spec import Rules

SECOND = 1_000_000
BEGIN_US = 1_800_000_000 * SECOND
SUCCESS, INFRASTRUCTURE, RETRYABLE, FATAL = Kind.SUCCESS, Kind.INFRASTRUCTURE, Kind.RETRYABLE, Kind.FATAL


def at(seconds: float) -> str:
    """A moment, as a server writes it."""
    return datetime.fromtimestamp(BEGIN_US / SECOND + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, reason: str = "", message: str = "", *, since: float = 0, status: str = "True") -> Any:
    made = {"type": kind, "status": status, "reason": reason, "message": message}
    return made | {"lastTransitionTime": at(since)}


def job(*conditions: Any, deleted: float | None = None, **spec: Any) -> Job:
    meta: dict[str, Any] = {"name": "j", "uid": "job", "creationTimestamp": at(0)}
    if deleted is not None:
        meta["deletionTimestamp"] = at(deleted)
    made = {"metadata": meta, "spec": {"backoffLimit": 0, **spec}}
    return read(Job, made | {"status": {"conditions": list(conditions), "startTime": at(0)}})


def pod(phase: str = "Running", state: Any = None, *conditions: Any, name: str = "p", **more: Any) -> Pod:
    """A pod; `made`, `deleted` and `grace` in seconds, `reason` and `message` of its status, `init` of a container."""
    meta: dict[str, Any] = {"name": name, "uid": name, "creationTimestamp": at(more.pop("made", 1))}
    if "deleted" in more:
        grace = more.pop("grace", 0)
        meta |= {"deletionTimestamp": at(more.pop("deleted") + grace), "deletionGracePeriodSeconds": grace}
    status: dict[str, Any] = {"phase": phase, "conditions": list(conditions)}
    if state is not None:
        status["containerStatuses"] = [{"name": "main", "state": state}]
    if "init" in more:
        status["initContainerStatuses"] = [{"name": "fetch", "state": more.pop("init")}]
    return read(Pod, {"metadata": meta, "spec": {"nodeName": "node-1"}, "status": status | more})


def running(since: float = 2) -> Any:
    return {"running": {"startedAt": at(since)}}


def waiting(reason: str, message: str = "") -> Any:
    return {"waiting": {"reason": reason, "message": message}}


def ended(code: int, reason: str = "", message: str = "", *, finished: float = 10) -> Any:
    made = {"exitCode": code, "reason": reason or ("Completed" if not code else "Error"), "message": message}
    return {"terminated": made | {"startedAt": at(2), "finishedAt": at(finished)}}


def event(reason: str, message: str, *, kind: str = "Job", name: str = "j", number: int = 1) -> Event:
    about = {"kind": kind, "name": name}
    return read(
        Event, {"metadata": {"name": f"e{number}"}, "involvedObject": about, "reason": reason, "message": message}
    )


def seen_of(*things: Any, at_s: float = 10) -> Seen:
    seen = Seen()
    for thing in things:
        match thing:
            case Job():
                seen.see_job(thing, BEGIN_US + round(at_s * SECOND))
            case Pod():
                seen.see_pod(thing, BEGIN_US + round(at_s * SECOND))
            case _:
                seen.see_event(thing, BEGIN_US + round(at_s * SECOND))
    return seen


def ask(seen: Seen, at_s: float = 10, **rules: Any) -> Any:
    return decide(seen, Rules(job="j", **rules), BEGIN_US + round(at_s * SECOND))


def short(answer: Any) -> Any:
    return (answer.kind, answer.reason) if isinstance(answer, Outcome) else answer.phase


SAID_RESULT = seal(Envelope("j", RESULT, [1]))
FAILED = condition("Failed", "BackoffLimitExceeded")
COMPLETE = condition("Complete")


# -- how a pod of a job that has failed ended -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        (pod("Failed", ended(1)), (RETRYABLE, "ExitCode")),
        (pod("Failed", ended(137)), (RETRYABLE, "ExitCode")),
        (pod("Failed", ended(137, "OOMKilled")), (FATAL, "OutOfMemory")),
        (pod("Failed", ended(128, "StartError")), (FATAL, "StartError")),
        (pod("Failed", ended(127, "ContainerCannotRun")), (FATAL, "StartError")),
        (pod("Failed", ended(40)), (FATAL, "ExitCode")),
        (pod("Failed", ended(41)), (INFRASTRUCTURE, "ExitCode")),
        (pod("Failed", waiting("PodInitializing"), init=ended(3)), (RETRYABLE, "ExitCode")),
        (pod("Failed", reason="UnexpectedAdmissionError"), (INFRASTRUCTURE, "AdmissionError")),
        (pod("Failed", reason="OutOfnvidia.com/gpu"), (INFRASTRUCTURE, "AdmissionError")),
        (pod("Failed", reason="NodeAffinity"), (INFRASTRUCTURE, "AdmissionError")),
        (pod("Failed", ended(143), reason="Evicted"), (INFRASTRUCTURE, "Evicted")),
        (pod("Failed", ended(143), reason="NodeShutdown"), (INFRASTRUCTURE, "NodeLost")),
        (pod("Failed", ended(143), reason="Terminated"), (INFRASTRUCTURE, "NodeLost")),
        (pod("Failed", reason="DeadlineExceeded"), (RETRYABLE, "DeadlineExceeded")),
        (pod("Failed"), (INFRASTRUCTURE, "PodGone")),
        (pod("Failed", ended(137, "OOMKilled"), condition("DisruptionTarget", "EvictionByEvictionAPI")),
         (INFRASTRUCTURE, "Evicted")),
        (pod("Failed", ended(1), condition("DisruptionTarget", "PreemptionByKubeScheduler")),
         (INFRASTRUCTURE, "Preempted")),
        (pod("Failed", ended(1), condition("DisruptionTarget", "SomethingNew")), (INFRASTRUCTURE, "Disrupted")),
        (pod("Failed", ended(143), deleted=8, grace=5), (INFRASTRUCTURE, "PodDeleted")),
        (pod("Failed", ended(3, finished=7), deleted=8, grace=5), (RETRYABLE, "ExitCode")),  # it had ended before
    ],
)  # fmt: skip
def test_the_end_of_its_pod_says_why_a_job_failed(failed: Pod, expected: Any) -> None:
    answer = ask(seen_of(job(FAILED), failed), exit_codes={"40": "fatal", "41": "infrastructure"})
    assert short(answer) == expected
    assert (answer.pod, answer.pod_uid, answer.node) == ("p", "p", "node-1")


def test_the_end_of_a_pod_does_not_wait_for_the_job_for_ever() -> None:
    seen = seen_of(job(), pod("Failed", ended(1)))
    assert short(ask(seen, 10)) == "settling"
    assert ask(seen, 10).next_us == BEGIN_US + 15 * SECOND
    assert short(ask(seen, 15)) == (RETRYABLE, "ExitCode")


def test_a_disruption_that_the_pod_itself_reports_needs_no_settling() -> None:
    evicted = pod("Failed", ended(143), condition("DisruptionTarget", "TerminationByKubelet", "low on memory"))
    answer = ask(seen_of(job(), evicted))
    assert short(answer) == (INFRASTRUCTURE, "Evicted")
    assert answer.message == "low on memory"


def test_a_deadline_that_only_the_times_tell_is_no_disruption() -> None:
    seen = seen_of(job(activeDeadlineSeconds=5), pod("Failed", ended(143), deleted=6, grace=30))
    assert short(ask(seen, 15)) == (RETRYABLE, "DeadlineExceeded")
    early = seen_of(job(activeDeadlineSeconds=60), pod("Failed", ended(143), deleted=6, grace=30))
    assert short(ask(early, 15)) == (INFRASTRUCTURE, "PodDeleted")


def test_a_pod_that_vanished_while_it_ran_was_deleted() -> None:
    seen = seen_of(job(), pod("Running", running()))
    seen.lose_pod("p", None, BEGIN_US + 10 * SECOND)
    assert short(ask(seen, 11)) == "settling"
    assert short(ask(seen, 15)) == (INFRASTRUCTURE, "PodDeleted")


def test_a_failed_job_whose_pod_nobody_saw_is_nobodys_fault() -> None:
    seen = seen_of(job(FAILED))
    assert short(ask(seen, 14.9)) == "settling"
    assert short(ask(seen, 15)) == (INFRASTRUCTURE, "PodGone")


def test_the_replacement_of_a_deleted_pod_is_not_the_attempt() -> None:
    first = pod("Failed", ended(143), name="p1", deleted=8)
    second = pod("Running", running(9), name="p2", made=9)
    assert short(ask(seen_of(job(), first, second), 15)) == (INFRASTRUCTURE, "PodDeleted")
    again = seen_of(job(backoffLimit=2), first, second)
    assert short(ask(again, 60)) == "running"
    ignoring = seen_of(job(podFailurePolicy={"rules": [{"action": "Ignore"}]}), first, second)
    assert short(ask(ignoring, 60)) == "running"


# -- what the pod says ------------------------------------------------------------------------------------------------


def said(kind: str, value: Any, name: str = "j") -> str:
    return seal(Envelope(name, kind, value))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (said(RESULT, {"loss": 1}), (SUCCESS, "")),
        ("Epoch 1\nEpoch 2\n" + said(RESULT, 1) + "\n", (SUCCESS, "")),
        (said(RESULT, 1)[:-1], (FATAL, "ResultMissing")),
        (said(RESULT, "x" * 5_000)[:4_096], (FATAL, "ResultMissing")),
        (said(RESULT, 1).replace('"value":1', '"value":2'), (FATAL, "ResultMissing")),
        (said(RESULT, 1, "another"), (FATAL, "ResultMissing")),
        ('{"loss": 1}', (FATAL, "ResultMissing")),
        ("", (FATAL, "ResultMissing")),
        (said(FAILURE, {"type": "Diverged", "message": "nan", "retryable": True}), (RETRYABLE, "Diverged")),
        (said(FAILURE, {"type": "BadInput", "message": "", "retryable": False}), (FATAL, "BadInput")),
        (said(FAILURE, "what"), (RETRYABLE, "JobFailed")),
        (said("something else", 1), (FATAL, "ResultMissing")),
    ],
)
def test_only_a_whole_envelope_of_this_attempt_is_taken(message: str, expected: Any) -> None:
    assert short(ask(seen_of(job(COMPLETE), pod("Succeeded", ended(0, message=message))))) == expected


def test_a_missing_result_names_the_option_that_gpu_job_has() -> None:
    answer = ask(seen_of(job(COMPLETE), pod("Succeeded", ended(0))))
    option, _, value = answer.message.rpartition("or say ")[2].partition("=")
    gpu_job("optional", image="i", result=object, **{option: value.strip("'")})


@pytest.mark.parametrize(("retryable", "expected"), [(True, (INFRASTRUCTURE, "Preempted")), (False, (FATAL, "Bad"))])
def test_a_pod_that_fails_because_it_was_told_to_stop_is_not_to_blame(retryable: bool, expected: Any) -> None:
    message = said(FAILURE, {"type": "Bad", "message": "m", "retryable": retryable})
    target = condition("DisruptionTarget", "PreemptionByScheduler", "make room")
    assert short(ask(seen_of(job(FAILED), pod("Failed", ended(1, message=message), target)))) == expected


def test_a_result_is_taken_before_the_job_is_complete() -> None:
    answer = ask(seen_of(job(), pod("Succeeded", ended(0, message=said(RESULT, [1, 2])))))
    assert (short(answer), answer.value) == ((SUCCESS, ""), [1, 2])


def test_a_delivered_result_that_nobody_knows_is_lost_after_a_minute() -> None:
    seen = seen_of(job(COMPLETE), pod("Succeeded", ended(0, message=said(DELIVERED, "digest"))))
    assert short(ask(seen, 69)) == "settling"
    assert short(ask(seen, 70)) == (INFRASTRUCTURE, "ResultLost")


@pytest.mark.parametrize(
    ("result", "expected"),
    [("required", (INFRASTRUCTURE, "PodGone")), ("optional", (SUCCESS, "")), ("none", (SUCCESS, ""))],
)
def test_a_complete_job_whose_pod_is_gone_has_the_result_that_it_must_have(result: Any, expected: Any) -> None:
    seen = seen_of(job(COMPLETE))
    assert short(ask(seen, 10, result=result)) == ("settling" if result != "none" else expected)
    assert short(ask(seen, 15, result=result)) == expected


def test_a_pod_that_succeeded_without_result_waits_for_its_job_where_none_is_required() -> None:
    target = condition("DisruptionTarget", "EvictionByEvictionAPI")
    seen = seen_of(job(), pod("Succeeded", ended(0), target))
    assert short(ask(seen, 100, result="none")) == "settling"
    assert short(ask(seen, 100, result="required")) == (INFRASTRUCTURE, "Evicted")


# -- deleted, queued, never scheduled ---------------------------------------------------------------------------------


def test_a_deleted_job_is_over_when_it_and_its_pods_are_gone() -> None:
    seen = seen_of(job(deleted=5), pod("Running", running(), deleted=5, grace=30))
    assert short(ask(seen)) == "stopping"
    seen.lose_job(None, BEGIN_US + 6 * SECOND)
    assert short(ask(seen, 60)) == "stopping"
    seen.see_pod(pod("Succeeded", ended(0, message=SAID_RESULT, finished=20), deleted=5, grace=30), BEGIN_US)
    assert short(ask(seen, 60)) == (SUCCESS, "")


def test_a_deleted_job_whose_pod_never_ends_is_given_up() -> None:
    seen = seen_of(job(deleted=5), pod("Running", running(), deleted=5, grace=30))
    seen.lose_job(None, BEGIN_US + 6 * SECOND)
    assert short(ask(seen, 35 + 119)) == "stopping"
    assert short(ask(seen, 35 + 120)) == (RETRYABLE, "JobDeleted")


def test_a_job_that_failed_before_somebody_deleted_it_has_failed() -> None:
    failed = pod("Failed", ended(1))
    before = job(condition("Failed", "BackoffLimitExceeded", since=4), deleted=5)
    after = job(condition("Failed", "BackoffLimitExceeded", since=5), deleted=5)
    assert short(ask(seen_of(before, failed))) == (RETRYABLE, "ExitCode")
    assert short(ask(seen_of(after, failed))) == "stopping"


def test_a_queued_job_waits_and_does_not_fail() -> None:
    suspended = job(condition("Suspended", "JobSuspended"), suspend=True)
    assert short(ask(seen_of(suspended), 10**6)) == "queued"
    late = ask(seen_of(suspended), 3_600, schedule_us=3_600 * SECOND)
    assert short(late) == (RETRYABLE, "ScheduleTimeout")
    assert "queued" in late.message


def test_what_a_queue_took_away_does_not_count() -> None:
    taken = pod("Failed", ended(143), name="p1", deleted=9)
    suspended = job(condition("Suspended", "JobSuspended", since=9), suspend=True)
    seen = seen_of(suspended, taken)
    assert short(ask(seen, 60)) == "queued"
    resumed = job(condition("Suspended", "JobResumed", since=90, status="False"))
    seen.see_job(resumed, BEGIN_US + 90 * SECOND)
    assert short(ask(seen, 91)) == "starting"
    assert short(ask(seen, 90 + 3_599, schedule_us=3_600 * SECOND)) == "starting"
    assert short(ask(seen, 90 + 3_600, schedule_us=3_600 * SECOND)) == (RETRYABLE, "ScheduleTimeout")
    seen.see_pod(pod("Failed", ended(1), name="p2", made=91), BEGIN_US + 95 * SECOND)
    assert short(ask(seen, 101)) == (RETRYABLE, "ExitCode")


@pytest.mark.parametrize(
    ("message", "before", "after"),
    [
        ('pods "j-x" is forbidden: exceeded quota: gpus, requested: nvidia.com/gpu=8', "quota", "quota"),
        ('error looking up service account a/b: serviceaccount "b" not found', "starting", (FATAL, "PodRefused")),
        ('admission webhook "policy" denied the request: no', "starting", (FATAL, "PodRefused")),
    ],
)
def test_a_job_without_a_pod_says_why_by_its_events(message: str, before: str, after: Any) -> None:
    seen = seen_of(job(), event("FailedCreate", f"Error creating: {message}"))
    assert short(ask(seen, 69)) == before
    assert short(ask(seen, 70)) == after
    assert message in ask(seen, 70).message


@pytest.mark.parametrize(
    ("stuck", "limit_s", "expected"),
    [
        (pod("Pending", waiting("ImagePullBackOff", "no such image")), 310, (FATAL, "ImagePull")),
        (pod("Pending", waiting("CreateContainerConfigError", "no such secret")), 70, (FATAL, "ConfigMissing")),
        (pod("Pending", waiting("PodInitializing"), init=waiting("ErrImagePull")), 310, (FATAL, "ImagePull")),
    ],
)
def test_a_container_that_cannot_be_made_has_time_to_become_so(stuck: Pod, limit_s: float, expected: Any) -> None:
    seen = seen_of(job(), stuck)
    assert ask(seen, limit_s - 1).next_us == BEGIN_US + limit_s * SECOND
    assert short(ask(seen, limit_s)) == expected
    seen.see_pod(pod("Running", running(limit_s - 1)), BEGIN_US)
    assert short(ask(seen, limit_s)) == "running"


def test_the_two_reasons_of_an_image_that_cannot_be_pulled_are_one_trouble() -> None:
    seen = seen_of(job(), pod("Pending", waiting("ErrImagePull")))
    seen.see_pod(pod("Pending", waiting("ImagePullBackOff")), BEGIN_US + 200 * SECOND)
    assert short(ask(seen, 310)) == (FATAL, "ImagePull")


def test_an_image_that_has_no_name_is_fatal_at_once() -> None:
    assert short(ask(seen_of(job(), pod("Pending", waiting("InvalidImageName"))))) == (FATAL, "ImagePull")


def test_a_volume_that_is_not_there_has_time_to_appear() -> None:
    lost = event("FailedMount", 'MountVolume.SetUp failed: configmap "x" not found', kind="Pod", name="p")
    seen = seen_of(job(), pod("Pending", waiting("ContainerCreating")), lost)
    assert short(ask(seen, 69)) == "starting"
    assert short(ask(seen, 70)) == (FATAL, "ConfigMissing")
    seen.see_pod(pod("Running", running(60)), BEGIN_US + 60 * SECOND)
    assert short(ask(seen, 70)) == "running"


# -- nodes ------------------------------------------------------------------------------------------------------------


def on_a_node(ready: str, containers: str, since: float = 20) -> Pod:
    return pod(
        "Running",
        running(),
        condition("Ready", status=ready, since=since),
        condition("ContainersReady", status=containers, since=since),
    )


def test_a_node_that_is_silent_for_too_long_is_lost() -> None:
    seen = seen_of(job(), on_a_node("False", "True"))
    assert ask(seen, 139).next_us == BEGIN_US + 140 * SECOND
    assert short(ask(seen, 139)) == "running"
    assert short(ask(seen, 140)) == (INFRASTRUCTURE, "NodeLost")
    seen.see_pod(on_a_node("True", "True", 139), BEGIN_US)
    assert ask(seen, 10_000).next_us is None


def test_a_container_that_is_not_ready_is_no_lost_node() -> None:
    assert short(ask(seen_of(job(), on_a_node("False", "False")), 10_000)) == "running"


def test_heartbeats_push_their_limit_on() -> None:
    seen = seen_of(job(), pod("Running", running(2)))
    assert ask(seen, 10, heartbeat_us=30 * SECOND).next_us == BEGIN_US + 32 * SECOND
    seen.beat_us = BEGIN_US + 20 * SECOND
    assert short(ask(seen, 49, heartbeat_us=30 * SECOND)) == "running"
    late = ask(seen, 50, heartbeat_us=30 * SECOND)
    assert (short(late), late.message) == ((RETRYABLE, "HeartbeatTimeout"), "it gave no heartbeat for 30 s")


def test_who_was_never_heard_is_told_what_heartbeats_need() -> None:
    never = ask(seen_of(job(), pod("Running", running(2))), 32, heartbeat_us=30 * SECOND)
    assert short(never) == (RETRYABLE, "HeartbeatTimeout")
    assert never.message.endswith("and never one: heartbeats need a callback that pods can reach")


def test_pods_alone_decide_nothing_but_a_result() -> None:
    seen = seen_of(pod("Failed", ended(1)))
    assert short(ask(seen, 10_000)) == "submitted"
    seen.see_pod(pod("Failed", ended(1, message=SAID_RESULT)), BEGIN_US)
    assert short(ask(seen)) == (SUCCESS, "")


def test_few_events_are_kept_and_those_are_the_last() -> None:
    seen = seen_of(*(event("Warned", str(number), number=number) for number in range(EVENTS_MAX + 5)))
    seen.see_event(event("Warned", "again", number=7), BEGIN_US)
    assert len(seen.events) == EVENTS_MAX
    assert next(reversed(seen.events.values())).message == "again"
