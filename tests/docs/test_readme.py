"""What the first screen promises about itself."""

import re
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_first_program_has_twelve_lines() -> None:
    assert sum(bool(line.strip()) for line in blocks("python")[0].splitlines()) == 12


def test_a_stranger_needs_two_commands() -> None:
    assert blocks("console") == [
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/durableflow demo\n",
        ".venv/bin/pip install -e '.[dev]' && .venv/bin/pytest -n auto\n",
    ]
