"""A cell's server: a database for each directory, slow on request, and gone with its cell."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import asyncpg
import pytest

from benchmarks import postgres, process, slow_sync

pytestmark = pytest.mark.slow


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Not pytest's own: that is closed to everybody else, and a server may not be root."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
        assert list(Path(name).iterdir()) == []


async def test_a_directory_is_a_database_of_the_cells_own_server(
    monkeypatch: pytest.MonkeyPatch, scratch: Path, tmp_path: Path
) -> None:
    with postgres.server(scratch, sync_ms=0) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        urls = [postgres.database(tmp_path / name) for name in ("state", "empty-1", "state")]
        assert urls[0] == urls[2] != urls[1]
        before_bytes, before_cpu_s = postgres.wal_bytes(), process.cpu_s([postgres.given().pid])
        connection = await asyncpg.connect(urls[0])
        await connection.execute("create table t as select md5(x::text) as y from generate_series(1, 100000) as x")
        await connection.close()
        assert postgres.wal_bytes() - before_bytes > 1_000_000
        assert postgres.data_bytes(tmp_path / "state") - postgres.data_bytes(tmp_path / "empty-1") > 1_000_000
        assert process.cpu_s([postgres.given().pid]) - before_cpu_s > 0.01
        assert process.resident_bytes([postgres.given().pid]) > process.resident_bytes([])
        postgres.settle(tmp_path / "state")
        assert postgres.settings()["synchronous_commit"] == postgres.settings()["fsync"] == "on"
        with pytest.raises(postgres.ServerError, match='relation "nothing" does not exist'):
            postgres.ask("select * from nothing")


def test_a_slow_disk_is_told_to_the_server_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[dict[str, object]]()

    class Server:
        def __init__(self, **options: object) -> None:
            told.append(options)

        def __enter__(self) -> Self:
            raise RuntimeError("enough")

        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(slow_sync, "environment", lambda directory, sync_ms: {"LD_PRELOAD": f"{directory}/{sync_ms}"})
    monkeypatch.setattr("durableflow.testing.PostgresServer", Server, raising=False)
    with pytest.raises(RuntimeError, match="enough"), postgres.server(Path("here"), sync_ms=8) as environment:
        assert json.loads(environment[postgres.VARIABLE])
    assert told[0]["environment"] == {"LD_PRELOAD": "here/8"}
    assert told[0]["settings"] == postgres.SETTINGS
