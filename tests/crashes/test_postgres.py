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
from crashkit.sweep import ALL
from example_ends import ENDS, FOLDER

from durableflow.testing import PostgresServer

pytestmark = pytest.mark.slow  # real processes

MOMENTS = ["begin", "before commit", "after commit"]
OF_FILES = {"outbox", "transactional"}
NAMES = sorted(set(ENDS) - OF_FILES)
KILLS = 2
"""Of each example, in a usual run."""
COMMITS_MAX = 30
"""An example that is not killed has made fewer transactions."""
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
    """Twice in a usual run, at each moment of each of its transactions when it is asked for."""
    jobs = list[Job]()
    for name in NAMES:
        kills = [(moment, at) for moment in MOMENTS for at in range(1, COMMITS_MAX)]
        chosen = kills if ALL else random.Random(name).sample(kills[: len(kills) * 2 // 3], KILLS)
        jobs += [job(name, moment=moment, at=at) for moment, at in chosen]
    killed = run(jobs, folder)
    assert unexpected(killed) == []
    deaths = [each.job for each in killed if each.code == DEAD]
    assert len(deaths) > len(killed) // 2
    bury(postgres, deaths)
    again = [Job(program=each.program, folder=each.folder, url=each.url) for each in deaths]
    assert list(wrong(postgres, run(again, folder))) == []
    print(f"{len(deaths)} kills at moments of transactions")


def test_while_the_server_crashes_each_comes_to_the_same_end_when_it_is_run_again(folder: Path) -> None:
    """`pg_ctl stop -m immediate`: what it had acknowledged is there; a program that was told of a loss is run again."""
    with PostgresServer(fsync=False, settings={"max_connections": 300}) as server:
        job = a_job(server, folder)
        jobs = [job(name) for name in (NAMES if ALL else random.Random(1).sample(NAMES, 7))]
        working = threading.Thread(target=run, args=(jobs, folder))
        working.start()
        for _ in range(SERVER_CRASHES):
            time.sleep(0.8)
            server.restart("immediate")
        working.join()
        bury(server, jobs)
        assert list(wrong(server, run(jobs, folder))) == []
        print(f"{SERVER_CRASHES} crashes of the server under {len(jobs)} examples")
