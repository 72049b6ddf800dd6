"""What no instance should do, for those who must not be delayed by it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from durableflow.authoring.context import Context
from durableflow.authoring.workflow import Workflow
from durableflow.errors import TaskError
from durableflow.model.retry import RetryPolicy
from durableflow.testing.simulation.activities import WORK

KINDS: Final = ("forgetful", "unsteady", "loud", "hopeless")


def _misbehave(ctx: Context, kind: str) -> Generator[Any, Any, None]:
    """Do one of four things.

    Forgetful: does not go on where its checkpoint left it. Unsteady: asks for something else when it is called again.
    Loud: raises. Hopeless: what it calls always fails.
    """
    if kind == "loud":
        raise LookupError("x" * 10_000)
    if kind == "forgetful":
        yield ctx.wait_for_event("called")
        ctx.checkpoint(1)
    if kind == "unsteady":
        yield ctx.call_activity(WORK, "plain", 0 if ctx.is_replaying else 1)
        yield ctx.wait_for_event("never")
    while True:
        try:
            yield ctx.call_activity(WORK.options(retry=RetryPolicy(max_attempts=50, initial=0.01)), "doomed", 0)
        except TaskError:
            continue


POISON: Final[Workflow[..., Any]] = Workflow(_misbehave, name="poison")
