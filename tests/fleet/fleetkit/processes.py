"""Processes of a fleet on one database, and what they leave behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from durableflow import Client
from durableflow.testing import PostgresServer

ROOMS = Path(__file__).parents[1]
PATIENCE_S = 45.0
LEASE_S = 2.0
ROUNDS = int(os.environ.get("DURABLEFLOW_FLEET_ROUNDS", "1"))
"""How many times as many faults as in a usual run."""
LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What a question raises whose connection was lost."""
T = TypeVar("T")
_BOOKED_OTHERWISE = """
    select i.id, array_agg(b.number) from instances i left join public.booked b on b.instance = i.id
    where i.workflow = 'booking' and i.status = 'COMPLETED' group by i.id
    having count(*) <> 2 or count(distinct b.number) <> 2
"""


async def eventually(look: Callable[[], Awaitable[T]], what: str, *, timeout_s: float = PATIENCE_S) -> T:
    """Look until there is something to see, and give it."""
    deadline_s = time.monotonic() + timeout_s
    while not (seen := await look()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(0.02)
    return seen


class Member:
    """A process of `apps/member.py`; what it says goes to a file."""

    def __init__(self, name: str, command: Sequence[str], said: Path) -> None:
        self.name = name
        self.command = command
        self._said = said
        self._before = len(said.read_bytes()) if said.exists() else 0
        with said.open("ab") as out:
            self.popen = subprocess.Popen(
                [sys.executable, "-W", "error", *command], stdout=out, stderr=subprocess.STDOUT
            )

    def __repr__(self) -> str:
        return f"<{self.name}, process {self.popen.pid}>"

    @property
    def said(self) -> list[str]:
        """Lines of this process, not of those that had its name before."""
        return self._said.read_bytes()[self._before :].decode().splitlines()

    def heard(self, beginning: str) -> list[str]:
        """The lines that begin so."""
        return [line for line in self.said if line.startswith(beginning)]

    async def says(self, beginning: str, *, times: int = 1, timeout_s: float = PATIENCE_S) -> None:
        """Wait until it has said so many lines that begin so."""

        async def look() -> bool:
            said = self.heard(beginning)
            assert len(said) >= times or self.popen.poll() is None, self.last_words()
            return len(said) >= times

        try:
            await eventually(look, f"{self} says {beginning!r} {times} times", timeout_s=timeout_s)
        except AssertionError as error:
            self.signal(signal.SIGUSR2)
            await asyncio.sleep(0.5)
            raise AssertionError(f"{error}; it said {self.said[-60:]}") from None

    def last_words(self) -> str:
        return f"{self} ended with {self.popen.returncode}: {' / '.join(self.said[-12:])}"

    async def ends(self, *, timeout_s: float = PATIENCE_S) -> None:
        """Wait until it has ended, and ended well."""

        async def look() -> bool:
            return self.popen.poll() is not None

        await eventually(look, f"{self} ends; it said {self.said[-12:]}", timeout_s=timeout_s)
        assert self.popen.returncode == 0, self.last_words()

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def terminate(self) -> None:
        self.popen.terminate()

    def kill(self) -> None:
        """SIGKILL, and it is gone; also when it is frozen."""
        assert self.popen.poll() is None, self.last_words()
        self.popen.kill()
        self.popen.wait()

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)


