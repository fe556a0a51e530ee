"""What Prometheus learns of the hub beside JupyterHub's own: at ``/hub/metrics``, for tokens with the scope ``read:metrics``.

Whoever counts something declares it beside its code, named ``metalhub_…`` by Prometheus's conventions. What is there to be read at any time
is read when it is asked for, here. docs/metrics.md lists all of them, from this process's registry.
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterator

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from . import platform

PREFIX = "metalhub_"
STARTED, FAILED, STOPPED = "started", "failed", "stopped"

STARTS = prometheus_client.Histogram(
    "metalhub_session_start_duration_seconds",
    "Time from a session's admission until it answers, or until its start was given up (outcome: started, failed, stopped)",
    ["profile", "outcome"],
    buckets=(0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10, 15, 20, 30, 60, 120, 300),
)
FAILURES = prometheus_client.Counter(
    "metalhub_session_start_failures", "Starts that failed, by the reason that the audit log has", ["profile", "reason"]
)


def start_ended(profile: str, seconds: float, reason: str = "") -> None:
    """A start ended, with the reason where it failed; ``stopped`` is somebody's wish."""
    outcome = STOPPED if reason == STOPPED else FAILED if reason else STARTED
    STARTS.labels(profile, outcome).observe(seconds)
    if outcome == FAILED:
        FAILURES.labels(profile, reason).inc()


class _Now(Collector):
    """What is read from this process's platform when it is asked for."""

    def collect(self) -> Iterator[Metric]:
        host = platform.current() if platform.ready() else None
        sessions = GaugeMetricFamily("metalhub_sessions", "Sessions now, by state and profile", labels=["state", "profile"])
        if host is not None and host.proxy is not None:
            found = Count((state, spawner.profile_name) for spawner, state in host.sessions.states())
            # What there is none of is 0, so that it can be plotted and compared.
            every = {(state, profile): 0 for state in host.sessions.STATES for profile in host.document.profiles}
            for (state, profile), count in {**every, **found}.items():
                sessions.add_metric([state, profile], count)
        yield sessions
        log, checked = (host.audit, host.audit_check.last) if host is not None else (None, None)
        for name, words, value in (
            ("events", "Lines of the audit log, over all its files", log and log.head.seq),
            ("write_failures", "Writes of the audit log that the disk refused", log and log.failed),
            ("lost_events", "Events that the audit log has lost", log and log.lost),
        ):
            yield CounterMetricFamily(f"metalhub_audit_{name}", words, value=value)
        for name, words, number in (
            ("waiting_events", "Events of the audit log that are not on the disk yet", log and log.lag),
            ("chain_good", "Whether the audit log was as it was written at its last check: 1 or 0", checked and checked.good),
            ("checked_timestamp_seconds", "When the audit log was last checked", checked and checked.seconds),
        ):
            yield GaugeMetricFamily(f"metalhub_audit_{name}", words, value=number)


def listed() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Name, type, labels and help of each metric of Metalhub's in this process's registry."""
    registry, found = prometheus_client.REGISTRY, []
    # The library tells no labels of what has no sample yet.
    for collector in list(registry._collector_to_names):
        for family in collector.collect() if hasattr(collector, "collect") else ():
            if family.name.startswith(PREFIX):
                labels = tuple(getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", None) or ())
                name = f"{family.name}_total" if family.type == "counter" else family.name
                found.append((name, family.type, labels, family.documentation))
    return sorted(found)


prometheus_client.REGISTRY.register(_Now())
