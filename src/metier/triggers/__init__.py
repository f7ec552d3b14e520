"""What starts runs by itself: e-mail, clocks, folders, webhooks, forms, programs, other flows, rows of databases."""

from __future__ import annotations

from metier.triggers.deployment import Deployed, Deployments
from metier.triggers.event import Event, Kind, Mark, Mount, Source, Taken
from metier.triggers.form import Form
from metier.triggers.gate import Gate
from metier.triggers.intake import Intake, Letter, Preview
from metier.triggers.released import Released
from metier.triggers.runner import Haste, Runner
from metier.triggers.service import Triggers
from metier.triggers.webhook import Delivery

__all__ = [
    "Delivery",
    "Deployed",
    "Deployments",
    "Event",
    "Form",
    "Gate",
    "Haste",
    "Intake",
    "Kind",
    "Letter",
    "Mark",
    "Mount",
    "Preview",
    "Released",
    "Runner",
    "Source",
    "Taken",
    "Triggers",
]
