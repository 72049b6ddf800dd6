"""What all stories of an exploration come to, gathered by its check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from durableflow.authoring.registry import AnyWorkflow
from durableflow.testing import Exploration, Outcome, explore


class Told:
    """An exploration that found nothing wrong, and the outcomes that it went through."""

    def __init__(
        self, workflow: AnyWorkflow, *args: object, show: Callable[[Outcome[Any]], Any], **options: Any
    ) -> None:
        self.shown: list[Any] = []

        def check(*given: Any) -> None:
            self.shown.append(show(given[-1]))

        self.exploration: Exploration = explore(workflow, *args, check=check, **options)

    @property
    def kinds(self) -> set[Any]:
        """What was shown, each once."""
        return set(self.shown)

    @property
    def counts(self) -> Counter[Any]:
        """What was shown, and how often."""
        return Counter(self.shown)


def result(outcome: Outcome[Any]) -> Any:
    """What came of it, as something hashable."""
    value = outcome.result
    return tuple(value) if isinstance(value, list) else value


def worked(outcome: Outcome[Any]) -> tuple[str, ...]:
    """Which attempts worked, in order."""
    return tuple(f"{call.activity}.{call.attempt}" for call in outcome.calls)
