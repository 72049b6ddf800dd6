"""Attempts that take over from one that was lost while it sent its Job: no second Job, no name twice, no lost token."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from apikit.server import ApiServer, until
from apikit.shop import Shop, hurry

from durableflow import Engine
from durableflow.kubernetes.jobs import KubernetesJobs
from durableflow.kubernetes.progress import Progress, progress_in
from durableflow.kubernetes.tokens import digest_of, is_token

pytestmark = pytest.mark.slow  # a server each

SHOPKEEPER = Path(__file__).parent / "apps" / "shopkeeper.py"
SOURCE = Path(__file__).parents[2] / "src"
DOOR = {"callback": "http://here/jobs", "callback_identity": "job"}


@pytest.fixture
def shop(api: ApiServer, configure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    hurry(monkeypatch)
    return Shop(api, configure, tmp_path)


async def lose(shop: Shop, method: str = "GET", path: str = "/jobs/df-", **options: Any) -> str:
    """A worker ends while it waits for this answer, after the server has its Job; the Job's name."""
    shop.api.fault("POST", "/jobs", "cut after", times=1)
    shop.api.fault(method, path, "hang", times=100)
    async with shop.open(**options) as engine:
        await engine.start(shop.training.options(instance_id="t"), 1)
        name = await shop.job()
        await until(lambda: any(verb == method and path in where for verb, where, _, _ in shop.api.requests))
    shop.api.faults.clear()
    return name


async def begin_elsewhere(shop: Shop, *arguments: str) -> asyncio.subprocess.Process:
    """A worker in a process of its own, which is to be killed."""
    command = [sys.executable, str(SHOPKEEPER), shop.url, shop.api.url, *arguments]
    env = os.environ | {"PYTHONPATH": str(SOURCE)}
    return await asyncio.create_subprocess_exec(*command, env=env, stdout=asyncio.subprocess.PIPE)


async def lose_after_it_was_noted(shop: Shop) -> str:
    """A worker is killed when it is durable that the Job is there, and before the attempt is handed over."""
    worker = await begin_elsewhere(shop)
    try:
        assert worker.stdout is not None
        assert await asyncio.wait_for(worker.stdout.readline(), 60) == b"noted\n"
    finally:
        worker.kill()
        await worker.communicate()
    (name,) = shop.api.created
    return name


async def kept(engine: Any) -> Progress:
    """What the store has of the attempt."""
    attempt = await engine.open_attempt("t", 1)
    progress = None if attempt is None else progress_in(attempt.details)
    assert progress is not None
    return progress


def token_in(shop: Shop, name: str) -> str:
    return str(shop.api.objects["secrets"][name]["stringData"]["token"])


# -- opening -----------------------------------------------------------------------------------------------------------


async def test_an_attempt_that_begins_while_the_server_is_still_looked_for_waits_for_that(shop: Shop) -> None:
    engine = Engine(shop.url, workflows=[shop.training], activities=[shop.train])

    async def slowly() -> Any:
        await until(lambda: engine.statistics().running_attempts == 1)
        await asyncio.sleep(0.2)  # long enough to have failed
        return await shop.configure()

    async with engine:
        handle = await engine.start(shop.training, 1)
        async with KubernetesJobs(engine, deployment="shop", namespace="gpus", configure=slowly):
            name = await shop.job()
            await shop.succeed(name)
            assert await handle.result(timeout=60) == 0.5
            assert "failed" not in " ".join(str(each) for each in await engine.history(handle.id))
            await shop.empty()


# -- names ------------------------------------------------------------------------------------------------------------


async def test_a_job_that_is_still_there_is_adopted_without_another_post(
    shop: Shop,
) -> None:
    name = await lose_after_it_was_noted(shop)
    shop.api.requests.clear()
    async with shop.open() as engine:
        await until(lambda: shop.jobs.statistics().adopted == 1)
        assert shop.api.asked("POST", "/jobs$") == []
        await shop.succeed(name)
        assert await engine.result("t", timeout=60) == 0.5
    assert shop.api.created == [name]


async def test_a_job_that_was_deleted_before_its_attempt_was_handed_over_is_not_made_again_under_its_name(
    shop: Shop,
) -> None:
    name = await lose_after_it_was_noted(shop)
    await shop.api.delete("jobs", name)
    async with shop.open() as engine:
        await shop.succeed(await shop.job(2))
        assert await engine.result("t", timeout=60) == 0.5
        assert shop.jobs.statistics().reasons == {"JobDeleted": 1}
    assert len(set(shop.api.created)) == 2


