"""The test kit: time that a test holds, activities that it replaces, histories that it replays.

Comes in: workflows and activities as users wrote them. Goes out: what they did, and the tests' verdict.
Never enters: the wall clock, or dice that cannot be thrown again (but the
PostgreSQL server, which lives in the world's time and on any free port). Like the front door, this one loads
a room when somebody asks for a name in it: pytest loads the plugin for everyone.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durableflow.testing.blocking import BlockingEnvironment, BlockingEnvironmentHandle
    from durableflow.testing.clock import NothingHappens, VirtualClock
    from durableflow.testing.contract import BackendContract
    from durableflow.testing.environment import EnvironmentHandle, VirtualEngine, WorkflowEnvironment
    from durableflow.testing.exploring.explore import Exploration, StoryFailed, explore
    from durableflow.testing.exploring.outcome import Outcome
    from durableflow.testing.histories import (
        History,
        ReplayReport,
        load_histories,
        load_history,
        replay,
        replay_directory,
        save_history,
    )
    from durableflow.testing.postgres import PostgresServer
    from durableflow.testing.postgres_programs import PostgresUnavailable
    from durableflow.testing.stand_ins import ActivityCall, InjectedFailure, StandIn, UnmockedActivity
else:  # unseen by type checkers, to whom a module with `__getattr__` would have every name
    from importlib import import_module

    _NAMES = {
        "blocking": ("BlockingEnvironment", "BlockingEnvironmentHandle"),
        "clock": ("NothingHappens", "VirtualClock"),
        "contract": ("BackendContract",),
        "environment": ("EnvironmentHandle", "VirtualEngine", "WorkflowEnvironment"),
        "exploring.explore": ("Exploration", "StoryFailed", "explore"),
        "exploring.outcome": ("Outcome",),
        "histories": (
            "History",
            "ReplayReport",
            "load_histories",
            "load_history",
            "replay",
            "replay_directory",
            "save_history",
        ),
        "postgres": ("PostgresServer",),
        "postgres_programs": ("PostgresUnavailable",),
        "stand_ins": ("ActivityCall", "InjectedFailure", "StandIn", "UnmockedActivity"),
    }
    _HOMES = {name: f"durableflow.testing.{home}" for home, names in _NAMES.items() for name in names}

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'durableflow.testing' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(home), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "ActivityCall",
    "BackendContract",
    "BlockingEnvironment",
    "BlockingEnvironmentHandle",
    "EnvironmentHandle",
    "Exploration",
    "History",
    "InjectedFailure",
    "NothingHappens",
    "Outcome",
    "PostgresServer",
    "PostgresUnavailable",
    "ReplayReport",
    "StandIn",
    "StoryFailed",
    "UnmockedActivity",
    "VirtualClock",
    "VirtualEngine",
    "WorkflowEnvironment",
    "explore",
    "load_histories",
    "load_history",
    "replay",
    "replay_directory",
    "save_history",
]
