"""Where the helpers are, and the library that watches a disk."""

import os
import sys
from pathlib import Path

import pytest

# Test folders are no packages; these have helpers of their own, and share what judges a store and what examples say.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "fleet"))
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from crashkit.disk import build_library


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be preloaded into whoever is to be watched."""
    return build_library(tmp_path_factory.mktemp("library"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As the system calls it, without links."""
    return Path(os.path.realpath(tmp_path))
