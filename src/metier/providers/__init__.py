"""Who serves models: one file per provider, each behind the same two-method Protocol."""

from __future__ import annotations

__all__: list[str] = []
