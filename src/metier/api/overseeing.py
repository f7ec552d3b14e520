"""Who may look after the runs of a project over HTTP: keys of those the engine itself turns to with its questions."""

from __future__ import annotations

from typing import Final

from metier.calls import Principal
from metier.errors import NotAllowed
from metier.workflow.commands import FALLBACK

__all__ = ["overseeing"]

_GROUP: Final = FALLBACK.partition(":")[2]


def overseeing(principal: Principal) -> None:
    """Refuse a key whose owner does not look after runs."""
    if _GROUP not in principal.groups:
        raise NotAllowed(f"{principal.name!r} does not look after runs: issue a key with --group {_GROUP}")
