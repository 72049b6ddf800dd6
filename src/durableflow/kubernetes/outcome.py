"""What becomes of an attempt: a function of what was seen of its Job, the rules and the time.

Rule 1. It is decided by conditions, states and reasons, never by counters.
Rule 2. It may answer "not yet" as often as it likes; what it has decided, nothing that is seen later contradicts.
Rule 3. What nobody will ever report is ended by a timer; `Pending.next_us` says when to ask again.
Rule 4. The first valid answer of the pod wins over whatever happened to its Job.
Rule 5. An attempt is the first pod of its Job, unless the Job itself may have several.

A pod that was deleted does not say why: it was preempted, evicted or deleted by hand, or its Job has passed a deadline
or was suspended. The Job says that, but on another watch and later; so the end of such a pod has to settle.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final, cast

import msgspec

from durableflow.kubernetes.documents import Condition, Job, Terminated, condition, us
from durableflow.kubernetes.envelope import DELIVERED, FAILURE, RESULT, Envelope, stored_in, unseal
from durableflow.kubernetes.seen import Seen, SeenPod
from durableflow.kubernetes.spec import Rules, Verdict

SETTLE_US: Final = 5_000_000
"""How long the end of a pod waits for its reason: controllers need one to two seconds."""
_DELIVERY_US: Final = 60_000_000
"""How long a result that was delivered may take to be known here."""


class Kind(StrEnum):
    """What follows."""

    SUCCESS = "success"
    INFRASTRUCTURE = "infrastructure"
    """Nobody's fault: another attempt, on a budget of its own."""
    RETRYABLE = "retryable"
    """The retry policy decides."""
    FATAL = "fatal"
    """The same would happen again."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of an attempt.

    Attributes:
        reason: one word, the type name of the failure: `OutOfMemory`, `Preempted`, or the pod's own.
        value: of a success: the result, or a `Stored` that says which one it is.
        exit_code: of the main container, if it ended by itself.
        node: where the pod was.
        pod, pod_uid: which it was; empty without one.
    """

    kind: Kind
    reason: str = ""
    message: str = ""
    value: Any = None
    exit_code: int | None = None
    node: str = ""
    pod: str = ""
    pod_uid: str = ""


class Pending(msgspec.Struct, frozen=True):
    """Not yet.

    Attributes:
        phase: `submitted`, `queued`, `quota`, `unschedulable`, `starting`, `running`, `stopping` or `settling`.
        message: what it waits for, in words.
        next_us: when to ask again if nothing more is seen; None for then only.
    """

    phase: str
    message: str = ""
    next_us: int | None = None


Answer = Outcome | Pending


def decide(seen: Seen, rules: Rules, now_us: int) -> Answer:
    """What became of the attempt whose Job was seen so."""
    case = _Case(seen, rules, now_us)
    for rule in _RULES:
        answer = rule(case)
        if answer is not None:
            return answer
    return _without_pods(case)


class _Case:
    """What the rules ask again and again."""

    def __init__(self, seen: Seen, rules: Rules, now_us: int) -> None:
        self.seen = seen
        self.rules = rules
        self.now_us = now_us
        self.job = seen.job
        resumed = None if self.job is None else _any_condition(self.job, "Suspended")
        self.resumed_us = us(resumed.last_transition_time) if resumed and resumed.status == "False" else 0
        self.ended = [each for each in seen.ended_pods if not self._is_of_before(each)]
        self.live = seen.live_pods

    def _is_of_before(self, pod: SeenPod) -> bool:
        """Whether a queue took it away again: it does not count."""
        return bool(self.resumed_us and pod.told_to_stop_us and pod.told_to_stop_us <= self.resumed_us)

    @property
    def the_job(self) -> Job:
        assert self.job is not None  # the rules that ask stand behind the one that is about this
        return self.job

    @property
    def replaces_pods(self) -> bool:
        """Whether the Job itself may begin another pod, which then counts."""
        spec = self.the_job.spec
        policy = spec.pod_failure_policy
        return spec.backoff_limit > 0 or (policy is not None and any(rule.action == "Ignore" for rule in policy.rules))

    def unless_settled(self, since_us: int) -> Pending | None:
        until_us = since_us + SETTLE_US
        return None if self.now_us >= until_us else Pending("settling", "how its pod ended is not known yet", until_us)

    def unless_scheduled_too_late(self, phase: str, message: str, next_us: int | None = None) -> Answer:
        """It waits for a node or for its turn, as long as that is allowed."""
        if self.rules.schedule_us:
            since_us = max(us(self.the_job.metadata.creation_timestamp), self.resumed_us)
            until_us = since_us + self.rules.schedule_us
            if self.now_us >= until_us:
                text = f"no container was running {self.rules.schedule_us / 1e6:g} s after the Job was created"
                return Outcome(Kind.RETRYABLE, "ScheduleTimeout", f"{text} ({phase}: {message})" if message else text)
            next_us = until_us if next_us is None else min(next_us, until_us)
        return Pending(phase, message, next_us)

    def of(self, pod: SeenPod | None, kind: Kind, reason: str, message: str, **more: Any) -> Outcome:
        """An outcome with what is known of the pod."""
        if pod is None:
            return Outcome(kind, reason, message, **more)
        ended = _terminated(pod)
        return Outcome(
            kind,
            reason,
            message,
            exit_code=None if ended is None else ended.exit_code,
            node=pod.pod.spec.node_name,
            pod=pod.pod.metadata.name,
            pod_uid=pod.pod.metadata.uid,
            **more,
        )


