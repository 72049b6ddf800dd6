"""Time passes between two looks at a clock."""

from __future__ import annotations

from durableflow import Context, Engine, RetryPolicy, activity, activity_context, workflow
from durableflow.runtime.clock import SystemClock

STEP_US = 400


class HastyClock(SystemClock):
    """A machine that is busy with other things: whenever it looks at its clock, some time has passed."""

    def __init__(self) -> None:
        super().__init__()
        self._ahead_us = 0

    def now_us(self) -> int:
        self._ahead_us += STEP_US
        return super().now_us() + self._ahead_us


async def test_a_retry_that_falls_due_between_two_looks_at_the_clock_is_made() -> None:
    """Of so many waits, each a little longer than the one before, some end just there."""

    @activity
    async def flaky() -> int:
        if activity_context().attempt == 1:
            raise ConnectionError("not yet")
        return activity_context().attempt

    @workflow
    async def patient(ctx: Context, wait_us: int) -> int:
        policy = RetryPolicy(max_attempts=2, initial=wait_us / 1_000_000)
        return await ctx.call_activity(flaky.options(retry=policy))

    async with Engine("memory://", clock=HastyClock(), workflows=[patient], activities=[flaky]) as engine:
        for wait_us in range(STEP_US, 40 * STEP_US, STEP_US // 4):
            handle = await engine.start(patient, wait_us)
            assert await handle.result(timeout=5) == 2, f"a retry after {wait_us} us"
