"""Jobs of an engine's activities: exactly one an attempt, one end for each, and none left, whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from apikit.server import ApiServer, until
from apikit.shop import Shop, hurry

from durableflow import Context, Engine, RetryPolicy, UsageError, workflow
from durableflow.kubernetes import jobs as module
from durableflow.kubernetes import submit as submit_module
from durableflow.kubernetes.envelope import FAILURE, RESULT, Envelope, seal
from durableflow.kubernetes.jobs import KubernetesJobs
from durableflow.kubernetes.spec import Gpu

pytestmark = pytest.mark.slow  # a server each


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def shop(api: ApiServer, configure: Any, tmp_path: Path) -> Shop:
    return Shop(api, configure, tmp_path)


# -- the usual way ----------------------------------------------------------------------------------------------------


async def test_a_job_is_sent_with_its_input_and_its_result_comes_back(shop: Shop) -> None:
    async with shop.open() as engine:
        handle = await engine.start(shop.training, 7)
        name = await shop.job()
        await until(lambda: name in shop.api.objects["configmaps"])
        given = json.loads(shop.api.objects["configmaps"][name]["data"]["input.json"])
        assert given == {"input": {"size": 7}, "attempt": 1, "details": None}
        await shop.succeed(name)
        assert await handle.result(timeout=60) == 0.5
        await shop.empty()
        (deletion,) = shop.api.asked("DELETE", "/jobs/")
        assert deletion["propagationPolicy"] == "Foreground"
        assert deletion["preconditions"]["uid"]
        counted = shop.jobs.statistics()
        assert (counted.submitted, counted.adopted, counted.outcomes, counted.deleted) == (1, 0, {"success": 1}, 1)
    assert shop.api.created == [name]


async def test_news_of_a_job_that_is_being_deleted_does_not_delete_it_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durableflow.kubernetes.jobs._DELETE_AGAIN_S", 1_000)
    async with shop.open() as engine:
        await engine.start(shop.training, 7)
        name = await shop.job()
        go = asyncio.Event()
        delete = shop.api.delete

        async def wait(*asked: Any) -> None:
            await go.wait()
            await delete(*asked)

        monkeypatch.setattr(shop.api, "delete", wait)
        await shop.succeed(name)
        await until(lambda: shop.api.asked("DELETE", "/jobs/"))
        for number in (1, 2, 3):
            await shop.api.change("jobs", name, conditions=number * [{"type": "News", "status": "True"}])
            seen = shop.jobs.board.cases[name].seen
            await until(lambda seen=seen, number=number: seen.job and len(seen.job.status.conditions) == number)
        go.set()
        await shop.empty()
        assert len(shop.api.asked("DELETE", "/jobs/")) == 1


async def test_a_waiting_activity_is_a_row_and_no_coroutine(shop: Shop) -> None:
    async with shop.open() as engine:
        handles = [await engine.start(shop.training, number) for number in range(20)]
        await until(lambda: len(shop.api.objects["configmaps"]) == 20)
        await until(lambda: engine.statistics().running_attempts == 0)
        assert len(await engine.open_attempts()) == 20
        before = len(asyncio.all_tasks())
        for name in shop.api.created:
            await shop.succeed(name)
        assert [await each.result(timeout=60) for each in handles] == [0.5] * 20
        assert before <= len(asyncio.all_tasks()) + 2
        await shop.empty()


async def test_many_jobs_have_two_watches(shop: Shop) -> None:
    async with shop.open() as engine:
        for number in range(30):
            await engine.start(shop.training, number)
        await until(lambda: len(shop.api.created) == 30)
        assert shop.api.watches == 2


# -- exactly one job --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cut after", "cut before", "hang", 500, 503, 429])
async def test_a_post_without_an_answer_leaves_one_job(shop: Shop, how: Any) -> None:
    shop.api.fault("POST", "/jobs", how, times=2)
    async with shop.open() as engine:
        shop.jobs.connection._request_s = 0.3
        handle = await engine.start(shop.training, 1)
        name = await shop.job()
        await until(lambda: engine.statistics().running_attempts == 0)
        await shop.succeed(name)
        assert await handle.result(timeout=60) == 0.5
        await shop.empty()
        assert shop.jobs.statistics().adopted == (how == "cut after")
    assert len(shop.api.created) == 1


async def test_an_input_that_was_not_taken_is_sent_again(shop: Shop) -> None:
    shop.api.fault("POST", "/configmaps", 503, times=3)
    shop.api.fault("POST", "/configmaps", "cut after", times=1)
    async with shop.open() as engine:
        await engine.start(shop.training, 1)
        await until(lambda: shop.api.objects["configmaps"])
        await until(lambda: engine.statistics().running_attempts == 0)


async def test_the_next_attempt_adopts_the_job_of_one_that_was_interrupted_while_it_sent_it(shop: Shop) -> None:
    """The worker stops between the moment in which the server has the Job and the one in which it says so."""
    shop.api.fault("POST", "/jobs", "cut after", times=1)
    shop.api.fault("GET", "/jobs/df-", "hang", times=100)
    async with shop.open() as engine:
        handle = await engine.start(shop.training.options(instance_id="t"), 1)
        await shop.job()
    shop.api.faults.clear()
    async with shop.open() as engine:
        await until(lambda: shop.api.objects["configmaps"])
        await until(lambda: shop.jobs.statistics().adopted == 1)
        await shop.succeed(await shop.job())
        assert await engine.result("t", timeout=60) == 0.5
        await shop.empty()
    assert len(shop.api.created) == 1
    assert handle.id == "t"


async def test_an_engine_that_closes_leaves_its_jobs_and_the_next_one_goes_on(shop: Shop) -> None:
    async with shop.open() as engine:
        await engine.start(shop.training.options(instance_id="t"), 1)
        name = await shop.job()
        await until(lambda: engine.statistics().running_attempts == 0)
    assert list(shop.api.objects["jobs"]) == [name]
    assert not shop.api.asked("DELETE", "/jobs/")
    await shop.succeed(name, 0.25)  # while nobody works
    async with shop.open() as engine:
        assert await engine.result("t", timeout=60) == 0.25
        await shop.empty()
    assert shop.api.created == [name]


async def test_a_job_of_another_definition_is_a_conflict_and_is_left_alone(shop: Shop) -> None:
    shop.api.fault("POST", "/jobs", "cut after", times=1)
    shop.api.fault("GET", "/jobs/df-", "hang", times=100)
    async with shop.open() as engine:
        await engine.start(shop.training.options(instance_id="t"), 1)
        name = await shop.job()
    shop.api.faults.clear()
    shop.define(cpu="2")
    async with shop.open() as engine:
        result = await engine.result("t", timeout=60)
        assert result[:2] == ["NameConflict", 1]
        await shop.empty()  # it was ours, and nobody wants it any more
    assert shop.api.created == [name]


async def test_a_job_that_somebody_deletes_is_waited_for_and_the_attempt_fails(shop: Shop) -> None:
    shop.api.fault("POST", "/jobs", "cut after", times=1)
    shop.api.fault("GET", "/jobs/df-", "hang", times=100)
    async with shop.open() as engine:
        await engine.start(shop.training.options(instance_id="t"), 1)
        name = await shop.job()
    shop.api.faults.clear()
    going = shop.api.objects["jobs"][name]
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    await shop.api.put("jobs", "MODIFIED", going)
    shop.api.requests.clear()
    async with shop.open() as engine:
        await until(lambda: len(shop.api.asked("GET", "/jobs/df-")) >= 3)
        assert len(shop.api.created) == 1
        await shop.api.delete("jobs", name)
        await shop.succeed(await shop.job(2))
        assert await engine.result("t", timeout=60) == 0.5
    assert len(set(shop.api.created)) == 2


# -- failures ---------------------------------------------------------------------------------------------------------


async def test_each_attempt_that_had_an_answer_has_a_job_of_its_own(shop: Shop) -> None:
    async with shop.open() as engine:
        handle = await engine.start(shop.training, 1)
        for number in (1, 2, 3):
            name = await shop.job(number)
            pod = await shop.api.start_pod(name)
            shop.api.logs[pod] = "Epoch 1\nHF_TOKEN=hf_abcdefghijklmnopqrstu\nnan\n"
            await shop.api.end_pod(pod, 3, "loss is nan")
            await shop.api.finish(name, "Failed", "BackoffLimitExceeded")
        kind, attempts, message, log = await handle.result(timeout=60)
        assert (kind, attempts) == ("ExitCode", 3)
        assert "the container exited with 3: loss is nan" in message
        assert "retryable; job df-train-" in message
        assert "node node-1, exit code 3" in message
        assert log == "Epoch 1\nHF_TOKEN=[redacted]\nnan"
        await shop.empty()
        assert shop.jobs.statistics().reasons == {"ExitCode": 3}
    assert len(set(shop.api.created)) == 3


async def test_infrastructure_has_a_budget_of_its_own(shop: Shop) -> None:
    shop.define(infrastructure_retries=4, retry=RetryPolicy(max_attempts=2, initial=0.01))
    evicted = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "make room"}
    async with shop.open() as engine:
        handle = await engine.start(shop.training, 1)
        for number in range(1, 6):
            pod = await shop.api.start_pod(await shop.job(number))
            await shop.api.end_pod(pod, 143, conditions=[evicted])
        kind, attempts, message, _ = await handle.result(timeout=60)
        assert (kind, attempts) == ("Evicted", 1)
        assert message.endswith("given up after 5 attempts that failed by infrastructure")
        await shop.empty()
    assert len(set(shop.api.created)) == 5


async def test_what_would_happen_again_is_not_tried_again(shop: Shop) -> None:
    async with shop.open() as engine:
        handle = await engine.start(shop.training, 1)
        name = await shop.job()
        pod = await shop.api.start_pod(name)
        await shop.api.end_pod(pod, 137, reason="OOMKilled")
        await shop.api.finish(name, "Failed", "BackoffLimitExceeded")
        assert (await handle.result(timeout=60))[:2] == ["OutOfMemory", 1]
        await shop.empty()


async def test_the_pods_own_failure_has_its_name(shop: Shop) -> None:
    async with shop.open() as engine:
        handle = await engine.start(shop.training, 1)
        name = await shop.job()
        pod = await shop.api.start_pod(name)
        said = {"type": "Diverged", "message": "at step 3", "retryable": False}
        await shop.api.end_pod(pod, 1, seal(Envelope(name, FAILURE, said)))
        kind, _, message, _ = await handle.result(timeout=60)
        assert kind == "Diverged"
        assert message.startswith("at step 3 [fatal")


async def test_a_result_of_another_type_is_a_failure_and_no_stall(shop: Shop) -> None:
    async with shop.open() as engine:
        handle = await engine.start(shop.training, 1)
        name = await shop.job()
        pod = await shop.api.start_pod(name)
        await shop.api.end_pod(pod, message=seal(Envelope(name, RESULT, {"loss": "low"})))
        assert (await handle.result(timeout=60))[0] == "ResultInvalid"


async def test_a_job_that_was_deleted_by_hand_is_attempted_again(shop: Shop) -> None:
    async with shop.open() as engine:
        handle = await engine.start(shop.training, 1)
        first = await shop.job()
        await until(lambda: engine.statistics().running_attempts == 0)
        await shop.api.delete("jobs", first)
        await shop.succeed(await shop.job(2))
        assert await handle.result(timeout=60) == 0.5
        assert shop.jobs.statistics().reasons == {"JobDeleted": 1}


async def test_a_job_that_vanished_while_nobody_looked_is_attempted_again(shop: Shop) -> None:
    async with shop.open() as engine:
        await engine.start(shop.training.options(instance_id="t"), 1)
        first = await shop.job()
        await until(lambda: engine.statistics().running_attempts == 0)
    await shop.api.delete("jobs", first)
    async with shop.open() as engine:
        await shop.succeed(await shop.job(2))
        assert await engine.result("t", timeout=60) == 0.5


async def test_the_events_say_why_a_job_has_no_pod(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EVENTS_AFTER_US", 50_000)
    monkeypatch.setattr(module, "_EVENTS_EVERY_US", 100_000)
    shop.define(config_grace=0.2)
    async with shop.open() as engine:
        handle = await engine.start(shop.training, 1)
        name = await shop.job()
        uid = shop.api.objects["jobs"][name]["metadata"]["uid"]
        await shop.api.tell("Job", name, uid, "FailedCreate", 'serviceaccount "trainer" not found')
        kind, _, message, _ = await handle.result(timeout=60)
        assert kind == "PodRefused"
        assert 'serviceaccount "trainer" not found' in message


async def test_events_are_read_in_time_and_judged_at_once_also_when_there_is_other_news(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EVENTS_AFTER_US", 2_000_000)
    monkeypatch.setattr(module, "_EVENTS_EVERY_US", 600_000_000)
    monkeypatch.setattr(module, "_DELETE_AGAIN_S", 600.0)
    shop.define(config_grace=0.2)
    async with shop.open(sweep_s=600) as engine:
        handle = await engine.start(shop.training, 1)
        name = await shop.job()
        uid = shop.api.objects["jobs"][name]["metadata"]["uid"]
        await shop.api.tell("Job", name, uid, "FailedCreate", 'serviceaccount "trainer" not found')
        await shop.api.change("jobs", name, active=0)
        assert (await handle.result(timeout=60))[0] == "PodRefused"
        await shop.empty()


async def test_a_refused_document_is_fatal(shop: Shop) -> None:
    shop.api.fault("POST", "/jobs", 422)
    async with shop.open() as engine:
        handle = await engine.start(shop.training, 1)
        assert (await handle.result(timeout=60))[:2] == ["InvalidSpec", 1]
    assert shop.api.created == []


async def test_missing_rights_have_a_minute_to_appear(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit_module, "_REFUSED_S", 0.3)
    shop.api.fault("POST", "/jobs", 403, times=3)
    async with shop.open() as engine:
        first = await engine.start(shop.training, 1)
        await shop.succeed(await shop.job())
        assert await first.result(timeout=60) == 0.5
        shop.api.fault("POST", "/jobs", 403, times=10_000)
        second = await engine.start(shop.training, 2)
        assert (await second.result(timeout=60))[:2] == ["Forbidden", 1]


async def test_a_queued_job_that_the_server_would_run_unnoticed_is_deleted(shop: Shop) -> None:
    shop.define(queue_name="team-a", gpu=Gpu())
    shop.api.drops = ["suspend"]
    async with shop.open() as engine:
        handle = await engine.start(shop.training, 1)
        kind, _, message, _ = await handle.result(timeout=60)
        assert kind == "SuspendUnsupported"
        assert "does not know suspended Jobs" in message
        await shop.empty()


async def test_a_queued_job_waits_until_its_queue_lets_it_run(shop: Shop) -> None:
    shop.define(queue_name="team-a")
    async with shop.open() as engine:
        handle = await engine.start(shop.training, 1)
        name = await shop.job()
        await until(lambda: shop.jobs.statistics().waiting == {"queued": 1})
        job = shop.api.objects["jobs"][name]
        job["spec"]["suspend"] = False
        await shop.api.put("jobs", "MODIFIED", job)
        await shop.succeed(name)
        assert await handle.result(timeout=60) == 0.5


# -- cancelling and cleaning up ---------------------------------------------------------------------------------------


async def test_a_terminated_workflow_has_no_job(shop: Shop) -> None:
    async with shop.open(sweep_s=1_000) as engine:
        handle = await engine.start(shop.training, 1)
        name = await shop.job()
        await shop.api.start_pod(name)
        await until(lambda: engine.statistics().running_attempts == 0)
        await handle.terminate()
        await shop.empty()
        assert shop.jobs.statistics().outcomes == {}


async def test_an_activity_that_is_no_longer_wanted_has_no_job(shop: Shop) -> None:
    @workflow(name="impatient")
    async def impatient(ctx: Context) -> str:
        task = ctx.call_activity(shop.train, 1)
        await ctx.wait_for_event("enough")
        task.cancel()
        await ctx.wait_for_event("more")
        return "over"

    async with shop.open(sweep_s=1_000) as engine:
        handle = await engine.start(impatient)
        name = await shop.job()
        await until(lambda: engine.statistics().running_attempts == 0)
        await handle.raise_event("enough")
        await shop.empty()
        await handle.raise_event("more")
        assert await handle.result(timeout=60) == "over"
    assert shop.api.created == [name]


@pytest.mark.parametrize("how", ["hang", "cut before", 500])
async def test_a_deletion_that_was_not_heard_is_asked_for_again(shop: Shop, how: Any) -> None:
    shop.api.fault("DELETE", "/jobs/", how, times=3)
    async with shop.open() as engine:
        shop.jobs.connection._request_s = 0.2
        handle = await engine.start(shop.training, 1)
        await shop.succeed(await shop.job())
        assert await handle.result(timeout=60) == 0.5
        await shop.empty()


async def test_a_server_that_asks_to_be_left_alone_is_also_when_there_is_news_of_the_job(shop: Shop) -> None:
    shop.api.fault("DELETE", "/jobs/", 429, times=1, Retry_After="2")
    async with shop.open(sweep_s=1_000) as engine:
        handle = await engine.start(shop.training, 1)
        await shop.succeed(name := await shop.job())
        await until(lambda: shop.api.asked("DELETE", "/jobs/"))
        refused_s = asyncio.get_running_loop().time()
        await shop.api.change("jobs", name, active=0)
        assert await handle.result(timeout=10) == 0.5
        await until(lambda: len(shop.api.asked("DELETE", "/jobs/")) == 2)
        assert asyncio.get_running_loop().time() - refused_s >= 1  # the server had said it a little earlier
        await shop.empty()
        await until(lambda: shop.jobs.statistics().deleted)
        assert shop.jobs.statistics().deleted == len(shop.api.asked("DELETE", "/jobs/")) - 1 == 1


async def test_what_was_cancelled_while_nobody_worked_is_swept(shop: Shop) -> None:
    async with shop.open() as engine:
        await engine.start(shop.training.options(instance_id="t"), 1)
        await shop.job()
        await until(lambda: engine.statistics().running_attempts == 0)
    async with Engine(shop.url, workflows=[shop.training], activities=[shop.train]) as engine:
        await engine.terminate("t")
    assert len(shop.api.objects["jobs"]) == 1
    async with shop.open():
        await shop.empty()


async def test_the_sweep_leaves_the_jobs_of_others(shop: Shop) -> None:
    other = {"name": "theirs", "uid": "theirs", "labels": {"durableflow.dev/deployment": "bakery"}}
    plain = {"name": "plain", "uid": "plain", "labels": {"durableflow.dev/deployment": "shop"}}
    for meta in (other, plain):
        await shop.api.put("jobs", "ADDED", {"metadata": meta, "spec": {"template": {}}, "status": {}})
    async with shop.open() as engine:
        handle = await engine.start(shop.training, 1)
        await shop.succeed(await shop.job())
        assert await handle.result(timeout=60) == 0.5
        await until(lambda: set(shop.api.objects["jobs"]) == {"theirs", "plain"})
        await asyncio.sleep(0.7)
        assert set(shop.api.objects["jobs"]) == {"theirs", "plain"}


async def test_an_instance_that_has_the_id_of_one_before_has_a_job_of_its_own(shop: Shop) -> None:
    async with shop.open() as engine:
        for number in (1, 2):
            handle = await engine.start(shop.training.options(instance_id="t", on_conflict="replace"), 1)
            await shop.succeed(await shop.job(number), number / 10)
            assert await handle.result(timeout=60) == number / 10
    assert len(set(shop.api.created)) == 2


async def test_an_api_server_that_is_down_for_a_while_delays_and_loses_nothing(shop: Shop) -> None:
    async with shop.open() as engine:
        handles = [await engine.start(shop.training, number) for number in range(5)]
        await until(lambda: len(shop.api.created) == 5)
        await until(lambda: engine.statistics().running_attempts == 0)
        for method in ("GET", "POST", "DELETE"):
            shop.api.fault(method, "", 503, times=5)
        for name in list(shop.api.created):
            await shop.succeed(name)
        assert [await each.result(timeout=60) for each in handles] == [0.5] * 5
        await shop.empty()
    assert len(shop.api.created) == 5


# -- no more than so many ---------------------------------------------------------------------------------------------


async def test_instances_that_start_through_a_queue_have_no_more_jobs_than_the_queue_has_places(shop: Shop) -> None:
    async with shop.open() as engine:
        await engine.set_queue("gpus", concurrency=2)
        handles = [await engine.start(shop.training.options(queue="gpus"), number) for number in range(5)]
        for number in range(1, 6):
            name = await shop.job(number)
            assert len(shop.api.objects["jobs"]) <= 2 + 1  # one that is over and is being deleted
            assert len(await engine.open_attempts()) <= 2
            await shop.succeed(name)
        assert [await each.result(timeout=60) for each in handles] == [0.5] * 5
        await shop.empty()


async def test_a_job_that_is_over_the_quota_of_its_namespace_is_sent_when_there_is_room(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_module, "_REFUSED_S", 0.05)
    text = 'jobs.batch "x" is forbidden: exceeded quota: gpu-jobs, requested: count/jobs.batch=1'
    async with shop.open() as engine:
        shop.api.fault("POST", "/jobs$", 403, times=6, message=text)
        handle = await engine.start(shop.training, 1)
        await shop.succeed(await shop.job())
        assert await handle.result(timeout=60) == 0.5


# -- mistakes ---------------------------------------------------------------------------------------------------------


async def test_one_process_has_one_object_for_a_cluster(shop: Shop) -> None:
    async with shop.open() as engine:
        with pytest.raises(UsageError, match="in this process already"):
            async with KubernetesJobs(engine, deployment="shop", configure=shop.configure):
                pass


async def test_an_engine_without_one_says_so(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durableflow.kubernetes.runners._PATIENCE_S", 0.05)
    shop.define(retry=1)
    async with Engine(shop.url, workflows=[shop.training], activities=[shop.train]) as engine:
        result = await (await engine.start(shop.training, 1)).result(timeout=60)
        assert "KubernetesJobs(engine, deployment=...)" in result[2]


@pytest.mark.parametrize("option", ["timeout", "heartbeat_timeout", "queue", "priority", "fairness_key"])
async def test_an_option_that_a_job_has_in_another_form_is_refused(shop: Shop, option: str) -> None:
    with pytest.raises(ValueError, match="GPU job"):
        shop.train.options(**{option: "q" if option in ("queue", "fairness_key") else 5})


async def test_losses_while_submitting_are_not_counted(shop: Shop) -> None:
    for made in (shop.train, shop.train.options(retry=7)):
        assert made.stored_options is not None
        assert made.stored_options.retry is not None
        assert made.stored_options.retry.uncounted_losses == 100
