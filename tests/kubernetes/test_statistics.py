"""What is counted and told: attempts, waits, and the GPU seconds that are paid for, whoever wanted them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from apikit.server import ApiServer, stamp, until
from apikit.shop import Shop, hurry

from durableflow.kubernetes.board import Case
from durableflow.kubernetes.documents import Job, Pod, read
from durableflow.kubernetes.informer import Times
from durableflow.kubernetes.spec import Gpu, Rules
from durableflow.kubernetes.statistics import JobStatistics, Spent, spent_by
from durableflow.observe import facts

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "kubernetes.md"
T0 = "2026-01-01T00:00:00Z"


def case_of(*pods: Any, gpus: int = 2) -> Case:
    case = Case("df-1")
    case.rules = Rules(job="df-1", gpus=gpus)
    case.seen.see_job(read(Job, {"metadata": {"name": "df-1", "uid": "u", "creationTimestamp": T0}}), 0)
    for number, state in enumerate(pods):
        containers = [] if state is None else [{"name": "main", "state": state}]
        meta = {"name": f"p{number}", "uid": f"p{number}"}
        case.seen.see_pod(read(Pod, {"metadata": meta, "status": {"containerStatuses": containers}}), 0)
    return case


def at(second: int) -> str:
    return f"2026-01-01T00:00:{second:02}Z"


def ended(began: int, finished: int) -> Any:
    return {"terminated": {"exitCode": 0, "startedAt": at(began), "finishedAt": at(finished)}}


NOW_US = 1_767_225_600_000_000 + 50_000_000


@pytest.mark.parametrize(
    ("pods", "spent"),
    [
        ([], (0, 0, 0)),
        ([None], (0, 0, 0)),
        ([{"waiting": {"reason": "ImagePullBackOff"}}], (0, 0, 0)),
        ([ended(10, 25)], (10, 15, 30)),
        ([{"running": {"startedAt": at(20)}}], (20, 30, 60)),
        ([ended(10, 12), ended(20, 25)], (30, 7, 14)),  # a queue took it away and gave it back: both were paid for
        ([ended(25, 10)], (25, 0, 0)),  # a node whose clock was set back
    ],
)
def test_what_each_pod_ran_is_counted(pods: Any, spent: Any) -> None:
    assert spent_by(case_of(*pods), NOW_US) == Spent(*(1_000_000 * each for each in spent))


def test_without_gpus_no_gpu_was_used() -> None:
    assert spent_by(case_of(ended(10, 25), gpus=0), NOW_US).gpu_us == 0


def test_a_pod_that_is_gone_without_a_word_ran_until_then() -> None:
    case = case_of({"running": {"startedAt": at(20)}})
    case.seen.lose_pod("p0", None, NOW_US - 10_000_000)
    assert spent_by(case, NOW_US).run_us == 20_000_000


def test_the_page_has_each_number_in_its_order() -> None:
    section = REFERENCE.read_text(encoding="utf-8").split("### `JobStatistics`\n", 1)[1].split("\n## ", 1)[0]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert re.findall(r"`(\w+)`", "".join(rows)) == [*JobStatistics.__struct_fields__]


# -- of a whole ---------------------------------------------------------------------------------------------


@pytest.fixture
def shop(api: ApiServer, configure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    hurry(monkeypatch)
    return Shop(api, configure, tmp_path)


async def run_for(shop: Shop, number: int, seconds: float) -> str:
    """A pod that has been running for so long; the Job's name."""
    name = await shop.job(number)
    began = {"name": "main", "state": {"running": {"startedAt": stamp(-seconds)}}}
    await shop.api.start_pod(name, containerStatuses=[began])
    return name


@pytest.mark.slow
async def test_gpu_seconds_are_known_by_activity_and_by_workflow_and_told_with_each_end(shop: Shop) -> None:
    shop.define(gpu=Gpu(count=4))
    told: list[Any] = []
    async with shop.open() as engine:
        engine.listen(lambda fact: told.append(fact) if isinstance(fact, (facts.JobSent, facts.JobEnded)) else None)
        handle = await engine.start(shop.training.options(instance_id="t"), 1)
        name = await run_for(shop, 1, 100)
        (pod,) = shop.api.pods_of(name)
        ended = {"exitCode": 3, "message": "", "reason": "", "startedAt": stamp(-100), "finishedAt": stamp()}
        state = [{"name": "main", "state": {"terminated": ended}}]
        await shop.api.change("pods", pod["metadata"]["name"], phase="Failed", containerStatuses=state)
        second = await shop.job(2)
        await shop.succeed(second)
        assert await handle.result(timeout=60) == 0.5
        await until(lambda: len(told) == 4)
        counted = shop.jobs.statistics()
    assert counted.gpu_seconds.keys() == {"train"}
    assert counted.workflow_gpu_seconds == {"training": counted.gpu_seconds["train"]}
    assert 400 <= counted.gpu_seconds["train"] <= 800  # the second one ran for a moment
    assert told[0] == facts.JobSent(name, "t", "train", is_adopted=False)
    assert [
        (each.job, each.workflow, each.outcome, each.reason) for each in told if isinstance(each, facts.JobEnded)
    ] == [
        (name, "training", "retryable", "ExitCode"),
        (second, "training", "success", ""),
    ]


@pytest.mark.slow
async def test_what_nobody_wanted_any_more_was_paid_for_too(shop: Shop) -> None:
    shop.define(gpu=Gpu(count=2))
    told: list[facts.JobEnded] = []
    async with shop.open(sweep_s=1_000) as engine:
        engine.listen(lambda fact: told.append(fact) if isinstance(fact, facts.JobEnded) else None)
        handle = await engine.start(shop.training.options(instance_id="t"), 1)
        name = await run_for(shop, 1, 100)
        await until(lambda: engine.statistics().running_attempts == 0)
        await handle.terminate()
        await shop.empty()
        await until(lambda: told)
        counted = shop.jobs.statistics()
    assert counted.outcomes == {}
    assert counted.workflow_gpu_seconds["training"] >= 200
    assert [(each.job, each.outcome) for each in told] == [(name, "unwanted")]
    assert msgspec.structs.asdict(told[0])["gpu_us"] >= 200_000_000


@pytest.mark.slow
async def test_a_job_that_takes_its_time_to_go_is_counted_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hold(*_: object) -> None:
        """As a finalizer does."""

    async with shop.open() as engine:
        await engine.start(shop.training, 7)
        name = await shop.job()
        with monkeypatch.context() as held:
            held.setattr(shop.api, "delete", hold)
            await shop.succeed(name)
            await until(lambda: len(shop.api.asked("DELETE", "/jobs/")) >= 2)
        await shop.empty()
        assert shop.jobs.statistics().deleted == 1


@pytest.mark.slow
async def test_a_watch_that_breaks_is_told_with_what_it_watched(shop: Shop) -> None:
    told: list[facts.WatchBroken] = []
    async with shop.open(times=Times(watch_s=1, silence_s=20, relist_s=60)) as engine:
        engine.listen(lambda fact: told.append(fact) if isinstance(fact, facts.WatchBroken) else None)
        await shop.jobs.wait_until_synced()
        shop.api.fault("GET", "/pods.*watch=1", 403)
        await until(lambda: told)
        counted = shop.jobs.statistics()
        assert (counted.relists, counted.api_errors >= 1) == (1, True)
    assert [(each.path, each.reason) for each in told] == [("/api/v1/namespaces/gpus/pods", "403 Fault: as told")]
