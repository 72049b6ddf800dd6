"""What is measured. Each workload is one or more phases; every phase runs in a fresh process of the contender."""

from functools import partial
from typing import Any, Final

from benchmarks import files, fleet, rates, recovery, waiting, work
from benchmarks.bench import FULL, Workload
from benchmarks.waiting import WAKE_SAMPLE

_RATE_SHOWN: Final = {"workflows_per_s": "workflows/s", "cpu_ms_per_workflow": "CPU ms/workflow"}
_SEQUENCE_SHOWN: Final = {
    "workflows_per_s": "workflows/s",
    "activities_per_s": "activities/s",
    "cpu_ms_per_workflow": "CPU ms/workflow",
}
_LONG_SHOWN: Final = {
    "last_us": "µs/activity, last 10 %",
    "first_us": "µs/activity, first 10 %",
    "growth": "last ÷ first",
    "cpu_growth": "the same in CPU time",
    "activities": "activities",
}
_LONG_ABOUT: Final = (
    f"Each has {FULL.long_budget_s:.0f} seconds for it. What it has not done by then is cut, and the last tenth is "
    "that of what it did."
)
_RECOVERY_ABOUT: Final = (
    f"Where only its silence tells that a worker is dead, the lease is set to {recovery.LEASE_S:g} s, and is in the "
    "figures."
)
_WAITING_ABOUT: Final = (
    f"Each has {FULL.waiting_budget_s:.0f} seconds to bring its instances to the wait, and is weighed with as many as "
    f"came. After a restart {WAKE_SAMPLE} of the sleepers are woken."
)
_WAITING_SHOWN: Final = {
    "bytes_per_instance": "bytes/instance",
    "resident_mib": "resident MiB",
    "start_up_ms": "start-up ms",
    "resident_restarted_mib": "resident MiB after a restart",
    "instances": "instances",
}


_SYNC_ABOUT: Final = (
    "Once more on a slower disk: a library that is preloaded into the server makes each of its syncs take at least so "
    "long."
)


def _one(concurrency: int, *, quick: bool = True, sync_ms: float = 0) -> Workload:
    return Workload(
        name=f"one-activity-{concurrency}{_suffix(sync_ms)}",
        title=f"One-activity workflows, {concurrency} at a time{_on_disk(sync_ms)}",
        phases=(partial(rates.rate, workflow="one", concurrency=concurrency, activities=1),),
        shown=_RATE_SHOWN,
        quick=quick,
        **_slower(sync_ms),
    )


def _ten(concurrency: int, *, quick: bool = True, sync_ms: float = 0) -> Workload:
    return Workload(
        name=f"ten-activities-{concurrency}{_suffix(sync_ms)}",
        title=f"Ten activities in sequence, {concurrency} workflows at a time{_on_disk(sync_ms)}",
        phases=(partial(rates.rate, workflow="ten", concurrency=concurrency, activities=work.SEQUENCE_LENGTH),),
        shown=_SEQUENCE_SHOWN,
        quick=quick,
        **_slower(sync_ms),
    )


def _suffix(sync_ms: float) -> str:
    return f"-sync-{sync_ms:g}ms" if sync_ms else ""


def _on_disk(sync_ms: float) -> str:
    return f", on a disk that syncs in {sync_ms:g} ms" if sync_ms else ""


def _slower(sync_ms: float) -> dict[str, Any]:
    return {"postgres": True, "sync_ms": sync_ms, "about": _SYNC_ABOUT, "peer_repeats_max": 1} if sync_ms else {}


