"""The server crashes, ends sessions, refuses commits, has no room left; each again and again while the fleet works."""

import asyncio
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fleetkit.processes import ROUNDS, Fleet, eventually, fleet_in
from fleetkit.storms import goes_on, load, storm

from durableflow import Handle
from durableflow.testing import PostgresServer

from flows import waiting  # isort: skip

pytestmark = pytest.mark.slow  # real processes, real time

CRASHES = 5
ENDED_SESSIONS = 60
REFUSALS = 100
FILLINGS = 3


async def test_the_server_may_crash_at_any_moment(fleet: Fleet) -> None:
    async with load(fleet):

        async def crash() -> None:
            await fleet.close()
            await asyncio.to_thread(fleet.server.restart, "immediate")

        await storm(fleet, crash, CRASHES, seed=1, calm_s=(0.5, 1.2))


async def test_all_processes_of_the_server_may_be_killed(fleet: Fleet) -> None:
    async with load(fleet):

        async def kill() -> None:
            await fleet.close()
            await asyncio.to_thread(fleet.server.kill)
            await asyncio.to_thread(fleet.server.start)

        await storm(fleet, kill, 2, seed=2, calm_s=(0.5, 1.2))


async def test_sessions_may_be_ended_in_the_middle_of_a_commit(fleet: Fleet) -> None:
    ended = 0
    async with load(fleet):
        await slow_commits(fleet)

        async def end() -> None:
            nonlocal ended
            ended += await fleet.value(
                "select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity where state = 'active' "
                "and datname = current_database() and query ~ 'commit_turns|\\.send\\(' and pid <> pg_backend_pid() "
                "order by random() limit 2) as busy"
            )

        while ended < ENDED_SESSIONS * ROUNDS:
            await storm(fleet, end, 10, seed=3, calm_s=(0.0, 0.1))


async def slow_commits(fleet: Fleet) -> None:
    """So that what is done to the server often meets one."""
    await fleet.run(
        "create function public.dawdle() returns trigger language plpgsql as "
        "$$ begin perform pg_sleep(random() * 0.02); return null; end $$;"
        "create trigger dawdles after insert on durableflow.history for each statement execute function public.dawdle()"
    )


@pytest.mark.parametrize(("state", "share"), [("40001", 0.1), ("40P01", 0.1), ("53200", 0.05)])
async def test_a_commit_that_the_server_refuses_now_and_then_is_made_again(
    fleet: Fleet, state: str, share: float
) -> None:
    """A serialization failure, a deadlock, a server without memory: by a trigger, which counts them outside."""
    async with load(fleet):
        await fleet.run(
            f"create sequence public.refusals; {_REFUSE} as $$ "
            f"begin if random() < {share} then perform nextval('public.refusals'); "
            f"raise exception 'not now' using errcode = '{state}'; end if; return null; end $$;"
        )
        for table in ("history", "inbox"):
            await fleet.run(
                f"create trigger refuses after insert on durableflow.{table} for each statement "
                "execute function public.refuse()"
            )

        async def enough() -> bool:
            return bool(await fleet.value("select last_value from public.refusals") >= REFUSALS * ROUNDS)

        await eventually(enough, f"{REFUSALS} were refused", timeout_s=40 * ROUNDS)
        await goes_on(fleet, 30)
        await fleet.run(f"{_REFUSE} as $$ begin return null; end $$")


_REFUSE = "create or replace function public.refuse() returns trigger language plpgsql"


# -- a disk that is full ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path | None]:
    """A file system of 32 MiB for a tablespace; None where none may be mounted."""
    folder = Path("/tmp") / f"durableflow-small-{os.getpid()}"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], capture_output=True, check=False
    )
    try:
        if mounted.returncode == 0:
            shutil.chown(folder, "postgres", "postgres")
            yield folder
        else:
            yield None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        folder.rmdir()


async def test_a_disk_that_is_full_stops_the_fleet_until_there_is_room(
    fleet_server: PostgresServer, small_disk: Path | None, tmp_path: Path
) -> None:
    if small_disk is not None:
        await on_a_small_disk(fleet_server, small_disk, tmp_path)
    else:
        async with fleet_in(fleet_server, tmp_path) as fleet:
            await refused_as_full(fleet)


async def on_a_small_disk(server: PostgresServer, disk: Path, folder: Path) -> None:
    """All tables are on a small disk, and a file that grows takes what is left of it."""
    await asyncio.to_thread(server.execute, f"create tablespace small location '{disk}'")
    try:
        async with fleet_in(server, folder, tablespace="small") as fleet, load(fleet):
            for _ in range(FILLINGS * ROUNDS):
                ballast = disk / "ballast"
                await asyncio.to_thread(fill, ballast)

                async def is_told() -> bool:
                    return any("No space left" in line for member in fleet.members for line in member.said[-20:])

                await eventually(is_told, "a member hears that the disk is full")
                await asyncio.sleep(0.5)
                ballast.unlink()
                await goes_on(fleet, 60)
    finally:
        await asyncio.to_thread(server.execute, "drop tablespace small")


def fill(ballast: Path) -> None:
    """Write until there is no room."""
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4_096))


async def refused_as_full(fleet: Fleet) -> None:
    """The next best: a trigger that says what a full disk makes the server say."""
    async with load(fleet):
        for _ in range(FILLINGS * ROUNDS):
            await fleet.run(
                "create function public.full() returns trigger language plpgsql as $$ begin "
                "raise exception 'No space left on device' using errcode = '53100'; end $$;"
                "create trigger full_disk before insert on durableflow.history execute function public.full()"
            )
            await asyncio.sleep(1)
            await fleet.run("drop function public.full() cascade")
            await goes_on(fleet, 60)


# -- hints ------------------------------------------------------------------------------------------------------------


async def test_a_listening_connection_that_was_lost_is_rebuilt(fleet: Fleet) -> None:
    """Without hints a worker looks once a second; with them an event arrives in a few milliseconds."""
    workers = await fleet.workers(2)
    async with fleet.client() as client:
        for turn in range(3 * ROUNDS):
            handles = [await client.start(waiting.options(instance_id=f"{turn}-{n}"), n) for n in range(15)]
            await asyncio.sleep(0.3)
            assert statistics.median([await latency_s(handle) for handle in handles]) < 0.5
            ended = await fleet.value(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() "
                "and application_name = '' and pid <> pg_backend_pid() and query ~* 'listen|select 1'"
            )
            assert ended >= 3, "both workers' and the client's"
            await asyncio.sleep(1.5)
    await fleet.come_to_rest(workers)


async def latency_s(handle: Handle[int]) -> float:
    begin_s = time.monotonic()
    await handle.raise_event("go", 1)
    await handle.result()
    return time.monotonic() - begin_s
