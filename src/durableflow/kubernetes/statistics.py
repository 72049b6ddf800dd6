"""What was counted: for metrics, and for people who wonder."""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

import msgspec

from durableflow.kubernetes.board import Case
from durableflow.kubernetes.documents import us
from durableflow.kubernetes.identity import Identity
from durableflow.kubernetes.outcome import Outcome
from durableflow.observe import facts

_US: Final = 1_000_000
UNWANTED: Final = "unwanted"
"""What became of a Job whose attempt nobody wanted to come to an end."""


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
        gpu_seconds: `run_s` times GPUs, by activity, with Jobs that nobody wanted any more.
        workflow_gpu_seconds: the same by workflow; an instance that is gone has none.
        jobs_silent_s, pods_silent_s: age of what is known: since when each watch has said nothing.
        lists: how often both were listed.
        relists: how often that was because a watch had broken.
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
    workflow_gpu_seconds: dict[str, float]
    jobs_silent_s: float
    pods_silent_s: float
    lists: int
    relists: int
    api_errors: int


class Spent(NamedTuple):
    """What the pods of a Job have taken, in microseconds."""

    queue_wait_us: int = 0
    run_us: int = 0
    gpu_us: int = 0


def spent_by(case: Case, now_us: int) -> Spent:
    """Of all pods that ran, for each of them was paid for."""
    created_us = us(case.seen.job.metadata.creation_timestamp) if case.seen.job is not None else 0
    waited_us = ran_us = 0
    for pod in case.seen.pods.values():
        state = None if pod.main is None else pod.main.state
        if state is None or (state.running is None and state.terminated is None):
            continue
        ended = state.terminated
        began_us = pod.running_since_us or us(ended.started_at if ended is not None else None)
        until_us = us(ended.finished_at) if ended is not None else pod.ended_us or now_us
        if began_us:
            ran_us += max(0, until_us - began_us)
            waited_us += max(0, began_us - created_us) if created_us else 0
    return Spent(waited_us, ran_us, ran_us * case.rules.gpus)


class Tally:
    """Counts, and tells facts.

    Args:
        tell: told each of them.
    """

    def __init__(self, tell: facts.Listener) -> None:
        self._tell = tell
        self.submitted = 0
        self.adopted = 0
        self.deleted = 0
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.queue_wait_us = 0
        self.run_us = 0
        self._activity_gpu_us: Counter[str] = Counter()
        self._workflow_gpu_us: Counter[str] = Counter()

    def sent(self, identity: Identity, *, is_adopted: bool) -> None:
        """The Job of an attempt is there."""
        self.adopted += is_adopted
        self.submitted += not is_adopted
        self._tell(facts.JobSent(identity.name, identity.instance_id, identity.activity, is_adopted))

    def ended(self, identity: Identity, workflow: str, outcome: Outcome, spent: Spent = Spent()) -> None:  # noqa: B008  # it is a tuple
        """An attempt has its end."""
        self.outcomes[outcome.kind.value] += 1
        if outcome.reason:
            self.reasons[outcome.reason] += 1
        self._note(identity, workflow, outcome.kind.value, outcome.reason, spent)

    def dropped(self, identity: Identity, workflow: str, spent: Spent) -> None:
        """Nobody wanted its result any more, and it is gone."""
        self._note(identity, workflow, UNWANTED, "", spent)

    def _note(self, identity: Identity, workflow: str, outcome: str, reason: str, spent: Spent) -> None:
        self.queue_wait_us += spent.queue_wait_us
        self.run_us += spent.run_us
        self._activity_gpu_us[identity.activity] += spent.gpu_us
        if workflow:
            self._workflow_gpu_us[workflow] += spent.gpu_us
        self._tell(
            facts.JobEnded(identity.name, identity.instance_id, workflow, identity.activity, outcome, reason, *spent)
        )

    def gpu_seconds(self) -> dict[str, float]:
        """By activity."""
        return {name: spent / _US for name, spent in self._activity_gpu_us.items()}

    def workflow_gpu_seconds(self) -> dict[str, float]:
        """By workflow."""
        return {name: spent / _US for name, spent in self._workflow_gpu_us.items()}
