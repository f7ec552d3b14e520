"""Takes over the sections of metier.yaml that single parts live by: alerts, batches, connectors, people and runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from metier.batches import Batches, Rules
from metier.connectors import notices
from metier.connectors.outbox import Transport
from metier.connectors.smtp import Smtp, account_from_url
from metier.connectors.task_notices import TaskNotices
from metier.connectors.tools import Toolbox
from metier.policy.alerts import Alerts
from metier.settings import Settings
from metier.workflow.operations import Operations

__all__ = ["mail", "sections"]


def mail(settings: Settings, instead: tuple[Transport | None, str | None]) -> tuple[Transport | None, str | None]:
    """Give what carries e-mails of the house, and their sender; `instead` is put in place of the settings."""
    transport = instead[0] or (Smtp(account_from_url(settings.smtp_url)) if settings.smtp_url else None)
    return transport, instead[1] or settings.mail_from


def sections(
    settings: Settings,
    instead: tuple[Transport | None, str | None],
    alerts: Alerts,
    batches: Batches,
    toolbox: Toolbox,
    tasks: TaskNotices,
    operations: Operations,
) -> Callable[[Mapping[str, Any]], Callable[[], None]]:
    """Give what reads these sections of a configuration, or refuses them, and then what puts them in force."""

    def read(config: Mapping[str, Any]) -> Callable[[], None]:
        rules = Rules.from_yaml(config.get("batches"))
        carrier = mail(settings, instead)
        ways_out = notices.ways_out(config.get("alerts"), *carrier, settings.lang)
        people = tasks.read(config.get("review"), carrier, settings.lang)
        connectors = toolbox.read(config.get("connectors"))
        runs = operations.read(config)

        def use() -> None:
            batches.files.rules = rules
            alerts.use(*ways_out)
            toolbox.use(connectors)
            tasks.use(people, carrier)
            runs()

        return use

    return read
