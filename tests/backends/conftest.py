"""Backends with a planted bug, which the contract must find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durableflow.backends.sqlite import SqliteBackend
from durableflow.testing import BackendContract


@pytest.fixture
def bites(tmp_path: Path) -> Callable[[type[Any], str], None]:
    """Fails unless the test of the contract that makes the claim fails for this kind of backend."""

    def bite(kind: type[Any], claim: str) -> None:
        made: dict[Path, Any] = {}

        class Mutant(BackendContract):
            def backend(self, folder: Path) -> Any:
                if issubclass(kind, SqliteBackend):
                    return kind(folder / "mutant.db")
                return made.setdefault(folder, kind())

        with pytest.raises((AssertionError, TimeoutError, ValueError)):
            getattr(Mutant(), f"test_{claim}")(tmp_path)

    return bite
