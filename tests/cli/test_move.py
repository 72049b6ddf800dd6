"""`durableflow move`: what it is told, what it says, and with which code it ends."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from durableflow import Client, Context, Engine, cli, workflow
from durableflow.backends.moving import Seal
from durableflow.backends.sqlite import SqliteBackend


@workflow
async def waits(ctx: Context) -> str:
    return await ctx.wait_for_event("go", str)


@pytest.fixture
def source(tmp_path: Path) -> str:
    async def fill() -> None:
        async with Engine(url, workflows=[waits], activities=[]) as engine:
            for n in range(3):
                await engine.start(waits.options(instance_id=f"w-{n}"))
            await engine.raise_event("w-0", "go", "gone")
            await engine.result("w-0")

    url = f"sqlite:///{tmp_path / 'source.db'}"
    asyncio.run(fill())
    return url


@pytest.fixture
def target(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'target.db'}"


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def test_a_store_is_moved_and_goes_on(source: str, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def go_on() -> None:
        async with Engine(target, workflows=[waits], activities=[]) as engine:
            await engine.raise_event("w-1", "go", "on")
            assert await engine.result("w-1") == "on"
            assert await engine.result("w-0") == "gone"

    assert cli.main(["move", source, target]) == 0
    said = capsys.readouterr()
    assert f"{source} is moved to {target}" in said.out
    assert "3 instances" in said.out
    assert "copying instances: 3" in said.err
    assert cli.main(["move", source, target]) == 0
    assert "had been moved" in capsys.readouterr().out
    asyncio.run(go_on())


def test_a_dry_run_says_what_would_be_moved(source: str, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["move", source, target, "--dry-run"]) == 0
    assert f"{source} can be moved to {target}: 3 instances" in capsys.readouterr().out

    async def look() -> None:
        async with Client(source) as client, Client(target) as other:
            assert len((await client.list()).instances) == 3
            assert not (await other.list()).instances

    asyncio.run(look())


@pytest.mark.slow
def test_a_move_that_was_begun_is_aborted(source: str, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def begin() -> None:
        store = SqliteBackend(path_of(source))
        await store.open()
        await store.seal(Seal("m", "source", target, "mover"), 0)
        await store.close()

    asyncio.run(begin())
    assert cli.main(["move", source, target, "--abort"]) == 0
    assert f"{source} is open again" in capsys.readouterr().out
    assert cli.main(["move", source, target, "--abort"]) == 1
    assert "no move" in capsys.readouterr().err
    assert cli.main(["move", source, target]) == 0


def test_tables_of_others_stay_behind_only_if_that_is_said(
    source: str, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(path_of(source))) as connection:
        connection.execute("create table accounts (id)")
    assert cli.main(["move", source, target]) == 1
    said = capsys.readouterr().err
    assert "accounts" in said
    assert "--leave-user-tables" in said
    assert cli.main(["move", source, target, "--leave-user-tables"]) == 0


def test_what_cannot_be_moved_is_refused_in_a_sentence(
    source: str, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["move", source, source]) == 1
    assert "both source and target" in capsys.readouterr().err
    assert cli.main(["move", source, "mysql://x"]) == 1
    assert "names no store" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refused:
        cli.main(["move", source])
    assert refused.value.code == 2


def test_what_cannot_be_read_is_named(source: str, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(path_of(source))) as connection, connection:
        connection.execute("update history set events = x'c1' where instance = 'w-2'")
    assert cli.main(["move", source, target]) == 0
    assert "'w-2'" in capsys.readouterr().err


def test_a_terminal_is_told_how_far_it_is(
    source: str, target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert cli.main(["move", source, target]) == 0
    assert "\rcopying instances: 3 of 3\n" in capsys.readouterr().err.replace("\x1b[K", "")
