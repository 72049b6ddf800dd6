"""What an engine was told of alerts: what is looked for, and who hears of it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from durableflow.errors import UsageError
from durableflow.observe.sinks import AlertSink
from durableflow.runtime.alert_policy import AlertPolicy
from durableflow.runtime.health import AlertHook


class Alerting(msgspec.Struct, frozen=True):
    """Who is told of what is wrong, and when it is."""

    policy: AlertPolicy
    hooks: Sequence[AlertHook] = ()
    sinks: Sequence[AlertSink] = ()
    worker: str = ""


def alerting(
    *, alerts: AlertPolicy | bool | None, on_alert: Sequence[AlertHook | AlertSink], worker: str, has_clock: bool
) -> Alerting | None:
    """What an engine was given, as one; None for nothing to be looked for.

    Raises:
        UsageError: it cannot be followed.
    """
    if alerts is None:
        alerts = bool(on_alert) or not has_clock
    if alerts is False:
        if on_alert:
            raise UsageError("on_alert is given, but alerts=False raises none; leave alerts out, or on_alert")
        return None
    policy = AlertPolicy() if alerts is True else alerts
    sinks = [each for each in on_alert if not callable(each)]
    hooks = [each for each in on_alert if callable(each)]
    wrong = [sink for sink in sinks if not hasattr(sink, "send")]
    if wrong:
        raise UsageError(f"on_alert has {wrong[0]!r:.80}, which is neither a function nor a sink such as WebhookSink")
    names = [sink.name for sink in sinks]
    if len(set(names)) < len(names):
        raise UsageError("on_alert has the same sink twice")
    return Alerting(policy, hooks, sinks, worker)
