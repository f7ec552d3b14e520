"""The HTTP surface for programs: OpenAI's API and what tells a platform that the server is well."""

from __future__ import annotations

__all__: list[str] = []
