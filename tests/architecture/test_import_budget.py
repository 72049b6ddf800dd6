"""`import durableflow` is cheap: no driver, no framework, few modules. How long it takes is for the benchmarks."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # each test starts interpreters

MODULES_MAX = 200
FORBIDDEN = {
    # drivers
    "aiosqlite", "asyncpg", "psycopg", "sqlite3",
    # frameworks and servers
    "fastapi", "httpx", "kubernetes_asyncio", "starlette", "uvicorn",
    # payload types: supported when the user's own code has loaded them
    "attr", "attrs", "pydantic",
    # edges
    "click", "cryptography", "opentelemetry", "prometheus_client", "rich",
    # development
    "_pytest", "hypothesis", "pytest",
    # our own rooms above the front door
    "durableflow.cli", "durableflow.demo", "durableflow.http", "durableflow.kubernetes", "durableflow.testing",
    "durableflow.backends.postgres", "durableflow.backends.sqlite",
}  # fmt: skip


def loaded_by(statement: str) -> set[str]:
    """The modules which this statement adds to a bare interpreter of this environment."""
    program = f"import sys; before = set(sys.modules)\n{statement}\nprint(*sorted(set(sys.modules) - before))"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    return set(child.stdout.split())


def test_importing_the_library_loads_no_driver_and_no_framework() -> None:
    assert loaded_by("import durableflow") & FORBIDDEN == set()


def test_importing_the_library_loads_few_modules() -> None:
    loaded = loaded_by("import durableflow")
    assert len(loaded) <= MODULES_MAX, f"{len(loaded)} modules: {json.dumps(sorted(loaded))}"


def test_defining_a_gpu_job_loads_no_client_of_kubernetes() -> None:
    added = loaded_by("from durableflow.kubernetes import Gpu, KubernetesJobs, configured, gpu_job, runtime")
    assert added & {"kubernetes_asyncio", "aiohttp", "starlette", "yaml"} == set()


def test_the_pytest_plugin_brings_no_driver_and_no_framework() -> None:
    """It is loaded into every test session of everyone who has the library installed."""
    added = loaded_by("import pytest; before = set(sys.modules)\nimport durableflow.testing.plugin")
    assert {name for name in added & FORBIDDEN if not name.startswith("durableflow.testing")} == set()
