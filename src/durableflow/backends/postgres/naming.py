"""What a store is called on the server; here nobody needs the driver."""

from __future__ import annotations


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def channel_of(schema: str) -> str:
    """Where the hints of the store in this schema are heard."""
    return f"durableflow_{schema}"[:63]
