"""A proxy harms what is said to a real API server: each attempt has one Job, the result is right, nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from planekit.faults import (
    GONE,
    HANG,
    HANG_AFTER,
    LOSE_ANSWER,
    LOSE_REQUEST,
    SERVER_ERROR,
    ApiProxy,
    Fault,
)
from planekit.node import Kubelet
from planekit.plane import ControlPlane
from planekit.witness import Witness

from durableflow import Handle
from durableflow.kubernetes.informer import Times

if TYPE_CHECKING:
    Cluster = Any  # of conftest.py

pytestmark = pytest.mark.slow  # real processes, real time

PATIENCE_S = 90
# What hangs is given up sooner than in the world outside, and nothing but what was harmed brings the news.
REQUEST_S = 2.0
TIMES = Times(watch_s=60, silence_s=3, relist_s=300)
SWEEP_S = 1_000.0
# Longer than any pause that is made unasked.
LEAVE_ALONE_S = 3
LEAVE_ALONE = Fault("refuse", 429, retry_after_s=LEAVE_ALONE_S)
WAIT = "import time\nwhile not runtime.should_stop: time.sleep(0.02)\n"
SEED = 20_261_201


@pytest.fixture
async def proxy(plane: ControlPlane, cluster: Cluster) -> AsyncIterator[ApiProxy]:
    """Between the worker and the API server."""
    async with ApiProxy(plane) as proxy:
        cluster.server = proxy.url
        yield proxy


async def check_jobs(cluster: Cluster, jobs_ever: Witness, handles: Sequence[Handle[Any]], unanswered: int) -> None:
    """As many Jobs as attempts: those that had an answer, and those that were cancelled while they ran."""
    names = await jobs_ever.names()
    assert len(set(names)) == len(names), "a name was used twice"
    answered = [cluster.answers_in(await handle.history()) for handle in handles]
    assert len(names) == sum(answered) + unanswered


def pauses_s(proxy: ApiProxy, method: str) -> list[float]:
    """From each request that was refused until it came again."""
    asked = [each for each in proxy.seen if each.method == method]
    return [
        next(again.at_s for again in asked if again.path == each.path and again.at_s > each.at_s) - each.at_s
        for each in asked
        if each.fault is not None
    ]


def sent(cluster: Cluster) -> int:
    """How many Jobs it has created or found."""
    counted = cluster.jobs.statistics()
    return int(counted.submitted + counted.adopted)


WRITES = {
    "429": LEAVE_ALONE,
    "500": SERVER_ERROR,
    "hang": HANG,
    "hang after it was stored": HANG_AFTER,
    "reset": LOSE_REQUEST,
    "cut after it was stored": LOSE_ANSWER,
}


@pytest.mark.parametrize("fault", WRITES.values(), ids=WRITES)
async def test_each_request_that_writes_is_harmed_and_each_attempt_has_one_job(
    cluster: Cluster, node: Kubelet, proxy: ApiProxy, jobs_ever: Witness, fault: Fault
) -> None:
    cluster.define(f"if given == 'ends': raise SystemExit(runtime.complete('ended'))\n{WAIT}")
    for kind in ("jobs", "configmaps"):
        proxy.ambush(fault, method="POST", path=f"/{kind}$")
    proxy.ambush(fault, method="DELETE", path="/jobs/", times=2)
    async with cluster.open(times=TIMES, sweep_s=SWEEP_S) as engine:
        cluster.jobs.connection._request_s = REQUEST_S
        waits = await engine.start(cluster.training, "waits")
        await cluster.running()
        await cluster.until(lambda: sent(cluster) == 1)  # whoever is cancelled while it is sent is not counted
        ends = await engine.start(cluster.training, "ends")
        assert await ends.result(timeout=PATIENCE_S) == "ended"
        await waits.terminate()
        await cluster.empty()
        await cluster.until(lambda: sent(cluster) == 2)
        assert cluster.jobs.statistics().outcomes == {"success": 1}
        assert proxy.harmed == {fault.kind: 4}
        if fault is LEAVE_ALONE:
            assert min(pauses_s(proxy, "POST")) >= LEAVE_ALONE_S
            assert min(pauses_s(proxy, "DELETE")) >= LEAVE_ALONE_S
        await check_jobs(cluster, jobs_ever, [waits, ends], unanswered=1)


async def test_a_job_whose_post_and_all_questions_after_it_had_no_answer_is_adopted(
    cluster: Cluster, node: Kubelet, proxy: ApiProxy, jobs_ever: Witness
) -> None:
    cluster.define("runtime.complete(given)")
    proxy.ambush(LOSE_ANSWER, method="POST", path="/jobs$")
    proxy.ambush(SERVER_ERROR, method="GET", path="/jobs/")
    proxy.ambush(LOSE_REQUEST, method="GET", path="/jobs/")
    async with cluster.open(times=TIMES, sweep_s=SWEEP_S) as engine:
        handle = await engine.start(cluster.training, 7)
        assert await handle.result(timeout=PATIENCE_S) == 7
        await cluster.empty()
        counted = cluster.jobs.statistics()
        assert (counted.submitted, counted.adopted, counted.outcomes) == (0, 1, {"success": 1})
        assert proxy.harmed == {"lose answer": 1, "refuse": 1, "lose request": 1}
        await check_jobs(cluster, jobs_ever, [handle], unanswered=0)


CUT = Fault("cut", events=1)
# What befalls the next watch of each kind, and those after it.
WATCHES = {
    "cut": (CUT, 3),
    "410": (GONE, 2),
    "429": (Fault("refuse", 429, retry_after_s=1), 2),
    "500": (SERVER_ERROR, 2),
    "hang": (HANG, 1),
    "silence": (Fault("stall", events=1), 1),
}


@pytest.mark.parametrize(("fault", "times"), WATCHES.values(), ids=WATCHES)
async def test_watches_are_harmed_while_jobs_run_and_what_they_would_have_told_is_found(
    cluster: Cluster, node: Kubelet, proxy: ApiProxy, jobs_ever: Witness, fault: Fault, times: int
) -> None:
    cluster.define("import time; time.sleep(1)\nif given == 1 == runtime.attempt(): raise SystemExit(3)\n"
                   "runtime.complete(given)")  # fmt: skip
    for kind in ("jobs", "pods"):
        if fault.kind not in ("cut", "stall"):  # those begin by themselves when something has been told
            proxy.ambush(CUT, path=f"/{kind}$", is_watch=True)
        proxy.ambush(fault, path=f"/{kind}$", is_watch=True, times=times)
    async with cluster.open(times=TIMES, sweep_s=SWEEP_S) as engine:
        cluster.jobs.connection._request_s = REQUEST_S
        handles = [await engine.start(cluster.training, number) for number in range(2)]
        assert [await each.result(timeout=PATIENCE_S) for each in handles] == [0, 1]
        await cluster.empty()
        await cluster.until(lambda: proxy.harmed[fault.kind] == 2 * times)
        assert sent(cluster) == 3
        assert cluster.jobs.statistics().outcomes == {"retryable": 1, "success": 2}
        await check_jobs(cluster, jobs_ever, handles, unanswered=0)


ANYTHING = {
    LOSE_REQUEST: 0.06,
    LOSE_ANSWER: 0.06,
    SERVER_ERROR: 0.06,
    Fault("refuse", 429, retry_after_s=1): 0.06,
    HANG: 0.02,
    HANG_AFTER: 0.02,
    GONE: 0.2,
    Fault("cut", events=2): 0.2,
    Fault("stall", events=1): 0.1,
}


async def test_anything_may_befall_any_request(
    cluster: Cluster, node: Kubelet, proxy: ApiProxy, jobs_ever: Witness
) -> None:
    cluster.define("import time; time.sleep(0.5)\nif given % 4 == runtime.attempt(): raise SystemExit(3)\n"
                   "runtime.complete(given)")  # fmt: skip
    proxy.storm(SEED, ANYTHING, path="/(jobs|pods|configmaps|events)")
    async with cluster.open(times=TIMES, sweep_s=1.0) as engine:
        cluster.jobs.connection._request_s = REQUEST_S
        handles = [await engine.start(cluster.training, number) for number in range(8)]
        await asyncio.sleep(5)
        await cluster.until(lambda: sum(proxy.harmed.values()) >= 10)
        proxy.heal()
        assert [await each.result(timeout=PATIENCE_S) for each in handles] == list(range(8))
        await cluster.empty()
        assert cluster.jobs.statistics().outcomes == {"retryable": 2, "success": 8}
        await check_jobs(cluster, jobs_ever, handles, unanswered=0)