_SLOW_DISKS: Final = tuple(
    make(concurrency, quick=(make, concurrency, sync_ms) == (_one, 16, 2), sync_ms=sync_ms)
    for sync_ms in (2, 8)
    for make, concurrency in ((_one, 1), (_one, 16), (_one, 256), (_ten, 256))
)
_FLEET: Final = (
    Workload(
        name="two-workers",
        title="Two workers on one database",
        phases=(fleet.two_workers,),
        shown={
            "two_per_s": "workflows/s, two",
            "one_per_s": "workflows/s, one",
            "two_to_one": "two ÷ one",
            "cpu_ms_per_workflow": "CPU ms/workflow, two",
        },
        about=(
            f"One-activity workflows, {fleet.CLIENTS} at a time in each worker's own process, started there. One "
            f"worker and two take turns, {FULL.fleet_pairs} times; the machine and its processors stay the same."
        ),
        postgres=True,
        peer_repeats_max=1,
    ),
    Workload(
        name="starts-elsewhere",
        title="Starts from another process",
        phases=(fleet.starts_elsewhere,),
        shown={
            "starts_per_s": "starts/s",
            "called_per_s": "activities/s",
            "start_p50_ms": "p50 ms to the acknowledgement",
            "called_p50_ms": "p50 ms to the activity",
            "called_p99_ms": "p99 ms to the activity",
        },
        about=(
            "One-activity workflows; this process starts them and another one runs them. Starts are those that were "
            f"acknowledged, {fleet.CLIENTS} at a time; latencies are those of single starts."
        ),
        postgres=True,
    ),
    Workload(
        name="event-elsewhere",
        title="Event from another process, to the workflow's next activity",
        phases=(fleet.events_elsewhere,),
        shown={"p50_ms": "p50 ms", "p99_ms": "p99 ms", "events": "events"},
        postgres=True,
    ),
    Workload(
        name="take-over",
        title="1,000 instances of a killed worker, taken over by another",
        phases=(partial(fleet.take_over, count=1_000),),
        shown={
            "after_lease_ms": "all ended, ms after the lease",
            "all_ended_ms": "ms after the kill",
            "repeated_activities": "recorded activities run again",
            "instances": "instances",
        },
        about=(
            "Each was in the middle of an activity, ten events into its history. After how long a silence a worker "
            f"counts as dead is a setting, here {fleet.LEASE_S:g} s for all."
        ),
        postgres=True,
    ),
)

