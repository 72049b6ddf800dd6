"""The backends that come with the library keep the contract."""

from pathlib import Path

from durableflow.backends.memory import MemoryBackend
from durableflow.backends.sqlite import SqliteBackend
from durableflow.testing.contract import BackendContract


class TestMemory(BackendContract):
    def backend(self, folder: Path) -> MemoryBackend:
        return STORES.setdefault(folder, MemoryBackend())  # gone with the process: the object is the store


class TestSqlite(BackendContract):
    def backend(self, folder: Path) -> SqliteBackend:
        return SqliteBackend(folder / "contract.db")


class TestSqliteWithoutPowerLossSafety(BackendContract):
    def backend(self, folder: Path) -> SqliteBackend:
        return SqliteBackend(folder / "contract.db", power_loss_safe=False)


STORES: dict[Path, MemoryBackend] = {}
