"""What the company knows of its AI uses and owes about them."""

from __future__ import annotations

__all__: list[str] = []