# -- what the pod says ------------------------------------------------------------------------------------------------


def _answered(case: _Case) -> Answer | None:
    for pod in (*case.seen.ended_pods, *case.live):
        ended = _terminated(pod)
        envelope = None if ended is None else unseal(ended.message)
        if ended is None or envelope is None or envelope.job != case.rules.job:
            continue
        said = _said(case, pod, envelope)
        if said is not None:
            return said
        if envelope.kind == DELIVERED:
            until_us = max(pod.ended_us, us(ended.finished_at)) + _DELIVERY_US
            if case.now_us < until_us:
                return Pending("settling", "its result was delivered, and is not known here yet", until_us)
            text = "the pod says that its result was delivered, but nobody knows it"
            return case.of(pod, Kind.INFRASTRUCTURE, "ResultLost", text)
    return None


def answer_of(seen: Seen, rules: Rules, pod_uid: str, envelope: Envelope) -> Outcome | None:
    """What a pod says in another way than its termination message; None for what is no answer."""
    return _said(_Case(seen, rules, 0), seen.pods.get(pod_uid), envelope)


def _said(case: _Case, pod: SeenPod | None, envelope: Envelope) -> Outcome | None:
    if envelope.kind == RESULT:
        return case.of(pod, Kind.SUCCESS, "", "", value=envelope.value)
    stored = stored_in(envelope)
    if stored is not None:
        return case.of(pod, Kind.SUCCESS, "", "", value=stored)
    return _said_failed(case, pod, envelope) if envelope.kind == FAILURE else None


def _said_failed(case: _Case, pod: SeenPod | None, envelope: Envelope) -> Outcome:
    value: object = envelope.value
    said = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    name, message = str(said.get("type") or "JobFailed"), str(said.get("message") or "")
    if not said.get("retryable", True):
        return case.of(pod, Kind.FATAL, name, message)
    disruption = None if pod is None else _disruption(pod)
    if disruption is not None:  # it was told to stop, and says so
        return case.of(pod, Kind.INFRASTRUCTURE, disruption[0], f"{disruption[1]}; the pod said {name}: {message}")
    return case.of(pod, Kind.RETRYABLE, name, message)


def _not_seen(case: _Case) -> Answer | None:
    return Pending("submitted", "its Job was not seen yet") if case.job is None else None


# -- what the Job says ------------------------------------------------------------------------------------------------


def _complete(case: _Case) -> Answer | None:
    if condition(case.the_job, "Complete") is None and condition(case.the_job, "SuccessCriteriaMet") is None:
        return None
    pod = next((each for each in reversed(case.ended) if each.pod.status.phase == "Succeeded"), None)
    if case.rules.result == "none":
        return case.of(pod, Kind.SUCCESS, "", "")
    if pod is None:
        wait = case.unless_settled(case.seen.finished_us)
        if wait is not None:
            return wait
        if case.rules.result == "optional":
            return Outcome(Kind.SUCCESS)
        return Outcome(
            Kind.INFRASTRUCTURE, "PodGone", "its Job is complete, but its pod is gone and its result with it"
        )
    if case.rules.result == "optional":
        return case.of(pod, Kind.SUCCESS, "", "")
    return _without_result(case, pod)


