"""All Jobs of a deployment in one namespace, as two informers tell of them, and who has to look at which when."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from durableflow.kubernetes.documents import Job, Pod, job_of
from durableflow.kubernetes.identity import Identity, identity_of, rules_in
from durableflow.kubernetes.seen import Seen
from durableflow.kubernetes.spec import Rules

_GONE_US: Final = 600_000_000
"""How long a Job that is gone is remembered, for one whose attempt cannot be ended yet."""


class Case:
    """One Job.

    Attributes:
        name, uid: of it; the uid is empty while only pods of it were seen.
        identity: whose it is; None while that is not known, and for Jobs that are not ours.
        rules: by which it is judged.
        seen: what is known of it.
        is_unwanted: nobody waits for it any more: it is to be gone.
        is_dropped: so was said to this process, while the attempt was open.
        is_closed: its attempt has its end.
        is_ours_to_clean: this process has deleted it.
        asked_to_go_s: when it last asked for that, on the clock of the loop.
        tries: how often what is to be done did not work, in a row.
        events_us: when its events were last asked for.
        phase: what it waits for.
        answer: digest of what a pod said over HTTP, if that ended the attempt.
        token: digest of the token that its pod has shown, once it was compared with the store's.
    """

    __slots__ = (
        "alarm", "answer", "asked_to_go_s", "events_us", "identity", "is_closed", "is_dropped", "is_ours_to_clean",
        "is_unwanted", "name", "phase", "rules", "seen", "token", "tries", "uid",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.uid = ""
        self.identity: Identity | None = None
        self.rules = Rules(job=name)
        self.seen = Seen()
        self.is_unwanted = False
        self.is_dropped = False
        self.is_ours_to_clean = False
        self.asked_to_go_s = -math.inf
        self.is_closed = False
        self.tries = 0
        self.events_us = 0
        self.phase = "submitted"
        self.answer = b""
        self.token = ""
        self.alarm: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        """Whether it may be forgotten."""
        return self.seen.is_gone and (self.is_closed or self.is_unwanted)


class Board:
    """The table of cases.

    Args:
        now_us: the time.
        changed: called with each case of which there is news.
    """

    def __init__(self, now_us: Callable[[], int], changed: Callable[[Case], None]) -> None:
        self._now_us = now_us
        self._changed = changed
        self.cases: dict[str, Case] = {}
        self._by_task: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
        self._by_uid: dict[str, str] = {}
        """Names of Jobs by their uid, and by that of their pods."""

    def of(self, name: str) -> Case:
        """The case of that name; a new one if it is not known."""
        case = self.cases.get(name)
        if case is None:
            case = self.cases[name] = Case(name)
        return case

    def of_task(self, instance_id: str, task: int) -> list[Case]:
        """The cases of one activity."""
        return [self.cases[name] for name in self._by_task.get((instance_id, task), ())]

    def of_instance(self, instance_id: str) -> list[Case]:
        """The cases of one instance."""
        return [case for case in self.cases.values() if case.identity and case.identity.instance_id == instance_id]

    def expect(self, identity: Identity, rules: Rules) -> Case:
        """An attempt is about to send this Job."""
        case = self.of(identity.name)
        if case.seen.is_gone and case.uid:  # of an attempt before, which was lost
            self.forget(case)
            case = self.of(identity.name)
        self._identify(case, identity)
        case.rules = rules
        return case

    def forget(self, case: Case) -> None:
        """It is over."""
        if self.cases.get(case.name) is not case:
            return
        del self.cases[case.name]
        if case.alarm is not None:
            case.alarm.cancel()
        if case.identity is not None:
            key = (case.identity.instance_id, case.identity.task)
            self._by_task[key].discard(case.name)
            if not self._by_task[key]:
                del self._by_task[key]
        for uid in (case.uid, *case.seen.pods):
            self._by_uid.pop(uid, None)

    def forget_old(self) -> None:
        """Those that are gone for long, and pods of no Job that is known."""
        before_us = self._now_us() - _GONE_US
        for case in list(self.cases.values()):
            is_old = case.seen.is_gone and case.seen.gone_us < before_us
            is_empty = not case.uid and case.identity is None and not case.seen.live_pods
            if is_old or is_empty:
                self.forget(case)

    def _identify(self, case: Case, identity: Identity) -> None:
        if case.identity is None:
            case.identity = identity
            self._by_task[identity.instance_id, identity.task].add(case.name)

    # -- what informers tell --------------------------------------------------------------------------------

    def see_job(self, job: Job) -> None:
        """It is there, or has changed."""
        name, uid = job.metadata.name, job.metadata.uid
        case = self.cases.get(name)
        if case is not None and case.uid not in ("", uid):  # another one of the same name
            self.forget(case)
        case = self.of(name)
        case.uid = uid
        self._by_uid[uid] = name
        identity = identity_of(job)
        if identity is not None:
            self._identify(case, identity)
            case.rules = rules_in(job)
        case.seen.see_job(job, self._now_us())
        self._changed(case)

    def lose_job(self, uid: str, job: Job | None) -> None:
        """It is gone."""
        name = self._by_uid.get(uid)
        case = None if name is None else self.cases.get(name)
        if case is not None and case.uid == uid:
            case.seen.lose_job(job, self._now_us())
            self._changed(case)

    def see_pod(self, pod: Pod) -> None:
        """It is there, or has changed."""
        name, uid = job_of(pod)
        if not name:
            return
        case = self.of(name)
        if case.uid and uid and case.uid != uid:
            return
        self._by_uid[pod.metadata.uid] = name
        case.seen.see_pod(pod, self._now_us())
        self._changed(case)

    def lose_pod(self, uid: str, pod: Pod | None) -> None:
        """It is gone."""
        name = self._by_uid.get(uid)
        case = None if name is None else self.cases.get(name)
        if case is not None:
            case.seen.lose_pod(uid, pod, self._now_us())
            self._changed(case)
