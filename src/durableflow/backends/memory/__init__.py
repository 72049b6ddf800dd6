"""Histories in memory: for unit tests, and the model that other backends are compared with.

`rows.py` holds the instances and the ways in which they change; each other module is the part of the backend that its
noun names, and keeps what it needs besides.

Comes in: commits, messages and questions of `backends/base.py`. Goes out: rows and refusals, in the same words. Never
enters: a clock of its own (times are given), the content of events, a disk.
"""

from durableflow.backends.memory.backend import MemoryBackend

__all__ = ["MemoryBackend"]