def _without_result(case: _Case, pod: SeenPod) -> Outcome:
    """It has exited with 0, and a result was required."""
    disruption = _disruption(pod)
    if disruption is not None:
        return case.of(pod, Kind.INFRASTRUCTURE, disruption[0], f"{disruption[1]}; it exited with 0 and left no result")
    text = "the pod exited with 0 but left no result: call runtime.complete(), or say result_mode='optional'"
    return case.of(pod, Kind.FATAL, "ResultMissing", text)


def _failed(case: _Case) -> Answer | None:
    job = case.the_job
    verdict = condition(job, "FailureTarget") or condition(job, "Failed")
    if verdict is None or _was_deleted_before(job, verdict):
        return None
    stopping = _stopping(case)
    if stopping is not None:
        return stopping
    pod = case.ended[-1] if case.ended else None
    if pod is None or case.replaces_pods:  # the watch of pods may be behind
        wait = case.unless_settled(case.seen.finished_us)
        if wait is not None:
            return wait
    if verdict.reason == "DeadlineExceeded":
        return case.of(pod, Kind.RETRYABLE, "DeadlineExceeded", verdict.message)
    if pod is None:
        text = f"its Job has failed ({verdict.reason}: {verdict.message}), but its pod is gone"
        return Outcome(Kind.INFRASTRUCTURE, "PodGone", text)
    return _ended(case, pod)


def _deleted(case: _Case) -> Answer | None:
    job = case.the_job
    if not case.seen.is_gone and job.metadata.deletion_timestamp is None:
        return None
    if not case.seen.is_gone:
        return Pending("stopping", "somebody has deleted its Job")
    stopping = _stopping(case)
    if stopping is not None:
        return stopping
    wait = case.unless_settled(case.seen.gone_us)  # its pods are on another watch
    return wait or Outcome(Kind.RETRYABLE, "JobDeleted", "somebody deleted its Job before it had a result")


def _was_deleted_before(job: Job, verdict: Condition) -> bool:
    deleted_us = us(job.metadata.deletion_timestamp)
    return bool(deleted_us and deleted_us <= us(verdict.last_transition_time))


def _stopping(case: _Case) -> Pending | None:
    """Pods that still have time to bring a result."""
    limits = [_stops_by_us(each, case) for each in case.live]
    until_us = max(limits, default=0)
    return Pending("stopping", "its pod has time to end", until_us) if case.now_us < until_us else None


def _stops_by_us(pod: SeenPod, case: _Case) -> int:
    told_us = us(pod.pod.metadata.deletion_timestamp) or case.seen.finished_us or case.seen.gone_us
    return told_us + case.rules.node_lost_us


def _queued(case: _Case) -> Answer | None:
    job = case.the_job
    if not job.spec.suspend and condition(job, "Suspended") is None:
        return None
    return case.unless_scheduled_too_late("queued", "its Job is suspended by its queue")


# -- what the pods say ------------------------------------------------------------------------------------------------


def _pod_ended(case: _Case) -> Answer | None:
    if not case.ended or case.replaces_pods:
        return None
    pod = case.ended[0]
    succeeded = pod.pod.status.phase == "Succeeded"
    if succeeded and case.rules.result != "required":
        return Pending("settling", "its pod has succeeded, its Job is not complete yet")
    if _disruption_target(pod) is None:
        wait = case.unless_settled(pod.ended_us)
        if wait is not None:
            return wait
    return _without_result(case, pod) if succeeded else _ended(case, pod)


