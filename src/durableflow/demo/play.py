"""The play: a process that starts a worker, gives it orders, kills it, starts another, and checks what came of it.

It is a client of the same file: it starts instances, raises events and reads histories,
and never runs a workflow itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Final

from durableflow import Client, DurableflowError, Handle, Status, WorkflowFailed
from durableflow.backends.sqlite import SqliteBackend
from durableflow.demo import order as program
from durableflow.demo import proof
from durableflow.demo.ledger import Entry, LedgerReader
from durableflow.demo.timeline import BOLD, DIM, GREEN, RED, YELLOW, Timeline

_LOOK_S: Final = 0.01
_PATIENCE_S: Final = 60.0
_KILL_AFTER_S: Final = 0.3
_INTERRUPTED: Final = 130

LAMPS: Final = program.Order("brass lamp", 12, 178_800, "Harbour Street 4")
LETTER: Final = program.Order("letter scale", 1, 8_900, "")


class DemoError(Exception):
    """The demo cannot go on; the message says why and what to do."""


def perform(store: str | None) -> int:
    """Play it in a temporary folder or on the file `store`; the exit code."""
    timeline = Timeline()
    try:
        with tempfile.TemporaryDirectory(prefix="durableflow-demo-") as folder:
            path = Path(store).absolute() if store else Path(folder, "orders.db")
            return asyncio.run(_Play(path, Path(folder), timeline, kept=bool(store)).play())
    except KeyboardInterrupt:
        print("\ninterrupted; the worker is stopped", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # whoever read along has gone, as in `durableflow demo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (DemoError, DurableflowError, OSError) as error:
        print(f"durableflow demo: {error}", file=sys.stderr)
        return 1


class _Play:
    """One performance."""

    def __init__(self, store: Path, folder: Path, timeline: Timeline, *, kept: bool) -> None:
        self._store = store
        self._ledger_path = folder / "ledger.jsonl"
        self._complaints = folder / "worker-errors.txt"
        self._timeline = timeline
        self._kept = kept
        self._ledger = LedgerReader(self._ledger_path)
        self._worker: subprocess.Popen[bytes] | None = None
        self._kills: list[proof.Kill] = []
        self._ids: tuple[str, str] = ("", "")

    async def play(self) -> int:
        """All scenes; the exit code."""
        if not self._store.parent.is_dir():
            raise DemoError(f"there is no folder {self._store.parent} for the store; make it, or give another --store")
        async with Client(SqliteBackend(self._store)) as client:
            try:
                self._ids = await _free_ids(client, self._store)
                self._introduce()
                first = await self._scene_of_the_crash(client)
                second = await self._scene_of_the_undoing(client)
                return await self._prove(client, first, second)
            finally:
                self._stop_worker()

    # -- the scenes -----------------------------------------------------------------------------------------

    def _introduce(self) -> None:
        say = self._timeline.say
        say(f"durableflow {_version()}: ordinary functions that survive kill -9", BOLD)
        say()
        say(f"  store    {self._store} (SQLite, no server)")
        say(f"  client   process {os.getpid()}, this one: starts instances, raises events, kills the worker")
        say("  worker   a process of its own: runs the workflow and its activities")

    async def _scene_of_the_crash(self, client: Client) -> Handle[str]:
        tell, (instance, _) = self._timeline.tell, self._ids
        self._timeline.heading("1. An expensive order, and a worker that is killed in the middle of it")
        await self._start_worker(slow="charge")
        handle = await client.start(program.fulfil.options(instance_id=instance), LAMPS)
        tell("client", instance, f"starts {_describe(LAMPS)}; acknowledged: it is in the file")
        await self._kill_while_running("charge", client, instance)
        await handle.raise_event(program.APPROVAL, True)
        tell("client", instance, f"raises the event {program.APPROVAL!r}; no worker is up, so the file keeps it")
        await self._start_worker(slow="release_stock")
        await self._tell_end(handle)
        return handle

    async def _scene_of_the_undoing(self, client: Client) -> Handle[str]:
        tell, (_, instance) = self._timeline.tell, self._ids
        self._timeline.heading("2. An order that fails, and a worker that is killed while it is being undone")
        handle = await client.start(program.fulfil.options(instance_id=instance), LETTER)
        tell("client", instance, f"starts {_describe(LETTER)}, with no address")
        await self._kill_while_running("release_stock", client, instance)
        await self._start_worker(slow="")
        await self._tell_end(handle)
        return handle

    async def _prove(self, client: Client, first: Handle[str], second: Handle[str]) -> int:
        self._stop_worker()
        self._ledger.read()
        evidence = proof.Evidence(
            self._ledger.entries,
            {handle.id: await handle.history() for handle in (first, second)},
            self._kills,
        )
        timeline = self._timeline
        timeline.say()
        timeline.say("3. The proof: what the ledger says began, beside what the histories recorded", BOLD)
        timeline.say()
        timeline.table(("INSTANCE", "ACTIVITY", "BEGAN", "RESULTS", ""), proof.rows(evidence))
        timeline.say()
        claims = [*proof.claims(evidence), *await _claims_of_ends(client, first, second)]
        for claim in claims:
            mark = timeline.paint("yes", GREEN) if claim.holds else timeline.paint("NO ", RED)
            timeline.say(f"  {mark}  {claim.text}")
        timeline.say()
        if not all(claim.holds for claim in claims):
            timeline.say("The proof does not hold. This is a bug in durableflow: please report it.", RED)
            return 1
        self._say_where_to_read_on()
        return 0

    def _say_where_to_read_on(self) -> None:
        say = self._timeline.say
        say("Read on", BOLD)
        say(f"  {Path(program.__file__)}")
        say("      the workflow that you have just seen; examples/order.py is the same to copy")
        say("  docs/tutorials/quickstart.md")
        say("      your own, in five minutes")
        if self._kept:
            say(f"  {self._store}")
            say("      the histories of this demo")
        else:
            say("  durableflow demo --store orders.db")
            say("      the same, and the file is kept to look into")

    # -- what the scenes are made of ------------------------------------------------------------------------

    async def _start_worker(self, slow: str) -> None:
        """Start a worker's process, and wait until the store is its own."""
        self._timeline.tell("client", "", "starts a worker" if not self._kills else "starts another worker")
        self._worker = self._start_process(slow)
        in_vain = f"the worker did not get {self._store}: does another process work on it?"
        await self._watch(lambda entry: entry.what == "leads", in_vain)

    def _start_process(self, slow: str) -> subprocess.Popen[bytes]:
        with self._complaints.open("wb") as complaints:
            return subprocess.Popen(  # noqa: S603  # our own module
                [sys.executable, "-m", "durableflow.demo.worker", self._store, self._ledger_path, slow],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
            )

    async def _kill_while_running(self, activity: str, client: Client, instance: str) -> None:
        """Kill the worker while `activity` is running, and note what is recorded by then."""
        in_vain = f"activity {activity} did not begin"
        await self._watch(lambda entry: entry.what == "begins" and entry.activity == activity, in_vain)
        await asyncio.sleep(_KILL_AFTER_S)
        assert self._worker is not None
        process = self._worker.pid
        self._timeline.tell("client", "", f"kill -9 {process}, while {activity} is running", RED)
        self._stop_worker()
        self._ledger.read()
        view = await client.view(instance)
        tasks = [task for task in view.tasks if task.kind == "activity"]
        done = ", ".join(task.name for task in tasks if task.ended_at_us is not None)
        self._timeline.tell("client", instance, f"has in the file: results of {done}")
        so_far = self._ids[: self._ids.index(instance) + 1]
        recorded = [key for each in so_far for key in proof.results_in(each, await client.history(each))]
        self._kills.append(proof.Kill(process, len(self._ledger.entries), frozenset(recorded)))

    async def _tell_end(self, handle: Handle[str]) -> None:
        async def end() -> tuple[str, str]:
            try:
                return await handle.result(timeout=_PATIENCE_S), GREEN
            except WorkflowFailed as failed:
                return failed.message, YELLOW

        waiting = asyncio.ensure_future(end())
        try:
            while not waiting.done():
                self._tell_news()
                self._check_worker()
                await asyncio.sleep(_LOOK_S)
        finally:
            waiting.cancel()  # else it would find the store closed, and say so behind everything else
        text, colour = await waiting
        self._tell_news()
        status = (await handle.status()).status
        self._timeline.tell("client", handle.id, f"is {status}: {text}", colour)

    async def _watch(self, wanted: Callable[[Entry], bool], in_vain: str) -> None:
        """Tell what the ledger says until it says what is wanted."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while not any(map(wanted, self._tell_news())):
            self._check_worker()
            if time.monotonic() > deadline_s:
                raise DemoError(f"{in_vain} (waited {_PATIENCE_S:g} s)")
            await asyncio.sleep(_LOOK_S)

    def _tell_news(self) -> list[Entry]:
        news = self._ledger.read()
        for entry in news:
            what, colour = _in_words(entry)
            self._timeline.tell(f"worker {entry.process}", entry.instance, what, colour, entry.at_s)
        return news

    def _check_worker(self) -> None:
        if self._worker is not None and self._worker.poll() is not None:
            said = self._complaints.read_text(encoding="utf-8", errors="replace").strip()
            raise DemoError(f"the worker's process ended by itself, with code {self._worker.returncode}:\n{said}")

    def _stop_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            worker.wait()
            if worker.stdin is not None:
                with contextlib.suppress(OSError):
                    worker.stdin.close()


async def _free_ids(client: Client, store: Path) -> tuple[str, str]:
    """Ids for two orders that the store does not have."""
    taken: set[str] = set()
    cursor = None
    while True:
        page = await client.list(limit=1_000, cursor=cursor)
        for instance in page.instances:
            if instance.workflow != program.fulfil.name:
                raise DemoError(
                    f"{store} holds instances of workflow {instance.workflow!r}, which the demo does not know; "
                    "give it a file of its own"
                )
            taken.add(instance.instance_id)
        cursor = page.cursor
        if cursor is None:
            break
    free = (f"order-{number}" for number in range(1, len(taken) + 3))
    first, second, *_ = (each for each in free if each not in taken)
    return first, second


async def _claims_of_ends(client: Client, first: Handle[str], second: Handle[str]) -> list[proof.Claim]:
    ends = [(await client.status(handle.id)).status for handle in (first, second)]
    undone = [task.name for task in (await client.view(second.id)).tasks if task.state == "done"][-2:]
    return [
        proof.Claim(
            ends[0] is Status.COMPLETED and await first.result() == f"parcel to {LAMPS.address}",
            f"{first.id} went on where it was and is COMPLETED",
        ),
        proof.Claim(
            ends[1] is Status.FAILED and undone == ["refund", "release_stock"],
            f"{second.id} is FAILED, as it should be, and what had been done for it is undone",
        ),
    ]


def _in_words(entry: Entry) -> tuple[str, str]:
    name = f"{entry.activity:<14}"
    match entry.what:
        case "leads":
            return "works on the store", DIM
        case "recovers":
            if entry.text == "0":
                return "is taken up", ""
            return f"is replayed over its {entry.text} events, in which no activity runs", BOLD
        case "says":
            return entry.text, DIM
        case "begins" if entry.attempt > 1:
            return f"{name}begins again: attempt {entry.attempt}, same idempotency key {entry.key}", BOLD
        case "is done":
            return f"{name}is done", GREEN
        case "fails":
            return f"{name}fails: {entry.text}", YELLOW
        case what:
            return f"{name}{what}", ""


def _describe(order: program.Order) -> str:
    return f"{order.quantity} x {order.item} for {order.cents / 100:,.2f}"


def _version() -> str:
    try:
        return metadata.version("durableflow")
    except metadata.PackageNotFoundError:  # the source tree, not installed
        return "(not installed)"
