"""The catalogue: who takes part. A contender's module is imported only in the contender's own environment."""

from typing import Final

from benchmarks.contract import Spec

_ONLY_OURS: Final = "measured for durableflow alone: it is a promise of ours, not a race"
_OWN: Final = {"recovery": _ONLY_OURS, "finished-million": _ONLY_OURS}
_GATED: Final = ("recovery-1000", "take-over")
_THREADS: Final = "each activity that runs holds a thread of a bounded number, so 1,000 cannot be in the middle of one"
_NOT_KEPT: Final = "keeps nothing over a restart"

_ALL: Final = (
    Spec(
        name="durableflow-sqlite",
        title="durableflow, SQLite",
        factory="benchmarks.contenders.ours:sqlite",
        imports="from durableflow import Context, Engine, activity, workflow",
        bare_import="import durableflow",
        distributions=("durableflow", "msgspec", "anyio", "aiosqlite"),
        requirements=("-e .",),
        ours=True,
    ),
    Spec(
        name="durableflow-memory",
        title="durableflow, memory",
        factory="benchmarks.contenders.ours:memory",
        imports="from durableflow import Context, Engine, activity, workflow",
        bare_import="import durableflow",
        distributions=("durableflow", "msgspec", "anyio"),
        requirements=("-e .",),
        ours=True,
        durable=False,
        unsupported={"recovery": _NOT_KEPT, "finished-million": "has no file", "import": "the same package"},
    ),
    Spec(
        name="durableflow-postgres",
        title="durableflow, PostgreSQL",
        factory="benchmarks.contenders.ours:on_postgres",
        imports="from durableflow import Context, Engine, activity, workflow",
        bare_import="import durableflow",
        distributions=("durableflow", "msgspec", "anyio", "asyncpg"),
        requirements=("-e .[postgres]",),
        ours=True,
        postgres=True,
        unsupported={"import": "the same package"},
    ),
    Spec(
        name="dbos",
        title="DBOS, SQLite",
        factory="benchmarks.contenders.dbos_sqlite:make",
        imports="from dbos import DBOS",
        distributions=("dbos", "SQLAlchemy"),
        requirements=("dbos",),
        unsupported=_OWN,
    ),
    Spec(
        name="restate",
        title="Restate",
        factory="benchmarks.contenders.restate_server:make",
        imports="import restate",
        distributions=("restate-sdk", "granian", "aiohttp"),
        requirements=("restate-sdk", "granian", "aiohttp"),
        npm=("@restatedev/restate-server",),
        unsupported=_OWN,
    ),
    Spec(
        name="duroxide",
        title="duroxide, SQLite",
        factory="benchmarks.contenders.duroxide_sqlite:make",
        imports="from duroxide import Client, Runtime, SqliteProvider",
        distributions=("duroxide",),
        requirements=("duroxide",),
        unsupported=_OWN,
    ),
    Spec(
        name="duroxide-5ms",
        title="duroxide, SQLite, dispatcher polls every 5 ms",
        factory="benchmarks.contenders.duroxide_sqlite:make_polling_fast",
        imports="from duroxide import Client, Runtime, SqliteProvider",
        distributions=("duroxide",),
        requirements=("duroxide",),
        quick=False,
        unsupported={**_OWN, "import": "the same package"},
    ),
    Spec(
        name="durabletask",
        title="durabletask, in-memory test backend",
        factory="benchmarks.contenders.durabletask_memory:make",
        imports="from durabletask import task, worker, client",
        distributions=("durabletask", "grpcio"),
        requirements=("durabletask",),
        durable=False,
        unsupported=_OWN,
    ),
    Spec(
        name="dbos-postgres",
        title="DBOS, PostgreSQL",
        factory="benchmarks.contenders.dbos_postgres:make",
        imports="from dbos import DBOS",
        distributions=("dbos", "SQLAlchemy", "psycopg"),
        requirements=("dbos",),
        postgres=True,
        unsupported={
            **_OWN,
            "import": "the same package",
            "take-over": "another executor's workflows are taken over by its service Conductor alone",
        },
    ),
    Spec(
        name="duroxide-postgres",
        title="duroxide, PostgreSQL",
        factory="benchmarks.contenders.duroxide_postgres:make",
        imports="from duroxide import Client, PostgresProvider, Runtime",
        distributions=("duroxide",),
        requirements=("duroxide",),
        postgres=True,
        unsupported={**_OWN, "import": "the same package", **dict.fromkeys(_GATED, _THREADS)},
    ),
    Spec(
        name="absurd",
        title="Absurd",
        factory="benchmarks.contenders.absurd_postgres:make",
        imports="from absurd_sdk import AsyncAbsurd",
        distributions=("absurd-sdk", "absurdctl", "psycopg"),
        requirements=("absurd-sdk", "absurdctl", "psycopg[binary]"),
        postgres=True,
        unsupported={
            **_OWN,
            **dict.fromkeys(_GATED, "a worker claims no more before all that it has claimed has ended or sleeps"),
        },
    ),
    Spec(
        name="sayiir",
        title="Sayiir, PostgreSQL",
        factory="benchmarks.contenders.sayiir_postgres:make",
        imports="from sayiir import Flow, PostgresBackend, task",
        distributions=("sayiir",),
        requirements=("sayiir",),
        postgres=True,
        unsupported={**_OWN, **dict.fromkeys(_GATED, _THREADS)},
    ),
)

SPECS: Final[dict[str, Spec]] = {spec.name: spec for spec in _ALL}
