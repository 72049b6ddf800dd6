"""Code that changed, or went missing, under open instances: they stall, unharmed, and go on by themselves."""

import re
from pathlib import Path
from typing import Any

import pytest

from durableflow import Context, InstanceStalled, Status, workflow

CHANGED = Path(__file__).parent / "apps" / "checkout_new.py"
pytestmark = pytest.mark.slow  # starts and kills processes


async def test_changed_code_stalls_an_instance_with_a_reason_and_the_old_code_goes_on(stage: Any) -> None:
    @workflow
    async def checkout(ctx: Context, order: str) -> str: ...

    worker = await stage.leading_worker("checkout_old")
    async with stage.client() as client:
        handle = await client.start(checkout.options(instance_id="o"), "a lamp")
        while len(before := await handle.history()) < 4:
            assert worker.popen.poll() is None
        worker.kill()

        worker = await stage.leading_worker("checkout_new")
        await handle.raise_event("go", True)  # kept, though the instance cannot take it now
        said = await worker.says("stalled o: ")
        status = await handle.wait_for_status(Status.STALLED, timeout=10)
        source = CHANGED.read_text().splitlines()
        (line,) = [number for number, text in enumerate(source, 1) if text.endswith("# the changed line")]
        assert re.search(r"history #2 .*recorded activity 'work' \[.reserve a lamp.,", status.stall_reason), said
        assert re.search(r"asks for activity 'work' \[.price a lamp.,", status.stall_reason)
        assert re.search(rf"checkout_new\.py:{line}\b", status.stall_reason)
        assert said.endswith(status.stall_reason)
        with pytest.raises(InstanceStalled, match="history #2"):
            await handle.result(timeout=5)
        assert await handle.history() == before, "nothing was written into its history"
        worker.kill()

        worker = await stage.leading_worker("checkout_old")
        await handle.wait_for_status(Status.COMPLETED, timeout=10)
        assert await handle.result() == "ship a lamp is done"
        assert (await handle.status()).stall_reason is None
    assert len(stage.entries(what="begin", args=["reserve a lamp"])) == 1
    assert stage.entries(args=["price a lamp"]) == [], "the new code ran nothing"
    await worker.close()


async def test_an_instance_whose_workflow_is_not_registered_stalls_until_it_is(stage: Any) -> None:
    @workflow
    async def checkout(ctx: Context, order: str) -> str: ...

    worker = await stage.leading_worker("shop")
    async with stage.client() as client:
        handle = await client.start(checkout.options(instance_id="o"), "a lamp")
        await handle.raise_event("go", True)
        status = await handle.wait_for_status(Status.STALLED, timeout=10)
        assert "workflow 'checkout' is not registered here" in status.stall_reason
        await worker.close()

        worker = await stage.leading_worker("checkout_old")
        await handle.wait_for_status(Status.COMPLETED, timeout=10)
        assert await handle.result() == "ship a lamp is done"
    await worker.close()
