"""Every kind of trigger by its word in the language; a new one is one more file and one more line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from metier.triggers import asked, cron, emitted, folder, form, mailbox, row, webhook
from metier.triggers.event import Kind
from metier.workflow.shape import TriggerKind

__all__ = ["KINDS"]

KINDS: Mapping[TriggerKind, Kind] = MappingProxyType(
    {
        "api": asked.KIND,
        "form": form.KIND,
        "webhook": webhook.KIND,
        "folder": folder.KIND,
        "cron": cron.KIND,
        "email": mailbox.KIND,
        "event": emitted.KIND,
        "row": row.KIND,
    }
)
