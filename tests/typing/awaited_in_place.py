"""An activity may be called right where any object is wanted: `Activity` is covariant in its result."""

from durableflow import Activity, Context, activity, workflow


@activity
def double(x: int) -> int:
    return 2 * x


@workflow
async def shows(ctx: Context) -> str:
    print(await ctx.call_activity(double, 4))
    return str(await ctx.call_activity(double, 4))


wider: Activity[[int], object] = double
