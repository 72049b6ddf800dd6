"""Colours for terminals, plain text for everything else."""

import io

import pytest

from durableflow.demo.timeline import RED, Timeline


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _no_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def told(out: io.StringIO) -> str:
    timeline = Timeline(out)
    timeline.tell("client", "order-1", "kills", RED)
    timeline.tell("worker 1", "order-1", "goes on")
    return out.getvalue()


def test_a_terminal_gets_colours() -> None:
    assert "\x1b[1;31mkills\x1b[0m" in told(Terminal())


def test_a_pipe_gets_none() -> None:
    assert "\x1b" not in told(io.StringIO())


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_may_refuse_colours(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert "\x1b" not in told(Terminal())


def test_the_columns_stand_in_line() -> None:
    first, second = told(io.StringIO()).splitlines()
    assert first.index("order-1") == second.index("order-1")
    assert first.index("kills") == second.index("goes on")


def test_a_table_is_as_wide_as_its_cells_and_sets_numbers_right() -> None:
    out = io.StringIO()
    Timeline(out).table(("NAME", "N"), [("a", 5), ("longer", 10)])
    assert out.getvalue().splitlines() == ["  NAME     N", "  a        5", "  longer  10"]
