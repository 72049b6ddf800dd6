"""The same workflow after somebody changed it without thinking of open instances."""

from shop import work

from durableflow import Context, workflow


@workflow
async def checkout(ctx: Context, order: str) -> str:
    await ctx.call_activity(work, f"price {order}", 0.0)  # the changed line
    await ctx.wait_for_event("go")
    return await ctx.call_activity(work, f"ship {order}", 0.0)
