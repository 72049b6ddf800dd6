"""Bytes that were something once: seeds, spoiled as disks, networks and people spoil them."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from hypothesis import strategies as st

BOUND_S: Final = 1.0
"""No input of these sizes may take longer; what takes long takes minutes."""

BINARY: Final = [
    b"\xdc\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\x91" * 3_000,
    b"\x81\xa1a" * 3_000,
    b"\xa4\xff\xfe\xfd\xfc",
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xc1",
    b"\x00",
]
TEXT: Final = [
    b"[" * 3_000,
    b'{"a":' * 3_000,
    b"1e999",
    b"-1",
    b"9" * 60,
    b"18446744073709551616",
    b"NaN",
    b"null",
    b"[]",
    b"{}",
    b'"\\ud800"',
    b'"\\u0000"',
    b"\xff\xfe",
    b"\x00",
    b"\xe2\x80\xae",
    b"' or 1=1 --",
]


@st.composite
def spoiled(draw: st.DrawFn, seeds: Sequence[bytes], dangerous: Sequence[bytes]) -> bytes:
    """One of the seeds after some changes."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["set", "drop", "put", "plant", "cut", "double"])):
            case "set":
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "drop":
                del data[at : at + draw(st.integers(1, 9))]
            case "put":
                data[at:at] = draw(st.binary(min_size=1, max_size=6))
            case "plant":
                data[at:at] = draw(st.sampled_from(dangerous))
            case "cut":
                del data[at:]
            case _:
                data[at:at] = data[at : at + draw(st.integers(1, 40))]
    return bytes(data)


def only(allowed: type[BaseException] | tuple[type[BaseException], ...], call: Callable[[], Any]) -> Any:
    """What `call` gives, or the error by which it refuses, in bounded time; any other error is the test's end."""
    began = time.perf_counter()
    try:
        return call()
    except allowed as refusal:
        return refusal
    finally:
        assert time.perf_counter() - began < BOUND_S
