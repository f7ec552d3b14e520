"""Names of OpenTelemetry's GenAI conventions, read from one versioned file."""

from __future__ import annotations

import importlib.resources
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Names", "names"]


@dataclass(frozen=True, slots=True)
class Names:
    """What the conventions, and dashboards made for others, call what we count."""

    version: str
    """Of the conventions."""
    metrics: Mapping[str, str]
    aliases: Mapping[str, str]
    """Names of LiteLLM's metrics for the same figures."""
    attributes: Mapping[str, str]
    """Of spans; with `_` for `.` they are labels of metrics."""
    operations: Mapping[str, str]
    providers: Mapping[str, str]

    def operation(self, ours: str) -> str:
        """Give the name of an operation."""
        return self.operations.get(ours, ours)

    def provider(self, ours: str) -> str:
        """Give the name of a kind of provider."""
        return self.providers.get(ours, ours)

    def label(self, attribute: str) -> str:
        """Give an attribute as a label of a metric."""
        return self.attributes[attribute].replace(".", "_")


def names() -> Names:
    """Read the file that comes with this package; do it once and keep the result."""
    text = (importlib.resources.files("metier.record") / "genai_names.toml").read_text(encoding="utf-8")
    return Names(**tomllib.loads(text))
