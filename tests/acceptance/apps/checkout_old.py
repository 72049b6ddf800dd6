"""A workflow as it was when instances of it began."""

from shop import work

from durableflow import Context, workflow


@workflow
async def checkout(ctx: Context, order: str) -> str:
    await ctx.call_activity(work, f"reserve {order}", 0.0)
    await ctx.wait_for_event("go")
    return await ctx.call_activity(work, f"ship {order}", 0.0)
