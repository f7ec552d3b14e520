"""Puts admission together with what it knows of the house: footprints, end users, and who is alerted."""

from __future__ import annotations

from metier import sections
from metier.connectors import notices
from metier.connectors.outbox import Transport
from metier.governance.register import ADMITTED, Register
from metier.policy.admission import Admission, Surroundings
from metier.record.impact import impact
from metier.settings import Settings
from metier.store import Store
from metier.vault import Vault, member

__all__ = ["admitting"]


def admitting(
    settings: Settings,
    store: Store,
    vault: Vault,
    register: Register,
    worker: str,
    mail: tuple[Transport | None, str | None],
) -> Admission:
    """Make the admission of one worker; `mail` is a transport and a sender in place of those of the settings."""
    alerts = notices.alerts(store, settings.config.get("alerts"), *sections.mail(settings, mail), settings.lang)
    around = Surroundings(
        footprint=impact,
        digest=lambda organisation, name: member(vault, organisation, name),
        names=register.names,
        alerts=alerts,
    )
    return Admission(store, worker, register.statuses, frozenset(ADMITTED), around=around)
