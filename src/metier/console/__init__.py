"""The pages for people: what waits for a decision, with everything needed to take it."""

from __future__ import annotations

from metier.console.routes import pages
from metier.console.services import ConsoleServices

__all__ = ["ConsoleServices", "pages"]
