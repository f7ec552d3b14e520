"""Which deployment answers a call: pure in the call, the model, what this worker has seen, the time and a die."""

from __future__ import annotations

from metier.router.choice import Chooser, Label, Route, arm, language_of, shadows
from metier.router.health import Flight, Health
from metier.router.plan import Group, affinity_key, groups, plan
from metier.router.retries import Retries

__all__ = [
    "Chooser",
    "Flight",
    "Group",
    "Health",
    "Label",
    "Retries",
    "Route",
    "affinity_key",
    "arm",
    "groups",
    "language_of",
    "plan",
    "shadows",
]
