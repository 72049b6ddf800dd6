"""Instances that do something terrible, each in a process of its own: the harm is theirs, and can be seen.

Beside each run three that do nothing of the kind. A process that dies is started again, as a supervisor would, until
its program comes to its end.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from crashkit.jobs import Job, Outcome, run

pytestmark = pytest.mark.slow  # real processes

APP = str(Path(__file__).parent / "apps" / "deadly.py")
STARTS_MAX = 5
LOST, FAILED = "deadly: WorkerLost after 3", "status: FAILED"


class Case(NamedTuple):
    """What is done where, how often the process dies of it, and what is said of it in the end."""

    how: str
    where: str
    says: str
    deaths: int = 0


def by_an_activity(how: str, type_name: str, deaths: int = 0) -> Iterator[Case]:
    """The same on the event loop and in a thread."""
    says = f"deadly: {type_name} after 3"
    yield from (Case(how, where, says, deaths) for where in ("activity", "thread"))


def by_a_workflow(how: str, text: str) -> Case:
    return Case(how, "workflow", text)


CASES = [
    *by_an_activity("os._exit", "WorkerLost", 3),
    *by_an_activity("interrupts", "WorkerLost", 3),
    *by_an_activity("segfaults", "WorkerLost", 3),
    *by_an_activity("sys.exit", "SystemExit"),
    *by_an_activity("devours memory", "MemoryError"),
    *by_an_activity("recurses", "RecursionError"),
    *by_an_activity("gives 100 MB", "durableflow.errors.PayloadTooLarge"),
    *by_an_activity("gives a nest", "durableflow.errors.PayloadError"),
    *by_an_activity("gives itself", "durableflow.errors.PayloadError"),
    *by_an_activity("gives a lock", "durableflow.errors.PayloadError"),
    *by_an_activity("raises GeneratorExit", "GeneratorExit"),
    *by_an_activity("raises CancelledError", "asyncio.exceptions.CancelledError"),
    *by_an_activity("raises what cannot be shown", "__main__.Unspeakable"),
    Case("raises KeyboardInterrupt", "activity", LOST, 3),  # Python's own way to end a program
    Case("raises KeyboardInterrupt", "thread", "deadly: KeyboardInterrupt after 3"),
    Case("-", "never", "deadly: TimeoutError after 2"),
    *(
        Case(how, "workflow", f"""deadly: WorkflowFailed: "instance 'deadly' failed: {text}""")
        for how, text in [
            ("sys.exit", "SystemExit: 7"),
            ("devours memory", "MemoryError: "),
            ("recurses", "RecursionError: maximum recursion depth exceeded"),
            ("raises GeneratorExit", "GeneratorExit: "),
            ("raises CancelledError", "asyncio.exceptions.CancelledError: "),
            ("raises what cannot be shown", "__main__.Unspeakable: <its text could not be made: ValueError>"),
        ]
    ),
    *(
        Case(how, "result", f"""deadly: WorkflowFailed: "instance 'deadly' failed: durableflow.errors.{text}""")
        for how, text in [
            ("gives 100 MB", "PayloadTooLarge: "),
            ("gives a nest", "PayloadError: "),
            ("gives itself", "PayloadError: "),
            ("gives a lock", "PayloadError: "),
        ]
    ),
]


def names(case: Case) -> str:
    return f"{case.how}, {case.where}"


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, list[Outcome]]:
    """Of each, all runs of its process."""
    base = tmp_path_factory.mktemp("deadly").resolve()
    jobs = {case: Job(program=APP, arguments=[case.how, case.where], folder=str(base / names(case))) for case in CASES}
    for job in jobs.values():
        Path(job.folder).mkdir()
    outcomes: dict[Case, list[Outcome]] = {case: [] for case in CASES}
    for _ in range(STARTS_MAX):
        open_cases = [case for case in CASES if not outcomes[case] or outcomes[case][-1].code]
        for case, outcome in zip(open_cases, run([jobs[case] for case in open_cases], base), strict=True):
            outcomes[case].append(outcome)
    return outcomes


@pytest.mark.parametrize("case", CASES, ids=names)
def test_the_harm_is_its_own_and_can_be_seen(case: Case, ends: dict[Case, list[Outcome]]) -> None:
    *deaths, last = ends[case]
    assert last.code == 0, last.err
    assert len(deaths) == case.deaths, [each.err for each in deaths]
    good, deadly, status = last.lines
    assert good == "good: [0, 4, 8]"
    assert deadly.startswith(case.says)
    assert status == ("status: COMPLETED" if case.where in ("activity", "thread", "never") else "status: FAILED")
    assert last.wrong == []
