"""A link from one page to another, or to a file of the project, leads somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if page.exists()]
LINK = re.compile(r"\]\((?!\w+:)(?P<target>[^)\s#]*)(?:#(?P<anchor>[^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchor_of(heading: str) -> str:
    """The anchor that renderers make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def leads_somewhere(page: Path, link: re.Match[str]) -> bool:
    target = page.parent / link["target"] if link["target"] else page
    if not link["anchor"]:
        return target.exists()
    return target.exists() and link["anchor"] in map(anchor_of, HEADING.findall(target.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = [link[0] for link in LINK.finditer(page.read_text(encoding="utf-8")) if not leads_somewhere(page, link)]
    assert broken == []


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link["target"]).resolve() for link in LINK.finditer(index.read_text(encoding="utf-8"))}
    assert [page.as_posix() for page in (ROOT / "docs").rglob("*.md") if page != index and page not in linked] == []