def _ended(case: _Case, pod: SeenPod) -> Outcome:
    """Why a pod ended that has not succeeded."""
    status, ended = pod.pod.status, _terminated(pod)
    job = case.the_job
    disruption = _disruption(pod, case.seen)
    if disruption is not None:
        limit_us = (job.spec.active_deadline_seconds or 0) * 1_000_000
        if disruption[0] == "PodDeleted" and limit_us and pod.told_to_stop_us >= us(job.status.start_time) + limit_us:
            return case.of(pod, Kind.RETRYABLE, "DeadlineExceeded", "it was active longer than active_deadline")
        return case.of(pod, Kind.INFRASTRUCTURE, *disruption)
    if ended is None:
        ended = _failed_init(pod)
    if ended is None:
        if status.reason == "DeadlineExceeded":
            return case.of(pod, Kind.RETRYABLE, "DeadlineExceeded", status.message)
        text = f"its pod failed and does not say how: {status.reason} {status.message}".rstrip()
        return case.of(pod, Kind.INFRASTRUCTURE, "PodGone", text)
    if ended.reason == "OOMKilled":
        return case.of(pod, Kind.FATAL, "OutOfMemory", "the container used more memory than its limit")
    if ended.reason in _CANNOT_START:
        return case.of(pod, Kind.FATAL, "StartError", f"the container could not be started: {ended.message}")
    if ended.exit_code == 0:
        return _without_result(case, pod)
    verdict: Verdict = case.rules.exit_codes.get(str(ended.exit_code), "retryable")
    text = f"the container exited with {ended.exit_code}"
    return case.of(pod, Kind(verdict), "ExitCode", f"{text}: {ended.message}" if ended.message else text)


_CANNOT_START: Final = frozenset({"ContainerCannotRun", "StartError"})
_TARGETS: Final = {
    "PreemptionByScheduler": "Preempted",
    "PreemptionByKubeScheduler": "Preempted",
    "EvictionByEvictionAPI": "Evicted",
    "DeletionByTaintManager": "NodeLost",
    "DeletionByPodGC": "NodeLost",
    "TerminationByKubelet": "Evicted",
}
"""Reasons of the condition `DisruptionTarget`."""
_REASONS: Final = {
    "Evicted": "Evicted",
    "Preempting": "Preempted",
    "NodeLost": "NodeLost",
    "NodeShutdown": "NodeLost",
    "Shutdown": "NodeLost",
    "Terminated": "NodeLost",
    "NodeAffinity": "AdmissionError",
    "UnexpectedAdmissionError": "AdmissionError",
    "UnexpectedError": "AdmissionError",
}
"""Reasons in the status of a pod that its kubelet gave up; also those that begin with `OutOf`."""
_EVENTS: Final = {
    "Preempted": "Preempted",
    "Evicted": "Evicted",
    "TaintManagerEviction": "NodeLost",
    "NodeNotReady": "NodeLost",
}
"""Reasons of events about a pod that was deleted, where the server knows no `DisruptionTarget`."""


def _disruption_target(pod: SeenPod) -> tuple[str, str] | None:
    """What the pod itself says of having been taken away."""
    target = condition(pod.pod, "DisruptionTarget")
    if target is not None:
        return _TARGETS.get(target.reason, "Disrupted"), target.message
    status = pod.pod.status
    if status.phase == "Failed" and (status.reason in _REASONS or status.reason.startswith("OutOf")):
        return _REASONS.get(status.reason, "AdmissionError"), status.message
    return None


def _disruption(pod: SeenPod, seen: Seen | None = None) -> tuple[str, str] | None:
    """Reason and words for a pod that was taken away, None for one that ended by itself."""
    target = _disruption_target(pod)
    if target is not None:
        return target
    ended = _terminated(pod)
    told_us = pod.told_to_stop_us
    was_told = bool(told_us) and (ended is None or ended.finished_at is None or told_us <= us(ended.finished_at))
    if not was_told and not (pod.is_gone and ended is None):
        return None
    for event in () if seen is None else reversed(seen.events.values()):
        if event.reason in _EVENTS and event.involved_object.name == pod.pod.metadata.name:
            return _EVENTS[event.reason], event.message
    return "PodDeleted", "its pod was deleted"


def _terminated(pod: SeenPod) -> Terminated | None:
    main = pod.main
    return None if main is None else main.state.terminated


def _failed_init(pod: SeenPod) -> Terminated | None:
    states = (each.state.terminated for each in pod.pod.status.init_container_statuses)
    return next((each for each in states if each is not None and each.exit_code), None)


# -- what nobody will report --------------------------------------------------------------------------------


