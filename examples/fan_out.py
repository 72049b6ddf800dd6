"""Fan-out: many activities side by side, a bound on how many run at once, and the sum of what they found.

    python examples/fan_out.py

It keeps `fan_out.db` in the current folder; delete that to begin anew.
"""

import asyncio

from durableflow import Context, Engine, Flow, activity, workflow

PAGES = 40


@activity(max_concurrency=8)
async def count_words(page: int) -> int:
    await asyncio.sleep(0.05 + page % 7 / 100)
    return 100 + page


@activity
def render(pages: int, words: int) -> str:  # a plain function: it runs in a thread
    return f"{pages} pages, {words:,} words"


@workflow
def count_book(ctx: Context, pages: int) -> Flow[str]:  # a generator, for a change: yield from instead of await
    counts = [ctx.call_activity(count_words, page) for page in range(pages)]

    first = yield from ctx.when_any(counts)  # one of them; the others go on
    ctx.set_custom_status(f"the first page has {(yield from first)} words")

    words = yield from ctx.when_all(counts)  # in the order in which they were asked for
    return (yield from ctx.call_activity(render, pages, sum(words)))


async def main() -> None:
    async with Engine("sqlite:///fan_out.db") as engine:
        handle = await engine.start(count_book.options(instance_id="book-1"), PAGES)
        print(await handle.result())


if __name__ == "__main__":
    asyncio.run(main())
