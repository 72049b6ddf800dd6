"""Bringing a schema up to this version, while others may do the same."""

from __future__ import annotations

from typing import Final

from durableflow.backends.postgres.database import Connection, Refused
from durableflow.backends.postgres.functions import FUNCTIONS
from durableflow.backends.postgres.schema import MIGRATIONS
from durableflow.backends.postgres.task_functions import TASK_FUNCTIONS
from durableflow.backends.postgres.user_functions import USER_FUNCTIONS
from durableflow.backends.postgres.views import VIEWS
from durableflow.errors import SchemaMismatch

_LOCK: Final = 0x6475_7261  # "dura": held for the one transaction that migrates
_VERSION: Final = "select version from {s}.schema_version"


async def version_of(connection: Connection, schema: str) -> int:
    """How many migrations the schema has seen; 0 when it is not there."""
    found = await connection.fetchval("select to_regclass($1)", f"{schema}.schema_version")
    return 0 if found is None else int(await connection.fetchval(_VERSION.format(s=schema)))


def check(version: int, schema: str, where: object) -> bool:
    """Whether it is up to date.

    Raises:
        SchemaMismatch: it is of a newer version.
    """
    if version > len(MIGRATIONS):
        raise SchemaMismatch(
            f"schema {schema} of {where} has version {version}, written by a newer durableflow; this one knows up to "
            f"{len(MIGRATIONS)}: upgrade durableflow"
        )
    return version == len(MIGRATIONS)


async def migrate(connection: Connection, schema: str, where: object) -> None:
    """Make the changes that the schema has not seen; in a transaction of the caller's.

    Raises:
        SchemaMismatch: it is newer.
    """
    await connection.execute(f"select pg_advisory_xact_lock({_LOCK})")
    made = await version_of(connection, schema)
    if check(made, schema, where):  # another process was faster
        return
    if not made:
        await connection.execute(f"create schema if not exists {schema}")
        await connection.execute(
            f"create table {schema}.schema_version (one boolean primary key default true check (one), "
            "version integer not null)"
        )
        await connection.execute(f"insert into {schema}.schema_version (version) values (0)")
    for statements in MIGRATIONS[made:]:
        for statement in statements:
            await connection.execute(statement.format(s=schema))
    for function in (*FUNCTIONS, *TASK_FUNCTIONS, *USER_FUNCTIONS, *VIEWS):
        await connection.execute(function.format(s=schema))
    await connection.execute(f"update {schema}.schema_version set version = {len(MIGRATIONS)}")


def no_rights(schema: str, where: object, error: Refused) -> SchemaMismatch:
    """What a user is told who may not change the schema."""
    return SchemaMismatch(
        f"schema {schema} of {where} is not that of this durableflow, which needs version {len(MIGRATIONS)}, and this "
        f"user may not change it ({error}); run 'durableflow migrate' as its owner"
    )
