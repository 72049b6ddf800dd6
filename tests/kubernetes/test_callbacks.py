"""Pods bring their answers over HTTP: only a living pod of the Job itself, with a token that is for us, once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from apikit.asgi import served
from apikit.server import ApiServer, until
from starlette.applications import Starlette
from starlette.routing import Mount

from durableflow import ActivityFailed, Context, Engine, RetryPolicy, Settings, workflow
from durableflow.authoring.registry import DEFAULT
from durableflow.http import callbacks as http
from durableflow.http.callbacks import callback_routes
from durableflow.kubernetes import jobs as module
from durableflow.kubernetes.activity import gpu_job
from durableflow.kubernetes.envelope import DELIVERED, FAILURE, RESULT, Envelope, seal
from durableflow.kubernetes.jobs import KubernetesJobs

pytestmark = pytest.mark.slow  # servers

POD_NAME, POD_UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"


class Door:
    """An engine with a Job under way, its pod, and the pod's token."""

    def __init__(self, api: ApiServer, configure: Any, folder: Path) -> None:
        self.api = api
        self.configure = configure
        self.url = f"sqlite:///{folder / 'store.db'}"
        self.handle: Any = None
        self.define()

    def define(self, **options: Any) -> None:
        DEFAULT.activities.pop("train", None)
        train = gpu_job("train", image="i", result=object, retry=RetryPolicy(max_attempts=2, initial=0.01), **options)

        @workflow(name="training")
        async def training(ctx: Context) -> Any:
            try:
                return await ctx.call_activity(train, 1)
            except ActivityFailed as error:
                return [error.type_name, error.attempts]

        self.training, self.train = training, train

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Engine]:
        engine = Engine(self.url, workflows=[self.training], activities=[self.train], settings=Settings(grace_s=0.2))
        jobs = KubernetesJobs(
            engine, deployment="d", namespace="n", configure=self.configure, callback="http://x", sweep_s=1_000
        )
        self.jobs = jobs
        application = Starlette(routes=[Mount("/jobs", routes=callback_routes(jobs.callbacks))])
        async with engine, jobs, served(application) as self.http, aiohttp.ClientSession() as self.session:
            self.handle = await engine.start(self.training)
            await until(lambda: self.api.created)
            self.job = self.api.created[0]
            await until(lambda: self.job in self.api.objects["configmaps"])
            self.pod = await self.api.start_pod(self.job)
            self.token("good", self.pod)
            await until(lambda: engine.statistics().running_attempts == 0)
            yield engine

    def token(self, token: str, pod: str, audience: str = "durableflow") -> None:
        uid = self.api.objects["pods"][pod]["metadata"]["uid"]
        extra = {POD_NAME: [pod], POD_UID: [uid]}
        self.api.tokens[token] = {"authenticated": True, "audiences": [audience], "user": {"extra": extra}}

    async def say(self, what: str, body: Any, token: str | None = "good", job: str | None = None) -> tuple[int, Any]:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        data = body if isinstance(body, (str, bytes)) else json.dumps(body)
        url = f"{self.http}/jobs/{job or self.job}/{what}"
        async with self.session.post(url, data=data, headers=headers) as response:
            return response.status, await response.json()

    async def say_on(self, what: str, body: Any) -> tuple[int, Any]:
        """As a pod does: again while it is told that nobody can tell in this moment."""
        for _ in range(200):
            if (said := await self.say(what, body))[0] != 503:
                return said
            await asyncio.sleep(0.05)
        raise AssertionError(said)

    def line(self, value: Any, kind: str = RESULT) -> str:
        return seal(Envelope(self.job, kind, value))


