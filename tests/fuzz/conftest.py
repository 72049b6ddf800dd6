"""Where the helpers of these tests are."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import asyncio
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from durableflow import Context, Engine, activity, workflow
from durableflow.authoring.workflow import Workflow


@activity
async def double(n: int) -> int:
    return 2 * n


@workflow
async def doubled(ctx: Context, n: int) -> list[int]:
    twice = await ctx.call_activity(double, n)
    return [twice, await ctx.wait_for_event("more", int)]


@pytest.fixture(scope="session")
def an_export(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of two instances: one is over, one has a message in its inbox."""
    path = tmp_path_factory.mktemp("export") / "export.jsonl"

    async def write() -> None:
        async with Engine("memory://", workflows=[doubled], activities=[double]) as engine:
            done = await engine.start(doubled.options(instance_id="done", tags={"k": "v"}), 1)
            await done.raise_event("more", 5)
            await done.result()
            await engine.start(doubled.options(instance_id="open"), 2)
            await engine.suspend("open")
            await engine.raise_event("open", "more", 7)
            await engine.export_instances(path, ["done", "open"])

    asyncio.run(write())
    return path.read_bytes()


@pytest.fixture(scope="session")
def workflows() -> dict[str, Workflow[..., Any]]:
    """Those of the golden histories, by name."""
    path = Path(__file__).parents[1] / "histories" / "workflows.py"
    spec = importlib.util.spec_from_file_location("golden_workflows_to_spoil", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {each.name: each for each in vars(module).values() if isinstance(each, Workflow)}


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be written again for each input."""
    return tmp_path_factory.mktemp("file") / "file.jsonl"


@pytest.fixture
def check() -> Callable[[object], None]:
    """That there is something in it."""

    def is_there(found: object) -> None:
        assert found

    return is_there
