"""What was counted: for metrics, and for people who wonder."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from durableflow.kubernetes.board import Case
from durableflow.kubernetes.documents import us
from durableflow.kubernetes.outcome import Outcome

_US: Final = 1_000_000


class JobStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What one `KubernetesJobs` has done and seen since it was opened.

    Attributes:
        submitted, adopted: Jobs that its attempts created, and that they found.
        outcomes: attempts that it ended, by kind.
        reasons: failures among them, by reason.
        deleted: Jobs that it asked the server to delete.
        waiting: Jobs in the cluster whose attempt is open, by phase.
        queue_wait_s, run_s: sums over the attempts that ended here: from the Job's creation until its container ran,
            and from then on.
        gpu_seconds: `run_s` times GPUs, by activity.
        jobs_silent_s, pods_silent_s: age of what is known: since when each watch has said nothing.
        lists: how often both were listed.
        api_errors: requests without an answer, or with one that was an error.
    """

    submitted: int
    adopted: int
    outcomes: dict[str, int]
    reasons: dict[str, int]
    deleted: int
    waiting: dict[str, int]
    queue_wait_s: float
    run_s: float
    gpu_seconds: dict[str, float]
    jobs_silent_s: float
    pods_silent_s: float
    lists: int
    api_errors: int


class Tally:
    """Counts."""

    def __init__(self) -> None:
        self.submitted = 0
        self.adopted = 0
        self.deleted = 0
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.queue_wait_us = 0
        self.run_us = 0
        self.gpu_us: Counter[str] = Counter()

    def count(self, case: Case, outcome: Outcome, now_us: int) -> None:
        """An attempt was ended."""
        self.outcomes[outcome.kind.value] += 1
        if outcome.reason:
            self.reasons[outcome.reason] += 1
        created_us = us(case.seen.job.metadata.creation_timestamp) if case.seen.job is not None else 0
        for pod in case.seen.pods.values():
            state = None if pod.main is None else pod.main.state
            if state is None or (state.running is None and state.terminated is None):
                continue
            ended = state.terminated
            began_us = pod.running_since_us or us(ended.started_at if ended is not None else None)
            until_us = us(ended.finished_at) if ended is not None else now_us
            if began_us:
                ran_us = max(0, until_us - began_us)
                self.queue_wait_us += max(0, began_us - created_us) if created_us else 0
                self.run_us += ran_us
                if case.identity is not None:
                    self.gpu_us[case.identity.activity] += ran_us * case.rules.gpus

    def gpu_seconds(self) -> dict[str, float]:
        """By activity."""
        return {name: spent / _US for name, spent in self.gpu_us.items()}
