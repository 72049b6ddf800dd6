"""Reading and writing an object by its URL; with the standard library alone, for it is done in pods.

An error never has the URL: whoever knows it may do the same.
"""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar

_HOPELESS: Final = frozenset({400, 401, 403, 404, 405, 411, 413})
"""With these a server says that it would say the same again."""
_TRY_S: Final = 60.0
_PAUSE_S: Final = 0.2
_PAUSE_S_MAX: Final = 10.0


T = TypeVar("T")


class _Different(Exception):
    pass


def read_object(url: str, digest: str, within_s: float) -> bytes:
    """What is there, if its SHA-256 is this.

    Raises:
        ConnectionError: it is not to be had, or is something else.
    """
    failure = "there is no URL"

    def read() -> bytes:
        if url.startswith("file:"):
            data = _file_of(url).read_bytes()
        else:
            with urllib.request.urlopen(url, timeout=_TRY_S) as response:  # noqa: S310  # it was looked at
                data = response.read()
        if sha256(data).hexdigest() != digest:
            raise _Different
        return data

    if _is_known(url):
        data, failure = _try(read, within_s)
        if data is not None:
            return data
    raise ConnectionError(f"an object cannot be read: {failure}")


def write_object(url: str, data: bytes, within_s: float) -> bool:
    """Put it there; False when that cannot be done."""

    def write() -> bool:
        if url.startswith("file:"):
            write_file(_file_of(url), data)
            return True
        headers = {"Content-Type": "application/octet-stream"}
        request = urllib.request.Request(url, data=data, headers=headers, method="PUT")  # noqa: S310  # the same
        with urllib.request.urlopen(request, timeout=_TRY_S) as response:  # noqa: S310  # the same
            response.read()
        return True

    return _is_known(url) and _try(write, within_s)[0] is True


def _try(act: Callable[[], T], within_s: float) -> tuple[T | None, str]:
    """What it gives, again and again while nobody answers; or None, and why."""
    deadline, pause_s = time.monotonic() + within_s, _PAUSE_S
    while True:
        try:
            return act(), ""
        except _Different:
            return None, "it is not what was put there"
        except urllib.error.HTTPError as error:
            with error:
                failure = f"HTTP {error.code}"
            if error.code in _HOPELESS:
                return None, failure
        except FileNotFoundError:
            return None, "there is no such file"
        except (OSError, http.client.HTTPException) as error:
            failure = type(error).__name__
        if time.monotonic() + pause_s > deadline:
            return None, failure
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _PAUSE_S_MAX)


def _is_known(url: str) -> bool:
    return url.startswith(("http://", "https://", "file:///"))


def _file_of(url: str) -> Path:
    return Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))


def write_file(path: Path, data: bytes) -> None:
    """Put it there whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