_ALL: Final = (
    _one(1),
    _one(16),
    _one(256),
    _one(2000, quick=False),
    _ten(1, quick=False),
    _ten(256, quick=False),
    Workload(
        name="latency",
        title="Single latency of a one-activity workflow",
        phases=(rates.single_latencies,),
        shown={"p50_ms": "p50 ms", "p99_ms": "p99 ms", "cpu_ms_per_workflow": "CPU ms/workflow"},
    ),
    Workload(
        name="fan-out",
        title="500-way fan-out",
        phases=(partial(rates.fan_out, width=500),),
        shown={"p50_ms": "p50 ms", "p99_ms": "worst ms", "cpu_ms_per_workflow": "CPU ms/workflow"},
    ),
    Workload(
        name="event",
        title="Event wake-up: from raise_event to the result",
        phases=(rates.event_wake_up,),
        shown={"p50_ms": "p50 ms", "max_ms": "worst ms"},
    ),
    Workload(
        name="long-2000",
        title="2,000 activities in one instance",
        phases=(partial(rates.long, length=2_000),),
        shown=_LONG_SHOWN,
        about=_LONG_ABOUT,
    ),
    Workload(
        name="long-10000",
        title="10,000 activities in one instance",
        phases=(partial(rates.long, length=10_000),),
        shown=_LONG_SHOWN,
        after="long-2000",
        about=_LONG_ABOUT + " Who could not do 2,000 is not asked for 10,000.",
        peer_repeats_max=1,
        quick=False,
    ),
    Workload(
        name="waiting-10000",
        title="10,000 waiting instances",
        phases=(partial(waiting.park, count=10_000), waiting.wake_parked),
        shown=_WAITING_SHOWN,
        about=_WAITING_ABOUT,
        peer_repeats_max=1,
    ),
    Workload(
        name="waiting-100000",
        title="100,000 waiting instances",
        phases=(partial(waiting.park, count=100_000), waiting.wake_parked),
        shown=_WAITING_SHOWN,
        after="waiting-10000",
        about="As with 10,000. Who could not do all of that is not asked here.",
        peer_repeats_max=1,
        quick=False,
    ),
    Workload(
        name="recovery",
        title="10,000 instances of ten events, recovered after a crash",
        phases=(partial(recovery.interrupt, count=10_000), recovery.recover),
        shown={
            "recovered_ms": "all running again, ms",
            "all_ended_ms": "all ended, ms",
            "cpu_ms_per_workflow": "CPU ms/instance",
        },
    ),
    Workload(
        name="recovery-1000",
        title="1,000 instances of ten events, recovered after a crash",
        phases=(partial(recovery.interrupt, count=1_000), recovery.recover),
        shown={
            "recovered_ms": "all running again, ms",
            "all_ended_ms": "all ended, ms",
            "cpu_ms_per_workflow": "CPU ms/instance",
        },
        about=_RECOVERY_ABOUT,
        postgres=True,
    ),
    Workload(
        name="recovery-waiting",
        title="1,000 waiting instances, recovered after a crash",
        phases=(partial(recovery.leave_waiting, count=1_000), recovery.wake_all),
        shown={
            "all_ended_ms": "all ended, ms",
            "open_ms": "of these, to open",
            "threads": "threads",
            "cpu_ms_per_workflow": "CPU ms/instance",
        },
        about="From the start of the next process, which sends each its event, until all have had it and ended. "
        + _RECOVERY_ABOUT,
        postgres=True,
    ),
    Workload(
        name="bytes",
        title="Disk per ten-activity workflow",
        phases=(files.first_on_disk, files.size_before, files.many_on_disk, files.size_after),
        shown={
            "bytes_per_workflow": "bytes/workflow",
            "with_wal_bytes_per_workflow": "bytes/workflow, WAL included",
            "workflows": "measured over",
        },
        about=(
            "Blocks on disk after a close, less those of an engine that has done one workflow. Of PostgreSQL the data "
            "files after a checkpoint, and beside them all that was written to its log on the way."
        ),
    ),
    Workload(
        name="finished-million",
        title="One-activity rate with 1,000,000 finished instances in the file",
        phases=(files.finish_some, files.in_turns, files.size_of_filled),
        shown={
            "filled_to_empty": "filled ÷ empty, rate",
            "cpu_filled_to_empty": "filled ÷ empty, CPU time",
            "filled_per_s": "workflows/s, filled",
            "empty_per_s": "workflows/s, empty",
            "finished": "finished before",
            "file_mib": "file MiB",
        },
        about=(
            "The promise is a rate within 10 % of an empty file's. The two take turns in one process, 256 workflows at "
            f"a time, each for {FULL.pair_s:.0f} seconds on a file that is opened anew; the empty one is a new file "
            "each time, and every other pair begins with the filled one. There are "
            f"{FULL.pairs} such pairs: a ratio is taken within a pair, and shown are the median, the least and the "
            f"greatest. To fill the file, {FULL.finished_by_engine:,} workflows are finished by the engine; their rows "
            "are then written again under fresh ids in the order of time, through the backend, in the commits that the "
            "engine would have made: each instance first as running, then as completed. A PostgreSQL database is "
            "vacuumed and analysed when it is full."
        ),
        repeats_max=1,
    ),
    *_FLEET,
    *_SLOW_DISKS,
    Workload(
        name="import",
        title="Import time",
        phases=(),  # fresh interpreters, started by the parent: see `imports.py`
        shown={
            "import_ms": "ms, what a first program imports",
            "over_baseline": "× `import asyncio, msgspec`",
            "bare_ms": "ms, the bare package",
        },
    ),
)

WORKLOADS: Final[dict[str, Workload]] = {workload.name: workload for workload in _ALL}