def _alive(case: _Case) -> Answer | None:
    """A pod that has not ended: the first, or the latest where several count."""
    if not case.live:
        return None
    pod = case.live[0] if case.replaces_pods else case.live[-1]
    if pod.pod.metadata.deletion_timestamp is not None:
        until_us = _stops_by_us(pod, case)
        if case.now_us < until_us:
            return Pending("stopping", "its pod has time to end", until_us)
        return case.of(pod, Kind.INFRASTRUCTURE, "NodeLost", "its pod did not end when it was told to stop")
    return _running(case, pod) if pod.running_since_us else _starting(case, pod)


def _running(case: _Case, pod: SeenPod) -> Answer:
    limits: list[int] = []
    silent_us = _silent_since_us(pod)
    if silent_us:
        limits.append(silent_us + case.rules.node_lost_us)
        if case.now_us >= limits[-1]:
            text = f"its node has been silent for {case.rules.node_lost_us / 1e6:g} s"
            return case.of(pod, Kind.INFRASTRUCTURE, "NodeLost", text)
    if case.rules.heartbeat_us:
        limits.append(max(case.seen.beat_us, pod.running_since_us) + case.rules.heartbeat_us)
        if case.now_us >= limits[-1]:
            text = f"it gave no heartbeat for {case.rules.heartbeat_us / 1e6:g} s"
            if not case.seen.beat_us:
                text += ", and never one: heartbeats need a callback that pods can reach"
            return case.of(pod, Kind.RETRYABLE, "HeartbeatTimeout", text)
    return Pending("running", "its node is silent" if silent_us else "", min(limits, default=None))


def _silent_since_us(pod: SeenPod) -> int:
    """Since when its node says nothing: only then is a pod not ready whose containers are."""
    ready, containers = _any_condition(pod.pod, "Ready"), _any_condition(pod.pod, "ContainersReady")
    if ready is None or containers is None or ready.status == "True" or containers.status != "True":
        return 0
    return us(ready.last_transition_time)


def _starting(case: _Case, pod: SeenPod) -> Answer:
    reason, message = pod.waiting_reason, pod.waiting_message
    if reason == "InvalidImageName":
        return case.of(pod, Kind.FATAL, "ImagePull", message or reason)
    if pod.trouble:
        is_image = pod.trouble == "image"
        until_us = pod.trouble_us + (case.rules.image_us if is_image else case.rules.config_us)
        if case.now_us >= until_us:
            return case.of(pod, Kind.FATAL, "ImagePull" if is_image else "ConfigMissing", f"{reason}: {message}")
        return case.unless_scheduled_too_late("starting", f"{reason}: {message}", until_us)
    mount = next((each for each in case.seen.events.values() if each.reason == "FailedMount"), None)
    if mount is not None and "not found" in mount.message:
        until_us = case.seen.event_us["FailedMount"] + case.rules.config_us
        if case.now_us >= until_us:
            return case.of(pod, Kind.FATAL, "ConfigMissing", mount.message)
        return case.unless_scheduled_too_late("starting", mount.message, until_us)
    scheduled = _any_condition(pod.pod, "PodScheduled")
    if scheduled is not None and scheduled.status == "False":
        return case.unless_scheduled_too_late("unschedulable", scheduled.message)
    return case.unless_scheduled_too_late("starting", reason)


def _without_pods(case: _Case) -> Answer:
    refused = next((each for each in reversed(case.seen.events.values()) if each.reason == "FailedCreate"), None)
    if refused is None:
        return case.unless_scheduled_too_late("starting", "its Job has no pod yet")
    if "exceeded quota" in refused.message:
        return case.unless_scheduled_too_late("quota", refused.message)
    until_us = case.seen.event_us["FailedCreate"] + case.rules.config_us
    if case.now_us >= until_us:
        return Outcome(Kind.FATAL, "PodRefused", refused.message)
    return case.unless_scheduled_too_late("starting", refused.message, until_us)


def _any_condition(of: Any, kind: str) -> Condition | None:
    """A condition, whether it holds or not."""
    return next((each for each in of.status.conditions if each.type == kind), None)


_RULES: Final[tuple[Callable[[_Case], Answer | None], ...]] = (
    _answered,
    _not_seen,
    _complete,
    _failed,
    _deleted,
    _queued,
    _pod_ended,
    _alive,
)
"""The first that has an answer."""
