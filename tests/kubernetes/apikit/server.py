"""A server that keeps Jobs, pods, config maps and events, lists and watches them, and fails as it is told to.

It is no Kubernetes: there are no controllers; a test says what they would do. What a real server does is tested against
one.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

GROUPS = {
    "jobs": ("batch/v1", "Job"),
    "pods": ("v1", "Pod"),
    "configmaps": ("v1", "ConfigMap"),
    "secrets": ("v1", "Secret"),
    "events": ("v1", "Event"),
}


def stamp(seconds: float = 0) -> str:
    """A moment from now, as a server writes it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


async def until(holds: Callable[[], object], within_s: float = 60.0) -> None:
    """Return when something holds."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110  # it asks programs that tell nobody
            await asyncio.sleep(0.005)


class Fault:
    """What goes wrong with the next requests that match.

    `how` is a status, or `"cut before"`, `"cut after"` (the server has done it), `"hang"`.
    """

    def __init__(
        self, method: str, path: str, how: int | str, times: int = 1, headers: Any = None, message: str = "as told"
    ) -> None:
        self.method = method
        self.path = re.compile(path)
        self.how = how
        self.left = times
        self.headers = headers or {}
        self.message = message


class ApiServer:
    """See the module."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in GROUPS}
        self.log: list[tuple[int, str, str, dict[str, Any]]] = []
        """Version, kind, type and object of each change."""
        self.compacted = 0
        self.versions = itertools.count(1)
        self.version = 0
        self.uids = itertools.count(1)
        self.changed = asyncio.Condition()
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, Any, str]] = []
        """Method, path with query, body, and the header with which it came."""
        self.created: list[str] = []
        """Names of all Jobs that ever were."""
        self.logs: dict[str, str] = {}
        self.drops: list[str] = []
        """Fields of a Job's spec that this server does not know."""
        self.tokens: dict[str, dict[str, Any]] = {}
        """Answers to token reviews."""
        self.known_tokens: set[str] | None = None
        """Who may ask; None for all."""
        self.watches = 0
        self.url = ""
        self.silent = False
        """Watches say nothing any more, and do not end."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ApiServer]:
        app = web.Application()
        for prefix in ("/api/v1", "/apis/batch/v1"):
            app.router.add_route("*", prefix + "/namespaces/{ns}/{kind}", self.collection)
            app.router.add_route("*", prefix + "/namespaces/{ns}/{kind}/{name}", self.item)
        app.router.add_get("/api/v1/namespaces/{ns}/pods/{name}/log", self.pod_log)
        app.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", self.review)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    # -- HTTP -----------------------------------------------------------------------------------------------

    async def _guarded(self, request: web.Request, act: Callable[[Any], Any]) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        who = request.headers.get("Authorization", "")
        self.requests.append((request.method, request.path_qs, body, who))
        if self.known_tokens is not None and who not in self.known_tokens:
            return _status(401, "Unauthorized", "who are you?")
        fault = next(
            (
                each
                for each in self.faults
                if each.left and each.method == request.method and each.path.search(request.path_qs)
            ),
            None,
        )
        if fault is None:
            return await act(body)
        fault.left -= 1
        if isinstance(fault.how, int):
            return _status(fault.how, "Fault", fault.message, fault.headers)
        if fault.how == "hang":
            await asyncio.sleep(3_600)
        if fault.how == "cut after":
            await act(body)
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async def collection(self, request: web.Request) -> web.StreamResponse:
        kind = request.match_info["kind"]

        async def act(body: Any) -> web.StreamResponse:
            if kind not in GROUPS:
                return _status(404, "NotFound", "no such kind")
            if request.method == "POST":
                return await self._create(kind, request.match_info["ns"], body)
            if request.query.get("watch"):
                return await self._watch(request, kind)
            return self._list(request, kind)

        return await self._guarded(request, act)

    async def item(self, request: web.Request) -> web.StreamResponse:
        kind, name = request.match_info["kind"], request.match_info["name"]

        async def act(body: Any) -> web.StreamResponse:
            thing = self.objects[kind].get(name)
            if thing is None:
                return _status(404, "NotFound", f"{kind} {name!r} not found")
            if request.method == "GET":
                return web.json_response(thing)
            wanted = (body or {}).get("preconditions", {}).get("uid")
            if wanted not in (None, thing["metadata"]["uid"]):
                return _status(409, "Conflict", "the uid is another")
            policy = (body or {}).get("propagationPolicy", "Orphan")
            await self.delete(kind, name, policy)
            return web.json_response(thing)

        return await self._guarded(request, act)

    async def pod_log(self, request: web.Request) -> web.StreamResponse:
        async def act(_: Any) -> web.StreamResponse:
            return web.Response(text=self.logs.get(request.match_info["name"], ""))

        return await self._guarded(request, act)

    async def review(self, request: web.Request) -> web.StreamResponse:
        async def act(body: Any) -> web.StreamResponse:
            return web.json_response({"status": self.tokens.get(body["spec"]["token"], {"authenticated": False})})

        return await self._guarded(request, act)

    async def _create(self, kind: str, namespace: str, body: Any) -> web.StreamResponse:
        name = body["metadata"].get("name")
        if name in self.objects[kind]:
            return _status(409, "AlreadyExists", f"{kind} {name!r} already exists")
        made = copy.deepcopy(body)
        made["metadata"] |= {
            "uid": f"uid-{next(self.uids)}", "creationTimestamp": stamp(), "namespace": namespace
        }  # fmt: skip
        made.setdefault("status", {})
        if kind == "jobs":
            self.created.append(name)
            for field in self.drops:
                made["spec"].pop(field, None)
        await self.put(kind, "ADDED", made)
        return web.json_response(made, status=201)

    def _list(self, request: web.Request, kind: str) -> web.StreamResponse:
        items = [each for each in self.objects[kind].values() if _is_selected(request, each)]
        begin, limit = int(request.query.get("continue", 0)), int(request.query.get("limit", 0)) or len(items)
        meta = {"resourceVersion": str(self.version)}
        if begin + limit < len(items):
            meta["continue"] = str(begin + limit)
        return web.json_response({"metadata": meta, "items": items[begin : begin + limit]})

    async def _watch(self, request: web.Request, kind: str) -> web.StreamResponse:
        seen = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        self.watches += 1
        if seen < self.compacted:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            await response.write(_line("ERROR", gone))
            return response
        try:
            async with asyncio.timeout(float(request.query["timeoutSeconds"])):
                while True:
                    until_version = self.version
                    for version, changed, kind_of_change, thing in list(self.log):
                        if version > seen and changed == kind and _is_selected(request, thing) and not self.silent:
                            await response.write(_line(kind_of_change, thing))
                    if not self.silent:
                        seen = until_version
                    async with self.changed:
                        await self.changed.wait_for(lambda seen=seen: self.version > seen and not self.silent)
        except (TimeoutError, ConnectionError):
            pass
        return response

    # -- what a test says -----------------------------------------------------------------------------------

    async def put(self, kind: str, change: str, thing: dict[str, Any]) -> None:
        """An object is there, or has changed, or (`DELETED`) is gone."""
        self.version = next(self.versions)
        thing = copy.deepcopy(thing)
        thing["apiVersion"], thing["kind"] = GROUPS[kind]
        thing["metadata"]["resourceVersion"] = str(self.version)
        name = thing["metadata"]["name"]
        if change == "DELETED":
            self.objects[kind].pop(name, None)
        else:
            self.objects[kind][name] = thing
        self.log.append((self.version, kind, change, thing))
        async with self.changed:
            self.changed.notify_all()

    async def change(self, kind: str, name: str, **status: Any) -> None:
        """Its status is another."""
        thing = copy.deepcopy(self.objects[kind][name])
        thing["status"] |= status
        await self.put(kind, "MODIFIED", thing)

    async def delete(self, kind: str, name: str, policy: str = "Background") -> None:
        """Delete; a Job with its pods, which are gone at once, unless it orphans them."""
        thing = self.objects[kind][name]
        if kind == "jobs" and policy != "Orphan":
            for pod in self.pods_of(name):
                await self.put("pods", "DELETED", pod)
        for parts in ("configmaps", "secrets"):
            for owned in [each for each in self.objects[parts].values() if _is_owned(each, thing)]:
                await self.put(parts, "DELETED", owned)
        await self.put(kind, "DELETED", thing)

    def pods_of(self, job: str) -> list[dict[str, Any]]:
        """The pods of a Job."""
        return [each for each in self.objects["pods"].values() if _is_owned(each, self.objects["jobs"][job])]

    async def start_pod(self, job: str, node: str = "node-1", **status: Any) -> str:
        """What the Job's controller, the scheduler and a kubelet do; the pod's name."""
        owner = self.objects["jobs"][job]
        number = next(self.uids)
        reference = {"kind": "Job", "name": job, "uid": owner["metadata"]["uid"], "controller": True}
        meta = {
            "name": f"{job}-{number}",
            "uid": f"pod-{number}",
            "labels": owner["spec"]["template"]["metadata"]["labels"],
            "creationTimestamp": stamp(),
            "ownerReferences": [reference],
        }
        running = {"name": "main", "state": {"running": {"startedAt": stamp()}}}
        made = {"phase": "Running", "containerStatuses": [running], "conditions": []} | status
        await self.put("pods", "ADDED", {"metadata": meta, "spec": {"nodeName": node}, "status": made})
        return meta["name"]

    async def end_pod(self, pod: str, code: int = 0, message: str = "", reason: str = "", **status: Any) -> None:
        """Its container ends."""
        began = self.objects["pods"][pod]["metadata"]["creationTimestamp"]
        ended = {"exitCode": code, "message": message, "reason": reason, "startedAt": began, "finishedAt": stamp()}
        containers = [{"name": "main", "state": {"terminated": ended}}]
        phase = "Failed" if code else "Succeeded"
        await self.change("pods", pod, phase=phase, containerStatuses=containers, **status)

    async def finish(self, job: str, kind: str = "Complete", reason: str = "", message: str = "") -> None:
        """What the Job's controller says in the end."""
        made = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": stamp()}
        conditions = [*self.objects["jobs"][job]["status"].get("conditions", ()), made]
        await self.change("jobs", job, conditions=conditions)

    async def tell(self, kind: str, name: str, uid: str, reason: str, message: str) -> None:
        """An event."""
        about = {"kind": kind, "name": name, "uid": uid}
        meta = {"name": f"{name}.{next(self.uids)}", "uid": f"e{next(self.uids)}"}
        await self.put(
            "events",
            "ADDED",
            {"metadata": meta, "involvedObject": about, "reason": reason, "message": message, "lastTimestamp": stamp()},
        )

    def fault(
        self, method: str, path: str, how: int | str, times: int = 1, message: str = "as told", **headers: str
    ) -> None:
        """Let something go wrong."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(method, path, how, times, named, message))

    def asked(self, method: str, path: str) -> list[Any]:
        """Bodies of the requests that match."""
        return [body for verb, where, body, _ in self.requests if verb == method and re.search(path, where)]


def _line(kind: str, thing: Any) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"


def _status(code: int, reason: str, message: str, headers: Any = None) -> web.Response:
    status = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return web.json_response(status, status=code, headers=headers)


def _is_selected(request: web.Request, thing: Any) -> bool:
    label = request.query.get("labelSelector")
    if label:
        name, _, value = label.partition("=")
        if thing["metadata"].get("labels", {}).get(name) != value:
            return False
    field = request.query.get("fieldSelector")
    return not field or thing.get("involvedObject", {}).get("uid") == field.partition("=")[2]


def _is_owned(thing: Any, owner: Any) -> bool:
    return any(each["uid"] == owner["metadata"]["uid"] for each in thing["metadata"].get("ownerReferences", ()))
