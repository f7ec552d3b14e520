"""What every call left behind: its money, its footprint, its outcome."""

from __future__ import annotations

__all__: list[str] = []
