"""A pod on a node: from its being bound there to its end, or to that of the node."""

import asyncio
import re
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from planekit.api import ApiError, Document
from planekit.container import Container
from planekit.injection import Injection, Missing, base_environment, expanded, localized, memory_limit
from planekit.logs import Log
from planekit.processes import Keeper
from planekit.status import container_status, phase_of, pod_conditions, timestamp, waiting

RETRY_S: Final = 0.5
"""Between two looks for something that the pod refers to."""
PULL_BACKOFF_S: Final = (1.0, 2.0, 4.0, 8.0, 10.0)
RESTART_BACKOFF_S: Final = (0.5, 1.0, 2.0, 4.0)
IMAGE: Final = re.compile(r"[a-z0-9][a-z0-9._/:@-]*(?::[\w.-]+)?")


Words = tuple[list[str], dict[str, str]]
"""A command and its environment."""


class Host(Protocol):
    """What a pod needs of its node."""

    keeper: Keeper
    environment: Mapping[str, str]
    entrypoints: Mapping[str, Sequence[str]]
    pull_s: float

    @property
    def server(self) -> tuple[str, int]: ...

    async def ask(self, method: str, path: str, body: object = None, **options: Any) -> Any: ...

    def is_missing(self, image: str) -> bool: ...

    def tell(self, pod: Document, kind: str, reason: str, message: str) -> None: ...


class Doom(NamedTuple):
    """Why a pod ends before its containers have."""

    reason: str
    message: str
    grace_s: float
    condition: tuple[str, str] | None = None
    """Reason and message of a DisruptionTarget."""


DELETED: Final = Doom("", "", 0.0)


