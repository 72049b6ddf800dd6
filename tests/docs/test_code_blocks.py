"""The code in the README and in docs/ runs, as a reader would type it.

A page is a program: its `python` blocks are run in order, in one fresh interpreter and an empty directory. Two
comments, on the line above a block, change that:

    <!-- new program -->        the block starts afresh: another interpreter, another directory
    <!-- not run: reason -->    the block is only shown, and says why

`pycon` blocks are doctested with the output shown. All else (`console`, `text`, `sql` …) is only shown.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow  # each page starts an interpreter

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = {"bash", "console", "dockerfile", "html", "http", "ini", "json", "mermaid", "sql", "text", "toml", "yaml"}
RUN = {"python", "pycon"}
TIMEOUT_S = 60
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})\s*(?P<language>[^\s`]*)[^`]*$")
NOT_RUN = re.compile(r"<!--\s*not run(?::\s*(?P<reason>\S.*?))?\s*-->")
NEW_PROGRAM = re.compile(r"<!--\s*new program\s*-->")


class Block(NamedTuple):
    """A fenced block: where its code begins, and the comment above it."""

    page: Path
    line: int
    language: str
    code: list[str]
    comment: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


@dataclass
class Program:
    """Blocks that share one interpreter."""

    blocks: list[Block] = field(default_factory=list)

    def __str__(self) -> str:
        first, *rest = self.blocks
        return ",".join([first.where, *(str(block.line) for block in rest)])

    def text(self) -> str:
        """The code at the lines where the page has it, so that tracebacks point into the page."""
        lines = list[str]()
        for block in self.blocks:
            lines += [""] * (block.line - 1 - len(lines)) + block.code
        return "\n".join(lines) + "\n"


def blocks_of(page: Path) -> Iterator[Block]:
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), start=1))
    above = ""
    for number, line in lines:
        if opening := FENCE.match(line):
            code = list[str]()
            for _, inside in lines:
                closing = FENCE.match(inside)
                if closing and not closing["language"] and closing["ticks"].startswith(opening["ticks"]):
                    break
                code.append(inside.removeprefix(opening["indent"]))
            yield Block(page, number + 1, opening["language"], code, above)
            above = ""
        elif line.strip():
            above = line.strip()


def programs(blocks: list[Block], language: str) -> list[Program]:
    found = list[Program]()
    page = None
    for block in blocks:
        if block.language != language or NOT_RUN.match(block.comment):
            continue
        if block.page != page or NEW_PROGRAM.match(block.comment):
            found.append(Program())
        found[-1].blocks.append(block)
        page = block.page
    return found


BLOCKS = [block for page in PAGES if page.exists() for block in blocks_of(page)]


def run(command: list[str], directory: Path) -> None:
    """Run it with warnings as errors, as our own tests are."""
    command = [sys.executable, "-W", "error", *command]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        pytest.fail(f"{done.stdout}\n{done.stderr}", pytrace=False)


@pytest.mark.parametrize("program", programs(BLOCKS, "python") + programs(BLOCKS, "pycon"), ids=str)
def test_the_code_on_the_page_does_what_the_page_says(program: Program, tmp_path: Path) -> None:
    session = program.blocks[0].language == "pycon"
    source = tmp_path / f"{program.blocks[0].page.stem}.md.{'txt' if session else 'py'}"
    source.write_text(program.text(), encoding="utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    run([*(["-m", "doctest", "-o", "ELLIPSIS"] if session else []), str(source)], empty)


def test_a_block_says_what_it_is_and_why_it_is_not_run() -> None:
    unknown = [f"{block.where}: {block.language!r}" for block in BLOCKS if block.language not in RUN | SHOWN]
    assert unknown == [], f"use one of {sorted(RUN | SHOWN)}"
    silent = [block.where for block in BLOCKS if (mark := NOT_RUN.match(block.comment)) and not mark["reason"]]
    assert silent == [], "a block that is not run gives its reason: <!-- not run: reason -->"


def test_a_page_becomes_a_program_with_the_lines_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n```python\nx = 1\n```\n\n<!-- not run: needs a server -->\n\n```python\nboom()\n```\n"
        "1. indented\n   ```python\n   if x:\n       y = x\n   ```\n<!-- new program -->\n```python\nz = 3\n```\n"
        "```pycon\n>>> 1\n1\n```\n",
        encoding="utf-8",
    )
    first, second = programs(list(blocks_of(page)), "python")
    assert first.text() == "\n\nx = 1\n" + "\n" * 9 + "if x:\n    y = x\n"
    assert [block.line for block in second.blocks] == [18]
    assert [program.text().strip() for program in programs(list(blocks_of(page)), "pycon")] == [">>> 1\n1"]
