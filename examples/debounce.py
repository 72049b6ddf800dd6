"""Debounce: many changes in a short time make one instance, which sees the last of them.

    python examples/debounce.py

Somebody edits a page; it is published when no edit came for a while. It keeps `debounce.db` in the current folder;
begin anew by removing it.
"""

import asyncio

from durableflow import Client, Context, Engine, activity, workflow

STORE = "sqlite:///debounce.db"


@activity
async def publish(text: str) -> str:
    print(f"  publishing {text!r}")
    return f"published: {text}"


@workflow
async def page(ctx: Context, text: str) -> str:
    return await ctx.call_activity(publish, text)


async def main() -> None:
    async with Client(STORE) as client:
        is_new = not (await client.list(workflow=page)).instances
    async with Engine(STORE) as engine:
        if is_new:
            edited = page.options(instance_id="page-1", debounce=1.0)
            for text in ("h", "he", "hel", "hello"):
                handle = await engine.start(edited, text)
                print(f"  {text!r} goes to {handle.id}")
        (only,) = (await engine.list(workflow=page)).instances
        result = await engine.result(only.instance_id, workflow=page)
        # Killed between two edits, it publishes what there was by then.
        print("one page for all edits:", result.startswith("published: h"))


if __name__ == "__main__":
    asyncio.run(main())
