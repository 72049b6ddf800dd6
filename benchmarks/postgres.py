"""The PostgreSQL server of a cell: started by the parent, found by the children, with a database for each directory.

Each cell has a server of its own, whose files lie beside the cell's other files, on the disk that is measured. Its
settings are PostgreSQL's own, but for the number of connections. Nothing but `psql` is needed to talk to it here.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from benchmarks import slow_sync
from benchmarks.environments import REPOSITORY

SETTINGS: Final = {"max_connections": 300}
TOLD: Final = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method")
VARIABLE: Final = "BENCHMARKS_POSTGRES"


class ServerError(Exception):
    """No server can be had here, or it refused something; the message says why."""


class Given(NamedTuple):
    """What a child is told of the server."""

    url: str
    psql: str
    pid: int


@contextlib.contextmanager
def server(directory: Path, *, sync_ms: float) -> Iterator[dict[str, str]]:
    """A server for a cell, gone afterwards; gives what its children must find in their environment.

    Raises:
        ServerError: see there.
    """
    if (source := str(REPOSITORY / "src")) not in sys.path:  # the parent may run without the library installed
        sys.path.append(source)
    from durableflow.testing import PostgresServer, PostgresUnavailable

    try:
        added = slow_sync.environment(directory, sync_ms)
        with PostgresServer(settings=SETTINGS, environment=added, directory=directory) as started:
            given = Given(started.url(), str(started.programs / "psql"), started.pids()[0])
            yield {VARIABLE: json.dumps(given)}
    except (PostgresUnavailable, slow_sync.NoCompilerError) as error:
        raise ServerError(str(error)) from error


def given() -> Given:
    """The server of this child's cell."""
    return Given(*json.loads(os.environ[VARIABLE]))


def database(directory: Path) -> str:
    """The URL of the database that stands for this directory, which now exists."""
    if not ask(f"select 1 from pg_database where datname = '{_name(directory)}'"):
        ask(f'create database "{_name(directory)}"')
    return _url(directory)


def data_bytes(directory: Path) -> int:
    """What the directory's database occupies in its data files, when everything that is in memory has been written."""
    ask("checkpoint")
    return int(ask(f"select pg_database_size('{_name(directory)}')"))


def wal_bytes() -> int:
    """How much has been written to the server's write-ahead log since it was made."""
    return int(ask("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"))


def settle(directory: Path) -> None:
    """Vacuum and analyse, as autovacuum would have done by now had the rows come in over days."""
    ask("vacuum (analyze)", url=_url(directory))
    ask("checkpoint")


def settings() -> Mapping[str, str]:
    """The server's version and what its durability depends on, as in force."""
    return {name: ask(f"show {name}") for name in TOLD}


def ask(statement: str, *, url: str | None = None) -> str:
    """What a statement selects, as text; nothing for no rows."""
    here = given()
    command = [here.psql, "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url or here.url, "-c", statement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(done.stderr.strip())
    return done.stdout.strip()


def _name(directory: Path) -> str:
    return directory.name


def _url(directory: Path) -> str:
    return urlunsplit(urlsplit(given().url)._replace(path=f"/{_name(directory)}"))
