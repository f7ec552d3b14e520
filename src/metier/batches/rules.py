"""What the house allows batches and files: the section `batches` of metier.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from metier.errors import ConfigError, Invalid
from metier.window import ALWAYS, Window

__all__ = ["Rules"]

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Rules:
    """Bounds of batches and files, each with a value that serves most houses."""

    window: str = ALWAYS
    """When batches that do not say otherwise make their calls."""
    concurrency: int = 4
    """Calls of one batch at a time."""
    project_concurrency: int = 8
    """Calls of all batches of one project at a time, over all workers."""
    lines: int = 50_000
    """Requests in one batch."""
    open: int = 50
    """Batches of one project that are not over."""
    file_mib: int = 100
    """Size of one file brought by a client."""
    project_files: int = 1_000
    """Files one project keeps."""
    project_mib: int = 4_096
    """Size of all files one project keeps."""
    keep_days: int = 30
    """How long a file is kept that does not say otherwise, and the longest that may be asked for."""

    @classmethod
    def from_yaml(cls, section: object) -> Rules:
        """Read the section, or say which entry is wrong; what is left out keeps its value."""
        if section is None:
            return cls()
        if not isinstance(section, Mapping):
            raise ConfigError(f"batches in metier.yaml is a {type(section).__name__}: write a mapping")
        known = {field.name for field in fields(cls)}
        found: dict[str, Any] = {}
        for name, value in section.items():
            if name not in known:
                raise ConfigError(
                    f"batches in metier.yaml: unknown entry {name!r}: known are {', '.join(sorted(known))}"
                )
            if name != "window" and (type(value) is not int or not 1 <= value <= 1_000_000):
                raise ConfigError(f"batches.{name} in metier.yaml is {value!r}: give a whole number from 1 on")
            found[name] = value
        try:
            Window.parse(str(found.get("window", ALWAYS)), "batches.window")
        except Invalid as error:
            raise ConfigError(f"metier.yaml: {error.message}") from None
        return cls(**found)

    @property
    def file_bytes(self) -> int:
        """Size of one file in bytes."""
        return self.file_mib * _MIB

    @property
    def project_bytes(self) -> int:
        """Size of all files of a project in bytes."""
        return self.project_mib * _MIB

    @property
    def keep_s(self) -> int:
        """How long a file is kept, in seconds."""
        return self.keep_days * 86_400