class Fleet:
    """A database of its own, and the processes on it."""

    def __init__(self, server: PostgresServer, url: str, folder: Path) -> None:
        self.server = server
        self.url = url
        self.folder = folder
        self.ledger = folder / "ledger.jsonl"
        self.members: list[Member] = []
        self._connection: asyncpg.Connection | None = None
        self._turns = asyncio.Lock()

    @property
    def database(self) -> str:
        return urlsplit(self.url).path.strip("/")

    @property
    def password(self) -> str:
        return urlsplit(self.url).password or ""

    # -- the database -------------------------------------------------------------------------------------------------

    async def sql(self, text: str, *parameters: object) -> list[Any]:
        """The rows of an answer; the tables of the store need no schema before their names."""
        async with self._turns:
            if self._connection is None or self._connection.is_closed():
                here = {"search_path": "durableflow,public"}
                self._connection = await asyncpg.connect(self.url, server_settings=here)
            try:
                return [tuple(row) for row in await self._connection.fetch(text, *parameters)]
            except LOST:  # it may not know itself that it is of no use any more
                self._connection.terminate()
                raise

    async def run(self, script: str) -> None:
        """Statements that have nothing to answer."""
        await self.sql("select 1")
        assert self._connection is not None
        await self._connection.execute(script)

    async def value(self, text: str, *parameters: object) -> Any:
        rows = await self.sql(text, *parameters)
        return rows[0][0] if rows else None

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()

    async def make_tables(self) -> None:
        """Those of the store, and one of the user's own, in which transactional activities write."""
        async with self.client():
            pass
        await self.run("create table public.booked (instance text, number int)")

    def client(self) -> Client:
        return Client(self.url)

    def url_of(self, *, port: int | None = None, user: str | None = None) -> str:
        """The address by another way, or for another user, whose password is the same."""
        parts = urlsplit(self.url)
        name = user or parts.username
        place = f"{name}:{parts.password}@{parts.hostname}:{port or parts.port}"
        return urlunsplit((parts.scheme, place, parts.path, parts.query, ""))

    # -- the processes ------------------------------------------------------------------------------------------------

    def begin(
        self,
        name: str,
        *,
        serve: bool = True,
        ask: bool = False,
        url: str | None = None,
        lease_s: float = LEASE_S,
        clock_s: int = 0,
        at_once: int = 24,
    ) -> Member:
        """Start a worker, or who asks, or both in one."""
        command = [str(ROOMS / "apps" / "member.py"), url or self.url, "--ledger", str(self.ledger)]
        command += ["--name", name, "--lease", str(lease_s), "--clock", str(clock_s), "--at-once", str(at_once)]
        command += ["--serve"] if serve else []
        command += ["--ask", name, "--acks", str(self.acks_of(name))] if ask else []
        return self.begin_program(name, command)

    def begin_program(self, name: str, command: Sequence[str]) -> Member:
        """Start a process of these arguments of Python's, under this name."""
        member = Member(name, command, self.folder / f"{name}.txt")
        self.members.append(member)
        return member

    def again(self, member: Member) -> Member:
        """Start one that was killed once more."""
        self.members.remove(member)
        return self.begin_program(member.name, member.command)

    async def workers(self, count: int, **options: Any) -> list[Member]:
        """So many new workers, at work."""
        begun = [self.begin(f"w{len(self.members) + 1}", **options) for _ in range(count)]
        for worker in begun:
            await worker.says("leads")
        return begun

    def acks_of(self, name: str) -> Path:
        return self.folder / f"{name}.acks.jsonl"

    def asked(self) -> list[Path]:
        return sorted(self.folder.glob("*.acks.jsonl"))

    def acknowledged(self) -> int:
        """How many lines all who ask have written."""
        return sum(path.read_bytes().count(b"\n") for path in self.asked())

    def ran(self) -> int:
        """How many attempts have ended well."""
        return self.ledger.read_bytes().count(b'"what": "end"') if self.ledger.exists() else 0

    async def end(self, members: Iterable[Member], *, timeout_s: float = PATIENCE_S) -> None:
        """SIGTERM, and they close and end well."""
        members = list(members)
        for member in members:
            await member.says("open")  # before that it does not know what to do when it is told to end
            member.terminate()
        for member in members:
            await member.ends(timeout_s=timeout_s)
            self.members.remove(member)

    def kill_all(self) -> None:
        for member in self.members:
            if member.popen.poll() is None:
                member.kill()

    # -- the verdict --------------------------------------------------------------------------------------------------

    async def is_quiet(self) -> bool:
        """All is over, and nothing is under way."""
        return bool(
            await self.value(
                "select not exists (select 1 from instances where finished_us is null) "
                "and not exists (select 1 from inbox)"
            )
        )

    async def what_is_open(self) -> str:
        """For whoever looks into a failure."""
        asked = {
            "not over": "select id, status, wake_us, owner from instances where finished_us is null limit 10",
            "last of their history": "select i.id, max(h.first_seq) from history h join instances i "
            "on i.number = h.instance_number where i.finished_us is null group by 1 limit 10",
            "inbox": "select b.number, instance, status, owner from inbox b left join instances on id = instance "
            "limit 10",
            "workers": "select id, name, expires - clock_timestamp() as lease, accepts from workers",
            "sessions": "select pid, usename, state, wait_event, pg_blocking_pids(pid) as blocked_by, "
            "left(query, 200) from pg_stat_activity where state <> 'idle' and pid <> pg_backend_pid() limit 10",
        }
        told = [f"{what}: {await self.sql(text)}" for what, text in asked.items()]
        for (instance,) in await self.sql("select id from instances where finished_us is null order by id limit 3"):
            async with self.client() as client:
                told += [f"{instance} {each.at_us} {each}" for each in await client.history(instance)]
        return "\n".join(told)

    async def check(self) -> str:
        """Judge the tables; the last line of the judgement."""
        command = [str(ROOMS / "check_tables.py"), self.url, "--ledger", str(self.ledger)]
        command += ["--flows", str(ROOMS / "apps" / "flows.py")]
        for path in self.asked():
            command += ["--acks", str(path)]
        judge = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        out, _ = await judge.communicate()
        lines = out.decode().splitlines()
        assert await self.sql(_BOOKED_OTHERWISE) == [], "each booking is there twice, once for each of its activities"
        assert judge.returncode == 0, "\n".join(lines[:30] + lines[-5:])
        return lines[-1]

    async def come_to_rest(self, members: Iterable[Member]) -> str:
        """Let those who ask see to the end of what they have begun; then all is over, in order, and workers close.

        Returns:
            The last line of the judgement.
        """
        members = list(members)
        asking = [member for member in members if "--ask" in member.command]
        try:
            await self.end(asking)
            await eventually(self.is_quiet, "all is over and the inbox is empty", timeout_s=10)
        except AssertionError as error:
            told = await self.what_is_open()
            for member in members:
                if member.popen.poll() is None:
                    member.signal(signal.SIGUSR2)
            await asyncio.sleep(0.5)
            works = "\n".join(f"{member}: {member.said[-60:]}" for member in members if member.popen.poll() is None)
            raise AssertionError(f"{error}\n{told}\n{works}") from None
        verdict = await self.check()
        await self.end([member for member in members if member not in asking])
        assert await self.value("select count(*) from workers") == 0, "whoever closed has given its lease back"
        for path in self.folder.glob("*.txt"):
            assert "Traceback" not in path.read_text(), path.read_text()[-4_000:]
        return verdict


@asynccontextmanager
async def fleet_in(server: PostgresServer, folder: Path, *, tablespace: str = "") -> AsyncIterator[Fleet]:
    """A fleet on a new database; its processes end with it."""
    url = await asyncio.to_thread(server.create_database)
    if tablespace:
        name = urlsplit(url).path.strip("/")
        await asyncio.to_thread(server.execute, f"alter database {name} set tablespace {tablespace}")
    fleet = Fleet(server, url, folder)
    try:
        await fleet.make_tables()
        yield fleet
    finally:
        fleet.kill_all()
        await fleet.close()
        if not server.running:
            await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.drop_database, fleet.database)
