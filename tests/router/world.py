"""Deployments and calls for the tests of the router."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from metier.calls import Call, KeyId, Message, Principal, ProjectId, SystemId
from metier.deployment import Deployment, Price

__all__ = ["CALL", "Clock", "deployment"]

CALL = Call(Principal(KeyId("k"), ProjectId("p"), SystemId("s")), "m", messages=(Message("user", "Bonjour"),))
FREE = Price(Decimal(0), Decimal(0), Decimal(0))


class Clock:
    """A clock that stands where it is put."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Give the time it stands at."""
        return self.now


def deployment(name: str, **more: Any) -> Deployment:
    """A free deployment on this machine."""
    made = Deployment(name, "scripted", "m", None, None, FREE, None, 8000, 500, 30.0, "FR", "local")
    return replace(made, **more)
