"""A static look at a workflow's source, for what would answer differently in replay.

In: a workflow function, when it is decorated. Out: findings, or one warning for each. Never in: a call of the user's
code, or an import of a module that nobody has imported. What a workflow's names stand for is found out, and the
*object* is judged, not its spelling; what cannot be resolved is left alone: a missed finding is met again in replay, a
false one teaches people to ignore us. This is the one place of its room that reads a file: the user's source, through
`linecache`, as tracebacks do. It is imported when the first workflow is decorated, so its modules import freely, each
from those named before it: `nodes`, `tables`, `names`, `scopes`, `source`, `evaluator`, `look`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

from durableflow.authoring.determinism.look import Finding, look_at
from durableflow.authoring.determinism.source import plain_function
from durableflow.errors import DeterminismWarning

__all__ = ["Finding", "inspect_workflow", "warn_about"]


def inspect_workflow(fn: Callable[..., object]) -> list[Finding]:
    """Look for what a workflow may not do, without calling it.

    Returns:
        The findings by file and line; none if there is no source to look at (an interactive prompt, a lambda, a
        builtin, a callable object).
    """
    try:
        return look_at(fn)
    except Exception:  # an aid: whatever the source holds, it must not break the user's import
        return []


def warn_about(fn: Callable[..., object]) -> None:
    """Issue one `DeterminismWarning` for each finding, at the place where the finding is.

    Raises:
        DeterminismWarning: warnings are errors here (`python -W error`).
    """
    for finding in inspect_workflow(fn):
        plain = plain_function(fn)
        assert plain is not None, "a finding needs a function"
        warnings.warn_explicit(
            _message(finding, plain.__name__),
            DeterminismWarning,
            finding.file,
            finding.line,
            module=plain.__module__,
            registry=plain.__globals__.setdefault("__warningregistry__", {}),  # by which Python shows it once
        )


def _message(finding: Finding, workflow: str) -> str:
    where = f"workflow {workflow!r}"
    if finding.function != workflow:
        where = f"{finding.function!r}, called by {where},"
    return f"{finding.call} in {where} may differ in replay: {finding.advice}"