async def test_a_job_that_was_seen_and_deleted_while_its_attempt_was_lost_is_not_made_again_under_its_name(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was noted, but the worker that takes over has watched."""
    name = await lose(shop)
    async with shop.open() as engine:
        send = shop.jobs._sender._send

        async def delete_first(*arguments: Any) -> None:
            await until(lambda: name in shop.jobs.board.cases)
            await shop.api.delete("jobs", name)
            await until(lambda: shop.jobs.board.cases[name].seen.is_gone)
            monkeypatch.setattr(shop.jobs._sender, "_send", send)
            await send(*arguments)

        monkeypatch.setattr(shop.jobs._sender, "_send", delete_first)
        await shop.succeed(await shop.job(2))
        assert await engine.result("t", timeout=60) == 0.5
        assert shop.jobs.statistics().reasons == {"JobDeleted": 1}
    assert len(set(shop.api.created)) == 2


async def test_a_name_that_was_taken_a_moment_ago_and_is_free_now_is_not_taken_again(shop: Shop) -> None:
    name = await lose(shop)
    shop.api.fault("GET", f"/jobs/{name}", 404)  # it goes between the two requests
    async with shop.open() as engine:
        await shop.succeed(await shop.job(2))
        assert await engine.result("t", timeout=60) == 0.5
        assert shop.jobs.statistics().reasons == {"JobDeleted": 1}
    assert len(set(shop.api.created)) == 2


async def test_a_job_that_is_over_before_it_is_known_that_it_was_taken_is_not_made_again(shop: Shop) -> None:
    shop.api.fault("POST", "/jobs$", "cut after", times=1)
    shop.api.fault("GET", "/jobs/df-", "hang", times=1)
    async with shop.open() as engine:
        shop.jobs.connection._request_s = 3.0
        handle = await engine.start(shop.training, 1)
        name = await shop.job()
        await shop.succeed(name)
        assert await handle.result(timeout=60) == 0.5
        await shop.empty()
        await until(lambda: engine.statistics().running_attempts == 0)
        assert shop.jobs.statistics().outcomes == {"success": 1}
    assert shop.api.created == [name]


@pytest.mark.parametrize(
    "after",
    [
        {"callback": "http://there/jobs"},
        {"callback": None},
        {"callback": "http://here/jobs", "callback_identity": "job"},
    ],
    ids=["another URL", "none", "another identity"],
)
async def test_a_job_is_adopted_by_a_worker_that_is_called_back_elsewhere(shop: Shop, after: Any) -> None:
    name = await lose(shop, callback="http://here/jobs")
    async with shop.open(**after) as engine:
        await until(lambda: shop.jobs.statistics().adopted == 1)
        await until(lambda: name in shop.api.objects["configmaps"])
        await shop.succeed(name)
        assert await engine.result("t", timeout=60) == 0.5
        await shop.empty()
    assert shop.api.created == [name]


# -- tokens -----------------------------------------------------------------------------------------------------------


async def test_the_token_is_in_the_jobs_secret_its_digest_in_the_store_and_it_is_nowhere_else(shop: Shop) -> None:
    async with shop.open(**DOOR) as engine:
        await engine.start(shop.training.options(instance_id="t"), 1)
        name = await shop.job()
        await until(lambda: name in shop.api.objects["secrets"])
        token = token_in(shop, name)
        assert is_token(token)
        assert (await kept(engine)).tokens == (digest_of(token),)
        said = [(path, json.dumps(body)) for _, path, body, _ in shop.api.requests if not path.endswith("/secrets")]
        assert [path for path, body in said if token in body] == []
        assert token not in str([each.event for each in await engine.history("t")])
        await until(lambda: engine.statistics().running_attempts == 0)
        folder = Path(shop.url.removeprefix("sqlite:///")).parent
        stored = b"".join(each.read_bytes() for each in folder.iterdir() if each.is_file())
        assert token.encode() not in stored
        assert base64.b64encode(token.encode()) not in stored
        assert digest_of(token).encode() in stored
        await shop.succeed(name)
        assert await engine.result("t", timeout=60) == 0.5
        await shop.empty()  # the Secret went with its Job


async def test_no_secret_is_made_where_none_is_needed(shop: Shop) -> None:
    async with shop.open(callback="http://here/jobs") as engine:
        await engine.start(shop.training.options(instance_id="t"), 1)
        await shop.job()
        await until(lambda: engine.statistics().running_attempts == 0)
        assert shop.api.asked("POST", "/secrets") == []
        assert (await kept(engine)).tokens == ()


async def test_a_worker_that_is_lost_before_the_secret_was_made_leaves_room_for_that_of_the_next(shop: Shop) -> None:
    name = await lose(shop, "POST", "/configmaps", **DOOR)
    assert shop.api.objects["secrets"] == {}
    async with shop.open(**DOOR) as engine:
        await until(lambda: name in shop.api.objects["secrets"])
        progress = await kept(engine)
        assert len(progress.tokens) == 2
        assert digest_of(token_in(shop, name)) == progress.tokens[1]


async def test_the_token_of_a_lost_worker_is_still_good_where_its_secret_was_made(shop: Shop) -> None:
    shop.api.fault("POST", "/secrets", "cut after", times=1)
    shop.api.fault("POST", "/secrets", "hang", times=100)
    async with shop.open(**DOOR) as engine:
        await engine.start(shop.training.options(instance_id="t"), 1)
        name = await shop.job()
        await until(lambda: name in shop.api.objects["secrets"])
    shop.api.faults.clear()
    async with shop.open(**DOOR) as engine:
        await until(lambda: shop.jobs.statistics().adopted == 1)
        progress = await kept(engine)
        assert digest_of(token_in(shop, name)) == progress.tokens[0]


async def test_a_worker_that_stops_while_it_waits_to_ask_again_leaves_what_the_next_one_must_know(shop: Shop) -> None:
    shop.api.fault("POST", "/secrets", "cut after", times=1)
    shop.api.fault("POST", "/secrets", 429, times=1, Retry_After="100")
    loop = asyncio.get_running_loop()
    async with shop.open(**DOOR) as engine:
        await engine.start(shop.training.options(instance_id="t"), 1)
        name = await shop.job()
        await until(lambda: len(shop.api.asked("POST", "/secrets$")) == 2)
        begun_s = loop.time()
    assert loop.time() - begun_s < 60
    async with shop.open(**DOOR) as engine:
        await until(lambda: shop.jobs.statistics().adopted == 1)
        progress = await kept(engine)
        assert (len(progress.tokens), digest_of(token_in(shop, name))) == (2, progress.tokens[0])


async def test_attempts_that_wait_are_let_go_at_once(shop: Shop) -> None:
    shop.api.fault("POST", "/jobs$", 429, times=1_000, Retry_After="100")
    async with shop.open(**DOOR) as engine:
        for number in range(60):  # more than are sent at a time
            await engine.start(shop.training.options(instance_id=f"t-{number}"), number)
        await until(lambda: len(shop.api.asked("POST", "/jobs$")) == 32)
    shop.api.faults.clear()
    async with shop.open(**DOOR) as engine:
        await until(lambda: len(shop.api.created) == 60)
        attempts = [await engine.open_attempt(f"t-{number}", 1) for number in range(60)]
        assert all(each is None or each.attempt <= 4 for each in attempts)


@pytest.mark.parametrize("lost", ["/configmaps", "/secrets"])
async def test_a_token_that_was_drawn_by_a_worker_that_was_killed_is_good_for_the_next_one(
    shop: Shop, lost: str
) -> None:
    if lost == "/secrets":
        shop.api.fault("POST", lost, "cut after", times=1)
    shop.api.fault("POST", lost, "hang", times=100)
    worker = await begin_elsewhere(shop, DOOR["callback"])
    try:
        asked = 1 + (lost == "/secrets")
        await until(lambda: len(shop.api.asked("POST", f"{lost}$")) >= asked)
    finally:
        worker.kill()
        await worker.communicate()
    shop.api.faults.clear()
    async with shop.open(**DOOR) as engine:
        await until(lambda: shop.jobs.statistics().adopted == 1)
        (name,) = shop.api.created
        progress = await kept(engine)
        which = 0 if lost == "/secrets" else 1
        assert len(progress.tokens) == 2
        assert digest_of(token_in(shop, name)) == progress.tokens[which]


async def test_a_job_with_a_secret_gets_it_also_from_a_worker_that_has_other_habits(shop: Shop) -> None:
    name = await lose(shop, "POST", "/configmaps", **DOOR)
    async with shop.open() as engine:
        await until(lambda: name in shop.api.objects["secrets"])
        await shop.succeed(name)
        assert await engine.result("t", timeout=60) == 0.5
        await shop.empty()


async def test_without_the_right_to_make_secrets_the_attempt_fails_and_the_job_goes(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durableflow.kubernetes.submit._REFUSED_S", 0.1)
    shop.api.fault("POST", "/secrets", 403, times=1_000)
    async with shop.open(**DOOR) as engine:
        await engine.start(shop.training.options(instance_id="t"), 1)
        assert (await engine.result("t", timeout=60))[:2] == ["Forbidden", 1]
        await shop.empty()


async def test_an_attempt_that_nobody_wants_any_more_sends_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shop.open() as engine:
        begin = shop.jobs.ledger.begin

        async def terminate_first(token: str, progress: Progress) -> bool:
            await engine.terminate("t")
            return await begin(token, progress)

        monkeypatch.setattr(shop.jobs.ledger, "begin", terminate_first)
        await engine.start(shop.training.options(instance_id="t"), 1)
        await until(lambda: engine.statistics().running_attempts == 0)
        await asyncio.sleep(0.2)
    assert shop.api.created == []
