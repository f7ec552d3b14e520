"""How many runs may begin, where and when: the section `workflows` of metier.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from metier.errors import ConfigError, Invalid
from metier.window import ALWAYS, Window

__all__ = ["Limit", "Limits"]

_SECTION = ("flows", "projects", "share")
_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Limit:
    """What one project or one flow is held to; what is left out is not bounded."""

    concurrency: int | None = None
    """Runs that move at once; those that wait for people, times or their items do not count."""
    rate: int | None = None
    """Runs let in within a minute."""
    window: str | None = None
    """Hours in which runs of a flow may begin."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for all runs of the house."""

    share: float = 0.8
    """Largest part of the slots of all workers that one project may hold."""
    projects: Mapping[str, Limit] = field(default_factory=dict)
    """By name or id."""
    flows: Mapping[str, Limit] = field(default_factory=dict)
    """By name; over all projects."""

    @classmethod
    def from_yaml(cls, section: object) -> Limits:
        """Read the section, or say which entry is wrong; what is left out keeps its value."""
        if section is None:
            return cls()
        entries = _mapping(section, "workflows")
        _known(entries, _SECTION, "workflows")
        share = entries.get("share", cls().share)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ConfigError(f"workflows.share in metier.yaml is {share!r}: give a part such as 0.8, at most 1")
        return cls(
            share=float(share),
            projects=_limits(entries.get("projects"), "workflows.projects", ("concurrency", "rate")),
            flows=_limits(entries.get("flows"), "workflows.flows", ("concurrency", "rate", "window")),
        )

    def cap(self, slots: int) -> int:
        """Say how many runs of one project may move at once where nothing else bounds it."""
        if self.share >= 1 or slots <= 1:
            return max(slots, 1)
        # One slot at least is left to the others, however small the house.
        return max(1, min(slots - 1, int(self.share * slots)))


def _limits(section: object, where: str, known: tuple[str, ...]) -> Mapping[str, Limit]:
    if section is None:
        return {}
    found: dict[str, Limit] = {}
    for name, written in _mapping(section, where).items():
        here = f"{where}.{name}"
        entries = _mapping(written, here)
        _known(entries, known, here)
        for key in ("concurrency", "rate"):
            value = entries.get(key)
            if key in entries and (type(value) is not int or not 1 <= value <= _MOST):
                raise ConfigError(f"{here}.{key} in metier.yaml is {value!r}: give a whole number from 1 on")
        found[str(name)] = Limit(
            concurrency=_number(entries.get("concurrency")),
            rate=_number(entries.get("rate")),
            window=_hours(entries.get("window"), f"{here}.window"),
        )
    return found


def _hours(written: object, where: str) -> str | None:
    if written is None:
        return None
    if not isinstance(written, str):
        raise ConfigError(f"{where} in metier.yaml is {written!r}: write hours and a zone, such as '22:00-06:00 UTC'")
    try:
        Window.parse(written, where)
    except Invalid as error:
        raise ConfigError(f"metier.yaml: {error.message}") from None
    return None if written == ALWAYS else written


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _mapping(section: object, where: str) -> Mapping[object, object]:
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where} in metier.yaml is a {type(section).__name__}: write a mapping")
    return section


def _known(entries: Mapping[object, object], known: tuple[str, ...], where: str) -> None:
    for name in entries:
        if name not in known:
            raise ConfigError(f"{where} in metier.yaml: unknown entry {name!r}: known are {', '.join(known)}")
