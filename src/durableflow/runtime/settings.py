"""What can be set on an engine, with the defaults that users see."""

from __future__ import annotations

import msgspec

from durableflow.model.converter import PAYLOAD_LIMIT_BYTES


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds and times of an engine.

    Attributes:
        payload_limit_bytes: no stored value may be larger.
        history_soft_limit: events in one history after which a warning is told.
        history_hard_limit: events in one history above which the instance stalls.
        activity_concurrency: how many asynchronous attempts run at once.
        activity_threads: how many attempts of plain functions run at once, each in a thread.
        queue_concurrency: how many tasks of each queue are taken at once by one engine, unless `Engine(queues={...})`
            says so for the queue. Their attempts have places of their own: as many as the two bounds above say.
        cached_instances: how many idle instances stay in memory; others are replayed when needed.
        turns_per_commit: the most turns that one commit holds.
        lease_s: after so many seconds without a sign of life another worker takes over.
        grace_s: how long a closing engine waits for running attempts.
        turn_warn_s: a turn that blocks the loop longer is reported with its line.
        turn_limit_s: a turn that blocks the loop longer is stopped and its instance stalls; 0 for never.
        commit_retries: how often a commit that the store refused is tried again, with growing waits.
        check_replay: replay every instance after its turns and compare; for tests. A difference is raised
            to whoever waits for its end, and stalls the instance if it is not over.
    """

    payload_limit_bytes: int = PAYLOAD_LIMIT_BYTES
    history_soft_limit: int = 50_000
    history_hard_limit: int = 500_000
    activity_concurrency: int = 2_048
    activity_threads: int = 32
    queue_concurrency: int = 100
    cached_instances: int = 10_000
    turns_per_commit: int = 1_000
    lease_s: float = 10.0
    grace_s: float = 5.0
    turn_warn_s: float = 1.0
    turn_limit_s: float = 10.0
    commit_retries: int = 6
    check_replay: bool = False

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            zero_is_fine = name in ("grace_s", "turn_limit_s", "commit_retries", "cached_instances", "check_replay")
            if value < 0 or (value == 0 and not zero_is_fine):
                raise ValueError(f"{name} is {value!r}, but must be {'at least 0' if zero_is_fine else 'above 0'}")
