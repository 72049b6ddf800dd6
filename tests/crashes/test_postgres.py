"""Each example on Postgres: its process ends at moments of commits, or the server crashes, and it comes to its end.

Where an example names a file, its store is a schema of a database. Two examples write tables of their own with the
driver of SQLite, and stay there; `tests/fleet` and `tests/runtime/test_postgres_transactions.py` do the like here.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import check_tables
import pytest
from crashkit.jobs import DEAD, Job, Outcome, run, unexpected
from crashkit.sweep import ALL, moments_of, some
from example_ends import ENDS, FOLDER

from durableflow.testing import PostgresServer

pytestmark = pytest.mark.slow  # real processes

OF_FILES = {"outbox", "transactional"}
NAMES = sorted(set(ENDS) - OF_FILES)
EXAMPLES = 9
"""Of which some are killed in a usual run."""
KILLS = 18
BATCH = 100
"""So many schemas are filled and judged at a time."""
AT_ONCE = 6
"""Else a server on a busy machine does not answer them all in time, and a program that is told so ends."""
SERVER_CRASHES = 3


@pytest.fixture
def job(postgres: PostgresServer, folder: Path) -> Callable[..., Job]:
    """An example in a database of its own."""
    return a_job(postgres, folder)


def a_job(server: PostgresServer, folder: Path) -> Callable[..., Job]:
    url = server.create_database()
    made = 0

    def job_of(name: str, **options: object) -> Job:
        nonlocal made
        made += 1
        place = folder / f"{made}-{name}"
        place.mkdir()
        return Job(program=str(FOLDER / f"{name}.py"), folder=str(place), url=f"{url}?schema=r{made}_", **options)

    return job_of


def bury(server: PostgresServer, jobs: Sequence[Job]) -> None:
    """The leases of the dead end now, not in some seconds; nothing else tells time passed from time that passes."""
    for job in jobs:
        for schema in schemas(server, job):
            server.execute(
                f"update {schema}.workers set expires = now() - interval '1 second'",
                f"update {schema}.servers set expires = now() - interval '1 second'",
                database=database(job),
            )


def schemas(server: PostgresServer, job: Job) -> list[str]:
    """Those of the job that got as far as to have tables."""
    beginning = job.url.rpartition("=")[2]
    found = server.execute(
        f"select table_schema from information_schema.tables where table_name = 'servers' "
        f"and table_schema like '{beginning.replace('_', chr(92) + '_')}%'",
        database=database(job),
    )
    return [line.strip() for line in found.splitlines() if line.strip().startswith(beginning)]


def database(job: Job) -> str:
    return urlsplit(job.url).path.removeprefix("/")


def wrong(server: PostgresServer, outcomes: Sequence[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        name, place = Path(outcome.job.program).stem, Path(outcome.job.folder).name
        if outcome.code:
            yield f"{place}: it ended with {outcome.code}: {outcome.err[-1500:]}"
        elif outcome.lines != ENDS[name]:
            yield f"{place}: it said {outcome.lines}"
        for schema in schemas(server, outcome.job):
            tables = asyncio.run(check_tables.read(outcome.job.url.partition("?")[0], schema))
            yield from (f"{place}: {line}" for line in check_tables.violations(tables))


def test_ended_at_a_moment_of_a_commit_each_comes_to_the_same_end(
    job: Callable[..., Job], postgres: PostgresServer, folder: Path
) -> None:
    """How often each comes to which moment is counted first; it may be some fewer when others run beside it."""
    calm = run([job(name, moment="begin") for name in some(NAMES, EXAMPLES, "examples")], folder, at_once=AT_ONCE)
    assert list(wrong(postgres, calm)) == []
    moments = moments_of(calm)
    chosen = some(moments, KILLS, "kills")
    random.Random(1).shuffle(chosen)  # so that those that take long do not run side by side
    deaths = 0
    for begin in range(0, len(chosen), BATCH):
        jobs = [job(name, moment=moment, at=at) for name, moment, at in chosen[begin : begin + BATCH]]
        killed = run(jobs, folder, at_once=AT_ONCE)
        assert unexpected(killed) == []
        dead = [each.job for each in killed if each.code == DEAD]
        bury(postgres, dead)
        again = [Job(program=each.program, folder=each.folder, url=each.url) for each in dead]
        assert list(wrong(postgres, run(again, folder, at_once=AT_ONCE))) == []
        deaths += len(dead)
        print(f"{deaths} kills at moments of transactions, of {len(moments)} that {len(calm)} examples come to")
    assert deaths > len(chosen) // 2


def test_while_the_server_crashes_each_comes_to_the_same_end_when_it_is_run_again(folder: Path) -> None:
    """`pg_ctl stop -m immediate`: what it had acknowledged is there; a program that was told of a loss is run again."""
    with PostgresServer(fsync=False, settings={"max_connections": 300}) as server:
        job = a_job(server, folder)
        jobs = [job(name) for name in (NAMES if ALL else random.Random(1).sample(NAMES, 7))]
        working = threading.Thread(target=run, args=(jobs, folder), kwargs={"at_once": AT_ONCE})
        working.start()
        for _ in range(SERVER_CRASHES):
            time.sleep(0.8)
            server.restart("immediate")
        working.join()
        bury(server, jobs)
        assert list(wrong(server, run(jobs, folder, at_once=AT_ONCE))) == []
        print(f"{SERVER_CRASHES} crashes of the server under {len(jobs)} examples")
