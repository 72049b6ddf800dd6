"""What an engine does is among what an exploration has seen."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from language import Words, interpret, programs, work
from told import Told

from durableflow.testing import NothingHappens, VirtualClock, WorkflowEnvironment, replay

EVENTS = [("a", 1), ("b", 2)]


async def in_an_engine(program: Words, seed: int) -> Any:
    """The result, with activities that take so long and events that come when dice say; None when it does not end."""
    dice = Random(seed)
    clock = VirtualClock(patience_s=0.05)
    async with WorkflowEnvironment(workflows=[interpret], clock=clock) as env:

        async def slowly(n: int) -> int:
            await clock.sleep(dice.randrange(5))
            return work(n)

        env.mock(work, calls=slowly)
        handle = await env.start(interpret.options(instance_id="interpret-1"), program)
        for name, payload in dice.sample(EVENTS, 2):
            await env.advance(dice.randrange(4))
            if (await handle.status()).status.is_terminal:
                break
            await handle.raise_event(name, payload)
        try:
            return await handle.result()
        except NothingHappens:
            return None


@pytest.mark.slow
@settings(max_examples=40)
@given(programs, st.integers(0, 2**32))
def test_a_result_of_an_engine_is_one_of_those_that_were_explored(program: Words, seed: int) -> None:
    told = Told(interpret, program, show=lambda o: json.dumps(o.result), events=EVENTS, crashes=0, must_end=False,
                stories=2_000)  # fmt: skip
    if told.exploration.exhaustive:
        result = asyncio.run(in_an_engine(program, seed))
        assert json.dumps(result) in told.kinds


@pytest.mark.slow
@settings(max_examples=30)
@given(programs)
def test_each_history_is_one_that_could_be_replayed_from_a_store(program: Words) -> None:
    Told(interpret, program, show=lambda o: replay(interpret, o.history, every_prefix=True).status, stories=100,
         events=EVENTS, must_end=False)  # fmt: skip