class PodWorker:
    """Takes care of one pod; its `run` ends when the pod is gone."""

    def __init__(self, host: Host, pod: Document, folder: Path) -> None:
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self._host = host
        self._folder = folder
        self._containers = {spec["name"]: self._container(spec, 0) for spec in _all_containers(pod)}
        self._restarts = dict.fromkeys(self._containers, 0)
        self._last_states = dict[str, Document]()
        self._starting = dict[str, asyncio.Task[None]]()
        self._started = datetime.now(UTC)
        self._is_initialized = not pod["spec"].get("initContainers")
        self._doom: Doom | None = None
        self._doomed = asyncio.Event()
        self._deleted = asyncio.Event()
        self._reporting = asyncio.Lock()
        self.observe(pod)

    # -- what happens to it --------------------------------------------------------------------------------------------

    def observe(self, pod: Document) -> None:
        """Hear what the API server says of it now."""
        self.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self.end(DELETED._replace(grace_s=pod["metadata"].get("deletionGracePeriodSeconds") or 0.0))
            self._deleted.set()

    def end(self, doom: Doom) -> None:
        """Have it end; the first reason counts."""
        self._doom = self._doom or doom
        self._doomed.set()

    def kill_out_of_memory(self) -> None:
        for container in self._containers.values():
            if container.is_running:
                container.kill_out_of_memory()

    @property
    def has_reported(self) -> bool:
        """Whether the API server has heard of it from here."""
        return bool(self.pod["status"].get("containerStatuses"))

    @property
    def is_over(self) -> bool:
        return self._phase() in ("Succeeded", "Failed")

    def log(self, container: str) -> Log | None:
        """What a container of it has written."""
        found = self._containers.get(container)
        return None if found is None else Log(found.log_file, lambda: found.is_running)

    # -- its life ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run it; cancelled when the pod is gone or its node is."""
        living = asyncio.ensure_future(self._was_here() if self._ran_before() else self._live())
        doomed = asyncio.ensure_future(self._doomed.wait())
        deadline = asyncio.ensure_future(self._watch_deadline())
        try:
            await asyncio.wait({living, doomed}, return_when=asyncio.FIRST_COMPLETED)
            if not living.done():
                await self._stop(living)
            if not living.cancelled():
                living.result()
            if any("waiting" not in c.state for c in self._containers.values()) or self._is_failed_by_node():
                await self.report()
            await self._deleted.wait()
            await self._remove()
        finally:
            for task in (living, doomed, deadline):
                task.cancel()
            for container in self._containers.values():
                container.kill()
            await asyncio.gather(living, doomed, deadline, return_exceptions=True)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _ran_before(self) -> bool:
        """Whether it has run here before the node was switched off."""
        return bool(self.pod["status"].get("phase") == "Running")

    async def _was_here(self) -> None:
        for container in self._containers.values():
            container.lose()

    async def _live(self) -> None:
        await self.report()
        injection = Injection(self._host.ask, self.pod, self._folder)
        await self._mount(injection)
        for spec in self.pod["spec"].get("initContainers", ()):
            await self._run_container(spec, injection)
            if self._containers[spec["name"]].state["terminated"]["exitCode"]:
                return
        self._is_initialized = True
        async with asyncio.TaskGroup() as together:
            for spec in self.pod["spec"]["containers"]:
                task = together.create_task(self._run_container(spec, injection))
                self._starting[spec["name"]] = task

    async def _mount(self, injection: Injection) -> None:
        while True:
            try:
                return await injection.write_volumes()
            except Missing as missing:
                self._tell("Warning", "FailedMount", f"MountVolume.SetUp failed for volume: {missing}")
            except ApiError as error:
                self._tell("Warning", "FailedMount", f"MountVolume.SetUp failed for volume: {error}")
            await asyncio.sleep(RETRY_S)

    async def _run_container(self, spec: Document, injection: Injection) -> None:
        """Run it to its end, and again if the pod says so."""
        name = spec["name"]
        while True:
            await self._pull(spec)
            await self._run_once(spec, injection)
            if not self._starts_again(self._containers[name].state):
                return
            attempt = self._restarts[name]
            self._last_states[name] = self._containers[name].state
            self._restarts[name] += 1
            self._containers[name] = self._container(spec, self._restarts[name])
            self._containers[name].state = waiting("CrashLoopBackOff", f"back-off restarting failed container={name}")
            self._tell("Warning", "BackOff", "Back-off restarting failed container")
            await self.report()
            await asyncio.sleep(RESTART_BACKOFF_S[min(attempt, len(RESTART_BACKOFF_S) - 1)])

    async def _run_once(self, spec: Document, injection: Injection) -> None:
        container = self._containers[spec["name"]]
        places = injection.places_of(spec, container.message_file)
        command, environment = await self._patiently(container, lambda: self._command_of(spec, injection, places))
        self._tell("Normal", "Created", f"Created container {spec['name']}")
        await container.start(command, environment, self._directory_of(spec, places))
        if not container.is_running:
            self._tell("Warning", "Failed", f"Error: {container.state['terminated']['message']}")
            return
        self._tell("Normal", "Started", f"Started container {spec['name']}")
        ending = asyncio.ensure_future(container.wait(memory_limit(spec)))
        try:
            await self.report()
            await asyncio.shield(ending)
        finally:
            if not ending.done():  # the pod is gone, or its node
                container.kill()
                await ending

    def _directory_of(self, spec: Document, places: Mapping[str, str]) -> Path:
        """Where it is started: in a mount of its own if it says so, and never in a folder of this machine's."""
        wanted = localized(spec.get("workingDir", ""), places)
        is_own = wanted.startswith(str(self._folder)) and Path(wanted).is_dir()
        return Path(wanted) if is_own else self._folder

    async def _command_of(self, spec: Document, injection: Injection, places: Mapping[str, str]) -> Words:
        base = base_environment(self.pod, self._host.server, self._host.environment)
        environment = await injection.environment_of(spec, base)
        known = {name: localized(value, places) for name, value in environment.items()}
        entrypoint = spec.get("command") or self._host.entrypoints.get(spec["image"])
        if not entrypoint:
            raise LookupError("no command specified")
        words = [*entrypoint, *spec.get("args", ())]
        return [localized(expanded(word, known), places) for word in words], known

    async def _patiently(self, container: Container, attempt: Callable[[], Awaitable[Words]]) -> Words:
        """Try until what the container refers to is there, and say what is missing meanwhile."""
        while True:
            try:
                return await attempt()
            except Missing as missing:
                reason, told = "CreateContainerConfigError", str(missing)
            except LookupError as error:
                reason, told = "CreateContainerError", str(error)
            if container.state != (state := waiting(reason, told)):
                container.state = state
                await self.report()
            self._tell("Warning", "Failed", f"Error: {told}")
            await asyncio.sleep(RETRY_S)

    async def _pull(self, spec: Document) -> None:
        image, container = spec["image"], self._containers[spec["name"]]
        while not IMAGE.fullmatch(image):
            told = f'Failed to apply default image tag "{image}": invalid reference format'
            container.state = waiting("InvalidImageName", told)
            self._tell("Warning", "InspectFailed", told)
            await self.report()
            await asyncio.sleep(PULL_BACKOFF_S[-1])
        self._tell("Normal", "Pulling", f'Pulling image "{image}"')
        await asyncio.sleep(self._host.pull_s)
        for attempt in range(1_000_000):
            if not self._host.is_missing(image):
                break
            told = f'rpc error: code = NotFound desc = failed to pull and unpack image "{image}": not found'
            self._tell("Warning", "Failed", f'Failed to pull image "{image}": {told}')
            container.state = waiting("ErrImagePull", told)
            await self.report()
            await asyncio.sleep(PULL_BACKOFF_S[0])
            container.state = waiting("ImagePullBackOff", f'Back-off pulling image "{image}"')
            self._tell("Normal", "BackOff", f'Back-off pulling image "{image}"')
            await self.report()
            await asyncio.sleep(PULL_BACKOFF_S[min(attempt, len(PULL_BACKOFF_S) - 1)])
        self._tell("Normal", "Pulled", f'Successfully pulled image "{image}"')

    def _starts_again(self, state: Document) -> bool:
        policy = self.pod["spec"].get("restartPolicy", "Always")
        if self._doomed.is_set() or policy == "Never":
            return False
        return policy == "Always" or bool(state["terminated"]["exitCode"])

    # -- its end -------------------------------------------------------------------------------------------------------

    async def _stop(self, living: asyncio.Future[None]) -> None:
        """SIGTERM, the grace, SIGKILL; what has not started is not begun."""
        assert self._doom is not None
        started = [c for c in self._containers.values() if c.is_running]
        if not started:
            living.cancel()
            await asyncio.wait({living})
            return
        for name, task in self._starting.items():
            if not self._containers[name].is_running:
                task.cancel()
        for container in started:
            self._tell("Normal", "Killing", f"Stopping container {container.spec['name']}")
            if self._doom.grace_s > 0:
                container.ask_to_end()
        await asyncio.wait({living}, timeout=self._doom.grace_s)
        for container in started:
            container.kill()
        await asyncio.wait({living})

    async def _watch_deadline(self) -> None:
        seconds = self.pod["spec"].get("activeDeadlineSeconds")
        if seconds is None:
            return
        await asyncio.sleep(seconds)
        told = "Pod was active on the node longer than the specified deadline"
        self.end(Doom("DeadlineExceeded", told, self.pod["spec"].get("terminationGracePeriodSeconds", 30.0)))

    async def _remove(self) -> None:
        metadata = self.pod["metadata"]
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        try:
            await self._host.ask("DELETE", f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}", body)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    # -- what it says --------------------------------------------------------------------------------------------------

    async def report(self) -> None:
        """Tell the API server its status; returns when that has heard it, or says that there is no such pod."""
        async with self._reporting:
            metadata = self.pod["metadata"]
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
            body = {"metadata": {"uid": self.uid}, "status": self._status()}
            try:
                answer = await self._host.ask("PATCH", path, body, content_type="application/merge-patch+json")
            except ApiError as error:
                if error.status not in (404, 409):
                    raise
            else:
                self.pod["status"] = answer["status"]

    def _is_failed_by_node(self) -> bool:
        return self._doom is not None and bool(self._doom.reason)

    def _phase(self) -> str:
        if self._is_failed_by_node() and not any(c.is_running for c in self._containers.values()):
            return "Failed"
        init = [self._containers[spec["name"]].state for spec in self.pod["spec"].get("initContainers", ())]
        if any(state.get("terminated", {}).get("exitCode") for state in init):
            return "Failed"
        states = [self._containers[spec["name"]].state for spec in self.pod["spec"]["containers"]]
        restarts = any("terminated" in state and self._starts_again(state) for state in states)
        phase = phase_of(states, restarts=restarts)
        return "Running" if phase == "Pending" and any(self._restarts.values()) else phase

    def _status(self) -> Document:
        phase, now = self._phase(), datetime.now(UTC)
        ready = phase == "Running" and all(
            self._containers[spec["name"]].is_running for spec in self.pod["spec"]["containers"]
        )
        extra = {}
        if self._doom is not None and self._doom.condition:
            extra = {"DisruptionTarget": self._doom.condition}
        before = self.pod["status"].get("conditions") or []
        status: Document = {
            "phase": phase,
            "conditions": pod_conditions(
                before, now=now, is_initialized=self._is_initialized, is_ready=ready, extra=extra
            ),
            "hostIP": "127.0.0.1",
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
            "startTime": timestamp(self._started),
            "containerStatuses": self._statuses("containers"),
        }
        if self.pod["spec"].get("initContainers"):
            status["initContainerStatuses"] = self._statuses("initContainers")
        if phase == "Failed" and self._doom is not None and self._doom.reason:
            status |= {"reason": self._doom.reason, "message": self._doom.message}
        return status

    def _statuses(self, section: str) -> list[Document]:
        found = list[Document]()
        for spec in self.pod["spec"][section]:
            name = spec["name"]
            container = self._containers[name]
            state = container.state
            if section == "containers" and not self._is_initialized:
                state = waiting("PodInitializing")
            found.append(
                container_status(
                    spec,
                    state,
                    identity=container.identity,
                    restarts=self._restarts[name],
                    last_state=self._last_states.get(name),
                )
            )
        return found

    def _container(self, spec: Document, run: int) -> Container:
        name = spec["name"]
        identity = f"stand-in://{self.uid}-{name}-{run}"
        return Container(spec, self._folder / f"{name}.{run}", identity, self._host.keeper)

    def _tell(self, kind: str, reason: str, message: str) -> None:
        self._host.tell(self.pod, kind, reason, message)


def _all_containers(pod: Document) -> list[Document]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
