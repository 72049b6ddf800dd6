"""Runs programs in children that have all imports made already: `forge.py JOBS.json AT_ONCE`, a list of `Job`.

Each child has a folder of its own. It may be told to die at some moment of some commit, or at some call to the disk
(then `watched_disk.c` must be preloaded). Beside the folder it leaves what it said (`.out`, `.err`), and, if its
program came to its end, what the judge says of each store in the folder (`.judged`) and to which moments of commits it
came how often (`.moments`).
"""

import ctypes
import json
import os
import runpy
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[2] / "fleet"))

import aiosqlite  # noqa: F401  # so that no child has to
import asyncpg  # noqa: F401
import check_tables
import msgspec

import durableflow
import durableflow.client
import durableflow.engine
from crashkit.jobs import DEAD, TIMEOUT_S, Job
from crashkit.tables import read_store
from durableflow.backends.postgres import PostgresBackend
from durableflow.backends.sqlite import SqliteBackend
from durableflow.model import events as ev

for name in durableflow.__all__:  # each is loaded when it is asked for
    getattr(durableflow, name)


def run(job: Job) -> int:
    """In the child: what becomes of the program."""
    folder = Path(job.folder)
    os.chdir(folder)
    for file, name in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(f"{folder}{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), file)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    signal.alarm(TIMEOUT_S)
    before = {path.name: read_store(path) for path in folder.glob("*.db")}
    moments = Counter[str]()
    hook = dying(job, moments) if job.moment else None
    if job.url:
        use_postgres(job, hook)
    elif hook is not None:
        SqliteBackend.hook = property(lambda _: hook, lambda *_: None)  # type: ignore[assignment]
    if job.log or job.harm:
        ctypes.CDLL(None).watch_disk(str(folder).encode(), job.log.encode(), *map(ctypes.c_long, job.harm_numbers))
    sys.argv = [job.program, *job.arguments]
    sys.path.insert(0, str(Path(job.program).parent))
    runpy.run_path(job.program, run_name="__main__")
    judged = {path.name: judge(path, before.get(path.name), job) for path in sorted(folder.glob("*.db"))}
    Path(f"{folder}.judged").write_text(json.dumps(judged))
    Path(f"{folder}.moments").write_text(json.dumps(moments))
    return 0


def use_postgres(job: Job, hook: Callable[[str], None] | None) -> None:
    """What the program calls a file becomes a schema of a database."""
    open_backend = durableflow.client.open_backend

    def open_there(url: str) -> Any:
        if url.startswith("sqlite:///"):
            url = f"{job.url}{Path(url).stem}"
        backend = open_backend(url)
        if isinstance(backend, PostgresBackend):
            backend._database.hook = hook
        return backend

    durableflow.client.open_backend = open_there


def dying(job: Job, moments: Counter[str]) -> Callable[[str], None]:
    """A hook for a store that counts the moments, and ends the process the `at`th time that it comes to this one."""

    def hook(moment: str) -> None:
        moments[moment] += 1
        if moment == job.moment and moments[moment] == job.at:
            os._exit(DEAD)

    return hook


def judge(path: Path, before: check_tables.Tables | None, job: Job) -> dict[str, Any]:
    """What is wrong in a store, and what has become of each instance."""
    tables = read_store(path)
    acks = check_tables.read_acks(*path.parent.glob("acks*.jsonl"))
    ledger = path.parent / "ledger.jsonl"
    entries = check_tables.read_ledger(ledger) if ledger.exists() else None
    wrong = check_tables.violations(tables, acks, entries, replayed=job.replayed)
    for instance, rows in before.history.items() if before is not None else ():
        if tables.history.get(instance, rows)[: len(rows)] != rows:
            wrong.append(f"{instance} does not begin any more as it had been recorded")
    ends = {instance: [row.status, end_of(tables, instance)] for instance, row in tables.instances.items()}
    return {"wrong": wrong, "ends": ends, "acks": len(acks), "events": sum(map(len_of, tables.history.values()))}


def len_of(rows: Any) -> int:
    return sum(len(row.events) for row in rows)


def end_of(tables: check_tables.Tables, instance: str) -> str:
    """Its result; of a failure the kind, for the rest tells how often something was tried."""
    rows = tables.history.get(instance)
    match rows[-1].events[-1] if rows else None:
        case ev.InstanceCompleted(output=output):
            return output.decode()
        case ev.InstanceFailed(failure=failure):
            return failure.type_name
        case event:
            return type(event).__name__


def begin(job: Job) -> int:
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        code = run(job)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(path: Path, at_once: int) -> None:
    jobs = msgspec.json.decode(path.read_bytes(), type=list[Job])
    codes = [0] * len(jobs)
    waiting = list(reversed(list(enumerate(jobs))))
    running: dict[int, int] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            number, job = waiting.pop()
            running[begin(job)] = number
        child, status = os.wait()
        codes[running.pop(child)] = os.waitstatus_to_exitcode(status)
    path.with_suffix(".codes").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
