"""Where the user's code stands, as `file:line`, for errors that must name the place."""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Final

_OURS: Final = ("durableflow.core.", "durableflow.authoring.")
"""Where the frames between a user's line and the core are."""


def user_location() -> str:
    """Of the innermost frame that is not the engine's."""
    frame = inspect.currentframe()
    while frame is not None and not _is_users(frame):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def definition_location(program: object) -> str:
    """Where the workflow's function begins."""
    code = getattr(getattr(program, "function", None), "__code__", None)
    return "" if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def raising_location(error: BaseException) -> str:
    """Of the innermost frame of the user's that `error` came through."""
    location = ""
    frames = error.__traceback__
    while frames is not None:
        if _is_users(frames.tb_frame):
            location = f"{frames.tb_frame.f_code.co_filename}:{frames.tb_lineno}"
        frames = frames.tb_next
    return location


def suspended_location(steps: object) -> str:
    """Where a suspended generator or coroutine waits, in the innermost frame of the user's."""
    location = ""
    while steps is not None:
        frame = getattr(steps, "gi_frame", None) or getattr(steps, "cr_frame", None)
        if frame is not None and _is_users(frame):
            location = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        steps = getattr(steps, "gi_yieldfrom", None) or getattr(steps, "cr_await", None)
    return location


def _is_users(frame: FrameType) -> bool:
    return not str(frame.f_globals.get("__name__")).startswith(_OURS)
