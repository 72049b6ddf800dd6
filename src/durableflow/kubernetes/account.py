"""The account of a failure that a person reads: where it was, what was said last, with nothing secret in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from durableflow.kubernetes.connection import ApiRefused, ApiSilent, Connection
from durableflow.kubernetes.documents import Event, read, us
from durableflow.kubernetes.manifest import MAIN
from durableflow.kubernetes.outcome import Outcome

LOG_LINES: Final = 50
LOG_BYTES: Final = 8 * 1_024
_READ_BYTES: Final = 1_048_576
"""Read from the first of the lines on, so that the end is there even where lines are long."""
_EVENTS: Final = 5
_WITHIN_S: Final = 4.0
_ASKED_FOR: Final = 100

_SECRETS: Final = (
    re.compile(r"(?i)\b(authorization:\s*(?:bearer|basic)\s+)\S+"),
    re.compile(
        r"(?i)([\"']?\b[\w.-]*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key|credential)s?[\"']?\s*[:=]\s*)"
        r"(\"[^\"]*\"|'[^']*'|[^\s,;&]+)"
    ),
    re.compile(r"(://[^\s:/@]+:)[^\s@/]+(?=@)"),
    re.compile(r"(?i)([?&](?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig)=)[^&\s\"']+"),
    re.compile(r"()\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),  # JSON web tokens
    re.compile(r"()\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"()\b(?:hf|gh[pousr]|sk|xox[abpr]|dfj)[_-][A-Za-z0-9_-]{16,}\b"),
    re.compile(r"()-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"),
)


def redact(text: str) -> str:
    """The text without what looks like a secret."""
    for pattern in _SECRETS:
        text = pattern.sub(r"\1[redacted]", text)
    return text


def describe(outcome: Outcome, job: str, events: Sequence[Event]) -> str:
    """The message of the failure: what happened, where, and the last events."""
    where = [("job", job), ("pod", outcome.pod), ("pod uid", outcome.pod_uid), ("node", outcome.node)]
    facts = [f"{name} {value}" for name, value in where if value]
    if outcome.exit_code is not None:
        facts.append(f"exit code {outcome.exit_code}")
    text = f"{redact(outcome.message)} [{outcome.kind}; {', '.join(facts)}]"
    for event in events[-_EVENTS:]:
        text += f"\n{event.involved_object.kind} {event.reason}: {redact(event.message)}"
    return text


class Archive:
    """Asks a server for what it keeps of a pod beside its status. An answer that it does not give is no error."""

    def __init__(self, connection: Connection, namespace: str) -> None:
        self._connection = connection
        self._core = f"/api/v1/namespaces/{namespace}"

    async def log_tail(self, pod: str) -> str:
        """The last lines of a pod's main container."""
        query = {"container": MAIN, "tailLines": str(LOG_LINES), "limitBytes": str(_READ_BYTES)}
        try:
            data = await self._connection.ask("GET", f"{self._core}/pods/{pod}/log", query, within_s=_WITHIN_S)
        except (ApiRefused, ApiSilent):
            return ""
        text = data[-LOG_BYTES:].decode(errors="replace").replace("\0", "")
        return redact("\n".join(text.splitlines()[-LOG_LINES:]))

    async def events(self, uid: str) -> list[Event]:
        """The events about an object, the oldest first."""
        query = {"fieldSelector": f"involvedObject.uid={uid}", "limit": str(_ASKED_FOR)}
        try:
            data = await self._connection.ask("GET", f"{self._core}/events", query, within_s=_WITHIN_S)
        except (ApiRefused, ApiSilent):
            return []
        found = [read(Event, item) for item in msgspec.json.decode(data).get("items") or ()]
        return sorted(found, key=_at_us)


def _at_us(event: Event) -> int:
    repeated = None if event.series is None else event.series.last_observed_time
    return us(repeated or event.last_timestamp or event.event_time or event.first_timestamp)