@pytest.fixture
async def door(api: ApiServer, configure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Door:
    monkeypatch.setattr(module, "_RETRY_S", 0.02)
    return Door(api, configure, tmp_path)


async def test_an_answer_ends_the_attempt_at_once_and_the_job_goes(door: Door) -> None:
    async with door.open():
        assert (await door.say("answer", door.line({"loss": 1})))[0] == 200
        assert await door.handle.result(timeout=10) == {"loss": 1}
        await until(lambda: not door.api.objects["jobs"])


async def test_a_result_that_no_message_could_hold_comes_this_way(door: Door) -> None:
    async with door.open():
        assert (await door.say("answer", door.line("x" * 100_000)))[0] == 200
        assert await door.handle.result(timeout=10) == "x" * 100_000


async def test_the_same_answer_again_is_taken_as_said_and_another_one_is_not(door: Door) -> None:
    async with door.open():
        door.api.fault("DELETE", "/jobs", "hang", times=10)
        assert (await door.say("answer", door.line(1)))[0] == 200
        assert await door.say("answer", door.line(1)) == (200, {"wanted": True, "reason": "it was taken before"})
        status, said = await door.say("answer", door.line(2))
        assert (status, said["wanted"]) == (409, False)
        assert await door.handle.result(timeout=10) == 1


async def test_of_many_answers_at_once_one_is_taken(door: Door) -> None:
    async with door.open():
        door.api.fault("DELETE", "/jobs", "hang", times=10)
        said = await asyncio.gather(*(door.say_on("answer", door.line(number)) for number in range(8)))
        assert sorted(status for status, _ in said) == [200] + [409] * 7
        taken = next(number for number, (status, _) in enumerate(said) if status == 200)
        assert await door.handle.result(timeout=10) == taken


async def test_a_failure_is_one(door: Door) -> None:
    async with door.open():
        value = {"type": "Diverged", "message": "m", "retryable": False}
        assert (await door.say("answer", door.line(value, FAILURE)))[0] == 200
        assert await door.handle.result(timeout=10) == ["Diverged", 1]


async def test_nobody_else_is_believed(door: Door) -> None:
    async with door.open() as engine:
        line = door.line("forged")
        other = await door.api.start_pod(door.job)
        door.token("for others", door.pod, audience="api")
        door.api.tokens["no pod"] = {"authenticated": True, "audiences": ["durableflow"], "user": {"extra": {}}}
        foreign = {"name": "foreign", "uid": "foreign", "labels": {"durableflow.dev/deployment": "d"}}
        await door.api.put("pods", "ADDED", {"metadata": foreign, "spec": {}, "status": {"phase": "Running"}})
        door.token("of another job", "foreign")
        door.token("of a pod that is gone", other)
        await until(
            lambda: other in {each.pod.metadata.name for each in door.jobs.board.cases[door.job].seen.pods.values()}
        )
        await door.api.put("pods", "DELETED", door.api.objects["pods"][other])
        await until(lambda: door.jobs.board.cases[door.job].seen.ended_pods)
        unknown = (None, "unknown", "for others", "no pod")
        expected = {**dict.fromkeys(unknown, 401), "of another job": 403, "of a pod that is gone": 403}
        assert {token: (await door.say("answer", line, token))[0] for token in expected} == expected
        assert {token: (await door.say("heartbeat", {}, token))[0] for token in expected} == expected
        status = await engine.status(door.handle.id)
        assert status.status.value == "RUNNING"


async def test_what_is_no_answer_of_this_job_is_refused(door: Door) -> None:
    async with door.open():
        bad = [door.line(1)[:-1], "{}", "", seal(Envelope("another", RESULT, 1)), door.line("digest", DELIVERED)]
        assert [(await door.say("answer", body))[0] for body in bad] == [400] * 5
        assert (await door.say("answer", door.line(1), job="df-none"))[0] == 403
        assert (await door.say("heartbeat", "no json"))[0] == 400


async def test_what_is_too_large_is_refused_before_it_is_read(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_BYTES_MAX", 1_000)
    async with door.open():
        assert (await door.say("answer", door.line("x" * 2_000)))[0] == 413


async def test_a_heartbeat_is_durable_and_the_next_attempt_reads_it(door: Door) -> None:
    async with door.open() as engine:
        assert await door.say("heartbeat", {"details": {"step": 7}}) == (200, {"wanted": True, "reason": ""})
        attempt = await engine.open_attempt(door.handle.id, 1)
        assert attempt is not None
        assert attempt.details["details"] == {"step": 7}
        value = {"type": "Stopped", "message": "", "retryable": True}
        assert (await door.say("answer", door.line(value, FAILURE)))[0] == 200
        await until(lambda: len(door.api.created) == 2)
        second = door.api.created[1]
        await until(lambda: second in door.api.objects["configmaps"])
        given = json.loads(door.api.objects["configmaps"][second]["data"]["input.json"])
        assert given == {"input": 1, "attempt": 2, "details": {"step": 7}}


async def test_without_heartbeats_an_attempt_ends_and_with_them_it_goes_on(door: Door) -> None:
    door.define(heartbeat_timeout=1.5)
    async with door.open():
        for _ in range(8):
            await asyncio.sleep(0.3)
            assert (await door.say("heartbeat", {}))[0] == 200
        assert len(door.api.created) == 1
        await until(lambda: len(door.api.created) == 2)
        assert door.jobs.statistics().reasons == {"HeartbeatTimeout": 1}


async def test_a_pod_whose_workflow_is_over_is_told_to_stop(door: Door) -> None:
    async with door.open():
        door.api.fault("DELETE", "/jobs", "hang", times=10)
        await door.handle.terminate()
        status, said = await door.say("heartbeat", {})
        assert (status, said["wanted"]) == (409, False)
        assert (await door.say("answer", door.line(1)))[0] == 409


async def test_an_api_server_that_is_down_makes_a_pod_ask_again(door: Door) -> None:
    async with door.open():
        door.api.fault("POST", "/tokenreviews", 500)
        assert (await door.say("answer", door.line(1)))[0] == 503
        assert (await door.say("answer", door.line(1)))[0] == 200


async def test_a_pod_that_no_watch_has_told_of_yet_is_asked_for(door: Door) -> None:
    async with door.open():
        door.jobs.board.cases[door.job].seen.pods.clear()
        assert (await door.say("answer", door.line(5)))[0] == 200
        assert await door.handle.result(timeout=10) == 5
