"""What was seen of one Job: the latest of each object, what is gone, and since when what seems wrong has been so.

A fold of what a watch or a list says. It keeps pods that were deleted, because how they ended is often all that is
known of an attempt; and it dates what the objects do not date themselves, by the caller's clock.
"""

from __future__ import annotations

from typing import Final

from durableflow.kubernetes.documents import ContainerStatus, Event, Job, Pod, us

MAIN: Final = "main"
EVENTS_MAX: Final = 20
_ENDED: Final = frozenset({"Succeeded", "Failed"})
_IMAGE: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "RegistryUnavailable",
        "ImageInspectError",
        "SignatureValidationFailed",
    }
)
_CONFIG: Final = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "PreCreateHookError",
        "PreStartHookError",
    }
)


class SeenPod:
    """One pod.

    Attributes:
        pod: as it was seen last.
        is_gone: it was deleted.
        ended_us: since when it is known to have ended; 0 while it has not.
        trouble: `"image"` or `"config"` while its container cannot be made; else empty.
        trouble_us: since when.
    """

    __slots__ = ("ended_us", "is_gone", "pod", "trouble", "trouble_us")

    def __init__(self, pod: Pod, now_us: int) -> None:
        self.pod = pod
        self.is_gone = False
        self.ended_us = 0
        self.trouble = ""
        self.trouble_us = 0
        self.see(pod, now_us)

    def see(self, pod: Pod, now_us: int) -> None:
        """It was seen as `pod`."""
        self.pod = pod
        if not self.ended_us and pod.status.phase in _ENDED:
            self.ended_us = now_us
        waiting = self.waiting_reason
        trouble = "image" if waiting in _IMAGE else "config" if waiting in _CONFIG else ""
        if trouble != self.trouble:
            self.trouble, self.trouble_us = trouble, now_us

    def lose(self, now_us: int) -> None:
        """It is gone."""
        self.is_gone = True
        self.ended_us = self.ended_us or now_us

    @property
    def main(self) -> ContainerStatus | None:
        """Of the container whose end is the attempt's."""
        return next((each for each in self.pod.status.container_statuses if each.name == MAIN), None)

    @property
    def waiting_reason(self) -> str:
        """Why a container cannot be made; empty when none waits."""
        return self._waiting()[0]

    @property
    def waiting_message(self) -> str:
        """The same in words."""
        return self._waiting()[1]

    def _waiting(self) -> tuple[str, str]:
        if self.ended_us or self.is_gone:
            return "", ""
        for status in (*self.pod.status.init_container_statuses, *self.pod.status.container_statuses):
            waiting = status.state.waiting
            if waiting is not None and (waiting.reason in _IMAGE or waiting.reason in _CONFIG or status.name == MAIN):
                return waiting.reason, waiting.message
        return "", ""

    @property
    def running_since_us(self) -> int:
        """Since when its main container has been running; 0 when it is not."""
        main = self.main
        return 0 if main is None or main.state.running is None else us(main.state.running.started_at)

    @property
    def told_to_stop_us(self) -> int:
        """When somebody deleted it; 0 when nobody has."""
        meta = self.pod.metadata
        return us(meta.deletion_timestamp) - 1_000_000 * (meta.deletion_grace_period_seconds or 0)


class Seen:
    """What is known of one Job; made when first anything of it is seen.

    Attributes:
        job: as it was seen last; None while only its pods were.
        is_gone: it was deleted.
        gone_us: since when that is known.
        finished_us: since when it is known to be Complete or Failed; 0 while it is neither.
        pods: by uid, also those that are gone.
        events: the last ones, by name.
        event_us: when an event was first seen, by its reason.
        beat_us: when the pod last gave a heartbeat; 0 for never.
    """

    __slots__ = ("beat_us", "event_us", "events", "finished_us", "gone_us", "is_gone", "job", "pods")

    def __init__(self) -> None:
        self.job: Job | None = None
        self.is_gone = False
        self.gone_us = 0
        self.finished_us = 0
        self.pods: dict[str, SeenPod] = {}
        self.events: dict[str, Event] = {}
        self.event_us: dict[str, int] = {}
        self.beat_us = 0

    def see_job(self, job: Job, now_us: int) -> None:
        """It was seen as `job`."""
        self.job = job
        if not self.finished_us and any(
            each.type in _FINISHED and each.status == "True" for each in job.status.conditions
        ):
            self.finished_us = now_us

    def lose_job(self, job: Job | None, now_us: int) -> None:
        """It is gone; `job` is what it was at last, if that was told."""
        if job is not None:
            self.see_job(job, now_us)
        if not self.is_gone:
            self.is_gone, self.gone_us = True, now_us

    def see_pod(self, pod: Pod, now_us: int) -> None:
        """A pod of it was seen."""
        known = self.pods.get(pod.metadata.uid)
        if known is None:
            self.pods[pod.metadata.uid] = SeenPod(pod, now_us)
        else:
            known.see(pod, now_us)

    def lose_pod(self, uid: str, pod: Pod | None, now_us: int) -> None:
        """A pod of it is gone; `pod` is what it was at last, if that was told."""
        if pod is not None:
            self.see_pod(pod, now_us)
        known = self.pods.get(uid)
        if known is not None:
            known.lose(now_us)

    def see_event(self, event: Event, now_us: int) -> None:
        """An event about it, or a pod of it."""
        self.events.pop(event.metadata.name, None)
        self.events[event.metadata.name] = event
        if len(self.events) > EVENTS_MAX:
            del self.events[next(iter(self.events))]
        self.event_us.setdefault(event.reason, now_us)

    @property
    def live_pods(self) -> list[SeenPod]:
        """Those that have not ended, the newest first."""
        return sorted((each for each in self.pods.values() if not each.ended_us), key=_created_us, reverse=True)

    @property
    def ended_pods(self) -> list[SeenPod]:
        """Those that have, the oldest first: an attempt is its first pod."""
        return sorted((each for each in self.pods.values() if each.ended_us), key=_created_us)


_FINISHED: Final = frozenset({"Complete", "SuccessCriteriaMet", "Failed", "FailureTarget"})


def _created_us(seen: SeenPod) -> tuple[int, int]:
    return us(seen.pod.metadata.creation_timestamp), seen.ended_us
