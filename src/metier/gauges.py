"""What each part of a worker looks like now, as metrics: spool, deployments, shadows, process, version."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from metier.deployment import Deployment
from metier.record.exposition import Family, Sample
from metier.record.genai import names
from metier.record.ledger import Ledger
from metier.router.health import Health, Standing
from metier.shadow import Shadows
from metier.ways import Ways

__all__ = ["deployments", "leases", "of", "process", "records", "shadows"]

_STATUS = Path("/proc/self/statm")


def of(ledger: Ledger, copies: Shadows, ways: Ways, health: Health) -> Sequence[Callable[[], Sequence[Family]]]:
    """Watch everything a worker consists of."""
    return (
        process(), records(ledger), shadows(copies),
        deployments(lambda: ways.catalog.deployments(), health.standing),
    )  # fmt: skip


def records(ledger: Ledger) -> Callable[[], Sequence[Family]]:
    """Watch what the ledger has not handed over to PostgreSQL yet."""

    def look() -> Sequence[Family]:
        return [
            _gauge("metier_spool_waiting_calls", "Ended calls that PostgreSQL does not have yet.", ledger.waiting),
            _gauge("metier_spool_bytes", "Bytes of records on the disk of this worker.", ledger.spool.size),
            Family("metier_calls_unrecorded_total", "counter", "Refused calls that found no room for a record.", [
                Sample({}, ledger.unrecorded)
            ]),
            Family("metier_calls_uncaptured_total", "counter", "Calls recorded without the contents to be kept.", [
                Sample({}, ledger.uncaptured)
            ]),
        ]  # fmt: skip

    return look


def deployments(
    known: Callable[[], Sequence[Deployment]], standing: Callable[[float], Mapping[str, Standing]]
) -> Callable[[], Sequence[Family]]:
    """Watch how each declared deployment stands in the eyes of this worker."""
    alias = names().aliases["state"]

    def look() -> Sequence[Family]:
        now = time.monotonic()
        seen = standing(now)
        resting: list[Sample] = []
        flying: list[Sample] = []
        failures: list[Sample] = []
        states: list[Sample] = []
        for deployment in known():
            labels = {"deployment": deployment.id, "provider": deployment.provider}
            at = seen.get(deployment.id)
            rest = max(0.0, at.rests_until - now) if at is not None else 0.0
            resting.append(Sample(labels, rest))
            flying.append(Sample(labels, at.in_flight if at is not None else 0))
            failures.append(Sample(labels, at.failures if at is not None else 0))
            state = 0 if at is None or not at.failures else 2 if rest else 1
            more = {"litellm_model_name": deployment.model_id, "model_id": deployment.id}
            states.append(Sample({**more, "api_provider": deployment.provider}, state))
        return [
            Family("metier_deployment_resting_seconds", "gauge", "Seconds it still rests; 0 when it can.", resting),
            Family("metier_deployment_in_flight", "gauge", "Calls under way at a deployment.", flying),
            Family("metier_deployment_failures", "gauge", "Failures in a row of a deployment.", failures),
            Family(alias, "gauge", "0 well, 1 failed lately, 2 resting.", states),
        ]

    return look


def leases(lent: Callable[[], Mapping[str, tuple[Decimal, Decimal]]]) -> Callable[[], Sequence[Family]]:
    """Watch what PostgreSQL lent this worker of each limit, in the unit of the limit."""

    def look() -> Sequence[Family]:
        now = sorted(lent().items())
        return [
            Family("metier_lease_granted", "gauge", "Lent to this worker of a limit, in its unit.", [
                Sample({"limit": limit}, float(granted)) for limit, (granted, _) in now
            ]),
            Family("metier_lease_free", "gauge", "Of that, neither held by a call nor used.", [
                Sample({"limit": limit}, float(free)) for limit, (_, free) in now
            ]),
        ]  # fmt: skip

    return look


def shadows(copies: Shadows) -> Callable[[], Sequence[Family]]:
    """Watch the copies that were not made."""

    def look() -> Sequence[Family]:
        dropped = Sample({}, copies.dropped)
        return [Family("metier_shadows_dropped_total", "counter", "Copies not made for lack of room.", [dropped])]

    return look


def process() -> Callable[[], Sequence[Family]]:
    """Watch the process itself: memory, processor, age, version."""
    started, page = time.time(), resource.getpagesize()
    version = importlib.metadata.version("metier")

    def look() -> Sequence[Family]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        # ru_maxrss is the most there ever was, for lack of anything better where there is no /proc.
        memory = int(_STATUS.read_text().split()[1]) * page if _STATUS.exists() else used.ru_maxrss * 1024
        build = Sample({"version": version, "python": platform.python_version()}, 1)
        return [
            Family("metier_build_info", "gauge", "Versions of Métier and of Python.", [build]),
            _gauge("process_resident_memory_bytes", "Memory of this worker.", memory),
            Family("process_cpu_seconds_total", "counter", "Seconds of processor of this worker.", [
                Sample({}, used.ru_utime + used.ru_stime)
            ]),
            _gauge("process_start_time_seconds", "When this worker started.", started),
        ]  # fmt: skip

    return look


def _gauge(name: str, about: str, value: float) -> Family:
    return Family(name, "gauge", about, [Sample({}, value)])
