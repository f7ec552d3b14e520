"""Who may call what, and with which money."""

from __future__ import annotations

__all__: list[str] = []
