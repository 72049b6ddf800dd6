"""What is measured from outside: what the server says of itself, and the load of the machine."""

import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fleetkit.processes import Fleet

from benchmarks import process

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_TABLES: Final = """
    select relname from pg_class
    where relnamespace = 'durableflow'::regnamespace and relkind = 'r' order by relname
"""
_SESSIONS: Final = """
    select count(*), count(*) filter (where state like 'idle in transaction%'),
        coalesce(extract(epoch from clock_timestamp() - min(xact_start)), 0)::float8
    from pg_stat_activity
    where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()
"""
_PROBE: Final = "update public.probe set number = number + 1"
_PROBES: Final = 3
_STORE: Final = """
    select sum(pg_total_relation_size(oid))::float8 / 1e6 from pg_class
    where relnamespace = 'durableflow'::regnamespace and relkind = 'r'
"""


class ServerGauge:
    """What the server says of itself, on the connection of the fleet's kit."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._tables: list[str] = []

    async def read(self) -> Mapping[str, float]:
        if not self._tables:
            await self._fleet.sql("create table if not exists public.probe as select 0 as number")
            self._tables = [name for (name,) in await self._fleet.sql(_TABLES)]
        probe_ms = await self._probe_ms()
        counts = ", ".join(f"(select count(*) from {name})" for name in self._tables)
        ((*rows,),) = await self._fleet.sql(f"select {counts}")
        ((sessions, in_transaction, oldest_s),) = await self._fleet.sql(_SESSIONS)
        told = {"probe_ms": probe_ms, "sessions": sessions, "in_transaction": in_transaction}
        told["oldest_transaction_s"] = round(oldest_s, 2)
        told |= {f"rows_{name}": count for name, count in zip(self._tables, rows, strict=True)}
        told["open"] = await self._fleet.value("select count(*) from instances where finished_us is null")
        told["store_mb"] = round(await self._fleet.value(_STORE), 1)
        told["memory_mb"] = round(process.proportional_bytes(self._fleet.server.pids()) / 1e6, 1)
        return told

    async def _probe_ms(self) -> float:
        """How long a commit of one row takes that has nothing to do with the store."""
        took_ms = []
        for _ in range(_PROBES):
            began_s = time.perf_counter()
            await self._fleet.sql(_PROBE)
            took_ms.append((time.perf_counter() - began_s) * 1000)
        return round(statistics.median(took_ms), 2)


class MachineGauge:
    """Cores in use since the last look: by this soak, with its server, and by everything on the machine."""

    def __init__(self) -> None:
        self._last = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        busy = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        user, nice, system, _idle, _wait, irq, softirq, steal = (int(ticks) / _TICKS_PER_S for ticks in busy)
        return time.monotonic(), process.family_cpu_s(os.getpid()), user + nice + system + irq + softirq + steal

    def read(self) -> Mapping[str, float]:
        (before_s, own_before_s, all_before_s), self._last = self._last, self._now()
        now_s, own_s, all_s = self._last
        took_s = max(now_s - before_s, 1e-3)
        return {
            "own_cores": round((own_s - own_before_s) / took_s, 3),
            "all_cores": round((all_s - all_before_s) / took_s, 3),
        }
